"""The embedded corpora, which need no network."""
