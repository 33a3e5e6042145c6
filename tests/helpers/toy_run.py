"""Runs of a toy that the tests of the loop share."""

import dataclasses
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxllm.checkpoint.store import Checkpoints
from jaxllm.data.loader import lengths, loader
from jaxllm.data.packing import Example, make_plan
from jaxllm.distributed.mesh import make_mesh
from jaxllm.losses.tokens import cross_entropy
from jaxllm.models.layers import dropout
from jaxllm.params import describe
from jaxllm.run.folder import Run
from jaxllm.run.metrics import read_jsonl
from jaxllm.train.fit import fit
from jaxllm.train.optim import OptimConfig
from jaxllm.types import value

STEPS = 12


class Toy(nnx.Module):
    """Drops half of a token's embedding, and classifies it."""

    def __init__(self, rngs, rate):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (24, 8)))
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (8, 8)))
        self.rate = rate

    def hidden(self, batch, key=None):
        return dropout(jnp.tanh(self.embedding[...][batch.tokens_BT]), self.rate, key), {}

    def head(self, hidden_ND):
        return hidden_ND @ self.kernel[...]


def toy(rate=0.5):
    return describe(lambda rngs: Toy(rngs, rate), ((".*", P("fsdp", "tensor")),))


def corpus():
    rng = np.random.default_rng(0)
    made = []
    for n in rng.integers(3, 15, 90):
        tokens = rng.integers(0, 24, n).astype(np.int32)
        made.append(Example(tokens, tokens % 8, (rng.random(n) < 0.7).astype(np.float32)))
    return loader(made, make_plan(lengths(made), batch_size=18, multiple=16, seed=3))


class Data:
    """The corpus, with something happening before the batch of a position."""

    def __init__(self, at=0, happens=lambda batch: batch):
        self.plan, self._loader, self._at, self._happens = (c := corpus()).plan, c, at, happens

        self.fingerprint = self._loader.fingerprint

    def iterate(self, start, stop, rows=None):
        for position, batch in enumerate(self._loader.iterate(start, stop, rows), start=start + 1):
            yield self._happens(batch) if position == self._at else batch


def terminate(batch):
    os.kill(os.getpid(), signal.SIGTERM)
    return batch


def poison(batch):
    return dataclasses.replace(batch, weights_BT=np.full_like(batch.weights_BT, np.nan))


def dev_loss(runner):
    """An evaluation in earnest: without dropout, on the first batches."""
    numbers = runner.map(forward, [corpus().batch(i) for i in range(2)])
    return {"loss": float(np.mean([float(x) for x in numbers]))}


def forward(model, batch):
    return value(cross_entropy(model, batch)["loss"])


def scripted(*scores):
    left = list(scores)
    return lambda runner: {"f1": left.pop(0), "other": 1.0}


def go(folder, data=None, *, mesh="data=2", rate=0.5, model=None, **changes):
    """A run of the toy; the mesh is of as many devices as it says."""
    devices = int(np.prod([int(part.partition("=")[2]) for part in mesh.split(",")]))
    arguments = {
        "loss": cross_entropy, "data": data or Data(), "steps": STEPS, "seed": 7, "log_to": ("none",), "log_every": 4,
        "checkpoint_every": 3, "eval_every": 5, "evals": {"dev": dev_loss},
        "optimizer": OptimConfig(learning_rate=0.05, schedule="constant", warmup=2),
    }  # fmt: skip
    run = Run(Path(folder), {"script": "toy", "config": {}})
    return fit(model or toy(rate), run=run, mesh=make_mesh(mesh, jax.devices()[:devices]), **{**arguments, **changes})


def saved(folder, position):
    """Parameters, optimizer state and update count of a checkpoint, as saved."""
    arrays = {}
    manager = Checkpoints(folder / "checkpoints")
    for item in ("params", "opt_state"):
        read = ocp.StandardCheckpointer().restore(folder.absolute() / "checkpoints" / str(position) / item)
        arrays |= {f"{item}/{name}": np.asarray(x) for name, x in read.items()}
    arrays["step"] = manager.meta(position)["step"]
    manager.close()
    return arrays


def log_of(folder):
    timing = ("tokens_per_s", "tflops_per_device", "mfu")
    return [{k: x for k, x in line.items() if k not in timing} for line in read_jsonl(folder / "metrics.jsonl")]
