"""The report card of a loss: checks that every loss must pass, run on small random data.

A loss calls only `hidden` and `head` of a model, so a toy model serves, and a check takes a fraction of a second.
The same examples are laid out in rows in several ways; the loss and its gradient must stay the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm.distributed.mesh import make_mesh, put_batch, replicated
from jaxllm.losses import resolve
from jaxllm.report_card.finding import SAME, Finding, gap
from jaxllm.report_card.policy_checks import policy_checks
from jaxllm.report_card.toy import EXAMPLES, LENGTH, PACKED, SINGLE, VOCABULARY, Bench, bench, kind_of
from jaxllm.train.step import make_train_step
from jaxllm.types import InputError, LossFn, Params, TrainState, terms, value

STOCK = {
    "tokens": "cross_entropy", "sentences": "cross_entropy", "texts": "mse",
    "pairs": "sigmoid", "pairs alone": "simpo", "answers": "apo_zero_unpaired",
    "rewards": "bradley_terry", "completions": "grpo",
}  # fmt: skip
"""The loss that one of each kind is compared with in time and memory."""


def check_loss(spec: str | LossFn, /, *, timed: bool = True, **arguments: Any) -> list[Finding]:
    """The report card of a loss, given by a name for `resolve` or as a function.

    timed: also measure time, on a larger batch. The check on eight devices needs eight. Raises InputError for an
    argument that is not a loss and for a loss that returns a wrong shape; other errors of the loss pass through.
    """
    loss: LossFn = resolve(spec, **arguments) if isinstance(spec, str) else spec
    on = bench(loss, kind_of(loss))
    gradient = jax.jit(jax.value_and_grad(on))
    plain = on.lay(SINGLE, LENGTH)
    expected = gradient(on.params, plain)

    def same(check: str, found: Any, wanted: str = f"a difference of at most {SAME:g}") -> Finding:
        apart = gap(found, expected)
        return Finding(check, apart <= SAME, f"{apart:.1e}", wanted)

    rng = np.random.default_rng(3)
    shuffled = rng.permutation(EXAMPLES).tolist()
    return [
        *_extremes(on, gradient, plain),
        _finite_differences(on, plain),
        same("targets of weight 0 change", gradient(on.params, _other_targets(on, plain, rng))),
        same("more padding", gradient(on.params, on.lay(SINGLE, LENGTH + 24))),
        same("packed rows", gradient(on.params, on.lay(PACKED, LENGTH))),
        same("another order", gradient(on.params, on.lay(tuple((i,) for i in shuffled), LENGTH))),
        _counts(on, plain),
        _microbatches(on, plain, same),
        *_devices(on, plain, same),
        *(policy_checks(on, plain, same, gradient) if on.kind == "completions" else ()),
        _bfloat16(on, plain, expected),
        *_cost(on, timed),
    ]


def _extremes(on: Bench, gradient: Any, plain: Any) -> Iterator[Finding]:
    """Logits in the thousands, and logits that are all equal."""
    for check, scale in (("logits in the thousands", 2e3), ("all logits alike", 0.0)):
        found = gradient({**on.params, "out": np.float32(scale) * np.asarray(on.params["out"])}, plain)
        bad = sum(int(np.sum(~np.isfinite(x))) for x in jax.tree.leaves(found))
        yield Finding(check, bad == 0, f"{bad} not finite", "loss and gradient finite")


def _finite_differences(on: Bench, plain: Any) -> Finding:
    """The gradient along random directions, in float64. Arguments of `stop_gradient` are held fixed."""
    with jax.enable_x64(True):
        params, teacher = jax.tree.map(lambda x: np.asarray(x, np.float64), (on.params, on.teacher))
        on = dataclasses.replace(on, teacher=jax.tree.map(jnp.asarray, teacher))

        def record(params: Params) -> list[Any]:
            stops: list[Any] = []
            with jax.disable_jit(), _stopped(stops, record=True):
                on(params, plain)
            return stops

        def replay(params: Params, stops: list[Any]) -> jax.Array:
            with jax.disable_jit(), _stopped(stops, record=False):
                return on(params, plain)

        try:
            stops = jax.jit(record)(params)
        except jax.errors.UnexpectedTracerError:  # one is in a function that has its own rule of differentiation
            stops = record(params)
            moved_loss: Callable[..., Any] = replay
        else:
            moved_loss = jax.jit(replay)
        gradient = jax.device_get(jax.jit(jax.grad(on))(params, plain))
        rng = np.random.default_rng(5)
        slopes, worst, largest = [], 0.0, 0.0
        for _ in range(3):
            along = {name: rng.normal(size=x.shape) for name, x in params.items()}
            ends = []
            for sign in (1, -1):
                moved = {name: x + sign * 1e-5 * along[name] for name, x in params.items()}
                ends.append(float(moved_loss(moved, stops)))
            slopes.append((ends[0] - ends[1]) / 2e-5)
            expected = float(sum(np.sum(gradient[name] * along[name]) for name in params))
            worst, largest = max(worst, abs(slopes[-1] - expected)), max(largest, abs(slopes[-1]), abs(expected))
    error = worst / max(largest, 1e-9)
    return Finding("gradient against finite differences", error <= 1e-5, f"{error:.1e}", "at most 1e-05, in float64")


@contextlib.contextmanager
def _stopped(stops: list[Any], *, record: bool) -> Iterator[None]:
    """Records the arguments of `jax.lax.stop_gradient` in order, or returns the recorded ones in their place."""
    replay = iter(stops)

    def stop(x: Any) -> Any:
        if record:
            stops.append(x)
            return x
        return next(replay)

    with mock.patch.object(jax.lax, "stop_gradient", stop):
        yield


def _other_targets(on: Bench, plain: Any, rng: np.random.Generator) -> Any:
    """The batch with other targets where the weight is 0, and in the answers of absent pairs."""
    batch = getattr(plain, "batch", plain)
    idle_BT = np.asarray(batch.weights_BT) == 0
    if hasattr(plain, "answer_BT"):
        slot_BT = np.maximum(np.asarray(plain.answer_BT), 0)
        absent_BT = np.take_along_axis(np.asarray(plain.weight_BA), slot_BT, axis=1) == 0
        idle_BT |= absent_BT & (np.asarray(plain.answer_BT) >= 0)
    targets_BT = np.where(idle_BT, rng.integers(0, VOCABULARY, idle_BT.shape), np.asarray(batch.targets_BT))
    changed = dataclasses.replace(batch, targets_BT=targets_BT.astype(np.int32))
    return changed if batch is plain else dataclasses.replace(plain, batch=changed)


def _counts(on: Bench, plain: Any) -> Finding:
    """Counts must not depend on the parameters."""

    @jax.jit
    def counts(params: Params) -> list[jax.Array]:
        return [mean.count for _, mean in terms(on.sums(params, plain)["loss"])]

    opposite = jax.tree.map(lambda x: -2 * np.asarray(x), on.params)
    one, other = ([float(x) for x in counts(params)] for params in (on.params, opposite))
    return Finding("counts under other parameters", one == other, f"{other}", f"{one}")


def _microbatches(on: Bench, plain: Any, same: Callable[..., Finding]) -> Finding:
    """One step of gradient descent in four microbatches."""
    check, optimizer = "four microbatches", optax.sgd(1.0)
    try:
        step = make_train_step(on.graphdef, on.loss, optimizer, seed=0, microbatches=4)
    except InputError:
        return Finding(check, True, "refused", "the same step, or a loss that says it couples the batch")
    state = TrainState(jnp.int32(0), on.params, optimizer.init(on.params))
    moved, metrics = jax.jit(step)(state, plain, on.teacher)
    gradient = jax.tree.map(lambda new, old: np.asarray(old) - np.asarray(new), moved.params, on.params)
    return same(check, (value(metrics["loss"]), gradient))


def _devices(on: Bench, plain: Any, same: Callable[..., Finding]) -> Iterator[Finding]:
    """The batch sharded over eight devices."""
    if jax.device_count() < 8:
        return
    mesh = make_mesh("data=8", jax.devices()[:8])
    params = jax.device_put(on.params, replicated(mesh))
    there = dataclasses.replace(on, teacher=jax.device_put(on.teacher, replicated(mesh)))
    yield same("eight devices", jax.jit(jax.value_and_grad(there))(params, put_batch(plain, mesh, EXAMPLES)))


def _bfloat16(on: Bench, plain: Any, expected: Any) -> Finding:
    """How much the gradient changes when the model computes in bfloat16."""
    low = lambda tree: jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)  # noqa: E731
    loss = lambda params: dataclasses.replace(on, teacher=low(on.teacher))(low(params), plain)  # noqa: E731
    found = jax.jit(jax.value_and_grad(loss))(on.params)
    flat: Any = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])  # noqa: E731
    one, other = flat(found), flat(expected)
    drift = float(np.linalg.norm(one - other)) / max(float(np.linalg.norm(other)), 1e-9)
    return Finding("drift in bfloat16", drift <= 0.1, f"{drift:.1e}", "at most 1e-01 of the gradient")


BIG = {"vocabulary": 8192, "width": 32}
BIG_LENGTH = 1024


def _cost(on: Bench, timed: bool) -> Iterator[Finding]:
    """Temporary memory and time of loss and gradient with a vocabulary of thousands, compared with the stock loss."""
    stock = STOCK[on.kind]
    temps, seconds = [], []
    for run, *arguments in (_big(on.loss, on.kind), _stock(on.kind)):
        analysis = run.memory_analysis()
        assert analysis is not None
        temps.append(analysis.temp_size_in_bytes)
        seconds.append(_seconds(functools.partial(run, *arguments)) if timed else 1.0)
    memory = temps[0] / temps[1]
    found = f"{temps[0] / 2**20:.0f} MB, {memory:.2f} times {stock}'s"
    yield Finding("temporary memory", memory <= 3, found, "at most 3 times: no logits of all tokens at once")
    if timed:
        ratio = seconds[0] / seconds[1]
        yield Finding("time", True, f"{1e3 * seconds[0]:.0f} ms, {ratio:.2f} times {stock}'s", "reported, not judged")


def _big(loss: LossFn, kind: str) -> tuple[Any, Params, Any]:
    """Loss and gradient with a vocabulary of thousands, compiled, and the parameters and batch that they take."""
    big = bench(loss, kind, **({} if kind == "sentences" else BIG))
    batch = jax.tree.map(jnp.asarray, big.lay(SINGLE if kind in ("tokens", "texts") else PACKED, BIG_LENGTH))
    everywhere = np.ones_like(getattr(batch, "batch", batch).weights_BT)
    if kind == "tokens":  # so that no chunk is skipped
        batch = dataclasses.replace(batch, weights_BT=everywhere)
    return jax.jit(jax.value_and_grad(big)).lower(big.params, batch).compile(), big.params, batch


@functools.cache
def _stock(kind: str) -> tuple[Any, Params, Any]:
    return _big(resolve(STOCK[kind]), kind)


def _seconds(run: Callable[[], Any]) -> float:
    jax.block_until_ready(run())
    took = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(run())
        took.append(time.perf_counter() - began)
    return min(took)
