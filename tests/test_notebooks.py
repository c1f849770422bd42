"""What running the notebooks cannot tell: that there is something to compare, what they import, and what they cost.

``make notebooks`` runs them all with nbval. These tests look at what is stored.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
COSTS = ROOT / "data" / "results" / "notebooks.json"
TABLES = {"README": ROOT / "README.md", "the instructor's guide": ROOT / "notebooks" / "instructor" / "guide.md"}
MEGABYTES = 800  # above the imports; seconds depend on the machine, so they are told and not tested
ALLOWED = {
    "IPython",
    "ipywidgets",
    "kd_course",
    "matplotlib",
    "numpy",
    "pandas",
    "scipy",
    "sklearn",
    "torch",
    "torchvision",
}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def code_cells(path: Path) -> list[NotebookNode]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]


def imported(source: str) -> set[str]:
    """The top-level packages that a cell imports, wherever in it, with its magics left out."""
    found = set()
    for node in ast.walk(ast.parse(re.sub(r"^( *)[%!].*$", r"\1pass", source, flags=re.MULTILINE))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or "").split(".")[0])
    return found


def costs() -> dict[str, dict[str, float]]:
    return json.loads(COSTS.read_text(encoding="utf-8"))


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 4


# --- what nbval compares --------------------------------------------------------------------------------------------


@each_notebook
def test_outputs_to_be_compared_are_stored(path: Path):
    """A cell tagged nbval-check-output that has no stored output passes whatever it prints."""
    checked = [cell for cell in code_cells(path) if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert checked or path.stem.startswith("00")
    assert not [cell.source for cell in checked if not cell.outputs]


@each_notebook
def test_outputs_to_be_compared_can_be_the_same_twice(path: Path):
    """No times, addresses or long fractions: those differ between two machines, or between two runs."""
    varying = re.compile(r"\b0x[0-9a-f]{6,}|\d\.\d{5,}|\b\d+(?:\.\d+)? ?(?:ms|seconds|MB)\b|\bit/s\b")
    for cell in code_cells(path):
        if "nbval-check-output" in cell.metadata.get("tags", []):
            for output in cell.outputs:
                assert "image/png" not in output.get("data", {}), "pictures differ between versions of matplotlib"
                text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
                assert not varying.search(text), f"{varying.search(text)[0]!r} in the output of {cell.source!r}"


@each_notebook
def test_only_known_tags_are_used(path: Path):
    """A misspelt tag does nothing, and nobody is told."""
    used = {tag for cell in code_cells(path) for tag in cell.metadata.get("tags", [])}
    assert used <= {"nbval-check-output", "nbval-skip", "skip-execution", "solution"}


# --- what the notebooks need ----------------------------------------------------------------------------------------


@each_notebook
def test_a_notebook_imports_only_what_comes_with_the_course(path: Path):
    found = set().union(*(imported(cell.source) for cell in code_cells(path)))
    assert "kd_course" in found
    assert not found - ALLOWED - set(sys.stdlib_module_names)


def test_the_import_scan_sees_every_form_of_import():
    source = """\
%pip install -q something
try:
    import kd_course
except ImportError:
    !pip install it
    import matplotlib.pyplot as plt, json
from torch.nn import functional as F
def f():
    from .secret import x
    from . import y
    import cv2
"""
    assert imported(source) == {"kd_course", "matplotlib", "json", "torch", ".secret", ".", "cv2"}


def test_what_notebooks_may_import_is_what_the_project_installs():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = {"sklearn": "scikit-learn"}
    for name in ALLOWED - {"kd_course", "IPython"}:  # IPython runs the notebook
        assert re.search(rf'^    "{names.get(name, name)}\b', pyproject, re.MULTILINE), name


# --- what the notebooks cost ----------------------------------------------------------------------------------------


@each_notebook
def test_a_notebook_keeps_to_its_memory(path: Path):
    """As measured by the last ``make refresh``, on MNIST."""
    cost = costs()[path.stem]
    assert all(cost.values()), "nothing costs nothing; run 'make refresh'"
    assert cost["megabytes_above_imports"] <= MEGABYTES


def test_no_cost_of_a_notebook_that_is_gone():
    assert set(costs()) == {path.stem for path in NOTEBOOKS}


@each_notebook
def test_the_first_cell_tells_the_measured_seconds(path: Path):
    first = nbformat.read(path, as_version=4).cells[0].source
    assert re.findall(r"(\d+) s to run", first) == [str(costs()[path.stem]["seconds"])]


@each_notebook
@pytest.mark.parametrize("page", TABLES)
def test_every_table_of_the_notebooks_tells_the_measured_figures(path: Path, page: str):
    row = re.search(rf"^\|.*/{path.name}\).*$", TABLES[page].read_text(encoding="utf-8"), re.MULTILINE)
    assert row, f"{path.name} has no row in the table of {page}"
    cost = costs()[path.stem]
    assert f"| {cost['seconds']} s | {cost['megabytes_above_imports']} MB |" in row[0]
    minutes = re.search(r"(\d+) minutes to teach", nbformat.read(path, as_version=4).cells[0].source)[1]
    assert f"| {minutes} min |" in row[0]
