"""The tokens that end, begin and pad texts: of a tokenizer, its chat template and the checkpoint's configuration."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from jaxllm.data.chat.render import turn_end
from jaxllm.hf.config import read_json
from jaxllm.hf.open import PretrainedModel
from jaxllm.types import InputError

GENERATION = "generation_config.json"
_NEUTRAL = {
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1, "min_length": 0, "min_new_tokens": 0,
    "penalty_alpha": 0.0, "encoder_repetition_penalty": 1.0, "guidance_scale": 1.0,
}  # fmt: skip
_PROCESSORS = (
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "forced_bos_token_id",
    "forced_eos_token_id", "exponential_decay_length_penalty",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids of tokens."""

    ends: tuple[int, ...]
    """At which generation stops: the end of an assistant's turn, EOS, and those that the checkpoint's files name."""
    pad: int | None
    begin: int | None

    def fields(self) -> dict[str, Any]:
        """The fields of config.json and generation_config.json that name them."""
        found = {"eos_token_id": self.ends[0] if len(self.ends) == 1 else [*self.ends], "pad_token_id": self.pad}
        return found if self.begin is None else {**found, "bos_token_id": self.begin}


def special_tokens(tokenizer: Any, source: PretrainedModel[Any] | None = None) -> SpecialTokens:
    """The special tokens of a tokenizer, and of the checkpoint that it belongs to, if there is one.

    End tokens are those of generation_config.json, or of config.json where there is none, as in `transformers`, and
    those of the tokenizer and its chat template.
    Raises InputError where a file cannot be read or its eos_token_id is no id.
    """
    found = []
    if tokenizer.chat_template:
        # Some templates end turns with no token, or refuse a plain conversation.
        with contextlib.suppress(InputError):
            found.append(turn_end(tokenizer))
    found += [tokenizer.eos_token_id, *(_listed(source) if source else ())]
    ends = dict.fromkeys(token for token in found if token is not None)
    return SpecialTokens(tuple(ends), tokenizer.pad_token_id, tokenizer.bos_token_id)


def unused_generation_fields(folder: Path) -> list[str]:
    """A note on the fields of generation_config.json that change what `transformers` generates and are not used here.

    Temperature, top_k and top_p are arguments here. Raises InputError where the file cannot be read.
    """
    if not (folder / GENERATION).is_file():
        return []
    fields = read_json(folder / GENERATION)
    neutral = {**_NEUTRAL, **dict.fromkeys(_PROCESSORS)}
    odd = [f"{name}={fields[name]}" for name, x in neutral.items() if fields.get(name) not in (None, x)]
    return [f"{GENERATION}: not used here, but by transformers: {', '.join(odd)}"] if odd else []


def _listed(source: PretrainedModel[Any]) -> list[int]:
    """The end tokens in generation_config.json, or in config.json where there is none."""
    path, fields = source.folder / GENERATION, source.hf_config
    if path.is_file():
        fields = read_json(path)
    else:
        path = source.folder / "config.json"
    ids = fields.get("eos_token_id")
    listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(isinstance(x, int) and not isinstance(x, bool) for x in listed):
        raise InputError(f"{path}: eos_token_id is {ids!r}, wanted an id or a list of ids; mend the field")
    return listed
