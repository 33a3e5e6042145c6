"""What explain-sharding prints, for devices that are not there."""

import shutil

import pytest
from drawn import drawn

from jaxllm import hf
from jaxllm.cli.explain_sharding import Config, main
from jaxllm.data.tokenizers import bpe
from jaxllm.models import decoder, encoder
from jaxllm.models.heads import SHARDING, Tagger, TaggerConfig
from jaxllm.params import describe
from jaxllm.types import InputError


def test_every_parameter_with_what_a_device_holds(capsys):
    main(Config("tiny", "fsdp=32,tensor=2"))
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.startswith("blocks.mlp.up.kernel"))
    assert f"{2 * 64 * 160 * 4 // 64:,} bytes" in line
    assert "on 64 devices" in out
    assert "1.00 times an even share" in out
    assert "not cut over" not in out


def test_what_an_axis_does_not_cut_is_named(capsys):
    main(Config("tiny", "fsdp=2,expert=2"))
    out = capsys.readouterr().out
    assert "2.00 times an even share" in out


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A Hugging Face folder of a small decoder with two heads."""
    config = decoder.Config(vocab_size=280, width=16, depth=2, heads=2, mlp_width=24, max_positions=64)
    spec = describe(lambda rngs: decoder.Decoder(config, rngs), decoder.SHARDING)
    path = tmp_path_factory.mktemp("model")
    hf.export(path, drawn(spec), config, bpe(["some words of a tokenizer"] * 3, 280))
    return path


def test_a_folder_and_a_run_are_explained_alike(exported, tmp_path, command, capsys):
    """A run with an export, one with checkpoints alone, and what its export was made of."""
    (tmp_path / "finished").mkdir()
    (tmp_path / "finished" / "config.json").write_text('{"script": "pretrain", "config": {}}')
    shutil.copytree(exported, tmp_path / "finished" / "hf")
    command("convert", exported, tmp_path / "run", "--to", "run")
    capsys.readouterr()
    found = []
    for model in (exported, tmp_path / "finished", tmp_path / "run"):
        command("explain-sharding", model, "--mesh", "fsdp=2,tensor=2")
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] == found[2]
    (line,) = (line for line in found[0].splitlines() if line.startswith("blocks.mlp.up.kernel"))
    assert f"{2 * 16 * 24 * 4 // 4:,} bytes" in line


def test_a_tagger_is_explained_too(tmp_path, capsys):
    shape = encoder.Config(vocab_size=64, width=16, depth=2, heads=2, mlp_width=32, max_positions=32)
    config = TaggerConfig(shape, ("O", "B-X"))
    spec = describe(lambda rngs: Tagger(config, rngs), SHARDING)
    hf.export(tmp_path, drawn(spec), config, bpe(["some words"] * 3, 64 + 256))
    main(Config(str(tmp_path), "fsdp=4"))
    assert "classifier.kernel" in capsys.readouterr().out


def test_heads_that_do_not_divide_are_named_by_every_command(exported, command, capsys):
    for words in (["explain-sharding", exported], ["generate", exported, "some"]):
        with pytest.raises(SystemExit) as stop:
            command(*words, "--mesh", "tensor=8")
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert "2 query heads over tensor=8" in error
        assert "tensor could be 1, 2" in error
        assert error.count("\n") == 1


def test_a_vocabulary_that_the_mesh_does_not_divide_is_cut_along_the_width(capsys):
    main(Config("gpt2-124m", "fsdp=4,tensor=2"))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("embeddings.tokens.embedding"))
    assert f"{50257 * 768 * 4 // 8:,} bytes" in line


def test_bad_input():
    with pytest.raises(InputError, match="wants 3 devices, there are 8"):
        main(Config("tiny", "fsdp=3", 8))
    with pytest.raises(InputError, match="tensor could be 1, 2"):
        main(Config("tiny", "tensor=7"))
