"""FLOPs of kernels that XLA did not make, by formula: attention by splash, flash or cuDNN, and experts."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from jaxllm.models.flops import config_of, reaches_of
from jaxllm.params import ModelSpec, bind
from jaxllm.plan.hlo import Array
from jaxllm.plan.program import Kernels

_PRODUCTS = {"dkv": 4, "dq": 3, "bwd": 5, "fwd": 2, "forward": 2, "backward": 5}
"""Matrix products [T, H] x [H, S] of a pass: forward scores and result; backward scores, dP, and dV and dK, or dQ."""


def kernel_flops(model: ModelSpec, batch: Any) -> Kernels:
    """Formulas for this model's attention.

    A kernel computes the blocks of scores that the mask leaves something of. Over layers with several windows it is
    their mean, for the compiled program holds a kernel for each and takes one by layer.
    """
    config = config_of(bind(model.graphdef, model.graphdef.abstract))
    reaches = reaches_of(config)
    causal = not hasattr(config, "global_every")

    def flops(name: str, given: list[Array], results: tuple[Array, ...]) -> float | None:
        if "ragged" in name:
            return _ragged([x for x in (*given, *results) if x.dtype not in ("s32", "pred")])
        found = re.search(r"dkv|dq|bwd|backward|fwd|forward", name.lower())
        if not reaches or not re.search(r"splash|fmha|attention|mha|mqa", name, re.I):
            return None
        shapes = [x.shape for x in given if len(x.shape) >= 3]
        # The first argument of cuDNN and of flash is the queries, [B, T, N, H]; cuDNN's mask may be the largest.
        own_layout = "fmha" in name or "flash_attention" in name
        wide = shapes[0] if own_layout else max(shapes, key=math.prod)
        products = _PRODUCTS[found[0] if found else "fwd"]
        T, H = (wide[1], wide[-1]) if own_layout else wide[-2:]
        heads = math.prod(wide) // (T * H)
        block = next((size for size in (512, 256, 128) if T % size == 0), 1)
        share = float(np.mean([_blocks(T, block, min(reach, T), causal) for reach in reaches]))
        return products * 2.0 * heads * T * T * H * share

    return flops


def _ragged(floats: list[Array]) -> float | None:
    """Of tokens [M, D] through experts [E, D, F], or the gradient of either: 2 M D F."""
    experts = next((x.shape for x in floats if len(x.shape) == 3), None)
    tokens = next((x.shape for x in floats if len(x.shape) == 2), None)
    return None if experts is None or tokens is None else 2.0 * tokens[0] * experts[1] * experts[2]


def _blocks(T: int, block: int, reach: int, causal: bool) -> float:
    """The share of the blocks of [T, T] scores that a mask leaves something of."""
    n = T // block
    query, key = np.arange(n)[:, None] * block, np.arange(n)[None] * block
    near = query - (key + block - 1) <= reach  # some key of the block is not too far back
    ahead = (key <= query + block - 1) if causal else (key - (query + block - 1) <= reach)
    return float(np.mean(near & ahead))
