"""Losses on how samples stand to one another: the geometry of a batch, not the place of any one sample in it.

Student and teacher need the same samples in the same order, but not the same width. Every loss here is unchanged when
both batches are reordered together, and has a finite gradient when two samples coincide. What is no floating-point
tensor is a ``TypeError``, other shapes than the docstring names are a ``ValueError``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course._validation import batch_pair, layer_pairs, not_negative, positive, same_width, whole
from kd_course.losses._geometry import rescaled_by, unit
from kd_course.losses._precision import divergence, loss

__all__ = [
    "correlation_congruence_loss", "irg_loss", "pkt_loss", "rkd_angle_loss", "rkd_distance_loss",
    "similarity_preserving_loss",
]  # fmt: skip


@loss
def rkd_distance_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    r"""RKD-D: the pairwise distances of the student should have the proportions of the teacher's.

    .. math:: \frac{1}{B^2} \sum_{ij} \ell_1\!\left(\frac{d^s_{ij}}{\mu_s}, \frac{d^t_{ij}}{\mu_t}\right),
              \quad d_{ij} = \|f_i - f_j\|_2

    ℓ₁ is the Huber loss with δ = 1, μ the mean of the nonzero distances of the batch. Distances are not squared.
    Unchanged by rotating, shifting or scaling either side.

    Args:
        student_embedding: (B, D), B ≥ 2.
        teacher_embedding: (B, D').

    Raises:
        TypeError: embeddings that are not floating-point tensors.
        ValueError: embeddings that are not (B, D), batches that differ, or a batch of one.

    Reference: Park et al. 2019, *Relational Knowledge Distillation*, arXiv:1904.05068. Their weights: 1 (25 in
    RepDistiller).

    >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> rkd_distance_loss(square, 3 * square + 7).item() < 1e-12
    True
    """
    student, teacher = batch_pair(student_embedding, teacher_embedding, "embeddings", ndim=2)
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


@loss
def rkd_angle_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    r"""RKD-A: the angle that two samples make at a third should be the teacher's.

    .. math:: \frac{1}{B^3} \sum_{ijk} \ell_1\big(\langle e^s_{ij}, e^s_{kj} \rangle,
              \langle e^t_{ij}, e^t_{kj} \rangle\big), \quad e_{ij} = \frac{f_i - f_j}{\|f_i - f_j\|_2}

    An angle is measured between *differences* at the vertex j, over all triplets: it is not the cosine between
    embeddings. Unchanged by rotating, shifting or scaling either side. Time and memory grow as B³.

    Args:
        student_embedding: (B, D), B ≥ 2.
        teacher_embedding: (B, D').

    Reference: Park et al. 2019, arXiv:1904.05068. Their weight: 2 (50 in RepDistiller).

    >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> rkd_angle_loss(corner, 5 * corner - 1).item() < 1e-12
    True
    """
    student, teacher = batch_pair(student_embedding, teacher_embedding, "embeddings", ndim=2)
    return F.smooth_l1_loss(_cosines_at_vertices(student), _cosines_at_vertices(teacher))


@loss
def similarity_preserving_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    r"""SP: samples that excite the teacher alike should excite the student alike.

    .. math:: \frac{1}{B^2} \| G_s - G_t \|_F^2, \quad G = \text{rows of } F F^\top \text{ scaled to length 1}

    F is the feature with everything after the batch flattened. Each *row of the Gram matrix* is normalised, which is
    not the same as the cosine between features. Unchanged by rotating or scaling either side, but not by shifting it.

    Args:
        student_feature: (B, …), B ≥ 2.
        teacher_feature: (B, …), of any trailing shape.

    Reference: Tung & Mori 2019, *Similarity-Preserving Knowledge Distillation*, arXiv:1907.09682. Their weight: 3000.

    >>> feature = torch.eye(3)
    >>> similarity_preserving_loss(feature, 2 * feature).item() < 1e-12
    True
    """
    student, teacher = batch_pair(student_feature, teacher_feature, "features")
    grams = [unit(feature.flatten(1) @ feature.flatten(1).T, dim=1) for feature in (student, teacher)]  # (B, B)
    return F.mse_loss(*grams)


@loss
def correlation_congruence_loss(
    student_embedding: Tensor, teacher_embedding: Tensor, *, order: int = 2, gamma: float = 0.4
) -> Tensor:
    r"""CC: the matrix of kernel similarities within the batch should be the teacher's.

    .. math:: \frac{1}{B^2} \| K(f_s) - K(f_t) \|_F^2, \quad
              K_{ij} = \sum_{p=0}^{P} e^{-2\gamma} \frac{(2\gamma)^p}{p!} \langle f_i, f_j \rangle^p

    Rows of f are scaled to length 1, where the sum is the Taylor series of the Gaussian kernel
    exp(-γ‖f_i - f_j‖²): with growing ``order`` P it becomes that kernel. Unrelated to contrastive (CRD) losses.

    Args:
        student_embedding: (B, D), B ≥ 2.
        teacher_embedding: (B, D').
        order: P ≥ 1, highest power of the series.
        gamma: γ > 0, inverse squared width of the kernel.

    Raises:
        ValueError: as :func:`rkd_distance_loss`; also P < 1 or γ ≤ 0.

    Reference: Peng et al. 2019, *Correlation Congruence for Knowledge Distillation*, arXiv:1904.01802 (P = 2, γ = 0.4).

    >>> embedding = torch.eye(3)
    >>> correlation_congruence_loss(embedding, 4 * embedding).item() < 1e-12
    True
    """
    student, teacher = batch_pair(student_embedding, teacher_embedding, "embeddings", ndim=2)
    order = whole(order, "order", least=1)
    kernels = [_taylor_kernel(embedding, order, positive(gamma, "gamma")) for embedding in (student, teacher)]
    return F.mse_loss(*kernels)


@loss
def irg_loss(
    student_features: Tensor | Sequence[Tensor],
    teacher_features: Tensor | Sequence[Tensor],
    *,
    vertex_weight: float = 1.0,
    edge_weight: float = 1.0,
    transform_weight: float = 1.0,
) -> Tensor:
    r"""IRG: match the instance relationship graph of a batch, layer by layer, and how it changes between layers.

    .. math:: \frac{w_v}{B} \| f^L_s - f^L_t \|_F^2 + \frac{w_e}{B^2} \sum_l \| A^l_s - A^l_t \|_F^2
              + \frac{w_\tau}{B} \sum_{l<L} \| \Lambda^l_s - \Lambda^l_t \|^2

    Vertices are the samples' features in the last layer, edges their squared distances A_ij = ‖f_i - f_j‖² / max, and
    the transformation is how far each sample moves from one layer to the next, Λ_i = ‖f_i^{l+1} - f_i^l‖² / max.

    Args:
        student_features: (B, …), or a list with one tensor per layer; B ≥ 2.
        teacher_features: likewise, with the same number of layers.
        vertex_weight: w_v ≥ 0. Unless it is 0, student and teacher need one width in the last layer.
        edge_weight: w_e ≥ 0. Edges compare any two widths.
        transform_weight: w_τ ≥ 0. Unless it is 0, the layers of each network need one width.

    Raises:
        ValueError: as :func:`rkd_distance_loss`; also layers or widths that cannot be compared, or a weight below 0.

    Reference: Liu et al. 2019, *Knowledge Distillation via Instance Relationship Graph*, CVPR; distances scaled by
    their maximum as in the authors' Caffe layers. Unlike there, the gradient passes through the maximum.

    >>> logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    >>> irg_loss(logits, logits).item(), irg_loss(logits, logits + 1, vertex_weight=0).item() < 1e-12
    (0.0, True)
    """
    students = [student_features] if isinstance(student_features, Tensor) else list(student_features)
    teachers = [teacher_features] if isinstance(teacher_features, Tensor) else list(teacher_features)
    pairs = layer_pairs(students, teachers)
    not_negative(vertex_weight, "vertex_weight")
    not_negative(edge_weight, "edge_weight")
    not_negative(transform_weight, "transform_weight")
    pairs = [batch_pair(s, t, "features") for s, t in pairs]
    layers_s, layers_t = ([layer.flatten(1) for layer in side] for side in zip(*pairs, strict=True))

    total = edge_weight * sum(F.mse_loss(_edges(s), _edges(t)) for s, t in zip(layers_s, layers_t, strict=True))
    if vertex_weight:
        same_width(layers_s[-1], layers_t[-1], "vertex_weight")
        total = total + vertex_weight * (layers_s[-1] - layers_t[-1]).square().sum(1).mean()
    if transform_weight and len(layers_s) > 1:
        moves = [[_moves(before, after) for before, after in pairwise(layers)] for layers in (layers_s, layers_t)]
        total = total + transform_weight * sum(F.mse_loss(s, t) for s, t in zip(*moves, strict=True))
    return total


@loss
def pkt_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    r"""PKT: for each sample, the probability of picking every sample as its neighbour should be the teacher's.

    .. math:: \frac{1}{B} \sum_i KL(t_{i\cdot} \,\|\, s_{i\cdot}), \quad
              p_{ij} = \frac{1 + \cos(f_i, f_j)}{\sum_k (1 + \cos(f_i, f_k))}

    The reference code averages over B² entries instead of summing over each row; that value is this one divided by B.

    Args:
        student_embedding: (B, D), B ≥ 2.
        teacher_embedding: (B, D').

    Reference: Passalis & Tefas 2018, *Learning Deep Representations with Probabilistic Knowledge Transfer*,
    arXiv:1803.10837.

    >>> embedding = torch.eye(3)
    >>> abs(pkt_loss(embedding, 2 * embedding).item()) < 1e-6
    True
    """
    student, teacher = batch_pair(student_embedding, teacher_embedding, "embeddings", ndim=2)
    logits, log_p = [], []
    for embedding in (student, teacher):
        direction = unit(embedding, dim=1)
        similarity = (1 + direction @ direction.T).clamp_min(torch.finfo(embedding.dtype).eps)  # (B, B), in [0, 2]
        logits.append(similarity.log())
        log_p.append(logits[-1] - similarity.sum(1, keepdim=True).log())
    return divergence(*log_p, lambda: logits[1] - logits[0])


def _relative_distances(embedding: Tensor) -> Tensor:
    """Pairwise distances (B, B), divided by the mean of those that are not 0."""
    distances = torch.linalg.vector_norm(embedding[:, None] - embedding[None], dim=2)
    apart = distances > 0
    return rescaled_by(distances, distances.sum() / apart.sum().clamp_min(1))


def _cosines_at_vertices(embedding: Tensor) -> Tensor:
    """(B, B, B): element [j, i, k] is the cosine of the angle at sample j between samples i and k."""
    directions = unit(embedding[None] - embedding[:, None], dim=2)  # (B, B, D): [j, i] points from j to i
    return directions @ directions.transpose(1, 2)


def _taylor_kernel(embedding: Tensor, order: int, gamma: float) -> Tensor:
    """Gaussian kernel (B, B) of the rows scaled to length 1, as a Taylor series up to ``order``."""
    direction = unit(embedding, dim=1)
    cosine = direction @ direction.T
    return math.exp(-2 * gamma) * sum((2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))


def _edges(feature: Tensor) -> Tensor:
    """Squared pairwise distances (B, B), divided by the largest."""
    squared = (feature[:, None] - feature[None]).square().sum(2)
    return rescaled_by(squared, squared.max())


def _moves(before: Tensor, after: Tensor) -> Tensor:
    """How far each sample moves between two layers (B,): squared distance, divided by the largest."""
    same_width(before, after, "transform_weight")
    squared = (after - before).square().sum(1)
    return rescaled_by(squared, squared.max())
