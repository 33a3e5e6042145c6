"""Generation: prompts continued as one batch, here by `decode.py`, there by `generate` of transformers.

That is what the trainers of TRL 1.16 sample by, unless they are given vLLM.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from jaxllm import hf
from jaxllm.data import tokenizers
from jaxllm.data.builtin import questions
from jaxllm.data.builtin.sorting import sorting
from jaxllm.data.chat.templates import give_pad
from jaxllm.models.decoder import PRESETS, SHARDING, Decoder
from jaxllm.models.decoder import Config as Shape
from jaxllm.params import describe
from workloads.work import HERE, OUT, Asked, Peer, Work, of_size, words


@dataclasses.dataclass(frozen=True)
class Size:
    """A random Llama, and what it continues."""

    shape: Shape
    rows: int = 8
    """Prompts of a batch."""
    tokens: int = 64
    """New ones of each prompt."""
    rounds: int = 3
    group: int = 1
    """How often a prompt is in the batch."""
    words: bool = False
    """Prompts are words to sort, by characters, in place of questions."""


SIZES = {
    "tiny": Size(PRESETS["tiny"], rows=256, tokens=12, rounds=50, group=8, words=True),
    "small": Size(Shape(vocab_size=4096, width=256, depth=4, heads=4, mlp_width=688, max_positions=1024)),
    "large": Size(Shape(
        vocab_size=49152, width=576, depth=30, heads=9, kv_heads=3, mlp_width=1536, max_positions=1024, tied=True
    )),
}  # fmt: skip
"""The tiny one samples as `online.py` does by default. The large one is SmolLM-135M's."""


def prepare(asked: Asked, folder: Path) -> Work:
    """A random Llama, or the one that `--model` names, continues prompts; `--max-length` is the number of new tokens,
    `--steps` of rounds."""
    size = of_size(asked, SIZES)
    rows, tokens, rounds = asked.batch_size or size.rows, asked.max_length or size.tokens, asked.steps or size.rounds
    texts = [row["prompt"] for row in sorting()["train"]] if size.words else [
        row["question"] for row in questions.sft()["train"]
    ]  # fmt: skip
    model = Path(asked.model).absolute() if asked.model else folder / "model"
    if asked.model:
        tokenizer = hf.load_tokenizer(str(model))
    else:
        tokenizer = tokenizers.characters(texts) if size.words else tokenizers.bpe(iter(texts), 4095)
        give_pad(tokenizer)
        shape = dataclasses.replace(size.shape, vocab_size=len(tokenizer)) if size.words else size.shape
        params = jax.jit(describe(lambda rngs: Decoder(shape, rngs), SHARDING).init)(jax.random.key(0))
        hf.export(model, params, shape, tokenizer)
    prompts = [tokenizer(texts[row // size.group])["input_ids"] for row in range(rows)]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    same = ("--model", model, "--prompts", folder / "prompts.json", "--tokens", tokens, "--rounds", rounds)
    ours = words(HERE / "decode.py", *same, "--dtype", asked.dtype, "--out", OUT)
    theirs = words(HERE / "peers" / "hf_generate.py", *same, "--dtype", asked.dtype, "--json", OUT)
    length = float(np.mean(list(map(len, prompts))))
    described = f"{asked.model or 'a random Llama'}, {rows} prompts of {length:.0f} tokens and {tokens} new ones"
    return Work(described, ours, {"transformers": Peer("hf", ("torch", "transformers"), theirs)})
