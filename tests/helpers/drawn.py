"""Parameters drawn by numpy, for tests that are not about initialisation: compiling it takes longer than most tests."""

import jax
import numpy as np


def drawn(spec, std=0.02, seed=0, at=None):
    """Arrays by name of a described model: scales 1, biases 0, the rest normal; `at` says where each lies."""
    draw = np.random.default_rng(seed)

    def one(name, x):
        if name.endswith(("scale", "bias")):
            return np.full(x.shape, name.endswith("scale"), x.dtype)
        return (std * draw.normal(size=x.shape)).astype(x.dtype)

    params = {name: one(name, x) for name, x in spec.graphdef.abstract.items()}
    return {name: jax.device_put(x, None if at is None else at[name]) for name, x in params.items()}
