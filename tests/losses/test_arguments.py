"""Whatever is wrong with an argument is an error before anything is loaded, in one line that names it."""

import pytest

from jaxllm.losses import preference, resolve
from jaxllm.losses.preference import PairLogps
from jaxllm.types import InputError


@pytest.mark.parametrize(
    ("spec", "arguments", "message"),
    [
        ("dpo", {"beta": 0}, "'dpo': beta=0 must be above 0"),
        ("dpo", {"beta": "-0.1"}, "beta=-0.1 must be above 0"),
        ("dpo", {"beta": float("nan")}, "beta=nan must be above 0"),
        ("dpo", {"beta": None}, "beta=None must be above 0"),
        ("sigmoid", {"label_smoothing": 0.5}, "label_smoothing=0.5 must be from 0 to below 0.5"),
        ("exo_pair", {"label_smoothing": 0.0}, "label_smoothing=0.0 must be above 0 and below 0.5"),
        ("robust", {"label_smoothing": 0.7}, "must be from 0 to below 0.5"),
        ("hinge", {"label_smoothing": 0.1}, "'hinge': label_smoothing=0.1 must be 0: this loss has no label smoothing"),
        ("orpo", {"label_smoothing": 0.1}, "must be 0: this loss has no label smoothing"),
        ("dpo", {"f_divergence": "kl"}, "f_divergence='kl' must be one of reverse_kl, forward_kl, js_divergence"),
        ("dpo", {"ld_alpha": 1.5}, "ld_alpha=1.5 must be from 0 to 1"),
        ("discopop", {"discopop_tau": 0.0}, "discopop_tau=0.0 must be above 0"),
        ("simpo", {"gamma": -1.0}, "gamma=-1.0 must be 0 or above"),
        ("simpo", {"f_divergence": "forward_kl"}, "'simpo' has no argument 'f_divergence'"),
        ("dpo", {"bet": 0.1}, "no argument 'bet'; did you mean 'beta'?"),
        ("grpo", {"epsilon": -0.1}, "'grpo': epsilon=-0.1 must be 0 or above"),
        ("grpo", {"delta": 0}, "delta=0 must be above 0"),
        ("grpo", {"delta": "much"}, "delta='much' is not a float"),
        ("grpo", {"beta": None}, "beta=None must be 0 or above"),
        ("grpo", {"importance_sampling_level": "word"}, "must be one of token, sequence"),
        ("grpo", {"kl_estimator": "k4"}, "kl_estimator='k4' must be one of k1, k2, k3"),
        ("grpo", {"top_entropy_quantile": 1.5}, "top_entropy_quantile=1.5 must be from 0 to 1"),
        ("grpo", {"vllm_importance_sampling_mode": "token"}, "must be one of none, token_truncate"),
        ("grpo", {"sapo_temperature_pos": 1.0}, "'grpo' has no argument 'sapo_temperature_pos'"),
        ("cispo", {"epsilon": 0.2}, "'cispo' has no argument 'epsilon'; did you mean 'epsilon_high'?"),
        ("cispo", {"epsilon_high": None}, "epsilon_high=None must be above 0"),
        ("gspo", {"importance_sampling_level": "token"}, "'gspo' has no argument 'importance_sampling_level'"),
        ("sapo", {"delta": 1.4}, "'sapo' has no argument 'delta'"),
        ("gmpo", {"use_bias_correction_kl": True}, "'gmpo' has no argument 'use_bias_correction_kl'"),
        ("gmpo", {"vllm_importance_sampling_clip_max": 2.0}, "no argument 'vllm_importance_sampling_clip_max'"),
        ("reinforce", {"epsilon": 0.2}, "'reinforce' has no argument 'epsilon'"),
        ("grpo:0.5+sft:0.5", {}, "losses of pairs and of completions do not mix"),
        ("grpo+cross_entropy", {}, "cross_entropy does not mix; a mixture is of losses of pairs or completions"),
        ("sigmiod", {}, "did you mean 'sigmoid'?"),
    ],
)
def test_refuses(spec, arguments, message):
    with pytest.raises(InputError) as error:
        resolve(spec, **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_refuses_when_called():
    p = PairLogps.of([[-1.0]], [[-2.0]])
    with pytest.raises(InputError, match="compares with a reference: give ref_chosen and ref_rejected"):
        resolve("dpo").mean(p)
    with pytest.raises(InputError, match="has no label smoothing"):
        preference.hinge.mean(p, label_smoothing=0.1)
    with pytest.raises(InputError, match="'hinge' has no argument 'bta'"):
        preference.hinge.mean(p, bta=0.1)
    with pytest.raises(InputError, match="no function of pairs or completions"):
        resolve("cross_entropy").mean(p)
    with pytest.raises(InputError, match="no function of pairs"):
        resolve("grpo").per_pair(p)
    with pytest.raises(InputError, match="no function of completions: decorate it with @policy_loss"):
        resolve("dpo").per_token(p)
    with pytest.raises(InputError, match="loss 'kto' has no metrics"):
        resolve("kto").metrics(p)
    with pytest.raises(InputError, match="1 chosen and 2 rejected"):
        PairLogps.of([[-1.0]], [[-2.0], [-1.0]])
    with pytest.raises(InputError, match=r"ref_chosen\[1\] has 1 tokens, chosen\[1\] has 2"):
        PairLogps.of([[-1.0], [-1.0, -2.0]], [[-2.0]] * 2, [[-1.0], [-1.0]], [[-2.0]] * 2)
    with pytest.raises(InputError, match="tdpo reads the KL per token"):
        resolve("tdpo").mean(PairLogps.of([[-1.0]], [[-2.0]], [[-1.0]], [[-2.0]]))


def test_arguments_that_may_be_none_are_read_from_text():
    found = resolve("grpo", epsilon_high="0.28", delta="none", off_policy_mask_threshold="-1e-2", beta="0.1")
    assert found.arguments == {"epsilon_high": 0.28, "delta": None, "off_policy_mask_threshold": -0.01, "beta": 0.1}
    assert found.reference
    assert not resolve("grpo", beta="0").reference
    assert resolve("vespo", vllm_importance_sampling_clip_max="None").arguments == {
        "vllm_importance_sampling_clip_max": None
    }
