"""A loss by name, file or module; whatever is wrong is one line that names the remedy."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.losses import Loss, names, resolve
from jaxllm.types import Batch, InputError, value

OWN = '''
from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxllm.losses.tokens import token_loss
from jaxllm.types import Mean


@dataclasses.dataclass(frozen=True)
class Settings:
    scale: float = 3.0


@token_loss
def scaled(logits_NV, targets_N, *, scale=2.0, power: int = 1, both=False, mode="sum", floor=None):
    """Its arguments have defaults of every kind."""
    return scale * jnp.ones(logits_NV.shape[0]) + (100.0 if both else 0.0) + (0.5 if mode == "half" else 0.0)


def whole(m, b, k=None, *, weight):
    return {"loss": Mean(weight * jnp.sum(b.weights_BT), jnp.sum(b.weights_BT))}


def coupled(model, batch, key=None):
    return whole(model, batch, key, weight=Settings().scale)


def not_a_loss(x):
    return x


coupled.couples_batch = True
not_a_function = 3
'''


class Still:
    """Hidden states and logits of zeros."""

    def hidden(self, batch, key=None):
        return jnp.zeros((*batch.tokens_BT.shape, 2)), {}

    def head(self, hidden_ND):
        return jnp.zeros((len(hidden_ND), 3))


BATCH = Batch(*(np.ones((2, 3), kind) for kind in (np.int32, np.int32, np.float32, np.int32, np.int32)))


def number(loss):
    return float(value(loss(Still(), BATCH)["loss"]))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file of losses, its folder on the path."""
    (tmp_path / "my_losses.py").write_text(OWN)
    (tmp_path / "broken_losses.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_names():
    assert "cross_entropy" in names()
    for name in names():
        assert isinstance(resolve(name), Loss)
    assert number(resolve("cross_entropy")) == pytest.approx(np.log(3))


@pytest.mark.parametrize("source", ["my_losses.py", "./my_losses.py", "my_losses"])
def test_a_loss_of_ones_own(own, source):
    assert number(resolve(f"{source}:scaled")) == 2.0
    assert number(resolve(f"{source}:scaled", scale="0.25")) == 0.25
    assert number(resolve(f"{source}:scaled", scale=5)) == 5.0
    assert number(resolve(f"{source}:whole", weight=4.0)) == 4.0
    assert number(resolve(f"{source}:coupled")) == 3.0
    assert resolve(f"{source}:coupled").couples_batch
    assert not resolve(f"{source}:scaled").couples_batch


def test_texts_become_the_kind_of_the_default(own):
    loss = resolve("my_losses.py:scaled", scale="1e-1", power="3", both="TRUE", mode="half", floor="x")
    assert loss.arguments == {"scale": 0.1, "power": 3, "both": True, "mode": "half", "floor": "x"}
    assert number(loss) == pytest.approx(100.6)


def test_a_file_is_read_anew(own, tmp_path):
    before = number(resolve("my_losses.py:scaled"))
    (tmp_path / "my_losses.py").write_text(OWN.replace("scale=2.0", "scale=12.5"))
    assert (before, number(resolve("my_losses.py:scaled"))) == (2.0, 12.5)


@pytest.mark.parametrize(
    ("spec", "arguments", "message"),
    [
        ("cross_entrpy", {}, "no loss is called 'cross_entrpy'; did you mean 'cross_entropy'?"),
        ("cross_entropy", {"label_smothing": 0.1}, "no argument 'label_smothing'; did you mean 'label_smoothing'?"),
        ("cross_entropy", {"label_smoothing": "much"}, "label_smoothing='much' is not a float"),
        ("cross_entropy", {"model": 1}, "no argument 'model'"),
        ("cross_entropy", {"key": 1}, "no argument 'key'"),
        ("cross_entropy", {"logits_NV": 1}, "no argument 'logits_NV'"),
        ("my_losses.py:scaled", {"power": "1.5"}, "power='1.5' is not a int"),
        ("my_losses.py:scaled", {"both": "maybe"}, "both='maybe' is not a bool"),
        ("my_losses.py:whole", {}, "needs weight: give it as --loss-args weight=VALUE"),
        ("my_losses.py:whole", {"weight": 1, "m": 2}, "no argument 'm'"),
        ("my_losses.py:scale", {}, "my_losses.py has no function 'scale'; did you mean 'scaled'?"),
        ("my_losses.py:not_a_function", {}, "has no function 'not_a_function'"),
        ("my_losses:scale", {}, "my_losses has no function 'scale'; did you mean 'scaled'?"),
        ("other_losses.py:scaled", {}, "there is no file other_losses.py"),
        ("my_losses.py:not_a_loss", {}, "takes (x), and a loss is called with (model, batch, key): decorate it with"),
        ("no_such_module:scaled", {}, "no_such_module does not import: ModuleNotFoundError"),
        ("broken_losses.py:scaled", {}, "broken_losses.py does not import: ModuleNotFoundError: No module named"),
    ],
)  # fmt: skip
def test_resolve_refuses(own, spec, arguments, message):
    with pytest.raises(InputError) as error:
        resolve(spec, **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
