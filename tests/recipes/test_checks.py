"""Numbers that flags give: what each rule refuses, and in which words."""

import types

import pytest

from jaxllm.recipes.checks import BELOW_1, COUNT, FINITE, NOT_NEGATIVE, POSITIVE, check_numbers
from jaxllm.types import InputError, check_one_of


@pytest.mark.parametrize(
    ("rule", "good", "bad", "words"),
    [
        (COUNT, (1, 7), (0, -1), "at least 1 is needed"),
        (NOT_NEGATIVE, (0, 2.5), (-1,), "give 0 or more"),
        (FINITE, (0, 1e9), (-0.1, float("inf"), float("nan")), "give a finite number, 0 or more"),
        (POSITIVE, (1e-9,), (0, float("inf"), float("nan")), "give a finite number above 0"),
        (BELOW_1, (0, 0.99), (1, -0.1, float("nan")), "give a number from 0 to below 1"),
    ],
)
def test_a_number_is_refused_in_the_words_of_its_rule(rule, good, bad, words):
    for x in good:
        check_numbers(types.SimpleNamespace(keep_every=x, other=None), rule, "keep_every", "other", "not_there")
    for x in bad:
        with pytest.raises(InputError) as error:
            check_numbers(types.SimpleNamespace(keep_every=x), rule, "keep_every")
        assert str(error.value) == f"--keep-every {x}: {words}"


def test_a_choice_is_refused_with_the_nearest_and_without_the_empty_one():
    check_one_of("--decode", "", ("", "argmax", "viterbi"))
    with pytest.raises(InputError) as error:
        check_one_of("--decode", "argmx", ("", "argmax", "viterbi"))
    assert str(error.value) == "--decode argmx: give one of argmax, viterbi; did you mean argmax?"
