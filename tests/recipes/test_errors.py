"""An error in the user's own file: where it is, then its traceback, and the status."""

import jax
import jax.numpy as jnp
import pytest

from jaxllm.losses import resolve
from jaxllm.recipes.errors import input_errors
from jaxllm.types import InputError

MINE = """import jax.numpy as jnp
from jaxllm.losses.preference import preference_loss
from jaxllm.types import InputError


def divided(x):
    return 1 / 0


@preference_loss(reference=False)
def margin(p, *, beta=0.1):
    scale = beta / 0
    return scale * p.chosen_B


def within(model, batch, key=None):
    return jnp.dot(batch, jnp.ones((batch.shape[0] + 1,)))


def nested(model, batch, key=None):
    return divided(batch)


def stops(model, batch, key=None):
    raise FloatingPointError("not a number")


def refuses(model, batch, key=None):
    raise InputError("--loss-args beta=0: give more than 0")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_losses.py").write_text(MINE)


def told(capsys, run):
    """The exit status, and what is on stderr by line."""
    with pytest.raises(SystemExit) as stop, input_errors():
        run()
    return stop.value.code, capsys.readouterr().err.splitlines()


def test_an_error_at_the_first_trace_is_placed_in_the_users_file(own, capsys):
    status, lines = told(capsys, lambda: resolve("my_losses.py:margin"))
    assert status == 2
    assert lines[0] == (
        "error: --loss my_losses.py:margin does not run on pairs: ZeroDivisionError: float division by zero "
        "(my_losses.py:12 in margin)"
    )
    assert lines[1] == "Traceback (most recent call last):"
    assert "ZeroDivisionError: float division by zero" in lines[2:]
    assert any("scale = beta / 0" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("within", "error: my_losses.py:17 in within: TypeError: "),
        ("nested", "error: my_losses.py:7 in divided: ZeroDivisionError: division by zero"),
        ("stops", "error: my_losses.py:25 in stops: FloatingPointError: not a number"),
    ],
)
def test_the_innermost_frame_of_the_file_is_named_also_under_jaxs_own(own, capsys, name, first):
    loss = resolve(f"my_losses.py:{name}")
    status, lines = told(capsys, lambda: jax.jit(lambda x: loss(None, x))(jnp.ones(3)))
    assert status == 1
    assert lines[0].startswith(first)
    assert len(lines) > 3


def test_bad_input_that_the_users_file_finds_is_one_line(own, capsys):
    status, lines = told(capsys, lambda: resolve("my_losses.py:refuses")(None, None))
    assert (status, lines) == (2, ["error: --loss-args beta=0: give more than 0"])


def test_a_file_that_does_not_load_is_bad_input_with_its_place(own, tmp_path, capsys):
    (tmp_path / "broken.py").write_text("x = 1\ny = x / 0\n")
    status, lines = told(capsys, lambda: resolve("broken.py:margin"))
    assert status == 2
    assert lines == [
        "error: --loss broken.py:margin: broken.py does not import: ZeroDivisionError: division by zero "
        "(broken.py:2 in <module>)"
    ]


def test_an_error_elsewhere_keeps_its_traceback(own):
    resolve("my_losses.py:nested")
    with pytest.raises(ZeroDivisionError), input_errors():
        1 / 0  # noqa: B018
    with pytest.raises(InputError):
        resolve("my_losses.py:marjin")
