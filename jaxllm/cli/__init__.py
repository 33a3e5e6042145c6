"""Flags, and what stands behind `python -m jaxllm ...`."""
