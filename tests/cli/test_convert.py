"""Weights from Hugging Face's format to a run and back, bit by bit, and what cannot be converted."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from jaxllm import hf
from jaxllm.checkpoint.store import Checkpoints
from jaxllm.cli.convert import convert, verify
from jaxllm.data.tokenizers import bpe
from jaxllm.hf import files
from jaxllm.models import encoder
from jaxllm.models.decoder import SHARDING, Config, Decoder
from jaxllm.models.heads import Scorer, ScorerConfig, Tagger, TaggerConfig
from jaxllm.params import describe
from jaxllm.recipes.weights import open_weights
from jaxllm.types import InputError, TrainState

LLAMA = Config(vocab_size=300, width=24, depth=2, heads=3, mlp_width=32, kv_heads=1, max_positions=64, tied=True)
CONFIGS = {
    "llama": LLAMA,
    "gpt2": Config(
        vocab_size=300, width=24, depth=2, heads=3, mlp_width=32, max_positions=64, rope_base=0.0, norm="layer",
        qkv_bias=True, out_bias=True, mlp_bias=True, gated=False, activation="gelu_tanh", tied=True,
    ),
    "mixtral": Config(
        vocab_size=300, width=24, depth=2, heads=3, mlp_width=32, kv_heads=1, max_positions=64, experts=3
    ),
    "bert": TaggerConfig(encoder.Config(300, 24, 2, 3, 32, max_positions=64), ("O", "B-x")),
}  # fmt: skip
DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16)


def random_params(config, seed=0):
    build = Tagger if isinstance(config, TaggerConfig) else Decoder
    abstract = describe(lambda rngs: build(config, rngs), ()).graphdef.abstract
    draw = np.random.default_rng(seed)
    return {name: jnp.asarray(draw.normal(size=x.shape), x.dtype) for name, x in abstract.items()}


@pytest.fixture(scope="module")
def tokenizer():
    made = bpe(["a tokenizer of few words"], 270)
    made.chat_template = "{{ messages[0]['content'] }}"
    return made


@pytest.fixture
def folder(tmp_path, tokenizer):
    """folder(kind) -> a checkpoint in shards, one tensor after the other in another dtype."""

    def make(kind="llama", whole=True):
        path = tmp_path / kind
        hf.export(path, random_params(CONFIGS[kind]), CONFIGS[kind], tokenizer if whole else None)
        tensors = load_file(path / files.SINGLE)
        (path / files.SINGLE).unlink()
        mixed = {name: x.astype(DTYPES[i % 3]) for i, (name, x) in enumerate(tensors.items())}
        announced = {name: (x.shape, x.dtype.name) for name, x in mixed.items()}
        files.write(path, announced, mixed.__getitem__, max_bytes=9000)
        assert len(list(path.glob("model-*.safetensors"))) > 3
        if whole:
            (path / "generation_config.json").write_text('{"eos_token_id": [0, 5]}')
        return path

    return make


def bits(folder):
    return {name: (e.dtype, e.shape, e.map().tobytes()) for name, e in files.open_folder(folder).items()}


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_tensor_comes_back_in_its_own_dtype(kind, folder, tmp_path, command, capsys):
    source = folder(kind)
    command("convert", source, tmp_path / "out", "--check", "--max-shard-gb", "2e-5")
    out = capsys.readouterr().out.splitlines()
    before, after = bits(source), bits(tmp_path / "out")
    assert before == after
    assert len({dtype for dtype, _, _ in after.values()}) == 3
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert out[-1] == f"checked: {len(before)} tensors, every one bit-equal to the source's"
    assert out[-2] == f"written: {tmp_path / 'out'}"
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert name in out[-3]
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    config = json.loads((source / "config.json").read_text())
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**config, "dtype": config["dtype"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([kind, "out"])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_to_a_run_and_back(kind, folder, tmp_path, command, capsys):
    source, run, back = folder(kind), tmp_path / "run", tmp_path / "back"
    command("convert", source, run, "--to", "run", "--check")
    assert "every one bit-equal" in capsys.readouterr().out
    command("convert", run, back, "--check")
    assert "every one bit-equal" in capsys.readouterr().out
    assert bits(back) == bits(source)
    assert (back / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert open_weights(str(run)).config == open_weights(str(source)).config


def test_a_run_that_trains(tokenizer, tmp_path, command, capsys):
    """Its newest checkpoint, its tokenizer; of one with an export, the export."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    run, old, new = tmp_path / "run", random_params(LLAMA, 1), random_params(LLAMA, 2)
    config = {"script": "pretrain", "config": {}, "model": hf.config_json(LLAMA, tokenizer)}
    run.mkdir()
    (run / "config.json").write_text(json.dumps({**config, "tokenizer": str(tmp_path / "tokenizer")}))
    with pytest.raises(InputError, match="holds no checkpoint yet"):
        convert(str(run), tmp_path / "out")
    checkpoints = Checkpoints(run / "checkpoints")
    for position, params in ((3, old), (7, new)):
        checkpoints.save(position, TrainState(jnp.int32(position), params, optax.adam(0.1).init(params)), {})
    checkpoints.close()

    command("convert", run, tmp_path / "out", "--check")
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "the checkpoint of step 7: the run has no export"
    assert out[1].startswith("along with it: chat_template.jinja, tokenizer.json")
    hf.export(tmp_path / "exported", new, LLAMA, tokenizer)
    assert bits(tmp_path / "out") == bits(tmp_path / "exported")

    hf.export(run / "hf", old, LLAMA, tokenizer)
    convert(str(run), tmp_path / "again")
    assert bits(tmp_path / "again") == bits(run / "hf")


def test_weights_alone_convert_and_a_tied_head_is_written_once(folder, tmp_path):
    source = folder(whole=False)
    shard = sorted(source.glob("*.safetensors"))[0]
    tensors = load_file(shard)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, shard, metadata={"format": "pt"})
    index = json.loads((source / files.INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = shard.name
    (source / files.INDEX).write_text(json.dumps(index))
    notes = convert(str(source), tmp_path / "out")
    assert notes == ["not read: lm_head.weight", "weights alone, there is no tokenizer (nothing goes along)"]
    written = bits(tmp_path / "out")
    assert {**written, "lm_head.weight": written["model.embed_tokens.weight"]} == bits(source)
    assert verify(str(source), tmp_path / "out") == (len(written), [])


def test_a_cast_and_a_check_that_finds_what_differs(folder, tmp_path, command, capsys):
    source, out = folder(), tmp_path / "out"
    command("convert", source, out, "--dtype", "bfloat16", "--check")
    assert "bit-equal to the source's, cast to bfloat16" in capsys.readouterr().out
    assert {dtype for dtype, _, _ in bits(out).values()} == {"bfloat16"}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    tensors = load_file(out / files.SINGLE)
    tensors["model.norm.weight"][3] += 1
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, out / files.SINGLE)
    with pytest.raises(InputError, match=r"missing model.layers.1.mlp.up_proj.weight"):
        verify(str(source), out, "bfloat16")
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((32, 24), ml_dtypes.bfloat16)
    save_file(tensors, out / files.SINGLE)
    wrong = ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    assert verify(str(source), out, "bfloat16") == (len(tensors), wrong)


def test_a_real_checkpoint(assets, tmp_path):
    source = str(assets / "models" / "all-MiniLM-L6-v2")
    notes = convert(source, tmp_path / "out")
    assert "embeddings.position_ids" in notes[0]
    assert "pooler.dense.weight" in notes[0]
    assert "tokenizer.json" in notes[-1]
    count, wrong = verify(source, tmp_path / "out")
    assert (count, wrong) == (101, [])


def spoil_index(path):
    index = json.loads((path / files.INDEX).read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "../secret.safetensors"
    (path / files.INDEX).write_text(json.dumps(index))


def cut_shard(path):
    shard = sorted(path.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-7])


def double(path):
    first, second = sorted(path.glob("*.safetensors"))[:2]
    save_file({**load_file(second), **load_file(first)}, second)


def change(**fields):
    def spoil(path):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **fields}))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "argv", "words"),
    [
        (spoil_index, [], "points outside its folder, to '../secret.safetensors'"),
        (cut_shard, [], "truncated; download it again"),
        (double, [], "delete stale shards"),
        (lambda path: sorted(path.glob("*.safetensors"))[2].unlink(), [], "download the missing shard"),
        (change(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), [], "rope_type is 'dyn"),
        (change(rope_parameters={"rope_type": "spiral", "rope_theta": 1e4}), [], "rope_type is 'spiral'"),
        (change(hidden_act="mish"), [], "hidden_act is 'mish'"),
        (change(quantization_config={"bits": 4}), [], "quantization_config is set"),
        (change(model_type="mamba"), [], "model_type is 'mamba'"),
        (lambda path: (path / "config.json").unlink(), [], "config.json is not there"),
        (lambda path: (path / "generation_config.json").write_text("[]"), [], "generation_config.json holds a list"),
        (lambda path: (path / "tokenizer_config.json").write_text("{"), [], "tokenizer_config.json is no readable"),
        (lambda path: (path / files.INDEX).write_text("[]"), [], "index.json holds a list, not an object"),
        (lambda path: None, ["--dtype", "int8"], "--dtype int8: give one of float32, bfloat16, float16"),
        (lambda path: None, ["--dtype", "float16", "--to", "run"], "--dtype float16: a run's parameters"),
        (lambda path: None, ["--to", "torch"], "--to torch: give hf or run"),
        (lambda path: None, ["--max-shard-gb", "0"], "--max-shard-gb"),
        (lambda path: (path.parent / "out").mkdir(), [], "out is there already"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(spoil, argv, words, folder, tmp_path, command, capsys):
    source = folder()
    spoil(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        command("convert", source, tmp_path / "out", *argv)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert words in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_value_beyond_float16_and_a_place_that_cannot_be_written(folder, tmp_path):
    source = folder()
    shard = next(path for path in source.glob("*.safetensors") if "model.norm.weight" in load_file(path))
    tensors = load_file(shard)
    tensors["model.norm.weight"] = np.full(24, 1e5, np.float32)
    save_file(tensors, shard)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"model.norm.weight has values beyond float16's 65504.0; give --dtype bfloat"):
        convert(str(source), tmp_path / "out", dtype="float16")
    with pytest.raises(InputError, match="cannot be written"):
        convert(str(source), source / "config.json" / "out")
    with pytest.raises(InputError, match=r"is no folder; name a checkpoint's folder"):
        convert(str(tmp_path / "nowhere"), tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_tagger_is_no_run(folder, tmp_path):
    with pytest.raises(InputError, match="bert is no decoder"):
        convert(str(folder("bert")), tmp_path / "out", to="run")


def test_training_starts_from_another_run(folder, tmp_path):
    """What `--model RUN` opens has the run's numbers, under a computation of its own."""
    source, run = folder(), tmp_path / "run"
    convert(str(source), run, to="run")
    opened = open_weights(str(run), "lm", dtype="bfloat16", remat="full")
    original = open_weights(str(source), "lm")
    assert (opened.config.dtype, opened.config.remat, opened.spec.rules) == ("bfloat16", "full", SHARDING)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    found, expected = (o.spec.load(dict.fromkeys(o.spec.graphdef.abstract, here)) for o in (opened, original))
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x)


def test_a_reward_model_goes_to_a_run_and_back(tmp_path):
    config = ScorerConfig(LLAMA)
    abstract = describe(lambda rngs: Scorer(config, rngs), ()).graphdef.abstract
    draw = np.random.default_rng(0)
    params = {name: jnp.asarray(draw.normal(size=x.shape), x.dtype) for name, x in abstract.items()}
    hf.export(tmp_path / "reward", params, config, None)
    convert(str(tmp_path / "reward"), tmp_path / "run", to="run")
    convert(str(tmp_path / "run"), tmp_path / "back")
    assert bits(tmp_path / "back") == bits(tmp_path / "reward")
    count, wrong = verify(str(tmp_path / "run"), tmp_path / "back")
    assert (count, wrong) == (len(bits(tmp_path / "back")), [])
    assert open_weights(str(tmp_path / "run")).config == config
    with pytest.raises(InputError, match="describes a reward model, which generates no text"):
        open_weights(str(tmp_path / "run"), "lm")


def test_a_language_model_without_an_export_lends_its_trunk_to_a_reward_model(tmp_path):
    config = dataclasses.replace(LLAMA, tied=False)
    params = random_params(config)
    hf.export(tmp_path / "llama", params, config, None)
    convert(str(tmp_path / "llama"), tmp_path / "run", to="run")
    opened = open_weights(str(tmp_path / "run"), "scorer", remat="full")
    assert opened.config.decoder.remat == "full"
    assert "score initialised: not in the checkpoint" in opened.notes
    at = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    found = opened.spec.load(dict.fromkeys(opened.spec.graphdef.abstract, at))
    assert found.keys() == params.keys() - {"unembed.kernel"}
    assert opened.spec.graphdef.abstract.keys() - found.keys() == {"score.kernel"}
    for name, x in found.items():
        np.testing.assert_array_equal(x, params[name])
