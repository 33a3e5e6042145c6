"""When a checkpoint is due."""

import time

import pytest

from jaxllm.checkpoint.policy import Saver
from jaxllm.distributed.mesh import make_mesh


@pytest.mark.parametrize(
    ("every", "keep_every", "positions"), [(0, 0, []), (3, 0, [3, 6, 9]), (0, 4, [4, 8]), (6, 4, [4, 6, 8])]
)
def test_at_multiples(every, keep_every, positions):
    saver = Saver(None, make_mesh("data=8"), every, 0.0, {}, keep_every=keep_every)
    assert [i for i in range(1, 11) if saver.due(i, True)] == positions


def test_after_minutes_where_a_line_is_logged(monkeypatch):
    saver = Saver(None, make_mesh("data=8"), 0, 2.0, {})
    assert not saver.due(1, True)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 121)
    assert saver.due(2, True)
    assert not saver.due(2, False)
