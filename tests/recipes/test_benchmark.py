"""What a benchmark makes of the numbers of both sides."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from jaxllm.recipes import benchmark, machine
from jaxllm.recipes.benchmark import Measured
from jaxllm.types import InputError


def a_run(folder, lines, **summary):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"compile_s": 3.0, "devices": 2, **summary}))
    return folder


def line(step, tokens, speed, tflops=0.5):
    return {"step": step, "loss": 1.0, "tokens": tokens, "tokens_per_s": speed, "tflops_per_device": tflops}


def test_a_run_is_read_without_its_first_line(tmp_path):
    lines = [line(10, 1000, 50.0), line(20, 2000, 1000.0), line(30, 3000, 500.0)]
    found = benchmark.read_run(a_run(tmp_path / "a", lines, start_s=4.0, start_cpu_s=5.0, host_bytes=2**30))
    assert found == Measured(2000 / 3, 3 / 20, 4.0, 5.0, 1.0, None, 3.0, 1e12)
    with pytest.raises(InputError, match="two logged lines"):
        benchmark.read_run(a_run(tmp_path / "b", lines[:1]))


def test_a_peer_is_read_in_our_tokens_and_flops(tmp_path):
    path = tmp_path / "peer.json"
    own = {"step_s": 0.5, "start_s": 1.0, "start_cpu_s": 2.0, "host_gib": 0.5, "device_gib": None}
    path.write_text(json.dumps({"measured": {**own, "examples_per_s": 4.0}}))
    assert benchmark.read_peer(path, 25.0, 6.0) == Measured(100.0, 0.5, 1.0, 2.0, 0.5, flops_per_s=600.0)
    path.write_text(json.dumps({"measured": {**own, "tokens_per_s": 7.0}}))
    assert benchmark.read_peer(path, 25.0, None) == Measured(7.0, 0.5, 1.0, 2.0, 0.5)


def measured(speed, flops=None):
    return Measured(speed, 0.1, 2.0, 3.0, 0.5, flops_per_s=flops)


def test_ratios_are_taken_within_rounds():
    rounds = [
        {"a": measured(100.0), "b": measured(50.0)},
        {"a": measured(10.0), "b": measured(10.0)},
        {"a": measured(1.0)},
    ]
    assert benchmark.ratios(rounds, "a", "b") == [2.0, 1.0]
    assert benchmark.spread([1.0, 2.0, 6.0], ".1f") == "2.0 (1.0 to 6.0)"
    assert benchmark.spread([1.0], ".1f") == "1.0"


def test_the_table_holds_both_sides_and_their_share_of_the_best_product():
    rounds = [{"a": measured(1000.0, 4e9), "b": measured(500.0, 2e9)}]
    out = io.StringIO()
    Console(file=out, width=160).print(benchmark.table_of("t", rounds, [{"jax": 8e9, "torch": 10e9}], "a"))
    ours, theirs = (next(x for x in out.getvalue().splitlines() if x.startswith(f"│ {side} ")) for side in "ab")
    assert [x.strip() for x in ours.split("│")[1:-1]] == [
        "a",
        "1,000",
        "100.0",
        "",
        "",
        "2.0 (3.0)",
        "0.50",
        "4",
        "50%",
    ]
    assert [x.strip() for x in theirs.split("│")[1:-1]] == [
        "b", "500", "100.0", "2.00", "", "2.0 (3.0)", "0.50", "2", "20%",
    ]  # fmt: skip


def test_what_fails_says_its_last_words(tmp_path):
    script = tmp_path / "s.py"
    script.write_text("import sys; print('no such thing'); sys.exit(3)")
    with pytest.raises(InputError, match=r"s\.py failed \(exit status 3\): no such thing"):
        benchmark.run([script])
    script.write_text("pass")
    benchmark.run([script])


def test_the_cpu_is_named_with_what_its_products_use():
    text = "cpu family\t: 6\nmodel\t\t: 143\nmodel name\t: A CPU\nflags\t\t: fpu avx2 amx_tile sse\n\nprocessor : 1\n"
    found = machine.describe_cpu(text)
    assert (found["model"], found["family"]) == ("A CPU", "cpu family 6 model 143")
    assert found["instructions"] == ["avx2", "amx_tile"]
    assert machine.describe_machine()["versions"]["python"] == sys.version.split()[0]
    assert machine.missing(("jax", "torch"), {"jax": "0.10.2"}) == ["torch"]
    assert machine.missing(("jax", "no_such_package")) == ["no_such_package"]


def test_another_interpreter_says_what_it_has(tmp_path):
    found = machine.versions_at(Path(sys.executable))
    assert found == machine.versions()
    assert found["jax"]
    with pytest.raises(InputError, match="python is no interpreter of Python"):
        machine.versions_at(tmp_path / "python")
