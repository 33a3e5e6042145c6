"""Eight fake CPU devices, strict ranks, and a compile cache that outlives the run."""

import collections
import gc
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

_FLAGS = [
    "--xla_force_host_platform_device_count=8",
    # Eight devices on two cores may wait long for each other.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    # Many small programs: splitting each for several threads costs more than it saves.
    "--xla_cpu_parallel_codegen_split_count=1",
]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12):  # which has no other emitter
    # The older emitter of loops compiles a small training step four times as quickly.
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")]).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most programs here run once: compiling them well costs more than it saves. Processes that tests start inherit it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# A script that a test starts does not restart itself for the allocator; tests of that remove it.
os.environ.setdefault("JAXLLM_STARTED", "1")
# Bytecode is kept: processes that tests start, a hundred, would each compile all that they import.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
_CACHE = os.environ.get("JAXLLM_TEST_CACHE") or str(Path(tempfile.gettempdir()) / "jaxllm-test-cache")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import pytest

# Tracing makes many objects and little garbage; each collection goes through all that JAX and torch hold.
gc.set_threshold(200_000, 50, 100)


def pytest_configure(config):
    """Imports JAX wherever tests run: not in the process that hands them to workers, which wait for it."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        config.option.loadscopereorder = False  # but in the order of collection, below
        return
    import jax

    jax.config.update("jax_numpy_rank_promotion", "raise")
    config.pluginmanager.import_plugin("shared_fixtures")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Workers take files that run whole scripts first: they take longest, and none may begin when all else is done."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        tests = collections.Counter(item.path for item in items)
        items.sort(key=lambda item: (item.path not in slow, -tests[item.path]))


def pytest_collection_finish():
    """What was imported stays: no collection looks at it again."""
    gc.freeze()


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
