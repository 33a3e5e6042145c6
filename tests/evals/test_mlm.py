"""The loss of token frequencies alone."""

import numpy as np
import pytest

from jaxllm.evals.mlm import frequency_loss


def test_each_token_costs_what_its_frequency_in_train_says():
    special_V = np.array([True, False, False, False])
    train = [np.array([0, 1, 1, 2, 0], np.uint16), np.array([1, 0])]
    # 1 is there three times, 2 once and 3 never: with one more of each 4, 2 and 1 of 7.
    found = frequency_loss(train, [np.array([0, 1, 3, 0, 2, 1])], special_V)
    assert found == pytest.approx(-np.log([4 / 7, 4 / 7, 1 / 7, 2 / 7]).mean())
