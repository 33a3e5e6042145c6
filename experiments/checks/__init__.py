"""The parts of `accelerator_check.py`, each a program of its own."""
