"""The frame of the studies: resumable, repeatable, and a result file that says where its numbers come from."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from imagined import imagined

from kd_course import memo, studies
from kd_course.data import Data, Split, load_data
from kd_course.runtime import shipped
from kd_course.studies import Arm, Study, _results, _study


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
            arms={
                name: Arm(partial(recipe, value=value, **options), {"value": value})
                for name, value in {"a": 1, "b": 2}.items()
            },
            table=lambda runs: runs,
            figure=lambda runs: plt.figure(),
            claims=(),
            limitations="None.",
        )

    toy.study = study
    sys.modules[toy.__name__] = toy
    _results.STUDIES = (*_results.STUDIES, "toy")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study named ``toy`` for one test, and the file where its runs report."""
    monkeypatch.setattr(_results, "STUDIES", _results.STUDIES)
    monkeypatch.setitem(sys.modules, "kd_course.studies.toy", ModuleType("kd_course.studies.toy"))
    install(tmp_path / "log")
    return tmp_path / "log"


def lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines()


def test_a_study_runs_once_and_its_file_tells_all_that_is_needed_to_run_it_again(log: Path, tmp_path: Path) -> None:
    runs = studies.run("toy", seeds=2, fast=True, folder=tmp_path, progress=False)
    assert runs[["recipe", "value", "seed", "errors"]].values.tolist() == [
        ["a", 1, 0, 10],
        ["b", 2, 0, 20],
        ["a", 1, 1, 11],
        ["b", 2, 1, 21],
    ]
    assert list(runs) == ["recipe", "value", "seed", "errors", "seconds"]
    assert lines(log) == ["1 0", "2 0", "1 1", "2 1"]
    content = (tmp_path / "toy.json").read_bytes()
    header = studies.about("toy", folder=tmp_path)
    assert header["question"] == "Does it run?"
    assert header["command"] == "make studies STUDY=toy SEEDS=2 FAST=1"
    assert header["seeds"] == [0, 1]
    assert header["options"]["b"] == {"log": str(log), "value": 2}
    assert header["data"].startswith("digits: train 1,000")
    assert set(header) == {
        *("study", "question", "command", "data", "data_checksum", "versions", "package", "threads_per_run"),
        *("seconds", "seeds", "options"),
    }
    assert header["package"] == [memo.package_checksum()]

    pd.testing.assert_frame_equal(studies.results("toy", folder=tmp_path), runs)
    pd.testing.assert_frame_equal(studies.run("toy", seeds=2, fast=True, folder=tmp_path, progress=False), runs)
    assert (tmp_path / "toy.json").read_bytes() == content
    assert len(lines(log)) == 4

    studies.run("toy", seeds=3, fast=True, folder=tmp_path, progress=False)
    assert lines(log)[4:] == ["1 2", "2 2"]  # more seeds cost only themselves


def test_a_file_names_the_packages_that_made_its_runs(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memo, "package_checksum", lambda: "package of yesterday")
    studies.run("toy", seeds=2, fast=True, folder=tmp_path, progress=False)
    assert studies.about("toy", folder=tmp_path)["package"] == ["package of yesterday"]
    content = (tmp_path / "toy.json").read_bytes()
    monkeypatch.setattr(memo, "package_checksum", lambda: "package of today")
    studies.run("toy", seeds=2, fast=True, folder=tmp_path, progress=False)
    assert (tmp_path / "toy.json").read_bytes() == content, "nothing was run"
    studies.run("toy", seeds=3, fast=True, folder=tmp_path, progress=False)
    assert studies.about("toy", folder=tmp_path)["package"] == ["package of today", "package of yesterday"]
    (tmp_path / "toy.json").unlink()  # what made a run stands beside the run
    studies.run("toy", seeds=3, fast=True, folder=tmp_path, progress=False)
    assert studies.about("toy", folder=tmp_path)["package"] == ["package of today", "package of yesterday"]


def test_a_file_with_runs_of_an_unknown_package_keeps_what_is_known_of_them(log: Path, tmp_path: Path) -> None:
    studies.run("toy", seeds=2, fast=True, folder=tmp_path, progress=False)
    for path in (tmp_path / ".runs" / "toy").glob("*.json"):  # as if they had been carried over
        content = memo.read_sealed(path, fix="") | {"package": None, "checksum": ""}
        memo.write_sealed(path, json.dumps(content, indent=1))
    header, rows = studies.about("toy", folder=tmp_path), studies.results("toy", folder=tmp_path).to_dict("records")
    _results.write(tmp_path / "toy.json", header | {"package": None, "made_with": "committed in abc"}, rows)
    content = memo.read_sealed(tmp_path / "toy.json", fix="")
    studies.run("toy", seeds=2, fast=True, folder=tmp_path, progress=False)
    assert memo.read_sealed(tmp_path / "toy.json", fix="") == content, "nothing was run"
    studies.run("toy", seeds=3, fast=True, folder=tmp_path, progress=False)
    header = studies.about("toy", folder=tmp_path)
    assert header["package"] == [memo.package_checksum()]
    assert header["made_with"] == "committed in abc"
    for path in (tmp_path / ".runs" / "toy").glob("*.json"):
        path.unlink()
    studies.run("toy", seeds=4, fast=True, folder=tmp_path, progress=False)
    assert "made_with" not in studies.about("toy", folder=tmp_path), (
        "every run was made anew, by a package that is known"
    )


def test_a_number_with_the_name_of_a_column_is_refused(log: Path) -> None:
    with pytest.raises(ValueError, match=r"the numbers \['value'\] of 'a' have the names of columns"):
        _results.with_columns({"recipe": "a", "seed": 0, "value": 3.0}, studies.study("toy", fast=True))


def test_seconds_are_written_to_the_hundredth(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: 1.23456 * next(ticks))
    runs = studies.run("toy", seeds=1, fast=True, folder=tmp_path, progress=False)
    assert runs["seconds"].tolist() == [round(1.23456 * round(took / 1.23456), 2) for took in runs["seconds"]]
    assert all(took % 1 for took in runs["seconds"])


def test_fewer_seeds_than_the_file_has_are_refused(log: Path, tmp_path: Path) -> None:
    studies.run("toy", seeds=3, fast=True, folder=tmp_path, progress=False)
    content = (tmp_path / "toy.json").read_bytes()
    with pytest.raises(ValueError, match=r"toy\.json has 3 seeds and would lose some with 2: ask for 3 or more"):
        studies.run("toy", seeds=2, fast=True, folder=tmp_path, progress=False)
    assert (tmp_path / "toy.json").read_bytes() == content


def test_a_helper_that_fails_is_reported_and_its_work_is_done(log: Path, tmp_path: Path) -> None:
    """A new process knows no study named ``toy``, so it ends with an error."""
    with pytest.warns(UserWarning, match="1 of 1 helping processes failed, with exit code 1"):
        runs = studies.run("toy", seeds=2, fast=True, workers=2, folder=tmp_path, progress=False)
    assert len(runs) == 4 and not multiprocessing.active_children()


def test_helpers_that_end_well_are_not_mentioned() -> None:
    with warnings.catch_warnings(action="error"), _results._helpers(int, 1):
        pass
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_helpers_end_with_the_study_that_is_interrupted(error: type[BaseException]) -> None:
    endless = partial(time.sleep, 10**6)

    def interrupted() -> None:
        with _results._helpers(endless, 2):
            assert len(multiprocessing.active_children()) == 2
            raise error

    with pytest.raises(error):
        interrupted()
    assert not multiprocessing.active_children()


def test_a_study_that_fails_leaves_no_helpers(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_results, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        studies.run("toy", fast=True, workers=2, folder=tmp_path, progress=False)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "toy.json").exists()


def test_a_token_training_sees_few_images(digits: Data) -> None:
    few = _study.at_most(300, digits)
    assert [len(split) for split in (few.train, few.validation, few.test)] == [
        min(300, len(split)) for split in (digits.train, digits.validation, digits.test)
    ]
    assert few.train.indices.tolist() == digits.train.sample(300, seed=0).indices.tolist()
    for images in (10**6, len(digits.train)):
        assert _study.at_most(images, digits).train is digits.train, "a small split stays as it is"


@pytest.mark.parametrize("fast", [False, True])
def test_every_image_gets_the_answer_of_the_teacher_that_was_asked_for(
    digits: Data, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    asked = []

    def logits_of(split: Split, name: str) -> torch.Tensor:
        asked.append(name)
        return split.indices[:, None] * torch.ones(1, 10)

    empty = replace(digits, validation=digits.validation.subset([]))
    monkeypatch.setattr(_study, "teacher_logits", logits_of)
    monkeypatch.setattr(_study, "load_data", lambda validation_size: empty if validation_size == 0 else digits)
    data = _study.load_with_teacher(teacher="mlp", fast=fast)
    for part in (data.train, data.validation, data.test):
        assert part.teacher_logits[:, 0].tolist() == part.indices.tolist()
    assert len(data.train) == (min(1_000, len(digits.train)) if fast else len(digits.train))
    assert set(asked) == {"mlp"} and len(asked) == 3
    assert _study.load_with_teacher(teacher="mlp", validation_size=0, fast=fast).validation.teacher_logits is None


def killed_study(folder: str) -> None:
    """What the process does that will be killed."""
    install(Path(folder, "log"))
    studies.run("toy", seeds=4, fast=True, folder=Path(folder), progress=False)


@pytest.mark.slow
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

    _results.STUDIES = _results.STUDIES[:-1]
    install(log)  # the same recipes, or the runs would not be recognised
    runs = studies.run("toy", seeds=4, fast=True, folder=tmp_path, progress=False)
    assert len(runs) == 8
    again = lines(log)[len(before) :]
    assert len(set(before)) == len(before)
    assert set(before) & set(again) <= {before[-1]}  # only the run that the kill cut short was done again
    assert set(before) | set(again) == {f"{value} {seed}" for value in (1, 2) for seed in range(4)}


@pytest.mark.slow
def test_a_real_study_gives_the_same_numbers_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_COURSE_DATASET", "digits")
    first, second = (
        studies.run("hinton", seeds=1, fast=True, folder=tmp_path / name, progress=False).drop(columns="seconds")
        for name in ("one", "two")
    )
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert first["errors"].nunique() > 3


@pytest.mark.slow
def test_workers_share_a_study(tmp_path: Path, package_environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "kd_course.studies", "omitted", "--fast", "--seeds", "1", "--workers", "2"]
    environment = package_environment | {"KD_COURSE_DATASET": "digits"}
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "What does a student know about digits that it has never seen" in done.stdout
    assert studies.results("omitted", folder=tmp_path)["recipe"].tolist() == ["no 3s", "only 7s and 8s"]


def test_a_study_on_other_data_than_mnist_must_be_a_token_one(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the studies are about MNIST, and this is 'digits'.*KD_COURSE_DATA.*FAST=1"):
        studies.run("toy", folder=tmp_path / "new", workers=2, progress=False)
    assert not log.exists()
    assert not (tmp_path / "new").exists() and not multiprocessing.active_children(), "nothing was begun"


@pytest.mark.parametrize("number", [0, -1, 2.0, 0.5, math.nan, math.inf, True, "3", None, [0, 1]], ids=repr)
@pytest.mark.parametrize("what", ["seeds", "workers"])
def test_seeds_and_workers_are_whole_numbers_above_0(log: Path, tmp_path: Path, what: str, number: object) -> None:
    with pytest.raises(ValueError, match=rf"{what} must be a whole number, 1 or more, not {re.escape(repr(number))}"):
        studies.run("toy", fast=True, folder=tmp_path / "new", progress=False, **{what: number})
    assert not log.exists() and not (tmp_path / "new").exists()


def test_a_number_of_numpy_is_a_number_of_seeds(log: Path, tmp_path: Path) -> None:
    studies.run("toy", seeds=np.int64(2), fast=True, folder=tmp_path, progress=False)
    assert studies.about("toy", folder=tmp_path)["seeds"] == [0, 1]


def test_a_study_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no study 'hintn'; there are: hinton, "):
        studies.run("hintn", folder=tmp_path)


def test_results_that_are_not_there_come_with_the_command_that_makes_them(tmp_path: Path) -> None:
    for read in (studies.results, studies.about):
        with pytest.raises(FileNotFoundError, match=r"hinton\.json is not there: .*make studies STUDY=hinton"):
            read("hinton", folder=tmp_path)


# A result file is what was written, or it is refused with the way to get it back.


@pytest.fixture
def result(log: Path, tmp_path: Path) -> Path:
    """The result file of the toy study."""
    studies.run("toy", seeds=2, fast=True, folder=tmp_path, progress=False)
    return tmp_path / "toy.json"


def refused(result: Path) -> str:
    """The sentence with which all that read a result file refuse it."""
    sentences = set()
    for read in (
        lambda: studies.results("toy", folder=result.parent),
        lambda: studies.about("toy", folder=result.parent),
        lambda: studies.run("toy", seeds=2, fast=True, folder=result.parent, progress=False),
    ):
        with pytest.raises(ValueError, match="not a readable result") as caught:
            read()
        sentences.add(str(caught.value))
    (sentence,) = sentences
    assert sentence.startswith(str(result))
    assert f"; restore it with 'git checkout -- {result}', reinstall the course, or run 'make studies" in sentence
    return sentence


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "Expecting value", id="empty"),
        pytest.param(b'{"study": "toy", "runs": [', "Expecting value", id="cut off"),
        pytest.param(b"\xff\xfe", "can't decode", id="not text"),
        pytest.param(b"[]", "no checksum", id="a list"),
        pytest.param(b"null", "no checksum", id="null"),
        pytest.param(b'{"study": "toy", "seeds": [], "runs": []}', "no checksum", id="no checksum"),
        pytest.param(b'{"study": "toy", "checksum": 5}', "no checksum", id="a number as checksum"),
        pytest.param(b'{"study": "toy", "checksum": ""}', "has changed", id="an empty checksum"),
        pytest.param(b"[" * 100_000, "recursion", id="nested without end"),
        pytest.param(b"<html>404: not found</html>", "Expecting value", id="a page"),
    ],
)
def test_a_result_file_that_is_none_is_refused(result: Path, content: bytes, says: str) -> None:
    result.write_bytes(content)
    assert says in refused(result)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"errors": 21.0', '"errors": 20.0'),
        ('"errors": 21.0', '"errors": 21'),
        ('"errors": 21.0', '"errors": NaN'),
        ('"errors": 21.0', '"errors": "21.0"'),
        ('"errors": 21.0', '"errors": "<b>21.0</b>"'),
        ('"errors": 21.0', '"errors":  21.0'),
        ('"seeds": [0, 1]', '"seeds": [0]'),
        ("Does it run?", "Does it Run?"),
    ],
)
def test_a_result_file_that_was_edited_is_refused(result: Path, before: str, after: str) -> None:
    text = result.read_text(encoding="utf-8")
    assert before in text
    result.write_text(text.replace(before, after), encoding="utf-8")
    assert "it has changed since it was written" in refused(result)


def test_a_result_file_of_another_study_or_without_runs_is_refused(result: Path) -> None:
    header, rows = studies.about("toy", folder=result.parent), studies.results("toy", folder=result.parent)
    _results.write(result, header | {"study": "pair"}, rows.to_dict("records"))
    assert "no runs of the study 'toy'" in refused(result)
    _results.write(result, header, [])
    assert "no runs of the study 'toy'" in refused(result)


def test_a_folder_in_place_of_a_result_file_is_refused(result: Path) -> None:
    result.unlink()
    result.mkdir()
    assert "Is a directory" in refused(result)


def test_a_flipped_bit_in_a_result_file_is_refused(result: Path) -> None:
    whole = result.read_bytes()
    for place in range(0, 8 * len(whole), 8 * len(whole) // 200):
        spoilt = bytearray(whole)
        spoilt[place // 8] ^= 1 << place % 8
        result.write_bytes(spoilt)
        with pytest.raises(ValueError, match="not a readable result"):
            studies.results("toy", folder=result.parent)
    result.write_bytes(whole)
    assert len(studies.results("toy", folder=result.parent)) == 4


def test_line_ends_of_windows_are_no_damage(result: Path) -> None:
    """Git turns line ends into those of the machine, where it is told to."""
    runs = studies.results("toy", folder=result.parent)
    result.write_bytes(result.read_bytes().replace(b"\n", b"\r\n"))
    pd.testing.assert_frame_equal(studies.results("toy", folder=result.parent), runs)


def test_a_result_file_that_cannot_be_written_stays_as_it_was(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    content = result.read_bytes()
    monkeypatch.setattr(_results, "write_sealed", memo.write_sealed)
    header, rows = studies.about("toy", folder=result.parent), studies.results("toy", folder=result.parent)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises(OSError, match=rf"{result} cannot be written \(No space left on device\); make room"):
            _results.write(result, header, rows.to_dict("records"))
    assert result.read_bytes() == content
    assert not list(result.parent.glob("*.unfinished")) and not list(result.parent.glob(".*.unfinished"))


def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(log: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 5000)):
        with pytest.raises(ValueError, match=rf"nothing can be written to {folder} \(.*\); give another folder"):
            studies.run("toy", fast=True, workers=2, folder=folder, progress=False)
    assert not log.exists() and not multiprocessing.active_children()


def test_a_folder_may_be_below_home(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    runs = studies.run("toy", seeds=1, fast=True, folder="~/mine", progress=False)
    assert (tmp_path / "mine" / "toy.json").is_file()
    pd.testing.assert_frame_equal(studies.results("toy", folder="~/mine"), runs)


def test_results_of_a_study_that_does_not_exist_are_not_waited_for(tmp_path: Path) -> None:
    for read in (studies.results, studies.about):
        with pytest.raises(ValueError, match=r"no study 'hintn'; there are: hinton, "):
            read("hintn", folder=tmp_path)


@pytest.mark.parametrize("name", _results.STUDIES)
def test_a_shipped_result_is_what_the_package_would_write(name: str, tmp_path: Path) -> None:
    content = memo.read_sealed(shipped("results", f"{name}.json"), fix="")
    rows = content.pop("runs")
    _results.write(tmp_path / "again.json", content, rows)
    text = shipped("results", f"{name}.json").read_text(encoding="utf-8")
    assert (tmp_path / "again.json").read_text(encoding="utf-8") == text


# The studies there are.


@pytest.mark.parametrize("name", _results.STUDIES)
@pytest.mark.parametrize("fast", [False, True], ids=["full", "fast"])
def test_a_study_has_all_that_a_reader_wants(name: str, fast: bool) -> None:
    chosen = studies.study(name, fast=fast)
    assert chosen.question.endswith("?")
    assert len(chosen.limitations) > 200
    assert chosen.claims
    for made in chosen.recipes.values():
        json.dumps(made.keywords)
    runs = imagined(chosen, seeds=3)
    assert len(chosen.table(runs)) >= 2
    figure = chosen.figure(runs)
    figure.canvas.draw()
    plt.close(figure)
    table = studies.verdicts(chosen, runs)
    assert list(table.columns) == ["key", "claim", "estimate", "seeds", "verdict"]
    assert set(table["verdict"]) <= {"supported", "inconclusive", "contradicted"}
    assert set(table["seeds"]) == {3}
    if fast:
        full = studies.study(name)
        assert full.recipes.keys() == chosen.recipes.keys()
        assert all(full.recipes[recipe].keywords != made.keywords for recipe, made in chosen.recipes.items())
        assert {recipe: arm.columns for recipe, arm in full.arms.items()} == {
            recipe: arm.columns for recipe, arm in chosen.arms.items()
        }, "a token training stands for the full one"


READ_OTHERWISE = {("pair", "all images, no labels", "labels")}  # its recipe samples 55,000 images and reads no label


@pytest.mark.parametrize("name", _results.STUDIES)
def test_a_column_with_the_name_of_an_option_says_what_the_option_is(name: str) -> None:
    for recipe, arm in studies.study(name).arms.items():
        for column in arm.columns.keys() & arm.recipe.keywords.keys():
            if (name, recipe, column) not in READ_OTHERWISE:
                assert arm.columns[column] == arm.recipe.keywords[column], (recipe, column)
        assert all(type(value) in (str, int, float, bool) for value in arm.columns.values())


SHIPPED = [name for name in _results.STUDIES if shipped("results", f"{name}.json").is_file()]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_results_are_those_of_the_study_as_it_stands(name: str) -> None:
    header, runs = studies.about(name), studies.results(name)
    chosen = studies.study(name)
    assert header["options"] == json.loads(json.dumps({key: made.keywords for key, made in chosen.recipes.items()}))
    assert header["question"] == chosen.question
    for recipe, arm in chosen.arms.items():
        own = runs[runs["recipe"] == recipe]
        assert own[list(arm.columns)].to_dict("records") == [dict(arm.columns)] * len(header["seeds"])
    assert len(header["seeds"]) >= 5
    assert sorted(zip(runs["recipe"], runs["seed"], strict=True)) == sorted(
        (recipe, seed) for recipe in chosen.recipes for seed in header["seeds"]
    )
    assert all(math.isfinite(value) for value in runs.select_dtypes("number").to_numpy().flat)
    assert "FAST" not in header["command"] and header["data"].startswith("mnist")
    assert abs(runs["seconds"].sum() - header["seconds"]) < 1 + 0.01 * len(runs)
