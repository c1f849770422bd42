"""The course without its repository: the wheel holds all that a notebook needs, and runs where there is no clone.

``make notebooks`` runs them all from the clone; here one runs from the wheel, which must hold what all of them import.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("hatchling") is None,
        reason="hatchling is not here, and there may be no network to fetch it",
    ),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what belongs to it."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("kd_course", "data"):
        unwanted = shutil.ignore_patterns("__pycache__", ".*", "MNIST")
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for path in [ROOT / "pyproject.toml", ROOT / "README.md", *ROOT.glob("LICENSE*")]:
        shutil.copy(path, source)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--wheel-dir",
        str(built),
    ]
    done = subprocess.run([*pip, str(source)], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    (path,) = built.glob("kd_course-*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel in it."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(folder), str(wheel)]
    done = subprocess.run(pip, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return folder


def environment(site: Path, cache: Path) -> dict[str, str]:
    """Only the wheel, no clone, no network, the digits."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KD_COURSE")}
    return kept | {
        "PYTHONPATH": str(site),
        "KD_COURSE_DATASET": "digits",
        "XDG_CACHE_HOME": str(cache),
        "IPYTHONDIR": str(cache / "ipython"),
    }


def test_the_wheel_carries_package_teachers_and_results_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "kd_course").rglob("*.[pj][ys]")}
    shipped = {
        f"kd_course/shipped/{path.relative_to(ROOT / 'data').as_posix()}"
        for folder in ("teachers", "results")
        for path in (ROOT / "data" / folder).iterdir()
        if not path.name.startswith(".")
    }
    metadata = {name for name in names if name.startswith(f"kd_course-{wheel.name.split('-')[1]}.dist-info/")}
    assert names - metadata == package | shipped
    assert wheel.stat().st_size < 16 * 2**20


def test_teachers_and_results_are_found_without_a_clone(site: Path, tmp_path: Path) -> None:
    code = """
import json
from pathlib import Path

import kd_course
from kd_course import runtime, studies, teachers

shipped = [name for name in studies.STUDIES if runtime.shipped("results", f"{name}.json").is_file()]
print(json.dumps({
    "package": kd_course.__file__,
    "clone": runtime.in_checkout(),
    "teacher errors": [teachers.card("mnist", name)["errors"]["mnist/test"] for name in ("cnn", "mlp")],
    "runs": {name: len(studies.results(name)) for name in shipped},
}))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(site, tmp_path), capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["package"]).is_relative_to(site) and not found["clone"]
    assert found["teacher errors"] == [41, 84]
    assert set(found["runs"]) == {path.stem for path in (ROOT / "data" / "results").glob("*.json")} - {"notebooks"}


def imports_of(path: Path) -> str:
    """Every import of our package that a notebook makes, as one program."""
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    sources = [re.sub(r"^( *)[%!].*$", r"\1pass", "".join(cell["source"]), flags=re.MULTILINE) for cell in cells]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    ours = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kd_course")]
    return "\n".join(ast.unparse(node) for node in ours)


def test_the_wheel_has_all_that_the_notebooks_import(site: Path, tmp_path: Path) -> None:
    code = "\n".join(imports_of(path) for path in NOTEBOOKS)
    assert code.count("import") > 20
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(site, tmp_path),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_notebook_runs_from_the_wheel_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    path, folder = NOTEBOOKS[0], tmp_path / "empty"
    folder.mkdir()
    shutil.copy(path, folder)
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", path.name]
    done = subprocess.run(
        [*command, "--ExecutePreprocessor.timeout=300"],
        cwd=folder,
        env=environment(site, tmp_path),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [left.name for left in folder.iterdir()] == [path.name]
