"""`python -m jaxllm cache`."""

import pytest
from huggingface_hub import constants

from jaxllm.cli import cache
from jaxllm.types import InputError

OURS = ("tokens", "downloads", "references", "corpora", "tokenizers")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A cache with 3 tokens, a tokenizer of 1,500 bytes and a model whose snapshot links to its file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    for path, content in {
        "jaxllm/tokens/a/tokens.bin": "abc", "jaxllm/downloads/b/whole-c.txt": "hello",
        "jaxllm/tokenizers/b/tokenizer.json": "x" * 1500,
        "hf/hub/models--c/blobs/1": "y" * 2_000_000,
    }.items():  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(content)
    (tmp_path / "hf/hub/models--c/model.safetensors").symlink_to(tmp_path / "hf/hub/models--c/blobs/1")
    return tmp_path


def test_each_cache_is_listed_with_its_size_and_folder(root, capsys):
    cache.main(cache.Config())
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[0]: " ".join(line.split()[1:3]) for line in lines[::2]}
    compiled = found.pop("compiled")
    assert compiled.split()[1] in ("bytes", "kB", "MB", "GB", "TB")
    assert found == {
        "tokens": "3 bytes", "downloads": "5 bytes", "references": "0 bytes", "corpora": "0 bytes",
        "tokenizers": "1.5 kB", "hub": "2.0 MB", "datasets": "0 bytes",
    }  # fmt: skip
    assert [line.strip() for line in lines[1::2]][1:] == [
        str(root / name) for name in (*(f"jaxllm/{name}" for name in OURS), "hf/hub", "hf/datasets")
    ]


def test_one_cache_is_emptied_and_the_others_stay(root, capsys):
    cache.main(cache.Config(clear="tokenizers"))
    assert capsys.readouterr().out == f"tokenizers: 1.5 kB deleted from {root / 'jaxllm/tokenizers'}\n"
    assert not list((root / "jaxllm/tokenizers").iterdir())
    assert (root / "jaxllm/tokens/a/tokens.bin").read_text() == "abc"
    cache.main(cache.Config(clear="references"))
    assert capsys.readouterr().out == f"references: 0 bytes deleted from {root / 'jaxllm/references'}\n"
    cache.main(cache.Config(clear="hub"))
    assert not list((root / "hf/hub").iterdir())


def test_a_link_in_a_cache_is_removed_and_not_what_it_points_to(root, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").write_text("kept")
    (root / "jaxllm/tokens/linked").symlink_to(tmp_path / "mine")
    cache.main(cache.Config(clear="tokens"))
    assert not list((root / "jaxllm/tokens").iterdir())
    assert (tmp_path / "mine" / "kept").read_text() == "kept"


def test_a_cache_that_there_is_not_is_named(root):
    with pytest.raises(InputError, match=r"--clear tokns: give one of compiled, .*; did you mean tokens\?"):
        cache.main(cache.Config(clear="tokns"))
