"""Products with the matrix of each row's group, and the kernel for their gradient, interpreted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import ragged


@pytest.fixture
def small_tiles(monkeypatch):
    for name, size in (("ROWS", 8), ("LEFT", 16), ("RIGHT", 128)):
        monkeypatch.setattr(ragged, name, size)


def test_the_kernel_sums_each_groups_rows(small_tiles):
    """Groups that begin within tiles, have no rows, or are smaller than a tile; rows of no group; ends cut off."""
    M, D, F = 44, 24, 130
    rng = np.random.default_rng(0)
    x_MD, dy_MF = (rng.normal(size=(M, n)).astype(np.float32) for n in (D, F))
    x_MD[40:] = np.nan  # of no group
    gradient = jax.jit(lambda *given: ragged.gradient(*given, jnp.float32, interpret=True))
    for sizes in ([0, 13, 3, 0, 24], [40, 0, 0, 0, 0], [0, 0, 0, 0, 1], [8, 8, 8, 8, 8], [0, 0, 0, 0, 0]):
        ends = np.cumsum(sizes)
        wanted = [x_MD[a:b].T @ dy_MF[a:b] for a, b in zip(ends - sizes, ends, strict=True)]
        found = gradient(x_MD, dy_MF, np.array(sizes, np.int32))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_ragged_dot(monkeypatch):
    """On a mesh that cuts rows over devices that have the same matrices. Interpreted, no kernel runs on one."""

    def gradient(x_MD, dy_MF, sizes_E, dtype):
        group_M = jnp.sum(jnp.arange(len(x_MD))[:, None] >= jnp.cumsum(sizes_E)[None], axis=1)
        own_ME = jax.nn.one_hot(group_M, len(sizes_E))
        return jnp.einsum("md,mf,me->edf", x_MD, dy_MF, own_ME).astype(dtype)

    monkeypatch.setattr(ragged, "gradient", gradient)
    rng = np.random.default_rng(1)
    x_MD, kernel_EDF, dy_MF = (rng.normal(size=s).astype(np.float32) for s in ((32, 16), (3, 16, 20), (32, 20)))
    sizes_NE = np.array([[5, 0, 11], [9, 7, 0]], np.int32)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def gradients(platform):
        monkeypatch.setattr(ragged.planning, "platform", lambda: platform)
        cut = jax.shard_map(lambda x, kernel, sizes: ragged.ragged_dot(x, kernel, sizes[0]), mesh=mesh,
                            in_specs=(jax.P("data"), jax.P(), jax.P("data")), out_specs=jax.P("data"))  # fmt: skip
        return jax.grad(lambda *given: jnp.sum(dy_MF * cut(*given, sizes_NE)), argnums=(0, 1))(x_MD, kernel_EDF)

    found, wanted = jax.jit(lambda: (gradients("tpu"), gradients("cpu")))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)
