"""Model FLOPs, counted by hand for each family."""

import dataclasses
import types

import numpy as np
import pytest

from jaxllm.models import encoder, lora
from jaxllm.models.decoder import PRESETS, Config
from jaxllm.models.flops import model_flops
from jaxllm.models.heads import ScorerConfig, TaggerConfig, describe_model
from jaxllm.models.mlm_head import MaskedConfig
from jaxllm.models.teacher import add_teacher
from jaxllm.params import select

D, L, N, K, F, V, T = 32, 3, 4, 2, 48, 64, 16
H = D // N
DECODER = Config(vocab_size=V, width=D, depth=L, heads=N, kv_heads=K, mlp_width=F, max_positions=T)
MATRICES = L * (2 * D * N * H + 2 * D * K * H + 3 * D * F)
PAIR = 4 * N * H


def rows(positions_BT, segments_BT=None):
    positions_BT = np.asarray(positions_BT)
    return types.SimpleNamespace(
        positions_BT=positions_BT, segments_BT=np.ones_like(positions_BT) if segments_BT is None else segments_BT
    )


ROW = rows(np.tile(np.arange(T), (2, 1)))
CAUSAL = 2 * T * (T + 1) // 2
"""Pairs that two rows of one document see."""


def flops(config, batch=ROW, freeze=(), **more):
    model = describe_model(config)
    return model_flops(model, select(model.trained, freeze), **more).of(batch)


def test_a_dense_decoder():
    assert flops(DECODER) == 6 * 2 * T * (MATRICES + D * V) + 3 * L * PAIR * CAUSAL
    tied = dataclasses.replace(DECODER, tied=True)
    assert flops(tied) == flops(DECODER), "the embedding is the head"


def test_windows_and_documents_see_less():
    local = dataclasses.replace(DECODER, windows=(4, 4, 0))
    seen = 2 * sum(min(t + 1, 4) for t in range(T))
    assert flops(DECODER) - flops(local) == 3 * 2 * PAIR * (CAUSAL - seen)
    halves = rows(np.tile(np.arange(T // 2), (2, 2)))
    assert flops(DECODER) - flops(DECODER, halves) == 3 * L * PAIR * (CAUSAL - 4 * (T // 2) * (T // 2 + 1) // 2)


def test_padding_costs_nothing():
    half = rows(np.tile(np.arange(T), (2, 1)), np.repeat([[1], [0]], T, axis=1))
    assert flops(DECODER, half) == flops(DECODER) / 2


def test_a_shared_prompt_is_counted_once():
    """A trunk of 8 and two branches of 4, whose positions continue: each sees the trunk and itself."""
    shared = rows([[*range(8), *range(8, 12), *range(8, 12)]])
    pairs = 8 * 9 // 2 + 2 * (4 * 8 + 4 * 5 // 2)
    assert flops(DECODER, shared) == 6 * T * (MATRICES + D * V) + 3 * L * PAIR * pairs


def test_experts_that_a_token_goes_through_count():
    mixture = dataclasses.replace(DECODER, experts=8, experts_per_token=2)
    attention = L * (2 * D * N * H + 2 * D * K * H)
    active = attention + L * (2 * 3 * D * F + D * 8) + D * V
    assert flops(mixture) == 6 * 2 * T * active + 3 * L * PAIR * CAUSAL


def test_adapters_have_no_gradients_of_the_base():
    base = describe_model(DECODER)
    adapted = lora.add(base, lora.Config(4), whole=())
    low = sum(np.prod(x.shape) for name, x in adapted.trained.items())
    found = model_flops(adapted, {}).of(ROW)
    assert found == 2 * T * (4 * (MATRICES + D * V) + 6 * low) + 3 * L * PAIR * CAUSAL
    live = model_flops(adapted, {}, reference=True).of(ROW)
    assert live - found == 2 * T * 2 * (MATRICES + D * V) + L * PAIR * CAUSAL


def test_frozen_layers_below_all_that_is_trained_have_a_forward_pass_alone():
    found = flops(DECODER, freeze=("embeddings.*", "blocks[:2].*"))
    head = 6 * 2 * T * D * V
    assert found == head + 2 * T * MATRICES / L * (2 * 2 + 6) + L * PAIR * CAUSAL + 2 * PAIR * CAUSAL
    upper = flops(DECODER, freeze=("blocks[1:].*",))
    assert upper == head + 2 * T * MATRICES / L * (6 + 2 * 4) + 3 * L * PAIR * CAUSAL


def test_a_teacher_has_a_forward_pass_alone():
    base = describe_model(DECODER)
    both = add_teacher(base, base)
    assert model_flops(both, {}, reference=True).of(ROW) == pytest.approx(flops(DECODER) * 4 / 3)


def test_a_reward_model_has_no_vocabulary():
    assert flops(ScorerConfig(DECODER)) == 6 * 2 * T * (MATRICES + D) + 3 * L * PAIR * CAUSAL


def test_an_encoder_sees_both_sides():
    shape = encoder.Config(vocab_size=V, width=D, depth=L, heads=N, mlp_width=F, max_positions=T)
    matrices = L * (4 * D * D + 2 * D * F)
    found = flops(TaggerConfig(shape, ("O", "B", "I")))
    assert found == 6 * 2 * T * (matrices + 3 * D) + 3 * L * PAIR * 2 * T * T
    local = dataclasses.replace(shape, window=2, global_every=3)  # layers 1 and 2 see two to either side
    seen = sum(min(t, 2) + min(T - 1 - t, 2) + 1 for t in range(T))
    assert found - flops(TaggerConfig(local, ("O", "B", "I"))) == 3 * 2 * PAIR * 2 * (T * T - seen)


def test_the_rule_of_six_holds_for_large_models():
    config = PRESETS["llama-8b"]
    model = model_flops(describe_model(config), {})
    matrices = 8_030_261_248 - 128256 * 4096
    assert model.per_token == pytest.approx(6 * matrices, rel=1e-4)


def test_the_head_of_a_masked_language_model_is_for_learned_positions():
    shape = encoder.Config(vocab_size=V, width=D, depth=1, heads=N, mlp_width=F, max_positions=T)
    tagger = flops(TaggerConfig(shape, ("O",))) - 6 * 2 * T * D
    for tied in (True, False):
        head = flops(MaskedConfig(shape, learned=0.25, tied=tied)) - tagger
        assert head == 6 * 2 * T * 0.25 * (D * D + D * V)
