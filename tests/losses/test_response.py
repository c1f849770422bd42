"""The response losses against SciPy, and against the identities that the course teaches.

A property is a function that takes an implementation and asserts something of it. The properties hold for the losses of
the package, and every plausible wrong implementation at the end of the file fails at least one of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from decimal import Decimal, getcontext
from functools import partial

import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
import torch
from cases import ALPHAS, CASE, CLASSES, TEMPERATURES
from contract import equals_its_oracle, of
from oracles import Loss, gradient, name
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from kd_course.losses import (
    dist_loss,
    dkd_loss,
    kd_loss,
    logit_mse_loss,
    probability_mse_loss,
    regression_kd_loss,
    soft_target_loss,
    standardize_logits,
)

normal = partial(oracles.normal, scale=3.0)


def example(batch: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits, teacher logits and labels of a small batch."""
    labels = torch.randint(0, CLASSES, (batch,), generator=torch.Generator().manual_seed(3))
    return normal(batch, CLASSES, seed=1), normal(batch, CLASSES, seed=2), labels


def centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


# Properties of the soft-target loss: loss(student, teacher, *, temperature).


def soft_equals_scipy(loss: Loss) -> None:
    student, teacher, _ = example()
    for temperature in TEMPERATURES:
        s, t = (scipy.special.softmax(logits.numpy() / temperature, axis=1) for logits in (student, teacher))
        expected = temperature**2 * scipy.special.rel_entr(t, s).sum(axis=1).mean()
        assert loss(student, teacher, temperature=temperature).item() == pytest.approx(expected, rel=1e-10)


def gradient_is_temperature_times_the_probability_gap(loss: Loss) -> None:
    student, teacher, _ = example()
    for temperature in TEMPERATURES:
        gap = torch.softmax(student / temperature, 1) - torch.softmax(teacher / temperature, 1)
        assert_close(
            gradient(loss, student, teacher, temperature=temperature),
            temperature * gap / len(student),
            rtol=1e-10,
            atol=1e-13,
        )


def falls_as_one_over(temperatures: tuple[float, ...], errors: list[float]) -> None:
    assert 0 < errors[0] < 0.1
    for i in range(1, len(errors)):
        assert errors[i - 1] / errors[i] == pytest.approx(temperatures[i] / temperatures[i - 1], rel=0.15)


def gradient_tends_to_the_logit_gap(loss: Loss) -> None:
    student, teacher, _ = example()
    limit = (centred(student) - centred(teacher)) / (CLASSES * len(student))
    temperatures = (1e2, 1e3, 1e4)
    found = [gradient(loss, student, teacher, temperature=temperature) for temperature in temperatures]
    falls_as_one_over(temperatures, [float((g - limit).norm() / limit.norm()) for g in found])


def value_tends_to_half_the_centred_logit_mse(loss: Loss) -> None:
    student, teacher, _ = example()
    limit = 0.5 * logit_mse_loss(centred(student), centred(teacher)).item()
    temperatures = (1e2, 1e3, 1e4)
    found = [loss(student, teacher, temperature=temperature).item() for temperature in temperatures]
    falls_as_one_over(temperatures, [abs(value - limit) / limit for value in found])


def gradient_is_that_of_soft_cross_entropy(loss: Loss) -> None:
    student, teacher, _ = example()
    for temperature in TEMPERATURES:

        def cross_entropy(logits: Tensor, temperature: float = temperature) -> Tensor:
            return temperature**2 * F.cross_entropy(logits / temperature, torch.softmax(teacher / temperature, 1))

        found = gradient(loss, student, teacher, temperature=temperature)
        assert_close(found, gradient(cross_entropy, student), rtol=1e-10, atol=1e-13)


def zero_when_logits_differ_by_a_constant_per_row(loss: Loss) -> None:
    _, teacher, _ = example()
    student = teacher + torch.linspace(-50, 50, len(teacher), dtype=torch.float64)[:, None]
    for temperature in TEMPERATURES:
        assert abs(loss(student, teacher, temperature=temperature).item()) < 1e-11
        assert gradient(loss, student, teacher, temperature=temperature).abs().max() < 1e-11


def finite_and_right_at_extreme_logits(loss: Loss) -> None:
    teacher = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype=torch.float64)
    student = -teacher
    for temperature in TEMPERATURES:
        value = loss(student, teacher, temperature=temperature).item()
        assert value == pytest.approx(oracles.soft_target(student, teacher, temperature=temperature), rel=1e-9)
        for dtype in (torch.float32, torch.float64):
            found = gradient(loss, student.to(dtype), teacher.to(dtype), temperature=temperature)
            assert torch.isfinite(found).all()


SOFT_PROPERTIES = [
    soft_equals_scipy,
    gradient_is_temperature_times_the_probability_gap,
    gradient_tends_to_the_logit_gap,
    value_tends_to_half_the_centred_logit_mse,
    gradient_is_that_of_soft_cross_entropy,
    zero_when_logits_differ_by_a_constant_per_row,
    finite_and_right_at_extreme_logits,
]


# Properties of the blend: loss(student, teacher, labels, *, temperature, alpha).


def alpha_0_is_cross_entropy_at_any_temperature(loss: Loss) -> None:
    student, teacher, labels = example()
    for temperature in TEMPERATURES:
        value = loss(student, teacher, labels, temperature=temperature, alpha=0)
        assert torch.equal(value, F.cross_entropy(student, labels))


def alpha_0_does_not_look_at_the_teacher(loss: Loss) -> None:
    student, teacher, labels = example()
    for useless in (torch.full_like(teacher, torch.nan), None):
        value = loss(student, useless, labels, temperature=4.0, alpha=0)
        assert torch.equal(value, F.cross_entropy(student, labels))
    found = gradient(loss, student, torch.full_like(teacher, torch.nan), labels, temperature=4.0, alpha=0)
    assert_close(found, gradient(F.cross_entropy, student, labels))


def alpha_1_needs_no_labels(loss: Loss) -> None:
    student, teacher, _ = example()
    value = loss(student, teacher, None, temperature=4.0, alpha=1)
    assert value.item() == pytest.approx(oracles.soft_target(student, teacher, temperature=4.0), rel=1e-12)


def temperature_leaves_the_hard_term_alone(loss: Loss) -> None:
    _, teacher, labels = example()
    for temperature in TEMPERATURES:
        value = loss(teacher + 7, teacher, labels, temperature=temperature, alpha=0.3)
        assert_close(value, 0.7 * F.cross_entropy(teacher, labels))


def at_temperature_1_equals_cross_entropy_with_mixed_targets(loss: Loss) -> None:
    student, teacher, labels = example()
    targets = torch.softmax(teacher, 1)
    entropy = -(targets * targets.log()).sum(1).mean()
    for alpha in ALPHAS:
        mixed = alpha * targets + (1 - alpha) * F.one_hot(labels, CLASSES)
        expected = F.cross_entropy(student, mixed) - alpha * entropy
        assert_close(loss(student, teacher, labels, temperature=1.0, alpha=alpha), expected)


def with_a_uniform_teacher_is_label_smoothing(loss: Loss) -> None:
    student, _, labels = example()
    for alpha in ALPHAS:
        smoothed = F.cross_entropy(student, labels, label_smoothing=alpha)
        value = loss(student, torch.zeros_like(student), labels, temperature=1.0, alpha=alpha)
        assert_close(value, smoothed - alpha * math.log(CLASSES))


def gradients_of_both_terms_keep_their_balance_when_temperature_moves(loss: Loss) -> None:
    student, teacher, labels = example()
    soft_sizes = [
        float(gradient(loss, student, teacher, labels, temperature=temperature, alpha=1).norm())
        for temperature in (4.0, 20.0, 100.0)
    ]
    assert max(soft_sizes) < 2 * min(soft_sizes)


BLEND_PROPERTIES = [
    alpha_0_is_cross_entropy_at_any_temperature,
    alpha_0_does_not_look_at_the_teacher,
    alpha_1_needs_no_labels,
    temperature_leaves_the_hard_term_alone,
    at_temperature_1_equals_cross_entropy_with_mixed_targets,
    with_a_uniform_teacher_is_label_smoothing,
    gradients_of_both_terms_keep_their_balance_when_temperature_moves,
]


@pytest.mark.parametrize("holds", SOFT_PROPERTIES, ids=name)
def test_soft_target_loss(holds: Callable[[Loss], None]) -> None:
    holds(soft_target_loss)


@pytest.mark.parametrize("holds", SOFT_PROPERTIES, ids=name)
def test_kd_loss_at_alpha_1_is_the_soft_target_loss(holds: Callable[[Loss], None]) -> None:
    def soft_only(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
        return kd_loss(student, teacher, None, temperature=temperature, alpha=1)

    holds(soft_only)


@pytest.mark.parametrize("holds", BLEND_PROPERTIES, ids=name)
def test_kd_loss(holds: Callable[[Loss], None]) -> None:
    holds(kd_loss)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type_are_welcome(dtype: torch.dtype) -> None:
    student, teacher, labels = example()
    value = kd_loss(student, teacher, labels.to(dtype), temperature=2, alpha=0.5)
    assert value == kd_loss(student, teacher, labels, temperature=2, alpha=0.5)


# Exactness where student and teacher hardly differ, and where classes are masked out.


def near(rows: int, classes: int, gap: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A teacher with logits 8·N(0, 1), and a student that is ``gap`` away from it."""
    teacher = oracles.normal(rows, classes, seed=1, scale=8.0).to(dtype)
    return teacher + gap * oracles.normal(rows, classes, seed=2).to(dtype), teacher


@pytest.mark.parametrize("temperature", [1.0, 20.0, 1e3, 1e6, 1e12])
@pytest.mark.parametrize("gap", [1e-3, 0.02, 0.5])
def test_the_value_is_exact_in_float32_however_near_the_teacher_is(gap: float, temperature: float) -> None:
    student, teacher = near(3, 12, gap)
    expected = mean_of_exact_divergences(student, teacher, temperature)
    for value in (
        soft_target_loss(student, teacher, temperature=temperature),
        soft_target_loss(student, teacher, temperature=torch.full((3,), temperature)),
        kd_loss(student, teacher, None, temperature=temperature, alpha=1),
    ):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        pytest.param([0.0, -2.2 + 0.0044], [0.0, -2.2], id="the third cumulant counts"),
        pytest.param([0.0, -2.2 + 0.05], [0.0, -2.2], id="and the fourth"),
        pytest.param([0.0, -12.0, -16.0], [0.0, -14.0, -14.0], id="all is in the tail"),
        pytest.param([0.0, -14.0, -14.0], [0.0, -12.0, -16.0], id="all is in the tail, reversed"),
        pytest.param([0.0, -90.0, -14.0], [0.0, -16.0, -14.0], id="a class that the student excludes"),
        pytest.param([0.0, -16.0, -14.0], [0.0, -120.0, -14.0], id="a class that the teacher excludes"),
    ],
)
def test_next_to_nothing_has_four_digits_too(student: list[float], teacher: list[float]) -> None:
    pair = torch.tensor([student]), torch.tensor([teacher])
    expected = mean_of_exact_divergences(*pair, 1.0)
    assert 0 < expected < 3e-4
    assert soft_target_loss(*pair, temperature=1).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shift", [5.0, -40.0, 4096.0])
def test_a_constant_on_a_row_costs_exactly_nothing_in_float32(shift: float) -> None:
    teacher = torch.tensor([[2.0, 0.0, -1.0], [0.5, 7.0, 3.0]])
    for temperature in (1, 4, 7.3, 1e3):
        assert soft_target_loss(teacher + shift, teacher, temperature=temperature) == 0


def mean_of_exact_divergences(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T²·KL with 45 digits."""
    getcontext().prec = 45
    total, T = Decimal(0), Decimal(temperature)
    for rows in zip(student.tolist(), teacher.tolist(), strict=True):
        powers = [[(Decimal(z) / T).exp() for z in row] for row in rows]
        s, t = ([power / sum(row) for power in row] for row in powers)
        total += sum(b * (b / a).ln() for a, b in zip(s, t, strict=True))
    return float(T * T * total / len(student))


def test_fifty_thousand_classes_are_no_reason_for_rounding() -> None:
    student, teacher = near(4, 50_000, 0.01)
    for temperature in (1.0, 20.0, 1e3):
        exact = soft_target_loss(student.double(), teacher.double(), temperature=temperature).item()
        assert soft_target_loss(student, teacher, temperature=temperature).item() == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_it_hardly_differs_the_gradient_is_still_that_of_the_plain_formula_bit_by_bit(dtype: torch.dtype) -> None:
    for gap, temperature in itertools.product((0, 1e-6, 1e-3, 0.1, 3), TEMPERATURES):
        student, teacher = near(12, 10, gap, dtype)
        found = gradient(soft_target_loss, student, teacher, temperature=temperature)
        assert torch.equal(found, gradient(plain_soft_loss, student, teacher, temperature=temperature))


def plain_soft_loss(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return temperature**2 * divergence(F.log_softmax(s / temperature, 1), F.log_softmax(t / temperature, 1))


@pytest.mark.parametrize("gap", [0, 1e-4, 0.3, 5.0])
def test_masked_classes_are_as_if_they_were_not_there(gap: float) -> None:
    student, teacher = near(6, 7, gap, torch.float64)
    labels, allowed = torch.tensor([0, 2, 5, 0, 2, 5]), torch.tensor([0, 2, 4, 5])
    masked = [torch.full_like(each, -math.inf).index_copy(1, allowed, each[:, allowed]) for each in (student, teacher)]
    fewer, few = [each[:, allowed] for each in (student, teacher)], torch.searchsorted(allowed, labels)
    for loss in (
        partial(soft_target_loss, temperature=4.0),
        partial(soft_target_loss, temperature=torch.linspace(1, 9, 6)),
        lambda s, t: kd_loss(s, t, labels if s.shape[1] == 7 else few, temperature=4.0, alpha=0.5),
        lambda s, t: dkd_loss(s, t, labels if s.shape[1] == 7 else few, alpha=1, beta=8, temperature=2.0),
        lambda s, t: logit_mse_loss(s, t) * s.shape[1],
        lambda s, t: probability_mse_loss(s, t, temperature=2.0) * s.shape[1],
    ):
        assert_close(loss(*masked), loss(*fewer), rtol=1e-9, atol=1e-14)
        assert_close(gradient(loss, *masked)[:, allowed], gradient(loss, *fewer), rtol=1e-7, atol=1e-12)


def test_a_class_that_only_the_teacher_masks_pulls_the_student_off_it() -> None:
    student, teacher = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[2.0, 1.0, -math.inf]])
    assert soft_target_loss(student, teacher, temperature=1).item() == pytest.approx(0.5565, abs=1e-4)
    expected = student.softmax(1) - teacher.softmax(1)
    assert_close(gradient(soft_target_loss, student, teacher, temperature=1), expected)
    own = teacher.clone().requires_grad_()
    soft_target_loss(student.requires_grad_(), own, temperature=1).backward()
    assert own.grad.isfinite().all() and own.grad[0, 2] == 0


def test_what_the_student_gives_to_a_masked_class_is_missing_elsewhere() -> None:
    student, teacher = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.0, 2.0, -math.inf]])
    expected = -math.log(1 - student.softmax(1)[0, 2].item())
    assert soft_target_loss(student, teacher, temperature=1).item() == pytest.approx(expected, rel=1e-6)
    assert logit_mse_loss(student, teacher) == logit_mse_loss(teacher, student) == math.inf
    one_more = student.index_fill(1, torch.tensor([2]), -math.inf), teacher.index_fill(1, torch.tensor([0]), -math.inf)
    assert logit_mse_loss(*one_more) == logit_mse_loss(*reversed(one_more)) == math.inf


def test_a_class_that_only_the_student_masks_costs_infinitely_much_and_pulls_all_the_same() -> None:
    student, teacher = torch.tensor([[2.0, 1.0, -math.inf]]), torch.tensor([[1.0, 2.0, 0.0]])
    for temperature in (1, torch.ones(1)):
        assert soft_target_loss(student, teacher, temperature=temperature) == math.inf
        found = gradient(soft_target_loss, student, teacher, temperature=temperature)
        assert_close(found, student.softmax(1) - teacher.softmax(1))


@pytest.mark.parametrize("place", [0, 1])
def test_not_a_number_is_not_hidden(place: int) -> None:
    pair = list(near(4, 5, 1e-4))
    pair[place][2, 1] = math.nan
    for loss in (
        partial(soft_target_loss, temperature=4.0),
        logit_mse_loss,
        partial(probability_mse_loss, temperature=4.0),
    ):
        assert loss(*pair).isnan()
    assert standardize_logits(pair[place])[2].isnan().all()


@pytest.mark.parametrize("temperature", [1.0, 30.0, 1e3, 1e5])
def test_dkd_is_exact_in_float32_where_little_differs(temperature: float) -> None:
    student, teacher = near(16, 10, 0.02)
    labels = torch.arange(16) % 10
    for weights in ({"alpha": 1, "beta": 0}, {"alpha": 0, "beta": 1}):
        value = dkd_loss(student, teacher, labels, temperature=temperature, **weights).item()
        exact = dkd_loss(student.double(), teacher.double(), labels, temperature=temperature, **weights).item()
        assert value == pytest.approx(exact, rel=1e-3)


def test_the_halves_of_dkd_are_divergences_of_their_own_to_the_last_digits() -> None:
    student, teacher = torch.tensor([[0.0, -2.2 + 0.0044, 1.0]]), torch.tensor([[0.0, -2.2, 1.0]])
    found = dkd_loss(student, teacher, torch.tensor([2]), alpha=0, beta=1, temperature=1)
    assert found.item() == pytest.approx(mean_of_exact_divergences(student[:, :2], teacher[:, :2], 1.0), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1e6])
def test_probability_mse_is_differentiable_in_both_arguments_wherever_it_is_small(temperature: float) -> None:
    student, teacher = (each.requires_grad_() for each in near(4, 5, 0.02))
    probability_mse_loss(student, teacher, temperature=temperature).backward()
    exact = [each.detach().double().requires_grad_() for each in (student, teacher)]
    probability_mse_loss(*exact, temperature=temperature).backward()
    for found, expected in zip((student, teacher), exact, strict=True):
        tolerance = 1e-2 * float(expected.grad.abs().max())
        assert tolerance > 0
        assert_close(found.grad.double(), expected.grad, rtol=0, atol=tolerance)


@pytest.mark.parametrize("gap", [0.0, 1e-3, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 50.0, torch.linspace(0.5, 40, 5, dtype=torch.float64)], ids=str)
def test_second_derivatives_are_right_on_either_side_of_the_careful_path(gap: float, temperature: float) -> None:
    student, teacher = (each.requires_grad_() for each in near(5, 4, gap, torch.float64))
    loss = partial(soft_target_loss, temperature=temperature)
    assert torch.autograd.gradcheck(loss, (student, teacher))
    assert torch.autograd.gradgradcheck(loss, (student, teacher))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_gives_what_a_loop_gives() -> None:
    student, teacher = (torch.stack(each) for each in zip(near(5, 4, 2.0), near(5, 4, 1e-3), strict=True))
    for loss in (partial(soft_target_loss, temperature=4.0), logit_mse_loss):
        assert_close(
            torch.func.vmap(loss)(student, teacher), torch.stack([loss(student[i], teacher[i]) for i in (0, 1)])
        )
        found = torch.func.vmap(torch.func.grad(loss))(student, teacher)
        assert_close(found, torch.stack([gradient(loss, student[i], teacher[i]) for i in (0, 1)]))


# One temperature, and one alpha, for each sample.


def test_each_sample_may_have_its_own_temperature_and_alpha() -> None:
    student, teacher, labels = example()
    T, alpha = torch.tensor([0.5, 1.0, 4.0, 20.0, 1e3, 2.0]), torch.tensor([0.0, 1.0, 0.9, 0.5, 0.1, 1.0])
    rows = [(student[[i]], teacher[[i]]) for i in range(6)]
    alone = torch.stack([soft_target_loss(*rows[i], temperature=T[i].item()) for i in range(6)])
    assert_close(soft_target_loss(student, teacher, temperature=T), alone.mean())
    alone = [probability_mse_loss(*rows[i], temperature=T[i].item()) for i in range(6)]
    assert_close(probability_mse_loss(student, teacher, temperature=T), torch.stack(alone).mean())
    for t, a in ((T, alpha.double()), (T, 0.5), (T, 1), (T, 0), (4.0, alpha.double())):
        ts, alphas = (each.tolist() if isinstance(each, Tensor) else [each] * 6 for each in (t, a))
        alone = [kd_loss(*rows[i], labels[[i]], temperature=ts[i], alpha=alphas[i]) for i in range(6)]
        assert_close(kd_loss(student, teacher, labels, temperature=t, alpha=a), torch.stack(alone).mean())


def test_temperatures_and_alphas_of_samples_can_be_learned() -> None:
    student, teacher, labels = example()
    T, alpha = torch.linspace(1, 9, 6, dtype=torch.float64), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)

    def loss(s: Tensor, temperature: Tensor, alpha: Tensor) -> Tensor:
        return kd_loss(s, teacher, labels, temperature=temperature, alpha=alpha)

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(), T.requires_grad_(), alpha.requires_grad_()))


def test_alphas_of_samples_need_labels_of_their_number_in_their_range() -> None:
    student, teacher, labels = example()
    options = {"temperature": 4.0}
    with pytest.raises(TypeError, match="labels"):
        kd_loss(student, teacher, None, alpha=torch.ones(6), **options)
    for alpha, says in ((torch.ones(5), r"\(5,\)"), (torch.full((6,), 1.1), r"1\.1"), (torch.ones(6).long(), "int64")):
        with pytest.raises(ValueError, match=f"alpha.*{says}"):
            kd_loss(student, teacher, labels, alpha=alpha, **options)


@pytest.mark.parametrize("number", [np.float32(4), np.float64(4), np.int64(4), torch.tensor(4.0), 4])
def test_any_kind_of_number_is_a_temperature(number: float) -> None:
    student, teacher, labels = example()
    for loss in (soft_target_loss, probability_mse_loss):
        assert loss(student, teacher, temperature=number) == loss(student, teacher, temperature=4.0)
    found = kd_loss(student, teacher, labels, temperature=number, alpha=np.float64(0.25))
    assert found == kd_loss(student, teacher, labels, temperature=4.0, alpha=0.25)


# Who is who.


def test_swapped_arguments_are_noticed_by_name_too_and_a_teacher_can_be_trained_on_purpose() -> None:
    student, teacher, _ = example()
    teacher.requires_grad_()
    with pytest.raises(ValueError, match=r"teacher_logits asks for a gradient, and student_logits does not.*swapped"):
        soft_target_loss(teacher_logits=teacher, student_logits=student, temperature=4)
    with pytest.raises(TypeError, match="multiple values"):
        soft_target_loss(student, teacher.detach(), student_logits=student, temperature=4)
    soft_target_loss(student.requires_grad_(), teacher, temperature=4).backward()
    assert teacher.grad.abs().sum() > 0


# Temperature and the teacher's ranking (identity 14), read off the loss itself.


def test_temperature_never_changes_which_class_the_teacher_puts_first() -> None:
    _, teacher, _ = example(batch=40)
    for temperature in (0.5, 1, 3, 30, 300):
        pull = gradient(soft_target_loss, torch.zeros_like(teacher), teacher, temperature=temperature)
        assert torch.equal(pull.argmin(1), teacher.argmax(1))  # the steepest way down is the teacher's first choice


def test_the_teachers_entropy_never_falls_when_temperature_rises() -> None:
    _, teacher, _ = example(batch=40)
    temperatures = [0.1 * 1.3**i for i in range(30)]
    uniform = torch.zeros(1, CLASSES, dtype=torch.float64)
    for row in teacher:  # KL from a uniform student is log C minus the teacher's entropy
        entropy = [
            math.log(CLASSES) - soft_target_loss(uniform, row[None], temperature=t).item() / t**2 for t in temperatures
        ]
        assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(entropy))
        assert entropy[0] < 1.0 and entropy[-1] > math.log(CLASSES) - 0.001


# How other sources write the same loss (identity 4).


@pytest.mark.parametrize("a", ALPHAS)
def test_an_alpha_on_the_hard_labels_is_one_minus_ours(a: float) -> None:
    student, teacher, labels = example()
    theirs = a * F.cross_entropy(student, labels) + (1 - a) * soft_target_loss(student, teacher, temperature=4)
    assert_close(kd_loss(student, teacher, labels, temperature=4, alpha=1 - a), theirs)


@pytest.mark.parametrize("beta", [0.1, 1.0, 9.0])
def test_cross_entropy_plus_beta_soft_is_alpha_with_loss_and_learning_rate_scaled(beta: float) -> None:
    student, teacher, labels = example()
    alpha = beta / (1 + beta)
    theirs = F.cross_entropy(student, labels) + beta * soft_target_loss(student, teacher, temperature=4)
    assert_close((1 + beta) * kd_loss(student, teacher, labels, temperature=4, alpha=alpha), theirs)

    def trained(loss: Callable[[Tensor], Tensor], rate: float) -> Tensor:
        weight = torch.zeros(7, CLASSES, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=rate)
        for _ in range(5):
            optimizer.zero_grad()
            loss(normal(6, 7, seed=4) @ weight).backward()
            optimizer.step()
        return weight.detach()

    ours = trained(lambda z: kd_loss(z, teacher, labels, temperature=4, alpha=alpha), rate=0.01 * (1 + beta))
    other = trained(
        lambda z: F.cross_entropy(z, labels) + beta * soft_target_loss(z, teacher, temperature=4), rate=0.01
    )
    assert_close(ours, other)
    assert ours.abs().max() > 0.01  # something was learned at all


@pytest.mark.parametrize(
    ("their_reduction", "hidden_factor"),
    [
        pytest.param("batchmean", 4.0**2, id="forgotten T squared"),
        pytest.param("mean", 4.0**2 * CLASSES, id="and mean"),
    ],
)
def test_a_forgotten_factor_is_a_smaller_beta(their_reduction: str, hidden_factor: float) -> None:
    student, teacher, labels = example()
    log_s, log_t = (F.log_softmax(logits / 4, 1) for logits in (student, teacher))
    per_element = F.kl_div(log_s, log_t, reduction="none", log_target=True)
    divergence = per_element.mean() if their_reduction == "mean" else per_element.sum() / len(student)
    theirs = F.cross_entropy(student, labels) + 9 * divergence
    beta = 9 / hidden_factor
    ours = (1 + beta) * kd_loss(student, teacher, labels, temperature=4, alpha=beta / (1 + beta))
    assert_close(ours, theirs)


# Squared errors on logits and on probabilities.


def test_logit_mse_notices_a_constant_that_the_soft_target_loss_does_not() -> None:
    _, teacher, _ = example()
    assert logit_mse_loss(teacher + 3, teacher).item() == pytest.approx(9, rel=1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_probability_mse_equals_scipy(temperature: float) -> None:
    student, teacher, _ = example()
    value = probability_mse_loss(student, teacher, temperature=temperature).item()
    s, t = (scipy.special.softmax(logits.numpy() / temperature, axis=1) for logits in (student, teacher))
    assert value == pytest.approx(np.square(s - t).mean(), rel=1e-10)


def test_probability_mse_is_zero_when_logits_differ_by_a_constant_per_row() -> None:
    _, teacher, _ = example()
    shift = torch.arange(len(teacher), dtype=torch.float64)[:, None]
    assert probability_mse_loss(teacher + shift, teacher, temperature=2).item() < 1e-25


def test_the_gradient_of_probability_mse_fades_as_one_over_temperature_squared() -> None:
    student, teacher, _ = example()
    sizes = [
        float(gradient(probability_mse_loss, student, teacher, temperature=t).norm()) * t**2 for t in (1e2, 1e3, 1e4)
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1) and sizes[1] == pytest.approx(sizes[2], rel=0.01)


# Regression.


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("margin", [None, 0.0, 0.5, 1e6])
@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 3), (4, 2, 2)], ids=str)
def test_regression_equals_the_loops_for_targets_of_any_shape(
    shape: tuple[int, ...], margin: float | None, alpha: float
) -> None:
    student, teacher, targets = (normal(*shape, seed=seed, scale=1.0) for seed in (5, 6, 7))
    value = regression_kd_loss(student, teacher, targets, alpha=alpha, margin=margin).item()
    expected = oracles.regression(student, teacher, targets, alpha=alpha, margin=margin)
    assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_regression_is_least_at_the_weighted_mean_of_target_and_teacher(alpha: float) -> None:
    teacher, targets = normal(9, 1, seed=6), normal(9, 1, seed=7)
    best = (1 - alpha) * targets + alpha * teacher
    assert gradient(regression_kd_loss, best, teacher, targets, alpha=alpha).abs().max() < 1e-14
    least = regression_kd_loss(best, teacher, targets, alpha=alpha).item()
    assert least == pytest.approx(alpha * (1 - alpha) * float((targets - teacher).square().mean()), abs=1e-12)
    for step in (-0.1, 0.1):
        assert regression_kd_loss(best + step, teacher, targets, alpha=alpha).item() == pytest.approx(least + 0.01)


def test_a_regression_student_ahead_of_its_teacher_by_the_margin_is_left_alone() -> None:
    targets, teacher = torch.zeros(2, 1), torch.tensor([[1.0], [1.0]])
    student = torch.tensor([[0.5], [2.0]])  # squared errors 0.25 and 4; the teacher's are 1
    loss = regression_kd_loss(student, teacher, targets, alpha=1, margin=0.5)
    assert loss.item() == pytest.approx(4 / 2)
    found = gradient(regression_kd_loss, student, teacher, targets, alpha=1, margin=0.5)
    assert found[0] == 0 and found[1] == pytest.approx(2.0)


def test_a_student_ahead_by_exactly_the_margin_is_left_alone() -> None:
    student, teacher, targets = torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.zeros(1, 1)
    assert regression_kd_loss(student, teacher, targets, margin=3.0) == 0
    assert regression_kd_loss(student, teacher, targets, margin=3.1) == 1


def test_the_margin_judges_each_sample_by_itself() -> None:
    student, teacher, targets = torch.tensor([1.0, 10.0]), torch.tensor([5.0, 0.0]), torch.zeros(2)
    column = regression_kd_loss(student[:, None], teacher[:, None], targets[:, None], margin=0.0)
    assert regression_kd_loss(student, teacher, targets, margin=0.0).item() == column.item() == 50.0


# Standardised logits.


@pytest.mark.parametrize(("scale", "shift"), [(2.0, 0.0), (0.01, 5.0), (300.0, -40.0)])
def test_standardised_logits_notice_nothing_but_the_sign_of_scale_and_shift(scale: float, shift: float) -> None:
    logits, _, _ = example()
    assert_close(standardize_logits(scale * logits + shift), standardize_logits(logits), rtol=1e-9, atol=1e-11)
    assert_close(standardize_logits(-scale * logits + shift), -standardize_logits(logits), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_constant_row_is_standardised_to_zeros(classes: int, dtype: torch.dtype) -> None:
    constants = torch.linspace(-3, 3, 601, dtype=dtype)[:, None].expand(-1, classes).clone().requires_grad_()
    found = standardize_logits(constants)
    assert torch.equal(found, torch.zeros_like(found))
    found.sum().backward()
    assert torch.isfinite(constants.grad).all()


def test_distilling_standardised_logits_asks_only_for_the_shape() -> None:
    _, teacher, _ = example()
    soft = soft_target_loss(standardize_logits(0.1 * teacher + 4), standardize_logits(teacher), temperature=2)
    assert abs(soft.item()) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_are_standardised_to_finite_numbers(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4, 1e4]], dtype=dtype, requires_grad=True)
    found = standardize_logits(logits)
    assert_close(found[0].double(), torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
    found[:, 0].sum().backward()
    assert torch.isfinite(logits.grad).all()


# Decoupled distillation (DKD).


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_dkd_with_the_weight_that_the_teacher_leaves_is_the_soft_target_loss(temperature: float) -> None:
    student, teacher, labels = example()
    left = 1 - (teacher / temperature).softmax(1).gather(1, labels[:, None]).squeeze(1)
    for i in range(len(student)):  # the weight 1 - t_y differs from sample to sample
        s, t, y = student[[i]], teacher[[i]], labels[[i]]
        found = dkd_loss(s, t, y, alpha=1, beta=left[i].item(), temperature=temperature)
        assert_close(found, soft_target_loss(s, t, temperature=temperature))


def test_the_halves_of_dkd_look_at_different_logits() -> None:
    student, teacher, labels = example()
    moved = student + 7 * F.one_hot(labels, CLASSES)  # more confident in the label, all else in proportion
    shuffled = student.clone()
    for row, y in zip(shuffled, labels, strict=True):
        others = torch.arange(CLASSES)[torch.arange(CLASSES) != y]
        row[others] = row[others.flip(0)]
    for options, same, other in (
        ({"alpha": 0, "beta": 1}, moved, shuffled),
        ({"alpha": 1, "beta": 0}, shuffled, moved),
    ):
        value, unmoved, changed = (
            dkd_loss(logits, teacher, labels, temperature=3, **options) for logits in (student, same, other)
        )
        assert_close(value, unmoved)
        assert abs(value - changed) > 0.1


# DIST.


@pytest.mark.parametrize(("beta", "gamma"), [(1, 1), (2, 0), (0, 3)])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_dist_equals_scipys_pearson(beta: float, gamma: float, temperature: float) -> None:
    student, teacher, _ = example()
    p_s, p_t = ((logits / temperature).softmax(1).numpy() for logits in (student, teacher))
    between = np.mean([1 - scipy.stats.pearsonr(a, b).statistic for a, b in zip(p_s, p_t, strict=True)])
    within = np.mean([1 - scipy.stats.pearsonr(a, b).statistic for a, b in zip(p_s.T, p_t.T, strict=True)])
    found = dist_loss(student, teacher, beta=beta, gamma=gamma, temperature=temperature).item()
    assert found == pytest.approx(temperature**2 * (beta * between + gamma * within), abs=1e-9)


def test_dist_forgives_probabilities_that_are_a_positive_affine_map_of_the_teachers() -> None:
    _, teacher, _ = example()
    paler = (0.5 * teacher.softmax(1) + 0.5 / CLASSES).log()  # half the teacher, half uniform
    assert dist_loss(paler, teacher, beta=1, gamma=1, temperature=1).abs() < 1e-12
    assert soft_target_loss(paler, teacher, temperature=1) > 0.05


def test_dist_lies_between_0_and_2_per_term() -> None:
    student = torch.tensor([[0.0, 5.0], [5.0, 0.0]], dtype=torch.float64)
    assert dist_loss(student, student.flip(1), beta=1, gamma=0, temperature=1).item() == pytest.approx(2)
    assert dist_loss(student, student.flip(1), beta=0, gamma=1, temperature=1).item() == pytest.approx(2)


def test_what_does_not_vary_is_not_correlated() -> None:
    flat, teacher = torch.zeros(3, 4), near(3, 4, 0.0)[1]
    for pair in ((flat, teacher), (teacher, flat), (flat, flat)):
        assert dist_loss(*pair, beta=1, gamma=0, temperature=1) == dist_loss(*pair, beta=0, gamma=1, temperature=1) == 1


def test_dist_stays_finite_without_spread() -> None:
    for flat in (torch.zeros(3, 4), torch.tensor([[1e4, -1e4, 0.0]]).expand(2, 3)):
        logits = flat.clone().requires_grad_()
        value = dist_loss(logits, flat.flip(1), beta=1, gamma=1, temperature=2)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("batch", [3, 7, 128])
def test_dist_barely_moves_a_student_whose_answers_do_not_vary(batch: int) -> None:
    """A mean that is rounded leaves residues of 1e-9, and to scale those to length 1 would blow the gradient up."""
    logits = torch.randn(1, 10, generator=torch.Generator().manual_seed(batch)).repeat(batch, 1).requires_grad_()
    teacher = normal(batch, 10, seed=1).float()
    dist_loss(logits, teacher, beta=0, gamma=1, temperature=1).backward()
    assert logits.grad.abs().max() < 1


# Deliberate breaks: the mistakes that tutorials repeat. Each runs, each returns a number, each fails a property above.


def divergence(log_s: Tensor, log_t: Tensor) -> Tensor:
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)


def no_temperature_squared(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return divergence(F.log_softmax(s / temperature, 1), F.log_softmax(t / temperature, 1))


def temperature_once(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return temperature * divergence(F.log_softmax(s / temperature, 1), F.log_softmax(t / temperature, 1))


def swapped_arguments(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return temperature**2 * divergence(F.log_softmax(t / temperature, 1), F.log_softmax(s / temperature, 1))


def element_mean(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    log_s, t = F.log_softmax(s / temperature, 1), F.softmax(t / temperature, 1)
    return temperature**2 * F.kl_div(log_s, t, reduction="none").mean()  # what KLDivLoss() does unless told otherwise


def batch_sum(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    log_s, t = F.log_softmax(s / temperature, 1), F.softmax(t / temperature, 1)
    return temperature**2 * F.kl_div(log_s, t, reduction="sum")


def log_of_softmax(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    s, t = F.softmax(s / temperature, 1), F.softmax(t / temperature, 1)
    return temperature**2 * (t * (t.log() - s.log())).sum(1).mean()


def log_with_a_small_number_added(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    s, t = F.softmax(s / temperature, 1), F.softmax(t / temperature, 1)
    return temperature**2 * (t * ((t + 1e-8).log() - (s + 1e-8).log())).sum(1).mean()


def probabilities_for_log_probabilities(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    s, t = F.softmax(s / temperature, 1), F.softmax(t / temperature, 1)
    return temperature**2 * F.kl_div(s, t, reduction="batchmean")


def softmax_over_the_batch(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return temperature**2 * divergence(F.log_softmax(s / temperature, 0), F.log_softmax(t / temperature, 0))


def teacher_not_softened(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return temperature**2 * divergence(F.log_softmax(s / temperature, 1), F.log_softmax(t, 1))


def cross_entropy_without_the_entropy(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return temperature**2 * F.cross_entropy(s / temperature, F.softmax(t / temperature, 1))


def mse_of_probabilities(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return F.mse_loss(F.softmax(s / temperature, 1), F.softmax(t / temperature, 1))


WRONG_SOFT_LOSSES = [
    no_temperature_squared,
    temperature_once,
    swapped_arguments,
    element_mean,
    batch_sum,
    log_of_softmax,
    log_with_a_small_number_added,
    probabilities_for_log_probabilities,
    softmax_over_the_batch,
    teacher_not_softened,
    cross_entropy_without_the_entropy,
    mse_of_probabilities,
]


def alpha_on_the_hard_labels(s: Tensor, t: Tensor, y: Tensor, *, temperature: float, alpha: float) -> Tensor:
    return alpha * F.cross_entropy(s, y) + (1 - alpha) * soft_target_loss(s, t, temperature=temperature)


def temperature_on_the_hard_term_too(s: Tensor, t: Tensor, y: Tensor, *, temperature: float, alpha: float) -> Tensor:
    hard = F.cross_entropy(s / temperature, y)
    return (1 - alpha) * hard + alpha * soft_target_loss(s, t, temperature=temperature)


def temperature_squared_on_both_terms(s: Tensor, t: Tensor, y: Tensor, *, temperature: float, alpha: float) -> Tensor:
    hard = temperature**2 * F.cross_entropy(s, y)
    return (1 - alpha) * hard + alpha * soft_target_loss(s, t, temperature=temperature)


def blend_without_temperature_squared(s: Tensor, t: Tensor, y: Tensor, *, temperature: float, alpha: float) -> Tensor:
    hard = 0 if alpha == 1 else (1 - alpha) * F.cross_entropy(s, y)
    return hard + alpha * no_temperature_squared(s, t, temperature=temperature)


def not_normalised(s: Tensor, t: Tensor, y: Tensor, *, temperature: float, alpha: float) -> Tensor:
    return F.cross_entropy(s, y) + alpha * soft_target_loss(s, t, temperature=temperature)


def zero_times_the_teacher(s: Tensor, t: Tensor, y: Tensor, *, temperature: float, alpha: float) -> Tensor:
    hard = 0 if alpha == 1 else (1 - alpha) * F.cross_entropy(s, y)
    return hard + alpha * soft_target_loss(s, t, temperature=temperature)


def labels_always_needed(s: Tensor, t: Tensor, y: Tensor, *, temperature: float, alpha: float) -> Tensor:
    hard = F.cross_entropy(s, y)
    return hard if alpha == 0 else (1 - alpha) * hard + alpha * soft_target_loss(s, t, temperature=temperature)


def teachers_verdict_for_the_label(s: Tensor, t: Tensor, y: Tensor, *, temperature: float, alpha: float) -> Tensor:
    return (1 - alpha) * F.cross_entropy(s, t.argmax(1)) + alpha * soft_target_loss(s, t, temperature=temperature)


WRONG_BLENDS = [
    alpha_on_the_hard_labels,
    temperature_on_the_hard_term_too,
    temperature_squared_on_both_terms,
    blend_without_temperature_squared,
    not_normalised,
    zero_times_the_teacher,
    labels_always_needed,
    teachers_verdict_for_the_label,
]


def failed(properties: list[Callable[[Loss], None]], loss: Loss) -> list[str]:
    """Names of the properties that ``loss`` does not have."""
    names = []
    for holds in properties:
        try:
            holds(loss)
        except Exception:
            names.append(holds.__name__)
    return names


@pytest.mark.parametrize("wrong", WRONG_SOFT_LOSSES, ids=name)
def test_a_wrong_soft_target_loss_is_caught(wrong: Loss) -> None:
    student, teacher, _ = example()
    assert torch.isfinite(wrong(student, teacher, temperature=4.0))  # it runs, as it does in the tutorials
    properties = [of(CASE["soft_target_loss"], equals_its_oracle), *SOFT_PROPERTIES]
    assert failed(properties, wrong) and not failed(properties, soft_target_loss)


@pytest.mark.parametrize("wrong", WRONG_BLENDS, ids=name)
def test_a_wrong_blend_is_caught(wrong: Loss) -> None:
    assert torch.isfinite(wrong(*example(), temperature=4.0, alpha=0.9))
    properties = [of(CASE["kd_loss both"], equals_its_oracle), *BLEND_PROPERTIES]
    assert failed(properties, wrong) and not failed(properties, kd_loss)
