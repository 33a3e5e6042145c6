"""Opens the model and tokenizer that training starts from: weights on disk, or an architecture from scratch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import tyro

from jaxllm import hf, planning
from jaxllm.data import tokenizers
from jaxllm.models.decoder import PRESETS
from jaxllm.models.heads import ScorerConfig, describe_model, trunk_of
from jaxllm.params import ModelSpec
from jaxllm.recipes.architecture import find_architecture
from jaxllm.recipes.flags import Common
from jaxllm.recipes.help import MODEL
from jaxllm.recipes.weights import open_weights
from jaxllm.types import InputError

MODELS = "Hugging Face id or folder, or run folder, to start from; or to train from scratch, a .json or a preset"


@dataclasses.dataclass(frozen=True)
class Start:
    """A model to train and its tokenizer."""

    model: ModelSpec
    config: Any
    """The configuration of the model."""
    tokenizer: Any
    source: hf.PretrainedModel[Any] | None
    """The checkpoint that the weights come from; None where they are initialised."""
    notes: tuple[str, ...] = ()
    """What to print about it, a line each."""
    tokens: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Ids of special tokens that the export's configuration gets in place of the source's."""
    own_tokenizer: bool = True
    """Whether the tokenizer and its EOS are the checkpoint's, so that the end tokens in its configuration apply."""

    @property
    def special_tokens(self) -> hf.SpecialTokens:
        """The end, pad and begin tokens. Raises InputError where the checkpoint's files name none that is an id."""
        return hf.special_tokens(self.tokenizer, self.source if self.own_tokenizer else None)


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


def check_vocabulary(tokenizer: Any, size: int, *, own: bool) -> None:
    """Raises InputError for a tokenizer with more tokens than the model's vocabulary. own: it is the model's own."""
    remedy = "use the model's own tokenizer, or a preset, which takes any"
    if own:
        remedy = (
            "its embeddings lack rows for tokens that were added; lengthen them with transformers' "
            "resize_token_embeddings, and save it again"
        )
    if len(tokenizer) > size:
        raise InputError(f"the tokenizer has {len(tokenizer)} tokens, the model's vocabulary {size}: {remedy}")


def start_decoder(config: DecoderFlags, texts: Iterable[str], key: str, task: str = "lm") -> Start:
    """A pretrained decoder, or one from scratch; a preset's vocabulary is as large as its tokenizer's.

    texts: what a tokenizer would be trained on; read only then. key: changes when the texts do. task: lm, or scorer for
    a reward model, with the head of the checkpoint or a new one. Raises InputError.
    """
    rates = dict.fromkeys(("embedding_dropout", "attention_dropout", "output_dropout"), config.dropout)
    computing: dict[str, Any] = {"dtype": config.dtype, "remat": config.remat, **rates}
    if (plan := planning.current()) is not None:
        computing |= plan.overrides
    shape, source = find_architecture(config.model), None
    if shape is None:
        source = open_weights(config.model, task, **computing)
        shape = trunk_of(source.config)
    if config.max_length > shape.max_positions:
        raise InputError(f"--max-length {config.max_length}: the context of the model is {shape.max_positions}")
    if config.tokenizer in tokenizers.KINDS or (source is None and not config.tokenizer):
        trainer = config.tokenizer or "bpe"
        options: dict[str, Any] = {"vocab_size": config.vocab_size} if trainer == "bpe" else {}
        tokenizer = tokenizers.train_or_load(trainer, texts, key, **options)
    else:
        assert config.tokenizer or source is not None
        tokenizer = hf.load_tokenizer(config.tokenizer or str(source.folder))  # type: ignore[union-attr]
    if config.model in PRESETS:
        shape = dataclasses.replace(shape, vocab_size=len(tokenizer))
    shape = dataclasses.replace(shape, **computing)
    check_vocabulary(tokenizer, shape.vocab_size, own=not config.tokenizer)
    whole = ScorerConfig(shape) if task == "scorer" else shape
    spec = source.spec if source else describe_model(whole)
    notes = tuple(source.notes) if source else ()
    return Start(spec, whole, tokenizer, source, notes, own_tokenizer=not config.tokenizer)
