"""The folder of a run, its metrics, and how it survives signals, hangs and lost processes."""
