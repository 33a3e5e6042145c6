"""Times at best, by hand."""

import pytest

from jaxllm.distributed.chips import CHIPS
from jaxllm.plan.collectives import Collective
from jaxllm.plan.groups import Links
from jaxllm.plan.roofline import Times, estimate, seconds


def collective(sent, link, group):
    return Collective("fsdp", "all-gather", "parameters gathered", sent, 1, len(group), link, "", "", group)


def test_what_takes_longest_bounds_a_step():
    times = Times(3.0, 2.0, {"ICI": 1.0, "network between slices": 1.5})
    assert (times.best, times.apart, times.bound) == (3.0, 5.5, "compute")
    times = Times(1.0, 2.0, {"ICI": 1.25, "network between slices": 1.5})
    assert (times.best, times.bound) == (2.75, "memory"), "collectives follow one another"


def test_compute_by_the_type_of_its_inputs_and_memory():
    chip = CHIPS["h100"]
    flops = {"bf16": chip.flops, "f32": chip.flops_32}
    times = estimate(chip, 1.0, flops, 2 * chip.bandwidth, [], Links("gpu", ((0, 0),)), {})
    assert (times.compute, times.memory, times.communication) == (pytest.approx(2.0), pytest.approx(2.0), 0)
    half = estimate(chip, 0.5, flops, 0.0, [], Links("gpu", ((0, 0),)), {})
    assert half.compute == pytest.approx(4.0), "two devices share a chip"


def test_a_torus_carries_both_ways_along_each_dimension():
    chip, links = CHIPS["v5e"], Links("tpu", tuple((0, 0) for _ in range(8)))
    one = collective(chip.link, "ICI", (0, 1, 2, 3))
    assert seconds(chip, 1.0, one, links, {one.group: 1}) == pytest.approx(1 / 2)
    assert seconds(chip, 1.0, one, links, {one.group: 2}) == pytest.approx(1 / 4)


def test_what_crosses_hosts_is_shared_by_their_gpus():
    chip = CHIPS["h100"]
    links = Links("gpu", tuple((0, i // 4) for i in range(8)))
    inside = collective(chip.link, "NVLink", (0, 1, 2, 3))
    assert seconds(chip, 1.0, inside, links, {}) == pytest.approx(1.0)
    alone = collective(chip.network, "network between hosts", (0, 4))
    assert seconds(chip, 1.0, alone, links, {}) == pytest.approx(1.0)
    together = collective(chip.network, "network between hosts", tuple(range(8)))
    assert seconds(chip, 1.0, together, links, {}) == pytest.approx(1 / 4)
    large = collective(100 * chip.link, "network between hosts", tuple(range(8)))
    assert seconds(chip, 1.0, large, links, {}) == pytest.approx(100 * chip.link / 4 / chip.network)
