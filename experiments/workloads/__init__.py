"""The work that `benchmark.py` measures: by stage, what our side runs and what each peer runs."""
