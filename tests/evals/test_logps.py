"""Log-probabilities of answers: the same with the prompt shared, repeated, and with one answer in a row."""

import dataclasses

import jax
import numpy as np
import pytest
from drawn import drawn

from jaxllm.data.packing import make_plan
from jaxllm.data.preference.answers import Answer, AnswerBatches, AnswerRows, Group, Layout
from jaxllm.distributed.mesh import make_mesh
from jaxllm.evals.logps import answer_logps
from jaxllm.models.decoder import SHARDING, Decoder
from jaxllm.models.decoder_config import Config
from jaxllm.params import describe
from jaxllm.train.forward import Runner

SHAPE = Config(vocab_size=50, width=16, depth=2, heads=2, mlp_width=24, max_positions=32, init_std=0.3)


@pytest.fixture(scope="module")
def groups():
    rng = np.random.default_rng(0)
    draw = lambda low, high: rng.integers(1, 50, rng.integers(low, high)).astype(np.int32)

    def answer(side):
        tokens = draw(2, 9)
        return Answer(tokens, np.arange(len(tokens)) != 1 if side > 0 else np.ones(len(tokens), bool), side)

    return [Group(draw(1, 9), (answer(1), answer(-1))) for _ in range(13)]


def logps(config, groups, layout, pack=True):
    spec = describe(lambda rngs: Decoder(config, rngs), SHARDING)
    rows = AnswerRows(groups, layout)
    plan = make_plan(rows.lengths, batch_size=8, pack=pack)
    runner = Runner(spec.graphdef, drawn(spec), make_mesh("data=1", jax.devices()[:1]))
    return answer_logps(runner, AnswerBatches(rows, plan))


@pytest.mark.parametrize(
    "changes", [{}, {"rope_base": 0.0}, {"windows": (4, 0)}], ids=["rotary", "learned positions", "windows"]
)
def test_a_shared_prompt_changes_no_log_probability(groups, changes):
    config = dataclasses.replace(SHAPE, **changes)
    shared = logps(config, groups, Layout())
    repeated = logps(config, groups, Layout(share=False))
    single = [dataclasses.replace(g, answers=(a,)) for g in groups for a in g.answers]
    alone = logps(config, single, Layout(share=False), pack=False)
    for i, (a, b) in enumerate(zip(shared, repeated, strict=True)):
        for j in range(2):
            assert len(a[j]) == groups[i].answers[j].reach
            np.testing.assert_allclose(a[j], b[j], atol=1e-5)
            np.testing.assert_allclose(a[j], alone[2 * i + j][0], atol=1e-5)
            assert np.all((a[j] < 0) == groups[i].answers[j].trained[: len(a[j])])
