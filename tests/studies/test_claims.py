"""Claims, selections and verdicts: what the numbers say about a sentence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from imagined import imagined

from kd_course import studies
from kd_course.data import Data
from kd_course.evaluation import Interval, evaluate_logits, paired_difference
from kd_course.studies import (
    Analysis,
    Arm,
    Claim,
    Study,
    by_seed,
    fidelity,
    improvement,
    saves_errors,
    select,
    verdicts,
)
from kd_course.studies._claims import BETTER, paired

RUNS = pd.DataFrame(
    [{"recipe": "KD", "method": "KD", "labels": 300, "seed": seed, "errors": 10 * seed} for seed in (2, 0, 1)]
    + [
        {"recipe": "plain", "method": "scratch", "labels": 300, "seed": seed, "errors": 10 * seed + 5 + seed}
        for seed in (0, 1, 2)
    ]
)


# --- which runs -----------------------------------------------------------------------------------------------------


def test_runs_are_chosen_by_all_columns_at_once() -> None:
    assert select(RUNS, {"method": "KD", "labels": 300})["seed"].tolist() == [2, 0, 1]
    assert len(select(RUNS, {})) == 6


def test_a_selection_of_nothing_is_named() -> None:
    with pytest.raises(ValueError, match=r"no run has .*'labels': 100"):
        select(RUNS, {"method": "KD", "labels": 100})
    with pytest.raises(ValueError, match=r"no column \['temperature'\]"):
        select(RUNS, {"temperature": 4})


def test_numbers_come_in_the_order_of_their_seeds() -> None:
    assert by_seed(RUNS, "errors", {"method": "KD"}).tolist() == [0, 10, 20]


def test_columns_of_several_recipes_are_no_recipe() -> None:
    with pytest.raises(ValueError, match=r"several recipes: \['KD', 'plain'\]"):
        by_seed(RUNS, "errors", {"labels": 300})


def test_an_improvement_is_paired_by_seed_and_positive_where_the_method_is_smaller() -> None:
    found = improvement(RUNS, "errors", method={"method": "KD"}, baseline={"method": "scratch"})
    assert found.mean == pytest.approx(6) and found.n == 3
    assert found.half_width == pytest.approx(2.484, abs=1e-3)  # 5, 6, 7: t(2) = 4.303 times 1/√3


SIDES = {"method": {"method": "KD"}, "baseline": {"method": "scratch"}}


def test_an_improvement_knows_which_way_is_better() -> None:
    runs = RUNS.assign(accuracy=-RUNS["errors"], mine=RUNS["errors"])
    fewer = improvement(RUNS, "errors", **SIDES)
    assert improvement(runs, "accuracy", **SIDES) == fewer
    assert improvement(runs, "mine", better="lower", **SIDES) == fewer
    assert improvement(runs, "mine", better="higher", **SIDES).mean == -fewer.mean
    assert improvement(runs, "errors", better="higher", **SIDES).mean == -fewer.mean


@pytest.mark.parametrize("better", [None, "more", "", "Lower", True])
def test_a_metric_without_a_direction_is_refused(better: object) -> None:
    runs = RUNS.assign(mine=RUNS["errors"])
    with pytest.raises(
        ValueError, match="say whether a lower or a higher 'mine' is better, with better='lower' or 'hi"
    ):
        improvement(runs, "mine", better=better, **SIDES)


def test_every_metric_of_the_course_has_a_direction(digits: Data) -> None:
    logits = torch.zeros(len(digits.test), 10)
    measured = evaluate_logits(logits, digits.test.with_teacher(logits))
    directions = {name: BETTER[name] for name in measured}
    higher = {name for name, way in directions.items() if way == "higher"}
    assert higher == {"accuracy", "macro_f1", "agreement"} & set(measured)


def test_a_metric_that_nobody_measured_is_named() -> None:
    with pytest.raises(ValueError, match=r"no column 'nll' in these runs; there are: \['recipe', "):
        by_seed(RUNS, "nll", {"method": "KD"})


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("KD", "a selection takes a table of runs and a dict of columns, not DataFrame and str"),
        (None, "not DataFrame and NoneType"),
        ({"labels": [300, 100]}, r"one plain value for each column, not {'labels': \[300, 100\]}"),
        ({"labels": None}, "one plain value for each column"),
    ],
)
def test_a_selection_that_is_none_is_refused(columns: object, says: str) -> None:
    for choose in (select, lambda runs, chosen: by_seed(runs, "errors", chosen)):
        with pytest.raises(TypeError, match=says):
            choose(RUNS, columns)


def test_a_selection_of_something_else_than_runs_is_refused() -> None:
    for runs in (None, [1], {"method": ["KD"]}):
        with pytest.raises(TypeError, match=f"not {type(runs).__name__} and dict"):
            select(runs, {"method": "KD"})


def test_words_are_no_metric() -> None:
    with pytest.raises(ValueError, match="the column 'method' has no numbers"):
        by_seed(RUNS, "method", {"method": "KD"})
    with pytest.raises(
        TypeError, match="a selection takes a table of runs and a dict of columns, not DataFrame and str"
    ):
        by_seed(RUNS, {"method": "KD"}, "errors")


@pytest.mark.parametrize("numbers", [[1.0, 2.0], np.ones(2), None, {0: 1.0}])
def test_pairs_are_made_of_series(numbers: object) -> None:
    series = pd.Series([1.0, 2.0])
    for pair in ((numbers, series), (series, numbers)):
        with pytest.raises(TypeError, match="pairs are made of two series by seed, as from by_seed, not "):
            paired(*pair)


def test_a_family_without_claims_and_a_claim_that_is_not_there_are_named() -> None:
    study = studies.study("league")
    with pytest.raises(ValueError, match=r"no family 'features' of claims; there are: .*feature"):
        verdicts(study, None, family="features")
    with pytest.raises(KeyError, match=r"no claim 'nope'; there are: .*hints_beats_kd, "):
        study.claim("nope")


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ({}, r"a study needs arms by name, each an Arm\(recipe, columns\)"),
        ({"a": print}, r"a study needs arms by name, each an Arm\(recipe, columns\)"),
        ({"a": Arm(print, {"x": [1]}), "b": Arm(print, {"x": [2]})}, r"must have plain values, not \[1\]"),
        ({"a": Arm(print, {"x": None}), "b": Arm(print, {"x": 1})}, "must have plain values, not None"),
    ],
)
def test_a_study_refuses_arms_that_are_none(arms: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Study(question="?", load=print, arms=arms, table=print, figure=print, claims=(), limitations="None.")


def test_an_improvement_needs_the_same_seeds() -> None:
    other = RUNS[(RUNS["method"] == "KD") | (RUNS["seed"] > 0)]
    with pytest.raises(ValueError, match=r"same seeds in the same order, not \[1, 2\] and \[0, 1, 2\]"):
        improvement(other, "errors", method={"method": "KD"}, baseline={"method": "scratch"})


def test_pairs_are_seeds_and_not_positions() -> None:
    first, second = pd.Series({0: 10.0, 1: 20.0, 2: 30.0}), pd.Series({0: 8.0, 1: 19.0, 2: 27.0})
    assert paired(first, second) == paired_difference([10, 20, 30], [8, 19, 27])
    for other in (second[[0, 2]], second[[2, 1, 0]], second.set_axis([1, 2, 3])):
        with pytest.raises(ValueError, match="pairs need the same seeds in the same order, not"):
            paired(first, other)
        with pytest.raises(ValueError, match="pairs need the same seeds in the same order, not"):
            paired(other, first)


@pytest.mark.parametrize("seeds", [[0, 2, 3], [0, 1, 1]], ids=["a gap", "twice"])
def test_pairs_need_every_seed_once(seeds: list[int]) -> None:
    numbers = pd.Series([1.0, 2.0, 3.0], index=seeds)
    with pytest.raises(ValueError, match=r"pairs need every seed from the first to the last once, not \["):
        paired(numbers, numbers)


def test_pairs_need_a_number_for_every_seed() -> None:
    whole, holed = pd.Series([1.0, 2.0, 3.0]), pd.Series([1.0, float("nan"), 3.0])
    for pair in ((whole, holed), (holed, whole)):
        with pytest.raises(ValueError, match=r"a number for every seed; the seeds \[1\] have none"):
            paired(*pair)


def outcome(evidence: Callable[[pd.DataFrame], Interval], runs: pd.DataFrame) -> str:
    """The interval as text, or the sentence with which it is refused."""
    try:
        return repr(evidence(runs))
    except ValueError as error:
        return str(error)


PAIRED = [  # every claim but those that compare a recipe with a plain number
    (name, claim.key)
    for name in studies.STUDIES
    for claim in studies.study(name, fast=True).claims
    if not claim.key.startswith("unseen_is_unknown")
]


@pytest.mark.parametrize(("name", "key"), PAIRED)
def test_a_claim_with_a_lost_seed_is_refused(name: str, key: str) -> None:
    """Lose one run of one recipe after the other: the claim stands as it was, or it is refused."""
    study = studies.study(name, fast=True)
    runs, evidence = imagined(study, seeds=4), study.claim(key).evidence
    whole = outcome(evidence, runs)
    lost = [outcome(evidence, runs[(runs["recipe"] != recipe) | (runs["seed"] != 1)]) for recipe in study.arms]
    refused = [found for found in lost if found != whole]
    assert refused and all(found.startswith("pairs need") for found in refused)


@pytest.mark.parametrize(
    "columns",
    [({"T": 1}, {"T": 1}), ({"T": 1}, {"width": 1}), ({"T": 1}, {"T": 2, "width": 1})]
    + [({name: 1}, {name: 2}) for name in ("recipe", "seed", "seconds")],
    ids=["the same values", "other columns", "more columns", "recipe", "seed", "seconds"],
)
def test_a_study_refuses_columns_that_do_not_identify_its_recipes(columns: tuple[dict, dict]) -> None:
    arms = {str(number): Arm(print, each) for number, each in enumerate(columns)}
    fields = {"question": "?", "table": print, "figure": print, "claims": (), "limitations": "", "load": print}
    with pytest.raises(ValueError, match="columns"):
        Study(arms=arms, **fields)


# --- what they say --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1, 3, "supported"), (-3, -1, "contradicted"), (-1, 3, "inconclusive"), (0, 3, "inconclusive")],
)
def test_a_claim_is_judged_by_its_interval(low: float, high: float, verdict: str) -> None:
    interval = Interval((low + high) / 2, low, high, 5)
    claim = Claim(key="it_helps", claim="It helps.", unit="errors fewer", evidence=lambda runs: interval)
    assert claim.verdict(RUNS) == verdict
    assert claim.estimate(RUNS) == f"{interval:+.1f} errors fewer"
    assert claim.verdict(None) == "not measured" and claim.estimate(None) == "–" and claim.seeds(None) == 0


def test_verdicts_are_rows_with_keys() -> None:
    claims = (
        saves_errors("kd_helps", {"method": "KD"}, {"method": "scratch"}, "It helps.", family="kd"),
        saves_errors("labels_help", {"method": "scratch"}, {"method": "KD"}, "It harms.", family="labels"),
    )
    analysis = Analysis(question="?", table=print, figure=print, claims=claims, limitations="")
    assert verdicts(analysis, RUNS).to_dict("records") == [
        {"key": "kd_helps", "claim": "It helps.", "estimate": "+6.0 ± 2.5 test errors saved", "seeds": 3}
        | {"verdict": "supported"},
        {"key": "labels_help", "claim": "It harms.", "estimate": "-6.0 ± 2.5 test errors saved", "seeds": 3}
        | {"verdict": "contradicted"},
    ]
    assert verdicts(analysis, RUNS, family="labels")["key"].tolist() == ["labels_help"]
    assert verdicts(analysis, None)["verdict"].tolist() == ["not measured"] * 2
    assert analysis.claim("labels_help") is claims[1]
    with pytest.raises(KeyError):
        analysis.claim("nothing")


def every_claim() -> list[tuple[str, Claim]]:
    analyses = {name: studies.study(name, fast=True) for name in studies.STUDIES} | {"fidelity": fidelity.analysis()}
    return [(name, claim) for name, analysis in analyses.items() for claim in analysis.claims]


def test_keys_are_short_names_and_no_two_claims_of_a_study_share_one() -> None:
    keys = [(name, claim.key) for name, claim in every_claim()]
    assert len(set(keys)) == len(keys)
    for _, key in keys:
        assert key.isidentifier() and key == key.lower() and len(key) <= 45, key


def test_claims_are_sentences() -> None:
    methods = tuple(studies.study("league", fast=True).arms)
    for _, claim in every_claim():
        assert claim.claim.endswith(".")
        assert claim.claim[0].isupper() or claim.claim[0].isdigit() or claim.claim.startswith(methods)


def test_the_league_has_a_family_for_every_method() -> None:
    from kd_course.studies import league

    assert [name for methods in league.FAMILIES.values() for name in methods] == list(league.METHODS)
    found = verdicts(studies.study("league"), studies.results("league"), family="feature")
    assert found["key"].tolist() == [
        *("hints_beats_kd", "hints_two_stages_beats_kd", "attention_transfer_beats_kd", "info_nce_beats_kd"),
        "crd_beats_kd",
        *("hints_adds_to_kd", "hints_two_stages_adds_to_kd", "attention_transfer_adds_to_kd", "info_nce_adds_to_kd"),
        "crd_adds_to_kd",
    ]
