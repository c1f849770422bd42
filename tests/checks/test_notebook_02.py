"""The checks of notebook 02: other right ways, and wrong ones that nobody foresaw."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks._exercise import Exercise
from kd_course.checks.notebook_02 import (
    _best_temperature,
    _known_calibration,
    fit_temperature,
    soft_target_gradient,
    temperature_schedule,
    temperature_softmax,
)
from kd_course.losses import soft_target_loss


def soft(logits: Tensor, T: float = 1.0) -> Tensor:
    return (logits / T).softmax(1)


def stable_by_hand(logits: Tensor, T: float) -> Tensor:
    scaled = logits / T
    powers = (scaled - scaled.max(1, keepdim=True).values).exp()
    return powers / powers.sum(1, keepdim=True)


def gradient_by_autograd(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    student = student.clone().requires_grad_()
    return torch.autograd.grad(soft_target_loss(student, teacher, temperature=T), student)[0]


def nll(log_T: float, logits: Tensor, labels: Tensor) -> float:
    return F.cross_entropy(logits / math.exp(log_T), labels).item()


def fit_by_search(logits: Tensor, labels: Tensor) -> float:
    return math.exp(minimize_scalar(nll, bounds=(-4, 4), args=(logits, labels), method="bounded").x)


def fit_by_grid(logits: Tensor, labels: Tensor) -> float:
    return min(np.geomspace(0.05, 20, 301), key=lambda T: nll(math.log(T), logits, labels))


def fit_by_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    log_T = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_T], line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_T.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_T.exp()


def fewest_errors(logits: Tensor, labels: Tensor) -> float:
    return min(np.geomspace(0.05, 20, 301), key=lambda T: int(((logits / T).argmax(1) != labels).sum()))


@pytest.mark.parametrize(
    ("exercise", "submission"),
    [
        (temperature_softmax, stable_by_hand),
        (temperature_softmax, lambda z, T: soft(z.float(), T)),
        (temperature_softmax, lambda z, T: (z / T).log_softmax(-1).exp()),
        (soft_target_gradient, lambda s, t, T: T * (soft(s.float(), T) - soft(t.float(), T)) / s.shape[0]),
        (soft_target_gradient, gradient_by_autograd),
        (temperature_schedule, lambda progress: 8 - 7 * progress),
        (temperature_schedule, lambda progress: max(1.0, 8 - 14 * progress)),
        (temperature_schedule, lambda progress: 8 - 7 * progress**0.6),
        (temperature_schedule, lambda progress: 1 + 3.5 * (1 + math.cos(math.pi * progress))),
        (temperature_schedule, lambda progress: torch.tensor(8.0).lerp(torch.tensor(1.0), min(progress, 1))),
        (fit_temperature, fit_by_search),
        (fit_temperature, fit_by_grid),
        (fit_temperature, lambda z, y: torch.tensor([fit_by_search(z, y)])),
        (fit_temperature, fit_by_gradient),
    ],
)
def test_another_right_way_is_accepted(exercise: Exercise, submission: Callable):
    verdict = exercise(submission)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("exercise", "submission", "says"),
    [
        (temperature_softmax, lambda z, T: soft(z, T**2), "compare with the formula"),
        (temperature_softmax, lambda z, T: soft(z, max(T, 1)), "not at T = 0.5"),
        (temperature_softmax, lambda z, T: soft(z, T)[0], "shape (4,)"),
        (temperature_softmax, lambda z, T: soft((z / T).clamp(max=88)), "clipping makes 3000 and 2999 alike"),
        (temperature_softmax, lambda z, T: soft(z, max(T, 0.1)), "below which yours does not go"),
        (temperature_schedule, lambda progress: round(8 - 7 * progress, 1), "falls in jumps"),
        (temperature_schedule, lambda progress: round(8 - 7 * progress, 2), "falls in jumps"),
        (soft_target_gradient, lambda s, t, T: T * (s - t) / len(s), "term by term"),
        (soft_target_gradient, lambda s, t, T: T * (soft(s, T) - soft(t, T)) / 3, "not for T = 10 and two"),
        (temperature_schedule, lambda progress: [8 - 7 * progress], "not list"),
        (temperature_schedule, lambda progress: 8 - 7.5 * progress, "should be exactly 1"),
        (fit_temperature, fewest_errors, "near T = 3.1"),
        (fit_temperature, lambda z, y: round(fit_by_search(z, y)) + 1.0, "Minimise the NLL itself"),
        (fit_temperature, lambda z, y: 1.06 * fit_by_search(z, y), "Minimise the NLL itself"),
        (fit_temperature, lambda z, y: fit_by_search(z, y) * (0.95 if z.std() < 1 else 1), "near T = 0.5"),
    ],
)
def test_what_nobody_foresaw_is_refused(exercise: Exercise, submission: Callable, says: str):
    verdict = exercise(submission)
    assert verdict.state == "wrong"
    assert says in verdict.message


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_reference_temperature_minimises_the_nll(scale: float):
    logits, labels = _known_calibration(scale)
    assert _best_temperature(logits, labels) == pytest.approx(fit_by_search(logits, labels), rel=1e-4)
    assert _best_temperature(logits, labels) == pytest.approx(scale, rel=0.1)
