"""The run folder: whose experiment it is, and what may change."""

import dataclasses
import json

import pytest

import jaxllm
from jaxllm.run.folder import Run, open_run, operational, report, split_config, start_run, whole_file, write_json
from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 10
    rate: float = 0.1
    patterns: tuple[str, ...] = ("a", "b")
    head_rate: float | None = None
    mesh: str = operational("data=8")
    log_to: tuple[str, ...] = operational(("terminal",))


def begin(config, out, script="ner"):
    run = open_run(script, config, str(out))
    start_run(run)
    return run


def test_fields_define_the_experiment_unless_operational():
    defining, rest = split_config(Config(mesh="fsdp=4"))
    assert defining == {"steps": 10, "rate": 0.1, "patterns": ["a", "b"], "head_rate": None}
    assert rest == {"mesh": "fsdp=4", "log_to": ["terminal"]}
    assert Config().log_to == ("terminal",)


def test_the_folder_is_named_after_what_defines_the_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = open_run("ner", Config(), None).folder
    assert folder.parent.name == "runs"
    assert folder.name.startswith("ner-")
    same = (Config(mesh="fsdp=8"), Config(steps=99), Config(log_to=("none",)))
    assert {open_run("ner", config, "").folder for config in same} == {folder}
    others = (Config(rate=0.2), Config(patterns=("b", "a")), Config(head_rate=0.1))
    assert len({open_run("ner", config, None).folder for config in others} | {folder}) == 4
    assert open_run("sft", Config(), None).folder != folder
    assert not (tmp_path / "runs").exists(), "looking creates nothing"


def test_config_json_has_every_field_versions_and_revision(tmp_path):
    begin(Config(), tmp_path / "run")
    there = json.loads((tmp_path / "run" / "config.json").read_text())
    assert there["script"] == "ner"
    assert there["config"] == json.loads(json.dumps(dataclasses.asdict(Config())))
    assert there["versions"]["jaxllm"] == jaxllm.__version__
    assert {"jax", "flax", "optax"} <= there["versions"].keys()
    assert there["git"] is None or len(there["git"].rstrip("+")) >= 40


def test_the_same_experiment_continues_with_other_operational_fields_and_steps(tmp_path):
    begin(Config(), tmp_path)
    begin(Config(mesh="data=1", log_to=(), steps=20), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["config"]["steps"] == 20


def test_another_experiment_is_refused_and_each_difference_named(tmp_path):
    begin(Config(), tmp_path)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(InputError) as error:
        open_run("ner", Config(rate=0.3, patterns=("c",), mesh="x"), str(tmp_path))
    text = str(error.value)
    assert "rate 0.1 there, 0.3 here" in text
    assert "patterns ['a', 'b'] there, ['c'] here" in text
    assert "mesh" not in text
    assert "\n" not in text
    with pytest.raises(InputError, match="script 'ner' there, 'sft' here"):
        open_run("sft", Config(), str(tmp_path))
    assert (tmp_path / "config.json").read_text() == before


def test_a_field_that_is_new_does_not_shut_out_older_runs(tmp_path):
    begin(Config(), tmp_path)
    older = json.loads((tmp_path / "config.json").read_text())
    del older["config"]["head_rate"]
    write_json(tmp_path / "config.json", older)
    begin(Config(), tmp_path)
    assert "head_rate" in json.loads((tmp_path / "config.json").read_text())["config"]


@pytest.mark.parametrize("text", ["{", "[]", '{"script": "ner"}'])
def test_a_config_json_that_is_none_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        open_run("ner", Config(), str(tmp_path))


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        open_run("ner", Config(), str(tmp_path / "file"))
    run = Run(tmp_path / "file" / "inner", {})
    with pytest.raises(InputError, match="cannot write there"):
        start_run(run)


def test_a_run_is_finished_for_so_many_steps(tmp_path):
    run = begin(Config(), tmp_path)
    assert run.summary is None
    assert not run.finished(10)
    run.write_summary({"finished": True, "steps": 10})
    assert run.finished(10)
    assert run.finished(5)
    assert not run.finished(11)
    run.write_summary({"finished": False, "steps": 10})
    assert not run.finished(10)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_report_draws_curves_and_survives_gaps(tmp_path):
    report(tmp_path)
    assert not (tmp_path / "report.png").exists(), "nothing to draw"
    lines = [
        {"step": i, "loss": 1.0 / i, "grad_norm": None if i == 2 else 0.5, "tokens_per_s": None} for i in (1, 2, 3)
    ]
    lines.append({"step": 3, "dev/f1": 0.5, "dev/f1/person": 0.1})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report(tmp_path)
    assert (tmp_path / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_field_that_came_later_leaves_the_name_of_a_run_as_it_was_while_it_is_empty():
    @dataclasses.dataclass(frozen=True)
    class Later(Config):
        split: str = ""

    before = open_run("toy", Config(), "").folder
    assert open_run("toy", Later(), "").folder == before
    assert open_run("toy", Later(split="dev=val"), "").folder != before


def test_a_whole_file_appears_when_it_is_whole_and_leaves_nothing_after_an_error(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(f"half {1 / 0}")
    assert not list(path.parent.iterdir())
    with whole_file(path) as file:
        file.write("é")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "é"
