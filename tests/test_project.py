"""The project around the package: floors, environments, versions, addresses, and what may be committed."""

from __future__ import annotations

import ast
import graphlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

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
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in library) <= 7_100


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
    (pinned,) = (line for line in PROJECT["optional-dependencies"]["check"] if line.startswith("ruff"))
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


def test_fork_leaves_a_file_whole_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: Callable[[str], ModuleType]
):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "README.md").write_text(f"https://github.com/{SLUG}\n" * 100, encoding="utf-8")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    module = tool("fork")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    write = Path.write_bytes

    def fill(path: Path, content: bytes) -> None:
        write(path, content[:50])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill)
        with pytest.raises(SystemExit, match=r"README\.md could not be written .*No space left.*run this again"):
            module.main(["me/mine"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    module.main(["me/mine"])
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "https://github.com/me/mine\n" * 100


def test_fork_keeps_modes_and_bytes_that_are_no_text(tmp_path: Path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "binder").mkdir()
    script = tmp_path / "binder" / "postBuild"
    script.write_bytes(f"# caf\xe9 https://github.com/{SLUG}\n".encode("latin-1"))
    script.chmod(0o755)
    run = fork(tmp_path, "me/mine")
    assert run.returncode == 0, run.stderr
    assert script.read_bytes() == b"# caf\xe9 https://github.com/me/mine\n"
    assert sys.platform == "win32" or script.stat().st_mode & 0o777 == 0o755


def fork(root: Path, slug: str) -> subprocess.CompletedProcess[str]:
    """Run the fork command as it stands in the tree at ``root``."""
    (root / "tools").mkdir(exist_ok=True)
    shutil.copy(ROOT / "tools" / "fork.py", root / "tools")
    command = [sys.executable, "-I", str(root / "tools" / "fork.py"), slug]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


# --- make: nothing is lost, and no text reaches a shell --------------------------------------------------------------

NO_SHELL = "#!/bin/sh\n"  # a program that stands for Python; what it is told is in the file beside it
RECORDS = NO_SHELL + 'test "$1" = tools/with_options.py && exec {python} "$@"\nprintf "<%s>\\n" "$@" >> told\n'
TEXTS = ("PYTHON", "PIP_ARGS", "EXTRAS", "LAB_ARGS", "PYTEST_ARGS", "STUDY", "SEEDS", "FAST", "SLUG")
ATTACKS = [
    "x; touch PWNED",
    "`touch PWNED`",
    "x' ; touch PWNED ; '",
    'x" ; touch PWNED ; "',
    "x && touch PWNED",
    "> PWNED",
]


class Course(NamedTuple):
    """A project folder whose environment only records what it is told, in a folder with a name to stumble over."""

    root: Path

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        outside = {name: value for name, value in outside.items() if name not in TEXTS} | environment
        command = ["make", *arguments]
        return subprocess.run(command, cwd=self.root, env=outside, capture_output=True, encoding="utf-8", check=False)

    def told(self) -> list[str]:
        """The words that the stand-in for Python was told, beside those that count the cores."""
        told = self.root / "told"
        return re.findall(r"<(.*)>\n", told.read_text(encoding="utf-8")) if told.exists() else []

    def environment(self, name: str, *, ready: bool = True) -> Path:
        folder = self.root / name
        (folder / "bin").mkdir(parents=True)
        (folder / "pyvenv.cfg").touch()
        program(folder / "bin" / "python", RECORDS.format(python=sys.executable))
        if ready:
            (folder / ".ready").touch()
        return folder


def program(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def course(tmp_path: Path) -> Course:
    if shutil.which("make") is None:
        pytest.skip("there is no make on this machine")
    root = tmp_path / "my course's"
    (root / "tools").mkdir(parents=True)
    for name in ("kd_course", "notebooks", "tests"):
        (root / name).mkdir()
    for file in ("Makefile", "pyproject.toml", "tools/fork.py", "tools/with_options.py"):
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, root / file)
    return Course(root)


VENVS = ["../My Envs/kd", "..", "../elsewhere", "", " ", "/", "-x", "~/a"]
VENVS += ["a;b", "a'b", 'a"b', "a`b`", "a|b", "a*", "a:b", "a#b", "(a)", "a&b", "a\\b", "a%b", "{a,b}"]


@pytest.mark.parametrize("target", ["clean", "unit", "help"])
@pytest.mark.parametrize("venv", VENVS)
def test_make_refuses_an_environment_that_is_not_one_plain_name(course: Course, venv: str, target: str):
    found = course.make("--dry-run", target, f"VENV={venv}")  # nothing is run, were it not refused
    assert found.returncode == 2
    assert "VENV must be one folder without spaces" in found.stderr
    assert found.stdout == ""


def test_clean_deletes_nothing_beside_an_environment_with_a_space_in_its_name(course: Course):
    kept = [course.root.parent / "My" / "thesis.txt", course.root.parent / "My Envs" / "kd" / "thesis.txt"]
    for file in kept:
        file.parent.mkdir(parents=True)
        file.touch()
    assert course.make("clean", f"VENV={kept[1].parent}").returncode == 2
    assert all(file.exists() for file in kept)


@pytest.mark.parametrize("attack", ["$(shell touch PWNED)", "$$(touch PWNED)", "$HOME", "x\ntouch PWNED"])
@pytest.mark.parametrize("name", [*TEXTS, "VENV"])
@pytest.mark.parametrize("where", ["command line", "environment"])
def test_make_refuses_what_make_itself_would_act_on(course: Course, name: str, attack: str, where: str):
    if where == "environment" and name == "VENV":
        pytest.skip("VENV is not read from the environment, where other programs set it")
    course.environment(".venv")
    given = {"arguments": [f"{name}={attack}"]} if where == "command line" else {"environment": {name: attack}}
    for target in ("help", "fork"):
        found = course.make(target, *given.get("arguments", []), **given.get("environment", {}))
        assert found.returncode == 2
        assert f"{name} must not hold a dollar sign or a line break" in found.stderr
    assert not (course.root / "PWNED").exists()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("SLUG", "fork"),
        ("PYTHON", "fork"),
        ("PYTHON", "unit"),
        ("STUDY", "studies"),
        ("SEEDS", "studies"),
        ("FAST", "studies"),
        ("PYTEST_ARGS", "unit"),
        ("PYTEST_ARGS", "notebooks"),
        ("LAB_ARGS", "lab"),
        ("PIP_ARGS", "preflight"),
        ("EXTRAS", "preflight"),
    ],
)
def test_no_text_given_to_make_reaches_a_shell(course: Course, name: str, target: str, attack: str):
    if (name, target) != ("PYTHON", "unit"):  # which has to make the environment first
        course.environment(".venv", ready=name not in ("PIP_ARGS", "EXTRAS"))
    course.make(target, f"{name}={attack}")
    assert not list(course.root.rglob("PWNED"))
    if name == "STUDY":
        assert attack.split() == course.told()[2:]
    if name in ("SEEDS", "EXTRAS"):
        assert {"SEEDS": attack, "EXTRAS": f".[{attack}]"}[name] in course.told()


def test_options_reach_their_program_as_the_words_that_a_shell_would_make_of_them(course: Course):
    course.environment(".venv", ready=False)
    found = course.make("unit", """PYTEST_ARGS=-m 'not slow' -k "a or (b and c)" -x""", "PIP_ARGS=--no-deps 'torch>=2'")
    assert found.returncode == 0, found.stderr
    told = course.told()
    assert told[told.index("install") :][:5] == ["install", "--editable", ".[test]", "--no-deps", "torch>=2"]
    assert told[-5:] == ["-m", "not slow", "-k", "a or (b and c)", "-x"]


@pytest.mark.parametrize(("name", "target"), [("PYTEST_ARGS", "unit"), ("LAB_ARGS", "lab")])
def test_an_open_quotation_mark_gets_a_sentence(course: Course, name: str, target: str):
    course.environment(".venv")
    found = course.make(target, f"{name}=-k 'a")
    assert found.returncode == 2
    assert "cannot be divided into words (No closing quotation); close every quotation mark" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(("fast", "expected"), [("1", ["--fast"]), ("", []), ("0", [])])
def test_the_studies_get_their_names_seeds_and_speed(course: Course, fast: str, expected: list[str]):
    course.environment(".venv")
    assert course.make("studies", "STUDY=hinton pair", "SEEDS=3", f"FAST={fast}").returncode == 0
    assert course.told() == ["-m", "kd_course.studies", "hinton", "pair", "--seeds", "3", *expected]


def test_clean_deletes_what_was_made_here(course: Course):
    """Two environments, builds and caches; no download, no result, nothing of another's."""
    mine = [
        course.environment(".venv"),
        course.environment(".venv-oldest"),
        course.root / "build",
        course.root / "dist",
    ]
    mine += [course.root / "kd_course" / "__pycache__", course.root / "notebooks" / ".ipynb_checkpoints"]
    kept = [course.root / "data" / "MNIST" / "raw", course.environment(".venv-other"), course.root / "notebooks"]
    kept += [kept[1] / "lib" / "__pycache__"]
    for folder in (*mine, *kept):
        folder.mkdir(parents=True, exist_ok=True)
    found = course.make("clean")
    assert found.returncode == 0, found.stderr
    assert not [folder for folder in mine if folder.exists()]
    assert [folder for folder in kept if folder.exists()] == kept


@pytest.mark.parametrize("missing", [".ready", "pyvenv.cfg"])
def test_clean_leaves_what_make_did_not_make(course: Course, missing: str):
    folder = course.environment("mine")
    (folder / missing).unlink()
    (folder / "thesis.txt").touch()
    found = course.make("clean", "VENV=mine")
    assert found.returncode == 0
    assert "'mine' stays: it is no environment that make has made" in found.stderr
    assert (folder / "thesis.txt").exists()


@pytest.mark.parametrize("venv", [".", "./", "{root}", "{above}", "here"])
def test_clean_never_deletes_the_course(course: Course, venv: str, tmp_path: Path):
    plain = Course(tmp_path / "plain" / "course")
    shutil.copytree(course.root, plain.root)
    for folder in (plain.root, plain.root.parent):
        (folder / ".ready").touch()
        (folder / "pyvenv.cfg").touch()
    (plain.root / "here").symlink_to(plain.root)
    found = plain.make("clean", f"VENV={venv.format(root=plain.root, above=plain.root.parent)}")
    assert found.returncode == 0
    assert "stays" in found.stderr
    assert (plain.root / "Makefile").exists()


def test_an_environment_is_not_made_in_a_folder_with_other_files(course: Course):
    """And is not deleted either, when making it would have failed."""
    folder = course.root / "mine"
    folder.mkdir()
    (folder / "thesis.txt").touch()
    python = program(course.root / "python", NO_SHELL + 'test "$1 $2" != "-m venv"\n')
    found = course.make("unit", "VENV=mine", f"PYTHON={python}")
    assert found.returncode == 2
    assert "'mine' is there and no environment. Name a new folder" in found.stderr
    assert (folder / "thesis.txt").exists()


def test_an_environment_whose_python_is_gone_is_named_and_stays(course: Course):
    folder = course.environment(".venv")
    (folder / "bin" / "python").unlink()
    found = course.make("unit", f"PYTHON={program(course.root / 'python', NO_SHELL + 'exit 0')}")
    assert found.returncode == 2
    assert "The Python of '.venv' is gone. Delete that folder, or name a new one" in found.stderr
    assert folder.exists()


def test_an_environment_that_cannot_be_made_leaves_nothing(course: Course):
    python = program(course.root / "python", NO_SHELL + 'test "$1 $2" != "-m venv" || { mkdir -p "$3"; exit 1; }\n')
    assert course.make("unit", f"PYTHON={python}").returncode == 2
    assert not (course.root / ".venv").exists()


def test_an_installation_that_was_interrupted_is_repeated_and_can_be_cleaned(course: Course):
    broken = RECORDS.format(python=sys.executable) + 'test "$3" != install\n'
    python = course.root / "python"
    made = 'mkdir -p "$3/bin" && touch "$3/pyvenv.cfg" && cp broken "$3/bin/python"'
    program(course.root / "broken", broken)
    program(python, NO_SHELL + f'test "$1 $2" != "-m venv" || {{ {made}; }}\n')
    for _ in range(2):
        assert course.make("preflight", f"PYTHON={python}").returncode == 2
    assert course.told().count("install") == 2 and "kd_course" not in course.told()
    assert course.make("clean").returncode == 0
    assert not (course.root / ".venv").exists()


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
