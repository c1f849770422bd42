"""The checks of notebook 01 accept every right way and call each classic mistake by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks.notebook_01 import (
    class_similarity,
    entropy_bits,
    second_choice,
    shuffle_within_class,
    soft_cross_entropy,
    soft_targets,
)


def shifted_softmax(logits: Tensor) -> Tensor:
    powers = (logits - logits.amax(1, keepdim=True)).exp()
    return powers / powers.sum(1, keepdim=True)


def batch_shifted(logits: Tensor) -> Tensor:
    powers = (logits - logits.max()).exp()
    return powers / powers.sum(1, keepdim=True)


def masked(p: Tensor, y: Tensor, value: float) -> Tensor:
    return p.scatter(1, y[:, None], value)


def in_place(p: Tensor, y: Tensor) -> Tensor:
    p[torch.arange(len(y)), y] = -1
    return p.argmax(1)


def overwriting_deal(p: Tensor, y: Tensor) -> Tensor:
    p[:] = dealt(p, y)
    return p


def bits(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(1) / math.log(2)


def slow_bits(p: Tensor) -> Tensor:
    return torch.tensor([sum(-q * math.log2(q) for q in row if q > 0) for row in p.tolist()])


def similarity(p: Tensor, y: Tensor) -> Tensor:
    return torch.stack([p[y == c].mean(0) for c in range(p.shape[1])])


def sums(p: Tensor, y: Tensor) -> Tensor:
    return torch.stack([p[y == c].sum(0) for c in range(p.shape[1])])


def of_ten_classes(p: Tensor, y: Tensor) -> Tensor:
    return torch.stack([p[y == c].mean(0) for c in range(10)])


def dealt(p: Tensor, y: Tensor) -> Tensor:
    result = p.clone()
    for c in y.unique():
        mine = (y == c).nonzero().squeeze(1)
        result[mine] = p[mine[torch.randperm(len(mine))]]
    return result


def rolled(p: Tensor, y: Tensor) -> Tensor:
    result = p.clone()
    for c in y.unique():
        result[y == c] = p[y == c].roll(1, 0)
    return result


def drawn_again(p: Tensor, y: Tensor) -> Tensor:
    result = p.clone()
    for c in y.unique():
        mine = (y == c).nonzero().squeeze(1)
        result[mine] = p[mine[torch.randint(len(mine), (len(mine),))]]
    return result


def columns_shuffled(p: Tensor, _y: Tensor) -> Tensor:
    return torch.stack([row[torch.tensor([1, 2, 3, 0])] for row in p])


def two_classes_only(p: Tensor, y: Tensor) -> Tensor:
    result = p.clone()
    for c in (0, 1):
        result[y == c] = p[y == c].roll(1, 0)
    return result


def first_class_only(p: Tensor, y: Tensor) -> Tensor:
    result = p.clone()
    result[y == 0] = p[y == 0].roll(1, 0)
    return result


RIGHT = [
    (soft_targets, lambda z: torch.softmax(z, 1)),
    (soft_targets, lambda z: z.float().softmax(-1)),
    (soft_targets, shifted_softmax),
    (soft_targets, lambda z: z.log_softmax(1).exp()),
    (second_choice, lambda p, y: masked(p, y, -1).argmax(1)),
    (second_choice, lambda p, y: masked(p, y, -math.inf).argmax(1).int()),
    (second_choice, lambda p, y: (p - 2 * F.one_hot(y, p.shape[1])).argsort(1)[:, -1]),
    (entropy_bits, bits),
    (entropy_bits, lambda p: bits(p.float())),
    (entropy_bits, slow_bits),
    (entropy_bits, lambda p: -(p * p.clamp_min(1e-30).log2()).sum(1)),
    (entropy_bits, lambda p: -(p * (p + 1e-12).log2()).sum(1)),
    (entropy_bits, lambda p: -torch.special.xlogy(p, p).sum(1) / math.log(2)),
    (entropy_bits, lambda p: torch.from_numpy(scipy.stats.entropy(p.numpy(), base=2, axis=1))),
    (entropy_bits, lambda p: torch.distributions.Categorical(probs=p).entropy() / math.log(2)),
    (class_similarity, similarity),
    (class_similarity, lambda p, y: similarity(p.float(), y)),
    (class_similarity, lambda p, y: sums(p, y) / torch.bincount(y)[:, None]),
    (class_similarity, lambda p, y: F.normalize(F.one_hot(y).double().T, p=1, dim=1) @ p),
    (soft_cross_entropy, F.cross_entropy),
    (soft_cross_entropy, lambda z, t: -(t * z.log_softmax(1)).sum(1).mean()),
    (soft_cross_entropy, lambda z, t: F.cross_entropy(z.float(), t.float())),
    (soft_cross_entropy, lambda z, t: (z.logsumexp(1) - (t * z).sum(1)).mean()),
    (shuffle_within_class, dealt),
    (shuffle_within_class, rolled),
    (shuffle_within_class, lambda p, y: dealt(p, y).float()),
]

WRONG = [
    (soft_targets, "your columns sum to 1", lambda z: z.softmax(0)),
    (soft_targets, "whole batch at once", lambda z: z.exp() / z.exp().sum()),
    (soft_targets, "one-hot answers", lambda z: F.one_hot(z.argmax(1), z.shape[1]).float()),
    (soft_targets, "divides logits by their sum", lambda z: z / z.sum(1, keepdim=True)),
    (soft_targets, "leave the logarithm out", lambda z: z.log_softmax(1)),
    (soft_targets, "the exponentials are right", torch.exp),
    (soft_targets, "the maximum is subtracted", lambda z: (z - z.amax(1, keepdim=True)).exp()),
    (soft_targets, "overflows to infinity", lambda z: z.exp() / z.exp().sum(1, keepdim=True)),
    (soft_targets, "each *row's* own maximum", batch_shifted),
    (soft_targets, "compare with the formula", torch.sigmoid),
    (soft_targets, "shape (4,)", lambda z: z.softmax(1)[0]),
    (soft_targets, "not list", lambda z: z.softmax(1).tolist()),
    (second_choice, "this is the first choice", lambda p, y: p.argmax(1)),
    (second_choice, "whatever its rank", lambda p, y: p.topk(2).indices[:, 1]),
    (second_choice, "least probable class", lambda p, y: p.argmin(1)),
    (second_choice, "these are the labels", lambda p, y: y),
    (second_choice, "these are the probabilities", lambda p, y: masked(p, y, -1).amax(1)),
    (second_choice, "return class numbers", lambda p, y: masked(p, y, -1).argmax(1).float()),
    (second_choice, "wrote into the tensor", in_place),
    (second_choice, "mask it with -1, not with 0", lambda p, y: masked(p, y, 0).argmax(1)),
    (second_choice, "to -1, then take the argmax", lambda p, y: torch.full_like(y, 2)),
    (entropy_bits, "these are nats", lambda p: torch.special.entr(p).sum(1)),
    (entropy_bits, "needs a minus", lambda p: (p * p.log2()).sum(1)),
    (entropy_bits, "nats, and the sign", lambda p: (p * p.log()).sum(1)),
    (entropy_bits, "log10", lambda p: -(p * p.log10()).sum(1)),
    (entropy_bits, "mean over the classes", lambda p: -(p * p.log2()).mean(1)),
    (entropy_bits, "missing to the maximum", lambda p: math.log2(p.shape[1]) - bits(p)),
    (entropy_bits, "likeliest class alone", lambda p: -p.amax(1).log2()),
    (entropy_bits, "without weights", lambda p: -p.log2().sum(1)),
    (entropy_bits, "perplexity", lambda p: 2 ** bits(p)),
    (entropy_bits, "hard label gives NaN", lambda p: -(p * p.log2()).sum(1)),
    (entropy_bits, "fair coin 1 bit", lambda p: bits(p.clamp_min(0.05))),
    (entropy_bits, "it should be (3,)", lambda p: bits(p).mean()),
    (entropy_bits, "compare with the formula", lambda p: 1 - p.square().sum(1)),
    (class_similarity, "transposed", lambda p, y: similarity(p, y).T),
    (class_similarity, "grouped by the teacher's first choice", lambda p, y: similarity(p, p.argmax(1))),
    (class_similarity, "these are sums over the samples", sums),
    (class_similarity, "number of *all* samples", lambda p, y: sums(p, y) / len(y)),
    (class_similarity, "leave it as it is: rows sum to 1", lambda p, y: similarity(p, y) / similarity(p, y).sum(0)),
    (class_similarity, "divided by the wrong total", lambda p, y: sums(p, y) / sums(p, y).sum(0)),
    (class_similarity, "confusion matrix", lambda p, y: similarity(F.one_hot(p.argmax(1), 3).double(), y)),
    (class_similarity, "diagonal is set to 0", lambda p, y: similarity(p, y).fill_diagonal_(0)),
    (class_similarity, "row c should be", lambda p, y: torch.full((3, 3), 1 / 3)),
    (class_similarity, "it should be (3, 3)", lambda p, y: p.mean(0)),
    (class_similarity, "it should be (3, 3)", lambda p, y: similarity(p, y)[:2]),
    (class_similarity, "not list", lambda p, y: similarity(p, y).tolist()),
    (class_similarity, "take C from `probabilities.shape[1]`", of_ten_classes),
    (class_similarity, "to(probabilities.dtype)", lambda p, y: F.one_hot(y, 3).float().T @ p),
    (class_similarity, "your code raised RuntimeError", lambda p, y: p @ p),
    (soft_cross_entropy, "swapped", lambda z, t: -(z.softmax(1) * t.log()).sum(1).mean()),
    (soft_cross_entropy, "KL(t ‖ s)", lambda z, t: F.kl_div(z.log_softmax(1), t, reduction="batchmean")),
    (soft_cross_entropy, "mean over batch *and* classes", lambda z, t: -(t * z.log_softmax(1)).mean()),
    (soft_cross_entropy, "sum over the batch", lambda z, t: F.cross_entropy(z, t, reduction="sum")),
    (soft_cross_entropy, "hard label again", lambda z, t: F.cross_entropy(z, t.argmax(1))),
    (soft_cross_entropy, "weighs the raw logits", lambda z, t: -(t * z).sum(1).mean()),
    (soft_cross_entropy, "weighs the student's probabilities", lambda z, t: -(t * z.softmax(1)).sum(1).mean()),
    (soft_cross_entropy, "through a softmax again", lambda z, t: F.cross_entropy(z, t.softmax(1))),
    (soft_cross_entropy, "softmax twice", lambda z, t: F.cross_entropy(z.softmax(1), t)),
    (soft_cross_entropy, "these are bits", lambda z, t: F.cross_entropy(z, t) / math.log(2)),
    (soft_cross_entropy, "sign is turned round", lambda z, t: (t * z.log_softmax(1)).sum(1).mean()),
    (soft_cross_entropy, "no gradient reaches", lambda z, t: F.cross_entropy(z, t).item()),
    (soft_cross_entropy, "no gradient reaches", lambda z, t: F.cross_entropy(z.detach(), t)),
    (soft_cross_entropy, "take `log_softmax` in one step", lambda z, t: -(t * z.softmax(1).log()).sum(1).mean()),
    (
        soft_cross_entropy,
        "a cut-off value",
        lambda z, t: -(t * z.softmax(1).clamp_min(1e-12).log()).sum(1).mean(),
    ),
    (soft_cross_entropy, "it should be ()", lambda z, t: F.cross_entropy(z, t, reduction="none")),
    (soft_cross_entropy, "compare with the formula", lambda z, t: F.mse_loss(z.softmax(1), t)),
    (shuffle_within_class, "of one label kept", two_classes_only),
    (shuffle_within_class, "still has its own target", lambda p, y: p.clone()),
    (shuffle_within_class, "these are class means", lambda p, y: similarity_of(p, y)[y]),
    (shuffle_within_class, "among the classes of one target", columns_shuffled),
    (shuffle_within_class, "nobody's target", lambda p, y: (dealt(p, y) + p) / 2),
    (shuffle_within_class, "target of another class", lambda p, y: p.roll(1, 0)),
    (shuffle_within_class, "dealt twice", drawn_again),
    (shuffle_within_class, "shuffle every class", first_class_only),
    (shuffle_within_class, "wrote into the tensor", overwriting_deal),
    (shuffle_within_class, "it should be (60, 4)", lambda p, y: p[torch.randperm(60)[:30]]),
]


def similarity_of(p: Tensor, y: Tensor) -> Tensor:
    """Class means where there are fewer labels than classes."""
    return torch.stack([p[y == c].mean(0) for c in range(int(y.max()) + 1)])


CHECKS = [soft_targets, second_choice, entropy_bits, class_similarity, soft_cross_entropy, shuffle_within_class]


@pytest.mark.parametrize(("check", "attempt"), RIGHT)
def test_every_right_way_is_accepted(check: Callable, attempt: Callable):
    verdict = check(attempt)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("check", "says", "attempt"), WRONG, ids=[f"{check.__name__}: {says}" for check, says, _ in WRONG]
)
def test_classic_mistakes_are_called_by_name(check: Callable, says: str, attempt: Callable):
    verdict = check(attempt)
    assert verdict.state == "wrong", verdict
    assert says in verdict.message


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("attempt", [None, ..., lambda *_: ..., lambda *_: None])
def test_an_untouched_stub_is_open(check: Callable, attempt: object):
    assert check(attempt).state == "open"


@pytest.mark.parametrize("check", CHECKS)
def test_code_that_raises_gets_an_answer(check: Callable):
    def raises(*_arguments: Tensor) -> Tensor:
        raise IndexError("row 7 is out of bounds")

    verdict = check(raises)
    assert verdict.state == "wrong"
    assert "IndexError: row 7" in verdict.message
