"""`python -m jaxllm COMMAND ...`: the command-line tools."""

from __future__ import annotations

import difflib
import importlib
import sys

from jaxllm.recipes.script import input_errors, parse, set_up
from jaxllm.types import InputError

COMMANDS = {
    "check-loss": "the report card of a loss, for example your own: gradients, packing, devices, memory",
    "convert": "a checkpoint to or from Hugging Face's format, every tensor checked",
    "explain-sharding": "how a model's parameters are sharded over a mesh, with bytes per device",
    "generate": "text that continues a prompt, by a trained decoder",
    "losses": "every loss with formula, paper and arguments, and the fields that a loss can read",
    "show-batch": "the rows that a step of fine-tuning trains on, trained tokens highlighted",
    "tag": "entities in text, by a trained token classifier",
    "verify-resume": "whether a run that is killed and resumed equals an unbroken run",
}


def main() -> None:
    """Finds the command's module in `jaxllm.cli` and runs its `main` on its `Config`."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    with input_errors():
        if command in ("-h", "--help"):
            print("usage: python -m jaxllm COMMAND [--help]\n")
            for name, meaning in COMMANDS.items():
                print(f"  {name:<18} {meaning}")
            return
        if command not in COMMANDS:
            near = difflib.get_close_matches(command, COMMANDS, 1) or sorted(COMMANDS)
            raise InputError(f"there is no command {command!r}; did you mean {near[0]!r}? (see --help)")
        module = importlib.import_module(f"jaxllm.cli.{command.replace('-', '_')}")
        if hasattr(module, "read"):  # the command line of another program follows
            config = module.read(sys.argv[2:])
        else:
            config = parse(module.Config, sys.argv[2:], prog=f"python -m jaxllm {command}")
        set_up()
        module.main(config)


if __name__ == "__main__":
    main()
