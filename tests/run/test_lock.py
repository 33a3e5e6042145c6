"""Two runs do not share a folder; a dead one does not keep it."""

import json
import os
import subprocess
import sys
import time

import pytest

from jaxllm.run import lock
from jaxllm.run.lock import hold
from jaxllm.types import InputError

HOLDER = """
import sys, time
from pathlib import Path
from jaxllm.run.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_in_use_is_refused_until_its_process_is_killed(tmp_path, holder):
    with pytest.raises(InputError) as error, hold(tmp_path):
        pass
    assert f"{tmp_path} is in use by process {holder.pid} on {os.uname().nodename}" in str(error.value)
    holder.kill()
    holder.wait()
    assert (tmp_path / "lock").exists()
    with hold(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_it_may_be_held_twice_by_one_process(tmp_path):
    with hold(tmp_path):
        with hold(tmp_path):
            pass
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


def write(path, age=0.0, **changes):
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "x 1", **changes}))
    os.utime(path, (time.time() - age,) * 2)


@pytest.mark.parametrize(
    "left",
    [
        {"age": 100},  # of a host that is silent
        {"host": os.uname().nodename, "pid": 2**22 + 5},  # of this host, and gone
        {"host": os.uname().nodename, "pid": os.getpid()},  # of a process whose number is ours now
        {"SLURM_JOB_ID": "7"},  # of this very job before it was requeued
    ],
)
def test_an_abandoned_lock_is_taken_over(tmp_path, monkeypatch, left):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    write(tmp_path / "lock", **left)
    with hold(tmp_path):
        pass


def test_a_lock_of_another_host_is_watched(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "ABANDONED_S", 0.4)
    write(tmp_path / "lock")
    with hold(tmp_path):
        assert "looking" in capsys.readouterr().err
    write(tmp_path / "lock")
    monkeypatch.setattr(lock, "ABANDONED_S", 600)
    slept = []
    monkeypatch.setattr(time, "sleep", lambda s: (slept.append(s), os.utime(tmp_path / "lock", (1, len(slept)))))
    with pytest.raises(InputError, match="in use by process 1 on elsewhere"), hold(tmp_path):
        pass
    assert len(slept) == 1


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_torn_lock_is_nobodys(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    with hold(tmp_path):
        pass


def test_a_live_process_keeps_its_lock_where_the_kernel_has_none(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(lock, "_flock", lambda file: True)
    with pytest.raises(InputError, match=f"in use by process {holder.pid}"), hold(tmp_path):
        pass
