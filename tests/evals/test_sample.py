"""Sampled completions and their log-probabilities, for every family of decoders, against the path of training."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import transformers
from decoder_cases import CASES, ONE_EACH
from drawn import drawn

from jaxllm.data.rollouts import Completion, RolloutRows, Sampled
from jaxllm.distributed.mesh import make_mesh, row_multiple, shardings
from jaxllm.evals import decode, generate
from jaxllm.evals.generate import sample
from jaxllm.evals.sampling import Sampling
from jaxllm.hf.open import read_config
from jaxllm.losses.rollouts import read_rollouts
from jaxllm.models.decoder import SHARDING, Config
from jaxllm.models.heads import describe_model
from jaxllm.params import bind
from jaxllm.types import InputError

CONFIG = Config(
    vocab_size=300, width=16, depth=2, heads=4, mlp_width=32, kv_heads=2, max_positions=64, windows=(0, 5), unroll=1
)
PROMPTS = [[3, 4, 5, 6, 7, 8, 9], [7], [7], [9, 8, 7, 6, 5], [3, 4, 5, 6, 7, 8, 9], [11, 12, 13]]
QUICK = ("llama-3.1", "gemma2-caps", "mixtral")
TOLERANCE = 5e-5
"""Nats, between float32 log-probabilities of about -10 to 0."""


@functools.cache
def model_of(name):
    """A model of a family whose logits tell tokens apart, without a file."""
    kind, fields = CASES[name]
    config, _ = read_config(transformers.CONFIG_MAPPING[kind](**fields).to_dict(), name, "lm")
    spec = describe_model(dataclasses.replace(config, unroll=1))
    return spec.graphdef, drawn(spec, std=0.25)


@functools.cache
def small():
    spec = describe_model(CONFIG)
    return spec.graphdef, drawn(spec, std=0.3)


def trained(graphdef, params, prompts, samples):
    """The log-probabilities that a train step computes of the same tokens, prompts shared by their completions."""
    groups = {}
    for number, prompt in enumerate(map(tuple, prompts)):
        groups.setdefault(prompt, []).append(number)
    rows = RolloutRows(
        [
            Sampled(np.array(prompt, np.int32), tuple(Completion(samples[i].tokens, 1.0) for i in numbers))
            for prompt, numbers in groups.items()
        ]
    )
    length = int(rows.lengths.max())
    batch = rows.collate([[i] for i in range(len(groups))], length, len(groups), max(map(len, groups.values())))
    read = jax.jit(lambda params, batch: read_rollouts(bind(graphdef, params), batch, None, reference=False))
    found = read(params, batch)
    logps = np.asarray(found.policy_BT).reshape(len(groups), -1, length)
    mask = np.asarray(found.mask_BT).reshape(logps.shape)
    by_number = {}
    for row, numbers in enumerate(groups.values()):
        by_number |= {number: logps[row, slot][mask[row, slot]] for slot, number in enumerate(numbers)}
    return [by_number[number] for number in range(len(prompts))]


@pytest.mark.parametrize("name", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in ONE_EACH])
def test_log_probabilities_are_those_of_training(name):
    graphdef, params = model_of(name)
    samples = sample(graphdef, params, PROMPTS, key=jax.random.key(3), max_tokens=20, ends=(5, 6, 7, 8))
    assert {len(x.tokens) for x in samples} != {20}
    assert max(len(x.tokens) for x in samples) > 10
    for one, expected in zip(samples, trained(graphdef, params, PROMPTS, samples), strict=True):
        assert one.logps.std() > 0.1 or len(one.logps) == 1
        np.testing.assert_allclose(one.logps, expected, rtol=0, atol=TOLERANCE)
        assert one.ended == (one.tokens[-1] in (5, 6, 7, 8))
        assert one.ended or len(one.tokens) == 20
        assert not np.isin(one.tokens[:-1], (5, 6, 7, 8)).any()


def test_a_temperature_divides_the_logits_and_a_cut_vocabulary_is_not_made_one():
    graphdef, params = small()
    scaled = dict(params)
    scaled["unembed.kernel"] = params["unembed.kernel"] / 0.5
    sampling = Sampling(0.5, top_k=9, top_p=0.9)
    samples = sample(graphdef, params, PROMPTS, sampling, key=jax.random.key(1), max_tokens=10)
    for one, expected in zip(samples, trained(graphdef, scaled, PROMPTS, samples), strict=True):
        np.testing.assert_allclose(one.logps, expected, rtol=0, atol=TOLERANCE)


def test_greedy_log_probabilities_are_at_temperature_one():
    graphdef, params = small()
    samples = sample(graphdef, params, PROMPTS, Sampling(), key=jax.random.key(1), max_tokens=6)
    for one, expected in zip(samples, trained(graphdef, params, PROMPTS, samples), strict=True):
        np.testing.assert_allclose(one.logps, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("text", ["data=2,fsdp=2,tensor=2", "fsdp=8", "data=4,tensor=2"])
def test_a_mesh_samples_the_same_and_copies_no_parameter(text):
    """The rows are no multiple of the devices, nor the vocabulary."""
    graphdef, params = small()
    mesh = make_mesh(text)
    placed = jax.device_put(params, shardings(params, mesh, SHARDING))
    expected = sample(graphdef, params, PROMPTS, key=jax.random.key(5), max_tokens=12, ends=(5,))
    found = sample(graphdef, placed, PROMPTS, key=jax.random.key(5), max_tokens=12, ends=(5,))
    for one, other in zip(found, expected, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.ended == other.ended
        np.testing.assert_allclose(one.logps, other.logps, rtol=0, atol=TOLERANCE)
    with jax.set_mesh(mesh):
        packed = decode.pack_prompts(
            PROMPTS, range(6), [12] * 6, jax.random.key(5), slots=16, multiple=row_multiple(mesh)
        )
        state, latest = decode.start(graphdef, Sampling(1.0), 32, 16, placed, packed, np.array([5], np.int32))
    rows = packed.limit_B.size // row_multiple(mesh)
    lead = (2, rows, 2 // mesh.shape["tensor"])
    for x, last in zip(state.cache.stacks[0], [(4, 32), (32, 4)], strict=True):
        assert {shard.data.shape for shard in x.addressable_shards} == {(*lead, *last)}
    assert latest.done_B.sharding.is_fully_replicated


def test_layers_that_are_not_scanned_have_caches_of_their_own_and_sample_the_same():
    graphdef, params = small()
    apart = describe_model(dataclasses.replace(CONFIG, unroll=CONFIG.depth)).graphdef
    draw = functools.partial(sample, prompts=PROMPTS, key=jax.random.key(5), max_tokens=12, ends=(5,))
    for one, other in zip(draw(apart, params), draw(graphdef, params), strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        np.testing.assert_allclose(one.logps, other.logps, rtol=0, atol=TOLERANCE)


def test_a_completion_follows_from_key_and_number():
    graphdef, params = small()
    draw = functools.partial(sample, graphdef, params, max_tokens=12, ends=(5,))
    whole = draw(PROMPTS, key=jax.random.key(2))
    turned = draw(PROMPTS[::-1], key=jax.random.key(2), index=range(5, -1, -1))[::-1]
    alone = [draw([prompt], key=jax.random.key(2), index=[number])[0] for number, prompt in enumerate(PROMPTS)]
    for one, other, third in zip(whole, turned, alone, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist() == third.tokens.tolist()
        np.testing.assert_allclose(one.logps, third.logps, rtol=0, atol=TOLERANCE)
    assert whole[1].tokens.tolist() != whole[2].tokens.tolist()  # of equal prompts
    other = draw(PROMPTS, key=jax.random.key(3))
    assert [x.tokens.tolist() for x in other] != [x.tokens.tolist() for x in whole]


def test_the_cache_grows_and_changes_nothing(monkeypatch):
    graphdef, params = small()
    whole = sample(graphdef, params, PROMPTS, key=jax.random.key(4), max_tokens=40)
    sizes = []
    real = decode.grow
    monkeypatch.setattr(generate, "_STEP", 8)
    monkeypatch.setattr(decode, "grow", lambda state, slots: sizes.append(slots) or real(state, slots))
    grown = sample(graphdef, params, PROMPTS, key=jax.random.key(4), max_tokens=40)
    assert sizes == [32, 40, 56]
    for one, other in zip(grown, whole, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        np.testing.assert_allclose(one.logps, other.logps, rtol=0, atol=TOLERANCE)


def test_stops_when_all_have_ended(monkeypatch):
    graphdef, params = small()
    counts = []
    real = decode.decode
    monkeypatch.setattr(decode, "decode", lambda *args: (out := real(*args), counts.append(int(out[1].count)))[0])
    samples = sample(graphdef, params, PROMPTS, key=jax.random.key(6), max_tokens=48, ends=range(0, 300, 3))
    assert all(x.ended for x in samples)
    assert counts[-1] == max(len(x.tokens) for x in samples) < 48


@pytest.mark.parametrize("axes", ["", "fsdp=2,tensor=2"])
def test_a_few_rows_go_on_alone_and_nothing_changes(monkeypatch, axes):
    """Rows that are left when the others have ended: in smaller batches, of the same tokens."""
    spec = describe_model(CONFIG)
    graphdef, params = small()
    if axes:
        mesh = make_mesh(axes, jax.devices()[:4])
        params = jax.device_put(params, shardings(graphdef.abstract, mesh, spec.rules, limits=graphdef.limits))
    asked = {"key": jax.random.key(6), "max_tokens": 24, "ends": range(0, 300, 3)}
    whole = sample(graphdef, params, PROMPTS * 3, **asked)
    sizes = []
    real = decode.take
    monkeypatch.setattr(generate, "_LEAST", 1)
    monkeypatch.setattr(decode, "take", lambda state, rows: sizes.append(len(rows)) or real(state, rows))
    fewer = sample(graphdef, params, PROMPTS * 3, **asked)
    assert sizes == ([4] if axes else [4, 1])
    for one, other in zip(fewer, whole, strict=True):
        assert (one.tokens.tolist(), one.ended) == (other.tokens.tolist(), other.ended)
        np.testing.assert_allclose(one.logps, other.logps, rtol=0, atol=TOLERANCE)


def test_prompts_are_read_once_and_with_little_padding():
    lengths = np.random.default_rng(0).integers(3, 60, 64)
    prompts = [np.random.default_rng(n).integers(0, 300, n).tolist() for n in lengths for _ in range(4)]
    packed = decode.pack_prompts(prompts, range(256), [1] * 256, jax.random.key(0), slots=64, multiple=1)
    assert packed.tokens_RT.size < 1.06 * sum({tuple(p): len(p) for p in prompts}.values())
    assert packed.fill > 0.95
    for prompt, place_S in zip(prompts, packed.place_BS, strict=True):
        assert packed.tokens_RT.reshape(-1)[place_S[place_S >= 0]].tolist() == prompt
        assert (place_S[: 64 - len(prompt)] == -1).all()


def test_numbers_are_one_each():
    with pytest.raises(InputError, match="6 prompts have 2 numbers"):
        sample(*small(), PROMPTS, key=jax.random.key(0), max_tokens=3, index=[0, 1])
