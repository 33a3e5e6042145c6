"""Finds the number of processes of a run and the index of this one; connects nothing yet.

The same command starts on every host. The numbers come from flags, or from the variables JAXLLM_COORDINATOR,
JAXLLM_PROCESSES and JAXLLM_PROCESS_ID, from a TPU pod, from Slurm or from Open MPI. JAX's own detection, which is not
public, knows no flags, shares of GPUs or errors in one line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from jaxllm.types import InputError


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a process in a run. coordinator: HOST:PORT of process 0; None where JAX finds all of this itself."""

    coordinator: str | None
    count: int = 0
    index: int = 0
    local_index: int | None = None
    """Index among the processes of its host."""
    local_count: int | None = None
    hosts: int | None = None


def find(
    environ: Mapping[str, str], coordinator: str = "", processes: int = 0, process_id: int = -1, *, cpu: bool
) -> Place | None:
    """The place of this process, None if it is the only one. cpu: JAX will run on CPU. Raises InputError."""
    coordinator = coordinator or environ.get("JAXLLM_COORDINATOR", "")
    processes = processes or _number(environ, "JAXLLM_PROCESSES", 0)
    process_id = process_id if process_id >= 0 else _number(environ, "JAXLLM_PROCESS_ID", -1)
    cluster = _slurm(environ) or _open_mpi(environ)
    if coordinator or processes or process_id >= 0:
        base = cluster or Place("")
        count, index = processes or base.count, process_id if process_id >= 0 else (base.index if cluster else -1)
        given = {"--coordinator": coordinator, "--processes": count, "--process-id": index >= 0}
        if missing := [flag for flag, there in given.items() if not there]:
            raise InputError(
                f"several processes need --coordinator HOST:PORT, --processes and --process-id: no {missing[0]}"
            )
        if not 0 <= index < count:
            raise InputError(f"--process-id {index}: with --processes {count} it is from 0 to {count - 1}")
        return dataclasses.replace(base, coordinator=coordinator, count=count, index=index) if count > 1 else None
    if not cpu and _on_tpu(environ):
        return Place(None)
    if cluster and not cluster.coordinator:
        raise InputError("this Open MPI does not say where process 0 is: give --coordinator HOST:PORT, its host")
    return cluster if cluster and cluster.count > 1 else None


def _slurm(environ: Mapping[str, str]) -> Place | None:
    """The place in a step that srun started; an allocation without srun has no such processes."""
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if any(name not in environ for name in needed):
        return None
    count = _number(environ, "SLURM_STEP_NUM_TASKS", 0) or _number(environ, "SLURM_NTASKS", 1)
    head = re.match(r"([^,\[]+)(?:\[(\d+))?", environ["SLURM_STEP_NODELIST"])
    assert head
    port = 61440 + _number(environ, "SLURM_JOB_ID", 0) % 4096
    hosts = _number(environ, "SLURM_STEP_NUM_NODES", 1)
    local = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return Place(
        f"{head[1]}{head[2] or ''}:{port}", count, _number(environ, "SLURM_PROCID", 0),
        _number(environ, "SLURM_LOCALID", 0), int(local[0]) if local else -(-count // hosts), hosts,
    )  # fmt: skip


def _open_mpi(environ: Mapping[str, str]) -> Place | None:
    if "OMPI_COMM_WORLD_SIZE" not in environ:
        return None
    count, local = _number(environ, "OMPI_COMM_WORLD_SIZE", 1), _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE", 1)
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
    job = environ.get("PMIX_NAMESPACE", uri.split(".")[0])
    port = 61440 + int(hashlib.sha256(job.encode()).hexdigest(), 16) % 4096
    host = re.search(r"tcp6?://\[?([^,:\]]+)", uri)
    address = "127.0.0.1" if local == count else host[1] if host else ""
    return Place(
        f"{address}:{port}" if address else "", count, _number(environ, "OMPI_COMM_WORLD_RANK", 0),
        _number(environ, "OMPI_COMM_WORLD_LOCAL_RANK", 0), local, 1 if local == count else 2,
    )  # fmt: skip


def _on_tpu(environ: Mapping[str, str]) -> bool:
    devices = any(Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0"))
    return devices or len(environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1


def gpus(place: Place, environ: Mapping[str, str]) -> tuple[list[int] | None, list[str]]:
    """The indices of the visible GPUs that this process takes (None: all of them), and their names.

    Where all processes of a host see the same GPUs, each takes an equal share.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    names = [] if visible is None else [x for x in visible.split(",") if x]
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.split()
        number = {str(i): uuid for i, uuid in enumerate(found)}
        names = found if visible is None else [number.get(x, x) for x in names]
    if place.local_index is None or not place.local_count or place.local_count == 1 or len(names) <= 1:
        return None, names
    share, rest = divmod(len(names), place.local_count)
    if rest or not share:
        host = socket.gethostname()
        raise InputError(f"{len(names)} GPUs of {host} do not divide over its {place.local_count} processes")
    own = list(range(place.local_index * share, (place.local_index + 1) * share))
    return own, [names[i] for i in own]


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "")
    if text and not re.fullmatch(r"-?\d+", text):
        raise InputError(f"{name}={text}: give a number")
    return int(text) if text else default
