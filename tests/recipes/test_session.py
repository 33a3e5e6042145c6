"""What a run keeps of what it depends on: the user's loss, the day on which it began, and its data."""

import dataclasses
import datetime
import json
import os
import re

import pytest

from jaxllm.recipes import session
from jaxllm.recipes.flags import Common
from jaxllm.recipes.session import open_session
from jaxllm.run.folder import start_run, write_json
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """A script of some kind."""

    reward: str = "exact"


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """begun(**flags) opens the run in the folder `r`, as a script does, and begins it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("one = 1\n")
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')

    def begun(**flags):
        opened = open_session("sft", Config(**{"out": "r", "loss": "mine.py:f", "dataset": "d.jsonl", **flags}))
        start_run(opened.run)
        return opened

    return begun


def test_a_run_keeps_the_loss_in_the_users_file_and_refuses_another(begun, tmp_path):
    begun()
    assert (tmp_path / "r" / "files" / "mine.py").read_text() == "one = 1\n"
    begun(steps=7)
    (tmp_path / "mine.py").write_text("one = 2\n")
    with pytest.raises(InputError, match=r"\(mine\.py changed since the run began\): give another --out"):
        begun()
    (tmp_path / "r" / "summary.json").write_text(json.dumps({"finished": True, "steps": 3}))
    with pytest.raises(InputError, match=r"mine\.py changed since the run began"):
        begun()
    assert (tmp_path / "r" / "files" / "mine.py").read_text() == "one = 1\n"


def test_a_reward_in_the_users_file_is_kept_too(begun, tmp_path):
    (tmp_path / "own.py").write_text("one = 1\n")
    begun(loss="sft", reward="exact:1+own.py:f:0.2")
    assert (tmp_path / "r" / "files" / "own.py").read_text() == "one = 1\n"
    (tmp_path / "own.py").write_text("one = 2\n")
    with pytest.raises(InputError, match=r"own\.py changed since the run began"):
        begun(loss="sft", reward="exact:1+own.py:f:0.2")
    (tmp_path / "own.py").write_bytes(b"# \xe9\n")
    with pytest.raises(InputError, match=r"--reward own\.py:f: own\.py is not UTF-8"):
        begun(loss="sft", reward="own.py:f", out="other")


def test_a_run_that_kept_no_loss_opens_as_before(begun, tmp_path):
    begun()
    path = tmp_path / "r" / "config.json"
    new = ("files", "began", "contents")
    write_json(path, {name: x for name, x in json.loads(path.read_text()).items() if name not in new})
    (tmp_path / "mine.py").write_text("one = 2\n")
    begun()


def test_a_run_keeps_the_day_on_which_it_began(begun, monkeypatch):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 5, 9)

    began = begun().run.config["began"]
    assert abs(datetime.datetime.now() - datetime.datetime.fromisoformat(began)) < datetime.timedelta(hours=1)
    monkeypatch.setattr(session.datetime, "datetime", Clock)
    assert begun().run.config["began"] == began
    assert begun(out="other").run.config["began"] == "2031-05-09T00:00:00"


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 3), ("seed", 9), ("schedule", "constant"), ("learning_rate", 0.5), ("max_length", 77)],
)
def test_a_run_goes_on_with_none_of_these_changed(begun, name, value):
    begun()
    before = getattr(Config(), name)
    assert before != value
    with pytest.raises(InputError, match=f"{name} {re.escape(repr(before))} there, {re.escape(repr(value))} here"):
        begun(**{name: value})


def test_a_data_file_that_was_touched_is_the_same(begun, tmp_path, capsys):
    started = begun()
    os.utime(tmp_path / "d.jsonl", (1, 1))
    again = begun()
    assert again.run.config["contents"] == started.run.config["contents"] != {}
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "completion": "c"}\n')
    assert begun().run.config["contents"] != started.run.config["contents"]


def test_data_of_the_same_contents_may_lie_elsewhere(begun, tmp_path, capsys):
    begun()
    (tmp_path / "d.jsonl").rename(tmp_path / "moved.jsonl")
    begun(dataset="moved.jsonl")
    assert "--dataset moved.jsonl has the contents of d.jsonl, with which the run began\n" in capsys.readouterr().out
    begun(dataset="moved.jsonl")
    assert "has the contents" not in capsys.readouterr().out
    (tmp_path / "other.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"dataset 'moved\.jsonl' there, 'other\.jsonl' here"):
        begun(dataset="other.jsonl")
