"""Checks for notebook 00: how much smaller the student is, and how many errors distillation saved."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from kd_course.checks._exercise import Exercise, Given

# 13 units: rounded to any digit, or counted in any wrong way, the ratio becomes another number.
FROZEN_TEACHER = nn.Sequential(nn.Linear(6, 13), nn.BatchNorm1d(13), nn.Linear(13, 3)).eval().requires_grad_(False)
STUDENT = nn.Linear(6, 3)


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _ratio(teacher: nn.Module, student: nn.Module, count: Callable[[nn.Module], int] = _parameters) -> float:
    return count(teacher) / count(student)


def _counting(count: Callable[[nn.Module], int]) -> Callable[[nn.Module, nn.Module], float]:
    return partial(_ratio, count=count)


compression_ratio = Exercise(
    task="`submission(teacher, student)` says how many times more parameters the teacher has than the student.",
    inputs=[
        Given(FROZEN_TEACHER, STUDENT),
        Given(STUDENT, FROZEN_TEACHER, otherwise="right, but a small teacher of a large student has a ratio below 1."),
    ],
    solution=_ratio,
    mistakes={
        "this is student over teacher; reverse the fraction, teacher over student.": lambda t, s: 1 / _ratio(t, s),
        "this counts tensors, not numbers: a weight is one tensor of many. Add up `p.numel()`.": _counting(
            lambda model: len(list(model.parameters()))
        ),
        "a frozen teacher has nothing that `requires_grad`; count every parameter all the same.": _counting(
            lambda model: sum(p.numel() for p in model.parameters() if p.requires_grad)
        ),
        "this is how much larger the teacher is, as a part of the student; leave the subtraction out: teacher over "
        "student.": lambda t, s: _ratio(t, s) - 1,
        "this counts the weight matrices alone; biases and scales are parameters too.": _counting(
            lambda model: sum(p.numel() for p in model.parameters() if p.ndim > 1)
        ),
        "this counts the weights without the biases; biases are parameters too.": _counting(
            lambda model: sum(p.numel() for name, p in model.named_parameters() if "weight" in name)
        ),
        "this counts running statistics too; use `parameters()`, not `state_dict()`.": _counting(
            lambda model: sum(value.numel() for value in model.state_dict().values())
        ),
        "this is the difference of the two counts; divide them instead.": lambda t, s: _parameters(t) - _parameters(s),
        "this is the part that was saved; the ratio is teacher over student.": lambda t, s: 1 - 1 / _ratio(t, s),
        "this is a percentage; give the plain ratio, such as 14.7, not × 100.": (
            lambda t, s: 100 * _ratio(t, s),
            lambda t, s: 100 / _ratio(t, s),
            lambda t, s: 100 * (1 - 1 / _ratio(t, s)),
        ),
        "right, but rounded; return the number itself and round where you print it.": (
            lambda t, s: _parameters(t) // _parameters(s),
            *(lambda t, s, digits=digits: round(_ratio(t, s), digits) for digits in (0, 1, 2, 3)),
        ),
        "a small teacher of a large student has a ratio below 1; do not sort the two.": (
            lambda t, s: max(_ratio(t, s), 1 / _ratio(t, s))
        ),
    },
    otherwise="divide all parameters of the teacher by all parameters of the student.",
    praise="the ratio of parameter counts, frozen or not.",
)


error_reduction = Exercise(
    task="`submission(errors_before, errors_after)` is the fraction of the errors that has gone.",
    inputs=[
        Given(640, 480),
        Given(400, 500, otherwise="right for a gain, but from 400 to 500 errors the reduction should be -0.25."),
        Given(610, 433, otherwise="right for 640 and 480, but from 610 to 433 errors it should be {expected}."),
    ],
    solution=lambda before, after: (before - after) / before,
    mistakes={
        "the sign is reversed: fewer errors than before is a positive reduction.": lambda b, a: (a - b) / b,
        "this is the part of the errors that is left; the reduction is the part that has gone.": lambda b, a: a / b,
        "this is before over after; take what has gone, over what was there before.": lambda b, a: b / a,
        "this divides by the errors after; measure against what was there before.": (
            lambda b, a: (b - a) / a,
            lambda b, a: 100 * (b - a) / a,
        ),
        "right, but rounded; return the number itself and round where you print it.": (
            lambda b, a: (b - a) // b,
            *(lambda b, a, digits=digits: round((b - a) / b, digits) for digits in (1, 2, 3)),
        ),
        "this is the number of errors saved; divide it by the errors before.": lambda b, a: b - a,
        "this divides by a number of images: those are points of accuracy. Divide by the errors before.": tuple(
            lambda b, a, images=images, unit=unit: unit * (b - a) / images
            for images in (500, 1_000, 5_000, 10_000, 60_000)
            for unit in (1, 100)
        ),
        "this is in percent; return the fraction, 0.25 for a quarter, not × 100.": (
            lambda b, a: 100 * (b - a) / b,
            lambda b, a: 100 * (a - b) / b,
            lambda b, a: 100 * a / b,
        ),
        "from 400 to 500 errors is a loss, so negative; leave out the absolute value.": lambda b, a: abs(b - a) / b,
        "from 400 to 500 errors is a loss; show it as a negative number, do not hide it.": (
            lambda b, a: max(0.0, (b - a) / b)
        ),
    },
    otherwise="640 errors before and 480 after is a quarter less: (before - after) / before.",
    praise="a fraction of the errors before: positive for a gain, negative for a loss.",
)
