"""The configuration of a decoder, and presets to train from scratch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from jaxllm.models.backends import BACKENDS
from jaxllm.models.layers import ACTIVATIONS
from jaxllm.models.remat import REMAT
from jaxllm.models.rope import UNSCALED, Scaling, frequencies
from jaxllm.types import InputError

_CHOICES: dict[str, Iterable[str]] = {
    "norm": ("rms", "layer"),
    "norm_place": ("before", "after", "both"),
    "qk_norm": ("none", "head", "full"),
    "activation": ACTIVATIONS,
    "backend": BACKENDS,
    "remat": REMAT,
    "dtype": ("float32", "bfloat16", "float16"),
}

_SIZES = ("vocab_size", "width", "depth", "heads", "mlp_width", "max_positions")

EVERYTHING = 2**30
"""A window that covers any text, in tokens."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The architecture of a decoder and how it is computed. The defaults are Llama's. Raises InputError."""

    vocab_size: int
    """Rows of the token embedding."""
    width: int
    """D: features of the residual stream."""
    depth: int
    """L: number of blocks."""
    heads: int
    """N: query heads."""
    mlp_width: int
    """F: features inside the MLP, or inside each expert."""
    kv_heads: int = 0
    """K: key and value heads, which divide the query heads; 0 for as many."""
    head_width: int = 0
    """H: features of one head; 0 for width / heads."""
    max_positions: int = 2048
    """Longest text, in tokens."""
    rope_base: float = 10000.0
    """Base of rotary positions; 0 for learned positions."""
    rope_scaling: Scaling = UNSCALED
    """How rotary frequencies are scaled for longer texts."""
    local_rope_base: float = 0.0
    """Base in layers with a window, where frequencies are not scaled; 0 for the same base as in the others."""
    windows: tuple[int, ...] = (0,)
    """How many tokens a query sees in each layer, itself included; 0 for all. The pattern repeats over the layers."""
    norm: str = "rms"
    """rms or layer (with bias)."""
    norm_offset: float = 0.0
    """Added to the scale of each norm: 1 in Gemma."""
    norm_place: str = "before"
    """Norms before attention and MLP, after them (OLMo 2), or both."""
    norm_eps: float = 1e-5
    qk_norm: str = "none"
    """Norms on queries and keys: none, head (each head), full (all heads as one vector)."""
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    gated: bool = True
    """Gated MLP, activation(gate) * up."""
    activation: str = "silu"
    tied: bool = False
    """The head is the token embedding."""
    embedding_scale: float = 1.0
    """Factor on the token embeddings."""
    attention_scale: float = 0.0
    """Factor on the scores; 0 for head_width^-1/2."""
    attention_softcap: float = 0.0
    """c tanh(score / c); 0 for none."""
    logit_softcap: float = 0.0
    """c tanh(logit / c); 0 for none."""
    experts: int = 0
    """E: MLPs per layer among which a router chooses; 0 for one MLP and no router."""
    experts_per_token: int = 2
    renormalise: bool = True
    """The weights of the chosen experts sum to 1."""
    router_balance: float = 0.001
    """Coefficient of the balance loss of a mixture."""
    init_std: float = 0.02
    """Standard deviation of initial kernels and embeddings; times (2 L)^-1/2 for kernels that add to the stream."""
    embedding_dropout: float = 0.0
    """Rate, after the embeddings."""
    attention_dropout: float = 0.0
    """Rate, on the attention probabilities."""
    output_dropout: float = 0.0
    """Rate, on what attention and MLP add to the residual stream."""
    backend: str = "auto"
    """Of attention: auto, xla, flash, cudnn, splash (backends.BACKENDS)."""
    dtype: str = "float32"
    """Of the computation; parameters stay float32."""
    remat: str = "none"
    """What the backward pass recomputes, a name of remat.REMAT."""
    unroll: int = 0
    """Blocks per loop iteration; 0 for all on CPU and 1 elsewhere."""

    def __post_init__(self) -> None:
        for name, valid in _CHOICES.items():
            if (given := getattr(self, name)) not in valid:
                raise InputError(f"decoder {name}={given!r}: choose one of {', '.join(valid)}")
        least = {**dict.fromkeys(_SIZES, 1), "kv_heads": 0, "head_width": 0, "experts": 0}
        for name, bound in least.items():
            if (given := getattr(self, name)) < bound:
                raise InputError(f"decoder {name}={given}: must be {bound} or more")
        if not self.windows or min(self.windows) < 0:
            raise InputError(f"decoder windows={self.windows}: give one number or more, each 0 or a number of tokens")
        if self.experts and not 1 <= self.experts_per_token <= self.experts:
            raise InputError(f"decoder experts_per_token={self.experts_per_token}: must be from 1 to {self.experts}")
        if self.heads % self.K or (not self.head_width and self.width % self.heads):
            raise InputError(
                f"decoder heads={self.heads}: must be a multiple of kv_heads={self.K}, and divide width={self.width} "
                "unless head_width is given"
            )
        if self.rope_base and self.H % 2:
            raise InputError(f"decoder head_width={self.H}: must be even, for rotary positions turn pairs of features")
        # The same model gets the same fields, so that configurations can be compared.
        n, windows = self.depth, [self.windows[i % len(self.windows)] for i in range(self.depth)]
        period = next(p for p in range(1, n + 1) if windows == [windows[i % p] for i in range(n)])
        canonical = {
            "windows": tuple(windows[:period]),
            "kv_heads": 0 if self.kv_heads == self.heads else self.kv_heads,
            "head_width": 0 if self.head_width * self.heads == self.width else self.head_width,
            "attention_scale": 0.0 if self.attention_scale == self.H**-0.5 else self.attention_scale,
        }
        for name, value in canonical.items():
            object.__setattr__(self, name, value)

    @property
    def K(self) -> int:
        """Key and value heads."""
        return self.kv_heads or self.heads

    @property
    def H(self) -> int:
        """Features of one head."""
        return self.head_width or self.width // self.heads

    @property
    def out_std(self) -> float:
        """Standard deviation of initial kernels that add to the residual stream (Radford et al. 2019, section 2.3)."""
        return self.init_std / math.sqrt(2 * self.depth)

    def windows_L(self) -> np.ndarray:
        """How many tokens back each layer sees, int32 [L]."""
        pattern = np.resize(np.asarray(self.windows, np.int32), self.depth)
        return np.where(pattern > 0, pattern - 1, EVERYTHING).astype(np.int32)

    def frequencies_LH(self) -> np.ndarray:
        """Rotary frequencies by layer in radians per position, float32 [L, H / 2]; unused with learned positions."""
        far = frequencies(self.H, self.rope_base or 1.0, self.rope_scaling)
        near = frequencies(self.H, self.local_rope_base, UNSCALED) if self.local_rope_base else far
        return np.stack([far if reach == EVERYTHING else near for reach in self.windows_L()])


def _gpt2(width: int, depth: int, heads: int) -> Config:
    return Config(
        vocab_size=50257, width=width, depth=depth, heads=heads, mlp_width=4 * width, max_positions=1024,
        rope_base=0.0, norm="layer", qkv_bias=True, out_bias=True, mlp_bias=True, gated=False, activation="gelu_tanh",
        tied=True,
    )  # fmt: skip


PRESETS: dict[str, Config] = {
    "gpt2-124m": _gpt2(768, 12, 12),
    "gpt2-355m": _gpt2(1024, 24, 16),
    "gpt2-774m": _gpt2(1280, 36, 20),
    "gpt2-1.5b": _gpt2(1600, 48, 25),
    "tiny": Config(vocab_size=512, width=64, depth=2, heads=4, mlp_width=160, kv_heads=2, max_positions=512, tied=True),
    "small": Config(
        vocab_size=2048, width=192, depth=4, heads=6, mlp_width=512, kv_heads=3, max_positions=1024, tied=True
    ),
    "llama-135m": Config(
        vocab_size=49152, width=576, depth=30, heads=9, mlp_width=1536, kv_heads=3, max_positions=2048, tied=True
    ),
    "llama-1b": Config(
        vocab_size=32000, width=2048, depth=22, heads=32, mlp_width=5632, kv_heads=4, max_positions=2048
    ),
    "llama-8b": Config(
        vocab_size=128256, width=4096, depth=32, heads=32, mlp_width=14336, kv_heads=8, max_positions=8192,
        rope_base=500000.0,
    ),
    "mixture-8x160m": Config(
        vocab_size=32000, width=768, depth=12, heads=12, mlp_width=2048, kv_heads=4, max_positions=2048, experts=8
    ),
}  # fmt: skip
"""Architectures to train from scratch, by name, without dropout: pretraining sees little text twice, and on TPUs the
kernel of attention has none. `--dropout` of the scripts sets it."""
