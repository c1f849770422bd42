"""The checks of notebook 00 accept every right way and call each classic mistake by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from kd_course.checks import compression_ratio, error_reduction
from kd_course.evaluation import size_bytes
from kd_course.models import StudentNet, TeacherNet, count_parameters


def by_hand(teacher: nn.Module, student: nn.Module) -> float:
    return sum(p.numel() for p in teacher.parameters()) / sum(p.numel() for p in student.parameters())


def tensors(model: nn.Module) -> int:
    return len(list(model.parameters()))


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def matrices(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.ndim > 1)


def state(model: nn.Module) -> int:
    return sum(value.numel() for value in model.state_dict().values())


RIGHT_RATIOS = {
    "by hand": by_hand,
    "the package's count": lambda teacher, student: count_parameters(teacher) / count_parameters(student),
    "numpy": lambda teacher, student: np.float32(by_hand(teacher, student)),
    "a tensor": lambda teacher, student: torch.tensor(by_hand(teacher, student)),
    "a tensor of one element": lambda teacher, student: torch.tensor([by_hand(teacher, student)]),
}
WRONG_RATIOS = {
    "right, but rounded": lambda teacher, student: float(count_parameters(teacher) // count_parameters(student)),
    "turn the fraction round": lambda teacher, student: 1 / by_hand(teacher, student),
    "counts tensors": lambda teacher, student: tensors(teacher) / tensors(student),
    "requires_grad": lambda teacher, student: trainable(teacher) / trainable(student),
    "weight matrices alone": lambda teacher, student: matrices(teacher) / matrices(student),
    "running statistics": lambda teacher, student: state(teacher) / state(student),
    "difference of the two": lambda teacher, student: count_parameters(teacher) - count_parameters(student),
    "part that was saved": lambda teacher, student: 1 - 1 / by_hand(teacher, student),
    "this is a percentage": lambda teacher, student: 100 * by_hand(teacher, student),
    "percentage": lambda teacher, student: 100 / by_hand(teacher, student),
    "not × 100": lambda teacher, student: 100 * (1 - 1 / by_hand(teacher, student)),
    "rounded": lambda teacher, student: round(by_hand(teacher, student), 1),
    "round where you print": lambda teacher, student: round(by_hand(teacher, student)),
    "do not sort": lambda teacher, student: max(by_hand(teacher, student), 1 / by_hand(teacher, student)),
    "not str": lambda teacher, student: f"{by_hand(teacher, student):.1f} times",
    "not list": lambda teacher, student: [by_hand(teacher, student)],
    "not Tensor": lambda teacher, student: torch.tensor([1.0, 2.0]),
    "divide all parameters": lambda teacher, student: 14.7,
    "raised TypeError": lambda teacher: 1.0,
}
RIGHT_REDUCTIONS = {
    "the formula": lambda before, after: (before - after) / before,
    "one minus the rest": lambda before, after: 1 - after / before,
    "numpy": lambda before, after: np.float64(1 - after / before),
    "a tensor": lambda before, after: torch.tensor((before - after) / before),
}
WRONG_REDUCTIONS = {
    "sign is turned round": lambda before, after: (after - before) / before,
    "errors that is left": lambda before, after: after / before,
    "before over after": lambda before, after: before / after,
    "divides by the errors after": lambda before, after: (before - after) / after,
    "number of errors saved": lambda before, after: before - after,
    "points of accuracy": lambda before, after: (before - after) / 10_000,
    "number of images": lambda before, after: 100 * (before - after) / 10_000,
    "this is in percent": lambda before, after: 100 * (before - after) / before,
    "0.25 for a quarter": lambda before, after: 100 * (after - before) / before,
    "× 100": lambda before, after: 100 * after / before,
    "absolute value": lambda before, after: abs(before - after) / before,
    "do not hide it": lambda before, after: max(0.0, (before - after) / before),
    "right for a gain": lambda before, after: (before - after) / max(before, after),
    "a quarter less": lambda before, after: 0.5,
    "not str": lambda before, after: f"{1 - after / before:.0%}",
    "not tuple": lambda before, after: (before, after),
    "raised ZeroDivisionError": lambda before, after: before / 0,
}


@pytest.mark.parametrize("attempt", RIGHT_RATIOS.values(), ids=RIGHT_RATIOS)
def test_compression_ratio_accepts(attempt: Callable):
    verdict = compression_ratio(attempt)
    assert verdict, verdict


@pytest.mark.parametrize(("says", "attempt"), WRONG_RATIOS.items(), ids=WRONG_RATIOS)
def test_compression_ratio_refuses(says: str, attempt: Callable):
    verdict = compression_ratio(attempt)
    assert verdict.state == "wrong"
    assert says in verdict.message


def test_compression_ratio_is_the_one_that_the_course_quotes():
    """What the check calls right gives 14.7 for the course's pair; bytes in one type have the same ratio."""
    assert round(by_hand(TeacherNet(), StudentNet()), 1) == 14.7
    assert size_bytes(TeacherNet()) / size_bytes(StudentNet()) == by_hand(TeacherNet(), StudentNet())


@pytest.mark.parametrize("attempt", RIGHT_REDUCTIONS.values(), ids=RIGHT_REDUCTIONS)
def test_error_reduction_accepts(attempt: Callable):
    verdict = error_reduction(attempt)
    assert verdict, verdict


@pytest.mark.parametrize(("says", "attempt"), WRONG_REDUCTIONS.items(), ids=WRONG_REDUCTIONS)
def test_error_reduction_refuses(says: str, attempt: Callable):
    verdict = error_reduction(attempt)
    assert verdict.state == "wrong"
    assert says in verdict.message


@pytest.mark.parametrize("check", [compression_ratio, error_reduction])
@pytest.mark.parametrize("attempt", [None, ..., lambda first, second: ..., lambda first, second: None])
def test_an_untouched_stub_is_open(check: Callable, attempt: object):
    assert check(attempt).state == "open"
