#!/usr/bin/env python3
"""Says in one line what a command that is to be launched would cost on the hardware it is launched on.

    python tpu/plan.py v5litepod-16 python experiments/pretrain.py --model llama-1b --mesh fsdp=16

The launchers' --dry-run ends with it. The hardware is a topology of `python -m jaxllm plan`, a type of TPU as Google
Cloud names it (v5litepod-16, v6e-8, v5p-16; with *2 for two slices), or GPUs as KIND:SLICESxHOSTSxGPUS. Standard
library alone; where jaxllm or its extra `plan` is not installed, the line says how to get them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SIDES = {
    2: {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    3: {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"},
}
"""Of a slice, by the dimensions of its torus and its number of chips: what a type stands for unless it is told."""

GET = "pip install -e '.[plan]' here, for memory and time of this command before it is launched"


def topology(kind: str) -> str:
    """Hardware as `plan` takes it; "" for a type whose shape is not known."""
    kind, _, slices = kind.partition("*")
    if found := re.fullmatch(r"(v4|v5p|v5litepod|v6e)-(\d+)", kind):
        name, count = found[1].replace("v5litepod", "v5e"), int(found[2])
        dims, cores = (3, 2) if name in ("v4", "v5p") else (2, 1)  # the former count cores, of which a chip has two
        sides = SIDES[dims].get(count // cores, "")
        kind = f"{name}:{sides}" if sides else ""
    return f"{kind}*{slices}" if kind and slices not in ("", "1") else kind


def gpu(text: str) -> str:
    """The kind of GPU in text such as nvidia-h100-80gb or A100-80GB; "" for one that `plan` does not know."""
    found = re.search(r"(?<![a-z])(a100|h100|h200|b200)(?![a-z])", text.lower())
    return found[1] if found else ""


def line(hardware: str, command: Sequence[str], python: str = sys.executable) -> str:
    """The line, whatever goes wrong."""
    if not hardware or ":" not in hardware:
        return f"no plan: {hardware or 'the hardware'} is none whose shape is known"
    at = next((i for i, word in enumerate(command) if word.endswith(".py")), None)
    if at is None or not re.search(r"python[\d.]*$", command[0]):
        return "no plan: the command is not python SCRIPT.py ..."
    if not Path(command[at]).is_file():
        return f"no plan: {command[at]} is not here"
    words = [python, "-m", "jaxllm", "plan", *command[at:], "--topology", hardware, "--summary"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return f"plan: {done.stdout.strip()}"
    why = (done.stderr.strip().splitlines() or ["it failed"])[-1].removeprefix("error: ")
    missing = "No module named" in why or "is not installed, whose compiler" in why
    return f"no plan: {GET}" if missing else f"no plan: {why}"


if __name__ == "__main__":
    print(f"# {line(topology(sys.argv[1]), sys.argv[2:])}" if len(sys.argv) > 2 else __doc__)
