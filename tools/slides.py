"""Slides from the notebooks, with their stored outputs: one HTML file each in ``build/slides``.

``make slides`` makes all; ``python tools/slides.py notebooks/02_temperature.ipynb`` makes one. A section begins a
new column of slides (→); each text cell in it begins a slide (↓), which the code and figures after it join. Solutions
are left out, and S opens the speaker's view. The pages load reveal.js and MathJax from the network. For a room without
a network, download them first into the folder of the slides::

    npm install --prefix build/slides reveal.js@4 requirejs@2 jquery@3 mathjax@2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbformat import NotebookNode
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
SLIDES = ROOT / "build" / "slides"
LOCAL = {
    "reveal_url_prefix": "node_modules/reveal.js",
    "require_js_url": "node_modules/requirejs/require.js",
    "jquery_url": "node_modules/jquery/dist/jquery.min.js",
    "mathjax_url": "node_modules/mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full,Safe",
}


def main() -> None:
    """Make slides of the notebooks named on the command line, or of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")))
    parser.add_argument("--folder", type=Path, default=SLIDES, help="where to write (default: build/slides)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    exporter = SlidesExporter(reveal_scroll=True, exclude_input_prompt=True, exclude_output_prompt=True)
    if (options.folder / "node_modules").is_dir():
        exporter.update_config(Config({"SlidesExporter": LOCAL}))
    for path in options.notebooks:
        notebook = nbformat.read(path, as_version=4)
        arrange(notebook)
        page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        target = options.folder / f"{path.stem}.html"
        target.write_text(page, encoding="utf-8")
        print(f"{target}: {sum(kind(cell) in ('slide', 'subslide') for cell in notebook.cells)} slides")


def arrange(notebook: NotebookNode) -> None:
    """Give every cell its slide type: a new column, a slide below, the same slide, or left out."""
    for cell in notebook.cells:
        cell.metadata["slideshow"] = {"slide_type": kind(cell)}


def kind(cell: NotebookNode) -> str:
    """The slide type of a cell, which depends on its kind: title or section, other text, code, solution."""
    if "solution" in cell.metadata.get("tags", []):
        return "skip"
    if cell.cell_type != "markdown":
        return "-"
    if cell.source.startswith(("# ", "## ")):
        return "slide"
    return "-" if cell.source.startswith("*What the figure shows:*") else "subslide"


if __name__ == "__main__":
    main()
