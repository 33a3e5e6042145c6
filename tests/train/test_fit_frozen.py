"""Parameters that are neither trained nor saved: a teacher, beside a student that learns from it."""

import dataclasses

import jax
import numpy as np
import pytest
from toy_run import STEPS, Data, go, log_of, saved, terminate, toy

from jaxllm.distributed.mesh import make_mesh, shardings
from jaxllm.losses import resolve
from jaxllm.models.teacher import add_teacher
from jaxllm.params import materialize
from jaxllm.train.fit import Terminated


def pair(rate=0.5):
    """(the description of a student and its teacher, the names that the teacher was asked to load)."""
    student, asked = toy(rate), []

    def load(shardings):
        asked.append(sorted(shardings))
        params = jax.jit(student.init)(jax.random.key(5))
        return {name: jax.device_put(params[name], at) for name, at in shardings.items()}

    return add_teacher(student, dataclasses.replace(toy(0.0), load=load)), asked


def run(folder, data=None, **changes):
    model, asked = pair(changes.get("rate", 0.5))
    return go(folder, data, model=model, loss=resolve("jsd", beta=0.5), **changes), asked


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *run(folder)


def test_the_teacher_is_in_the_model_and_in_nothing_that_is_saved(whole):
    folder, fitted, asked = whole
    arrays = saved(folder, STEPS)
    assert not [name for name in arrays if "teacher" in name]
    assert {name.rpartition("/")[2] for name in arrays if name.startswith("params/")} == {"embedding", "kernel"}
    assert asked == [["embedding", "kernel"]]
    teacher = jax.jit(toy().init)(jax.random.key(5))
    assert fitted.model.params.keys() == {"embedding", "kernel", "teacher.embedding", "teacher.kernel"}
    for name, x in teacher.items():
        np.testing.assert_array_equal(fitted.model.params["teacher." + name], x)
    losses = [line["loss"] for line in log_of(folder) if "loss" in line]
    assert losses[-1] < 0.9 * losses[0], "it learns from the teacher"


def test_a_run_continues_with_the_teacher_it_began_with(whole, tmp_path):
    with pytest.raises(Terminated):
        run(tmp_path, Data(7, terminate))
    _, asked = run(tmp_path)
    assert asked == [["embedding", "kernel"]], "the teacher is loaded again, the student is not"
    left, right = saved(whole[0], STEPS), saved(tmp_path, STEPS)
    assert left.keys() == right.keys()
    for name, x in left.items():
        np.testing.assert_array_equal(x, right[name], err_msg=name)
    assert log_of(tmp_path) == log_of(whole[0])


def test_frozen_parameters_are_sharded_and_mapped_as_the_others(tmp_path):
    arguments = {"rate": 0.0, "evals": {}}
    jit, _ = run(tmp_path / "jit", mesh="data=2,fsdp=2,tensor=2", **arguments)
    pmap, _ = run(tmp_path / "pmap", mesh="data=4", strategy="pmap", **arguments)
    assert len({str(x.sharding.spec) for x in jit.model.params.values()}) == 1
    for name, x in jit.model.params.items():
        np.testing.assert_allclose(pmap.model.params[name], x, rtol=1e-5, atol=1e-5)


def test_a_reference_is_what_the_student_starts_from():
    spec = add_teacher(toy(), toy())
    params = materialize(spec, shardings(spec.graphdef.abstract, make_mesh("data=8"), spec.rules), 3)
    for name in ("embedding", "kernel"):
        np.testing.assert_array_equal(params[name], params["teacher." + name])
    assert spec.trained.keys() == {"embedding", "kernel"}


def test_only_what_the_model_has_can_be_frozen():
    with pytest.raises(ValueError, match="frozen, but not in the model: other"):
        dataclasses.replace(toy(), frozen=frozenset({"kernel", "other"}))
