"""What training on answers starts from: a decoder whose tokenizer has a chat template, an end of turns and padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from jaxllm.data import tokenizers
from jaxllm.data.chat.templates import end_ids, give_pad, give_template
from jaxllm.models.vocabulary import grown
from jaxllm.recipes.help import MODEL
from jaxllm.recipes.start import LANGUAGE, DecoderFlags, Kind, Start, start_decoder, trunk_of
from jaxllm.types import InputError

DEFAULT = "plain"
"""The template of a tokenizer that has none."""


@dataclasses.dataclass(frozen=True)
class ChatFlags(DecoderFlags):
    """Flags of the scripts that train decoders on prompts and answers."""

    TOPIC = MODEL

    chat_template: str = ""
    """Chat template: chatml, plain, or a .jinja file; by default the tokenizer's own, and plain where it has none."""


def start_chat(config: ChatFlags, texts: Iterable[str], key: str, kind: Kind = LANGUAGE) -> Start:
    """`start_decoder`, ready for conversations; what had to be given or added stands in its notes.

    Tokens that were added lengthen the embeddings (models/vocabulary.py). Raises InputError.
    """
    begin = start_decoder(config, texts, key, kind)
    tokenizer, notes = begin.tokenizer, [*begin.notes]
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-text token (eos_token); name another by --tokenizer")
    changes = []
    if config.chat_template:
        changes += give_template(tokenizer, config.chat_template)
    elif not tokenizer.chat_template:
        first, *rest = give_template(tokenizer, DEFAULT)
        changes += [f"{first}, for the tokenizer has none (--chat-template)", *rest]
    changes += give_pad(tokenizer)
    if changes:
        tokenizer = tokenizers.stored(tokenizer)
    ends = end_ids(tokenizer)
    tokens = {"eos_token_id": ends[0] if len(ends) == 1 else [*ends], "pad_token_id": tokenizer.pad_token_id}
    if tokenizer.bos_token_id is not None:
        tokens["bos_token_id"] = tokenizer.bos_token_id
    spec, shape = begin.model, trunk_of(begin.config)
    if len(tokenizer) > shape.vocab_size:
        if begin.source:
            more = len(tokenizer) - shape.vocab_size
            changes.append(f"embeddings: {more} more, the mean of the {shape.vocab_size:,} that were there")
        spec, shape = grown(spec, shape, len(tokenizer), kind.of_decoder)
    return dataclasses.replace(
        begin, model=spec, config=kind.config(shape), tokenizer=tokenizer, notes=(*notes, *changes), tokens=tokens
    )
