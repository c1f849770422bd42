"""Reading the other studies' runs: who is compared with whom, and what the rank correlation says."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from kd_course.studies import fidelity, studies

REGIME = "StudentNet, 300 labels, by T and α"


def made_up(*, order: int) -> pd.DataFrame:
    """Four recipes and three seeds: errors rise with KL (order 1) or fall (-1); scratch goes the other way."""
    rows = [
        {"regime": REGIME, "recipe": f"300 labels, T={k}", "seed": seed, "kl_to_teacher": k + 0.1 * seed, "errors": 9}
        for k in range(1, 5)
        for seed in range(3)
    ]
    runs = pd.DataFrame(rows)
    runs["errors"] = 100 + order * runs["kl_to_teacher"] ** 3
    scratch = pd.DataFrame(
        [
            {"regime": REGIME, "recipe": "scratch, 300 labels", "seed": seed, "kl_to_teacher": 9, "errors": 100}
            for seed in range(3)
        ]
    )
    return pd.concat([runs, scratch], ignore_index=True)


@pytest.mark.parametrize("order", [1, -1])
def test_the_rank_correlation_is_that_of_the_order_whatever_its_shape(order: int):
    found = fidelity.rank_correlation(made_up(order=order), regime=REGIME)
    assert found.mean == pytest.approx(order) and found.n == 3


def test_students_from_scratch_count_only_on_demand():
    runs = made_up(order=1)  # scratch has the largest KL and the fewest errors
    assert fidelity.rank_correlation(runs, regime=REGIME, distilled=False).mean == pytest.approx(0)


def test_other_regimes_do_not_matter():
    runs = made_up(order=1)
    other = made_up(order=-1).assign(regime="something else")
    both = pd.concat([runs, other], ignore_index=True)
    assert fidelity.rank_correlation(both, regime=REGIME).mean == pytest.approx(1)


def test_every_regime_names_recipes_of_its_study():
    for name, beginning in fidelity.REGIMES.values():
        recipes = pd.Series(list(studies.study(name).recipes))
        assert recipes.str.match(beginning).sum() >= 6, (name, beginning)


def test_a_study_that_was_not_run_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="make studies STUDY=hinton"):
        fidelity.runs(folder=tmp_path)


def test_two_regimes_are_compared_seed_by_seed():
    both = pd.concat([made_up(order=1), made_up(order=-1).assign(regime="the other way")], ignore_index=True)
    found = fidelity.difference(both, of="the other way", over=REGIME)
    assert found.mean == pytest.approx(-2) and found.n == 3
