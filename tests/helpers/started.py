"""Starting a script of experiments/ or a command in the process of a test, as a shell would start it."""

import importlib
import os
import sys

from jaxllm import launch
from jaxllm.recipes.script import run

SCRIPTS = (
    "pretrain", "sft", "preference", "reward", "ner", "mlm", "classify", "online", "three_stages", "compare_losses",
)  # fmt: skip


def quick_flags():
    """XLA's flags with which tests compile, for processes that have the devices of a new user."""
    return " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)


def start(program, argv, monkeypatch):
    """Runs a script or command in this process as a shell would start it; "jaxllm NAME" for a script's namesake."""
    monkeypatch.setenv("JAXLLM_STARTED", "1")
    if program in SCRIPTS:
        script = importlib.import_module(program)
        run(script.main, script.Config, argv)
    elif program == "launch":
        launch.main(argv)
    else:
        monkeypatch.setattr(sys, "argv", ["jaxllm", program.removeprefix("jaxllm "), *argv])
        importlib.import_module("jaxllm.__main__").main()
