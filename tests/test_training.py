"""The one loop: what it promises about modes, numbers, schedules and stopping."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

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

from kd_course.data import Batch
from kd_course.inference import freeze, predict
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
