"""The relational losses against slow loops, by hand on a few points, and under the motions that must not move them.

A property is a function that takes an implementation and asserts something of it. The properties hold for the losses of
the package, and each plausible wrong implementation at the end of the file fails the property that is named beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import oracles
import pytest
import torch
from cases import either, embeddings, length_of_samples, shift, turn
from contract import (
    Case,
    does_not_depend_on_the_order_of_the_batch,
    is_changed_by,
    is_finite_at_zeros_repeats_and_extremes,
    is_unchanged_by,
    of,
    scale,
)
from oracles import Loss, close, is_caught, name, normal, peak_megabytes
from torch import Tensor
from torch.nn import functional as F

from kd_course.losses import (
    correlation_congruence_loss,
    irg_loss,
    pkt_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    similarity_preserving_loss,
)

Property = Callable[[Loss], None]
RELATION = Case(rkd_distance_loss, embeddings)  # how every loss of this family is called
SHAPES = ((2, 3, 5), (3, 1, 4), (5, 6, 2), (7, 4, 4))  # (batch, student's width, teacher's width)
CORNER = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
EYE = torch.eye(4, dtype=torch.float64)


def column(*numbers: float) -> Tensor:
    """Points on a line."""
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def example(batch: int = 5, student: int = 4, teacher: int = 6) -> tuple[Tensor, Tensor]:
    """Student and teacher embeddings of a small batch."""
    return normal(batch, student, seed=1), normal(batch, teacher, seed=2)


def irg_edges_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The one term of IRG that takes any two widths."""
    return irg_loss(student, teacher, vertex_weight=0)


def irg_edges(student: Tensor, teacher: Tensor) -> float:
    return oracles.irg([student], [teacher], vertex=0, edge=1, transform=0)


def agree(loss: Loss, by_hand: Callable[..., float], **options: Any) -> None:
    for number, (batch, width_s, width_t) in enumerate(SHAPES):
        student, teacher = normal(batch, width_s, seed=number), normal(batch, width_t, seed=100 + number)
        twins, nothing = student.clone(), teacher.clone()
        twins[0], nothing[-1] = twins[1], 0
        for s, t in ((student, teacher), (student**3, teacher.exp()), (twins, teacher), (student, nothing)):
            assert close(loss(s, t, **options), by_hand(s, t, **options))


# RKD distance.


def distance_equals_the_loops(loss: Loss) -> None:
    agree(loss, oracles.rkd_distance)


def distances_of_the_unit_square(loss: Loss) -> None:
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    mean = (8 + 4 * math.sqrt(2)) / 12  # 8 ordered pairs at 1, 4 at √2; in EYE all 12 are equally far
    expected = (8 * (1 / mean - 1) ** 2 / 2 + 4 * (math.sqrt(2) / mean - 1) ** 2 / 2) / 16
    assert close(loss(corners.double(), EYE), expected)


def distances_far_off_count_in_proportion(loss: Loss) -> None:
    student, teacher = column(0, 0, 0, 0, 9), column(0, 9, 0, 0, 0)
    # All 8 nonzero distances equal their mean on either side: 1 or 0 each, and a gap of 1 for the 12 that differ.
    assert close(loss(student, teacher), 12 * 0.5 / 25)
    # One point far from four has 4 distances above 2.3 times the mean of all 10: gaps above 1, where Huber is a line.
    far, near = column(0, 1, 2, 3, 93), column(9, 9, 9, 0, 9)
    assert close(loss(far, near), oracles.rkd_distance(far, near))


RKD_DISTANCE = [
    distance_equals_the_loops,
    distances_of_the_unit_square,
    distances_far_off_count_in_proportion,
]


# RKD angle.


def angle_equals_the_loops(loss: Loss) -> None:
    agree(loss, oracles.rkd_angle)


def angles_of_three_points(loss: Loss) -> None:
    """A right angle and two of 45° against three of 60°; each is met twice among the 27 triplets."""
    expected = 2 * (0.5**2 / 2 + 2 * (math.sqrt(0.5) - 0.5) ** 2 / 2) / 27
    assert close(loss(CORNER, EYE[:3]), expected)


def opposite_angles_count_in_proportion(loss: Loss) -> None:
    """On a line the middle point sees 180°, the outer ones 0°: two points that change places differ by 2, Huber 1.5."""
    assert close(loss(column(0, 1, 2), column(1, 0, 2)), 2 * (1.5 + 1.5) / 27)


RKD_ANGLE = [
    angle_equals_the_loops,
    angles_of_three_points,
    opposite_angles_count_in_proportion,
]


# Similarity preserving.


def similarity_equals_the_loops(loss: Loss) -> None:
    agree(loss, oracles.similarity_preserving)


def similarity_of_two_samples(loss: Loss) -> None:
    """The same feature twice gives rows (1, 1)/√2, two orthogonal ones (1, 0) and (0, 1)."""
    expected = (2 * (math.sqrt(0.5) - 1) ** 2 + 2 * 0.5) / 4
    assert close(loss(column(3, 3), EYE[:2]), expected)


def similarity_of_a_long_and_a_short_sample(loss: Loss) -> None:
    """Gram rows (4, 2) and (2, 1) are both (2, 1)/√5: a long sample draws all rows towards itself."""
    expected = (2 * (2 / math.sqrt(5) - math.sqrt(0.5)) ** 2 + 2 * (1 / math.sqrt(5) - math.sqrt(0.5)) ** 2) / 4
    assert close(loss(column(2, 1), column(1, 1)), expected)


SIMILARITY = [
    similarity_equals_the_loops,
    similarity_of_two_samples,
    similarity_of_a_long_and_a_short_sample,
]


# Correlation congruence.


def congruence_equals_the_loops(loss: Loss) -> None:
    agree(loss, oracles.correlation_congruence)
    for order in (1, 3, 4):
        for gamma in (0.1, 0.4, 2.0):
            agree(loss, oracles.correlation_congruence, order=order, gamma=gamma)


def congruence_of_two_samples(loss: Loss) -> None:
    """One direction twice against two orthogonal ones: off the diagonal the kernels differ by all terms above p = 0."""
    series = {1: 0.8, 2: 0.8 + 0.8**2 / 2, 3: 0.8 + 0.8**2 / 2 + 0.8**3 / 6}
    for order, terms in series.items():
        value = loss(column(3, 3), EYE[:2], order=order, gamma=0.4)
        assert close(value, (math.exp(-0.8) * terms) ** 2 / 2)


def congruence_tends_to_the_gaussian_kernel(loss: Loss) -> None:
    """With a teacher of zeros, whose kernel is exp(-2γ), and no obtuse angle, each order comes nearer from below."""
    student, nothing = normal(5, 3).abs(), torch.zeros(5, 3, dtype=torch.float64)
    for gamma in (0.4, 1.5):
        limit = 0.0
        for a in F.normalize(student).tolist():
            for b in F.normalize(student).tolist():
                limit += (math.exp(-gamma * math.dist(a, b) ** 2) - math.exp(-2 * gamma)) ** 2 / 25
        errors = [limit - loss(student, nothing, order=order, gamma=gamma).item() for order in range(1, 31)]
        assert all(later <= earlier + 1e-15 for earlier, later in pairwise(errors))
        assert errors[0] > 0.01
        assert abs(errors[-1]) < 1e-12


def congruence_of_a_high_order_is_that_of_gaussian_kernels(loss: Loss) -> None:
    student, teacher = example()
    for gamma in (0.1, 0.4, 1.5):
        expected = oracles.gaussian_congruence(student, teacher, gamma)
        assert close(loss(student, teacher, order=40, gamma=gamma), expected)


CONGRUENCE = [
    congruence_equals_the_loops,
    congruence_of_two_samples,
    congruence_tends_to_the_gaussian_kernel,
    congruence_of_a_high_order_is_that_of_gaussian_kernels,
]


# Edges of the instance relationship graph.


def edges_equal_the_loops(loss: Loss) -> None:
    agree(loss, irg_edges)


def edges_of_three_points(loss: Loss) -> None:
    """Squares 1, 4, 1 over 4 against squares 1, 9, 4 over 9; each edge is met twice."""
    expected = 2 * ((1 / 4 - 1 / 9) ** 2 + (1 / 4 - 4 / 9) ** 2) / 9
    assert close(loss(column(0, 1, 2), column(0, 1, 3)), expected)


IRG_EDGES = [
    edges_equal_the_loops,
    edges_of_three_points,
]


# Probabilistic knowledge transfer.


def pkt_equals_the_loops(loss: Loss) -> None:
    agree(loss, oracles.pkt)


def pkt_of_two_samples(loss: Loss) -> None:
    """Orthogonal samples pick themselves with probability 2/3, opposite ones with 1: log(1 / (2/3))."""
    assert close(loss(EYE[:2], column(1, -1)), math.log(1.5))
    expected = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))  # the same direction twice: 1/2 and 1/2
    assert close(loss(EYE[:2], column(1, 1)), expected)


PKT = [
    pkt_equals_the_loops,
    pkt_of_two_samples,
]

PROPERTIES: dict[Loss, list[Property]] = {
    rkd_distance_loss: RKD_DISTANCE,
    rkd_angle_loss: RKD_ANGLE,
    similarity_preserving_loss: SIMILARITY,
    correlation_congruence_loss: CONGRUENCE,
    irg_edges_loss: IRG_EDGES,
    pkt_loss: PKT,
}


@pytest.mark.parametrize(
    ("loss", "holds"),
    [
        pytest.param(loss, holds, id=f"{loss.__name__}-{holds.__name__}")
        for loss, own in PROPERTIES.items()
        for holds in own
    ],
)
def test_property(loss: Loss, holds: Property) -> None:
    holds(loss)


# Features with more than one dimension per sample.


@pytest.mark.parametrize("loss", [similarity_preserving_loss, irg_edges_loss], ids=name)
def test_maps_count_as_their_flattened_vectors(loss: Loss) -> None:
    student, teacher = normal(5, 3, 2, 2, seed=1), normal(5, 2, 4, 4, seed=2)
    assert close(loss(student, teacher), loss(student.flatten(1), teacher.flatten(1)))


# IRG as a whole.


def test_the_three_terms_of_irg_by_hand() -> None:
    students, teachers = [column(0, 1, 2), column(0, 3, 3)], [column(0, 1, 3), column(1, 1, 2)]
    vertex = (1 + 4 + 1) / 3  # 0, 3, 3 and 1, 1, 2
    first = 2 * ((1 / 4 - 1 / 9) ** 2 + (1 / 4 - 4 / 9) ** 2) / 9
    second = 2 * ((1 - 0) ** 2 + (1 - 1) ** 2 + (0 - 1) ** 2) / 9  # squares 9, 9, 0 over 9; 0, 1, 1 over 1
    transform = ((0 - 1) ** 2 + (1 - 0) ** 2 + (1 / 4 - 1) ** 2) / 3  # moves 0, 4, 1 over 4; 1, 0, 1 over 1
    weights = ["vertex_weight", "edge_weight", "transform_weight"]
    for weight, expected in zip(weights, (vertex, first + second, transform), strict=True):
        alone = {other: 2.5 * (other == weight) for other in weights}
        assert close(irg_loss(students, teachers, **alone), 2.5 * expected)
    assert close(irg_loss(students, teachers), vertex + first + second + transform)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_irg_over_layers_equals_the_loops_in_any_order_of_the_batch(layers: int) -> None:
    students = [normal(5, 4, seed=number) for number in range(layers)]
    teachers = [normal(5, 4, seed=10 + number) for number in range(layers)]
    value = irg_loss(students, teachers, vertex_weight=0.3, edge_weight=5, transform_weight=7)
    assert close(value, oracles.irg(students, teachers, vertex=0.3, edge=5, transform=7))
    order = torch.tensor([3, 0, 4, 1, 2])
    students, teachers = [layer[order] for layer in students], [layer[order] for layer in teachers]
    assert close(irg_loss(students, teachers, vertex_weight=0.3, edge_weight=5, transform_weight=7), value)


def test_irg_compares_layers_of_any_width_where_no_term_needs_one() -> None:
    students, teachers = [normal(5, 4), normal(5, 3)], [normal(5, 6), normal(5, 2)]
    value = irg_loss(students, teachers, vertex_weight=0, transform_weight=0)
    assert close(value, oracles.irg(students, teachers, vertex=0, edge=1, transform=0))


def test_irg_of_one_layer_needs_no_list() -> None:
    student, teacher = example(5, 4, 4)
    assert torch.equal(irg_loss(student, teacher), irg_loss([student], [teacher]))


# Memory.


@pytest.mark.slow
def test_rkd_angle_of_128_samples_fits_in_512_megabytes() -> None:
    setup = (
        "from kd_course.losses import rkd_angle_loss\n"
        "student, teacher = torch.randn(128, 128, requires_grad=True), torch.randn(128, 128)\n"
        "rkd_angle_loss(student[:4], teacher[:4]).backward()"
    )
    peak = peak_megabytes(setup, "rkd_angle_loss(student, teacher).backward()")
    assert 3 * 8 < peak < 512  # at the least both cosines and their difference, 8 MB each, were there at once


def test_pkt_is_exact_in_float32_where_little_differs() -> None:
    """Two samples whose similarity is 1 - 0.8, and a student that has it larger by 0.44 %."""
    sides = [torch.tensor([[1.0, 0.0], [c, math.sqrt(1 - c * c)]]) for c in (0.2 * math.exp(0.0044) - 1, -0.8)]
    assert pkt_loss(*sides).item() == pytest.approx(oracles.pkt(*(side.double() for side in sides)), rel=6e-4)
    twins = sides[1].repeat(64, 1)
    assert pkt_loss(twins + 1e-5 * normal(128, 2).float(), twins) >= 0


# Deliberate breaks: the mistakes that tutorials and libraries repeat. Each runs, each returns a number, and each fails
# the property beside it.


def distance_without_the_mean(s: Tensor, t: Tensor) -> Tensor:
    return F.smooth_l1_loss(torch.cdist(s, s), torch.cdist(t, t))


def squared_distance(s: Tensor, t: Tensor) -> Tensor:
    d_s, d_t = ((f[:, None] - f[None]).square().sum(2) for f in (s, t))
    return F.smooth_l1_loss(d_s / d_s[d_s > 0].mean(), d_t / d_t[d_t > 0].mean())


def distance_over_the_mean_with_zeros(s: Tensor, t: Tensor) -> Tensor:
    d_s, d_t = torch.cdist(s, s), torch.cdist(t, t)
    return F.smooth_l1_loss(d_s / d_s.mean(), d_t / d_t.mean())


def distance_over_the_largest(s: Tensor, t: Tensor) -> Tensor:
    d_s, d_t = torch.cdist(s, s), torch.cdist(t, t)
    return F.smooth_l1_loss(d_s / d_s.max(), d_t / d_t.max())


def relative(f: Tensor) -> Tensor:
    d = torch.cdist(f, f, compute_mode="donot_use_mm_for_euclid_dist")
    return d / d[d > 0].mean()


def squared_error_of_distances(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(relative(s), relative(t)) / 2


def absolute_error_of_distances(s: Tensor, t: Tensor) -> Tensor:
    return F.l1_loss(relative(s), relative(t))


def distance_to_the_next_sample(s: Tensor, t: Tensor) -> Tensor:
    d_s, d_t = ((f[1:] - f[:-1]).norm(dim=1) for f in (s, t))
    return F.smooth_l1_loss(d_s / d_s.mean(), d_t / d_t.mean())


def distance_by_a_bare_root(s: Tensor, t: Tensor) -> Tensor:
    d_s, d_t = ((f[:, None] - f[None]).square().sum(2).sqrt() for f in (s, t))
    return F.smooth_l1_loss(d_s / d_s[d_s > 0].mean(), d_t / d_t[d_t > 0].mean())


def cosine_for_the_angle(s: Tensor, t: Tensor) -> Tensor:
    s, t = F.normalize(s), F.normalize(t)
    return F.smooth_l1_loss(s @ s.T, t @ t.T)


def differences(f: Tensor) -> Tensor:
    return F.normalize(f[None] - f[:, None], dim=2)


def angle_of_neighbours(s: Tensor, t: Tensor) -> Tensor:
    c_s, c_t = (
        (F.normalize(f[:-2] - f[1:-1]) * F.normalize(f[2:] - f[1:-1])).sum(1) if len(f) > 2 else f.sum(1)
        for f in (s, t)
    )
    return F.smooth_l1_loss(c_s, c_t)


def angle_in_radians(s: Tensor, t: Tensor) -> Tensor:
    a_s, a_t = (torch.acos((differences(f) @ differences(f).mT).clamp(-0.999999, 0.999999)) for f in (s, t))
    return F.smooth_l1_loss(a_s, a_t)


def angle_of_unnormalised_differences(s: Tensor, t: Tensor) -> Tensor:
    d_s, d_t = (f[None] - f[:, None] for f in (s, t))
    return F.smooth_l1_loss(d_s @ d_s.mT, d_t @ d_t.mT)


def angle_squared_error(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(differences(s) @ differences(s).mT, differences(t) @ differences(t).mT) / 2


def angle_of_proper_triplets_only(s: Tensor, t: Tensor) -> Tensor:
    gaps = F.smooth_l1_loss(differences(s) @ differences(s).mT, differences(t) @ differences(t).mT, reduction="sum")
    return gaps / max(1, len(s) * (len(s) - 1) * (len(s) - 2))


def similarity_without_normalisation(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s @ s.T, t @ t.T)


def similarity_as_cosine(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(F.normalize(s) @ F.normalize(s).T, F.normalize(t) @ F.normalize(t).T)


def similarity_over_the_whole_norm(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s @ s.T / (s @ s.T).norm(), t @ t.T / (t @ t.T).norm())


def similarity_of_centred_features(s: Tensor, t: Tensor) -> Tensor:
    s, t = s - s.mean(0), t - t.mean(0)
    return F.mse_loss(F.normalize(s @ s.T), F.normalize(t @ t.T))


def similarity_of_dimensions(s: Tensor, t: Tensor) -> Tensor:
    """Compares what goes with what among the dimensions; here on as many as both have."""
    width = min(s.shape[1], t.shape[1])
    s, t = s[:, :width], t[:, :width]
    return F.mse_loss(F.normalize(s.T @ s), F.normalize(t.T @ t))


def similarity_summed_over_the_batch(s: Tensor, t: Tensor) -> Tensor:
    return (F.normalize(s @ s.T) - F.normalize(t @ t.T)).square().sum() / len(s)


def kernel(f: Tensor, order: int, gamma: float) -> Tensor:
    cosine = F.normalize(f) @ F.normalize(f).T
    return sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))


def congruence_without_the_square(s: Tensor, t: Tensor, *, order: int = 2, gamma: float = 0.4) -> Tensor:
    return (kernel(s, order, gamma) - kernel(t, order, gamma)).norm() / len(s) ** 2


def congruence_of_the_next_sample(s: Tensor, t: Tensor, *, order: int = 2, gamma: float = 0.4) -> Tensor:
    """Products of the gaps of consecutive samples, on as many dimensions as both have."""
    width = min(s.shape[1], t.shape[1])
    gap = (s[:, :width] - t[:, :width]).abs()
    return (gap[:-1] * gap[1:]).sum(1).mean()


def congruence_of_raw_rows(s: Tensor, t: Tensor, *, order: int = 2, gamma: float = 0.4) -> Tensor:
    k_s, k_t = (
        sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * (f @ f.T) ** p for p in range(order + 1))
        for f in (s, t)
    )
    return F.mse_loss(k_s, k_t)


def congruence_without_factorials(s: Tensor, t: Tensor, *, order: int = 2, gamma: float = 0.4) -> Tensor:
    k_s, k_t = (
        sum(math.exp(-2 * gamma) * (gamma * F.normalize(f) @ F.normalize(f).T) ** p for p in range(order + 1))
        for f in (s, t)
    )
    return F.mse_loss(k_s, k_t)


def congruence_one_order_short(s: Tensor, t: Tensor, *, order: int = 2, gamma: float = 0.4) -> Tensor:
    return F.mse_loss(kernel(s, order - 1, gamma), kernel(t, order - 1, gamma))


def edges_over_nothing(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(torch.cdist(s, s).square(), torch.cdist(t, t).square())


def edges_not_squared(s: Tensor, t: Tensor) -> Tensor:
    d_s, d_t = torch.cdist(s, s), torch.cdist(t, t)
    return F.mse_loss(d_s / d_s.max(), d_t / d_t.max())


def edges_over_the_mean(s: Tensor, t: Tensor) -> Tensor:
    d_s, d_t = torch.cdist(s, s).square(), torch.cdist(t, t).square()
    return F.mse_loss(d_s / d_s.mean(), d_t / d_t.mean())


def edges_over_each_row(s: Tensor, t: Tensor) -> Tensor:
    d_s, d_t = torch.cdist(s, s).square(), torch.cdist(t, t).square()
    return F.mse_loss(d_s / d_s.amax(1, keepdim=True), d_t / d_t.amax(1, keepdim=True))


def neighbours(f: Tensor) -> Tensor:
    similarity = 1 + F.normalize(f) @ F.normalize(f).T
    return similarity / similarity.sum(1, keepdim=True)


def pkt_swapped(s: Tensor, t: Tensor) -> Tensor:
    p, q = neighbours(s), neighbours(t)
    return (p * (p / q).log()).sum(1).mean()


def pkt_mean_of_entries(s: Tensor, t: Tensor) -> Tensor:
    p, q = neighbours(s), neighbours(t)
    return (q * (q / p).log()).mean()


def pkt_by_softmax(s: Tensor, t: Tensor) -> Tensor:
    p, q = ((F.normalize(f) @ F.normalize(f).T).log_softmax(1) for f in (s, t))
    return F.kl_div(p, q, reduction="batchmean", log_target=True)


def pkt_of_raw_products(s: Tensor, t: Tensor) -> Tensor:
    p, q = ((f @ f.T).log_softmax(1) for f in (s, t))
    return F.kl_div(p, q, reduction="batchmean", log_target=True)


WRONG: list[tuple[Loss, Property]] = [
    (distance_without_the_mean, of(RELATION, is_unchanged_by, scale)),
    (squared_distance, distances_of_the_unit_square),
    (distance_over_the_mean_with_zeros, distances_of_the_unit_square),
    (distance_over_the_largest, distances_of_the_unit_square),
    (squared_error_of_distances, distances_far_off_count_in_proportion),
    (absolute_error_of_distances, distances_far_off_count_in_proportion),
    (distance_to_the_next_sample, of(RELATION, does_not_depend_on_the_order_of_the_batch)),
    (distance_by_a_bare_root, of(RELATION, is_finite_at_zeros_repeats_and_extremes)),
    (cosine_for_the_angle, of(RELATION, is_unchanged_by, either(shift))),
    (angle_of_neighbours, of(RELATION, does_not_depend_on_the_order_of_the_batch)),
    (angle_in_radians, angles_of_three_points),
    (angle_of_unnormalised_differences, of(RELATION, is_unchanged_by, scale)),
    (angle_squared_error, opposite_angles_count_in_proportion),
    (angle_of_proper_triplets_only, angles_of_three_points),
    (similarity_without_normalisation, of(RELATION, is_unchanged_by, scale)),
    (similarity_as_cosine, of(RELATION, is_changed_by, either(length_of_samples))),
    (similarity_as_cosine, similarity_of_a_long_and_a_short_sample),
    (similarity_over_the_whole_norm, similarity_of_two_samples),
    (similarity_of_centred_features, of(RELATION, is_changed_by, either(shift))),
    (similarity_of_dimensions, of(RELATION, is_unchanged_by, either(turn))),
    (similarity_summed_over_the_batch, similarity_of_two_samples),
    (congruence_without_the_square, congruence_of_two_samples),
    (congruence_of_the_next_sample, of(RELATION, does_not_depend_on_the_order_of_the_batch)),
    (congruence_of_raw_rows, of(RELATION, is_unchanged_by, either(length_of_samples))),
    (congruence_without_factorials, congruence_tends_to_the_gaussian_kernel),
    (congruence_one_order_short, congruence_of_two_samples),
    (edges_over_nothing, of(RELATION, is_unchanged_by, scale)),
    (edges_not_squared, edges_of_three_points),
    (edges_over_the_mean, edges_of_three_points),
    (edges_over_each_row, edges_of_three_points),
    (pkt_swapped, pkt_of_two_samples),
    (pkt_mean_of_entries, pkt_of_two_samples),
    (pkt_by_softmax, pkt_of_two_samples),
    (pkt_of_raw_products, of(RELATION, is_unchanged_by, scale)),
]


@pytest.mark.parametrize(("wrong", "by"), WRONG, ids=lambda function: function.__name__)
def test_a_wrong_relation_is_caught(wrong: Loss, by: Property) -> None:
    assert torch.isfinite(wrong(*example()))  # it runs, as it does where it is published
    assert is_caught(wrong, by)
