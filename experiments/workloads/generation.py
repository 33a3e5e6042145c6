"""Generation: prompts continued as one batch, here by `decode.py`, there by `generate` of transformers.

That is what the trainers of TRL 1.16 sample by, unless they are given vLLM.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np

from jaxllm import hf
from jaxllm.data import tokenizers
from jaxllm.data.builtin import questions
from jaxllm.data.chat.templates import give_pad
from jaxllm.models.decoder import SHARDING, Decoder
from jaxllm.models.decoder import Config as Shape
from jaxllm.params import describe
from workloads.work import HERE, OUT, Asked, Peer, Work, of_size, words

SIZES = {
    "small": Shape(vocab_size=4096, width=256, depth=4, heads=4, mlp_width=688, max_positions=1024),
    "large": Shape(
        vocab_size=49152, width=576, depth=30, heads=9, kv_heads=3, mlp_width=1536, max_positions=1024, tied=True
    ),
}
"""The large one is SmolLM-135M's."""
TOKENS = 64
"""New tokens of each prompt, where --max-length does not say."""
BATCH_SIZE = 8


def prepare(asked: Asked, folder: Path) -> Work:
    """A random Llama, or the one that `--model` names, continues questions; `--max-length` is the number of new tokens,
    `--steps` of rounds."""
    shape, batch_size = of_size(asked, SIZES), asked.batch_size or BATCH_SIZE
    tokens, rounds = asked.max_length or TOKENS, asked.steps or 3
    asked_rows = [row["question"] for row in questions.sft()["train"]]
    model = Path(asked.model).absolute() if asked.model else folder / "model"
    if asked.model:
        tokenizer = hf.load_tokenizer(str(model))
    else:
        tokenizer = tokenizers.bpe(iter(asked_rows), 4095)
        give_pad(tokenizer)
        params = jax.jit(describe(lambda rngs: Decoder(shape, rngs), SHARDING).init)(jax.random.key(0))
        hf.export(model, params, shape, tokenizer)
    prompts = [tokenizer(text)["input_ids"] for text in asked_rows[:batch_size]]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    same = ("--model", model, "--prompts", folder / "prompts.json", "--tokens", tokens, "--rounds", rounds)
    ours = words(HERE / "decode.py", *same, "--dtype", asked.dtype, "--out", OUT)
    theirs = words(HERE / "peers" / "hf_generate.py", *same, "--dtype", asked.dtype, "--json", OUT)
    length = float(np.mean(list(map(len, prompts))))
    described = f"{asked.model or 'a random Llama'}, {batch_size} prompts of {length:.0f} tokens and {tokens} new ones"
    return Work(described, ours, {"transformers": Peer("hf", ("torch", "transformers"), theirs)})
