"""Generates with a decoder: one pass over the prompts, then one compiled step per token with a cache that grows."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxllm.axes import AXES
from jaxllm.distributed.mesh import row_multiple
from jaxllm.evals import decode
from jaxllm.evals.sampling import BY_CHANCE, GREEDY, Sampling
from jaxllm.params import GraphDef, bind
from jaxllm.types import InputError

__all__ = ["Sample", "Sampling", "generate", "sample"]

_STEP = 64
"""Slots for new tokens that a cache begins with, where so many may come, and that it grows by multiples of."""
_FINE = 16
"""Slots that a cache of fewer new tokens has a multiple of."""
_LEAST = 8
"""Rows of a batch that others have left, at least."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A sampled completion."""

    tokens: np.ndarray
    """int32. At least one token, with the end token if it ended."""
    logps: np.ndarray
    """float32, nats. Of each token under softmax(logits / temperature), with temperature 1 where greedy."""
    ended: bool
    """Its last token is one of `ends`; otherwise it was cut off."""


def sample(
    graphdef: GraphDef,
    params: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling = BY_CHANCE,
    *,
    key: jax.Array,
    max_tokens: int,
    ends: Sequence[int] = (),
    index: Sequence[int] | None = None,
    at_once: int = 0,
) -> list[Sample]:
    """A completion of each prompt, and the log-probabilities of its tokens as the train step computes them.

    params: of a Decoder, on one device or sharded; they are used as they lie, and rows are sharded as in training. On
    several processes all call this with the same arguments, and get all completions. prompts: token ids of any lengths;
    they are one batch, and equal ones are read once. index: a number for each completion, by default its place. Its
    tokens depend on its prompt, `key` and this number, not on the others of the batch. max_tokens: the most of a
    completion; the end of the context ends it too. at_once: completions that are sampled together, 0 for all. The
    log-probabilities are those at sampling.temperature over the whole vocabulary, whatever top_k and top_p leave of it.
    Raises InputError for a prompt that is empty, leaves no room in the context, or has ids outside the vocabulary.
    """
    index = range(len(prompts)) if index is None else index
    if len(index) != len(prompts):
        raise InputError(f"{len(prompts)} prompts have {len(index)} numbers in `index`; give one each")
    size = at_once or max(len(prompts), 1)
    found: list[Sample] = []
    for part in (slice(i, i + size) for i in range(0, len(prompts), size)):
        found += _run(graphdef, params, prompts[part], sampling, key, max_tokens, ends, index[part], None)
    return found


def generate(
    graphdef: GraphDef,
    params: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling = GREEDY,
    *,
    max_tokens: int = 128,
    stop: Sequence[int] = (),
    seed: int = 0,
    on_token: Callable[[int, int, bool], bool | None] | None = None,
) -> list[list[int]]:
    """The new tokens of each prompt: up to and with a stop token, `max_tokens` of them, or to the end of the context.

    As `sample` with key(seed), with its errors. on_token(row, token, last) is called with each new token, and ends the
    row by returning True.
    """
    found = _run(
        graphdef, params, prompts, sampling, jax.random.key(seed), max_tokens, stop, range(len(prompts)), on_token
    )
    return [one.tokens.tolist() for one in found]


def _run(
    graphdef: GraphDef,
    params: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    key: jax.Array,
    max_tokens: int,
    ends: Sequence[int],
    index: Sequence[int],
    on_token: Callable[[int, int, bool], bool | None] | None,
) -> list[Sample]:
    config = bind(graphdef, graphdef.abstract).config
    _check(prompts, config)
    if not prompts or max_tokens < 1:
        return [Sample(np.zeros(0, np.int32), np.zeros(0, np.float32), False) for _ in prompts]
    limits = [min(max_tokens, config.max_positions - len(prompt)) for prompt in prompts]
    longest, width = max(limits), _width(max(map(len, prompts)))
    room = _round_up(longest, _STEP if longest > _STEP else _FINE)
    most = width + room
    slots = min(most, width + _STEP)
    found: list[Sample | None] = [None] * len(prompts)
    rows = np.arange(len(prompts))  # whose prompts those of the state are

    def keep(state: decode.State) -> None:
        tokens_BN, logps_BN, length_B = map(np.array, decode.results(state))
        ended_B = np.isin(tokens_BN[np.arange(len(length_B)), length_B - 1], [*ends]).tolist()
        for i, row in enumerate(rows):
            found[row] = Sample(tokens_BN[i, : length_B[i]], logps_BN[i, : length_B[i]], ended_B[i])

    with _mesh_of(params) as multiple:
        packed = decode.pack_prompts(prompts, index, limits, key, slots=width, multiple=multiple)
        ends_E = np.array([*ends] or [-1], np.int32)
        state, latest = decode.start(graphdef, sampling, slots, room, params, packed, ends_E)
        going = np.ones(len(prompts), bool)
        while True:
            done_B, count = np.asarray(latest.done_B), int(latest.count)
            if on_token is not None:
                told = np.array(done_B)
                for row in np.flatnonzero(going).tolist():
                    token, last = int(np.asarray(latest.token_B)[row]), bool(done_B[row])
                    told[row] = bool(on_token(row, token, last)) or last
                going = ~told[: len(prompts)]
                if (told != done_B).any():
                    state, done_B = dataclasses.replace(state, done_B=told), told
            if done_B.all():
                break
            fewest = _fewest(len(done_B), multiple) if on_token is None else 0
            left = np.flatnonzero(~done_B)
            if left.size <= fewest:  # go on with a batch of these, filled up with done ones
                keep(state)
                state = decode.take(state, np.append(left, np.flatnonzero(done_B))[:fewest])
                rows, latest = rows[left], dataclasses.replace(latest, done_B=np.arange(fewest) >= left.size)
                continue
            if count + width > slots:  # every slot is taken
                slots = min(most, width + _round_up((slots - width) * 3 // 2, _STEP))
                state = decode.grow(state, slots)
            until = min(slots - width + 1, longest) if on_token is None else count + 1
            state, latest = decode.decode(graphdef, sampling, params, state, until, fewest)
        keep(state)
    return [one for one in found if one is not None]


def _fewest(rows: int, multiple: int) -> int:
    """With how many rows left, of these, a smaller batch goes on; 0 for never. Each size is compiled."""
    fewer = rows // 4
    return fewer if fewer >= _LEAST and not fewer % multiple else 0


def _check(prompts: Sequence[Sequence[int]], config: Any) -> None:
    """Raises InputError."""
    for row, prompt in enumerate(prompts):
        if not 0 < len(prompt) < config.max_positions:
            raise InputError(
                f"prompt {row} has {len(prompt)} tokens; the context of {config.max_positions} takes 1 to "
                f"{config.max_positions - 1} and a new one: shorten it"
            )
        if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
            raise InputError(
                f"prompt {row} has ids outside the vocabulary of {config.vocab_size}: use its own tokenizer"
            )


@contextlib.contextmanager
def _mesh_of(params: Mapping[str, Any]) -> Iterator[int]:
    """Sets the mesh that the parameters lie on, if any, and yields what the number of rows must be a multiple of.

    After a step under pmap they lie whole on each device of a mesh of pmap's own, which has none of our axes.
    """
    mesh = getattr(getattr(next(iter(params.values())), "sharding", None), "mesh", None)
    if isinstance(mesh, jax.sharding.Mesh) and mesh.axis_names == AXES:
        with jax.set_mesh(mesh):
            yield row_multiple(mesh)
    else:
        yield 1


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def _width(longest: int) -> int:
    """Slots for prompts of at most so many tokens: one of four from one power of two to the next, _FINE at least."""
    return _round_up(longest, max(_FINE, 1 << longest.bit_length() >> 3))
