"""Tables in both directions, on made-up names."""

import itertools

import numpy as np
import pytest

from jaxllm.hf import table
from jaxllm.hf.table import Table, conv1d, embedding, layout, linear, match, norm

TABLE = Table(
    (
        *embedding("net.words", "embeddings.tokens"),
        *linear("net.layer.{layer}.qkv", "blocks.q", "blocks.k", "blocks.v"),
        *conv1d("net.layer.{layer}.c_attn", "blocks.cq", "blocks.ck"),
        *norm("net.layer.{layer}.ln", "blocks.norm", absent=(0,)),
        *linear("net.layer.{layer}.experts.{expert}.w1", "blocks.experts.up"),
        *linear("top", "classifier"),
    ),
    prefix="net.",
    ignore=(r"net\.pooler\..*", r".*position_ids"),
    renames=((r"\.gamma$", ".weight"),),
    heads=("classifier",),
)
SHAPES = {
    "embeddings.tokens.embedding": (11, 6),
    "blocks.q.kernel": (3, 6, 8), "blocks.k.kernel": (3, 6, 4), "blocks.v.kernel": (3, 6, 4),
    "blocks.q.bias": (3, 8), "blocks.k.bias": (3, 4), "blocks.v.bias": (3, 4),
    "blocks.cq.kernel": (3, 6, 5), "blocks.ck.kernel": (3, 6, 7),
    "blocks.norm.scale": (3, 6), "blocks.experts.up.kernel": (3, 2, 6, 9),
    "classifier.kernel": (6, 5), "classifier.bias": (5,),
}  # fmt: skip


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    made["blocks.norm.scale"][0] = 1.0  # the row that is not on disk
    return made


@pytest.fixture
def disk(params):
    tensors = layout(TABLE, params)
    return {name: table.join(tensor, lambda part, row: params[part][row]) for name, tensor in tensors.items()}


def test_tensors_on_disk_are_what_the_rules_say(params, disk):
    fused = np.concatenate([params[f"blocks.{x}.kernel"][1].T for x in "qkv"])
    np.testing.assert_array_equal(disk["net.layer.1.qkv.weight"], fused)
    np.testing.assert_array_equal(
        disk["net.layer.2.qkv.bias"], np.concatenate([params[f"blocks.{x}.bias"][2] for x in "qkv"])
    )
    conv = np.concatenate([params["blocks.cq.kernel"][0], params["blocks.ck.kernel"][0]], axis=1)
    np.testing.assert_array_equal(disk["net.layer.0.c_attn.weight"], conv)
    np.testing.assert_array_equal(disk["net.layer.2.experts.1.w1.weight"], params["blocks.experts.up.kernel"][2, 1].T)
    np.testing.assert_array_equal(disk["net.words.weight"], params["embeddings.tokens.embedding"])
    assert "net.layer.1.ln.weight" in disk
    assert "net.layer.0.ln.weight" not in disk
    assert len(disk) == 1 + 3 * 2 + 3 + 2 + 3 * 2 + 2
    assert {name: x.shape for name, x in disk.items()} == {n: t.shape for n, t in layout(TABLE, params).items()}


@pytest.mark.parametrize("name", SHAPES)
def test_any_part_of_a_parameter_comes_back(name, params, disk):
    rows = table.sources(layout(TABLE, params))[name]
    axes = [[(0, n), (0, n // 2), (n // 2, n), (n - 1, n)] for n in SHAPES[name]]
    for bounds in itertools.product(*axes):
        index = tuple(slice(a, b) for a, b in bounds)
        read = []
        got = table.piece(rows, SHAPES[name], index, np.float32, lambda x, read=read: read.append(x) or disk[x])
        np.testing.assert_array_equal(got, params[name][index])
        assert len(read) <= np.prod([b - a for a, b in bounds[: len(next(iter(rows)))]])


def test_a_parameter_without_a_rule_is_an_error(params):
    with pytest.raises(ValueError, match=r"no rule for blocks\.other\.kernel"):
        layout(TABLE, params | {"blocks.other.kernel": np.zeros((3, 2, 2))})


def shapes_of(disk):
    return {name: x.shape for name, x in disk.items()}


def test_a_file_that_fits_has_no_problems(params, disk):
    found = match(TABLE, layout(TABLE, params), shapes_of(disk))
    assert found == table.Match({name: name for name in disk}, frozenset(), (), (), ())


def test_bare_trunk_old_spellings_and_ignored_names(params, disk):
    shapes = {name.removeprefix("net."): shape for name, shape in shapes_of(disk).items() if not name.startswith("top")}
    shapes["layer.1.ln.gamma"] = shapes.pop("layer.1.ln.weight")
    shapes |= {"pooler.dense.weight": (6, 6), "position_ids": (1, 9)}
    found = match(TABLE, layout(TABLE, params), shapes)
    assert found.problems == ()
    assert found.names["net.layer.1.ln.weight"] == "layer.1.ln.gamma"
    assert found.ignored == ("pooler.dense.weight", "position_ids")
    assert found.initialised == {"classifier.kernel", "classifier.bias"}
    assert found.notes == ("classifier initialised: not in the file",)


def test_a_head_of_another_shape_or_label_set_is_initialised(params, disk):
    shapes = shapes_of(disk) | {"top.weight": (2, 6)}
    found = match(TABLE, layout(TABLE, params), shapes)
    assert found.initialised == {"classifier.kernel", "classifier.bias"}
    assert found.notes == ("classifier initialised: top.weight is (2, 6), wanted (5, 6)",)
    found = match(TABLE, layout(TABLE, params), shapes_of(disk), {"classifier": "other labels"})
    assert found.initialised == {"classifier.kernel", "classifier.bias"}
    assert found.notes == ("classifier initialised: other labels",)
    assert not found.problems


def test_everything_that_does_not_fit_is_listed(params, disk):
    shapes = shapes_of(disk)
    del shapes["net.layer.1.qkv.bias"], shapes["top.bias"]
    shapes |= {"net.words.weight": (12, 6), "stranger": (1,), "layer.2.ln.gamma": (6,)}
    found = match(TABLE, layout(TABLE, params), shapes)
    assert set(found.problems) == {
        "missing net.layer.1.qkv.bias (16,)",
        "missing top.bias (5,)",  # half a head is no head
        "net.words.weight is (12, 6), wanted (11, 6)",
        "unexpected stranger (1,)",
        "net.layer.2.ln.weight and layer.2.ln.gamma are the same tensor",
    }
