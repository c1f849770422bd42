"""Reading the other studies' runs: which are compared, and what the rank correlation says."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from imagined import imagined

from kd_course import studies
from kd_course.studies import fidelity

REGIME = "temperature_and_alpha"


def made_up(*, order: int) -> pd.DataFrame:
    """Four recipes and three seeds: errors rise with KL (order 1) or fall (-1); scratch goes the other way."""
    common = {"regime": REGIME, "method": "distilled", "errors": 9}
    rows = [
        common | {"recipe": f"T={k}", "seed": seed, "kl_to_teacher": k + 0.1 * seed}
        for k in range(1, 5)
        for seed in range(3)
    ]
    runs = pd.DataFrame(rows)
    runs["errors"] = 100 + order * runs["kl_to_teacher"] ** 3
    scratch = [
        common | {"recipe": "from labels", "method": "scratch", "seed": seed, "kl_to_teacher": 9, "errors": 100}
        for seed in range(3)
    ]
    return pd.concat([runs, pd.DataFrame(scratch)], ignore_index=True)


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


# Which recipes belong to a regime, written down by name.
MEMBERS = {
    "temperature_mlp": [
        f"{width} {how}" for width in (800, 300, 30) for how in ("scratch", "T=2", "T=4", "T=8", "T=20")
    ],
    "epochs_mlp": [f"{how} {epochs}" for epochs in (2, 5, 10, 20, 40, 80) for how in ("scratch", "distilled")],
    "labels": [f"{how}, {count} labels" for count in (100, 300, 1000, 3000, 10000, 55000) for how in ("scratch", "KD")],
    "temperature_and_alpha": [
        "scratch, 300 labels",
        *(f"300 labels, T={T}, α={alpha}" for T in (1, 4, 8, 16) for alpha in (0.5, 0.9, 1.0)),
    ],
    "methods": list(studies.study("league").arms),
}


def test_every_regime_has_the_runs_it_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fidelity, "results", lambda name, folder: imagined(studies.study(name), seeds=2))
    runs = fidelity.collect_runs()
    assert list(dict.fromkeys(runs["regime"])) == list(MEMBERS)
    for regime, members in MEMBERS.items():
        own = runs[runs["regime"] == regime]
        assert own["recipe"].tolist() == 2 * members
        assert set(own[own["method"] == "scratch"]["recipe"]) == {name for name in members if "scratch" in name}


def test_a_study_that_was_not_run_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="make studies STUDY=hinton"):
        fidelity.collect_runs(folder=tmp_path)


def test_two_regimes_are_compared_seed_by_seed():
    both = pd.concat([made_up(order=1), made_up(order=-1).assign(regime="the other way")], ignore_index=True)
    found = fidelity.difference(both, regime="the other way", baseline=REGIME)
    assert found.mean == pytest.approx(-2) and found.n == 3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_regimes_with_other_seeds_are_refused(seed: int):
    both = pd.concat([made_up(order=1), made_up(order=-1).assign(regime="the other way")], ignore_index=True)
    lost = both[(both["regime"] == REGIME) | (both["seed"] != seed)]
    with pytest.raises(ValueError, match=r"pairs need the same seeds in the same order, not \["):
        fidelity.difference(lost, regime="the other way", baseline=REGIME)


def test_a_recipe_that_lacks_a_seed_is_refused():
    runs = made_up(order=1)
    lost = runs[(runs["recipe"] != "T=2") | (runs["seed"] != 1)]
    with pytest.raises(ValueError, match=r"every recipe of .* needs every seed; recipes by seed: \{0: 4, 1: 3, 2: 4\}"):
        fidelity.rank_correlation(lost, regime=REGIME)


def test_every_claim_and_every_panel_can_be_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fidelity, "results", lambda name, folder: imagined(studies.study(name)))
    runs, analysis = fidelity.collect_runs(), fidelity.analysis()
    table = studies.verdicts(analysis, runs)
    assert table["key"].tolist() == [
        *(f"copy_is_classifier_{regime}" for regime in MEMBERS),
        "methods_ordered_as_well_as_settings",
    ]
    assert analysis.table(runs)["distilled recipes"].tolist() == [12, 6, 6, 12, 29]
    figure = analysis.figure(runs)
    figure.canvas.draw()
    plt.close(figure)
