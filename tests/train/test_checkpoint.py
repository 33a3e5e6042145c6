"""What is saved comes back, bit for bit, and the right checkpoints stay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.params import materialize
from jaxllm.train.checkpoint import Checkpoints, read_params
from jaxllm.train.mesh import make_mesh, replicated, shardings
from jaxllm.train.optim import OptimConfig, make_optimizer
from jaxllm.types import InputError, TrainState


def state_on(spec, text, seed=0, step=3):
    """A state on a mesh, its optimizer's arrays random too."""
    mesh, abstract = make_mesh(text), spec.graphdef.abstract
    optimizer = make_optimizer(
        OptimConfig(freeze=("embeddings.*", "blocks[:1].*")), abstract, optax.constant_schedule(0.1)
    )
    at = shardings(abstract, mesh, spec.rules)
    opt_at = shardings(jax.eval_shape(optimizer.init, abstract), mesh, spec.rules, abstract)
    params = materialize(spec, at, seed)
    opt_state = jax.jit(optimizer.init, out_shardings=opt_at)(params)
    rng = np.random.default_rng(seed)
    noise = lambda x: jax.device_put((x + rng.normal(size=x.shape) * 9).astype(x.dtype), x.sharding)
    step = jax.device_put(jnp.int32(step), replicated(mesh))
    return TrainState(step, params, jax.tree.map(noise, opt_state))


def shapes(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


@pytest.fixture(scope="module")
def saved(tagger, tmp_path_factory):
    """(spec, run folder, the state saved at position 5 of it)."""
    spec, folder = tagger(), tmp_path_factory.mktemp("run")
    state = state_on(spec, "data=2,fsdp=4")
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(5, state, {"sums": {"loss": [[1.0, 0.1 + 0.2, 3.0]], "bad": [[1.0, float("nan"), 1.0]]}})
    checkpoints.close()
    return spec, folder, state


@pytest.mark.parametrize("text", ["data=2,fsdp=4", "data=8", "fsdp=2,tensor=4"])
def test_a_state_comes_back_on_any_mesh(saved, text):
    spec, folder, state = saved
    like = state_on(spec, text, seed=1, step=0)
    checkpoints = Checkpoints(folder / "checkpoints")
    assert checkpoints.latest() == 5
    found, meta = checkpoints.restore(5, shapes(like))
    assert int(found.step) == 3 == meta["step"]
    assert meta["position"] == 5
    assert meta["sums"]["loss"] == [[1.0, 0.1 + 0.2, 3.0]], "a sum survives exactly"
    assert np.isnan(meta["sums"]["bad"][0][1])
    assert repr(checkpoints.meta(5)) == repr(meta)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert jax.tree.structure(found) == jax.tree.structure(like)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
    checkpoints.close()


def test_parameters_alone(saved, tmp_path):
    spec, folder, state = saved
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one) for n, x in spec.graphdef.abstract.items()}
    for position in (None, 5):
        params = read_params(folder, abstract, position)
        assert list(params) == list(abstract)
        jax.tree.map(np.testing.assert_array_equal, params, dict(state.params))
        assert all(x.sharding == one for x in params.values())
    with pytest.raises(InputError, match="holds no checkpoint"):
        read_params(tmp_path, abstract)


@pytest.mark.parametrize(("keep", "left"), [(1, [4, 12]), (2, [4, 10, 12]), (3, [4, 8, 10, 12])])
def test_the_newest_and_the_best_are_kept(tmp_path, keep, left):
    state = TrainState(jnp.int32(0), {"w": jnp.ones(2)}, {"m": jnp.ones(2)})
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, keep)
    for position, best in ((2, 2), (4, 4), (6, 4), (8, 4)):
        checkpoints.save(position, state, {}, best)
    checkpoints.close()
    checkpoints = Checkpoints(folder, keep)  # opening deletes nothing
    assert 4 in checkpoints.positions()
    checkpoints.save(10, state, {}, 4)
    checkpoints.save(12, state, {}, 4)
    checkpoints.wait()
    assert checkpoints.positions() == left
    assert checkpoints.latest() == 12
    checkpoints.close()


def test_a_position_is_saved_once_and_never_behind_a_newer_one(tmp_path):
    state = TrainState(jnp.int32(0), {"w": jnp.ones(2)}, {"m": jnp.ones(2)})
    other = TrainState(jnp.int32(9), {"w": jnp.zeros(2)}, {"m": jnp.ones(2)})
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(4, state, {})
    checkpoints.wait()
    checkpoints.save(4, other, {})
    assert checkpoints.meta(4)["step"] == 0
    with pytest.raises(RuntimeError, match="checkpoint 3 was not saved"):
        checkpoints.save(3, state, {})
    checkpoints.close()


def test_what_was_being_saved_at_a_crash_is_no_checkpoint(saved):
    _, folder, _ = saved
    (folder / "checkpoints" / "9.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    checkpoints = Checkpoints(folder / "checkpoints")
    assert checkpoints.latest() == 5
    checkpoints.close()
