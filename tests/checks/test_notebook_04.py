"""The checks of notebook 04 pass what is right, in every spelling, and call each classic mistake by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course import losses
from kd_course.checks import notebook_04 as checks

Attempt = Callable[..., Any]
ALL = [checks.hint_loss, checks.trained_together, checks.attention_map, checks.info_nce]


def cosines(s: Tensor, t: Tensor) -> Tensor:
    return F.normalize(s, dim=1) @ F.normalize(t, dim=1).T


def pairs(scores: Tensor) -> Tensor:
    return F.cross_entropy(scores, torch.arange(len(scores)))


def energies(feature: Tensor) -> Tensor:
    return feature.square().sum(1).flatten(1)


RIGHT = [
    (checks.hint_loss, losses.hint_loss),
    (checks.hint_loss, lambda s, t: ((s - t) ** 2).sum() / len(s) / 2),
    (checks.hint_loss, lambda s, t: F.mse_loss(s, t, reduction="sum") / (2 * len(s))),
    (checks.hint_loss, lambda s, t: 0.5 * torch.linalg.vector_norm((s - t).flatten(1), dim=1).pow(2).mean()),
    (checks.trained_together, lambda s, r: nn.ModuleDict({"student": s, "regressor": r})),
    (checks.trained_together, lambda s, r: nn.ModuleList([r, s])),
    (checks.trained_together, lambda s, r: nn.Sequential(s, r)),
    (checks.attention_map, losses.attention_map),
    (checks.attention_map, lambda f: F.normalize(f.pow(2).mean(1).flatten(1), dim=1)),
    (checks.info_nce, lambda s, t, tau: losses.info_nce_loss(s, t, temperature=tau)),
    (checks.info_nce, lambda s, t, tau: -(cosines(s, t) / tau).log_softmax(1).diagonal().mean()),
]

WRONG = [
    (checks.hint_loss, F.mse_loss, "F.mse_loss"),
    (checks.hint_loss, lambda s, t: (s - t).square().flatten(1).sum(1).mean(), "½ is missing"),
    (checks.hint_loss, lambda s, t: 0.5 * (s - t).square().sum(), "mean over samples"),
    (checks.hint_loss, lambda s, t: 0.5 * F.mse_loss(s, t), "half the element mean"),
    (checks.hint_loss, lambda s, t: 0.5 * (s - t).flatten(1).norm(dim=1).mean(), r"takes its \*square\*"),
    (checks.hint_loss, lambda s, t: 0.5 * (s - t).abs().flatten(1).sum(1).mean(), "absolute differences"),
    (checks.hint_loss, lambda s, t: losses.hint_loss(s.detach(), t), "no gradient"),
    (checks.hint_loss, lambda s, t: torch.tensor(3.0), "the value should be"),
    (checks.trained_together, lambda s, r: s, "regressor is not in it.*classic mistake"),
    (checks.trained_together, lambda s, r: r, "only the regressor would learn"),
    (checks.trained_together, lambda s, r: [s, r], "list is none"),
    (checks.trained_together, lambda s, r: list(s.parameters()) + list(r.parameters()), "list is none"),
    (checks.trained_together, lambda s, r: nn.Linear(2, 2), "neither the student nor the regressor"),
    (checks.trained_together, lambda s, r: nn.ModuleList([s, r.requires_grad_(False)]), "are frozen"),
    (checks.attention_map, energies, "sums of squares; now scale"),
    (checks.attention_map, lambda f: energies(f) / f.shape[1], "means of squares; now scale"),
    (checks.attention_map, lambda f: energies(f) / energies(f).sum(1, keepdim=True), "divided by its sum"),
    (checks.attention_map, lambda f: energies(f) / energies(f).amax(1, keepdim=True), "divided by its maximum"),
    (checks.attention_map, lambda f: energies(f) / energies(f).norm(), "whole batch is scaled"),
    (checks.attention_map, lambda f: F.normalize(f.sum(1).flatten(1), dim=1), "with their signs"),
    (checks.attention_map, lambda f: F.normalize(f.abs().sum(1).flatten(1), dim=1), "p = 1"),
    (checks.attention_map, lambda f: energies(f).softmax(1), "softmax over places"),
    (checks.attention_map, lambda f: losses.attention_map(f).view(3, 2, 3), r"shape \(3, 2, 3\)"),
    (checks.attention_map, lambda f: losses.attention_map(f, power=4), "compare with the formula"),
    (checks.info_nce, lambda s, t, tau: pairs(s @ t.T / tau), "dot products"),
    (checks.info_nce, lambda s, t, tau: pairs(cosines(s, t)), "not divided by τ"),
    (checks.info_nce, lambda s, t, tau: pairs(cosines(s, t) * tau), "multiplied by τ"),
    (checks.info_nce, lambda s, t, tau: pairs(cosines(t, s) / tau), "roles are exchanged"),
    (checks.info_nce, lambda s, t, tau: len(s) * pairs(cosines(s, t) / tau), "summed over the batch"),
    (checks.info_nce, lambda s, t, tau: -pairs(cosines(s, t) / tau), "sign is missing"),
    (checks.info_nce, lambda s, t, tau: pairs(cosines(s, s) / tau), "students with students"),
    (
        checks.info_nce,
        lambda s, t, tau: (
            (cosines(s, t) / tau - 1e9 * torch.eye(len(s))).logsumexp(1) - cosines(s, t).diagonal() / tau
        ).mean(),
        "positive pair is missing",
    ),
    (checks.info_nce, lambda s, t, tau: losses.info_nce_loss(s.detach(), t, temperature=tau), "no gradient"),
    (
        checks.info_nce,
        lambda s, t, tau: -((cosines(s, t) / tau).exp().diagonal() / (cosines(s, t) / tau).exp().sum(1)).log().mean(),
        "overflows",
    ),
]


@pytest.mark.parametrize(("check", "attempt"), RIGHT)
def test_what_is_right_is_accepted(check: Callable, attempt: Attempt) -> None:
    verdict = check(attempt)
    assert verdict.state == "solved", verdict


@pytest.mark.parametrize(("check", "attempt", "message"), WRONG)
def test_a_classic_mistake_is_called_by_its_name(check: Callable, attempt: Attempt, message: str) -> None:
    verdict = check(attempt)
    assert verdict.state == "wrong", verdict
    assert re.search(message, verdict.message), verdict


@pytest.mark.parametrize("check", ALL)
def test_a_stub_is_open_and_an_error_is_an_answer(check: Callable) -> None:
    assert check(lambda *arguments: ...).state == "open"
    assert check(None).state == "open"
    assert check(lambda *arguments: 1 / 0).state == "wrong"
    assert check(5).state == "wrong"


def dimension_one(s: Tensor, t: Tensor) -> Tensor:
    return 0.5 * (s - t).square().sum(1).mean()


def sum_first(f: Tensor) -> Tensor:
    return F.normalize(f.sum(1).square().flatten(1), dim=1)


def columns(f: Tensor) -> Tensor:
    return F.normalize(f.square().sum(1).flatten(1), dim=0)


def both_directions(s: Tensor, t: Tensor, tau: float) -> Tensor:
    return (losses.info_nce_loss(s, t, temperature=tau) + losses.info_nce_loss(t, s, temperature=tau)) / 2


@pytest.mark.parametrize(
    ("check", "attempt", "message"),
    [
        (checks.hint_loss, dimension_one, "dimension 1 only"),
        (checks.attention_map, sum_first, "sum first and square"),
        (checks.attention_map, columns, "your columns have length 1"),
        (checks.info_nce, both_directions, "mean of both directions"),
    ],
)
def test_more_slips_are_named(check: Any, attempt: Any, message: str):
    verdict = check(attempt)
    assert verdict.state == "wrong" and message in verdict.message, verdict
