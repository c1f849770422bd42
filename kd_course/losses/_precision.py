"""What keeps losses exact: full precision whatever surrounds them, and a divergence that does not drown in rounding."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor
from torch.nn import functional as F

P = ParamSpec("P")


def loss(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """What every loss does before its formula, as a decorator.

    Autocast is switched off, so that products too are computed in float32 or wider. Tensors made in inference mode
    become ordinary ones. A gradient that only the teacher's side carries is a ``ValueError``: somebody swapped the two.
    """
    names = tuple(inspect.signature(function).parameters)
    student, teacher = (
        next((name for name in names if name.startswith(role)), "") for role in ("student_", "teacher_")
    )

    @wraps(function)
    def guarded(*args: P.args, **options: P.kwargs) -> Tensor:
        args, options = [_ordinary(value) for value in args], {name: _ordinary(options[name]) for name in options}
        given = dict(zip(names, args, strict=False)) | options
        if _asks(given.get(teacher)) and not _asks(given.get(student)) and torch.is_grad_enabled():
            raise ValueError(
                f"only {teacher} asks for a gradient, and {student} does not: are the two swapped? The student comes "
                "first. To train the teacher on purpose, let the student ask for one too, with .requires_grad_()"
            )
        device = next((each.device.type for value in given.values() for each in _tensors(value)[:1]), "cpu")
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return function(*args, **options)
        with torch.autocast(device, enabled=False):
            return function(*args, **options)

    return guarded


def divergence(student_log_p: Tensor, teacher_log_p: Tensor, gap: Callable[[], Tensor]) -> Tensor:
    """KL(t‖s) in nats, averaged over the rows of log-probabilities (B, C), exact also where it is next to nothing.

    Args:
        student_log_p: log s, (B, C).
        teacher_log_p: log t, (B, C); -inf for a class that is masked out.
        gap: gives log t - log s up to a constant in each row, (B, C), free of the rounding of both.
    """
    crude = F.kl_div(student_log_p, teacher_log_p, reduction="batchmean", log_target=True)
    if known(crude) > 3e3 * torch.finfo(crude.dtype).eps:  # beside which rounding, a few eps, is nothing
        return crude
    return divergences(student_log_p, teacher_log_p, gap()).mean()


def divergences(student_log_p: Tensor, teacher_log_p: Tensor, gap: Tensor) -> Tensor:
    """:func:`divergence` of each row, (B,).

    The gradient is that of Σ t (log t - log s), whose own value drowns in rounding. The value is the half variance and
    the third cumulant of the gap where all of a row is small, else Σ t (log t - log s) - t + s, no part of which is
    below 0.
    """
    masked = teacher_log_p == -math.inf
    log_s, log_t = student_log_p.masked_fill(masked, 0), teacher_log_p.masked_fill(masked, 0)
    terms = F.kl_div(log_s, log_t, reduction="none", log_target=True)  # (B, C)
    crude = terms.sum(1)
    with torch.no_grad():
        p, masked_in_both = teacher_log_p.exp(), masked & (student_log_p == -math.inf)
        gap = gap.masked_fill(masked_in_both, 0)
        gap = gap - gap[:, :1]
        gap = (gap - (p * gap.masked_fill(masked, 0)).sum(1, keepdim=True)).masked_fill(masked_in_both, 0)
        near = (p * gap.square() * (0.5 - gap / 6)).sum(1)
        log_ratio = student_log_p - teacher_log_p
        excess = torch.where(log_ratio.abs() < 1, p * log_ratio.expm1(), student_log_p.exp() - p)  # s - t
        far = (terms + excess).sum(1)
        small = gap.abs().amax(1) < torch.finfo(gap.dtype).eps ** (1 / 3)
        value = torch.where(small, near, far).clamp_min(0)
    return torch.where(crude.isfinite(), value + (crude - crude.detach()), crude)


def known(value: Tensor) -> float:
    """The number in ``value``; NaN where to ask would make a device wait, or cannot be done, as in ``vmap``."""
    try:
        return value.item() if value.is_cpu else math.nan
    except RuntimeError:  # vmap has many values at once
        return math.nan


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [each for each in value if isinstance(each, Tensor)] if isinstance(value, list | tuple) else []


def _asks(value: object) -> bool:
    return any(each.requires_grad for each in _tensors(value))


def _ordinary(value: object) -> object:
    """``value``, with copies for the tensors in it that autograd cannot keep."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() and not torch.is_inference_mode_enabled() else value
    return type(value)(map(_ordinary, value)) if type(value) in (list, tuple) else value
