"""One way to compare recipes: same seeds for all, one row per run, differences taken pair by pair.

A *recipe* is a function ``recipe(data, seed, **options)`` that trains something and returns named numbers. ::

    def student(data, seed, *, alpha):
        ...
        return {"errors": ..., "nll": ...}


    runs = compare({"scratch": partial(student, alpha=0.0), "KD": partial(student, alpha=0.9)}, data, seeds=range(5))
    league(runs, "errors", baseline="scratch")
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from kd_course._jobs import Job, Recipe, check_executor, results
from kd_course._validation import whole
from kd_course.data import Data
from kd_course.evaluation import mean_interval, paired_difference
from kd_course.memo import Run, cache_key, fingerprint, writable

if TYPE_CHECKING:
    import pandas as pd


def compare(
    recipes: Mapping[str, Recipe],
    data: Data,
    *,
    seeds: Iterable[int],
    cache: Path | str | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run every recipe with every seed; returns a tidy table with one row per run: recipe, seed and its numbers.

    Seeds are the outer loop, so an interrupted comparison is still a fair one. With a ``cache`` folder each run is
    written down as soon as it ends, and never repeated while its recipe means the same (see :mod:`kd_course.memo`). Two
    processes that share the folder share the work: what one of them is busy with, the other leaves until last.

    With an ``executor`` several runs are done at once, here or on other machines, and the table is the same. Let the
    threads of all processes together be no more than the cores::

        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(4, spawn, initializer=torch.set_num_threads, initargs=[1]) as pool:
            compare(recipes, data, seeds=range(5), executor=pool)

        with Client(n_workers=4, threads_per_worker=1) as client:  # from dask.distributed
            compare(recipes, data, seeds=range(5), executor=client.get_executor())

    Dask brings the data to each worker once; elsewhere a copy goes along with every run (0.4 s for MNIST). Recipes
    travel by cloudpickle, which comes with Dask and takes functions of a notebook too; where it is not installed by
    pickle, which takes those of files that the workers can import. A worker that does not see the ``cache`` folder has
    one of its own under the same path, and the calling process keeps every run in its own. After an error or Ctrl-C
    nothing more is handed out; the runs that a worker has already go on to their end.

    Args:
        recipes: by name; options are fixed with ``functools.partial`` and must be plain values (numbers, strings).
            Functions, classes and plain values that a recipe finds around it count; the insides of other objects
            cannot be seen, so pass what matters as an option.
        data: handed to each recipe.
        seeds: whole numbers, 0 or more; at least one.
        cache: a folder, or None to remember nothing.
        executor: a pool of processes, whose start method is not fork, or a cluster; None to do one run after another
            in this process.
        progress: show a bar.

    Returns:
        A table with one row per run: ``recipe``, ``seed`` and the recipe's numbers; in its ``attrs``, ``"seconds"``
        holds what each run took when it was made, row by row, and ``"packages"`` the checksum of the package that made
        it (None without a cache).

    Raises:
        ValueError: no recipes or seeds, a seed given twice, a recipe that returns no numbers, NaN or other names than
            before, a cache that cannot be written, or a damaged file in it.
        TypeError: an argument of another kind; with a cache, an option that is not a plain value, or a recipe whose
            source does not tell what it does: a lambda, a function that closes over variables, an object; with an
            executor, a recipe that cannot travel.
        OSError: with a cache, a recipe that uses something whose source is not available.
        RuntimeError: a worker with another version of PyTorch or of this package.
    """
    import pandas as pd

    seeds = _check_seeds(seeds)
    _check_recipes(recipes)
    check_executor(executor)
    if not isinstance(data, Data):
        raise TypeError(f"data must be a Data, which load_data() returns, not {type(data).__name__}")
    if not isinstance(cache, str | os.PathLike | None) or cache == "":
        raise TypeError(f"cache must be the path of a folder, or None to remember nothing, not {cache!r}")
    folder = None if cache is None else writable(cache).absolute()
    checksum = fingerprint(data) if folder else ""
    keys = {name: cache_key(recipe, checksum) for name, recipe in recipes.items()} if folder else {}
    _check_calls(recipes, data, seeds[0])
    waiting = [Job(name, seed, folder, {**keys.get(name, {}), "seed": seed}) for seed in seeds for name in recipes]
    done: dict[tuple[int, str], Run] = {}
    with tqdm(total=len(waiting), disable=not progress, leave=False, unit="run") as bar:
        for wait in (False, True):  # first what nobody is busy with, then what somebody was
            jobs = [job._replace(wait=wait) for job in waiting if (job.seed, job.name) not in done]
            with closing(results(jobs, recipes, data, executor)) as finished:
                for job, result in finished:
                    bar.set_postfix_str(f"{job.name}, seed {job.seed}")
                    try:
                        run = result()
                    except Exception as error:
                        error.add_note(f"While waiting for recipe {job.name!r} with seed {job.seed}.")
                        raise
                    if run is not None:
                        done[job.seed, job.name] = run
                        _check_names(job.name, job.seed, run, *next(iter(done.items())))
                        bar.update()
    in_order = [(seed, name) for seed in seeds for name in recipes]
    runs = pd.DataFrame([{"recipe": name, "seed": seed, **done[seed, name].numbers} for seed, name in in_order])
    runs.attrs["seconds"] = [done[run].seconds for run in in_order]
    runs.attrs["packages"] = [done[run].package for run in in_order]
    return runs


def league(runs: pd.DataFrame, metric: str, *, baseline: str) -> pd.DataFrame:
    """The table of a comparison: mean and 95 % interval per recipe, and the paired difference to the baseline.

    Args:
        runs: from :func:`compare`, with two seeds or more.
        metric: one of its columns of numbers.
        baseline: one of its recipes.

    Returns:
        One row per recipe, in the order they ran: ``n``, ``mean``, ``±``; and ``difference``, ``low``, ``high`` (recipe
        minus baseline, seed by seed; blank for the baseline itself) with ``excludes 0``, true where that 95 % interval
        excludes 0 and so the difference is not inconclusive.

    Raises:
        TypeError: ``runs`` is no table.
        ValueError: a table of another kind, no such metric or baseline, a single seed, a run that is there twice or has
            no finite number, or recipes that ran with different seeds.
    """
    import pandas as pd

    if not isinstance(runs, pd.DataFrame):
        raise TypeError(f"runs must be a table from compare, not a {type(runs).__name__}")
    fits = {"recipe", "seed"} <= set(runs) and runs.columns.is_unique
    if not fits or runs[["recipe", "seed"]].isna().any(axis=None):
        raise ValueError(f"runs must have a recipe and a seed in every row, and each column once, not {list(runs)}")
    numbers = [name for name in runs.select_dtypes("number") if name != "seed"]
    if not isinstance(metric, str) or metric not in numbers:
        raise ValueError(f"metric must be one of the columns of numbers {numbers}, not {metric!r}")
    known = list(dict.fromkeys(runs["recipe"]))
    if not isinstance(baseline, str) or baseline not in known:
        raise ValueError(f"baseline must be one of the recipes {known}, not {baseline!r}")
    columns = ["recipe", "seed", metric]
    if (twice := runs.duplicated(columns[:2])).any():
        name, seed, _ = runs.loc[twice, columns].iloc[0]
        raise ValueError(f"a recipe counts once per seed, but {name!r} has two rows with seed {seed}; drop one")
    if (wrong := runs[metric].isna() | runs[metric].abs().eq(math.inf)).any():
        name, seed, value = runs.loc[wrong, columns].iloc[0]
        raise ValueError(f"an interval needs finite numbers, but {metric!r} of {name!r} with seed {seed} is {value}")
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


def _check_names(name: str, seed: int, run: Run, first: tuple[int, str], of_first: Run) -> None:
    if run.numbers.keys() != of_first.numbers.keys():
        raise ValueError(
            f"every recipe must return the same named numbers, but {name!r} returns {sorted(run.numbers)} "
            f"for seed {seed}, and {first[1]!r} returned {sorted(of_first.numbers)}"
        )


def _check_seeds(seeds: Iterable[int]) -> list[int]:
    try:
        given = None if isinstance(seeds, str | bytes) else list(seeds)
    except TypeError:  # one number
        given = None
    checked = [whole(seed, "each of the seeds") for seed in given or []]
    if not checked or len(set(checked)) < len(checked):
        words = f"seeds must be distinct whole numbers, at least one, such as range(5), not {seeds!r}"
        raise TypeError(words) if given is None else ValueError(words)
    return checked


def _check_recipes(recipes: Mapping[str, Recipe]) -> None:
    named = isinstance(recipes, Mapping) and all(isinstance(name, str) for name in recipes)
    if not named or not recipes:
        words = f"recipes must be functions by name, at least one, such as {{'KD': student}}, not {recipes!r}"
        raise ValueError(words) if named else TypeError(words)
    for name, recipe in recipes.items():
        if not callable(recipe):
            raise TypeError(f"recipe {name!r} must be a function, which compare will call, not {recipe!r}")


def _check_calls(recipes: Mapping[str, Recipe], data: Data, seed: int) -> None:
    for name, recipe in recipes.items():
        try:
            inspect.signature(recipe).bind(data, seed)
        except ValueError:  # a builtin that does not tell
            pass
        except TypeError as error:
            raise TypeError(
                f"recipe {name!r} is called as recipe(data, seed), which does not fit ({error}); "
                "fix its options by name with functools.partial"
            ) from None
