"""Eight fake CPU devices, strict ranks, and a compile cache that outlives the run."""

import os
import tempfile
from pathlib import Path

_FLAGS = [
    "--xla_force_host_platform_device_count=8",
    # Eight devices on two cores may wait long for each other.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import pytest

pytest_plugins = ["shared_fixtures"]

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(Path(tempfile.gettempdir()) / "jaxllm-test-cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real data and weights: $JAXLLM_ASSETS, or `shared` beside the project."""
    path = Path(os.environ.get("JAXLLM_ASSETS", Path(__file__).parents[2] / "shared"))
    if not path.is_dir():
        message = f"no data and weights at {path}; set JAXLLM_ASSETS"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path
