"""What a run says of a step that is not finite."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import STEPS, Data, corpus, go, saved, toy

from jaxllm.distributed.mesh import make_mesh, shardings
from jaxllm.losses.tokens import cross_entropy
from jaxllm.run.metrics import read_jsonl
from jaxllm.train.nonfinite import SKIPPED, NonfiniteReporter, not_finite
from jaxllm.types import Mean


def fragile(model, batch, key=None):
    """Cross entropy, and a term that is not finite where the batch has a marked row."""
    metrics = cross_entropy(model, batch, key)
    marked = jnp.where(batch.positions_BT == -1, jnp.nan, 0.0)
    other = Mean(jnp.sum(marked), jnp.float32(1.0))
    return {"loss": ((1.0, metrics["loss"]), (0.5, other)), "loss/other": other}


def spoil(*rows):
    def happens(batch):
        positions_BT = np.array(batch.positions_BT)
        positions_BT[list(rows), 0] = -1
        return dataclasses.replace(batch, positions_BT=positions_BT)

    return happens


@pytest.mark.parametrize(
    ("mesh", "strategy"), [("data=2", "jit"), ("data=2,fsdp=2,tensor=2", "jit"), ("data=4", "pmap")]
)
def test_a_run_names_step_term_and_rows_and_saves_the_state_before(tmp_path, mesh, strategy):
    data = Data(6, spoil(2, 5))
    with pytest.raises(FloatingPointError) as error:
        go(tmp_path, data, loss=fragile, evals=None, checkpoint_every=0, mesh=mesh, strategy=strategy)
    dealt = corpus().plan.step(5)
    said = [f"row {row} (examples {', '.join(map(str, dealt[row]))})" for row in (2, 5)]
    assert str(error.value) == (
        f"step 6 is not finite: loss (term 2 of 2) nan, loss/other nan; {said[0]}, {said[1]}; the last "
        "good state is saved. Look at these rows, lower --learning-rate, or go on with --on-nan skip"
    )
    state = saved(tmp_path, 8)
    assert state["step"] == 7
    assert all(np.isfinite(x).all() for x in state.values())
    [line] = read_jsonl(tmp_path / SKIPPED)
    assert line == {
        "step": 6, "terms": ["loss (term 2 of 2) nan", "loss/other nan"], "rows": [2, 5],
        "examples": [dealt[2], dealt[5]], "parameters": [],
    }  # fmt: skip


def test_steps_that_are_skipped_are_said_counted_and_noted(tmp_path, capsys):
    fitted = go(tmp_path, Data(6, spoil(1)), loss=fragile, evals=None, on_nan="skip", log_to=("terminal",))
    assert fitted.position == STEPS
    assert saved(tmp_path, STEPS)["step"] == STEPS - 1
    assert "skipped: step 6 is not finite: loss (term 2 of 2) nan" in capsys.readouterr().out
    assert [line["step"] for line in read_jsonl(tmp_path / SKIPPED)] == [6]
    # What is done again after a crash is noted once.
    text = (tmp_path / SKIPPED).read_text()
    (tmp_path / SKIPPED).write_text(text + json.dumps({"step": STEPS + 1}) + "\n")
    go(tmp_path, loss=fragile, evals=None)
    assert (tmp_path / SKIPPED).read_text() == text


def blame(folder, params=None, loss=cross_entropy):
    mesh = make_mesh("", jax.devices()[:1])
    spec, plan = toy(0.0), corpus().plan
    at = shardings(spec.graphdef.abstract, mesh, spec.rules)
    params = {n: jax.device_put(x, at[n]) for n, x in (params or jax.jit(spec.init)(jax.random.key(0))).items()}
    one = NonfiniteReporter(spec.graphdef, loss, frozenset({"kernel"}), plan, mesh, list(range(plan.rows)), folder, 0)
    return lambda batch, metrics: one(1, batch, metrics, params)


NAN = {"loss": Mean(np.float32(np.nan), np.float32(1)), "grad_norm": Mean(np.float32(np.inf), np.float32(1))}


def test_what_no_row_does_alone_is_said_of_their_sum(tmp_path):
    said = blame(tmp_path)(
        corpus().batch(0), {"loss": Mean(np.float32(1), np.float32(1)), "grad_norm": NAN["grad_norm"]}
    )
    assert said.startswith("step 1 is not finite: grad_norm inf; each of its 16 rows is finite by itself")


def test_parameters_that_are_not_finite_are_named(tmp_path):
    good = jax.jit(toy().init)(jax.random.key(0))
    said = blame(tmp_path, {**good, "kernel": good["kernel"].at[0, 0].set(jnp.inf)})(corpus().batch(0), NAN)
    assert said == "step 1 is not finite: loss nan, grad_norm inf; the parameters are not finite themselves: kernel"


def test_a_gradient_that_is_not_finite_tells_its_row_too(tmp_path):
    """The loss of the row is 0, its slope is not."""

    def steep(model, batch, key=None):
        hidden_BTD, _ = model.hidden(batch, key)
        marked = jnp.where(batch.positions_BT[:, :1] == -1, 0.0, 1.0)
        x = jnp.sum(hidden_BTD**2, (1, 2))[:, None] * marked
        return {"loss": Mean(jnp.sum(jnp.sqrt(x)), jnp.float32(16))}

    said = blame(tmp_path, loss=steep)(spoil(3)(corpus().batch(0)), NAN)
    assert "; row 3 (examples " in said
    assert said.count("row ") == 1


def test_many_rows_and_many_steps_are_said_shortly(tmp_path):
    one = blame(tmp_path, loss=fragile)
    batch = spoil(*range(16))(corpus().batch(0))
    for i in range(10):
        said = one(batch, NAN)
        assert ("; all 16 rows: row 0 (examples " in said and said.endswith(" and 8 more")) == (i < 8)
    assert said == "step 1 is not finite: loss nan, grad_norm inf"
    lines = read_jsonl(tmp_path / SKIPPED)
    assert ["rows" in line for line in lines] == [True] * 8 + [False] * 2


def test_a_mixture_names_its_term(tmp_path):
    good, bad = Mean(np.float32(2), np.float32(1)), Mean(np.float32(np.inf), np.float32(1))
    metrics = {"loss": ((0.8, good), (0.2, bad)), "loss/sigmoid": good, "loss/sft": bad, "rewards/chosen": good}
    assert not_finite(metrics) == ["loss (term 2 of 2) inf", "loss/sft inf"]
    assert not_finite({"loss": Mean(0.0, 0.0)}) == []
