"""A program starts anew for the settings of glibc's allocator, once, before it has imported what takes seconds.

Until it has imported that, Python's collector waits.
"""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from jaxllm.allocator import restart
print("begins", "jax" in sys.modules, flush=True)
restart(__name__)
restart(__name__)
print(sys.argv[1:], os.environ.get("MALLOC_TOP_PAD_"), os.environ.get("GLIBC_TUNABLES"))
"""


def said(path, **variables):
    ours = ("JAXLLM_STARTED", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
    environment = {name: x for name, x in os.environ.items() if name not in ours} | variables
    command = [sys.executable, str(path), "--flag", "a b"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_once_on_a_cpu_with_the_same_arguments(program):
    lines = said(program, JAX_PLATFORMS="cpu").splitlines()
    assert lines == ["begins False", "begins False", "['--flag', 'a b'] 67108864 glibc.malloc.hugetlb=1"]
    assert said(program, JAX_PLATFORMS="cpu", GLIBC_TUNABLES="glibc.malloc.check=1").endswith("glibc.malloc.check=1\n")


def test_never_on_an_accelerator_nor_in_what_is_imported(program):
    assert said(program, JAX_PLATFORMS="cuda") == "begins False\n['--flag', 'a b'] None None\n"
    imports = program.with_name("imports.py")
    imports.write_text("import program\n")
    assert said(imports, JAX_PLATFORMS="cpu") == "begins False\n['--flag', 'a b'] None None\n"


COLLECTS = """
import gc
from jaxllm.allocator import restart, resume_gc
print(gc.isenabled())
restart(__name__)
print(gc.isenabled())
kept = [[] for _ in range(1000)]
resume_gc()
print(gc.isenabled(), gc.get_freeze_count() > 1000)
frozen = gc.get_freeze_count()
more = [[] for _ in range(1000)]
resume_gc()
print(gc.get_freeze_count() == frozen)
"""


def test_the_collector_waits_until_all_is_imported_and_goes_on_once(program):
    program.write_text(COLLECTS)
    assert said(program, JAX_PLATFORMS="cuda").splitlines() == ["True", "False", "True True", "True"]
    imports = program.with_name("imports.py")
    imports.write_text("import program\n")
    assert said(imports, JAX_PLATFORMS="cuda").splitlines()[1] == "True"
