"""The checks of notebook 03 pass what is right, in every spelling, and call each classic mistake by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course import losses
from kd_course.checks import notebook_03 as checks

Attempt = Callable[..., Any]
ALL = [checks.kd_loss, checks.transfer_objective, checks.convert_beta, checks.best_bias]


def refused(verdict: checks.Verdict, message: str) -> None:
    assert verdict.state == "wrong", verdict
    assert re.search(message, verdict.message), f"{message!r} not in {verdict.message!r}"


# --- the loss -------------------------------------------------------------------------------------------------------


def loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    T: float,
    alpha: float,
    *,
    power: float = 2,
    hard_T: float = 1,
    reduction: str = "batchmean",
    swap: bool = False,
) -> Tensor:
    """The right loss, or with one option changed a wrong one."""
    first, second = (teacher, student) if swap else (student, teacher)
    kl = F.kl_div((first / T).log_softmax(1), (second / T).log_softmax(1), reduction=reduction, log_target=True)
    return (1 - alpha) * F.cross_entropy(student / hard_T, labels) + alpha * T**power * kl


def with_options(**options: Any) -> Attempt:
    return lambda *arguments: loss(*arguments, **options)


def package(student: Tensor, teacher: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    return losses.kd_loss(student, teacher, labels, temperature=T, alpha=alpha)


def by_sums(student: Tensor, teacher: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    log_s, log_t = (student / T).log_softmax(1), (teacher / T).log_softmax(1)
    soft = T * T * (log_t.exp() * (log_t - log_s)).sum(1).mean()
    hard = -student.log_softmax(1)[torch.arange(len(labels)), labels].mean()
    return hard - alpha * hard + alpha * soft


def probabilities_as_target(student: Tensor, teacher: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    kl = torch.nn.KLDivLoss(reduction="batchmean")((student / T).log_softmax(1), (teacher / T).softmax(1))
    return (1 - alpha) * F.cross_entropy(student, labels) + alpha * T**2 * kl


def in_single_precision(student: Tensor, teacher: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    return loss(student.float(), teacher.float(), labels, T, alpha)


@pytest.mark.parametrize("attempt", [loss, package, by_sums, probabilities_as_target, in_single_precision])
def test_kd_loss_passes_what_is_right(attempt: Attempt):
    verdict = checks.kd_loss(attempt)
    assert verdict, verdict


def given_probabilities(student: Tensor, teacher: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    kl = F.kl_div((student / T).softmax(1), (teacher / T).softmax(1), reduction="batchmean")
    return (1 - alpha) * F.cross_entropy(student, labels) + alpha * T**2 * kl


def target_in_logs(student: Tensor, teacher: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    kl = F.kl_div((student / T).log_softmax(1), (teacher / T).log_softmax(1), reduction="batchmean")
    return (1 - alpha) * F.cross_entropy(student, labels) + alpha * T**2 * kl


def log_of_softmax(student: Tensor, teacher: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    s, t = (student / T).softmax(1), (teacher / T).softmax(1)
    return (1 - alpha) * F.cross_entropy(student, labels) + alpha * T**2 * (t * (t.log() - s.log())).sum(1).mean()


def clipped(student: Tensor, teacher: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    s, t = ((z / T).softmax(1).clamp_min(1e-12) for z in (student, teacher))
    return (1 - alpha) * F.cross_entropy(student, labels) + alpha * T**2 * (t * (t.log() - s.log())).sum(1).mean()


def soft_cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    soft = F.cross_entropy(student / T, (teacher / T).softmax(1))
    return (1 - alpha) * F.cross_entropy(student, labels) + alpha * T**2 * soft


def only_teacher_softened(student: Tensor, teacher: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    soft = F.kl_div(student.log_softmax(1), (teacher / T).softmax(1), reduction="batchmean")
    return (1 - alpha) * F.cross_entropy(student, labels) + alpha * T**2 * soft


def detached_soft_term(student: Tensor, teacher: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    return loss(student, teacher, labels, T, 0.0) * (1 - alpha) + alpha * loss(
        student.detach(), teacher, labels, T, 1.0
    )


def hard(student: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(student, labels)


def soft(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    return losses.soft_target_loss(student, teacher, temperature=T)


WRONG_LOSSES = {
    "T² missing": (with_options(power=0), "T² is missing"),
    "T once": (with_options(power=1), "needs T²"),
    "α flipped": (lambda s, t, y, T, a: loss(s, t, y, T, 1 - a), "α is flipped"),
    "α flipped and T² missing": (lambda s, t, y, T, a: loss(s, t, y, T, 1 - a, power=0), "α is flipped.*T² is missing"),
    "KL swapped": (with_options(swap=True), r"swapped.*KL\(s ‖ t\)"),
    "KL swapped and T² missing": (with_options(swap=True, power=0), "swapped.*T² is missing"),
    "element mean": (
        lambda s, t, y, T, a: (1 - a) * hard(s, y) + a * soft(s, t, T) / 4,
        "averaged over the classes.*batchmean",
    ),
    "element mean and T² missing": (
        lambda s, t, y, T, a: (1 - a) * hard(s, y) + a * soft(s, t, T) / 4 / T**2,
        "averaged over the classes.*T² is missing",
    ),
    "sum over the batch": (with_options(reduction="sum"), "sum over the batch"),
    "T on the hard term": (with_options(hard_T=5), "softens the hard term too"),
    "probabilities": (given_probabilities, "given the student's probabilities"),
    "target in logs": (target_in_logs, "NaN on ordinary logits.*log_target=True"),
    "no temperature": (
        lambda s, t, y, T, a: (1 - a) * hard(s, y) + a * T**2 * soft(s, t, 1),
        "temperature is missing",
    ),
    "teacher softened alone": (only_teacher_softened, "student takes z / T as well"),
    "unnormalised": (lambda s, t, y, T, a: hard(s, y) + a * soft(s, t, T), r"must carry \(1-α\)"),
    "soft term always": (lambda s, t, y, T, a: hard(s, y) + soft(s, t, T), "at α = 0 both terms are there"),
    "cross-entropy of probabilities": (
        lambda s, t, y, T, a: (1 - a) * hard(s.softmax(1), y) + a * soft(s, t, T),
        "applies the softmax itself",
    ),
    "hard term of the teacher": (
        lambda s, t, y, T, a: (1 - a) * hard(t, y) + a * soft(s, t, T),
        "compares the \\*teacher\\*",
    ),
    "hard sum": (lambda s, t, y, T, a: (1 - a) * hard(s, y) * len(y) + a * soft(s, t, T), "hard term is a sum"),
    "soft cross-entropy": (soft_cross_entropy, "subtracts the teacher's entropy"),
    "another hard term": (lambda s, t, y, T, a: loss(s, t, y, T, a) + (1 - a), "at α = 0 the loss should be"),
    "another soft term": (lambda s, t, y, T, a: loss(s, t, y, T, a) + a, "at α = 1 the loss should be"),
    "another blend": (lambda s, t, y, T, a: loss(s, t, y, T, a**2), "blend at α = 0.7"),
    "a number": (lambda *arguments: loss(*arguments).item(), "no gradient flows"),
    "detached soft term": (detached_soft_term, "gradient is not"),
    "log of softmax": (log_of_softmax, "logarithm of 0"),
    "clipped": (clipped, "clipping"),
    "one loss per sample": (lambda s, t, y, T, a: s.sum(1), r"shape \(3,\)"),
}


@pytest.mark.parametrize("mistake", WRONG_LOSSES)
def test_kd_loss_names_the_mistake(mistake: str):
    attempt, message = WRONG_LOSSES[mistake]
    refused(checks.kd_loss(attempt), message)


# --- unlabelled transfer data ---------------------------------------------------------------------------------------


def soft_only(model, batch):
    return losses.soft_target_loss(model(batch.images), batch.teacher_logits, temperature=4)


def through_kd_loss(model, batch):
    return losses.kd_loss(model(batch.images), batch.teacher_logits, None, temperature=4, alpha=1)


def labels_at_alpha_one(model, batch):
    return losses.kd_loss(model(batch.images), batch.teacher_logits, batch.labels, temperature=4, alpha=1)


def by_hand(model, batch):
    log_s, log_t = (model(batch.images) / 4).log_softmax(1), (batch.teacher_logits / 4).log_softmax(1)
    return 16 * (log_t.exp() * (log_t - log_s)).sum(1).mean()


def named_terms(model, batch):
    return {"loss": soft_only(model, batch), "other": torch.tensor(0.0)}


@pytest.mark.parametrize("attempt", [soft_only, through_kd_loss, labels_at_alpha_one, by_hand, named_terms])
def test_transfer_objective_passes_what_is_right(attempt: Attempt):
    verdict = checks.transfer_objective(attempt)
    assert verdict, verdict


def without_graph(model, batch):
    with torch.no_grad():
        return soft_only(model, batch)


def blend(model, batch):
    return losses.kd_loss(model(batch.images), batch.teacher_logits, batch.labels, temperature=4, alpha=0.9)


WRONG_OBJECTIVES = {
    "labels": (lambda m, b: F.cross_entropy(m(b.images), b.labels), "these images have none"),
    "pseudo-labels": (lambda m, b: F.cross_entropy(m(b.images), b.teacher_logits.argmax(1)), "teacher's best guess"),
    "read, times 0": (lambda m, b: soft_only(m, b) + 0 * F.cross_entropy(m(b.images), b.labels), "IndexError"),
    "blend": (blend, "changes with `batch.labels`"),
    "T² missing": (lambda m, b: soft_only(m, b) / 16, "T² is missing"),
    "T = 1": (lambda m, b: losses.soft_target_loss(m(b.images), b.teacher_logits, temperature=1), "not softened"),
    "swapped": (lambda m, b: losses.soft_target_loss(b.teacher_logits, m(b.images), temperature=4), "swapped"),
    "element mean": (lambda m, b: soft_only(m, b) / 4, "averaged over the classes"),
    "another loss": (lambda m, b: losses.logit_mse_loss(m(b.images), b.teacher_logits), "expected T²·KL"),
    "no loss": (lambda m, b: {"kd": soft_only(m, b)}, r"needs one named 'loss'; yours has \['kd'\]"),
    "no graph": (without_graph, "no gradient reaches the model"),
}


@pytest.mark.parametrize("mistake", WRONG_OBJECTIVES)
def test_transfer_objective_names_the_mistake(mistake: str):
    attempt, message = WRONG_OBJECTIVES[mistake]
    refused(checks.transfer_objective(attempt), message)


# --- two conventions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attempt",
    [
        lambda beta: (beta / (1 + beta), 1 + beta),
        lambda beta: [1 - 1 / (1 + beta), beta + 1],
        lambda beta: torch.tensor([beta / (1 + beta), 1 + beta]),
        lambda beta: (np.float64(beta / (1 + beta)), np.float64(1 + beta)),
    ],
)
def test_convert_beta_passes_what_is_right(attempt: Attempt):
    verdict = checks.convert_beta(attempt)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda beta: (beta, 1.0), "β is not α"),
        (lambda beta: (beta, 1 + beta), "the scale is right, but β is not α"),
        (lambda beta: (1 / (1 + beta), 1 + beta), "α is flipped"),
        (lambda beta: (beta / (1 + beta), 1.0), "scale is forgotten"),
        (lambda beta: (beta / (1 + beta), 1 / (1 + beta)), "upside down"),
        (lambda beta: (1 + beta, beta / (1 + beta)), "other order"),
        (lambda beta: (1 - beta, 1.0), "would be right if"),
        (lambda beta: (0.8, 5.0), "insert your numbers for β = 0.25"),
        (lambda beta: beta / (1 + beta), "return two numbers"),
    ],
)
def test_convert_beta_names_the_mistake(attempt: Attempt, message: str):
    refused(checks.convert_beta(attempt), message)


# --- the bias of the omitted class ----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("attempt", [search, coarse_search, exact_search])
def test_best_bias_passes_what_is_right(attempt: Attempt):
    verdict = checks.best_bias(attempt)
    assert verdict, verdict


def of_the_class_alone(logits: Tensor, labels: Tensor, column: int) -> float:
    member = labels == column
    return min(np.arange(9, -2, -0.1), key=lambda shift: count(logits[member], labels[member], column, shift))


def all_columns(logits: Tensor, labels: Tensor, column: int) -> float:
    return min(np.arange(0, 8, 0.1), key=lambda shift: int(((logits + shift).argmax(1) != labels).sum()))


def most_errors(logits: Tensor, labels: Tensor, column: int) -> float:
    return max(np.arange(0, 8, 0.1), key=lambda shift: count(logits, labels, column, shift))


def piling_up(logits: Tensor, labels: Tensor, column: int) -> float:
    best, fewest = 0.0, len(labels)
    for shift in np.arange(0, 8, 0.5):
        logits[:, column] += shift
        if (errors := int((logits.argmax(1) != labels).sum())) < fewest:
            best, fewest = shift, errors
    return best


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda *arguments: -search(*arguments), "sign is turned round"),
        (of_the_class_alone, "Accuracy on that class alone"),
        (most_errors, "calls nearly everything"),
        (all_columns, "add it to \\*all\\* classes"),
        (lambda logits, labels, column: search(logits, labels, 3), "class 1 leaves.*use `class_index`"),
        (piling_up, "changes `validation_logits` itself"),
        (lambda *arguments: search(*arguments) / 2, "search further"),
        (lambda logits, labels, column: 3.5, "class 1 leaves"),
        (lambda logits, labels, column: logits, "return one number"),
    ],
)
def test_best_bias_names_the_mistake(attempt: Attempt, message: str):
    refused(checks.best_bias(attempt), message)


# --- every check ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", ALL)
def test_an_empty_stub_is_not_a_mistake(check: Attempt):
    assert check(lambda *arguments: ...).state == "open"
    assert check(lambda *arguments: None).state == "open"
    assert check(None).state == "open"


@pytest.mark.parametrize("check", ALL)
def test_no_check_raises(check: Attempt):
    def broken(*arguments):
        raise KeyError("oops")

    refused(check(broken), "KeyError")
    refused(check(3), "pass the function itself")
    assert check(lambda *arguments: "text").state == "wrong"
