"""Claims, selections and verdicts: what the numbers say about a sentence."""

from __future__ import annotations

import pandas as pd
import pytest

from kd_course import studies
from kd_course.evaluation import Interval
from kd_course.studies import (
    VERDICTS,
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


def test_an_improvement_needs_the_same_seeds() -> None:
    other = RUNS[(RUNS["method"] == "KD") | (RUNS["seed"] > 0)]
    with pytest.raises(ValueError, match=r"\[0, 1, 2\] and \[1, 2\]"):
        improvement(other, "errors", method={"method": "KD"}, baseline={"method": "scratch"})


@pytest.mark.parametrize(
    "columns",
    [({"T": 1}, {"T": 1}), ({"T": 1}, {"width": 1}), ({"T": 1}, {"T": 2, "width": 1}), ({"seed": 1}, {"seed": 2})],
    ids=["the same values", "other columns", "more columns", "a column that every run has"],
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


def test_there_are_four_verdicts() -> None:
    assert VERDICTS == ("supported", "inconclusive", "contradicted", "not measured")


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
