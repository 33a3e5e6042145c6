"""What training starts from: weights on disk, or an architecture with a tokenizer trained on the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import tyro

from jaxllm import hf
from jaxllm.data import tokenizers
from jaxllm.models import decoder
from jaxllm.models.decoder import PRESETS, SHARDING, Decoder
from jaxllm.models.heads import SCORER_SHARDING, Scorer, ScorerConfig
from jaxllm.params import ModelSpec, Rules, describe
from jaxllm.recipes.architecture import architecture
from jaxllm.recipes.flags import Common
from jaxllm.recipes.help import MODEL
from jaxllm.recipes.weights import open_language_model, open_scorer
from jaxllm.types import InputError

MODELS = "Hugging Face id or folder, or run folder, to start from; or to train from scratch, a .json or a preset"


@dataclasses.dataclass(frozen=True)
class Start:
    """A model to train and its tokenizer."""

    model: ModelSpec
    config: Any
    """The configuration of the model."""
    tokenizer: Any
    source: hf.Opened[Any] | None
    """The checkpoint that the weights come from."""
    notes: tuple[str, ...] = ()
    """What to print about it, one line each."""
    tokens: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Ids of special tokens by the names of the exported configuration, in place of the source's."""


@dataclasses.dataclass(frozen=True)
class DecoderFlags(Common):
    """Flags of the scripts that train decoders."""

    TOPIC = MODEL

    model: Annotated[str, tyro.conf.arg(help=f"{MODELS}: {', '.join(PRESETS)}.")] = "small"
    tokenizer: str = ""
    """Hugging Face id or folder of the tokenizer, or `bpe` or `char` to train one on the data; by default the model's
    own, and bpe for a model that has none."""
    vocab_size: int = 2048
    """Vocabulary of a tokenizer that is trained, in tokens."""
    dropout: float = 0.0
    """Dropout rate after the embeddings, on attention probabilities and on what each layer adds to the residual."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """Which head a decoder has, and how such a model is opened, configured and built."""

    open: Callable[..., hf.Opened[Any]]
    """Opens a checkpoint by its name on the command line, with fields of the decoder's configuration."""
    config: Callable[[decoder.Config], Any]
    """Makes the model's configuration from its decoder's."""
    build: Callable[[Any, Any], Any]
    """Makes the model from its configuration and nnx.Rngs."""
    rules: Rules

    def of_decoder(self, config: decoder.Config, rngs: Any) -> Any:
        """Makes the model from its decoder's configuration."""
        return self.build(self.config(config), rngs)


LANGUAGE = Kind(open_language_model, lambda config: config, Decoder, SHARDING)
"""A decoder with the head of a language model."""
SCORE = Kind(open_scorer, ScorerConfig, Scorer, SCORER_SHARDING)
"""A decoder with a reward model's head, which gives one number; the checkpoint's head, or a new one."""


def trunk_of(config: Any) -> decoder.Config:
    """The decoder's configuration in a model's."""
    return getattr(config, "decoder", config)


def start_decoder(config: DecoderFlags, texts: Iterable[str], key: str, kind: Kind = LANGUAGE) -> Start:
    """A pretrained decoder, or one from scratch: the vocabulary of a preset is its tokenizer's.

    texts: what a tokenizer would be trained on; read only then. key: changes when the texts do. Raises InputError.
    """
    rates = dict.fromkeys(("embedding_dropout", "attention_dropout", "output_dropout"), config.dropout)
    computing: dict[str, Any] = {"dtype": config.dtype, "remat": config.remat, **rates}
    shape, source = architecture(config.model), None
    if shape is None:
        source = kind.open(config.model, **computing)
        shape = trunk_of(source.config)
    if config.max_length > shape.max_positions:
        raise InputError(f"--max-length {config.max_length}: the context of the model is {shape.max_positions}")
    if config.tokenizer in tokenizers.KINDS or (source is None and not config.tokenizer):
        trainer = config.tokenizer or "bpe"
        options: dict[str, Any] = {"vocab_size": config.vocab_size} if trainer == "bpe" else {}
        tokenizer = tokenizers.trained(trainer, texts, key, **options)
    else:
        assert config.tokenizer or source is not None
        tokenizer = hf.load_tokenizer(config.tokenizer or str(source.folder))  # type: ignore[union-attr]
    if config.model in PRESETS:
        shape = dataclasses.replace(shape, vocab_size=len(tokenizer))
    shape = dataclasses.replace(shape, **computing)
    if len(tokenizer) > shape.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's vocabulary {shape.vocab_size}: "
            "use the model's own tokenizer, or a preset, which takes any"
        )
    spec = source.spec if source else describe(lambda rngs: kind.of_decoder(shape, rngs), kind.rules)
    return Start(spec, kind.config(shape), tokenizer, source, tuple(source.notes) if source else ())
