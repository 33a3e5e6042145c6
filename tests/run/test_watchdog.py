"""A process of several dies, fails or hangs: the others come down, and each says who it was and where."""

import re
import signal

import pytest
from many import Many

PACE = ("--pause", "0.2", "--steps", "1000")


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_is_named_with_its_last_step(tmp_path, killed):
    with Many(tmp_path, *PACE) as many:
        many.wait_for_step(8)  # the others hear of steps once a second
        many.processes[killed].send_signal(signal.SIGKILL)
        statuses = many.ends()
        assert statuses[killed] == 128 + signal.SIGKILL
        assert statuses[1 - killed] == 1
        found = re.search(
            rf"^error: process {killed} \(\S+, process {many.processes[killed].pid} there\) died; it was last heard of "
            r"at step (\d+)$", many.heard(1 - killed), re.MULTILINE,
        )  # fmt: skip
        assert found, many.heard()
        assert 1 <= int(found[1]) <= many.logged() + 1


@pytest.mark.slow
def test_a_process_that_fails_takes_the_others_with_it(tmp_path):
    with Many(tmp_path, "--fail-at", "1:4:error") as many:
        assert many.ends() == [1, 1], many.heard()
        name = f"process 1 ({many.host}, process {many.processes[1].pid} there)"
        assert f"error: {name} ended at step 4: ZeroDivisionError: no batch\n" in many.heard(0)
        assert "error: process" not in many.heard(1)
        assert "Traceback" in many.heard(1)


@pytest.mark.slow
def test_a_process_that_hangs_says_where(tmp_path):
    with Many(tmp_path, "--pause-at", "1:6:600", "--hang-timeout", "4") as many:
        assert many.ends() == [1, 1], many.heard()
        assert "step 6 hangs: nothing has come of it for 4 s" in many.heard()
        assert re.search(r'File "\S+toy_script.py", line \d+ in iterate', many.heard(1)), "where it sleeps"
        assert re.search(r'File "\S+fit.py", line \d+ in fit', many.heard(0)), "where it waits"
