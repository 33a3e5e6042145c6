"""Every optimizer against optax's own, layers that do not feel each other, state on a mesh and on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run
from jax.sharding import PartitionSpec as P

from jaxllm.checkpoint.store import Checkpoints
from jaxllm.distributed.mesh import make_mesh, replicated, shardings
from jaxllm.losses.tokens import cross_entropy
from jaxllm.models.decoder import SHARDING
from jaxllm.params import bind, materialize
from jaxllm.train.optim import OptimConfig, make_optimizer
from jaxllm.train.optimizers import OPTIMIZERS, gradient_at
from jaxllm.train.step import make_train_step
from jaxllm.types import InputError, TrainState, value

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
FLAT = {
    "embeddings.tokens.embedding": (150, 128), "blocks.mlp.up.kernel": (128, 144), "blocks.mlp.up.bias": (144,),
    "blocks.mlp_norm.scale": (128,), "unembed.kernel": (128, 150),
}  # fmt: skip
RATE, DECAY = 0.01, 0.3
KERNELS = {name: name.endswith(("embedding", "kernel")) for name in FLAT}


def draw(shapes, scale=1.0):
    return {name: jnp.asarray(scale * RNG.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def abstract(params):
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in params.items()}


def config(name, **changes):
    return OptimConfig(**{"optimizer": name, "learning_rate": RATE, "weight_decay": DECAY, "beta2": 0.97, **changes})


def make(name, params, **changes):
    return make_optimizer(config(name, **changes), abstract(params), optax.constant_schedule(RATE))


def descend(optimizer, params, target, steps=4, at=lambda state, params: params):
    """Parameters and state after steps down a bowl around `target`, whose walls are of uneven steepness."""

    @jax.jit
    def step(params, state):
        here = at(state, params)
        grads = {name: (x - target[name]) * jnp.cos(7 * target[name]) for name, x in here.items()}
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def reference(name):
    """The same by optax alone, for parameters without a stack."""
    matrix = optax.contrib.MuonDimensionNumbers(-2, -1)
    in_block = {n: matrix if n == "blocks.mlp.up.kernel" else None for n in FLAT}
    return {
        "adamw": optax.adamw(RATE, 0.9, 0.97, weight_decay=DECAY, mask=KERNELS),
        "lion": optax.lion(RATE, 0.9, 0.97, weight_decay=DECAY, mask=KERNELS),
        # Its own decay is not times the rate.
        "adafactor": optax.adafactor(
            RATE, multiply_by_parameter_scale=False, weight_decay_rate=RATE * DECAY, weight_decay_mask=KERNELS
        ),
        "muon": optax.contrib.muon(
            RATE, weight_decay=DECAY, adam_b1=0.9, adam_b2=0.97, consistent_rms=0.2,
            muon_weight_dimension_numbers=in_block,
        ),
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "muon"])
def test_equals_optax_on_plain_parameters(name):
    params, target = draw(FLAT), draw(FLAT, 2.0)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), reference(name))
    changes = {"beta2": 0.97}
    if name == "muon":  # optax decays the Adam side apart: compare without
        params, changes = {n: x for n, x in params.items() if n == "blocks.mlp.up.kernel"}, {}
        inner = optax.contrib.muon(RATE, weight_decay=DECAY, consistent_rms=0.2)
        clipped = optax.chain(optax.clip_by_global_norm(1.0), inner)
    target = {n: target[n] for n in params}
    ours, _ = descend(make(name, params, **changes), params, target)
    theirs, _ = descend(clipped, params, target)
    for n, x in ours.items():
        assert float(jnp.max(jnp.abs(x - params[n]))) > RATE / 10
        np.testing.assert_allclose(x, theirs[n], rtol=2e-5, atol=2e-6, err_msg=n)


def test_muon_moves_what_is_no_matrix_of_a_block_as_adamw_does():
    params, target = draw(FLAT), draw(FLAT, 2.0)
    muon, _ = descend(make("muon", params), params, target)
    adamw, _ = descend(make("adamw", params), params, target)
    same = {n for n in FLAT if np.allclose(muon[n], adamw[n], rtol=1e-5, atol=1e-6)}
    assert same == FLAT.keys() - {"blocks.mlp.up.kernel"}


def test_schedule_free_averages_as_optax_does():
    """Ours keeps the average x as the parameters; optax keeps y, and derives x where it is evaluated."""
    params, target = draw(FLAT), draw(FLAT, 2.0)
    theirs = optax.contrib.schedule_free_adamw(RATE, b2=0.97, weight_decay=0.0)
    y, state = descend(theirs, params, target, steps=6)
    x, ours = descend(
        make("schedule_free_adamw", params, weight_decay=0.0, max_grad_norm=0.0), params, target, 6, gradient_at
    )
    wanted = optax.contrib.schedule_free_eval_params(state, y)
    for n in FLAT:
        np.testing.assert_allclose(x[n], wanted[n], rtol=2e-5, atol=2e-6, err_msg=n)
        np.testing.assert_allclose(gradient_at(ours, x)[n], y[n], rtol=2e-5, atol=2e-6, err_msg=n)
        assert float(jnp.max(jnp.abs(x[n] - y[n]))) > 1e-3


def test_the_step_takes_the_gradient_between_the_average_and_the_iterate():
    spec, batch = toy_run.toy(0.0), toy_run.corpus().batch(0)
    at = shardings(spec.graphdef.abstract, make_mesh("data=1", jax.devices()[:1]), spec.rules)
    start = materialize(spec, at, 3)
    settings = OptimConfig(optimizer="schedule_free_adamw", learning_rate=0.1, weight_decay=0.1, max_grad_norm=0.0)
    optimizer = make_optimizer(settings, spec.graphdef.abstract, optax.constant_schedule(0.1))
    step = jax.jit(make_train_step(spec.graphdef, cross_entropy, optimizer, seed=0, microbatches=2))
    state = TrainState(jnp.int32(0), start, optimizer.init(start))
    theirs = optax.contrib.schedule_free_adamw(0.1, weight_decay=0.1)
    y, their_state = start, theirs.init(start)
    gradient = jax.jit(jax.grad(lambda params: value(cross_entropy(bind(spec.graphdef, params), batch)["loss"])))
    for _ in range(4):
        state, metrics = step(state, batch)
        updates, their_state = theirs.update(gradient(y), their_state, y)
        y = optax.apply_updates(y, updates)
    assert float(metrics["skipped"].value()) == 0
    wanted = optax.contrib.schedule_free_eval_params(their_state, y)
    for n, x in state.params.items():
        np.testing.assert_allclose(x, wanted[n], rtol=1e-4, atol=1e-5, err_msg=n)


STACKED = {
    "blocks.mlp.up.kernel": (2, 128, 144), "blocks.mlp.up.bias": (2, 144), "blocks.mlp_norm.scale": (2, 128),
    "blocks.experts.down.kernel": (2, 3, 144, 128),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_layer_of_a_stack_and_an_expert_move_as_if_alone(name):
    params, target = draw(STACKED), draw(STACKED, 2.0)
    # Layers and experts whose gradients differ in size.
    target = {n: x * (1 + 5 * jnp.arange(2.0).reshape(-1, *(1,) * (x.ndim - 1))) for n, x in target.items()}
    whole, _ = descend(make(name, params, max_grad_norm=0.0), params, target, at=gradient_at)
    for i in range(2):
        for expert in range(3):
            alone = lambda tree: {n: x[i, expert] if "experts" in n else x[i] for n, x in tree.items()}  # noqa: B023
            one, _ = descend(make(name, alone(params), max_grad_norm=0.0), alone(params), alone(target), at=gradient_at)
            for n, x in alone(whole).items():
                np.testing.assert_allclose(x, one[n], rtol=1e-5, atol=1e-6, err_msg=f"{n} {i} {expert}")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_slices_stay_and_the_head_has_its_own_rate(name):
    params, target = draw(STACKED | {"unembed.kernel": (128, 16)}), draw(STACKED | {"unembed.kernel": (128, 16)})
    settings = config(name, freeze=("blocks[:1].mlp.*",))
    optimizer = make_optimizer(settings, abstract(params), optax.constant_schedule(RATE), head=("unembed.*",))
    after, _ = descend(optimizer, params, target, at=gradient_at)
    for n, x in params.items():
        moved = np.asarray(after[n] != x)
        if ".mlp." in n:
            assert not moved[0].any(), n
            moved = moved[1:]
        assert moved.mean() > 0.99, n
    slow = make_optimizer(config(name), abstract(params), optax.constant_schedule(RATE), head=("unembed.*",))
    fast = make_optimizer(
        config(name, head_learning_rate=3 * RATE), abstract(params), optax.constant_schedule(RATE), head=("unembed.*",)
    )
    a, b = (descend(o, params, target, 1, gradient_at)[0] for o in (slow, fast))
    for n, x in params.items():
        ratio = 3.0 if n.startswith("unembed") else 1.0
        np.testing.assert_allclose(b[n] - x, ratio * (a[n] - x), rtol=1e-3, atol=1e-5, err_msg=n)


LARGE = {
    "embeddings.tokens.embedding": (160, 128), "blocks.attn.q.kernel": (2, 128, 128), "blocks.attn.q.bias": (2, 128),
    "blocks.experts.up.kernel": (2, 4, 128, 160), "norm.scale": (128,),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_lives_on_the_mesh_moves_as_on_one_device_and_comes_back_from_disk(name, tmp_path):
    params, target = draw(LARGE), draw(LARGE, 2.0)
    optimizer = make(name, params)
    alone, _ = descend(optimizer, params, target, 3, gradient_at)
    mesh = make_mesh("fsdp=2,tensor=2,expert=2")
    at = shardings(abstract(params), mesh, SHARDING)
    opt_at = shardings(jax.eval_shape(optimizer.init, abstract(params)), mesh, SHARDING, abstract(params))
    spread = {n: jax.device_put(x, at[n]) for n, x in params.items()}
    state = jax.jit(optimizer.init, out_shardings=opt_at)(spread)

    def step(params, state):
        here = gradient_at(state, params)
        grads = {n: (x - target[n]) * jnp.cos(7 * target[n]) for n, x in here.items()}
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, out_shardings=(at, opt_at), donate_argnums=(0, 1))  # nothing is donated twice
    for _ in range(2):
        spread, state = step(spread, state)

    checkpoints = Checkpoints(tmp_path)
    count = jax.device_put(jnp.int32(2), replicated(mesh))
    before = TrainState(count, spread, state)
    checkpoints.save(2, before, {})
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), before)
    found, _ = checkpoints.restore(2, like)
    checkpoints.close()
    assert jax.tree.structure(found) == jax.tree.structure(before)
    jax.tree.map(np.testing.assert_array_equal, found, before)
    # What is as large as a parameter, or as a row or a column of each of its matrices, is cut.
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        if x.size >= 8 * 128 and "q.kernel" not in str(path):
            assert x.sharding.spec != P(), f"{path} {x.shape}"

    again, _ = step(found.params, found.opt_state)
    spread, _ = step(spread, state)
    for n, x in alone.items():
        np.testing.assert_array_equal(spread[n], again[n], err_msg=n)
        np.testing.assert_allclose(spread[n], x, rtol=1e-5, atol=1e-5, err_msg=n)


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(InputError, match=r"--optimizer lyon: give one of adamw.* did you mean lion"):
        make("lyon", draw(FLAT))
