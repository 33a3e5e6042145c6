"""What the flags of a script are that were not given, by where its weights come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from jaxllm import planning
from jaxllm.models.decoder import PRESETS
from jaxllm.recipes.adapters import LoraFlags
from jaxllm.recipes.flags import Common

C = TypeVar("C", bound=Common)


def fill_in(config: C, recipes: Mapping[str, Mapping[str, Any]], presets: Collection[str] = PRESETS) -> C:
    """The flags, each that is None taken from the recipe for their weights.

    recipes: values by flag for each kind of weights: "scratch" for a preset or a .json of an architecture, "adapters"
    for LoRA on trained weights, "pretrained" for trained weights themselves. presets: names of those that `--model`
    takes.
    """
    if config.model in presets or config.model.endswith(".json"):
        recipe = recipes["scratch"]
    elif isinstance(config, LoraFlags) and (config.lora_rank or config.lora_from):
        recipe = recipes["adapters"]
    else:
        recipe = recipes["pretrained"]
    filled = dataclasses.replace(config, **{name: x for name, x in recipe.items() if getattr(config, name) is None})
    if (plan := planning.current()) is not None:
        plan.config = filled
    return filled
