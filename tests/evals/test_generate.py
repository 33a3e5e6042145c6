"""Generation; token for token against `transformers` it is in tests/hf/test_decoder_families.py."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from jaxllm.distributed.mesh import make_mesh, shardings
from jaxllm.evals import decode
from jaxllm.evals.generate import Sampling, generate
from jaxllm.evals.sampling import restrict
from jaxllm.models.decoder import SHARDING, Config, Decoder
from jaxllm.params import bind, describe
from jaxllm.types import Batch, InputError

torch = pytest.importorskip("torch")

CONFIG = Config(vocab_size=49, width=16, depth=2, heads=2, mlp_width=24, max_positions=40)
PROMPTS = [[3, 4, 5, 6], [7], [8, 9, 10, 11, 12, 13]]


@pytest.fixture(scope="module")
def model():
    graphdef = describe(lambda rngs: Decoder(CONFIG, rngs), SHARDING).graphdef
    draw = np.random.default_rng(0)
    return graphdef, {name: jnp.asarray(draw.normal(size=x.shape), x.dtype) for name, x in graphdef.abstract.items()}


@partial(jax.jit, static_argnums=0)
def logits_of(graphdef, params, batch):
    bound = bind(graphdef, params)
    return bound.head(bound.hidden(batch)[0])


def test_greedy_is_the_likeliest_token_each_time(model):
    graphdef, params = model
    streamed = [[] for _ in PROMPTS]
    note = lambda row, token, last: streamed[row].append((token, last))
    new = generate(graphdef, params, PROMPTS, max_tokens=9, on_token=note)
    assert streamed == [[(token, i == 8) for i, token in enumerate(row)] for row in new]
    tokens = np.zeros((3, 16), int)
    for row, (prompt, continued) in enumerate(zip(PROMPTS, new, strict=True)):
        assert len(continued) == 9
        tokens[row, : len(prompt) + 9] = prompt + continued
    ones, positions = np.ones((3, 16), int), np.tile(np.arange(16), (3, 1))
    best = np.argmax(logits_of(graphdef, params, Batch(tokens, tokens, ones, ones, positions)), axis=-1)
    for row, (prompt, continued) in enumerate(zip(PROMPTS, new, strict=True)):
        assert best[row, len(prompt) - 1 : len(prompt) + 8].tolist() == continued


def test_stops(model):
    graphdef, params = model
    free = generate(graphdef, params, PROMPTS, max_tokens=12)
    stop = free[0][5]
    ended = generate(graphdef, params, PROMPTS, max_tokens=12, stop=[stop])
    for before, after in zip(free, ended, strict=True):
        cut = before.index(stop) + 1 if stop in before else 12
        assert after == before[:cut]
    assert ended[0][-1] == stop
    assert len(ended[0]) <= 6


def test_a_row_ends_where_its_reader_says_so_and_the_others_go_on(model):
    graphdef, params = model
    free = generate(graphdef, params, PROMPTS, max_tokens=12)
    seen = []

    def enough(row, token, last):
        seen.append(row)
        return row == 1 and seen.count(1) == 3

    assert generate(graphdef, params, PROMPTS, max_tokens=12, on_token=enough) == [free[0], free[1][:3], free[2]]
    assert seen.count(1) == 3


def test_one_step_is_compiled_for_all_tokens_and_prompts(model):
    graphdef, params = model
    decode.decode.clear_cache()  # of what other tests compiled, maybe this very step
    generate(graphdef, params, PROMPTS, Sampling(0.7), max_tokens=30)
    generate(graphdef, params, [[1, 2], [3] * 5, [4]], Sampling(0.7), max_tokens=19)
    assert decode.decode._cache_size() == 1


def test_the_context_ends(model):
    graphdef, params = model
    new = generate(graphdef, params, [list(range(38)), [1]], max_tokens=100)
    assert [len(x) for x in new] == [2, 39]


def test_samples_follow_the_seed_and_not_the_neighbours(model):
    graphdef, params = model
    warm = Sampling(temperature=5.0)
    one = generate(graphdef, params, PROMPTS, warm, max_tokens=20, seed=1)
    assert one == generate(graphdef, params, PROMPTS, warm, max_tokens=20, seed=1)
    assert one != generate(graphdef, params, PROMPTS, warm, max_tokens=20, seed=2)
    assert one[0] == generate(graphdef, params, [PROMPTS[0], [30, 31]], warm, max_tokens=20, seed=1)[0]
    twice = generate(graphdef, params, [PROMPTS[0]] * 2, warm, max_tokens=20, seed=1)
    assert twice[0] != twice[1]
    assert generate(graphdef, params, PROMPTS, Sampling(1.0, top_k=1), max_tokens=20) == generate(
        graphdef, params, PROMPTS, max_tokens=20
    )
    assert generate(graphdef, params, PROMPTS, Sampling(1e-9), max_tokens=9, seed=3) == generate(
        graphdef, params, PROMPTS, Sampling(0.0), max_tokens=9
    )


def test_samples_are_drawn_by_probability(model):
    """First tokens of many equal rows against the distribution they are drawn from."""
    graphdef, params = model
    sampling = Sampling(temperature=8.0, top_k=8, top_p=0.9)
    drawn = generate(graphdef, params, [PROMPTS[0]] * 2000, sampling, max_tokens=1, seed=5)
    counts = np.bincount([x[0] for x in drawn], minlength=49)
    tokens, ones = np.array(PROMPTS[:1]), np.ones((1, 4), int)
    logits = logits_of(graphdef, params, Batch(tokens, tokens, ones, ones, np.arange(4)[None]))[:, -1]
    odds = np.asarray(jax.jit(lambda logits: jax.nn.softmax(restrict(logits, sampling)))(logits))[0]
    assert 1 < (odds > 0).sum() <= 8
    assert (counts[odds == 0] == 0).all()
    assert (np.abs(counts - 2000 * odds) < 5 * np.sqrt(2000 * odds * (1 - odds)) + 1e-6).all()


def test_sharded_parameters_generate_the_same(model):
    """Of a vocabulary that the mesh does not divide."""
    graphdef, params = model
    placed = jax.device_put(params, shardings(params, make_mesh("fsdp=4,tensor=2"), SHARDING))
    expected = generate(graphdef, params, PROMPTS, max_tokens=9)
    assert generate(graphdef, placed, PROMPTS, max_tokens=9) == expected


@pytest.mark.parametrize(
    "sampling", [Sampling(0.5), Sampling(1.0, 5), Sampling(0.7, 99), Sampling(2.0, 0, 0.6), Sampling(0.8, 9, 0.3)]
)
def test_restricts_as_transformers(sampling):
    logits = np.asarray(3 * jax.random.normal(jax.random.key(0), (6, 30)))
    expected = TemperatureLogitsWarper(sampling.temperature)(None, torch.tensor(logits))
    if sampling.top_k:
        expected = TopKLogitsWarper(sampling.top_k)(None, expected)
    if sampling.top_p < 1:
        expected = TopPLogitsWarper(sampling.top_p)(None, expected)
    np.testing.assert_allclose(restrict(jnp.asarray(logits), sampling), expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([[1], []], "prompt 1 has 0 tokens"),
        ([[1] * 40], "prompt 0 has 40 tokens; the context of 40"),
        ([[1, 49]], "prompt 0 has ids outside the vocabulary of 49"),
        ([[-1]], "prompt 0 has ids outside"),
    ],
)
def test_prompts_that_do_not_fit_are_named(model, prompts, words):
    with pytest.raises(InputError, match=words):
        generate(*model, prompts)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}],
)
def test_sampling_out_of_range_is_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Sampling(**wrong)
