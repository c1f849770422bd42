"""Contrastive losses: tell your pair from the others.

Two different losses go by that name. :class:`CRDLoss` is contrastive representation distillation as published:
noise-contrastive estimation, a binary decision per candidate against a memory bank of all training samples, with
student and teacher each as anchor. :func:`info_nce_loss` picks the right one among the batch with a softmax; it is
simpler and is *not* CRD.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course._validation import batch_pair, number, softening, whole, widened
from kd_course.losses._geometry import unit
from kd_course.losses._precision import loss
from kd_course.runtime import seeded

__all__ = ["CRDLoss", "info_nce_loss", "nce_loss"]


@loss
def info_nce_loss(student_embedding: Tensor, teacher_embedding: Tensor, *, temperature: float) -> Tensor:
    r"""In-batch InfoNCE: each student embedding should pick its own sample's teacher embedding out of the batch.

    .. math:: -\frac{1}{B} \sum_i \log \frac{e^{\cos(s_i, t_i)/\tau}}{\sum_j e^{\cos(s_i, t_j)/\tau}}

    The other B - 1 samples of the batch are the negatives. Equal scores give log B. log B minus the loss bounds the
    mutual information of the pair from below.

    Args:
        student_embedding: (B, D), B ≥ 2.
        teacher_embedding: (B, D), the same width.
        temperature: τ > 0, the sharpness of the choice (not the T of soft targets).

    Returns:
        A scalar in nats.

    Raises:
        TypeError: embeddings that are not floating-point tensors.
        ValueError: embeddings that are not (B, D), sizes that differ, a batch of one, or τ ≤ 0.

    Reference: van den Oord, Li & Vinyals 2018, *Representation Learning with Contrastive Predictive Coding*,
    arXiv:1807.03748.

    >>> same = torch.ones(4, 3)
    >>> round(info_nce_loss(same, same, temperature=0.1).item(), 4) == round(math.log(4), 4)
    True
    """
    student, teacher = batch_pair(student_embedding, teacher_embedding, "embeddings", ndim=2)
    if student.shape != teacher.shape:
        raise ValueError(f"embeddings {tuple(student.shape)} and {tuple(teacher.shape)} differ in width; project both")
    scores = unit(student, dim=1) @ unit(teacher, dim=1).T / softening(temperature)  # (B, B)
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


@loss
def nce_loss(positive_log_score: Tensor, negative_log_scores: Tensor, *, samples: int) -> Tensor:
    r"""Noise-contrastive estimation for one anchor side: is this candidate my pair, or one of K drawn by chance?

    .. math:: -\frac{1}{B} \sum_b \Big[ \log h(p_b) + \sum_{k=1}^{K} \log(1 - h(p_{bk})) \Big], \quad
              h(p) = \frac{p}{p + K/M}

    All scores at chance, p = 1/M, give log(1 + K) + K·log(1 + 1/K).

    Args:
        positive_log_score: log p of each anchor's own pair, (B,).
        negative_log_scores: log p of its K negatives, (B, K).
        samples: M, the number of training samples the negatives are drawn from.

    Returns:
        A scalar in nats.

    Raises:
        TypeError: scores that are not floating-point tensors.
        ValueError: shapes that do not fit, or M < 2.

    Reference: Tian, Krishnan & Isola 2020, *Contrastive Representation Distillation*, arXiv:1910.10699, equation 18.
    """
    own = widened(positive_log_score, "positive_log_score")
    others = widened(negative_log_scores, "negative_log_scores")
    if others.ndim != 2 or own.shape != others.shape[:1] or not others.numel():
        raise ValueError(
            f"positive_log_score {tuple(own.shape)} and negative_log_scores {tuple(others.shape)} must be (B,) and "
            "(B, K), with B and K at least 1"
        )
    log_noise = math.log(others.shape[1] / whole(samples, "samples", least=2))  # log(K/M)
    own = F.logsigmoid(own - log_noise)  # log h
    others = F.logsigmoid(log_noise - others).sum(1)  # Σ log(1 - h)
    return -(own + others).mean()


class CRDLoss(nn.Module):
    r"""CRD: contrastive representation distillation with a memory bank, student and teacher in turn as anchor.

    .. math:: L = NCE(v_s;\, bank_t) + NCE(v_t;\, bank_s), \quad
              p = \frac{1}{Z} e^{\langle v, bank_j \rangle / \tau}, \quad
              bank_i \leftarrow \mathrm{unit}(m\, bank_i + (1-m)\, v_i)

    Both features are projected linearly to ``dimension`` and scaled to length 1. The positive is the sample's own row
    of the other side's bank; the K negatives are drawn uniformly from all *other* samples. Z is set once, from the
    first batch, so that scores start at 1/M on average.

    The two projections have weights to be learned: train ``nn.ModuleDict({"student": …, "crd": …})``. Banks and Z are
    buffers, saved with the module and moved with it. Its initial state depends on ``seed`` alone and leaves PyTorch's
    generator as it was; negatives are drawn from that generator, which :func:`kd_course.training.fit` seeds.

    Args:
        student_dimension: width of the student's feature, flattened.
        teacher_dimension: width of the teacher's feature, flattened.
        sample_indices: the numbers (``train.indices``) of the M samples that will be trained on; each gets a row in
            the banks.
        dimension: width of the common space.
        negatives: K ≥ 1.
        temperature: τ > 0.
        momentum: m, in [0, 1).
        seed: decides projections and banks at the start.

    Raises:
        ValueError: options out of range, or sample numbers that repeat.

    Reference: Tian, Krishnan & Isola 2020, arXiv:1910.10699 (128 dimensions, K = 16,384, τ = 0.07, m = 0.5; their
    code can also leave the anchor's whole class out of the negatives, which this one does not).

    >>> crd = CRDLoss(64, 512, torch.arange(100), negatives=16)
    >>> crd(torch.randn(8, 64), torch.randn(8, 512), torch.arange(8)).isfinite().item()
    True
    """

    def __init__(
        self,
        student_dimension: int,
        teacher_dimension: int,
        sample_indices: Tensor,
        *,
        dimension: int = 128,
        negatives: int = 16_384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_sample_numbers(sample_indices, "sample_indices")
        samples = whole(sample_indices.numel(), "the number of sample_indices", least=2)
        if not 0 <= number(momentum, "momentum") < 1:
            raise ValueError(f"momentum must lie in [0, 1), not {momentum!r}")
        if sample_indices.ndim != 1 or len(sample_indices.unique()) < samples or sample_indices.min() < 0:
            raise ValueError(
                "sample_indices must be one row of numbers from 0 up, each once; pass train.indices (not labels)"
            )
        self.negatives = whole(negatives, "negatives", least=1)
        self.temperature = softening(temperature)
        self.momentum = momentum
        row = torch.full((int(sample_indices.max()) + 1,), -1, dtype=torch.long)
        row[sample_indices] = torch.arange(samples)
        self.register_buffer("row", row)  # sample number -> row of the banks
        with seeded(seed):
            self.project_student = nn.Linear(student_dimension, dimension)
            self.project_teacher = nn.Linear(teacher_dimension, dimension)
            self.register_buffer("student_bank", unit(torch.randn(samples, dimension), dim=1))
            self.register_buffer("teacher_bank", unit(torch.randn(samples, dimension), dim=1))
        self.register_buffer("log_z", torch.full((2,), math.nan))  # one per anchor side, set by the first batch

    @loss
    def forward(self, student_feature: Tensor, teacher_feature: Tensor, indices: Tensor) -> Tensor:
        """The loss of a batch; in training mode the banks then take the new embeddings in.

        Args:
            student_feature: (B, …).
            teacher_feature: (B, …).
            indices: the samples' numbers, ``batch.indices``, (B,).

        Raises:
            TypeError: features that are not floating-point tensors, or indices that are no whole numbers.
            ValueError: batches that differ or are empty, other widths, or samples without a row.
        """
        student_feature, teacher_feature = batch_pair(student_feature, teacher_feature, "features", least=1)
        _check_sample_numbers(indices, "indices")
        if indices.shape != (len(student_feature),):
            raise ValueError(f"{len(student_feature)} features need as many sample numbers, not {tuple(indices.shape)}")
        rows = self._rows(indices)
        student, teacher = (  # (B, dimension)
            unit(_projected(project, feature.flatten(1), side), dim=1)
            for project, feature, side in (
                (self.project_student, student_feature, "student"),
                (self.project_teacher, teacher_feature, "teacher"),
            )
        )
        candidates = torch.cat([rows[:, None], self.draw_negatives(rows)], dim=1)  # (B, 1 + K), own row first
        total = self._nce(student, self.teacher_bank, candidates, side=0)
        total = total + self._nce(teacher, self.student_bank, candidates, side=1)
        if self.training:
            self._remember(self.student_bank, rows, student)
            self._remember(self.teacher_bank, rows, teacher)
        return total

    def draw_negatives(self, rows: Tensor) -> Tensor:
        """K rows for each of these, uniform over all rows but its own: (B, K)."""
        draw = torch.randint(len(self.student_bank) - 1, (len(rows), self.negatives), device=rows.device)
        return draw + (draw >= rows[:, None])  # skip the own row

    def _rows(self, indices: Tensor) -> Tensor:
        known = (indices >= 0) & (indices < len(self.row))
        rows = self.row[indices.where(known, 0)].where(known, -1)
        if (rows < 0).any():
            raise ValueError(
                f"sample {int(indices[rows < 0][0])} has no row in the memory bank; "
                "make CRDLoss with sample_indices=train.indices of the split you train on"
            )
        return rows

    def _nce(self, anchor: Tensor, bank: Tensor, candidates: Tensor, *, side: int) -> Tensor:
        # All B·M scores cost less than fetching K rows per anchor: those alone fill a gigabyte at B = 128, K = 16,384.
        # The banks change in place after the loss is made, so autograd gets a copy to keep.
        scores = (anchor @ bank.clone().T).gather(1, candidates) / self.temperature  # (B, 1 + K)
        samples = len(bank)
        if self.log_z[side].isnan():
            with torch.no_grad():
                self.log_z[side] = scores.logsumexp((0, 1)) - math.log(scores.numel()) + math.log(samples)
        log_p = scores - self.log_z[side]
        return nce_loss(log_p[:, 0], log_p[:, 1:], samples=samples)

    @torch.no_grad()
    def _remember(self, bank: Tensor, rows: Tensor, embedding: Tensor) -> None:
        bank[rows] = unit(self.momentum * bank[rows] + (1 - self.momentum) * embedding.to(bank.dtype), dim=1)


def _check_sample_numbers(indices: Tensor, what: str) -> None:
    if not isinstance(indices, Tensor) or indices.is_floating_point() or indices.dtype == torch.bool:
        kind = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        raise TypeError(f"{what} must be a tensor of whole sample numbers, as batch.indices are, not {kind}")


def _projected(project: nn.Linear, feature: Tensor, side: str) -> Tensor:
    """The feature (B, D) in the type and the width of the bank."""
    if feature.shape[1] != project.in_features:
        raise ValueError(
            f"{side} features of width {feature.shape[1]} do not fit CRDLoss({side}_dimension={project.in_features})"
        )
    return project(feature.to(project.weight.dtype))
