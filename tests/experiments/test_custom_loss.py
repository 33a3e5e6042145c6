"""The worked example of losses of one's own: each under ten lines, correct, and no dearer than the library's."""

import ast
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxllm.losses import resolve
from jaxllm.report_card.checks import check_loss
from jaxllm.report_card.toy import PACKED, SINGLE, bench

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[2] / "experiments" / "custom_loss.py"
LOSSES = {"confident": "tokens", "margin": "pairs", "entropy_bonus": "tokens"}


def test_each_is_under_ten_lines():
    functions = [node for node in ast.parse(FILE.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions] == list(LOSSES)
    for node in functions:
        assert node.end_lineno - node.lineno + 1 < 12, node.name  # its docstring and an empty line are none of it


@pytest.mark.parametrize("name", LOSSES)
def test_each_passes_the_report_card(name):
    assert not [line for line in check_loss(f"{FILE}:{name}", timed=False) if not line.passed]


@pytest.mark.parametrize(("name", "stock"), [("confident", "cross_entropy"), ("margin", "sigmoid")])
def test_each_takes_the_memory_of_the_stock_loss(name, stock):
    temps = []
    for spec in (f"{FILE}:{name}", stock):
        on = bench(resolve(spec), LOSSES[name], vocabulary=20_000, width=16)
        batch = on.lay(SINGLE if LOSSES[name] == "tokens" else PACKED, 512)
        compiled = jax.jit(jax.value_and_grad(on)).lower(on.params, batch).compile()
        temps.append(compiled.memory_analysis().temp_size_in_bytes)
    np.testing.assert_allclose(temps[0], temps[1], rtol=0.1)
    assert temps[0] < 8 * 512 * 20_000 * 4, "all logits at once would be more"
