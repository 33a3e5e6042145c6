"""What the scripts of `experiments/` share: flags, start-up, data sets and starting points."""
