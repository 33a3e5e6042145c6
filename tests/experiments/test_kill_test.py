"""The kill test at its smallest: one uninterrupted run, which is damaged, and one that is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "kill_test.py"


def run(*argv):
    return subprocess.run([sys.executable, str(SCRIPT), *argv], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_nothing_is_lost(tmp_path):
    damaged = run("damage", "--trials", "6", "--work", str(tmp_path))
    assert damaged.returncode == 0, damaged.stdout + damaged.stderr
    assert "'flipped': 6" in damaged.stdout
    assert damaged.stderr.count("is damaged: ") == 8, "each is named"
    killed = run("kill", "--trials", "1", "--work", str(tmp_path))
    assert killed.returncode == 0, killed.stdout + killed.stderr
    assert "as the uninterrupted one" in killed.stdout
    assert killed.stdout.endswith("lost: 0\n")


def test_bad_input_is_one_line():
    done = run("nonsense")
    assert done.returncode == 2
    assert done.stderr == "error: nonsense: give kill, term, damage, move, full-disk\n"
