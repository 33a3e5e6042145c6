"""Programs are compiled here to be run for a few steps."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def few_optimisations():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
