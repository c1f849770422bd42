"""What :func:`compare` remembers: which runs are not done again, which are, and what a file of the memory holds.

A cached recipe may not close over anything, so the recipes of this file write what they do to ``RUNS``, or to a file
whose path is an option.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import multiprocessing
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from torch import nn

from kd_course import memo
from kd_course._definitions import meaning
from kd_course.comparison import compare
from kd_course.data import Data, Split
from kd_course.memo import fingerprint, package_checksum, read_sealed, write_sealed

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


# Same meaning of the recipe, options, seed and data: not run again; anything else is.


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
    assert runs_of(SOURCE.replace("calls):\n", 'calls):\n    """Prose."""\n    # a remark\n'), 4) == (5.0, 0)
    assert runs_of(SOURCE.replace("1.0", "2.0"), 5) == (6.0, 1)
    assert runs_of(SOURCE, 6) == (5.0, 0)


HELPER = """
def error_rate(seed):
    if seed < 0:
        raise ValueError(f"no seed {seed}")
    return seed / 10
"""
RECIPE = """
from memo_helper import error_rate

def recipe(data, seed, *, calls):
    with open(calls, "a") as file:
        file.write("x")
    return {"errors": error_rate(seed)}
"""


def test_a_helper_in_another_file_is_part_of_the_key(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    calls = tmp_path / "calls"
    calls.touch()

    def new_runs(helper: str) -> int:
        before = calls.stat().st_size
        for name, source in {"memo_helper": helper, "memo_recipe": RECIPE}.items():
            (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        recipe = partial(importlib.import_module("memo_recipe").recipe, calls=str(calls))
        compare({"a": recipe}, data, seeds=[0, 1], cache=tmp_path / "cache", progress=False)
        return calls.stat().st_size - before

    assert new_runs(HELPER) == 2
    assert new_runs(HELPER.replace("no seed", "seeds start at 0, not at")) == 0
    assert new_runs(HELPER + "\n\ndef unused():\n    return 1\n") == 0
    assert new_runs(HELPER.replace("/ 10", "/ 100")) == 2
    assert new_runs(HELPER.replace("seed < 0", "seed <= -1")) == 2


EDITED_HELPER = """
import functools
from kd_course.evaluation import mean_interval

FACTOR = 10
TABLE = {"plain": lambda value: value}

def inner(seed):
    return seed / 10

def outer(seed, *, helper=inner):
    return helper(seed)

def loud(function):
    @functools.wraps(function)
    def wrapped(seed):
        return function(seed) + 0
    return wrapped

@loud
def decorated(seed):
    return seed / 10

class Base:
    def rate(self, seed):
        return seed / 10

class Model(Base):
    scale = 1
    @property
    def unit(self):
        return 10
    @staticmethod
    def shifted(seed):
        return seed + 0

halved = functools.partial(inner)
method = Model().rate

def recipe(data, seed, *, calls):
    with open(calls, "a") as file:
        file.write("x")
    values = [outer(seed), decorated(seed), Model().rate(seed), halved(seed), method(seed), TABLE["plain"](seed)]
    values += [Model.shifted(seed), Model().unit, Model.scale, FACTOR, mean_interval([seed, seed + 1]).mean]
    return {"errors": sum(values)}
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("def inner(seed):\n    return seed / 10", "def inner(seed):\n    return seed / 11", id="a helper"),
        pytest.param("return helper(seed)", "return 2 * helper(seed)", id="a helper with a helper"),
        pytest.param("helper=inner", "helper=float", id="a default argument"),
        pytest.param("function(seed) + 0", "function(seed) + 1", id="a decorator"),
        pytest.param(
            "def decorated(seed):\n    return seed", "def decorated(seed):\n    return 2 * seed", id="decorated"
        ),
        pytest.param(
            "def rate(self, seed):\n        return", "def rate(self, seed):\n        return 2 *", id="a base class"
        ),
        pytest.param("scale = 1", "scale = 2", id="a class attribute"),
        pytest.param("return 10\n", "return 11\n", id="a property"),
        pytest.param("return seed + 0\n", "return seed + 1\n", id="a static method"),
        pytest.param("partial(inner)", "partial(outer)", id="a partial"),
        pytest.param("lambda value: value}", "lambda value: 2 * value}", id="a table of functions"),
        pytest.param("FACTOR = 10", "FACTOR = 11", id="a constant"),
        pytest.param("]).mean", "]).low", id="the recipe"),
    ],
)
def test_an_edited_helper_is_noticed_wherever_it_stands(
    before: str, after: str, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what nobody edited is not run again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def runs_of(source: str) -> int:
        calls = tmp_path / "calls"
        calls.write_text("")
        (tmp_path / "memo_edited.py").write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, "memo_edited", raising=False)
        importlib.invalidate_caches()
        recipe = partial(importlib.import_module("memo_edited").recipe, calls=str(calls))
        compare({"a": recipe}, data, seeds=[3], cache=tmp_path / "cache", progress=False)
        return calls.stat().st_size

    assert EDITED_HELPER.count(before) == 1
    assert runs_of(EDITED_HELPER) == 1
    assert runs_of(EDITED_HELPER.replace("import functools\n", "import functools\n\n# a remark\n")) == 0
    assert runs_of(EDITED_HELPER.replace(before, after)) == 1
    assert runs_of(EDITED_HELPER) == 0


def test_a_helper_that_a_notebook_defines_anew_is_noticed(data: Data, tmp_path: Path) -> None:
    """The cell with the helper is edited and run; the recipe's cell is not."""
    import linecache

    cells = {"__name__": "__main__"}

    def run_cell(source: str, number: int) -> None:
        name = f"<ipython-input-{number}-{tmp_path.name}>"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        exec(compile(source, name, "exec"), cells)

    def errors() -> float:
        runs = compare({"a": cells["recipe"]}, data, seeds=[3], cache=tmp_path, progress=False)
        return runs.loc[0, "errors"]

    run_cell("def helper(seed):\n    return seed + 1\n", 1)
    run_cell("def recipe(data, seed):\n    return {'errors': helper(seed)}\n", 2)
    assert errors() == 4
    run_cell("def helper(seed):\n    return seed + 2\n", 3)
    assert errors() == 5
    run_cell("def helper(seed):\n    return seed + 1\n", 4)
    assert errors() == 4
    assert len(results(tmp_path)) == 2


def test_another_version_of_pytorch_runs_again(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran({"a": scratch}, data, tmp_path) == 2
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert ran({"a": scratch}, data, tmp_path) == 2


def test_other_data_run_again(data: Data, tmp_path: Path) -> None:
    assert ran({"a": scratch}, data, tmp_path) == 2
    assert ran({"a": scratch}, replace(data, train=data.train.subset(range(11))), tmp_path) == 2
    assert ran({"a": scratch}, replace(data, train=data.train.subset(range(12))), tmp_path) == 0


def test_a_result_says_what_it_is_the_result_of(data: Data, tmp_path: Path) -> None:
    runs = compare({"a": partial(scratch, offset=0.5)}, data, seeds=[3], cache=tmp_path, progress=False)
    (path,) = results(tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content.pop("checksum")
    assert content == {
        "recipe": "a",
        "meaning": meaning(scratch, Data, Split),
        "options": {"offset": 0.5, "label": ""},
        "seed": 3,
        "data": fingerprint(data),
        "torch": torch.__version__,
        "package": package_checksum(),
        "numbers": {"errors": 130.5, "samples": 12.0},
        "seconds": runs.attrs["seconds"][0],
    }


def test_a_run_that_is_read_keeps_the_seconds_of_the_one_that_was_made(data: Data, tmp_path: Path) -> None:
    made, read = (compare({"a": scratch}, data, seeds=range(3), cache=tmp_path, progress=False) for _ in range(2))
    assert len(RUNS) == 3
    assert read.attrs["seconds"] == made.attrs["seconds"]


def test_the_package_is_written_beside_a_run_and_decides_nothing(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran({"a": scratch}, data, tmp_path) == 2
    monkeypatch.setattr(memo, "package_checksum", lambda: "another version")
    assert ran({"a": scratch}, data, tmp_path) == 0
    assert ran({"a": partial(scratch, offset=1.0)}, data, tmp_path, seeds=[0]) == 1
    found = [json.loads(path.read_text(encoding="utf-8"))["package"] for path in results(tmp_path)]
    assert sorted(found) == sorted([package_checksum()] * 2 + ["another version"])


@pytest.mark.parametrize("name", ["memo", "losses/response", "studies/pair"])
def test_the_checksum_of_the_package_is_of_every_letter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "kd_course"
    shutil.copytree(Path(memo.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(memo, "__file__", str(package / "memo.py"))
    original = package_checksum.__wrapped__()
    assert original == package_checksum()
    with (package / f"{name}.py").open("a", encoding="utf-8") as file:
        file.write("# a remark\n")
    assert package_checksum.__wrapped__() != original


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


def test_a_flipped_bit_in_a_result_is_refused(data: Data, tmp_path: Path) -> None:
    compare({"a": partial(scratch, offset=1 / 3)}, data, seeds=[0], cache=tmp_path, progress=False)
    (path,) = results(tmp_path)
    whole = path.read_bytes()
    for place in range(0, 8 * len(whole), 8 * len(whole) // 200):
        spoilt = bytearray(whole)
        spoilt[place // 8] ^= 1 << place % 8
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match="is not a readable result"):
            compare({"a": partial(scratch, offset=1 / 3)}, data, seeds=[0], cache=tmp_path, progress=False)
    path.write_bytes(whole)
    assert ran({"a": partial(scratch, offset=1 / 3)}, data, tmp_path, seeds=[0]) == 0


def forge(path: Path, **changes: object) -> None:
    """Change a result and give it the checksum that belongs to it."""
    content = read_sealed(path, fix="") | changes | {"checksum": ""}
    write_sealed(path, json.dumps(content, indent=1))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"numbers": {"errors": math.nan, "samples": 12.0}}, "it has nan in place of a number"),
        ({"numbers": {"errors": "5", "samples": 12.0}}, "it has '5' in place of a number"),
        ({"numbers": {"errors": "<b>5</b>", "samples": 12.0}}, "it has '<b>5</b>' in place of a number"),
        ({"numbers": {"errors": None}}, "it has None in place of a number"),
        ({"numbers": {"errors": True}}, "it has True in place of a number"),
        ({"numbers": {"errors": [1.0]}}, r"it has \[1.0\] in place of a number"),
        ({"numbers": {}}, r"it has \{\} in place of a number"),
        ({"numbers": [1.0]}, r"it has \[1.0\] in place of a number"),
        ({"numbers": None}, "it has None in place of a number"),
        ({"seconds": "1"}, "it has '1' in place of a number"),
        ({"seconds": math.nan}, "it has nan in place of a number"),
        ({"seed": 1}, "it is another run under this name"),
        ({"options": {"offset": 2.0, "label": ""}}, "it is another run under this name"),
        ({"data": "abc"}, "it is another run under this name"),
        ({"torch": None}, "it is another run under this name"),
    ],
)
def test_a_result_with_something_else_than_its_numbers_is_refused(
    changes: dict, says: str, data: Data, tmp_path: Path
) -> None:
    """Even where the checksum is right."""
    compare({"a": scratch}, data, seeds=[0], cache=tmp_path, progress=False)
    (path,) = results(tmp_path)
    forge(path, **changes)
    with pytest.raises(
        ValueError, match=rf"{path} is not a readable result \({says}\); delete it, and the run will be"
    ):
        compare({"a": scratch}, data, seeds=[0], cache=tmp_path, progress=False)


def test_what_is_written_can_be_read(data: Data, tmp_path: Path) -> None:
    """Numbers without end, options with a NaN, with numbers as keys, in another order, of many letters."""
    for value in (math.inf, -math.inf, 5e-324, 1e308, 0.1 + 0.2, -0.0, True, 10**300):
        first, again = (
            compare({"a": partial(returns_an_option, value=value)}, data, seeds=[0], cache=tmp_path, progress=False)
            for _ in range(2)
        )
        pd.testing.assert_frame_equal(first, again, check_exact=True)
    for label in (math.nan, {10: "x", 9: "y"}, {"b": 1, "a": (2, 3)}, "α “checksum” ≠ ''", '"checksum": ""', None):
        assert ran({"a": partial(scratch, label=label)}, data, tmp_path) == 2
        assert ran({"a": partial(scratch, label=label)}, data, tmp_path) == 0


def test_with_a_cache_options_that_have_no_order_are_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="options of a cached recipe must be plain values"):
        compare({"a": partial(scratch, label={1: "x", "y": 2})}, data, seeds=[0], cache=tmp_path, progress=False)


def test_a_cache_that_cannot_be_written_is_named_before_anything_runs(data: Data, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 5000), tmp_path / "a\0b"):
        with pytest.raises(ValueError, match=rf"nothing can be written to {folder} \(.*\); give another folder"):
            compare({"a": scratch}, data, seeds=[0], cache=folder, progress=False)
    assert not RUNS


def test_a_folder_in_which_nothing_can_be_written_is_named_before_anything_runs(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(memo.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ValueError, match=rf"nothing can be written to {tmp_path} \(Permission denied\); give another"):
        compare({"a": scratch}, data, seeds=[0], cache=tmp_path, progress=False)
    assert not RUNS


def test_a_cache_may_be_below_home(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert ran({"a": scratch}, data, Path("~/mine")) == 2
    assert len(results(tmp_path / "mine")) == 2


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
        with pytest.raises(
            OSError, match=rf"{tmp_path}/.*json cannot be written \(No space left on device\); make room"
        ):
            compare({"a": scratch}, data, seeds=[0], cache=tmp_path, progress=False)
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}  # nothing half-written stays
    assert ran({"a": scratch}, data, tmp_path, seeds=[0]) == 1


def slow(data: Data, seed: int, *, log: str, seconds: float = 0.2) -> dict[str, float]:
    """Says that it ran, takes a while, and returns a number that no second run would return."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{seed} {seconds}\n")
    time.sleep(seconds)
    return {"number": uuid.uuid4().int % 10**12}


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


@pytest.mark.slow
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
    "a pixel": lambda split: replace(split, inputs={"images": changed(split.images)}),
    "another name for an input": lambda split: replace(split, inputs={"tokens": split.images}),
    "a second input": lambda split: replace(split, inputs={**split.inputs, "twice": split.images}),
    "no labels": Split.unlabelled,
    "a label": lambda split: replace(split, labels=changed(split.labels)),
    "a sample number": lambda split: replace(split, indices=changed(split.indices)),
    "the order": lambda split: split.subset(torch.arange(len(split)).flip(0)),
    "one sample less": lambda split: split.subset(range(len(split) - 1)),
    "a teacher logit": lambda split: split.with_teacher(changed(split.teacher_logits)),
    "no teacher logits": lambda split: replace(split, teacher=split.teacher_features),
    "a feature": lambda split: split.with_features(
        split.teacher_features | {"stage2": changed(split.teacher_features["stage2"])}
    ),
    "features of other names": lambda split: split.with_features(
        {"stage2": split.teacher_features["stage1"], "stage1": split.teacher_features["stage2"]}
    ),
    "no features": lambda split: split.with_features({}),
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
    images = data.train.images.clone().transpose(2, 3).contiguous().transpose(2, 3)
    copied = replace(data.train, inputs={"images": images})
    assert not copied.images.is_contiguous()
    again = replace(data, train=copied, source="from elsewhere")
    assert fingerprint(again) == fingerprint(data) == fingerprint(with_teacher(data))
