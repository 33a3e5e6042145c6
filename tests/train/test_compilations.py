"""A run compiles its train step and each evaluation once, however its batches differ in what they hold."""

import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from toy_run import Data, Toy, corpus, dev_loss, forward, go

from jaxllm.distributed.mesh import make_mesh, put_batch
from jaxllm.losses.tokens import cross_entropy
from jaxllm.models import decoder
from jaxllm.models.heads import describe_model
from jaxllm.params import describe, stored_as
from jaxllm.train.optim import OptimConfig, make_optimizer, make_schedule
from jaxllm.train.optimizers import OPTIMIZERS
from jaxllm.train.setup import init_state, prepare


def ragged_loss(runner):
    """On every batch of the corpus, of which no two hold as many tokens."""
    served = corpus()
    batches = [served.batch(i) for i in range(served.plan.steps)]
    assert len({int(np.sum(batch.segments_BT > 0)) for batch in batches}) > 1
    numbers = runner.map(forward, batches)
    return {"loss": float(np.mean([float(x) for x in numbers]))}


def test_one_compilation_of_the_step_and_of_the_evaluation(tmp_path, caplog):
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        go(tmp_path / "run", Data(), steps=2 * corpus().plan.steps, evals={"dev": ragged_loss, "again": dev_loss})
    found = [name for line in caplog.messages for name in re.findall(r"^Compiling jit\((.*?)\)", line)]
    assert found.count("step") == 1, found
    assert found.count("forward") == 1, found  # both evaluations run one function


class Scaled(Toy):
    """The toy with a scale whose initial value has no dtype of its own ("weak"), as `jnp.full(8, 1.0)` gives it."""

    def __init__(self, rngs):
        super().__init__(rngs, 0.5)
        self.scale = nnx.Param(jnp.full(8, 1.0))

    def head(self, hidden_ND):
        return (self.scale[...][None] * hidden_ND) @ self.kernel[...]


def scaled():
    return describe(Scaled, ((r"scale", P()), (".*", P("fsdp", "tensor"))))


def gives_back_what_it_takes(model, transform):
    """Asserts that a step returns a state of the types it takes: of others the next step would compile anew."""
    mesh = make_mesh("data=1", jax.devices()[:1])
    step, layout = prepare(model, cross_entropy, transform, mesh)
    state = init_state(model, transform, layout)
    batch = corpus().batch(0)
    with jax.set_mesh(mesh):
        after, _ = jax.eval_shape(step.jitted, state, put_batch(batch, mesh, len(batch.tokens_BT)), {})
    told = lambda x: (x.shape, x.dtype, x.weak_type)
    assert jax.tree.map(told, after) == jax.tree.map(lambda x: told(jax.typeof(x)), state)


@pytest.mark.parametrize("kept", [("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "float32")])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_after_a_step_has_the_types_of_that_before(name, kept):
    config = OptimConfig(optimizer=name, moments=kept[0], warmup=2, param_dtype=kept[1])
    model = stored_as(scaled(), config.param_dtype)
    gives_back_what_it_takes(model, make_optimizer(config, model.trained, make_schedule(config, 9)))


def test_an_optimizer_of_ones_own_may_begin_with_numbers_of_no_dtype():
    momentum = optax.GradientTransformation(
        lambda params: {"decay": 0.9, "rate": jnp.asarray(0.9), "last": jax.tree.map(jnp.zeros_like, params)},
        lambda grads, state, params=None: (
            grads,
            {"decay": state["decay"] * jnp.float32(1), "rate": state["rate"] * jnp.float32(1), "last": grads},
        ),
    )
    gives_back_what_it_takes(scaled(), momentum)


def test_a_decoder_begins_with_the_types_it_goes_on_with():
    config = decoder.Config(vocab_size=24, depth=1, width=8, heads=2, mlp_width=16)
    gives_back_what_it_takes(describe_model(config), optax.adam(1e-3))
