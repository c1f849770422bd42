"""The networks: their exact sizes, their named stages, and their dropout."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from kd_course.models import MixerNet, SeparableNet, StudentNet, TeacherNet, count_parameters, mlp
from kd_course.runtime import seeded

IMAGES = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
TEACHER_STAGES = {"stage1": (64, 14, 14), "stage2": (128, 7, 7), "stage3": (256, 3, 3), "embedding": (512,)}
STUDENT_STAGES = {"stage1": (16, 14, 14), "stage2": (32, 7, 7), "embedding": (64,)}


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        pytest.param(TeacherNet, 1_554_954, id="TeacherNet"),
        pytest.param(StudentNet, 105_866, id="StudentNet"),
        pytest.param(lambda: mlp(30), linear(784, 30) + linear(30, 10), id="mlp 30"),
        pytest.param(
            lambda: mlp((1200, 1200)), linear(784, 1200) + linear(1200, 1200) + linear(1200, 10), id="mlp 1200 1200"
        ),
        pytest.param(lambda: StudentNet(classes=4), 105_866 - 6 * 65, id="StudentNet of 4 classes"),
        pytest.param(lambda: TeacherNet(classes=4), 1_554_954 - 6 * 513, id="TeacherNet of 4 classes"),
        pytest.param(lambda: mlp(30, classes=4), linear(784, 30) + linear(30, 4), id="mlp of 4 classes"),
    ],
)
def test_parameter_counts_are_exact(build: Callable[[], nn.Module], parameters: int) -> None:
    assert count_parameters(build()) == parameters


def test_the_pair_of_the_course_differs_by_a_factor_of_14_7() -> None:
    assert round(count_parameters(TeacherNet()) / count_parameters(StudentNet()), 1) == 14.7


def test_frozen_parameters_count_too() -> None:
    assert count_parameters(StudentNet().requires_grad_(False)) == 105_866


@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        pytest.param(TeacherNet, TEACHER_STAGES, id="TeacherNet"),
        pytest.param(StudentNet, STUDENT_STAGES, id="StudentNet"),
        pytest.param(
            lambda: mlp((30, 20), dropout=0.5, input_dropout=0.2), {"stage1": (30,), "stage2": (20,)}, id="mlp"
        ),
    ],
)
def test_features_of_every_stage_can_be_extracted_beside_the_logits(
    build: Callable[[], nn.Module], shapes: dict[str, tuple[int, ...]]
) -> None:
    model = build().eval()
    found = create_feature_extractor(model, [*shapes, "classifier"])(IMAGES)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        **{name: (3, *shape) for name, shape in shapes.items()},
        "classifier": (3, 10),
    }
    assert torch.equal(found["classifier"], model(IMAGES))
    assert all((value >= 0).all() for name, value in found.items() if name != "classifier")  # each stage ends in a ReLU


@pytest.mark.parametrize("build", [TeacherNet, StudentNet])
def test_the_stages_a_network_lists_are_its_children_in_order(build: type[TeacherNet] | type[StudentNet]) -> None:
    assert [*build.stages, "classifier"] == [name for name, _ in build().named_children()]


@pytest.mark.parametrize("build", [TeacherNet, StudentNet, lambda: mlp((30, 20))], ids=["teacher", "student", "mlp"])
def test_a_gradient_reaches_every_parameter(build: Callable[[], nn.Module]) -> None:
    with seeded(0):
        model = build()
    model.eval()(IMAGES).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    "build",
    [lambda: TeacherNet(dropout=0.5), lambda: mlp(30, dropout=0.5), lambda: mlp(30, input_dropout=0.5)],
    ids=["TeacherNet", "mlp hidden", "mlp input"],
)
def test_dropout_acts_in_training_and_rests_in_evaluation(build: Callable[[], nn.Module]) -> None:
    model = build()
    assert not torch.equal(model(IMAGES), model(IMAGES))
    model.eval()
    assert torch.equal(model(IMAGES), model(IMAGES))


def dropouts(model: nn.Module) -> dict[str, float]:
    return {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}


def test_the_teacher_drops_hidden_units_only_with_the_probability_it_is_given() -> None:
    assert dropouts(TeacherNet(dropout=0.3)) == {"embedding.3": 0.3}
    assert dropouts(TeacherNet()) == {"embedding.3": 0.5}
    assert dropouts(StudentNet()) == {}


def test_an_mlp_drops_pixels_and_hidden_units_with_probabilities_of_their_own() -> None:
    model = mlp((30, 20), dropout=0.5, input_dropout=0.2)
    assert dropouts(model) == {"input.1": 0.2, "stage1.2": 0.5, "stage2.2": 0.5}
    pixels = model.input(torch.ones(50, 1, 28, 28))
    assert (pixels == 0).float().mean() == pytest.approx(0.2, abs=0.02)


def test_an_mlp_without_dropout_drops_nothing() -> None:
    model = mlp(30)
    assert set(dropouts(model).values()) == {0.0}
    assert torch.equal(model(IMAGES), model(IMAGES))


def test_a_number_stands_for_one_hidden_layer() -> None:
    assert str(mlp(30)) == str(mlp([30])) == str(mlp((30,)))


@pytest.mark.parametrize("hidden", [[], ()])
def test_an_mlp_without_a_hidden_layer_is_refused(hidden: Any) -> None:
    with pytest.raises(ValueError, match=rf"hidden .*not {re.escape(repr(hidden))}; .*mlp\(30\)"):
        mlp(hidden)


@pytest.mark.parametrize("hidden", [0, -3, (30, 0), (30, -1), 10**12])
def test_an_mlp_without_sensible_widths_is_refused(hidden: Any) -> None:
    with pytest.raises(ValueError, match=r"a width in hidden must be (1 or more|1,000,000 or less), not"):
        mlp(hidden)


@pytest.mark.parametrize("hidden", ["30", 30.0, None, True, [30, "20"], math.nan])
def test_a_width_that_is_no_whole_number_is_refused(hidden: Any) -> None:
    with pytest.raises(TypeError, match="a width in hidden must be a whole number"):
        mlp(hidden)


def test_widths_may_come_from_numpy_and_torch() -> None:
    for hidden in (np.int64(30), np.array([30]), torch.tensor([30]), (width for width in [30])):
        assert str(mlp(hidden)) == str(mlp(30))


@pytest.mark.parametrize("build", [TeacherNet, StudentNet, SeparableNet, MixerNet, partial(mlp, 4)])
def test_classes_are_a_sensible_whole_number(build: Callable[..., nn.Module]) -> None:
    for classes in ("10", 10.0, None, True):
        with pytest.raises(TypeError, match="classes must be a whole number"):
            build(classes=classes)
    for classes in (0, -1, 10**12):
        with pytest.raises(ValueError, match=r"classes must be (1 or more|1,000,000 or less), not"):
            build(classes=classes)
    assert build(classes=np.int64(4)).classifier.out_features == 4


@pytest.mark.parametrize(
    ("build", "name"),
    [(TeacherNet, "dropout"), (partial(mlp, 30), "dropout"), (partial(mlp, 30), "input_dropout")],
    ids=["TeacherNet", "mlp hidden", "mlp input"],
)
def test_a_probability_lies_between_0_and_1(build: Callable[..., nn.Module], name: str) -> None:
    for value in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=f"{name} must lie between 0 and 1, not {value}"):
            build(**{name: value})
    for value in ("0.5", None):
        with pytest.raises(TypeError, match=f"{name} must be one number"):
            build(**{name: value})
