"""Which implementation of attention is taken on which platform, and what a run says of it."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxllm.distributed.mesh import make_mesh
from jaxllm.models import encoder
from jaxllm.models.backends import Asked, choose, describe
from jaxllm.models.decoder import PRESETS
from jaxllm.planning import Planning, planned

PLAIN = Asked(1024, 1024, 64, jnp.bfloat16, causal=True)


def chosen(platform, backend, mesh="fsdp=8", **asked):
    with jax.set_mesh(make_mesh(mesh)), planned(Planning([], platform, Path())):
        return choose(backend, dataclasses.replace(PLAIN, **asked))


EVERYTHING = {"branched": True, "windowed": True, "listed": False, "softcap": 30.0, "dropout": 0.1, "same": False}
CASES = [
    ("cpu", {}, "xla", "as on every CPU"),
    ("gpu", {}, "flash", "segments, windows, branches, soft-caps and dropout"),
    ("gpu", EVERYTHING, "flash", "dropout"),
    ("gpu", {"causal": False, "dropout": 0.1}, "flash", "dropout"),
    ("gpu", {"dtype": jnp.float32}, "flash", "dropout"),
    ("gpu", {"queries": 1}, "xla", "flash is for 64 queries or more"),
    ("gpu", {"features": 256, "dtype": jnp.float32}, "xla", "heads of at most 128 features in float32"),
    ("tpu", {}, "splash", "a kernel for TPUs"),
    ("tpu", {"dropout": 0.1}, "xla", "splash has no dropout, and attention's is 0.1"),
    ("tpu", {"branched": True}, "xla", "splash masks no branches"),
    ("tpu", {"windowed": True, "listed": False}, "xla", "these are not listed"),
    ("tpu", {"causal": False}, "xla", "seen from both sides"),
]  # fmt: skip


@pytest.mark.parametrize(("platform", "asked", "backend", "why"), CASES)
def test_auto(platform, asked, backend, why):
    found = chosen(platform, "auto", **asked)
    assert found.backend == backend
    assert why in found.why


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_no_kernel_without_a_mesh_on_several_devices(platform):
    with planned(Planning([], platform, Path())):
        assert choose("auto", PLAIN).backend == "xla"


def test_cudnn_never_sees_a_mask_over_2048_tokens():
    assert chosen("gpu", "cudnn", queries=2048, keys=2048).backend == "cudnn"
    for more in ({"queries": 2049}, {"keys": 4096}, {"softcap": 3.0}, {"dropout": 0.1}, {"dtype": jnp.float32}):
        assert chosen("gpu", "cudnn", **more).backend == "flash"
    assert "a whole mask of 4,096 tokens a side" in chosen("gpu", "cudnn", keys=4096).why


def line(platform, config, length=1024, mesh="fsdp=8"):
    with jax.set_mesh(make_mesh(mesh)), planned(Planning([], platform, Path())):
        return describe(config, length)


def test_what_a_run_says():
    gpt = dataclasses.replace(PRESETS["gpt2-124m"], dtype="bfloat16")
    assert line("cpu", gpt) == "attention by xla: as on every CPU"
    assert line("gpu", gpt).startswith("attention by flash: a kernel for GPUs")
    assert line("tpu", gpt).startswith("attention by splash: a kernel for TPUs")
    dropped = dataclasses.replace(gpt, attention_dropout=0.1)
    assert line("tpu", dropped) == (
        "attention by xla: splash has no dropout, and attention's is 0.1; without dropout it would be splash"
    )
    assert line("gpu", dropped).startswith("attention by flash")
    assert line("gpu", dataclasses.replace(gpt, backend="cudnn"), 4096).startswith(
        "attention by flash: cudnn would need"
    )
    assert "a ring" in line("gpu", gpt, mesh="fsdp=4,context=2")
    bert = encoder.Config(vocab_size=64, width=64, depth=1, heads=1, mlp_width=64)
    assert line("gpu", bert, 128).startswith("attention by flash")
    assert line("tpu", bert, 128).startswith("attention by xla: rows that are seen from both sides")


def test_presets_have_no_dropout_so_that_kernels_of_every_platform_take_them():
    assert all(shape.attention_dropout == shape.embedding_dropout == shape.output_dropout == 0
               for shape in PRESETS.values())  # fmt: skip
