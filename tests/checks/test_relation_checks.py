"""The checks of notebook 05 pass what is right, in every spelling, and call each classic mistake by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course import checks
from kd_course.losses import similarity_preserving_loss

Attempt = Callable[..., Any]
ALL = [checks.relative_distances, checks.vertex_cosine, checks.gram_rows, checks.centred_sp]


def refused(verdict: checks.Verdict, message: str) -> None:
    assert verdict.state == "wrong", verdict
    assert re.search(message, verdict.message), f"{message!r} not in {verdict.message!r}"


# --- distances over their mean --------------------------------------------------------------------------------------


def lengths(embedding: Tensor) -> Tensor:
    return torch.linalg.vector_norm(embedding[:, None] - embedding[None], dim=2)


def relative(embedding: Tensor) -> Tensor:
    return lengths(embedding) / lengths(embedding)[lengths(embedding) > 0].mean()


def relative_by_cdist(embedding: Tensor) -> Tensor:
    distances = torch.cdist(embedding.float(), embedding.float())
    return distances * (distances > 0).sum() / distances.sum()


def relative_in_loops(embedding: Tensor) -> Tensor:
    rows = [torch.stack([torch.linalg.vector_norm(a - b) for b in embedding]) for a in embedding]
    distances = torch.stack(rows)
    return distances / distances[distances != 0].mean()


@pytest.mark.parametrize("attempt", [relative, relative_by_cdist, relative_in_loops])
def test_relative_distances_passes_what_is_right(attempt: Attempt):
    verdict = checks.relative_distances(attempt)
    assert verdict, verdict


def rooted(embedding: Tensor) -> Tensor:
    distances = (embedding[:, None] - embedding[None]).square().sum(2).sqrt()
    return distances / distances[distances > 0].mean()


def nearly_rooted(embedding: Tensor) -> Tensor:
    distances = ((embedding[:, None] - embedding[None]).square().sum(2) + 1e-12).sqrt()
    return distances / distances[distances > 0].mean()


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lengths, "distances themselves; divide"),
        (lambda e: lengths(e).square(), "squared distances; take the root"),
        (lambda e: lengths(e) ** 2 / (lengths(e) ** 2)[lengths(e) > 0].mean(), "squared distances over their mean"),
        (lambda e: lengths(e) / lengths(e).mean(), "all B² entries"),
        (lambda e: lengths(e) / lengths(e).max(), "how IRG scales"),
        (lambda e: lengths(e) / (lengths(e).sum(1, keepdim=True) / (len(e) - 1)), "one mean for the whole batch"),
        (lambda e: F.normalize(e, dim=1) @ F.normalize(e, dim=1).T, "cosines between embeddings"),
        (lambda e: relative(F.normalize(e, dim=1)), "to length 1 before you measure"),
        (lambda e: lengths(e) / lengths(e).sum() * len(e) * (len(e) - 1), "two that coincide"),
        (lambda e: relative(e.detach()), "no gradient comes back"),
        (lambda e: torch.from_numpy(relative(e.detach()).numpy()), "no gradient comes back"),
        (rooted, "gradient is NaN.*vector_norm"),
        (nearly_rooted, "almost 0 and not 0"),
        (lambda e: lengths(e) / lengths(e)[lengths(e) > 0].mean().detach(), "not the gradient: μ depends"),
        (lambda e: 2 * relative(e), "compare with the formula"),
        (lambda e: relative(e)[0], "should be \\(5, 5\\)"),
    ],
)
def test_relative_distances_names_the_mistake(attempt: Attempt, message: str):
    refused(checks.relative_distances(attempt), message)


# --- the cosine at a vertex -----------------------------------------------------------------------------------------


def at_vertex(first: Tensor, vertex: Tensor, second: Tensor) -> Tensor:
    return (F.normalize(first - vertex, dim=1) * F.normalize(second - vertex, dim=1)).sum(1)


def at_vertex_einsum(first: Tensor, vertex: Tensor, second: Tensor) -> Tensor:
    arms = [F.normalize(arm - vertex, dim=1) for arm in (first, second)]
    return torch.einsum("nd,nd->n", *arms).float()


def at_vertex_backwards(first: Tensor, vertex: Tensor, second: Tensor) -> Tensor:
    return F.cosine_similarity(vertex - first, vertex - second, dim=1)


@pytest.mark.parametrize("attempt", [at_vertex, at_vertex_einsum, at_vertex_backwards])
def test_vertex_cosine_passes_what_is_right(attempt: Attempt):
    verdict = checks.vertex_cosine(attempt)
    assert verdict, verdict


def divided_by_lengths(a: Tensor, v: Tensor, b: Tensor) -> Tensor:
    return ((a - v) * (b - v)).sum(1) / ((a - v).norm(dim=1) * (b - v).norm(dim=1))


def one_where_undefined(a: Tensor, v: Tensor, b: Tensor) -> Tensor:
    return divided_by_lengths(a, v, b).nan_to_num(1.0)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda a, v, b: F.cosine_similarity(a, b, dim=1), "raw embeddings.*at the origin"),
        (lambda a, v, b: -at_vertex(a, v, b), "sign is turned round"),
        (lambda a, v, b: at_vertex(v, a, b), "lies at `first`"),
        (lambda a, v, b: at_vertex(a, b, v), "lies at `second`"),
        (lambda a, v, b: ((a - v) * (b - v)).sum(1), "dot product of the two arms"),
        (
            lambda a, v, b: ((a - v) * (b - v)).sum(1) / ((a - v).square().sum(1) * (b - v).square().sum(1)),
            "squared lengths",
        ),
        (lambda a, v, b: at_vertex(a, v, b).acos(), "radians"),
        (lambda a, v, b: at_vertex(a, v, b).acos().rad2deg(), "degrees"),
        (divided_by_lengths, "0 by 0"),
        (one_where_undefined, "has no direction"),
        (lambda a, v, b: at_vertex(a, v, b) / 2, "compare with the hand calculation"),
        (lambda a, v, b: at_vertex(a, v, b).mean(), "should be \\(3,\\)"),
    ],
)
def test_vertex_cosine_names_the_mistake(attempt: Attempt, message: str):
    refused(checks.vertex_cosine(attempt), message)


# --- rows of the Gram matrix ----------------------------------------------------------------------------------------


def gram(features: Tensor) -> Tensor:
    return features.flatten(1) @ features.flatten(1).T


def rows(features: Tensor) -> Tensor:
    return F.normalize(gram(features), dim=1)


def rows_in_single_precision(features: Tensor) -> Tensor:
    matrix = gram(features.float())
    return matrix / matrix.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)


def rows_by_einsum(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(torch.einsum("icp,jcp->ij", features, features), p=2, dim=-1)


@pytest.mark.parametrize("attempt", [rows, rows_in_single_precision, rows_by_einsum])
def test_gram_rows_passes_what_is_right(attempt: Attempt):
    verdict = checks.gram_rows(attempt)
    assert verdict, verdict


def unit_features(features: Tensor) -> Tensor:
    return F.normalize(features.flatten(1), dim=1)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda f: unit_features(f) @ unit_features(f).T, "cosines between the features"),
        (lambda f: rows(unit_features(f)), "features first and the rows afterwards"),
        (gram, "now divide each row by its own length"),
        (lambda f: F.normalize(gram(f), dim=0), "columns have length 1"),
        (lambda f: gram(f) / gram(f).norm(), "whole matrix by one number"),
        (lambda f: gram(f) / gram(f).sum(1, keepdim=True), "rows sum to 1"),
        (lambda f: F.normalize(gram(f), p=1, dim=1), "absolute values of your rows"),
        (lambda f: gram(f).softmax(1), "softmax of the rows"),
        (lambda f: rows(f.mean(2)), "average over positions"),
        (lambda f: gram(f) / gram(f).norm(dim=1, keepdim=True), "all 0.*length 0"),
        (lambda f: 3 * rows(f), "not FFᵀ with each row"),
        (lambda f: f @ f.T, "your code raised"),
    ],
)
@pytest.mark.filterwarnings("ignore:The use of:UserWarning")  # .T of three dimensions, a mistake we want to see
def test_gram_rows_names_the_mistake(attempt: Attempt, message: str):
    refused(checks.gram_rows(attempt), message)


# --- similarity preserving without the origin -----------------------------------------------------------------------


def centre(embedding: Tensor) -> Tensor:
    return embedding - embedding.mean(dim=0, keepdim=True)


def centred(student: Tensor, teacher: Tensor) -> Tensor:
    return similarity_preserving_loss(centre(student), centre(teacher))


def doubly_centred(student: Tensor, teacher: Tensor) -> Tensor:
    count = len(student)
    projection = torch.eye(count, dtype=student.dtype) - 1 / count
    first, second = (F.normalize(projection @ (e @ e.T) @ projection, dim=1) for e in (student, teacher))
    return (first - second).square().mean()


@pytest.mark.parametrize("attempt", [centred, doubly_centred])
def test_centred_sp_passes_what_is_right(attempt: Attempt):
    verdict = checks.centred_sp(attempt)
    assert verdict, verdict


def on_both(change: Callable[[Tensor], Tensor]) -> Attempt:
    return lambda student, teacher: similarity_preserving_loss(change(student), change(teacher))


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (similarity_preserving_loss, "plain SP still"),
        (on_both(lambda e: e - e.mean(1, keepdim=True)), "each sample's own mean"),
        (on_both(lambda e: e - e.mean()), "one number from all features"),
        (lambda s, t: similarity_preserving_loss(centre(s), t), "only the student"),
        (lambda s, t: similarity_preserving_loss(s, centre(t)), "only the teacher"),
        (on_both(lambda e: e - e[0]), "the order of the batch"),
        (on_both(lambda e: centre(e) / e.std(0)), "standard deviation"),
        (on_both(lambda e: F.normalize(centre(e), dim=1)), "makes a cosine"),
        (lambda s, t: 25 * centred(s, t), "sum of the squared differences"),
        (lambda s, t: 5 * centred(s, t), "divides by B once"),
        (on_both(lambda e: e + 1), "a shift of the student still moves"),
        (lambda s, t: centred(s, t).sqrt(), "no more"),
        (on_both(lambda e: e - e.median(0).values), "no more"),
        (lambda s, t: s, "should be \\(\\)"),
    ],
)
def test_centred_sp_names_the_mistake(attempt: Attempt, message: str):
    refused(checks.centred_sp(attempt), message)


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
    assert check(lambda *arguments: np.zeros(3)).state == "wrong"


@pytest.mark.parametrize("check", ALL)
def test_nan_is_not_an_answer(check: Attempt):
    shape = {"relative_distances": (5, 5), "vertex_cosine": (3,), "gram_rows": (5, 5), "centred_sp": ()}[check.__name__]
    assert check(lambda *arguments: torch.full(shape, torch.nan)).state == "wrong"


def test_centred_sp_and_the_angle_want_a_gradient():
    verdict = checks.centred_sp(lambda s, t: centred(s, t).detach())
    assert verdict.state == "wrong" and "no gradient reaches the student" in verdict.message
    verdict = checks.vertex_cosine(lambda i, j, k: F.cosine_similarity(i - j, k - j, dim=1).detach())
    assert verdict.state == "wrong" and "no gradient reaches the points" in verdict.message


def test_a_nan_that_is_replaced_afterwards_is_refused():
    def naive(first: Tensor, vertex: Tensor, second: Tensor) -> Tensor:
        left, right = first - vertex, second - vertex
        return torch.nan_to_num((left * right).sum(1) / (left.norm(dim=1) * right.norm(dim=1)))

    verdict = checks.vertex_cosine(naive)
    assert verdict.state == "wrong" and "*gradient* is NaN" in verdict.message
