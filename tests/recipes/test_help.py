"""Help in groups by topic, with a meaning and a default for every flag."""

import dataclasses
import inspect
import re
from typing import ClassVar

import pytest

import classify
import ner
import preference
import pretrain
import reward
import sft
from jaxllm.recipes.flags import Common, ModelFlags, OptimFlags
from jaxllm.recipes.help import DATA, LORA, LOSS, MODEL, OPTIMISATION, SAMPLING, TOPICS, flag, topic
from jaxllm.recipes.parse import parse
from jaxllm.run.folder import split_config

SCRIPTS = {
    "classify": classify,
    "ner": ner,
    "preference": preference,
    "pretrain": pretrain,
    "reward": reward,
    "sft": sft,
}


@dataclasses.dataclass(frozen=True)
class Extra:
    TOPIC = LORA

    rank: int = 0
    """Rank."""


@dataclasses.dataclass(frozen=True)
class Config(Common, Extra):
    """Trains something."""

    RECIPES: ClassVar = {"pretrained": {"learning_rate": 5e-5, "epochs": 3.0},
                         "scratch": {"learning_rate": 2e-3, "epochs": 3.0}}  # fmt: skip

    learning_rate: float | None = None
    epochs: float | None = None
    """Passes."""
    batch_size: int = 4
    noise: float = flag(0.25, DATA)
    """Share of noise."""
    draws: int = flag(7, SAMPLING, operational=True)
    """Draws."""
    other: str = "x"
    """Another."""


def helped(config, monkeypatch, capsys, columns=100):
    """Groups of `--help` by title: their flags, each with what is said of it."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as stop:
        parse(config, ["--help"], prog="script")
    assert not stop.value.code
    titles = {f"{name} options".strip(): name for name in ("", *TOPICS)}
    groups, title = {}, None
    for line in capsys.readouterr().out.splitlines():
        text = " ".join(re.sub("[╭╮╰╯│─]|-{4,}", " ", line).split())
        if text in titles:
            title = titles[text]
            groups[title] = ""
        elif title is not None:
            groups[title] += f" {text}"
    begin = r"(?<!,) (?=--[a-z0-9-]+(?: \[?[A-Z]|, --))"
    entries = {title: re.split(begin, " ".join(["", *text.split()]))[1:] for title, text in groups.items()}
    return {title: {re.split("[ ,]", text)[0]: text for text in texts} for title, texts in entries.items()}


def test_flags_stand_in_groups_by_topic(monkeypatch, capsys):
    groups = helped(Config, monkeypatch, capsys)
    assert list(groups) == ["", *TOPICS]
    assert groups[""]["--other"] == "--other STR Another. (default: x)"
    assert groups[OPTIMISATION]["--batch-size"].startswith("--batch-size INT Examples per optimizer step, over all")
    assert groups[OPTIMISATION]["--batch-size"].endswith("(default: 4)")
    assert groups[LORA] == {"--rank": "--rank INT Rank. (default: 0)"}
    assert groups[SAMPLING] == {"--draws": "--draws INT Draws. (default: 7)"}
    assert groups[DATA]["--noise"] == "--noise FLOAT Share of noise. (default: 0.25)"


def test_what_a_recipe_sets_is_told_for_each_kind_of_weights(monkeypatch, capsys):
    found = helped(Config, monkeypatch, capsys)[OPTIMISATION]
    assert found["--learning-rate"] == (
        "--learning-rate FLOAT Learning rate at the peak of the schedule. "
        "(by default 5e-5 for pretrained weights, 2e-3 from scratch)"
    )
    assert found["--epochs"] == "--epochs FLOAT Passes. (default: 3)"


def test_a_given_config_gives_the_defaults_of_help(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"script": "s", "config": {"learning_rate": 0.0003, "noise": 0.5}}')
    with pytest.raises(SystemExit):
        parse(Config, ["--config", str(tmp_path / "config.json"), "--help"])
    text = " ".join(re.sub("[╰╯│─]", " ", capsys.readouterr().out).split())
    assert "peak of the schedule. (default: 3e-4)" in text
    assert "Share of noise. (default: 0.5)" in text


def test_a_flag_keeps_its_group_where_a_subclass_declares_it_again():
    assert topic(Config, "batch_size") == topic(OptimFlags, "batch_size") == OPTIMISATION
    assert topic(preference.Config, "loss") == LOSS
    assert topic(sft.Config, "tokenizer") == topic(ModelFlags, "tokenizer") == MODEL
    assert topic(Config, "other") == ""


def test_draws_are_operational_and_noise_is_not():
    defining, rest = split_config(Config())
    assert "noise" in defining
    assert {"draws", "wandb_project", "log_to"} <= rest.keys()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("columns", [80, 100])
def test_every_flag_of_a_script_stands_in_a_group_with_its_default(script, columns, monkeypatch, capsys):
    config = SCRIPTS[script].Config
    groups = helped(config, monkeypatch, capsys, columns)
    assert groups[""].keys() <= {"--version"}
    for field in dataclasses.fields(config):
        text = groups[topic(config, field.name)][f"--{field.name.replace('_', '-')}"]
        assert "default" in text
        assert len(re.split(r"\((?:by )?default", text)[0].split()) >= 6, f"{text} tells no meaning"


def test_no_class_of_flags_is_long():
    for cls in {*sft.Config.__mro__, *preference.Config.__mro__, *ner.Config.__mro__}:
        assert len(inspect.get_annotations(cls)) <= 14, cls.__name__
