"""Checkpoints in and out: the same tensors, one line for what does not fit, and no more memory than they need."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForTokenClassification, pipeline

from jaxllm import hf
from jaxllm.models import encoder
from jaxllm.models.heads import SHARDING, Tagger, TaggerConfig
from jaxllm.params import describe, materialize
from jaxllm.train import mesh as meshes
from jaxllm.types import InputError

LABELS = ("O", "B-place", "I-place")
SMALL = {"vocab_size": 41, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 10,
         "max_position_embeddings": 24, "pad_token_id": 0}  # fmt: skip
KINDS = {
    "bert": SMALL,
    "roberta": SMALL,
    "xlm-roberta": SMALL,
    "distilbert": {
        "vocab_size": 41,
        "dim": 8,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 10,
        "max_position_embeddings": 24,
    },
    "modernbert": SMALL
    | {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2, "norm_bias": True},
}


@pytest.fixture
def save(tmp_path):
    """Saves a random torch model of a kind, its classifier too, and returns the folder."""

    def save(kind="bert", dtype=torch.float32, **fields):
        names = dict(enumerate(LABELS))
        config = CONFIG_MAPPING[kind](
            **KINDS[kind], id2label=names, label2id={x: i for i, x in names.items()}, **fields
        )
        torch.manual_seed(0)
        model = AutoModelForTokenClassification.from_config(config)
        with torch.no_grad():
            for x in model.parameters():
                x.copy_(torch.randn(x.shape))
        folder = tmp_path / kind
        model.to(dtype).save_pretrained(folder)
        return folder

    return save


def load(opened):
    one = SingleDeviceSharding(jax.devices()[0])
    return materialize(opened.spec, dict.fromkeys(opened.spec.graphdef.abstract, one), 0)


def same_bytes(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_in_and_out_gives_the_same_bytes(kind, dtype, save, tmp_path):
    folder = save(kind, dtype)
    opened = hf.open_tagger(str(folder))
    assert (opened.family, opened.folder, opened.config.labels) == (kind, folder, LABELS)
    assert opened.dtype == str(dtype).removeprefix("torch.")
    assert opened.notes == []
    params = load(opened)
    assert {x.dtype for x in params.values()} == {jnp.dtype("float32")}
    hf.export(tmp_path / "out", params, opened.config, None, source=opened, max_shard_bytes=2000)
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    written = {k: v for path in (tmp_path / "out").glob("*.safetensors") for k, v in load_file(path).items()}
    same_bytes(written, load_file(folder / "model.safetensors"))
    model, info = AutoModelForTokenClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == dtype
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "out"))
    assert {k: v for k, v in after.items() if before.get(k, v) != v} == {}


def test_tensors_keep_their_own_dtypes(save, tmp_path):
    folder = save()
    tensors = load_file(folder / "model.safetensors")
    mixed = {k: x if "LayerNorm" in k else x.astype(ml_dtypes.bfloat16) for k, x in tensors.items()}
    save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
    opened = hf.open_tagger(str(folder))
    assert opened.dtype == "bfloat16"
    hf.export(tmp_path / "out", load(opened), opened.config, None, source=opened)
    same_bytes(load_file(tmp_path / "out" / "model.safetensors"), mixed)
    hf.export(tmp_path / "out", load(opened), opened.config, None, source=opened, dtype="float16")
    assert {x.dtype.name for x in load_file(tmp_path / "out" / "model.safetensors").values()} == {"float16"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"fsdp": 2, "tensor": 2, "data": 2}, {"data": 8}], ids=str)
def test_sharded_in_and_out(axes, save, tmp_path):
    folder = save("modernbert")
    opened = hf.open_tagger(str(folder))
    sizes = {"data": 1, "fsdp": 1, "tensor": 1} | axes
    mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * 3)

    def fits(name, x):
        spec = meshes.shardings({name: x}, mesh, SHARDING)[name].spec
        long = [
            int(np.prod([mesh.shape[a] for a in ([axis] if isinstance(axis, str) else axis or [])])) for axis in spec
        ]
        return NamedSharding(
            mesh, P(*(a if n and d % n == 0 else None for a, n, d in zip(spec, long, x.shape, strict=False)))
        )

    shardings = {name: fits(name, x) for name, x in opened.spec.graphdef.abstract.items()}
    params, whole = materialize(opened.spec, shardings, 0), load(opened)
    for name, x in params.items():
        assert x.sharding == shardings[name]
        np.testing.assert_array_equal(x, whole[name])
    assert axes == {"data": 8} or sum(not x.sharding.is_fully_replicated for x in params.values()) > 5
    hf.export(tmp_path / "out", params, opened.config, None, source=opened)
    same_bytes(load_file(tmp_path / "out" / "model.safetensors"), load_file(folder / "model.safetensors"))
    # The arrays own their memory: an update in place reaches no other.
    doubled = jax.jit(lambda x: jax.tree.map(lambda a: 2 * a, x), donate_argnums=0)(params)
    for name, x in doubled.items():
        for shard in x.addressable_shards:
            np.testing.assert_array_equal(shard.data, 2 * whole[name][shard.index])


def test_layers_without_a_norm_hold_the_identity(save):
    params = load(hf.open_tagger(str(save("modernbert"))))
    np.testing.assert_array_equal(params["blocks.attn_norm.scale"][0], 1.0)
    np.testing.assert_array_equal(params["blocks.attn_norm.bias"][0], 0.0)


def test_a_new_head_is_initialised_and_said(save):
    folder = save()
    opened = hf.open_tagger(str(folder), labels=("O", "B-x"))
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
    opened = hf.open_tagger(str(folder), labels=("I-place", "O", "B-place"))
    assert opened.notes == ["classifier: the file's labels reordered from O, B-place, I-place to I-place, O, B-place"]
    params, tensors = load(opened), load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(params["classifier.kernel"].T, tensors["classifier.weight"][[2, 0, 1]])
    np.testing.assert_array_equal(params["classifier.bias"], tensors["classifier.bias"][[2, 0, 1]])


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors) or tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_bare_trunk_with_old_spellings(save):
    folder = save()
    whole = load(hf.open_tagger(str(folder)))

    def strip(tensors):
        bare = {k.removeprefix("bert."): x for k, x in tensors.items() if not k.startswith("classifier")}
        for name in [name for name in bare if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            bare[old] = bare.pop(name)
        extra = {"pooler.dense.weight": np.zeros((8, 8)), "embeddings.position_ids": np.arange(24)[None]}
        return bare | extra | {"cls.predictions.bias": np.zeros(41)}

    edit(folder, strip)
    opened = hf.open_tagger(str(folder), labels=LABELS)
    ignored = "cls.predictions.bias, embeddings.position_ids, pooler.dense.weight"
    assert sorted(opened.notes[0].removeprefix("not read: ").split(", ")) == ignored.split(", ")
    assert opened.notes[1:] == ["classifier initialised: not in the file"]
    for name, x in load(opened).items():
        if not name.startswith("classifier"):
            np.testing.assert_array_equal(x, whole[name])
    with pytest.raises(InputError, match="has no classifier for its labels"):
        hf.open_tagger(str(folder))


def test_everything_that_does_not_fit_is_one_line(save):
    folder = save()

    def spoil(tensors):
        del tensors["bert.encoder.layer.1.output.dense.bias"]
        tensors["bert.embeddings.word_embeddings.weight"] = np.zeros((40, 8), np.float32)
        tensors["bert.encoder.layer.0.intermediate.dense.bias"] = np.zeros(10, np.int8)
        tensors["surprise"] = np.zeros(3, np.float32)

    edit(folder, spoil)
    with pytest.raises(InputError) as error:
        hf.open_tagger(str(folder))
    assert str(error.value) == (
        f"{folder}: the tensors do not fit config.json, get the files that belong together: left over surprise (3,); "
        "bert.embeddings.word_embeddings.weight is (40, 8), wanted (41, 8); "
        "missing bert.encoder.layer.1.output.dense.bias (8,); "
        "bert.encoder.layer.0.intermediate.dense.bias is int8, wanted a float"
    )


def test_sources_that_are_none(tmp_path, save):
    for source in ("", "./nowhere", str(tmp_path / "nowhere"), "no/such/folder"):
        with pytest.raises(InputError, match="is no folder; name a checkpoint's folder or an id on the hub"):
            hf.open_tagger(source)
    with pytest.raises(
        InputError, match=r"^'jaxllm-nobody/nothing' is no folder, and the hub did not give it: .*network$"
    ):
        hf.open_tagger("jaxllm-nobody/nothing")
    with pytest.raises(InputError, match=r"config.json is not there"):
        hf.open_tagger(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match=r"model_type is 'llama', supported here: bert, distilbert"):
        hf.open_tagger(str(tmp_path))
    with pytest.raises(InputError, match=r"has no tokenizer \(tokenizer.json"):
        hf.load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="has no tokenizer that can be read"):
        hf.load_tokenizer(str(tmp_path))
    folder = save()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "O", "1": "O"}}))
    with pytest.raises(InputError, match=r"id2label is .* wanted distinct names for 0 to 1"):
        hf.open_tagger(str(folder))


def test_a_runs_folder_means_its_export(save, tmp_path):
    folder = save()
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    shutil.move(folder, run / "hf")
    assert hf.open_tagger(str(run)).folder == run / "hf"


SCRATCH = {
    "bert": encoder.Config(30, 8, 1, 2, 9, 16, activation="gelu_tanh"),
    "roberta": encoder.Config(30, 8, 1, 2, 9, 16, position_offset=2, token_types=1),
    "distilbert": encoder.Config(30, 8, 1, 2, 9, 16, token_types=0),
    "modernbert": encoder.Config(
        30, 8, 3, 2, 9, 16, token_types=0, rope_base=99.0, local_rope_base=9.0, window=2, global_every=3, pre_norm=True,
        gated=True, attention_bias=False, mlp_bias=False, norm_bias=False, norm_eps=1e-5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SCRATCH)
def test_a_model_made_here_is_written_whole(kind, tmp_path):
    config = TaggerConfig(SCRATCH[kind], LABELS, transform=kind == "modernbert")
    abstract = describe(lambda rngs: Tagger(config, rngs), SHARDING).graphdef.abstract
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=x.shape).astype(np.float32) for name, x in abstract.items()}
    if "blocks.attn_norm.scale" in params and kind == "modernbert":
        params["blocks.attn_norm.scale"][0] = 1.0
    hf.export(tmp_path / "out", params, config, None, card="# A tagger\n")
    model, info = AutoModelForTokenClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    assert model.config.model_type == kind
    assert model.config.id2label == dict(enumerate(LABELS))
    assert (tmp_path / "out" / "README.md").read_text() == "# A tagger\n"
    opened = hf.open_tagger(str(tmp_path / "out"))
    assert opened.notes == []
    assert dataclasses.replace(opened.config.encoder, **dropouts(config.encoder)) == config.encoder
    for name, x in load(opened).items():
        np.testing.assert_array_equal(x, params[name])


def dropouts(config):
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name.endswith("dropout")}


def test_what_no_family_expresses_is_refused_before_anything_is_written(tmp_path):
    config = TaggerConfig(dataclasses.replace(SCRATCH["bert"], gated=True), LABELS)
    with pytest.raises(InputError, match=r"bert or roberta .* cannot express"):
        hf.export(tmp_path / "out", {}, config, None)
    with pytest.raises(InputError, match="export dtype is 'int8'"):
        hf.export(tmp_path / "out", {}, config, None, dtype="int8")
    assert not any(tmp_path.iterdir())


def test_export_is_all_or_nothing(save, tmp_path, monkeypatch):
    folder = save()
    opened = hf.open_tagger(str(folder))
    params, out = load(opened), tmp_path / "out"
    hf.export(out, params, opened.config, None, source=opened, max_shard_bytes=2000, card="old")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    wrong = params | {"classifier.bias": BadArray()}
    with pytest.raises(OSError, match="disk"):
        hf.export(out, wrong, opened.config, None, source=opened)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    hf.export(out, params, opened.config, None, source=opened)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "today.txt").write_text("dear")
    with pytest.raises(InputError, match="holds something that is no checkpoint"):
        hf.export(tmp_path / "diary", params, opened.config, None, source=opened)
    assert (tmp_path / "diary" / "today.txt").read_text() == "dear"


class BadArray:
    """An array that cannot be fetched."""

    shape = (3,)

    def __array__(self, *_, **__):
        raise OSError("disk")


def test_a_pretrained_encoder_becomes_a_tagger_that_pipeline_loads(assets, tmp_path):
    source = str(assets / "models" / "all-MiniLM-L6-v2")
    opened = hf.open_tagger(source, labels=LABELS, dtype="bfloat16")
    assert opened.config.encoder.dtype == "bfloat16"
    assert opened.notes == [
        "not read: embeddings.position_ids, pooler.dense.bias, pooler.dense.weight",
        "classifier initialised: not in the file",
    ]
    params, tokenizer = load(opened), hf.load_tokenizer(source)
    hf.export(tmp_path / "out", params, opened.config, tokenizer, source=opened)
    written, original = load_file(tmp_path / "out" / "model.safetensors"), load_file(f"{source}/model.safetensors")
    for name, x in written.items():
        if not name.startswith("classifier"):
            assert x.tobytes() == original[name.removeprefix("bert.")].tobytes(), name
    tag = pipeline("token-classification", str(tmp_path / "out"))
    assert tag.model.config.id2label == dict(enumerate(LABELS))
    found = tag("Wolfgang lives in Berlin.")
    assert {x["entity"] for x in found} <= set(LABELS)
    model = hf.open_tagger(str(tmp_path / "out"))
    assert model.notes == []


MEMORY = """
import sys, threading, time
from pathlib import Path
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxllm import hf

def anonymous():
    status = Path("/proc/self/status").read_text()
    return 1024 * sum(int(status.split(key)[1].split()[0]) for key in ("RssAnon:", "RssShmem:"))

opened = hf.open_tagger(sys.argv[1])
n = int(sys.argv[2])
mesh = jax.make_mesh((n,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:n])
shapes = {name: x.shape for name, x in opened.spec.graphdef.abstract.items()}
specs = {name: P(*[None] * (len(s) - 1), "fsdp") if s[-1] % 8 == 0 else P() for name, s in shapes.items()}
shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
opened.spec.load({name: x for name, x in shardings.items() if name.startswith("classifier")})  # what starts lazily
peak, done, base = 0, False, anonymous()

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.0005)

watcher = threading.Thread(target=watch)
watcher.start()
params = opened.spec.load(shardings)
done = True
watcher.join()
shards = [shard.data.nbytes for x in params.values() for shard in x.addressable_shards]
print(peak - base, sum(shards), max(shards))
"""


@pytest.mark.parametrize("devices", [1, 8])
def test_loading_takes_little_more_than_the_arrays(devices, tmp_path):
    config = TaggerConfig(encoder.Config(100, 512, 4, 8, 2048), LABELS)
    abstract = describe(lambda rngs: Tagger(config, rngs), ()).graphdef.abstract
    params = {name: np.full(x.shape, 0.5, np.float32) for name, x in abstract.items()}
    hf.export(tmp_path / "big", params, config, None, dtype="bfloat16", max_shard_bytes=8_000_000)
    assert len(list((tmp_path / "big").glob("*.safetensors"))) > 3
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "big"), str(devices)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, arrays, piece = map(int, ran.stdout.split()[-3:])
    assert arrays >= 50_000_000
    assert grown > 0.9 * arrays, "the measurement sees the arrays"
    assert grown - arrays <= 1.3 * piece
