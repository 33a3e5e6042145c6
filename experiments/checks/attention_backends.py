"""Each way to compute attention on the device against XLA's, in values and gradients; then the speed of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bench_attention
from checks.record import Config, Record, failure
from jaxllm.models.attention import Tokens, attention
from jaxllm.models.backends import Asked, choose
from jaxllm.models.blockwise import blockwise_attention
from jaxllm.recipes.script import run as run_script

LENGTH, TOY_LENGTH = 1088, 200
"""No multiple of 128 tokens; of the first 64 are left over."""
FAR = 2.0
"""How many times as far from the exact result as XLA in the same 16 bits is taken for rounding."""
BLOCKS = "xla in blocks"


def packed(length: int, *rows: tuple[int, ...]) -> Tokens:
    """Rows of documents of these lengths, and padding after them."""
    segments, positions = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), np.int32)
    for row, lengths in enumerate(rows):
        for number, (end, size) in enumerate(zip(np.cumsum(lengths), lengths, strict=True), start=1):
            segments[row, end - size : end], positions[row, end - size : end] = number, np.arange(size)
    return Tokens(jnp.asarray(segments), jnp.asarray(positions))


def shared_prompt(length: int) -> Tokens:
    """Rows of a prompt, half of the row, with two answers."""
    prompt, each = length // 2, length // 5
    positions, branches = np.arange(length), np.zeros(length, np.int32)
    branches[prompt : prompt + each], branches[prompt + each : prompt + 2 * each] = 1, 2
    positions[prompt + each :] -= each
    segments = (np.arange(length) < prompt + 2 * each).astype(np.int32)
    rows = (np.stack([x * segments] * 2).astype(np.int32) for x in (np.ones(length, np.int32), positions, branches))
    return Tokens(*map(jnp.asarray, rows))


def cases(length: int) -> Mapping[str, tuple[Tokens, dict[str, Any]]]:
    """Tokens, and arguments of `attention`; `low` is not one."""
    third = length // 3
    documents = packed(length, (length,), (third, 5, third))
    window = {"window": jnp.int32(third // 2), "windows": (third // 2,)}
    return {
        "segments": (documents, {"causal": True}),
        "padding alone in a row": (packed(length, (), (third,)), {"causal": True}),
        "windows": (documents, {"causal": True, **window}),
        "soft-cap": (documents, {"causal": True, "softcap": 2.0}),
        "both sides": (documents, {"causal": False}),
        "both sides, windows": (documents, {"causal": False, **window}),
        "log-normalisers below -88": (packed(length, (length,), (length,)), {"causal": True, "low": True}),
        "a shared prompt": (shared_prompt(length), {"causal": True}),
    }  # fmt: skip


def drawn(length: int, features: int, low: bool) -> list[jax.Array]:
    """q, k, v and the gradient of the result, float32 with the digits of bfloat16. low: no score is near 0."""
    draw = np.random.default_rng(0)
    shapes = [(2, length, heads, features) for heads in (8, 2, 2, 8)]
    arrays = [jnp.asarray(draw.normal(size=shape), jnp.bfloat16).astype(jnp.float32) for shape in shapes]
    if (
        low
    ):  # the larger one in the queries, for 16 bits of a gradient times a large key leave little of dQ in any kernel
        arrays[0], arrays[1] = arrays[0].at[..., 0].set(2048.0), arrays[1].at[..., 0].set(-1.0)
    return arrays


Run = Callable[..., jax.Array]


def gradients(run: Run, arrays: list[jax.Array], tokens: Tokens) -> list[jax.Array]:
    """The result where there is text, and the gradients of q, k and v, in float32."""

    @jax.jit
    def both(q: jax.Array, k: jax.Array, v: jax.Array, out: jax.Array) -> Any:
        real = (tokens.segments_BT > 0)[..., None, None]
        y, pull = jax.vjp(lambda q, k, v: jnp.where(real, run(q, k, v), 0), q, k, v)
        return y, *pull(out)

    return [jax.device_get(x.astype(jnp.float32)) for x in both(*arrays)]


def backend_run(name: str, tokens: Tokens, how: dict[str, Any]) -> Run:
    """Attention by a backend."""
    if name == BLOCKS:
        own = {"window": None, "softcap": 0.0, "dropout_rate": 0.0, "dropout_key": None, **how}
        own.pop("windows", None)
        return lambda q, k, v: blockwise_attention(q, k, v, tokens, tokens, scale=q.shape[-1] ** -0.5, block=128, **own)
    return lambda q, k, v: attention(q, k, v, tokens, tokens, backend=name, **how)


def backends(small: bool) -> list[str]:
    """What there is to compare here; on a CPU the GPU's kernel is interpreted."""
    own = {"gpu": ["flash", "cudnn"], "tpu": ["splash"]}.get(jax.default_backend(), ["flash"])
    return [*own, BLOCKS]


def compare(record: Record, small: bool) -> None:
    """Adds an entry for each case and backend."""
    length, features = (TOY_LENGTH, 16) if small else (LENGTH, 128)
    found = cases(length)
    toy = ("segments", "log-normalisers below -88")
    for case in [case for case in found if not small or case in toy]:
        tokens, how = found[case]
        arrays = drawn(length, features, how.pop("low", False))
        half = [x.astype(jnp.bfloat16) for x in arrays]
        if record.late(case):
            continue
        with jax.default_matmul_precision("highest"):
            exact = gradients(backend_run("xla", tokens, how), arrays, tokens)
        rounded = far_of(gradients(backend_run("xla", tokens, how), half, tokens), exact)
        asked = Asked(
            length, length, features, jnp.bfloat16, how["causal"], branched=tokens.branches_BT is not None,
            windowed="window" in how, listed="windows" in how, softcap=how.get("softcap", 0.0),
        )  # fmt: skip
        for name in backends(small):
            title = f"{name}, {case}"
            choice = choose(name, asked) if name != BLOCKS else None
            if choice is not None and choice.backend != name:
                record.add(title, computed_by=choice.backend, for_=choice.why)
                continue
            if record.late(title):
                continue
            try:
                far = far_of(gradients(backend_run(name, tokens, how), half, tokens), exact)
            except Exception as error:  # of a compiler or a device: the others are still to compare
                record.add(title, False, error=failure(error))
                continue
            good = all(
                np.isfinite(ours) and ours <= FAR * theirs + 1e-3 for ours, theirs in zip(far, rounded, strict=True)
            )
            record.add(title, good, values_differ=far[0], xla_differs=rounded[0],
                       gradients_differ=max(far[1:]), xla_gradients_differ=max(rounded[1:]))  # fmt: skip


def far_of(found: list[Any], exact: list[Any]) -> list[float]:
    """The largest differences, each by the largest of the exact values."""
    return [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, exact, strict=True)]


def drop(record: Record, small: bool) -> None:
    """Dropout of the GPU's kernel: both passes drop the same, and the share that they should."""
    if "flash" not in backends(small) or record.late("flash, dropout"):
        return
    length, features = (TOY_LENGTH, 16) if small else (LENGTH, 128)
    tokens, (q, k, v, out) = packed(length, (length,), (length,)), drawn(length, features, False)
    ones = jnp.ones_like(v)

    def run(v):
        key = jax.random.key(0)
        return attention(q, k, v, tokens, tokens, causal=True, dropout_rate=0.25, dropout_key=key, backend="flash")

    with jax.default_matmul_precision("highest"):
        y, pull = jax.vjp(run, v)
        (dv,) = pull(out)
        mean = float(jnp.mean(run(ones)))
    apart = abs(float(jnp.vdot(dv, v) - jnp.vdot(y, out))) / float(jnp.linalg.norm(y) * jnp.linalg.norm(out))
    record.add("flash, dropout", apart < 1e-5 and abs(mean - 1) < 0.02, passes_differ=apart, mean_factor=mean)


def time_each(record: Record, small: bool) -> None:
    """Adds an entry for the speed of each backend at two lengths, forward and backward."""
    shape = bench_attention.Config(rows=2, heads=16, kv_heads=4)
    if small:
        shape = dataclasses.replace(shape, rows=1, heads=2, kv_heads=1, features=16, dtype="float32", rounds=2)
    for length in (128,) if small else (2048, 8192):
        for name in bench_attention.available(shape, length):
            title = f"speed of {name} at {length:,} tokens"
            if record.late(title):
                continue
            try:
                found = bench_attention.measure(shape, name, length, jax.devices()[0], True)
            except Exception as error:  # it does not fit, or does not compile
                record.add(title, error=failure(error))
                continue
            record.add(title, time_ms=found["seconds"] * 1e3, tflops_per_s=found["flops_per_s"] / 1e12,
                       temporaries_gib=found["temporaries"] / 2**30)  # fmt: skip


def main(config: Config) -> None:
    """Compares, then times."""
    record, small = Record(config), config.small
    compare(record, small)
    drop(record, small)
    time_each(record, small)
    record.end()


if __name__ == "__main__":
    run_script(main, Config)
