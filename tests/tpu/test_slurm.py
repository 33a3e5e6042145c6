"""slurm.sbatch against a fake srun that runs one process per task."""

import shlex
import signal
import subprocess
import time

import pytest

JOB = "tpu/slurm.sbatch"
IN_JOB = {"SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "12", "FAKE_TASKS": "3"}


def test_one_process_per_gpu_with_every_word_whole(world):
    code = "import json, os, sys; print(json.dumps([os.environ['SLURM_PROCID'], sys.argv[1:]]))"
    done = world.run("bash", JOB, "python", "-c", code, "it's", "$x", **IN_JOB)
    assert sorted(done.stdout.splitlines()) == [f'["{i}", ["it\'s", "$x"]]' for i in range(3)]
    (flags,) = world.calls("srun")
    assert flags[:4] == ["--kill-on-bad-exit=0", "--wait=120", "--gpu-bind=none", "--cpus-per-task=12"]
    assert not world.calls("scontrol")


@pytest.mark.parametrize("status", [0, 1, 2, 137])
def test_any_other_status_is_the_jobs_own(world, status):
    world.run("bash", JOB, "python", "-c", f"raise SystemExit({status})", status=status, **IN_JOB)
    assert not world.calls("scontrol")


def test_143_puts_the_job_back_into_the_queue(world):
    done = world.run(
        "bash", JOB, "python", "-c", "raise SystemExit(143)", status=143, **IN_JOB, SLURM_RESTART_COUNT="2"
    )
    assert world.calls("scontrol") == [["requeue", "17"]]
    assert "restart 3" in done.stdout
    world.tell(fail="scontrol")
    world.run("bash", JOB, "python", "-c", "raise SystemExit(143)", status=1, **IN_JOB)


def test_what_slurm_ends_is_not_requeued_behind_its_back(world):
    """scancel and preemption signal the shell as well as the processes."""
    code = "import os, sys, time; open('up' + os.environ['SLURM_PROCID'], 'w'); time.sleep(1.5); sys.exit(143)"
    job = subprocess.Popen(["bash", JOB, "python", "-c", code], cwd=world.repo, env={**world.env, **IN_JOB})
    while not all((world.repo / f"up{i}").exists() for i in range(3)):
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert job.wait(30) == 143
    assert time.monotonic() - began > 0.5, "it waits for the processes to save"
    assert not world.calls("scontrol")


def test_dry_run(world):
    done = world.run("bash", JOB, "--dry-run", "python", "x.py", "--prompt", "it's", "a b")
    submit, step, requeue = (shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#"))
    assert submit[0] == "sbatch"
    assert submit[-5:] == step[-5:] == ["python", "x.py", "--prompt", "it's", "a b"]
    assert step[0] == "srun"
    assert requeue[:2] == ["scontrol", "requeue"]
    assert not world.log


@pytest.mark.parametrize(("words", "message"), [((), "give the command"), (("python",), "this is a job script")])
def test_bad_input(world, words, message):
    done = world.run("bash", JOB, *words, status=2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_the_signal_is_for(world):
    """The shell must not get the signal of the time limit: that is how it knows whose end it is."""
    directives = [line for line in (world.repo / JOB).read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --signal=TERM@300" in directives
    assert "#SBATCH --requeue" in directives
    assert "#SBATCH --open-mode=append" in directives
