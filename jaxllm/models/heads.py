"""Models with a head other than a language model's: classifiers of tokens and of texts, and reward models.

A classifier of texts is one of tokens that is read at one token of each text: an encoder's first, a decoder's last. A
reward model is a decoder's with one label. So either kind of trunk has one head.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxllm.models import deberta, decoder, encoder, mlm_head
from jaxllm.models.decoder_config import Config as DecoderConfig
from jaxllm.models.encoders import Transform, build_encoder
from jaxllm.models.layers import Dense, dropout
from jaxllm.models.mlm_head import MaskedConfig, MaskedLM
from jaxllm.params import Limits, ModelSpec, Rules, describe
from jaxllm.types import Batch, Metrics


@dataclasses.dataclass(frozen=True)
class TaggerConfig:
    """The configuration of a token classifier. ModernBERT has a `Transform` before the classifier."""

    encoder: encoder.Config
    labels: tuple[str, ...]
    """Names, in the order of the logits."""
    classifier_dropout: float = 0.1
    """Rate, before the classifier."""
    classifier_bias: bool = True
    transform: bool = False
    """Dense, activation, norm before the classifier."""
    transform_bias: bool = False
    transform_activation: str = "gelu"
    transform_norm: bool = True
    """Whether the transform ends in a norm."""
    transform_dropout: float = 0.0
    """Rate, before the transform."""
    crf: bool = False
    """Scores of neighbouring labels beside the classifier, which `losses/crf.py` trains."""
    decode: str = ""
    """How labels are chosen, as `evals/decoding.py` takes it."""
    document_context: int = 0
    """Tokens of its document to the left of a sentence, and to its right, that are seen with it."""

    @property
    def head_parameters(self) -> tuple[str, ...]:
        """Patterns of the parameters that are not the encoder's."""
        return ("classifier.*", *["transform.*"] * self.transform, *["crf.*"] * self.crf)


PROBLEMS = {
    "single": "single_label_classification", "multi": "multi_label_classification", "regression": "regression",
}  # fmt: skip
"""What a classifier of texts gives (one label, any number of labels, or a number) -> `problem_type` on disk."""


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(TaggerConfig):
    """The configuration of a classifier of texts on an encoder: of a token classifier, with a transform as a pooler."""

    transform: bool = True
    transform_bias: bool = True
    transform_activation: str = "tanh"
    transform_norm: bool = False
    mean: bool = False
    """Every token has the mean over its text, in place of its own hidden state."""
    problem: str = "single"
    """A name of PROBLEMS."""
    pairs: bool | None = None
    """Whether it was trained on pairs of texts; None where that is not known."""


def mean_of_texts(x_BTD: jax.Array, segments_BT: jax.Array) -> jax.Array:
    """For each position the mean of x over its segment, [B, T, D]."""
    same_BTS = (segments_BT[:, :, None] == segments_BT[:, None, :]).astype(x_BTD.dtype)
    total_BTD = jnp.einsum("BTS,BSD->BTD", same_BTS, x_BTD, preferred_element_type=jnp.float32)
    return (total_BTD / jnp.sum(same_BTS, axis=2, dtype=jnp.float32)[..., None]).astype(x_BTD.dtype)


class Transitions(nnx.Module):
    """A CRF's scores in nats of the first label, of a label after another (from, to), and of the last; 0 at first."""

    def __init__(self, labels: int):
        self.start, self.end = nnx.Param(jnp.zeros(labels)), nnx.Param(jnp.zeros(labels))
        self.pairs = nnx.Param(jnp.zeros((labels, labels)))


class Tagger(nnx.Module):
    """A classifier on an encoder: Batch -> hidden_BTD -> one logit per token and label, float32."""

    def __init__(self, config: TaggerConfig, rngs: nnx.Rngs):
        self.body = build_encoder(config.encoder, rngs)
        self.transform = Transform(config, rngs, norm=config.transform_norm) if config.transform else None
        width, std = config.encoder.width, config.encoder.init_std
        self.classifier = Dense(width, len(config.labels), bias=config.classifier_bias, std=std, rngs=rngs)
        self.crf = Transitions(len(config.labels)) if config.crf else None
        self.config = config

    @property
    def limits(self) -> Limits:
        """The encoder's."""
        return self.body.limits

    def transitions(self) -> tuple[jax.Array, jax.Array, jax.Array] | None:
        """The CRF's scores: start_V, pairs_VV (from, to) and end_V; None for a tagger without one."""
        return None if self.crf is None else (self.crf.start[...], self.crf.pairs[...], self.crf.end[...])

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """The input of the classifier, [B, T, D], and no metrics. key: for dropout; None for none."""
        body_key, head_key = (None, None) if key is None else jax.random.split(key)
        x_BTD = self.body(batch, body_key)
        if isinstance(self.config, ClassifierConfig) and self.config.mean:
            x_BTD = mean_of_texts(x_BTD, batch.segments_BT)
        if self.transform is not None:
            first_key = None if head_key is None else jax.random.fold_in(head_key, 1)
            x_BTD = self.transform(dropout(x_BTD, self.config.transform_dropout, first_key))
        return dropout(x_BTD, self.config.classifier_dropout, head_key), {}

    def head(self, hidden_ND: jax.Array) -> jax.Array:
        """logits_NV (any leading axes), float32."""
        return self.classifier(hidden_ND).astype(jnp.float32)


SHARDING: Rules = (
    *encoder.SHARDING,
    *deberta.SHARDING,
    (r"transform\.dense\.kernel", P("fsdp", "tensor")),
    (r"transform\.(dense\.bias|norm\.(scale|bias))", P("fsdp")),
    (r"classifier\.kernel", P("fsdp", None)),
    (r"classifier\.bias", P()),
    (r"crf\.(start|pairs|end)", P()),
)


@dataclasses.dataclass(frozen=True)
class ScorerConfig:
    """The configuration of a classifier of texts on a decoder. With one label it is a reward model."""

    decoder: DecoderConfig
    labels: tuple[str, ...] = ("reward",)
    """Names, in the order of the logits."""
    problem: str = "regression"
    """A name of PROBLEMS."""
    pairs: bool | None = None
    """As of `ClassifierConfig`."""

    @property
    def trunk(self) -> DecoderConfig:
        """The decoder without the head of a language model."""
        return dataclasses.replace(self.decoder, tied=True)

    @property
    def max_positions(self) -> int:
        """Longest text, in tokens."""
        return self.decoder.max_positions

    @property
    def head_parameters(self) -> tuple[str, ...]:
        """Patterns of the parameters that are not the decoder's."""
        return ("score.*",)


class Scorer(nnx.Module):
    """A classifier on a decoder: Batch -> hidden_BTD -> a logit per token and label; a text's are of its last token."""

    def __init__(self, config: ScorerConfig, rngs: nnx.Rngs):
        self.body = decoder.Decoder(config.trunk, rngs)
        width = config.decoder.width
        # So small that the first numbers are about 0: their standard deviation is about width^-1/2.
        self.score = Dense(width, len(config.labels), bias=False, std=1 / width, rngs=rngs)
        self.config = config

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """The decoder's hidden_BTD and metrics."""
        return self.body.hidden(batch, key)

    def head(self, hidden_ND: jax.Array) -> jax.Array:
        """logits_NV (any leading axes; V = 1: rewards), float32."""
        return self.score(hidden_ND).astype(jnp.float32)


SCORER_SHARDING: Rules = (*decoder.SHARDING, (r"score\.kernel", P("fsdp", None)))


def describe_model(config: TaggerConfig | MaskedConfig | DecoderConfig | ScorerConfig) -> ModelSpec:
    """The model of a configuration, to be initialised: a classifier, a masked or causal language model, or a scorer."""
    if isinstance(config, TaggerConfig):
        return describe(lambda rngs: Tagger(config, rngs), SHARDING)
    if isinstance(config, MaskedConfig):
        return describe(lambda rngs: MaskedLM(config, rngs), mlm_head.SHARDING)
    if isinstance(config, ScorerConfig):
        return describe(lambda rngs: Scorer(config, rngs), SCORER_SHARDING)
    return describe(lambda rngs: decoder.Decoder(config, rngs), decoder.SHARDING)


def trunk_of(config: Any) -> Any:
    """The configuration of the encoder or decoder in a model's configuration; of a language model it is the same."""
    return getattr(config, "encoder", None) or getattr(config, "decoder", config)


def with_trunk(config: Any, **changes: Any) -> Any:
    """A model's configuration with these fields of its encoder or decoder changed."""
    trunk = dataclasses.replace(trunk_of(config), **changes)
    part = next((name for name in ("encoder", "decoder") if hasattr(config, name)), "")
    return dataclasses.replace(config, **{part: trunk}) if part else trunk
