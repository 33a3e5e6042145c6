"""The parts of a second start, in processes of their own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "experiments" / "bench_start.py"


def start(*flags):
    return subprocess.run([sys.executable, PROGRAM, *flags], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "split", "parts"),
    [
        ("ner", "train=dev,dev=test", {"importing JAX", "reading the data", "encoding", "initialising"}),
        ("sft", "train=dev", {"importing Flax and Optax", "tokenizer and model", "encoding"}),
    ],
)
def test_the_parts_are_all_of_a_start(script, split, parts):
    done = start("--script", script, "--rounds", "1", "--split", split)
    assert done.returncode == 0, done.stderr
    found = {line: (float(a), float(b)) for a, b, line in re.findall(r"^ +(\S+) +(\S+)  (.+)$", done.stdout, re.M)}
    assert parts | {"the first step: tracing, its program from the cache, computing"} <= found.keys()
    whole = found.pop("all")
    assert [sum(x) for x in zip(*found.values(), strict=True)] == pytest.approx(whole, abs=0.2)


@pytest.mark.parametrize(
    ("flags", "said"), [(("--script", "mlm"), "--script mlm"), (("--split", "nothing=dev"), "--split nothing=dev")]
)
def test_what_cannot_be_measured_is_refused_once(flags, said):
    done = start(*flags)
    assert done.returncode == 2
    assert done.stderr.count(said) == 1
    assert "Traceback" not in done.stderr
