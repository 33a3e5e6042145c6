"""The pretraining script over every axis of a mesh: the numbers of one device."""

import inspect
import json

import jax
import pytest

import pretrain as script
from jaxllm.distributed.mesh import make_mesh
from jaxllm.recipes import session
from jaxllm.recipes.script import parse
from jaxllm.run.metrics import read_jsonl

DENSE = {"vocab_size": 300, "width": 16, "depth": 2, "heads": 4, "kv_heads": 2, "mlp_width": 32, "max_positions": 64}
MIXTURE = {**DENSE, "experts": 4, "experts_per_token": 2}


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory):
    """A corpus; tokens of these tests are not kept with the user's; nothing here is in a hurry to run."""
    path = tmp_path_factory.mktemp("meshes")
    functions = [f for _, f in inspect.getmembers(inspect, inspect.isfunction)][:20]
    (path / "text.jsonl").write_text("".join(json.dumps({"text": inspect.getsource(f)}) + "\n" for f in functions))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(path / "cache"))
        yield path


def run(world, shape, text):
    """Numbers of a run over eight devices, or over one where no mesh is given."""
    name = f"{'mixture' if 'experts' in shape else 'dense'}-{text or 'one'}"
    (world / f"{name}.json").write_text(json.dumps(shape))
    flags = [
        "--model", world / f"{name}.json", "--tokenizer", "char", "--dataset", world / "text.jsonl",
        "--out", world / name, "--max-length", "32", "--steps", "3", "--log-every", "1", "--eval-every", "2",
        "--sample-tokens", "4", "--eval-batch-size", "8", "--log-to", "none", "--mesh", text,
        "--schedule", "constant", "--warmup", "0",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        if not text:
            patch.setattr(session, "make_mesh", lambda text: make_mesh(text, jax.devices()[:1]))
        script.main(parse(script.Config, [str(flag) for flag in flags]))
    lines = read_jsonl(world / name / "metrics.jsonl")
    return [{k: x for k, x in line.items() if k not in ("tokens_per_s", "tflops_per_device", "mfu")} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "meshes"),
    [
        (DENSE, ["data=4,context=2", "data=2,context=2,tensor=2"]),
        (MIXTURE, ["fsdp=2,context=2,expert=2", "tensor=2,expert=4"]),
    ],
    ids=["dense", "mixture"],
)
def test_numbers_are_those_of_one_device(world, shape, meshes):
    expected = run(world, shape, "")
    assert [line["step"] for line in expected if "dev/loss" in line] == [2, 3]
    for text in meshes:
        found = run(world, shape, text)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, rel=1e-5), text
