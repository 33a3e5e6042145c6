"""Tagged words for token classification."""
