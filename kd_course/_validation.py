"""What every public function asks of its arguments, and the sentence it answers with when it does not get it.

All raise ``TypeError`` for what is no tensor of the kind they need, and ``ValueError`` for a wrong shape or value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def floating_pair(student: Tensor, teacher: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Both tensors in one floating type, float32 or wider, once they are known to have one shape and samples."""
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
    """Features of the same samples, ``least`` or more, each (B, …) of any width, in one floating type."""
    student, teacher = _floating(student, teacher, what)
    for role, value in (("student", student), ("teacher", teacher)):
        if value.ndim < 2 or ndim not in (None, value.ndim) or 0 in value.shape[1:]:
            wanted = "(batch, dimensions)" if ndim == 2 else "(batch, …)"
            advice = "try .flatten(1)" if value.ndim > 2 else "keep the batch dimension, and at least one feature"
            raise ValueError(f"{role} {what} must be {wanted}, not {tuple(value.shape)}; {advice}")
    if len(student) != len(teacher):
        raise ValueError(f"{len(student)} student {what} and {len(teacher)} teacher {what} must be of the same samples")
    if len(student) < least:
        need = "relations need pairs" if least == 2 else "a loss needs samples"
        raise ValueError(f"{need}, but this batch has {len(student)} sample(s); use a batch of {least} or more")
    return student, teacher


def layer_pairs(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Student and teacher side by side, layer by layer, once they are known to have equally many, and at least one."""
    if len(student) != len(teacher) or not len(student):
        raise ValueError(
            f"{len(student)} student layers and {len(teacher)} teacher layers must be equal in number, and at least one"
        )
    return list(zip(student, teacher, strict=True))


def _floating(student: Tensor, teacher: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Both tensors in one floating type, float32 or wider."""
    student, teacher = widened(student, f"student {what}"), widened(teacher, f"teacher {what}")
    common = torch.promote_types(student.dtype, teacher.dtype)
    return student.to(common), teacher.to(common)


def floating_tensor(value: Tensor, what: str) -> Tensor:
    """One tensor in float32 or wider, once it is known to be a floating-point tensor with something in it."""
    value = widened(value, what)
    _not_empty(value, what)
    return value


def _not_empty(value: Tensor, what: str) -> None:
    if value.numel() == 0:
        raise ValueError(f"{what} of shape {tuple(value.shape)} are empty; a loss needs at least one sample")


def widened(value: Tensor, what: str) -> Tensor:
    """One tensor, which may be empty, in float32 or wider."""
    if not isinstance(value, Tensor):
        missing = value is None and what == "teacher logits"
        hint = "; attach teacher logits with split.with_teacher(logits)" if missing else ""
        raise TypeError(f"{what} must be a tensor, not {type(value).__name__}{hint}")
    if not value.is_floating_point():
        raise TypeError(f"{what} must be floating point, not {value.dtype}; use .float(), if these are not labels")
    return value.to(torch.promote_types(value.dtype, torch.float32))


def logit_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`floating_pair` for logits, which are (B, C) with at least two classes."""
    student, teacher = floating_pair(student, teacher, "logits")
    return _rows_of_logits(student), teacher


def logit_table(logits: Tensor, what: str = "logits") -> Tensor:
    """One table of logits, which is (B, C) with at least two classes, in float32 or wider."""
    return _rows_of_logits(floating_tensor(logits, what))


def labelled_logits(logits: Tensor, labels: Tensor, what: str = "student logits") -> tuple[Tensor, Tensor]:
    """Logits (B, C) and their labels (B,) as ``F.cross_entropy`` wants them: float32 or wider, and int64.

    The range of labels is checked on the CPU only; elsewhere it would make the device wait.
    """
    logits = logit_table(logits, what)
    batch, classes = logits.shape
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor of class numbers, not {type(labels).__name__}; use torch.tensor(…)")
    if labels.is_floating_point() or labels.shape != (batch,):
        raise ValueError(
            f"labels must be {batch} whole class numbers of shape ({batch},), "
            f"not {labels.dtype} of shape {tuple(labels.shape)}; for one-hot labels pass labels.argmax(1)"
        )
    if labels.device.type == "cpu" and not (0 <= int(labels.min()) and int(labels.max()) < classes):
        raise ValueError(f"labels must lie in 0..{classes - 1}, not {int(labels.min())}..{int(labels.max())}")
    return logits, labels.long()


def _rows_of_logits(logits: Tensor) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must be (batch, classes) with two classes or more, not {tuple(logits.shape)}")
    return logits


def feature_maps(feature: Tensor, what: str = "features") -> Tensor:
    """``feature`` in float32 or wider, once it is known to be (B, C, H, W)."""
    feature = floating_tensor(feature, what)
    if feature.ndim != 4:
        raise ValueError(
            f"an attention map needs (batch, channels, height, width), not {tuple(feature.shape)}; logits have no map"
        )
    return feature


def same_width(first: Tensor, second: Tensor, weight: str) -> None:
    """Raise unless two features can be subtracted, as a term with this weight does."""
    if first.shape != second.shape:
        raise ValueError(
            f"features of shape {tuple(first.shape)} and {tuple(second.shape)} cannot be subtracted; "
            f"bring them to one width with a regressor, or set {weight}=0"
        )


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


def at_least(value: float, least: float, name: str) -> float:
    """``value`` if it is ``least`` or more; infinity is allowed, not-a-number is not."""
    if not value >= least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")
    return value


def fraction(value: float, name: str) -> float:
    """``value`` if it lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {value!r}")
    return value


def one_label_each(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits (N, C), once they are known to have one label each."""
    if logits.ndim != 2 or labels.ndim != 1 or len(logits) != len(labels) or not len(labels):
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be (N, classes) and (N,) "
            "with the same N of 1 or more; predict on the very split whose labels you pass"
        )
    return logits


def same_logits(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Check that both are logits (N, C) of one shape."""
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} "
            "must both be (N, classes), for the same samples"
        )
