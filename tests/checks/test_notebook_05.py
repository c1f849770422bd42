"""Notebook 05: right answers in other spellings, and wrong ones that nobody foresaw; the rest is in test_exercise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks import notebook_05 as checks
from kd_course.checks._exercise import NAN_GRADIENT, NO_GRADIENT, WRONG_GRADIENT, Exercise, Submission
from kd_course.losses import similarity_preserving_loss


def relative_by_cdist(embedding: Tensor) -> Tensor:
    distances = torch.cdist(embedding.float(), embedding.float())
    return distances * (distances > 0).sum() / distances.sum()


def relative_in_loops(embedding: Tensor) -> Tensor:
    rows = [torch.stack([torch.linalg.vector_norm(a - b) for b in embedding]) for a in embedding]
    distances = torch.stack(rows)
    return distances / distances[distances != 0].mean()


def relative_with_a_number_under_the_root(embedding: Tensor, number: float) -> Tensor:
    distances = ((embedding[:, None] - embedding[None]).square().sum(2) + number).sqrt()
    return distances / distances[distances > 0].mean()


def vertex_by_einsum(first: Tensor, vertex: Tensor, second: Tensor) -> Tensor:
    arms = [F.normalize(arm - vertex, dim=1) for arm in (first, second)]
    return torch.einsum("nd,nd->n", *arms).float()


def vertex_with_a_number_below(first: Tensor, vertex: Tensor, second: Tensor, number: float) -> Tensor:
    left, right = first - vertex, second - vertex
    return (left * right).sum(1) / (left.norm(dim=1) * right.norm(dim=1) + number)


def vertex_with_one_arm_repaired(first: Tensor, vertex: Tensor, second: Tensor) -> Tensor:
    left = first - vertex
    left = (left / left.norm(dim=1, keepdim=True)).nan_to_num(0.0)
    return (left * F.normalize(second - vertex, dim=1)).sum(1)


def rows_in_single_precision(features: Tensor) -> Tensor:
    matrix = features.float().flatten(1) @ features.float().flatten(1).T
    return matrix / matrix.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)


def doubly_centred(student: Tensor, teacher: Tensor) -> Tensor:
    projection = torch.eye(len(student), dtype=student.dtype) - 1 / len(student)
    first, second = (F.normalize(projection @ (e @ e.T) @ projection, dim=1) for e in (student, teacher))
    return (first - second).square().mean()


relative, vertex = checks.relative_distances.solution, checks.vertex_cosine.solution
rows, centred = checks.gram_rows.solution, checks.centred_sp.solution


@pytest.mark.parametrize(
    ("exercise", "right"),
    [
        (checks.relative_distances, relative_by_cdist),
        (checks.relative_distances, relative_in_loops),
        (checks.vertex_cosine, vertex_by_einsum),
        (checks.vertex_cosine, lambda i, j, k: vertex_with_a_number_below(i, j, k, 1e-8)),
        (checks.vertex_cosine, lambda i, j, k: F.cosine_similarity(i - j, k - j, dim=1)),
        (checks.vertex_cosine, lambda i, j, k: F.cosine_similarity(j - i, j - k, dim=1)),
        (checks.gram_rows, rows_in_single_precision),
        (checks.gram_rows, lambda f: F.normalize(torch.einsum("icp,jcp->ij", f, f), p=2, dim=-1)),
        (checks.centred_sp, doubly_centred),
        (checks.centred_sp, lambda s, t: centred(s, t.detach())),
    ],
)
def test_a_right_answer_passes_in_every_spelling(exercise: Exercise, right: Submission):
    verdict = exercise(right)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("exercise", "wrong", "says"),
    [
        (checks.relative_distances, lambda e: 2 * relative(e), "compare with the formula"),
        (checks.relative_distances, lambda e: relative_with_a_number_under_the_root(e, 1e-12), "almost 0 and not 0"),
        (checks.relative_distances, lambda e: relative_with_a_number_under_the_root(e, 1e-6), "almost 0 and not 0"),
        (checks.relative_distances, lambda e: relative(e).detach(), NO_GRADIENT),
        (checks.relative_distances, lambda e: torch.from_numpy(relative(e.detach()).numpy()), NO_GRADIENT),
        (checks.relative_distances, lambda e: relative(torch.cat([e[:1].detach(), e[1:]])), WRONG_GRADIENT),
        (checks.vertex_cosine, lambda i, j, k: vertex(i, j, k) / 2, "compare with the hand calculation"),
        (checks.vertex_cosine, lambda i, j, k: vertex_with_a_number_below(i, j, k, 1e-5), "too large"),
        (checks.vertex_cosine, lambda i, j, k: vertex_with_a_number_below(i, j, k, 1e-6), "too large"),
        (checks.vertex_cosine, lambda i, j, k: vertex(i, j, k).detach(), NO_GRADIENT),
        (checks.vertex_cosine, lambda i, j, k: vertex(i, j, k.detach()), WRONG_GRADIENT),
        (checks.vertex_cosine, vertex_with_one_arm_repaired, NAN_GRADIENT),
        (checks.gram_rows, lambda f: 3 * rows(f), "not FFᵀ with each row"),
        (checks.gram_rows, lambda f: rows(f) + (f == 0).all(2).all(1).float(), "features are all 0"),
        (checks.centred_sp, lambda s, t: similarity_preserving_loss(s + 1, t + 1), "a shift of either"),
        (checks.centred_sp, lambda s, t: centred(s, t).sqrt(), "and no more"),
        (checks.centred_sp, lambda s, t: centred(s, t).detach(), NO_GRADIENT),
    ],
)
def test_a_wrong_answer_that_nobody_foresaw_is_refused(exercise: Exercise, wrong: Submission, says: str):
    verdict = exercise(wrong)
    assert verdict.state == "wrong"
    assert says in verdict.message
