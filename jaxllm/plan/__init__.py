"""Compiling the step of a training script for hardware that is not here, and what it would cost there."""
