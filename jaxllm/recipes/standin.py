"""What stands in for data, tokenizer and run folder while a script is planned (jaxllm/plan), which reads none.

Every example is as long as `--max-length` allows, and the prompt of a pair is half of that, or what the longest sampled
completion leaves of it, so that the script's own code makes the rows of a batch as it would from data of that kind.
"""

from __future__ import annotations

import dataclasses
import json
import string
from collections.abc import Iterator
from typing import Any, TypeVar

from jaxllm.data.chat.templates import BUILTIN
from jaxllm.models.decoder import PRESETS
from jaxllm.planning import Planning
from jaxllm.recipes.flags import Common
from jaxllm.recipes.labelled import LabelledFlags
from jaxllm.recipes.pairs import PairFlags
from jaxllm.recipes.start import DecoderFlags
from jaxllm.recipes.tagged import TaggedFlags

C = TypeVar("C")

LABELS = ("O", *(f"{place}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for place in "BI"))
"""Of planned taggers: CoNLL-2003's."""
ROWS = 20
"""Examples, of which the script may hold out some."""


def without_files(config: C, planning: Planning) -> C:
    """The flags of a script with stand-ins for all that they name in files; others are left as they are.

    Also sets the plan's flags and tokenizer.
    """
    planning.config = config
    if not isinstance(config, Common):
        return config
    planning.tokenizer = tokenizer(_vocabulary(config))
    path = planning.folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in _rows(config)), encoding="utf-8")
    changes: dict[str, Any] = {
        "dataset": (str(path),) if isinstance(config.dataset, tuple) else str(path),
        "eval_dataset": "", "tokenizer": "planned", "out": str(planning.folder / "run"), "checkpoints": "",
        "log_to": ("none",), "columns": "", "chat_template": "", "word_column": "", "tag_column": "", "scheme": "",
    }  # fmt: skip
    known = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{name: x for name, x in changes.items() if name in known})


def _vocabulary(config: Common) -> int:
    """The tokens of the stand-in: as many as a preset's vocabulary has, or as --vocab-size gives it."""
    default = {field.name: field.default for field in dataclasses.fields(config)}.get("vocab_size", 0)
    given = getattr(config, "vocab_size", 0)
    if isinstance(config, DecoderFlags) and config.model in PRESETS and given == default:
        return PRESETS[config.model].vocab_size
    return given if config.model in PRESETS or isinstance(config, TaggedFlags) else 0


def _rows(config: Common) -> Iterator[dict[str, Any]]:
    """Rows of the shape that a script of these flags reads."""
    length = config.max_length or 64  # where the recipe for the weights gives it
    room = getattr(config, "max_completion_length", 0) or length - length // 2
    for i in range(ROWS):
        name = string.ascii_lowercase[i % 26]
        prompt, answer = name * (length - room), "ab"[i % 2] * length
        if isinstance(config, TaggedFlags):
            yield {"tokens": [name] * length, "ner_tags": [LABELS[j % len(LABELS)] for j in range(length)]}
        elif isinstance(config, LabelledFlags):
            label = {"multi": ["ab"[i % 2]], "regression": float(i)}.get(config.problem, "ab"[i % 2])
            yield {"text": name * length, "label": label}
        elif isinstance(config, PairFlags):
            yield {"prompt": prompt, "chosen": answer, "rejected": name.upper() * length}
        elif isinstance(config.dataset, tuple):
            # A masked row has both ends of a text in it; another has what follows each of its tokens.
            yield {"text": name * (length - 2 if hasattr(config, "mask_rate") else length + 1)}
        else:
            yield {"prompt": prompt, "completion": answer}


def tokenizer(size: int) -> Any:
    """A tokenizer of printable characters, filled up to `size` tokens, with a chat template and special tokens."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    kinds = {"eos": "end", "pad": "pad", "unk": "unknown", "mask": "mask"}
    special = {f"{kind}_token": f"<|{word}|>" for kind, word in kinds.items()}
    tokens = [*special.values(), *string.printable]
    tokens += [f"<{i}>" for i in range(size - len(tokens))]
    pieces = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [], unk_token=special["unk_token"]))
    pieces.decoder = decoders.Fuse()
    pieces.add_special_tokens(list(special.values()))
    made = PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=int(1e9), **special)
    made.chat_template = BUILTIN["plain"]
    return made
