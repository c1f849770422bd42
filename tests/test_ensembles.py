"""Ensembles against slow loops, and against the identities that the course teaches about them.

Jensen's inequality and the geometric mean are shown twice: on random tables in float64, and on small networks trained
on the digits.
"""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from kd_course.data import Batch, Data, Split
from kd_course.ensembles import (
    Ensemble,
    average_logits,
    average_probabilities,
    combine,
    disagreement,
    error_overlap,
    fit_weights,
    member_logits,
)
from kd_course.evaluation import agreement, latency
from kd_course.inference import freeze, predict
from kd_course.losses import soft_target_loss
from kd_course.models import MixerNet, SeparableNet, StudentNet, mlp
from kd_course.runtime import seeded
from kd_course.training import fit

AVERAGES = ("probabilities", "logits")
TEMPERATURES = (0.5, 1.0, 4.0, 20.0)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def table(members: int = 3, samples: int = 7, classes: int = 4, *, seed: int = 0, scale: float = 3.0) -> Tensor:
    """Random member logits (M, N, C) in float64, the same in every run."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(members, samples, classes, generator=generator, dtype=torch.float64)


def random_labels(samples: int, classes: int, *, seed: int = 0) -> Tensor:
    return torch.randint(0, classes, (samples,), generator=torch.Generator().manual_seed(100 + seed))


def random_weights(members: int, *, seed: int = 0) -> Tensor:
    return table(1, 1, members, seed=200 + seed, scale=1.0).flatten().softmax(0)


def nll(logits: Tensor, labels: Tensor) -> float:
    return F.cross_entropy(logits.double(), labels).item()


# The two averages once more, as slow and obvious loops over Python floats.


def log_softmax_by_hand(row: list[float], temperature: float) -> list[float]:
    largest = max(row)
    log_sum = math.log(sum(math.exp((z - largest) / temperature) for z in row))
    return [(z - largest) / temperature - log_sum for z in row]


def probabilities_by_hand(logits: Tensor, weights: list[float], temperature: float) -> Tensor:
    """The mean of the members' softened probabilities, (N, C)."""
    _, samples, classes = logits.shape
    mean = [[0.0] * classes for _ in range(samples)]
    for weight, member in zip(weights, logits.tolist(), strict=True):
        for n in range(samples):
            log_p = log_softmax_by_hand(member[n], temperature)
            for c in range(classes):
                mean[n][c] += weight * math.exp(log_p[c])
    return torch.tensor(mean, dtype=torch.float64)


def logits_by_hand(logits: Tensor, weights: list[float]) -> Tensor:
    _, samples, classes = logits.shape
    values = logits.tolist()
    mean = [
        [sum(weight * values[m][n][c] for m, weight in enumerate(weights)) for c in range(classes)]
        for n in range(samples)
    ]
    return torch.tensor(mean, dtype=torch.float64)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["uniform", "weighted"])
def test_average_probabilities_equals_the_loops(weights: Tensor | None, temperature: float) -> None:
    logits = table()
    found = average_probabilities(logits, weights, temperature=temperature)
    by_hand = probabilities_by_hand(logits, [1 / 3] * 3 if weights is None else weights.tolist(), temperature)
    assert_close(found, temperature * by_hand.log(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["uniform", "weighted"])
def test_average_logits_equals_the_loops(weights: Tensor | None) -> None:
    logits = table()
    by_hand = logits_by_hand(logits, [1 / 3] * 3 if weights is None else weights.tolist())
    assert_close(average_logits(logits, weights), by_hand, rtol=1e-12, atol=1e-12)


def test_a_of_zeros_is_the_simple_mean() -> None:
    logits = table(members=5)
    zeros = torch.zeros(5, dtype=torch.float64).softmax(0)
    for weights in (None, zeros):
        assert_close(average_logits(logits, weights), logits.mean(0), rtol=1e-12, atol=1e-12)
        for temperature in TEMPERATURES:
            softened = average_probabilities(logits, weights, temperature=temperature).div(temperature).softmax(1)
            assert_close(softened, (logits / temperature).softmax(2).mean(0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_softening_the_average_at_its_own_temperature_gives_back_the_mean_of_the_probabilities(
    temperature: float,
) -> None:
    logits = table()
    average = average_probabilities(logits, WEIGHTS, temperature=temperature)
    mean = torch.einsum("m,mnc->nc", WEIGHTS, (logits / temperature).softmax(2))
    assert_close((average / temperature).softmax(1), mean, rtol=1e-12, atol=1e-14)


def test_an_average_made_at_one_temperature_is_not_the_average_at_another() -> None:
    logits = table()
    average = average_probabilities(logits, temperature=4)
    assert (average.softmax(1) - logits.softmax(2).mean(0)).abs().max() > 0.05


def test_the_two_averages_are_different_ensembles() -> None:
    confident, unsure = [9.0, 0.0, -9.0], [0.0, 1.0, 0.5]  # the confident member gives class 2 almost no probability
    logits = torch.tensor([[confident], [unsure]], dtype=torch.float64)
    arithmetic, geometric = (combine(logits, average=average).softmax(1)[0] for average in AVERAGES)
    assert arithmetic[2] > 0.1 > 1e-2 > geometric[2]


def test_an_ensemble_of_one_is_its_member() -> None:
    logits = table(members=1)
    assert torch.equal(average_logits(logits), logits[0])
    for temperature in TEMPERATURES:
        softened = average_probabilities(logits, temperature=temperature) / temperature
        assert_close(softened, (logits[0] / temperature).log_softmax(1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("average", AVERAGES)
def test_members_may_come_in_any_order_if_their_weights_come_along(average: Any) -> None:
    logits, order = table(), [2, 0, 1]
    assert_close(combine(logits[order], WEIGHTS[order], average=average), combine(logits, WEIGHTS, average=average))


@pytest.mark.parametrize("average", AVERAGES)
def test_a_member_counted_twice_is_a_member_with_twice_the_weight(average: Any) -> None:
    logits = table()
    twice = combine(logits[[0, 0, 1, 2]], average=average)
    weights = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert_close(twice, combine(logits, weights, average=average))


def test_combine_goes_by_name() -> None:
    logits = table()
    assert torch.equal(combine(logits, WEIGHTS), average_probabilities(logits, WEIGHTS))
    assert torch.equal(combine(logits, WEIGHTS, average="probabilities"), average_probabilities(logits, WEIGHTS))
    assert torch.equal(combine(logits, WEIGHTS, average="logits"), average_logits(logits, WEIGHTS))


# D7 and D8 on random members; on real ones further down.


def mean_nll(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    return sum(weight * nll(member, labels) for weight, member in zip(weights.tolist(), logits, strict=True))


def jensen(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    """How far the NLL of the mean of probabilities lies below the mean NLL of the members."""
    return mean_nll(logits, labels, weights) - nll(average_probabilities(logits, weights), labels)


def log_normaliser(logits: Tensor, weights: Tensor) -> Tensor:
    """log Z of every sample, Z the sum over classes of the geometric mean of the members' probabilities, (N,)."""
    return torch.logsumexp(torch.einsum("m,mnc->nc", weights, logits.log_softmax(2)), dim=1)


def geometric_mean_holds(logits: Tensor, labels: Tensor, weights: Tensor) -> None:
    """Softmax of the mean of logits = geometric mean / Z, and its NLL = mean NLL + E log Z with Z ≤ 1."""
    geometric = (logits.softmax(2).log() * weights[:, None, None]).sum(0).exp()
    normaliser = geometric.sum(1, keepdim=True)
    average = average_logits(logits, weights)
    assert_close(average.softmax(1), geometric / normaliser, rtol=1e-9, atol=1e-12)
    assert (normaliser <= 1 + 1e-12).all()
    expected = mean_nll(logits, labels, weights) + log_normaliser(logits, weights).mean().item()
    assert nll(average, labels) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_nll_of_the_mean_of_probabilities_is_at_most_the_mean_nll(seed: int) -> None:
    labels, weights = random_labels(30, 4, seed=seed), random_weights(3, seed=seed)
    for scale in (0.1, 1.0, 10.0):
        assert jensen(table(samples=30, seed=seed, scale=scale), labels, weights) > 0
    same = table(members=1, samples=30, seed=seed).expand(3, -1, -1)
    assert jensen(same, labels, weights) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_the_mean_of_logits_is_the_normalised_geometric_mean(scale: float, seed: int) -> None:
    logits, weights = table(seed=seed, scale=scale), random_weights(3, seed=seed)
    geometric_mean_holds(logits, random_labels(7, 4, seed=seed), weights)
    assert log_normaliser(logits, weights).max() < 0  # the members differ, so Z is below 1 for every sample


# D6: averaging targets is averaging losses, up to a constant.


def student_gradient(loss: Callable[[Tensor], Tensor], student: Tensor) -> Tensor:
    student = student.detach().clone().requires_grad_()
    loss(student).backward()
    assert student.grad is not None
    return student.grad


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_distilling_from_the_average_is_distilling_from_all_members_at_once(temperature: float) -> None:
    teachers, first, second = table(), table(members=1, seed=1)[0], table(members=1, seed=2)[0]

    def many_losses(student: Tensor) -> Tensor:
        losses = [soft_target_loss(student, teacher, temperature=temperature) for teacher in teachers]
        return (WEIGHTS * torch.stack(losses)).sum()

    def one_loss(student: Tensor, targets: Tensor | None = None) -> Tensor:
        if targets is None:
            targets = average_probabilities(teachers, WEIGHTS, temperature=temperature)
        return soft_target_loss(student, targets, temperature=temperature)

    expected = student_gradient(many_losses, first)
    assert_close(student_gradient(one_loss, first), expected, rtol=1e-10, atol=1e-13)
    constant = many_losses(first) - one_loss(first)
    assert constant > 1e-4  # what the members disagree about; no student can learn it away
    assert_close(many_losses(second) - one_loss(second), constant, rtol=1e-9, atol=1e-12)

    for wrong in (average_logits(teachers, WEIGHTS), average_probabilities(teachers, WEIGHTS, temperature=3.0)):
        gap = student_gradient(lambda student, wrong=wrong: one_loss(student, wrong), first) - expected
        assert gap.abs().max() > 1e-3


def test_the_constant_is_the_mean_divergence_of_the_members_from_their_mean() -> None:
    teachers, student = table(), table(members=1, seed=1)[0]
    targets = average_probabilities(teachers, WEIGHTS, temperature=4)
    losses = torch.stack([soft_target_loss(student, teacher, temperature=4) for teacher in teachers])
    spread = torch.stack([soft_target_loss(targets, teacher, temperature=4) for teacher in teachers])
    assert_close((WEIGHTS * losses).sum(), soft_target_loss(student, targets, temperature=4) + (WEIGHTS * spread).sum())


# Numbers at the edge: extreme logits, weights of 0, half precision.


@pytest.mark.parametrize("average", AVERAGES)
def test_gradients_of_members_and_weights_pass_gradcheck(average: Any) -> None:
    logits, a = table(samples=2).requires_grad_(), torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits, a: combine(logits, a.softmax(0), average=average), (logits, a))


EXTREME = torch.tensor([[[1e4, -1e4, 0.0], [1e4, 0.0, 0.0]], [[-1e4, 1e4, 0.0], [1e4, 1e4, -1e4]]], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
def test_extreme_logits_give_finite_averages_and_gradients(temperature: float, dtype: torch.dtype) -> None:
    logits = EXTREME.to(dtype).requires_grad_()
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64).requires_grad_()
    arithmetic = average_probabilities(logits, weights, temperature=temperature)
    for value in (arithmetic, average_logits(logits, weights)):
        assert torch.isfinite(value).all()
        for gradient in torch.autograd.grad(value.sum(), (logits, weights)):
            assert torch.isfinite(gradient).all()
    first_row = temperature * torch.tensor([math.log(0.4), math.log(0.6), 0.0]) - torch.tensor([0.0, 0.0, 1e4])
    assert_close(arithmetic[0], first_row.to(arithmetic.dtype), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("logits", [table(), EXTREME[[0, 1, 1]]], ids=["moderate", "extreme"])
def test_a_member_with_weight_0_takes_no_part(logits: Tensor) -> None:
    for average in AVERAGES:
        for kept in ([0, 2], [1]):
            rest = torch.tensor([0.25, 1.0, 0.75], dtype=torch.float64)[kept]
            weights = torch.zeros(3, dtype=torch.float64)
            weights[kept] = rest
            found = combine(logits, weights, average=average)
            assert_close(found, combine(logits[kept], rest, average=average), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("average", AVERAGES)
def test_a_weight_of_0_has_no_nan_in_its_gradient(average: Any) -> None:
    labels = random_labels(7, 4)
    logits, a = table().requires_grad_(), torch.tensor([0.0, 1.0, -1e4], dtype=torch.float64).requires_grad_()
    weights = a.softmax(0)
    assert weights[2] == 0  # the third underflows, as it may in any optimisation
    F.cross_entropy(combine(logits, weights, average=average), labels).backward()
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(a.grad).all()
    assert logits.grad[2].abs().max() == 0
    assert a.grad[2] == 0

    pair = a.detach()[:2].requires_grad_()  # the third changes nothing for the other two
    F.cross_entropy(combine(logits.detach()[:2], pair.softmax(0), average=average), labels).backward()
    assert pair.grad.abs().max() > 1e-3
    assert_close(a.grad[:2], pair.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("average", AVERAGES)
def test_a_table_in_half_precision_is_averaged_in_single(average: Any, dtype: torch.dtype) -> None:
    logits = table().to(dtype)
    for weights in (None, WEIGHTS):
        found = combine(logits, weights, average=average)
        assert found.dtype == torch.float32
        assert_close(found, combine(logits.float(), weights, average=average))
        assert_close(found.double(), combine(logits.double(), weights, average=average), rtol=1e-5, atol=1e-5)
    assert combine(logits.double(), average=average).dtype == torch.float64


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        pytest.param([0.5, 0.5], r"3 members .*weights.*\(2,\)", id="too few"),
        pytest.param([[0.5, 0.3, 0.2]], r"weights.*\(1, 3\)", id="two dimensions"),
        pytest.param([0.9, 0.3, -0.2], "weights.*none negative", id="negative"),
        pytest.param([1.0, 1.0, 1.0], "weights.* 3;", id="sum 3"),
        pytest.param([0.3, 0.3, 0.3], r"weights.* 0\.9;", id="sum 0.9"),
        pytest.param([0.5, math.nan, 0.5], "weights.* nan;", id="nan"),
        pytest.param([math.inf, 0.0, 0.0], "weights.* inf;", id="inf"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: list, words: str) -> None:
    for function in (average_probabilities, average_logits, combine):
        with pytest.raises(ValueError, match=words):
            function(table(), torch.tensor(weights))
    members = [nn.Flatten().eval() for _ in range(3)]
    with pytest.raises(ValueError, match=words):
        Ensemble(members, torch.tensor(weights))


@pytest.mark.parametrize("off", [0.001, 0.01, 0.03, -0.001])
def test_weights_may_be_rounded_but_not_wrong(off: float) -> None:
    """A sum that float32 rounds is 1; one of 1.01 would make every member one per cent too heavy."""
    wrong, rounded = torch.tensor([0.5, 0.3, 0.2 + off]), torch.tensor([0.33333, 0.33333, 0.33333])
    for average in AVERAGES:
        with pytest.raises(ValueError, match=r"sum to 1; these have .* and sum to (1\.0|0\.9)"):
            combine(table(), wrong, average=average)
        assert combine(table(), rounded, average=average).shape == (7, 4)


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor], ids=["list", "tuple", "array", "tensor"])
def test_weights_may_be_any_series_of_numbers(members: list[nn.Module], make: Callable) -> None:
    for average in AVERAGES:
        found = combine(table(), make([0.5, 0.3, 0.2]), average=average)
        if make is not torch.tensor:  # of which float32 is the default
            assert torch.equal(found, combine(table(), WEIGHTS, average=average))
        assert_close(found, combine(table(), WEIGHTS, average=average), rtol=1e-6, atol=1e-6)
    assert_close(Ensemble(members[:3], make([0.5, 0.25, 0.25])).weights, torch.tensor([0.5, 0.25, 0.25]))


@pytest.mark.parametrize("weights", ["abc", {0: 0.5, 1: 0.3, 2: 0.2}, 1.0, ["0.5", "0.3", "0.2"], [True, False, False]])
def test_weights_that_are_no_numbers_are_refused(weights: Any) -> None:
    for function in (average_probabilities, average_logits, combine):
        with pytest.raises(TypeError, match="weights must be "):
            function(table(), weights)


TABLES = [average_probabilities, average_logits, combine, disagreement, lambda z: fit_weights(z, torch.zeros(7).long())]


@pytest.mark.parametrize("function", TABLES, ids=["probabilities", "logits", "combine", "disagreement", "fit_weights"])
def test_what_is_no_tensor_of_member_logits_is_refused(function: Callable) -> None:
    for logits, words in [
        (list(table()), r"not list; use torch\.stack"),
        (table().numpy(), r"not ndarray; use torch\.as_tensor"),
        (tuple(table()), "not tuple; .*logits_of"),
        (None, "not NoneType"),
    ]:
        with pytest.raises(TypeError, match=f"member logits must be a tensor, {words}"):
            function(logits)
    with pytest.raises(TypeError, match=r"member logits must be floating point, not torch\.int64"):
        function(table().long())


def test_probabilities_are_not_averaged_as_if_they_were_logits(tiny_split: Callable[..., Split]) -> None:
    probabilities, labels = table().softmax(2), random_labels(7, 4)
    fits = [lambda z, average=average: fit_weights(z, labels, average=average) for average in AVERAGES]
    for function in (average_probabilities, combine, *fits):
        with pytest.raises(ValueError, match=r"member logits are probabilities.*probabilities\.log\(\)"):
            function(probabilities)
    assert_close(average_probabilities(probabilities.log()).exp(), probabilities.mean(0))
    with pytest.raises(ValueError, match="the answers of member 1 are probabilities"):
        member_logits([mlp(4, classes=3), nn.Sequential(mlp(4, classes=3), nn.Softmax(1))], tiny_split())


@pytest.mark.parametrize("average", AVERAGES)
def test_a_masked_class_keeps_no_chance_and_gives_finite_gradients(average: Any) -> None:
    """Logits of -∞ mean that a class cannot be answered; its probability is exactly 0, and nothing becomes NaN."""
    logits = table()
    logits[:, :, 3] = -math.inf
    logits, a = logits.requires_grad_(), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    found = combine(logits, a.softmax(0), average=average)
    assert_close(found[:, :3].softmax(1), combine(logits[:, :, :3], average=average).softmax(1))
    assert (found.softmax(1)[:, 3] == 0).all()
    F.cross_entropy(found, random_labels(7, 3)).backward()
    for gradient in (logits.grad, a.grad):
        assert torch.isfinite(gradient).all()
    rest = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(
        combine(logits.detach()[:, :, :3], rest.softmax(0), average=average), random_labels(7, 3)
    ).backward()
    assert_close(a.grad, rest.grad)
    weights = fit_weights(logits, random_labels(7, 3), average=average)
    assert_close(weights, fit_weights(logits[:, :, :3], random_labels(7, 3), average=average), rtol=1e-3, atol=1e-3)


def test_a_member_of_weight_0_cannot_veto() -> None:
    logits = table(2)
    logits[1, :, 0] = -math.inf
    for average in AVERAGES:
        assert_close(combine(logits, [1.0, 0.0], average=average).softmax(1), logits[0].softmax(1))
        assert (combine(logits, [0.5, 0.5], average=average).softmax(1)[:, 0] == 0).all() == (average == "logits")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("average", AVERAGES)
def test_autocast_does_not_reach_the_average(average: Any, dtype: torch.dtype) -> None:
    logits, weights = table().float(), WEIGHTS.float()
    with torch.autocast("cpu", dtype=dtype):
        found = combine(logits, weights, average=average)
    assert found.dtype == torch.float32
    assert torch.equal(found, combine(logits, weights, average=average))


@pytest.mark.parametrize("average", AVERAGES)
def test_what_inference_mode_made_can_be_averaged_and_fitted(average: Any) -> None:
    labels = random_labels(7, 4)
    with torch.inference_mode():
        logits, inferred = table() + 0, labels.clone()
        inside = fit_weights(logits, inferred, average=average)
    expected = fit_weights(table(), labels, average=average)
    assert torch.equal(fit_weights(logits, inferred, average=average), expected)
    assert torch.equal(inside, expected)
    a = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    combine(logits, a.softmax(0), average=average).square().sum().backward()
    assert a.grad.abs().max() > 0


def test_each_sample_may_have_its_own_temperature() -> None:
    temperatures = torch.tensor([1.0, 2.0, 4.0, 0.5, 8.0, 1.0, 3.0], dtype=torch.float64)
    found = average_probabilities(table(), WEIGHTS, temperature=temperatures)
    for row, temperature in enumerate(temperatures.tolist()):
        assert_close(found[row], average_probabilities(table(), WEIGHTS, temperature=temperature)[row])
    with pytest.raises(ValueError, match=r"temperature .*\(7,\)"):
        average_probabilities(table(), temperature=torch.ones(3))
    with pytest.raises(TypeError, match="temperature must be one number, not '4'"):
        average_probabilities(table(), temperature="4")


@pytest.mark.parametrize("function", [fit_weights, error_overlap])
def test_labels_that_are_no_class_numbers_are_refused(function: Callable) -> None:
    labels = random_labels(7, 4)
    for wrong, words in [
        (labels - 100, "0..3, not -[0-9]+..-9[0-9]; leave unlabelled"),
        (labels + 90, "0..3, not 9[0-9]..9[0-9]"),
        (labels.double(), r"pass labels\.long"),
        (labels > 1, r"bool.*pass labels\.long"),
        (F.one_hot(labels, 4), r"pass labels\.argmax\(1\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            function(table(), wrong)
    for wrong in (labels.tolist(), labels.numpy(), None):
        with pytest.raises(TypeError, match="labels must be a tensor of class numbers"):
            function(table(), wrong)
    with pytest.raises(TypeError, match="member logits must be floating point"):
        function(labels, table())
    assert torch.equal(function(table(), labels.int()), function(table(), labels))


@pytest.mark.parametrize(
    "function", [disagreement, *[lambda z, f=f: f(z, random_labels(7, 4)) for f in (fit_weights, error_overlap)]]
)
def test_a_table_without_an_answer_is_refused(function: Callable) -> None:
    """The largest of NaN is where the NaN is, and weights fitted on it would be NaN."""
    for value in (math.nan, math.inf):
        logits = table()
        logits[1, 2, 3] = value
        with pytest.raises(ValueError, match=r"member logits hold NaN.* in 1 of 21 rows"):
            function(logits)


@pytest.mark.parametrize("steps", [0, -1])
def test_fitting_takes_a_step(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps must be 1 or more, not {steps}"):
        fit_weights(table(), random_labels(7, 4), steps=steps)
    for odd in (1.5, "50", True, None):
        with pytest.raises(TypeError, match="steps must be a whole number"):
            fit_weights(table(), random_labels(7, 4), steps=odd)


def test_more_steps_fit_better() -> None:
    logits, labels = calibrated_and_noise()
    few, many = (nll(combine(logits, fit_weights(logits, labels, steps=steps)), labels) for steps in (2, 50))
    assert nll(combine(logits), labels) > few > many


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4, 5), (0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_what_is_not_a_table_of_members_is_refused(shape: tuple[int, ...]) -> None:
    calls: list[Callable[[], Tensor]] = [
        lambda: average_probabilities(torch.zeros(shape)),
        lambda: average_logits(torch.zeros(shape)),
        lambda: fit_weights(torch.zeros(shape), torch.zeros(3, dtype=torch.int64)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"member logits .*not {re.escape(str(shape))}; .*member_logits"):
            call()


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature .*above 0.*, not {temperature}"):
        average_probabilities(table(), temperature=temperature)


def test_an_unknown_average_is_refused() -> None:
    calls: list[Callable[[Any], object]] = [
        lambda average: combine(table(), average=average),
        lambda average: fit_weights(table(), random_labels(7, 4), average=average),
        lambda average: Ensemble([nn.Flatten().eval()], average=average),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"average .*'probabilities' or 'logits', not 'votes'"):
            call("votes")


# Weights fitted on validation.


def calibrated_and_noise(samples: int = 2000, classes: int = 5) -> tuple[Tensor, Tensor]:
    """A member from whose own probabilities the labels were drawn, a random one, and the labels."""
    logits = table(2, samples, classes, scale=2.0)
    labels = torch.multinomial(logits[0].softmax(1), 1, generator=torch.Generator().manual_seed(5)).squeeze(1)
    return logits, labels


@pytest.mark.parametrize("average", AVERAGES)
def test_the_calibrated_member_gets_the_weight(average: Any) -> None:
    logits, labels = calibrated_and_noise()
    assert fit_weights(logits, labels, average=average)[0] > 0.97
    assert fit_weights(logits.flip(0), labels, average=average)[1] > 0.97


def test_weights_reach_an_optimum_known_in_closed_form() -> None:
    # Member 1 gives class 0 probability 0.9 whatever the sample, member 2 gives it 0.1; in truth it has 0.7.
    logits = torch.tensor([0.9, 0.1]).logit().double()[:, None, None] * torch.tensor([1.0, 0.0]).double()
    labels = torch.tensor([0] * 7 + [1] * 3)
    logits = logits.expand(2, 10, 2)
    arithmetic = fit_weights(logits, labels)  # 0.9 w + 0.1 (1 - w) = 0.7
    assert arithmetic[0].item() == pytest.approx(0.75, abs=1e-4)
    geometric = fit_weights(logits, labels, average="logits")  # (2 w - 1) log 9 = log(7/3)
    assert geometric[0].item() == pytest.approx((1 + math.log(7 / 3) / math.log(9)) / 2, abs=1e-4)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("average", AVERAGES)
def test_fitted_weights_are_never_worse_than_equal_ones_where_they_were_fitted(average: Any, seed: int) -> None:
    labels = random_labels(40, 4, seed=seed)
    logits = table(samples=40, seed=seed)
    logits[0] += 2 * F.one_hot(labels, 4)  # one member that has learned something
    weights = fit_weights(logits, labels, average=average)
    assert weights.shape == (3,)
    assert weights.dtype == torch.float32
    assert weights.sum().item() == pytest.approx(1, abs=1e-6)
    assert (weights > 0).all()
    fitted = nll(combine(logits, weights, average=average), labels)
    assert fitted < nll(combine(logits, average=average), labels)
    for other in range(5):  # and no other weights are better
        rival = random_weights(3, seed=1000 * seed + other)
        assert fitted <= nll(combine(logits, rival, average=average), labels) + 1e-6


@pytest.mark.parametrize("average", AVERAGES)
def test_equal_members_keep_equal_weights(average: Any) -> None:
    same = table(members=1, samples=20).expand(4, -1, -1)
    assert_close(fit_weights(same, random_labels(20, 4), average=average), torch.full((4,), 0.25))


@pytest.mark.parametrize("average", AVERAGES)
def test_extreme_members_have_finite_weights(average: Any) -> None:
    labels = random_labels(50, 5)
    certain = 2e4 * F.one_hot(labels, 5).double() - 1e4
    for logits in (torch.stack([certain, -certain]), torch.stack([table(1, 50, 5, scale=1e4)[0], certain])):
        weights = fit_weights(logits, labels, average=average)
        assert torch.isfinite(weights).all()
        assert weights.sum().item() == pytest.approx(1, abs=1e-6)
        assert nll(combine(logits, weights, average=average), labels) < 1e-3


@pytest.mark.parametrize("average", AVERAGES)
def test_fitting_touches_neither_the_tables_nor_the_random_numbers(average: Any) -> None:
    logits, labels = table(samples=40).requires_grad_(), random_labels(40, 4)
    before, state = logits.detach().clone(), torch.get_rng_state()
    first = fit_weights(logits, labels, average=average)
    assert torch.equal(logits.detach(), before)
    assert logits.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.requires_grad
    with torch.no_grad():  # as a notebook may call it
        assert torch.equal(fit_weights(logits, labels, average=average), first)
    assert_close(fit_weights(logits.detach().half(), labels, average=average), first, rtol=0.02, atol=0.002)


@pytest.mark.parametrize("average", AVERAGES)
def test_fitting_is_done_in_double_precision_whatever_the_table_is_in(average: Any) -> None:
    logits, labels = table(samples=40).float(), random_labels(40, 4)
    assert torch.equal(
        fit_weights(logits, labels, average=average), fit_weights(logits.double(), labels, average=average)
    )


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels must be 7 .*\(6,\); take both from the same samples"):
        fit_weights(table(), random_labels(6, 4))


# Diversity.


def one_hot(*members: list[int], classes: int = 4) -> Tensor:
    """Logits of members that predict these classes."""
    return torch.stack([F.one_hot(torch.tensor(member), classes).double() for member in members])


PREDICTED = one_hot([0, 1, 2, 3], [0, 1, 3, 2], [1, 1, 2, 0])
TRUTH = torch.tensor([0, 1, 2, 0])


def test_disagreement_by_hand() -> None:
    expected = torch.tensor([[0, 2, 2], [2, 0, 3], [2, 3, 0]], dtype=torch.float64) / 4
    assert_close(disagreement(PREDICTED), expected)


def test_error_overlap_by_hand() -> None:
    # Member 0 is wrong on sample 3, member 1 on samples 2 and 3, member 2 on sample 0.
    expected = torch.tensor([[1, 1 / 2, 0], [1 / 2, 1, 0], [0, 0, 1]], dtype=torch.float64)
    assert_close(error_overlap(PREDICTED, TRUTH), expected)


def test_members_without_an_error_share_none() -> None:
    right = one_hot([0, 1, 2, 0], [0, 1, 2, 0], [0, 1, 2, 1])
    assert error_overlap(right, TRUTH).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_diversity_is_symmetric_and_bounded() -> None:
    logits, labels = table(5, 40), random_labels(40, 4)
    differ, overlap = disagreement(logits), error_overlap(logits, labels)
    for matrix in (differ, overlap):
        assert matrix.shape == (5, 5)
        assert torch.equal(matrix, matrix.T)
        assert (matrix >= 0).all()
        assert (matrix <= 1).all()
    assert (differ.diagonal() == 0).all()
    assert (overlap.diagonal() == 1).all()
    assert differ[0, 3].item() == pytest.approx(1 - agreement(logits[0], logits[3]))


# Real members: four small networks of four kinds, trained on the digits.


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch.images), batch.labels)


@pytest.fixture(scope="module")
def members(digits: Data) -> list[nn.Module]:
    trained = []
    for seed, build in enumerate((lambda: mlp(20, dropout=0.2), StudentNet, SeparableNet, MixerNet)):
        with seeded(seed):
            network = build()
        few = digits.train.sample(400, seed=seed)
        fit(network, cross_entropy, few, epochs=3, seed=seed, batch_size=32, progress=False)
        network.zero_grad()
        trained.append(freeze(network))
    return trained


@pytest.fixture(scope="module")
def real(members: list[nn.Module], digits: Data) -> Tensor:
    return member_logits(members, digits.validation)


def test_member_logits_are_what_each_member_predicts(members: list[nn.Module], real: Tensor, digits: Data) -> None:
    assert real.shape == (4, len(digits.validation), 10)
    assert real.dtype == torch.float32
    for row, member in zip(real, members, strict=True):
        assert torch.equal(row, predict(member, digits.validation))
    assert disagreement(real).max() > 0.05  # they are members of an ensemble, not copies of one network


def test_members_in_training_mode_are_run_in_evaluation_mode(tiny_split: Callable[..., Split]) -> None:
    member = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(784, 3))
    first, second = (member_logits([member], tiny_split()) for _ in range(2))
    assert torch.equal(first, second)
    assert member.training


@pytest.mark.parametrize("uniform", [True, False], ids=["uniform", "weighted"])
def test_jensen_and_the_geometric_mean_hold_on_real_members(real: Tensor, digits: Data, uniform: bool) -> None:
    labels = digits.validation.labels
    weights = torch.full((4,), 0.25, dtype=torch.float64) if uniform else random_weights(4)
    assert jensen(real.double(), labels, weights) > 1e-3
    geometric_mean_holds(real.double(), labels, weights)
    assert log_normaliser(real.double(), weights).mean() < -1e-3


@pytest.mark.parametrize("average", AVERAGES)
def test_weights_of_real_members_are_never_worse_than_equal_ones(real: Tensor, digits: Data, average: Any) -> None:
    labels = digits.validation.labels
    weights = fit_weights(real, labels, average=average)
    assert nll(combine(real, weights, average=average), labels) < nll(combine(real, average=average), labels)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.1, 0.2, 0.3, 0.4])], ids=["uniform", "weighted"])
@pytest.mark.parametrize("average", AVERAGES)
def test_the_network_equals_the_table(
    members: list[nn.Module], real: Tensor, digits: Data, average: Any, weights: Tensor | None
) -> None:
    found = predict(Ensemble(members, weights, average=average), digits.validation)
    assert_close(found, combine(real, weights, average=average), rtol=1e-4, atol=1e-4)
    assert_close(found[:9], predict(Ensemble(members, weights, average=average), digits.validation.subset(range(9))))


# The ensemble as one network.

IMAGES = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_a_new_ensemble_is_in_evaluation_mode_and_stays_there(members: list[nn.Module]) -> None:
    ensemble = Ensemble(members)
    for _ in range(2):
        assert not any(module.training for module in ensemble.modules())
        assert torch.equal(ensemble(IMAGES), ensemble(IMAGES))  # no dropout, no batch statistics
        assert ensemble.train() is ensemble
    nn.ModuleDict({"teacher": ensemble}).train()
    assert not any(module.training for module in ensemble.modules())


def test_an_ensemble_may_be_a_member(members: list[nn.Module]) -> None:
    pairs = Ensemble([Ensemble(members[:2]), Ensemble(members[2:])])
    assert_close(pairs(IMAGES), Ensemble(members)(IMAGES))


def test_members_in_training_mode_are_refused_by_number() -> None:
    whole, part = nn.Sequential(nn.Flatten(), nn.Dropout()), nn.Sequential(nn.Flatten(), nn.Dropout()).eval()
    part[1].train()
    with pytest.raises(ValueError, match=r"members \[1, 2\] .*freeze"):
        Ensemble([nn.Flatten().eval(), whole, part])
    Ensemble([nn.Flatten().eval(), freeze(whole), freeze(part)])


def test_an_empty_ensemble_is_refused(tiny_split: Callable[..., Split]) -> None:
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble([])
    with pytest.raises(ValueError, match="at least one member"):
        member_logits([], tiny_split())


def test_members_with_other_classes_are_refused(tiny_split: Callable[..., Split]) -> None:
    odd = [freeze(mlp(4, classes=classes)) for classes in (10, 10, 3)]
    with pytest.raises(ValueError, match=r"members .*\[10, 10, 3\]"):
        Ensemble(odd)(IMAGES)
    with pytest.raises(ValueError, match=r"members .*\[10, 10, 3\]"):
        member_logits(odd, tiny_split())


class Answers(nn.Module):
    """Wraps a network, and answers as libraries do: in a tuple, by name, in an object, or with something odd."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.wrap = mlp(4, classes=3), wrap

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.network(images))


@pytest.mark.parametrize(
    "wrap",
    [lambda z: (z, None), lambda z: {"loss": z.sum(), "logits": z}, lambda z: SimpleNamespace(logits=z, states=None)],
    ids=["tuple", "dictionary", "object"],
)
def test_the_logits_are_found_in_what_members_return(wrap: Callable, tiny_split: Callable[..., Split]) -> None:
    members = [freeze(Answers(wrap)) for _ in range(2)]
    plain = [member.network for member in members]
    assert torch.equal(Ensemble(members)(IMAGES), Ensemble(plain)(IMAGES))
    assert torch.equal(member_logits(members, tiny_split()), member_logits(plain, tiny_split()))


@pytest.mark.parametrize(
    ("wrap", "error", "words"),
    [
        (lambda z: None, TypeError, "returned a NoneType, and no tensor of logits"),
        (lambda z: {"a": z, "b": z}, TypeError, r"dict of \['a', 'b'\]"),
        (lambda z: z[:, 0], ValueError, r"logits \(N, C\) of two classes or more, but return \[\(5, 3\), \(5,\)\]"),
        (lambda z: z[:, :1], ValueError, r"two classes or more, but return \[\(5, 3\), \(5, 1\)\]"),
        (lambda z: z[1:], ValueError, r"same samples, but return \[\(5, 3\), \(4, 3\)\]"),
        (lambda z: torch.cat([z, z], 1), ValueError, r"same classes, but return \[3, 6\]"),
    ],
    ids=["nothing", "no logits", "one dimension", "one class", "fewer samples", "other classes"],
)
def test_members_that_do_not_answer_with_logits_are_refused(wrap: Callable, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        Ensemble([freeze(mlp(4, classes=3)), freeze(Answers(wrap))])(IMAGES)


@pytest.mark.parametrize("make", [Ensemble, lambda members: member_logits(members, None)], ids=["Ensemble", "table"])
def test_what_is_no_list_of_networks_is_refused(make: Callable) -> None:
    """The layers of one Sequential are not members, nor are the names of a dictionary."""
    network = freeze(mlp(4))
    for members, words in [
        (network, "not Sequential; put one member in brackets"),
        (None, "not NoneType; put"),
        (3, "not int; put"),
        ([network, mlp], "member 1 must be a network.* not function"),
        ([StudentNet], "member 0 must be a network.* not the class StudentNet; call it"),
        ([network.state_dict()], "member 0 must be a network.* not OrderedDict"),
        ({"a": network}, "member 0 must be a network.* not str"),
    ]:
        with pytest.raises(TypeError, match=words):
            make(members)


def test_members_may_come_from_a_generator_or_a_module_list() -> None:
    networks = [freeze(mlp(4)) for _ in range(2)]
    expected = Ensemble(networks)(IMAGES)
    for members in (iter(networks), nn.ModuleList(networks), tuple(networks)):
        assert torch.equal(Ensemble(members)(IMAGES), expected)


def test_members_on_several_devices_are_refused() -> None:
    near, far = freeze(mlp(4)), freeze(mlp(4).to("meta"))
    with pytest.raises(ValueError, match=r"\['cpu', 'meta'\]; bring all to one device"):
        Ensemble([near, far])
    buffers = nn.BatchNorm1d(3, affine=False).to("meta").eval()
    with pytest.raises(ValueError, match="bring all to one device"):
        Ensemble([near, buffers])


def parameters(*modules: nn.Module) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters()]


@pytest.mark.parametrize("average", AVERAGES)
def test_no_gradient_reaches_frozen_members(members: list[nn.Module], average: Any) -> None:
    ensemble, images = Ensemble(members, average=average), IMAGES.clone().requires_grad_()
    ensemble(images).square().sum().backward()
    assert images.grad.abs().max() > 0  # it passes through, to what comes before
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in parameters(ensemble))
    with pytest.raises(ValueError, match="no parameter"):
        fit(ensemble, cross_entropy, Split(IMAGES, torch.arange(5), torch.arange(5), "tiny"), epochs=1)


@pytest.mark.parametrize("average", AVERAGES)
def test_only_the_weights_receive_gradient(members: list[nn.Module], average: Any) -> None:
    before = [parameter.clone() for parameter in parameters(*members)]
    labels = torch.tensor([3, 1, 4, 1, 5])
    a = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([a, *parameters(*members)], lr=1.0)
    losses = []
    for step in range(4):
        logits = combine(torch.stack([member(IMAGES) for member in members]), a.softmax(0), average=average)
        if step == 0:
            assert_close(logits, Ensemble(members, average=average)(IMAGES))  # a = 0 is the simple mean
        losses.append(F.cross_entropy(logits, labels))
        optimizer.zero_grad()
        losses[-1].backward()
        assert a.grad.abs().max() > 0
        assert all(parameter.grad is None for parameter in parameters(*members))
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(map(torch.equal, before, parameters(*members)))


def test_weights_are_saved_but_never_trained(members: list[nn.Module]) -> None:
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    ensemble = Ensemble(members, weights)
    assert torch.equal(ensemble.state_dict()["weights"], weights)
    assert "weights" not in dict(ensemble.named_parameters())
    other = Ensemble(copy.deepcopy(members))
    assert not torch.allclose(other(IMAGES), ensemble(IMAGES))
    other.load_state_dict(ensemble.state_dict())
    assert torch.equal(other(IMAGES), ensemble(IMAGES))


def test_weights_are_a_copy_without_history(members: list[nn.Module]) -> None:
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    ensemble = Ensemble(members, weights)
    weights.zero_()
    assert_close(ensemble.weights, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    learned = Ensemble(members, torch.zeros(4, requires_grad=True).softmax(0))
    assert not learned.weights.requires_grad
    assert torch.equal(copy.deepcopy(learned)(IMAGES), learned(IMAGES))


def test_an_ensemble_in_double_precision_returns_double_precision(members: list[nn.Module]) -> None:
    double = copy.deepcopy(Ensemble(members)).double()
    assert double(IMAGES.double()).dtype == torch.float64
    assert_close(double(IMAGES.double()).float(), Ensemble(members)(IMAGES), rtol=1e-4, atol=1e-4)


def test_the_latency_of_an_ensemble_is_that_of_all_its_members(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Slow(nn.Module):
        """Returns ten pixels, and advances the clock by four milliseconds."""

        def forward(self, images: Tensor) -> Tensor:
            now[0] += 0.004
            return images.flatten(1)[:, :10]

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    measured = latency(Ensemble([Slow().eval() for _ in range(3)]), batch_size=2, repeats=5, warm_up=1)
    assert measured.median_ms == pytest.approx(12)
    assert (measured.batch_size, measured.threads, measured.repeats) == (2, 1, 5)


def test_measures_of_diversity_refuse_what_is_not_a_table_of_members() -> None:
    with pytest.raises(ValueError, match=r"member logits .*not \(3, 4\)"):
        disagreement(torch.rand(3, 4))
    with pytest.raises(ValueError, match=r"labels must be 3 .*\(1,\); take both from the same samples"):
        error_overlap(torch.rand(2, 3, 4), torch.zeros(1, dtype=torch.long))
