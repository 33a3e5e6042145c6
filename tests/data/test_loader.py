"""The batch of a step, wherever a run begins and whichever rows a process holds."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxllm.data.loader import EvalBatches, Loader, lengths, loader
from jaxllm.data.packing import Example, make_plan

RNG = np.random.default_rng(0)
EXAMPLES = [Example(*(RNG.integers(1, 99, n).astype(np.int32),) * 2, RNG.random(n).astype(np.float32))
            for n in RNG.integers(1, 30, 61)]  # fmt: skip


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(params=[True, False], ids=["packed", "unpacked"])
def served(request):
    return loader(EXAMPLES, make_plan(lengths(EXAMPLES), batch_size=8, multiple=4, pack=request.param, seed=5))


def test_lengths():
    assert lengths(EXAMPLES).tolist() == [len(e.tokens) for e in EXAMPLES]
    assert lengths(EXAMPLES).dtype == np.int64


def test_resuming_at_any_step_gives_the_same_batches(served):
    whole = list(served.iterate(0, 20))
    assert len(whole) == 20 > 2 * served.plan.steps
    for start in (0, 1, 7, 8, 19):
        resumed = list(served.iterate(start, 20))
        assert len(resumed) == 20 - start
        for a, b in zip(whole[start:], resumed, strict=True):
            same(a, b)
    same(whole[13], served.batch(13))
    assert not np.array_equal(whole[0].tokens_BT, whole[served.plan.steps].tokens_BT), "epochs are alike"


def test_every_batch_has_one_shape_and_an_epoch_every_token(served):
    epoch = list(served.iterate(0, served.plan.steps))
    assert {b.tokens_BT.shape for b in epoch} == {(served.plan.rows, served.plan.row_length)}
    seen = np.sort(np.concatenate([b.tokens_BT[b.segments_BT > 0] for b in epoch]))
    np.testing.assert_array_equal(seen, np.sort(np.concatenate([e.tokens for e in EXAMPLES])))


def test_processes_serve_their_rows_of_the_same_batch(served):
    rows = served.plan.rows
    parts = [list(range(rows // 2)), list(range(rows // 2, rows)), [rows - 1, 0, 2]]
    for step in (0, 3, 7, 11):
        whole = served.batch(step)
        for part in parts:
            same(served.batch(step, part), jax.tree.map(lambda x, part=part: x[part], whole))
    same(next(served.iterate(7, 8, parts[2])), served.batch(7, parts[2]))


def test_a_builder_of_ones_own():
    plan = make_plan(lengths(EXAMPLES), batch_size=8, multiple=4, seed=5)
    own = Loader(plan, lambda rows, count: {"examples": np.array([len(row) for row in rows]), "count": np.array(count)})
    for step in range(plan.steps):
        batch = own.batch(step)
        assert batch["count"] == plan.rows == len(batch["examples"]), "rows that no example fills are there, empty"
        assert batch["examples"].sum() == sum(map(len, plan.step(step)))


def test_evaluations_see_every_example_once_and_know_where():
    plan = make_plan(lengths(EXAMPLES), batch_size=10, multiple=8)
    batches = EvalBatches(EXAMPLES, plan)
    seen = []
    for batch, places in batches:
        assert batch.tokens_BT.shape == (plan.rows, plan.row_length)
        for place in places:
            example = EXAMPLES[place.example]
            span = slice(place.start, place.start + len(example.tokens))
            np.testing.assert_array_equal(batch.tokens_BT[place.row, span], example.tokens)
            np.testing.assert_array_equal(batch.weights_BT[place.row, span], example.weights)
            assert len(set(batch.segments_BT[place.row, span])) == 1
            seen.append(place.example)
    assert sorted(seen) == list(range(len(EXAMPLES)))
    assert len(batches) == plan.steps == len(list(batches)), "it can be gone through again"


def test_the_fingerprint_knows_examples_and_order_and_no_mesh():
    def of(examples=EXAMPLES, seed=5, **options):
        options = {"batch_size": 8, "multiple": 4, "first_multiple": 4, **options}
        return loader(examples, make_plan(lengths(examples), seed=seed, **options)).fingerprint()

    changed = [*EXAMPLES[:-1], dataclasses.replace(EXAMPLES[-1], tokens=EXAMPLES[-1].tokens + 1)]
    assert of() == of(multiple=8) == of(multiple=2) == loader(EXAMPLES, make_plan(
        lengths(EXAMPLES), batch_size=8, multiple=4, seed=5), lambda batch, step, rows: batch
    ).fingerprint()  # fmt: skip
    others = {of(seed=6), of(batch_size=9), of(EXAMPLES[:-1]), of(), of([e for e in changed for _ in range(2)])}
    assert len(others) == 5
