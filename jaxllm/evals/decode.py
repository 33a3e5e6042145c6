"""What `generate` compiles: one pass over packed prompts, and a loop that reads the last token and chooses the next."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxllm.axes import ROWS
from jaxllm.data.packing import Example, collate, locate, make_plan
from jaxllm.evals.sampling import Sampling, choose
from jaxllm.models.attention import Tokens
from jaxllm.models.cache import Cache
from jaxllm.params import GraphDef, bind


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Rows that are being continued, up to N tokens each. Rows that are done stay as they are."""

    cache: Cache
    uniform_BN2: jax.Array
    """float32. The random numbers that a row's tokens are drawn with."""
    ends_E: jax.Array
    """int32. Tokens that end a row."""
    limit_B: jax.Array
    """int32. The most new tokens of a row."""
    done_B: jax.Array
    """bool."""
    length_B: jax.Array
    """int32. The new tokens of a row."""
    tokens_BN: jax.Array
    """int32. The new tokens."""
    logps_BN: jax.Array
    """float32. Their log-probabilities in nats (`choose`)."""
    count: jax.Array
    """int32 scalar. How many tokens a row that is not done has."""

    def add(self, logits_BV: jax.Array, sampling: Sampling) -> State:
        """With the next token of each row."""
        uniform_B2 = jax.lax.dynamic_index_in_dim(self.uniform_BN2, self.count, axis=1, keepdims=False)
        token_B, logp_B = choose(logits_BV, sampling, uniform_B2)
        put = lambda x_BN, x_B: jax.lax.dynamic_update_slice(  # noqa: E731
            x_BN, jnp.where(self.done_B, 0, x_B)[:, None], (0, self.count)
        )
        length_B = self.length_B + ~self.done_B
        ended_B = jnp.any(token_B[:, None] == self.ends_E[None], axis=1)
        return dataclasses.replace(
            self, done_B=self.done_B | ended_B | (length_B >= self.limit_B), length_B=length_B,
            tokens_BN=put(self.tokens_BN, token_B), logps_BN=put(self.logps_BN, logp_B), count=self.count + 1,
        )  # fmt: skip


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Latest:
    """What the host looks at between calls, whole on every device."""

    token_B: jax.Array
    """int32. The newest token of each row."""
    done_B: jax.Array
    count: jax.Array


class Prompts(NamedTuple):
    """Prompts packed into R rows of T tokens, and where B rows of a cache with S slots find theirs (numpy, int32)."""

    tokens_RT: np.ndarray
    read: Tokens
    place_BS: np.ndarray
    """The place in the flattened rows of what belongs into a slot, -1 for none. Prompts end at the last slot."""
    keys: np.ndarray
    """The data of the key of all."""
    index_B: np.ndarray
    """A row's own number, that its key is folded from."""
    limit_B: np.ndarray
    """The most new tokens of a row, 0 in a row without a prompt."""

    @property
    def fill(self) -> float:
        """The share of the positions read that hold tokens."""
        return float(np.mean(np.asarray(self.read.segments_BT) > 0))


def pack_prompts(
    prompts: Sequence[Sequence[int]], index: Sequence[int], limits: Sequence[int], key: jax.Array, *, slots: int,
    multiple: int,
) -> Prompts:  # fmt: skip
    """Packs prompts for one pass. Equal prompts are read once. multiple: numbers of rows are multiples of this."""
    unique = {prompt: number for number, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    plan = make_plan([len(prompt) for prompt in unique], batch_size=len(unique), multiple=multiple)
    texts = [np.array(prompt, np.int32) for prompt in unique]
    examples = [Example(text, text, np.ones(len(text), np.float32)) for text in texts]
    rows = plan.step(0)
    batch = collate([[examples[i] for i in row] for row in rows], plan.row_length, plan.rows)
    start = {where.example: where.row * plan.row_length + where.start for where in locate(rows, plan.lengths)}
    count = -(-len(prompts) // multiple) * multiple
    place_BS = np.full((count, slots), -1, np.int32)
    index_B, limit_B = np.zeros(count, np.int32), np.zeros(count, np.int32)
    index_B[: len(prompts)], limit_B[: len(prompts)] = index, limits
    for row, prompt in enumerate(prompts):
        begin = start[unique[tuple(prompt)]]
        place_BS[row, slots - len(prompt) :] = np.arange(begin, begin + len(prompt))
    data = np.asarray(jax.random.key_data(key))
    return Prompts(
        batch.tokens_BT, Tokens(batch.segments_BT, batch.positions_BT), place_BS, data, index_B, limit_B  # type: ignore[arg-type]
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def start(
    graphdef: GraphDef, sampling: Sampling, slots: int, most: int, params: Any, prompts: Prompts, ends_E: jax.Array
) -> tuple[State, Latest]:
    """Reads the prompts and chooses the first new token. slots: of the cache, most: N."""
    model = bind(graphdef, params)
    R, T = prompts.tokens_RT.shape
    B = prompts.place_BS.shape[0]
    hidden_RTD, cache = model.extend(Cache.empty(model.config, R, T), prompts.tokens_RT, prompts.read)
    hidden_BD = hidden_RTD.reshape(R * T, -1)[prompts.place_BS[:, -1]]
    done_B = prompts.limit_B == 0
    state = State(
        cache.place(prompts.place_BS).grow(slots), _random(prompts.keys, prompts.index_B, most),
        ends_E, jnp.asarray(prompts.limit_B), jnp.asarray(done_B), jnp.zeros(B, jnp.int32),
        jnp.zeros((B, most), jnp.int32), jnp.zeros((B, most), jnp.float32), jnp.int32(0),
    )  # fmt: skip
    return _shown(state.add(model.head(_rows(hidden_BD)), sampling))


def _random(keys: np.ndarray, index_B: np.ndarray, most: int) -> jax.Array:
    """Uniform random numbers [B, most, 2] of rows with these indices. Before the loop: hashing a few costs as much."""
    key = jax.random.wrap_key_data(jnp.asarray(keys))

    def of_token(index: jax.Array, number: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, index), number), (2,))

    of_row = jax.vmap(of_token, (None, 0))
    return jax.vmap(of_row, (0, None))(jnp.asarray(index_B), jnp.arange(most))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def decode(
    graphdef: GraphDef, sampling: Sampling, params: Any, state: State, until: int, fewest: int
) -> tuple[State, Latest]:
    """Continues until rows have so many tokens, or at most `fewest` are not done. There must be slots for them."""
    model = bind(graphdef, params)
    blocks = model.unstack(state.done_B.shape[0]) if state.cache.unstacked else ()

    def step(state: State) -> State:
        last = jax.lax.dynamic_index_in_dim(state.cache.tokens.positions_BT, state.cache.length - 1, axis=1)
        token_B1 = jax.lax.dynamic_index_in_dim(state.tokens_BN, state.count - 1, axis=1)
        hidden_BTD, cache = model.extend(state.cache, token_B1, Tokens(jnp.ones_like(last), last + 1), blocks)
        return dataclasses.replace(state, cache=cache).add(model.head(hidden_BTD[:, -1]), sampling)

    more = lambda state: (state.count < until) & (jnp.sum(~state.done_B) > fewest)  # noqa: E731
    return _shown(jax.lax.while_loop(more, step, state))


@functools.partial(jax.jit, static_argnums=1)
def grow(state: State, slots: int) -> State:
    """With a cache of so many slots."""
    return dataclasses.replace(state, cache=state.cache.grow(slots))


@jax.jit
def take(state: State, rows_B: jax.Array) -> State:
    """Of these rows alone."""
    rows = {f.name: getattr(state, f.name)[rows_B] for f in dataclasses.fields(State) if "_B" in f.name}
    return dataclasses.replace(state, cache=state.cache.take(rows_B), **rows)


@jax.jit
def results(state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
    """tokens_BN, logps_BN and length_B, whole on every device."""
    return _whole((state.tokens_BN, state.logps_BN, state.length_B))


def _shown(state: State) -> tuple[State, Latest]:
    token_B1 = jax.lax.dynamic_index_in_dim(state.tokens_BN, state.count - 1, axis=1)
    return state, _whole(Latest(token_B1[:, 0], state.done_B, state.count))


def _rows(x: jax.Array) -> jax.Array:
    """x with its rows sharded as those of a batch."""
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, ROWS)


def _whole(tree: Any) -> Any:
    return tree if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(tree, P())
