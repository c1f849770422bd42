"""One table for every league: what is run, what is remembered, and what the figures say.

A cached recipe may not close over anything, so the recipes of this file write what they do to ``RUNS``, or to a file
whose path is an option.
"""

from __future__ import annotations

import importlib.util
import json
import math
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from filelock import FileLock
from torch import nn

from kd_course import comparison
from kd_course.comparison import code_checksum, compare, fingerprint, league
from kd_course.data import Data, Split
from kd_course.evaluation import mean_interval

RUNS: list[tuple] = []
FAULTY_SEEDS: set[int] = set()


@pytest.fixture(autouse=True)
def _nothing_ran_yet() -> Iterator[None]:
    yield
    RUNS.clear()
    FAULTY_SEEDS.clear()


@pytest.fixture
def data(tiny_split: Callable[..., Split]) -> Data:
    return Data("tiny", "made up", tiny_split(12), tiny_split(6, seed=1), tiny_split(9, seed=2), classes=3)


def scratch(data: Data, seed: int, *, offset: float = 0.0, label: str = "") -> dict[str, float]:
    RUNS.append(("scratch", seed, offset))
    if seed in FAULTY_SEEDS:
        raise KeyboardInterrupt
    return {"errors": 100 + 10 * seed + offset, "samples": len(data.train)}


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
    assert RUNS == [("scratch", 5, 0), ("distilled", 5), ("scratch", 2, 0), ("distilled", 2)]


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
    assert RUNS == [("scratch", 0, 0)]


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
    assert list(table.columns) == ["n", "mean", "±", "difference", "low", "high", "told apart"]
    assert table.index.name == "recipe"
    assert list(table.index) == ["scratch", "KD", "luck"]
    for name, values in TABLE.items():
        own, base = np.array(values), np.array(TABLE["scratch"])
        assert table.loc[name, "n"] == 5
        assert table.loc[name, "mean"] == pytest.approx(own.mean(), rel=1e-12)
        assert table.loc[name, "±"] == pytest.approx(half_width(own), rel=1e-9)
        if name == "scratch":
            assert table.loc[name, ["difference", "low", "high"]].isna().all()
            assert not table.loc[name, "told apart"]
            continue
        interval = scipy.stats.ttest_rel(own, base).confidence_interval(0.95)
        assert table.loc[name, "difference"] == pytest.approx((own - base).mean(), rel=1e-12)
        assert table.loc[name, ["low", "high"]].tolist() == pytest.approx([interval.low, interval.high], rel=1e-9)
        assert table.loc[name, "told apart"] == (scipy.stats.ttest_rel(own, base).pvalue < 0.05)


def test_pairs_tell_apart_what_two_intervals_cannot() -> None:
    table = league(tiny_runs(), "errors", baseline="scratch")
    kd, luck = table.loc["KD"], table.loc["luck"]
    assert abs(kd["difference"]) < table.loc["scratch", "±"]  # the two intervals overlap widely
    assert kd["told apart"]
    assert kd["high"] < 0
    assert not luck["told apart"]  # although its mean is as good
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


# The cache: same recipe, options, seed and data are not run again; anything else is.


def ran(recipes: dict, data: Data, cache: Path, seeds: Any = (0, 1)) -> int:
    """How many runs this comparison needed."""
    RUNS.clear()
    compare(recipes, data, seeds=seeds, cache=cache, progress=False)
    return len(RUNS)


def results(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.json"))


def test_the_second_comparison_runs_nothing_and_gives_the_same_table(data: Data, tmp_path: Path) -> None:
    recipes = {"scratch": partial(scratch, offset=1 / 3), "KD": distilled}
    first = compare(recipes, data, seeds=range(3), cache=tmp_path / "new" / "folder", progress=False)
    assert len(RUNS) == 6
    second = compare(recipes, data, seeds=range(3), cache=str(tmp_path / "new" / "folder"))
    assert len(RUNS) == 6
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    pd.testing.assert_frame_equal(first, compare(recipes, data, seeds=range(3), progress=False), check_exact=True)


def test_only_new_seeds_and_recipes_are_run(data: Data, tmp_path: Path) -> None:
    assert ran({"scratch": scratch}, data, tmp_path, seeds=range(2)) == 2
    assert ran({"scratch": scratch}, data, tmp_path, seeds=range(3)) == 1
    assert ran({"scratch": scratch, "KD": distilled}, data, tmp_path, seeds=range(3)) == 3
    assert ran({"KD": distilled, "scratch": scratch}, data, tmp_path, seeds=(2, 0)) == 0
    assert ran({"scratch": scratch}, data, tmp_path, seeds=np.arange(4)) == 1  # NumPy's integers are seeds too


def test_options_are_part_of_the_key(data: Data, tmp_path: Path) -> None:
    for offset in (0.5, 0.25, 1, 2):
        assert ran({"a": partial(scratch, offset=offset)}, data, tmp_path) == 2
        assert ran({"a": partial(scratch, offset=offset)}, data, tmp_path) == 0
    assert ran({"a": partial(scratch, offset=0.5, label="x")}, data, tmp_path) == 2


def test_neither_the_name_nor_the_order_of_options_is(data: Data, tmp_path: Path) -> None:
    assert ran({"a": partial(scratch, offset=2.0, label="x")}, data, tmp_path) == 2
    assert ran({"b": partial(scratch, label="x", offset=2.0)}, data, tmp_path) == 0
    assert ran({"c": partial(partial(scratch, offset=1.0, label="x"), offset=2.0)}, data, tmp_path) == 0
    assert ran({"d": distilled, "e": distilled}, data, tmp_path) == 2  # two names for one thing
    assert ran({"f": partial(scratch, label={"x": 1, "y": 2})}, data, tmp_path) == 2
    assert ran({"g": partial(scratch, label={"y": 2, "x": 1})}, data, tmp_path) == 0


def test_the_last_word_on_an_option_counts(data: Data, tmp_path: Path) -> None:
    first = partial(scratch, offset=1.0)
    first.note = "with this, Python keeps the two partials apart"
    last = partial(first, offset=2.0)
    assert isinstance(last.func, partial)
    assert ran({"a": partial(scratch, offset=2.0)}, data, tmp_path) == 2
    assert ran({"b": last}, data, tmp_path) == 0
    assert ran({"c": first}, data, tmp_path) == 2


def test_a_default_left_out_is_a_default_spelled_out(data: Data, tmp_path: Path) -> None:
    assert ran({"a": scratch}, data, tmp_path) == 2
    assert ran({"a": partial(scratch, offset=0.0)}, data, tmp_path) == 0


def test_defaults_that_differ_are_options_that_differ(data: Data, tmp_path: Path) -> None:
    recipes = {}
    for shift in (1.0, 2.0):

        def shifted(data: Data, seed: int, *, shift: float = shift) -> dict[str, float]:
            return {"errors": seed + shift}

        recipes[f"shift {shift}"] = shifted
    runs = compare(recipes, data, seeds=[0], cache=tmp_path, progress=False)
    assert runs["errors"].tolist() == [1.0, 2.0]


SOURCE = """
def recipe(data, seed, *, calls):
    with open(calls, "a") as file:
        file.write("x")
    return {"errors": seed + 1.0}
"""


def test_the_source_decides_and_not_where_it_stands(data: Data, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.touch()

    def runs_of(source: str, number: int) -> tuple[float, int]:
        path = tmp_path / f"module_{number}.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        before = calls.stat().st_size
        recipe = partial(module.recipe, calls=str(calls))
        runs = compare({"a": recipe}, data, seeds=[4], cache=tmp_path / "cache", progress=False)
        return runs.loc[0, "errors"], calls.stat().st_size - before

    assert runs_of(SOURCE, 1) == (5.0, 1)
    assert runs_of(SOURCE, 2) == (5.0, 0)
    assert runs_of("\n# moved down\n" + SOURCE, 3) == (5.0, 0)
    assert runs_of(SOURCE.replace("1.0", "2.0"), 4) == (6.0, 1)
    assert runs_of(SOURCE, 5) == (5.0, 0)


def test_another_version_of_pytorch_runs_again(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran({"a": scratch}, data, tmp_path) == 2
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert ran({"a": scratch}, data, tmp_path) == 2


def test_other_data_run_again(data: Data, tmp_path: Path) -> None:
    assert ran({"a": scratch}, data, tmp_path) == 2
    assert ran({"a": scratch}, replace(data, train=data.train.subset(range(11))), tmp_path) == 2
    assert ran({"a": scratch}, replace(data, train=data.train.subset(range(12))), tmp_path) == 0


def test_a_result_says_what_it_is_the_result_of(data: Data, tmp_path: Path) -> None:
    compare({"a": partial(scratch, offset=0.5)}, data, seeds=[3], cache=tmp_path, progress=False)
    (path,) = results(tmp_path)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["source"].startswith("def scratch(data: Data, seed: int, *, offset")
    assert found | {"source": ""} == {
        "recipe": "a",
        "source": "",
        "options": {"offset": 0.5, "label": ""},
        "seed": 3,
        "data": fingerprint(data),
        "code": code_checksum(),
        "torch": torch.__version__,
        "numbers": {"errors": 130.5, "samples": 12.0},
        "seconds": found["seconds"],
    }
    assert 0 <= found["seconds"] < 10


def test_the_table_knows_how_long_each_run_took_when_it_was_made(data: Data, tmp_path: Path) -> None:
    recipe = partial(slow, log=str(tmp_path / "log"), seconds=0.1)
    for _ in range(2):  # made, then recalled
        runs = compare({"slow": recipe}, data, seeds=(0, 1), cache=tmp_path / "cache", progress=False)
        assert len(runs.attrs["seconds"]) == 2
        assert all(0.1 <= seconds < 5 for seconds in runs.attrs["seconds"])


def copied_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, which ``code_checksum`` then reads in its place."""
    package = tmp_path / "kd_course"
    shutil.copytree(Path(comparison.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(comparison, "__file__", str(package / "comparison.py"))
    code_checksum.cache_clear()
    return package


@pytest.mark.parametrize("name", [*comparison.MODULES, "losses/response", "losses/_arguments"])
def test_code_that_a_recipe_calls_is_part_of_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied_package(tmp_path, monkeypatch) / f"{name}.py"
    before, source = code_checksum(), path.read_text(encoding="utf-8")
    for text, differs in {"\n\n# a remark\n": False, '\n"""Words."""\n': False, "\nANSWER = 42\n": True}.items():
        path.write_text(source + text, encoding="utf-8")
        code_checksum.cache_clear()
        assert (code_checksum() != before) == differs, text
    code_checksum.cache_clear()


def test_of_the_other_modules_only_the_recipes_own_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = copied_package(tmp_path, monkeypatch)
    before, own = code_checksum(), code_checksum("kd_course.plots")
    assert before == code_checksum("__main__") == code_checksum("some.other.package")
    with open(package / "plots.py", "a", encoding="utf-8") as file:
        file.write("ANSWER = 42\n")
    code_checksum.cache_clear()
    assert code_checksum() == before
    assert code_checksum("kd_course.plots") not in (own, before)
    code_checksum.cache_clear()


def test_a_run_that_another_process_is_busy_with_comes_last(data: Data, tmp_path: Path) -> None:
    compare({"KD": distilled}, data, seeds=[0], cache=tmp_path, progress=False)
    (path,) = results(tmp_path)
    path.unlink()
    taken = threading.Event()

    def other() -> None:
        with FileLock(path.with_suffix(".lock")):
            taken.set()
            while len(RUNS) < 3:  # until everything else is done
                time.sleep(0.01)

    RUNS.clear()
    threading.Thread(target=other, daemon=True).start()
    assert taken.wait()
    runs = compare({"KD": distilled, "scratch": scratch}, data, seeds=[0, 1], cache=tmp_path, progress=False)
    assert RUNS == [("scratch", 0, 0), ("distilled", 1), ("scratch", 1, 0), ("distilled", 0)]
    assert runs["recipe"].tolist() == ["KD", "scratch"] * 2  # the table keeps its order
    assert runs["seed"].tolist() == [0, 0, 1, 1]


class Object:
    def __call__(self, data: Data, seed: int) -> dict[str, float]:
        return {"errors": 1.0}


def closure(value: float) -> Callable:
    def recipe(data: Data, seed: int) -> dict[str, float]:
        return {"errors": value}

    return recipe


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(lambda data, seed: {"errors": 1.0}, id="lambda"),
        pytest.param(closure(1.0), id="closure"),
        pytest.param(Object(), id="object"),
        pytest.param(Object().__call__, id="method"),
        pytest.param(partial(dict, errors=1.0), id="builtin"),
    ],
)
def test_with_a_cache_a_recipe_that_hides_what_it_does_is_refused(recipe: Any, data: Data, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"made with def that takes all it needs as options, not .*functools\.partial"):
        compare({"a": recipe}, data, seeds=[0], cache=tmp_path, progress=False)
    assert not results(tmp_path)


@pytest.mark.parametrize(
    "option",
    [torch.zeros(2), nn.ReLU(), {1, 2}, nn.functional.cross_entropy],
    ids=["tensor", "module", "set", "function"],
)
def test_with_a_cache_an_option_that_is_no_plain_value_is_refused(option: Any, data: Data, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"options of a cached recipe must be plain values \(.*not JSON serializable\)"):
        compare({"a": partial(scratch, offset=option)}, data, seeds=[0], cache=tmp_path, progress=False)
    assert not RUNS
    assert not results(tmp_path)


def test_with_a_cache_an_option_without_a_name_is_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"options of a cached recipe go by name, not \(1,\)"):
        compare({"a": partial(scratch, 1)}, data, seeds=[0], cache=tmp_path, progress=False)


def returns_an_option(data: Data, seed: int, *, value: float | None) -> dict[str, float | None]:
    return {"errors": value}


@pytest.mark.parametrize("value", [math.nan, None])
def test_a_run_without_a_result_is_not_remembered(value: float | None, data: Data, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must return numbers"):
        compare({"a": partial(returns_an_option, value=value)}, data, seeds=[0], cache=tmp_path, progress=False)
    assert not results(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param('{"recipe": "a", "numbers": {"err', id="truncated"),
        pytest.param('{"recipe": "a"}', id="no numbers"),
        pytest.param("[]", id="a list"),
        pytest.param("\udcff", id="not text"),
    ],
)
def test_a_damaged_result_is_named_with_the_way_out(content: str, data: Data, tmp_path: Path) -> None:
    compare({"a": scratch}, data, seeds=[0], cache=tmp_path, progress=False)
    (path,) = results(tmp_path)
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(
        ValueError, match=rf"{path.name} is not a readable result .*; delete it, and the run will be done"
    ):
        compare({"a": scratch}, data, seeds=[0], cache=tmp_path, progress=False)
    path.unlink()
    assert ran({"a": scratch}, data, tmp_path, seeds=[0]) == 1
    assert ran({"a": scratch}, data, tmp_path, seeds=[0]) == 0


# Interrupted, and shared.


def test_an_interrupted_comparison_keeps_what_was_finished(data: Data, tmp_path: Path) -> None:
    FAULTY_SEEDS.add(1)
    recipes = {"KD": distilled, "scratch": scratch}
    with pytest.raises(KeyboardInterrupt):
        compare(recipes, data, seeds=range(3), cache=tmp_path, progress=False)
    assert RUNS == [("distilled", 0), ("scratch", 0, 0), ("distilled", 1), ("scratch", 1, 0)]
    finished = [json.loads(path.read_text(encoding="utf-8")) for path in results(tmp_path)]
    assert sorted((run["recipe"], run["seed"]) for run in finished) == [("KD", 0), ("KD", 1), ("scratch", 0)]
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".lock"}

    FAULTY_SEEDS.clear()
    RUNS.clear()
    again = compare(recipes, data, seeds=range(3), cache=tmp_path, progress=False)
    assert RUNS == [("scratch", 1, 0), ("distilled", 2), ("scratch", 2, 0)]
    pd.testing.assert_frame_equal(again, compare(recipes, data, seeds=range(3), progress=False))


def test_a_run_that_cannot_be_written_down_leaves_no_result(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises(OSError, match="No space left"):
            compare({"a": scratch}, data, seeds=[0], cache=tmp_path, progress=False)
    assert not results(tmp_path)
    assert ran({"a": scratch}, data, tmp_path, seeds=[0]) == 1
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".lock"}  # nothing half-written stays


def slow(data: Data, seed: int, *, log: str, seconds: float = 0.2) -> dict[str, float]:
    """Says that it ran, takes its time, and returns a number that no second run would return."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{seed} {seconds}\n")
    time.sleep(seconds)
    return {"moment": time.time_ns() % 10**12}


PAUSES = (0.2, 0.21)


def study(data: Data, folder: Path, seconds: Sequence[float] = PAUSES) -> dict[str, list]:
    """What a notebook does: three seeds of some slow recipes, in the cache that it shares with another."""
    recipes = {f"{pause} s": partial(slow, log=str(folder / "log"), seconds=pause) for pause in seconds}
    return compare(recipes, data, seeds=range(3), cache=folder / "cache", progress=False).to_dict("list")


def other_notebook(data: Data, folder: Path, together: Any, answers: Any) -> None:
    """Starts when the first one does, says what came out, and then begins a run that it will never end."""
    together.wait()
    answers.put(study(data, folder))
    study(data, folder, seconds=[1000.0])


def test_two_notebooks_share_the_work_and_one_that_is_killed_does_no_harm(data: Data, tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    together, answers = processes.Barrier(2), processes.Queue()
    other = processes.Process(target=other_notebook, args=(data, tmp_path, together, answers), daemon=True)
    other.start()
    try:
        together.wait()
        mine, theirs = study(data, tmp_path), answers.get()
        log = tmp_path / "log"
        while "0 1000.0" not in (lines := log.read_text(encoding="utf-8").splitlines()):
            assert other.is_alive()
            time.sleep(0.02)
    finally:
        other.kill()  # in the middle of a run, as when a kernel dies: no chance to clean up
        other.join()
    assert mine == theirs
    assert mine["seed"] == [0, 0, 1, 1, 2, 2]
    assert sorted(lines[:-1]) == [f"{seed} {pause}" for seed in range(3) for pause in PAUSES]  # each ran exactly once

    assert len(results(tmp_path / "cache")) == 6
    assert study(data, tmp_path) == mine
    (dead,) = (path for path in (tmp_path / "cache").glob("*.lock") if not path.with_suffix(".json").exists())
    with FileLock(dead, timeout=0):  # the lock of the run that was killed holds nobody up
        assert log.read_text(encoding="utf-8").splitlines() == lines


# The data's fingerprint.


def with_teacher(data: Data) -> Data:
    """Every split with teacher logits and two stages of features."""
    splits = {}
    for number, part in enumerate(("train", "validation", "test")):
        split, generator = getattr(data, part), torch.Generator().manual_seed(number)
        logits, one, two = (torch.randn(len(split), 3, generator=generator) for _ in range(3))
        splits[part] = split.with_teacher(logits).with_features({"stage1": one, "stage2": two})
    return replace(data, **splits)


def changed(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor but for one element."""
    copy = tensor.clone()
    copy.view(-1)[-1] += 1
    return copy


CHANGES: dict[str, Callable[[Split], Split]] = {
    "a pixel": lambda split: replace(split, images=changed(split.images)),
    "a label": lambda split: replace(split, labels=changed(split.labels)),
    "a sample number": lambda split: replace(split, indices=changed(split.indices)),
    "the order": lambda split: split.subset(torch.arange(len(split)).flip(0)),
    "one sample less": lambda split: split.subset(range(len(split) - 1)),
    "a teacher logit": lambda split: replace(split, teacher_logits=changed(split.teacher_logits)),
    "no teacher logits": lambda split: replace(split, teacher_logits=None),
    "a feature": lambda split: split.with_features(
        split.teacher_features | {"stage2": changed(split.teacher_features["stage2"])}
    ),
    "features of other names": lambda split: split.with_features(
        {"stage2": split.teacher_features["stage1"], "stage1": split.teacher_features["stage2"]}
    ),
    "no features": lambda split: replace(split, teacher_features={}),
}


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_notices(change: str, part: str, data: Data) -> None:
    data = with_teacher(data)
    other = replace(data, **{part: CHANGES[change](getattr(data, part))})
    assert fingerprint(other) != fingerprint(data)


def test_the_fingerprint_notices_another_data_set_and_splits_that_change_places(data: Data) -> None:
    prints = {
        fingerprint(data),
        fingerprint(replace(data, name="other")),
        fingerprint(replace(data, validation=data.test, test=data.validation)),
    }
    assert len(prints) == 3


def test_the_fingerprint_depends_on_values_alone(data: Data) -> None:
    data = with_teacher(data)
    copied = replace(data.train, images=data.train.images.clone().transpose(2, 3).contiguous().transpose(2, 3))
    assert not copied.images.is_contiguous()
    again = replace(data, train=copied, source="from elsewhere")
    assert fingerprint(again) == fingerprint(data) == fingerprint(with_teacher(data))
