"""Every notebook runs from start to end.

pip install .[test,notebook]
pytest -m notebooks
"""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.notebooks
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_runs(source, tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("jupytext")
    # The kernel must find this clone, and has devices of its own
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "tools/run_notebooks.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    notebook = tool.execute(source, tmp_path)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    images = sum("image/png" in out.get("data", {}) for out in outputs)
    assert images >= 1
    errors = [out.get("text", "") for out in outputs if out.get("name") == "stderr"]
    assert not any("Traceback" in text for text in errors)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_sources_begin_with_the_aim_and_hold_no_output(source):
    text = source.read_text()
    cells = text.split("# %%")
    assert cells[1].startswith(" [markdown]\n# # ") and "You will" in cells[1]
    assert cells[-1].startswith(" [markdown]")  # where to go next
    assert not re.search(r"image/png|base64", text)
