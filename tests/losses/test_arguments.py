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
    with pytest.raises(InputError, match="no function of pairs"):
        resolve("cross_entropy").mean(p)
    with pytest.raises(InputError, match="1 chosen and 2 rejected"):
        PairLogps.of([[-1.0]], [[-2.0], [-1.0]])
    with pytest.raises(InputError, match=r"ref_chosen\[1\] has 1 tokens, chosen\[1\] has 2"):
        PairLogps.of([[-1.0], [-1.0, -2.0]], [[-2.0]] * 2, [[-1.0], [-1.0]], [[-2.0]] * 2)
    with pytest.raises(InputError, match="tdpo reads the KL per token"):
        resolve("tdpo").mean(PairLogps.of([[-1.0]], [[-2.0]], [[-1.0]], [[-2.0]]))
