"""A train step on one device with what it is fed, for the parts that time or trace steps."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import numpy as np
import optax

import bench_compiled
from jaxllm.data.packing import Example, collate
from jaxllm.data.preference.answers import Layout
from jaxllm.distributed.chips import peak_flops
from jaxllm.distributed.mesh import make_mesh, put_batch
from jaxllm.losses import resolve
from jaxllm.models import encoder, heads
from jaxllm.models.decoder import PRESETS
from jaxllm.models.decoder import Config as Shape
from jaxllm.models.flops import model_flops
from jaxllm.models.heads import describe_model
from jaxllm.params import ModelSpec
from jaxllm.recipes.architecture import find_architecture
from jaxllm.train.setup import init_state, prepare
from workloads.work import HERE

REMAT = ("none", "attention", "full")
"""What is tried in turn, until a step fits."""


@dataclasses.dataclass(frozen=True)
class Work:
    """A model, its loss and a batch."""

    config: Any
    loss: str
    batch: Any

    def model(self, remat: str) -> ModelSpec:
        """Its description."""
        config = self.config
        if isinstance(config, heads.TaggerConfig):
            return describe_model(dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, remat=remat)))
        return describe_model(dataclasses.replace(config, remat=remat))

    @property
    def tokens(self) -> int:
        """Those that are no padding."""
        batch = getattr(self.batch, "batch", self.batch)
        return int((np.asarray(batch.segments_BT) > 0).sum())


TINY = Shape(vocab_size=256, width=32, depth=2, heads=2, mlp_width=64, max_positions=512)


def pretraining(name: str, rows: int, length: int, small: bool) -> Work:
    """A preset on rows of one document each."""
    shape = TINY if small else dataclasses.replace(PRESETS[name], dtype="bfloat16")
    return Work(shape, "cross_entropy", bench_compiled.packed(bench_compiled.Config(rows=rows, length=length)))


def tagging(rows: int, small: bool) -> Work:
    """BERT-base on rows of 128 tokens, packed with sentences of 31; nine labels."""
    size: dict[str, int] = {"width": 768, "depth": 12, "heads": 12, "mlp_width": 3072}
    if small:
        size = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 64}
    shape = encoder.Config(vocab_size=30522, dtype="bfloat16", **size)
    ones = np.ones(31, np.int32)
    batch = collate([[Example(ones, ones, ones.astype(np.float32))] * 4] * rows, 128, rows)
    return Work(heads.TaggerConfig(shape, tuple("OABCDEFGH")), "cross_entropy", batch)


def preference(length: int, small: bool) -> Work:
    """DPO of Gemma 3 1B on one row: a prompt of half of it, and two answers of a quarter each."""
    shape = TINY
    if not small:
        found = find_architecture(str(HERE / "models" / "gemma-3-1b.json"))
        assert found is not None
        shape = dataclasses.replace(found, dtype="bfloat16")
    shape = dataclasses.replace(shape, max_positions=max(shape.max_positions, length))
    layout = Layout(share=jax.default_backend() != "tpu")
    config = bench_compiled.Config(rows=1, length=length if layout.share else length // 3 * 2)
    return Work(shape, "dpo", bench_compiled.pairs(config, layout))


class Stepper:
    """The compiled step of some work with AdamW, its state and its batch, on the first device."""

    def __init__(self, work: Work, remat: str):
        self.work, self.mesh = work, make_mesh("data=1", jax.devices()[:1])
        spec, optimizer = work.model(remat), optax.adamw(1e-4)
        step, layout = prepare(spec, resolve(work.loss), optimizer, self.mesh)
        rows = jax.tree.leaves(work.batch)[0].shape[0]
        self.batch = put_batch(work.batch, self.mesh, rows)
        with jax.set_mesh(self.mesh):
            self.compiled = step.lower(layout.like, self.batch, {}).compile()
        self.state = init_state(spec, optimizer, layout)
        self.flops = model_flops(spec, {}).of(work.batch)

    def __call__(self) -> Any:
        """One step; its metrics."""
        self.state, metrics = self.compiled(self.state, self.batch, {})
        return metrics

    def time(self, steps: int) -> float:
        """Seconds of a step, of so many in a row after two."""
        for _ in range(2):
            jax.block_until_ready(self())
        began = time.perf_counter()
        for _ in range(steps):
            metrics = self()
        jax.block_until_ready((metrics, self.state))
        return (time.perf_counter() - began) / steps

    def measured(self, steps: int) -> dict[str, Any]:
        """Real tokens a second, the share of the device's peak that the model's FLOPs are, and memory."""
        seconds = self.time(steps)
        memory, peak = self.compiled.memory_analysis(), peak_flops(jax.devices()[0])
        found: dict[str, Any] = {
            "tokens_per_s": self.work.tokens / seconds, "step_ms": seconds * 1e3,
            "state_gib": memory.argument_size_in_bytes / 2**30, "temporaries_gib": memory.temp_size_in_bytes / 2**30,
        }  # fmt: skip
        return found if peak is None else {"mfu": self.flops / seconds / peak, **found}
