"""A reward model as a reward of online training, on a mesh."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxllm
from jaxllm import hf
from jaxllm.data import tokenizers
from jaxllm.data.chat.templates import give_pad, give_template
from jaxllm.distributed.mesh import make_mesh
from jaxllm.models.decoder import PRESETS
from jaxllm.models.heads import ScorerConfig, describe_model
from jaxllm.recipes.reward_model import RewardModel
from jaxllm.recipes.rewards import find_rewards
from jaxllm.recipes.scoring import Scorer
from jaxllm.types import InputError

QUESTIONS = ["a?", "b c?", "a?", "abcabcabc"]
ANSWERS = ["b", "", "cc a", "abc" * 9]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A random reward model with 40 positions."""
    tokenizer = tokenizers.characters(["abc? \n"])
    give_template(tokenizer, "plain")
    give_pad(tokenizer)
    shape = dataclasses.replace(PRESETS["tiny"], vocab_size=len(tokenizer), width=16, depth=1, heads=2, mlp_width=16,
                                max_positions=40)  # fmt: skip
    spec = describe_model(ScorerConfig(shape))
    params = jax.jit(spec.init)(jax.random.key(0))
    params["score.kernel"] *= 50
    folder = tmp_path_factory.mktemp("reward-model") / "model"
    hf.export(folder, params, ScorerConfig(shape), tokenizer, tokens={"pad_token_id": tokenizer.pad_token_id})
    return folder


def test_it_gives_on_a_mesh_what_score_gives(path):
    (one,) = find_rewards("model", [f"path={path}"], {"model": RewardModel(make_mesh("fsdp=4,tensor=2"), rows=2)})
    assert one.together
    asked = [{"question": text} for text in QUESTIONS]
    scorer = Scorer([one], seconds=1e-6)  # which holds for functions alone
    scorer.check(QUESTIONS[0], asked[0])
    (found,) = scorer.score(QUESTIONS, ANSWERS, asked)
    expected = jaxllm.score(jaxllm.load(str(path)), QUESTIONS[:1] + QUESTIONS[2:3], ["b", "cc a"])
    np.testing.assert_allclose(found[[0, 2]], expected, atol=1e-5)
    assert np.ptp(expected) > 0.1
    assert np.isfinite(found[1])
    assert np.isnan(found[3]), "with its answer it is longer than the model's context"
    (plain,) = scorer.score(["a?", "a?"], ["b", ""], [{"prompt": "a?"}] * 2)
    assert np.isfinite(plain).all()
    assert plain[0] != pytest.approx(found[0]), "plain text is not put into the chat template"


def test_what_is_no_reward_model_is_refused(path, tmp_path):
    with pytest.raises(InputError, match="needs path"):
        find_rewards("model", [], {"model": RewardModel(make_mesh())})
    with pytest.raises(InputError, match="nowhere"):
        Scorer(find_rewards("model", ["path=nowhere"], {"model": RewardModel(make_mesh())})).check("a", {"prompt": "a"})
