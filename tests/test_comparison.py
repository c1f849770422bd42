"""One table for every league: what is run, and what the figures say. What is remembered is in ``test_memo``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from kd_course import comparison
from kd_course.comparison import compare, league
from kd_course.data import Data, Split
from kd_course.evaluation import mean_interval

RUNS: list[tuple] = []


@pytest.fixture(autouse=True)
def _nothing_ran_yet() -> Iterator[None]:
    yield
    RUNS.clear()


@pytest.fixture
def data(tiny_split: Callable[..., Split]) -> Data:
    return Data("tiny", "made up", tiny_split(12), tiny_split(6, seed=1), tiny_split(9, seed=2), classes=3)


def scratch(data: Data, seed: int) -> dict[str, float]:
    RUNS.append(("scratch", seed))
    return {"errors": 100 + 10 * seed, "samples": len(data.train)}


def distilled(data: Data, seed: int) -> dict[str, float]:
    RUNS.append(("distilled", seed))
    return {"errors": 90 + 11 * seed, "samples": len(data.train)}


# The table.


def test_one_row_per_recipe_and_seed_with_seeds_outside(data: Data) -> None:
    runs = compare({"B": scratch, "A": distilled}, data, seeds=(5, 2), progress=False)
    assert runs.to_dict("list") == {
        "recipe": ["B", "A", "B", "A"],
        "seed": [5, 5, 2, 2],
        "errors": [150, 145, 120, 112],
        "samples": [12, 12, 12, 12],
    }
    assert RUNS == [("scratch", 5), ("distilled", 5), ("scratch", 2), ("distilled", 2)]


def test_every_recipe_gets_the_data_the_seed_and_its_options(data: Data) -> None:
    seen = []

    def recipe(*given: Any, **options: Any) -> dict[str, float]:
        seen.append((given, options))
        return {"errors": 1}

    compare({"a": partial(recipe, alpha=0.9), "b": recipe}, data, seeds=[3])
    assert seen == [((data, 3), {"alpha": 0.9}), ((data, 3), {})]


def test_numbers_of_any_kind_become_floats(data: Data) -> None:
    result = {"tensor": torch.tensor(2.5), "numpy": np.float32(0.5), "int": 3, "bool": True, "infinite": math.inf}
    runs = compare({"a": lambda data, seed: result}, data, seeds=[0], progress=False)
    assert runs.loc[0, list(result)].tolist() == [2.5, 0.5, 3.0, 1.0, math.inf]
    assert all(isinstance(value, float) for value in runs.loc[0, list(result)])


def test_without_a_cache_nothing_is_remembered(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        compare({"a": scratch}, data, seeds=[0], progress=False)
    assert len(RUNS) == 2
    assert not list(tmp_path.iterdir())


def test_the_table_knows_how_long_each_run_took(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 20.0, 22.0])
    monkeypatch.setattr(comparison, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    runs = compare({"a": scratch, "b": distilled}, data, seeds=[0], progress=False)
    assert runs.attrs["seconds"] == [0.5, 2.0]


@pytest.mark.parametrize(
    ("recipes", "seeds"),
    [
        pytest.param({}, [0], id="no recipes"),
        pytest.param({"a": scratch}, [], id="no seeds"),
        pytest.param({"a": scratch}, [0, 1, 0], id="a seed twice"),
        pytest.param({"a": scratch}, [torch.tensor(1), torch.tensor(1)], id="a seed twice, as tensors"),
    ],
)
def test_nothing_to_compare_is_refused(recipes: dict, seeds: list, data: Data) -> None:
    with pytest.raises(ValueError, match=r"compare needs recipes and distinct seeds, not \["):
        compare(recipes, data, seeds=seeds, progress=False)
    assert not RUNS


WRONG_RESULTS = [
    pytest.param(None, "recipe 'a' must return a dict of named numbers, not None", id="None"),
    pytest.param({}, "recipe 'a' must return a dict of named numbers, not {}", id="empty"),
    pytest.param(3.0, "recipe 'a' must return a dict of named numbers, not 3.0", id="one number"),
    pytest.param({"x": math.nan}, "recipe 'a' must return numbers, but 'x' is nan for seed 7", id="NaN"),
    pytest.param({"y": 1.0, "x": None}, "recipe 'a' must return numbers, but 'x' is None", id="a value is None"),
    pytest.param({"x": "12"}, "recipe 'a' must return numbers, but 'x' is '12'", id="text"),
    pytest.param(
        {"x": torch.zeros(2)}, r"recipe 'a' must return numbers, but 'x' is tensor\(\[0., 0.\]\)", id="tensor"
    ),
    pytest.param({"x": [1, 2]}, r"recipe 'a' must return numbers, but 'x' is \[1, 2\]", id="list"),
    pytest.param({"x": 1, "seed": 2}, r"must not name its numbers \['seed'\]", id="named as a column"),
]


@pytest.mark.parametrize(("result", "words"), WRONG_RESULTS)
def test_a_recipe_that_returns_no_named_numbers_is_refused_at_once(result: Any, words: str, data: Data) -> None:
    with pytest.raises(ValueError, match=words):
        compare({"a": lambda data, seed: result, "b": distilled}, data, seeds=[7, 8], progress=False)
    assert not RUNS  # no time was spent on the second recipe


def test_recipes_that_return_other_names_are_refused_at_once(data: Data) -> None:
    with pytest.raises(
        ValueError, match=r"'b' returns \['accuracy'\] for seed 0, and 'a' returned \['errors', 'samples'\]"
    ):
        compare({"a": scratch, "b": lambda data, seed: {"accuracy": 1.0}}, data, seeds=[0, 1], progress=False)
    assert RUNS == [("scratch", 0)]


def test_the_order_of_the_names_does_not_matter(data: Data) -> None:
    recipes = {"a": lambda data, seed: {"x": 1, "y": 2}, "b": lambda data, seed: {"y": 20, "x": 10}}
    runs = compare(recipes, data, seeds=[0], progress=False)
    assert runs[["x", "y"]].to_numpy().tolist() == [[1, 2], [10, 20]]


# The league.

TABLE = {
    "scratch": [104.0, 140.0, 95.0, 121.0, 160.0],
    "KD": [99.0, 133.0, 91.0, 117.0, 153.0],  # always a little better
    "luck": [60.0, 170.0, 80.0, 140.0, 148.0],  # better on average, by chance
}


def tiny_runs() -> pd.DataFrame:
    """Five seeds of three recipes, a metric that matters and one that does not, in the order compare() gives."""
    rows = [
        {"recipe": name, "seed": 10 - seed, "errors": TABLE[name][seed], "seconds": 1.0}
        for seed in range(5)
        for name in TABLE
    ]
    return pd.DataFrame(rows)


def half_width(values: np.ndarray) -> float:
    """Half the 95 % interval of a mean, as SciPy has it."""
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=scipy.stats.sem(values))
    return (high - low) / 2


def test_the_league_equals_numpy_and_scipy() -> None:
    table = league(tiny_runs(), "errors", baseline="scratch")
    assert list(table.columns) == ["n", "mean", "±", "difference", "low", "high", "excludes 0"]
    assert table.index.name == "recipe"
    assert list(table.index) == ["scratch", "KD", "luck"]
    for name, values in TABLE.items():
        own, base = np.array(values), np.array(TABLE["scratch"])
        assert table.loc[name, "n"] == 5
        assert table.loc[name, "mean"] == pytest.approx(own.mean(), rel=1e-12)
        assert table.loc[name, "±"] == pytest.approx(half_width(own), rel=1e-9)
        if name == "scratch":
            assert table.loc[name, ["difference", "low", "high"]].isna().all()
            assert not table.loc[name, "excludes 0"]
            continue
        interval = scipy.stats.ttest_rel(own, base).confidence_interval(0.95)
        assert table.loc[name, "difference"] == pytest.approx((own - base).mean(), rel=1e-12)
        assert table.loc[name, ["low", "high"]].tolist() == pytest.approx([interval.low, interval.high], rel=1e-9)
        assert table.loc[name, "excludes 0"] == (scipy.stats.ttest_rel(own, base).pvalue < 0.05)


def test_pairs_tell_apart_what_two_intervals_cannot() -> None:
    table = league(tiny_runs(), "errors", baseline="scratch")
    kd, luck = table.loc["KD"], table.loc["luck"]
    assert abs(kd["difference"]) < table.loc["scratch", "±"]  # the two intervals overlap widely
    assert kd["excludes 0"]
    assert kd["high"] < 0
    assert not luck["excludes 0"]  # although its mean is as good
    assert luck["low"] < 0 < luck["high"]


def test_the_difference_is_recipe_minus_baseline_whatever_the_order_of_rows() -> None:
    against_kd = league(tiny_runs().sample(frac=1, random_state=3), "errors", baseline="KD")
    assert against_kd.loc["scratch", "difference"] == pytest.approx(5.4)
    assert against_kd.loc["scratch", "low"] > 0
    assert league(tiny_runs(), "errors", baseline="scratch").loc["KD", "difference"] == pytest.approx(-5.4)


def test_the_league_takes_what_compare_gives(data: Data) -> None:
    runs = compare({"scratch": scratch, "KD": distilled}, data, seeds=range(5), progress=False)
    table = league(runs, "errors", baseline="scratch")
    assert table.loc["KD", "difference"] == pytest.approx(np.mean([-10 + seed for seed in range(5)]))
    alone = league(compare({"only": scratch}, data, seeds=range(3), progress=False), "errors", baseline="only")
    assert alone.loc["only", ["n", "mean"]].tolist() == [3, 110]
    assert alone.loc["only", "±"] == pytest.approx(mean_interval([100, 110, 120]).half_width)


@pytest.mark.parametrize(
    ("metric", "baseline"), [("accuracy", "scratch"), ("errors", "teacher")], ids=["metric", "baseline"]
)
def test_an_unknown_metric_or_baseline_is_refused_with_the_known_ones(metric: str, baseline: str) -> None:
    words = rf"no '{metric}' or no '{baseline}'.*'errors', 'seconds'\].*\['scratch', 'KD', 'luck'\]"
    with pytest.raises(ValueError, match=words):
        league(tiny_runs(), metric, baseline=baseline)


def test_one_seed_is_no_league() -> None:
    runs = tiny_runs()
    with pytest.raises(ValueError, match="an interval needs two seeds or more, not 1"):
        league(runs[runs["seed"] == 10], "errors", baseline="scratch")


def test_recipes_that_ran_with_other_seeds_cannot_be_paired() -> None:
    runs = tiny_runs()
    words = (
        r"every recipe with every seed; missing: {'scratch': \[\], 'KD': \[7\], 'luck': \[\]}; run them in one compare"
    )
    with pytest.raises(ValueError, match=words):
        league(runs[(runs["recipe"] != "KD") | (runs["seed"] != 7)], "errors", baseline="scratch")
