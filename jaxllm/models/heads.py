"""Models with a head other than a language model's: token classifiers on encoders, reward models on decoders."""

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
    crf: bool = False
    """Scores of neighbouring labels beside the classifier, which `losses/crf.py` trains."""

    @property
    def head_parameters(self) -> tuple[str, ...]:
        """Patterns of the parameters that are not the encoder's."""
        return ("classifier.*", *["transform.*"] * self.transform, *["crf.*"] * self.crf)


class Transitions(nnx.Module):
    """A CRF's scores in nats of the first label, of a label after another (from, to), and of the last; 0 at first."""

    def __init__(self, labels: int):
        self.start, self.end = nnx.Param(jnp.zeros(labels)), nnx.Param(jnp.zeros(labels))
        self.pairs = nnx.Param(jnp.zeros((labels, labels)))


class Tagger(nnx.Module):
    """A token classifier: Batch -> hidden_BTD -> one logit per token and label, float32."""

    def __init__(self, config: TaggerConfig, rngs: nnx.Rngs):
        self.body = build_encoder(config.encoder, rngs)
        self.transform = Transform(config, rngs) if config.transform else None
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
        if self.transform is not None:
            x_BTD = self.transform(x_BTD)
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
    """The configuration of a reward model: a decoder whose head gives one number."""

    decoder: DecoderConfig

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
    """A reward model: Batch -> hidden_BTD -> one number per token; that of an answer's last token is its reward."""

    def __init__(self, config: ScorerConfig, rngs: nnx.Rngs):
        self.body = decoder.Decoder(config.trunk, rngs)
        width = config.decoder.width
        # So small that the first rewards are about 0: their standard deviation is about width^-1/2.
        self.score = Dense(width, 1, bias=False, std=1 / width, rngs=rngs)
        self.config = config

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """The decoder's hidden_BTD and metrics."""
        return self.body.hidden(batch, key)

    def head(self, hidden_ND: jax.Array) -> jax.Array:
        """rewards_N1 (any leading axes), float32."""
        return self.score(hidden_ND).astype(jnp.float32)


SCORER_SHARDING: Rules = (*decoder.SHARDING, (r"score\.kernel", P("fsdp", None)))


def describe_model(config: TaggerConfig | MaskedConfig | DecoderConfig | ScorerConfig) -> ModelSpec:
    """The model of a configuration, to be initialised: a tagger, a masked or causal language model, or a scorer."""
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
