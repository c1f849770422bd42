"""Old results become results of today, digit by digit; what does not fit is left where it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kd_course import comparison, studies
from kd_course.data import Data
from kd_course.memo import fingerprint
from kd_course.studies import Arm, Study

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def migration(tool: Callable[[str], ModuleType]) -> ModuleType:
    """``tools/migrate_results.py``, which is no part of the package."""
    return tool("migrate_results")


def recipe(data: Data, seed: int, *, labels: int, rate: float = 0.1) -> Mapping[str, float]:
    """Must not run: its results are there."""
    raise AssertionError("a run was lost")


ARMS = {
    name: Arm(partial(recipe, labels=labels), {"method": method, "labels": labels})
    for name, method, labels in (("few", "scratch", 10), ("many", "scratch", 20))
}
STUDY = Study(
    question="What is left?", load=print, arms=ARMS, table=print, figure=print, claims=(), limitations="None."
)
NUMBERS = {("few", 0): 0.9410000000000001, ("many", 0): 1 / 3, ("few", 1): 2e-17, ("many", 1): 5.0}


def old_file() -> dict:
    """A result file of old."""
    return {
        "study": "old",
        "question": "What was left?",
        "command": "make studies STUDY=old SEEDS=2",
        "data": "tiny",
        "data_checksum": "abc",
        "versions": {"torch": "2.11"},
        "threads_per_run": 1,
        "seconds": 3,
        "seeds": [0, 1],
        "options": {"few": {"labels": 10}, "many": {"labels": 20}},
        "runs": [
            {"recipe": name, "seed": seed, "errors": value, "seconds": 0.75} for (name, seed), value in NUMBERS.items()
        ],
    }


def old_run(name: str, seed: int, data: Data, **other: object) -> dict:
    """A run as it used to be kept."""
    options = {"rate": 0.1, "labels": {"few": 10, "many": 20}[name]}
    content = {
        "recipe": name,
        "source": "def recipe(...)",
        "options": options,
        "code": "c0de",
        "seed": seed,
        "data": fingerprint(data),
        "torch": torch.__version__,
    }
    return content | {"numbers": {"errors": NUMBERS.get((name, seed), 7.0)}, "seconds": 0.75} | other


def store(folder: Path, *runs: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        text = json.dumps(run, indent=1)
        (folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json").write_text(text, encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- result files ---------------------------------------------------------------------------------------------------


def test_a_result_file_gains_columns_and_keeps_every_number(migration: ModuleType, tmp_path: Path) -> None:
    header, rows = migration.migrate(old_file(), STUDY, "new", ["abc1234 (2026-01-01)"])
    assert rows[0] == {"recipe": "few", "method": "scratch", "labels": 10, "seed": 0} | {
        "errors": 0.9410000000000001,
        "seconds": 0.75,
    }
    assert [repr(row["errors"]) for row in rows] == [repr(value) for value in NUMBERS.values()]
    assert header["command"] == "make studies STUDY=new SEEDS=2"
    assert (header["study"], header["question"], header["package"]) == ("new", "What is left?", None)
    assert "abc1234 (2026-01-01)" in header["made_with"]
    assert {key: header[key] for key in ("data", "data_checksum", "versions", "seconds", "seeds", "options")} == {
        key: old_file()[key] for key in ("data", "data_checksum", "versions", "seconds", "seeds", "options")
    }
    studies._results.write(tmp_path / "new.json", header, rows)
    text = (tmp_path / "new.json").read_text(encoding="utf-8")
    migration.compare_numbers(json.dumps(old_file()), text)
    assert len([line for line in text.splitlines() if line.startswith("  {")]) == 4, "one line per run"


@pytest.mark.parametrize(
    ("before", "after"),
    [("0.9410000000000001", "0.941"), ("5.0", "5"), ("2e-17", "2.0000000000000002e-17"), ('"seed": 1', '"seed": 2')],
)
def test_a_changed_digit_is_noticed(migration: ModuleType, before: str, after: str) -> None:
    text = json.dumps(old_file())
    assert before in text
    with pytest.raises(ValueError, match="a run has changed"):
        migration.compare_numbers(text, text.replace(before, after))


def test_a_lost_run_is_noticed(migration: ModuleType) -> None:
    with pytest.raises(ValueError, match="4 runs became 3"):
        migration.compare_numbers(json.dumps(old_file()), json.dumps({"runs": old_file()["runs"][:3]}))


def test_results_with_other_options_are_refused(migration: ModuleType) -> None:
    other = old_file() | {"options": {"few": {"labels": 11}, "many": {"labels": 20}}}
    with pytest.raises(ValueError, match="options"):
        migration.migrate(other, STUDY, "new", [])


@pytest.mark.parametrize("name", studies.STUDIES)
def test_the_shipped_results_have_the_form_of_today(migration: ModuleType, name: str) -> None:
    assert migration.is_new(studies.about(name))


# --- runs that are kept one by one ----------------------------------------------------------------------------------


def test_kept_runs_are_found_by_compare_and_nothing_is_trained(
    migration: ModuleType, digits: Data, tmp_path: Path
) -> None:
    store(tmp_path / "old", *(old_run(name, seed, digits) for name, seed in NUMBERS))
    before = contents(tmp_path / "old")
    assert migration.migrate_runs(tmp_path / "old", tmp_path / "new", STUDY, old_file()["runs"]) == 4
    assert contents(tmp_path / "old") == before
    runs = comparison.compare(STUDY.recipes, digits, seeds=(0, 1), cache=tmp_path / "new", progress=False)
    assert {(run.recipe, run.seed): run.errors for run in runs.itertuples()} == NUMBERS
    assert runs.attrs["seconds"] == [0.75] * 4
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "new").glob("*.json")]
    assert {run["recipe"] for run in kept} == {"few", "many"}
    assert all(run["package"] is None for run in kept)


def test_a_second_migration_finds_nothing_to_do(migration: ModuleType, digits: Data, tmp_path: Path) -> None:
    store(tmp_path, *(old_run(name, seed, digits) for name, seed in NUMBERS))
    assert migration.migrate_runs(tmp_path, tmp_path, STUDY, []) == 4
    before = contents(tmp_path)
    assert migration.migrate_runs(tmp_path, tmp_path, STUDY, []) == 0
    assert contents(tmp_path) == before


def test_a_seed_that_is_not_in_the_results_is_carried_over_too(
    migration: ModuleType, digits: Data, tmp_path: Path
) -> None:
    store(tmp_path, old_run("few", 7, digits))
    assert migration.migrate_runs(tmp_path, tmp_path, STUDY, old_file()["runs"]) == 1


@pytest.mark.parametrize(
    "other",
    [{"options": {"rate": 0.2, "labels": 10}}, {"options": {"labels": 10}}, {"recipe": "nobody"}],
    ids=["another option", "an option less", "another recipe"],
)
def test_a_run_of_another_recipe_is_left_alone(
    migration: ModuleType, digits: Data, tmp_path: Path, other: dict
) -> None:
    store(tmp_path, old_run("few", 0, digits) | other)
    assert migration.migrate_runs(tmp_path, tmp_path, STUDY, []) == 0


def test_runs_of_code_that_has_changed_since_are_left_alone(
    migration: ModuleType, digits: Data, tmp_path: Path
) -> None:
    """The same recipe and options, but a bug was fixed: what the results contradict is not carried over."""
    outdated = [old_run("few", seed, digits, code="bug", numbers={"errors": 99.0}) for seed in (0, 7)]
    store(tmp_path, *outdated, old_run("few", 1, digits), old_run("many", 0, digits, code="bug"))
    assert migration.migrate_runs(tmp_path, tmp_path, STUDY, old_file()["runs"]) == 2
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.json")]
    assert {(run["recipe"], run["seed"]) for run in kept if "package" in run} == {("few", 1), ("many", 0)}


def test_two_runs_that_disagree_are_left_alone(migration: ModuleType, digits: Data, tmp_path: Path) -> None:
    store(tmp_path, old_run("few", 7, digits), old_run("few", 7, digits, code="other", numbers={"errors": 8.0}))
    assert migration.migrate_runs(tmp_path, tmp_path, STUDY, []) == 0


def test_a_run_agrees_with_a_result_that_was_written_with_ten_decimals(
    migration: ModuleType, digits: Data, tmp_path: Path
) -> None:
    store(tmp_path, old_run("many", 0, digits))
    results = [{"recipe": "many", "seed": 0, "errors": 0.3333333333}]
    assert migration.migrate_runs(tmp_path, tmp_path, STUDY, results) == 1
    (kept,) = (run for path in tmp_path.glob("*.json") if "package" in (run := json.loads(path.read_text("utf-8"))))
    assert kept["numbers"] == {"errors": 1 / 3}
