"""The frame of the studies: resumable, repeatable, and a result file that says where its numbers come from."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from kd_course import studies
from kd_course.data import Data, load_data
from kd_course.evaluation import Interval
from kd_course.studies import Claim, Study, gain


def recipe(data: Data, seed: int, *, log: str, value: float) -> Mapping[str, float]:
    """Writes down that it ran, and returns a number that depends on seed and options alone.

    Where ``STALL_AFTER`` is set, that many runs end and the next one hangs, until somebody kills it.
    """
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{value} {seed}\n")
    if len(lines(Path(log))) > int(os.environ.get("STALL_AFTER", "1000")):
        time.sleep(3600)
    return {"errors": 10 * value + seed}


def install(log: Path, *, data: str = "digits") -> None:
    """Put a study named ``toy`` among the others."""
    toy = ModuleType("kd_course.studies.toy")
    options = {"log": str(log)}

    def study(*, fast: bool) -> Study:
        return Study(
            question="Does it run?",
            load=partial(load_data, data),
            recipes={name: partial(recipe, value=value, **options) for name, value in {"a": 1, "b": 2}.items()},
            table=lambda runs: runs,
            figure=lambda runs: plt.figure(),
            claims=(),
            would_change="Nothing.",
        )

    toy.study = study
    sys.modules[toy.__name__] = toy
    studies.STUDIES = (*studies.STUDIES, "toy")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study named ``toy`` for one test, and the file where its runs report."""
    monkeypatch.setattr(studies, "STUDIES", studies.STUDIES)
    monkeypatch.setitem(sys.modules, "kd_course.studies.toy", ModuleType("kd_course.studies.toy"))
    install(tmp_path / "log")
    return tmp_path / "log"


def lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines()


def test_a_study_runs_once_and_its_file_tells_all_that_is_needed_to_run_it_again(log: Path, tmp_path: Path) -> None:
    runs = studies.run("toy", seeds=2, fast=True, folder=tmp_path, progress=False)
    assert runs[["recipe", "seed", "errors"]].values.tolist() == [
        ["a", 0, 10],
        ["b", 0, 20],
        ["a", 1, 11],
        ["b", 1, 21],
    ]
    assert lines(log) == ["1 0", "2 0", "1 1", "2 1"]
    content = (tmp_path / "toy.json").read_bytes()
    header = studies.about("toy", folder=tmp_path)
    assert header["question"] == "Does it run?"
    assert header["command"] == "make studies STUDY=toy SEEDS=2 FAST=1"
    assert header["seeds"] == [0, 1]
    assert header["options"]["b"] == {"log": str(log), "value": 2}
    assert header["data"].startswith("digits: train 1,000")
    assert set(header) == {
        *("study", "question", "command", "data", "data_checksum", "versions", "threads_per_run", "seconds"),
        *("seeds", "options"),
    }

    pd.testing.assert_frame_equal(studies.results("toy", folder=tmp_path), runs)
    pd.testing.assert_frame_equal(studies.run("toy", seeds=2, fast=True, folder=tmp_path, progress=False), runs)
    assert (tmp_path / "toy.json").read_bytes() == content
    assert len(lines(log)) == 4

    studies.run("toy", seeds=3, fast=True, folder=tmp_path, progress=False)
    assert lines(log)[4:] == ["1 2", "2 2"]  # more seeds cost only themselves


def killed_study(folder: str) -> None:
    """What the process does that will be killed."""
    install(Path(folder, "log"))
    studies.run("toy", seeds=4, fast=True, folder=Path(folder), progress=False)


def test_a_study_that_was_killed_goes_on_without_a_lost_or_a_doubled_run(
    log: Path, tmp_path: Path, package_environment: dict[str, str]
) -> None:
    code = f"import test_studies; test_studies.killed_study({str(tmp_path)!r})"
    environment = package_environment | {"STALL_AFTER": "3"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=Path(__file__).parent)
    while not log.exists() or len(lines(log)) < 4:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()  # SIGKILL: no chance to clean up
    assert process.wait() == -signal.SIGKILL if os.name == "posix" else True
    before = lines(log)
    assert not (tmp_path / "toy.json").exists()

    studies.STUDIES = studies.STUDIES[:-1]
    install(log)  # the same recipes, or the runs would not be recognised
    runs = studies.run("toy", seeds=4, fast=True, folder=tmp_path, progress=False)
    assert len(runs) == 8
    again = lines(log)[len(before) :]
    assert len(set(before)) == len(before)
    assert set(before) & set(again) <= {before[-1]}  # only the run that the kill cut short was done again
    assert set(before) | set(again) == {f"{value} {seed}" for value in (1, 2) for seed in range(4)}


def test_a_real_study_gives_the_same_numbers_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_COURSE_DATASET", "digits")
    first, second = (
        studies.run("hinton", seeds=1, fast=True, folder=tmp_path / name, progress=False).drop(columns="seconds")
        for name in ("one", "two")
    )
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert first["errors"].nunique() > 3


def test_workers_share_a_study(tmp_path: Path, package_environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "kd_course.studies", "omitted", "--fast", "--seeds", "1", "--workers", "2"]
    environment = package_environment | {"KD_COURSE_DATASET": "digits"}
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "What does a student know of digits that it has never seen" in done.stdout
    assert studies.results("omitted", folder=tmp_path)["recipe"].tolist() == ["no 3s", "only 7s and 8s"]


def test_a_study_on_other_data_than_mnist_must_be_a_token_one(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the studies are about MNIST, and this is 'digits'.*KD_COURSE_DATA.*FAST=1"):
        studies.run("toy", folder=tmp_path / "new", workers=2, progress=False)
    assert not log.exists()
    assert not (tmp_path / "new").exists() and not multiprocessing.active_children(), "nothing was begun"


@pytest.mark.parametrize("options", [{"seeds": 0}, {"workers": 0}])
def test_no_seeds_and_no_workers_are_refused(log: Path, tmp_path: Path, options: dict) -> None:
    with pytest.raises(ValueError, match="seeds and workers must be 1 or more, not"):
        studies.run("toy", fast=True, folder=tmp_path, progress=False, **options)


def test_a_study_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no study 'hintn'; there are: hinton, "):
        studies.run("hintn", folder=tmp_path)


def test_results_that_are_not_there_come_with_the_command_that_makes_them(tmp_path: Path) -> None:
    for read in (studies.results, studies.about):
        with pytest.raises(FileNotFoundError, match=r"hinton\.json is not there: .*make studies STUDY=hinton"):
            read("hinton", folder=tmp_path)


# Claims.


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1, 3, "supported"),
        (-3, -1, "refuted"),
        (-1, 3, "not told apart from chance"),
        (0, 3, "not told apart from chance"),
    ],
)
def test_a_claim_is_judged_by_its_interval(low: float, high: float, verdict: str) -> None:
    claim = Claim("It helps.", "errors fewer", lambda runs: Interval((low + high) / 2, low, high, 5))
    assert claim.verdict(pd.DataFrame()) == verdict


def test_gain_is_paired_by_seed_and_positive_where_the_first_is_smaller() -> None:
    runs = pd.DataFrame(
        [{"recipe": "KD", "seed": seed, "errors": 10 * seed} for seed in (2, 0, 1)]
        + [{"recipe": "scratch", "seed": seed, "errors": 10 * seed + 5 + seed} for seed in (0, 1, 2)]
    )
    found = gain(runs, "errors", of="KD", over="scratch")
    assert found.mean == pytest.approx(6) and found.n == 3
    assert found.half_width == pytest.approx(2.484, abs=1e-3)  # 5, 6, 7: t(2) = 4.303 times 1/√3


# The studies there are.


def imagined(chosen: Study, seeds: int = 3) -> pd.DataFrame:
    """Runs with numbers out of thin air, to see that tables, figures and claims can be made of them."""
    generator = np.random.default_rng(0)
    metrics = [
        "accuracy",
        "nll",
        "ece",
        "macro_f1",
        "agreement",
        "kl_to_teacher",
        "teacher_errors",
        "chosen",
        "parameters",
    ]
    metrics += [
        f"{name}{way}" for name in ("errors", "errors_on_missing", "bias") for way in ("", "_validation", "_prior")
    ]
    metrics += ["validation_errors", "latency_1_ms", "latency_256_ms", "bytes", "training_seconds"]
    rows = []
    for seed in range(seeds):
        for name in chosen.recipes:
            values = {metric: generator.uniform(0.1, 1) for metric in metrics}
            values |= {metric: 100 + 50 * values[metric] for metric in metrics if "errors" in metric}
            rows.append({"recipe": name, "seed": seed, **values, "seconds": 1.0})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", [name for name in studies.STUDIES if name != "toy"])
@pytest.mark.parametrize("fast", [False, True], ids=["full", "fast"])
def test_a_study_has_all_that_a_reader_asks_for(name: str, fast: bool) -> None:
    chosen = studies.study(name, fast=fast)
    assert chosen.question.endswith("?")
    assert len(chosen.would_change) > 200
    assert chosen.claims
    for made in chosen.recipes.values():
        json.dumps(made.keywords)
    runs = imagined(chosen)
    assert len(chosen.table(runs)) >= 2
    figure = chosen.figure(runs)
    figure.canvas.draw()
    plt.close(figure)
    for claim in chosen.claims:
        assert claim.verdict(runs) in ("supported", "refuted", "not told apart from chance")
        assert claim.said[0].isupper() or claim.said[0].isdigit() or claim.said.startswith(tuple(chosen.recipes))
    if fast:
        full = studies.study(name).recipes
        assert full.keys() == chosen.recipes.keys()
        assert all(full[recipe].keywords != made.keywords for recipe, made in chosen.recipes.items())


SHIPPED = [name for name in studies.STUDIES if (studies.shipped("results") / f"{name}.json").is_file()]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_results_are_those_of_the_study_as_it_stands(name: str) -> None:
    header, runs = studies.about(name), studies.results(name)
    chosen = studies.study(name)
    assert header["options"] == json.loads(json.dumps({key: made.keywords for key, made in chosen.recipes.items()}))
    assert header["question"] == chosen.question
    assert len(header["seeds"]) >= 5
    assert sorted(zip(runs["recipe"], runs["seed"], strict=True)) == sorted(
        (recipe, seed) for recipe in chosen.recipes for seed in header["seeds"]
    )
    assert all(math.isfinite(value) for value in runs.select_dtypes("number").to_numpy().flat)
    assert "FAST" not in header["command"] and header["data"].startswith("mnist")
    assert abs(runs["seconds"].sum() - header["seconds"]) < 1 + 0.01 * len(runs)
