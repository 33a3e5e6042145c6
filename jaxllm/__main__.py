"""`python -m jaxllm COMMAND ...`: the commands that stand beside the scripts of experiments/."""

from __future__ import annotations

from jaxllm.allocator import restart

restart(__name__)

import difflib
import importlib
import sys

from jaxllm.recipes.parse import print_versions
from jaxllm.recipes.script import input_errors, parse, set_up
from jaxllm.types import InputError

COMMANDS = {
    "cache": "show where files are kept between runs and how large they are, or empty a cache",
    "check-loss": "check that a loss, built in or in your own file, does what every loss must",
    "classify": "print the labels or numbers that a trained classifier of texts gives to texts, or to a file of them",
    "convert": "convert a checkpoint to or from Hugging Face's format and compare every tensor",
    "explain-sharding": "show what each device of a mesh would hold of a model",
    "generate": "continue a prompt with a trained decoder",
    "losses": "list every loss with its formula, paper and arguments, and the fields a loss can read",
    "plan": "compile a script's step for hardware that is not here, and say what it would cost there",
    "show-batch": "show the rows that a step of fine-tuning trains on, with the learned tokens marked",
    "tag": "find entities in text with a trained token classifier",
    "verify-resume": "check that a run which is killed and started again ends as one that is not",
}


def main() -> None:
    """Finds the command's module in `jaxllm.cli` and runs its `main` on its `Config`."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    with input_errors():
        if command in ("-h", "--help"):
            print("usage: python -m jaxllm COMMAND [--help], or python -m jaxllm --version\n")
            for name, meaning in COMMANDS.items():
                print(f"  {name:<18} {meaning}")
            return
        if command == "--version":
            print_versions()
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
