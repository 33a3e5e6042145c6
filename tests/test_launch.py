"""Several processes on one machine: what they find around them, what is printed, how it ends."""

import io
import re
import signal
import subprocess
import sys
import time

import pytest

from jaxllm.launch import Config, Printer, environment, launch, main, split


@pytest.mark.parametrize(
    ("argv", "own", "command"),
    [
        (["--processes", "4", "a.py", "--steps", "2"], ["--processes", "4"], ["a.py", "--steps", "2"]),
        (["--processes=4", "--", "-m", "jaxllm", "x"], ["--processes=4"], ["-m", "jaxllm", "x"]),
        (["a.py", "--", "--help"], [], ["a.py", "--", "--help"]),
        (["--help"], ["--help"], []),
        (["a.py", "--help"], [], ["a.py", "--help"]),
        ([], [], []),
    ],
)
def test_our_flags_end_where_the_command_begins(argv, own, command):
    assert split(argv) == (own, command)


def test_what_a_process_finds():
    base = {"XLA_FLAGS": "--a=1 --xla_force_host_platform_device_count=8 --b", "PATH": "p"}
    found = environment(Config(4, 2), "127.0.0.1:5", 3, base)
    assert found["XLA_FLAGS"] == "--a=1 --b --xla_force_host_platform_device_count=2"
    assert found["PATH"] == "p"
    names = ("JAXLLM_COORDINATOR", "JAXLLM_PROCESSES", "JAXLLM_PROCESS_ID", "JAX_PLATFORMS")
    assert [found[name] for name in names] == ["127.0.0.1:5", "4", "3", "cpu"]


def test_an_error_of_several_is_shown_once_and_noise_never():
    printer, target = Printer(), io.StringIO()
    greetings = "[Gloo] Rank 0 is connected to 1 peer ranks.\n7 peer ranks. Expected\n"
    printer.copy(io.StringIO(f"a\nerror: no\n{greetings}b"), target, 0)
    printer.copy(io.StringIO("a\nerror: no\nerror: other\n"), target, 1)
    assert target.getvalue() == "[0] a\n[0] error: no\n[0] b\n[1] a\n[1] error: other\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name the script to run"), (["--processes", "0", "a.py"], "at least 1 of each"),
        (["no-such.py"], "no-such.py: there is no such script"),
        (["--proceses", "2", "a.py"], "did you mean --processes"),
    ],
)  # fmt: skip
def test_bad_input(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert message in error


def script(folder, text):
    path = folder / "script.py"
    path.write_text(f"import os, signal, sys, time\nme = int(os.environ['JAXLLM_PROCESS_ID'])\n{text}\n")
    return [str(path)]


def test_all_run_and_each_line_says_whose_it_is(tmp_path, capfd):
    before = signal.getsignal(signal.SIGTERM)
    assert launch(Config(3), [*script(tmp_path, "print(me, sys.argv[1:], flush=True)"), "--a", "b c"]) == 0
    lines = sorted(capfd.readouterr().out.splitlines())
    assert lines == [f"[{i}] {i} ['--a', 'b c']" for i in range(3)]
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_first_that_fails_is_named_and_the_rest_is_killed(tmp_path, capfd):
    text = "sys.exit(3) if me == 1 else time.sleep(600)"
    assert launch(Config(2, grace=0.1), script(tmp_path, text)) == 3
    error = capfd.readouterr().err
    assert re.search(r"^process 1 \(pid \d+\) ended with status 3\nkilling process 0, which did not end$", error, re.M)


def test_a_process_that_is_killed_is_named_with_its_signal(tmp_path, capfd):
    text = "os.kill(os.getpid(), signal.SIGKILL) if me == 0 else time.sleep(0.5)"
    assert launch(Config(2), script(tmp_path, text)) == 137
    assert re.search(r"^process 0 \(pid \d+\) was killed by SIGKILL$", capfd.readouterr().err, re.M)


@pytest.mark.parametrize("how", ["sys.exit(143)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_where_one_ends_by_sigterm_all_get_it(tmp_path, how):
    assert launch(Config(3), script(tmp_path, f"{how} if me == 2 else time.sleep(600)")) == 143


def test_sigterm_goes_to_all_also_to_those_not_yet_started(tmp_path):
    """The first process asks for it as soon as it is there; the others may not be."""
    text = "me or os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(600)"
    command = [sys.executable, "-m", "jaxllm.launch", "--processes", "6", *script(tmp_path, text)]
    assert subprocess.run(command, timeout=100, check=False, stderr=subprocess.DEVNULL).returncode == 143


def test_processes_do_not_outlive_it(tmp_path):
    text = f"open(r'{tmp_path}/' + str(os.getpid()), 'w').close()\ntime.sleep(600)"
    launcher = subprocess.Popen([sys.executable, "-m", "jaxllm.launch", *script(tmp_path, text)])
    while len(pids := [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]) < 2:
        time.sleep(0.05)
        assert launcher.poll() is None
    launcher.kill()
    launcher.wait()
    while any(alive(pid) for pid in pids):
        time.sleep(0.05)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
