"""Train steps lower for CUDA. That they compile or run there is not shown by it."""

import jax
import numpy as np
import optax
import pytest
from step_cases import CASES

from jaxllm.losses import resolve
from jaxllm.params import describe
from jaxllm.train.step import make_train_step
from jaxllm.types import TrainState


@pytest.mark.parametrize("case", ["tagger", "llama", "mixture", "dpo"])
def test_a_train_step_lowers_for_cuda(case):
    build, rules, loss, make, _ = CASES[case]
    spec, adam = describe(build, rules), optax.adamw(1e-3)
    step = make_train_step(spec.graphdef, resolve(loss), adam, seed=0)
    params = spec.graphdef.abstract
    state = TrainState(jax.ShapeDtypeStruct((), np.int32), params, jax.eval_shape(adam.init, params))
    text = jax.jit(step).trace(state, make()).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.dot_general" in text
    assert "platform_index" not in text, "one platform alone"
