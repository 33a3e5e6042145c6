"""Losses of texts against torch: values and gradients, in packed rows, with weights, and with a wrong head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.losses import resolve, text_loss
from jaxllm.losses.texts import binary_cross_entropy, huber, mse
from jaxllm.types import Batch, InputError, Labelled, value

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 5)).astype(np.float32) * 3
HOT = (RNG.random((6, 5)) < 0.4).astype(np.float32)
POSITIVE = np.array([1, 2.5, 0.3, 1, 7], np.float32)
NUMBERS = RNG.normal(size=(6, 5)).astype(np.float32)

CASES = {
    "binary_cross_entropy": (binary_cross_entropy, {}, HOT, torch.nn.BCEWithLogitsLoss(reduction="none"), HOT),
    "weighed": (
        binary_cross_entropy, {}, HOT * POSITIVE,
        torch.nn.BCEWithLogitsLoss(reduction="none", pos_weight=torch.tensor(POSITIVE)), HOT,
    ),
    "mse": (mse, {}, NUMBERS, torch.nn.MSELoss(reduction="none"), NUMBERS),
    "huber": (huber, {"delta": 0.7}, NUMBERS, torch.nn.HuberLoss(reduction="none", delta=0.7), NUMBERS),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_torchs(case):
    loss, arguments, targets, theirs, wanted = CASES[case]
    run = lambda x: loss.each(x, jnp.asarray(targets), **arguments)
    found = jax.jit(run)(LOGITS)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(run(x))))(LOGITS)
    x = torch.tensor(LOGITS, requires_grad=True)
    per_text = theirs(x, torch.tensor(wanted)).mean(1)
    per_text.sum().backward()
    np.testing.assert_allclose(found, per_text.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-5, atol=1e-6)


class Model:
    """The token's row of a table, which is its own logits."""

    def __init__(self, table_VD):
        self.table_VD = table_VD

    def hidden(self, batch, key=None):
        return self.table_VD[batch.tokens_BT], {}

    def head(self, hidden_ND):
        return hidden_ND


def packed():
    """Three texts in two rows, learned at their first tokens with weights 1, 3 and 2; the second row has padding."""
    tokens = jnp.array([[1, 7, 2, 7], [3, 7, 0, 0]])
    weights = jnp.array([[1.0, 0, 3, 0], [2, 0, 0, 0]])
    slots = jnp.array([[0, 0, 1, 0], [0, 9, 9, 9]])  # where the weight is 0, any
    segments = jnp.array([[1, 1, 2, 2], [1, 1, 0, 0]])
    targets = jnp.asarray(np.stack([NUMBERS[:2], [NUMBERS[2], np.full(5, 1e9, np.float32)]]))
    return Labelled(Batch(tokens, slots, weights, segments, jnp.zeros_like(tokens)), targets)


def test_the_loss_of_a_batch_is_the_mean_by_weight_over_its_texts():
    table = jnp.asarray(RNG.normal(size=(8, 5)), jnp.float32)
    found = value(resolve("mse")(Model(table), packed())["loss"])
    each = np.square(np.asarray(table)[[1, 2, 3]] - NUMBERS[:3]).mean(1)
    assert float(found) == pytest.approx(float(each @ [1, 3, 2] / 6), rel=1e-5)


def test_a_loss_of_ones_own_is_called_with_logits_and_targets():
    @text_loss
    def hinge(logits_NV, targets_NV, *, margin=1.0):
        return jnp.mean(jax.nn.relu(margin - logits_NV * (2 * targets_NV - 1)), axis=-1)

    found = resolve(hinge, margin=2.0)
    assert (found.kind, found.name) == ("texts", "hinge")
    assert float(found.function.each(jnp.array([[1.0]]), jnp.array([[1.0]]), margin=2.0)[0]) == 1


def test_a_head_of_another_width_is_one_line():
    with pytest.raises(InputError, match="the targets have 5 numbers per text, and the model's head gives 4"):
        resolve("mse")(Model(jnp.zeros((8, 4))), packed())
