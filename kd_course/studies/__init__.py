"""The studies behind the course's long-run numbers: hours of training, run in the background, remembered run by run.

``python -m kd_course.studies hinton`` (or ``make studies STUDY=hinton``) runs one; stopped at any moment, even by
``kill -9``, it goes on where it was. Each study is one file here, and each result one file in ``data/results`` with all
that is needed to get it again: options, seeds, versions, checksums, seconds. Notebooks read it with :func:`results`.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import platform
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kd_course.comparison import compare, fingerprint
from kd_course.runtime import shipped, threads
from kd_course.studies._study import Claim, Reading, Study, gain, with_answers

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "STUDIES",
    "Claim",
    "Reading",
    "Study",
    "about",
    "gain",
    "results",
    "run",
    "study",
    "verdicts",
    "with_answers",
]

STUDIES = ("hinton", "omitted", "patience", "pair", "league", "ensembles")
"""The studies there are; each is a module of this name with a function ``study(*, fast)``."""


def study(name: str, *, fast: bool = False) -> Study:
    """One study, ready to run; ``fast`` makes every training a token one, to see in seconds that all of it works.

    Raises:
        ValueError: no study of this name.
    """
    if name not in STUDIES:
        raise ValueError(f"no study {name!r}; there are: {', '.join(STUDIES)}")
    return importlib.import_module(f"{__name__}.{name}").study(fast=fast)


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
    Finished runs are kept one by one below ``folder``: whatever ends this process loses at most the runs it was at.

    Args:
        name: one of :data:`STUDIES`. seeds: how many; 0, 1, 2, … fast: see :func:`study`.
        workers: processes that share the runs.
        folder: where results go; ``data/results`` of a clone, and ``data/results/.fast`` if ``fast``.
        progress: show a bar.

    Raises:
        ValueError: no such study, no seeds, or a study that is not ``fast`` on data other than MNIST.
    """
    chosen = study(name, fast=fast)
    if seeds < 1 or workers < 1:
        raise ValueError(f"seeds and workers must be 1 or more, not {seeds} and {workers}")
    data = chosen.load()
    if data.name != "mnist" and not fast:
        raise ValueError(
            f"the studies are about MNIST, and this is {data.name!r} ({data.source}); "
            "set KD_COURSE_DATA to the folder that holds MNIST/raw, or try the study out with fast=True (make: FAST=1)"
        )
    folder = Path(folder) if folder else shipped("results", *([".fast"] if fast else []))
    folder.mkdir(parents=True, exist_ok=True)
    again = partial(_compare, name, seeds=seeds, fast=fast, folder=folder)
    context = multiprocessing.get_context("spawn")
    helpers = [context.Process(target=again, daemon=True) for _ in range(workers - 1)]
    for helper in helpers:
        helper.start()
    with threads(1):
        runs = compare(chosen.recipes, data, seeds=range(seeds), cache=folder / ".runs" / name, progress=progress)
    for helper in helpers:
        helper.join()
    seconds = runs.attrs["seconds"]
    header = {
        "study": name,
        "question": chosen.question,
        "command": f"make studies STUDY={name} SEEDS={seeds}" + " FAST=1" * fast,
        "data": repr(data),
        "data_checksum": fingerprint(data),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "threads_per_run": 1,
        "seconds": round(sum(seconds)),
        "seeds": list(range(seeds)),
        "options": {recipe: dict(getattr(made, "keywords", {})) for recipe, made in chosen.recipes.items()},
    }
    rows = [row | {"seconds": round(took, 2)} for row, took in zip(runs.to_dict("records"), seconds, strict=True)]
    _write(folder / f"{name}.json", header, rows)
    return results(name, folder=folder)


def results(name: str, *, folder: Path | None = None) -> pd.DataFrame:
    """The runs of a study as they were measured: one row per run, with ``recipe``, ``seed``, its numbers, ``seconds``.

    Raises:
        FileNotFoundError: the study has not been run; the message names the command that does it.
    """
    import pandas as pd

    return pd.DataFrame(_read(name, folder)["runs"])


def about(name: str, *, folder: Path | None = None) -> dict:
    """Where a study's numbers come from: question, command, data, versions, seeds, options, seconds.

    Raises:
        FileNotFoundError: the study has not been run.
    """
    return {key: value for key, value in _read(name, folder).items() if key != "runs"}


def verdicts(reading: Reading, runs: pd.DataFrame) -> pd.DataFrame:
    """What is often said, held against the runs: columns ``said``, ``found`` (mean ± 95 %), ``seeds``, ``verdict``."""
    import pandas as pd

    rows = [
        {
            "said": claim.said,
            "found": claim.found(runs),
            "seeds": claim.evidence(runs).n,
            "verdict": claim.verdict(runs),
        }
        for claim in reading.claims
    ]
    return pd.DataFrame(rows)


def _compare(name: str, *, seeds: int, fast: bool, folder: Path) -> None:
    """What a helping process does: the same comparison, of which it takes the runs that nobody is at."""
    chosen = study(name, fast=fast)
    with threads(1):
        compare(chosen.recipes, chosen.load(), seeds=range(seeds), cache=folder / ".runs" / name, progress=False)


def _read(name: str, folder: Path | None) -> dict:
    path = (Path(folder) if folder else shipped("results")) / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: run the study with 'make studies STUDY={name}'")
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, header: dict, rows: list[dict]) -> None:
    """One line per entry and per run, so that a change is easy to see; the file is whole at every moment."""
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    runs = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text("{\n" + ",\n".join([*lines, ' "runs": [\n' + runs + "\n ]"]) + "\n}\n", encoding="utf-8")
    os.replace(unfinished, path)
