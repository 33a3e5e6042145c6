"""What `--model` names where nothing is trained yet."""

import dataclasses
import json
import re

import pytest

from jaxllm.models.decoder import PRESETS, Config
from jaxllm.models.rope import Scaling
from jaxllm.recipes.architecture import find_architecture
from jaxllm.types import InputError

SMALL = {"vocab_size": 64, "width": 24, "depth": 2, "heads": 4, "mlp_width": 40}


@pytest.fixture
def write(tmp_path):
    def write(values):
        path = tmp_path / "model.json"
        path.write_text(json.dumps(values))
        return str(path)

    return write


def test_presets_and_files(write, tmp_path):
    assert find_architecture("gpt2-124m") == PRESETS["gpt2-124m"]
    assert find_architecture(write(SMALL)) == Config(**SMALL)
    scaling = {"kind": "llama3", "factor": 8, "original_positions": 32}
    own = Config(**SMALL, windows=(4, 0), rope_scaling=Scaling("llama3", 8, 32))
    assert find_architecture(write({**SMALL, "windows": [4, 0], "rope_scaling": scaling})) == own
    assert find_architecture(write(dataclasses.asdict(own))) == own
    theirs = {"model_type": "qwen3", "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3}
    assert (find_architecture(write(theirs)).qk_norm, find_architecture(write(theirs)).depth) == ("head", 3)
    assert find_architecture(str(tmp_path)) is None, "a folder holds weights"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({**SMALL, "widht": 3}, "there is no field 'widht'; did you mean width?"),
        ({"width": 24}, "it lacks vocab_size, depth, heads, mlp_width; add them"),
        ({**SMALL, "depth": "2"}, "depth is '2', wanted int"), ({**SMALL, "depth": True}, "depth is True, wanted int"),
        ({**SMALL, "depth": 0}, "model.json: decoder depth=0: must be 1 or more"),
        ({**SMALL, "heads": 5}, "decoder heads=5: must be a multiple of kv_heads=5, and divide width=24"),
        ({**SMALL, "heads": 8}, "decoder head_width=3: must be even"),
        ({**SMALL, "norm": "batch"}, "decoder norm='batch': choose one of rms, layer"),
        ({**SMALL, "dtype": "int8"}, "decoder dtype='int8': choose one of float32"),
        ({**SMALL, "windows": 4}, "windows is 4, wanted a list"), ({**SMALL, "windows": []}, "decoder windows=()"),
        ({**SMALL, "windows": ["a"]}, "windows is ['a'], wanted a list"),
        ({**SMALL, "experts": 2, "experts_per_token": 3}, "experts_per_token=3: must be from 1 to 2"),
        ({**SMALL, "rope_scaling": "yarn"}, "rope_scaling is 'yarn', wanted an object"),
        ({**SMALL, "rope_scaling": {"kind": "spiral"}}, "rope scaling kind='spiral': choose one of default, linear"),
        ({**SMALL, "rope_scaling": {"king": "yarn"}}, "rope_scaling: there is no field 'king'; did you mean kind?"),
        ({**SMALL, "rope_scaling": {"kind": "yarn", "factor": 2.0}}, "original_positions=0: yarn needs it"),
        ({"model_type": "mamba"}, "model_type is 'mamba', supported: gpt2, llama"),
        ({"model_type": "llama", "hidden_act": "mish"}, "hidden_act is 'mish'"),
        ([1], "holds a list, not an object"),
    ],
)  # fmt: skip
def test_what_does_not_describe_a_decoder_is_named(values, words, write):
    with pytest.raises(InputError, match=re.escape(words)) as error:
        find_architecture(write(values))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt2-124", "there is no such preset; did you mean gpt2-124m"),
        ("lama-8b", "did you mean llama-8b"),
        ("mixture-160m", "did you mean mixture-8x160m"),
        ("giant", "--model giant: no preset (gpt2-124m, gpt2-355m"),
        ("nowhere.json", "nowhere.json is not there"),
    ],
)
def test_a_preset_that_does_not_exist(name, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(words)) as error:
        find_architecture(name)
    assert "\n" not in str(error.value)
