"""Using a model on texts: generating, tagging, and scoring."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxllm.api.batches import layout_for
from jaxllm.api.model import Model
from jaxllm.data.loader import EvalBatches, lengths
from jaxllm.data.packing import Example, make_plan
from jaxllm.data.preference.answers import AnswerBatches, AnswerRows, Group
from jaxllm.data.preference.pairs import Comparison, encode
from jaxllm.data.report import Report
from jaxllm.data.tagging.chains import scheme_of
from jaxllm.data.text.token_cache import Marks, plain_encoder
from jaxllm.distributed.mesh import row_multiple
from jaxllm.evals import tag as tagging
from jaxllm.evals.decoding import find_chain
from jaxllm.evals.generate import Sampling
from jaxllm.evals.logps import answer_logps
from jaxllm.evals.rewards import answer_rewards
from jaxllm.evals.text import continue_texts
from jaxllm.evals.text import encode as encode_prompt
from jaxllm.hf.families import task_of
from jaxllm.losses.tokens import over_tokens, token_logprobs
from jaxllm.types import Batch, InputError


def generate(
    model: Model,
    prompts: Sequence[str],
    *,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    chat: bool = False,
    seed: int = 0,
) -> list[str]:
    """The text that follows each prompt, up to an end token or a text in `stop`, which are not part of it.

    temperature: 0 takes the likeliest token. chat: each prompt is a user's message, put into the chat template.
    Raises InputError for a prompt that leaves no room in the context, or a model that is no language model.
    """
    _check_task(model, "lm")
    ids = [encode_prompt(prompt, model.tokenizer, chat=chat) for prompt in prompts]
    sampling = Sampling(temperature, top_k, top_p)
    with jax.set_mesh(model.mesh):
        return continue_texts(
            model.graphdef, model.params, model.tokenizer, ids, sampling, max_tokens=max_tokens,
            ends=model.start.special_tokens.ends, stop=stop, seed=seed,
        )  # fmt: skip


def tag(model: Model, texts: Sequence[str], *, max_length: int = 512) -> list[list[dict[str, Any]]]:
    """The entities of each text, by words: entity_group, score, word, start and end (offsets in characters).

    Labels are chosen as the model was trained to: by its CRF's likeliest path, or by what `--decode` named.
    """
    _check_task(model, "tagger")
    labels, limit = model.config.labels, min(max_length, model.config.encoder.max_positions)
    chain = find_chain(model.params, labels, scheme_of(labels), model.config.decode)
    return tagging.tag_words(model.runner, model.tokenizer, labels, texts, limit, chain)


def logprobs(model: Model, texts: Sequence[str]) -> list[np.ndarray]:
    """log p of each token of each text, given the begin token and those before it, in nats, float32 [tokens].

    Where a text spells a special token, it is text.
    """
    _check_task(model, "lm")
    if not texts:
        return []
    begin, found = Marks.of(model.tokenizer).begin, []
    for encoding in plain_encoder(model.tokenizer).encode_batch_fast(list(texts), add_special_tokens=False):
        ids = np.array([begin, *encoding.ids], np.int32)
        if not 1 < len(ids) <= model.config.max_positions + 1:
            raise InputError(f"a text of {len(ids) - 1} tokens: give 1 to {model.config.max_positions}")
        found.append(Example(ids[:-1], ids[1:], np.ones(len(ids) - 1, np.float32)))
    plan = make_plan(lengths(found), batch_size=min(64, len(found)), multiple=row_multiple(model.mesh))
    batches = EvalBatches(found, plan)
    placed = [places for _, places in batches]
    out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(found)
    for places, values_BT in zip(placed, model.runner.map(_token_logps, (batch for batch, _ in batches)), strict=True):
        for place in places:
            out[place.example] = values_BT[place.row, place.start : place.start + len(found[place.example].tokens)]
    return out


def score(model: Model, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """One number per (prompt, answer), float32 [n]: a reward model's reward, or a language model's log p(answer).

    Where the tokenizer has a chat template, a prompt is a user's message and the answer the assistant's. The
    log-probability is in nats, over the answer's tokens and the token that ends it. Raises InputError for a reward
    model whose head is untrained, and for an answer that with its prompt is longer than the model's positions.
    """
    _check_task(model, "scorer", "lm")
    if len(prompts) != len(answers):
        raise InputError(f"{len(prompts)} prompts and {len(answers)} answers: give an answer for each prompt")
    if not prompts:
        return np.zeros(0, np.float32)
    groups = _groups(model, prompts, answers)
    answer_rows = AnswerRows(groups, layout_for(model))
    plan = make_plan(answer_rows.lengths, batch_size=min(64, len(groups)), multiple=row_multiple(model.mesh))
    batches = AnswerBatches(answer_rows, plan)
    if not answer_rows.layout.closed:
        return np.array([logps[0].sum() for logps in answer_logps(model.runner, batches)], np.float32)
    return answer_rewards(model.runner, batches)


def _groups(model: Model, prompts: Sequence[str], answers: Sequence[str]) -> list[Group]:
    """Each prompt and its answer as tokens. Raises InputError for one that does not fit the model."""
    groups = []
    for i, (p, a) in enumerate(zip(prompts, answers, strict=True)):
        row = Comparison(p, (a,), (1,), 1.0, 0.0)
        if model.tokenizer.chat_template:
            asked, answered = [{"role": "user", "content": p}], [{"role": "assistant", "content": a}]
            row = Comparison(asked, (answered,), (1,), 1.0, 0.0)
        one = encode([row], model.tokenizer, sys.maxsize, where=[f"answer {i}"].__getitem__, report=Report())
        length, limit = len(one[0].prompt) + len(one[0].answers[0].tokens), model.config.max_positions
        if length > limit:
            raise InputError(
                f"answer {i}: with its prompt {length} tokens, the model has {limit} positions; shorten it"
            )
        groups += one
    return groups


def _check_task(model: Model, *tasks: str) -> None:
    """Raises InputError for a model of another task than these, and for a head that has not been trained."""
    names = {
        "lm": "a language model", "tagger": "a token classifier", "scorer": "a reward model",
        "classifier": "a classifier of texts", "masked": "a masked language model",
    }  # fmt: skip
    task = task_of(model.config)
    if task not in tasks:
        wanted = " or ".join(names[one] for one in tasks)
        raise InputError(f"this is {names[task]}: give {wanted}")
    if model.untrained:
        head = ", ".join(sorted(model.untrained))
        raise InputError(f"the head of this model is untrained ({head} initialised); train it, or load a trained one")


def _token_logps(model: Any, batch: Batch) -> jax.Array:
    return over_tokens(model, batch, token_logprobs)[0]
