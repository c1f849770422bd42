"""The checks of notebook 02 pass what is right, in every spelling, and call each classic mistake by its name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks import notebook_02 as checks
from kd_course.checks.notebook_02 import _best_temperature, _known_calibration
from kd_course.losses import soft_target_loss

Attempt = Callable[..., Any]
ALL = [checks.temperature_softmax, checks.soft_target_gradient, checks.temperature_schedule, checks.fit_temperature]


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
    return log_T.exp().detach()


RIGHT = [
    (checks.temperature_softmax, soft),
    (checks.temperature_softmax, stable_by_hand),
    (checks.temperature_softmax, lambda z, T: soft(z.float(), T)),
    (checks.temperature_softmax, lambda z, T: (z / T).log_softmax(-1).exp()),
    (checks.soft_target_gradient, lambda s, t, T: T * (soft(s, T) - soft(t, T)) / len(s)),
    (checks.soft_target_gradient, lambda s, t, T: T * (soft(s.float(), T) - soft(t.float(), T)) / s.shape[0]),
    (checks.soft_target_gradient, gradient_by_autograd),
    (checks.temperature_schedule, lambda progress: 8 - 7 * progress),
    (checks.temperature_schedule, lambda progress: 8 ** (1 - progress)),
    (checks.temperature_schedule, lambda progress: 1 + 3.5 * (1 + math.cos(math.pi * progress))),
    (checks.temperature_schedule, lambda progress: torch.tensor(8.0).lerp(torch.tensor(1.0), min(progress, 1))),
    (checks.fit_temperature, fit_by_search),
    (checks.fit_temperature, fit_by_grid),
    (checks.fit_temperature, lambda z, y: torch.tensor([float(fit_by_grid(z, y))])),
    (checks.fit_temperature, fit_by_gradient),
]


@pytest.mark.parametrize(("check", "attempt"), RIGHT)
def test_every_correct_solution_passes(check: Attempt, attempt: Attempt) -> None:
    verdict = check(attempt)
    assert verdict, verdict


SOFTMAX_MISTAKES = {
    "T is not used": lambda z, T: soft(z),
    "or it cancels": lambda z, T: (soft(z) / T) / (soft(z) / T).sum(1, keepdim=True),
    "this sharpens": lambda z, T: soft(z * T),
    "power T": lambda z, T: soft(z) ** T / (soft(z) ** T).sum(1, keepdim=True),
    "each row sums to 1/T": lambda z, T: soft(z) / T,
    "T comes after the softmax": lambda z, T: soft(soft(z), T),
    "the power 1/T of the probabilities": lambda z, T: soft(z) ** (1 / T),
    "your columns sum to 1": lambda z, T: (z / T).softmax(0),
    "logarithms of probabilities": lambda z, T: (z / T).log_softmax(1),
    "now divide each row by its sum": lambda z, T: (z / T).exp(),
    "compare with the formula": lambda z, T: soft(z, T**2),
    "not at T = 0.5": lambda z, T: soft(z, max(T, 1)),
    "overflows": lambda z, T: (z / T).exp() / (z / T).exp().sum(1, keepdim=True),
    "shape": lambda z, T: soft(z, T)[0],
}

GRADIENT_MISTAKES = {
    "the sign is turned round": lambda s, t, T: T * (soft(t, T) - soft(s, T)) / len(s),
    "without T²": lambda s, t, T: (soft(s, T) - soft(t, T)) / (T * len(s)),
    "no T stands before the difference": lambda s, t, T: (soft(s, T) - soft(t, T)) / len(s),
    "T² is right for the loss": lambda s, t, T: T**2 * (soft(s, T) - soft(t, T)) / len(s),
    "divides by the batch size B": lambda s, t, T: T * (soft(s, T) - soft(t, T)),
    "divide by B only": lambda s, t, T: T * (soft(s, T) - soft(t, T)) / s.numel(),
    "the softmax is taken at T = 1": lambda s, t, T: T * (soft(s) - soft(t)) / len(s),
    "only the student is softened": lambda s, t, T: T * (soft(s, T) - soft(t)) / len(s),
    "only the teacher is softened": lambda s, t, T: T * (soft(s) - soft(t, T)) / len(s),
    r"gradient of KL\(s ‖ t\)": lambda s, t, T: _reverse_gradient(s, t, T),
    "term by term": lambda s, t, T: T * (s - t) / len(s),
    "not for T = 10 and two": lambda s, t, T: T * (soft(s, T) - soft(t, T)) / 3,
}


def _reverse_gradient(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    student = student.clone().requires_grad_()
    log_s, log_t = (student / T).log_softmax(1), (teacher / T).log_softmax(1)
    return torch.autograd.grad(T**2 * F.kl_div(log_t, log_s, reduction="batchmean", log_target=True), student)[0]


def guarded(progress: float) -> float:
    if not 0 <= progress <= 1:
        raise ValueError("progress must be in [0, 1]")
    return 8 - 6 * progress


SCHEDULE_MISTAKES = {
    "at progress 1 the temperature is 2; it": guarded,
    "rises from 1 to 8": lambda progress: 1 + 7 * progress,
    "never changes": lambda progress: 8.0,
    "at progress 0 the temperature is 4": lambda progress: 4 - 3 * progress,
    "as if it were an epoch number": lambda progress: 8 - 7 * progress / 20,
    "when its argument is 12,": lambda progress: max(1.0, 8 - 7 * progress / 12),
    "it should be exactly 1": lambda progress: 8 * math.exp(-progress),
    "rises again": lambda progress: 8 - 7 * progress + math.sin(2 * math.pi * progress) * 2,
    "falls in jumps": lambda progress: 8 - int(7 * progress),
    "or an `if`": lambda progress: 8.0 if progress < 0.5 else 1.0,
    "NaN or infinite": lambda progress: math.nan if progress == 0.5 else 8 - 7 * progress,
    "return a tensor": lambda progress: [8 - 7 * progress],
}

CALIBRATION_MISTAKES = {
    r"you return 0\.\d+, which is 1/T": lambda z, y: 1 / fit_by_search(z, y),
    "not above 0": lambda z, y: -fit_by_search(z, y),
    "temperature came out as nan": lambda z, y: math.nan,
    "the number of errors is the same": lambda z, y: min(
        np.geomspace(0.05, 20, 301), key=lambda T: int(((z / T).argmax(1) != y).sum())
    ),
    "T may lie below 1": lambda z, y: max(1.0, fit_by_search(z, y)),
    "Minimise the NLL itself": lambda z, y: round(fit_by_search(z, y)) + 1.0,
}

WRONG = [
    (check, message, attempt)
    for check, mistakes in zip(
        ALL, (SOFTMAX_MISTAKES, GRADIENT_MISTAKES, SCHEDULE_MISTAKES, CALIBRATION_MISTAKES), strict=True
    )
    for message, attempt in mistakes.items()
]


@pytest.mark.parametrize(("check", "message", "attempt"), WRONG, ids=[message for _, message, _ in WRONG])
def test_a_classic_mistake_is_called_by_name(check: Attempt, message: str, attempt: Attempt) -> None:
    verdict = check(attempt)
    assert verdict.state == "wrong"
    assert re.search(message, verdict.message), verdict


@pytest.mark.parametrize("check", ALL)
def test_a_stub_is_open_and_an_exception_is_wrong(check: Attempt) -> None:
    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("division by zero")

    assert check(lambda *arguments: ...).state == "open"
    assert check(lambda *arguments: None).state == "open"
    assert check(None).state == "open"
    assert check(broken).state == "wrong"
    assert "ZeroDivisionError" in check(broken).message
    assert check(3.0).state == "wrong"


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_reference_temperature_minimises_the_nll(scale: float) -> None:
    logits, labels = _known_calibration(scale)
    assert _best_temperature(logits, labels) == pytest.approx(fit_by_search(logits, labels), rel=1e-4)
    assert _best_temperature(logits, labels) == pytest.approx(scale, rel=0.1)
