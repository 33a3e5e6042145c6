"""Prompts with answers as rows: what lies where, with the prompt once or repeated, and mismatched answers."""

import dataclasses

import numpy as np
import pytest

from jaxllm.data.packing import make_plan
from jaxllm.data.preference.answers import Answer, AnswerBatches, AnswerRows, Group, Layout, add_mismatched
from jaxllm.types import InputError


def answer(tokens, side, trained=None):
    tokens = np.array(tokens, np.int32)
    return Answer(tokens, np.ones(len(tokens), bool) if trained is None else np.array(trained, bool), side)


PAIR = Group(np.array([5, 6, 7], np.int32), (answer([1, 2], 1), answer([3, 4, 9], -1)), 2.0, 0.5)


def row(groups, layout, length=12, slots=4, **more):
    x = AnswerRows(groups, layout, **more).collate([range(len(groups))], length, 1, slots)
    fields = {f.name: getattr(x.batch, f.name) for f in dataclasses.fields(x.batch)}
    fields |= {f.name: getattr(x, f.name) for f in dataclasses.fields(x) if f.name != "batch"}
    return {name: None if value is None else value[0].tolist() for name, value in fields.items()}


def test_a_shared_prompt_is_a_trunk_with_branches_that_begin_with_its_last_token():
    assert row([PAIR], Layout()) == {
        "tokens_BT": [5, 6, 7, 1, 7, 3, 4, 0, 0, 0, 0, 0],
        "targets_BT": [0, 0, 1, 2, 3, 4, 9, 0, 0, 0, 0, 0],
        "weights_BT": [0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        "segments_BT": [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        "positions_BT": [0, 1, 2, 3, 2, 3, 4, 0, 0, 0, 0, 0],
        "branches_BT": [0, 0, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0],
        "types_BT": None,
        "answer_BT": [-1, -1, 0, 0, 1, 1, 1, -1, -1, -1, -1, -1],
        "pair_BA": [0, 0, -1, -1],
        "side_BA": [1, -1, 0, 0],
        "weight_BA": [2, 2, 0, 0],
        "margin_BA": [0.5, 0.5, 0, 0],
        "ref_logps_BT": None,
    }


def test_without_sharing_each_answer_has_the_prompt_before_it_and_there_are_no_branches():
    found = row([PAIR], Layout(share=False), logps=[[np.array([-1, -2]), np.array([-3, -4, -5])]])
    assert found["tokens_BT"] == [5, 6, 7, 1, 5, 6, 7, 3, 4, 0, 0, 0]
    assert found["segments_BT"] == [1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0]
    assert found["positions_BT"] == [0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 0, 0]
    assert found["answer_BT"] == [-1, -1, 0, 0, -1, -1, 1, 1, 1, -1, -1, -1]
    assert found["ref_logps_BT"] == [0, 0, -1, -2, 0, 0, -3, -4, -5, 0, 0, 0]
    assert found["branches_BT"] is None


def test_several_groups_share_a_row():
    found = row([PAIR, dataclasses.replace(PAIR, prompt=np.array([8], np.int32))], Layout())
    assert found["tokens_BT"] == [5, 6, 7, 1, 7, 3, 4, 8, 1, 8, 3, 4]
    assert found["segments_BT"] == [1] * 7 + [2] * 5
    assert found["positions_BT"] == [0, 1, 2, 3, 2, 3, 4, 0, 1, 0, 1, 2]
    assert found["answer_BT"] == [-1, -1, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert found["pair_BA"] == [0, 0, 1, 1]


def test_closed_answers_are_read_to_their_last_token_and_marked_there():
    found = row([PAIR], Layout(closed=True))
    assert found["tokens_BT"] == [5, 6, 7, 1, 2, 7, 3, 4, 9, 0, 0, 0]
    assert found["positions_BT"] == [0, 1, 2, 3, 4, 2, 3, 4, 5, 0, 0, 0]
    assert found["answer_BT"] == [-1, -1, -1, -1, 0, -1, -1, -1, 1, -1, -1, -1]
    assert found["weights_BT"] == [0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]


def test_untrained_tokens_weigh_nothing_and_the_last_of_them_are_not_read():
    group = Group(PAIR.prompt, (answer([1, 2, 3, 4], 1, [1, 0, 1, 0]),))
    found = row([group], Layout())
    assert found["tokens_BT"][:6] == [5, 6, 7, 1, 2, 0]
    assert found["targets_BT"][:6] == [0, 0, 1, 2, 3, 0]
    assert found["weights_BT"][:6] == [0, 0, 1, 0, 1, 0]
    assert found["answer_BT"][:6] == [-1, -1, 0, -1, 0, -1]
    closed = row([group], Layout(closed=True))
    assert closed["tokens_BT"][:8] == [5, 6, 7, 1, 2, 3, 4, 0]
    assert closed["weights_BT"][:8] == [0, 0, 0, 0, 0, 0, 1, 0]


def random_groups(count, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda low, high: rng.integers(1, 50, rng.integers(low, high)).astype(np.int32)
    return [Group(draw(1, 9), (answer(draw(1, 9), 1), answer(draw(1, 9), -1))) for _ in range(count)]


@pytest.mark.parametrize("layout", [Layout(), Layout(share=False), Layout(closed=True)])
def test_a_plan_serves_every_group_once_and_arrays_come_back_by_answer(layout):
    rows = AnswerRows(random_groups(23), layout)
    plan = make_plan(rows.lengths, batch_size=5, seed=1)
    batches = AnswerBatches(rows, dataclasses.replace(plan, seed=None))
    seen = {}
    for step, answers in enumerate(batches):
        assert answers.side_BA.shape == (plan.rows, rows.slots(plan))
        for number, tokens in rows.take(batches.plan.step(step), answers.batch.tokens_BT):
            seen[number] = [x.tolist() for x in tokens]
    for number, group in enumerate(rows.groups):
        whole = [[int(group.prompt[-1]), *a.tokens.tolist()] for a in group.answers]
        assert seen[number] == [w if layout.closed else w[:-1] for w in whole]
    loaded = rows.loader(plan).batch(0)
    assert np.count_nonzero(loaded.weight_BA) == 2 * sum(len(row) for row in plan.step(0))


def test_mismatched_answers_are_of_other_prompts_within_the_length_and_the_same_every_time():
    groups = random_groups(40)
    found = add_mismatched(groups, 12)
    for before, after in zip(groups, found, strict=True):
        assert after.answers[:2] == before.answers
        other = after.answers[2]
        assert other.side == 0
        assert len(after.prompt) + len(other.tokens) <= 12
        cut = [(g, a.tokens[: len(other.tokens)]) for g in groups for a in g.answers]
        sources = [g for g, tokens in cut if np.array_equal(tokens, other.tokens)]
        assert any(not np.array_equal(g.prompt, after.prompt) for g in sources)
    again = add_mismatched(groups, 12)
    assert all(np.array_equal(a.answers[2].tokens, b.answers[2].tokens) for a, b in zip(found, again, strict=True))
    with pytest.raises(InputError, match="all prompts are the same"):
        add_mismatched([PAIR, PAIR], 12)
