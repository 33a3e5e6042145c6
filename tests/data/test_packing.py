"""Every example once an epoch, in few rows, in an order that depends on seed and step alone."""

import numpy as np
import pytest

from jaxllm.data.packing import Example, best_fit, collate, even_rows, locate, make_plan
from jaxllm.types import InputError


def lengths_of(kind, n=300):
    rng = np.random.default_rng(n)
    return {
        "sentences": np.clip(rng.lognormal(3.2, 0.5, n).astype(int), 3, 128),
        "uniform": rng.integers(1, 65, n),
        "equal": np.full(n, 17),
        "one giant": np.append(rng.integers(2, 9, n - 1), 512),
        "single": np.array([5]),
    }[kind]


KINDS = ("sentences", "uniform", "equal", "one giant", "single")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("batch_size", "multiple", "pack"),
    [(16, 1, True), (16, 8, True), (1, 1, True), (7, 2, True), (64, 4, True), (16, 8, False), (5, 1, False)],
)
def test_every_epoch_deals_every_example_once_over_the_same_steps(kind, batch_size, multiple, pack):
    lengths = lengths_of(kind)
    for seed in (None, 0, 1):
        plan = make_plan(lengths, batch_size=batch_size, multiple=multiple, pack=pack, seed=seed)
        assert plan.steps == -(-len(lengths) // batch_size)
        assert plan.rows % multiple == 0
        assert plan.row_length >= max(lengths)
        for epoch in range(3):
            dealt = [plan.step(epoch * plan.steps + i) for i in range(plan.steps)]
            assert all(1 <= len(rows) <= plan.rows for rows in dealt), "a step without examples"
            assert max(map(len, dealt)) - min(map(len, dealt)) <= (1 if pack else plan.rows)
            rows = [row for step in dealt for row in step]
            assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
            assert all(sum(lengths[i] for i in row) <= plan.row_length for row in rows)
            assert pack or all(len(row) == 1 for row in rows)


def test_row_lengths_are_multiples_of_8_only_where_rows_would_be_emptier_else():
    assert make_plan([31] * 8, batch_size=1).row_length == 32
    plan = make_plan([24] * 8, batch_size=1)
    assert (plan.row_length, plan.rows, plan.fill) == (24, 1, 1.0)


@pytest.mark.parametrize(
    ("count", "most", "multiple", "rows"),
    [(42, 64, 1, 42), (130, 64, 1, 44), (9, 4, 8, 8), (17, 12, 8, 16), (0, 4, 2, 2)],
)
def test_rows_are_spread_evenly_over_few_batches(count, most, multiple, rows):
    assert even_rows(count, most, multiple) == rows


def test_a_step_depends_on_seed_and_number_alone():
    lengths = lengths_of("sentences")
    plan, again, other = (make_plan(lengths, batch_size=16, seed=seed) for seed in (3, 3, 4))
    order = [57, 3, 0, 20, 19, 57]
    steps = {i: again.step(i) for i in sorted(order)}
    assert all(plan.step(i) == steps[i] for i in order)
    assert any(plan.step(i) != other.step(i) for i in range(3))


def test_each_epoch_has_another_order_and_other_neighbours():
    plan = make_plan(lengths_of("sentences", 400), batch_size=16, seed=0)
    first, second = ([row for i in range(plan.steps) for row in plan.step(e * plan.steps + i)] for e in (0, 1))
    assert first != second
    neighbours = [{frozenset((a, b)) for row in rows for a in row for b in row if a != b} for rows in (first, second)]
    assert len(neighbours[0] & neighbours[1]) < 0.5 * len(neighbours[0]), "only those of equal length can change places"
    steps = [{i: s for s in range(plan.steps) for row in plan.step(e * plan.steps + s) for i in row} for e in (0, 1)]
    stayed = np.mean([steps[0][i] == steps[1][i] for i in range(400)])
    assert stayed < 3 / plan.steps, "examples keep their steps"


def test_without_a_seed_the_order_is_that_of_the_layout_in_every_epoch():
    plan = make_plan(lengths_of("uniform"), batch_size=10)
    rows = [tuple(row) for i in range(plan.steps) for row in plan.step(i)]
    assert tuple(rows) == plan.layout
    assert plan.step(2) == plan.step(2 + plan.steps)
    unpacked = make_plan(lengths_of("uniform"), batch_size=10, pack=False)
    assert [i for s in range(unpacked.steps) for (i,) in unpacked.step(s)] == list(range(300))


def test_rows_are_full():
    for kind, least in (("sentences", 0.93), ("uniform", 0.93), ("equal", 0.78)):
        plan = make_plan(lengths_of(kind, 2000), batch_size=64, seed=0)  # equal: three of 17 in 64 at best
        assert plan.fill >= least, f"{kind}: {plan.describe()}"
        assert plan.fill == pytest.approx(lengths_of(kind, 2000).sum() / (plan.steps * plan.rows * plan.row_length))
        assert f"{plan.fill:.0%} full" in plan.describe()
    loose = make_plan(lengths_of("sentences", 2000), batch_size=64, pack=False)
    assert loose.fill < 0.3


def test_best_fit_takes_the_fullest_row_that_has_room():
    assert best_fit([6, 5, 4, 4, 1], 10, 5) == [[0, 2], [1, 3, 4]]
    assert best_fit([2, 9, 3], 10, 5) == [[1], [2, 0]]
    assert best_fit([1, 1, 1, 1, 1], 10, 2) == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="example 1 has 11 tokens, a row 10"):
        best_fit([3, 11], 10, 5)


def test_rows_may_be_asked_to_be_longer():
    assert make_plan([3, 4, 5], batch_size=3).row_length == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": [], "batch_size": 4}, "no examples to train on"),
        ({"lengths": [3], "batch_size": 0}, "--batch-size 0"),
        ({"lengths": [3] * 9, "batch_size": 12, "multiple": 8, "pack": False}, "use 16, or --pack"),
    ],
)
def test_make_plan_refuses(arguments, message):
    with pytest.raises(InputError) as error:
        make_plan(arguments.pop("lengths"), **arguments)
    assert message in str(error.value)


def example(start, n):
    return Example(np.arange(start, start + n), np.arange(n) + 50, np.linspace(0.5, 1.0, n))


def test_collate_packs_all_that_belongs_to_a_token():
    batch = collate([[example(10, 3), example(20, 2)], [], [example(30, 6)]], 6, 4)
    np.testing.assert_array_equal(
        batch.tokens_BT, [[10, 11, 12, 20, 21, 0], [0] * 6, [30, 31, 32, 33, 34, 35], [0] * 6]
    )
    np.testing.assert_array_equal(batch.targets_BT[0], [50, 51, 52, 50, 51, 0])
    np.testing.assert_allclose(batch.weights_BT[0], [0.5, 0.75, 1.0, 0.5, 1.0, 0.0])
    np.testing.assert_array_equal(batch.segments_BT, [[1, 1, 1, 2, 2, 0], [0] * 6, [1] * 6, [0] * 6])
    np.testing.assert_array_equal(batch.positions_BT[0], [0, 1, 2, 0, 1, 0])
    assert batch.branches_BT is None
    kinds = [
        x.dtype for x in (batch.tokens_BT, batch.targets_BT, batch.segments_BT, batch.positions_BT, batch.weights_BT)
    ]
    assert kinds == [np.int32] * 4 + [np.float32]


def test_collate_does_not_cut():
    with pytest.raises(ValueError, match="broadcast"):
        collate([[example(0, 4), example(0, 3)]], 6, 1)


def test_places_are_where_collate_puts_things():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 20, 50)
    plan = make_plan(lengths, batch_size=12, seed=1)
    made = [example(1000 * i + 1, n) for i, n in enumerate(lengths, start=1)]
    for step in range(plan.steps):
        rows = plan.step(step)
        batch = collate([[made[i] for i in row] for row in rows], plan.row_length, plan.rows)
        found = locate(rows, lengths)
        for place in found:
            span = batch.tokens_BT[place.row, place.start : place.start + lengths[place.example]]
            np.testing.assert_array_equal(span, made[place.example].tokens)
        assert (batch.segments_BT > 0).sum() == sum(lengths[p.example] for p in found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pack", [True, False])
def test_a_run_that_moves_to_another_mesh_keeps_its_rows(kind, pack):
    lengths, options = lengths_of(kind), {"batch_size": 16, "pack": pack, "seed": 2}
    began = make_plan(lengths, multiple=8, **options)
    for multiple in (1, 2, 4, 8, 16):
        moved = make_plan(lengths, multiple=multiple, first_multiple=8, **options)
        assert moved.rows % multiple == 0
        assert moved.rows >= began.rows
        assert moved.row_length == began.row_length
        assert all(moved.step(i) == began.step(i) for i in range(2 * began.steps))
