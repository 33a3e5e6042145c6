"""The README's first program in a notebook, by a kernel of its own."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from test_readme_programs import PROGRAMS

pytestmark = pytest.mark.slow


def test_a_notebook_runs_from_end_to_end(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("XLA_FLAGS", "")
    program = PROGRAMS["decoder"].replace('"path/to/llama-instruct"', repr(str(llama))).replace("2e-5", "5e-3")
    head, rest = program.split("\n\n\n", 1)
    cells = [nbformat.v4.new_code_cell(text) for text in (head, *rest.split("\n\n\n"))]
    cells.append(nbformat.v4.new_code_cell("import os; print(os.getpid(), float(metrics['loss']) < 5)"))
    done = NotebookClient(
        nbformat.v4.new_notebook(cells=cells), timeout=300, resources={"metadata": {"path": tmp_path}}
    )
    notebook = done.execute()
    outputs = [out for cell in notebook.cells for out in cell.outputs]
    said = [out.text for out in outputs if out.get("name") == "stderr"]
    assert all("TqdmWarning" in text for text in said), "tqdm alone may miss ipywidgets"
    assert outputs[-1].text.split()[1] == "True"
    assert int(outputs[-1].text.split()[0]) != os.getpid()
    assert (tmp_path / "tuned" / "model.safetensors").is_file()
