"""One way to compare recipes: same seeds for all, one row per run, differences taken pair by pair.

A *recipe* is a function ``recipe(data, seed, **options)`` that trains something and returns named numbers. ::

    def student(data, seed, *, alpha):
        ...
        return {"errors": ..., "nll": ...}


    runs = compare({"scratch": partial(student, alpha=0.0), "KD": partial(student, alpha=0.9)}, data, seeds=range(5))
    league(runs, "errors", baseline="scratch")
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
import os
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from kd_course.data import Data
from kd_course.evaluation import mean_interval, paired_difference

if TYPE_CHECKING:
    import pandas as pd

Recipe = Callable[..., Mapping[str, float]]

MODULES = ("runtime", "data", "models", "inference", "training", "evaluation", "ensembles")
"""The modules that a recipe's numbers depend on, beside ``losses`` and the one that defines it."""


class Run(NamedTuple):
    """What one recipe returned for one seed, and how long it took."""

    numbers: dict[str, float]
    seconds: float


def compare(
    recipes: Mapping[str, Recipe],
    data: Data,
    *,
    seeds: Iterable[int],
    cache: Path | str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run every recipe with every seed; returns a tidy table with one row per run: recipe, seed and its numbers.

    Seeds are the outer loop, so an interrupted comparison is still a fair one. With a ``cache`` folder each run is
    written down as soon as it ends, under a name made of all that decides it: the recipe's source and options, the
    seed, the data, the code of this package that a recipe can call, the version of PyTorch. A run found there is not
    repeated; a recipe edited by one character is. Two processes that share the folder share the work: a run that one
    of them is busy with is left out by the other until everything else is done.

    Args:
        recipes: by name; options are fixed with ``functools.partial`` and must be plain values (numbers, strings).
            What a function takes from its surroundings cannot be seen: pass all that matters as an option.
        data: handed to each recipe. seeds: at least one. cache: a folder, or None. progress: show a bar.

    Returns:
        A table with one row per run: ``recipe``, ``seed`` and the recipe's numbers; in its ``attrs``, ``"seconds"``
        holds what each run took when it was made, row by row.

    Raises:
        ValueError: no recipes or seeds, a seed given twice, a recipe that returns no numbers, NaN or other names than
            before, or a damaged file in the cache.
        TypeError: with a cache, an option that is not a plain value, or a recipe whose source does not tell what it
            does: a lambda, a function that closes over variables, an object.
    """
    import pandas as pd

    seeds = [int(seed) for seed in seeds]
    if not recipes or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"compare needs recipes and distinct seeds, not {list(recipes)} and {seeds}")
    checksum = fingerprint(data) if cache is not None else ""
    waiting = [(seed, name) for seed in seeds for name in recipes]
    done: dict[tuple[int, str], Run] = {}
    with tqdm(total=len(waiting), disable=not progress, leave=False, unit="run") as bar:
        for patient in (False, True):  # first what nobody is busy with, then what somebody was
            for seed, name in waiting:
                bar.set_postfix_str(f"{name}, seed {seed}")
                if cache is None:
                    run = _measure(name, recipes[name], data, seed)
                else:
                    run = _recall(name, recipes[name], data, seed, Path(cache), checksum, wait=patient)
                if run is not None:
                    done[seed, name] = run
                    _refuse_other_names(name, seed, run, *next(iter(done.items())))
                    bar.update()
            waiting = [run for run in waiting if run not in done]
    in_order = [(seed, name) for seed in seeds for name in recipes]
    runs = pd.DataFrame([{"recipe": name, "seed": seed, **done[seed, name].numbers} for seed, name in in_order])
    runs.attrs["seconds"] = [done[run].seconds for run in in_order]
    return runs


def league(runs: pd.DataFrame, metric: str, *, baseline: str) -> pd.DataFrame:
    """The table of a comparison: mean and 95 % interval per recipe, and the paired difference to the baseline.

    Args:
        runs: from :func:`compare`, with two seeds or more. metric: one of its columns. baseline: one of its recipes.

    Returns:
        One row per recipe, in the order they ran: ``n``, ``mean``, ``±``; and ``difference``, ``low``, ``high`` (recipe
        minus baseline, seed by seed; blank for the baseline itself) with ``told apart``, true where that interval
        excludes 0.

    Raises:
        ValueError: no such metric or baseline, a single seed, or recipes that ran with different seeds.
    """
    import pandas as pd

    known = list(dict.fromkeys(runs["recipe"]))
    if metric not in runs or baseline not in known:
        raise ValueError(f"no {metric!r} or no {baseline!r} among the columns {list(runs)} and the recipes {known}")
    by_recipe = runs.pivot(index="seed", columns="recipe", values=metric)
    if by_recipe.isna().any(axis=None):
        missing = {name: by_recipe.index[by_recipe[name].isna()].tolist() for name in known}
        raise ValueError(f"pairs need every recipe with every seed; missing: {missing}; run them in one compare()")
    rows = {}
    for name in known:
        own = mean_interval(by_recipe[name])
        gain = paired_difference(by_recipe[name], by_recipe[baseline])
        rows[name] = {
            "n": own.n,
            "mean": own.mean,
            "±": own.half_width,
            "difference": gain.mean,
            "low": gain.low,
            "high": gain.high,
            "told apart": gain.excludes_zero(),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("recipe")
    table.loc[baseline, ["difference", "low", "high"]] = math.nan
    return table


def _measure(name: str, recipe: Recipe, data: Data, seed: int) -> Run:
    start = time.perf_counter()
    result = recipe(data, seed)
    seconds = time.perf_counter() - start
    if not isinstance(result, Mapping) or not result:
        raise ValueError(f"recipe {name!r} must return a dict of named numbers, not {result!r}")
    if taken := {"recipe", "seed"} & result.keys():
        raise ValueError(f"recipe {name!r} must not name its numbers {sorted(taken)}: the table has such columns")
    numbers = {}
    for key, value in result.items():
        try:
            numbers[key] = math.nan if isinstance(value, str) else float(value)
        except (TypeError, ValueError, RuntimeError):  # None, an array, a tensor of several elements
            numbers[key] = math.nan
        if math.isnan(numbers[key]):
            raise ValueError(f"recipe {name!r} must return numbers, but {key!r} is {value!r} for seed {seed}")
    return Run(numbers, seconds)


def _refuse_other_names(name: str, seed: int, run: Run, first: tuple[int, str], of_first: Run) -> None:
    if run.numbers.keys() != of_first.numbers.keys():
        raise ValueError(
            f"every recipe must return the same named numbers, but {name!r} returns {sorted(run.numbers)} "
            f"for seed {seed}, and {first[1]!r} returned {sorted(of_first.numbers)}"
        )


def _recall(
    name: str, recipe: Recipe, data: Data, seed: int, folder: Path, data_checksum: str, *, wait: bool
) -> Run | None:
    """A run: read from the cache, or done once and written there; None, unless we wait, if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**_content(recipe), "seed": seed, "data": data_checksum, "torch": torch.__version__}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f"{key}.json"
    lock = FileLock(folder / f"{key}.lock")
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    try:
        if path.exists():
            try:
                saved = json.loads(path.read_text(encoding="utf-8"))
                return Run(saved["numbers"], saved["seconds"])
            except (ValueError, KeyError, TypeError) as error:
                mend = "delete it, and the run will be done again"
                raise ValueError(f"{path} is not a readable result ({error!r}); {mend}") from error
        run = _measure(name, recipe, data, seed)
        unfinished = folder / f".{key}.unfinished"  # only the holder of the lock writes it
        unfinished.write_text(json.dumps({"recipe": name, **content, **run._asdict()}, indent=1), encoding="utf-8")
        os.replace(unfinished, path)
        return run
    finally:
        lock.release()


def _content(recipe: Recipe) -> dict[str, object]:
    """All of a recipe that can be seen: the source of its function, its options, and the code of ours it can call."""
    options: dict[str, object] = {}
    while isinstance(recipe, partial):
        if recipe.args:
            raise TypeError(f"options of a cached recipe go by name, not {recipe.args!r}")
        options = {**recipe.keywords, **options}
        recipe = recipe.func
    if not inspect.isfunction(recipe) or recipe.__name__ == "<lambda>" or recipe.__closure__:
        raise TypeError(
            f"a cached recipe must be a function made with def that takes all it needs as options, not {recipe!r}: "
            "what a lambda, a closure or an object does is not in its source; fix options with functools.partial"
        )
    parameters = inspect.signature(recipe).parameters.values()
    options = {entry.name: entry.default for entry in parameters if entry.default is not entry.empty} | options
    try:
        json.dumps(options)
    except TypeError as error:
        raise TypeError(f"options of a cached recipe must be plain values ({error}): {options}") from None
    source = textwrap.dedent(inspect.getsource(recipe))
    return {"source": source, "options": options, "code": code_checksum(recipe.__module__)}


@lru_cache
def code_checksum(module: str = "") -> str:
    """A checksum of the code that decides a run's numbers: networks, losses, data, loop, metrics; ``module``, if ours.

    It reads the code as Python does, so a comment, a docstring or a line break does not change it.
    """
    package = Path(__file__).parent
    paths = [package / f"{name}.py" for name in MODULES] + sorted((package / "losses").glob("*.py"))
    if module.startswith(f"{__package__}."):
        paths.append(package.joinpath(*module.split(".")[1:]).with_suffix(".py"))
    digest = hashlib.sha256()
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = [line for line in node.body if not _is_text(line)]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:24]


def _is_text(line: ast.stmt) -> bool:
    """Whether a statement is nothing but a string: a docstring, or the text below a constant."""
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def fingerprint(data: Data) -> str:
    """A checksum of a data set's three splits: pixels, labels, sample numbers, teacher logits and features."""
    digest = hashlib.sha256(data.name.encode())
    for split in (data.train, data.validation, data.test):
        tables = {"images": split.images, "labels": split.labels, "indices": split.indices}
        tables["teacher logits"] = split.teacher_logits
        tables |= {f"features of {stage}": table for stage, table in split.teacher_features.items()}
        for name, table in tables.items():
            digest.update(name.encode())
            digest.update(b"none" if table is None else table.contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]
