"""The two DPO steps whose memory is compared: one value, a quarter of the memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn

from bench_dpo_memory import Config, model, naive, shapes, temporary_bytes
from jaxllm.losses import resolve
from jaxllm.params import bind
from jaxllm.types import Batch, value

NAIVE = functools.partial(naive, beta=0.3)


def test_a_dpo_step_takes_a_quarter_of_the_naive_steps_memory():
    config = Config(width=64, depth=4, rows=4, length=256)
    assert config.vocabulary == 50_257
    ours, theirs = temporary_bytes(config, resolve("dpo", beta=0.3)), temporary_bytes(config, NAIVE)
    assert theirs > 4 * 256 * 50_257 * 4, "the naive step builds the logits"
    assert ours <= theirs / 4


OWN = """\
import jax
from jaxllm.losses.preference import preference_loss


@preference_loss
def offset(p, *, beta=0.1):
    \"\"\"DPO with an offset (Amini et al. 2024): better by at least the margin of the pair.\"\"\"
    return -jax.nn.log_sigmoid(beta * p.delta_B - p.margin_B)
"""


def test_a_loss_in_a_file_of_ten_lines_takes_the_stock_ones_memory(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    assert len(OWN.splitlines()) <= 10
    config = Config(width=64, depth=4, rows=4, length=256)
    own, stock = (temporary_bytes(config, resolve(name)) for name in (f"{tmp_path / 'mine.py'}:offset", "dpo"))
    assert own == pytest.approx(stock, rel=0.01)


def test_both_compute_the_same():
    config = Config(vocabulary=19, width=8, depth=1, rows=3, length=12)
    spec, rng = model(config), np.random.default_rng(0)
    answers = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes(config))
    answer_BT = jnp.broadcast_to(jnp.repeat(jnp.asarray([-1, 0, 1]), 4), (3, 12))
    tokens_BT, targets_BT = (jnp.asarray(rng.integers(0, 19, (3, 12)), jnp.int32) for _ in range(2))
    positions_BT = jnp.broadcast_to(jnp.arange(12), (3, 12))
    batch = Batch(tokens_BT, targets_BT, (answer_BT >= 0) * 1.0, jnp.ones_like(tokens_BT), positions_BT)
    answers = dataclasses.replace(
        answers, batch=batch, answer_BT=answer_BT, side_BA=jnp.broadcast_to(jnp.asarray([1, -1]), (3, 2)),
        weight_BA=jnp.ones((3, 2)), ref_logps_BT=jnp.asarray(-rng.uniform(2, 4, (3, 12)), jnp.float32),
    )  # fmt: skip
    params = drawn(spec)

    def loss(fn, params):
        return jnp.asarray(value(fn(bind(spec.graphdef, params), answers)["loss"]))

    (a, da), (b, db) = (jax.jit(jax.value_and_grad(functools.partial(loss, fn)))(params)
                        for fn in (resolve("dpo", beta=0.3), NAIVE))  # fmt: skip
    assert float(a) == pytest.approx(float(b), rel=1e-6)
    assert abs(float(a) - np.log(2)) > 1e-3
    for name, x in da.items():
        np.testing.assert_allclose(x, db[name], atol=1e-6, err_msg=name)
