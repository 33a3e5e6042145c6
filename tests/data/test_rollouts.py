"""Sampled completions in rows: shared prompts, what is learned from, and values in their places."""

import numpy as np
import pytest

from jaxllm.data.preference.answers import Layout
from jaxllm.data.rollouts import Completion, RolloutRows, Sampled
from jaxllm.types import InputError


def ids(*tokens):
    return np.array(tokens, np.int32)


def sampled(**given):
    long = Completion(ids(4, 5, 6), np.array([0.1, 0.2, 0.3]), np.array([True, False, True]), **given)
    return Sampled(ids(1, 2, 3), (Completion(ids(7, 8), 2.0), long))


def test_a_prompt_is_there_once_and_each_completion_once():
    rows = RolloutRows([sampled(), Sampled(ids(9), (Completion(ids(2), -1.0, np.array([False])),))], max_length=5)
    assert rows.lengths.tolist() == [2 + 2 + 3, 1]
    found = rows.collate([[0, 1]], 10, 2, 4)
    assert found.batch.tokens_BT[0].tolist() == [1, 2, 3, 7, 3, 4, 5, 9, 0, 0]
    assert found.batch.targets_BT[0].tolist() == [0, 0, 7, 8, 4, 5, 6, 2, 0, 0]
    assert found.batch.weights_BT[0].tolist() == [0, 0, 1, 1, 1, 0, 1, 0, 0, 0]
    assert found.answer_BT[0].tolist() == [-1, -1, 0, 0, 1, 1, 1, 2, -1, -1]
    assert found.weight_BA.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]], "what is not learned from counts too"
    np.testing.assert_allclose(found.advantages_BT[0], [0, 0, 2, 2, 0.1, 0.2, 0.3, -1, 0, 0])
    assert (found.old_logps_BT, found.ref_logps_BT, found.sampler_logps_BT, found.max_length) == (None, None, None, 5)
    assert found.batch.branches_BT is not None


def test_log_probabilities_lie_at_their_targets():
    prompt = sampled(old_logps=np.array([-1.0, -2, -3]))
    with pytest.raises(InputError, match="1 of 2 completions have old_logps: give it for all or for none"):
        RolloutRows([prompt]).collate([[0]], 8, 1, 2)
    both = Sampled(prompt.prompt, (Completion(ids(7, 8), 2.0, old_logps=np.array([-4.0, -5])), prompt.completions[1]))
    found = RolloutRows([both], Layout(share=False)).collate([[0]], 12, 1, 2)
    assert found.old_logps_BT[0].tolist() == [0, 0, -4, -5, 0, 0, -1, -2, -3, 0, 0, 0]
    assert found.ref_logps_BT is None
    assert found.batch.branches_BT is None


def test_values_of_another_number_of_tokens_are_refused():
    with pytest.raises(InputError, match="a completion of 2 tokens has 3 advantages; give one each"):
        Completion(ids(1, 2), np.zeros(3))
    with pytest.raises(InputError, match="a completion of 2 tokens has 1 ref_logps"):
        Completion(ids(1, 2), 1.0, ref_logps=np.zeros(1))
