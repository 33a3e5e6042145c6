"""Opening checkpoints: one line for what does not fit, and no more memory than the arrays need."""

import json
import shutil
import subprocess
import sys
import threading

import huggingface_hub
import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding
from safetensors.numpy import load_file, save_file

from jaxllm import hf
from jaxllm.data import hub
from jaxllm.models import decoder, encoder
from jaxllm.models.heads import Tagger, TaggerConfig
from jaxllm.params import describe, materialize
from jaxllm.types import InputError

LABELS = ("O", "B-place", "I-place")


def load(opened):
    one = SingleDeviceSharding(jax.devices()[0])
    return materialize(opened.spec, dict.fromkeys(opened.spec.graphdef.abstract, one), 0)


def test_layers_without_a_norm_hold_the_identity(save):
    params = load(hf.open_model(str(save("modernbert")), "tagger"))
    np.testing.assert_array_equal(params["blocks.attn_norm.scale"][0], 1.0)
    np.testing.assert_array_equal(params["blocks.attn_norm.bias"][0], 0.0)


def test_a_new_head_is_initialised_and_said(save):
    folder = save()
    opened = hf.open_model(str(folder), "tagger", labels=("O", "B-x"))
    assert opened.notes == ["classifier initialised: the file's labels are O, B-place, I-place"]
    assert opened.config.labels == ("O", "B-x")
    params = load(opened)
    assert params["classifier.kernel"].shape == (8, 2)
    assert 0.005 < np.std(params["classifier.kernel"]) < 0.05
    np.testing.assert_array_equal(params["classifier.bias"], 0)
    tensors = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(params["embeddings.norm.scale"], tensors["bert.embeddings.LayerNorm.weight"])


def test_the_same_labels_in_another_order_are_reordered(save):
    folder = save()
    opened = hf.open_model(str(folder), "tagger", labels=("I-place", "O", "B-place"))
    assert opened.notes == ["classifier: the file's labels reordered from O, B-place, I-place to I-place, O, B-place"]
    params, tensors = load(opened), load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(params["classifier.kernel"].T, tensors["classifier.weight"][[2, 0, 1]])
    np.testing.assert_array_equal(params["classifier.bias"], tensors["classifier.bias"][[2, 0, 1]])


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors) or tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_bare_trunk_with_old_spellings(save):
    folder = save()
    whole = load(hf.open_model(str(folder), "tagger"))

    def strip(tensors):
        bare = {k.removeprefix("bert."): x for k, x in tensors.items() if not k.startswith("classifier")}
        for name in [name for name in bare if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            bare[old] = bare.pop(name)
        extra = {"pooler.dense.weight": np.zeros((8, 8)), "embeddings.position_ids": np.arange(24)[None]}
        return bare | extra | {"cls.predictions.bias": np.zeros(41)}

    edit(folder, strip)
    opened = hf.open_model(str(folder), "tagger", labels=LABELS)
    ignored = "cls.predictions.bias, embeddings.position_ids, pooler.dense.weight"
    assert sorted(opened.notes[0].removeprefix("not read: ").split(", ")) == ignored.split(", ")
    assert opened.notes[1:] == ["classifier initialised: not in the file"]
    for name, x in load(opened).items():
        if not name.startswith("classifier"):
            np.testing.assert_array_equal(x, whole[name])
    with pytest.raises(InputError, match="has no classifier for its labels"):
        hf.open_model(str(folder), "tagger")


def test_fewer_labels_than_rows_of_the_classifier_is_one_line_with_both_numbers(save):
    folder = save()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"id2label": {"0": "O", "1": "B-X"}, "label2id": {"O": 0, "B-X": 1}}
    path.write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"has 2 labels \(id2label\), and classifier\.weight is \(3, 8\), wanted \(2, 8\)"
    ):
        hf.open_model(str(folder), "tagger")


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"id2label": None, "label2id": None, "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"label2id": {"O": 2, "B-place": 0, "I-place": 1}}, LABELS),
    ],
    ids=["numbers alone", "two orders"],
)
def test_labels_are_those_of_id2label(save, fields, labels):
    folder = save()
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: x for name, x in config.items() if x is not None}))
    assert hf.open_model(str(folder), "tagger").config.labels == labels


def test_a_masked_language_model_becomes_a_tagger(save):
    folder = save()
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["BertForMaskedLM"]}))
    head = {"cls.predictions.bias": np.zeros(41, np.float32), "cls.predictions.decoder.weight": np.zeros((41, 8))}
    edit(folder, lambda x: {n: y for n, y in x.items() if not n.startswith("classifier")} | head)
    assert "classifier initialised: not in the file" in hf.open_model(str(folder), "tagger", labels=("O", "B-x")).notes


def test_everything_that_does_not_fit_is_one_line(save):
    folder = save()

    def spoil(tensors):
        del tensors["bert.encoder.layer.1.output.dense.bias"]
        tensors["bert.embeddings.word_embeddings.weight"] = np.zeros((40, 8), np.float32)
        tensors["bert.encoder.layer.0.intermediate.dense.bias"] = np.zeros(10, np.int8)
        tensors["surprise"] = np.zeros(3, np.float32)

    edit(folder, spoil)
    with pytest.raises(InputError) as error:
        hf.open_model(str(folder), "tagger")
    assert str(error.value) == (
        f"{folder}: the tensors do not fit config.json, get the files that belong together: unexpected surprise (3,); "
        "bert.embeddings.word_embeddings.weight is (40, 8), wanted (41, 8); "
        "missing bert.encoder.layer.1.output.dense.bias (8,); "
        "bert.encoder.layer.0.intermediate.dense.bias is int8, wanted a float"
    )


def test_sources_that_are_none(tmp_path, save):
    for source in ("", "./nowhere", str(tmp_path / "nowhere"), "no/such/folder"):
        with pytest.raises(InputError, match="is no folder; name a checkpoint's folder or an id on the hub"):
            hf.open_model(source, "tagger")
    with pytest.raises(
        InputError,
        match=r"^'jaxllm-nobody/nothing' is no folder, and the hub did not give it: HF_HUB_OFFLINE is set "
        r"\(looked in /.*/jaxllm-nobody/nothing and /.*hub\); check name and network$",
    ):
        hf.open_model("jaxllm-nobody/nothing", "tagger")
    with pytest.raises(InputError, match=r"config.json is not there"):
        hf.open_model(str(tmp_path), "tagger")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match=r"model_type is 'llama', supported here: .*bert, camembert, deberta-v2"):
        hf.open_model(str(tmp_path), "tagger")
    with pytest.raises(InputError, match=r"has no tokenizer \(tokenizer.json"):
        hf.load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer.json is no readable JSON"):
        hf.load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="has no tokenizer that can be read"):
        hf.load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"tokenizer_config.json holds a list, not an object; download"):
        hf.load_tokenizer(str(tmp_path))
    folder = save()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "O", "1": "O"}}))
    with pytest.raises(InputError, match=r"id2label is .* wanted distinct names for 0 to 1"):
        hf.open_model(str(folder), "tagger")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, tmp_path):
    asked = []

    def ask(self, repo, *, revision, repo_type, timeout):
        asked.append((repo, revision, timeout))
        raise type("ConnectError", (Exception,), {"__module__": "httpx"})("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", ask)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(
        InputError, match=r"^'nobody/nothing@v1' .* no connection \(Name or service not known\) \(looked in "
    ):
        hf.fetch("nobody/nothing@v1")
    assert asked == [("nobody/nothing", "v1", hub.TIMEOUT_S)]
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.05")
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *a, **k: threading.Event().wait(60))
    with pytest.raises(InputError, match=r"no answer in 0.05 s \(HF_HUB_ETAG_TIMEOUT\)"):
        hf.fetch("nobody/nothing")


def test_folders_that_are_something_else_are_named(tmp_path, save):
    (tmp_path / "m.gguf").touch()
    with pytest.raises(InputError, match=r"holds m.gguf, and gguf is not read; name the model in safetensors format"):
        hf.open_model(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="is an adapter; name its base by --model and the adapter by --lora-from"):
        hf.open_model(str(tmp_path))
    folder = save()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds an adapter beside the model, which transformers applies to it; move"):
        hf.open_model(str(folder))
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    assert hf.open_model(str(folder)).notes == ["files not read: adapter_model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling.X"}}))
    assert hf.open_model(str(folder)).config == hf.open_model(str(folder), "tagger").config, (
        "a class that transformers has"
    )
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nystromformer"}))
    with pytest.raises(
        InputError, match=r"'nystromformer', supported here: gemma.*; as a token classifier: .*bert, camembert"
    ):
        hf.open_model(str(folder))


def test_a_runs_folder_means_its_export(save, tmp_path):
    folder = save()
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    shutil.move(folder, run / "hf")
    assert hf.open_model(str(run), "tagger").folder == run / "hf"


MEMORY = """
import os, sys, threading, time
from pathlib import Path
import jax, numpy as np
from jaxllm.recipes.weights import open_weights
from jaxllm.distributed.mesh import make_mesh, shardings

def anonymous():
    status = Path("/proc/self/status").read_text()
    return 1024 * sum(int(status.split(key)[1].split()[0]) for key in ("RssAnon:", "RssShmem:"))

for folder, devices in zip(sys.argv[1::2], sys.argv[2::2]):
    if os.fork() == 0:  # before JAX has a device: each measures a process of its own, which imports nothing again
        break
    assert os.wait()[1] == 0
else:
    sys.exit()
opened, n = open_weights(folder), int(devices)
at = shardings(opened.spec.graphdef.abstract, make_mesh(f"fsdp={n}", jax.devices()[:n]), opened.spec.rules)
opened.spec.load({name: x for name, x in at.items() if "norm" in name})  # what starts lazily
peak, done, base = 0, False, anonymous()

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.0005)

watcher = threading.Thread(target=watch)
watcher.start()
params = opened.spec.load(at)
done = True
watcher.join()
shards = [shard.data.nbytes for x in params.values() for shard in x.addressable_shards]
print(peak - base, sum(shards), max(shards), flush=True)
"""

BIG = {
    "tagger": TaggerConfig(encoder.Config(104, 512, 4, 8, 2048, max_positions=64), LABELS),
    "fused": decoder.Config(  # GPT-2: queries, keys and values in one tensor
        vocab_size=104, width=512, depth=4, heads=8, mlp_width=2048, max_positions=64, rope_base=0.0, norm="layer",
        qkv_bias=True, out_bias=True, mlp_bias=True, gated=False, activation="gelu_tanh", tied=True,
    ),
    "experts": decoder.Config(
        vocab_size=104, width=256, depth=4, heads=8, mlp_width=1024, max_positions=64, experts=4
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """(bytes that loading took, of the arrays, of the largest piece), measured for each of BIG."""
    words = []
    for kind, config in BIG.items():
        folder = tmp_path_factory.mktemp("big") / kind
        build = Tagger if kind == "tagger" else decoder.Decoder
        abstract = describe(lambda rngs, build=build, config=config: build(config, rngs), ()).graphdef.abstract
        params = {name: np.full(x.shape, 0.5, np.float32) for name, x in abstract.items()}
        hf.export(folder, params, config, None, dtype="bfloat16", max_shard_bytes=8_000_000)
        assert len(list(folder.glob("*.safetensors"))) > 3
        words += [str(folder), "1" if kind == "fused" else "8"]
    ran = subprocess.run([sys.executable, "-c", MEMORY, *words], capture_output=True, text=True, check=True)
    return dict(zip(BIG, (tuple(map(int, line.split())) for line in ran.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("kind", BIG)
def test_loading_takes_little_more_than_the_arrays(kind, memory):
    grown, arrays, piece = memory[kind]
    assert arrays >= 50_000_000
    assert grown > 0.9 * arrays, "the measurement sees the arrays"
    assert grown - arrays <= 1.3 * piece
