"""The loss and its gradient lower for TPU and GPU, for every family of encoders. That they run there is not shown."""

import jax
import numpy as np
import pytest
from families import ENCODERS, family

from jaxllm.losses import resolve
from jaxllm.params import bind
from jaxllm.types import Batch


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_gradient_lowers_for_tpu_and_gpu(kind):
    spec, loss = family(kind), resolve("cross_entropy")
    ints, floats = (jax.ShapeDtypeStruct((4, 16), dtype) for dtype in (np.int32, np.float32))

    def total(params, batch):
        return loss(bind(spec.graphdef, params), batch)["loss"].total

    step = jax.jit(jax.grad(total)).trace(spec.graphdef.abstract, Batch(ints, ints, floats, ints, ints))
    text = step.lower(lowering_platforms=("tpu", "cuda")).as_text()
    assert "stablehlo.dot_general" in text
    assert "stablehlo.while" in text, "layers are compiled once"
