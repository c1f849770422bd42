"""The project around the package: floors, environments, versions, addresses, and what may be committed."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import kd_course
from kd_course.data import MNIST_SHA256

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "kd_course"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SLUG = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")


@cache
def repository_files() -> tuple[Path, ...]:
    """What git tracks, and what it would with the next ``git add``. Skips outside a clone."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git clone, or no git on this machine")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if listing.returncode:
        pytest.skip(f"git cannot list the files: {listing.stderr.strip()}")
    return tuple(path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file())


def texts() -> dict[str, str]:
    """Every text file of the repository, by its path."""
    found = {}
    for path in repository_files():
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            found[path.relative_to(ROOT).as_posix()] = content.decode("utf-8")
    return found


# --- floors: a file imports only from the floors below it -----------------------------------------------------------


def module_name(path: Path) -> str:
    """``losses.response`` for ``kd_course/losses/response.py``, ``losses`` for its ``__init__.py``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
FAMILIES = {name.split(".")[0] for name in MODULES} - {""}


def floors() -> dict[str, int]:
    """The floor of each family, from the table in the docstring of ``kd_course/__init__.py``."""
    table = {}
    for line in kd_course.__doc__.splitlines():
        if row := re.match(r"\s+(\d)  (.+?)(?:\s{3,}|$)", line):
            table |= dict.fromkeys(row[2].split(), int(row[1]))
    return table


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    package = ["kd_course", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix("kd_course").removeprefix(".") for name in found if name.split(".")[0] == "kd_course"}
    return {name if name in MODULES else name.rpartition(".")[0] for name in inside}


def family(name: str) -> str:
    return name.split(".")[0]


def test_every_module_has_a_floor():
    assert set(floors()) == FAMILIES, "the table in the docstring of kd_course/__init__.py must name each file once"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_from_the_floors_below(name: str):
    if not name:
        assert not imports(MODULES[name]), (
            "importing kd_course must cost nothing; its users import the modules they need"
        )
        return
    others = {other for other in imports(MODULES[name]) - {""} if family(other) != family(name)}
    above = [other for other in others if floor(other) >= floor(name)]
    assert not above, f"kd_course.{name} imports {above}, which is on its own floor or above it"


def floor(name: str) -> int:
    return floors()[family(name)]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_files_of_a_folder_import_each_other_in_one_direction(name: str):
    """And never the folder itself, whose ``__init__`` imports them."""
    members = {member: imports(path) for member, path in MODULES.items() if family(member) == name}
    for member, imported in members.items():
        assert name not in imported or member == f"{name}.__main__", f"kd_course.{member} imports its own folder"
    graph = {member: {other for other in imported if family(other) == name} for member, imported in members.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_library_can_be_read_in_an_afternoon():
    """Without its two annexes; a larger plan may raise the number, an oversight may not."""
    library = [path for name, path in MODULES.items() if family(name) not in ("checks", "studies")]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in library) <= 4_400


@pytest.mark.parametrize("annex", ["checks", "studies"])
def test_nothing_in_the_library_imports_an_annex(annex: str):
    library = {name: path for name, path in MODULES.items() if family(name) not in ("checks", "studies")}
    assert library
    assert not [name for name, path in library.items() if any(family(other) == annex for other in imports(path))]


def test_the_import_scan_sees_every_form_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "MODULES", {"data": ..., "losses": ..., "losses.response": ...})
    (tmp_path / "losses").mkdir()
    lines = {
        "import kd_course.data": {"data"},
        "from kd_course import data as d, losses": {"data", "losses"},
        "def f():\n    from kd_course.losses.response import kd_loss": {"losses.response"},
        "from .response import kd_loss": {"losses.response"},
        "from ..data import Split": {"data"},
        "from .. import data": {"data"},
        "import kd_course": {""},
        "import torch\nfrom kd_courses import x": set(),
    }
    for line, expected in lines.items():
        (tmp_path / "losses" / "x.py").write_text(line, encoding="utf-8")
        assert imports(tmp_path / "losses" / "x.py") == expected, line


def test_importing_the_core_is_light():
    """Whoever trains a student does not wait for pandas, plots or image transforms to be imported."""
    core = sorted(
        f"kd_course.{name}" for name in ("runtime", "data", "models", "losses", "inference", "training", "teachers")
    )
    heavy = {"IPython", "ipywidgets", "matplotlib", "pandas", "scipy", "sklearn", "torchvision", "pooch", "requests"}
    code = f"import sys, kd_course, {', '.join(core)}; print(*({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


# --- environments and versions --------------------------------------------------------------------------------------

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


@pytest.mark.parametrize(
    ("file", "renamed"), [("environment.yml", {}), ("binder/environment.yml", {"torch": "pytorch-cpu"})]
)
def test_conda_environments_agree_with_pyproject(file: str, renamed: dict[str, str]):
    names = CONDA_NAMES | renamed
    wanted = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["lab"]]
    expected = {f"{names.get(requirement.name, requirement.name)}{requirement.specifier}" for requirement in wanted}
    listed = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["dependencies"]
    found = {line for line in listed if isinstance(line, str) and not re.match(r"(python|pip)\b", line)}
    assert found == expected
    (python,) = (line.removeprefix("python=") for line in listed if str(line).startswith("python="))
    assert python in SpecifierSet(PROJECT["requires-python"])


def test_the_oldest_versions_that_are_tested_are_those_that_are_allowed():
    """What .ci/run installs for its second round are the lower bounds of pyproject.toml."""
    bounds = [Requirement(line) for line in PROJECT["dependencies"] if ">=" in line]
    lines = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    constraints = {line for line in lines if not line.startswith("#")}
    assert constraints == {f"{bound.name}{bound.specifier}".replace(">=", "==") + ".*" for bound in bounds}


# --- Binder -----------------------------------------------------------------------------------------------------------


def test_binder_reads_its_folder_as_it_is_meant(tmp_path: Path):
    """What repo2docker would do with this repository, said in a Dockerfile; nothing is built."""
    shutil.copytree(ROOT / "binder", tmp_path / "binder")
    shutil.copy(ROOT / "environment.yml", tmp_path)  # must be ignored, because there is a folder named binder
    command = [
        sys.executable,
        "-m",
        "repo2docker",
        "--no-build",
        "--debug",
        "--user-id",
        "1000",
        "--user-name",
        "learner",
    ]
    run = subprocess.run([*command, str(tmp_path)], capture_output=True, encoding="utf-8", check=False)
    assert run.returncode == 0, run.stderr
    dockerfile = run.stdout + run.stderr
    assert 'env update -p ${NB_PYTHON_PREFIX} --file "binder/environment.yml"' in dockerfile
    assert "RUN ./binder/postBuild" in dockerfile
    assert "Building conda environment for python=3.12" in dockerfile
    assert "--editable ." in (ROOT / "binder" / "postBuild").read_text(encoding="utf-8")


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)[1]
    assert (str(citation["version"]), newest) == (kd_course.__version__, kd_course.__version__)


def test_one_linter():
    """The pinned ruff is the one that pre-commit runs."""
    (pinned,) = (line for line in PROJECT["optional-dependencies"]["test"] if line.startswith("ruff"))
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    (revision,) = (repository["rev"] for repository in hooks if "ruff" in repository["repo"])
    assert pinned == f"ruff=={revision.removeprefix('v')}"


def test_licences_are_present():
    for file in PROJECT["license-files"]:
        assert (ROOT / file).is_file(), file
    assert "BSD 3-Clause" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "CC-BY-4.0" in (ROOT / "LICENSE-CC-BY-4.0.md").read_text(encoding="utf-8")


def test_data_readme_has_the_checksums_in_use():
    table = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"\| `(\S+-ubyte)` \|.*`([0-9a-f]{64})`", table)) == MNIST_SHA256


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "data/README.md"])
def test_commands_in_the_documents_exist(file: str):
    text = (ROOT / file).read_text(encoding="utf-8")
    code = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL) + re.findall(r"(?<!`)`[^`\n]+`", text)
    mentioned = set(re.findall(r"(?:^|`|[;&$] ?)make ([a-z][\w-]*)", "\n".join(code), re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert mentioned <= targets


# --- the repository's address ---------------------------------------------------------------------------------------

BADGE = re.compile(
    r"(?:colab\.research\.google\.com/github/|mybinder\.org/v2/gh/|git\+https://github\.com/)([\w-]+/[\w.-]*[\w-])"
)


def strangers(text: str, slug: str) -> list[str]:
    """Repositories named in badges, bootstrap cells and links to this course that are not ``slug``."""
    owner, name = slug.split("/")
    links = re.findall(r"github\.com/([\w-]+/[\w.-]*[\w-])", text)
    ours = [link for link in links if owner == link.split("/")[0] or name == link.split("/")[1].removesuffix(".git")]
    return [found for found in BADGE.findall(text) + ours if found.removesuffix(".git") != slug]


def test_every_link_leads_to_the_one_address():
    assert re.fullmatch(r"[\w-]+/[\w.-]+", SLUG), "[project.urls] Repository must be https://github.com/owner/name"
    wrong = {
        file: found
        for file, text in texts().items()
        if not file.startswith("tests/") and (found := strangers(text, SLUG))
    }
    assert not wrong, "run 'make fork SLUG=owner/name', or fix [project.urls] in pyproject.toml"


def test_a_stale_badge_is_noticed():
    stale = [
        "https://colab.research.google.com/github/other/place/blob/main/notebooks/00_start_here.ipynb",
        "https://mybinder.org/v2/gh/other/place/main",
        "git+https://github.com/other/place@main",
        "git+https://github.com/other/place.git",
        "https://github.com/other/mine/issues",
        "https://github.com/me/place.",
    ]
    assert all(strangers(text, "me/mine") for text in stale)
    fresh = [text.replace("other", "me").replace("place", "mine") for text in stale]
    assert not any(strangers(text, "me/mine") for text in [*fresh, "https://github.com/pytorch/vision"])


def test_badges_lead_to_files_that_exist():
    pages = {file: text for file, text in texts().items() if file.endswith((".md", ".ipynb"))}
    path = re.compile(r"(?:/blob/main/|urlpath=lab/tree/)([\w/.-]+\.(?:ipynb|md))")
    missing = {file: [to for to in path.findall(text) if not (ROOT / to).is_file()] for file, text in pages.items()}
    assert not {file: paths for file, paths in missing.items() if paths}


def test_fork_rewrites_every_link(tmp_path: Path):
    """After ``make fork`` on a copy of the repository, only the new address is left and notebooks are still JSON."""
    for file, text in texts().items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(text.encode("utf-8"))
    notebook = tmp_path / "notebooks" / "99_badge.ipynb"
    notebook.parent.mkdir(exist_ok=True)
    badges = (
        f"[c](https://colab.research.google.com/github/{SLUG}/blob/main/notebooks/99_badge.ipynb)",
        f"[b](https://mybinder.org/v2/gh/{SLUG}/main?urlpath=lab/tree/notebooks/99_badge.ipynb)",
        f'%pip install -q --no-deps "git+https://github.com/{SLUG}@main"',
        f"Not this one: https://github.com/{SLUG}2.",
    )
    notebook.write_text(json.dumps({"cells": badges}), encoding="utf-8")
    run = fork(tmp_path, "some-body/their.course")
    assert run.returncode == 0, run.stderr
    rewritten = {path: path.read_bytes().decode("utf-8") for path in tmp_path.rglob("*") if path.is_file()}
    plain = re.compile(rf"(?<![\w.-]){re.escape(SLUG)}(?!\.?[\w-])")
    assert not [path for path, text in rewritten.items() if path != notebook and plain.search(text)]
    cells = json.loads(rewritten[notebook])["cells"]
    assert cells == [text.replace(SLUG, "some-body/their.course") for text in badges[:3]] + [badges[3]]
    assert "99_badge.ipynb: 3 links" in run.stdout
    assert "pyproject.toml" in run.stdout.splitlines()[-2], "the old address must stay readable until all else is done"


@pytest.mark.parametrize("slug", ["", "x", "a/b/c", "https://github.com/a/b", "a b/c", "-a/b", "a/..", "a/b.git"])
def test_fork_refuses_what_is_not_a_slug(tmp_path: Path, slug: str):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    run = fork(tmp_path, slug)
    assert run.returncode == 1
    assert "expected owner/name" in run.stderr
    assert (tmp_path / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()


def fork(root: Path, slug: str) -> subprocess.CompletedProcess[str]:
    """Run the fork command as it stands in the tree at ``root``."""
    (root / "tools").mkdir(exist_ok=True)
    shutil.copy(ROOT / "tools" / "fork.py", root / "tools")
    command = [sys.executable, "-I", str(root / "tools" / "fork.py"), slug]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


# --- what may be committed ------------------------------------------------------------------------------------------


def test_no_path_of_one_machine_is_committed():
    homes = "|".join(("work", "home", "Users", "root"))
    private = re.compile(rf"(?<![\w.:~-])/(?:{homes})/[\w.]|[A-Z]:\\+(?:{homes})\\")
    allowed = {"tests/test_project.py"}
    found = {file: hit[0] for file, text in texts().items() if file not in allowed and (hit := private.search(text))}
    assert not found


def test_no_data_set_is_committed():
    kinds = re.compile(r"-ubyte|\.(?:gz|npz|npy|pt|pth|pkl|zip|tar|parquet|checkpoint)$")
    files = repository_files()
    assert not [str(path.relative_to(ROOT)) for path in files if kinds.search(path.name)]
    assert not [str(path.relative_to(ROOT)) for path in files if path.stat().st_size > 6_000_000]


def test_scripts_can_be_run():
    """``.ci/run`` and ``binder/postBuild`` are called by name, so git must know that they are executable."""
    assert set(repository_files()) >= {ROOT / ".ci" / "run", ROOT / "binder" / "postBuild"}
    if sys.platform != "win32":
        modes = [path.stat().st_mode & 0o111 for path in (ROOT / ".ci" / "run", ROOT / "binder" / "postBuild")]
        assert all(modes)
