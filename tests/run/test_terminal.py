"""What a run shows on the terminal."""

import io
import re

import pytest
import rich.console

from jaxllm.run.metrics import Writers
from jaxllm.run.terminal import Terminal


def test_the_terminal_shows_training_and_evaluation():
    console = rich.console.Console(file=io.StringIO(), width=200)
    terminal = Terminal(200, 0, console)
    terminal.write(10, {"loss": 1.25, "grad_norm": 0.5, "learning_rate": 1e-3, "tokens_per_s": 12345.6, "mfu": None})
    terminal.write(20, {"loss": float("nan"), "grad_norm": 0.5, "learning_rate": 1e-3, "tokens_per_s": None})
    terminal.write(20, {"dev/f1": 0.75, "dev/loss": 0.5, "dev/f1/person": 0.1, "dev/seconds": 3.0})
    shown = console.file.getvalue().splitlines()
    for part in ("step  10/200", "loss 1.2500", "grad 0.50", "lr 1.00e-03", "12,346 tokens/s"):
        assert part in shown[0]
    assert "loss nan" in shown[1]
    assert "f1 0.7500" in shown[2]
    assert "loss 0.5000" in shown[2]
    assert "person" not in shown[2]


LINE = {"loss": 1.25, "grad_norm": 0.5, "learning_rate": None, "tokens_per_s": 12345.6}


def test_a_learning_rate_that_is_not_known_is_left_out():
    console = rich.console.Console(file=io.StringIO(), width=200)
    Terminal(200, 0, console).write(10, LINE)
    assert "grad 0.50  12,346 tokens/s" in console.file.getvalue()


def test_skipped_steps_are_counted_beside_the_loss_of_the_others():
    console = rich.console.Console(file=io.StringIO(), width=200)
    terminal, none = Terminal(200, 4, console), {"loss": float("nan"), "grad_norm": float("nan")}
    terminal.write(8, {**LINE, **none, "skipped": 1.0})
    terminal.write(20, {**LINE, "skipped": 0.25})
    shown = console.file.getvalue().splitlines()
    assert "step   8/200  all 4 steps skipped  12,346 tokens/s" in shown[0]
    assert "step  20/200  loss 1.2500, 3 of 12 steps skipped  grad 0.50  12,346 tokens/s" in shown[1]


@pytest.fixture
def live():
    """(a terminal with a live bar, how to read what the bar shows, what was printed)"""
    console = rich.console.Console(file=io.StringIO(), width=120, force_terminal=True)
    terminal = Terminal(200, 20, console)
    yield terminal, lambda: " ".join(row(terminal).split()), console.file
    terminal.close()


def row(terminal):
    console = rich.console.Console(file=io.StringIO(), width=120)
    console.print(terminal._bar.get_renderable())
    return console.file.getvalue()


def test_the_bar_shows_state_step_loss_speed_and_time_left(live):
    terminal, bar, _ = live
    assert "reading" in bar()
    assert "step 20/200" in bar()
    terminal.show("compiling")
    assert "compiling" in bar()
    terminal.show("training", 40)
    terminal.write(40, LINE)
    for part in ("training", "step 40/200", "loss 1.2500", "12,346 tokens/s", "left"):
        assert part in bar()
    with Writers([terminal]).state("evaluating"), terminal.state("saving"):
        assert "saving" in bar()
    assert "training" in bar()


def test_lines_are_printed_above_the_bar(live):
    """Each is whole, and begins where the bar was erased."""
    terminal, _, printed = live
    terminal.write(40, LINE)
    terminal.write(40, {"dev/f1": 0.75})
    terminal.print("skipped: [a] row")
    terminal.close()
    terminal.close()
    shown = [line.rpartition("\x1b[2K")[2] for line in printed.getvalue().split("\n")]  # what was erased is not seen
    shown = [re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", line) for line in shown]
    assert [line for line in shown if "dev/f1" in line] == ["step  40/200  dev/f1 0.7500"]
    assert [line for line in shown if "skipped" in line] == ["skipped: [a] row"]


def test_redirected_output_has_no_bar():
    console = rich.console.Console(file=io.StringIO())
    terminal = Terminal(200, 0, console)
    with terminal.state("saving"):
        terminal.show("training", 3)
    terminal.close()
    assert console.file.getvalue() == ""
