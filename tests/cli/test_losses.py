"""`python -m jaxllm losses` and `check-loss`."""

import dataclasses
import re
from pathlib import Path

import pytest
from rich.console import Console

from jaxllm.cli import check_loss, losses
from jaxllm.losses import AnswerLogps, PairLogps, PolicyLogps, Tokens, divergence, names, policy_objective, resolve
from jaxllm.losses.arguments import domain
from jaxllm.types import InputError

MINE = """
import jax.numpy as jnp
from jaxllm.losses.preference import preference_loss

@preference_loss(reference=False)
def margin(p, *, beta=0.1):
    return jnp.exp(-beta * (p.chosen_B - p.rejected_B))
"""


def test_every_loss_has_a_formula_a_source_and_told_arguments():
    found = [resolve(name) for name in names()]
    assert [one.name for one in found] == list(names())
    for one in found:
        assert one.kind in losses.KINDS
        assert losses.texts(one)[0], one.name
        for argument, parameter in {**one.own, **one.shared}.items():
            assert parameter.default is not parameter.empty
            assert domain(parameter), f"{one.name}: {argument}"
    cited = {one.name for one in found if re.search(r"\((.*[^\d])?(19|20)\d\d", " ".join(losses.texts(one)))}
    assert set(names()) - cited == {"cross_entropy", "sft"} - cited, "the others name their paper"


CITED = re.compile(r"(?:[\w']+) (?:et al\. |and \w+ )?(?:19|20)\d\d\b")


def test_the_readme_names_every_loss_with_its_papers():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = text.partition("## The losses, and where they come from")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    told = {name: source for first, source in rows for name in re.findall(r"`(\w+)`", first)}
    assert told.keys() == set(names())
    for one in [resolve(name) for name in names()]:
        for paper in CITED.findall(" ".join(losses.texts(one))):
            assert paper in told[one.name], f"{one.name}: {paper}"
        assert CITED.search(told[one.name]) or one.name == "sft"
    for module in (divergence, policy_objective):
        for paper in CITED.findall(Path(module.__file__).read_text(encoding="utf-8")):
            assert paper in section, "of the arguments that losses share"


def test_the_list_and_one_loss_whole(capsys):
    losses.main(losses.Config())
    listed = capsys.readouterr().out
    assert all(name in listed for name in names())
    losses.main(losses.Config(("ipo", "kto")))
    out = capsys.readouterr().out
    assert "(u/n_c - v/n_l - 1/(2b))^2" in out
    assert "beta=0.1  above 0" in out
    assert "couples the examples" in out
    losses.main(losses.Config(("grpo", "gmpo")))
    out = capsys.readouterr().out
    assert "Sequence mean: the mean over tokens of each completion, then the mean over completions." in out
    assert "delta=None  above 0, or none" in out
    assert out.count("use_bias_correction_kl=True  bool") == 1, "of grpo alone"
    assert out.count("off_policy_mask_threshold d: a token of negative advantage counts 0") == 1
    with pytest.raises(InputError, match="did you mean 'ipo'"):
        losses.main(losses.Config(("ipoo",)))


def test_every_field_of_the_pairs_is_in_the_table(capsys):
    """Axes from the name's suffix, dtype, unit and meaning from the docstring below the field."""
    losses.main(losses.Config(fields=True))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()
            if line.startswith("|")]  # fmt: skip
    table = {name: rest for name, *rest in rows}
    for cls, prefix in ((PairLogps, "p."), (Tokens, "p.chosen_tokens."), (AnswerLogps, "a."), (PolicyLogps, "p.")):
        read = [name for name, x in vars(cls).items() if isinstance(x, property)]
        for name in [field.name for field in dataclasses.fields(cls)] + read:
            assert len(table[prefix + name]) == 4, name
    assert table["p.delta_B"][:3] == ["[B]", "float32", "nats"]
    assert table["p.chosen_length_B"] == ["[B]", "float32", "tokens", "The length of the chosen answer"]
    assert table["p.chosen_tokens.mask_BT"][:3] == ["[B, T]", "bool", ""]
    assert table["a.side_B"][1] == "int32"


def test_the_card_is_printed_and_a_loss_that_fails_gives_status_1(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(check_loss, "Console", lambda **_: Console(width=200, highlight=False))
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    with pytest.raises(SystemExit) as stop:
        check_loss.main(check_loss.Config(f"{path}:margin", ("beta=0.5",)))
    assert stop.value.code == 1
    assert re.search(r"logits in the thousands.*FAIL", capsys.readouterr().out)
    with pytest.raises(InputError, match="no argument 'bta'"):
        check_loss.main(check_loss.Config("sigmoid", ("bta=1",)))
