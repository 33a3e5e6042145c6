"""Safetensors files against the safetensors library, and broken ones."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxllm.hf import files
from jaxllm.types import InputError

RNG = np.random.default_rng(0)
ARRAYS = {
    "a": RNG.normal(size=(5, 7)).astype(np.float32),
    "b.weight": RNG.normal(size=(3, 4, 2)).astype(ml_dtypes.bfloat16),
    "c": RNG.normal(size=11).astype(np.float16),
    "ids": np.arange(6, dtype=np.int64).reshape(1, 6),
    "scalar": np.array(3.0, np.float32),
    "empty": np.zeros((0, 4), np.float32),
}


def write(folder, arrays, max_bytes=10**9):
    announced = {name: (x.shape, x.dtype.name) for name, x in arrays.items()}
    files.write(folder, announced, arrays.__getitem__, max_bytes=max_bytes)


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].dtype == x.dtype
        assert found[name].shape == x.shape
        assert found[name].tobytes() == x.tobytes()


def test_what_we_write_the_library_reads(tmp_path):
    write(tmp_path, ARRAYS)
    equal(load_file(tmp_path / files.SINGLE), ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == [files.SINGLE]


def test_what_the_library_writes_we_read(tmp_path):
    save_file(ARRAYS, tmp_path / files.SINGLE, metadata={"format": "pt"})
    equal({name: entry.map() for name, entry in files.open_folder(tmp_path).items()}, ARRAYS)


@pytest.mark.parametrize("metadata", [{}, None, "absent"])
def test_metadata_may_be_empty_or_null(tmp_path, metadata):
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(header if metadata == "absent" else {"__metadata__": metadata, **header}).encode()
    (tmp_path / files.SINGLE).write_bytes(len(text).to_bytes(8, "little") + text + np.float32([3, 4]).tobytes())
    assert files.open_folder(tmp_path)["a"].map().tolist() == [3.0, 4.0]


def test_an_index_of_a_file_alone_leaves_others_unread(tmp_path):
    save_file({"a": ARRAYS["a"]}, tmp_path / files.SINGLE)
    save_file({"c": ARRAYS["c"]}, tmp_path / "other.safetensors")
    index(tmp_path, {"a": files.SINGLE})
    assert files.open_folder(tmp_path).keys() == {"a"}


def test_shards_have_an_index_and_come_back(tmp_path):
    write(tmp_path, ARRAYS, max_bytes=150)
    index = json.loads((tmp_path / files.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in ARRAYS.values())
    shards = sorted(set(index["weight_map"].values()))
    assert shards == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert {n: shard for shard in shards for n in load_file(tmp_path / shard)} == index["weight_map"]
    assert all(sum(x.nbytes for x in load_file(tmp_path / shard).values()) <= 150 for shard in shards)
    equal({name: entry.map() for name, entry in files.open_folder(tmp_path).items()}, ARRAYS)


def test_arrays_in_another_order_or_dtype_are_written_right(tmp_path):
    x = RNG.normal(size=(4, 6)).astype(np.float32)
    files.write(tmp_path, {"x": ((6, 4), "bfloat16")}, lambda _: x.T, max_bytes=10**9)
    np.testing.assert_array_equal(load_file(tmp_path / files.SINGLE)["x"], x.T.astype(ml_dtypes.bfloat16))


def broken(tmp_path, match):
    with pytest.raises(InputError, match=match) as error:
        files.open_folder(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("keep", [3, 100, -1])
def test_truncated(tmp_path, keep):
    write(tmp_path, ARRAYS)
    path = tmp_path / files.SINGLE
    path.write_bytes(path.read_bytes()[:keep])
    broken(tmp_path, "truncated.*download it again")


def test_longer_than_it_says(tmp_path):
    write(tmp_path, ARRAYS)
    with (tmp_path / files.SINGLE).open("ab") as file:
        file.write(b"more")
    broken(tmp_path, "its header promises")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs pointer"),
        (b"\x80\x04pickled", "no safetensors file"),
        ((4).to_bytes(8, "little") + b"nope", "broken header"),
        ((2).to_bytes(8, "little") + b"[]", "broken header"),
        ((13).to_bytes(8, "little") + b'{"a":{"x":1}}', "broken header"),
    ],
)
def test_no_safetensors_file(tmp_path, content, message):
    (tmp_path / files.SINGLE).write_bytes(content)
    broken(tmp_path, message)


def forged(tmp_path, **changes):
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}
    text = json.dumps(header).encode()
    (tmp_path / files.SINGLE).write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [3]}, "a does not lie where its header says"),
        ({"shape": [-1, -2]}, "does not lie where"),
        ({"data_offsets": [4, 12]}, "a does not lie where its header says"),
        ({"dtype": "F4"}, "dtype F4, which is not read"),
        ({"dtype": ["F32"]}, "broken header"),
    ],
)
def test_headers_that_lie(tmp_path, changes, message):
    forged(tmp_path, **changes)
    broken(tmp_path, message)


def sharded(tmp_path, **where):
    for shard in {"one.safetensors", "two.safetensors"}:
        own = {name: ARRAYS[name] for name in ("a", "c") if where.get(name, "one.safetensors") == shard}
        save_file(own, tmp_path / shard)
    return {"a": "one.safetensors", "c": "two.safetensors"}


def index(tmp_path, weight_map):
    (tmp_path / files.INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_indices_that_lie(tmp_path):
    where = sharded(tmp_path, c="two.safetensors")
    index(tmp_path, where)
    assert files.open_folder(tmp_path).keys() == {"a", "c"}
    for outside in ("../one.safetensors", "/etc/passwd", "sub/one.safetensors"):
        index(tmp_path, where | {"a": outside})
        broken(tmp_path, "points outside its folder.*do not trust")
    index(tmp_path, where | {"a": "three.safetensors"})
    broken(tmp_path, "names three.safetensors, which is not there")
    index(tmp_path, where | {"x": "one.safetensors"})
    broken(tmp_path, r"x is not in one.safetensors \(1 such\)")
    index(tmp_path, where | {"a": "two.safetensors", "c": "one.safetensors"})
    broken(tmp_path, r"a is not in two.safetensors \(2 such\)")
    (tmp_path / files.INDEX).write_text("[]")
    broken(tmp_path, "holds a list")
    (tmp_path / files.INDEX).write_text("{")
    broken(tmp_path, "no readable JSON")
    index(tmp_path, ["one.safetensors"])
    broken(tmp_path, "no weight_map")


def test_a_tensor_in_two_shards(tmp_path):
    save_file({"a": ARRAYS["a"]}, tmp_path / "one.safetensors")
    save_file(ARRAYS, tmp_path / "two.safetensors")
    index(tmp_path, {"a": "one.safetensors", "c": "two.safetensors"})
    with pytest.raises(InputError, match=r"^a is in two.safetensors and in one.safetensors; delete stale shards$"):
        files.open_folder(tmp_path)


def test_what_is_there_instead(tmp_path):
    broken(tmp_path, "has no model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    broken(tmp_path, r"only pickled weights \(pytorch_model.bin\), and reading pickle runs the code.*convert")
    save_file(ARRAYS, tmp_path / "model-00001-of-00002.safetensors")
    broken(tmp_path, "neither model.safetensors nor model.safetensors.index.json; download the whole checkpoint")


def test_a_single_file_goes_before_an_index_as_in_transformers(tmp_path):
    write(tmp_path, {name: x[:1] if x.ndim else x for name, x in ARRAYS.items()}, max_bytes=60)
    shards = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    save_file(ARRAYS, tmp_path / files.SINGLE)
    entries = files.open_folder(tmp_path)
    equal({name: entry.map() for name, entry in entries.items()}, ARRAYS)
    assert files.unread(tmp_path, entries) == [*shards, files.INDEX]
    for shard in shards:
        (tmp_path / shard).unlink()
    equal({name: entry.map() for name, entry in files.open_folder(tmp_path).items()}, ARRAYS)
    save_file(ARRAYS, tmp_path / "consolidated.safetensors")
    assert files.unread(tmp_path, files.open_folder(tmp_path)) == ["consolidated.safetensors", files.INDEX]
