"""Execute the notebooks from a new kernel, store their outputs, and record what each one costs.

``make refresh`` runs all of them, one after another and on all cores, as a learner runs them;
``python tools/refresh.py notebooks/02_temperature.ipynb`` runs one. Seconds and peak memory above importing torch and
torchvision go to ``data/results/notebooks.json``, to the first cell of the notebook, and to the tables of the README
and the instructor's guide.
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
from filelock import FileLock
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
COSTS = ROOT / "data" / "results" / "notebooks.json"
TABLES = [ROOT / "README.md", ROOT / "notebooks" / "instructor" / "guide.md"]
LOCK = ROOT / "build" / "refresh.lock"
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
    parser.add_argument("--keep-costs", action="store_true", help="store outputs only; the costs stay as they were")
    options = parser.parse_args()
    imports = _megabytes_of_imports()
    for path in options.notebooks:
        notebook = nbformat.read(path, as_version=4)
        seconds, megabytes, slowest = execute(notebook, path.resolve().parent)
        cost = {
            "seconds": round(seconds),
            "megabytes_above_imports": max(0, megabytes - imports),
            "slowest_cell_seconds": round(slowest, 1),
        }
        if not options.keep_costs:
            record(path.stem, cost)
            notebook.cells[0].source = re.sub(r"\d+ s to run", f"{round(seconds)} s to run", notebook.cells[0].source)
        tidy(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {cost}")


def execute(notebook: NotebookNode, folder: Path) -> tuple[float, int, float]:
    """Run every cell in a new kernel, on as many threads as a learner has.

    Returns:
        Seconds, the kernel's peak memory in MB, and the seconds of the slowest cell.
    """
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
    """Drop what differs from run to run (timings, ids) and what no reader needs (finished progress bars)."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = _joined([output for output in cell.outputs if not _is_progress_bar(output)])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    state = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    if kept := _reachable(notebook, state):
        notebook.metadata["widgets"] = {STATE: {"state": kept, "version_major": 2, "version_minor": 0}}


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs, with what was printed in pieces in one."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" and output.get("name") == joined[-1].get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _is_progress_bar(output: NotebookNode) -> bool:
    return VIEW in output.get("data", {}) and "%|" in output.data.get("text/plain", "")


def _reachable(notebook: NotebookNode, state: dict) -> dict:
    """The widget models that an output still shows, and the models they are built from."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    waiting = [output.data[VIEW]["model_id"] for output in outputs if VIEW in output.get("data", {})]
    kept: dict = {}
    while waiting:
        model = waiting.pop()
        if model in state and model not in kept:
            kept[model] = state[model]
            waiting += re.findall(r"IPY_MODEL_(\w+)", json.dumps(state[model]))
    return kept


def record(name: str, cost: dict[str, float]) -> None:
    """Write one notebook's costs to its rows in ``notebooks.json`` and in the tables, and leave all other rows alone.

    Another ``make refresh`` may do the same at this moment, so one lock guards all these files.
    """
    figures = f"| {cost['seconds']} s | {cost['megabytes_above_imports']} MB |"
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(LOCK):
        costs = json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.exists() else {}
        costs = dict(sorted((costs | {name: cost}).items()))
        COSTS.write_text(json.dumps(costs, indent=2) + "\n", encoding="utf-8")
        for page in TABLES:
            text = page.read_text(encoding="utf-8")
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
