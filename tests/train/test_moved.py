"""A run of one process goes on in two."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_run
from toy_run import STEPS, Data, go, terminate

from jaxllm.checkpoint import compare
from jaxllm.train.fit import Terminated

SCRIPT = """
import sys, types

sys.path.insert(0, {here!r})
from jaxllm.recipes.script import set_up

set_up(types.SimpleNamespace(coordinator="", processes=0, process_id=-1))
import jax
import numpy as np
import toy_run
from jax.experimental import multihost_utils

fitted = toy_run.go({out!r}, mesh="data=2,fsdp=2", steps=7)  # nothing to do: what was restored
arrays = {{name: multihost_utils.process_allgather(x, tiled=True) for name, x in fitted.model.params.items()}}
if jax.process_index() == 0:
    np.savez({arrays!r}, **arrays)
toy_run.go({out!r}, mesh="data=2,fsdp=2")
"""


@pytest.mark.slow
def test_a_run_of_eight_devices_goes_on_in_two_processes_of_two(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    go(whole, mesh="fsdp=8")
    with pytest.raises(Terminated):
        go(out, Data(7, terminate), mesh="fsdp=8")
    before = compare.read(out, 7)
    here, arrays = str(Path(toy_run.__file__).parent), tmp_path / "restored.npz"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=here, out=str(out), arrays=str(arrays)))
    several = ["-m", "jaxllm.launch", "--processes", "2", "--devices-per-process", "2", str(script)]
    done = subprocess.run([sys.executable, *several], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    restored = np.load(arrays)
    assert len(restored.files) == 2
    for name in restored.files:
        np.testing.assert_array_equal(restored[name], before.arrays[f"params/{name}"])
    after = compare.read(out)
    assert after.position == STEPS
    assert after.meta["mesh"]["data"] == 2
    assert compare.differences(compare.read(whole), after, 1e-5) == []
    assert compare.log_differences(whole, out, 1e-5) == []
