"""Checks for notebook 05: relative distances, the cosine at a vertex, rows of a Gram matrix, SP without the origin."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks._exercise import Exercise, Given
from kd_course.losses import similarity_preserving_loss

# Five samples with three features each: no two distances alike, none of length 1, none centred.
POINTS = torch.tensor(
    [[0.0, 1.0, 2.0], [3.0, 1.0, -1.0], [0.5, -2.0, 1.0], [4.0, 4.0, 0.0], [1.0, 0.0, -3.0]], dtype=torch.float64
)
TWINS = POINTS[[0, 1, 2, 0]]  # the first sample occurs twice
Table = Callable[[Tensor], Tensor]


def _divided(table: Table, *, by: Table) -> Table:
    """``table`` of the samples, divided by a number, or one for each row, that is made of the table itself."""
    return lambda samples: table(samples) / by(table(samples))


def _cosines(features: Tensor) -> Tensor:
    directions = F.normalize(features.flatten(1), dim=1)
    return directions @ directions.T


# --- distances over their mean --------------------------------------------------------------------------------------


def _lengths(embedding: Tensor) -> Tensor:
    return torch.linalg.vector_norm(embedding[:, None] - embedding[None], dim=2)


def _squares(embedding: Tensor) -> Tensor:
    return (embedding[:, None] - embedding[None]).square().sum(2)


def _manhattan(embedding: Tensor) -> Tensor:
    return torch.cdist(embedding, embedding, p=1)


def _cosine_distances(embedding: Tensor) -> Tensor:
    return 1 - _cosines(embedding)


def _mean_apart(distances: Tensor) -> Tensor:
    return distances[distances > 0].mean()


def _mean_off_diagonal(distances: Tensor) -> Tensor:
    return distances.sum() / (len(distances) * (len(distances) - 1))


def _no_tiny_diagonal(answer: Tensor, _: Tensor) -> bool:
    """False for a small number under the root; what rounding leaves of a cosine distance is smaller still."""
    diagonal, others = answer.diagonal(), answer[~torch.eye(len(answer), dtype=torch.bool)]
    return not 1e-10 < diagonal.max() < others.min()


_relative = _divided(_lengths, by=_mean_apart)

relative_distances = Exercise(
    task="`submission(embedding)` is the (B, B) matrix of distances, divided by the mean of those that are not 0.",
    inputs=[
        Given(POINTS / 100),  # near enough that a small number under the root shows
        Given(TWINS, otherwise="right for samples that all differ, but not where two of them coincide."),
    ],
    solution=_relative,
    gradient=(0,),
    rules={
        "the diagonal is almost 0 and not 0, so it counts in the mean. A small number under the root does that; "
        "`torch.linalg.vector_norm` needs none.": _no_tiny_diagonal,
    },
    mistakes={
        "these are the distances themselves; divide them by the mean of those that are not 0, or a student whose "
        "features are twice as large is punished for nothing.": _lengths,
        "these are squared distances; take the root (RKD compares lengths), then divide by their mean.": _squares,
        "these are squared distances over their mean. RKD takes the root first: squares let the few far pairs "
        "drown all the others.": _divided(_squares, by=_mean_apart),
        "you divide by the mean of all B² entries. The diagonal holds the distance of each sample to itself, "
        "always 0: take the mean of the entries that are not 0.": _divided(_lengths, by=torch.mean),
        "you divide by the largest distance. That is how IRG scales (its squared distances); RKD divides by the "
        "mean.": _divided(_lengths, by=torch.max),
        "you divide by the median; RKD divides by the mean of the distances that are not 0.": (
            _divided(_lengths, by=torch.median),
            _divided(_lengths, by=lambda d: d[d > 0].median()),
        ),
        "each row is divided by its own mean; one mean for the whole batch keeps far samples far.": (
            _divided(_lengths, by=lambda d: d.mean(1, keepdim=True)),
            _divided(_lengths, by=lambda d: d.sum(1, keepdim=True) / (len(d) - 1)),
        ),
        "you add up absolute differences (the L1 distance); RKD takes the Euclidean length, the root of the sum of "
        "squares.": (_manhattan, _divided(_manhattan, by=_mean_apart)),
        "these are cosines between embeddings, not distances; subtract before you take a length.": _cosines,
        "these are cosine distances, which ignore how far out a sample lies; take the length of the difference.": (
            _cosine_distances,
            _divided(_cosine_distances, by=_mean_off_diagonal),
        ),
        "you scale each embedding to length 1 before you measure. That hides how far out a sample lies; measure "
        "the embeddings as they are.": lambda e: _relative(F.normalize(e, dim=1)),
        "right for samples that all differ, but two that coincide are at distance 0 too, and do not count in the mean: "
        "divide by the number of distances above 0, not by B(B-1).": _divided(_lengths, by=_mean_off_diagonal),
        "the values are right, but the gradient is NaN: the root has an infinite slope at 0, and the diagonal is 0. "
        "Use `torch.linalg.vector_norm` or `torch.cdist`, which know about it.": (
            _divided(lambda e: _squares(e).sqrt(), by=_mean_apart)
        ),
        "the values are right, but not the gradient: μ depends on the embeddings as well. Do not `detach` it, or the "
        "student is rewarded for changing its scale.": _divided(_lengths, by=lambda d: _mean_apart(d).detach()),
    },
    otherwise="entry (i, j) is not ‖f_i - f_j‖ / μ; compare with the formula above.",
    praise="proportions only, and a finite gradient even where two samples coincide.",
)


# --- the cosine at a vertex -----------------------------------------------------------------------------------------


def _at_vertex(first: Tensor, vertex: Tensor, second: Tensor) -> Tensor:
    return (F.normalize(first - vertex, dim=1) * F.normalize(second - vertex, dim=1)).sum(1)


def _dot(first: Tensor, vertex: Tensor, second: Tensor) -> Tensor:
    return ((first - vertex) * (second - vertex)).sum(1)


def _over_lengths(first: Tensor, vertex: Tensor, second: Tensor) -> Tensor:
    return _dot(first, vertex, second) / ((first - vertex).norm(dim=1) * (second - vertex).norm(dim=1))


def _over_squares(first: Tensor, vertex: Tensor, second: Tensor) -> Tensor:
    return _dot(first, vertex, second) / ((first - vertex).square().sum(1) * (second - vertex).square().sum(1))


# Where one tensor plays two roles, its gradient is the sum over both, as in RKD for a sample that is its own vertex.
SHORT_ARMS = (
    "right for long arms, but not for short ones: the number that you add to the lengths, or clamp them to, is too "
    "large. `F.normalize` and `F.cosine_similarity` need none."
)
NO_ARM = "an arm of length 0 has no direction; let its cosine be 0."
HERE, THERE = POINTS[:2], POINTS[3:]

vertex_cosine = Exercise(
    task="`submission(first, vertex, second)`, (N, D) each, is the cosine of the angle at the vertex, (N,).",
    inputs=[
        Given(POINTS[[0, 1, 2, 3]], POINTS[[3, 4, 0, 1]], POINTS[[2, 0, 4, 4]]),
        Given(POINTS[:4] / 30, POINTS[[3, 4, 0, 1]] / 30, POINTS[[2, 0, 4, 4]] / 30, otherwise=SHORT_ARMS),
        Given(HERE, HERE, THERE, otherwise=NO_ARM),
        Given(THERE, HERE, HERE, otherwise=NO_ARM),
    ],
    solution=_at_vertex,
    gradient=(0, 1, 2),
    mistakes={
        "right for three different points, but where one of them *is* the vertex you divide 0 by 0, and a batch holds "
        "many such triplets. `F.normalize` and `F.cosine_similarity` give 0 there.": _over_lengths,
        "right for three different points, but where one of them *is* the vertex your cosine is 1; let it "
        "be 0.": lambda a, v, b: _over_lengths(a, v, b).nan_to_num(1.0),
        "the values are right, but where an arm has length 0 the *gradient* is NaN, which ruins a training at its "
        "first batch: a NaN replaced afterwards still flows back. `F.normalize` and `F.cosine_similarity` are safe.": (
            lambda a, v, b: _over_lengths(a, v, b).nan_to_num(0.0)
        ),
        "the values are right, but `vertex` gets no gradient: it is a sample like the other two, so do not `detach` "
        "it.": lambda a, v, b: _at_vertex(a, v.detach(), b),
        "this is the cosine of the raw embeddings `first` and `second`, an angle at the origin. RKD measures at "
        "the vertex: subtract `vertex` from both first.": lambda a, v, b: F.cosine_similarity(a, b, dim=1),
        "the sign is reversed: both arms must point the same way, from the vertex outwards "
        "(`first - vertex` and `second - vertex`).": lambda a, v, b: -_at_vertex(a, v, b),
        SHORT_ARMS: tuple(
            lambda a, v, b, least=10.0**-k: _dot(a, v, b) / ((a - v).norm(dim=1) * (b - v).norm(dim=1) + least)
            for k in range(5, 7)
        ),
        "this is 1 minus the cosine; RKD compares the cosine itself.": lambda a, v, b: 1 - _at_vertex(a, v, b),
        "the sign is lost: beyond a right angle the cosine is negative, and RKD keeps it so.": (
            lambda a, v, b: _at_vertex(a, v, b).abs(),
            lambda a, v, b: _at_vertex(a, v, b).clamp_min(0),
        ),
        "this angle lies at `first`; the vertex is the second argument.": lambda a, v, b: _at_vertex(v, a, b),
        "this angle lies at `second`; the vertex is the second argument.": lambda a, v, b: _at_vertex(a, b, v),
        "this is the dot product of the two arms; divide each arm by its length first.": _dot,
        "you divide by squared lengths; divide each arm by its length, once.": _over_squares,
        "this is the angle in radians; RKD compares its cosine, so leave the arccosine out.": (
            lambda a, v, b: _at_vertex(a, v, b).acos()
        ),
        "this is the angle in degrees; RKD compares its cosine.": lambda a, v, b: _at_vertex(a, v, b).acos().rad2deg(),
    },
    otherwise="this is not ⟨e_ij, e_kj⟩ with e the arms at length 1; compare with the hand calculation.",
    praise="an angle at a vertex: shift, rotate or scale the batch, and it stays the same.",
)


# --- rows of the Gram matrix ----------------------------------------------------------------------------------------


def _gram(features: Tensor) -> Tensor:
    return features.flatten(1) @ features.flatten(1).T


FEATURES = torch.stack([POINTS, POINTS.flip(0).roll(1, 1) + 0.5], dim=2)  # (5, 3, 2)
SILENT = FEATURES * torch.tensor([1.0, 1, 0, 1, 1])[:, None, None]  # ReLU can switch off all features of a sample

gram_rows = Exercise(
    task="`submission(features)`, (B, …), is the Gram matrix of the flattened features, each row scaled to length 1.",
    inputs=[Given(FEATURES), Given(SILENT, otherwise="right so far, but not for a sample whose features are all 0.")],
    solution=lambda f: F.normalize(_gram(f), dim=1),
    mistakes={
        "these are the cosines between the features. SP does not scale the features: it takes the Gram matrix FFᵀ "
        "first and then scales each of its *rows* to length 1.": _cosines,
        "you scale the features first and the rows afterwards; take the Gram matrix of the features as they are.": (
            lambda f: F.normalize(_cosines(f), dim=1)
        ),
        "this is the Gram matrix; now divide each row by its own length.": _gram,
        "your columns have length 1; it is the rows that must (`dim=1`).": lambda f: F.normalize(_gram(f), dim=0),
        "you divide the whole matrix by one number; each row has a length of its own.": (
            _divided(_gram, by=torch.norm),
            _divided(_gram, by=torch.max),
            _divided(_gram, by=torch.mean),
        ),
        "your rows sum to 1; they must have *length* 1, the root of the sum of squares.": (
            _divided(_gram, by=lambda g: g.sum(1, keepdim=True))
        ),
        "the absolute values of your rows sum to 1; they must have *length* 1 (the L2 norm).": (
            _divided(_gram, by=lambda g: g.abs().sum(1, keepdim=True))
        ),
        "you divide each row by its mean; divide it by its *length*, the root of the sum of squares.": (
            _divided(_gram, by=lambda g: g.mean(1, keepdim=True)),
            _divided(_gram, by=lambda g: g.abs().mean(1, keepdim=True)),
        ),
        "you divide each row by its median; divide it by its *length*, the root of the sum of squares.": (
            _divided(_gram, by=lambda g: g.median(1, keepdim=True).values)
        ),
        "you divide each row by its largest entry; divide it by its *length*, the root of the sum of squares.": (
            _divided(_gram, by=lambda g: g.amax(1, keepdim=True))
        ),
        "you divide each row by its squared length; take the root of the sum of squares.": (
            _divided(_gram, by=lambda g: g.square().sum(1, keepdim=True))
        ),
        "a softmax of the rows is another idea; divide each row by its L2 norm.": lambda f: _gram(f).softmax(1),
        "you average over positions before you compare; SP keeps all of them: `features.flatten(1)`.": (
            lambda f: F.normalize(_gram(f.mean(2)), dim=1)
        ),
        "right so far, but a sample whose features are all 0 (ReLU can do that) makes a row of 0, and you divide it by "
        "its length 0. `F.normalize(…, dim=1)` leaves it 0.": _divided(_gram, by=lambda g: g.norm(dim=1, keepdim=True)),
    },
    otherwise="this is not FFᵀ with each row divided by its length; F is (B, everything else).",
    praise="similarities as each sample sees them: a row has length 1, and the matrix need not be symmetric.",
)


# --- similarity preserving without the origin -----------------------------------------------------------------------


def _centre(embedding: Tensor) -> Tensor:
    return embedding - embedding.mean(0)


def _sp_of(change: Table) -> Callable[[Tensor, Tensor], Tensor]:
    """SP of both batches, once they are changed."""
    return lambda s, t: similarity_preserving_loss(change(s), change(t))


_centred = _sp_of(_centre)

centred_sp = Exercise(
    task="`submission(student, teacher)`, (B, D) and (B, D'), is the SP loss of the two centred batches.",
    inputs=[Given(POINTS, torch.stack([POINTS[:, 0] * POINTS[:, 2], POINTS[:, 1] + 4], dim=1))],
    solution=_centred,
    gradient=(0,),  # a teacher may be detached
    mistakes={
        "this is still plain SP; subtract the mean of the batch from both sides first.": similarity_preserving_loss,
        "you subtract each sample's own mean (`dim=1`); the origin is moved by the mean over the *samples*, "
        "`embedding.mean(0)`.": _sp_of(lambda e: e - e.mean(1, keepdim=True)),
        "you subtract one number from all features; each feature has a mean of its own, `embedding.mean(0)`.": (
            _sp_of(lambda e: e - e.mean())
        ),
        "only the student is centred; a shift of the teacher would still move this loss.": (
            lambda s, t: similarity_preserving_loss(_centre(s), t)
        ),
        "only the teacher is centred; a shift of the student would still move this loss.": (
            lambda s, t: similarity_preserving_loss(s, _centre(t))
        ),
        "you measure from the first sample of the batch. A shift cannot move that, but the order of the batch "
        "can; measure from the mean.": _sp_of(lambda e: e - e[0]),
        "you subtract the median. A shift cannot move that, but a rotation can; subtract the mean.": (
            _sp_of(lambda e: e - e.median(0).values)
        ),
        "you also divide each feature by its standard deviation, so that rotating the features changes the loss. "
        "Subtract the mean, and leave it at that.": _sp_of(lambda e: _centre(e) / e.std(0)),
        "you scale the centred features to length 1. That makes a cosine, and another loss; SP scales the rows of "
        "the Gram matrix.": _sp_of(lambda e: F.normalize(_centre(e), dim=1)),
        "this is the sum of the squared differences; SP divides by B².": lambda s, t: len(s) ** 2 * _centred(s, t),
        "the rows of the Gram matrices are not scaled to length 1 before they are compared.": (
            lambda s, t: F.mse_loss(_gram(_centre(s)), _gram(_centre(t)))
        ),
        "this divides by B once; SP divides by B², the number of entries.": lambda s, t: len(s) * _centred(s, t),
        "the value is right, but not the gradient: the mean of the batch moves with every sample, so do not `detach` "
        "it.": _sp_of(lambda e: e - e.mean(0).detach()),
    },
    otherwise="this is not SP of the two centred batches: subtract `embedding.mean(0)` on both sides, so that a shift "
    "of either changes nothing; then SP, and no more.",
    praise="rotate, scale or shift either batch, and the loss stays the same.",
)
