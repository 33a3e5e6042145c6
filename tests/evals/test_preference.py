"""Which of two answers a model holds likelier."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.data.packing import make_plan
from jaxllm.data.preference.answers import Answer, AnswerBatches, AnswerRows, Group
from jaxllm.distributed.mesh import make_mesh
from jaxllm.evals.preference import likelier
from jaxllm.models.decoder import SHARDING, Decoder
from jaxllm.models.decoder_config import Config
from jaxllm.params import describe
from jaxllm.train.forward import Runner


def test_the_likelier_answer_is_found_per_token():
    """A model that says each token with a probability of its own, whatever came before."""
    shape = Config(vocab_size=8, width=8, depth=1, heads=2, mlp_width=8, max_positions=16)
    spec = describe(lambda rngs: Decoder(shape, rngs), SHARDING)
    params = {name: np.zeros(x.shape, x.dtype) for name, x in spec.graphdef.abstract.items()}
    (embedding,) = (name for name in params if name.startswith("embed"))
    (norm,) = (name for name in params if name.endswith("norm.scale") and not name.startswith("blocks"))
    params |= {embedding: jnp.ones((8, 8)), norm: jnp.ones(8)}
    params["unembed.kernel"] = jnp.tile(jnp.arange(8.0), (8, 1)) / 8  # token n has logit n
    runner = Runner(spec.graphdef, params, make_mesh("data=1", jax.devices()[:1]))

    def one(chosen, rejected, untrained=()):
        answers = [np.array(x, np.int32) for x in (chosen, rejected)]
        return Group(
            np.array([1], np.int32),
            tuple(Answer(x, ~np.isin(x, untrained), s) for x, s in zip(answers, (1, -1), strict=True)),
        )

    groups = [
        one([7, 7], [6]),  # less likely as a whole, likelier per token
        one([5], [6, 6]),
        one([0, 7], [6, 6], untrained=(0,)),
        one([1], [2]),
    ]
    rows = AnswerRows(groups)
    batches = AnswerBatches(rows, make_plan(rows.lengths, batch_size=4))
    assert likelier(runner, batches) == 0.5
