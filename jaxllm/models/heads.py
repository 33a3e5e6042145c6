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

from jaxllm.models import deberta, decoder, encoder
from jaxllm.models.decoder_config import Config as DecoderConfig
from jaxllm.models.layers import ACTIVATIONS, Dense, LayerNorm, dropout
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

    @property
    def head_parameters(self) -> tuple[str, ...]:
        """Patterns of the parameters that are not the encoder's."""
        return ("classifier.*", "transform.*") if self.transform else ("classifier.*",)


PROBLEMS = {
    "single": "single_label_classification", "multi": "multi_label_classification", "regression": "regression",
}  # fmt: skip
"""What a classifier of texts gives: one label, any number of labels, or a number -> `problem_type` in `transformers`."""


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


def build_encoder(config: encoder.Config, rngs: nnx.Rngs) -> encoder.Encoder | deberta.Encoder:
    """The encoder of this configuration."""
    return deberta.Encoder(config, rngs) if isinstance(config, deberta.Config) else encoder.Encoder(config, rngs)


class Transform(nnx.Module):
    """Dense, activation and, if the configuration has one, norm."""

    def __init__(self, c: TaggerConfig, rngs: nnx.Rngs):
        e = c.encoder
        self.dense = Dense(e.width, e.width, bias=c.transform_bias, std=e.init_std, rngs=rngs)
        self.norm = LayerNorm(e.width, bias=e.norm_bias, eps=e.norm_eps) if c.transform_norm else None
        self.config = c

    def __call__(self, x: jax.Array) -> jax.Array:
        x = ACTIVATIONS[self.config.transform_activation](self.dense(x))
        return x if self.norm is None else self.norm(x)


def mean_of_texts(x_BTD: jax.Array, segments_BT: jax.Array) -> jax.Array:
    """For each position the mean of x over its segment, [B, T, D]."""
    same_BTS = (segments_BT[:, :, None] == segments_BT[:, None, :]).astype(x_BTD.dtype)
    total_BTD = jnp.einsum("BTS,BSD->BTD", same_BTS, x_BTD, preferred_element_type=jnp.float32)
    return (total_BTD / jnp.sum(same_BTS, axis=2, dtype=jnp.float32)[..., None]).astype(x_BTD.dtype)


class Tagger(nnx.Module):
    """A classifier on an encoder: Batch -> hidden_BTD -> one logit per token and label, float32."""

    def __init__(self, config: TaggerConfig, rngs: nnx.Rngs):
        self.body = build_encoder(config.encoder, rngs)
        self.transform = Transform(config, rngs) if config.transform else None
        width, std = config.encoder.width, config.encoder.init_std
        self.classifier = Dense(width, len(config.labels), bias=config.classifier_bias, std=std, rngs=rngs)
        self.config = config

    @property
    def limits(self) -> Limits:
        """The encoder's."""
        return self.body.limits

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
)


@dataclasses.dataclass(frozen=True)
class ScorerConfig:
    """The configuration of a classifier of texts on a decoder. With one label it is a reward model."""

    decoder: DecoderConfig
    labels: tuple[str, ...] = ("reward",)
    """Names, in the order of the logits."""
    problem: str = "regression"
    """A name of PROBLEMS."""

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
    """A classifier on a decoder: Batch -> hidden_BTD -> a number per token and label; a text's are of its last token."""

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


def describe_model(config: TaggerConfig | DecoderConfig | ScorerConfig) -> ModelSpec:
    """The model of a configuration: a classifier, a causal language model or a scorer, to be initialised from scratch."""
    if isinstance(config, TaggerConfig):
        return describe(lambda rngs: Tagger(config, rngs), SHARDING)
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
