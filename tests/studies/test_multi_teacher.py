"""The study of ensembles: what each entry is made of, and guides that say what the runs say, whatever that is."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import pytest
import torch
from imagined import imagined

from kd_course import studies
from kd_course.data import Data
from kd_course.evaluation import errors
from kd_course.inference import predict
from kd_course.studies import multi_teacher
from kd_course.studies.multi_teacher import costs, pareto

BUDGET = {"labels": 100, "seen": 200}
COSTS = ("latency_1_ms", "latency_256_ms", "parameters", "bytes", "training_seconds")
STUDY = studies.study("multi_teacher", fast=True)
RECIPES = list(STUDY.arms)


# --- the entries ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The study, with token trainings on the digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_COURSE_DATASET", "digits")
        patch.setenv("KD_COURSE_DEVICE", "cpu")
        return studies.run("multi_teacher", seeds=1, fast=True, folder=tmp_path_factory.mktemp("study"), progress=False)


def test_every_entry_is_measured(runs: pd.DataFrame):
    assert list(dict.fromkeys(runs["recipe"])) == RECIPES
    wanted = {"errors", "nll", "ece", "validation_errors", "latency_1_iqr_ms", "latency_256_iqr_ms", *COSTS}
    assert wanted <= set(runs)
    assert (runs[list(COSTS)] > 0).all(axis=None)


def test_what_belongs_together_adds_up(runs: pd.DataFrame):
    cost = costs(runs)
    whole, scratch = cost.loc["simple ensemble"], cost.loc["student from scratch"]
    assert cost.loc["weighted ensemble", "parameters"] == whole["parameters"] == 159_010 + 105_866 + 13_322 + 48_300
    assert whole["bytes"] > 4 * whole["parameters"]  # the weights of the mean, and the statistics of batch norm
    assert cost.loc["ensemble of four seeds", "parameters"] == 4 * scratch["parameters"] == 4 * 105_866
    assert cost.loc["best single", "parameters"] < whole["parameters"]
    assert cost.loc["best single", "training_seconds"] == whole["training_seconds"]  # to choose it, all must be trained
    for name in RECIPES[4:]:
        columns = STUDY.arms[name].columns
        assert cost.loc[name, "parameters"] == (50_890 if columns["network"] == "small" else 105_866)
        taught_by = "ensemble of four seeds" if columns["teacher"] == "four seeds" else "simple ensemble"
        if columns["method"] == "distilled":
            assert cost.loc[name, "training_seconds"] > cost.loc[taught_by, "training_seconds"]


def test_the_best_single_is_chosen_on_validation(digits: Data):
    members, seconds = multi_teacher._members(digits, 3, 100, 200)
    counts = [errors(predict(member, digits.validation), digits.validation.labels) for member in members]
    assert len(set(counts)) > 1 and seconds > 0
    chosen = multi_teacher._best(members, digits)
    assert errors(predict(chosen, digits.validation), digits.validation.labels) == min(counts)


def test_four_seeds_share_their_images_and_not_their_weights(digits: Data):
    members, _ = multi_teacher._members(digits, 3, 100, 200, one="StudentNet")
    first = [next(member.parameters()) for member in members]
    assert len(members) == 4
    assert all(not torch.equal(first[0], other) for other in first[1:])
    student, _ = multi_teacher._labelled(digits, 3, 3 + multi_teacher.STUDENT_SEED, "StudentNet", 100, 200)
    assert all(not torch.equal(next(student.parameters()), one) for one in first)


def test_students_of_unlabelled_images_never_read_a_label(digits: Data, monkeypatch: pytest.MonkeyPatch):
    seen = []
    train = multi_teacher._train

    def spy(network, objective, split, **options):
        seen.append(split)
        return train(network, objective, split, **options)

    monkeypatch.setattr(multi_teacher, "_train", spy)
    common = {"network": "small", "teacher": "ensemble", "temperature": 2.0, **BUDGET}
    multi_teacher.student(digits, 3, images=300, alpha=1.0, **common)
    assert len(seen[-1]) == 300 and (seen[-1].labels == -1).all()
    multi_teacher.student(digits, 3, images=100, alpha=0.9, **common)
    assert len(seen[-1]) == 100 and (seen[-1].labels >= 0).all()
    assert seen[-1].teacher_logits is not None


def test_a_student_of_the_best_single_hears_that_one_alone(digits: Data, monkeypatch: pytest.MonkeyPatch):
    tables = []
    average = multi_teacher.average_probabilities
    monkeypatch.setattr(multi_teacher, "average_probabilities", lambda z, **T: tables.append(z) or average(z, **T))
    for teacher in ("best single", "ensemble", "four seeds"):
        options = {"network": "small", "images": 100, "temperature": 2.0, "alpha": 0.9}
        multi_teacher.student(digits, 3, teacher=teacher, **options, **BUDGET)
    assert [len(table) for table in tables] == [1, 4, 4]
    assert not torch.equal(tables[1], tables[2])


# --- tables and guides ----------------------------------------------------------------------------------------------


def test_the_front_is_what_nothing_beats():
    cost = pd.DataFrame(
        {"errors": [30, 20, 10, 25, 19], "latency_1_ms": [1.0, 2.0, 4.0, 3.0, 2.1]},
        index=["fast", "middle", "slow", "beaten", "as fast as middle, but for the clock"],
    )
    assert pareto(cost) == ["fast", "slow", "as fast as middle, but for the clock"]
    assert pareto(cost, tolerance=0) == ["fast", "middle", "slow", "as fast as middle, but for the clock"]


def test_costs_are_medians_of_time_and_means_of_the_rest():
    made = imagined(STUDY)
    for name in RECIPES:
        own, cost = made[made["recipe"] == name], costs(made).loc[name]
        assert cost["latency_1_ms"] == own["latency_1_ms"].median()
        assert cost["errors"] == pytest.approx(own["errors"].mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_cost_table_says_what_the_runs_say(seed: int):
    made = imagined(STUDY, seed)
    shown = multi_teacher.table(made)
    assert list(shown.index) == RECIPES
    for name in RECIPES:
        own = made[made["recipe"] == name]
        times = own["latency_1_ms"]
        iqr = times.quantile(0.75) - times.quantile(0.25)
        assert shown.loc[name, "test errors"].startswith(f"{own['errors'].mean():.0f} ± ")
        assert shown.loc[name, "ms, batch 1 (IQR)"] == f"{times.median():.2f} ({iqr:.2f})"
        assert shown.loc[name, "ECE (%)"] == f"{100 * own['ece'].mean():.1f}"


def test_neighbouring_labels_of_the_figure_keep_their_distance():
    placed = multi_teacher._spread([1.0, 1.1, 1.15, 5.0], 1.5)
    assert all(after / before >= 1.5 - 1e-9 for before, after in pairwise(placed))
    assert multi_teacher._spread([1.0, 2.0], 1.5) == [1.0, 2.0]
    assert multi_teacher._column(pd.Series([0.1, 0.5, 0.11, 0.03])).to_dict() == {3: 0, 0: 1, 2: 1, 1: 2}


def test_the_text_below_the_figure_describes_it():
    assert multi_teacher.figure.__doc__.startswith("Test errors against the time")
