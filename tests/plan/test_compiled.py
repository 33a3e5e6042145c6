"""Plans by the compilers of TPUs and GPUs, with neither here. Each test compiles, one at a time."""

import pytest

from jaxllm.cli import plan as command
from jaxllm.plan.target import parse_target
from jaxllm.types import InputError

PRETRAIN = "experiments/pretrain.py"
FLAGS = ("--model", "llama-135m", "--max-length", "512", "--batch-size", "8", "--dtype", "bfloat16", "--remat", "full")


def report(topology, *flags, script=PRETRAIN):
    config = command.read([script, "--topology", topology, *FLAGS, *flags])
    target = parse_target(topology)
    with command._planning(target) as planned:
        return command.plan(config.command, target, planned)


def holds(found):
    """What is true of every plan of llama-135m with full remat on four devices of fsdp."""
    held = found.parameter_bytes + found.optimizer_bytes + found.batch_bytes
    assert 1 <= found.memory.arguments / held < 1.05, "a TPU pads 576 / 4 features to whole tiles"
    assert found.parameter_bytes == pytest.approx(134_515_008 * 4 / 4, rel=0.01)
    assert found.optimizer_bytes == pytest.approx(2 * found.parameter_bytes, rel=0.01)
    assert found.memory.peak >= found.memory.arguments
    assert 1.1 < found.hardware_flops / found.model_flops < 1.6
    assert found.times.bound in ("compute", "memory", "ICI", "NVLink")
    assert 0 < found.mfu < 1
    assert found.times.apart >= found.times.best
    rows = {(row.axis, row.what.split(" (")[0]) for row in found.joined()}
    assert ("fsdp", "parameters gathered") in rows
    assert any(what.startswith("gradients") for _, what in rows)
    assert not any("no formula" in note for note in found.notes)


@pytest.mark.tpu_compile
def test_a_plan_for_tpus():
    pytest.importorskip("libtpu", reason="of the extra `plan`")
    found = report("v5e:2x2", "--mesh", "fsdp=4")
    holds(found)
    assert "splash" in found.step.text, "the kernel is in the program"
    assert {one.link for one in found.collectives} == {"ICI"}


@pytest.mark.tpu_compile
def test_a_plan_for_two_slices():
    pytest.importorskip("libtpu", reason="of the extra `plan`")
    found = report("v5e:2x2*2", "--mesh", "data=2x1,fsdp=1x4")
    links = {(one.axis, one.link) for one in found.collectives}
    assert ("fsdp", "ICI") in links
    assert any(axis.startswith("data") and link == "network between slices" for axis, link in links)
    assert found.times.links["network between slices"] > 0


@pytest.mark.gpu_compile
@pytest.mark.parametrize("chip", ["h100", "b200"])
def test_a_plan_for_gpus(chip):
    pytest.importorskip("jax_cuda12_plugin", reason="of the extra `plan`")
    found = report(f"{chip}:1x1x4", "--mesh", "fsdp=4")
    holds(found)
    assert "flash_attention_forward" in found.step.text, "the kernel is in the program"
    assert {one.link for one in found.collectives} == {"NVLink"}


@pytest.mark.gpu_compile
def test_a_plan_for_two_hosts_of_gpus():
    pytest.importorskip("jax_cuda12_plugin", reason="of the extra `plan`")
    found = report("h100:1x2x2", "--mesh", "data=2,fsdp=2")
    links = {(one.axis, one.link) for one in found.collectives}
    assert {("fsdp", "NVLink"), ("data", "network between hosts")} <= links


@pytest.mark.gpu_compile
def test_pmap_over_several_hosts_is_refused():
    pytest.importorskip("jax_cuda12_plugin", reason="of the extra `plan`")
    with pytest.raises(InputError, match="for one process, and these 4 devices are of 2 hosts: use jit"):
        report("h100:1x2x2", "--strategy", "pmap")
