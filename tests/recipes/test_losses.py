"""The loss of preference tuning that the flags name, and what is refused before anything is read."""

import dataclasses

import pytest

from jaxllm.losses import Loss
from jaxllm.recipes.flags import Common
from jaxllm.recipes.losses import find_preference_loss
from jaxllm.types import InputError


def test_a_loss_and_a_mixture_with_their_arguments():
    found = find_preference_loss(Common(loss="ipo", loss_args=("beta=0.05",)), "cached")
    assert isinstance(found, Loss)
    assert found.reference
    assert find_preference_loss(Common(loss="sigmoid+sft"), "cached").mixed
    assert "kl" in find_preference_loss(Common(loss="tdpo"), "live").needs


@pytest.mark.parametrize(
    ("changes", "reference", "message"),
    [
        ({"loss": "cross_entropy"}, "cached", "--loss cross_entropy is a loss of tokens"),
        ({"loss": "bradley_terry"}, "cached", "--loss bradley_terry is a loss of rewards"),
        ({"loss": "grpo"}, "cached", "--loss grpo is of completions that the policy samples"),
        ({"loss": "sigmoyd"}, "cached", "did you mean 'sigmoid'"),
        ({"loss": "sigmoid"}, "kept", "--reference kept: give cached or live"),
        ({"loss": "tdpo"}, "cached", "--loss tdpo reads the reference's whole distributions: add --reference live"),
        ({"loss": "kto", "microbatches": 2}, "cached", "depends on the whole batch at once, which --microbatches 2"),
        ({"loss": "kto", "strategy": "pmap"}, "cached", "depends on the whole batch at once, which --strategy pmap"),
    ],
)
def test_what_is_refused(changes, reference, message):
    with pytest.raises(InputError) as error:
        find_preference_loss(dataclasses.replace(Common(), **changes), reference)
    assert message in str(error.value)
