"""Which numbers can be a seed."""

import pytest

from jaxllm.run.seeds import check_seed
from jaxllm.types import InputError


def test_a_seed_is_not_negative_and_fits_in_64_bits():
    for seed in (0, 1, 2**32, 2**63 - 1):
        check_seed(seed)
    for seed in (-1, 2**63, 10**30):
        with pytest.raises(InputError, match=f"--seeds {seed}: give a whole number from 0 to 9223372036854775807"):
            check_seed(seed, "--seeds")
