"""Opens the decoder that training on chats starts from, and gives its tokenizer a chat template and padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from jaxllm.data import tokenizers
from jaxllm.data.chat.templates import give_pad, give_template
from jaxllm.models.heads import trunk_of
from jaxllm.models.vocabulary import grow_vocabulary
from jaxllm.recipes.help import MODEL
from jaxllm.recipes.start import DecoderFlags, Start, start_decoder
from jaxllm.types import InputError

DEFAULT = "plain"
"""The chat template for a tokenizer that has none."""


@dataclasses.dataclass(frozen=True)
class ChatFlags(DecoderFlags):
    """Flags of the scripts that train decoders on prompts and answers."""

    TOPIC = MODEL

    chat_template: str = ""
    """Chat template: chatml, plain, or a .jinja file; by default the tokenizer's own, and plain where it has none."""


def start_chat(config: ChatFlags, texts: Iterable[str], key: str, task: str = "lm") -> Start:
    """`start_decoder`, with a chat template, an end of turns and padding; its notes say what was added.

    The embeddings grow by the tokens that were added (models/vocabulary.py). Raises InputError.
    """
    begin = start_decoder(config, texts, key, task)
    tokenizer, notes = begin.tokenizer, [*begin.notes]
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-text token (eos_token); name another by --tokenizer")
    end, changes = tokenizer.eos_token_id, []
    if config.chat_template:
        changes += give_template(tokenizer, config.chat_template)
    elif not tokenizer.chat_template:
        first, *rest = give_template(tokenizer, DEFAULT)
        changes += [f"{first}, for the tokenizer has none (--chat-template)", *rest]
    changes += give_pad(tokenizer)
    if changes:
        tokenizer = tokenizers.save_and_reload(tokenizer)
    spec, whole, size = begin.model, begin.config, trunk_of(begin.config).vocab_size
    if len(tokenizer) > size:
        if begin.source:
            changes.append(f"embeddings: {len(tokenizer) - size} more, the mean of the {size:,} that were there")
        spec, whole = grow_vocabulary(spec, whole, len(tokenizer))
    begin = dataclasses.replace(
        begin, model=spec, config=whole, tokenizer=tokenizer, notes=(*notes, *changes),
        own_tokenizer=begin.own_tokenizer and tokenizer.eos_token_id == end,
    )  # fmt: skip
    return dataclasses.replace(begin, tokens=begin.special_tokens.fields())
