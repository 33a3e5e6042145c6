"""Peak temporary memory of a DPO step through the chunked head, beside a step that builds the logits of every token.

DPO: Rafailov et al. 2023, arXiv:2305.18290. Both steps have the same model, rows, optimizer and cached
log-probabilities of the reference; the figures are the compiler's own (`memory_analysis`), and nothing is run.

    python experiments/bench_dpo_memory.py

Measured at the defaults, where both steps recompute their layers: 341 MiB against 2,517, a ratio of 0.135. With --remat
dots 457 against 2,589 (0.177); with --remat none 877 against 3,005 (0.292), and with --unroll 1 besides, the loop over
layers that accelerators have, 689 against 2,821 (0.244). A minute on one CPU core, all of it compiling.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxllm.losses import resolve
from jaxllm.models.decoder import Config as Shape
from jaxllm.models.heads import describe_model
from jaxllm.params import ModelSpec
from jaxllm.recipes.script import run as run_script
from jaxllm.train.step import make_train_step
from jaxllm.types import Answers, Batch, LossFn, Mean, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """Compares the memory of two compiled steps: DPO with the chunked head, and with all logits at once."""

    vocabulary: int = 50_257
    """Size of the vocabulary, in tokens."""
    width: int = 256
    """Width of the model, in features."""
    depth: int = 4
    """Depth of the model, in layers."""
    rows: int = 8
    """Rows of a batch, each with one pair."""
    length: int = 512
    """Length of a row, in tokens."""
    remat: str = "full"
    """What the layers of both steps recompute in the backward pass: none, dots (all but matrix products), full."""
    unroll: int = 0
    """Layers per iteration of the compiled loop; 0 for the model's own choice on this backend."""
    loss: str = "dpo"
    """Name or FILE.py:FUNCTION of a loss that has a beta; the naive step is always DPO's."""
    beta: float = 0.1
    """Beta of both losses."""


def naive(model: Any, answers: Answers, key: jax.Array | None = None, *, beta: float) -> Metrics:
    """DPO as it is written down: logits [B, T, V] of all tokens, then sums. Answer 0 of a row is chosen, 1 rejected."""
    batch = answers.batch
    logps_BTV = jax.nn.log_softmax(model.head(model.hidden(batch, key)[0]))
    logps_BT = jnp.take_along_axis(logps_BTV, batch.targets_BT[..., None], axis=-1)[..., 0]
    assert answers.ref_logps_BT is not None
    ratio_BT = logps_BT - answers.ref_logps_BT
    chosen_B, rejected_B = (jnp.sum(jnp.where(answers.answer_BT == i, ratio_BT, 0), axis=1) for i in (0, 1))
    loss_B = -jax.nn.log_sigmoid(beta * (chosen_B - rejected_B))
    return {"loss": Mean(jnp.sum(loss_B), jnp.float32(loss_B.shape[0]))}


def model(config: Config) -> ModelSpec:
    """A Llama of this size, with a tied head."""
    shape = Shape(
        vocab_size=config.vocabulary, width=config.width, depth=config.depth, heads=4, mlp_width=3 * config.width,
        max_positions=config.length, tied=True, remat=config.remat, unroll=config.unroll,
    )  # fmt: skip
    return describe_model(shape)


def shapes(config: Config) -> Answers:
    """A batch of one pair per row."""
    ints, floats = (jax.ShapeDtypeStruct((config.rows, config.length), dtype) for dtype in (jnp.int32, jnp.float32))
    of = lambda dtype: jax.ShapeDtypeStruct((config.rows, 2), dtype)  # noqa: E731
    batch = Batch(ints, ints, floats, ints, ints)  # type: ignore[arg-type]
    return Answers(batch, ints, of(jnp.int32), of(jnp.int32), of(jnp.float32), of(jnp.float32), floats)  # type: ignore[arg-type]


def temporary_bytes(config: Config, loss: LossFn) -> int:
    """Peak bytes of temporaries of a whole train step, parameters and optimizer state not counted."""
    spec, optimizer = model(config), optax.adamw(1e-5)
    step = jax.jit(make_train_step(spec.graphdef, loss, optimizer, seed=0), donate_argnums=0)
    abstract = spec.graphdef.abstract
    opt_state = jax.eval_shape(optimizer.init, abstract)
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), abstract, opt_state)  # type: ignore[arg-type]
    return int(step.lower(state, shapes(config)).compile().memory_analysis().temp_size_in_bytes)


def main(config: Config) -> None:
    """Compiles both, and prints what each takes."""
    ours = temporary_bytes(config, resolve(config.loss, beta=config.beta))
    theirs = temporary_bytes(config, lambda model, batch, key=None: naive(model, batch, key, beta=config.beta))
    print(f"{config.rows} rows of {config.length} tokens, vocabulary {config.vocabulary:,}, width {config.width}")
    print(f"chunked head {ours / 2**20:8,.0f} MiB")
    print(f"naive        {theirs / 2**20:8,.0f} MiB")
    print(f"ratio        {ours / theirs:8.3f}")


if __name__ == "__main__":
    run_script(main, Config)
