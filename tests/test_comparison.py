"""One table for every league: what is run, and what the figures say. What is remembered is in ``test_memo``."""

from __future__ import annotations

import inspect
import math
import re
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

from kd_course import _jobs, comparison
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
    loss = torch.tensor(1.5, requires_grad=True)
    result = {"tensor": torch.tensor(2.5), "loss": loss, "numpy": np.float32(0.5), "int": 3, "infinite": math.inf}
    runs = compare({"a": lambda data, seed: result | {"bool": True}}, data, seeds=[0], progress=False)
    assert runs.loc[0, [*result, "bool"]].tolist() == [2.5, 1.5, 0.5, 3.0, math.inf, 1.0]
    assert all(isinstance(value, float) for value in runs.loc[0, list(result)])


def test_without_a_cache_nothing_is_remembered(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        compare({"a": scratch}, data, seeds=[0], progress=False)
    assert len(RUNS) == 2
    assert not list(tmp_path.iterdir())


def test_the_table_knows_how_long_each_run_took(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 20.0, 22.0])
    monkeypatch.setattr(_jobs, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    runs = compare({"a": scratch, "b": distilled}, data, seeds=[0], progress=False)
    assert runs.attrs["seconds"] == [0.5, 2.0]


@pytest.mark.parametrize(
    ("seeds", "kind"),
    [
        pytest.param([], ValueError, id="none"),
        pytest.param([0, 1, 0], ValueError, id="one twice"),
        pytest.param([torch.tensor(1), np.int64(1)], ValueError, id="one twice, of other types"),
        pytest.param(5, TypeError, id="a number"),
        pytest.param(0.5, TypeError, id="a fraction"),
        pytest.param(np.array(5), TypeError, id="an array of no dimension"),
        pytest.param("012", TypeError, id="text"),
        pytest.param(b"012", TypeError, id="bytes, which are numbers"),
        pytest.param(None, TypeError, id="None"),
    ],
)
def test_without_distinct_seeds_there_is_nothing_to_compare(seeds: Any, kind: type[Exception], data: Data) -> None:
    with pytest.raises(kind, match=r"seeds must be distinct whole numbers, at least one, such as range\(5\), not "):
        compare({"a": scratch}, data, seeds=seeds, progress=False)
    assert not RUNS


@pytest.mark.parametrize(
    ("seeds", "kind", "words"),
    [
        pytest.param([0, 0.5], TypeError, "a whole number, not 0.5 of type float", id="a fraction"),
        pytest.param([0, 1.0], TypeError, "a whole number, not 1.0 of type float", id="a float"),
        pytest.param(np.array([0.0, 1.0]), TypeError, "a whole number, not .*0.0.* of type float64", id="floats"),
        pytest.param((seed / 2 for seed in range(3)), TypeError, "a whole number, not 0.0", id="a generator of floats"),
        pytest.param(["0"], TypeError, "a whole number, not '0' of type str", id="text"),
        pytest.param([None], TypeError, "a whole number, not None of type NoneType", id="None"),
        pytest.param([True], TypeError, "a whole number, not True of type bool", id="a bool"),
        pytest.param([np.True_], TypeError, r"a whole number, not .*True.* of type bool", id="NumPy's bool"),
        pytest.param(torch.tensor([True]), TypeError, r"a whole number, not tensor\(True\) of type", id="torch's bool"),
        pytest.param(np.arange(4).reshape(2, 2), TypeError, "a whole number, not .* of type ndarray", id="a matrix"),
        pytest.param([0, -1], ValueError, "0 or more, not -1", id="a negative one"),
    ],
)
def test_a_seed_that_is_no_whole_number_is_refused(seeds: Any, kind: type[Exception], words: str, data: Data) -> None:
    with pytest.raises(kind, match=f"each of the seeds must be {words}"):
        compare({"a": scratch}, data, seeds=seeds, progress=False)
    assert not RUNS


@pytest.mark.parametrize(
    "seeds",
    [range(2), (0, 1), np.arange(2), torch.arange(2), (seed for seed in range(2)), pd.Series([0, 1])],
    ids=["range", "tuple", "NumPy", "torch", "generator", "pandas"],
)
def test_whole_numbers_of_any_kind_are_seeds(seeds: Any, data: Data) -> None:
    runs = compare({"a": scratch}, data, seeds=seeds, progress=False)
    assert RUNS == [("scratch", 0), ("scratch", 1)]
    assert runs["seed"].tolist() == [0, 1]
    assert all(type(seed) is int for _, seed in RUNS)


@pytest.mark.parametrize(
    ("recipes", "kind", "words"),
    [
        pytest.param(
            {}, ValueError, r"functions by name, at least one, such as \{'KD': student\}, not \{\}", id="none"
        ),
        pytest.param([scratch], TypeError, r"functions by name, .*, not \[<function scratch", id="a list"),
        pytest.param(scratch, TypeError, r"functions by name, .*, not <function scratch", id="a function"),
        pytest.param(None, TypeError, r"functions by name, .*, not None", id="None"),
        pytest.param(
            {"a": scratch, 1: scratch}, TypeError, r"functions by name, .*, not \{'a': .*, 1: ", id="a number"
        ),
        pytest.param({None: scratch}, TypeError, r"functions by name, .*, not \{None: ", id="None as a name"),
    ],
)
def test_recipes_are_functions_by_name(recipes: Any, kind: type[Exception], words: str, data: Data) -> None:
    with pytest.raises(kind, match=f"recipes must be {words}"):
        compare(recipes, data, seeds=[0], progress=False)
    assert not RUNS


@pytest.mark.parametrize("recipe", [None, "scratch", {"errors": 1.0}, 3.0])
def test_a_recipe_that_cannot_be_called_is_refused_before_any_run(recipe: Any, data: Data) -> None:
    with pytest.raises(TypeError, match="recipe 'b' must be a function, which compare will call, not "):
        compare({"a": scratch, "b": recipe}, data, seeds=[0], progress=False)
    assert not RUNS


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (lambda data, seed, *, alpha: {"errors": 1.0}, "missing a required (keyword-only )?argument: 'alpha'"),
        (lambda data: {"errors": 1.0}, "too many positional arguments"),
        (partial(scratch, 1), "too many positional arguments"),
    ],
    ids=["an option left open", "no seed", "an option without a name"],
)
def test_a_recipe_that_takes_other_arguments_is_refused_before_any_run(recipe: Any, words: str, data: Data) -> None:
    words = (
        rf"recipe 'b' is called as recipe\(data, seed\), which does not fit \({words}\); fix .* by name with functools"
    )
    with pytest.raises(TypeError, match=words):
        compare({"a": scratch, "b": recipe}, data, seeds=[0], progress=False)
    assert not RUNS


def test_a_recipe_that_does_not_tell_its_arguments_is_taken_at_its_word(data: Data) -> None:
    with pytest.raises(ValueError, match="no signature found"):
        inspect.signature(partial(dict, errors=1.0))
    with pytest.raises(TypeError, match="expected at most 1 argument, got 2"):
        compare({"a": partial(dict, errors=1.0)}, data, seeds=[0], progress=False)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("given", ["None", "a split", "the class", "a name"])
def test_data_of_another_kind_are_refused(given: str, cached: bool, data: Data, tmp_path: Path) -> None:
    other = {"None": None, "a split": data.train, "the class": Data, "a name": "mnist"}[given]
    with pytest.raises(
        TypeError, match=r"data must be a Data, which load_data\(\) returns, not (NoneType|Split|type|str)"
    ):
        compare({"a": scratch}, other, seeds=[0], cache=tmp_path / "cache" if cached else None, progress=False)
    assert not RUNS and not list(tmp_path.iterdir())


@pytest.mark.parametrize("cache", [5, True, b"cache", ["cache"], ""])
def test_a_cache_that_is_no_path_is_refused(
    cache: Any, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match="cache must be the path of a folder, or None to remember nothing, not "):
        compare({"a": scratch}, data, seeds=[0], cache=cache, progress=False)
    assert not RUNS and not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/below", "no" * 200])
def test_a_cache_that_cannot_be_written_is_refused_before_any_run(place: str, data: Data, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=rf"nothing can be written to {tmp_path / place} \(.*\); give another folder"):
        compare({"a": scratch}, data, seeds=[0], cache=tmp_path / place, progress=False)
    assert not RUNS


def test_a_cache_may_be_in_the_home_of_the_user(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    compare({"a": scratch}, data, seeds=[0], cache="~/cache", progress=False)
    assert len(list((tmp_path / "home" / "cache").glob("*.json"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_an_error_names_the_recipe_and_the_seed_it_comes_from(data: Data) -> None:
    def fails(data: Data, seed: int) -> dict[str, float]:
        raise KeyError("errors") if seed == 2 else KeyboardInterrupt

    with pytest.raises(KeyError, match="errors") as caught:
        compare({"a": scratch, "b": fails}, data, seeds=[2], progress=False)
    assert caught.value.__notes__ == ["While waiting for recipe 'b' with seed 2."]


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
    pytest.param({"x": b"12"}, "recipe 'a' must return numbers, but 'x' is b'12'", id="bytes"),
    pytest.param({"x": 10**400}, "recipe 'a' must return numbers, but 'x' is 1000", id="beyond floats"),
    pytest.param({1: 2.0, "x": 1.0}, r"recipe 'a' must name its numbers with text, not \[1\]", id="a name is a number"),
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


def test_the_bar_says_what_runs(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Bar(comparison.tqdm):
        def set_postfix_str(self, text: str) -> None:
            said.append(text)

    monkeypatch.setattr(comparison, "tqdm", Bar)
    recipes = dict.fromkeys(("a", "b"), lambda data, seed: {"said": len(said)})
    runs = compare(recipes, data, seeds=[4, 2])
    assert said == ["a, seed 4", "b, seed 4", "a, seed 2", "b, seed 2"]
    assert runs["said"].tolist() == [1, 2, 3, 4]  # before each run, not after it


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


@pytest.mark.parametrize("metric", ["accuracy", "note", "seed", "recipe", None, ["errors"], 3])
def test_a_metric_that_is_no_column_of_numbers_is_refused_with_those_that_are(metric: Any) -> None:
    words = rf"metric must be one of the columns of numbers \['errors', 'seconds'\], not {re.escape(repr(metric))}"
    with pytest.raises(ValueError, match=words):
        league(tiny_runs().assign(note="text"), metric, baseline="scratch")


@pytest.mark.parametrize("baseline", ["teacher", None, 0, ["KD"], np.array(["scratch", "KD"])])
def test_an_unknown_baseline_is_refused_with_the_known_ones(baseline: Any) -> None:
    with pytest.raises(ValueError, match=r"baseline must be one of the recipes \['scratch', 'KD', 'luck'\], not "):
        league(tiny_runs(), "errors", baseline=baseline)


@pytest.mark.parametrize("other", [None, [], {"recipe": ["a"]}, np.zeros((2, 3)), tiny_runs()["errors"]])
def test_a_league_needs_a_table(other: Any) -> None:
    with pytest.raises(TypeError, match=f"runs must be a table from compare, not a {type(other).__name__}"):
        league(other, "errors", baseline="scratch")


@pytest.mark.parametrize(
    "change",
    [
        lambda runs: runs.drop(columns="seed"),
        lambda runs: runs.drop(columns="recipe"),
        lambda runs: runs.set_index("seed"),
        lambda runs: runs.pivot(index="seed", columns="recipe", values="errors"),
        lambda runs: pd.concat([runs, runs], axis=1),
        lambda runs: runs.assign(seed=runs["seed"].where(runs["seed"] < 10)),
        lambda runs: runs.assign(recipe=runs["recipe"].where(runs["seed"] < 10)),
    ],
    ids=["no seed", "no recipe", "indexed", "pivoted", "columns twice", "a seed is missing", "a name is missing"],
)
def test_a_table_of_another_kind_is_no_league(change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    with pytest.raises(ValueError, match="runs must have a recipe and a seed in every row, and each column once, not "):
        league(change(tiny_runs()), "errors", baseline="scratch")


def test_a_run_that_is_there_twice_is_refused() -> None:
    runs = tiny_runs()
    more = pd.concat([runs, runs[runs["seed"] == 8].assign(errors=0.0)])
    with pytest.raises(
        ValueError, match="a recipe counts once per seed, but 'scratch' has two rows with seed 8; drop one"
    ):
        league(more, "errors", baseline="scratch")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_run_without_a_finite_number_is_named(value: float) -> None:
    runs = tiny_runs()
    runs.loc[4, "errors"] = value
    with pytest.raises(ValueError, match=f"needs finite numbers, but 'errors' of 'KD' with seed 9 is {value}"):
        league(runs, "errors", baseline="scratch")
    runs["errors"] = runs["errors"].where(runs.index != 4).astype("Int64")
    with pytest.raises(ValueError, match="needs finite numbers, but 'errors' of 'KD' with seed 9 is <NA>"):
        league(runs, "errors", baseline="scratch")


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
