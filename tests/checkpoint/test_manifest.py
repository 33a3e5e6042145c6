"""Files that are not what was written are found, whatever happened to them."""

import numpy as np
import pytest
from etils import epath

from jaxllm.checkpoint import manifest


@pytest.fixture
def folder(tmp_path):
    """Files of several sizes at several depths, with their manifest."""
    rng = np.random.default_rng(0)
    for name, size in (("meta/metadata", 300), ("params/d/a", 5000), ("params/d/b", 1), ("empty", 0)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(size))
    manifest.write(epath.Path(tmp_path))
    assert manifest.check(epath.Path(tmp_path)) is None
    return epath.Path(tmp_path)


def test_what_has_no_manifest_passes(folder):
    (folder / manifest.MANIFEST).unlink()
    (folder / "params/d/a").write_bytes(b"")
    assert manifest.check(folder) is None


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "params/d/a has 4999 bytes of 5000"),
        (lambda path: path.write_bytes(b""), "params/d/a has 0 bytes of 5000"),
        (lambda path: path.unlink(), "params/d/a cannot be read (No such file or directory)"),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "params/d/a is not what was written"),
    ],
)
def test_harm_is_named(folder, harm, words):
    harm(folder / "params/d/a")
    assert manifest.check(folder) == words
    found = [manifest.check(folder, part, 3) for part in range(3)]
    assert sorted(filter(None, found)) == [words], "each file is one process's to look at"


def test_no_flipped_bit_is_missed_nor_one_in_the_manifest(folder):
    rng = np.random.default_rng(1)
    for name in ["params/d/a", "params/d/b", "meta/metadata"] * 4 + [manifest.MANIFEST] * 40:
        path = folder / name
        good = path.read_bytes()
        bad, bit = bytearray(good), int(rng.integers(8 * len(good)))
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(bad))
        assert manifest.check(folder), (name, bit)
        path.write_bytes(good)
    assert manifest.check(folder) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"files": 3}', '{"files": {"empty": 1}}', '{"files": {"empty": [0]}}']
)
def test_a_torn_manifest_counts_as_damage(folder, text):
    (folder / manifest.MANIFEST).write_text(text)
    assert manifest.check(folder) == "manifest.json is damaged"
