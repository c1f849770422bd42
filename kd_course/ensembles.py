"""Many teachers: averaging what they say, weighing them, measuring how much they differ.

The functions work on a table of member logits (M, N, C), M members by N samples by C classes, as :func:`member_logits`
makes it once; :class:`Ensemble` is the same average as one network, for deployment and latency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course.data import Split
from kd_course.inference import predict

Average = Literal["probabilities", "logits"]


def member_logits(members: Sequence[nn.Module], split: Split) -> Tensor:
    """Logits of every member for every sample of ``split``: (M, N, C), float32, on the CPU.

    Raises:
        ValueError: no members, or members that answer with different numbers of classes.
    """
    if not members:
        raise ValueError("an ensemble needs one member at least, and none was given")
    tables = [predict(member, split) for member in members]
    classes = [table.shape[1] for table in tables]
    if len(set(classes)) > 1:
        raise ValueError(
            f"members must know the same classes, but answer with {classes} of them; check each one's last layer"
        )
    return torch.stack(tables)


def average_probabilities(logits: Tensor, weights: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
    """The arithmetic mean of the members' softened probabilities, as logits.

    .. math:: z = T \\log \\sum_m w_m \\, softmax(z_m / T)

    Softening the result at the same T gives back exactly the mean probabilities, so it can stand wherever one teacher's
    logits stand: distilling from it equals distilling from all members at once, up to a constant. Its NLL is at most
    the mean NLL of the members (Jensen).

    Args:
        logits: (M, N, C). weights: (M,), not negative, summing to 1; equal ones if None. A member with weight 0 takes
            no part, and its weight gets no gradient.
        temperature: T > 0 at which the probabilities are averaged.

    Returns:
        (N, C), in float32 or wider.

    Raises:
        ValueError: not (M, N, C), weights that do not fit or do not sum to 1, T ≤ 0.

    >>> two = torch.tensor([[[0.0, 0.0]], [[math.log(3.0), 0.0]]])
    >>> average_probabilities(two).softmax(1)
    tensor([[0.6250, 0.3750]])
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a finite number above 0, not {temperature!r}")
    logits, weights = _checked(logits, weights)
    log_weights = torch.where(weights > 0, weights, 1).log().masked_fill(weights == 0, -math.inf)  # 0, but never 0/0
    log_p = F.log_softmax(logits / temperature, dim=2)  # (M, N, C)
    return temperature * torch.logsumexp(log_weights[:, None, None] + log_p, dim=0)


def average_logits(logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of the members' logits, which is the normalised geometric mean of their probabilities.

    .. math:: z = \\sum_m w_m z_m, \\quad softmax(z) \\propto \\prod_m softmax(z_m)^{w_m}

    A member that is sure something is wrong can veto it here; in the arithmetic mean it cannot. The two are different
    ensembles.

    Args:
        logits: (M, N, C). weights: (M,), not negative, summing to 1; equal ones if None.

    Returns:
        (N, C), in float32 or wider.

    Raises:
        ValueError: as :func:`average_probabilities`.

    >>> average_logits(torch.tensor([[[2.0, 0.0]], [[0.0, 4.0]]]))
    tensor([[1., 2.]])
    """
    logits, weights = _checked(logits, weights)
    return torch.einsum("m,mnc->nc", weights, logits)


def combine(logits: Tensor, weights: Tensor | None = None, *, average: Average = "probabilities") -> Tensor:
    """:func:`average_probabilities` at T = 1 or :func:`average_logits`, by name."""
    return (average_probabilities if _known(average) == "probabilities" else average_logits)(logits, weights)


def fit_weights(logits: Tensor, labels: Tensor, *, average: Average = "probabilities", steps: int = 50) -> Tensor:
    """Weights of the members that minimise the NLL of the ensemble, for use with *validation* logits and labels.

    .. math:: w = softmax(a), \\quad a = \\arg\\min_a NLL\\big(y, \\, ensemble(w)\\big), \\quad a_0 = 0

    Only ``a`` is learned; the members are tables and cannot change. Fitted on training data the weights would favour
    the member that overfits most.

    Args:
        logits: (M, N, C) on the validation split. labels: (N,). average: which ensemble. steps: of L-BFGS.

    Returns:
        (M,), positive, summing to 1.

    Raises:
        ValueError: as :func:`average_probabilities`, or labels of another length.
    """
    logits = _with_labels(logits.detach().double(), labels)
    a = torch.zeros(len(logits), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([a], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(combine(logits, a.softmax(0), average=average), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return a.detach().softmax(0).float()


def disagreement(logits: Tensor) -> Tensor:
    """For each pair of members, the fraction of samples they answer differently: (M, M), zero on the diagonal.

    Args:
        logits: (M, N, C).

    Raises:
        ValueError: not (M, N, C).
    """
    answers = _checked(logits, None)[0].argmax(2)  # (M, N)
    return (answers[:, None] != answers[None]).double().mean(2)


def error_overlap(logits: Tensor, labels: Tensor) -> Tensor:
    """For each pair of members, the errors they share over the errors either makes: (M, M), in [0, 1].

    1 means that they fail on the same samples, so that averaging them corrects nothing. Two members without any error
    have overlap 0.

    Args:
        logits: (M, N, C). labels: (N,).

    Raises:
        ValueError: not (M, N, C), or labels of another length.
    """
    wrong = (_with_labels(logits, labels).argmax(2) != labels).double()  # (M, N)
    shared = wrong @ wrong.T
    either = wrong.sum(1)[:, None] + wrong.sum(1)[None] - shared
    return shared / either.clamp_min(1)


class Ensemble(nn.Module):
    """Several frozen networks that answer as one.

    Args:
        members: modules with the same classes, in evaluation mode.
        weights: (M,), not negative, summing to 1; equal ones if None.
        average: what is averaged: ``"probabilities"`` or ``"logits"``.

    Its output (B, C) is logits: for probabilities the logarithm of their mean.

    Raises:
        ValueError: no members, a member in training mode, whole or in part (its dropout would roll dice), weights that
            do not fit, or no such average.

    >>> ensemble = Ensemble([nn.Flatten().eval(), nn.Flatten().eval()])
    >>> ensemble(torch.tensor([[0.0, 0.0]])).exp()
    tensor([[0.5000, 0.5000]])
    """

    def __init__(
        self, members: Sequence[nn.Module], weights: Tensor | None = None, *, average: Average = "probabilities"
    ) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs one member at least, and none was given")
        modes = [[part.training for part in member.modules()] for member in members]
        if training := [number for number, parts in enumerate(modes) if any(parts)]:
            raise ValueError(f"members {training} are in training mode; freeze(member) them first")
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", _checked(torch.empty(len(members), 1, 1), weights)[1].detach().clone())
        self.average = _known(average)
        self.eval()  # a module is born in training mode

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of the ensemble for ``images``."""
        answers = [member(images) for member in self.members]
        if len({answer.shape for answer in answers}) > 1:
            raise ValueError(
                f"members must know the same classes, but answer with {[answer.shape[1] for answer in answers]}"
            )
        return combine(torch.stack(answers), self.weights, average=self.average)

    def train(self, mode: bool = True) -> Ensemble:
        """Stay in evaluation mode, whatever is asked: members are never trained here."""
        return super().train(False)


def _known(average: Average) -> Average:
    if average not in ("probabilities", "logits"):
        raise ValueError(f"average must be 'probabilities' or 'logits', not {average!r}")
    return average


def _with_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """The table of logits, once it is known to have one label for every sample."""
    logits, _ = _checked(logits, None)
    if labels.shape != logits.shape[1:2]:
        raise ValueError(
            f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)} of (members, samples, classes); "
            "both must be of the same samples"
        )
    return logits


def _checked(logits: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The table of logits, half precision widened to float32, and weights (M,) that fit it, of its type."""
    if logits.ndim != 3 or not logits.numel():
        raise ValueError(
            f"member logits must be (members, samples, classes), not {tuple(logits.shape)}; use member_logits()"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    members = len(logits)
    if weights is None:
        return logits, torch.full((members,), 1 / members, dtype=logits.dtype, device=logits.device)
    total = float(weights.detach().sum())
    if weights.shape != (members,) or (weights < 0).any() or not math.isclose(total, 1, abs_tol=1e-4):
        raise ValueError(
            f"{members} members need as many weights, none negative, that sum to 1; "
            f"these have shape {tuple(weights.shape)} and sum to {total:.4g}; try softmax"
        )
    return logits, weights.to(logits)
