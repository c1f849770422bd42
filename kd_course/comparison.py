"""One way to compare recipes: same seeds for all, one row per run, differences taken pair by pair.

A *recipe* is a function ``recipe(data, seed, **options)`` that trains something and returns named numbers. ::

    def student(data, seed, *, alpha):
        ...
        return {"errors": ..., "nll": ...}


    runs = compare({"scratch": partial(student, alpha=0.0), "KD": partial(student, alpha=0.9)}, data, seeds=range(5))
    league(runs, "errors", baseline="scratch")
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from kd_course.data import Data
from kd_course.evaluation import mean_interval, paired_difference
from kd_course.memo import Run, cache_key, fingerprint, load_or_run

if TYPE_CHECKING:
    import pandas as pd

Recipe = Callable[..., Mapping[str, float]]


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
    written down as soon as it ends, and never repeated while its recipe means the same (see :mod:`kd_course.memo`). Two
    processes that share the folder share the work: what one of them is busy with, the other leaves until last.

    Args:
        recipes: by name; options are fixed with ``functools.partial`` and must be plain values (numbers, strings).
            Functions, classes and plain values that a recipe finds around it count; the insides of other objects
            cannot be seen, so pass what matters as an option.
        data: handed to each recipe.
        seeds: at least one.
        cache: a folder, or None to remember nothing.
        progress: show a bar.

    Returns:
        A table with one row per run: ``recipe``, ``seed`` and the recipe's numbers; in its ``attrs``, ``"seconds"``
        holds what each run took when it was made, row by row, and ``"packages"`` the checksum of the package that made
        it (None without a cache).

    Raises:
        ValueError: no recipes or seeds, a seed given twice, a recipe that returns no numbers, NaN or other names than
            before, or a damaged file in the cache.
        TypeError: with a cache, an option that is not a plain value, or a recipe whose source does not tell what it
            does: a lambda, a function that closes over variables, an object.
        OSError: with a cache, a recipe that uses something whose source is not available.
    """
    import pandas as pd

    seeds = [int(seed) for seed in seeds]
    if not recipes or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"compare needs recipes and distinct seeds, not {list(recipes)} and {seeds}")
    checksum = fingerprint(data) if cache is not None else ""
    keys = {name: cache_key(recipe, checksum) for name, recipe in recipes.items()} if cache is not None else {}
    waiting = [(seed, name) for seed in seeds for name in recipes]
    done: dict[tuple[int, str], Run] = {}
    with tqdm(total=len(waiting), disable=not progress, leave=False, unit="run") as bar:
        for wait in (False, True):  # first what nobody is busy with, then what somebody was
            for seed, name in waiting:
                bar.set_postfix_str(f"{name}, seed {seed}")
                work = partial(_run, name, recipes[name], data, seed)
                if cache is None:
                    run = work()
                else:
                    run = load_or_run(keys[name] | {"seed": seed}, work, Path(cache), wait=wait, recipe=name)
                if run is not None:
                    done[seed, name] = run
                    _check_names(name, seed, run, *next(iter(done.items())))
                    bar.update()
            waiting = [run for run in waiting if run not in done]
    in_order = [(seed, name) for seed in seeds for name in recipes]
    runs = pd.DataFrame([{"recipe": name, "seed": seed, **done[seed, name].numbers} for seed, name in in_order])
    runs.attrs["seconds"] = [done[run].seconds for run in in_order]
    runs.attrs["packages"] = [done[run].package for run in in_order]
    return runs


def league(runs: pd.DataFrame, metric: str, *, baseline: str) -> pd.DataFrame:
    """The table of a comparison: mean and 95 % interval per recipe, and the paired difference to the baseline.

    Args:
        runs: from :func:`compare`, with two seeds or more.
        metric: one of its columns.
        baseline: one of its recipes.

    Returns:
        One row per recipe, in the order they ran: ``n``, ``mean``, ``±``; and ``difference``, ``low``, ``high`` (recipe
        minus baseline, seed by seed; blank for the baseline itself) with ``excludes 0``, true where that 95 % interval
        excludes 0 and so the difference is not inconclusive.

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
        difference = paired_difference(by_recipe[name], by_recipe[baseline])
        rows[name] = {
            "n": own.n,
            "mean": own.mean,
            "±": own.half_width,
            "difference": difference.mean,
            "low": difference.low,
            "high": difference.high,
            "excludes 0": difference.excludes_zero(),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("recipe")
    table.loc[baseline, ["difference", "low", "high"]] = math.nan
    return table


def _run(name: str, recipe: Recipe, data: Data, seed: int) -> Run:
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


def _check_names(name: str, seed: int, run: Run, first: tuple[int, str], of_first: Run) -> None:
    if run.numbers.keys() != of_first.numbers.keys():
        raise ValueError(
            f"every recipe must return the same named numbers, but {name!r} returns {sorted(run.numbers)} "
            f"for seed {seed}, and {first[1]!r} returned {sorted(of_first.numbers)}"
        )
