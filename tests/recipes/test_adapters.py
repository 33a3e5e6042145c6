"""The flags of LoRA: the model that they make of what training starts from, and what is written at the end."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from jaxllm import hf
from jaxllm.models import decoder, lora
from jaxllm.params import describe, materialize
from jaxllm.recipes import adapters
from jaxllm.recipes.adapters import LoraFlags
from jaxllm.recipes.start import DecoderFlags, Start
from jaxllm.recipes.weights import open_weights
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Config(DecoderFlags, LoraFlags):
    pass


def arrays(spec):
    return materialize(spec, dict.fromkeys(spec.graphdef.abstract, SingleDeviceSharding(jax.devices()[0])), 0)


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """A start from a tiny Llama on disk."""
    folder = tmp_path_factory.mktemp("base")
    shape = decoder.Config(vocab_size=16, width=8, depth=2, heads=2, mlp_width=12, max_positions=16, rope_base=1e4)
    spec = describe(lambda rngs: decoder.Decoder(shape, rngs), decoder.SHARDING)
    hf.export(folder / "llama", arrays(spec), shape, None)
    source = hf.open_model(str(folder / "llama"), "lm")
    return Start(source.spec, source.config, None, source)


def test_without_flags_nothing_changes(begin):
    assert adapters.apply(begin, Config()) is begin
    params = arrays(begin.model)
    assert adapters.merge(begin.model, params).keys() == params.keys()


def test_with_them_the_model_has_adapters_and_is_written_twice(begin, tmp_path):
    config = Config(lora_rank=2, lora_alpha=6.0, lora_dropout=0.1, lora_targets=("q_proj", "blocks.mlp.up"))
    start = adapters.apply(begin, config)
    assert lora.adapters(start.model.graphdef) == dict.fromkeys(
        ("blocks.attn.q", "blocks.mlp.up"), lora.Adapter(2, 3.0, 0.1)
    )
    assert start.notes == ("adapters on 2 kinds of matrices: 144 parameters are trained",)
    rng = np.random.default_rng(0)
    params = {n: x if n in start.model.frozen else rng.normal(size=x.shape).astype("f") for n, x in
              arrays(start.model).items()}  # fmt: skip
    params = {n: jax.device_put(x) for n, x in params.items()}
    assert adapters.write(tmp_path / "adapter", start, params | {"teacher.x": 1})
    assert not adapters.write(tmp_path / "none", begin, params)
    assert not (tmp_path / "none").exists()
    again = adapters.apply(begin, Config(lora_from=str(tmp_path / "adapter")))
    for name, x in arrays(again.model).items():
        np.testing.assert_array_equal(x, params[name], err_msg=name)
    merged = adapters.merge(start.model, params | {"teacher.x": 1})
    assert merged.keys() == begin.model.graphdef.abstract.keys()
    q = params["blocks.attn.q.kernel"] + 3 * params["blocks.attn.q.lora_a"] @ params["blocks.attn.q.lora_b"]
    np.testing.assert_allclose(merged["blocks.attn.q.kernel"], q, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"lora_alpha": 8.0}, "--lora-alpha without --lora-rank: give a rank, such as 8"),
        ({"lora_targets": ("q_proj",)}, "--lora-targets without --lora-rank"),
        ({"lora_rank": -1}, "--lora-rank -1: an adapter of rank -1"),
        ({"lora_rank": 2, "lora_dropout": 1.5}, "an adapter's dropout of 1.5"),
        ({"lora_rank": 2, "lora_targets": ("q_porj",)}, "no module is called 'q_porj'"),
        ({"lora_from": "nowhere/to/be/found"}, "'nowhere/to/be/found' is no folder"),
        ({"lora_from": "x", "lora_rank": 2}, "--lora-rank with --lora-from: the adapter has its own, leave it out"),
    ],
)
def test_refused(begin, flags, message):
    with pytest.raises(InputError) as error:
        adapters.apply(begin, Config(**flags))
    assert message in str(error.value)


def test_weights_that_are_not_trained_yet_take_no_adapters(begin):
    with pytest.raises(InputError, match="adapt weights that are there: give a trained --model"):
        adapters.apply(dataclasses.replace(begin, source=None), Config(lora_rank=2))


def test_a_run_of_adapters_without_an_export_is_no_start(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    config = {"script": "sft", "config": {"lora_rank": 4}, "model": {"model_type": "llama"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="its checkpoints hold adapters alone; let the run end first"):
        open_weights(str(tmp_path), "lm")
