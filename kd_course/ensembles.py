"""Many teachers: average their predictions, weight them, and measure how much they differ.

The functions work on a table of member logits (M, N, C), M members by N samples by C classes, which
:func:`member_logits` makes once, and raise ``ValueError`` for a table of another shape. :class:`Ensemble` is the same
average as one network, for deployment and latency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course._validation import positive
from kd_course.data import Split
from kd_course.inference import predict

Average = Literal["probabilities", "logits"]


def member_logits(members: Sequence[nn.Module], split: Split) -> Tensor:
    """Logits (M, N, C), float32, on the CPU, of M networks for N samples; each is run in evaluation mode.

    Raises:
        ValueError: there are no members, or they return different numbers of classes.
    """
    _check_members(members)
    return _stacked([predict(member, split) for member in members])


def average_probabilities(logits: Tensor, weights: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
    r"""The arithmetic mean of the members' softened probabilities, as logits.

    .. math:: z = T \log \sum_m w_m \, softmax(z_m / T)

    Softening the result at the same T gives back exactly the mean probabilities, so it can take the place of one
    teacher's logits: distilling from it equals distilling from all members at once, up to a constant. Its NLL is at
    most the mean NLL of the members (Jensen).

    Args:
        logits: member logits (M, N, C).
        weights: (M,), none negative, summing to 1; equal weights if None. A member with weight 0 has no influence,
            and its weight gets no gradient.
        temperature: T > 0 at which the probabilities are averaged.

    Returns:
        Logits (N, C) of the ensemble, in float32 or wider.

    Raises:
        ValueError: the weights do not fit or do not sum to 1, or T ≤ 0.

    >>> two = torch.tensor([[[0.0, 0.0]], [[math.log(3.0), 0.0]]])
    >>> average_probabilities(two).softmax(1)
    tensor([[0.6250, 0.3750]])
    """
    positive(temperature, "temperature")
    logits, weights = _checked(logits, weights)
    log_weights = torch.where(weights > 0, weights, 1).log().masked_fill(weights == 0, -math.inf)  # 0, but never 0/0
    log_p = F.log_softmax(logits / temperature, dim=2)  # (M, N, C)
    return temperature * torch.logsumexp(log_weights[:, None, None] + log_p, dim=0)


def average_logits(logits: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""The mean of the members' logits, which is the normalised geometric mean of their probabilities.

    .. math:: z = \sum_m w_m z_m, \quad softmax(z) \propto \prod_m softmax(z_m)^{w_m}

    Here one member can veto a class by giving it a probability near 0; in the arithmetic mean it cannot. The two are
    different ensembles.

    Args:
        logits: member logits (M, N, C).
        weights: (M,), none negative, summing to 1; equal weights if None.

    Returns:
        Logits (N, C) of the ensemble, in float32 or wider.

    Raises:
        ValueError: the weights do not fit or do not sum to 1.

    >>> average_logits(torch.tensor([[[2.0, 0.0]], [[0.0, 4.0]]]))
    tensor([[1., 2.]])
    """
    logits, weights = _checked(logits, weights)
    return torch.einsum("m,mnc->nc", weights, logits)


def combine(logits: Tensor, weights: Tensor | None = None, *, average: Average = "probabilities") -> Tensor:
    """:func:`average_probabilities` at T = 1 or :func:`average_logits`, by name."""
    return (average_probabilities if _known(average) == "probabilities" else average_logits)(logits, weights)


def fit_weights(logits: Tensor, labels: Tensor, *, average: Average = "probabilities", steps: int = 50) -> Tensor:
    r"""Weights of the members that minimise the NLL of the ensemble, for use with *validation* logits and labels.

    .. math:: w = softmax(a), \quad a = \arg\min_a NLL\big(y, \, ensemble(w)\big), \quad a_0 = 0

    Only ``a`` is learned; the members are tables and cannot change. Fitted on training data the weights would favour
    the member that overfits most.

    Args:
        logits: member logits (M, N, C) on the validation split.
        labels: true classes (N,).
        average: which ensemble the weights are for, ``"probabilities"`` or ``"logits"``.
        steps: at most so many iterations of L-BFGS.

    Returns:
        Weights (M,), positive, summing to 1.

    Raises:
        ValueError: ``labels`` are not (N,), or there is no such average.
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
    """For each pair of members, the fraction of samples for which they predict different classes.

    Returns:
        A symmetric table (M, M), in [0, 1], with zeros on the diagonal.
    """
    predicted = _checked(logits, None)[0].argmax(2)  # (M, N)
    return (predicted[:, None] != predicted[None]).double().mean(2)


def error_overlap(logits: Tensor, labels: Tensor) -> Tensor:
    """For each pair of members, the number of errors both make, divided by the number of errors at least one makes.

    A symmetric table (M, M) in [0, 1]. 1 means that they fail on the same samples, so that averaging them corrects
    nothing. Two members without any error have overlap 0.
    """
    wrong = (_with_labels(logits, labels).argmax(2) != labels).double()  # (M, N)
    shared = wrong @ wrong.T
    either = wrong.sum(1)[:, None] + wrong.sum(1)[None] - shared
    return shared / either.clamp_min(1)


class Ensemble(nn.Module):
    """Several frozen networks as one network, whose output is logits (B, C): for probabilities, the log of their mean.

    Args:
        members: M networks that return logits for the same classes, in evaluation mode.
        weights: (M,), none negative, summing to 1; equal weights if None.
        average: what is averaged, ``"probabilities"`` or ``"logits"``.

    Raises:
        ValueError: there are no members, a member or a part of it is in training mode (its dropout would draw random
            numbers), the weights do not fit, or there is no such average.

    >>> ensemble = Ensemble([nn.Flatten().eval(), nn.Flatten().eval()])
    >>> ensemble(torch.tensor([[0.0, 0.0]])).exp()
    tensor([[0.5000, 0.5000]])
    """

    def __init__(
        self, members: Sequence[nn.Module], weights: Tensor | None = None, *, average: Average = "probabilities"
    ) -> None:
        super().__init__()
        _check_members(members)
        modes = [[part.training for part in member.modules()] for member in members]
        if training := [number for number, parts in enumerate(modes) if any(parts)]:
            raise ValueError(f"members {training} are in training mode; freeze(member) them first")
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", _checked(torch.empty(len(members), 1, 1), weights)[1].detach().clone())
        self.average = _known(average)
        self.eval()  # a new module is in training mode

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of the ensemble for ``images``."""
        logits = _stacked([member(images) for member in self.members])
        return combine(logits, self.weights, average=self.average)

    def train(self, mode: bool = True) -> Ensemble:
        """Stay in evaluation mode, whatever ``mode`` is: members are never trained here."""
        return super().train(False)


def _check_members(members: Sequence[nn.Module]) -> None:
    if not members:
        raise ValueError("an ensemble needs at least one member, and none was given")


def _stacked(tables: Sequence[Tensor]) -> Tensor:
    """One table of logits (M, N, C), once the members are known to have the same classes."""
    if len({table.shape for table in tables}) > 1:
        classes = [table.shape[1] for table in tables]
        raise ValueError(f"members must have the same classes, but return {classes} of them; check their last layers")
    return torch.stack(tables)


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
