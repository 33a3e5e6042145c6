"""Texts with labels, for classifiers of whole texts."""
