"""The checks of notebook 03: other right ways, and wrong ones that nobody foresaw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course import losses
from kd_course.checks._exercise import OVERWRITTEN, Exercise
from kd_course.checks.notebook_03 import best_bias, convert_beta, kd_loss, transfer_objective


def loss(s: Tensor, t: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    return losses.kd_loss(s, t, labels, temperature=T, alpha=alpha)


def by_sums(s: Tensor, t: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    log_s, log_t = (s / T).log_softmax(1), (t / T).log_softmax(1)
    soft = T * T * (log_t.exp() * (log_t - log_s)).sum(1).mean()
    hard = -s.log_softmax(1)[torch.arange(len(labels)), labels].mean()
    return hard - alpha * hard + alpha * soft


def probabilities_as_target(s: Tensor, t: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    kl = torch.nn.KLDivLoss(reduction="batchmean")((s / T).log_softmax(1), (t / T).softmax(1))
    return (1 - alpha) * F.cross_entropy(s, labels) + alpha * T**2 * kl


def soft_only(model, batch):
    return losses.soft_target_loss(model(batch.images), batch.teacher_logits, temperature=4)


def soft_only_by_hand(model, batch):
    log_s, log_t = (model(batch.images) / 4).log_softmax(1), (batch.teacher_logits / 4).log_softmax(1)
    return 16 * (log_t.exp() * (log_t - log_s)).sum(1).mean()


def at_alpha(alpha: float, *, labelled: bool = True) -> Callable:
    return lambda model, batch: loss(
        model(batch.images), batch.teacher_logits, batch.labels if labelled else None, 4, alpha
    )


def count(logits: Tensor, labels: Tensor, column: int, shift: float) -> int:
    shifted = logits.clone()
    shifted[:, column] += shift
    return int((shifted.argmax(1) != labels).sum())


def search(logits: Tensor, labels: Tensor, column: int) -> float:
    return min(np.arange(-2, 8, 0.1), key=lambda shift: count(logits, labels, column, shift))


def coarse_search(logits: Tensor, labels: Tensor, column: int) -> Tensor:
    shifts = torch.arange(0, 10)
    return shifts[torch.tensor([count(logits, labels, column, shift.item()) for shift in shifts]).argmin()]


def exact_search(logits: Tensor, labels: Tensor, column: int) -> float:
    others = logits.clone()
    others[:, column] = -torch.inf
    steps = (others.max(1).values - logits[:, column]).sort().values
    return min(((steps[1:] + steps[:-1]) / 2).tolist(), key=lambda shift: count(logits, labels, column, shift))


@pytest.mark.parametrize(
    ("exercise", "submission"),
    [
        (kd_loss, loss),
        (kd_loss, by_sums),
        (kd_loss, probabilities_as_target),
        (kd_loss, lambda s, t, labels, T, alpha: loss(s.float(), t.float(), labels, T, alpha)),
        (kd_loss, lambda s, t, labels, T, alpha: loss(s, t.detach(), labels, T, alpha)),
        (transfer_objective, soft_only),
        (transfer_objective, soft_only_by_hand),
        (transfer_objective, at_alpha(1, labelled=False)),
        (transfer_objective, at_alpha(1)),
        (transfer_objective, lambda model, batch: {"loss": soft_only(model, batch), "other": torch.tensor(0.0)}),
        (convert_beta, lambda beta: [1 - 1 / (1 + beta), beta + 1]),
        (convert_beta, lambda beta: torch.tensor([beta / (1 + beta), 1 + beta])),
        (convert_beta, lambda beta: (np.float64(beta / (1 + beta)), np.float64(1 + beta))),
        (best_bias, search),
        (best_bias, coarse_search),
        (best_bias, exact_search),
    ],
)
def test_another_right_way_is_accepted(exercise: Exercise, submission: Callable):
    verdict = exercise(submission)
    assert verdict, verdict


def of_the_class_alone(logits: Tensor, labels: Tensor, column: int) -> float:
    """The largest shift that misses no image of the class; the exercise's own mistake takes the smallest."""
    member = labels == column
    return min(np.arange(9, -2, -0.1), key=lambda shift: count(logits[member], labels[member], column, shift))


def all_columns(logits: Tensor, labels: Tensor, column: int) -> float:
    return min(np.arange(0, 8, 0.1), key=lambda shift: int(((logits + shift).argmax(1) != labels).sum()))


def piling_up(logits: Tensor, labels: Tensor, column: int) -> float:
    def count_in_place(shift: float) -> int:
        logits[:, column] += shift
        return int((logits.argmax(1) != labels).sum())

    return min(np.arange(0, 8, 0.5), key=count_in_place)


@pytest.mark.parametrize(
    ("exercise", "submission", "says"),
    [
        (
            kd_loss,
            lambda s, t, labels, T, alpha: loss(s, t, labels, T, alpha) + (1 - alpha),
            "at α = 0 the loss should",
        ),
        (kd_loss, lambda s, t, labels, T, alpha: loss(s, t, labels, T, alpha) + alpha, "at α = 1 the loss should be"),
        (kd_loss, lambda s, t, labels, T, alpha: loss(s, t, labels, T, alpha**2), "blend at α = 0.7"),
        (kd_loss, lambda *arguments: loss(*arguments).item(), "no gradient flows"),
        (kd_loss, lambda s, t, labels, T, alpha: s.sum(1), "shape (3,)"),
        (kd_loss, lambda s, t, *others: loss(s.clamp(-99, 99), t.clamp(-99, 99), *others), "clipping"),
        (transfer_objective, at_alpha(0.9), "changes with `batch.labels`"),
        (transfer_objective, at_alpha(0.3), "changes with `batch.labels`"),
        (
            transfer_objective,
            lambda model, batch: soft_only(model, batch) + 0 * F.cross_entropy(model(batch.images), batch.labels),
            "IndexError",
        ),
        (
            transfer_objective,
            lambda model, batch: losses.logit_mse_loss(model(batch.images), batch.teacher_logits),
            "squared difference of the logits; the soft term is T²·KL",
        ),
        (transfer_objective, lambda model, batch: {"kd": soft_only(model, batch)}, "named 'loss'; yours has ['kd']"),
        (transfer_objective, lambda model, batch: model(batch.images).sum(1), "shape (3,)"),
        (convert_beta, lambda beta: (0.8, 5.0), "insert your numbers for β = 0.25"),
        (convert_beta, lambda beta: beta / (1 + beta), "return two numbers"),
        (convert_beta, lambda beta: {beta / (1 + beta), 1 + beta}, "return two numbers"),
        (convert_beta, lambda beta: {"alpha": beta / (1 + beta), "scale": 1 + beta}, "return two numbers"),
        (convert_beta, lambda beta: {beta / (1 + beta): 0, 1 + beta: 1}, "return two numbers"),
        (convert_beta, lambda beta: (round(beta / (1 + beta), 2), 1 + beta), "rounded"),
        (
            transfer_objective,
            lambda model, batch: losses.soft_target_loss(model(batch.images), batch.teacher_logits, temperature=4) / 4,
            "multiplied by T; it needs T²",
        ),
        (convert_beta, lambda beta: torch.tensor(0.8), "return two numbers"),
        (convert_beta, lambda beta: ("a", "b"), "return two numbers"),
        (convert_beta, lambda beta: (0.8, 5.0, 1.0), "return two numbers"),
        (best_bias, lambda *validation: -search(*validation), "sign is reversed"),
        (best_bias, of_the_class_alone, "Accuracy on that class alone"),
        (best_bias, all_columns, "*all* classes, which changes no argmax"),
        (best_bias, lambda *validation: 3.5, "right for class 3, but"),
        (best_bias, lambda *validation: search(*validation) / 2, "more errors than necessary"),
        (best_bias, lambda logits, labels, column: logits, "return one number"),
        (best_bias, piling_up, OVERWRITTEN),
    ],
)
def test_what_nobody_foresaw_is_refused(exercise: Exercise, submission: Callable, says: str):
    verdict = exercise(submission)
    assert verdict.state == "wrong"
    assert says in verdict.message
