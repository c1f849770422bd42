"""The guides say what the runs say, whatever that is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from imagined import imagined

from kd_course import studies
from kd_course.evaluation import paired_difference
from kd_course.studies._results import write
from kd_course.studies.guide import EVIDENCE, LIMITS, Limit, decision_guide, hyperparameter_guide
from kd_course.studies.multi_teacher import costs

PARAMETERS = {"T", "α", "student size", "training length", "number of labels"}
STUDY = studies.study("multi_teacher", fast=True)


@pytest.mark.parametrize("seed", range(5))
def test_the_decision_guide_chooses_what_a_plain_search_finds(seed: int):
    made = imagined(STUDY, seed)
    guide, cost = decision_guide(made), costs(made)
    whole = cost.loc["simple ensemble"]
    numbers = made.pivot(index="seed", columns="recipe", values="errors")
    for limit in LIMITS:
        allowed = [
            name
            for name in STUDY.arms
            if cost.loc[name, "latency_1_ms"] <= limit.latency * whole["latency_1_ms"]
            and cost.loc[name, "bytes"] <= limit.bytes * whole["bytes"]
            and cost.loc[name, "training_seconds"] <= limit.training * whole["training_seconds"]
            and (limit.unlabelled or not STUDY.arms[name].columns["unlabelled"])
        ]
        line = guide.loc[limit.given]
        if not allowed:
            assert line["choose"] == "nothing that we measured"
            continue
        best = min(allowed, key=lambda name: cost.loc[name, "validation_errors"])
        assert line["choose"] == best
        assert line["test errors"].startswith(f"{numbers[best].mean():.0f} ± ")
        alike = [name for name in allowed if name != best and paired_difference(numbers[name], numbers[best]).low <= 0]
        assert line["not clearly worse"] == ("; ".join(alike) or "none")


def test_the_guide_follows_the_numbers():
    """Make another recipe the best, and it is the one that is chosen."""
    made = imagined(STUDY)
    for name in ("simple ensemble", "student from ensemble"):
        better = made.assign(validation_errors=made["validation_errors"].where(made["recipe"] != name, 1))
        assert decision_guide(better).loc[LIMITS[0].given, "choose"] == name


def test_a_recipe_that_lacks_a_seed_is_refused_and_not_left_out():
    made = imagined(STUDY)
    for name in STUDY.arms:
        with pytest.raises(ValueError, match="pairs need the same seeds in the same order, not"):
            decision_guide(made[(made["recipe"] != name) | (made["seed"] != 2)])


def test_a_limit_that_nothing_keeps_to():
    assert Limit("no time at all", latency=0).fits(costs(imagined(STUDY))).empty


@pytest.mark.parametrize(("parameter", "name", "key"), EVIDENCE)
def test_every_line_of_the_hyperparameter_guide_leads_to_one_claim(parameter: str, name: str, key: str):
    assert [claim.key for claim in studies.study(name).claims].count(key) == 1
    assert parameter in PARAMETERS


def test_the_hyperparameter_guide_says_so_where_nothing_was_measured(tmp_path: Path):
    guide = hyperparameter_guide(folder=tmp_path)
    assert set(guide["verdict"]) == {"not measured"}
    assert set(guide["measured"]) == {"–"}
    assert set(guide.index) == PARAMETERS


@pytest.mark.parametrize(
    ("small", "verdict", "measured"),
    [
        ([150, 152, 149], "supported", "+50.3 "),
        ([50, 52, 49], "contradicted", "-49.7 "),
        ([90, 120, 95], "inconclusive", "+1.7 "),
    ],
)
def test_the_hyperparameter_guide_follows_the_numbers(tmp_path: Path, small: list[int], verdict: str, measured: str):
    made = imagined(STUDY, seeds=3)
    made.loc[made["recipe"] == "student from ensemble", "errors"] = 100
    made.loc[made["recipe"] == "small student from ensemble", "errors"] = small
    write(tmp_path / "multi_teacher.json", {"study": "multi_teacher"}, json.loads(made.to_json(orient="records")))
    line = hyperparameter_guide(folder=tmp_path).loc["student size"]
    assert line["verdict"] == verdict
    assert line["measured"].startswith(measured) and "(3 seeds)" in line["measured"]
