"""jaxllm: language models trained in JAX, every stage of it, as pure functions."""

__version__ = "0.1.0"
