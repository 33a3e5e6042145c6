"""Which losses stand out."""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
from toy_run import Data, go

from jaxllm.losses.tokens import cross_entropy
from jaxllm.run.metrics import read_jsonl
from jaxllm.run.spikes import LEAST, WINDOW, Spikes
from jaxllm.types import Mean


def spikes(losses, state=()):
    """The places of the losses that are taken for spikes, and what is told of each."""
    seen = Spikes(state)
    found = [seen.add(x) for x in losses]
    return {i: x for i, x in enumerate(found) if x is not None}, seen.state


def test_one_that_stands_out_is_told_with_the_largest_before_it():
    losses = [2.0 + 0.1 * (i % 3) for i in range(30)]
    assert spikes([*losses, 9.0, *losses])[0] == {30: 2.2}


def test_noise_is_no_spike_and_neither_is_a_loss_that_falls():
    rng = np.random.default_rng(0)
    assert spikes(3 + 0.3 * rng.standard_normal(500))[0] == {}
    assert spikes(10 * np.exp(-np.arange(300) / 20) + 1)[0] == {}
    assert spikes([1.0] * 50 + [1.05])[0] == {}, "within a tenth"


def test_the_first_losses_are_not_judged():
    assert spikes([1.0] * (LEAST - 1) + [50.0])[0] == {}
    assert spikes([1.0] * LEAST + [50.0])[0] == {LEAST: 1.0}


def test_what_is_not_finite_is_anothers_and_leaves_no_trace():
    found, state = spikes([1.0] * 20 + [math.nan, math.inf, 5.0])
    assert found == {22: 1.0}
    assert all(map(math.isfinite, state))


def test_it_goes_on_after_a_checkpoint_as_if_nothing_had_been():
    losses = [*(1.0 + 0.01 * i for i in range(100)), 30.0, 1.0]
    whole, end = spikes(losses)
    first, state = spikes(losses[:90])
    rest, again = spikes(losses[90:], json.loads(json.dumps(state)))
    assert {**first, **{90 + i: x for i, x in rest.items()}} == whole == {100: 1.99}
    assert again == end
    assert len(end) == WINDOW


def marked(model, batch, key=None):
    """Cross entropy, and 100 where the batch has a mark."""
    loss = cross_entropy(model, batch, key)["loss"]
    return {"loss": Mean(loss.total + loss.count * 100.0 * jnp.any(batch.positions_BT == -1), loss.count)}


def mark(batch):
    positions_BT = np.array(batch.positions_BT)
    positions_BT[0, 0] = -1
    return dataclasses.replace(batch, positions_BT=positions_BT)


def test_a_run_notes_its_spikes(tmp_path, capsys):
    go(tmp_path, Data(LEAST + 3, mark), loss=marked, steps=LEAST + 5, evals=None, log_to=("terminal",))
    [line] = [line for line in read_jsonl(tmp_path / "metrics.jsonl") if "spike/loss" in line]
    assert line["step"] == LEAST + 3
    assert line["spike/loss"] > 100 > line["spike/before"]
    assert f"spike/loss {line['spike/loss']:.4f}" in capsys.readouterr().out
