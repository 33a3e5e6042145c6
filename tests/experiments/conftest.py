"""Runs of whole scripts."""

import pytest

from jaxllm.recipes import session


@pytest.fixture(autouse=True)
def drawn_where_looked_at(monkeypatch):
    """Curves are drawn for the runs of a module's fixtures; for those of tests they would take as long as the steps."""
    monkeypatch.setattr(session, "report", lambda *_: None)
