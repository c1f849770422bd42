"""Execute the notebooks from a fresh kernel, store their real outputs, and write down what each one costs.

``make refresh`` runs all of them; ``python tools/refresh.py notebooks/02_temperature.ipynb`` runs one. The seconds and
the peak memory above importing torch and torchvision go to ``data/results/notebooks.json``, and from there into the
first cell of each notebook and the tables of the README and the instructor's guide.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
COSTS = ROOT / "data" / "results" / "notebooks.json"
TABLES = [ROOT / "README.md", ROOT / "notebooks" / "instructor" / "guide.md"]
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
PEAK = """
import resource, sys
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10))
"""


def main() -> None:
    """Refresh the notebooks named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")))
    imports = _megabytes_of_imports()
    costs = json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.exists() else {}
    for path in parser.parse_args().notebooks:
        notebook = nbformat.read(path, as_version=4)
        seconds, megabytes, slowest = execute(notebook, path.resolve().parent)
        costs[path.stem] = {
            "seconds": round(seconds),
            "megabytes_above_imports": max(0, megabytes - imports),
            "slowest_cell_seconds": round(slowest, 1),
        }
        notebook.cells[0].source = re.sub(r"\d+ s to run", f"{round(seconds)} s to run", notebook.cells[0].source)
        tidy(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {costs[path.stem]}")
    COSTS.parent.mkdir(parents=True, exist_ok=True)
    COSTS.write_text(json.dumps(dict(sorted(costs.items())), indent=2) + "\n", encoding="utf-8")
    write_tables(costs)


def execute(notebook: NotebookNode, folder: Path) -> tuple[float, int, float]:
    """Run every cell in a new kernel; returns seconds, the kernel's peak megabytes, seconds of the slowest cell."""
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    with client.setup_kernel():
        start = time.perf_counter()
        slowest = 0.0
        for number, cell in enumerate(notebook.cells):
            before = time.perf_counter()
            client.execute_cell(cell, number)
            slowest = max(slowest, time.perf_counter() - before)
        seconds = time.perf_counter() - start
        client.set_widgets_metadata()
        notebook.cells.append(nbformat.v4.new_code_cell(PEAK))
        client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
        megabytes = int(notebook.cells.pop().outputs[0].text)
    return seconds, megabytes, slowest


def tidy(notebook: NotebookNode) -> None:
    """Drop what differs from run to run or that a reader would see as rubbish: timings, finished progress bars."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_progress_bar(output)]
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    state = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    if kept := _reachable(notebook, state):
        notebook.metadata["widgets"] = {STATE: {"state": kept, "version_major": 2, "version_minor": 0}}


def _is_progress_bar(output: NotebookNode) -> bool:
    return VIEW in output.get("data", {}) and "%|" in output.data.get("text/plain", "")


def _reachable(notebook: NotebookNode, state: dict) -> dict:
    """The widget models that some output still shows, and those that these are built from."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    waiting = [output.data[VIEW]["model_id"] for output in outputs if VIEW in output.get("data", {})]
    kept: dict = {}
    while waiting:
        model = waiting.pop()
        if model in state and model not in kept:
            kept[model] = state[model]
            waiting += re.findall(r"IPY_MODEL_(\w+)", json.dumps(state[model]))
    return kept


def write_tables(costs: dict[str, dict[str, float]]) -> None:
    """Put the measured seconds and megabytes of each notebook into its row of the tables that list them."""
    for page in TABLES:
        text = page.read_text(encoding="utf-8")
        for name, cost in costs.items():
            figures = f"| {cost['seconds']} s | {cost['megabytes_above_imports']} MB |"
            text = re.sub(rf"(/{name}\.ipynb\)[^\n]*?)\| \d+ s \| \d+ MB \|", rf"\g<1>{figures}", text)
        page.write_text(text, encoding="utf-8")


def _megabytes_of_imports() -> int:
    """Peak memory of a bare kernel that has imported torch and torchvision, in MB."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import torch, torchvision")])
    return execute(notebook, ROOT)[1]


if __name__ == "__main__":
    if sys.platform == "win32":
        sys.exit("the memory figures need Linux or macOS; run 'make refresh' there")
    subprocess.run([sys.executable, "-c", "import kd_course"], check=True, cwd=ROOT)
    main()
