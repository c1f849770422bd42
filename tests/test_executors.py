"""``compare(…, executor=…)``: the table of one process, whoever does the runs.

Most tests have executors that do what they are told in this process, so that the order of events is theirs to choose.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import threading
import types
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from filelock import FileLock
from torch import nn

from kd_course import _jobs, comparison
from kd_course.comparison import compare
from kd_course.data import Batch, Data, Split
from kd_course.memo import package_checksum
from kd_course.runtime import seeded
from kd_course.training import fit


@pytest.fixture
def data(tiny_split: Callable[..., Split]) -> Data:
    return Data("tiny", "made up", tiny_split(12), tiny_split(6, seed=1), tiny_split(9, seed=2), classes=3)


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Two processes, as the docstring recommends them."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, initializer=torch.set_num_threads, initargs=[1]) as pool:
        yield pool


class Inline(Executor):
    """Does each call as it is handed over, and counts them."""

    def __init__(self) -> None:
        self.calls = 0

    def submit(self, function: Callable, *arguments: Any) -> Future:
        self.calls += 1
        future: Future = Future()
        try:
            future.set_result(self.do(function, *arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def do(self, function: Callable, *arguments: Any) -> Any:
        return function(*pickle.loads(pickle.dumps(arguments)))


class Waiting(Executor):
    """Does nothing until the last call has come; then ``begin`` gets all futures, with what sets their results."""

    def __init__(self, calls: int, begin: Callable[[list[Future], list[Callable]], None]) -> None:
        self.calls, self.begin = calls, begin
        self.futures: list[Future] = []
        self.work: list[Callable] = []

    def submit(self, function: Callable, *arguments: Any) -> Future:
        future: Future = Future()
        self.futures.append(future)
        self.work.append(lambda: future.set_result(function(*arguments)))
        if len(self.futures) == self.calls:
            self.begin(self.futures, self.work)
        return future


# Recipes, in a file that a worker can import.


def trained(data: Data, seed: int, *, rate: float) -> dict[str, float]:
    """A real training, whose numbers change with any bit of its weights."""
    with seeded(seed):
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(28 * 28, data.classes))

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch.images), batch.labels)

    optimizer = partial(torch.optim.SGD, lr=rate)
    history = fit(model, objective, data.train, epochs=2, seed=seed, batch_size=5, optimizer=optimizer, progress=False)
    return {"loss": history["loss"].iloc[-1], "weights": model[2].weight.double().sum()}


def counted(data: Data, seed: int, *, log: str, fails: bool = False) -> dict[str, float]:
    """A number that no second run would return."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{seed}\n")
    if fails:
        raise ZeroDivisionError(f"division by {seed}")
    return {"number": uuid.uuid4().int % 10**12}


def one_way(data: Data, seed: int) -> dict[str, float]:
    return {"x": seed, "y": 2}


def other_way(data: Data, seed: int) -> dict[str, float]:
    return {"y": 3, "x": seed}


def writes_into_the_data(data: Data, seed: int) -> dict[str, float]:
    before = int(data.test.labels.sum())
    data.test.labels.zero_()
    return {"sum": before}


def same_table(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert one.attrs.keys() == other.attrs.keys() == {"seconds", "packages"}
    assert len(one.attrs["seconds"]) == len(other.attrs["seconds"]) == len(one)
    assert one.attrs["packages"] == other.attrs["packages"]


# The table of one process.

RATES = {"slow": partial(trained, rate=0.01), "fast": partial(trained, rate=0.1)}


def test_a_pool_of_processes_gives_the_table_of_one_process_bit_for_bit(
    data: Data, pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    alone = compare(RATES, data, seeds=(3, 0, 1), progress=False)
    assert alone["weights"].nunique() == 6
    same_table(compare(RATES, data, seeds=(3, 0, 1), executor=pool, progress=False), alone)

    cached = compare(RATES, data, seeds=(3, 0, 1), cache=tmp_path / "pool", executor=pool, progress=False)
    same_table(cached, compare(RATES, data, seeds=(3, 0, 1), cache=tmp_path / "one", progress=False))
    assert cached.attrs["packages"] == [package_checksum()] * 6
    files = [sorted(path.name for path in (tmp_path / folder).glob("*.json")) for folder in ("pool", "one")]
    assert files[0] == files[1] and len(files[0]) == 6  # one may go on with what the other has begun


@pytest.mark.parametrize("cached", [False, True], ids=["", "cached"])
@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["threads", "processes"])
def test_dask_gives_the_table_of_one_process_bit_for_bit(
    processes: bool, cached: bool, data: Data, tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    folders = [tmp_path / "dask", tmp_path / "one"] if cached else [None, None]
    with (
        distributed.LocalCluster(2, threads_per_worker=2, processes=processes, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        runs = compare(RATES, data, seeds=(3, 0), cache=folders[0], executor=client.get_executor(), progress=False)
    same_table(runs, compare(RATES, data, seeds=(3, 0), cache=folders[1], progress=False))


def test_dask_repeats_what_it_did_before_and_data_reach_its_workers_once(data: Data, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    recipes, log = {"a": partial(counted, log=str(tmp_path / "log"))}, tmp_path / "log"
    with (
        distributed.LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        executor, scatter, scattered, kept = client.get_executor(), client.scatter, [], []
        submit = executor.submit
        client.scatter = lambda *given, **options: scattered.append(options) or scatter(*given, **options)
        executor.submit = lambda *given: kept.append(client.submit(*given)) or submit(*given)  # as a traceback may
        first, second = (compare(recipes, data, seeds=range(3), executor=executor, progress=False) for _ in range(2))
    assert first["number"].nunique() == second["number"].nunique() == 3
    assert not set(first["number"]) & set(second["number"])
    assert len(log.read_text(encoding="utf-8").splitlines()) == 6
    assert len(scattered) == 2
    assert all(options["broadcast"] for options in scattered)  # or the end of one worker would be the end of the data


def test_the_table_does_not_depend_on_the_order_in_which_runs_end(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = {"a": one_way, "b": other_way}
    alone = compare(recipes, data, seeds=(5, 2), progress=False)

    def backwards(futures: list[Future], work: list[Callable]) -> None:
        for each in reversed(work):
            each()

    clock = iter([0, 1, 10, 12, 20, 23, 30, 34])
    monkeypatch.setattr(_jobs, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    runs = compare(recipes, data, seeds=(5, 2), executor=Waiting(4, backwards), progress=False)
    assert runs.attrs["seconds"] == [4, 3, 2, 1]
    same_table(runs, alone)
    assert list(runs) == ["recipe", "seed", "x", "y"]


def test_the_bar_moves_whenever_a_run_ends(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    moved, shown = threading.Semaphore(0), []

    class Bar(comparison.tqdm):
        def update(self, n: float = 1) -> None:
            shown.append((n, self.total))
            moved.release()

    def each_after_the_last_was_shown(futures: list[Future], work: list[Callable]) -> None:
        def go() -> None:
            for number, each in enumerate(reversed(work)):
                assert not number or moved.acquire(timeout=60)
                each()

        threading.Thread(target=go, daemon=True).start()

    monkeypatch.setattr(comparison, "tqdm", Bar)
    compare({"a": one_way}, data, seeds=range(3), executor=Waiting(3, each_after_the_last_was_shown), progress=False)
    assert shown == [(1, 3)] * 3


def test_a_recipe_that_writes_into_its_data_spoils_no_other_run(data: Data, pool: ProcessPoolExecutor) -> None:
    before = data.test.labels.clone()
    runs = compare({"a": writes_into_the_data}, data, seeds=range(4), executor=pool, progress=False)
    assert runs["sum"].tolist() == [9] * 4
    assert data.test.labels.equal(before) and not data.test.labels.is_shared()


class Threads(Executor):
    """Threads of this process, which nothing can tell from a process pool; a Dask worker may have them."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(2)

    def submit(self, *arguments: Any) -> Future:
        return self.threads.submit(*arguments)


TWO = threading.Barrier(2)


def meets_another(data: Data, seed: int) -> dict[str, float]:
    try:
        TWO.wait(timeout=0.2)
    except threading.BrokenBarrierError:
        TWO.reset()
        return {"met": 0}
    return {"met": 1}


def test_a_worker_with_several_threads_does_one_run_at_a_time(data: Data) -> None:
    executor = Threads()
    runs = compare({"a": meets_another}, data, seeds=range(2), executor=executor, progress=False)
    executor.threads.shutdown()
    assert runs["met"].tolist() == [0, 0]


# A cache.


def test_what_is_remembered_is_not_handed_out(data: Data, tmp_path: Path) -> None:
    recipes = {"a": partial(counted, log=str(tmp_path / "log"))}
    executor = Inline()
    alone = compare(recipes, data, seeds=range(2), cache=tmp_path / "cache", progress=False)
    more = compare(recipes, data, seeds=range(3), cache=tmp_path / "cache", executor=executor, progress=False)
    assert executor.calls == 1
    assert more["number"].tolist()[:2] == alone["number"].tolist()
    assert more.attrs["seconds"][:2] == alone.attrs["seconds"]
    again = compare(recipes, data, seeds=range(3), cache=tmp_path / "cache", executor=executor, progress=False)
    assert executor.calls == 1
    same_table(again, more)


class Abroad(Inline):
    """A machine with a disk of its own."""

    def __init__(self, disk: Path) -> None:
        super().__init__()
        self.disk = disk

    def do(self, function: Callable, job: Any, *arguments: Any) -> Any:
        return super().do(function, job._replace(folder=self.disk), *arguments)


def test_where_workers_have_another_disk_the_calling_process_keeps_the_runs_too(data: Data, tmp_path: Path) -> None:
    recipes = {"a": partial(counted, log=str(tmp_path / "log"))}
    executor = Abroad(tmp_path / "there")
    runs = compare(recipes, data, seeds=range(2), cache=tmp_path / "here", executor=executor, progress=False)
    names = [sorted(path.name for path in (tmp_path / disk).glob("*.json")) for disk in ("here", "there")]
    assert names[0] == names[1] and len(names[0]) == 2
    same_table(compare(recipes, data, seeds=range(2), cache=tmp_path / "here", progress=False), runs)
    compare(recipes, data, seeds=range(2), cache=tmp_path / "here", executor=executor, progress=False)
    assert executor.calls == 2


def test_the_cache_is_one_folder_wherever_a_worker_stands(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(Inline):
        def do(self, *arguments: Any) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path / "worker")
                return super().do(*arguments)

    (tmp_path / "worker").mkdir()
    monkeypatch.chdir(tmp_path)
    compare({"a": one_way}, data, seeds=[0], cache="cache", executor=Elsewhere(), progress=False)
    assert len(list((tmp_path / "cache").glob("*.json"))) == 1
    assert not list((tmp_path / "worker").iterdir())


def test_a_run_that_another_process_is_busy_with_is_handed_out_last(data: Data, tmp_path: Path) -> None:
    log = tmp_path / "log"
    recipes = {"a": partial(counted, log=str(log))}
    compare(recipes, data, seeds=[0], cache=tmp_path / "cache", progress=False)
    (path,) = (tmp_path / "cache").glob("*.json")
    path.unlink()
    log.write_text("", encoding="utf-8")
    taken, rest_is_done = threading.Event(), threading.Event()

    def other() -> None:
        with FileLock(path.with_suffix(".lock")):
            taken.set()
            assert rest_is_done.wait(60)

    class Watched(Inline):
        def do(self, function: Callable, job: Any, *arguments: Any) -> Any:
            if job.wait:
                rest_is_done.set()
            return super().do(function, job, *arguments)

    threading.Thread(target=other, daemon=True).start()
    assert taken.wait(60)
    runs = compare(recipes, data, seeds=range(3), cache=tmp_path / "cache", executor=Watched(), progress=False)
    assert log.read_text(encoding="utf-8").split() == ["1", "2", "0"]
    assert runs["seed"].tolist() == [0, 1, 2]


def test_two_comparisons_that_share_a_folder_share_the_work(
    data: Data, pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    recipes = {"a": partial(counted, log=str(tmp_path / "log"))}
    with ThreadPoolExecutor(2) as notebooks:
        job = partial(compare, recipes, data, seeds=range(8), cache=tmp_path / "cache", executor=pool, progress=False)
        one, other = (each.result() for each in [notebooks.submit(job), notebooks.submit(job)])
    same_table(one, other)
    assert sorted(map(int, (tmp_path / "log").read_text(encoding="utf-8").split())) == list(range(8))


# Failures.


def test_the_error_of_a_run_comes_back_with_its_recipe_and_seed(
    data: Data, pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    recipes = {"bad": partial(counted, log=str(tmp_path / "log"), fails=True)}
    for executor in (None, pool):
        with pytest.raises(ZeroDivisionError, match="division by 4") as caught:
            compare(recipes, data, seeds=[4], executor=executor, progress=False)
        assert caught.value.__notes__ == ["While waiting for recipe 'bad' with seed 4."]
    with pytest.raises(ZeroDivisionError, match="division by"):
        compare(recipes, data, seeds=range(3), cache=tmp_path / "cache", executor=pool, progress=False)
    assert not list((tmp_path / "cache").glob("*.json"))


class Talkative(Exception):
    """Pickle cannot make it anew from what it is printed with."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


def talkative(data: Data, seed: int) -> dict[str, float]:
    raise Talkative("nothing", "sight")


def test_an_error_that_cannot_travel_is_quoted_and_breaks_no_pool(data: Data, pool: ProcessPoolExecutor) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Talkative: nothing in sight") as caught:
            compare({"bad": talkative}, data, seeds=[4], executor=pool, progress=False)
        assert caught.value.__notes__ == ["While waiting for recipe 'bad' with seed 4."]


def test_after_an_error_no_further_run_begins(data: Data) -> None:
    def first_fails(futures: list[Future], work: list[Callable]) -> None:
        futures[1].set_running_or_notify_cancel()
        futures[0].set_exception(ZeroDivisionError("division by 0"))

    executor = Waiting(5, first_fails)
    with pytest.raises(ZeroDivisionError):
        compare({"a": one_way}, data, seeds=range(5), executor=executor, progress=False)
    assert [future.cancelled() for future in executor.futures] == [False, False, True, True, True]


def test_recipes_that_disagree_end_a_comparison_in_a_pool_too(data: Data) -> None:
    executor = Waiting(4, lambda futures, work: (work[0](), work[1]()))
    with pytest.raises(ValueError, match=r"every recipe must return the same named numbers"):
        compare({"a": one_way, "b": writes_into_the_data}, data, seeds=range(2), executor=executor, progress=False)
    assert [future.cancelled() for future in executor.futures] == [False, False, True, True]


@pytest.mark.skipif(sys.platform == "win32", reason="a thread cannot press Ctrl-C there")
def test_ctrl_c_cancels_what_has_not_begun(data: Data, request: pytest.FixtureRequest) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    main = threading.get_ident()
    ctrl_c = partial(signal.pthread_kill, main, signal.SIGINT)

    def press(futures: list[Future], work: list[Callable]) -> None:
        futures[2].set_running_or_notify_cancel()
        threading.Thread(target=ctrl_c).start()

    executor = Waiting(3, press)
    with pytest.raises(KeyboardInterrupt):
        compare({"a": one_way}, data, seeds=range(3), executor=executor, progress=False)
    assert [future.cancelled() for future in executor.futures] == [True, True, False]


def test_an_interruption_while_runs_are_handed_out_cancels_them(data: Data) -> None:
    def interrupt(futures: list[Future], work: list[Callable]) -> None:
        raise KeyboardInterrupt

    executor = Waiting(3, interrupt)
    with pytest.raises(KeyboardInterrupt):
        compare({"a": one_way}, data, seeds=range(3), executor=executor, progress=False)
    assert [future.cancelled() for future in executor.futures][:2] == [True, True]


@pytest.mark.parametrize("kind", [BrokenProcessPool, CancelledError])  # the second is Dask's
def test_a_worker_that_dies_is_explained(kind: type[Exception], data: Data) -> None:
    def dies(futures: list[Future], work: list[Callable]) -> None:
        futures[0].set_exception(kind("terminated abruptly"))

    words = r"a worker ended before its run did \(.*terminated abruptly'\).*memory.*__main__.*make a new executor"
    with pytest.raises(kind, match=words):
        compare({"a": one_way}, data, seeds=[0], executor=Waiting(1, dies), progress=False)


@pytest.mark.parametrize("other", ["torch", "kd_course"])
def test_a_worker_with_other_versions_is_refused(other: str, data: Data) -> None:
    class Old(Inline):
        def do(self, function: Callable, job: Any, recipe: bytes, shared: bytes, versions: dict) -> Any:
            assert versions == {"torch": torch.__version__, "kd_course": package_checksum()}
            return super().do(function, job, recipe, shared, versions | {other: "0.1"})

    with pytest.raises(RuntimeError, match=rf"a worker has .*, this process has .*'{other}': '0.1'.*install the same"):
        compare({"a": one_way}, data, seeds=[0], executor=Old(), progress=False)


# Recipes that travel, and those that do not.


def closure(value: float) -> Callable:
    def recipe(data: Data, seed: int) -> dict[str, float]:
        return {"errors": value + seed}

    return recipe


def of_a_notebook() -> Callable:
    """A function such as a notebook or a prompt defines: its module is called ``__main__``."""
    scope = {"__name__": "__main__", "shift": 2}
    exec("def in_a_cell(data, seed):\n    return {'errors': shift + seed}", scope)
    return scope["in_a_cell"]


INTERACTIVE = [
    pytest.param(lambda data, seed: {"errors": 2 + seed}, id="lambda"),
    pytest.param(closure(2), id="closure"),
    pytest.param(of_a_notebook(), id="notebook"),
]


@pytest.mark.parametrize("recipe", INTERACTIVE)
def test_with_cloudpickle_recipes_of_a_notebook_reach_a_pool(
    recipe: Callable, data: Data, pool: ProcessPoolExecutor
) -> None:
    pytest.importorskip("cloudpickle")
    runs = compare({"a": recipe}, data, seeds=range(2), executor=pool, progress=False)
    assert runs["errors"].tolist() == [2, 3]


@pytest.mark.parametrize("recipe", INTERACTIVE)
def test_without_cloudpickle_a_recipe_that_cannot_travel_is_refused_at_once(
    recipe: Callable, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    executor = Inline()
    words = r"recipe 'b' cannot travel to another process \(.*\); define it with def in a file.*or install cloudpickle"
    with pytest.raises(TypeError, match=words):
        compare({"a": one_way, "b": recipe}, data, seeds=[0], executor=executor, progress=False)
    assert not executor.calls


def test_a_recipe_that_holds_what_cannot_be_copied_is_refused(data: Data) -> None:
    def recipe(data: Data, seed: int, *, lock: Any) -> dict[str, float]:
        return {"errors": 1.0}

    with pytest.raises(TypeError, match=r"recipe 'a' cannot travel to another process \(.*\).*fix plain options"):
        compare({"a": partial(recipe, lock=threading.Lock())}, data, seeds=[0], executor=Inline(), progress=False)


def test_without_cloudpickle_a_worker_says_that_it_does_not_know_a_notebook(
    data: Data, pool: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    recipe = of_a_notebook()
    monkeypatch.setattr(sys.modules["__main__"], "in_a_cell", recipe, raising=False)
    for _ in range(2):  # and it lives on
        with pytest.raises(
            TypeError, match=r"recipe 'a' is not to be found in another process \(.*in_a_cell.*define it"
        ):
            compare({"a": recipe}, data, seeds=[0], executor=pool, progress=False)


def test_a_file_that_the_worker_does_not_have_is_named(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("only_here")
    exec("def recipe(data, seed):\n    return {'errors': seed}", vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)

    class Abroad(Inline):
        def do(self, *arguments: Any) -> Any:
            with monkeypatch.context() as patch:
                patch.delitem(sys.modules, "only_here")
                return super().do(*arguments)

    with pytest.raises(TypeError, match=r"recipe 'a' is not to be found in another process \(.*only_here.*define it"):
        compare({"a": module.recipe}, data, seeds=[0], executor=Abroad(), progress=False)


# What is an executor.


@pytest.mark.parametrize("given", [4, "processes", ProcessPoolExecutor, types.SimpleNamespace(submit=print)])
def test_what_is_no_executor_is_refused(given: Any, data: Data) -> None:
    words = r"executor must be a pool such as ProcessPoolExecutor\(2, mp_context=.*spawn.*get_executor\(\) .*, not "
    with pytest.raises(TypeError, match=words):
        compare({"a": one_way}, data, seeds=[0], executor=given, progress=False)


def test_threads_are_refused(data: Data) -> None:
    with ThreadPoolExecutor(2) as threads, pytest.raises(TypeError, match="threads share PyTorch's random generators"):
        compare({"a": one_way}, data, seeds=[0], executor=threads, progress=False)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes are not forked here")
def test_a_pool_that_forks_is_refused_because_it_would_hang(data: Data) -> None:
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as forks,
        pytest.raises(ValueError, match=r"forked processes hang in PyTorch.*give a pool such as .*'spawn'"),
    ):
        compare({"a": one_way}, data, seeds=[0], executor=forks, progress=False)
