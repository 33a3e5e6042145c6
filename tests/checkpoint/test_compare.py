"""In what two checkpoints differ is found, and nothing else."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.checkpoint import compare
from jaxllm.checkpoint.store import Checkpoints
from jaxllm.types import InputError, TrainState

META = {
    "seed": 3, "data": "abc", "random": [1, 2], "tokens": 70,
    "sums": {"loss": [[1.0, 0.1, 3.0]]}, "spikes": [2.0, float("nan")],
}  # fmt: skip


def arrays():
    return {
        "params/w": np.arange(6, dtype=np.float32).reshape(2, 3), "params/z": np.array([0.0, np.nan, np.inf]),
        "opt_state/n": np.int32(4),
    }  # fmt: skip


def one(**changes):
    return compare.Snapshot({**arrays(), **changes}, dict(META, position=5, step=5))


def test_what_is_read_is_what_was_saved(tmp_path):
    state = TrainState(jnp.int32(4), {"w": jnp.ones((2, 3), jnp.bfloat16)}, {"m": jnp.arange(3.0), "n": jnp.int32(7)})
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(5, state, META)
    checkpoints.close()
    found = compare.read(tmp_path)
    assert found.position == 5
    wanted = {"params/w": np.ones((2, 3), jnp.bfloat16), "opt_state/m": np.arange(3.0), "opt_state/n": np.int32(7)}
    assert found.arrays.keys() == wanted.keys()
    for name, x in wanted.items():
        np.testing.assert_array_equal(found.arrays[name], x)
        assert found.arrays[name].dtype == (x.dtype if name != "opt_state/m" else np.float32)
    assert compare.differences(found, compare.read(tmp_path, 5)) == []
    for folder in (tmp_path / "other", tmp_path / "checkpoints"):
        with pytest.raises(InputError, match="holds no checkpoint"):
            compare.read(folder)


def test_equal_is_bit_for_bit():
    assert compare.differences(one(), one()) == [], "nan is nan, inf is inf"
    negative = one(**{"params/z": np.array([-0.0, np.nan, np.inf])})
    assert compare.differences(one(), negative) == ["params/z differs by up to 0.00e+00"]
    assert compare.differences(one(), negative, 1e-5) == []
    last = arrays()["params/w"]
    last[1, 2] = np.nextafter(last[1, 2], np.float32(9))
    assert compare.differences(one(), one(**{"params/w": last})) == ["params/w differs by up to 9.54e-08"]
    assert compare.differences(one(), one(**{"params/w": last}), 1e-5) == []


def test_every_difference_is_named_the_largest_first():
    other = one(**{
        "params/w": arrays()["params/w"] + np.float32(0.5), "params/z": np.array([0.0, 1.0, np.inf]),
        "opt_state/n": np.float32(4), "params/new": np.zeros(1),
    })  # fmt: skip
    assert compare.differences(one(), other, 1e-5) == [
        "params/new is in one alone", "opt_state/n is int32[] and float32[]",
        "params/z differs by up to inf", "params/w differs by up to 9.09e-02",
    ]  # fmt: skip


@pytest.mark.parametrize("name", compare.COUNTERS)
def test_counters_are_equal_on_any_mesh(name):
    other = dataclasses.replace(one(), meta={**one().meta, name: 99})
    assert compare.differences(one(), other, 1e-5) == [f"{name} is {one().meta[name]} and 99"]


def test_sums_are_as_near_as_losses():
    other = dataclasses.replace(one(), meta={**one().meta, "sums": {"loss": [[1.0, 0.1 + 1e-7, 3.0]]}})
    assert compare.differences(one(), other, 1e-5) == []
    assert len(compare.differences(one(), other)) == 1
    other = dataclasses.replace(one(), meta={**one().meta, "sums": {"other": [[1.0, 0.1, 3.0]]}, "spikes": []})
    assert len(compare.differences(one(), other, 1e-5)) == 2


def test_logs_are_compared_but_for_time(tmp_path):
    def write(name, *lines):
        (tmp_path / name).mkdir()
        text = "".join(json.dumps({"step": n, "loss": x, "tokens_per_s": t}) + "\n" for n, x, t in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text)
        return tmp_path / name

    a, b = write("a", (1, 1.0, 7), (2, 0.5, 8)), write("b", (1, 1.0, 9), (2, 0.5 + 1e-7, 9))
    assert compare.log_differences(a, b, 1e-5) == []
    assert compare.log_differences(a, b) == [f"step 2: loss is 0.5 and {0.5 + 1e-7}"]
    assert compare.log_differences(a, b, after=2) == []
    c = write("c", (1, 1.0, 9))
    assert compare.log_differences(a, c) == ["metrics.jsonl has 2 and 1 lines after step 0"]
    assert "['loss', 'step', 'tokens_per_s'] at 2" in compare.log_differences(a, write("d", (1, 1, 1), (3, 1, 1)))[0]
