"""What a device of eight holds under fsdp=8: an eighth of every family's state, at its real size."""

import dataclasses
import math

import jax
import optax
import pytest
from families import DECODERS, ENCODERS

from jaxllm.distributed.mesh import make_mesh
from jaxllm.hf.config import Fields
from jaxllm.hf.families import LANGUAGE_MODELS, TAGGERS
from jaxllm.models import decoder, heads, lora
from jaxllm.params import describe
from jaxllm.train.optim import OptimConfig, make_optimizer
from jaxllm.train.setup import lay_out

LABELS = ("O", *(f"{side}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for side in "BI"))


def full_size(kind):
    """The description of a model of the sizes that `transformers` has as the family's defaults."""
    if kind in DECODERS:
        config = LANGUAGE_MODELS[kind].read(Fields({"model_type": kind}))
        return describe(lambda rngs: decoder.Decoder(config, rngs), decoder.SHARDING)
    config = dataclasses.replace(TAGGERS[kind].read(Fields({"model_type": kind})), labels=LABELS)
    return describe(lambda rngs: heads.Tagger(config, rngs), heads.SHARDING)


def share(tree, at):
    """Bytes on a device, over an eighth of all."""
    pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(at), strict=True))
    held = sum(math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize for x, sharding in pairs)
    return 8 * held / sum(x.size * x.dtype.itemsize for x, _ in pairs)


def state_share(spec, optimizer="adamw"):
    config = OptimConfig(optimizer=optimizer)
    layout = lay_out(spec, make_optimizer(config, spec.trained, optax.constant_schedule(0.1)), make_mesh("fsdp=8"))
    state = layout.like
    return share(state, jax.tree.map(lambda x: x.sharding, state))


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODERS])
def test_an_eighth_of_the_state(kind):
    spec = full_size(kind)
    assert 1 <= state_share(spec) < 1.001
    at = lay_out(spec, optax.identity(), make_mesh("fsdp=8")).params
    whole = {n: x.size for n, x in spec.trained.items() if at[n].is_fully_replicated}
    assert whole.keys() <= {"classifier.bias"}, "of what is more than a label's"


def test_an_eighth_of_a_reward_model():
    config = heads.ScorerConfig(decoder.PRESETS["llama-1b"])
    assert state_share(describe(lambda rngs: heads.Scorer(config, rngs), heads.SCORER_SHARDING)) < 1.001


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_an_eighth_of_adapters_and_of_what_they_stand_on(kind):
    spec = lora.add(full_size(kind), lora.Config(8))
    assert state_share(spec) < 1.001
    at = lay_out(spec, optax.identity(), make_mesh("fsdp=8")).frozen
    assert share({n: spec.graphdef.abstract[n] for n in at}, dict(at)) < 1.001


@pytest.mark.parametrize("optimizer", ["adafactor", "lion", "muon", "schedule_free_adamw"])
def test_an_eighth_with_every_optimizer(optimizer):
    assert state_share(full_size("qwen2"), optimizer) < 1.05
