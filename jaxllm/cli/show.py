"""What scripts say of a run: its devices, its model card, the numbers of one that is finished."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from jaxllm.train.run import Run


def describe_mesh(mesh: Any) -> str:
    """Devices and the axes that are longer than 1."""
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    device = mesh.devices.flat[0].device_kind
    return f"{mesh.size} x {device}" + (f" ({axes})" if axes else "")


def card(script: str, config: Any, numbers: Mapping[str, float]) -> str:
    """The model card of a run."""
    rows = "\n".join(f"| {name} | {x:.4f} |" for name, x in numbers.items() if name.count("/") == 1)
    flags = json.dumps(dataclasses.asdict(config), indent=2)
    return f"Trained by `experiments/{script}.py` of jaxllm.\n\n| | |\n|---|---|\n{rows}\n\n```json\n{flags}\n```\n"


def show_summary(run: Run, console: Console) -> None:
    """The final numbers of a finished run."""
    for name, x in ((run.summary or {}).get("final") or {}).items():
        if name.count("/") == 1:
            console.print(f"  {name} {x:.4f}")
