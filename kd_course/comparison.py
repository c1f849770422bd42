"""One way to compare recipes: same seeds for all, one row per run, differences taken pair by pair.

A *recipe* is a function ``recipe(data, seed, **options)`` that trains something and returns named numbers. ::

    def student(data, seed, *, alpha):
        ...
        return {"errors": ..., "nll": ...}


    runs = compare({"scratch": partial(student, alpha=0.0), "KD": partial(student, alpha=0.9)}, data, seeds=range(5))
    league(runs, "errors", baseline="scratch")
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock
from tqdm.auto import tqdm

from kd_course.data import Data
from kd_course.evaluation import mean_interval, paired_difference

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
    written down as soon as it ends, under a name made of all that decides it: the recipe's source and options, the
    seed, the data, the version of PyTorch. A run found there is not repeated; a recipe edited by one character is.
    A lock per run lets two notebooks share the folder.

    Args:
        recipes: by name; options are fixed with ``functools.partial`` and must be plain values (numbers, strings).
            What a function takes from its surroundings cannot be seen: pass all that matters as an option.
        data: handed to each recipe. seeds: at least one. cache: a folder, or None. progress: show a bar.

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
    data_checksum = fingerprint(data) if cache is not None else ""
    rows = []
    with tqdm(total=len(recipes) * len(seeds), disable=not progress, leave=False, unit="run") as bar:
        for seed in seeds:
            for name, recipe in recipes.items():
                bar.set_postfix_str(f"{name}, seed {seed}")
                if cache is None:
                    numbers = _numbers(name, recipe, data, seed)
                else:
                    numbers = _recall(name, recipe, data, seed, Path(cache), data_checksum)
                row = {"recipe": name, "seed": seed, **numbers}
                rows.append(row)
                if row.keys() != rows[0].keys():
                    first = sorted(rows[0].keys() - {"recipe", "seed"})
                    raise ValueError(
                        f"every recipe must return the same named numbers, but {name!r} returns {sorted(numbers)} "
                        f"for seed {seed}, and {rows[0]['recipe']!r} returned {first}"
                    )
                bar.update()
    return pd.DataFrame(rows)


def league(runs: pd.DataFrame, metric: str, *, baseline: str) -> pd.DataFrame:
    """The table of a comparison: mean and 95 % interval per recipe, and the paired difference to the baseline.

    Args:
        runs: from :func:`compare`, with two seeds or more. metric: one of its columns. baseline: one of its recipes.

    Returns:
        One row per recipe, in the order they ran: ``n``, ``mean``, ``±``; and ``difference``, ``low``, ``high`` (recipe
        minus baseline, seed by seed) with ``told apart``, true where that interval excludes 0.

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
        rows[name] = {"n": own.n, "mean": own.mean, "±": own.half_width}
        if name != baseline:
            gain = paired_difference(by_recipe[name], by_recipe[baseline])
            rows[name] |= {"difference": gain.mean, "low": gain.low, "high": gain.high}
            rows[name]["told apart"] = gain.excludes_zero()
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("recipe")


def _numbers(name: str, recipe: Recipe, data: Data, seed: int) -> dict[str, float]:
    result = recipe(data, seed)
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
    return numbers


def _recall(name: str, recipe: Recipe, data: Data, seed: int, folder: Path, data_checksum: str) -> dict[str, float]:
    """The numbers of a run: read from the cache, or computed once and written there."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**_content(recipe), "seed": seed, "data": data_checksum, "torch": torch.__version__}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f"{key}.json"
    with FileLock(folder / f"{key}.lock"):
        if path.exists():
            try:
                return json.loads(path.read_text(encoding="utf-8"))["numbers"]
            except (ValueError, KeyError, TypeError) as error:
                mend = "delete it, and the run will be done again"
                raise ValueError(f"{path} is not a readable result ({error!r}); {mend}") from error
        numbers = _numbers(name, recipe, data, seed)
        unfinished = folder / f".{key}.unfinished"  # only the holder of the lock writes it
        unfinished.write_text(json.dumps({"recipe": name, **content, "numbers": numbers}, indent=1), encoding="utf-8")
        os.replace(unfinished, path)
        return numbers


def _content(recipe: Recipe) -> dict[str, object]:
    """All of a recipe that can be seen: the source of its function, and its options."""
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
    return {"source": textwrap.dedent(inspect.getsource(recipe)), "options": options}


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
