"""Running a study, and reading its result file."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kd_course.comparison import compare
from kd_course.memo import fingerprint, read_sealed, writable, write_sealed
from kd_course.runtime import shipped, threads
from kd_course.studies._study import Study

if TYPE_CHECKING:
    import pandas as pd

STUDIES = ("hinton", "omitted", "patience", "pair", "league", "multi_teacher")
"""The studies there are; each is a module of this name with a function ``study(*, fast)``."""


def study(name: str, *, fast: bool = False) -> Study:
    """One study, ready to run.

    Args:
        name: one of :data:`STUDIES`.
        fast: make every training a token one, to see in seconds that all of it works.

    Raises:
        ValueError: no study of this name.
    """
    _check_name(name)
    return importlib.import_module(f"{__package__}.{name}").study(fast=fast)


def run(
    name: str,
    *,
    seeds: int = 5,
    fast: bool = False,
    workers: int = 1,
    folder: Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run a study, or what is missing of it, and write its result file; returns the table of its runs.

    Every training runs on one CPU thread, so that a seed gives the same numbers however many workers share the work.
    Finished runs are kept one by one below ``folder``: whatever ends this process loses at most the unfinished runs.
    A worker that fails leaves its runs to the others, and a warning says so.

    Args:
        name: one of :data:`STUDIES`.
        seeds: how many; 0, 1, 2, …
        fast: see :func:`study`.
        workers: processes that share the runs.
        folder: where results go; ``data/results`` of a clone, and ``data/results/.fast`` if ``fast``.
        progress: show a bar.

    Raises:
        ValueError: no such study, no whole number of seeds or workers above 0, fewer seeds than the result file has, a
            damaged file, a folder that cannot be written, or a study that is not ``fast`` on data other than MNIST.
    """
    chosen = study(name, fast=fast)
    for what, value in {"seeds": seeds, "workers": workers}.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{what} must be a whole number, 1 or more, not {value!r}")
    folder = Path(folder).expanduser() if folder else shipped("results", *([".fast"] if fast else []))
    path = folder / f"{name}.json"
    before = _read(name, folder) if _is_there(path) else {}
    if seeds < (measured := len(before.get("seeds", []))):
        raise ValueError(
            f"{path} has {measured} seeds and would lose some with {seeds}: ask for {measured} or more, or delete it"
        )
    with threads(1):  # where a teacher is trained first, it is the same for every worker
        data = chosen.load()
    if data.name != "mnist" and not fast:
        raise ValueError(
            f"the studies are about MNIST, and this is {data.name!r} ({data.source}); "
            "set KD_COURSE_DATA to the folder that holds MNIST/raw, or try the study out with fast=True (make: FAST=1)"
        )
    writable(folder)
    again = partial(_compare, name, seeds=seeds, fast=fast, folder=folder)
    with _helpers(again, workers - 1), threads(1):
        runs = compare(chosen.recipes, data, seeds=range(seeds), cache=folder / ".runs" / name, progress=progress)
    seconds, packages = runs.attrs["seconds"], runs.attrs["packages"]
    carried = before.get("made_with")  # what is known of runs whose package was not recorded
    rows = [row | {"seconds": round(took, 2)} for row, took in zip(runs.to_dict("records"), seconds, strict=True)]
    rows = [with_columns(row, chosen) for row in rows]
    header = {
        "study": name,
        "question": chosen.question,
        "command": f"make studies STUDY={name} SEEDS={seeds}" + " FAST=1" * fast,
        "data": repr(data),
        "data_checksum": fingerprint(data),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "package": sorted({package for package in packages if package}) or None,
        **({"made_with": carried} if carried and None in packages else {}),
        "threads_per_run": 1,
        "seconds": round(sum(seconds)),
        "seeds": list(range(seeds)),
        "options": options(chosen),
    }
    if before and before["runs"] == rows:  # nothing new: what made it stays as it was
        header |= {key: before[key] for key in ("versions", "package", "made_with", "seconds") if key in before}
    write(path, header, rows)
    return results(name, folder=folder)


def results(name: str, *, folder: Path | None = None) -> pd.DataFrame:
    """The runs of a study as they were measured.

    Args:
        name: one of :data:`STUDIES`.
        folder: where the result file is; the shipped one if None.

    Returns:
        One row per run: ``recipe``, the columns that identify it, ``seed``, its numbers, ``seconds``.

    Raises:
        FileNotFoundError: the study has not been run; the message names the command that does it.
        ValueError: no such study, or a file that is not as it was written; the message says how to get it back.
    """
    import pandas as pd

    return pd.DataFrame(_read(name, folder)["runs"])


def about(name: str, *, folder: Path | None = None) -> dict:
    """Where a study's numbers come from: question, command, data, versions, package, seeds, options, seconds.

    ``package`` holds the checksums of the packages that made the runs. Runs from before they were recorded have none;
    what is known of those is in ``made_with``.

    Args:
        name: one of :data:`STUDIES`.
        folder: where the result file is; the shipped one if None.

    Raises:
        FileNotFoundError: the study has not been run.
        ValueError: no such study, or a file that is not as it was written.
    """
    return {key: value for key, value in _read(name, folder).items() if key != "runs"}


def options(chosen: Study) -> dict[str, dict]:
    """The options of every recipe, by name."""
    return {name: dict(getattr(recipe, "keywords", {})) for name, recipe in chosen.recipes.items()}


def with_columns(run: dict, chosen: Study) -> dict:
    """A run with the columns of its recipe.

    Args:
        run: ``recipe``, ``seed`` and numbers.
        chosen: the study it belongs to.

    Raises:
        ValueError: a number has the name of a column.
    """
    columns = chosen.arms[run["recipe"]].columns
    if taken := columns.keys() & run.keys():
        raise ValueError(f"the numbers {sorted(taken)} of {run['recipe']!r} have the names of columns")
    return {"recipe": run["recipe"], **columns, **run}


def write(path: Path, header: dict, rows: list[dict]) -> None:
    """Write a result file, one line per entry and per run, so that a change is easy to see, with a checksum of it all.

    The file is whole at every moment.

    Args:
        path: where.
        header: where the runs come from.
        rows: the runs.
    """
    lines = [
        f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in (header | {"checksum": ""}).items()
    ]
    runs = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
    write_sealed(path, "{\n" + ",\n".join([*lines, ' "runs": [\n' + runs + "\n ]"]) + "\n}\n")


@contextmanager
def _helpers(work: Callable[[], None], count: int) -> Iterator[None]:
    """Processes that do ``work`` beside the block; waited for at its end, and stopped at once if it fails."""
    context = multiprocessing.get_context("spawn")
    helpers = []
    try:
        for _ in range(count):
            helper = context.Process(target=work, daemon=True)
            helper.start()
            helpers.append(helper)
        yield
    except BaseException:
        for helper in helpers:
            helper.terminate()
        raise
    finally:
        for helper in helpers:
            helper.join()
    if codes := [helper.exitcode for helper in helpers if helper.exitcode]:
        warnings.warn(
            f"{len(codes)} of {count} helping processes failed, with exit code {', '.join(map(str, codes))}; "
            "the other processes did their share of the runs",
            stacklevel=4,
        )


def _compare(name: str, *, seeds: int, fast: bool, folder: Path) -> None:
    """What a helping process does: the same comparison, of which it takes the runs that nobody works on."""
    chosen = study(name, fast=fast)
    with threads(1):
        compare(chosen.recipes, chosen.load(), seeds=range(seeds), cache=folder / ".runs" / name, progress=False)


def _check_name(name: str) -> None:
    if name not in STUDIES:
        raise ValueError(f"no study {name!r}; there are: {', '.join(STUDIES)}")


def _is_there(path: Path) -> bool:
    with suppress(OSError, ValueError):  # a path that is too long, or none at all
        return path.exists()
    return False


def _read(name: str, folder: Path | None) -> dict:
    _check_name(name)
    path = (Path(folder).expanduser() if folder else shipped("results")) / f"{name}.json"
    if not _is_there(path):
        raise FileNotFoundError(f"{path} is not there: run the study with 'make studies STUDY={name}'")
    fix = (
        f"restore it with 'git checkout -- {path}', reinstall the course, or run 'make studies STUDY={name}' without it"
    )
    content = read_sealed(path, fix=fix)
    if content.get("study") != name or not content.get("runs"):
        raise ValueError(f"{path} is not a readable result (it has no runs of the study {name!r}); {fix}")
    return content
