"""Checkpoints: saving, restoring, verifying and comparing them."""
