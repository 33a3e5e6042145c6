"""The shell scripts are clean, and what the README tells to set exists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob("tpu/*.sh"), ROOT / "tpu/slurm.sbatch"])


def test_shellcheck():
    assert len(SCRIPTS) >= 3
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, *SCRIPTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_run(script):
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


def test_the_flags_that_the_readme_names_exist():
    """An unknown one ends the process at once, on any platform."""
    flags = sorted(set(re.findall(r"--xla_\w+(?:=\w+)?", (ROOT / "tpu/README.md").read_text())))
    assert len(flags) >= 6
    given = " ".join(flag if "=" in flag else f"{flag}=1" for flag in flags)
    code = "import jax; jax.devices()"
    for extra, known in (("", True), (" --xla_gpu_make_it_fast=1", False)):
        env = {**os.environ, "XLA_FLAGS": given + extra, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
        assert (done.returncode == 0) == known, done.stderr.decode()[-500:]


def test_the_commands_of_the_readme_are_understood(world):
    """Those of the launchers, with --dry-run and the ellipsis taken away."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "tpu/README.md").read_text(), re.DOTALL)
    lines = [line.removesuffix(" ...") for block in blocks for line in block.splitlines()]
    world.run("git", "remote", "add", "origin", str(world.repo))
    world.run("git", "update-ref", "refs/remotes/origin/main", "HEAD")
    seen = set()
    for line in lines:
        words = shlex.split(line)
        if words[0] == "python":
            at = words.index("--")
            words[:at] = [sys.executable, *words[1:at], "--dry-run"]
        elif words[0] == "sbatch":
            words = ["bash", words[2], "--dry-run", *words[3:]]
        else:  # nothing is created, so the zone is to be said
            at = words.index("--") if "--" in words else len(words)
            words[at:at] = ["--dry-run", "--zone", "z", "--type", "v5litepod-16", "--runtime", "r"]
            words += ["--", "python"] if words[1] == "watch" else []
        assert world.run(*words).stdout
        seen.add(words[1])
    assert seen == {"create", "setup", "launch", "watch", "delete", "tpu/submit.py", "tpu/slurm.sbatch"}
    assert not world.log
