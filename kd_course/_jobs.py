"""The runs of a comparison, done one after another in this process, or by the workers of an executor."""

from __future__ import annotations

import math
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from kd_course.data import Data
from kd_course.memo import Run, load_or_run, package_checksum

Recipe = Callable[..., Mapping[str, float]]
_ALONE = threading.Lock()  # random generators belong to a process, so a worker with several threads uses one at a time
_SUITABLE = (
    "a pool such as ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('spawn')), or client.get_executor() "
    "of a Dask client"
)
_TRAVEL = (
    "define it with def in a file that the workers can import, fix plain options with functools.partial, or install "
    "cloudpickle here and there, which takes functions of a notebook as well"
)


class Job(NamedTuple):
    """One run to be done, or to be read from a folder."""

    name: str
    seed: int
    folder: Path | None
    key: Mapping[str, object]
    wait: bool = False

    def result(self, work: Callable[[], Run]) -> Run | None:
        """What ``work`` returns, now or before; None while another process is at it, unless this job is to wait."""
        if self.folder is None:
            return work()
        return load_or_run(self.key, work, self.folder, wait=self.wait, recipe=self.name)


class _NotHere(Exception):
    """The folder does not have this run."""


def results(
    jobs: list[Job], recipes: Mapping[str, Recipe], data: Data, executor: Executor | None
) -> Iterator[tuple[Job, Callable[[], Run | None]]]:
    """Every job with a function that gives its result: at once, by doing the run, or when a worker has done it."""
    if executor is None:
        for job in jobs:
            yield job, partial(job.result, partial(_run, job.name, recipes[job.name], data, job.seed))
        return
    parcels = {name: _parcel(name, recipe) for name, recipe in recipes.items()}
    elsewhere = []
    for job in jobs:
        try:
            run = job._replace(wait=False).result(_not_here)
        except _NotHere:
            run = None
        if run is None:
            elsewhere.append(job)
        else:
            yield job, lambda run=run: run
    if not elsewhere:
        return
    shared = pickle.dumps(data)  # by value: processes must not write to each other's data, as through shared memory
    if scatter := getattr(getattr(executor, "_client", None), "scatter", None):  # Dask's
        shared = scatter(shared, hash=False, broadcast=True)  # under a new name, so that Dask recalls no earlier result
    futures: dict[Future, Job] = {}
    try:
        for job in elsewhere:
            futures[executor.submit(_work, job, parcels[job.name], shared, _versions())] = job
        for future in as_completed(futures):
            yield futures[future], partial(_fetch, futures[future], future)
    finally:
        for future in futures:
            future.cancel()


def _not_here() -> Run:
    raise _NotHere


def _parcel(name: str, recipe: Recipe) -> bytes:
    try:
        from cloudpickle import dumps
    except ImportError:
        from pickle import dumps
    try:
        return dumps(recipe)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(f"recipe {name!r} cannot travel to another process ({error}); {_TRAVEL}") from error


def _work(job: Job, recipe: bytes, data: bytes, versions: Mapping[str, str]) -> Run | None:
    """What a worker does."""
    if (own := _versions()) != versions:
        raise RuntimeError(f"a worker has {own}, this process has {versions}; install the same, and start both again")
    try:
        function = pickle.loads(recipe)
    except (AttributeError, ImportError) as error:
        raise TypeError(f"recipe {job.name!r} is not to be found in another process ({error}); {_TRAVEL}") from error
    try:
        with _ALONE:
            return job.result(partial(_run, job.name, function, pickle.loads(data), job.seed))
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # it would break the pool on its way back
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise


def _fetch(job: Job, future: Future) -> Run | None:
    """What a worker returned, written down here too if its folder was another one."""
    try:
        run = future.result()
    except (BrokenExecutor, CancelledError) as error:
        raise type(error)(
            f"a worker ended before its run did ({error!r}); give it more memory or fewer neighbours, begin a script "
            "with 'if __name__ == \"__main__\":', and make a new executor"
        ) from error
    return run and job.result(lambda: run)


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "kd_course": package_checksum()}


def _run(name: str, recipe: Recipe, data: Data, seed: int) -> Run:
    start = time.perf_counter()
    result = recipe(data, seed)
    seconds = time.perf_counter() - start
    if not isinstance(result, Mapping) or not result:
        raise ValueError(f"recipe {name!r} must return a dict of named numbers, not {result!r}")
    if unnamed := [key for key in result if not isinstance(key, str)]:
        raise ValueError(f"recipe {name!r} must name its numbers with text, not {unnamed}")
    if taken := {"recipe", "seed"} & result.keys():
        raise ValueError(f"recipe {name!r} must not name its numbers {sorted(taken)}: the table has such columns")
    numbers = {}
    for key, value in result.items():
        try:
            value = value.detach() if isinstance(value, torch.Tensor) else value
            numbers[key] = math.nan if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):  # None, an array, a tensor of several elements
            numbers[key] = math.nan
        if math.isnan(numbers[key]):
            raise ValueError(f"recipe {name!r} must return numbers, but {key!r} is {value!r} for seed {seed}")
    return Run(numbers, seconds)


def check_executor(executor: Executor | None) -> None:
    threads = isinstance(executor, ThreadPoolExecutor)
    if executor is not None and (threads or not isinstance(executor, Executor)):
        why = ", whose threads share PyTorch's random generators" if threads else ""
        raise TypeError(f"executor must be {_SUITABLE}, not {executor!r}{why}")
    context = getattr(executor, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(f"forked processes hang in PyTorch once this one has computed something; give {_SUITABLE}")
