"""`import jaxllm`: what it exports, and that importing changes nothing."""

import inspect
import subprocess
import sys

import pytest

import jaxllm


def test_at_most_thirty_names_each_with_a_docstring_and_a_line_in_the_map():
    assert len(jaxllm.__all__) <= 30
    assert sorted(jaxllm.__all__) == jaxllm.__all__ == dir(jaxllm)
    for name in jaxllm.__all__:
        assert name in (jaxllm.__doc__ or ""), f"{name} is not in the map that help(jaxllm) shows"
        assert (inspect.getdoc(getattr(jaxllm, name)) or "").strip(), f"{name} has no docstring"


def test_importing_prints_nothing_and_loads_no_jax():
    code = "import os, sys; before = dict(os.environ); import jaxllm; assert 'jax' not in sys.modules; jaxllm.load; "
    code += "assert dict(os.environ) == before"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="lode"):
        jaxllm.lode  # noqa: B018
