"""Checks for notebook 00: how much smaller the student is, and how many errors distillation saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kd_course.checks._verdict import Mistake, ask, close, exercise, recognise, require


@exercise
def compression_ratio(attempt: Callable[[nn.Module, nn.Module], float]) -> str:
    """``attempt(teacher, student)`` says how many times more parameters the teacher has than the student."""
    teacher = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Linear(9, 3)).eval().requires_grad_(False)
    student = nn.Linear(6, 3)
    large, small = 63 + 18 + 30, 21  # (6 + 1)·9, 2·9 and (9 + 1)·3 numbers; (6 + 1)·3
    expected = large / small
    no_biases, with_buffers = (54 + 27) / 18, (large + 19) / small
    answer = _number(attempt, teacher, student)
    recognise(
        answer,
        {
            "this is student over teacher; turn the fraction round, teacher over student.": 1 / expected,
            "this counts tensors, not numbers: a weight is one tensor of many. Add up `p.numel()`.": 6 / 2,
            "a frozen teacher has nothing that `requires_grad`; count every parameter all the same.": 0.0,
            "this counts the weight matrices alone; biases and scales are parameters too.": no_biases,
            "this counts running statistics too; use `parameters()`, not `state_dict()`.": with_buffers,
            "this is the difference of the two counts; divide them instead.": float(large - small),
            "this is the part that was saved; the ratio is teacher over student.": 1 - 1 / expected,
        },
    )
    for part in (expected, 1 / expected, 1 - 1 / expected):
        require(not close(answer, 100 * part), "this is a percentage; give the plain ratio, such as 14.7, not × 100.")
    for digits in (0, 1, 2):
        rounded = round(expected, digits)
        require(
            not close(answer, rounded), "right, but rounded; return the number itself and round where you print it."
        )
    require(close(answer, expected), "divide all parameters of the teacher by all parameters of the student.")
    swapped = _number(attempt, student, teacher)
    require(
        close(swapped, 1 / expected), "a small teacher of a large student has a ratio below 1; do not sort the two."
    )
    return "the ratio of parameter counts, frozen or not."


@exercise
def error_reduction(attempt: Callable[[int, int], float]) -> str:
    """``attempt(errors_before, errors_after)`` is the fraction of the errors that has gone."""
    before, after = 640, 480
    saved = before - after
    answer = _number(attempt, before, after)
    recognise(
        answer,
        {
            "the sign is turned round: fewer errors than before is a positive reduction.": -saved / before,
            "this is the part of the errors that is left; the reduction is the part that has gone.": after / before,
            "this is before over after; take what has gone, over what was there before.": before / after,
            "this divides by the errors after; measure against what was there before.": saved / after,
            "this is the number of errors saved; divide it by the errors before.": float(saved),
        },
    )
    for images in (500, 1_000, 5_000, 10_000, 60_000):
        points = "this divides by a number of images: those are points of accuracy. Divide by the errors before."
        require(not close(answer, saved / images) and not close(answer, 100 * saved / images), points)
    for percent in (25.0, -25.0, 75.0):
        require(not close(answer, percent), "this is in percent; return the fraction, 0.25 for a quarter, not × 100.")
    require(close(answer, 0.25), "640 errors before and 480 after is a quarter less: (before - after) / before.")
    worse = _number(attempt, 400, 500)
    require(not close(worse, 0.25), "from 400 to 500 errors is a loss, so negative; leave out the absolute value.")
    require(not close(worse, 0.0), "from 400 to 500 errors is a loss; show it as a negative number, do not hide it.")
    require(close(worse, -0.25), "right for a gain, but from 400 to 500 errors the reduction should be -0.25.")
    return "a fraction of the errors before: positive for a gain, negative for a loss."


def _number(attempt: Callable[..., Any], *arguments: Any) -> Tensor:
    """Call the learner's function and expect one number, of whatever numeric type."""
    answer = ask(attempt, *arguments)
    try:
        value = None if isinstance(answer, str) else float(answer)
    except (TypeError, ValueError, RuntimeError):  # a list, a tensor of several numbers, a function
        value = None
    if value is None:
        what = type(answer).__name__
        raise Mistake(f"return one number, not {what}; leave the formatting to the cell that prints it.")
    return torch.tensor(value, dtype=torch.float64)
