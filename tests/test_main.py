"""The pre-flight: what each check finds, the fix it prints, all checks together, and the command that learners type."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest

from kd_course import __main__ as pre
from kd_course.__main__ import CHECKS, MINIMUM, Fault, preflight
from kd_course.runtime import available_cores, threads

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["Python", "torch", "torchvision", "ipywidgets", "device", "threads", "data", "memory", "kernel"]


@pytest.fixture(autouse=True)
def _digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set that every machine has, even if the environment names another one."""
    monkeypatch.setenv("KD_COURSE_DATASET", "digits")
    monkeypatch.delenv("KD_COURSE_DATA", raising=False)


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight gigabytes, whatever other programs take."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * 2**30))


def fault(name: str) -> Fault:
    """What the check of this name finds wrong."""
    with pytest.raises(Fault) as caught:
        CHECKS[name]()
    return caught.value


@pytest.mark.parametrize(("all_of_them", "advised"), [(50, True), (40, False), (22, False)])
def test_one_thread_is_advised_where_it_is_clearly_faster(
    all_of_them: float, advised: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("kd_course.__main__._steps_ms", lambda *counts: [40, all_of_them])
    with threads(2):
        found = CHECKS["threads"]()
    assert f"takes 40 ms on 1, {all_of_them} ms on 2" in found and ("OMP_NUM_THREADS=1" in found) == advised


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_waiting_threads_sleep_unless_the_user_decides(given: str | None):
    """OpenMP's barriers spin, which makes two threads on a shared core ten times slower than one."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    code = "import kd_course, os; print(os.environ['OMP_WAIT_POLICY'])"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == (given or "PASSIVE")


# --- every check passes on this machine -----------------------------------------------------------------------------


def test_the_checks_and_their_order():
    assert list(CHECKS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_check_that_passes_says_what_it_found(name: str):
    assert re.search(r"\w", CHECKS[name]())


def test_what_the_checks_report():
    import torch

    assert CHECKS["Python"]() == platform.python_version()
    assert CHECKS["torch"]() == torch.__version__
    assert CHECKS["device"]() == "cpu"
    here = f"for PyTorch, on {available_cores()} available cores"
    with threads(1):
        assert CHECKS["threads"]() == f"1 {here}"
    with threads(2):
        assert CHECKS["threads"]().startswith(f"2 {here}; a training step takes ")
        assert torch.get_num_threads() == 2  # as it was
    assert CHECKS["data"]().startswith("digits: train 1,000, validation 297, test 500")
    assert CHECKS["memory"]() == "8.0 GB available"
    assert "ipykernel " in CHECKS["kernel"]()


# --- every check finds its fault and says how to fix it -------------------------------------------------------------


@pytest.mark.parametrize("version", ["3.10.14", "3.9.0", "2.7.18"])
def test_python_too_old(monkeypatch: pytest.MonkeyPatch, version: str):
    monkeypatch.setattr(platform, "python_version", lambda: version)
    found = fault("Python")
    assert f"{version}, older than 3.11" in str(found)
    assert "install a newer Python" in found.fix


@pytest.mark.parametrize("version", ["3.11.0", "3.13.1", "3.100.0"])
def test_python_new_enough(monkeypatch: pytest.MonkeyPatch, version: str):
    monkeypatch.setattr(platform, "python_version", lambda: version)
    assert CHECKS["Python"]() == version


@pytest.mark.parametrize("name", ["torch", "torchvision", "ipywidgets"])
def test_a_package_is_missing(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setitem(sys.modules, name, None)
    found = fault(name)
    assert "cannot be imported" in str(found)
    assert found.fix == f"pip install --upgrade '{name}>={MINIMUM[name]}'"


@pytest.mark.parametrize("error", [OSError("libtorch.so: bad ELF header"), RuntimeError("numpy ABI")])
def test_a_package_is_broken(monkeypatch: pytest.MonkeyPatch, error: Exception):
    def refuse(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr(pre.importlib, "import_module", refuse)
    found = fault("torch")
    assert str(error) in str(found)
    assert found.fix.startswith("pip install --upgrade")


@pytest.mark.parametrize(
    ("name", "version"),
    [("torch", "2.10.1"), ("torch", "1.13.0+cu117"), ("torchvision", "0.25.9"), ("ipywidgets", "7.7.0")],
)
def test_a_package_is_too_old(monkeypatch: pytest.MonkeyPatch, name: str, version: str):
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(__version__=version))
    found = fault(name)
    assert f"{version}, older than {MINIMUM[name]}" in str(found)
    assert found.fix == f"pip install --upgrade '{name}>={MINIMUM[name]}'"


@pytest.mark.parametrize(
    ("name", "version"), [("torch", "2.11.0+cpu"), ("torch", "2.100.0"), ("ipywidgets", "7.7.1"), ("ipywidgets", "8.1")]
)
def test_a_package_is_new_enough(monkeypatch: pytest.MonkeyPatch, name: str, version: str):
    """Versions are compared as versions, not as text: 2.100 is newer than 2.11, and a local part does not matter."""
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(__version__=version))
    assert CHECKS[name]() == version


def test_the_minimum_is_the_one_of_the_project():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, version in MINIMUM.items():
        wanted = f'requires-python = ">={version}"' if name == "python" else f'"{name}>={version}"'
        assert wanted in pyproject


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KD_COURSE_DEVICE", "abacus")
    found = fault("device")
    assert "abacus" in str(found)
    assert found.fix == "correct or unset KD_COURSE_DEVICE"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [("KD_COURSE_DATASET", "cifar", "unknown data set 'cifar'"), ("KD_COURSE_DATA", "nowhere", "has no usable MNIST")],
)
def test_a_wrong_choice_of_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, says: str):
    monkeypatch.delenv("KD_COURSE_DATASET")
    monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    found = fault("data")
    assert says in str(found)
    assert found.fix == "correct or unset KD_COURSE_DATA and KD_COURSE_DATASET"


@pytest.mark.parametrize(("free", "enough"), [(0.4, False), (1.9, False), (2.1, True), (64.0, True)])
def test_memory(monkeypatch: pytest.MonkeyPatch, free: float, enough: bool):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free * 2**30))
    if enough:
        assert CHECKS["memory"]() == f"{free:.1f} GB available"
    else:
        found = fault("memory")
        assert str(found) == f"{free:.1f} GB available"
        assert "close other programs" in found.fix


def test_no_kernel(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    found = fault("kernel")
    assert "ipykernel is not installed" in str(found)
    assert "pip install" in found.fix


def test_a_kernel_without_jupyterlab_is_enough(monkeypatch: pytest.MonkeyPatch):
    def version(name: str) -> str:
        if name == "jupyterlab":
            raise importlib.metadata.PackageNotFoundError(name)
        return "7.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert CHECKS["kernel"]() == "ipykernel 7.0"


# --- the whole ------------------------------------------------------------------------------------------------------


def broken() -> str:
    raise Fault("half of it is gone", "glue it")


def unimportable() -> str:
    import a_module_that_nobody_has  # noqa: F401

    return "never"


def test_all_is_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(pre, "CHECKS", {"one": lambda: "1", "two": lambda: "2"})
    assert preflight() is True
    assert capsys.readouterr().out.splitlines() == ["[ OK ] one         1", "[ OK ] two         2", "Ready."]


def test_a_fault_stops_nothing_and_its_fix_is_printed_below_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(pre, "CHECKS", {"one": broken, "two": unimportable, "three": lambda: "3"})
    assert preflight() is False
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[FAIL] one         half of it is gone"
    assert lines[1].split() == ["fix", "glue", "it"]
    assert lines[2].startswith("[FAIL] two ")
    assert "a_module_that_nobody_has" in lines[2]
    assert "pip install the missing package" in lines[3]
    assert lines[4] == "[ OK ] three       3"
    assert lines[5] == "2 of 3 checks failed; the fix is printed below each one."


def test_an_unexpected_error_is_a_failed_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """A pre-flight that ends in a traceback helps no newcomer."""

    def surprised() -> str:
        raise PermissionError("the folder is locked")

    monkeypatch.setattr(pre, "CHECKS", {"one": surprised, "two": lambda: "2"})
    assert preflight() is False
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[FAIL] one ")
    assert "the folder is locked" in lines[0]
    assert "[ OK ] two         2" in lines


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("terminal", [Gone(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")], ids=["gone", "ascii"])
def test_printing_is_no_part_of_a_check(monkeypatch: pytest.MonkeyPatch, terminal: io.TextIOBase):
    monkeypatch.setattr(pre, "CHECKS", {"one": lambda: "28×28 ж", "two": lambda: "2"})
    monkeypatch.setattr(sys, "stdout", terminal)
    assert preflight() is True


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a learner types it."""
    command = [sys.executable, "-m", "kd_course"]
    settings = {**os.environ, "PYTHONIOENCODING": "utf-8", **environment}
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, encoding="utf-8", check=False)


needs_lab = pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None, reason="JupyterLab is not installed")


@needs_lab
def test_the_command_says_ready():
    found = run()
    assert found.stderr == ""
    rows = re.findall(r"^\[([ A-Z]{4})\] (\w+) ", found.stdout, re.MULTILINE)
    assert [name for _, name in rows] == NAMES
    assert {state for state, name in rows if name != "memory"} == {" OK "}
    if ("FAIL", "memory") not in rows:  # other programs may have it all
        assert found.returncode == 0
        assert found.stdout.splitlines()[-1] == "Ready."


@pytest.mark.parametrize("encoding", ["cp1251", "ascii"])
def test_the_command_runs_on_terminals_that_know_few_signs(encoding: str):
    found = run(PYTHONIOENCODING=encoding)
    assert (
        "[ OK ] data        digits: train 1,000, validation 297, test 500 (UCI digits, resized to 28x28)"
        in found.stdout
    )
    assert "Unicode" not in found.stdout + found.stderr


def test_the_command_names_a_missing_package_even_if_it_is_pytorch():
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('kd_course', run_name='__main__')"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert found.returncode == 1
    assert "[FAIL] torch       cannot be imported" in found.stdout
    assert "pip install --upgrade 'torch>=2.11'" in found.stdout
    assert "Traceback" not in found.stderr


def test_the_command_takes_no_arguments():
    command = [sys.executable, "-m", "kd_course", "studies"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert found.returncode == 2
    assert "unrecognized arguments: studies" in found.stderr


# --- the command for studies: its arguments -------------------------------------------------------------------------


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch):
    """Runs ``python -m kd_course.studies`` with these arguments; no study is run, and what would be is returned."""
    from kd_course.studies import __main__ as command

    ran: list[str] = []
    table = SimpleNamespace(to_string=lambda: "error 0.3 ± 0.1, 28×28")
    monkeypatch.setattr(
        command, "study", lambda name, fast: SimpleNamespace(question="T² → ?", table=lambda runs: table)
    )
    monkeypatch.setattr(command, "run", lambda name, **options: ran.append(name) or table)

    def call(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["kd_course.studies", *arguments])
        command.main()
        return ran

    return call


def test_studies_print_on_any_terminal(studies, monkeypatch: pytest.MonkeyPatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert studies("hinton", "pair") == ["hinton", "pair"]
    assert written.getvalue().decode("ascii").split("\n")[:2] == ["hinton: T? -> ?", "error 0.3 +- 0.1, 28x28"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hinton", "par"], "there is no study 'par'; there are: hinton, "),
        (["--seeds", "0"], "--seeds must be 1 or more, not 0"),
        (["--workers", "-1"], "--workers must be 1 or more, not -1"),
        (["--seeds", "five"], "invalid int value: 'five'"),
        (["--folder", "{file}/x"], "nothing can be written to {file}/x (Not a directory)"),
        (["--folder", "~nobody-has-this-name/x"], "--folder"),
    ],
)
def test_studies_refuse_wrong_arguments_before_the_first_one_runs(
    studies, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], says: str
):
    file = tmp_path / "a file"
    file.touch()
    with pytest.raises(SystemExit, match="2"):
        studies(*(argument.format(file=file) for argument in arguments))
    out, err = capsys.readouterr()
    assert says.format(file=file) in err
    assert out == ""


def test_the_command_fails_visibly():
    found = run(KD_COURSE_DEVICE="abacus")
    assert found.returncode == 1
    assert "[FAIL] device" in found.stdout
    assert "unset KD_COURSE_DEVICE" in found.stdout
    assert "1 of 9 checks failed" in found.stdout
    assert "Traceback" not in found.stderr
