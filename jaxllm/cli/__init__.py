"""The commands of `python -m jaxllm`, one file each."""
