"""Flags that were not given follow the recipe for the weights; those that were given stay."""

import dataclasses

import pytest

from jaxllm.recipes.adapters import LoraFlags
from jaxllm.recipes.flags import Common
from jaxllm.recipes.recipe import fill_in

RECIPES = {
    "scratch": {"epochs": 3.0, "learning_rate": 1e-3},
    "adapters": {"epochs": 2.0, "learning_rate": 1e-4},
    "pretrained": {"epochs": 1.0, "learning_rate": 1e-5},
}


@dataclasses.dataclass(frozen=True)
class Config(Common, LoraFlags):
    epochs: float | None = None
    learning_rate: float | None = None


@dataclasses.dataclass(frozen=True)
class Whole(Common):
    """Of a script that trains no adapters."""

    epochs: float | None = None
    learning_rate: float | None = None


@pytest.mark.parametrize(
    ("config", "epochs"),
    [
        (Config(model="tiny"), 3.0), (Config(model="shape.json"), 3.0), (Config(model="a/b"), 1.0),
        (Config(model="a/b", lora_rank=4), 2.0), (Config(model="a/b", lora_from="c"), 2.0),
        (Config(model="tiny", lora_rank=4), 3.0), (Whole(model="a/b"), 1.0), (Whole(model="tiny"), 3.0),
    ],
)  # fmt: skip
def test_the_recipe_is_that_of_the_weights(config, epochs):
    assert fill_in(config, RECIPES).epochs == epochs


def test_what_is_given_stays_and_presets_may_be_others():
    config = fill_in(Config(model="mine", learning_rate=0.5), RECIPES, presets=("mine",))
    assert (config.epochs, config.learning_rate) == (3.0, 0.5)
    assert fill_in(Config(model="tiny"), RECIPES, presets=("mine",)).epochs == 1.0
