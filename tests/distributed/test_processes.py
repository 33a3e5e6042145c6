"""Processes that cannot work together say why in a line, and none of them hangs."""

import copy
import re
import socket
from types import SimpleNamespace

import jax
import pytest
from many import Many

from jaxllm.distributed import messages, processes
from jaxllm.distributed.cluster import Place
from jaxllm.types import InputError

NOTE = {
    "host": "h0", "processes": 3, "gpus": [], "platform": "gpu", "code": "abc", "versions": {"jax": "1", "numpy": "2"},
    "command": "--steps 3",
}  # fmt: skip


def notes(**changes):
    """Of three processes, the last of which differs."""
    odd = {**copy.deepcopy(NOTE), "host": "h2", **changes}
    return [NOTE, {**NOTE, "host": "h1"}, odd]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processes": 4}, "processes of process 2 (h2) is 4, of process 0 (h0) 3: start as many as you say there are"),
        ({"platform": "cpu"}, "platform of process 2 (h2) is cpu, of process 0 (h0) gpu: all must run on the same"),
        ({"code": "abd"}, "code of process 2 (h2) is abd, of process 0 (h0) abc: give every host the same revision"),
        ({"command": "--steps 4"}, "command of process 2 (h2) is --steps 4, of process 0 (h0) --steps 3: give every"),
        ({"versions": {"jax": "1", "numpy": "3"}}, "numpy of process 2 (h2) is 3, of process 0 (h0) 2: install"),
        ({"versions": {"jax": "1"}}, "numpy of process 2 (h2) is not installed, of process 0 (h0) 2"),
    ],
)  # fmt: skip
def test_what_differs_is_named_with_both(changes, message):
    found = processes.disagreement(notes(**changes))
    assert message in found
    assert "\n" not in found
    assert processes.disagreement(notes()) is None


def test_two_that_claim_one_gpu():
    found = [{**NOTE, "gpus": ["GPU-a"]}, {**NOTE, "gpus": ["GPU-b"]}, {**NOTE, "gpus": ["GPU-b", "GPU-c"]}]
    assert processes.disagreement(found).startswith("processes 1 and 2 both claim GPU GPU-b of h0: start one process")
    found[2]["host"] = "h1"
    assert processes.disagreement(found) is None


def test_the_number_of_a_process_is_no_part_of_its_command():
    assert processes._command(["--a", "1", "--process-id", "3", "--b"]) == "--a 1 --b"
    assert processes._command(["--process_id=3", "--b"]) == "--b"
    assert processes._command(["--b", "--process-id=3"]) == "--b"


def check(coordinator, index=1, hosts=1):
    processes._check_address(Place(coordinator, 2, index, hosts=hosts))


@pytest.mark.parametrize(
    ("coordinator", "hosts", "message"),
    [
        ("somewhere", 1, "--coordinator somewhere: give HOST:PORT"), ("h:x", 1, "give HOST:PORT"),
        ("127.0.0.1:5", 2, "coordinator 127.0.0.1:5 is each host's own loopback address: give the address that other"),
        ("localhost:5", 2, "own loopback address"), ("[::1]:5", 2, "own loopback address"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be(coordinator, hosts, message):
    with pytest.raises(InputError) as error:
        check(coordinator, hosts=hosts)
    assert message in str(error.value)


@pytest.mark.parametrize(("host", "more"), [("127.0.0.1", "or if it is on another host, give"), ("none.invalid", "")])
def test_an_address_where_nothing_answers(monkeypatch, host, more):
    """From another host, loopback is that host itself: nothing answers there."""
    monkeypatch.setattr(processes, "_LOOPBACK_S", 0.3)
    monkeypatch.setattr(processes, "REMOTE_S", 0.3)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        said = rf"nothing answers \S+ at {host}:{port} for 0.3 s .*start process 0"
        with pytest.raises(InputError, match=said) as error:
            check(f"{host}:{port}")
        assert more in str(error.value)


def test_a_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"--coordinator 127.0.0.1:{port}: port {port}: Address already in use"):
            check(f"127.0.0.1:{port}", index=0)
        other.listen()
        check(f"127.0.0.1:{port}")  # it is process 0's
    check(f"127.0.0.1:{port}", index=0)


def test_alone_a_process_agrees_with_itself():
    assert messages.exchange("a") == ["a"]
    assert messages.broadcast("b") == "b"
    assert messages.agree("c") == "c"
    assert messages.agree(None) is None
    assert (messages.index(), messages.count(), messages.client()) == (0, 1, None)


def test_devices_that_differ_end_each_process_alone(monkeypatch):
    """Whichever ends first, JAX does not abort the other without the line."""
    said = []
    monkeypatch.setattr(messages, "count", lambda: 2)
    monkeypatch.setattr(messages, "exchange", lambda name: ["h0", "h1"])
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(process_index=i) for i in (0, 1, 1)])
    monkeypatch.setattr(processes, "_end_alone", said.append)
    with pytest.raises(InputError) as error:
        processes.check_devices()
    assert said == [str(error.value)] == ["process 1 (h1) has 2 devices, process 0 (h0) 1: each must have as many"]


MISFITS = {
    "command": (("--seed", "1"), {}, r"command of process 1 \(\S+\) is .*--seed 1, of process 0 .*: give every"),
    "devices": ((), {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, r"process 1 \(\S+\) has 3 devices"),
    "count": ((), {"JAXLLM_PROCESSES": "3"}, r"processes of process 1 \(\S+\) is 3, of process 0 \(\S+\) 2: start"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", MISFITS)
def test_processes_that_do_not_fit_together_all_end_with_one_line(tmp_path, case):
    flags, environment, message = MISFITS[case]
    with Many(tmp_path / "out", own={1: (flags, environment)}, TOY_LOCAL_S="20") as many:
        assert many.ends() == [2, 2], many.heard()
        for i in range(2):
            errors = [line for line in many.heard(i).splitlines() if line.startswith("error: ")]
            assert errors, many.heard()
            assert re.search(message, errors[0]), many.heard()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_one_that_never_comes_is_not_waited_for_without_end(tmp_path):
    with Many(tmp_path / "out", only=0, TOY_LOCAL_S="3") as many:
        assert many.ends() == [2]
        assert many.heard() == (
            f"error: not all of 2 processes came to 127.0.0.1:{many.port} within 3 s: start each of them\n"
        )
