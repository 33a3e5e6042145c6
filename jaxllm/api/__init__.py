"""The library's functions for notebooks and programs; `import jaxllm` gives them all."""
