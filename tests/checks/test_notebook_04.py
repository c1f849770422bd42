"""The checks of notebook 04: other right ways, and wrong ones that nobody foresaw."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course import losses
from kd_course.checks._exercise import Exercise
from kd_course.checks.notebook_04 import attention_map, hint_loss, info_nce, trained_together


def cosines(s: Tensor, t: Tensor) -> Tensor:
    return F.normalize(s, dim=1) @ F.normalize(t, dim=1).T


@pytest.mark.parametrize(
    ("exercise", "submission"),
    [
        (hint_loss, losses.hint_loss),
        (hint_loss, lambda s, t: ((s - t.detach()) ** 2).sum() / len(s) / 2),
        (hint_loss, lambda s, t: F.mse_loss(s, t, reduction="sum") / (2 * len(s))),
        (hint_loss, lambda s, t: 0.5 * torch.linalg.vector_norm((s - t).flatten(1), dim=1).pow(2).mean()),
        (trained_together, lambda student, regressor: nn.ModuleList([regressor, student])),
        (trained_together, nn.Sequential),
        (attention_map, losses.attention_map),
        (attention_map, lambda f: F.normalize(f.pow(2).mean(1).flatten(1), dim=1)),
        (attention_map, lambda f: F.normalize((f * f).sum(1).view(len(f), -1).float(), dim=1)),
        (info_nce, lambda s, t, tau: losses.info_nce_loss(s, t.detach(), temperature=tau)),
        (info_nce, lambda s, t, tau: -(cosines(s, t) / tau).log_softmax(1).diagonal().mean()),
        (info_nce, lambda s, t, tau: ((cosines(s, t) / tau).logsumexp(1) - (cosines(s, t) / tau).diagonal()).mean()),
    ],
)
def test_another_right_way_is_accepted(exercise: Exercise, submission: Callable):
    verdict = exercise(submission)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("exercise", "submission", "says"),
    [
        (hint_loss, lambda s, t: torch.tensor(3.0), "the value should be"),
        (hint_loss, lambda s, t: 0.5 * (s - t).square().sum((1, 2, 3)).mean(), "IndexError"),
        (trained_together, lambda s, r: nn.ModuleList([s[:-1], r]), "the student is not in your module"),
        (trained_together, lambda s, r: r.requires_grad_(False), "none may be frozen"),
        (trained_together, lambda s, r: s.add_module("regressor", r) or s, "changed what it was given"),
        (attention_map, lambda f: losses.attention_map(f).view(3, 2, 3), "shape (3, 2, 3)"),
        (attention_map, lambda f: losses.attention_map(f, power=4), "compare with the formula"),
        (attention_map, lambda f: F.normalize((f.square() + 0.1).sum(1).flatten(1), dim=1), "compare with the formula"),
        (info_nce, lambda s, t, tau: losses.info_nce_loss(s, t, temperature=2 * tau), "the value should be"),
        (info_nce, lambda s, t, tau: losses.info_nce_loss(s, t, temperature=max(tau, 0.01)), "right at a mild τ"),
        (info_nce, lambda s, t, tau: (cosines(s, t) / tau).log_softmax(1).diagonal(), "shape (4,)"),
    ],
)
def test_what_nobody_foresaw_is_refused(exercise: Exercise, submission: Callable, says: str):
    verdict = exercise(submission)
    assert verdict.state == "wrong"
    assert says in verdict.message
