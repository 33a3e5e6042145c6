"""Keys and values of the tokens that a decoder has read, for generation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxllm.axes import cut_as_cache
from jaxllm.models.attention import Tokens
from jaxllm.models.decoder_config import Config
from jaxllm.models.layers import unrolled


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of the tokens read so far, in the first `length` (int32 scalar) of S slots, and those tokens.

    stacks: keys and values, of all layers [L, B, K, H, S] and [L, B, K, S, H] where layers are scanned, of each without
    L where they are not: as the products of attention with one query want them, so that no step copies what it reads.
    Rows and heads are sharded as those of the layers that made them.
    """

    stacks: tuple[tuple[jax.Array, jax.Array], ...]
    tokens: Tokens
    length: jax.Array

    @classmethod
    def empty(cls, c: Config, rows: int, slots: int) -> Cache:
        """A cache of no tokens, for so many rows and at most `slots` tokens in each."""
        alone = unrolled(c.depth, c.remat, c.unroll) >= c.depth
        lead = (*(c.depth,) * (not alone), rows, c.K)
        keys, values = (cut_as_cache(jnp.zeros((*lead, *last), c.dtype)) for last in ((c.H, slots), (slots, c.H)))
        nothing = jnp.zeros((rows, slots), jnp.int32)
        return cls(((keys, values),) * (c.depth if alone else 1), Tokens(nothing, nothing), jnp.int32(0))

    @property
    def slots(self) -> int:
        """S."""
        return self.tokens.segments_BT.shape[1]

    @property
    def unstacked(self) -> bool:
        """Each layer has a stack."""
        return self.stacks[0][0].ndim == 4

    def advance(self, tokens: Tokens) -> Cache:
        """The cache with the segments and positions of tokens whose keys and values the layers will `put`."""
        put = lambda old, new: jax.lax.dynamic_update_slice(old, new, (0, self.length))  # noqa: E731
        segments_BS = put(self.tokens.segments_BT, tokens.segments_BT)
        return dataclasses.replace(self, tokens=Tokens(segments_BS, put(self.tokens.positions_BT, tokens.positions_BT)))

    def put(
        self, layer: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, tokens: Tokens
    ) -> tuple[Cache, jax.Array, jax.Array, Tokens]:
        """The cache, of one stack, with keys and values of a layer after the first `length`; and what queries may see.

        That is all keys and values of the layer, [B, S, K, H], and their tokens: where T is S, these alone.
        """
        old_k, old_v = self.stacks[0]
        lead = (layer,) * (old_k.ndim - 4)  # none where the stack is this layer

        def put(x: jax.Array, new: jax.Array, *at: jax.Array | int) -> jax.Array:
            return jax.lax.dynamic_update_slice(x, jnp.expand_dims(new, range(len(lead))), (*lead, 0, 0, *at))

        k = put(old_k, k_BTKH.transpose(0, 2, 3, 1), 0, self.length)
        v = put(old_v, v_BTKH.swapaxes(1, 2), self.length, 0)
        cache = dataclasses.replace(self, stacks=((k, v),))
        if k_BTKH.shape[1] == self.slots:
            return cache, k_BTKH, v_BTKH, tokens
        return cache, k[lead].transpose(0, 3, 1, 2), v[lead].swapaxes(1, 2), self.tokens

    def map(self, change: Callable[[jax.Array], jax.Array], tokens: Tokens, length: jax.Array) -> Cache:
        """With what `change` makes of the keys, and of the values, of each stack, both given as [..., B, K, S, H]."""
        of_keys = lambda x: change(x.swapaxes(-1, -2)).swapaxes(-1, -2)  # noqa: E731
        stacks = tuple((cut_as_cache(of_keys(k)), cut_as_cache(change(v))) for k, v in self.stacks)
        return Cache(stacks, tokens, length)

    def place(self, place_BS: jax.Array) -> Cache:
        """A full cache of other rows: in each slot what is at this place of the flattened rows, nothing where -1."""
        row_BKS, slot_BKS = (x[:, None] for x in jnp.divmod(place_BS, self.slots))
        head_K1 = jnp.arange(self.stacks[0][0].shape[-3])[:, None]
        segments_BS = (place_BS >= 0).astype(jnp.int32)
        tokens = Tokens(segments_BS, segments_BS * self.tokens.positions_BT.reshape(-1)[place_BS])
        return self.map(lambda x: x[..., row_BKS, head_K1, slot_BKS, :], tokens, jnp.int32(place_BS.shape[1]))

    def take(self, rows_B: jax.Array) -> Cache:
        """Of these rows alone."""
        tokens = jax.tree.map(lambda x_BS: x_BS[rows_B], self.tokens)
        return self.map(lambda x: jnp.take(x, rows_B, axis=-4), tokens, self.length)

    def grow(self, slots: int) -> Cache:
        """The same tokens in so many slots."""
        more = (0, slots - self.slots)
        tokens = jax.tree.map(lambda x_BS: jnp.pad(x_BS, [(0, 0), more]), self.tokens)
        return self.map(lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [more, (0, 0)]), tokens, self.length)
