"""The checks of notebook 01: other right ways, and wrong ones that nobody foresaw."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks._exercise import Exercise
from kd_course.checks.notebook_01 import (
    class_similarity,
    entropy_bits,
    second_choice,
    shuffle_within_class,
    soft_cross_entropy,
    soft_targets,
)


def shifted_softmax(z: Tensor) -> Tensor:
    powers = (z - z.amax(1, keepdim=True)).exp()
    return powers / powers.sum(1, keepdim=True)


def slow_bits(p: Tensor) -> Tensor:
    return torch.tensor([sum(-q * math.log2(q) for q in row if q > 0) for row in p.tolist()])


def similarity(p: Tensor, y: Tensor) -> Tensor:
    return torch.stack([p[y == c].mean(0) for c in range(p.shape[1])])


def rolled(p: Tensor, y: Tensor) -> Tensor:
    result = p.clone()
    for c in y.unique():
        result[y == c] = p[y == c].roll(1, 0)
    return result


@pytest.mark.parametrize(
    ("exercise", "submission"),
    [
        (soft_targets, lambda z: z.float().softmax(-1)),
        (soft_targets, shifted_softmax),
        (soft_targets, lambda z: z.log_softmax(1).exp()),
        (second_choice, lambda p, y: p.scatter(1, y[:, None], -math.inf).argmax(1).int()),
        (second_choice, lambda p, y: (p - 2 * F.one_hot(y, p.shape[1])).argsort(1)[:, -1]),
        (entropy_bits, lambda p: torch.special.entr(p.float()).sum(1) / math.log(2)),
        (entropy_bits, slow_bits),
        (entropy_bits, lambda p: -(p * p.clamp_min(1e-30).log2()).sum(1)),
        (entropy_bits, lambda p: -(p * (p + 1e-12).log2()).sum(1)),
        (entropy_bits, lambda p: -(p * (p + 1e-8).log2()).sum(1)),
        (entropy_bits, lambda p: -torch.special.xlogy(p, p).sum(1) / math.log(2)),
        (entropy_bits, lambda p: torch.from_numpy(scipy.stats.entropy(p.numpy(), base=2, axis=1))),
        (entropy_bits, lambda p: torch.distributions.Categorical(probs=p).entropy() / math.log(2)),
        (class_similarity, similarity),
        (class_similarity, lambda p, y: similarity(p.float(), y)),
        (class_similarity, lambda p, y: F.normalize(F.one_hot(y, p.shape[1]).double().T, p=1, dim=1) @ p),
        (soft_cross_entropy, lambda z, t: -(t * z.log_softmax(1)).sum(1).mean()),
        (soft_cross_entropy, lambda z, t: F.cross_entropy(z.float(), t.float())),
        (soft_cross_entropy, lambda z, t: (z.logsumexp(1) - (t * z).sum(1)).mean()),
        (shuffle_within_class, rolled),
        (shuffle_within_class, lambda p, y: rolled(p, y).float()),
    ],
)
def test_another_right_way_is_accepted(exercise: Exercise, submission: Callable):
    verdict = exercise(submission)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("exercise", "submission", "says"),
    [
        (soft_targets, torch.sigmoid, "compare with the formula"),
        (soft_targets, lambda z: z.softmax(1)[0], "shape (4,)"),
        (soft_targets, lambda z: z.softmax(1).tolist(), "not list"),
        (soft_targets, lambda z: (z - z.exp().sum(1, keepdim=True).log()).exp(), "overflows to infinity"),
        (second_choice, lambda p, y: torch.full_like(y, 2), "to -1, then take the argmax"),
        (second_choice, lambda p, y: y + 7, "to -1, then take the argmax"),
        (entropy_bits, lambda p: slow_bits(p).mean(), "it should be (3,)"),
        (entropy_bits, lambda p: 1 - p.square().sum(1), "compare with the formula"),
        (entropy_bits, lambda p: -(p * p.clamp_min(1e-4).log2()).sum(1), "such as 1e-12"),
        (entropy_bits, lambda p: -(p * p.clamp_min(1e-5).log2()).sum(1), "such as 1e-12"),
        (entropy_bits, lambda p: -(p * (p + 1e-5).log2()).sum(1), "such as 1e-12"),
        (soft_targets, lambda z: shifted_softmax(z.clamp(-80, 80)), "clipping makes all"),
        (entropy_bits, lambda p: -(p * (p + 2e-6).log2()).sum(1), "a fair coin 1 bit"),
        (entropy_bits, lambda p: -(p * p.clamp_min(2e-4).log2()).sum(1), "such as 1e-12"),
        (class_similarity, lambda p, y: torch.full((3, 3), 1 / 3), "row c should be"),
        (class_similarity, lambda p, y: p.mean(0), "it should be (3, 3)"),
        (class_similarity, lambda p, y: similarity(p, y)[:2], "it should be (3, 3)"),
        (class_similarity, lambda p, y: similarity(p, y).tolist(), "not list"),
        (class_similarity, lambda p, y: p @ p, "your code raised RuntimeError: mat1 and mat2"),
        (soft_cross_entropy, lambda z, t: F.cross_entropy(z, t, reduction="none"), "it should be ()"),
        (soft_cross_entropy, lambda z, t: F.mse_loss(z.softmax(1), t), "compare with the formula"),
        (soft_cross_entropy, lambda z, t: -(t * (z.softmax(1) + 1e-9).log()).sum(1).mean(), "a cut-off value"),
        (shuffle_within_class, lambda p, y: p[torch.randperm(60)[:30]], "it should be (60, 4)"),
        (shuffle_within_class, lambda p, y: rolled(p, torch.zeros_like(y)), "target of another class"),
        (shuffle_within_class, lambda p, y: p + math.nan, "nobody's target"),
    ],
)
def test_what_nobody_foresaw_is_refused(exercise: Exercise, submission: Callable, says: str):
    verdict = exercise(submission)
    assert verdict.state == "wrong"
    assert says in verdict.message
