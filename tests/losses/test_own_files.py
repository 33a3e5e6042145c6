"""The text of the files that losses come from."""

import sys

import pytest

from jaxllm.losses import resolve
from jaxllm.losses.own_files import texts
from jaxllm.types import InputError


def test_each_file_of_a_mixture_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("one = 1\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "other.py").write_text("two = 2\n")
    assert texts("sigmoid:0.5+sft") == {}
    assert texts("mine.py:f") == {"mine.py": "one = 1\n"}
    assert texts("mine.py:f:0.5+a/other.py:g+sft:2") == {"mine.py": "one = 1\n", "a/other.py": "two = 2\n"}
    assert "def cross_entropy" in texts("jaxllm.losses.tokens:cross_entropy")["jaxllm.losses.tokens"]
    assert texts("absent.py:f") == texts("no_such_module:f") == texts("no.such.module:f") == {}


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\n# \xe9\n")
    with pytest.raises(InputError, match=r"latin\.py is not UTF-8"):
        texts(f"{tmp_path}/latin.py:f")


def test_no_bytecode_is_left_beside_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "kept_clean.py").write_text(
        "from jaxllm.losses import preference_loss\n@preference_loss\ndef margin(p):\n    return -p.delta_B\n"
    )
    assert resolve(f"{tmp_path}/kept_clean.py:margin").kind == "pairs"
    assert [path.name for path in tmp_path.iterdir()] == ["kept_clean.py"]
    assert not sys.dont_write_bytecode
