"""Every family's loss and gradients on the device against the CPU's, on small models, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from checks.families import DECODERS, ENCODERS, LABELS, VOCAB, family
from checks.record import Config, Record, failure
from jaxllm.data.packing import Example, collate
from jaxllm.losses import cross_entropy
from jaxllm.params import bind
from jaxllm.planning import Planning, planned
from jaxllm.recipes.script import run as run_script
from jaxllm.types import Batch

ROWS, LENGTH = 4, 24
FAR = 1e-4
"""The largest difference that rounding explains: of the loss, and of a gradient by the largest of the model's."""
TOY = ("llama", "bert")


def batch_of(kind: str) -> Batch:
    """Rows of two texts, with padding at their ends."""
    draw = np.random.default_rng(0)
    most = VOCAB if kind in DECODERS else len(LABELS)

    def text(length: int) -> Example:
        tokens, targets = draw.integers(3, VOCAB, length), draw.integers(0, most, length)
        return Example(tokens.astype(np.int32), targets.astype(np.int32), np.ones(length, np.float32))

    return collate([[text(7 + row), text(11)] for row in range(ROWS)], LENGTH, ROWS)


def compare(kind: str) -> tuple[float, float]:
    """How far loss and gradients on the device are from the CPU's, relatively."""
    spec, batch = family(kind), batch_of(kind)
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        params = jax.device_get(jax.jit(spec.init)(jax.random.key(0)))

    def run(device: jax.Device) -> Any:
        # A function of its own, for what is traced depends on the platform.
        def value(params: Any, batch: Batch) -> jax.Array:
            model = bind(spec.graphdef, params)
            _, aux = model.hidden(batch)
            return cross_entropy(model, batch)["loss"].value() + sum(mean.value() for mean in aux.values())

        given = jax.device_put((params, batch), device)
        return jax.device_get(jax.jit(jax.value_and_grad(value))(*given))

    with planned(Planning([cpu], "cpu", Path())):
        loss, gradients = run(cpu)
    found, found_gradients = run(jax.devices()[0])
    largest = max(float(np.abs(x).max()) for x in gradients.values())
    far = max(float(np.abs(x - found_gradients[name]).max()) for name, x in gradients.items())
    return abs(float(found - loss)) / abs(float(loss)), far / largest


def main(config: Config) -> None:
    """Compares each family."""
    record = Record(config)
    kinds = [*DECODERS, *ENCODERS]
    with jax.default_matmul_precision("highest"):
        for kind in [kind for kind in kinds if not config.small or kind in TOY]:
            if record.late(kind):
                continue
            try:
                loss, gradients = compare(kind)
            except Exception as error:  # of a compiler or a device, whatever its kind: the others are still to check
                record.add(kind, False, error=failure(error))
                continue
            good = bool(jnp.isfinite(loss + gradients)) and max(loss, gradients) < FAR
            record.add(kind, good, loss_differs=loss, gradients_differ=gradients)
    record.end()


if __name__ == "__main__":
    run_script(main, Config)
