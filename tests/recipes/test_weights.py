"""What each command says of a run with an export and without, a Hugging Face folder, and what is none of them."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm import hf
from jaxllm.checkpoint.store import Checkpoints
from jaxllm.data.tokenizers import bpe
from jaxllm.models import encoder
from jaxllm.models.decoder import Config
from jaxllm.models.heads import ScorerConfig, TaggerConfig, describe_model
from jaxllm.params import materialize
from jaxllm.recipes.weights import open_weights
from jaxllm.types import InputError, TrainState

DECODER = Config(vocab_size=280, width=8, depth=1, heads=2, mlp_width=8, max_positions=16, tied=True)
LABELS = ("O", "B-x", "I-x")
CONFIGS = {
    "lm": DECODER,
    "scorer": ScorerConfig(DECODER),
    "tagger": TaggerConfig(encoder.Config(280, 8, 1, 2, 8, max_positions=16), LABELS),
}


def random(task, seed=0):
    draw = np.random.default_rng(seed)
    abstract = describe_model(CONFIGS[task]).graphdef.abstract
    return {name: jnp.asarray(draw.normal(size=x.shape), x.dtype) for name, x in abstract.items()}


def test_a_run_that_kept_its_parameters_in_bfloat16_opens_in_float32(tmp_path):
    params = {name: x.astype(jnp.bfloat16) for name, x in random("lm").items()}
    bpe(["a tokenizer of few words"], 270).save_pretrained(tmp_path)
    model = hf.config_json(DECODER, bpe(["a tokenizer of few words"], 270))
    written = {"script": "x", "config": {"param_dtype": "bfloat16"}, "model": model, "tokenizer": str(tmp_path)}
    (tmp_path / "config.json").write_text(json.dumps(written))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(3, TrainState(jnp.int32(3), params, {"none": jnp.int32(0)}), {})
    checkpoints.close()
    spec = open_weights(str(tmp_path), "lm").spec
    found = materialize(spec, dict.fromkeys(params, jax.sharding.SingleDeviceSharding(jax.devices()[0])), 0)
    for name, x in found.items():
        assert x.dtype == jnp.float32
        np.testing.assert_array_equal(x, params[name].astype(jnp.float32))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """hf-*, run-* (with an export) and bare-* (without) for each task, and folders that are no model's."""
    folder = tmp_path_factory.mktemp("weights")
    tokenizer = bpe(["a tokenizer of few words"], 270)
    tokenizer.save_pretrained(folder / "tokenizer")
    for task, config in CONFIGS.items():
        params, bare = random(task), folder / f"bare-{task}"
        hf.export(folder / f"hf-{task}", params, config, tokenizer)
        bare.mkdir()
        written = {"script": "x", "config": {}, "model": hf.config_json(config, tokenizer)}
        (bare / "config.json").write_text(json.dumps({**written, "tokenizer": str(folder / "tokenizer")}))
        checkpoints = Checkpoints(bare / "checkpoints")
        checkpoints.save(3, TrainState(jnp.int32(3), params, {"none": jnp.int32(0)}), {})
        checkpoints.close()
        shutil.copytree(bare, folder / f"run-{task}")
        shutil.copytree(folder / f"hf-{task}", folder / f"run-{task}" / "hf")
    shutil.copytree(folder / "bare-lm", folder / "lora")
    written = json.loads((folder / "lora" / "config.json").read_text())
    (folder / "lora" / "config.json").write_text(json.dumps({**written, "config": {"lora_rank": 4}}))
    shutil.copytree(folder / "bare-tagger", folder / "silent")
    (folder / "silent" / "config.json").write_text('{"script": "ner", "config": {}}')
    (folder / "empty").mkdir()
    (folder / "file").write_text("x")
    return folder


NO_TAGGER = "supported here: albert, bert, camembert, deberta-v2, distilbert, electra, modernbert, roberta, xlm-roberta"
NO_LANGUAGE_MODEL = "model_type is 'bert', supported here: gemma"
REWARD = "describes a reward model, which generates no text; name a language model"
NOWHERE = "is no folder"
SILENT = "has no export (hf/) and does not say what its model is; let the run end with --export"


@pytest.mark.parametrize(
    ("source", "tag", "generate", "convert"),
    [
        *((f"{kind}-lm", NO_TAGGER, "", "") for kind in ("hf", "run", "bare")),
        *((f"{kind}-scorer", NO_TAGGER, REWARD, "") for kind in ("hf", "run", "bare")),
        *((f"{kind}-tagger", "", NO_LANGUAGE_MODEL, "") for kind in ("hf", "run", "bare")),
        ("silent", SILENT, SILENT, SILENT),
        ("lora", "its checkpoints hold adapters alone", "its checkpoints hold adapters alone", None),
        ("empty", *["empty/config.json is not there; a checkpoint folder needs it"] * 3),
        ("file", *[NOWHERE] * 3),
        ("some/repository", *["the hub did not give it"] * 3),
        ("no-such-model", *["the hub did not give it"] * 3),
    ],
)
def test_commands_open_what_they_can_and_say_what_they_cannot(
    source, tag, generate, convert, place, tmp_path, command, capsys
):
    where = place / source if (place / source).exists() else source
    for words, message in (
        (("tag", where, "a few words"), tag),
        (("generate", where, "a", "--max-tokens", "1"), generate),
        (("convert", where, tmp_path / "out", "--check"), convert),
    ):
        if message is None:
            continue
        if not message:
            command(*words)
            assert capsys.readouterr().out
            continue
        with pytest.raises(SystemExit) as stop:
            command(*words)
        err = capsys.readouterr().err
        assert (stop.value.code, err.count("\n")) == (2, 1), err
        assert message in err
    assert list(tmp_path.iterdir()) == ([] if convert or convert is None else [tmp_path / "out"])


def load(opened):
    at = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return materialize(opened.spec, dict.fromkeys(opened.spec.graphdef.abstract, at), 0)


@pytest.mark.parametrize("task", CONFIGS)
def test_a_checkpoint_is_opened_as_its_export_is(task, place):
    exported, bare = (open_weights(str(place / f"{kind}-{task}"), dtype="bfloat16") for kind in ("run", "bare"))
    assert (bare.task, bare.config, bare.family) == (task, exported.config, exported.family)
    assert bare.notes == ["the checkpoint of step 3: the run has no export"]
    assert bare.dtypes == exported.dtypes
    one, other, expected = load(exported), load(bare), random(task)
    assert one.keys() == other.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(one[name], x)
        np.testing.assert_array_equal(other[name], x)
    assert bare.load_tokenizer().get_vocab() == exported.load_tokenizer().get_vocab()


def test_a_taggers_checkpoint_with_other_labels(place):
    moved = open_weights(str(place / "bare-tagger"), "tagger", labels=("I-x", "O", "B-x"))
    assert moved.notes[0] == "classifier: the file's labels reordered from O, B-x, I-x to I-x, O, B-x"
    expected = random("tagger")
    np.testing.assert_array_equal(load(moved)["classifier.bias"], expected["classifier.bias"][jnp.array([2, 0, 1])])
    other = open_weights(str(place / "bare-tagger"), "tagger", labels=("O", "B-y"))
    assert other.notes[1:] == ["classifier initialised: the file's labels are O, B-x, I-x"]
    params = load(other)
    assert params["classifier.kernel"].shape == (8, 2)
    np.testing.assert_array_equal(params["blocks.attn.q.kernel"], expected["blocks.attn.q.kernel"])


def test_an_unknown_task():
    with pytest.raises(InputError, match=r"task 'tager': give one of tagger, lm, scorer, .*; did you mean tagger"):
        open_weights("x", "tager")
