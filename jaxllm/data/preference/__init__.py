"""Compared and judged answers for preference tuning."""
