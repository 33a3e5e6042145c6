"""`python -m jaxllm generate`: what a run or a Hugging Face folder makes of a prompt, shown as it comes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxllm.data.corpus import Marks
from jaxllm.evals.generate import Sampling, generate
from jaxllm.params import GraphDef
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """Continues each prompt with a causal language model, printing the text as it comes."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, Hugging Face folder or id of a decoder."""
    prompts: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Texts to continue; "" begins a new document."""
    max_tokens: int = 128
    """New tokens at most."""
    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int = 0
    """Only the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Only the likeliest tokens whose probabilities first sum to this."""
    seed: int = 0
    """Of what is drawn."""
    stop: tuple[str, ...] = ()
    """Texts to end at, beside the model's own end token; they are not shown."""
    chat: bool = False
    """Each prompt is what a user says, put into the tokenizer's chat template."""
    dtype: str = "float32"
    """Of the computation: float32 or bfloat16."""


class _Stopped(Exception):
    """A stop text came."""


def continue_text(
    graphdef: GraphDef,
    params: Mapping[str, Any],
    tokenizer: Any,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    max_tokens: int = 128,
    ends: Sequence[int] = (),
    stop: Sequence[str] = (),
    seed: int = 0,
    write: Callable[[str], None] = lambda text: None,
) -> str:
    """The text that follows a prompt of token ids: up to an end token or a stop text, neither of which is part of it.

    write: is given the text in pieces as it comes, as far as no further token can change it. Raises InputError for a
    prompt that leaves no room in the context.
    """
    before = len(tokenizer.decode(prompt, skip_special_tokens=True))
    held = max(map(len, stop), default=1) - 1  # of what may be the beginning of a stop text
    ids, text, shown = list(prompt), "", 0

    def on_token(_: int, token: int) -> None:
        nonlocal text, shown
        ids.append(token)
        text = tokenizer.decode(ids, skip_special_tokens=True)[before:]
        if found := [at for at in map(text.find, stop) if at >= 0]:
            text = text[: min(found)]
            raise _Stopped
        safe = len(text) - held
        if safe > shown and not text.endswith("\ufffd"):  # a character may take several tokens
            write(text[shown:safe])
            shown = safe

    with contextlib.suppress(_Stopped):
        generate(graphdef, params, [prompt], sampling, max_tokens=max_tokens, stop=ends, seed=seed, on_token=on_token)
    write(text[shown:])
    return text


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


def main(config: Config) -> None:
    """Loads the model, continues each prompt, prints."""
    from jaxllm import hf
    from jaxllm.cli.convert import open_any
    from jaxllm.models import decoder
    from jaxllm.params import materialize
    from jaxllm.train import mesh as meshes

    if not config.prompts:
        raise InputError("no prompt: give one or more after the model")
    sampling = Sampling(config.temperature, config.top_k, config.top_p)
    opened, beside = open_any(config.model, dtype=config.dtype)
    if not isinstance(opened.config, decoder.Config):
        raise InputError(f"{config.model} is no causal language model ({opened.family}); try python -m jaxllm tag")
    tokenizer = hf.load_tokenizer(str(beside))
    prompts = [encode(prompt, tokenizer, chat=config.chat) for prompt in config.prompts]
    mesh = meshes.make_mesh()
    shardings = meshes.shardings(opened.spec.graphdef.abstract, mesh, opened.spec.rules)
    params = materialize(opened.spec, shardings, 0)
    ends = end_tokens(beside, tokenizer)

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    for text, prompt in zip(config.prompts, prompts, strict=True):
        write("" if config.chat else text)
        continue_text(
            opened.spec.graphdef, params, tokenizer, prompt, sampling, max_tokens=config.max_tokens, ends=ends,
            stop=config.stop, seed=config.seed, write=write,
        )  # fmt: skip
        write("\n")
