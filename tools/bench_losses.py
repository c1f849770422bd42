"""A plain vectorised reading of every loss's formula, which ``make bench`` sets the package's against.

The plain readings are what one would write down first: right on ordinary numbers, but without the package's checks,
its widening of half precision and its care near zero. A ratio near 1 says that this care costs almost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course import losses
from kd_course.runtime import seeded

BATCH = 128
SHAPES = {"logits": (10,), "embeddings": (128,), "maps": (32, 7, 7)}
SAMPLES, NEGATIVES = 5_000, 1_024  # of CRD's banks
LABELS = torch.arange(BATCH) % 10
NUMBERS = torch.arange(BATCH)

Loss = Callable[[Tensor, Tensor], Tensor]


def soft_target(s: Tensor, t: Tensor) -> Tensor:
    """T²·KL of softened probabilities, T = 4."""
    p, q = F.softmax(s / 4, 1), F.softmax(t / 4, 1)
    return 16 * (q * (q / p).log()).sum(1).mean()


def kd(s: Tensor, t: Tensor) -> Tensor:
    """0.1·CE + 0.9·T²·KL."""
    return 0.1 * F.cross_entropy(s, LABELS) + 0.9 * soft_target(s, t)


def decoupled(s: Tensor, t: Tensor) -> Tensor:
    """T²·(TCKD + 8·NCKD), T = 4, with the label's own logit masked out of the second."""
    target = F.one_hot(LABELS, s.shape[1])
    p, q = F.softmax(s / 4, 1), F.softmax(t / 4, 1)
    p_y, q_y = (p * target).sum(1), (q * target).sum(1)
    tckd = (q_y * (q_y / p_y).log() + (1 - q_y) * ((1 - q_y) / (1 - p_y)).log()).mean()
    p, q = F.softmax(s / 4 - 1000 * target, 1), F.log_softmax(t / 4 - 1000 * target, 1)
    nckd = F.kl_div(p.log().clamp_min(-100), q, reduction="batchmean", log_target=True)
    return 16 * (tckd + 8 * nckd)


def stronger_teacher(s: Tensor, t: Tensor) -> Tensor:
    """T²·(1 - Pearson) of rows and of columns, T = 4."""
    p, q = F.softmax(s / 4, 1), F.softmax(t / 4, 1)
    rows = F.cosine_similarity(p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True), dim=1)
    columns = F.cosine_similarity(p - p.mean(0), q - q.mean(0), dim=0)
    return 16 * (2 - rows.mean() - columns.mean())


def mean_square(s: Tensor, t: Tensor) -> Tensor:
    """Mean of squared differences."""
    return (s - t).pow(2).mean()


def probability_mean_square(s: Tensor, t: Tensor) -> Tensor:
    """The same between softened probabilities."""
    return mean_square(F.softmax(s / 4, 1), F.softmax(t / 4, 1))


def hint(s: Tensor, t: Tensor) -> Tensor:
    """½·‖s - t‖², mean over the batch."""
    return (s - t).pow(2).flatten(1).sum(1).mean() / 2


def attention_transfer(s: Tensor, t: Tensor) -> Tensor:
    """Mean squared difference of attention maps."""
    return mean_square(*(F.normalize(f.pow(2).mean(1).flatten(1)) for f in (s, t)))


def rkd_distance(s: Tensor, t: Tensor) -> Tensor:
    """Huber of distances over their mean."""
    distances = [(f[:, None] - f[None]).norm(dim=2) for f in (s, t)]
    return F.smooth_l1_loss(*(d / d[d > 0].mean() for d in distances))


def rkd_angle(s: Tensor, t: Tensor) -> Tensor:
    """Huber of the cosines at every vertex."""
    directions = [F.normalize(f[None] - f[:, None], dim=2) for f in (s, t)]
    return F.smooth_l1_loss(*(torch.bmm(e, e.transpose(1, 2)) for e in directions))


def similarity_preserving(s: Tensor, t: Tensor) -> Tensor:
    """Mean squared difference of row-normalised Gram matrices."""
    return mean_square(*(F.normalize(f.flatten(1) @ f.flatten(1).T) for f in (s, t)))


def correlation_congruence(s: Tensor, t: Tensor) -> Tensor:
    """Mean squared difference of the kernels to second order, γ = 0.4."""
    cosines = [F.normalize(f) @ F.normalize(f).T for f in (s, t)]
    return mean_square(*(math.exp(-0.8) * (1 + 0.8 * c + 0.32 * c.pow(2)) for c in cosines))


def irg(s: Tensor, t: Tensor) -> Tensor:
    """Vertices and edges of one layer."""
    squares = [(f[:, None] - f[None]).pow(2).sum(2) for f in (s, t)]
    return (s - t).pow(2).sum(1).mean() + mean_square(*(d / d.max() for d in squares))


def pkt(s: Tensor, t: Tensor) -> Tensor:
    """KL of the probabilities to be picked as a neighbour."""
    similar = [1 + F.normalize(f) @ F.normalize(f).T for f in (s, t)]
    p, q = (matrix / matrix.sum(1, keepdim=True) for matrix in similar)
    return (q * (q / p).log()).sum(1).mean()


def info_nce(s: Tensor, t: Tensor) -> Tensor:
    """-log of the share of each sample's own teacher, τ = 0.1."""
    powers = (F.normalize(s) @ F.normalize(t).T / 0.1).exp()
    return -(powers.diagonal() / powers.sum(1)).log().mean()


class PlainCRD(nn.Module):
    """CRD with the rows of every candidate fetched from the bank, and exponentials as printed."""

    def __init__(self, crd: losses.CRDLoss) -> None:
        super().__init__()
        self.layers, self.temperature = [crd.project_student, crd.project_teacher], crd.temperature
        self.banks = [crd.student_bank.clone(), crd.teacher_bank.clone()]
        self.z = [None, None]

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        """The loss with each side as the anchor; then both banks are updated."""
        v = [F.normalize(layer(f)) for layer, f in zip(self.layers, (s, t), strict=True)]
        others = torch.randint(SAMPLES - 1, (BATCH, NEGATIVES))
        rows = torch.cat([NUMBERS[:, None], others + (others >= NUMBERS[:, None])], 1)
        loss = 0
        for side in (0, 1):
            powers = (torch.bmm(self.banks[1 - side][rows], v[side][:, :, None])[:, :, 0] / self.temperature).exp()
            self.z[side] = self.z[side] or powers.mean().item() * SAMPLES
            p, noise = powers / self.z[side], NEGATIVES / SAMPLES
            h = p / (p + noise)
            loss = loss - (h[:, 0].log() + (1 - h[:, 1:]).log().sum(1)).mean()
        for bank, new in zip(self.banks, v, strict=True):
            bank[NUMBERS] = F.normalize(0.5 * bank[NUMBERS] + 0.5 * new.detach())
        return loss


def CRD() -> losses.CRDLoss:  # noqa: N802
    """CRD with its banks."""
    with seeded(0):
        return losses.CRDLoss(128, 128, torch.arange(SAMPLES), negatives=NEGATIVES)


PAIRS: dict[str, tuple[Loss | None, Loss | None, str]] = {
    "soft_target_loss": (partial(losses.soft_target_loss, temperature=4), soft_target, "logits"),
    "kd_loss": (lambda s, t: losses.kd_loss(s, t, LABELS, temperature=4, alpha=0.9), kd, "logits"),
    "dkd_loss": (
        lambda s, t: losses.dkd_loss(s, t, LABELS, alpha=1, beta=8, temperature=4),
        decoupled,
        "logits",
    ),
    "dist_loss": (partial(losses.dist_loss, beta=1, gamma=1, temperature=4), stronger_teacher, "logits"),
    "logit_mse_loss": (losses.logit_mse_loss, mean_square, "logits"),
    "probability_mse_loss": (
        partial(losses.probability_mse_loss, temperature=4),
        probability_mean_square,
        "logits",
    ),
    "regression_kd_loss": (losses.regression_kd_loss, mean_square, "logits"),
    "hint_loss": (losses.hint_loss, hint, "maps"),
    "attention_transfer_loss": (
        lambda s, t: losses.attention_transfer_loss([s], [t]),
        attention_transfer,
        "maps",
    ),
    "similarity_preserving_loss": (losses.similarity_preserving_loss, similarity_preserving, "maps"),
    "rkd_distance_loss": (losses.rkd_distance_loss, rkd_distance, "embeddings"),
    "rkd_angle_loss": (losses.rkd_angle_loss, rkd_angle, "embeddings"),
    "correlation_congruence_loss": (losses.correlation_congruence_loss, correlation_congruence, "embeddings"),
    "irg_loss": (losses.irg_loss, irg, "embeddings"),
    "pkt_loss": (losses.pkt_loss, pkt, "embeddings"),
    "info_nce_loss": (partial(losses.info_nce_loss, temperature=0.1), info_nce, "embeddings"),
    "CRDLoss": (None, None, "embeddings"),  # has banks, so each comparison makes its own
}
"""Name of a loss: the package's, the plain reading, the kind of input."""


def make_pair(name: str) -> tuple[Loss, Loss, tuple[int, ...]]:
    """A loss, its plain reading, and the shape of what they compare."""
    ours, plain, kind = PAIRS[name]
    if ours is None:
        crd = CRD()
        ours, plain = partial(_numbered, crd), PlainCRD(crd)
    return ours, plain, (BATCH, *SHAPES[kind])


def _numbered(crd: losses.CRDLoss, s: Tensor, t: Tensor) -> Tensor:
    return crd(s, t, NUMBERS)
