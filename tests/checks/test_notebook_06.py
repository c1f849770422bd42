"""Notebook 06: right answers in other spellings, and wrong ones that nobody foresaw; the rest is in test_exercise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks import notebook_06 as checks
from kd_course.checks._exercise import Exercise, Submission
from kd_course.ensembles import average_probabilities, combine, disagreement, fit_weights


def one_by_one(logits: Tensor) -> Tensor:
    total = torch.zeros_like(logits[0])
    for member in logits:
        total += member.softmax(1) / len(logits)
    return total


def disagreement_by_loops(logits: Tensor) -> Tensor:
    answers = logits.argmax(2)
    return torch.tensor([[(a != b).float().mean().item() for b in answers] for a in answers])


def on_validation(fit: Callable[[Tensor, Tensor], Tensor]) -> Submission:
    return lambda logits, labels: fit(logits["validation"], labels["validation"])


def by_adam(logits: Tensor, labels: Tensor, *, steps: int = 300, loss: Submission = F.nll_loss) -> Tensor:
    """The numbers a before the softmax, as hint 2 of the exercise finds them."""
    a = torch.zeros(len(logits), requires_grad=True)
    optimizer = torch.optim.Adam([a], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.einsum("m,mnc->nc", a.softmax(0), logits.float().softmax(2)).log(), labels).backward()
        optimizer.step()
    return a.detach()


def targets_in_single_precision(logits: Tensor, T: float) -> Tensor:
    return T * torch.logsumexp((logits.float() / T).log_softmax(2), dim=0)  # log M is the same for every class


def clipped(logits: Tensor, T: float) -> Tensor:
    return T * (logits / T).softmax(2).mean(0).clamp_min(1e-30).log()


targets = checks.ensemble_targets.solution


@pytest.mark.parametrize(
    ("exercise", "right"),
    [
        (checks.mean_probabilities, lambda z: average_probabilities(z).softmax(1)),
        (checks.mean_probabilities, lambda z: z.float().softmax(-1).mean(dim=0)),
        (checks.mean_probabilities, one_by_one),
        (checks.pairwise_disagreement, disagreement_by_loops),
        (checks.pairwise_disagreement, lambda z: disagreement(z.float()).float()),
        (checks.ensemble_weights, on_validation(fit_weights)),
        (checks.ensemble_weights, on_validation(lambda z, y: by_adam(z, y).softmax(0))),
        (checks.ensemble_weights, on_validation(lambda z, y: by_adam(z, y, loss=F.cross_entropy).softmax(0))),
        (checks.ensemble_targets, targets_in_single_precision),
        (checks.ensemble_targets, lambda z, T: targets(z, T) + torch.arange(z.shape[1])[:, None]),
    ],
)
def test_a_right_answer_passes_in_every_spelling(exercise: Exercise, right: Submission):
    verdict = exercise(right)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("exercise", "wrong", "says"),
    [
        (checks.mean_probabilities, lambda z: z.softmax(2).amax(0), "the rows are not the mean"),
        (checks.mean_probabilities, lambda z: z.softmax(2).mean(1), "shape (3, 5)"),
        (checks.pairwise_disagreement, lambda z: (4 * disagreement(z)).long(), "these are counts"),
        (checks.pairwise_disagreement, lambda z: torch.zeros(3, 3), "fraction of samples where"),
        (checks.pairwise_disagreement, lambda z: disagreement(z).mean(), "shape ()"),
        (checks.ensemble_weights, on_validation(by_adam), "numbers a before the softmax"),
        (checks.ensemble_weights, on_validation(lambda z, y: 2 * fit_weights(z, y)), "do not sum to 1"),
        (checks.ensemble_weights, lambda logits, labels: torch.zeros(3), "do not sum to 1"),
        (checks.ensemble_weights, lambda logits, labels: torch.full((3,), torch.nan), "do not sum to 1"),
        (checks.ensemble_weights, lambda logits, labels: torch.tensor([-0.5, 1.0, 0.5]), "negative"),
        (checks.ensemble_weights, on_validation(lambda z, y: by_adam(z, y, steps=5).softmax(0)), "Take more steps"),
        (checks.ensemble_weights, on_validation(lambda z, y: fit_weights(z, y)[:2]), "shape (2,)"),
        (checks.ensemble_targets, lambda z, T: targets(z, 3.0), "not at T = 8"),
        (checks.ensemble_targets, lambda z, T: combine(z, torch.tensor([0.5, 0.25, 0.25])), "softened at T"),
        (checks.ensemble_targets, lambda z, T: targets(z, T) * torch.nan, "softened at T"),
        (checks.ensemble_targets, clipped, "clip nothing"),
    ],
)
def test_a_wrong_answer_that_nobody_foresaw_is_refused(exercise: Exercise, wrong: Submission, says: str):
    verdict = exercise(wrong)
    assert verdict.state == "wrong"
    assert says in verdict.message
