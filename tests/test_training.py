"""The one loop: what it promises about modes, numbers, schedules and stopping."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

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
from torch.utils.data import DataLoader

from kd_course.checkpoint import Checkpoint
from kd_course.data import Batch, Paired
from kd_course.inference import Teacher, freeze, predict
from kd_course.losses import kd_loss, soft_target_loss
from kd_course.runtime import seeded
from kd_course.training import cosine, fit

# Learning.


def test_a_few_samples_are_memorised(tiny_split: MakeSplit) -> None:
    split, model = tiny_split(12), network()
    history = quietly(model, cross_entropy, split, epochs=40, optimizer=partial(torch.optim.Adam, lr=1e-2))
    assert history["loss"].iloc[0] > 0.5 and history["loss"].iloc[-1] < 0.01
    assert predict(model, split).argmax(1).equal(split.labels)


def test_a_student_learns_from_its_teachers_table_alone(tiny_split: MakeSplit) -> None:
    split = tiny_split(12)
    taught = split.with_teacher(5.0 * F.one_hot((split.labels + 1) % 3, 3))  # a teacher that is always wrong

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
        pytest.param(lambda loss: {"kd": loss}, "'loss'.*NoneType", id="no loss"),
        pytest.param(lambda loss: {}, "'loss'.*NoneType", id="nothing"),
        pytest.param(lambda loss: None, "scalar.*NoneType", id="None"),
        pytest.param(lambda loss: 0.5, "scalar.*float", id="a number"),
        pytest.param(lambda loss: loss.expand(5), r"loss.*\(5,\)", id="one loss per sample"),
        pytest.param(lambda loss: {"loss": loss.expand(5)}, r"loss.*\(5,\)", id="the same by name"),
        pytest.param(lambda loss: {"loss": loss, "rows": loss.expand(5)}, r"'rows'.*\(5,\)", id="a term per sample"),
        pytest.param(lambda loss: {"loss": loss, "weight": 0.5}, "'weight'.*float", id="a term that is a number"),
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


def test_a_teacher_run_inside_the_loop_is_the_same_bit_for_bit_afterwards(tiny_split: MakeSplit) -> None:
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


def test_teacher_logits_and_features_stay_with_their_samples_in_every_epoch(tiny_split: MakeSplit) -> None:
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
    assert len({tuple(epoch) for epoch in [*epochs, list(range(12))]}) == 4  # shuffled, each epoch differently


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

    def drawing(model: nn.Module, batch: Batch) -> Tensor:
        orders[1] += batch.indices.tolist()
        torch.rand(7)  # an objective that draws its own random numbers
        return 0.1 * cross_entropy(model, batch)

    for objective in (plain, drawing):
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


@pytest.mark.parametrize(
    ("marks", "patience", "epochs_run", "best"),
    [
        pytest.param([5, 3, 4, 4, 1, 0], 2, 4, 2, id="stops before a later best"),
        pytest.param([5, 3, 4, 4, 1, 0], 3, 6, 6, id="with more patience it is found"),
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
    with pytest.raises(FloatingPointError, match=f"'{name}' became (nan|inf) in epoch 3;"):
        quietly(network(), objective, tiny_split(), epochs=4, checkpoint=checkpoint)
    saved = torch.load(checkpoint)
    assert len(saved["rows"]) == 2  # the ruined epoch is not kept
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_a_monitored_number_that_is_not_finite_stops_the_training(tiny_split: MakeSplit) -> None:
    """No number is smaller than NaN, so the weights of the first epoch would stay the best for ever."""
    with pytest.raises(FloatingPointError, match="'nll' became nan in epoch 1"):
        quietly(network(), cross_entropy, tiny_split(), epochs=2, evaluate=lambda m: {"nll": math.nan}, monitor="nll")


def test_an_objective_without_a_gradient_is_refused(tiny_split: MakeSplit) -> None:
    with pytest.raises(ValueError, match=r"no gradient.*\.detach\(\)"):
        quietly(network(), lambda model, batch: cross_entropy(model, batch).detach(), tiny_split(), epochs=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"epochs": 0}, "epochs must be 1 or more, not 0", id="no epochs"),
        pytest.param({"batch_size": 0}, "batch_size must be 1 or more, not 0", id="no batch"),
        pytest.param({"monitor": "nll"}, "monitor='nll'.*evaluate", id="monitor alone"),
        pytest.param({"patience": 2}, "patience=2 .*monitor", id="patience alone"),
        pytest.param(
            {"patience": 0, "monitor": "nll", "evaluate": lambda model: {"nll": 1.0}},
            "patience=0 .*1",
            id="none",
        ),
        pytest.param(
            {"monitor": "nll", "evaluate": lambda model: {"errors": 1.0}},
            "'nll'.*errors$",
            id="unmeasured monitor",
        ),
        pytest.param(
            {"monitor": "loss", "evaluate": lambda model: {"errors": 1.0}}, "'loss'.*errors$", id="not evaluate's"
        ),
        pytest.param({"evaluate": lambda model: {"loss": 1.0}}, r"evaluate.*\['loss'\]", id="name of a column"),
    ],
)
def test_arguments_that_could_only_mislead_are_refused(
    tiny_split: MakeSplit, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        quietly(network(), cross_entropy, tiny_split(), **({"epochs": 1} | change))


def test_an_empty_split_is_refused(tiny_split: MakeSplit) -> None:
    with pytest.raises(ValueError, match=r"Split\(0 samples of tiny\) is empty"):
        quietly(network(), cross_entropy, tiny_split().subset([]), epochs=1)


def test_a_frozen_teacher_passed_as_the_student_is_refused(tiny_split: MakeSplit) -> None:
    with pytest.raises(ValueError, match=r"no parameter .*frozen"):
        quietly(freeze(network()), cross_entropy, tiny_split(), epochs=1)


# Frozen parts.


def with_statistics(seed: int) -> nn.Module:
    """A network whose answers depend on its mode."""
    with seeded(seed):
        layers = [nn.Linear(784, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False), nn.Dropout(0.5)]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(8, 3))


@pytest.mark.parametrize("wrap", [freeze, Teacher])
def test_a_frozen_teacher_within_the_model_stays_as_it_is_bit_for_bit(tiny_split: MakeSplit, wrap: Any) -> None:
    players = nn.ModuleDict({"student": with_statistics(1), "teacher": wrap(with_statistics(2))})
    teacher, before, images = players["teacher"], state(players["teacher"]), torch.rand(5, 1, 28, 28)
    answers, modes = teacher(images), set()

    def objective(players: nn.Module, batch: Batch) -> Tensor:
        modes.add(any(module.training for module in players["teacher"].modules()))
        modes.add(not all(module.training for module in players["student"].modules()))
        return soft_target_loss(players["student"](batch.images), players["teacher"](batch.images), temperature=2)

    def evaluate(players: nn.Module) -> dict[str, float]:
        players.train()  # whatever evaluate leaves behind
        return {}

    learned = state(players["student"])
    quietly(players, objective, tiny_split(12), epochs=3, drop_last=True, evaluate=evaluate)
    assert modes == {False} and same(state(teacher), before)
    assert teacher.eval()(images).equal(answers) and not same(state(players["student"]), learned)


def test_a_partly_frozen_network_trains_the_rest(tiny_split: MakeSplit) -> None:
    model = with_statistics(1)
    for layer in (model[1], model[2]):
        layer.requires_grad_(False)
    before = state(model)
    quietly(model, cross_entropy, tiny_split(), epochs=2, drop_last=True)
    changed = {name for name, value in state(model).items() if not value.equal(before[name])}
    assert changed == {*before} - {name for name in before if name[:2] in ("1.", "2.")}


# Sums.


def test_bf16_terms_are_summed_in_float32(tiny_split: MakeSplit) -> None:
    split, model = tiny_split(2500), nn.Sequential(nn.Flatten(), nn.Linear(784, 3))

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model, batch).bfloat16() * 0 + 2.296875  # which bf16 can hold

    history = quietly(model, objective, split, epochs=1, batch_size=4)
    assert history["loss"].item() == 2.296875


def test_a_term_is_divided_by_the_samples_that_had_it(tiny_split: MakeSplit) -> None:
    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        loss = cross_entropy(model, batch)
        sometimes = {"some": torch.tensor(float(len(batch)))} if len(batch) == 2 or batch.progress == 0 else {}
        return {"loss": loss, **sometimes}

    history = quietly(network(), objective, tiny_split(12), epochs=2)  # batches of 5, 5, 2
    assert history["some"].to_list() == [(5 * 5 + 2 * 2) / 7, 2]


@pytest.mark.parametrize("name", ["seconds", "learning_rate"])
def test_a_term_named_like_a_column_is_refused(tiny_split: MakeSplit, name: str) -> None:
    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        loss = cross_entropy(model, batch)
        return {"loss": loss, name: loss}

    with pytest.raises(ValueError, match=rf"must not name its terms \['{name}'\].*rename"):
        quietly(network(), objective, tiny_split(), epochs=1)


@pytest.mark.parametrize("given", [math.nan, math.inf, -0.1, None, "0.5", [1, 2], torch.ones(2)], ids=repr)
def test_a_schedule_of_no_factors_is_refused(tiny_split: MakeSplit, given: Any) -> None:
    with pytest.raises(ValueError, match=r"schedule must give finite factors, 0 or more, not .* at progress 0\.5"):
        quietly(network(), cross_entropy, tiny_split(), epochs=2, schedule=lambda done: given if done == 0.5 else 1.0)


def test_weights_ruined_by_the_last_step_are_noticed(tiny_split: MakeSplit) -> None:
    def objective(model: nn.Module, batch: Batch) -> Tensor:
        last = batch.progress > 0.8
        return cross_entropy(model, batch) + (torch.sqrt((model[-1].weight * 0).sum()) if last else 0)

    with pytest.raises(
        FloatingPointError, match=r"classifier\.weight became NaN or infinite in epoch 2.*gradient"
    ) as caught:
        quietly(network(), objective, tiny_split(), epochs=2)
    assert len(caught.value.history) == 1


# What ends a training early.


class Ending(Exception):
    """Something that went wrong."""


@pytest.mark.parametrize("place", ["Ctrl-C", "NaN", "evaluate", "save"])
@pytest.mark.parametrize("monitor", ["nll", None])
def test_whatever_ends_a_training_keeps_its_history_and_best_weights(
    tiny_split: MakeSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, monitor: str | None
) -> None:
    kind = {"Ctrl-C": KeyboardInterrupt, "NaN": FloatingPointError, "evaluate": Ending, "save": OSError}[place]
    model, marks = network(), Marks(5, 3, 4, 6)

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        if place == "Ctrl-C" and batch.progress > 0.8:
            raise KeyboardInterrupt
        return cross_entropy(model, batch) * (math.nan if place == "NaN" and batch.progress >= 0.75 else 1)

    def evaluate(model: nn.Module) -> dict[str, float]:
        if place == "evaluate" and len(marks.weights) == 3:
            raise Ending
        return marks(model)

    save = Checkpoint.save

    def failing(self: Checkpoint, rows: list, best: Any) -> None:
        if place == "save" and len(rows) == 3:
            raise OSError("no space left")
        save(self, rows, best)

    monkeypatch.setattr(Checkpoint, "save", failing)
    with pytest.raises(kind) as caught:
        quietly(model, objective, tiny_split(), epochs=4, evaluate=evaluate, monitor=monitor)
    history = caught.value.history
    assert list(history.index) == [1, 2, 3] and history.index.name == "epoch" and history["nll"].to_list() == [5, 3, 4]
    (note,) = caught.value.__notes__
    assert "3 of 4 epochs were finished" in note and ("best weights" in note) == (monitor is not None)
    if monitor is not None:
        assert same(state(model), marks.weights[1])
    assert not any(module.training for module in model.modules()) or place != "evaluate" or model.training


def test_a_training_that_fails_at_once_has_an_empty_history_and_says_no_more(tiny_split: MakeSplit) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        quietly(network(), interrupted_after(1), tiny_split(), epochs=2)
    assert caught.value.history.empty and not hasattr(caught.value, "__notes__")


# Directions.


@pytest.mark.parametrize(
    ("name", "better", "marks", "best"),
    [
        pytest.param("accuracy", None, [0.1, 0.4, 0.3, 0.3], 2, id="accuracy is to rise"),
        pytest.param("macro_f1", None, [0.1, 0.4, 0.3, 0.3], 2, id="so is F1"),
        pytest.param("agreement", None, [0.1, 0.4, 0.3, 0.3], 2, id="and agreement"),
        pytest.param("errors", None, [9, 4, 5, 5], 2, id="errors are to fall"),
        pytest.param("mine", "higher", [1, 4, 3, 3], 2, id="one's own, as one says"),
        pytest.param("mine", "lower", [4, 1, 3, 3], 2, id="or the other way"),
        pytest.param("accuracy", "lower", [0.4, 0.1, 0.3, 0.3], 2, id="even against its name"),
        pytest.param("accuracy", None, [0.1, 0.4, 0.4, 0.4], 2, id="a tie is no progress"),
    ],
)
def test_the_best_is_the_highest_or_the_lowest(
    tiny_split: MakeSplit, name: str, better: Any, marks: list[float], best: int
) -> None:
    model, judge = network(), Marks(*marks, 0)
    options = {"monitor": name, "better": better, "patience": 2, "evaluate": lambda model: {name: judge(model)["nll"]}}
    history = quietly(model, cross_entropy, tiny_split(), epochs=5, **options)
    assert history[name].to_list() == marks and same(state(model), judge.weights[best - 1])


# Seeds.


def test_the_seed_decides_numpys_and_pythons_random_numbers_too(tiny_split: MakeSplit) -> None:
    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        drawn = np.random.rand() + random.random()  # noqa: NPY002
        return {"loss": cross_entropy(model, batch) * drawn, "drawn": torch.tensor(drawn)}

    def run(seed: int) -> pd.DataFrame:
        return numbers(quietly(network(), objective, tiny_split(), epochs=3, seed=seed))

    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = run(0)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    random.random()
    np.random.rand()  # noqa: NPY002
    assert run(0).equals(first) and not run(1).equals(first)
    assert first["drawn"].is_unique


def test_the_seed_decides_what_an_evaluation_draws(tiny_split: MakeSplit) -> None:
    def run() -> pd.DataFrame:
        return numbers(
            quietly(network(), cross_entropy, tiny_split(), epochs=2, evaluate=lambda m: {"x": torch.rand(())})
        )

    first = run()
    torch.rand(3)
    assert run().equals(first)


def test_an_epoch_of_one_seed_is_no_epoch_of_another(tiny_split: MakeSplit) -> None:
    def orders(seed: int) -> list[list[int]]:
        seen: list[list[int]] = []

        def objective(model: nn.Module, batch: Batch) -> Tensor:
            seen.append(batch.indices.tolist())
            return cross_entropy(model, batch)

        quietly(network(), objective, tiny_split(12), epochs=3, seed=seed, batch_size=12)
        return seen

    assert len({tuple(order) for seed in range(4) for order in orders(seed)}) == 12


@pytest.mark.parametrize("seed", [-1, -(2**70), 10**30, np.int64(2**62)])
def test_any_whole_number_is_a_seed(tiny_split: MakeSplit, seed: int) -> None:
    first = quietly(network(), cross_entropy, tiny_split(), epochs=2, seed=seed)
    assert numbers(first).equals(numbers(quietly(network(), cross_entropy, tiny_split(), epochs=2, seed=seed)))


# Whole batches, and parts of them.


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_of_a_batch_add_up_to_the_whole(tiny_split: MakeSplit, parts: int) -> None:
    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        sizes.append(len(batch))
        loss = cross_entropy(model, batch)
        return {"loss": loss, "square": model(batch.images).square().mean()}

    def run(accumulate: int) -> tuple[pd.DataFrame, State]:
        model = network()
        options = {"epochs": 3, "drop_last": True, "accumulate": accumulate, "schedule": cosine}
        optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
        return numbers(quietly(model, objective, tiny_split(12), optimizer=optimizer, **options)), state(model)

    sizes: list[int] = []
    whole, whole_weights = run(1)
    assert sizes == [5] * 6
    sizes.clear()
    history, weights = run(parts)
    assert sizes == {2: [3, 2], 3: [2, 2, 1], 5: [1] * 5}[parts] * 6
    torch.testing.assert_close(weights, whole_weights, rtol=1e-6, atol=1e-6)
    pd.testing.assert_frame_equal(history, whole, rtol=1e-6)


def test_a_batch_smaller_than_its_parts_is_refused(tiny_split: MakeSplit) -> None:
    with pytest.raises(ValueError, match=r"a batch of 2 samples cannot be cut into 3 parts.*drop_last=True"):
        quietly(network(), cross_entropy, tiny_split(12), epochs=1, accumulate=3)
    beside = Paired(tiny_split(10), tiny_split(7))  # batches of 5 and 5 beside 5 and 2
    with pytest.raises(ValueError, match=r"a batch of 2 samples cannot be cut into 3 parts"):
        quietly(network(), cross_entropy, beside, epochs=1, accumulate=3)


def test_a_last_batch_that_is_smaller_can_be_left_out(tiny_split: MakeSplit) -> None:
    seen: list[tuple[int, float]] = []

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        seen.append((len(batch), batch.progress))
        return cross_entropy(model, batch)

    quietly(network(), objective, tiny_split(12), epochs=2, drop_last=True)
    assert seen == [(5, 0), (5, 0.25), (5, 0.5), (5, 0.75)]
    with pytest.raises(ValueError, match=r"with drop_last no batch of 13 is left of 12 samples"):
        quietly(network(), objective, tiny_split(12), epochs=2, drop_last=True, batch_size=13)


# Types.


def test_a_training_in_float64_works(tiny_split: MakeSplit) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        split, model = tiny_split(12).with_teacher(torch.zeros(12, 3)), network()

        def objective(model: nn.Module, batch: Batch) -> Tensor:
            assert batch.images.dtype == batch.teacher_logits.dtype == torch.float64
            return kd_loss(model(batch.images), batch.teacher_logits, batch.labels, temperature=2, alpha=0.5)

        history = quietly(model, objective, split, epochs=2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert history["loss"].iloc[1] < history["loss"].iloc[0] and model[-1].weight.dtype == torch.float64


def test_weights_of_another_type_than_the_batches_are_named(tiny_split: MakeSplit) -> None:
    with pytest.raises(
        RuntimeError, match=r"(?s)dtype.*weights are torch\.float64, and batches torch\.float32.*\.to\(torch\.float32\)"
    ):
        quietly(network().double(), cross_entropy, tiny_split(12), epochs=1)


# What is refused by its kind.

ADAM = torch.optim.Adam([nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"optimizer": ADAM}, r"function of the parameters, not a Adam; pass .*partial", id="optimizer"),
        pytest.param({"optimizer": "Adam"}, r"function of the parameters, not a str; pass .*partial", id="its name"),
        pytest.param({"optimizer": lambda ps: list(ps)}, "returned a list, not an optimizer", id="no optimizer"),
        pytest.param({"optimizer": torch.optim.LBFGS}, "LBFGS runs the objective several times", id="closures"),
        pytest.param(
            {"schedule": torch.optim.lr_scheduler.LambdaLR(ADAM, lambda step: 1.0)}, "not a LambdaLR", id="scheduler"
        ),
        pytest.param({"schedule": 0.5}, "schedule must be a function .*cosine, not a float", id="a rate"),
        pytest.param({"evaluate": {"nll": 1.0}}, "evaluate must be a function of the model, not {", id="numbers"),
        pytest.param({"train": DataLoader([1, 2])}, r"not DataLoader; make .*from_arrays.*from_dataset", id="loader"),
        pytest.param({"train": (torch.zeros(2), torch.zeros(2))}, "not tuple; .*from_arrays", id="tensors"),
        pytest.param({"train": None}, "not NoneType; .*from_arrays", id="nothing"),
        pytest.param({"model": cross_entropy}, "must be a network, an nn.Module, not function", id="function"),
        pytest.param({"model": [network(), network()]}, "not list; .*nn.ModuleDict", id="models"),
        pytest.param({"model": nn.Linear}, "not the class Linear; call it", id="class"),
        pytest.param({"objective": None}, "function of model and batch, not None", id="objective"),
        pytest.param({"objective": "kd"}, "function of model and batch, not 'kd'", id="its name"),
        pytest.param({"epochs": 2.0}, "epochs must be a whole number, not 2.0", id="epochs"),
        pytest.param({"epochs": True}, "epochs must be a whole number, not True", id="truth"),
        pytest.param({"epochs": "3"}, "epochs must be a whole number, not '3'", id="text"),
        pytest.param({"batch_size": 16.0}, "batch_size must be a whole number", id="batch size"),
        pytest.param({"seed": 0.5}, "seed must be a whole number, not 0.5", id="seed"),
        pytest.param({"seed": None}, "seed must be a whole number, not None", id="no seed"),
        pytest.param({"accumulate": 1.5}, "accumulate must be a whole number", id="parts"),
        pytest.param(
            {"patience": 2.0, "monitor": "nll", "evaluate": Marks()}, "patience must be a whole", id="patience"
        ),
        pytest.param({"monitor": ["nll"], "evaluate": Marks()}, r"monitor must be the name .*\['nll'\]", id="monitors"),
        pytest.param({"tag": 3}, "tag must be a text .*3", id="tag"),
        pytest.param({"device": 0.5}, "device must be a name", id="device"),
    ],
)
def test_arguments_of_another_kind_are_refused(tiny_split: MakeSplit, change: dict[str, Any], words: str) -> None:
    arguments = {"model": network(), "objective": cross_entropy, "train": tiny_split(), "epochs": 1} | change
    with pytest.raises(TypeError, match=f"(?s){words}"):
        quietly(**arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"accumulate": 0}, "accumulate must be 1 or more, not 0", id="no parts"),
        pytest.param({"device": "gpu"}, "device 'gpu' cannot be used .*cuda.* and 'mps'", id="device"),
        pytest.param({"monitor": "mine", "evaluate": Marks()}, "a lower or a higher 'mine' better", id="no direction"),
        pytest.param({"monitor": "nll", "better": "up", "evaluate": Marks()}, "better='up' must be 'lower'", id="up"),
        pytest.param({"better": "lower"}, "better='lower' .* says so of monitor", id="direction of nothing"),
        pytest.param({"evaluate": lambda m: None}, "must return a dict .*not None; end it with return", id="no return"),
        pytest.param({"evaluate": lambda m: 0.5}, "must return a dict .*not 0.5", id="a number"),
        pytest.param({"evaluate": lambda m: {"x": np.ones(2)}}, r"single numbers.*'x' is array\(\[1", id="an array"),
        pytest.param({"evaluate": lambda m: {"x": torch.ones(2)}}, r"single numbers.*'x' is tensor", id="a tensor"),
        pytest.param({"evaluate": lambda m: {"x": "0.5"}}, "single numbers.*'x' is '0.5'", id="text"),
        pytest.param({"evaluate": lambda m: {"x": None}}, "single numbers.*'x' is None", id="None"),
        pytest.param({"evaluate": lambda m: {0: 1.0}}, "single numbers by name, but its 0 is 1.0", id="no name"),
        pytest.param({"optimizer": {"student": torch.optim.Adam}}, r"\['student'\]: one, without a name", id="named"),
        pytest.param({"objective": {}}, r"like the children .*\['input', .*not \[\]", id="no objective"),
        pytest.param({"objective": {"teacher": cross_entropy}}, r"children .*not \['teacher'\]", id="no child"),
    ],
)
def test_values_that_could_only_mislead_are_refused(tiny_split: MakeSplit, change: dict[str, Any], words: str) -> None:
    arguments = {"model": network(), "objective": cross_entropy, "train": tiny_split(), "epochs": 1} | change
    with pytest.raises(ValueError, match=f"(?s){words}"):
        quietly(**arguments)


@pytest.mark.parametrize(
    "value", [np.float32(0.5), np.array(0.5), np.array([0.5]), torch.tensor([0.5]), pd.Series([0.5])]
)
def test_whatever_holds_one_number_is_a_number_of_evaluate(tiny_split: MakeSplit, value: Any) -> None:
    history = quietly(network(), cross_entropy, tiny_split(), epochs=1, evaluate=lambda model: {"x": value})
    assert history["x"].to_list() == [0.5] and history["x"].dtype == "float64"


def test_an_optimizer_of_other_parameters_than_those_it_is_given_is_refused(tiny_split: MakeSplit) -> None:
    model, other = network(), nn.Parameter(torch.ones(1))
    model.stage1.requires_grad_(False)
    foreign = "holds parameters that the model does not have or does not learn.*ModuleDict"
    for parameters, words in {
        lambda own: [other]: foreign,
        lambda own: [*own, other]: foreign,
        lambda own: [{"params": own}, {"params": [other]}]: foreign,
        lambda own: model.parameters(): foreign,  # the frozen ones too
        lambda own: [{"params": []}]: "holds no parameters",
    }.items():
        with pytest.raises(ValueError, match=words):
            quietly(
                model,
                cross_entropy,
                tiny_split(),
                epochs=1,
                optimizer=lambda own, p=parameters: torch.optim.SGD(p(own)),
            )


def test_a_term_without_a_name_is_refused(tiny_split: MakeSplit) -> None:
    def objective(model: nn.Module, batch: Batch) -> dict[Any, Tensor]:
        loss = cross_entropy(model, batch)
        return {"loss": loss, 3: loss}

    with pytest.raises(ValueError, match=r"one scalar tensor by name; its 3"):
        quietly(network(), objective, tiny_split(), epochs=1)


def test_a_loss_of_another_network_is_refused(tiny_split: MakeSplit) -> None:
    other = network(1)
    with pytest.raises(ValueError, match="the loss gives no gradient to what it should move"):
        quietly(network(), lambda _, batch: cross_entropy(other, batch), tiny_split(), epochs=1)


def test_a_stream_without_batches_is_refused(tiny_split: MakeSplit) -> None:
    class Nothing:
        origin = "nowhere"

        def __len__(self) -> int:
            return 5

        def batches(self, batch_size: int, **_: Any) -> list[Batch]:
            return []

    with pytest.raises(ValueError, match="train gave no batches"):
        quietly(network(), cross_entropy, Nothing(), epochs=1)


# The bar, and the device.


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_is_shown_only_on_request_and_nothing_else_is_printed(
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
    assert next(model.parameters()).device.type == device  # it stays where it was trained
    assert history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0]
    assert predict(model, split, device=device).argmax(1).equal(split.labels)
