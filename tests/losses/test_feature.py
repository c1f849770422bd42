"""Hints and attention maps against slow loops, the regressor against a known map, and the two stages of FitNets.

A property is a function that takes an implementation and asserts something of it. The properties hold for the losses of
the package, and each plausible wrong implementation at the end of the file fails the property that is named beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import oracles
import pytest
import torch
from cases import CASE, first, flipped_columns, sign_of_channels
from contract import is_the_mean_over_the_samples, is_unchanged_by, of, scale
from oracles import Loss, close, gradient, is_caught, name, normal, noticed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision.models.feature_extraction import create_feature_extractor

from kd_course.data import Batch, Split
from kd_course.inference import freeze, predict
from kd_course.losses import (
    HintRegressor,
    attention_map,
    attention_transfer_loss,
    hint_loss,
    kd_loss,
    layerwise_loss,
)
from kd_course.models import StudentNet, TeacherNet
from kd_course.runtime import seeded
from kd_course.training import fit

Property = Callable[[Any], None]
MAP, TRANSFER_CASE = CASE["attention_map power 2"], CASE["attention_transfer_loss power 2"]


def maps(*channels: list[list[float]]) -> Tensor:
    """One sample's feature (1, C, H, W), channel by channel."""
    return torch.tensor([channels], dtype=torch.float64)


# Hints.


def example() -> tuple[Tensor, Tensor]:
    """Features (B, C, H, W) of a small batch."""
    return normal(3, 2, 4, 4, seed=1), normal(3, 2, 4, 4, seed=2)


def hint_equals_the_loops(loss: Loss) -> None:
    for number, shape in enumerate([(1, 4), (5, 3), (3, 2, 5, 4), (7, 6, 1, 1)]):
        student, teacher = normal(*shape, seed=number), normal(*shape, seed=10 + number)
        assert close(loss(student, teacher), oracles.hint(student, teacher))


def hint_of_two_samples(loss: Loss) -> None:
    student = torch.tensor([[3.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    assert loss(student, torch.zeros(2, 3)).item() == (0.5 * (9 + 4) + 0.5 * 1) / 2


def hint_pulls_with_the_gap_over_the_batch(loss: Loss) -> None:
    student, teacher = normal(3, 2, 5, 4, seed=1), normal(3, 2, 5, 4, seed=2)
    assert_close(gradient(loss, student, teacher), (student - teacher) / 3)


HINT = [hint_equals_the_loops, hint_of_two_samples, hint_pulls_with_the_gap_over_the_batch]


# Attention maps: attention(feature, *, power).


def map_equals_the_loops(attention: Loss) -> None:
    for number, shape in enumerate([(1, 1, 2, 3), (3, 4, 5, 2), (2, 7, 1, 1), (5, 2, 3, 3)]):
        feature = normal(*shape, seed=number)
        feature[0, :, 0, 0] = 0
        for power in (1, 2, 3.5):
            expected = torch.tensor(oracles.attention(feature, power), dtype=torch.float64)
            assert_close(attention(feature, power=power), expected, rtol=1e-9, atol=1e-12)


def map_of_two_channels(attention: Loss) -> None:
    """Places of energy 3² + 4² = 25 and 0² + 1² = 1."""
    feature = maps([[3.0, 0.0]], [[-4.0, 1.0]])
    expected = torch.tensor([[25.0, 1.0]], dtype=torch.float64) / math.sqrt(626)
    assert_close(attention(feature, power=2), expected)
    expected = torch.tensor([[7.0, 1.0]], dtype=torch.float64) / math.sqrt(50)
    assert_close(attention(feature, power=1), expected)


def map_is_that_of_the_channel_mean(attention: Loss) -> None:
    feature = normal(5, 6, 3, 4)
    for power in (1, 2, 4):
        energy = feature.abs().pow(power).mean(1).flatten(1)
        assert_close(attention(feature, power=power), energy / energy.norm(dim=1, keepdim=True))


def map_has_length_1_and_no_negative_place(attention: Loss) -> None:
    found = attention(normal(5, 6, 3, 4), power=2)
    assert found.shape == (5, 12)
    assert (found >= 0).all()
    assert_close(found.norm(dim=1), torch.ones(5, dtype=torch.float64))


def map_of_nothing_is_nothing_with_a_finite_gradient(attention: Loss) -> None:
    feature = normal(3, 2, 2, 2)
    feature[1] = 0
    feature.requires_grad_()
    found = attention(feature, power=2)
    assert torch.equal(found[1], torch.zeros(4, dtype=torch.float64))
    found.sum().backward()
    assert torch.isfinite(feature.grad).all()


ATTENTION = [
    map_equals_the_loops,
    map_of_two_channels,
    map_is_that_of_the_channel_mean,
    map_has_length_1_and_no_negative_place,
    map_of_nothing_is_nothing_with_a_finite_gradient,
]


# Attention transfer: loss(students, teachers, *, power, paper_form).

SIZES = [((4, 4), (4, 4)), ((8, 8), (4, 4)), ((3, 5), (7, 5)), ((14, 6), (7, 9)), ((5, 5), (3, 3))]


def layers(batch: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    """Features of other widths and sizes at five layers."""
    students = [normal(batch, 2 + i, *size, seed=i) for i, (size, _) in enumerate(SIZES)]
    teachers = [normal(batch, 6 - i, *size, seed=10 + i) for i, (_, size) in enumerate(SIZES)]
    return students, teachers


def transfer_equals_the_loops(loss: Loss) -> None:
    students, teachers = layers()
    for s, t in [(students, teachers), *(([s], [t]) for s, t in zip(students, teachers, strict=True))]:
        for power in (1, 2, 3.5):
            assert close(loss(s, t, power=power), oracles.attention_transfer(s, t, power=power))


def transfer_of_opposite_looks(loss: Loss) -> None:
    """One looks left, the other right: (1, 0) and (0, 1) differ by 1 in both of two places."""
    student, teacher = maps([[5.0, 0.0]]), maps([[0.0, 2.0]], [[0.0, 3.0]])
    assert close(loss([student], [teacher]), (1 + 1) / 2)


def transfer_pools_the_larger_feature(loss: Loss) -> None:
    """2×2 blocks of the teacher are averaged before their energy is taken: 1, -1, 1, -1 come to nothing, 2 stays."""
    teacher = maps([[1.0, -1.0, 2.0, 2.0], [1.0, -1.0, 2.0, 2.0]])
    assert close(loss([maps([[0.0, 9.0]])], [teacher]), 0)
    assert close(loss([teacher], [maps([[9.0, 0.0]])]), 1)


def transfer_adds_over_layers(loss: Loss) -> None:
    students, teachers = layers()
    alone = [loss([s], [t]) for s, t in zip(students, teachers, strict=True)]
    assert close(loss(students, teachers), sum(alone))


def transfer_is_zero_where_both_look_alike(loss: Loss) -> None:
    students, _ = layers()
    alike = [torch.cat([3 * feature, -4 * feature], 1) for feature in students]
    assert loss(alike, students) < 1e-15
    assert gradient(lambda s: loss([s], [students[0]]), 2 * students[0]).abs().max() < 1e-15


TRANSFER = [
    transfer_equals_the_loops,
    transfer_of_opposite_looks,
    transfer_pools_the_larger_feature,
    transfer_adds_over_layers,
    transfer_is_zero_where_both_look_alike,
]


@pytest.mark.parametrize(
    ("implementation", "holds"),
    [
        pytest.param(implementation, holds, id=f"{implementation.__name__}-{holds.__name__}")
        for implementation, properties in (
            (hint_loss, HINT),
            (attention_map, ATTENTION),
            (attention_transfer_loss, TRANSFER),
        )
        for holds in properties
    ],
)
def test_property(implementation: Loss, holds: Property) -> None:
    holds(implementation)


def test_the_papers_form_of_attention_transfer_equals_the_loops() -> None:
    students, teachers = layers()
    for power in (1, 2):
        value = attention_transfer_loss(students, teachers, power=power, paper_form=True)
        assert close(value, oracles.attention_transfer(students, teachers, power=power, paper_form=True))


def test_the_papers_form_is_half_the_distance_of_the_maps() -> None:
    student, teacher = maps([[5.0, 0.0]]), maps([[0.0, 2.0]])
    assert close(attention_transfer_loss([student], [teacher], paper_form=True), math.sqrt(2) / 2)


def test_attention_transfer_takes_any_sequence_of_features_as_an_extractor_gives_them() -> None:
    images = torch.rand(2, 1, 28, 28)
    with seeded(0):
        student, teacher = StudentNet(), TeacherNet()
    stages = ["stage1", "stage2"]
    s, t = (create_feature_extractor(net.eval(), stages)(images) for net in (student, teacher))
    loss = attention_transfer_loss([s[stage] for stage in stages], [t[stage] for stage in stages])
    assert torch.equal(loss, attention_transfer_loss(tuple(s.values()), tuple(t.values())))
    assert 0 < loss < 1


# Sums over layers.


def test_a_layerwise_loss_is_the_weighted_sum() -> None:
    losses = [torch.tensor(value, dtype=torch.float64) for value in (1.0, 10.0, 100.0)]
    assert layerwise_loss(losses) == 111
    for weights in ([3, 0.5, 0], (3, 0.5, 0), torch.tensor([3, 0.5, 0])):
        assert layerwise_loss(losses, weights) == 8
    assert layerwise_loss(losses) == layerwise_loss(losses[:1]) + layerwise_loss(losses[1:])


def test_a_layerwise_loss_pulls_each_layer_by_its_weight_and_each_weight_by_its_loss() -> None:
    losses = normal(3, seed=1).requires_grad_()
    weights = torch.tensor([3.0, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    layerwise_loss(list(losses), weights).backward()
    assert torch.equal(losses.grad, weights.detach())
    assert torch.equal(weights.grad, losses.detach())


def test_weights_may_be_parameters_one_by_one() -> None:
    weights = nn.ParameterList([torch.tensor(2.0), torch.tensor(3.0)])
    layerwise_loss([torch.tensor(5.0), torch.tensor(7.0)], list(weights)).backward()
    assert [weight.grad.item() for weight in weights] == [5, 7]


def minimised(make_weights: Callable[[Tensor], Tensor], steps: int) -> tuple[Tensor, float]:
    """Weights and loss after gradient descent over the weights alone, with layer losses that stay at 1 and 2."""
    free = torch.ones(2, requires_grad=True)
    losses = [torch.tensor(1.0), torch.tensor(2.0)]
    optimizer = torch.optim.SGD([free], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        layerwise_loss(losses, make_weights(free)).backward()
        optimizer.step()
    weights = make_weights(free.detach())
    return weights, layerwise_loss(losses, weights).item()


def test_free_weights_fall_without_bound_while_no_layer_gets_better() -> None:
    for steps in (10, 100, 1000):
        weights, loss = minimised(lambda free: free, steps)
        assert_close(weights, torch.tensor([1 - 0.1 * steps, 1 - 0.2 * steps]), rtol=1e-4, atol=1e-4)
        assert loss == pytest.approx(3 - 0.5 * steps, rel=1e-4)


def test_softmax_weights_keep_their_sum_and_the_loss_its_floor() -> None:
    for steps in (10, 100, 1000):
        weights, loss = minimised(lambda free: torch.softmax(free, 0), steps)
        assert weights.sum().item() == pytest.approx(1)
        assert (weights >= 0).all()
        assert 1 <= loss <= 1.5  # between the best layer alone and the mean of both
    assert weights[0] > 0.95  # the layer that is easy anyway takes nearly all


# The regressor.


@pytest.mark.parametrize(
    ("student", "teacher", "kernel"),
    [
        pytest.param((16, 14, 14), (64, 7, 7), (8, 8), id="a larger map"),
        pytest.param((16, 7, 7), (64, 7, 7), (1, 1), id="the same map"),
        pytest.param((3, 9, 5), (2, 4, 5), (6, 1), id="not square"),
    ],
)
def test_the_kernel_shrinks_the_students_map_to_the_hints(student: tuple, teacher: tuple, kernel: tuple) -> None:
    regressor = HintRegressor(student, teacher)
    assert regressor.map.kernel_size == kernel
    assert regressor(torch.zeros(5, *student)).shape == (5, *teacher)


def test_vectors_get_a_linear_layer() -> None:
    regressor = HintRegressor((64,), (512,))
    assert isinstance(regressor.map, nn.Linear)
    assert regressor(torch.zeros(5, 64)).shape == (5, 512)


@pytest.mark.parametrize(
    ("student", "teacher"), [((4,), (6,)), ((3, 5, 4), (2, 3, 4)), ((3, 4, 4), (5, 4, 4))], ids=str
)
def test_the_regressor_finds_the_linear_map_that_made_the_hints(student: tuple, teacher: tuple) -> None:
    truth, regressor = (HintRegressor(student, teacher, seed=seed).double() for seed in (1, 2))
    features = normal(60, *student)
    with torch.no_grad():
        hints = truth(features)
    optimizer = torch.optim.LBFGS(
        regressor.parameters(),
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=1e-18,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = hint_loss(regressor(features), hints)
        loss.backward()
        return loss

    assert closure() > 0.1
    optimizer.step(closure)
    assert closure() < 1e-12
    for found, made in zip(regressor.parameters(), truth.parameters(), strict=True):
        assert_close(found, made, rtol=1e-4, atol=1e-5)


def test_gradients_of_feature_and_regressor_pass_gradcheck() -> None:
    for student, teacher in (((3,), (2,)), ((2, 3, 3), (3, 2, 2))):
        regressor = HintRegressor(student, teacher).double()
        feature, hints = normal(2, *student).requires_grad_(), normal(2, *teacher, seed=1)
        names = [name for name, _ in regressor.named_parameters()]

        def loss(feature: Tensor, *weights: Tensor, regressor=regressor, names=names, hints=hints) -> Tensor:
            parameters = dict(zip(names, weights, strict=True))
            return hint_loss(torch.func.functional_call(regressor, parameters, feature), hints)

        assert torch.autograd.gradcheck(loss, (feature, *regressor.parameters()))


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first = HintRegressor((4,), (5,))
    torch.rand(3)
    again, other = HintRegressor((4,), (5,)), HintRegressor((4,), (5,), seed=1)
    assert torch.equal(first.map.weight, again.map.weight)
    assert not torch.equal(first.map.weight, other.map.weight)


@pytest.mark.parametrize("make", [lambda: HintRegressor((4,), (5,)), lambda: HintRegressor((4, 3, 3), (5, 2, 2))])
def test_making_a_regressor_leaves_the_baseline_bit_for_bit(
    make: Callable[[], object], tiny_split: Callable[..., Split]
) -> None:
    assert noticed(make, tiny_split(12)) == set()


def test_making_a_plain_layer_does_not(tiny_split: Callable[..., Split]) -> None:
    expected = {
        "generator",
        "initial weights",
        "trained weights",
    }  # batches come in the order of fit's seed all the same
    assert noticed(lambda: nn.Linear(4, 5), tiny_split(12)) == expected


# FitNets in two stages. Stage 1 trains what leads to the guided layer, and the regressor, on the hint.

Training = Callable[[StudentNet, HintRegressor, Callable[[Tensor], Tensor], Split], None]
QUICK = {"epochs": 3, "batch_size": 8, "progress": False, "optimizer": partial(torch.optim.Adam, lr=3e-3)}


def state(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def moved(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    """Which weights are not bit for bit what they were."""
    return {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}


def guided_with_regressor(student: StudentNet, regressor: HintRegressor, hints: Callable, train: Split) -> None:
    """Stage 1 as the course does it."""

    def hint(model: nn.ModuleDict, batch: Batch) -> Tensor:
        return hint_loss(model["regressor"](model["guided"](batch.images)), hints(batch.images))

    guided = nn.Sequential(student.stage1, student.stage2)
    fit(nn.ModuleDict({"guided": guided, "regressor": regressor}), hint, train, **QUICK)


def trains_guided_layers_and_regressor_and_nothing_else(stage_1: Training, train: Split) -> None:
    with seeded(0):
        student, teacher = StudentNet(3), freeze(TeacherNet(3))
    hints = create_feature_extractor(teacher, ["stage2"])
    regressor = HintRegressor((32, 7, 7), (128, 7, 7))
    before, before_regressor, before_teacher = state(student), state(regressor), state(teacher)

    def value() -> float:
        with torch.no_grad():
            images = next(train.batches(100)).images
            guess = regressor(student.stage2(student.stage1(images)))
            return hint_loss(guess, hints(images)["stage2"]).item()

    start = value()
    stage_1(student, regressor, lambda images: hints(images)["stage2"].detach(), train)
    guided = {key for key in before if key.startswith(("stage1.", "stage2."))}
    assert len(guided) == 4
    assert moved(before, student) == guided  # the later layers are bit for bit what they were
    assert moved(before_regressor, regressor) == set(before_regressor)
    assert moved(before_teacher, teacher) == set()
    assert value() < 0.8 * start


def test_stage_1_trains_the_guided_layers_and_the_regressor_and_nothing_else(tiny_split: Callable[..., Split]) -> None:
    trains_guided_layers_and_regressor_and_nothing_else(guided_with_regressor, tiny_split(24))


def test_stage_2_is_distillation_of_the_whole_student(tiny_split: Callable[..., Split]) -> None:
    with seeded(0):
        student, teacher = StudentNet(3), freeze(TeacherNet(3))
    train = tiny_split(24)
    hints = create_feature_extractor(teacher, ["stage2"])
    guided_with_regressor(
        student, HintRegressor((32, 7, 7), (128, 7, 7)), lambda images: hints(images)["stage2"].detach(), train
    )
    guided = state(student)

    def distil(model: nn.Module, batch: Batch) -> Tensor:
        return kd_loss(model(batch.images), batch.teacher_logits, batch.labels, temperature=3, alpha=0.9)

    history = fit(student, distil, train.with_teacher(predict(teacher, train, device="cpu")), **QUICK)
    assert moved(guided, student) == set(guided)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


# Deliberate breaks: the mistakes that tutorials and libraries repeat. Each runs, each returns a number, and each fails
# the property beside it.


def hint_as_element_mean(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s, t)


def hint_without_the_half(s: Tensor, t: Tensor) -> Tensor:
    return (s - t).square().sum() / len(s)


def hint_summed_over_the_batch(s: Tensor, t: Tensor) -> Tensor:
    return (s - t).square().sum() / 2


def hint_as_a_distance(s: Tensor, t: Tensor) -> Tensor:
    return (s - t).flatten(1).norm(dim=1).mean() / 2


def map_of_the_largest_channel(feature: Tensor, *, power: float = 2) -> Tensor:
    return F.normalize(feature.abs().pow(power).amax(1).flatten(1))


def map_without_normalisation(feature: Tensor, *, power: float = 2) -> Tensor:
    return feature.abs().pow(power).sum(1).flatten(1)


def map_that_adds_up_to_1(feature: Tensor, *, power: float = 2) -> Tensor:
    return F.normalize(feature.abs().pow(power).sum(1).flatten(1), p=1)


def map_by_softmax(feature: Tensor, *, power: float = 2) -> Tensor:
    return F.normalize(feature.abs().pow(power).sum(1).flatten(1).softmax(1))


def map_without_absolute_values(feature: Tensor, *, power: float = 2) -> Tensor:
    return F.normalize(feature.sum(1).flatten(1))


def map_of_the_first_channel(feature: Tensor, *, power: float = 2) -> Tensor:
    return F.normalize(feature[:, 0].abs().pow(power).flatten(1))


def map_normalised_over_the_batch(feature: Tensor, *, power: float = 2) -> Tensor:
    energy = feature.abs().pow(power).sum(1).flatten(1)
    return energy / energy.norm()


def map_over_a_bare_root(feature: Tensor, *, power: float = 2) -> Tensor:
    energy = feature.abs().pow(power).sum(1).flatten(1)
    return energy / energy.square().sum(1, keepdim=True).sqrt()


def transfer(
    make_map: Loss, students: list[Tensor], teachers: list[Tensor], pool: Callable = F.adaptive_avg_pool2d
) -> list[Tensor]:
    """Squared gaps of the maps, layer by layer."""
    gaps = []
    for s, t in zip(students, teachers, strict=True):
        size = [min(pair) for pair in zip(s.shape[2:], t.shape[2:], strict=True)]
        gaps.append((make_map(pool(s, size)) - make_map(pool(t, size))).square())
    return gaps


def transfer_of_largest_channels(s: list[Tensor], t: list[Tensor], **_: Any) -> Tensor:
    return sum(gap.mean() for gap in transfer(map_of_the_largest_channel, s, t))


def transfer_without_normalisation(s: list[Tensor], t: list[Tensor], **_: Any) -> Tensor:
    return sum(gap.mean() for gap in transfer(map_without_normalisation, s, t))


def transfer_meant_over_layers(s: list[Tensor], t: list[Tensor], **_: Any) -> Tensor:
    return sum(gap.mean() for gap in transfer(attention_map, s, t)) / len(s)


def transfer_summed_over_places(s: list[Tensor], t: list[Tensor], **_: Any) -> Tensor:
    return sum(gap.sum(1).mean() for gap in transfer(attention_map, s, t))


def transfer_summed_over_the_batch(s: list[Tensor], t: list[Tensor], **_: Any) -> Tensor:
    return sum(gap.sum() / gap.shape[1] for gap in transfer(attention_map, s, t))


def transfer_by_picking_places(s: list[Tensor], t: list[Tensor], **_: Any) -> Tensor:
    return sum(gap.mean() for gap in transfer(attention_map, s, t, pool=F.interpolate))


def transfer_by_largest_places(s: list[Tensor], t: list[Tensor], **_: Any) -> Tensor:
    return sum(gap.mean() for gap in transfer(attention_map, s, t, pool=F.adaptive_max_pool2d))


def transfer_of_features(s: list[Tensor], t: list[Tensor], **_: Any) -> Tensor:
    return sum(gap.mean() for gap in transfer(lambda feature: feature.mean(1).flatten(1), s, t))


def on_one_feature(call: Loss) -> Any:
    return call(normal(3, 2, 4, 4))


def on_two_features(call: Loss) -> Any:
    return call(*example())


def on_layers(call: Loss) -> Any:
    return call(*layers())


WRONG: list[Any] = [
    (hint_as_element_mean, on_two_features, hint_of_two_samples),
    (hint_as_element_mean, on_two_features, hint_pulls_with_the_gap_over_the_batch),
    (hint_without_the_half, on_two_features, hint_of_two_samples),
    (hint_without_the_half, on_two_features, hint_pulls_with_the_gap_over_the_batch),
    (hint_summed_over_the_batch, on_two_features, hint_of_two_samples),
    (hint_as_a_distance, on_two_features, hint_of_two_samples),
    (map_of_the_largest_channel, on_one_feature, map_of_two_channels),
    (map_of_the_largest_channel, on_one_feature, map_is_that_of_the_channel_mean),
    (map_without_normalisation, on_one_feature, of(MAP, is_unchanged_by, scale)),
    (map_that_adds_up_to_1, on_one_feature, map_of_two_channels),
    (map_by_softmax, on_one_feature, of(MAP, is_unchanged_by, scale)),
    (map_without_absolute_values, on_one_feature, of(MAP, is_unchanged_by, first(sign_of_channels))),
    (map_of_the_first_channel, on_one_feature, of(MAP, is_unchanged_by, first(flipped_columns))),
    (map_normalised_over_the_batch, on_one_feature, of(MAP, is_the_mean_over_the_samples)),
    (map_over_a_bare_root, on_one_feature, map_of_nothing_is_nothing_with_a_finite_gradient),
    (transfer_of_largest_channels, on_layers, transfer_equals_the_loops),
    (transfer_without_normalisation, on_layers, of(TRANSFER_CASE, is_unchanged_by, scale)),
    (transfer_meant_over_layers, on_layers, transfer_adds_over_layers),
    (transfer_summed_over_places, on_layers, transfer_of_opposite_looks),
    (transfer_summed_over_the_batch, on_layers, of(TRANSFER_CASE, is_the_mean_over_the_samples)),
    (transfer_by_picking_places, on_layers, transfer_pools_the_larger_feature),
    (transfer_by_largest_places, on_layers, transfer_pools_the_larger_feature),
    (transfer_of_features, on_layers, transfer_is_zero_where_both_look_alike),
]


@pytest.mark.parametrize(("wrong", "runs_on", "by"), WRONG, ids=name)
def test_a_wrong_feature_loss_is_caught(wrong: Loss, runs_on: Callable[[Loss], Tensor], by: Property) -> None:
    assert torch.isfinite(runs_on(wrong)).all()  # it runs, as it does where it is published
    assert is_caught(wrong, by)


# The classic mistakes of stage 1.


def regressor_left_out_of_the_optimizer(
    student: StudentNet, regressor: HintRegressor, hints: Callable, train: Split
) -> None:
    def hint(guided: nn.Module, batch: Batch) -> Tensor:
        return hint_loss(regressor(guided(batch.images)), hints(batch.images))

    fit(nn.Sequential(student.stage1, student.stage2), hint, train, **QUICK)


def regressor_in_a_plain_list(student: StudentNet, regressor: HintRegressor, hints: Callable, train: Split) -> None:
    guided = nn.Sequential(student.stage1, student.stage2)
    guided.extras = [regressor]  # a list hides its modules from parameters()

    def hint(model: nn.Module, batch: Batch) -> Tensor:
        return hint_loss(model.extras[0](model(batch.images)), hints(batch.images))

    fit(guided, hint, train, **QUICK)


def regressor_made_anew_for_each_batch(
    student: StudentNet, regressor: HintRegressor, hints: Callable, train: Split
) -> None:
    def hint(guided: nn.Module, batch: Batch) -> Tensor:
        return hint_loss(HintRegressor((32, 7, 7), (128, 7, 7))(guided(batch.images)), hints(batch.images))

    fit(nn.Sequential(student.stage1, student.stage2), hint, train, **QUICK)


def regressor_alone(student: StudentNet, regressor: HintRegressor, hints: Callable, train: Split) -> None:
    def hint(model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            feature = student.stage2(student.stage1(batch.images))
        return hint_loss(model(feature), hints(batch.images))

    fit(regressor, hint, train, **QUICK)


def whole_student_on_hint_and_labels(
    student: StudentNet, regressor: HintRegressor, hints: Callable, train: Split
) -> None:
    def both(model: nn.ModuleDict, batch: Batch) -> Tensor:
        feature = model["student"].stage2(model["student"].stage1(batch.images))
        logits = model["student"].classifier(model["student"].embedding(feature))
        return hint_loss(model["regressor"](feature), hints(batch.images)) + F.cross_entropy(logits, batch.labels)

    fit(nn.ModuleDict({"student": student, "regressor": regressor}), both, train, **QUICK)


@pytest.mark.parametrize(
    "wrong",
    [
        regressor_left_out_of_the_optimizer,
        regressor_in_a_plain_list,
        regressor_made_anew_for_each_batch,
        regressor_alone,
        whole_student_on_hint_and_labels,
    ],
    ids=name,
)
def test_a_wrong_first_stage_is_caught(wrong: Training, tiny_split: Callable[..., Split]) -> None:
    assert is_caught(wrong, lambda stage: trains_guided_layers_and_regressor_and_nothing_else(stage, tiny_split(24)))


# Types and shapes of what a regressor is given.


def test_a_regressor_made_or_fed_in_another_type_computes_in_the_type_of_its_weights() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        regressor = HintRegressor((4,), (6,))
    finally:
        torch.set_default_dtype(before)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        feature = torch.ones(3, 4, dtype=dtype, requires_grad=True)
        value = hint_loss(regressor(feature), torch.zeros(3, 6))
        value.backward()
        assert value.dtype == torch.float64 and feature.grad.dtype == dtype
    assert HintRegressor((4,), (6,))(torch.ones(3, 4, dtype=torch.float16)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 1), (4,)], ids=str)
def test_a_regressor_says_which_shape_it_was_made_for(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(batch, 4\), not "):
        HintRegressor((4,), (6,))(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shapes", "error"), [((("4",), (6,)), TypeError), (((4.5,), (6,)), TypeError), (((0,), (6,)), ValueError)], ids=str
)
def test_a_regressor_wants_whole_sizes(shapes: tuple, error: type[Exception]) -> None:
    with pytest.raises(error, match="a size in a shape"):
        HintRegressor(*shapes)


def test_a_width_alone_is_the_shape_of_a_vector() -> None:
    assert HintRegressor(4, 6)(torch.zeros(3, 4)).shape == (3, 6)


@pytest.mark.parametrize("power", [3, 12, 40])
def test_a_steep_attention_map_of_huge_and_tiny_features_is_that_of_ordinary_ones(power: float) -> None:
    feature = normal(2, 3, 4, 4).float()
    expected = attention_map(feature, power=power)
    for size in (1e-20, 1e4, 1e15):
        one_of_two = torch.stack([size * feature[0], feature[1]])  # each sample has a size of its own
        for each in (size * feature, one_of_two):
            assert_close(attention_map(each, power=power), expected, rtol=1e-4, atol=1e-6)


def test_layer_losses_in_a_tensor_are_added_too() -> None:
    assert layerwise_loss(torch.tensor([1.0, 10.0]), torch.tensor([2.0, 0.5])).item() == 7
