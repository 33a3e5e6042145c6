"""`python -m jaxllm generate`: what a run or a Hugging Face folder makes of prompts, shown as it comes."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxllm.data.text.token_cache import Marks
from jaxllm.evals.generate import Sampling, generate
from jaxllm.params import GraphDef
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """Continues prompts with a causal language model, all of them as one batch, printing the text as it comes."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, or Hugging Face folder or id, of a decoder."""
    prompts: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Texts to continue; "" begins a new document."""
    max_tokens: int = 128
    """Length of a continuation in tokens, at most."""
    temperature: float = 0.8
    """Temperature that the logits are divided by; 0 always takes the most likely token."""
    top_k: int = 0
    """Number of most likely tokens to sample from; 0 for all."""
    top_p: float = 1.0
    """Sample from the most likely tokens whose probabilities first sum to this."""
    seed: int = 0
    """Seed of the samples."""
    stop: tuple[str, ...] = ()
    """Texts at which a continuation ends, besides the model's own end tokens; they are not printed. By default none."""
    chat: bool = False
    """Treat each prompt as a user's message and put it into the tokenizer's chat template."""
    dtype: str = "float32"
    """Type that the model computes in: float32 or bfloat16."""
    mesh: str = ""
    """Devices per mesh axis, as in fsdp=8 or tensor=4; by default each device holds the whole model."""


class _Text:
    """The text of a row, decoded as tokens come: only the last few again, for a character may take several."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str]):
        self._tokenizer, self._stop = tokenizer, [text for text in stop if text]
        self._held = max(map(len, self._stop), default=1) - 1  # of what may be the beginning of a stop text
        self._ids, self._from, self._read = list(prompt[-8:]), 0, len(prompt[-8:])
        self._shown = 0
        self.text = ""

    def add(self, token: int, last: bool) -> tuple[str, bool]:
        """(what no further token can change and was not told before, whether the row ends)."""
        self._ids.append(token)
        known, now = (self._decode(self._ids[self._from : stop]) for stop in (self._read, None))
        if last or not now.endswith("\ufffd"):
            self.text += now[len(known) :]
            self._from, self._read = self._read, len(self._ids)
        if found := [at for at in map(self.text.find, self._stop) if at >= 0]:
            self.text, last = self.text[: min(found)], True
        until = max(self._shown, len(self.text) if last else len(self.text) - self._held)
        piece, self._shown = self.text[self._shown : until], until
        return piece, last

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def continue_texts(
    graphdef: GraphDef,
    params: Mapping[str, Any],
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    max_tokens: int = 128,
    ends: Sequence[int] = (),
    stop: Sequence[str] = (),
    seed: int = 0,
    write: Callable[[int, str, bool], None] = lambda row, text, last: None,
) -> list[str]:
    """The text that follows each prompt of token ids: up to an end token or a stop text, which are not part of it.

    The prompts are one batch. write(row, text, last) is given the text in pieces as it comes, as far as no further
    token can change it. Raises InputError for a prompt that leaves no room in the context.
    """
    rows = [_Text(tokenizer, prompt, stop) for prompt in prompts]

    def on_token(row: int, token: int, last: bool) -> bool:
        piece, last = rows[row].add(token, last)
        if piece or last:
            write(row, piece, last)
        return last

    generate(graphdef, params, prompts, sampling, max_tokens=max_tokens, stop=ends, seed=seed, on_token=on_token)
    return [row.text for row in rows]


def continue_text(
    graphdef: GraphDef, params: Mapping[str, Any], tokenizer: Any, prompt: Sequence[int], sampling: Sampling, **how: Any
) -> str:
    """`continue_texts` of one prompt."""
    return continue_texts(graphdef, params, tokenizer, [prompt], sampling, **how)[0]


def encode(prompt: str, tokenizer: Any, *, chat: bool = False) -> list[int]:
    """The tokens of a prompt, begun as the tokenizer begins texts; of an empty one the begin token alone.

    Raises InputError for a chat with a tokenizer that has no chat template.
    """
    if chat:
        if not tokenizer.chat_template:
            raise InputError("--chat: the tokenizer has no chat template; leave --chat out, or use a chat model")
        messages = [{"role": "user", "content": prompt}]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    return tokenizer(prompt)["input_ids"] or [Marks.of(tokenizer).begin]


def end_tokens(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's, and those of generation_config.json."""
    found = [tokenizer.eos_token_id]
    path = folder / "generation_config.json"
    if path.is_file():
        more = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        found += more if isinstance(more, list) else [more]
    return tuple(dict.fromkeys(token for token in found if token is not None))


def in_turn(begins: Sequence[str], show: Callable[[str], None]) -> Callable[[int, str, bool], None]:
    """A `write` for a terminal: rows one below the other, each after its beginning, the first unfinished one live."""
    waiting, ended, now = [[begin] for begin in begins], [False] * len(begins), 0

    def write(row: int, text: str, last: bool) -> None:
        nonlocal now
        waiting[row].append(text)
        ended[row] = last
        while now < len(begins):
            show("".join(waiting[now]) + "\n" * ended[now])
            waiting[now].clear()
            if not ended[now]:
                break
            now += 1

    return write


def main(config: Config) -> None:
    """Loads the model, continues the prompts, prints."""
    from jaxllm import hf
    from jaxllm.distributed import mesh as meshes
    from jaxllm.models.decoder import PRESETS
    from jaxllm.params import materialize
    from jaxllm.recipes.weights import open_language_model

    if not config.prompts:
        raise InputError("no prompt: give one or more after the model")
    if config.max_tokens < 1:
        raise InputError(f"--max-tokens {config.max_tokens}: at least 1 is needed")
    if config.dtype not in ("float32", "bfloat16"):
        raise InputError(f"--dtype {config.dtype}: give one of float32, bfloat16")
    if config.model in PRESETS and not Path(config.model).exists():
        raise InputError(f"{config.model} is a preset, which has no weights: train it, and name the run's folder")
    sampling = Sampling(config.temperature, config.top_k, config.top_p)
    mesh = meshes.make_mesh(config.mesh)
    opened = open_language_model(config.model, dtype=config.dtype)
    tokenizer = hf.load_tokenizer(str(opened.folder))
    prompts = [encode(prompt, tokenizer, chat=config.chat) for prompt in config.prompts]
    graphdef = opened.spec.graphdef
    shardings = meshes.shardings(graphdef.abstract, mesh, opened.spec.rules, limits=graphdef.limits)
    params = materialize(opened.spec, shardings, 0)

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    several = len(prompts) > 1
    begins = [("> " + prompt + "\n") * several if config.chat else prompt for prompt in config.prompts]
    continue_texts(
        opened.spec.graphdef, params, tokenizer, prompts, sampling, max_tokens=config.max_tokens,
        ends=end_tokens(opened.folder, tokenizer), stop=config.stop, seed=config.seed, write=in_turn(begins, show),
    )  # fmt: skip
