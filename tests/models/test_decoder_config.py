"""Configurations of decoders."""

import dataclasses

import pytest

from jaxllm.models.decoder import PRESETS, SHARDING, Config, Decoder
from jaxllm.params import count, describe
from jaxllm.types import InputError

SMALL = Config(vocab_size=64, width=24, depth=2, heads=4, mlp_width=40, kv_heads=2)


def test_presets_have_their_published_sizes():
    def size(name):
        return count(describe(lambda rngs: Decoder(PRESETS[name], rngs), SHARDING).graphdef.abstract)

    assert size("gpt2-124m") == 124_439_808
    assert size("gpt2-1.5b") == 1_557_611_200
    assert size("llama-135m") == 134_515_008
    assert size("llama-1b") == 1_100_048_384
    assert size("llama-8b") == 8_030_261_248


def test_configurations_of_one_model_are_equal():
    assert dataclasses.replace(SMALL, windows=(0, 0, 0), head_width=6) == SMALL
    assert dataclasses.replace(SMALL, kv_heads=4) == dataclasses.replace(SMALL, kv_heads=0)
    deep = dataclasses.replace(SMALL, depth=3)
    assert dataclasses.replace(deep, windows=(4, 0, 4)) == dataclasses.replace(deep, windows=(4, 0))
    assert dataclasses.replace(deep, windows=(4, 0, 0)) != dataclasses.replace(deep, windows=(4, 0))


@pytest.mark.parametrize(
    ("field", "wrong", "remedy"),
    [
        ("activation", "gelu_tan", "gelu_tanh"),
        ("norm", "batch", "rms"),
        ("norm_place", "between", "both"),
        ("qk_norm", "yes", "head"),
        ("backend", "flsh", "flash"),
        ("remat", "some", "dots"),
        ("kv_heads", 3, "and divide width"),
        ("heads", 10, "divide width=24"),
    ],
)
def test_a_wrong_field_is_named(field, wrong, remedy):
    with pytest.raises(InputError, match=f"{field}=.*{remedy}"):
        dataclasses.replace(SMALL, **{field: wrong})
