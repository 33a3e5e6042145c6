"""The toy in several processes, as tests of what befalls them start it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jaxllm.launch

ROOT = Path(__file__).parents[2]
PATIENCE_S = 100


class Many:
    """`tests/helpers/toy_script.py` in several processes of one device each; one line is logged per step.

    own: flags and variables of a process. only: the one that is started.
    """

    def __init__(self, out, *flags, processes=2, only=None, own=None, **environment):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.out, self.host, self._heard = Path(out), socket.gethostname(), []
        self.processes = []
        base = {
            **os.environ, "PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **environment,
        }  # fmt: skip
        config = jaxllm.launch.Config(processes=processes)
        command = [sys.executable, "tests/helpers/toy_script.py", "--out", str(out), "--log-every", "1", *flags]
        for i in range(processes) if only is None else [only]:
            heard = tempfile.TemporaryFile()  # noqa: SIM115  (no pipe, which nobody would read from)
            env = jaxllm.launch.environment(config, f"127.0.0.1:{self.port}", i, base)
            more, changed = (own or {}).get(i, ((), {}))
            process = subprocess.Popen(
                [*command, "--log-to", "none", *more], cwd=ROOT, env={**env, **changed}, stdout=heard,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
            self.processes.append(process)
            self._heard.append(heard)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, heard in zip(self.processes, self._heard, strict=True):
            process.kill()
            process.wait()
            heard.close()

    def wait_until(self, fine):
        """Until something is so, while all processes run."""
        until = time.monotonic() + PATIENCE_S
        while not fine():
            assert time.monotonic() < until, self.heard()
            assert all(process.poll() is None for process in self.processes), self.heard()
            time.sleep(0.05)

    def wait_for_step(self, step):
        self.wait_until(lambda: self.logged() >= step)

    def logged(self):
        """The last step with a line in metrics.jsonl, 0 before."""
        path = self.out / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def ends(self):
        """The statuses of all, as a shell reports them, once all have ended."""
        until = time.monotonic() + PATIENCE_S
        for process in self.processes:
            try:
                process.wait(max(1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"process {process.pid} did not end\n{self.heard()}") from None
        return [x if (x := process.returncode) >= 0 else 128 - x for process in self.processes]

    def heard(self, index=None):
        """What was printed, by all or one."""
        found = self._heard if index is None else [self._heard[index]]
        return "\n".join(os.pread(heard.fileno(), 1 << 22, 0).decode() for heard in found)

    def checkpoints(self):
        folder = self.out / "checkpoints"
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []
