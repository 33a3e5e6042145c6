"""Commands as from a shell, in this process."""

import sys

import pytest

from jaxllm import __main__


@pytest.fixture
def command(monkeypatch):
    """command("convert", source, ...) runs `python -m jaxllm` with these words."""

    def command(*argv):
        monkeypatch.setattr(sys, "argv", ["jaxllm", *map(str, argv)])
        monkeypatch.setenv("JAXLLM_STARTED", "1")
        __main__.main()

    return command
