"""Compiles the steps of small models for accelerators that are not here, as `fit` would, from shapes alone."""

import contextlib
import dataclasses
import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.data.packing import Example, collate
from jaxllm.data.preference.answers import Answer, AnswerRows, Group, Layout
from jaxllm.distributed import mesh as meshes
from jaxllm.evals import decode
from jaxllm.evals import sampling as sampling_of
from jaxllm.losses import resolve
from jaxllm.models import decoder, encoder, heads, lora
from jaxllm.params import describe
from jaxllm.plan.step import shapes_of
from jaxllm.plan.target import compiling, devices_of, parse_target, prepare
from jaxllm.planning import Planning, planned
from jaxllm.train.setup import prepare as prepare_step
from jaxllm.types import InputError

VOCAB, T = 1024, 256
DENSE = decoder.Config(
    vocab_size=VOCAB, width=512, depth=2, heads=8, mlp_width=512, kv_heads=4, head_width=128, max_positions=T,
    dtype="bfloat16", remat="full", unroll=1,
)  # fmt: skip
WINDOWS = dataclasses.replace(
    DENSE, windows=(64, 0), attention_softcap=50.0, logit_softcap=30.0, norm_place="both", qk_norm="head", tied=True
)
MIXTURE = dataclasses.replace(DENSE, experts=4)
ENCODER = encoder.Config(
    vocab_size=VOCAB, width=512, depth=2, heads=8, mlp_width=512, max_positions=T, dtype="bfloat16", remat="full",
    unroll=1,
)  # fmt: skip
ENCODERS = {
    "bert": ENCODER,
    "roberta": dataclasses.replace(ENCODER, position_offset=2, token_types=1),
    "distilbert": dataclasses.replace(ENCODER, token_types=0),
    "modernbert": dataclasses.replace(
        ENCODER, token_types=0, rope_base=16e4, local_rope_base=1e4, window=64, global_every=2, pre_norm=True,
        gated=True, attention_bias=False, mlp_bias=False, norm_bias=False,
    ),
}  # fmt: skip


def of(config, **fields):
    """A language model."""
    config = dataclasses.replace(config, **fields)
    return describe(lambda rngs: decoder.Decoder(config, rngs), decoder.SHARDING)


def scorer(config, **fields):
    """A reward model."""
    config = heads.ScorerConfig(dataclasses.replace(config, **fields))
    return describe(lambda rngs: heads.Scorer(config, rngs), heads.SCORER_SHARDING)


def tagger(kind, **fields):
    """A token classifier, with dropout as the families have it."""
    config = heads.TaggerConfig(
        dataclasses.replace(ENCODERS[kind], **fields), tuple("OABCDEFGH"), transform=kind == "modernbert"
    )
    return describe(lambda rngs: heads.Tagger(config, rngs), heads.SHARDING)


def adapted(config, **fields):
    """A language model with LoRA."""
    return lora.add(of(config, **fields), lora.Config(8))


def rows(count, length=T):
    """Packed documents."""
    documents = [Example(np.ones(n, np.int32), np.ones(n, np.int32), np.ones(n, np.float32)) for n in (96, 128)]
    return collate([documents] * count, length, count)


def tags(count):
    """Tagged words."""
    return rows(count)


SHARED = Layout()


def pairs(layout=SHARED, reference=False):
    """Two answers to each prompt, one prompt a row."""

    def build(count):
        answers = tuple(Answer(np.ones(64, np.int32), np.ones(64, bool), side) for side in (1, -1))
        groups = [Group(np.ones(32, np.int32), answers) for _ in range(count)]
        logps = [[-np.ones(layout.size(a), np.float32) for a in g.answers] for g in groups]
        return AnswerRows(groups, layout, logps if reference else None).collate(
            [[i] for i in range(count)], T, count, 2
        )

    return build


def singles(count):
    """One answer to each prompt, which is desirable in every second row, and one to estimate the KL divergence from."""
    answer = lambda side: Answer(np.ones(64, np.int32), np.ones(64, bool), side)
    layout = Layout(share=False)
    groups = [Group(np.ones(32, np.int32), (answer(1 - 2 * (i % 2)), answer(0))) for i in range(count)]
    logps = [[-np.ones(layout.size(a), np.float32) for a in g.answers] for g in groups]
    return AnswerRows(groups, layout, logps).collate([[i] for i in range(count)], T, count, 2)


def target(text):
    """The devices of a topology; waits for libtpu, which compiles for one process at a time."""
    found = parse_target(text)
    prepare(found)
    for _ in range(120):
        try:
            return found, devices_of(found)
        except InputError as error:
            if "in use" not in str(error):
                raise
            time.sleep(5)
    pytest.fail("libtpu is in use for ten minutes")


def mesh_of(devices, text):
    """The mesh that a script would make of them."""
    sizes = dict(part.split("=") for part in text.split(","))  # -1: the rest
    grid = np.array(devices).reshape([int(sizes.get(axis, 1)) for axis in meshes.AXES])
    return jax.sharding.Mesh(grid, meshes.AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(meshes.AXES))


@contextlib.contextmanager
def planning_for(found, devices):
    """Whoever asks is told that it computes for these devices; nothing is cached, for it could not be read again."""
    skipped = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        with planned(Planning(devices, found.platform, Path())), compiling(found):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", skipped)


def options_of(found):
    """No kernel can be timed."""
    return {"xla_gpu_autotune_level": "0"} if found.platform == "gpu" else None


def compile_step(spec, loss, build, topology, mesh):
    """The train step with AdamW, compiled for a topology."""
    found, devices = target(topology)
    mesh = mesh_of(devices, mesh)
    batch = shapes_of(build(meshes.row_multiple(mesh)), mesh)
    step, layout = prepare_step(spec, resolve(loss), optax.adamw(1e-4), mesh)
    frozen = {name: shaped(spec.graphdef.abstract[name], at) for name, at in layout.frozen.items()}
    with planning_for(found, devices):
        return step.lower(layout.like, batch, frozen).compile(options_of(found))


def compile_decoding(config, topology, mesh, rows=8):
    """The step of generation that reads one token and chooses the next, compiled for a topology.

    The cache is sharded as what has read the prompts leaves it.
    """
    found, devices = target(topology)
    mesh, spec = mesh_of(devices, mesh), of(config)
    at = meshes.shardings(spec.graphdef.abstract, mesh, spec.rules, limits=spec.graphdef.limits)
    params = {name: shaped(x, at[name]) for name, x in spec.graphdef.abstract.items()}
    sampling = sampling_of.Sampling(temperature=1.0, top_p=0.9)
    prompts = decode.pack_prompts(
        np.ones((rows, T // 2), int).cumsum(0).tolist(), range(rows), [T // 2] * rows, jax.random.key(0),
        slots=T // 2, multiple=meshes.row_multiple(mesh),
    )  # fmt: skip
    prompts = jax.tree.map(lambda x: shaped(x, meshes.replicated(mesh)), prompts)
    ends = jax.ShapeDtypeStruct((1,), jnp.int32, sharding=meshes.replicated(mesh))
    with planning_for(found, devices), jax.set_mesh(mesh):
        lowered = decode.start.lower(spec.graphdef, sampling, T, T // 2, params, prompts, ends)
        state_at, _ = lowered.compile(options_of(found)).output_shardings
        state, _ = jax.eval_shape(
            functools.partial(decode.start, spec.graphdef, sampling, T, T // 2), params, prompts, ends
        )
        state = jax.tree.map(shaped, state, state_at)
        return decode.decode.lower(spec.graphdef, sampling, params, state, T // 2, 0).compile(options_of(found))


def shaped(x, at):
    """An array's shape and dtype with a sharding."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at)
