"""What every loss asks of its arguments, and the sentence it answers with when it does not get it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def floating_pair(student: Tensor, teacher: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Both tensors in one floating type, half precision widened to float32, once their shapes are known to agree.

    Raises:
        TypeError: one is not a floating-point tensor. ValueError: the shapes differ, or the batch is empty.
    """
    student, teacher = _floating(student, teacher, what)
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {what} {tuple(student.shape)} and teacher {what} {tuple(teacher.shape)} must have one shape; "
            "compare the same samples"
        )
    _not_empty(student, what)
    return student, teacher


def batch_pair(
    student: Tensor, teacher: Tensor, what: str, *, ndim: int | None = None, least: int = 2
) -> tuple[Tensor, Tensor]:
    """Features of the same samples, of any width each: one floating type, batches of one size, large enough for pairs.

    Raises:
        TypeError: one is not a floating-point tensor. ValueError: the batch sizes differ, or are below ``least``;
            or the tensors have not ``ndim`` dimensions.
    """
    student, teacher = _floating(student, teacher, what)
    for role, value in (("student", student), ("teacher", teacher)):
        if value.ndim < 2 or ndim not in (None, value.ndim) or 0 in value.shape[1:]:
            wanted = "(batch, dimensions)" if ndim == 2 else "(batch, …)"
            advice = "try .flatten(1)" if value.ndim > 2 else "keep the batch dimension, and one feature at least"
            raise ValueError(f"{role} {what} must be {wanted}, not {tuple(value.shape)}; {advice}")
    if len(student) != len(teacher):
        raise ValueError(f"{len(student)} student {what} and {len(teacher)} teacher {what} must be of the same samples")
    if len(student) < least:
        need = "relations need pairs" if least == 2 else "a loss needs samples"
        raise ValueError(f"{need}, but this batch has {len(student)} sample(s); use a batch of {least} or more")
    return student, teacher


def _floating(student: Tensor, teacher: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Both tensors in one floating type, float32 or wider."""
    student, teacher = _widened(student, f"student {what}"), _widened(teacher, f"teacher {what}")
    common = torch.promote_types(student.dtype, teacher.dtype)
    return student.to(common), teacher.to(common)


def floating_tensor(value: Tensor, what: str) -> Tensor:
    """One tensor in float32 or wider, once it is known to be a floating-point tensor with something in it.

    Raises:
        TypeError: not a floating-point tensor. ValueError: it is empty. The message calls it ``what``.
    """
    value = _widened(value, what)
    _not_empty(value, what)
    return value


def _not_empty(value: Tensor, what: str) -> None:
    if value.numel() == 0:
        raise ValueError(f"{what} of shape {tuple(value.shape)} are empty; a loss needs at least one sample")


def _widened(value: Tensor, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        hint = "; attach teacher logits with split.with_teacher(logits)" if value is None else ""
        raise TypeError(f"{what} must be a tensor, not {type(value).__name__}{hint}")
    if not value.is_floating_point():
        raise TypeError(f"{what} must be floating point, not {value.dtype}; use .float(), if these are not labels")
    return value.to(torch.promote_types(value.dtype, torch.float32))


def logit_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`floating_pair` for logits, which are (B, C) with at least two classes."""
    student, teacher = floating_pair(student, teacher, "logits")
    return _rows_of_logits(student), teacher


def logit_table(logits: Tensor, what: str = "logits") -> Tensor:
    """One table of logits (B, C), held to what :func:`logit_pair` asks of each of its two.

    Raises:
        TypeError: not a floating-point tensor. ValueError: not (B, C) with two classes or more, or empty.
    """
    return _rows_of_logits(floating_tensor(logits, what))


def _rows_of_logits(logits: Tensor) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must be (batch, classes) with two classes or more, not {tuple(logits.shape)}")
    return logits


def positive(value: float, name: str) -> float:
    """``value`` if it is a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, not {value!r}")
    return value


def not_negative(value: float, name: str) -> float:
    """``value`` if it is a finite number, 0 or more."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number, 0 or more, not {value!r}")
    return value


def fraction(value: float, name: str) -> float:
    """``value`` if it lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {value!r}")
    return value
