"""The checks of notebook 06 pass what is right, in every spelling, and call each classic mistake by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks import notebook_06 as checks
from kd_course.ensembles import average_logits, average_probabilities, combine, disagreement, fit_weights

Attempt = Callable[..., Any]
ALL = [checks.mean_probabilities, checks.pairwise_disagreement, checks.ensemble_weights, checks.ensemble_targets]


def refused(verdict: checks.Verdict, message: str) -> None:
    assert verdict.state == "wrong", verdict
    assert re.search(message, verdict.message), f"{message!r} not in {verdict.message!r}"


# --- the mean of probabilities --------------------------------------------------------------------------------------


def one_by_one(logits: Tensor) -> Tensor:
    total = torch.zeros_like(logits[0])
    for member in logits:
        total += member.softmax(1) / len(logits)
    return total


@pytest.mark.parametrize(
    "attempt",
    [
        lambda z: z.softmax(2).mean(0),
        lambda z: average_probabilities(z).softmax(1),
        lambda z: z.float().softmax(-1).mean(dim=0),
        one_by_one,
    ],
)
def test_mean_probabilities_passes_what_is_right(attempt: Attempt):
    assert checks.mean_probabilities(attempt)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda z: z.mean(0).softmax(1), "you average the logits .* geometric mean"),
        (lambda z: z.mean(0), "neither softmax nor the right order"),
        (lambda z: z.softmax(2).prod(0) ** (1 / 3), "to the power 1/M"),
        (lambda z: z.softmax(2).sum(0), "sums over the members"),
        (lambda z: F.one_hot(z.argmax(2), 5).double().mean(0), "this is a vote"),
        (lambda z: z.softmax(1).mean(0), "runs over the samples"),
        (lambda z: z.softmax(0).mean(0), "runs over the members"),
        (lambda z: average_probabilities(z), "these are logarithms"),
        (lambda z: z.softmax(2).mean(0).softmax(1), "second softmax"),
        (lambda z: z.softmax(2).amax(0), "the rows are not the mean"),
        (lambda z: z.softmax(2).mean(1), r"shape \(3, 5\)"),
    ],
)
def test_mean_probabilities_names_the_mistake(attempt: Attempt, message: str):
    refused(checks.mean_probabilities(attempt), message)


# --- disagreement ---------------------------------------------------------------------------------------------------


def by_loops(logits: Tensor) -> Tensor:
    answers = logits.argmax(2)
    return torch.tensor([[(a != b).float().mean().item() for b in answers] for a in answers])


@pytest.mark.parametrize("attempt", [disagreement, by_loops, lambda z: disagreement(z.float()).float()])
def test_pairwise_disagreement_passes_what_is_right(attempt: Attempt):
    assert checks.pairwise_disagreement(attempt)


def subtracted(z: Tensor) -> Tensor:
    answers = z.argmax(2).double()
    return (answers[:, None] - answers[None]).abs().mean(2)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda z: 1 - disagreement(z), "this is agreement"),
        (lambda z: 4 * disagreement(z), "these are counts"),
        (lambda z: (4 * disagreement(z)).long(), "these are counts"),
        (lambda z: 100 * disagreement(z), "in percent"),
        (lambda z: disagreement(z).triu(), "once"),
        (lambda z: (z.softmax(2)[:, None] - z.softmax(2)[None]).abs().mean((2, 3)), "compares probabilities"),
        (subtracted, "subtracts class numbers"),
        (lambda z: disagreement(z.transpose(1, 2)), "runs over the samples"),
        (lambda z: torch.zeros(3, 3), "fraction of samples where"),
        (lambda z: disagreement(z).mean(), r"shape \(\)"),
    ],
)
def test_pairwise_disagreement_names_the_mistake(attempt: Attempt, message: str):
    refused(checks.pairwise_disagreement(attempt), message)


# --- weights --------------------------------------------------------------------------------------------------------


def by_adam(logits: Tensor, labels: Tensor, *, steps: int = 300, rate: float = 0.1) -> Tensor:
    a = torch.zeros(len(logits), requires_grad=True)
    optimizer = torch.optim.Adam([a], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        F.nll_loss(torch.einsum("m,mnc->nc", a.softmax(0), logits.float().softmax(2)).log(), labels).backward()
        optimizer.step()
    return a.detach()


def on(split: str, fit: Callable[[Tensor, Tensor], Tensor]) -> Attempt:
    return lambda logits, labels: fit(logits[split], labels[split])


def shares(logits: Tensor, labels: Tensor) -> Tensor:
    scores = (logits.argmax(2) == labels).double().mean(1)
    return scores / scores.sum()


def winner(logits: Tensor, labels: Tensor) -> Tensor:
    return F.one_hot((logits.argmax(2) == labels).sum(1).argmax(), 3).double()


@pytest.mark.parametrize("fit", [fit_weights, lambda z, y: by_adam(z, y).softmax(0)])
def test_ensemble_weights_passes_what_is_right(fit: Attempt):
    assert checks.ensemble_weights(on("validation", fit))


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (on("train", fit_weights), "fitted on \\*training\\* images"),
        (on("test", fit_weights), "fitted on the \\*test\\* images"),
        (on("validation", by_adam), "numbers a before the softmax"),
        (on("validation", lambda z, y: 2 * fit_weights(z, y)), "sum to 2, not to 1"),
        (on("validation", lambda z, y: torch.zeros(3)), "sum to 0, not to 1"),
        (on("validation", lambda z, y: torch.full((3,), torch.nan)), "sum to nan"),
        (on("validation", lambda z, y: torch.tensor([-0.5, 1.0, 0.5])), "negative"),
        (on("validation", lambda z, y: fit_weights(z, y, average="logits")), "mean of \\*logits\\*"),
        (on("validation", lambda z, y: torch.full((3,), 1 / 3)), "equal weights, the start"),
        (on("validation", winner), "best single member"),
        (on("validation", shares), "proportional to the members' accuracies"),
        (on("validation", lambda z, y: by_adam(z, y, steps=5).softmax(0)), "can be had. Take more steps"),
        (on("validation", lambda z, y: fit_weights(z, y)[:2]), r"shape \(2,\)"),
    ],
)
def test_ensemble_weights_names_the_mistake(attempt: Attempt, message: str):
    refused(checks.ensemble_weights(attempt), message)


# --- targets --------------------------------------------------------------------------------------------------------


def reference(logits: Tensor, T: float) -> Tensor:
    return average_probabilities(logits, temperature=T)


def stable(logits: Tensor, T: float) -> Tensor:
    return T * torch.logsumexp((logits.float() / T).log_softmax(2), dim=0)  # log M is the same for every class


@pytest.mark.parametrize("attempt", [reference, stable, lambda z, T: reference(z, T) + 7])
def test_ensemble_targets_passes_what_is_right(attempt: Attempt):
    assert checks.ensemble_targets(attempt)


def softened(logits: Tensor, T: float) -> Tensor:
    return (logits / T).softmax(2).mean(0)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda z, T: average_logits(z), "you average the logits and let the loss soften"),
        (lambda z, T: average_probabilities(z), "average is made at T = 1 and softened afterwards"),
        (lambda z, T: softened(z, T).log(), "T is forgotten at the end"),
        (lambda z, T: T**2 * softened(z, T).log(), "multiplied by T²"),
        (softened, "these are the mean probabilities at T\\."),
        (lambda z, T: softened(z, 1.0), "mean probabilities at T = 1"),
        (lambda z, T: T * softened(z, T).log(), "infinite target"),
        (lambda z, T: T * softened(z, T).clamp_min(1e-30).log(), "clipped"),
        (lambda z, T: reference(z, 3.0), "not the mean of the members' softened"),
        (lambda z, T: combine(z, torch.tensor([0.5, 0.25, 0.25])), "not the mean of the members' softened"),
        (lambda z, T: softened(z, T).log() * torch.nan, "infinite or NaN"),
    ],
)
def test_ensemble_targets_names_the_mistake(attempt: Attempt, message: str):
    refused(checks.ensemble_targets(attempt), message)


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", ALL)
def test_a_stub_is_not_a_mistake(check: Callable[[Any], checks.Verdict]):
    assert check(lambda *arguments: ...).state == "open"
    assert check(lambda *arguments: None).state == "open"
    assert check(None).state == "open"
    assert check(...).state == "open"


@pytest.mark.parametrize("check", ALL)
def test_code_that_raises_is_told_so(check: Callable[[Any], checks.Verdict]):
    def broken(*arguments: Any) -> Tensor:
        raise RuntimeError("boom")

    refused(check(broken), "your code raised RuntimeError: boom")
    assert check(torch.zeros(3)).state == "wrong"
    refused(check(lambda *arguments: "words"), "return a tensor")
