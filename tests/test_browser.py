"""The course in a real browser: a learner opens notebook 02, runs it from the menu, moves a slider, solves an exercise.

Needs Chromium on the machine and Playwright for Python (``pip install 'kd_course[test]'``); skipped with the reason
where there is none. Screenshots are kept in ``$KD_COURSE_SCREENSHOTS`` if that is set, else in pytest's own folder.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
from packaging.version import Version

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
MINUTES = 60_000  # milliseconds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        Version(ipywidgets.__version__) < Version("8"), reason="JupyterLab 4 cannot show the widgets of ipywidgets 7"
    ),
    pytest.mark.skipif(CHROMIUM is None, reason=f"there is no browser here: none of {', '.join(NAMES)} is installed"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture
def lab(tmp_path: Path, package_environment: dict[str, str]) -> Iterator[str]:
    """The address of a JupyterLab that serves a copy of notebook 02 to nobody but this test."""
    course, settings = tmp_path / "course", tmp_path / "settings"
    course.mkdir()
    shutil.copy(ROOT / "notebooks" / "02_temperature.ipynb", course)
    tracker = settings / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text(json.dumps({"windowingMode": "none"}), encoding="utf-8")  # so that every cell is on the page
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = package_environment | {
        "KD_COURSE_DATASET": "digits",
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    options = ["--no-browser", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
    options += [f"--ServerApp.root_dir={course}", "--allow-root", "--LabApp.news_url=None"]
    with open(tmp_path / "lab.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            address = f"http://127.0.0.1:{port}"
            while True:
                with suppress(OSError), urllib.request.urlopen(f"{address}/api/status", timeout=5):
                    break
                assert process.poll() is None, (tmp_path / "lab.log").read_text()
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def page(lab: str) -> Iterator[Any]:
    """Notebook 02, open in Chromium."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.goto(f"{lab}/lab/tree/02_temperature.ipynb?reset")
        page.locator(".jp-Notebook").wait_for(timeout=2 * MINUTES)
        page.locator(".jp-NotebookPanel-toolbar .jp-KernelName", has_text="Python 3").wait_for(timeout=2 * MINUTES)
        page.locator('.jp-NotebookPanel-toolbar [data-status="idle"]').first.wait_for(timeout=2 * MINUTES)
        yield page
        browser.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where the pictures of this run are kept."""
    folder = Path(os.environ.get("KD_COURSE_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cell(page: Any, words: str) -> Any:
    """The code cell whose source has these words."""
    return page.locator(".jp-CodeCell", has=page.locator(".cm-content", has_text=words)).first


def answer(page: Any, source: str) -> str:
    """Write ``source`` into the stub of exercise 1, run it and its check; returns what the check says."""
    editor = cell(page, "def my_temperature_softmax").locator(".cm-content")
    editor.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(source)
    page.keyboard.press("Shift+Enter")  # runs the stub and goes on to the check
    check = cell(page, "checks.temperature_softmax(my_temperature_softmax)")
    before = check.locator(".jp-OutputArea-output").inner_text()
    page.keyboard.press("Shift+Enter")
    while (said := check.locator(".jp-OutputArea-output").inner_text()) == before or not said.strip():
        page.wait_for_timeout(100)
    return said


def test_a_learner_runs_a_notebook_moves_a_slider_and_solves_an_exercise(page: Any, screenshots: Path) -> None:
    page.screenshot(path=screenshots / "1_opened.png")

    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    prompts = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
    page.wait_for_function(f"() => {prompts}.some(prompt => prompt.textContent.includes('*'))", timeout=MINUTES)
    page.wait_for_function(  # no cell waits any more; a folded one shows no number
        f"() => {{ const all = {prompts}.map(prompt => prompt.textContent);"
        " return all.length > 20 && all.at(-1).match(/\\d/) && !all.some(text => text.includes('*')); }",
        timeout=5 * MINUTES,
    )
    assert not page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]').count()
    page.screenshot(path=screenshots / "2_finished.png")

    live = cell(page, "widgets.live_figure(")
    live.scroll_into_view_if_needed()
    picture = live.locator(".jp-OutputArea img.widget-image").first
    temperature = live.locator('[role="slider"]').nth(1)
    readout = live.locator(".widget-readout").nth(1)
    before, value = picture.get_attribute("src"), readout.inner_text()
    temperature.focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "([image, src]) => image.src !== src", arg=[picture.element_handle(), before], timeout=MINUTES
    )
    assert float(readout.inner_text()) > float(value)
    page.wait_for_timeout(500)
    live.screenshot(path=screenshots / "3_slider.png")

    wrong = answer(
        page, "def my_temperature_softmax(logits, temperature):\n    return logits.softmax(dim=1) / temperature"
    )
    assert wrong.startswith("❌ Not yet"), wrong
    cell(page, "checks.temperature_softmax(").screenshot(path=screenshots / "4_wrong.png")
    right = answer(
        page, "def my_temperature_softmax(logits, temperature):\n    return (logits / temperature).softmax(dim=1)"
    )
    assert right.startswith("✅ Solved"), right
    cell(page, "checks.temperature_softmax(").screenshot(path=screenshots / "5_right.png")
