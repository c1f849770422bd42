"""What every public function asks of its arguments, and the sentence it answers with when it does not get it.

All raise ``TypeError`` for what is no tensor of the kind they need, and ``ValueError`` for a wrong shape or value.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from numbers import Real

import torch
from torch import Tensor, nn

_OTHER_WIDTHS = {  # what to do where the samples are as many, and their outputs are not
    "logits": "the two know other numbers of classes: compare the classes that both know, logits[:, shared]",
    "features": "bring the student's feature to the teacher's shape with a HintRegressor",
    "predictions": "try student.view_as(teacher)",
}


def floating_pair(student: Tensor, teacher: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Both tensors in one floating type, float32 or wider, once they are known to have one shape and samples."""
    student, teacher = _floating(student, teacher, what)
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {what} {tuple(student.shape)} and teacher {what} {tuple(teacher.shape)} must have one shape; "
            + (_OTHER_WIDTHS.get(what, "") if student.shape[:1] == teacher.shape[:1] else "compare the same samples")
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
        advice = "; at the end of an epoch that is the last batch: leave it out with drop_last=True" * len(student)
        raise ValueError(f"{need}, {least} sample(s) or more, but this batch has {len(student)} sample(s){advice}")
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
    if student.device != teacher.device:
        raise ValueError(
            f"student {what} on {student.device} and teacher {what} on {teacher.device} must be on one device; "
            f"pass the teacher's with .to({str(student.device)!r})"
        )
    common = torch.promote_types(student.dtype, teacher.dtype)
    return student.to(common), teacher.to(common)


def floating_tensor(value: Tensor, what: str) -> Tensor:
    """One tensor in float32 or wider, once it is known to be a floating-point tensor with something in it."""
    value = widened(value, what)
    _not_empty(value, what)
    return value


def _not_empty(value: Tensor, what: str) -> None:
    if value.numel() == 0:
        raise ValueError(f"{what} of shape {tuple(value.shape)} are empty; at least one sample is needed")


def widened(value: Tensor, what: str) -> Tensor:
    """One tensor, which may be empty, in float32 or wider."""
    if not isinstance(value, Tensor):
        if value is None and what == "teacher logits":
            hint = "; attach teacher logits with split.with_teacher(logits)"
        elif isinstance(value, list) and value and all(isinstance(each, Tensor) for each in value):
            hint = "; use torch.stack(…)"
        elif isinstance(value, list) or hasattr(value, "__array__"):
            hint = "; use torch.as_tensor(…)"
        else:
            known = isinstance(value, tuple | Mapping) or hasattr(value, "logits")
            hint = "; take the tensor out of what the model returned, with inference.logits_of(…)" if known else ""
        raise TypeError(f"{what} must be a tensor, not {type(value).__name__}{hint}")
    if not value.is_floating_point():
        raise TypeError(f"{what} must be floating point, not {value.dtype}; use .float(), if these are not labels")
    value = value.to(torch.promote_types(value.dtype, torch.float32))
    return recordable(value)


def recordable(value: Tensor) -> Tensor:
    """``value``, or a copy of what inference mode made, which autograd could not save."""
    return value.clone() if value.is_inference() and not torch.is_inference_mode_enabled() else value


def logit_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`floating_pair` for logits, which are (B, C) with at least two classes."""
    student, teacher = floating_pair(student, teacher, "logits")
    return _rows_of_logits(student), teacher


def logit_table(logits: Tensor, what: str = "logits") -> Tensor:
    """One table of logits, which is (B, C) with at least two classes, in float32 or wider."""
    return _rows_of_logits(floating_tensor(logits, what), what)


def labelled_logits(logits: Tensor, labels: Tensor, what: str = "student logits") -> tuple[Tensor, Tensor]:
    """Logits (B, C) and their labels (B,) as ``F.cross_entropy`` wants them: float32 or wider, and int64."""
    logits = logit_table(logits, what)
    return logits, class_labels(labels, *logits.shape)


def class_labels(labels: Tensor, samples: int, classes: int) -> Tensor:
    """Labels in int64, once they are known to be (samples,) class numbers.

    Their range is checked on the CPU only; elsewhere it would make the device wait.
    """
    if not isinstance(labels, Tensor):
        hint = "the split is unlabelled" if labels is None else "use torch.as_tensor(labels)"
        raise TypeError(f"labels must be a tensor of class numbers, not {type(labels).__name__}; {hint}")
    if labels.shape == (samples, classes):
        advice = _advice_for_tables(labels)
    elif labels.shape != (samples,):
        advice = "pass labels.flatten()" if labels.numel() == samples else "take both from the same samples"
    else:
        advice = "if they are whole class numbers, pass labels.long()"
    if labels.shape != (samples,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels must be {samples} whole class numbers of shape ({samples},), "
            f"not {labels.dtype} of shape {tuple(labels.shape)}; {advice}"
        )
    if labels.device.type == "cpu" and not 0 <= (least := int(labels.min())) <= int(labels.max()) < classes:
        keep = "leave unlabelled samples out of all arguments, with keep = labels >= 0: labels[keep], logits[keep]"
        advice = keep if least < 0 else "take a network of as many classes"
        raise ValueError(f"labels must lie in 0..{classes - 1}, not {least}..{int(labels.max())}; {advice}")
    return recordable(labels.long())


def _advice_for_tables(labels: Tensor) -> str:
    """What to do with labels that are a row of numbers for each sample."""
    sums, whole_numbers = labels.sum(1), ((labels == 0) | (labels == 1)).all()
    if whole_numbers and (sums == 1).all():
        return f"for one-hot labels pass labels{'.int()' if labels.dtype == torch.bool else ''}.argmax(1)"
    if whole_numbers:
        return "several classes per sample are no softmax's; use F.binary_cross_entropy_with_logits(logits, labels)"
    return "for soft or mixed labels add F.cross_entropy(logits, labels) yourself, to a loss that needs no labels"


def _rows_of_logits(logits: Tensor, what: str = "logits") -> Tensor:
    if logits.ndim != 2 or logits.shape[1] < 2:
        advice = {
            1: "; for one sample pass logits[None]",
            3: "; for (batch, length, classes) pass logits.flatten(0, 1) and labels.flatten()",
            4: "; for (batch, classes, height, width) pass logits.movedim(1, -1).flatten(0, 2) and labels.flatten()",
        }.get(logits.ndim, "")
        shape = tuple(logits.shape)
        raise ValueError(f"{what} must be (batch, classes) with two classes or more, not {shape}{advice}")
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


def number(value: float, name: str) -> float:
    """``value`` if it is one real number, of Python, NumPy or a tensor without dimensions."""
    if isinstance(value, Tensor) and value.ndim == 0:
        return value
    if not isinstance(value, Real):
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"{name} must be one number, not {given}")
    return value


def softening(temperature: float | Tensor, samples: int | None = None) -> float | Tensor:
    """T, whose square fits into float32; where ``samples`` is given also a tensor (samples,), made a column."""
    return per_sample(temperature, "temperature", samples, _softening)


def _softening(value: float, name: str) -> float:
    if not 1e-15 <= number(value, name) <= 1e15:
        raise ValueError(f"{name} must be a number above 0, 1e-15 to 1e15 so that its square is one, not {value!r}")
    return value


def per_sample(
    value: float | Tensor, name: str, samples: int | None, check: Callable[[float, str], float]
) -> float | Tensor:
    """``value`` if ``check`` passes it; where ``samples`` is given also a tensor (samples,), as a column (samples, 1).

    The range of such a tensor is checked on the CPU only; elsewhere it would make the device wait.
    """
    if samples is None or not isinstance(value, Tensor) or value.ndim == 0:
        return check(value, name)
    if value.shape != (samples,) or not value.is_floating_point():
        raise ValueError(
            f"{name} must be one number, or {samples} floating-point numbers of shape ({samples},), one for each "
            f"sample, not {value.dtype} of shape {tuple(value.shape)}"
        )
    for extreme in (value.min(), value.max()) if value.device.type == "cpu" else ():
        check(extreme.item(), name)
    return value[:, None]


def positive(value: float, name: str) -> float:
    """``value`` if it is a finite number above 0."""
    if not (math.isfinite(number(value, name)) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, not {value!r}")
    return value


def not_negative(value: float, name: str) -> float:
    """``value`` if it is a finite number, 0 or more."""
    if not (math.isfinite(number(value, name)) and value >= 0):
        raise ValueError(f"{name} must be a finite number, 0 or more, not {value!r}")
    return value


def at_least(value: float, least: float, name: str) -> float:
    """``value`` if it is ``least`` or more; infinity is allowed, not-a-number is not."""
    if not number(value, name) >= least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")
    return value


def whole(value: int, name: str, *, least: int | None = 0, most: int | None = None) -> int:
    """``value`` as a Python integer, if it is a whole number (NumPy's are too) from ``least`` to ``most``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or getattr(value, "dtype", None) is torch.bool:
        raise TypeError(f"{name} must be a whole number, not {value!r} of type {type(value).__name__}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be {least} or more, not {number}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be {most:,} or less, not {number:,}")
    return number


def fraction(value: float, name: str) -> float:
    """``value`` if it lies in [0, 1]."""
    if not 0 <= number(value, name) <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {value!r}")
    return value


def finite_numbers(values: Iterable[float], what: str) -> list[float]:
    """``values`` as floats, once they are known to be a series of finite numbers, small enough to be squared."""
    if hasattr(values, "tolist"):  # a tensor, an array or a pandas Series
        values = values.tolist()
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Set) or hasattr(values, "keys"):
        hint = "; pass its .values()" if isinstance(values, Mapping) else ""
        raise TypeError(f"{what} must be a list of numbers, not {type(values).__name__}{hint}")
    numbers = []
    for value in values:
        try:
            numbers.append(float(None if isinstance(value, str | bytes | bool) else value))
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise TypeError(f"{what} must be numbers, not {value!r} of type {type(value).__name__}") from None
        if not abs(numbers[-1]) < 1e150:
            raise ValueError(f"{what} must be finite numbers below 1e150, not {value!r}; leave out what failed")
    return numbers


def network(model: nn.Module, what: str = "the model") -> nn.Module:
    """``model``, if it is a network."""
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        hint = "; call it to make a network of it" if isinstance(model, type) else ""
        hint = (
            "; put several into an nn.ModuleDict or nn.ModuleList" if isinstance(model, list | tuple | dict) else hint
        )
        raise TypeError(f"{what} must be a network, an nn.Module, not {kind}{hint}")
    return model


def answers(logits: Tensor, what: str = "logits") -> Tensor:
    """One table of logits (N, C) on the CPU, without its history, in float32 or wider, whose rows have a largest."""
    logits = logit_table(logits.detach().cpu() if isinstance(logits, Tensor) else logits, what)
    if not (rows := logits.amax(1).isfinite()).all():
        raise ValueError(
            f"{what} hold NaN, +infinity or nothing above -infinity in {int((~rows).sum())} of {len(rows)} rows, "
            "which give no answer; is the network trained, and are its inputs right?"
        )
    return logits


def not_probabilities(logits: Tensor, what: str = "logits") -> Tensor:
    """The table of logits, unless it is one of probabilities, whose softmax would be another distribution."""
    if (logits >= 0).all() and (logits.sum(-1) - 1).abs().max() < 1e-3 and (logits % 1 > 0).any():
        raise ValueError(f"{what} are probabilities, since each row sums to 1; pass logits, or probabilities.log()")
    return logits


def judged(logits: Tensor, labels: Tensor, what: str = "logits") -> tuple[Tensor, Tensor]:
    """:func:`answers` and the label of each."""
    logits = answers(logits, what)
    return logits, class_labels(labels.cpu() if isinstance(labels, Tensor) else labels, *logits.shape)


def same_answers(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`answers` of two networks, for the same samples and the same classes."""
    student, teacher = answers(student_logits, "student logits"), answers(teacher_logits, "teacher logits")
    return floating_pair(student, teacher, "logits")
