"""Rewards by name, with weights and arguments, and scoring with limits."""

import math
import time

import numpy as np
import pytest

from jaxllm.recipes.rewards import Reward, exact, find_rewards, last_number, length, numeric
from jaxllm.recipes.scoring import Scorer
from jaxllm.types import InputError

ROW = {"prompt": "2+3=", "answer": "5"}


@pytest.mark.parametrize(
    ("text", "number"),
    [("so it is 1,234.5.", 1234.5), ("-7", -7.0), ("3 and 4", 4.0), ("1e3", 1000.0), (".5", 0.5), ("none", None)],
)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == number


def test_built_in_rewards():
    assert exact("", " 5\n", ROW) == 1
    assert exact("", "5.", ROW) == 0
    assert numeric("", "it is 5.0", ROW) == 1
    assert numeric("", "it is 6", ROW) == 0
    assert numeric("", "it is 6", {"answer": "six"}) is None
    assert length("", "abcd", ROW, longest=2) == -1.0
    assert length("", "abc", ROW, longest=2) == -0.5
    assert length("", "a", ROW, shortest=4) == -0.75


def test_several_with_weights_and_arguments():
    first, second = find_rewards("exact:2+format:0.5", ["format.pattern=[0-9]+", "column=answer"])
    assert (first.name, first.weight, first.arguments) == ("exact", 2.0, {"column": "answer"})
    assert (second.name, second.weight, second(["p"], ["12"], [ROW])) == ("format", 0.5, 1.0)
    scorer = Scorer([first, second])
    rewards = scorer.score(["2+3="] * 2, ["5", "five"], [ROW, ROW])
    np.testing.assert_array_equal(rewards, [[1, 0], [1, 0]])
    np.testing.assert_array_equal(scorer.total(rewards), [2.5, 0])


@pytest.mark.parametrize(
    ("spec", "arguments", "message"),
    [
        ("exakt", [], "exact"), ("exact+exact", [], "is there twice"), ("exact", ["colum=a"], "exact.column"),
        ("length", ["length.longest=x"], "is not a int"), ("no.py:f", [], "there is no file"),
    ],
)  # fmt: skip
def test_what_is_refused(spec, arguments, message):
    with pytest.raises(InputError, match=message):
        find_rewards(spec, arguments)


def test_a_reward_that_fails_is_left_out_and_counted():
    def sometimes(prompt, completion, row):
        if completion == "slow":
            time.sleep(5)
        return {"a": 1.0, "none": None, "nan": math.nan, "infinite": math.inf, "slow": 0.0}[completion]

    scorer = Scorer([Reward("sometimes", 1.0, sometimes)], seconds=0.1)
    said = ["a", "none", "nan", "infinite", "slow", "raises"]
    rewards = scorer.score([""] * 6, said, [ROW] * 6)
    np.testing.assert_array_equal(rewards, [[1.0, *[math.nan] * 5]])
    assert scorer.failures == {
        ("sometimes", "infinite"): 1, ("sometimes", "TooLong"): 1, ("sometimes", "KeyError"): 1,
    }  # fmt: skip
    assert math.isnan(scorer.total(rewards)[1])
    with pytest.raises(InputError, match="failed on each of 2 completions"):
        scorer.score([""] * 2, ["x", "y"], [ROW] * 2)


def test_a_function_of_lists_and_a_wrong_number_of_rewards():
    def lists(prompts, completions, rows):
        return [float(len(x)) for x in completions][: len(prompts) - (completions[0] == "short")]

    scorer = Scorer([Reward("lists", 1.0, lists)])
    np.testing.assert_array_equal(scorer.score(["", ""], ["abc", "d"], [ROW] * 2), [[3.0, 1.0]])
    with pytest.raises(InputError, match="1 rewards for 2 completions"):
        scorer.score(["", ""], ["short", "d"], [ROW] * 2)


def test_a_column_that_the_rows_lack_is_named_before_training():
    with pytest.raises(InputError, match=r"reads the column 'answer', and the rows have prompt.*exact\.column"):
        Scorer(find_rewards("exact", [])).check("p", {"prompt": "p"})


def test_the_columns_that_a_reward_reads(tmp_path):
    (tmp_path / "own.py").write_text("def any(prompt, completion, row):\n    return 1.0\n")
    found = find_rewards(f"exact+format+{tmp_path}/own.py:any", ["exact.column=right"])
    assert [one.columns for one in found] == [{"right"}, set(), None]
    assert find_rewards("numeric", [])[0].columns == {"answer"}
