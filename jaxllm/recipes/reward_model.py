"""A reward model as a reward of online training: `--reward model --reward-args path=runs/reward-1a2b3c4d`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxllm import hf
from jaxllm.data.chat.encode import encode_completion, encode_messages
from jaxllm.data.chat.rows import options_of, prompt_of
from jaxllm.data.packing import bucket, fixed_plan
from jaxllm.data.preference.answers import Answer, AnswerBatches, AnswerRows, Group, Layout
from jaxllm.data.report import BadRow
from jaxllm.data.sources import Row
from jaxllm.distributed.mesh import row_multiple
from jaxllm.evals.rewards import answer_rewards
from jaxllm.models.heads import trunk_of
from jaxllm.recipes.weights import load_params, open_weights
from jaxllm.train.forward import Runner
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Opened:
    """A reward model on the mesh, with its own tokenizer."""

    runner: Runner
    tokenizer: Any
    longest: int
    layout: Layout


@dataclasses.dataclass(eq=False)
class RewardModel:
    """The reward of a conversation under a model that `reward.py` has trained, or another with one label.

    It is sharded over the mesh by the rules of its family, and reads the row's prompt with the completion, up to and
    with an end token, in its own tokens and chat template. A completion that does not fit it has no reward.
    """

    mesh: Mesh
    dtype: str = "float32"
    rows: int = 32
    """Of a batch, at least: completions are packed into them."""
    together = True
    """All processes call it with all completions, as the model is sharded over all devices."""
    _opened: dict[str, Opened] = dataclasses.field(default_factory=dict)

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], rows: Sequence[Row], *, path: str
    ) -> list[float | None]:
        """path: a run of reward.py, or a folder or hub id. Raises InputError for another model."""
        found = self._opened[path] = self._opened.get(path) or self._open(path)
        groups = [_group(found, row, said) for row, said in zip(rows, completions, strict=True)]
        fitting = [i for i, one in enumerate(groups) if one is not None]
        rewards: list[float | None] = [None] * len(groups)
        if not fitting:
            return rewards
        answers = AnswerRows([group for group in groups if group is not None], found.layout)
        multiple = row_multiple(self.mesh)
        length = min(bucket(int(answers.lengths.max())), found.longest)
        plan = fixed_plan(answers.lengths, row_length=length, rows=-(-self.rows // multiple) * multiple)
        for i, reward in zip(fitting, answer_rewards(found.runner, AnswerBatches(answers, plan)), strict=True):
            rewards[i] = float(reward)
        return rewards

    def _open(self, path: str) -> Opened:
        model = open_weights(path, dtype=self.dtype)
        if model.task != "scorer":
            raise InputError(f"path={path} is no reward model: give a run of reward.py, or a classifier with one label")
        runner = Runner(model.spec.graphdef, load_params(model.spec, self.mesh), self.mesh)
        layout = Layout(share=False, closed=True, pad=model.hf_config.get("pad_token_id"))
        return Opened(runner, hf.load_tokenizer(str(model.folder)), trunk_of(model.config).max_positions, layout)


def _group(model: Opened, row: Row, said: str) -> Group | None:
    """A row's prompt with a completion in tokens; None where it is too long, or the chat template refuses it."""
    where, prompt = "the prompt", prompt_of(row, "the prompt")
    try:
        if isinstance(prompt, list):
            messages: Any = [*prompt, {"role": "assistant", "content": said}]
            tokens, trained = encode_messages(
                messages, model.tokenizer, where=where, last_only=True, options=options_of(row, where)
            )
        else:
            said = said or model.tokenizer.eos_token
            tokens, trained = encode_completion(prompt, said, model.tokenizer, where=where)
    except BadRow:
        return None
    first = int(np.argmax(trained))
    if not first or len(tokens) > model.longest:
        return None
    return Group(tokens[:first], (Answer(tokens[first:], np.ones(len(tokens) - first, bool), 1),))
