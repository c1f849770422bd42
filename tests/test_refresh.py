"""Refreshing notebooks: a record that two refreshes can write at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = [f"{number:02d}_notebook" for number in range(8)]
COST = {"seconds": 12, "megabytes_above_imports": 345, "slowest_cell_seconds": 6.7}


@pytest.fixture
def refresh(tool: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, with files of its own: costs of one notebook, and a table of all."""
    module = tool("refresh")
    table = tmp_path / "README.md"
    table.write_text("".join(f"| [x](notebooks/{name}.ipynb) | 9 min | 1 s | 2 MB |\n" for name in NAMES))
    monkeypatch.setattr(module, "COSTS", tmp_path / "notebooks.json")
    monkeypatch.setattr(module, "TABLES", [table])
    monkeypatch.setattr(module, "LOCK", tmp_path / "build" / "refresh.lock")
    return module


def test_a_record_changes_the_rows_of_its_notebook_alone(refresh: ModuleType) -> None:
    refresh.COSTS.write_text(json.dumps({NAMES[2]: {"seconds": 3}}))
    refresh.record(NAMES[1], COST)
    assert list(json.loads(refresh.COSTS.read_text()).items()) == [(NAMES[1], COST), (NAMES[2], {"seconds": 3})]
    rows = refresh.TABLES[0].read_text().splitlines()
    assert rows[1] == f"| [x](notebooks/{NAMES[1]}.ipynb) | 9 min | 12 s | 345 MB |"
    assert sum("1 s | 2 MB" in row for row in rows) == len(NAMES) - 1


def test_two_refreshes_at_once_keep_each_others_rows(refresh: ModuleType) -> None:
    with ThreadPoolExecutor(len(NAMES)) as pool:
        list(pool.map(lambda name: refresh.record(name, COST), NAMES))
    assert json.loads(refresh.COSTS.read_text()) == dict.fromkeys(NAMES, COST)
    assert refresh.TABLES[0].read_text().count("12 s | 345 MB") == len(NAMES)


def test_what_was_printed_in_pieces_is_stored_in_one(refresh: ModuleType) -> None:
    streams = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in
               (("stdout", "a\n"), ("stdout", "b\n"), ("stderr", "c\n"), ("stdout", "d\n"))]  # fmt: skip
    cell = nbformat.v4.new_code_cell(outputs=[*streams, nbformat.v4.new_output("display_data"), streams[3].copy()])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    refresh.tidy(notebook)
    kept = [output.get("text", output.output_type) for output in notebook.cells[0].outputs]
    assert kept == ["a\nb\n", "c\n", "d\n", "display_data", "d\n"]
