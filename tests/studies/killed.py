"""A study that is killed over and over, and what came out of it.

``python tests/studies/killed.py 100`` kills ``compare``, a study with two workers, and the writing of a result file a
hundred times each, with SIGKILL, at moments drawn at random, and says whether the numbers are those of a study that
nobody disturbed, bit by bit. ``test_killed`` does so a few times.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch.nn import functional as F

from kd_course.comparison import compare
from kd_course.data import Batch, Data, load_data
from kd_course.evaluation import evaluate_logits
from kd_course.inference import predict
from kd_course.memo import read_sealed, write_sealed
from kd_course.models import mlp
from kd_course.runtime import seeded
from kd_course.studies import Arm, Study, _results, run
from kd_course.studies._study import at_most
from kd_course.training import fit

NAME, SEEDS = "killed", 4


def recipe(data: Data, seed: int, *, width: int, epochs: int = 3) -> Mapping[str, float]:
    """Trains a small network; its numbers have digits to the last bit."""
    with seeded(seed):
        model = mlp(width)

    def objective(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(model(batch.images), batch.labels)

    fit(model, objective, data.train, epochs=epochs, batch_size=16, seed=seed, progress=False, device="cpu")
    return evaluate_logits(predict(model, data.test, device="cpu"), data.test)


def few_digits() -> Data:
    return at_most(150, load_data("digits"))


def study(*, fast: bool = True) -> Study:
    arms = {f"{width} units": Arm(partial(recipe, width=width), {"width": width}) for width in (8, 16)}
    question = "Is anything lost?"
    return Study(
        question=question, load=few_digits, arms=arms, table=print, figure=print, claims=(), limitations="None."
    )


def install() -> None:
    """Put the study among the others."""
    module = ModuleType(f"kd_course.studies.{NAME}")
    module.study = study
    sys.modules[module.__name__] = module
    if NAME not in _results.STUDIES:
        _results.STUDIES = (*_results.STUDIES, NAME)


def run_compare(folder: Path) -> str:
    """The numbers of a comparison, to the last digit."""
    runs = compare(study().recipes, few_digits(), seeds=range(SEEDS), cache=folder / "cache", progress=False)
    return json.dumps(runs.to_dict("records"))


def run_study(folder: Path, workers: int = 2) -> str:
    """The numbers of a study with workers, as they stand in its result file."""
    run(NAME, seeds=SEEDS, fast=True, workers=workers, folder=folder, progress=False)
    rows = read_sealed(folder / f"{NAME}.json", fix="")["runs"]
    return json.dumps([{key: value for key, value in row.items() if key != "seconds"} for row in rows])


WRITTEN = ({"runs": [0.1] * 5000}, {"runs": [0.2] * 9000})


def write_for_ever(folder: Path) -> None:
    """Write two contents in turn over each other."""
    while True:
        for content in WRITTEN:
            write_sealed(folder / "file.json", json.dumps(content | {"checksum": ""}))


WORK = {"compare": run_compare, "study": run_study, "write": write_for_ever}


def start(work: str, folder: Path) -> int:
    """Do the work in a copy of this process, which leads a group of its own; what it returns goes to ``.answer``."""
    if child := os.fork():
        return child
    status = 1
    try:
        os.setsid()
        (folder / ".answer").write_text(WORK[work](folder) or "", encoding="utf-8")
        status = 0
    finally:
        os._exit(status)


def kill_while(work: str, folder: Path, after: float, *, helpers_too: bool) -> bool:
    """Start the work and kill it so many seconds later; says whether it was still at it."""
    child = start(work, folder)
    time.sleep(after)
    for kill in (os.killpg if helpers_too else os.kill, os.kill):  # at once, a child may not lead its group yet
        with suppress(ProcessLookupError):
            kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def finish(work: str, folder: Path) -> str:
    """Let the work come to its end, and return its answer."""
    _, status = os.waitpid(start(work, folder), 0)
    assert status == 0, f"{work} cannot go on in {folder}"
    return (folder / ".answer").read_text(encoding="utf-8")


def disturb(work: str, count: int, longest: float) -> tuple[int, list[Path]]:
    """Kill the work so often, in a new folder after every tenth time; returns how many kills met a run, and where."""
    moments, hits, folders = random.Random(count), 0, []
    for number in range(count):
        if number % 10 == 0:
            folders.append(Path(tempfile.mkdtemp(prefix=f"killed-{work}-")))
        # Where the first process alone is killed, its helpers live on for a while and share the work of the next.
        after = moments.uniform(0, longest) if number else 0  # the first is sure to meet a run
        hits += kill_while(work, folders[-1], after, helpers_too=moments.random() < 0.7)
    return hits, folders


def main(count: int) -> None:
    """Kill everything so often, and say what came out of it."""
    new = partial(tempfile.mkdtemp, prefix="undisturbed-")
    for work in ("compare", "study"):
        folder = Path(new())
        begun = time.monotonic()
        expected = finish(work, folder)
        hits, folders = disturb(work, count, (time.monotonic() - begun) / 2)
        same = sum(finish(work, where) == expected for where in folders)
        print(
            f"{work}: {count} kills, {hits} while it ran; {same} of {len(folders)} resumed to the same bits", flush=True
        )
    hits, folders = disturb("write", count, 0.1)
    files = [where / "file.json" for where in folders if (where / "file.json").exists()]
    whole = sum(read_sealed(file, fix="") in WRITTEN for file in files)
    print(f"write: {count} kills, {hits} while it ran; {whole} of {len(files)} files are whole")


if __name__ == "__main__":
    # A helper that started Python anew would take longer than all its work; a forked one knows the study as well.
    fork = multiprocessing.get_context("fork")
    fork.get_context = lambda _: fork
    _results.multiprocessing = fork
    install()
    torch.set_num_threads(1)
    main(int(sys.argv[1]))
