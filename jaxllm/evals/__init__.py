"""Evaluations: entity F1, perplexity, log-probabilities, preference accuracy, and generated text."""
