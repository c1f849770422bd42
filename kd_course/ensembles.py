"""Many teachers: average their predictions, weight them, and measure how much they differ.

The functions work on a table of member logits (M, N, C), M members by N samples by C classes, which
:func:`member_logits` makes once, and raise ``ValueError`` for a table of another shape, ``TypeError`` for what is no
floating-point tensor. :class:`Ensemble` is the same
average as one network, for deployment and latency.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course._validation import (
    answers,
    class_labels,
    finite_numbers,
    network,
    not_probabilities,
    softening,
    whole,
    widened,
)
from kd_course.data import Split
from kd_course.inference import logits_of, predict

Average = Literal["probabilities", "logits"]


def member_logits(members: Sequence[nn.Module], split: Split) -> Tensor:
    """Logits (M, N, C), float32, on the CPU, of M networks for N samples; each is run in evaluation mode.

    Raises:
        ValueError: there are no members, they return different numbers of classes, or one returns probabilities.
        TypeError: ``members`` is not a list of networks.
    """
    tables = [predict(member, split) for member in _known_members(members)]
    return _stacked([not_probabilities(table, f"the answers of member {i}") for i, table in enumerate(tables)])


def average_probabilities(
    logits: Tensor, weights: Tensor | None = None, *, temperature: float | Tensor = 1.0
) -> Tensor:
    r"""The arithmetic mean of the members' softened probabilities, as logits.

    .. math:: z = T \log \sum_m w_m \, softmax(z_m / T)

    Softening the result at the same T gives back exactly the mean probabilities, so it can take the place of one
    teacher's logits: distilling from it equals distilling from all members at once, up to a constant. Its NLL is at
    most the mean NLL of the members (Jensen).

    Args:
        logits: member logits (M, N, C).
        weights: (M,), none negative, summing to 1; equal weights if None. A member with weight 0 has no influence,
            and its weight gets no gradient.
        temperature: T > 0 at which the probabilities are averaged; a tensor (N,) gives each sample its own.

    Returns:
        Logits (N, C) of the ensemble, in float32 or wider.

    Raises:
        ValueError: the weights do not fit or do not sum to 1, T ≤ 0, or the table holds probabilities.

    >>> two = torch.tensor([[[0.0, 0.0]], [[math.log(3.0), 0.0]]])
    >>> average_probabilities(two).softmax(1)
    tensor([[0.6250, 0.3750]])
    """
    logits, weights = _checked(logits, weights)
    not_probabilities(logits, "member logits")
    temperature = softening(temperature, logits.shape[1])
    log_weights = torch.where(weights > 0, weights, 1).log().masked_fill(weights == 0, -math.inf)  # 0, but never 0/0
    log_p = _floored(F.log_softmax(logits / temperature, dim=2))  # (M, N, C)
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
    with torch.autocast(logits.device.type, enabled=False):
        return torch.einsum("m,mnc->nc", weights, _floored(logits))


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
        ValueError: ``labels`` are not (N,) class numbers, the table has NaN or probabilities, ``steps`` is below 1, or
            there is no such average.
        TypeError: ``logits`` and ``labels`` are not tensors, or ``steps`` is not a whole number.
    """
    with torch.inference_mode(False):
        logits, labels = _with_labels(logits, labels)
        logits = not_probabilities(logits, "member logits").double()
        a = torch.zeros(len(logits), dtype=torch.float64, requires_grad=True)
        steps = whole(steps, "steps", least=1)
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
    predicted = _answers(logits).argmax(2)  # (M, N)
    return (predicted[:, None] != predicted[None]).double().mean(2)


def error_overlap(logits: Tensor, labels: Tensor) -> Tensor:
    """For each pair of members, the number of errors both make, divided by the number of errors at least one makes.

    A symmetric table (M, M) in [0, 1]. 1 means that they fail on the same samples, so that averaging them corrects
    nothing. Two members without any error have overlap 0.
    """
    logits, labels = _with_labels(logits, labels)
    wrong = (logits.argmax(2) != labels).double()  # (M, N)
    shared = wrong @ wrong.T
    either = wrong.sum(1)[:, None] + wrong.sum(1)[None] - shared
    return shared / either.clamp_min(1)


class Ensemble(nn.Module):
    """Several frozen networks as one network, whose output is logits (B, C): for probabilities, the log of their mean.

    Args:
        members: M networks, in evaluation mode and on one device, that return logits for the same classes, or what
            :func:`~kd_course.inference.logits_of` finds them in.
        weights: (M,), none negative, summing to 1; equal weights if None.
        average: what is averaged, ``"probabilities"`` or ``"logits"``.

    Raises:
        ValueError: there are no members, a member or a part of it is in training mode (its dropout would draw random
            numbers), they lie on several devices, the weights do not fit, or there is no such average.
        TypeError: ``members`` is not a list of networks.

    >>> ensemble = Ensemble([nn.Flatten().eval(), nn.Flatten().eval()])
    >>> ensemble(torch.tensor([[0.0, 0.0]])).exp()
    tensor([[0.5000, 0.5000]])
    """

    def __init__(
        self, members: Sequence[nn.Module], weights: Tensor | None = None, *, average: Average = "probabilities"
    ) -> None:
        super().__init__()
        members = _known_members(members)
        modes = [[part.training for part in member.modules()] for member in members]
        if training := [number for number, parts in enumerate(modes) if any(parts)]:
            raise ValueError(f"members {training} are in training mode; freeze(member) them first")
        devices = {str(tensor.device) for member in members for tensor in [*member.parameters(), *member.buffers()]}
        if len(devices) > 1:
            raise ValueError(f"members lie on {sorted(devices)}; bring all to one device, with member.to(device)")
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", _checked(torch.empty(len(members), 1, 1), weights)[1].detach().clone())
        self.average = _known(average)
        self.eval()  # a new module is in training mode

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of the ensemble for ``images``."""
        logits = _stacked([logits_of(member(images)) for member in self.members])
        return combine(logits, self.weights, average=self.average)

    def train(self, mode: bool = True) -> Ensemble:
        """Stay in evaluation mode, whatever ``mode`` is: members are never trained here."""
        return super().train(False)


def _known_members(members: Sequence[nn.Module]) -> list[nn.Module]:
    one = isinstance(members, nn.Module) and not isinstance(members, nn.ModuleList)
    if one or not isinstance(members, Iterable):
        raise TypeError(f"members must be a list of networks, not {type(members).__name__}; put one member in brackets")
    members = [network(member, f"member {number}") for number, member in enumerate(members)]
    if not members:
        raise ValueError("an ensemble needs at least one member, and none was given")
    return members


def _stacked(tables: Sequence[Tensor]) -> Tensor:
    """One table of logits (M, N, C), once the members are known to have the same classes."""
    shapes = [tuple(table.shape) for table in tables]
    if any(len(shape) != 2 or shape[1] < 2 for shape in shapes):
        raise ValueError(f"members must return logits (N, C) of two classes or more, but return {shapes}")
    if len({table.shape[1] for table in tables}) > 1:
        classes = [table.shape[1] for table in tables]
        raise ValueError(f"members must have the same classes, but return {classes} of them; check their last layers")
    if len(set(shapes)) > 1:
        raise ValueError(f"members must answer for the same samples, but return {shapes}; one drops or repeats some")
    return torch.stack(tables)


def _floored(logits: Tensor) -> Tensor:
    """Logits of -∞, which give a class no chance, as finite ones that do the same and have a gradient."""
    return logits.clamp(min=torch.finfo(logits.dtype).min / 2)


def _known(average: Average) -> Average:
    if average not in ("probabilities", "logits"):
        raise ValueError(f"average must be 'probabilities' or 'logits', not {average!r}")
    return average


def _answers(logits: Tensor) -> Tensor:
    """The table of logits (M, N, C) on the CPU, once each of its rows is known to have a largest."""
    logits, _ = _checked(logits, None)
    return answers(logits.flatten(0, 1), "member logits").view_as(logits)


def _with_labels(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The table of logits and the label of every sample, on the CPU, once they are known to fit."""
    logits = _answers(logits)
    return logits, class_labels(labels.cpu() if isinstance(labels, Tensor) else labels, *logits.shape[1:])


def _checked(logits: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The table of logits, half precision widened to float32, and weights (M,) that fit it, of its type."""
    logits = widened(logits, "member logits")
    if logits.ndim != 3 or not logits.numel():
        raise ValueError(
            f"member logits must be (members, samples, classes), not {tuple(logits.shape)}; use member_logits()"
        )
    members = len(logits)
    if weights is None:
        return logits, torch.full((members,), 1 / members, dtype=logits.dtype, device=logits.device)
    if not isinstance(weights, Tensor):
        weights = torch.tensor(finite_numbers(weights, "weights"), dtype=logits.dtype)
    total = float(weights.detach().sum())
    if weights.shape != (members,) or (weights < 0).any() or not math.isclose(total, 1, abs_tol=1e-4):
        raise ValueError(
            f"{members} members need as many weights, none negative, that sum to 1; "
            f"these have shape {tuple(weights.shape)} and sum to {total:.4g}; try softmax"
        )
    return logits, weights.to(logits)
