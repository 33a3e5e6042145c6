"""Commands as from a shell, in this process."""

import sys

import pytest

from jaxllm import __main__
from jaxllm.train import lock, preemption


@pytest.fixture(autouse=True)
def not_to_the_end(monkeypatch):
    """A script hears SIGTERM and keeps its locks until its process ends, which is no script's here."""
    monkeypatch.setattr(preemption, "listen_to_the_end", lambda: None)
    monkeypatch.setattr(lock, "keep_to_the_end", lambda: None)


@pytest.fixture
def command(monkeypatch):
    """command("convert", source, ...) runs `python -m jaxllm` with these words."""

    def command(*argv):
        monkeypatch.setattr(sys, "argv", ["jaxllm", *map(str, argv)])
        monkeypatch.setenv("JAXLLM_STARTED", "1")
        __main__.main()

    return command
