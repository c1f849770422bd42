"""The one loop: what it promises about modes, numbers, schedules, stopping, and being killed.

Run as a script, this file trains slowly with a checkpoint until somebody kills it; a test below does.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course.data import Batch, Split
from kd_course.inference import freeze, predict
from kd_course.losses import kd_loss, soft_target_loss
from kd_course.models import mlp
from kd_course.runtime import seeded
from kd_course.training import cosine, fit

MakeSplit = Callable[..., Split]
State = dict[str, Tensor]


def network(seed: int = 0, *, dropout: float = 0.0) -> nn.Sequential:
    with seeded(seed):
        return mlp(16, dropout=dropout, classes=3)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch.images), batch.labels)


def state(model: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(first: State, second: State) -> bool:
    """Equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def numbers(history: pd.DataFrame) -> pd.DataFrame:
    """The history without the one column that no two runs share."""
    return history.drop(columns="seconds")


quietly = partial(fit, progress=False, batch_size=5)


# Learning.


def test_a_few_samples_are_learned_by_heart(tiny_split: MakeSplit) -> None:
    split, model = tiny_split(12), network()
    history = quietly(model, cross_entropy, split, epochs=40, optimizer=partial(torch.optim.Adam, lr=1e-2))
    assert history["loss"].iloc[0] > 0.5 and history["loss"].iloc[-1] < 0.01
    assert predict(model, split).argmax(1).equal(split.labels)


def test_a_student_learns_from_its_teachers_table_alone(tiny_split: MakeSplit) -> None:
    split = tiny_split(12)
    taught = split.with_teacher(5.0 * F.one_hot((split.labels + 1) % 3, 3))  # a teacher who is always wrong

    def soft_only(model: nn.Module, batch: Batch) -> Tensor:
        return kd_loss(model(batch.images), batch.teacher_logits, None, temperature=2, alpha=1)

    student = network()
    quietly(student, soft_only, taught, epochs=40, optimizer=partial(torch.optim.Adam, lr=1e-2))
    assert predict(student, split).argmax(1).equal((split.labels + 1) % 3)


def test_two_peers_in_a_module_list_both_learn(tiny_split: MakeSplit) -> None:
    split, peers = tiny_split(12), nn.ModuleList([network(1), network(2)])
    before = [state(peer) for peer in peers]

    def mutual(models: nn.Module, batch: Batch) -> dict[str, Tensor]:
        first, second = (model(batch.images) for model in models)
        losses = [
            F.cross_entropy(own, batch.labels) + soft_target_loss(own, other.detach(), temperature=1)
            for own, other in ((first, second), (second, first))
        ]
        return {"loss": sum(losses), "first": losses[0], "second": losses[1]}

    history = quietly(peers, mutual, split, epochs=40, optimizer=partial(torch.optim.Adam, lr=1e-2))
    assert history["loss"].to_numpy() == pytest.approx((history["first"] + history["second"]).to_numpy(), rel=1e-5)
    for peer, old in zip(peers, before, strict=True):
        assert not any(torch.equal(value, old[name]) for name, value in state(peer).items())
        assert predict(peer, split).argmax(1).equal(split.labels)


def test_frozen_parts_of_a_model_stay_as_they_are_and_out_of_the_optimizer(tiny_split: MakeSplit) -> None:
    model, given = network(), []
    model.stage1.requires_grad_(False)
    before = state(model)

    def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        given.extend(parameters)
        return torch.optim.SGD(given, lr=0.1, weight_decay=0.5)

    quietly(model, cross_entropy, tiny_split(), epochs=2, optimizer=optimizer)
    assert {id(parameter) for parameter in given} == {id(parameter) for parameter in model.classifier.parameters()}
    after = state(model)
    assert same({n: v for n, v in after.items() if "stage1" in n}, {n: v for n, v in before.items() if "stage1" in n})
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])


# What an objective may return, and what the history holds.


def test_the_history_has_one_row_per_epoch_and_one_column_per_number(tiny_split: MakeSplit) -> None:
    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        hard = cross_entropy(model, batch)
        return {"loss": 2 * hard, "hard": hard}

    history = quietly(network(), objective, tiny_split(), epochs=3, evaluate=lambda model: {"errors": 7})
    assert list(history.index) == [1, 2, 3] and history.index.name == "epoch"
    assert list(history.columns) == ["loss", "hard", "learning_rate", "seconds", "errors"]
    assert history["loss"].to_numpy() == pytest.approx(2 * history["hard"].to_numpy())
    assert (
        (history["learning_rate"] == 1e-3).all() and (history["seconds"] > 0).all() and (history["errors"] == 7).all()
    )


def test_a_scalar_and_a_dict_with_the_same_loss_train_alike(tiny_split: MakeSplit) -> None:
    models = [network(), network()]
    scalar = quietly(models[0], cross_entropy, tiny_split(), epochs=2)
    named = quietly(models[1], lambda m, b: {"loss": cross_entropy(m, b)}, tiny_split(), epochs=2)
    pd.testing.assert_frame_equal(numbers(scalar), numbers(named), check_exact=True)
    assert same(state(models[0]), state(models[1]))


def test_a_term_is_the_mean_over_samples_although_the_last_batch_is_smaller(tiny_split: MakeSplit) -> None:
    split, model = tiny_split(11), network()

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": cross_entropy(model, batch), "number": batch.indices.float().mean()}

    history = quietly(model, objective, split, epochs=1, optimizer=partial(torch.optim.SGD, lr=0.0))
    assert history["number"].item() == pytest.approx(105.0)
    expected = F.cross_entropy(predict(model, split), split.labels)
    assert history["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        pytest.param(lambda loss: {"kd": loss}, "'loss' among its names; its loss is NoneType", id="no loss"),
        pytest.param(lambda loss: {}, "'loss' among its names", id="nothing"),
        pytest.param(lambda loss: None, "one scalar tensor.*NoneType", id="None"),
        pytest.param(lambda loss: 0.5, "one scalar tensor.*float", id="a number"),
        pytest.param(lambda loss: loss.expand(5), r"its loss is a tensor of shape \(5,\)", id="one loss per sample"),
        pytest.param(lambda loss: {"loss": loss.expand(5)}, r"tensor of shape \(5,\)", id="the same by name"),
        pytest.param(lambda loss: {"loss": loss, "rows": loss.expand(5)}, r"'rows'.*\(5,\)", id="a term of many"),
        pytest.param(lambda loss: {"loss": loss, "weight": 0.5}, "'weight'.*float", id="a term that is no tensor"),
    ],
)
def test_an_objective_without_scalars_is_refused(
    tiny_split: MakeSplit, returned: Callable[[Tensor], Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        quietly(network(), lambda model, batch: returned(cross_entropy(model, batch)), tiny_split(), epochs=1)


# Modes.


@pytest.mark.parametrize("culprit", ["nobody", "evaluate", "objective", "beforehand"])
def test_the_student_is_in_training_mode_in_every_epoch(tiny_split: MakeSplit, culprit: str) -> None:
    model, modes = network(dropout=0.5), []
    if culprit == "beforehand":
        model.eval()

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        if not modes or len(modes[-1]) == 3:
            modes.append([])
        modes[-1].append(all(module.training for module in model.modules()))
        loss = cross_entropy(model, batch)
        if culprit == "objective" and len(modes[-1]) == 3:
            model.eval()  # what a validation pasted into the last step of an epoch leaves behind
        return loss

    def evaluate(model: nn.Module) -> dict[str, float]:
        if culprit == "evaluate":
            model.eval()
        return {}

    quietly(model, objective, tiny_split(12), epochs=3, evaluate=evaluate)
    assert modes == [[True] * 3] * 3


def test_evaluate_sees_the_model_in_evaluation_mode_without_gradients(tiny_split: MakeSplit) -> None:
    model, seen = nn.Sequential(network(dropout=0.5), nn.BatchNorm1d(3)), []

    def evaluate(evaluated: nn.Module) -> dict[str, float]:
        assert evaluated is model
        output = evaluated(torch.rand(4, 1, 28, 28))
        seen.append((any(module.training for module in model.modules()), output.requires_grad, torch.is_grad_enabled()))
        return {}

    quietly(model, cross_entropy, tiny_split(), epochs=3, evaluate=evaluate)
    assert seen == [(False, False, False)] * 3


def test_a_teacher_asked_in_the_loop_is_the_same_bit_for_bit_afterwards(tiny_split: MakeSplit) -> None:
    with seeded(1):
        teacher = freeze(nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
    before = state(teacher)

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        assert not teacher.training
        return kd_loss(model(batch.images), teacher(batch.images), batch.labels, temperature=4, alpha=0.9)

    student = network()
    old = state(student)
    quietly(student, objective, tiny_split(), epochs=3)
    assert same(state(teacher), before) and not same(state(student), old)
    assert all(parameter.grad is None for parameter in teacher.parameters())


# What a batch carries.


def test_teacher_logits_and_features_stand_beside_their_samples_in_every_epoch(tiny_split: MakeSplit) -> None:
    split = tiny_split(12)
    table = torch.stack([split.indices, split.labels, -split.indices], 1).float()
    taught = split.with_teacher(table).with_features({"embedding": table[:, :2]})
    orders: list[list[int]] = []

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        rows = batch.indices - 100
        assert batch.teacher_logits.equal(table[rows])
        assert batch.teacher_features["embedding"].equal(table[rows, :2])
        assert batch.labels.equal(split.labels[rows])
        orders.append(rows.tolist())
        return cross_entropy(model, batch)

    quietly(network(), objective, taught, epochs=3)
    assert [len(order) for order in orders] == [5, 5, 2] * 3
    epochs = [[*orders[i], *orders[i + 1], *orders[i + 2]] for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, list(range(12))]}) == 4  # shuffled, otherwise in each epoch


def test_progress_goes_from_zero_in_equal_steps_to_just_below_one(tiny_split: MakeSplit) -> None:
    seen: list[float] = []

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(batch.progress)
        return cross_entropy(model, batch)

    quietly(network(), objective, tiny_split(12), epochs=4)
    assert seen == pytest.approx([step / 12 for step in range(12)])


# Learning rates.


def test_the_cosine_falls_from_one_to_zero() -> None:
    values = [cosine(i / 100) for i in range(101)]
    assert (values[0], values[100]) == (1, 0) and values[50] == pytest.approx(0.5)
    assert all(later < earlier for earlier, later in itertools.pairwise(values))


@pytest.mark.parametrize("schedule", [cosine, lambda done: 1 - done, lambda done: float(done < 0.5)])
def test_a_schedule_scales_every_groups_own_rate_at_every_step(
    tiny_split: MakeSplit, schedule: Callable[[float], float]
) -> None:
    made: list[torch.optim.Optimizer] = []
    rates: list[tuple[float, ...]] = []
    expected: list[tuple[float, ...]] = []

    def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        first, *rest = parameters
        made.append(torch.optim.SGD([{"params": [first], "lr": 0.3}, {"params": rest, "lr": 0.02}]))
        return made[0]

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        rates.append(tuple(group["lr"] for group in made[0].param_groups))
        expected.append((0.3 * schedule(batch.progress), 0.02 * schedule(batch.progress)))
        return cross_entropy(model, batch)

    history = quietly(network(), objective, tiny_split(12), epochs=3, optimizer=optimizer, schedule=schedule)
    assert len(rates) == 9
    assert torch.tensor(rates).numpy() == pytest.approx(torch.tensor(expected).numpy())
    assert history["learning_rate"].to_list() == pytest.approx([rates[step][0] for step in (2, 5, 8)])


def test_without_a_schedule_the_rate_stays(tiny_split: MakeSplit) -> None:
    history = quietly(network(), cross_entropy, tiny_split(), epochs=3, optimizer=partial(torch.optim.SGD, lr=0.07))
    assert history["learning_rate"].to_list() == [0.07] * 3


# Random numbers.


def test_one_seed_gives_one_result_and_another_seed_another(tiny_split: MakeSplit) -> None:
    def run(seed: int, outside: int) -> tuple[pd.DataFrame, State]:
        torch.manual_seed(outside)
        model = network(dropout=0.5)
        return numbers(quietly(model, cross_entropy, tiny_split(), epochs=3, seed=seed)), state(model)

    history, weights = run(seed=0, outside=1)
    again, same_weights = run(seed=0, outside=2)
    pd.testing.assert_frame_equal(history, again, check_exact=True)
    assert same(weights, same_weights)
    other, other_weights = run(seed=1, outside=1)
    assert not same(weights, other_weights) and not history.equals(other)


def test_two_objectives_under_one_seed_see_the_same_batches(tiny_split: MakeSplit) -> None:
    orders: list[list[int]] = [[], []]

    def plain(model: nn.Module, batch: Batch) -> Tensor:
        orders[0] += batch.indices.tolist()
        return cross_entropy(model, batch)

    def hungry(model: nn.Module, batch: Batch) -> Tensor:
        orders[1] += batch.indices.tolist()
        torch.rand(7)  # an objective that draws numbers of its own
        return 0.1 * cross_entropy(model, batch)

    for objective in (plain, hungry):
        quietly(network(), objective, tiny_split(), epochs=3, seed=8)
    assert orders[0] == orders[1]


@pytest.mark.parametrize("with_evaluation", [False, True])
def test_training_leaves_the_random_numbers_outside_as_they_were(tiny_split: MakeSplit, with_evaluation: bool) -> None:
    split, model = tiny_split(), network(dropout=0.5)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"mean": predict(model, split).mean().item()}

    before = torch.get_rng_state()
    quietly(model, cross_entropy, split, epochs=2, evaluate=evaluate if with_evaluation else None)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_interrupted_training_puts_the_random_numbers_back(tiny_split: MakeSplit) -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        quietly(network(dropout=0.5), interrupted_after(4), tiny_split(), epochs=3)
    assert torch.equal(torch.get_rng_state(), before)


# The best weights, and when to stop.


class Marks:
    """An evaluation that reads its marks from a list, and remembers the weights that earned them."""

    def __init__(self, *marks: float) -> None:
        self.marks, self.weights = list(marks), []

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.weights.append(state(model))
        return {"nll": self.marks[len(self.weights) - 1]}


@pytest.mark.parametrize(
    ("marks", "patience", "epochs_run", "best"),
    [
        pytest.param([5, 3, 4, 4, 1, 0], 2, 4, 2, id="stops before a later best"),
        pytest.param([5, 3, 4, 4, 1, 0], 3, 6, 6, id="a little more patience finds it"),
        pytest.param([5, 3, 3, 3, 1, 0], 2, 4, 2, id="a tie is no progress"),
        pytest.param([1, 2, 3, 4, 5, 6], 1, 2, 1, id="never better again"),
        pytest.param([6, 5, 4, 3, 2, 1], 1, 6, 6, id="always better"),
        pytest.param([5, 3, 4, 4, 4, 4], None, 6, 2, id="without patience to the end, with the best weights"),
    ],
)
def test_training_stops_after_the_patience_and_keeps_the_best_weights(
    tiny_split: MakeSplit, marks: list[float], patience: int | None, epochs_run: int, best: int
) -> None:
    model, evaluate = network(), Marks(*marks)
    history = quietly(model, cross_entropy, tiny_split(), epochs=6, evaluate=evaluate, monitor="nll", patience=patience)
    assert history["nll"].to_list() == marks[:epochs_run]
    assert same(state(model), evaluate.weights[best - 1])
    assert best == epochs_run or not same(state(model), evaluate.weights[-1])


def test_without_a_monitor_the_last_weights_stay(tiny_split: MakeSplit) -> None:
    model, evaluate = network(), Marks(1, 2, 3)
    quietly(model, cross_entropy, tiny_split(), epochs=3, evaluate=evaluate)
    assert same(state(model), evaluate.weights[-1])


# Interruption and resumption.


def interrupted_after(steps: int) -> Callable[[nn.Module, Batch], Tensor]:
    """An objective that is interrupted, as by Ctrl-C, before its step number ``steps``."""
    counter = itertools.count()

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        if next(counter) == steps:
            raise KeyboardInterrupt
        return cross_entropy(model, batch)

    return objective


@pytest.mark.parametrize("steps", [1, 3, 4, 8, 11])
def test_an_interrupted_training_goes_on_to_the_same_numbers(tiny_split: MakeSplit, tmp_path: Path, steps: int) -> None:
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
        )

    whole = network(dropout=0.5)
    expected = run(cross_entropy, whole, None)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted_after(steps), network(dropout=0.5), checkpoint)
    assert checkpoint.exists() == (steps >= 3)
    resumed = network(seed=77, dropout=0.5)  # whatever the model holds, the checkpoint decides
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
    options = {"evaluate": lambda model: kinds, "monitor": "numpy", "checkpoint": tmp_path / "run.pt", "epochs": 2}
    history = quietly(network(), cross_entropy, tiny_split(), **options)
    again = quietly(network(), cross_entropy, tiny_split(), **options)
    assert history.equals(again)
    assert again.loc[1, ["numpy", "tensor", "whole"]].to_list() == [0.5, 0.25, 3.0]


def test_a_finished_training_is_not_trained_again(tiny_split: MakeSplit, tmp_path: Path) -> None:
    model = network()
    expected = quietly(model, cross_entropy, tiny_split(), epochs=2, checkpoint=tmp_path / "run.pt")
    again = network(seed=5)
    found = quietly(
        again, lambda *_: pytest.fail("trained again"), tiny_split(), epochs=2, checkpoint=tmp_path / "run.pt"
    )
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert same(state(again), state(model))


@pytest.mark.parametrize("steps", [4, 7, 10, 13])
def test_patience_counts_on_through_an_interruption(tiny_split: MakeSplit, tmp_path: Path, steps: int) -> None:
    marks, options = (5, 3, 4, 4, 4, 0), {"epochs": 6, "monitor": "nll", "patience": 3}
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
    options = {"epochs": 6, "monitor": "nll", "patience": 2, "checkpoint": tmp_path / "run.pt"}
    evaluate = Marks(5, 3, 4, 4)
    quietly(network(), cross_entropy, tiny_split(), evaluate=evaluate, **options)
    again = network(seed=9)
    found = quietly(
        again, cross_entropy, tiny_split(), evaluate=lambda model: pytest.fail("one epoch too many"), **options
    )
    assert found["nll"].to_list() == [5, 3, 4, 4]
    assert same(state(again), evaluate.weights[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"seed": 1}, "seed 0 there, 1 here", id="seed"),
        pytest.param({"epochs": 9}, "epochs 2 there, 9 here", id="epochs"),
        pytest.param({"batch_size": 3}, "batch_size 5 there, 3 here", id="batch size"),
        pytest.param({"samples": 9}, "samples 12 there, 9 here", id="samples"),
        pytest.param({"evaluate": lambda model: {"nll": 1.0}, "monitor": "nll"}, "monitor", id="monitor"),
        pytest.param(
            {"optimizer": partial(torch.optim.Adam, lr=0.5)}, r"rates \[0.001\] there, \[0.5\] here", id="rate"
        ),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_name(
    tiny_split: MakeSplit, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt", "samples": 12}

    def run(samples: int, **options: Any) -> None:
        quietly(network(), cross_entropy, tiny_split(samples), **options)

    run(**options)
    with pytest.raises(ValueError, match=rf"run\.pt belongs to another training.*{words}.*delete .*run\.pt"):
        run(**(options | change))


def test_a_checkpoint_of_another_network_is_refused_by_name(tiny_split: MakeSplit, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt"}
    quietly(network(), cross_entropy, tiny_split(), **options)
    with pytest.raises(ValueError, match=r"(?s)run\.pt holds another model or optimizer.*delete .*run\.pt"):
        quietly(mlp(17, classes=3), cross_entropy, tiny_split(), **options)


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
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tiny_split: MakeSplit, tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt"}
    quietly(network(), cross_entropy, tiny_split(), **options)
    damaged(kind, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"(?s)run\.pt is not a readable checkpoint.*delete .*run\.pt"):
        quietly(network(), cross_entropy, tiny_split(), **options)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one_whole(
    tiny_split: MakeSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"epochs": 3, "checkpoint": tmp_path / "run.pt"}
    whole = network()
    quietly(whole, cross_entropy, tiny_split(), epochs=3)
    save, calls = torch.save, itertools.count()

    def disk_full_at_the_second(value: Any, file: Any) -> None:
        if next(calls) == 1:
            file.write(b"half a checkpoint")
            raise OSError("no space left on device")
        save(value, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", disk_full_at_the_second)
        with pytest.raises(OSError, match="no space left"):
            quietly(network(), cross_entropy, tiny_split(), **options)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    assert len(torch.load(tmp_path / "run.pt")["rows"]) == 1
    resumed = network()
    quietly(resumed, cross_entropy, tiny_split(), **options)
    assert same(state(resumed), state(whole))


def trained_on_noise(checkpoint: Path | None, *, stall: bool = False) -> tuple[pd.DataFrame, State]:
    """A training with dropout, schedule, evaluation and early stopping, on images of noise.

    ``stall`` makes it hang in its sixth epoch, where it waits to be killed.
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
        progress=False,
    )
    return history, state(model)


def wait_for_epochs(checkpoint: Path, count: int, process: subprocess.Popen) -> None:
    """Until the file shows at least ``count`` epochs; every time it is read it must be whole."""
    while process.poll() is None:
        if checkpoint.exists() and len(torch.load(checkpoint)["rows"]) >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"the training ended before it could be killed: {process.communicate()}")


def test_a_killed_training_ends_at_the_numbers_of_one_that_was_not(
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


# Refusals.


@pytest.mark.parametrize(
    ("terms", "name"),
    [
        pytest.param(lambda loss: loss * math.nan, "loss", id="loss"),
        pytest.param(lambda loss: {"loss": loss * math.inf}, "loss", id="infinite loss"),
        pytest.param(lambda loss: {"loss": loss, "kd": loss * math.nan}, "kd", id="another term"),
    ],
)
def test_a_term_that_is_not_finite_stops_the_training_by_name(
    tiny_split: MakeSplit, tmp_path: Path, terms: Callable[[Tensor], Any], name: str
) -> None:
    def objective(model: nn.Module, batch: Batch) -> Any:
        loss = cross_entropy(model, batch)
        return terms(loss) if batch.progress >= 0.5 else ({"loss": loss, "kd": loss} if name == "kd" else loss)

    checkpoint = tmp_path / "run.pt"
    with pytest.raises(FloatingPointError, match=f"'{name}' became (nan|inf) in epoch 3; lower the learning rate"):
        quietly(network(), objective, tiny_split(), epochs=4, checkpoint=checkpoint)
    saved = torch.load(checkpoint)
    assert len(saved["rows"]) == 2  # the ruined epoch is not kept
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_a_monitored_number_that_is_not_finite_stops_the_training(tiny_split: MakeSplit) -> None:
    """NaN is below no number and no number is below it, so the first epoch's weights would be kept for ever."""
    with pytest.raises(FloatingPointError, match="'nll' became nan in epoch 1"):
        quietly(network(), cross_entropy, tiny_split(), epochs=2, evaluate=lambda m: {"nll": math.nan}, monitor="nll")


def test_an_objective_without_a_gradient_is_refused(tiny_split: MakeSplit) -> None:
    with pytest.raises(ValueError, match=r"loss has no gradient.*model\(batch.images\).*detach"):
        quietly(network(), lambda model, batch: cross_entropy(model, batch).detach(), tiny_split(), epochs=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"epochs": 0}, "epochs and batch_size must be 1 or more, not 0 and 5", id="no epochs"),
        pytest.param({"batch_size": 0}, "must be 1 or more, not 1 and 0", id="no batch"),
        pytest.param({"monitor": "nll"}, "monitor='nll' needs evaluate", id="monitor alone"),
        pytest.param({"patience": 2}, "patience=2 .*needs monitor", id="patience alone"),
        pytest.param(
            {"patience": 0, "monitor": "nll", "evaluate": lambda model: {"nll": 1.0}}, "patience=0 must be 1", id="none"
        ),
        pytest.param(
            {"monitor": "nll", "evaluate": lambda model: {"errors": 1.0}},
            "'nll'.*gave errors$",
            id="unmeasured monitor",
        ),
        pytest.param(
            {"monitor": "loss", "evaluate": lambda model: {"errors": 1.0}}, "'loss'.*gave errors$", id="not evaluate's"
        ),
        pytest.param(
            {"evaluate": lambda model: {"loss": 1.0}}, r"must not name its numbers \['loss'\]", id="taken name"
        ),
    ],
)
def test_arguments_that_could_only_mislead_are_refused(
    tiny_split: MakeSplit, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        quietly(network(), cross_entropy, tiny_split(), **({"epochs": 1} | change))


def test_an_empty_split_is_refused(tiny_split: MakeSplit) -> None:
    with pytest.raises(ValueError, match=r"Split\(0 samples of tiny\) is empty, so there is nothing to learn from"):
        quietly(network(), cross_entropy, tiny_split().subset([]), epochs=1)


def test_a_frozen_teacher_passed_as_the_student_is_refused(tiny_split: MakeSplit) -> None:
    with pytest.raises(ValueError, match=r"no parameter of the model asks for a gradient.*frozen teacher"):
        quietly(freeze(network()), cross_entropy, tiny_split(), epochs=1)


# The bar, and the device.


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_is_shown_or_not_as_asked_and_nothing_else_is_printed(
    tiny_split: MakeSplit, capsys, progress: bool
) -> None:
    fit(network(), cross_entropy, tiny_split(), epochs=1, progress=progress)
    printed = capsys.readouterr()
    assert printed.out == "" and ("batch" in printed.err) == progress


DEVICES = ["cpu"]
DEVICES += ["cuda"] if torch.cuda.is_available() else []
DEVICES += ["mps"] if torch.backends.mps.is_available() else []


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_code_learns_on_every_device(tiny_split: MakeSplit, device: str) -> None:
    split = tiny_split(12).with_teacher(torch.zeros(12, 3))
    model = network()

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        tensors = (batch.images, batch.labels, batch.indices, batch.teacher_logits)
        assert {tensor.device.type for tensor in tensors} == {device}
        return kd_loss(model(batch.images), batch.teacher_logits, batch.labels, temperature=4, alpha=0.1)

    history = quietly(model, objective, split, epochs=30, device=device, optimizer=partial(torch.optim.Adam, lr=1e-2))
    assert next(model.parameters()).device.type == device  # where it learned, it stays
    assert history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0]
    assert predict(model, split, device=device).argmax(1).equal(split.labels)


if __name__ == "__main__":
    trained_on_noise(Path(sys.argv[1]), stall=True)
