"""Text for pretraining: reading, tokenizing once, rows of a batch."""
