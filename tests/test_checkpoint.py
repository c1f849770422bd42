"""Checkpoints: a training that was interrupted or killed ends at the same numbers, and no other file is accepted.

Run as a script, this file trains with a checkpoint, then hangs until it is killed; a test below does that.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from small_training import (
    MakeSplit,
    Marks,
    State,
    cross_entropy,
    interrupted_after,
    network,
    numbers,
    quietly,
    same,
    state,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from kd_course.checkpoint import Checkpoint, checksum
from kd_course.data import Augmented, Batch, Split, jitter
from kd_course.inference import Teacher, freeze, predict
from kd_course.losses import soft_target_loss
from kd_course.models import mlp
from kd_course.runtime import seeded
from kd_course.training import cosine, fit

# Interruption and resumption.


@pytest.mark.parametrize("steps", [1, 3, 4, 8, 11])
def test_an_interrupted_training_ends_at_the_same_numbers(tiny_split: MakeSplit, tmp_path: Path, steps: int) -> None:
    split, checkpoint = tiny_split(12), tmp_path / "deep" / "run.pt"  # 3 steps in each of 4 epochs

    def run(objective: Any, model: nn.Module, checkpoint: Path | None) -> pd.DataFrame:
        return quietly(
            model,
            objective,
            split,
            epochs=4,
            seed=3,
            schedule=cosine,
            evaluate=lambda model: {"mean": predict(model, split).mean().item()},
            checkpoint=checkpoint,
            tag="the same training",
        )

    whole = network(dropout=0.5)
    expected = run(cross_entropy, whole, None)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted_after(steps), network(dropout=0.5), checkpoint)
    assert checkpoint.exists() == (steps >= 3)
    resumed = network(seed=77, dropout=0.5)  # the checkpoint replaces these weights
    if not checkpoint.exists():
        resumed = network(dropout=0.5)
    seen = []
    found = run(lambda model, batch: seen.append(batch.progress) or cross_entropy(model, batch), resumed, checkpoint)
    assert len(seen) == 12 - steps // 3 * 3  # only what was missing was trained
    pd.testing.assert_frame_equal(numbers(found), numbers(expected), check_exact=True)
    assert same(state(resumed), state(whole))


def test_a_checkpoint_holds_whatever_kind_of_number_evaluate_returns(tiny_split: MakeSplit, tmp_path: Path) -> None:
    """NumPy's scalars, which most metrics return, cannot be read back from a checkpoint."""
    kinds = {"numpy": np.float64(0.5), "tensor": torch.tensor(0.25), "whole": 3}
    options = {"evaluate": lambda model: kinds, "monitor": "numpy", "better": "lower"}
    options |= {"checkpoint": tmp_path / "run.pt", "epochs": 2}
    history = quietly(network(), cross_entropy, tiny_split(), **options)
    again = quietly(network(), cross_entropy, tiny_split(), **options)
    assert history.equals(again)
    assert again.loc[1, ["numpy", "tensor", "whole"]].to_list() == [0.5, 0.25, 3.0]


def test_a_finished_training_is_not_trained_again(tiny_split: MakeSplit, tmp_path: Path) -> None:
    model, options = network(), {"epochs": 2, "checkpoint": tmp_path / "run.pt", "tag": "the same training"}
    expected = quietly(model, cross_entropy, tiny_split(), **options)
    again = network(seed=5)
    found = quietly(again, lambda *_: pytest.fail("trained again"), tiny_split(), **options)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert same(state(again), state(model))


@pytest.mark.parametrize("steps", [4, 7, 10, 13])
def test_patience_counts_on_through_an_interruption(tiny_split: MakeSplit, tmp_path: Path, steps: int) -> None:
    marks, options = (5, 3, 4, 4, 4, 0), {"epochs": 6, "monitor": "nll", "patience": 3, "tag": "the same training"}
    whole, all_marks = network(), Marks(*marks)
    expected = quietly(whole, cross_entropy, tiny_split(), evaluate=all_marks, **options)
    before, checkpoint = Marks(*marks), tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        quietly(network(), interrupted_after(steps), tiny_split(), evaluate=before, checkpoint=checkpoint, **options)
    after, resumed = Marks(*marks[len(before.weights) :]), network()
    found = quietly(resumed, cross_entropy, tiny_split(), evaluate=after, checkpoint=checkpoint, **options)
    pd.testing.assert_frame_equal(numbers(found), numbers(expected), check_exact=True)
    assert same(state(resumed), state(whole))


def test_a_training_that_ran_out_of_patience_stays_stopped_and_gives_its_best_weights(
    tiny_split: MakeSplit, tmp_path: Path
) -> None:
    options = {"epochs": 6, "monitor": "nll", "patience": 2, "checkpoint": tmp_path / "run.pt", "tag": "the same"}
    evaluate = Marks(5, 3, 4, 4)
    quietly(network(), cross_entropy, tiny_split(), evaluate=evaluate, **options)
    again = network(seed=9)
    found = quietly(
        again, cross_entropy, tiny_split(), evaluate=lambda model: pytest.fail("one epoch too many"), **options
    )
    assert found["nll"].to_list() == [5, 3, 4, 4]
    assert same(state(again), evaluate.weights[1])


# What is refused.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"seed": 1}, "seed 0 .*1 here", id="seed"),
        pytest.param({"epochs": 9}, "epochs 2 .*9 here", id="epochs"),
        pytest.param({"batch_size": 3}, "batch_size 5 .*3 here", id="batch size"),
        pytest.param({"samples": 9}, "samples 12 .*9 here", id="samples"),
        pytest.param({"origin": "elsewhere"}, "origin tiny there, elsewhere here", id="origin"),
        pytest.param({"evaluate": lambda model: {"nll": 1.0}, "monitor": "nll"}, "monitor", id="monitor"),
        pytest.param({"optimizer": partial(torch.optim.Adam, lr=0.5)}, r"rates \[\[0.001\]\] .*\[\[0.5\]\]", id="rate"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_name(
    tiny_split: MakeSplit, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt", "samples": 12}

    def run(samples: int, origin: str = "tiny", **options: Any) -> None:
        quietly(network(), cross_entropy, replace(tiny_split(samples), origin=origin), **options)

    run(**options)
    with pytest.raises(ValueError, match=rf"run\.pt .*another training.*{words}.*delete .*run\.pt"):
        run(**(options | change))


def test_a_checkpoint_of_another_network_is_refused_by_name(tiny_split: MakeSplit, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt"}
    quietly(network(), cross_entropy, tiny_split(), **options)
    with pytest.raises(ValueError, match=r"run\.pt .*another training .*model checksum.*delete .*run\.pt"):
        quietly(mlp(17, classes=3), cross_entropy, tiny_split(), **options)


@pytest.mark.parametrize("change", ["network", "optimizer"])
def test_under_a_tag_another_network_or_optimizer_is_refused_and_the_model_stays_as_it_is(
    tiny_split: MakeSplit, tmp_path: Path, change: str
) -> None:
    def of_the_head(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters[-2:])

    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt", "tag": "mine"}
    quietly(network(), cross_entropy, tiny_split(), **options)
    model = mlp(17, classes=3) if change == "network" else network(seed=5)
    before = state(model)
    with pytest.raises(ValueError, match=r"(?s)run\.pt holds another model or optimizer.*delete .*run\.pt"):
        quietly(
            model,
            cross_entropy,
            tiny_split(),
            **(options if change == "network" else options | {"optimizer": of_the_head}),
        )
    assert same(state(model), before)


class Trap:
    """Unpickling it would run a command."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("a checkpoint ran code",)


def damaged(kind: str, path: Path) -> None:
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "cut short":
            path.write_bytes(path.read_bytes()[:-100])
        case "text":
            path.write_text("not a checkpoint")
        case "a list":
            torch.save([1, 2], path)
        case "code":
            torch.save({"identity": Trap()}, path)


@pytest.mark.parametrize("kind", ["empty", "cut short", "text", "a list", "code"])
def test_a_file_that_is_not_a_checkpoint_is_refused_by_name(tiny_split: MakeSplit, tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt"}
    quietly(network(), cross_entropy, tiny_split(), **options)
    damaged(kind, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"(?s)run\.pt .*readable checkpoint.*delete .*run\.pt"):
        quietly(network(), cross_entropy, tiny_split(), **options)


# Which training a checkpoint belongs to.

ALPHA, STUDENT = 0.9, None  # globals of the objectives below


def by_closure(alpha: float) -> Any:
    return lambda model, batch: alpha * cross_entropy(model, batch)


def by_default(alpha: float) -> Any:
    return lambda model, batch, alpha=alpha: alpha * cross_entropy(model, batch)


def by_keyword_default(alpha: float) -> Any:
    return lambda model, batch, *, alpha=alpha: alpha * cross_entropy(model, batch)


def weighted(model: nn.Module, batch: Batch, alpha: float) -> Tensor:
    return alpha * cross_entropy(model, batch)


def of_the_global(model: nn.Module, batch: Batch) -> Tensor:
    return sum(ALPHA * cross_entropy(model, each) for each in [batch])  # within an inner function


@dataclass
class Weighted:
    """An objective with a state."""

    alpha: float

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.loss(model, batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.alpha * cross_entropy(model, batch)


class Slotted:
    """The same without a dictionary."""

    __slots__ = ("alpha",)

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.alpha * cross_entropy(model, batch)


def doubled(function: Any) -> Any:
    return lambda model, batch: 2 * function(model, batch)


def averaging(*marks: float) -> Any:
    return lambda model: {"nll": sum(marks)}


def teacher(seed: int = 1, *, activation: nn.Module | None = None, mode: bool = False) -> nn.Module:
    with seeded(seed):
        network = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), activation or nn.ReLU(), nn.Linear(8, 3))
    return freeze(network).train(mode)


def taught_by(*teachers: nn.Module) -> Any:
    def objective(model: nn.Module, batch: Batch) -> Tensor:
        return sum(soft_target_loss(model(batch.images), each(batch.images), temperature=2) for each in teachers)

    return objective


def beside(teacher: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"student": network(), "teacher": teacher})


def of_the_student(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model["student"], batch)


def table(seed: int) -> Tensor:
    return torch.randn(12, 3, generator=torch.Generator().manual_seed(seed))


SGD = partial(torch.optim.SGD, lr=1e-3)
TWO, THREE = teacher(2), teacher(3)


AND_BESIDE = {"objective": of_the_student}
AND_EVALUATE = {"monitor": "nll", "evaluate": averaging(1)}

DECISIVE: dict[str, tuple] = {  # argument, one value, another; what else such a training needs
    "α in a closure": ("objective", by_closure(0.9), by_closure(0.1)),
    "α as a default": ("objective", by_default(0.9), by_default(0.1)),
    "α as a keyword's default": ("objective", by_keyword_default(0.9), by_keyword_default(0.1)),
    "α in a partial": ("objective", partial(weighted, alpha=0.9), partial(weighted, alpha=0.1)),
    "α of an object": ("objective", Weighted(0.9), Weighted(0.1)),
    "α in a slot": ("objective", Slotted(0.9), Slotted(0.1)),
    "α of a method's object": ("objective", Weighted(0.9).loss, Weighted(0.1).loss),
    "another objective": ("objective", cross_entropy, doubled(cross_entropy)),
    "other code": ("objective", cross_entropy, lambda model, batch: cross_entropy(model, batch) * 1),
    "another teacher": ("objective", taught_by(TWO), taught_by(THREE)),
    "another second teacher": ("objective", taught_by(TWO, teacher(4)), taught_by(TWO, teacher(5))),
    "another activation": ("objective", taught_by(teacher()), taught_by(teacher(activation=nn.Tanh()))),
    "another mode": ("objective", taught_by(teacher()), taught_by(teacher(mode=True))),
    "dropout": ("model", network(dropout=0.5), network()),
    "a teacher in the model": ("model", beside(TWO), beside(THREE), AND_BESIDE),
    "a Teacher in the model": ("model", beside(Teacher(TWO)), beside(Teacher(THREE)), AND_BESIDE),
    "a table": ("table", table(1), table(2)),
    "other images": ("split", 1, 2),
    "no augmentation": ("stream", lambda split: Augmented(split, jitter), lambda split: split),
    "another augmentation": (
        "stream",
        lambda split: Augmented(split, jitter),
        lambda split: Augmented(split, partial(jitter, pixels=1)),
    ),
    "SGD for Adam": ("optimizer", partial(torch.optim.Adam, lr=1e-3), SGD),
    "momentum": ("optimizer", partial(SGD, momentum=0.9), SGD),
    "momentum in code": ("optimizer", lambda ps: SGD(ps, momentum=0.9), lambda ps: SGD(ps, momentum=0.5)),
    "no schedule": ("schedule", cosine, None),
    "another schedule": ("schedule", cosine, lambda done: 1 - done),
    "what decides the best": ("evaluate", averaging(1), averaging(2), {"monitor": "nll"}),
    "which is the best": ("better", "lower", "higher", AND_EVALUATE),
    "the last batch": ("drop_last", True, False),
    "parts": ("accumulate", 2, 1),
}


@pytest.mark.parametrize("case", DECISIVE.values(), ids=DECISIVE)
def test_a_checkpoint_of_what_decides_another_result_is_refused(
    tiny_split: MakeSplit, tmp_path: Path, case: tuple
) -> None:
    def run(
        model: nn.Module | None = None,
        objective: Any = cross_entropy,
        table: Tensor | None = None,
        split: int = 0,
        stream: Any = lambda split: split,
        **options: Any,
    ) -> pd.DataFrame:
        train = tiny_split(12, seed=split)
        train = stream(train if table is None else train.with_teacher(table))
        model = network() if model is None else copy.deepcopy(model)
        return quietly(model, objective, train, epochs=1, checkpoint=tmp_path / "run.pt", **options)

    argument, before, after, *common = case
    options = common[0] if common else {}
    history = run(**{argument: before}, **options)
    assert run(**{argument: before}, **options).equals(history)  # the same training is the same training
    named = {"table": "data", "split": "data", "stream": "data"}.get(argument, argument)
    with pytest.raises(ValueError, match=rf"run\.pt belongs to another training .*{named} .* there, .* here"):
        run(**{argument: after}, **options)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param((1, 23), (12, 3), id="digits in a row"),
        pytest.param([[1, 2]], [[1], 2], id="nesting"),
        pytest.param("1", 1, id="types"),
        pytest.param([], (), id="kinds of lists"),
        pytest.param(np.array([0.9, 2]), np.array([0.1, 2]), id="arrays"),
        pytest.param(np.array([*"abc" * 999], object), np.array([*"acb" * 999], object), id="arrays of objects"),
        pytest.param(torch.zeros(4), torch.zeros(2, 2), id="shapes"),
        pytest.param(np.zeros(4), np.zeros((2, 2)), id="shapes of arrays"),
        pytest.param(np.zeros(4), np.zeros(4, int), id="dtypes of arrays"),
        pytest.param(partial(by_closure, 1), partial(by_closure, 2), id="positions in a partial"),
        pytest.param(torch.zeros(4), torch.zeros(4, dtype=torch.int32), id="dtypes"),
        pytest.param(torch.eye(3).to_sparse(), torch.zeros(3, 3).to_sparse(), id="sparse"),
        pytest.param(torch.tensor(1.0), torch.tensor(2.0), id="tensors without dimensions"),
        pytest.param(torch.randn(50_000), torch.randn(50_000), id="tensors whose repr is cut"),
        pytest.param({"a": TWO, "b": THREE, "c": TWO}, {"a": TWO, "b": THREE, "c": THREE}, id="the same twice"),
        pytest.param({"a", "b"}, {"a", "c"}, id="sets"),
        pytest.param(torch.float32, torch.float64, id="objects of installed classes"),
        pytest.param(F.relu, F.gelu, id="installed functions"),
        pytest.param(Weighted, Slotted, id="classes"),
        pytest.param(Path("a"), Path("b"), id="paths"),
        pytest.param(torch.no_grad()(by_closure(1)), torch.no_grad()(by_closure(2)), id="wrapped functions"),
    ],
)
def test_things_that_differ_have_other_checksums(first: object, second: object) -> None:
    assert checksum(first) != checksum(second)
    assert checksum(first) == checksum(first) and checksum(second) == checksum(second)


def test_a_global_of_the_objective_decides(
    tiny_split: MakeSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"epochs": 1, "checkpoint": tmp_path / "run.pt"}
    quietly(network(), of_the_global, tiny_split(), **options)
    monkeypatch.setattr(sys.modules[__name__], "ALPHA", 0.1)
    with pytest.raises(ValueError, match=r"another training .*objective"):
        quietly(network(), of_the_global, tiny_split(), **options)


OBJECTIVE = '''
from torch.nn import functional as F

images = 7

class Scaled:
    """Something."""

    factor = 2

    @staticmethod
    def scaled(loss):
        return loss * Scaled.factor

def half(loss):
    """Half of it."""
    return loss / 2  # a comment

def objective(model, batch):
    """A docstring."""
    return half(Scaled.scaled(F.cross_entropy(model(batch.images), batch.labels)))

class Own:
    def __call__(self, model, batch):
        return self.loss(model, batch)

    def loss(self, model, batch):
        return half(F.cross_entropy(model(batch.images), batch.labels))

own = Own()
'''


def read(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with this text, as after Python was started again."""
    folder.mkdir()
    (folder / "own_objective.py").write_text(text, encoding="utf-8")
    specification = importlib.util.spec_from_file_location("own_objective", folder / "own_objective.py")
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "own_objective", module)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        pytest.param("loss / 2", "loss / 3", True, id="a helper function"),
        pytest.param("return loss * Scaled.factor", "return loss", True, id="a static method"),
        pytest.param("factor = 2", "factor = 3", True, id="an attribute of a class"),
        pytest.param("A docstring.", "Another docstring.", False, id="a docstring"),
        pytest.param("Half of it.", "One half of it.", False, id="a helper's docstring"),
        pytest.param("  # a comment", "", False, id="a comment"),
        pytest.param("images = 7", "images = 8", False, id="a global that only an attribute is named like"),
    ],
)
def test_edits_of_what_the_objective_uses_make_another_training_and_edits_of_prose_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, differs: bool
) -> None:
    first = read(tmp_path / "first", OBJECTIVE, monkeypatch)
    sums = checksum(first.objective), checksum(first.own)
    second = read(tmp_path / "second", OBJECTIVE.replace(old, new), monkeypatch)
    assert (checksum(second.objective) != sums[0]) == differs
    assert (checksum(second.own) != sums[1]) == (old == "loss / 2")


def test_an_edited_method_of_an_objective_makes_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = checksum(read(tmp_path / "first", OBJECTIVE, monkeypatch).own)
    edited = OBJECTIVE.replace("half(F.cross", "2 * half(F.cross")
    assert checksum(read(tmp_path / "second", edited, monkeypatch).own) != first


def test_functions_without_source_count_by_what_they_do() -> None:
    def made(code: str) -> Any:
        names: dict[str, Any] = {}
        exec(code, names)
        return names["f"]

    assert checksum(made("f = lambda m, b: m(b)")) == checksum(made("f = lambda m, b: m(b)"))
    others = ["m(b) * 2", "m(b) * 3", "m + b", "[x * 2 for x in m]", "[x * 3 for x in m]", "list(x * 2 for x in m)"]
    assert len({checksum(made(f"f = lambda m, b: {code}")) for code in ["m(b)", *others]}) == 7


class Stop:
    """Interrupts the training once, as Ctrl-C would."""

    armed = True

    def __call__(self, progress: float) -> None:
        if self.armed and progress >= 0.5:
            self.armed = False
            raise KeyboardInterrupt

    def __getstate__(self) -> None:
        """Nothing in it decides the result."""


@pytest.mark.parametrize("way", ["partial", "closure", "parameters", "list", "global"])
def test_a_partly_trained_student_in_the_objective_is_no_other_training(
    tiny_split: MakeSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """As in a notebook, where the cell that was interrupted runs again."""
    student, options = network(dropout=0.5), {"epochs": 2, "checkpoint": tmp_path / "run.pt"}
    expected_student = network(dropout=0.5)
    expected = quietly(expected_student, cross_entropy, tiny_split(), epochs=2)
    weights, stop = list(student.parameters()), Stop()

    def stopping(student: nn.Module, model: nn.Module, batch: Batch) -> Tensor:
        stop(batch.progress)
        return cross_entropy(student, batch)

    objective = {
        "partial": partial(stopping, student),
        "closure": lambda model, batch: stopping(student, model, batch),
        "parameters": lambda model, batch: stopping(model, model, batch) + 0 * weights[0].sum(),
        "list": partial(lambda peers, model, batch: stopping(peers[0], model, batch), [student]),
        "global": lambda model, batch: stopping(STUDENT, model, batch),
    }[way]
    monkeypatch.setattr(sys.modules[__name__], "STUDENT", student)
    with pytest.raises(KeyboardInterrupt):
        quietly(student, objective, tiny_split(), **options)
    student.eval()
    history = quietly(student, objective, tiny_split(), **options)
    pd.testing.assert_frame_equal(numbers(history), numbers(expected), check_exact=True)
    assert same(state(student), state(expected_student))


def test_moving_averages_change_though_they_are_frozen(tiny_split: MakeSplit, tmp_path: Path) -> None:
    def players() -> nn.ModuleDict:
        student = network()
        return nn.ModuleDict({"student": student, "average": AveragedModel(student).requires_grad_(False)})

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        assert not model["average"].training
        model["average"].update_parameters(model["student"])
        return cross_entropy(model["student"], batch)

    first, again, options = players(), players(), {"epochs": 2, "checkpoint": tmp_path / "run.pt"}
    expected = quietly(first, objective, tiny_split(), **options)
    quietly(again, objective, tiny_split(), epochs=1)  # partly trained
    assert quietly(again, objective, tiny_split(), **options).equals(expected)
    assert same(state(again), state(first)) and int(first["average"].n_averaged) == 6


def test_a_tag_names_a_training_whose_code_was_edited(tiny_split: MakeSplit, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt", "tag": "mine"}
    expected = quietly(network(), by_closure(0.9), tiny_split(), **options)
    edited = quietly(network(), by_closure(0.1), tiny_split(), schedule=lambda done: 1.0, **options)
    assert edited.equals(expected)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        pytest.param("mine", "yours", "tag mine there, yours here", id="another"),
        pytest.param("mine", None, "objective None there", id="none any more"),
        pytest.param("", None, "objective None there", id="an empty one no more"),
        pytest.param(None, "mine", "tag None there, mine here", id="a new one"),
    ],
)
def test_a_tag_is_not_taken_for_another_tag_or_none(
    tiny_split: MakeSplit, tmp_path: Path, before: str | None, after: str | None, words: str
) -> None:
    quietly(network(), cross_entropy, tiny_split(), epochs=1, checkpoint=tmp_path / "run.pt", tag=before)
    with pytest.raises(ValueError, match=f"another training .*{words}"):
        quietly(network(), cross_entropy, tiny_split(), epochs=1, checkpoint=tmp_path / "run.pt", tag=after)


def test_the_bookkeeping_of_other_ids_does_not_hide_a_table() -> None:
    """What is made for a moment, such as the state of a module, must not lend its id to the next."""
    sums = {checksum([teacher(seed) for seed in (*range(1, 8), last)]) for last in range(10, 30)}
    assert len(sums) == 20


# What is written can be read.


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"schedule": lambda done: 0.5 * (1 + np.cos(np.pi * done))}, id="schedule"),
        pytest.param({"optimizer": partial(torch.optim.SGD, lr=np.float64(0.1))}, id="rate"),
        pytest.param({"optimizer": partial(torch.optim.SGD, lr=0.1, momentum=np.float32(0.5))}, id="momentum"),
        pytest.param({"optimizer": partial(torch.optim.Adam, betas=(np.float64(0.5), 0.9))}, id="within a tuple"),
        pytest.param({"optimizer": lambda ps: torch.optim.SGD(ps, lr=torch.tensor(0.1))}, id="tensor as rate"),
        pytest.param({"seed": np.int64(3)}, id="seed"),
        pytest.param({"epochs": np.int32(2)}, id="epochs"),
        pytest.param({"batch_size": np.int64(4)}, id="batch size"),
        pytest.param({"monitor": np.str_("nll"), "evaluate": lambda model: {"nll": np.float32(1)}}, id="monitor"),
        pytest.param({"tag": np.str_("mine")}, id="tag"),
    ],
)
def test_a_training_of_numpys_numbers_resumes(tiny_split: MakeSplit, tmp_path: Path, options: dict[str, Any]) -> None:
    options = {"epochs": 2, "checkpoint": tmp_path / "run.pt"} | options
    model, again = network(), network(seed=4)
    expected = quietly(model, cross_entropy, tiny_split(), **options)
    found = quietly(again, cross_entropy, tiny_split(), **options)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert same(state(again), state(model)) and found["learning_rate"].dtype == "float64"


def test_numpys_numbers_and_pythons_are_one_training(tiny_split: MakeSplit, tmp_path: Path) -> None:
    options = {"epochs": 2, "checkpoint": tmp_path / "run.pt", "seed": 3}
    first = quietly(network(), cross_entropy, tiny_split(), optimizer=partial(torch.optim.SGD, lr=0.1), **options)
    optimizer = partial(torch.optim.SGD, lr=np.float64(0.1))
    again = quietly(network(), cross_entropy, tiny_split(), optimizer=optimizer, **options | {"seed": np.int64(3)})
    assert again.equals(first)


class Remembering(nn.Linear):
    """A layer with something in its state that no checkpoint can hold, from its first or its second state on."""

    def __init__(self, since: int) -> None:
        super().__init__(784, 3)
        self.since, self.states = since, 0

    def get_extra_state(self) -> object:
        self.states += 1
        return Path("memory") if self.states > self.since else None

    def set_extra_state(self, state: object) -> None:
        pass


@pytest.mark.parametrize("since", [0, 1])
def test_a_state_that_could_not_be_read_back_is_refused_before_it_is_needed(
    tiny_split: MakeSplit, tmp_path: Path, since: int
) -> None:
    model, steps = nn.Sequential(nn.Flatten(), Remembering(since)), []
    with pytest.raises(
        ValueError, match=r"model or optimizer could not be read back.*such as pathlib.*Path; .*state_dict\(\)"
    ):
        quietly(
            model,
            lambda model, batch: steps.append(1) or cross_entropy(model, batch),
            tiny_split(),
            epochs=9,
            checkpoint=tmp_path / "run.pt",
        )
    assert len(steps) == 3 * since and not list(tmp_path.iterdir())  # before training, or after the first epoch


class Versioned(nn.Linear):
    """A layer that notes of which version the states are that it is given."""

    _version = 7
    seen: ClassVar[set[int | None]] = set()

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: dict, *rest: Any) -> None:
        self.seen.add(metadata.get("version"))
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_a_checkpoint_keeps_the_versions_of_layers(tiny_split: MakeSplit, tmp_path: Path) -> None:
    """A layer that finds no version in a state takes it for one of an old PyTorch, and may change it."""
    model = nn.Sequential(nn.Flatten(), Versioned(784, 3))
    options = {"epochs": 1, "evaluate": lambda m: {"nll": 1}, "monitor": "nll", "checkpoint": tmp_path / "run.pt"}
    for _ in range(2):
        quietly(model, cross_entropy, tiny_split(), **options)
    assert Versioned.seen == {7}


# Where a checkpoint may be.


@pytest.mark.parametrize("kind", ["folder", "pipe", "home", "device", "nobody's home", "null", "endless"])
def test_what_can_be_no_checkpoint_is_refused_before_training(tiny_split: MakeSplit, tmp_path: Path, kind: str) -> None:
    path = {"folder": tmp_path, "pipe": tmp_path / "pipe", "home": "~", "device": os.devnull}.get(kind)
    path = path or {"nobody's home": "~nobody-has-this-name/run.pt", "null": "run\0.pt", "endless": "x" * 5000}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(ValueError, match=r"(?s)checkpoint='.* (folder|name a file).*name a file, such as 'run\.pt'"):
        quietly(network(), lambda *_: pytest.fail("trained"), tiny_split(), epochs=1, checkpoint=path)


@pytest.mark.parametrize("path", [5, True, ["run.pt"], b"run.pt"])
def test_what_is_no_path_is_refused_by_its_type(tiny_split: MakeSplit, path: Any) -> None:
    with pytest.raises(TypeError, match=r"checkpoint must be the path of a file, not .* of type (int|bool|list|bytes)"):
        quietly(network(), cross_entropy, tiny_split(), epochs=1, checkpoint=path)


def test_a_checkpoint_may_be_in_ones_home_whatever_folder_one_is_in_later(
    tiny_split: MakeSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    quietly(network(), cross_entropy, tiny_split(), epochs=1, checkpoint="~/mine/run.pt")
    assert (tmp_path / "mine" / "run.pt").is_file()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def moving(model: nn.Module, batch: Batch) -> Tensor:
        os.chdir(tmp_path / "elsewhere")
        return cross_entropy(model, batch)

    quietly(network(), moving, tiny_split(), epochs=1, checkpoint="here.pt")
    assert (tmp_path / "here.pt").is_file()


def forbidden(folder: Path) -> None:
    """Make a folder read-only; skip where that hinders nobody, as it does not hinder root."""
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("whoever runs this test may write everywhere")


@pytest.mark.parametrize("kind", ["proc", "read-only", "below a file", "long name", "full"])
def test_a_folder_that_cannot_be_written_is_found_before_training(
    tiny_split: MakeSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "file").touch()
    paths = {"proc": "/proc/run.pt", "below a file": tmp_path / "file" / "run.pt", "long name": tmp_path / ("x" * 250)}
    path = Path(paths.get(kind, tmp_path / "run.pt"))
    if kind == "proc" and not Path("/proc/self").exists():
        pytest.skip("there is no /proc here")
    if kind == "read-only":
        forbidden(tmp_path)
    limit = pytest.importorskip("resource").getrlimit(resource.RLIMIT_FSIZE) if kind == "full" else None
    try:
        if limit:  # files may have 1,000 bytes: enough for a first touch, not for a checkpoint
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        with pytest.raises(OSError, match=rf"no checkpoint can be written to {path} \(.*choose another folder"):
            quietly(network(), lambda *_: pytest.fail("trained"), tiny_split(), epochs=1, checkpoint=path)
    finally:
        tmp_path.chmod(0o755)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_finished_training_is_read_where_nothing_can_be_written(
    tiny_split: MakeSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"epochs": 2, "checkpoint": tmp_path / "run.pt"}
    expected = quietly(network(), cross_entropy, tiny_split(), **options)
    monkeypatch.setattr(Path, "write_bytes", lambda *_: pytest.fail("written"))
    assert quietly(network(), cross_entropy, tiny_split(), **options).equals(expected)


# Damage.


def test_a_checkpoint_with_one_flipped_bit_anywhere_is_refused(tiny_split: MakeSplit, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    quietly(network(), cross_entropy, tiny_split(), epochs=1, checkpoint=path)
    whole = path.read_bytes()
    model = network(seed=5)
    saved, before = Checkpoint(path, {}, model, {}), state(model)
    bits = torch.randperm(8 * len(whole), generator=torch.Generator().manual_seed(0))[:200].tolist()
    for bit in [0, 8 * len(whole) - 1, *bits]:
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"run\.pt is not a readable checkpoint .*damaged.*delete"):
            saved.resume()
    assert same(state(model), before)
    path.write_bytes(whole)
    assert len(saved.resume()[0]) == 1


def test_a_checkpoint_whose_rows_were_copied_is_refused(tiny_split: MakeSplit, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt"}
    quietly(network(), cross_entropy, tiny_split(), **options)
    content = torch.load(tmp_path / "run.pt")
    torch.save(content | {"rows": content["rows"] * 5}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"run\.pt is not a readable checkpoint"):
        quietly(network(), cross_entropy, tiny_split(), **options)


# Failures while a checkpoint is written.


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one_whole(
    tiny_split: MakeSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"epochs": 3, "checkpoint": tmp_path / "run.pt"}
    whole = network()
    quietly(whole, cross_entropy, tiny_split(), epochs=3)
    write, calls = Path.write_bytes, itertools.count()

    def disk_full_at_the_second(path: Path, content: bytes) -> int:
        if next(calls) == 2:  # the first time is the rehearsal
            write(path, b"half a checkpoint")
            raise OSError("no space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", disk_full_at_the_second)
        with pytest.raises(OSError, match=r"run\.pt .*no space left on device.*make room") as caught:
            quietly(network(), cross_entropy, tiny_split(), **options)
    assert list(caught.value.history.index) == [1, 2]  # the second epoch was trained, though it was not saved
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    assert len(torch.load(tmp_path / "run.pt")["rows"]) == 1
    resumed = network()
    quietly(resumed, cross_entropy, tiny_split(), **options)
    assert same(state(resumed), state(whole))


def trained_on_noise(checkpoint: Path | None, *, stall: bool = False) -> tuple[pd.DataFrame, State]:
    """A training with dropout, schedule, evaluation and early stopping, on images of noise.

    With ``stall`` it hangs in its sixth epoch, until it is killed.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 28, 28), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(60) % 3, torch.arange(60), "noise")
    model = network(dropout=0.5)

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        if stall and batch.progress > 5 / 12:
            time.sleep(3600)
        return cross_entropy(model, batch)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"nll": F.cross_entropy(predict(model, split), split.labels).item()}

    history = fit(
        model,
        objective,
        split,
        epochs=12,
        batch_size=16,
        schedule=cosine,
        evaluate=evaluate,
        monitor="nll",
        patience=12,
        checkpoint=checkpoint,
        tag="noise",  # stalling or not
        progress=False,
    )
    return history, state(model)


def wait_for_epochs(checkpoint: Path, count: int, process: subprocess.Popen) -> None:
    """Wait until the file holds at least ``count`` epochs; it must be whole whenever it is read."""
    while process.poll() is None:
        if checkpoint.exists() and len(torch.load(checkpoint)["rows"]) >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"the training ended before it could be killed: {process.communicate()}")


@pytest.mark.slow
def test_a_killed_training_ends_at_the_numbers_of_one_that_was_not_killed(
    tmp_path: Path, package_environment: dict[str, str]
) -> None:
    checkpoint = tmp_path / "run.pt"
    command = [sys.executable, __file__, str(checkpoint)]
    with subprocess.Popen(
        command, env=package_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        try:
            wait_for_epochs(checkpoint, 5, training)
        finally:
            training.kill()  # kill -9
            training.communicate()
    assert len(torch.load(checkpoint)["rows"]) == 5
    found, resumed = trained_on_noise(checkpoint)
    expected, weights = trained_on_noise(None)
    pd.testing.assert_frame_equal(numbers(found), numbers(expected), check_exact=True)
    assert same(resumed, weights)


if __name__ == "__main__":
    trained_on_noise(Path(sys.argv[1]), stall=True)
