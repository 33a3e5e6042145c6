"""Meshes from text, and where parameters, optimizer states and batches live."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxllm.axes import AXES
from jaxllm.distributed.mesh import (
    local_rows,
    make_mesh,
    put_batch,
    replicated,
    row_multiple,
    shardings,
    specs_of,
)
from jaxllm.models import deberta, decoder, encoder
from jaxllm.models.heads import SHARDING, Tagger, TaggerConfig
from jaxllm.params import describe, materialize
from jaxllm.train.optim import OptimConfig, make_optimizer
from jaxllm.types import Answers, Batch, InputError, TrainState

BASE = {"vocab_size": 64, "width": 16, "depth": 2, "heads": 2, "mlp_width": 32, "max_positions": 32}
FAMILIES = {
    "bert": TaggerConfig(encoder.Config(**BASE), ("O", "X")),
    "roberta": TaggerConfig(encoder.Config(**BASE, position_offset=2, token_types=1), ("O", "X")),
    "electra": TaggerConfig(encoder.Config(**BASE, embedding_width=8), ("O", "X")),
    "albert": TaggerConfig(encoder.Config(**BASE, embedding_width=8, groups=1), ("O", "X")),
    "deberta": TaggerConfig(
        deberta.Config(**BASE, reach=8, content_to_position=True, position_to_content=True, relative_norm=True,
                       conv_taps=3),
        ("O", "X"),
    ),
    "distilbert": TaggerConfig(encoder.Config(**BASE, token_types=0), ("O", "X")),
    "modernbert": TaggerConfig(
        encoder.Config(**BASE, token_types=0, rope_base=1e4, local_rope_base=1e3, window=4, global_every=2,
                       pre_norm=True, gated=True, attention_bias=False, mlp_bias=False, norm_bias=False),
        ("O", "X"), transform=True, transform_bias=True,
    ),
    "crf": TaggerConfig(encoder.Config(**BASE), ("O", "X"), crf=True),
}  # fmt: skip


def bytes_per_device(tree):
    held = {}
    for x in jax.tree.leaves(tree):
        for shard in x.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return held


def abstract(config):
    return describe(lambda rngs: Tagger(config, rngs), SHARDING).graphdef.abstract


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("", {"data": 8}), ("data=8", {"data": 8}), ("fsdp=-1", {"fsdp": 8}),
        ("data=2,fsdp=4", {"data": 2, "fsdp": 4}), ("fsdp=-1, tensor=2", {"fsdp": 4, "tensor": 2}),
        ("data=2,context=2,expert=2", {"data": 2, "context": 2, "expert": 2}),
    ],
)  # fmt: skip
def test_make_mesh(text, sizes):
    mesh = make_mesh(text)
    assert dict(mesh.shape) == {axis: sizes.get(axis, 1) for axis in AXES}
    assert sorted(d.id for d in mesh.devices.flat) == list(range(8))
    assert row_multiple(mesh) == sizes.get("data", 1) * sizes.get("fsdp", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data=3", "wants 3 devices, there are 8"),
        ("fsdp=16", "on CPU, XLA_FLAGS=--xla_force_host_platform_device_count=16 makes 16 fake devices"),
        ("data=4", "to 8, such as data=8; one may be -1"),
        ("data=2,fsdp=3", "such as data=2,fsdp=4;"), ("tensor=3,context=4", "such as tensor=2,context=4;"),
        ("data=3,fsdp=3", "such as fsdp=8;"), ("data=2x,fsdp=4", "'data=2x'"), ("data=-1x2", "'data=-1x2'"),
        ("model=8", "'model=8'"),
        ("data", "'data' is not AXIS=SIZE"), ("data=0", "'data=0'"), ("data=-2", "'data=-2'"),
        ("data=-1,fsdp=-1", "for -1"),
        ("data=3,fsdp=-1", "8 devices leave nothing whole"), ("data=x", "'data=x'"), ("data=2,data=4", "twice"),
    ],
)  # fmt: skip
def test_make_mesh_refuses(text, message):
    with pytest.raises(InputError) as error:
        make_mesh(text)
    assert message in str(error.value)
    assert text in str(error.value)


def test_every_parameter_has_a_rule_and_every_rule_a_parameter():
    matched = set()
    for config in FAMILIES.values():
        for name, x in abstract(config).items():
            rules = [i for i, (regex, _) in enumerate(SHARDING) if re.fullmatch(regex, name)]
            assert len(rules) == 1, f"{name}: {rules}"
            assert len(SHARDING[rules[0]][1]) in (0, x.ndim), f"{name} {x.shape}: the rule has other axes"
            matched |= set(rules)
    assert matched == set(range(len(SHARDING)))


def test_there_is_no_catch_all():
    with pytest.raises(KeyError, match=r"no sharding rule for parameter blocks\.new"):
        specs_of("blocks.new", SHARDING)
    with pytest.raises(KeyError, match=r"blocks\.new"):
        shardings({"blocks.new": jax.ShapeDtypeStruct((2,), jnp.float32)}, make_mesh(), SHARDING)


def test_axes_that_do_not_divide_are_one_report():
    config = TaggerConfig(encoder.Config(**{**BASE, "width": 12, "mlp_width": 20}), ("O", "X"))
    with pytest.raises(InputError) as error:
        shardings(abstract(config), make_mesh("fsdp=8"), SHARDING)
    text = str(error.value)
    assert "\n" not in text
    for part in (
        "embeddings.norm.scale (12,): 12 over fsdp=8",
        "classifier.kernel (12, 2)",
        "blocks.mlp.down.kernel (2, 20, 12)",
        "blocks.mlp.up.bias (2, 20): 20 over ('tensor', 'fsdp')=8",
        "; fsdp could be 1, 2, 4",
    ):
        assert part in text
    assert "classifier.bias" not in text, "what is replicated divides"


def named(tree):
    return {
        jax.tree_util.keystr(k, simple=True, separator="/"): s for k, s in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("freeze", [(), ("embeddings.*", "blocks[:1].*")])
def test_moments_live_with_their_parameters(freeze):
    params = abstract(FAMILIES["modernbert"])
    mesh = make_mesh("fsdp=4,tensor=2")
    optimizer = make_optimizer(OptimConfig(freeze=freeze), params, optax.constant_schedule(0.1))
    state = jax.eval_shape(optimizer.init, params)
    at = named(shardings(state, mesh, SHARDING, params))
    assert at == named(shardings(state, mesh, SHARDING)), "nothing is factored: the shapes need not be given"
    for moment in ("mu", "nu"):
        found = {key.split("/")[-1]: s for key, s in at.items() if f"/{moment}/" in key}
        trained = [n for n in params if not freeze or not n.startswith("embeddings.")]
        assert {n: s.spec for n, s in found.items()} == {n: specs_of(n, SHARDING)[0] for n in trained}
    rest = [s for key, s in at.items() if "/mu/" not in key and "/nu/" not in key]
    assert rest
    assert all(s == replicated(mesh) for s in rest)


def test_factored_moments_take_the_spec_less_the_reduced_axis():
    params = abstract(FAMILIES["modernbert"])
    mesh = make_mesh("fsdp=4,tensor=2")
    optimizer = optax.adafactor(0.1, min_dim_size_to_factor=8)
    state = jax.eval_shape(optimizer.init, params)
    shapes = {key: x.shape for key, x in named(state).items()}
    at = {key: s.spec for key, s in named(shardings(state, mesh, SHARDING, params)).items()}

    def of(name, part):
        key = next(k for k in at if k.endswith(f"{part}/{name}"))
        return shapes[key], at[key]

    # kernel (2, 16, 32) over (None, fsdp, tensor)
    assert of("blocks.mlp.up.kernel", "v_row") == ((2, 16), P(None, "fsdp"))
    assert of("blocks.mlp.up.kernel", "v_col") == ((2, 32), P(None, "tensor"))
    assert of("blocks.mlp.up.kernel", "v") == ((1,), P())
    # (64, 16) over (None, (fsdp, tensor))
    assert of("embeddings.tokens.embedding", "v_row") == ((16,), P(("fsdp", "tensor")))
    assert of("embeddings.tokens.embedding", "v_col") == ((64,), P(None))
    # Square: which of its two axes was reduced cannot be told.
    assert of("blocks.attn.q.kernel", "v_row") == ((2, 16), P())
    # Not factored at all.
    assert of("blocks.attn_norm.scale", "v") == ((2, 16), P(None, "fsdp"))
    assert of("blocks.attn_norm.scale", "v_row") == ((1,), P())
    guessed = {key: s.spec for key, s in named(shardings(state, mesh, SHARDING)).items()}
    assert next(s for k, s in guessed.items() if k.endswith("v/blocks.attn_norm.scale")) == P(None, "fsdp")


def test_eight_devices_hold_an_eighth_of_the_state_each():
    config = encoder.Config(vocab_size=1024, width=64, depth=2, heads=4, mlp_width=256, max_positions=64)
    spec = describe(lambda rngs: Tagger(TaggerConfig(config, tuple("OABCDEFG")), rngs), SHARDING)
    mesh, params = make_mesh("fsdp=8"), spec.graphdef.abstract
    optimizer = make_optimizer(OptimConfig(), params, optax.constant_schedule(0.1))
    made = materialize(spec, shardings(params, mesh, SHARDING), 0)
    at = shardings(jax.eval_shape(optimizer.init, params), mesh, SHARDING, params)
    state = TrainState(
        jax.device_put(np.int32(0), replicated(mesh)), made, jax.jit(optimizer.init, out_shardings=at)(made)
    )
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    held = bytes_per_device(state)
    assert len(held) == 8
    assert max(held.values()) <= 1.05 / 8 * whole
    alone = bytes_per_device(jax.device_put(made, replicated(mesh)))
    assert set(alone.values()) == {sum(x.nbytes for x in made.values())}


@pytest.mark.parametrize("text", ["data=8", "data=2,fsdp=4", "fsdp=2,tensor=4", "tensor=8"])
def test_a_batch_is_the_same_rows_on_any_mesh(text):
    mesh = make_mesh(text)
    batch = Batch(*(np.arange(48, dtype=np.int32).reshape(16, 3) + 100 * i for i in range(5)))
    assert local_rows(mesh, 16) == list(range(16))
    placed = put_batch(batch, mesh, 16)
    jax.tree.map(np.testing.assert_array_equal, placed, batch)
    per_device = 16 // row_multiple(mesh)
    assert {s.data.shape for s in placed.tokens_BT.addressable_shards} == {(per_device, 3)}
    assert placed.branches_BT is None


def test_a_process_that_holds_rows_of_its_own_in_any_order_places_them():
    mesh = make_mesh("data=8")
    order = [3, 0, 1, 2, 7, 6, 5, 4]
    whole = np.arange(16).reshape(8, 2)
    np.testing.assert_array_equal(put_batch(whole[order], mesh, 8, order), whole)


def test_a_mesh_may_be_of_some_devices():
    mesh = make_mesh("data=2", jax.devices()[:2])
    assert mesh.size == 2


def test_heads_are_checked_with_the_parameters_in_one_report():
    """Four key heads of width 8 are 32 columns, which 8 divides: columns alone would not tell."""
    config = decoder.Config(vocab_size=64, width=64, depth=1, heads=8, kv_heads=4, mlp_width=64, max_positions=32)
    graphdef = describe(lambda rngs: decoder.Decoder(config, rngs), decoder.SHARDING).graphdef
    with pytest.raises(InputError) as error:
        shardings(graphdef.abstract, make_mesh("tensor=8"), decoder.SHARDING, limits=graphdef.limits)
    assert str(error.value) == (
        "the mesh does not divide the model: 4 key and value heads over tensor=8; tensor could be 1, 2, 4"
    )
    mixture = dataclasses.replace(config, experts=3)
    graphdef = describe(lambda rngs: decoder.Decoder(mixture, rngs), decoder.SHARDING).graphdef
    with pytest.raises(InputError) as error:
        shardings(graphdef.abstract, make_mesh("tensor=4,expert=2"), decoder.SHARDING, limits=graphdef.limits)
    assert "3 experts over expert=2; " in str(error.value)
    assert "expert could be 1, 3" in str(error.value)
    assert "tensor could" not in str(error.value)
    tagger = describe(lambda rngs: Tagger(FAMILIES["bert"], rngs), SHARDING).graphdef
    assert tagger.limits == (("tensor", "heads", 2),)


@pytest.mark.parametrize("text", ["context=2,data=4", "fsdp=2,tensor=2,context=2", "context=8"])
def test_a_sequence_is_cut_over_context_and_padded_to_it(text):
    mesh = make_mesh(text)
    arrays = [np.arange(56, dtype=np.int32).reshape(8, 7) + 100 * i for i in range(6)]
    answers = Answers(Batch(*arrays[:5]), arrays[5], *(np.arange(24).reshape(8, 3) + i for i in range(4)))
    placed = put_batch(answers, mesh, 8)
    length = -(-7 // mesh.shape["context"]) * mesh.shape["context"]
    for x, y in (
        (placed.batch.tokens_BT, arrays[0]),
        (placed.batch.weights_BT, arrays[2]),
        (placed.answer_BT, arrays[5]),
    ):
        assert x.shape == (8, length)
        np.testing.assert_array_equal(x[:, :7], y)
        assert not x[:, 7:].any()
        assert {s.data.shape for s in x.addressable_shards} == {
            (8 // row_multiple(mesh), length // mesh.shape["context"])
        }
    np.testing.assert_array_equal(placed.side_BA, np.arange(24).reshape(8, 3) + 1)
    assert {s.data.shape for s in placed.pair_BA.addressable_shards} == {(8 // row_multiple(mesh), 3)}
    assert placed.ref_logps_BT is None
