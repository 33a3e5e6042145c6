"""SIGTERM to processes that work together: all end with 143, and what was trained is saved."""

import socket

import pytest
from many import Many


@pytest.mark.slow
def test_a_process_that_waits_for_the_others_ends_at_once(tmp_path):
    """The others never come. The store must be let alone then: to ask it hangs, or aborts the process."""
    with Many(tmp_path, only=0) as many:

        def listens():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", many.port)) == 0

        many.wait_until(listens)
        many.processes[0].terminate()
        assert many.ends() == [143]
        assert many.heard() == ""
    assert list(tmp_path.iterdir()) == []


def fitting(many):
    return (many.out / "checkpoints").exists()


@pytest.mark.slow
def test_before_the_first_step_nothing_is_owed(tmp_path):
    with Many(tmp_path, "--pause-at", "1:1:600") as many:  # process 0 waits for the step of both
        many.wait_until(lambda: fitting(many))
        many.processes[1].terminate()
        assert many.ends() == [143, 143], many.heard()
        assert "Traceback" not in many.heard()
    assert many.checkpoints() == []
    assert not (tmp_path / "lock").exists()


@pytest.mark.slow
def test_between_steps_the_step_under_way_is_saved(tmp_path):
    with Many(tmp_path, "--pause", "0.2", "--steps", "1000", "--checkpoint-every", "500") as many:
        many.wait_for_step(3)
        many.processes[1].terminate()
        assert many.ends() == [143, 143], many.heard()
        assert many.checkpoints() == [many.logged()]
        assert many.logged() < 1000


@pytest.mark.slow
def test_within_an_evaluation_what_was_trained_before_is_saved(tmp_path):
    with Many(tmp_path, "--eval-every", "3", "--eval-pause", "1", "--checkpoint-every", "500") as many:
        many.wait_for_step(3)
        for process in many.processes:
            process.terminate()
        assert many.ends() == [143, 143], many.heard()
        assert many.checkpoints() == [3]
        assert '"dev/loss"' not in (tmp_path / "metrics.jsonl").read_text()
