"""The peer of experiments/matmul.py: how fast the best large matrix product of PyTorch is on this device.

Each shape is multiplied again and again for a while; the fastest call counts.

    python experiments/peers/torch_matmul.py --dtype bfloat16
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
import tyro

import measured


@dataclasses.dataclass(frozen=True)
class Config:
    """Times matrix products of PyTorch."""

    dtype: str = "float32"
    """Of the factors: float32 or bfloat16."""
    shapes: tuple[str, ...] = ()
    """Products to time, each as ROWSxINNERxCOLUMNS; by default squares of 1,024 and 2,048, on GPUs 4,096 and 8,192."""
    seconds: float = 1.0
    """For each shape."""
    json: Path | None = None
    """File to write the FLOP/s of each shape to."""


def flops_per_s(shape: tuple[int, int, int], dtype: torch.dtype, seconds: float) -> float:
    """Of the fastest product [M, K] x [K, N], a multiply-add counted as two."""
    M, K, N = shape
    a_MK, b_KN = (torch.randn(x, device=measured.device()).to(dtype) for x in ((M, K), (K, N)))
    torch.mm(a_MK, b_KN)
    best, ends = float("inf"), measured.now() + seconds
    while time.perf_counter() < ends:
        began = measured.now()
        torch.mm(a_MK, b_KN)
        best = min(best, measured.now() - began)
    return 2 * M * K * N / best


def main(config: Config) -> None:
    """Times each shape and prints it."""
    if config.dtype not in ("float32", "bfloat16"):
        print(f"--dtype {config.dtype}: give float32 or bfloat16", file=sys.stderr)
        sys.exit(2)
    sizes = (4096, 8192) if torch.cuda.is_available() else (1024, 2048)
    found = {}
    for text in config.shapes or [f"{n}x{n}x{n}" for n in sizes]:
        M, K, N = map(int, text.split("x"))
        found[text] = flops_per_s((M, K, N), getattr(torch, config.dtype), config.seconds)
        print(f"{text} {found[text] / 1e9:,.0f} GFLOP/s", flush=True)
    if config.json is not None:
        config.json.write_text(json.dumps({"library": "torch", "flops_per_s": found}) + "\n")


if __name__ == "__main__":
    with torch.no_grad():
        main(tyro.cli(Config))
