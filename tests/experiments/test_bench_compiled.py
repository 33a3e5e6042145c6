"""The table of compiled steps, for two CPU devices as a stand-in."""

import pytest

from bench_compiled import Config, cases, main, measure
from jaxllm.types import InputError

SMALL = Config(topology="cpu:2", mesh="fsdp=2", model="tiny", rows=2, length=128)


def test_less_is_kept_and_done():
    found = cases(SMALL)
    (adapted, *_), (whole, *_) = (measure(SMALL, case) for _, case in found["lora"])
    assert adapted < whole
    shared, twice = (measure(SMALL, case) for _, case in found["prompts"])
    assert 4 / 9 < shared[2] / twice[2] < 2 / 3, "two thirds of the tokens, and of the scores between them four ninths"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"model": "huge"}, "--model huge: give one of"), ({"what": ("nothing",)}, "--what nothing")],
)
def test_what_is_not_known(changes, message):
    with pytest.raises(InputError, match=message):
        main(Config(**{"topology": "cpu:2", **changes}))
