"""What the partitioner makes of a step on a mesh: nothing whole on every device that need not be."""

import jax
import optax
import pytest
from compiled import DENSE, T, of, rows, shapes_of, tagger

from jaxllm.distributed.mesh import make_mesh
from jaxllm.losses import resolve
from jaxllm.train.setup import prepare

ROWS = 8


def compiled(spec, mesh, devices):
    mesh = make_mesh(mesh, jax.devices()[:devices])
    step, layout = prepare(spec, resolve("cross_entropy"), optax.adamw(1e-4), mesh)
    return step.lower(layout.like, shapes_of(rows(ROWS), mesh), {}).compile()


@pytest.mark.parametrize("mesh", ["data=2,fsdp=2", "fsdp=2,tensor=2"])
@pytest.mark.parametrize("kind", ["pretraining", "bert", "modernbert"])
def test_nothing_is_rematerialized_involuntarily(kind, mesh, capfd):
    compiled(of(DENSE, depth=1) if kind == "pretraining" else tagger(kind, depth=1), mesh, 4)
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_what_remat_saves_is_cut_along_tensor(kind):
    """The stack of residual streams that the backward pass reads has a quarter of the positions on each device."""
    spec = of(DENSE, dtype="float32") if kind == "decoder" else tagger("bert", dtype="float32")
    text = compiled(spec, "fsdp=2,tensor=4", 8).as_text()
    assert f"f32[2,{ROWS // 2},{T // 4},512]" in text
    assert f"f32[2,{ROWS // 2},{T},512]" not in text
