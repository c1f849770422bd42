"""Slides: where each kind of cell goes, and a page that holds the stored outputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_slides_of_a_notebook_hold_its_sections_and_figures_and_no_solution(tmp_path: Path) -> None:
    notebook = ROOT / "notebooks" / "02_temperature.ipynb"
    (tmp_path / "node_modules").mkdir()  # as if the libraries had been downloaded for a room without a network
    command = [sys.executable, str(ROOT / "tools" / "slides.py"), str(notebook), "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "02_temperature.html").read_text(encoding="utf-8")
    text = notebook.read_text(encoding="utf-8")
    sections, figures = text.count('"## '), text.count('"image/png": ')
    assert sections > 5 and figures > 3
    assert page.count("<section>") + page.count("<section ") > sections
    assert page.count("data:image/png;base64") >= figures
    assert "# Solution" in text and "Solution 1" not in page
    assert "node_modules/reveal.js" in page and "https://unpkg.com/reveal" not in page
