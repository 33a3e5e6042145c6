"""Which implementation computes attention, and why: by platform, and by what a call asks for."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm import planning
from jaxllm.axes import cuts
from jaxllm.models.blockwise import LONG

BACKENDS = ("auto", "xla", "flash", "cudnn", "splash")
"""auto is flash on a GPU, splash on a TPU for causal attention, and xla elsewhere."""

LANES = 128
"""splash and cudnn take a multiple of so many tokens."""

FEWEST = 64
"""The queries, and keys, that flash is worth its blocks for; fewer queries are a step of generation."""

WIDEST = {2: 256, 4: 128}
"""The most features of a head of which flash's blocks fit a GPU, by bytes of a feature."""

WHOLE_MASK = 2048
"""The longest row whose mask [T, S] is made whole for cudnn, in tokens."""


class Choice(NamedTuple):
    """An implementation, and why it is taken."""

    backend: str
    """xla, flash, cudnn or splash."""
    why: str


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a call of attention asks for."""

    queries: int
    """T, in tokens."""
    keys: int
    """S, in tokens."""
    features: int
    """H."""
    dtype: Any
    causal: bool
    same: bool = True
    """Queries and keys are the same tokens."""
    branched: bool = False
    """Answers share a prompt in a row."""
    windowed: bool = False
    listed: bool = True
    """All windows that layers have are known."""
    softcap: float = 0.0
    dropout: float = 0.0
    """Rate, where a key is given."""


def choose(backend: str, asked: Asked) -> Choice:
    """What computes attention where `backend`, one of BACKENDS, is wanted: that, or what can do what it cannot."""
    platform = planning.platform()
    if backend == "auto":
        if platform not in ("gpu", "tpu"):
            return Choice("xla", "as on every CPU")
        if not _cuttable():
            return Choice("xla", "several devices and no mesh is set, along which a kernel could be cut")
        backend = "flash" if platform == "gpu" else "splash"
        if backend == "splash" and not asked.causal:
            return Choice("xla", "rows that are seen from both sides are short")
    lacks = _LACKS.get(backend, lambda _: "")(asked)
    if not lacks:
        return Choice(backend, _HAS[backend])
    if backend == "cudnn" and platform == "gpu" and _cuttable() and not _flash_lacks(asked):
        return Choice("flash", f"cudnn {lacks}")
    return Choice("xla", f"{backend} {lacks}")


def _cuttable() -> bool:
    """Whether a kernel can run: on one device, or cut along a mesh that is set, for the partitioner cannot cut it."""
    return jax.device_count() == 1 or not jax.sharding.get_abstract_mesh().empty


def _splash_lacks(asked: Asked) -> str:
    if asked.dropout:
        return f"has no dropout, and attention's is {asked.dropout:g}"
    if asked.branched:
        return "masks no branches of shared prompts"
    if not asked.same or asked.queries < LANES:
        return f"needs at least {LANES} queries, which are the keys' tokens"
    return "compiles a kernel for each window, and these are not listed" if asked.windowed and not asked.listed else ""


def _flash_lacks(asked: Asked) -> str:
    if min(asked.queries, asked.keys) < FEWEST:
        return f"is for {FEWEST} queries or more"
    dtype = jnp.dtype(asked.dtype)
    if (most := WIDEST.get(dtype.itemsize, 0)) < asked.features:
        return f"takes heads of at most {most} features in {dtype.name}"
    return ""


def _cudnn_lacks(asked: Asked) -> str:
    if jnp.dtype(asked.dtype).itemsize != 2:
        return f"takes no {jnp.dtype(asked.dtype).name}"
    if asked.dropout or asked.softcap:
        return "has no dropout here" if asked.dropout else "has no soft-cap"
    longest = max(asked.queries, asked.keys)
    return f"would need a whole mask of {longest:,} tokens a side" if longest > WHOLE_MASK else ""


_LACKS = {"splash": _splash_lacks, "flash": _flash_lacks, "cudnn": _cudnn_lacks}

_HAS = {
    "xla": f"as asked; in blocks from {LONG:,} tokens",
    "flash": "a kernel for GPUs that knows segments, windows, branches, soft-caps and dropout",
    "cudnn": "as asked; its mask is whole",
    "splash": "a kernel for TPUs that knows segments and windows",
}


def describe(config: Any, length: int) -> str:
    """What computes attention in a model's training on rows of so many tokens, and why, in a line to print at start.

    config: of a decoder or an encoder. The mesh of the run must be set (`jax.set_mesh`).
    """
    if hasattr(config, "buckets"):
        return "attention by xla: disentangled, over whole rows"
    if cuts("context") > 1:
        return "attention by a ring of devices, for --mesh cuts the sequence"
    backend, causal = getattr(config, "backend", None), True
    if backend is None:
        backend, causal = "auto", False
    heads = getattr(config, "H", None) or config.width // config.heads
    windowed = any(config.windows) if hasattr(config, "windows") else bool(config.window)
    asked = Asked(
        length, length, heads, jnp.dtype(config.dtype), causal, windowed=windowed, listed=causal,
        softcap=getattr(config, "attention_softcap", 0.0), dropout=config.attention_dropout,
    )  # fmt: skip
    choice = choose(backend, asked)
    line = f"attention by {choice.backend}: {choice.why}"
    if (
        asked.dropout
        and (without := choose(backend, dataclasses.replace(asked, dropout=0.0))).backend != choice.backend
    ):
        line += f"; without dropout it would be {without.backend}"
    return line
