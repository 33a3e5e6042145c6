"""What a part of `accelerator_check.py` found: lines on the terminal, and a JSON file that is whole after each."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from jaxllm.run.folder import write_json


@dataclasses.dataclass(frozen=True)
class Config:
    """One part of experiments/accelerator_check.py, in a process of its own."""

    json: Path
    """File to write what was found to."""
    toy: bool = False
    """Use sizes that a CPU computes in seconds; so it is on a CPU anyway."""
    limit_s: float = 300.0
    """Time after which nothing new is begun, in seconds."""

    @property
    def small(self) -> bool:
        """Whether sizes are a CPU's."""
        import jax

        return self.toy or jax.default_backend() == "cpu"


class Record:
    """The entries of a part."""

    def __init__(self, config: Config):
        self.began, self.config = time.monotonic(), config
        self.entries: list[dict[str, Any]] = []
        self._write(False)

    def add(self, name: str, ok: bool | None = None, **found: Any) -> None:
        """Prints and writes an entry. ok: None for what is measured and not judged."""
        self.entries.append({"name": name, "ok": ok, **found})
        word = {None: "", True: "ok", False: "WRONG"}[ok]
        print(f"  {word:<6}{name}: {', '.join(_words(*one) for one in found.items())}", flush=True)
        self._write(False)

    def late(self, name: str) -> bool:
        """Whether there is no time left to begin this; if so, that is an entry."""
        if time.monotonic() - self.began < self.config.limit_s:
            return False
        self.add(name, left_out=f"over {self.config.limit_s:.0f} s")
        return True

    def end(self) -> None:
        """Marks the part as complete."""
        self._write(True)

    def _write(self, complete: bool) -> None:
        import jax

        device = jax.devices()[0]
        seconds = time.monotonic() - self.began
        where = {"device": device.device_kind, "platform": device.platform, "devices": jax.device_count()}
        found = {**where, "toy": self.config.small, "complete": complete, "seconds": seconds, "entries": self.entries}
        write_json(self.config.json, found)


def _words(name: str, x: Any) -> str:
    """A number by its unit, which its name ends with."""
    text = name.replace("_", " ")
    if not isinstance(x, float):
        return f"{text} {x:,}" if isinstance(x, int) and not isinstance(x, bool) else f"{text} {x}"
    if name.endswith("_ms"):
        return f"{text[:-3]} {x:,.2f} ms"
    if name.endswith("_gib"):
        return f"{text[:-4]} {x:,.3f} GiB"
    return f"{text} {x:,.0f}" if abs(x) >= 1000 else f"{text} {x:.3g}"


def failure(error: Exception) -> str:
    """The first line of an error, for what a device cannot do."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
