"""Objectives that take turns: each moves its own part of the model, by an optimizer of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small_training import MakeSplit, State, cross_entropy, network, numbers, quietly, same, state
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course.data import Batch, Noise
from kd_course.inference import Teacher
from kd_course.losses import soft_target_loss
from kd_course.runtime import seeded
from kd_course.training import cosine, fit

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.5)
ADAM = partial(torch.optim.Adam, lr=1e-2)
BOTH = {"generator": ADAM, "student": SGD}


def generator(seed: int = 1) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Linear(4, 784), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28)))


def players(seed: int = 0) -> nn.ModuleDict:
    """A student that imitates a teacher on images that a generator makes to part them."""
    with seeded(9):
        layers = [nn.Linear(784, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)]
        teacher = Teacher(nn.Sequential(nn.Flatten(), *layers))
    parts = {"generator": generator(seed + 1), "student": network(seed, dropout=0.5), "teacher": teacher}
    return nn.ModuleDict(parts)


def disagreement(model: nn.Module, batch: Batch) -> Tensor:
    images = model["generator"](batch.inputs["noise"])
    return soft_target_loss(model["student"](images), model["teacher"](images), temperature=2)


def apart(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    distance = disagreement(model, batch)
    return {"loss": -distance, "distance": distance}


GAME = {"generator": apart, "student": disagreement}
noise = Noise(12, (4,))


def by_hand(model: nn.ModuleDict, epochs: int) -> list[tuple[float, float]]:
    """The same game, written out."""
    first, second = ADAM(model["generator"].parameters()), SGD(model["student"].parameters())
    means = []
    for epoch in range(epochs):
        sums = [0.0, 0.0]
        model.train()
        with seeded(3 * 1_000_003 + epoch):
            batches = list(noise.batches(5, shuffle_seed=3 * 1_000_003 + epoch))
            for step, batch in enumerate(batches):
                factor = cosine((epoch + step / len(batches)) / epochs)
                first.param_groups[0]["lr"], second.param_groups[0]["lr"] = 1e-2 * factor, 0.1 * factor
                losses = []
                for sign, optimizer in ((-1, first), (1, second)):
                    loss = sign * disagreement(model, batch)
                    model.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.detach())
                sums = [total + loss * len(batch) for total, loss in zip(sums, losses, strict=True)]
        means.append(tuple(float(total) / 12 for total in sums))
    return means


def test_a_game_of_two_is_the_loop_written_by_hand_bit_for_bit() -> None:
    expected_players, found = players(), players()
    expected = by_hand(expected_players, 3)
    history = quietly(found, GAME, noise, epochs=3, seed=3, optimizer=BOTH, schedule=cosine)
    assert list(zip(history["generator/loss"], history["student/loss"], strict=True)) == expected
    assert same(state(found), state(expected_players))


def test_the_history_names_the_terms_and_rates_of_each_player() -> None:
    history = quietly(players(), GAME, noise, epochs=2, optimizer=BOTH, evaluate=lambda model: {"errors": 1})
    names = ["generator/loss", "generator/distance", "student/loss", "generator/learning_rate"]
    assert list(history.columns) == [*names, "student/learning_rate", "seconds", "errors"]
    assert history["generator/learning_rate"].to_list() == [1e-2] * 2
    assert history["student/learning_rate"].to_list() == [0.1] * 2
    assert history["generator/distance"].equals(-history["generator/loss"])


def test_players_take_turns_in_the_order_of_the_objectives() -> None:
    turns: list[str] = []

    def noting(name: str, objective: Any) -> Any:
        return lambda model, batch: turns.append(name) or objective(model, batch)

    game = {"student": noting("student", disagreement), "generator": noting("generator", apart)}
    quietly(players(), game, noise, epochs=1)
    assert turns == ["student", "generator"] * 3


def test_a_turn_moves_its_own_player_and_leaves_the_others_gradients_alone() -> None:
    model = players()
    marks = {name: [torch.full_like(each, 7.0) for each in model[name].parameters()] for name in GAME}

    def checking(name: str) -> Any:
        other = "student" if name == "generator" else "generator"

        def objective(model: nn.Module, batch: Batch) -> Tensor:
            before.update({each: state(model[each]) for each in GAME})
            for parameter, mark in zip(model[other].parameters(), marks[other], strict=True):
                parameter.grad = mark
            return GAME[name](model, batch)

        return objective

    class Watching(torch.optim.SGD):
        """Looks at the other player when its own step is done."""

        def __init__(self, parameters: Iterable[nn.Parameter], name: str) -> None:
            super().__init__(parameters, lr=0.1)
            self.name, self.other = name, "student" if name == "generator" else "generator"

        def step(self, closure: Any = None) -> None:
            super().step(closure)
            moved.append(self.name)
            assert not any(value.equal(before[self.name][key]) for key, value in state(model[self.name]).items())
            assert same(state(model[self.other]), before[self.other])
            assert all(
                p.grad is mark for p, mark in zip(model[self.other].parameters(), marks[self.other], strict=True)
            )
            assert all((mark == 7).all() for mark in marks[self.other])
            assert all(each.grad is None for each in model["teacher"].parameters())

    before: dict[str, State] = {}
    moved: list[str] = []
    optimizer = {name: partial(Watching, name=name) for name in GAME}
    quietly(model, {name: checking(name) for name in GAME}, noise, epochs=1, optimizer=optimizer)
    assert moved == ["generator", "student"] * 3


def test_one_way_to_make_an_optimizer_serves_all_players() -> None:
    given: list[set[int]] = []

    def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        given.append({id(parameter) for parameter in parameters})
        return SGD(parameters)

    one, named = players(), players()
    quietly(one, GAME, noise, epochs=2, optimizer=optimizer)
    quietly(named, GAME, noise, epochs=2, optimizer=dict.fromkeys(GAME, SGD))
    assert same(state(one), state(named))
    assert given == [{id(each) for each in one[name].parameters()} for name in GAME]


def test_a_generator_learns_through_a_teacher_that_stays_bit_identical() -> None:
    model = players()
    teacher, before = state(model["teacher"]), state(model["generator"])

    def certain(model: nn.Module, batch: Batch) -> Tensor:
        """The images are to be zeros for the teacher; the student plays no part in it."""
        return F.cross_entropy(
            model["teacher"](model["generator"](batch.inputs["noise"])), torch.zeros_like(batch.indices)
        )

    history = quietly(model, {"generator": certain, "student": disagreement}, noise, epochs=15, optimizer=ADAM)
    assert history["generator/loss"].iloc[-1] < 0.8 * history["generator/loss"].iloc[0]
    assert same(state(model["teacher"]), teacher) and not model["teacher"].training
    assert not any(value.equal(before[name]) for name, value in state(model["generator"]).items())


# Sitting out.


def test_an_objective_that_returns_none_sits_the_turn_out() -> None:
    model = players()
    generators: list[State] = []

    def second(model: nn.Module, batch: Batch) -> dict[str, Tensor] | None:
        generators.append(state(model["generator"]))
        return apart(model, batch) if len(generators) % 3 == 2 else None

    quietly(model, {"generator": second, "student": disagreement}, noise, epochs=2)
    generators.append(state(model["generator"]))
    moved = [not same(before, after) for before, after in itertools.pairwise(generators)]
    assert moved == [False, True, False] * 2


def test_a_term_of_a_player_is_divided_by_the_samples_of_its_turns() -> None:
    def second_turn(model: nn.Module, batch: Batch) -> dict[str, Tensor] | None:
        loss = apart(model, batch)["loss"]
        return {"loss": loss, "size": torch.tensor(float(len(batch)))} if len(batch) == 2 else None

    history = quietly(players(), {"generator": second_turn, "student": disagreement}, noise, epochs=2)
    assert history["generator/size"].to_list() == [2, 2]


def test_an_objective_without_turns_may_not_return_none(tiny_split: MakeSplit) -> None:
    with pytest.raises(ValueError, match=r"one scalar tensor.*NoneType"):
        quietly(network(), lambda model, batch: None, tiny_split(), epochs=1)


def test_whoever_always_sits_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective of 'student' sat every turn out .*nothing would be learned"):
        quietly(players(), {"generator": apart, "student": lambda *_: None}, noise, epochs=2)


# What is refused.


def without_a_way(model: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        images = model["generator"](batch.inputs["noise"])
    return soft_target_loss(model["student"](images), model["teacher"](images), temperature=2)


@pytest.mark.parametrize(
    ("objective", "optimizer", "words"),
    [
        pytest.param(
            {"critic": apart}, ADAM, r"children .*'generator', 'student', 'teacher'.* not \['critic'\]", id="who"
        ),
        pytest.param(GAME, {"generator": ADAM}, r"other optimizers than \['generator'\]: one for each", id="one lacks"),
        pytest.param(GAME, BOTH | {"critic": ADAM}, "one for each of .*'generator', 'student'", id="one too many"),
        pytest.param(disagreement, BOTH, r"than \['generator', 'student'\]: one, without a name", id="no turns"),
        pytest.param(GAME | {"teacher": apart}, ADAM, "no parameter of 'teacher' requires a gradient", id="frozen"),
        pytest.param(GAME | {"generator": without_a_way}, ADAM, "loss of 'generator' gives no gradient", id="detached"),
        pytest.param(
            GAME,
            BOTH | {"student": lambda _: SGD(generator().parameters())},
            "holds parameters that 'student' does not have",
            id="another's parameters",
        ),
    ],
)
def test_players_that_do_not_fit_are_refused(objective: Any, optimizer: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        quietly(players(), objective, noise, epochs=1, optimizer=optimizer)


def test_an_objective_that_is_no_function_is_refused_by_its_value() -> None:
    with pytest.raises(TypeError, match="function of model and batch, not 'kd'"):
        quietly(players(), GAME | {"student": "kd"}, noise, epochs=1)


# Interruption.


@pytest.mark.parametrize("steps", [4, 7])
def test_an_interrupted_game_ends_at_the_same_numbers(tmp_path: Path, steps: int) -> None:
    options: dict[str, Any] = {"epochs": 4, "optimizer": BOTH, "schedule": cosine, "tag": "game"}
    options |= {"checkpoint": tmp_path / "run.pt"}
    turns: list[int] = []

    def interrupted(model: nn.Module, batch: Batch) -> Tensor:
        turns.append(1)
        if len(turns) == steps:
            raise KeyboardInterrupt
        return disagreement(model, batch)

    expected_players, resumed = players(), players(seed=5)
    expected = quietly(expected_players, GAME, noise, **(options | {"checkpoint": None}))
    with pytest.raises(KeyboardInterrupt) as caught:
        quietly(players(), GAME | {"student": interrupted}, noise, **options)
    assert len(caught.value.history) == (steps - 1) // 3
    found = quietly(resumed, GAME, noise, **options)
    pd.testing.assert_frame_equal(numbers(found), numbers(expected), check_exact=True)
    assert same(state(resumed), state(expected_players))


@pytest.mark.parametrize("change", ["order", "optimizer", "objective", "turns"])
def test_a_checkpoint_of_another_game_is_refused(tmp_path: Path, change: str) -> None:
    options: dict[str, Any] = {"epochs": 1, "checkpoint": tmp_path / "run.pt", "progress": False}
    fit(players(), GAME, noise, optimizer=BOTH, **options)
    objective: Any = {
        "order": {"student": disagreement, "generator": apart},
        "objective": GAME | {"student": lambda model, batch: 2 * disagreement(model, batch)},
        "turns": disagreement,
    }.get(change, GAME)
    optimizer: Any = {"optimizer": BOTH | {"student": partial(SGD, momentum=0.9)}, "turns": SGD}.get(change, BOTH)
    with pytest.raises(ValueError, match="another training"):
        fit(players(), objective, noise, optimizer=optimizer, **options)


def test_under_a_tag_another_set_of_players_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 1, "checkpoint": tmp_path / "run.pt", "optimizer": SGD, "tag": "mine"}
    quietly(players(), {"student": disagreement}, noise, **options)
    with pytest.raises(ValueError, match=r"holds another model or optimizer \('generator'\)"):
        quietly(players(), {"generator": apart}, noise, **options)


def test_a_model_need_not_be_a_module_dict(tiny_split: MakeSplit) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = network(1), network(2)

    pair, alone = Pair(), network(1)
    game = {"first": lambda model, batch: cross_entropy(model.first, batch)}
    history = quietly(pair, game, tiny_split(), epochs=2)
    expected = quietly(alone, cross_entropy, tiny_split(), epochs=2)
    assert same(state(pair.first), state(alone)) and same(state(pair.second), state(network(2)))
    assert history["first/loss"].equals(expected["loss"])
