"""Model FLOPs: the arithmetic that a training step needs by formula, whatever the compiler makes of it.

Matrix products alone are counted, a multiply-add as two (Chowdhery et al. 2022, PaLM, appendix B). Per token a matrix
of n entries costs 2n forward, 2n for the gradient of its input and 2n for its own, the latter only where it is trained:
not in the base under LoRA, not where parameters are frozen. Of experts those that a token goes through count. Attention
costs 4 N H forward and 8 N H backward for each pair of a query and a key that it sees: causal, within windows and
documents, and with a shared prompt counted once. Nothing is counted for what is recomputed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxllm.models import decoder, encoder
from jaxllm.models.heads import trunk_of
from jaxllm.models.mlm_head import MaskedConfig
from jaxllm.models.teacher import PREFIX
from jaxllm.params import ModelSpec, bind

NO_END = 2**30
"""A reach beyond any text, in tokens."""


@dataclasses.dataclass(frozen=True)
class ModelFlops:
    """FLOPs of a step: so many per token, and per pair of query and key that a layer of this reach sees."""

    per_token: float
    per_pair: Mapping[int, float]
    """Reach of attention to one side, in tokens -> FLOPs per pair, over all layers of that reach."""
    causal: bool

    def of(self, batch: Any) -> float:
        """Of a Batch, or Answers, of numpy arrays: its real tokens, whose positions tell what they see."""
        batch = getattr(batch, "batch", batch)
        real_BT = np.asarray(batch.segments_BT) > 0
        positions = np.asarray(batch.positions_BT)[real_BT].astype(np.int64)
        sides = 1 if self.causal else 2  # a text seen from its end has the same positions
        pairs = {w: sides * int(np.minimum(positions, w).sum()) + positions.size for w in self.per_pair}
        return self.per_token * positions.size + sum(x * pairs[w] for w, x in self.per_pair.items())


def model_flops(model: ModelSpec, freeze: Mapping[str, slice], *, reference: bool = False) -> ModelFlops:
    """The FLOPs of a step of this model.

    freeze: parameters, or slices of their layers, that get no gradient. reference: the step also computes the teacher,
    or of an adapted model its base, forward alone.
    """
    bound = bind(model.graphdef, model.graphdef.abstract)
    config, whole = config_of(bound), getattr(bound, "config", None)
    masked = whole if isinstance(whole, MaskedConfig) else None
    depth = getattr(config, "depth", 1)
    shapes = {name: x.shape for name, x in model.graphdef.abstract.items()}
    trained = {
        name: np.zeros(depth, bool) if name in model.frozen else _trained(name, freeze, depth) for name in shapes
    }
    own = {name: shape for name, shape in shapes.items() if not name.startswith(PREFIX)}
    below = any(x.any() for name, x in trained.items() if name.startswith("embeddings.") and name in own)
    stacked = [x for name, x in trained.items() if name.startswith("blocks.") and name in own]
    layers = np.any(stacked, axis=0) if stacked else np.zeros(depth, bool)
    passed_L = np.ones(depth, bool) if below else np.maximum.accumulate(layers)  # a gradient passes through
    total = 0.0
    for name, shape in own.items():
        size = _size(name, shape, config) if masked is None else _masked_size(name, shape, masked)
        passes = passed_L.mean() if name.startswith("blocks.") else float(passed_L.any())
        total += 2 * size * (1 + passes + trained[name].mean())
        if reference and not any(other.startswith(PREFIX) for other in shapes) and ".lora_" not in name:
            total += 2 * size
    total += sum(2 * _size(name.removeprefix(PREFIX), shape, config)
                 for name, shape in shapes.items() if name.startswith(PREFIX))  # fmt: skip
    pairs: dict[int, float] = {}
    for layer, reach in enumerate(reaches_of(config)):
        forward = 4.0 * config.heads * _head_width(config)
        passes = 1 + 2 * bool(passed_L[layer]) + reference
        pairs[reach] = pairs.get(reach, 0.0) + forward * passes
    return ModelFlops(total, pairs, not isinstance(config, encoder.Config))


def config_of(model: Any) -> Any:
    """The configuration of the encoder or decoder inside a model; None of a model that is neither."""
    while model is not None:
        config = trunk_of(getattr(model, "config", None))
        if isinstance(config, decoder.Config | encoder.Config):
            return config
        model = getattr(model, "body", None)
    return None


def _trained(name: str, freeze: Mapping[str, slice], depth: int) -> np.ndarray:
    """Which layers of a parameter are trained, bool [L]; of one outside of the stack all or none."""
    found = np.ones(depth, bool)
    if name in freeze:
        found[freeze[name] if name.startswith("blocks.") else slice(None)] = False
    return found


def _size(name: str, shape: tuple[int, ...], config: Any) -> float:
    """The entries of a matrix that each token is multiplied with; 0 for what is no matrix."""
    whole = float(math.prod(shape))
    if name == "embeddings.tokens.embedding":
        return whole if getattr(config, "tied", False) else 0.0
    if name.startswith("embeddings.") or not name.endswith(("kernel", ".lora_a", ".lora_b")):
        return 0.0
    if ".experts." in name and ".router." not in name:
        return whole * config.experts_per_token / config.experts
    return whole


def _masked_size(name: str, shape: tuple[int, ...], config: MaskedConfig) -> float:
    """`_size` in a masked language model, whose head is for the positions that are learned alone."""
    table = name == "embeddings.tokens.embedding"
    size = float(math.prod(shape)) if table and config.tied else _size(name, shape, config.encoder)
    return size * (config.learned if table or name.startswith(("transform.", "unembed.")) else 1.0)


def reaches_of(config: Any) -> list[int]:
    """How many tokens to one side each layer sees."""
    if isinstance(config, decoder.Config):
        return config.windows_L().tolist()
    if isinstance(config, encoder.Config):
        return [NO_END if i % config.global_every == 0 or not config.window else config.window
                for i in range(config.depth)]  # fmt: skip
    return []


def _head_width(config: Any) -> int:
    return config.H if isinstance(config, decoder.Config) else config.width // config.heads
