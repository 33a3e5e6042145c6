"""Tokenizers of folders: code is not run, and what cannot be read is one line."""

import json

import pytest

from jaxllm import hf
from jaxllm.data.tokenizers import bpe
from jaxllm.types import InputError


def fault(folder):
    with pytest.raises(InputError) as error:
        hf.load_tokenizer(str(folder))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def folder(tmp_path):
    bpe(["plain words"], 280).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_the_folder_of_a_fast_tokenizer_is_read(folder):
    assert hf.load_tokenizer(str(folder)).decode(hf.load_tokenizer(str(folder))("plain")["input_ids"][1:]) == "plain"


def test_code_of_a_tokenizer_is_not_run(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "tokenization_my.py").write_text(f"open({str(ran)!r}, 'w')\nclass MyTokenizer:\n    pass\n")
    change(folder / "tokenizer_config.json", tokenizer_class="MyTokenizer",
           auto_map={"AutoTokenizer": ["tokenization_my.MyTokenizer", None]})  # fmt: skip
    assert "has no tokenizer that can be read" in fault(folder)
    assert not ran.exists()


def test_a_tokenizer_of_a_newer_library(folder):
    change(folder / "tokenizer.json", model={"type": "Newer", "vocab": {}})
    assert "it is of a newer version of the library tokenizers: upgrade that, or name one by" in fault(folder)


def test_a_tokenizer_without_a_fast_version(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "its tokenizer has no fast version (tokenizer.json); convert it with transformers" in fault(tmp_path)
