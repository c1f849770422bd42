"""The pre-flight: ``python -m kd_course`` says in a few seconds whether this machine is ready for the course."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import platform
import statistics
import sys
import time
from collections.abc import Callable

from kd_course._terminal import say

MINIMUM = {"python": "3.11", "torch": "2.11", "torchvision": "0.26", "ipywidgets": "7.7.1"}
MEMORY_GB = 2.0


class Fault(Exception):
    """What a check found wrong, and how to fix it."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(found)
        self.fix = fix


def _at_least(name: str, version: str) -> str:
    """The ``version``, unless it is older than what the course supports: then raise :class:`Fault`."""
    from packaging.version import Version

    if Version(version) < Version(MINIMUM[name]):
        install = "install a newer Python" if name == "python" else f"pip install --upgrade '{name}>={MINIMUM[name]}'"
        raise Fault(f"{version}, older than {MINIMUM[name]}", install)
    return version


def _package(name: str) -> Callable[[], str]:
    def check() -> str:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a broken binary raises OSError or RuntimeError as well as ImportError
            raise Fault(f"cannot be imported ({error})", f"pip install --upgrade '{name}>={MINIMUM[name]}'") from error
        return _at_least(name, str(module.__version__))

    return check


def _device() -> str:
    from kd_course.runtime import pick_device

    try:
        return str(pick_device())
    except ValueError as error:
        raise Fault(str(error), "correct or unset KD_COURSE_DEVICE") from error


def _threads() -> str:
    """How many there are, and what a training step takes on one and on all: more are slower where cores are shared."""
    import torch

    from kd_course.runtime import available_cores

    count = torch.get_num_threads()
    here = f"{count} for PyTorch, on {available_cores()} available cores"
    if count == 1:
        return here
    one, all_of_them = _steps_ms(1, count)
    advice = "; set OMP_NUM_THREADS=1, which is faster here" if one < 0.9 * all_of_them else ""
    return f"{here}; a training step takes {one:.0f} ms on 1, {all_of_them:.0f} ms on {count}{advice}"


def _steps_ms(*counts: int, rounds: int = 7) -> list[float]:
    """Median milliseconds of a student's training step on each number of threads, measured in turn."""
    import torch

    from kd_course.models import StudentNet
    from kd_course.runtime import seeded, threads

    with seeded(0):
        model, images = StudentNet(), torch.rand(128, 1, 28, 28)
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            with threads(count):
                start = time.perf_counter()
                model(images).logsumexp(1).mean().backward()
                times[count].append(1000 * (time.perf_counter() - start))
    return [statistics.median(times[count]) for count in counts]


def _data() -> str:
    from kd_course.data import DataError, load_data

    try:
        return repr(load_data())
    except (DataError, ValueError) as error:
        raise Fault(str(error), "correct or unset KD_COURSE_DATA and KD_COURSE_DATASET") from error


def _memory() -> str:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    if free < MEMORY_GB:
        raise Fault(f"{free:.1f} GB available", f"close other programs; a notebook needs {MEMORY_GB:.0f} GB")
    return f"{free:.1f} GB available"


def _kernel() -> str:
    """A kernel is needed; JupyterLab is one of several places to use it from (Colab and VS Code are others)."""
    try:
        kernel = f"ipykernel {importlib.metadata.version('ipykernel')}"
    except importlib.metadata.PackageNotFoundError as error:
        raise Fault("ipykernel is not installed", "pip install ipykernel jupyterlab") from error
    try:
        return f"{kernel}, jupyterlab {importlib.metadata.version('jupyterlab')}"
    except importlib.metadata.PackageNotFoundError:
        return kernel


CHECKS: dict[str, Callable[[], str]] = {
    "Python": lambda: _at_least("python", platform.python_version()),
    "torch": _package("torch"),
    "torchvision": _package("torchvision"),
    "ipywidgets": _package("ipywidgets"),
    "device": _device,
    "threads": _threads,
    "data": _data,
    "memory": _memory,
    "kernel": _kernel,
}


def preflight() -> bool:
    """Print one line per check, ``[ OK ]``, or ``[FAIL]`` with its fix, and return whether all passed."""
    failed = 0
    for name, check in CHECKS.items():
        try:
            found, fix = check(), None
        except Fault as fault:
            found, fix = str(fault), fault.fix
        except Exception as error:  # a traceback helps no newcomer
            missing = isinstance(error, ImportError)
            found = f"{type(error).__name__}: {error}"
            fix = "pip install the missing package" if missing else "look up this error, or tell us about it"
        failed += fix is not None
        say(f"[ OK ] {name:<12}{found}" if fix is None else f"[FAIL] {name:<12}{found}\n       {'fix':<12}{fix}")
    say("Ready." if not failed else f"{failed} of {len(CHECKS)} checks failed; the fix is printed below each one.")
    return not failed


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m kd_course", description="Check that this machine is ready.").parse_args()
    sys.exit(0 if preflight() else 1)
