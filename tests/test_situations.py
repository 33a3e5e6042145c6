"""The tests that SITUATIONS.md names are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_each_situation_names_tests_that_are_there():
    lines = (TESTS / "SITUATIONS.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| source |")]
    assert len(rows) >= 262
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)`", row.rpartition(" | ")[2])
        assert named, row
        assert all((TESTS / name).is_file() for name in named), row
