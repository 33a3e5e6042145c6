"""Which of how many processes this is, by what stands in the environment."""

import os

import pytest

from jaxllm.distributed import cluster
from jaxllm.distributed.cluster import Place, find, gpus
from jaxllm.types import InputError

SLURM = {
    "SLURM_JOB_ID": "70123", "SLURM_STEP_NODELIST": "gpu[07-09,12]", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "4", "SLURM_STEP_TASKS_PER_NODE": "4(x4)",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "6", "OMPI_COMM_WORLD_LOCAL_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_MCA_orte_hnp_uri": "4132372480.0;tcp://10.0.0.3,172.17.0.1:37143",
}  # fmt: skip
OWN = {"JAXLLM_COORDINATOR": "a:1", "JAXLLM_PROCESSES": "4", "JAXLLM_PROCESS_ID": "3"}


@pytest.fixture(autouse=True)
def no_tpu(monkeypatch):
    monkeypatch.setattr(cluster.Path, "exists", lambda path: False)


def test_a_process_that_is_alone():
    assert find({}, cpu=True) is None
    assert find({}, cpu=False) is None
    assert find({"JAXLLM_COORDINATOR": "a:1", "JAXLLM_PROCESSES": "1", "JAXLLM_PROCESS_ID": "0"}, cpu=True) is None
    assert find({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, cpu=False) is None
    allocation = {name: x for name, x in SLURM.items() if name in ("SLURM_JOB_ID",)}
    assert find(allocation, cpu=False) is None, "an allocation starts no processes"


def test_our_own_variables_and_flags_which_win():
    assert find(OWN, cpu=True) == Place("a:1", 4, 3)
    assert find(OWN, "b:2", 8, 0, cpu=True) == Place("b:2", 8, 0)
    assert find({}, "b:2", 2, 1, cpu=False) == Place("b:2", 2, 1)


@pytest.mark.parametrize(
    ("environ", "flags", "message"),
    [
        ({}, ("b:2",), "no --processes"), ({}, ("", 2), "no --coordinator"), ({}, ("b:2", 2), "no --process-id"),
        ({}, ("b:2", 2, 2), "--process-id 2: with --processes 2 it is from 0 to 1"),
        ({**OWN, "JAXLLM_PROCESSES": "many"}, (), "JAXLLM_PROCESSES=many: give a number"),
        ({**SLURM, "SLURM_PROCID": "x"}, (), "SLURM_PROCID=x: give a number"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_named(environ, flags, message):
    with pytest.raises(InputError) as error:
        find(environ, *flags, cpu=True)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("nodes", "first"), [("gpu[07-09,12]", "gpu07"), ("node1", "node1"), ("a1,b2", "a1"), ("x[3,5]", "x3")]
)
def test_slurm(nodes, first):
    found = find({**SLURM, "SLURM_STEP_NODELIST": nodes}, cpu=False)
    assert found == Place(f"{first}:{61440 + 70123 % 4096}", 16, 5, 1, 4, 4)


def test_under_slurm_a_coordinator_of_ones_own():
    assert find(SLURM, "h:9", cpu=False) == Place("h:9", 16, 5, 1, 4, 4)


def test_open_mpi():
    found = find(OPEN_MPI, cpu=False)
    host, _, port = found.coordinator.rpartition(":")
    assert host == "10.0.0.3"
    assert 61440 <= int(port) < 65536
    assert (found.count, found.index, found.local_index, found.local_count) == (8, 6, 2, 4)
    assert found.hosts > 1
    other = find({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "0"}, cpu=False)
    assert other.coordinator == found.coordinator, "all find one address"
    one_host = {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "8", "OMPI_MCA_orte_hnp_uri": ""}
    assert find(one_host, cpu=False).coordinator.startswith("127.0.0.1:")
    with pytest.raises(InputError, match="give --coordinator"):
        find({**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": ""}, cpu=False)


def test_tpu_pods_are_left_to_jax():
    pod = {"TPU_WORKER_HOSTNAMES": "a,b"}
    assert find(pod, cpu=False) == Place(None)
    assert find(pod, cpu=True) is None
    assert find({"TPU_WORKER_HOSTNAMES": "a"}, cpu=False) is None


@pytest.fixture
def four_gpus(tmp_path, monkeypatch):
    """A host whose nvidia-smi knows four."""
    path = tmp_path / "nvidia-smi"
    path.write_text("#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\nGPU-c\\nGPU-d\\n'\n")
    path.chmod(0o755)
    monkeypatch.undo()  # Path.exists: no TPU is looked for here
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("local", "visible", "own", "names"),
    [
        ((0, 4), None, [0], ["GPU-a"]), ((3, 4), None, [3], ["GPU-d"]), ((1, 2), None, [2, 3], ["GPU-c", "GPU-d"]),
        ((None, None), None, None, ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]),  # one process a host: all of them
        ((1, 4), "2", None, ["GPU-c"]), ((1, 2), "3,0", [1], ["GPU-a"]), ((0, 1), "0,1", None, ["GPU-a", "GPU-b"]),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("four_gpus")
def test_gpus_of_a_process(local, visible, own, names):
    place = Place("h:1", 8, 0, *local, 2)
    assert gpus(place, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == (own, names)


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize("processes", [3, 8])
def test_gpus_that_do_not_divide(processes):
    with pytest.raises(InputError, match=rf"4 GPUs of \S+ do not divide over its {processes} processes"):
        gpus(Place("h:1", processes, 0, 0, processes, 1), {})


def test_a_host_without_gpus(monkeypatch):
    monkeypatch.setattr(cluster.shutil, "which", lambda name: None)
    assert gpus(Place("h:1", 2, 0, 0, 2, 1), {}) == (None, [])
    assert gpus(Place("h:1", 2, 1, 1, 2, 1), {"CUDA_VISIBLE_DEVICES": "0,1"}) == ([1], ["1"])
