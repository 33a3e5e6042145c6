"""The kill test at its smallest: one uninterrupted run, which is damaged.

Kills and signals are tried where documents name them (tests/test_documented_commands.py): status 0 is "lost: 0".
"""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "kill_test.py"


def run(*argv):
    return subprocess.run([sys.executable, str(SCRIPT), *argv], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_no_damage_goes_unnamed_and_nothing_is_lost(tmp_path):
    damaged = run("damage", "--trials", "6", "--work", str(tmp_path))
    assert damaged.returncode == 0, damaged.stdout + damaged.stderr
    assert "'flipped': 6" in damaged.stdout
    assert damaged.stdout.endswith("lost: 0\n")
    assert damaged.stderr.count("is damaged: ") == 8, "each is named"


def test_bad_input_is_one_line():
    done = run("nonsense")
    assert done.returncode == 2
    assert done.stderr == "error: nonsense: give kill, term, damage, move, full-disk\n"
