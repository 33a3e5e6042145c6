"""What stands on the PATH of these tests as gcloud, srun, scontrol, kubectl ...: notes its words and does as told.

$FAKE is its folder: `log` has a JSON list of words per call; `states` the states that describe tells, one after the
other, the last for good; `fail` what is to fail, a pattern on the words per line, once each; `workers` a home for each.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

FAKE = Path(os.environ["FAKE"])
NAME, WORDS = Path(sys.argv[0]).name, sys.argv[1:]


def fails() -> bool:
    path = FAKE / "fail"
    patterns = path.read_text().splitlines() if path.exists() else []
    for i, pattern in enumerate(patterns):
        if re.search(pattern, " ".join([NAME, *WORDS])):
            path.write_text("\n".join(patterns[:i] + patterns[i + 1 :]))
            return True
    return False


def flag(name: str) -> str:
    return next((w.split("=", 1)[1] for w in WORDS if w.startswith(f"--{name}=")), "0")


def gcloud() -> int:
    assert WORDS[:3] == ["compute", "tpus", "queued-resources"], WORDS
    verb, states = WORDS[3], FAKE / "states"
    if verb == "create":
        shutil.copy(FAKE / "after-create", states)
    if verb == "delete":
        states.unlink()
        for home in (FAKE / "workers").iterdir():  # the machines are gone
            home.rename(FAKE / f"gone-{time.monotonic_ns()}")  # not deleted: its program may still be writing there
            home.mkdir()
    if verb == "describe":
        if not states.exists():
            print("ERROR: (gcloud) NOT_FOUND: Resource was not found", file=sys.stderr)
            return 1
        now, *rest = states.read_text().split()
        if rest:
            states.write_text("\n".join(rest))
        print(now)
    homes = sorted((FAKE / "workers").iterdir())
    homes = homes if flag("worker") == "all" else [homes[int(flag("worker"))]]
    if verb == "scp":
        source, target = WORDS[4], WORDS[5].partition(":")[2]
        for home in homes:
            shutil.copy(source, home / target)
    if verb == "ssh":
        print("SSH: Attempting to connect to worker 0...", file=sys.stderr)
        env = {name: x for name, x in os.environ.items() if not name.startswith("GIT_")}
        done = [
            subprocess.run(["bash", "-c", flag("command")], cwd=home, env={**env, "HOME": str(home)}, check=False)
            for home in homes
        ]
        return max(one.returncode for one in done)
    return 0


def srun() -> int:
    """Runs the command once per task, as Slurm would, and returns the highest exit status."""
    first = next(i for i, word in enumerate(WORDS) if not word.startswith("-"))
    tasks = int(os.environ.get("FAKE_TASKS", "2"))
    told = {"SLURM_NTASKS": str(tasks), "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}
    started = [
        subprocess.Popen(WORDS[first:], env={**os.environ, **told, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)})
        for i in range(tasks)
    ]
    codes = [one.wait() for one in started]
    return max(128 - code if code < 0 else code for code in codes)


def python3() -> int:
    """`python3 -m pip install uv` on a worker."""
    target = Path(os.environ["HOME"], ".local/bin/uv")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(Path(sys.argv[0]).with_name("uv"))
    return 0


def uv() -> int:
    if WORDS[0] == "venv":
        python = Path(WORDS[-1], "bin/python")
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
    return 0


def kubectl() -> int:
    shutil.copy(WORDS[-1], FAKE / "submitted.yaml")
    return 0


with open(FAKE / "log", "a") as log:
    log.write(json.dumps([NAME, *WORDS]) + "\n")
if fails():
    print(f"{NAME}: told to fail", file=sys.stderr)
    time.sleep(0.01)
    raise SystemExit(1)
raise SystemExit({
    "gcloud": gcloud, "srun": srun, "python3": python3, "uv": uv, "kubectl": kubectl, "sky": kubectl,
}.get(NAME, lambda: 0)())  # fmt: skip
