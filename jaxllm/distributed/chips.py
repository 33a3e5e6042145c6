"""What accelerators can do, one table: arithmetic, memory, links. For plans, and for the MFU of runs.

Sources, as numbered below:

1. cloud.google.com/tpu/docs/v4, v5e, v5p, v6e and tpu7x: "Key specifications" (peak compute, HBM, bidirectional
   inter-chip interconnect bandwidth per chip, half of it each way, over 4 or 6 ports; network per chip or host).
2. NVIDIA's data sheets of A100 (80 GB SXM), H100 (SXM), H200 (SXM) and B200 (HGX): dense tensor-core rates (without
   sparsity), memory, NVLink (bidirectional, of which half goes each way).
3. NVIDIA's DGX A100, H100, H200 and B200 data sheets: one network adapter per GPU, 200 Gb/s (A100), 400 Gb/s (others).
4. github.com/openxla/xla, xla/backends/gpu/target_config/specs: what XLA's compiler asks of a GPU.
5. jax-ml.github.io/scaling-book, "How to Think About TPUs": v4's ICI, 4.5e10 bytes/s a link each way, which (1) lacks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator. Rates are per second, bytes and FLOPs (a multiply-add is two); links count one direction."""

    kind: str
    """The beginning of `device_kind` in JAX."""
    flops: float
    """Dense bfloat16."""
    flops_32: float
    """Of float32 matrix products at JAX's default precision: one bfloat16 pass on a TPU, TF32 on a GPU."""
    memory: int
    bandwidth: float
    """Of that memory."""
    link: float
    """A TPU: of one ICI port. A GPU: of all its NVLinks."""
    network: float
    """Between slices or hosts, a chip's share."""
    dims: int = 0
    """Dimensions of the torus of a TPU."""
    devices: int = 1
    """Of JAX per chip, in runs."""
    target: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What XLA's compiler asks of a GPU, and of no TPU."""

    def peak(self, dtype: str) -> float:
        """FLOP/s of matrix products whose inputs have this dtype."""
        return self.flops if dtype in ("bfloat16", "float16", "bf16", "f16") else self.flops_32


def _gpu(cores: int, units: int, shared: int, optin: int, cache: int, clock: float, major: int) -> dict[str, Any]:
    return {
        "core_count": cores, "fpus_per_core": units, "shared_memory_per_core": shared,
        "shared_memory_per_block_optin": optin, "l2_cache_size": cache, "clock_rate_ghz": clock, "major": major,
    }  # fmt: skip


CHIPS: dict[str, Chip] = {
    # TPUs: (1); v4's link is (5)'s. Memory is what the runtime gives to programs. Networks are a host's adapters over
    # its chips: v5e 2 x 100 Gb/s over 8, v6e 4 x 200 Gb/s over 8, v5p 50 Gb/s a chip; v4's and 7x's are taken to be
    # v5p's and v6e's, for (1) does not say.
    "v4": Chip("TPU v4", 275e12, 275e12, 32 * GIB, 1.2e12, 45e9, 6.25e9, 3),
    "v5e": Chip("TPU v5 lite", 197e12, 197e12, 16 * GIB, 819e9, 50e9, 3.125e9, 2),
    "v5p": Chip("TPU v5", 459e12, 459e12, 95 * GIB, 2765e9, 100e9, 6.25e9, 3),
    "v6e": Chip("TPU v6 lite", 918e12, 918e12, 32 * GIB, 1638e9, 100e9, 12.5e9, 2),
    "v7x": Chip("TPU7x", 2307e12, 2307e12, 192 * GIB, 7380e9, 100e9, 12.5e9, 3, devices=2),
    # GPUs: (2), networks (3), what the compiler asks (4), whose memory is what a driver reports.
    "a100": Chip("NVIDIA A100", 312e12, 156e12, 85100068864, 2039e9, 300e9, 25e9,
                 target=_gpu(108, 64, 167936, 166912, 41943040, 1.41, 8)),
    "h100": Chip("NVIDIA H100", 989e12, 494.5e12, 84942979072, 3352e9, 450e9, 50e9,
                 target=_gpu(132, 128, 233472, 232448, 52428800, 1.98, 9)),
    "h200": Chip("NVIDIA H200", 989e12, 494.5e12, 151397597184, 4800e9, 450e9, 50e9,
                 target=_gpu(132, 128, 233472, 232448, 52428800, 1.98, 9)),
    "b200": Chip("NVIDIA B200", 2250e12, 1125e12, 191514411008, 7672e9, 900e9, 50e9,
                 target=_gpu(148, 128, 233472, 232448, 132644864, 1.965, 10)),
}  # fmt: skip
"""Chips by the name that a topology begins with."""

_OTHERS = {"TPU v3": 61.5e12}
"""Peaks of devices that no plan is made for, bfloat16: v3 has two devices a chip of 123 TFLOP/s (1)."""


def chip_of(device: jax.Device) -> Chip | None:
    """The chip of a device, None where it is not in the table."""
    kinds = [chip for chip in CHIPS.values() if device.device_kind.startswith(chip.kind)]
    return max(kinds, key=lambda chip: len(chip.kind)) if kinds else None


def peak_flops(device: jax.Device) -> float | None:
    """Dense bfloat16 FLOP/s of a device, None where it is not known."""
    chip = chip_of(device)
    if chip is not None:
        return chip.flops / chip.devices
    return next((x for kind, x in _OTHERS.items() if device.device_kind.startswith(kind)), None)


def gpu_target(chip: Chip) -> str:
    """The target configuration of a GPU, as XLA's compiler reads it (a GpuTargetConfigProto in text form)."""
    t = chip.target
    extension = "NONE" if t["major"] < 9 else "ACCELERATED_FEATURES"
    own = " ".join(f"{name}: {x}" for name, x in t.items() if name != "major")
    return (
        "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 "
        "threads_per_core_limit: 2048 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 "
        "registers_per_core_limit: 65536 registers_per_block_limit: 65536 thread_dim_limit_x: 1024 "
        f"thread_dim_limit_y: 1024 thread_dim_limit_z: 64 memory_bandwidth: {int(chip.bandwidth)} "
        f"device_memory_size: {chip.memory} {own} cuda_compute_capability {{ major: {t['major']} minor: 0 "
        f'feature_extension: {extension} }} driver_version: "13.0.0" runtime_version: "12.8.0" '
        'compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0" } '
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 } '
        f'runtime_version {{ major: 12 minor: 8 patch: 0 }} device_description_str: "{chip.kind}"'
    )
