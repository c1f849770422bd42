"""Checks for notebook 05: relative distances, the cosine at a vertex, rows of a Gram matrix, SP without the origin."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks._verdict import Mistake, ask_tensor, close, exercise, recognise, require
from kd_course.losses import similarity_preserving_loss

# Five samples with three features each: no two distances alike, none of length 1, none centred.
POINTS = torch.tensor(
    [[0.0, 1.0, 2.0], [3.0, 1.0, -1.0], [0.5, -2.0, 1.0], [4.0, 4.0, 0.0], [1.0, 0.0, -3.0]], dtype=torch.float64
)


@exercise
def relative_distances(attempt: Callable[[Tensor], Tensor]) -> str:
    """``attempt(embedding)`` is the (B, B) matrix of distances, divided by the mean of those that are not 0."""
    distances = torch.cdist(POINTS, POINTS)
    mean = distances.sum() / (distances > 0).sum()
    answer = ask_tensor(attempt, POINTS.clone(), shape=(5, 5))
    directions = F.normalize(POINTS, dim=1)
    slightly_off = bool((answer.diagonal() != 0).all()) and close(answer.diagonal(), torch.zeros(5))
    require(
        not slightly_off,
        "the diagonal is almost 0 and not 0, so it counts in the mean. A small number under the root does that; "
        "`torch.linalg.vector_norm` needs none.",
    )
    recognise(
        answer,
        {
            "these are the distances themselves; divide them by the mean of those that are not 0, or a student whose "
            "features are twice as large is punished for nothing.": distances,
            "these are squared distances; take the root (RKD compares lengths), then divide by their mean.": (
                distances.square()
            ),
            "these are squared distances over their mean. RKD takes the root first: squares let the few far pairs "
            "drown all the others.": distances.square() / distances.square()[distances > 0].mean(),
            "you divide by the mean of all B² entries. The diagonal holds the distance of each sample to itself, "
            "always 0: take the mean of the entries that are not 0.": distances / distances.mean(),
            "you divide by the largest distance. That is how IRG scales (its squared distances); RKD divides by the "
            "mean.": distances / distances.max(),
            "each row is divided by its own mean; one mean for the whole batch keeps far samples far.": (
                distances / (distances.sum(1, keepdim=True) / 4)
            ),
            "these are cosines between embeddings, not distances; subtract before you take a length.": (
                directions @ directions.T
            ),
            "you scale each embedding to length 1 before you measure. That hides how far out a sample lies; measure "
            "the embeddings as they are.": torch.cdist(directions, directions)
            / torch.cdist(directions, directions)[distances > 0].mean(),
        },
    )
    require(close(answer, distances / mean), "entry (i, j) is not ‖f_i - f_j‖ / μ; compare with the formula above.")
    twins = POINTS[[0, 1, 2, 0]]
    apart = torch.cdist(twins, twins)
    answer = ask_tensor(attempt, twins.clone(), shape=(4, 4))
    require(
        close(answer, apart / apart[apart > 0].mean()),
        "right for samples that all differ, but two that coincide are at distance 0 too, and do not count in the mean: "
        "divide by the number of distances above 0, not by B(B-1).",
    )
    embedding = twins.clone().requires_grad_()
    answer = ask_tensor(attempt, embedding, shape=(4, 4))
    require(
        answer.requires_grad,
        "the values are right, but no gradient comes back through them, so nothing would be learned; leave out "
        "`detach`, `no_grad` and NumPy.",
    )
    (gradient,) = torch.autograd.grad(answer.square().sum(), embedding)
    require(
        bool(torch.isfinite(gradient).all()),
        "the values are right, but the gradient is NaN: the root has an infinite slope at 0, and the diagonal is 0. "
        "Use `torch.linalg.vector_norm` or `torch.cdist`, which know about it.",
    )
    reference = twins.clone().requires_grad_()
    lengths = torch.linalg.vector_norm(reference[:, None] - reference[None], dim=2)
    (expected,) = torch.autograd.grad((lengths / lengths[lengths > 0].mean()).square().sum(), reference)
    require(
        close(gradient, expected),
        "the values are right, but not the gradient: μ depends on the embeddings as well. Do not `detach` it, or the "
        "student is rewarded for changing its scale.",
    )
    return "proportions only, and a finite gradient even where two samples coincide."


@exercise
def vertex_cosine(attempt: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """``attempt(first, vertex, second)``, (N, D) each, is the cosine of the angle at the vertex, (N,)."""
    first, vertex, second = POINTS[[0, 1, 2]], POINTS[[3, 4, 0]], POINTS[[2, 0, 4]]
    left, right = first - vertex, second - vertex
    expected = F.cosine_similarity(left, right, dim=1)
    answer = ask_tensor(attempt, first.clone(), vertex.clone(), second.clone(), shape=(3,))
    dot = (left * right).sum(1)
    recognise(
        answer,
        {
            "this is the cosine of the raw embeddings `first` and `second`, an angle at the origin. RKD measures at "
            "the vertex: subtract `vertex` from both first.": F.cosine_similarity(first, second, dim=1),
            "the sign is turned round: both arms must point the same way, from the vertex outwards "
            "(`first - vertex` and `second - vertex`).": -expected,
            "this angle lies at `first`; the vertex is the second argument.": (
                F.cosine_similarity(vertex - first, second - first, dim=1)
            ),
            "this angle lies at `second`; the vertex is the second argument.": (
                F.cosine_similarity(first - second, vertex - second, dim=1)
            ),
            "this is the dot product of the two arms; divide each arm by its length first.": dot,
            "you divide by squared lengths; divide each arm by its length, once.": (
                dot / (left.square().sum(1) * right.square().sum(1))
            ),
            "this is the angle in radians; RKD compares its cosine, so leave the arccosine out.": expected.acos(),
            "this is the angle in degrees; RKD compares its cosine.": expected.acos() * 180 / math.pi,
        },
    )
    require(
        close(answer, expected), "this is not ⟨e_ij, e_kj⟩ with e the unit arms; compare with the hand calculation."
    )
    moving = vertex.clone().requires_grad_()
    answer = ask_tensor(attempt, moving, vertex.clone(), second.clone(), shape=(3,))
    require(
        bool(torch.isfinite(answer).all()),
        "right for three different points, but where one of them *is* the vertex you divide 0 by 0, and a batch holds "
        "many such triplets. `F.normalize` and `F.cosine_similarity` give 0 there.",
    )
    require(close(answer.detach(), 0.0), "an arm of length 0 has no direction; let its cosine be 0.")
    require(answer.requires_grad, "the values are right, but no gradient reaches the points: keep to tensors.")
    (gradient,) = torch.autograd.grad(answer.sum(), moving)
    require(
        bool(torch.isfinite(gradient).all()),
        "the values are right, but where an arm has length 0 the *gradient* is NaN, which ruins a training at its "
        "first batch: a NaN replaced afterwards still flows back. `F.normalize` and `F.cosine_similarity` are safe.",
    )
    return "an angle at a vertex: no shift, turn or scale of the batch can change it."


@exercise
def gram_rows(attempt: Callable[[Tensor], Tensor]) -> str:
    """``attempt(features)``, (B, …), is the Gram matrix of the flattened features, each row scaled to length 1."""
    features = torch.stack([POINTS, POINTS.flip(0).roll(1, 1) + 0.5], dim=2)  # (5, 3, 2)
    flat = features.flatten(1)
    gram = flat @ flat.T
    expected = gram / gram.norm(dim=1, keepdim=True)
    cosine = F.normalize(flat, dim=1) @ F.normalize(flat, dim=1).T
    answer = ask_tensor(attempt, features.clone(), shape=(5, 5))
    pooled = features.mean(2) @ features.mean(2).T
    recognise(
        answer,
        {
            "these are the cosines between the features. SP does not scale the features: it takes the Gram matrix FFᵀ "
            "first and then scales each of its *rows* to length 1.": cosine,
            "you scale the features first and the rows afterwards; take the Gram matrix of the features as they are.": (
                F.normalize(cosine, dim=1)
            ),
            "this is the Gram matrix; now divide each row by its own length.": gram,
            "your columns have length 1; it is the rows that must (`dim=1`).": gram / gram.norm(dim=0, keepdim=True),
            "you divide the whole matrix by one number; each row has a length of its own.": gram / gram.norm(),
            "your rows sum to 1; they must have *length* 1, the root of the sum of squares.": (
                gram / gram.sum(1, keepdim=True)
            ),
            "the absolute values of your rows sum to 1; they must have *length* 1 (the L2 norm).": (
                F.normalize(gram, p=1, dim=1)
            ),
            "a softmax of the rows is another idea; divide each row by its L2 norm.": gram.softmax(1),
            "you average over positions before you compare; SP keeps all of them: `features.flatten(1)`.": (
                F.normalize(pooled, dim=1)
            ),
        },
    )
    require(close(answer, expected), "this is not FFᵀ with each row divided by its length; F is (B, everything else).")
    silent = features.clone()
    silent[2] = 0
    answer = ask_tensor(attempt, silent, shape=(5, 5))
    require(
        bool(torch.isfinite(answer).all()),
        "right so far, but a sample whose features are all 0 (ReLU can do that) makes a row of 0, and you divide it by "
        "its length 0. `F.normalize(…, dim=1)` leaves it 0.",
    )
    return "similarities as each sample sees them: a row has length 1, and the matrix need not be symmetric."


@exercise
def centred_sp(attempt: Callable[[Tensor, Tensor], Tensor]) -> str:
    """``attempt(student, teacher)``, (B, D) each, is the similarity-preserving loss of the two centred batches."""
    student, teacher = POINTS, torch.stack([POINTS[:, 0] * POINTS[:, 2], POINTS[:, 1] + 4], dim=1)
    loss = similarity_preserving_loss

    def centred(embedding: Tensor) -> Tensor:
        return embedding - embedding.mean(0)

    def standardised(embedding: Tensor) -> Tensor:
        return centred(embedding) / embedding.std(0)

    answer = ask_tensor(attempt, student.clone().requires_grad_(), teacher.clone(), shape=())
    expected = loss(centred(student), centred(teacher))
    recognise(
        answer.detach(),
        {
            "this is plain SP still; subtract the mean of the batch from both sides first.": loss(student, teacher),
            "you subtract each sample's own mean (`dim=1`); the origin is moved by the mean over the *samples*, "
            "`embedding.mean(0)`.": loss(
                student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True)
            ),
            "you subtract one number from all features; each feature has a mean of its own, `embedding.mean(0)`.": (
                loss(student - student.mean(), teacher - teacher.mean())
            ),
            "only the student is centred; a shift of the teacher would still move this loss.": (
                loss(centred(student), teacher)
            ),
            "only the teacher is centred; a shift of the student would still move this loss.": (
                loss(student, centred(teacher))
            ),
            "you measure from the first sample of the batch. A shift cannot move that, but the order of the batch "
            "can; measure from the mean.": loss(student - student[0], teacher - teacher[0]),
            "dividing each feature by its standard deviation too goes too far: rotating the features would then change "
            "the loss. Subtract the mean, and leave it at that.": loss(standardised(student), standardised(teacher)),
            "you scale the centred features to length 1. That makes a cosine, and another loss; SP scales the rows of "
            "the Gram matrix.": loss(F.normalize(centred(student), dim=1), F.normalize(centred(teacher), dim=1)),
            "this is the sum of the squared differences; SP divides by B².": 25 * expected,
            "this divides by B once; SP divides by B², the number of entries.": 5 * expected,
        },
    )
    if not close(answer.detach(), expected):
        try:
            shifted = ask_tensor(attempt, student + torch.tensor([5.0, -3.0, 1.0]), teacher.clone(), shape=())
        except Mistake:
            shifted = answer
        require(close(shifted, answer), "a shift of the student still moves this loss; subtract `embedding.mean(0)`.")
        raise Mistake("it is blind to a shift, but it is not SP of the centred batches; centre, then SP, no more.")
    require(answer.requires_grad, "the value is right, but no gradient reaches the student: nothing may be detached.")
    return "turned, scaled or shifted, the batch is the same to it."
