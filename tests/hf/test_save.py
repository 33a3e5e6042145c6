"""Checkpoints out: the same bytes that came in, loadable by `transformers`, all or nothing."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForTokenClassification, pipeline

from jaxllm import hf
from jaxllm.distributed import mesh as meshes
from jaxllm.hf.families import TAGGERS
from jaxllm.models import deberta, encoder
from jaxllm.models.heads import SHARDING, Tagger, TaggerConfig
from jaxllm.params import describe, materialize
from jaxllm.types import InputError

torch = pytest.importorskip("torch")

LABELS = ("O", "B-place", "I-place")


def load(opened):
    one = SingleDeviceSharding(jax.devices()[0])
    return materialize(opened.spec, dict.fromkeys(opened.spec.graphdef.abstract, one), 0)


def same_bytes(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", TAGGERS)
def test_in_and_out_gives_the_same_bytes(kind, dtype, save, tmp_path):
    folder = save(kind, dtype)
    opened = hf.open_model(str(folder), "tagger")
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
    opened = hf.open_model(str(folder), "tagger")
    assert opened.dtype == "bfloat16"
    hf.export(tmp_path / "out", load(opened), opened.config, None, source=opened)
    same_bytes(load_file(tmp_path / "out" / "model.safetensors"), mixed)
    hf.export(tmp_path / "out", load(opened), opened.config, None, source=opened, dtype="float16")
    assert {x.dtype.name for x in load_file(tmp_path / "out" / "model.safetensors").values()} == {"float16"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"fsdp": 2, "tensor": 2, "data": 2}, {"data": 8}], ids=str)
def test_sharded_in_and_out(axes, save, tmp_path):
    folder = save("modernbert")
    opened = hf.open_model(str(folder), "tagger")
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


SCRATCH = {
    "bert": encoder.Config(30, 8, 1, 2, 9, 16, activation="gelu_tanh"),
    "roberta": encoder.Config(30, 8, 1, 2, 9, 16, position_offset=2, token_types=1),
    "electra": encoder.Config(30, 8, 1, 2, 9, 16, embedding_width=6),
    "albert": encoder.Config(30, 8, 3, 2, 9, 16, embedding_width=8, groups=2),
    "deberta-v2": deberta.Config(
        30, 8, 2, 2, 9, 16, token_types=0, reach=16, buckets=6, content_to_position=True, absolute_positions=False,
    ),
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
    opened = hf.open_model(str(tmp_path / "out"), "tagger")
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
    opened = hf.open_model(str(folder), "tagger")
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
    opened = hf.open_model(source, "tagger", labels=LABELS, dtype="bfloat16")
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
    model = hf.open_model(str(tmp_path / "out"), "tagger")
    assert model.notes == []
