"""The train step, the optimizers, and the training loop."""
