"""worker.sh as it runs on one machine."""

import time

import pytest

IGNORES = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


@pytest.fixture
def worker(world):
    home = world.fake / "workers" / "0"

    def call(*words, status=0):
        return world.run("bash", world.repo / "tpu/worker.sh", *words, status=status, HOME=str(home)).stdout.strip()

    call("setup")
    yield call
    call("stop", "0")


def until(worker, wanted):
    deadline = time.monotonic() + 30
    while (found := worker("status")) != f"jaxllm-status: {wanted}":
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_a_command_is_followed_from_start_to_end(worker):
    assert worker("status") == "jaxllm-status: idle"
    worker("start", "python", "-c", "import sys; print('hello'); sys.exit(7)")
    until(worker, "exit 7")
    assert "hello" in worker("log")
    worker("start", "python", "-c", "print('again')")
    until(worker, "exit 0")
    assert "hello" in worker("log"), "the log goes on"
    assert worker("log", "1").endswith("exit status 0")


def test_what_has_only_just_begun_is_stopped_as_well(worker, world):
    slow = world.fake / "workers/0/jaxllm-venv/bin/git"  # is asked for the commit before the command runs
    slow.write_text("#!/bin/sh\nsleep 1\n")
    slow.chmod(0o755)
    worker("start", "sleep", "60")
    worker("stop", "5")
    assert worker("status") == "jaxllm-status: exit 143"


def test_only_one_at_a_time(worker):
    worker("start", "sleep", "60")
    assert worker("status") == "jaxllm-status: running"
    worker("start", "true", status=3)
    worker("stop")
    until(worker, "exit 143")


def test_stop_kills_what_does_not_listen(worker):
    worker("start", "python", "-c", IGNORES)
    while not worker("log").endswith("\ndeaf"):
        time.sleep(0.05)
    worker("stop", "1")
    until(worker, "dead")


def test_a_number_that_another_process_has_now_is_not_ours(worker, world):
    worker("start", "true")
    until(worker, "exit 0")
    run = world.fake / "workers/0/jaxllm-run"
    (run / "status").unlink()
    (run / "leader").write_text("1")
    assert worker("status") == "jaxllm-status: dead"


def test_setup_twice_installs_into_the_same_place(worker, world):
    worker("setup")
    assert len(world.calls("uv", "venv")) == 1
    installs = world.calls("uv", "pip", "install")
    assert len(installs) == 2
    assert installs[0][-1].endswith("/repo[tpu]")
    worker("fly", status=2)
