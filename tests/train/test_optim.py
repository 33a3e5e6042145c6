"""AdamW against numpy and torch, schedules, and what of the model moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.train.optim import OptimConfig, make_optimizer, make_schedule
from jaxllm.train.optimizers import adam, is_vector
from jaxllm.types import InputError

RNG = np.random.default_rng(0)
SHAPES = {
    "blocks.mlp.kernel": (2, 4, 3), "blocks.mlp.bias": (2, 3), "blocks.norm.scale": (2, 4),
    "embeddings.embedding": (5, 4),
    "embeddings.norm.bias": (4,), "classifier.kernel": (4, 3), "classifier.bias": (3,),
}  # fmt: skip
PARAMS = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
GRADS = [
    {name: RNG.normal(size=s).astype(np.float32) * (3 if i % 2 else 0.05) for name, s in SHAPES.items()}
    for i in range(5)
]
DECAYED = {"blocks.mlp.kernel", "embeddings.embedding", "classifier.kernel"}
ABSTRACT = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in PARAMS.items()}


def run(config, schedule=None, head=(), grads=GRADS):
    """The parameters after each step."""
    optimizer = make_optimizer(config, ABSTRACT, schedule or optax.constant_schedule(config.learning_rate), head=head)
    update = jax.jit(optimizer.update)
    params = {name: jnp.asarray(x) for name, x in PARAMS.items()}
    state, seen = optimizer.init(params), []
    for grad in grads:
        updates, state = update({name: jnp.asarray(g) for name, g in grad.items()}, state, params)
        params = optax.apply_updates(params, updates)
        seen.append({name: np.asarray(x) for name, x in params.items()})
    return seen


def test_biases_and_norm_scales_are_spared_though_stacked():
    assert {name for name in SHAPES if not is_vector(name)} == DECAYED


def test_the_first_step_is_the_closed_form():
    config = OptimConfig(learning_rate=0.01, weight_decay=0.1, max_grad_norm=1.0, eps=1e-3)
    after = run(config, grads=GRADS[1:2])[0]
    norm = np.sqrt(sum(np.square(g.astype(np.float64)).sum() for g in GRADS[1].values()))
    assert norm > 1
    for name, x in PARAMS.items():
        # With bias correction the moments of one step are the gradient and its square.
        g = GRADS[1][name] / norm
        expected = x - 0.01 * (g / (np.abs(g) + 1e-3) + 0.1 * x * (name in DECAYED))
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_five_steps_are_those_of_torch(clip):
    torch = pytest.importorskip("torch")

    config = OptimConfig(learning_rate=0.02, weight_decay=0.3, max_grad_norm=clip, beta1=0.8, beta2=0.95, warmup=2,
                         schedule="linear")  # fmt: skip
    schedule = make_schedule(config, 5)
    ours = run(config, schedule)
    theirs = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in PARAMS.items()}
    groups = [{"params": [p for n, p in theirs.items() if (n in DECAYED) == decayed], "weight_decay": 0.3 * decayed}
              for decayed in (True, False)]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.8, 0.95), eps=config.eps)
    for i, grads in enumerate(GRADS):
        for group in optimizer.param_groups:
            group["lr"] = float(schedule(i))
        for name, p in theirs.items():
            p.grad = torch.tensor(grads[name])
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip)
        optimizer.step()
        for name, p in theirs.items():
            np.testing.assert_allclose(ours[i][name], p.detach().numpy(), rtol=2e-5, atol=2e-6, err_msg=f"{name} {i}")


def test_adam_is_optax_bit_for_bit_and_a_step_that_is_skipped_changes_no_moment():
    ours, theirs = adam(0.8, 0.95, 1e-8), optax.scale_by_adam(0.8, 0.95, 1e-8)
    update, reference = jax.jit(ours.update), jax.jit(theirs.update)
    state, expected = ours.init(PARAMS), theirs.init(PARAMS)
    for grads in GRADS:
        bad = {name: np.full_like(g, np.nan) for name, g in grads.items()}
        _, kept = update(bad, state, PARAMS, ok=jnp.array(False))
        jax.tree.map(np.testing.assert_array_equal, kept, state)
        updates, state = update(grads, state, PARAMS, ok=jnp.array(True))
        theirs_updates, expected = reference(grads, expected, PARAMS)
        jax.tree.map(np.testing.assert_array_equal, updates, theirs_updates)
        jax.tree.map(np.testing.assert_array_equal, tuple(state), tuple(expected)[:3])


def test_an_update_that_may_be_skipped_copies_neither_gradients_nor_moments():
    """Clipped and decayed, in place: XLA:CPU needs room for less than one parameter."""
    abstract = {"a.kernel": jax.ShapeDtypeStruct((1000, 100), jnp.float32), "b.bias": jax.ShapeDtypeStruct((7,), "f4")}
    optimizer = make_optimizer(OptimConfig(), abstract, optax.constant_schedule(1.0))

    def step(params, state, grads):
        ok = jnp.isfinite(optax.tree.norm(grads))
        updates, state = optimizer.update(grads, state, params, ok=ok)
        return jax.tree.map(lambda x, u: jnp.where(ok, x + u, x), params, updates), state

    state = jax.eval_shape(optimizer.init, abstract)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(abstract, state, abstract).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40_000


@pytest.mark.parametrize(
    ("schedule", "floor", "expected"),
    [
        ("constant", 0.0, {10: 1.0, 60: 1.0, 110: 1.0}),
        ("linear", 0.0, {10: 1.0, 60: 0.5, 109: 0.01, 110: 0.0}),
        ("linear", 0.2, {10: 1.0, 60: 0.6, 110: 0.2, 200: 0.2}),
        ("cosine", 0.0, {10: 1.0, 60: 0.5, 35: 0.5 + 0.25 * 2**0.5, 110: 0.0}),
        ("cosine", 0.1, {10: 1.0, 60: 0.55, 110: 0.1}),
        ("wsd", 0.0, {10: 1.0, 60: 1.0, 90: 1.0, 100: 0.5, 110: 0.0}),
        ("wsd", 0.5, {90: 1.0, 100: 0.75, 110: 0.5}),
    ],
)
def test_schedules(schedule, floor, expected):
    peak = 3e-4
    for warmup in (10, 0.0910):  # steps, or a share of 110
        config = OptimConfig(learning_rate=peak, schedule=schedule, warmup=warmup, final_learning_rate=floor)
        rate = make_schedule(config, 110)
        rising = [float(rate(i)) for i in range(10)]
        np.testing.assert_allclose(rising, peak * np.arange(1, 11) / 10, rtol=1e-5)
        np.testing.assert_allclose(
            [float(rate(i)) for i in expected], peak * np.array(list(expected.values())), 1e-4, 1e-9
        )


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (3, 3), (2, 0.5)])
def test_every_step_of_a_short_run_learns_at_a_finite_rate(schedule, steps, warmup):
    rate = make_schedule(OptimConfig(learning_rate=1.0, schedule=schedule, warmup=warmup), steps)
    rates = [float(rate(i)) for i in range(steps)]
    assert all(0 < x <= 1 for x in rates), rates


@pytest.mark.parametrize(
    ("freeze", "still"),
    [
        (("embeddings.*",), {"embeddings.embedding": slice(None), "embeddings.norm.bias": slice(None)}),
        (("blocks[:1].*",), {name: slice(None, 1) for name in SHAPES if name.startswith("blocks.")}),
        (("!classifier.*",), {name: slice(None) for name in SHAPES if not name.startswith("classifier.")}),
        (("embeddings.*", "blocks[1:].*"),
         {name: slice(1, None) if name.startswith("blocks") else slice(None)
          for name in SHAPES if not name.startswith("classifier.")}),
    ],
)  # fmt: skip
def test_freezing_leaves_exactly_what_is_named_bit_for_bit(freeze, still):
    """Even given gradients, for five steps, with weight decay."""
    after = run(OptimConfig(learning_rate=0.01, weight_decay=0.5, freeze=freeze))[-1]
    for name, x in PARAMS.items():
        kept = np.zeros(x.shape, bool)
        if name in still:
            kept[still[name]] = True
        np.testing.assert_array_equal(after[name][kept], x[kept], err_msg=name)
        assert (after[name][~kept] != x[~kept]).all(), name


def test_the_head_learns_at_its_own_rate():
    plain = run(OptimConfig(learning_rate=0.01, weight_decay=0.5), grads=GRADS[:1])[0]
    faster = run(
        OptimConfig(learning_rate=0.01, head_learning_rate=0.07, weight_decay=0.5),
        grads=GRADS[:1],
        head=("classifier.*",),
    )[0]
    for name, x in PARAMS.items():
        ratio = 7.0 if name.startswith("classifier.") else 1.0
        np.testing.assert_allclose(faster[name] - x, ratio * (plain[name] - x), rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OptimConfig(freeze=("embedding.*",)), "'embedding.*' matches no parameter"),
        (OptimConfig(schedule="cosin"), "did you mean cosine"),
        (OptimConfig(warmup=11), "--warmup 11 is longer than the run of 10 steps"),
    ],
)
def test_what_does_not_exist_is_named(config, message):
    with pytest.raises(InputError) as error:
        make_optimizer(config, ABSTRACT, make_schedule(config, 10))
    assert message in str(error.value)


@pytest.mark.parametrize("freeze", [("*",), ("blocks.*", "!blocks.*"), ("*", "blocks[:1].*")])
def test_freezing_everything_is_refused(freeze):
    with pytest.raises(InputError, match="leaves no parameter to train"):
        run(OptimConfig(freeze=freeze))
