"""How good the answers are: metrics of logits (N, C) against labels (N,), each with its definition.

A network is run once, with :func:`kd_course.inference.predict`, and its logits are evaluated as often as needed.
Labels are int64. Every metric raises ``ValueError`` where its tensors do not fit each other, and, if one of them holds
labels, where N is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course._validation import one_label_each, same_logits
from kd_course.data import Split
from kd_course.inference import predict

__all__ = [
    "accuracy", "agreement", "calibration_bins", "confusion_matrix", "ece", "errors", "evaluate",
    "evaluate_logits", "kl_to_teacher", "macro_f1", "nll",
]  # fmt: skip


def errors(logits: Tensor, labels: Tensor) -> int:
    """Number of wrong answers: samples whose largest logit, in a row of (N, C), is not at their label, in (N,)."""
    return int((one_label_each(logits, labels).argmax(1) != labels).sum())


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction of right answers, in [0, 1]: the largest logit, in a row of (N, C), is at the label, in (N,)."""
    return 1 - errors(logits, labels) / len(labels)


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of labels y (N,) under logits z (N, C), in nats: -mean log softmax(z)_y."""
    return F.cross_entropy(one_label_each(logits, labels), labels).item()


def ece(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    r"""Expected calibration error, in [0, 1]: mean gap of confidence and accuracy over equal-width bins of confidence.

    .. math:: \sum_m \frac{|B_m|}{N} \, | acc(B_m) - conf(B_m) |

    Reference: Guo et al. 2017, *On Calibration of Modern Neural Networks*, arXiv:1706.04599 (15 bins).

    Args:
        logits: (N, C).
        labels: (N,).
        bins: how many, equal in width over (0, 1].

    Raises:
        ValueError: the tensors do not fit each other, or ``bins`` is below 1.
    """
    table = calibration_bins(logits, labels, bins=bins)
    count, confidence, correct = table.unbind(1)
    return ((count / count.sum()) * (confidence - correct).abs()).sum().item()


def calibration_bins(logits: Tensor, labels: Tensor, *, bins: int = 15) -> Tensor:
    """The table that a reliability diagram draws, from the arguments of :func:`ece`.

    Returns:
        (bins, 3), float64: count, mean confidence and accuracy per bin of confidence; an empty bin holds zeros.
    """
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, not {bins}")
    confidence, guess = one_label_each(logits, labels).double().softmax(1).max(1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    columns = torch.stack([torch.ones_like(confidence), confidence, (guess == labels).double()], dim=1)
    table = torch.zeros(bins, 3, dtype=torch.float64).index_add_(0, place, columns)
    table[:, 1:] /= table[:, :1].clamp_min(1)
    return table


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """F1 of each class of logits (N, C) against labels (N,), averaged with equal weight for every class, in [0, 1]."""
    from sklearn.metrics import f1_score

    guess = one_label_each(logits, labels).argmax(1)
    return float(f1_score(labels, guess, average="macro", labels=range(logits.shape[1]), zero_division=0))


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """How often each label (N,) got each answer of logits (N, C): int64, (C, C), row the label, column the answer."""
    classes = one_label_each(logits, labels).shape[1]
    return torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2).view(classes, classes)


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Fraction of samples for which two tables of logits (N, C) give the same answer, right or wrong, in [0, 1].

    Reference: Stanton et al. 2021, *Does Knowledge Distillation Really Work?*, arXiv:2106.05945.
    """
    same_logits(student_logits, teacher_logits)
    return (student_logits.argmax(1) == teacher_logits.argmax(1)).double().mean().item()


def kl_to_teacher(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Mean KL(t ‖ s) of two tables of logits (N, C) at T = 1, in nats: the distance that accuracy does not see."""
    same_logits(student_logits, teacher_logits)
    student, teacher = (logits.double().log_softmax(1) for logits in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True).item()


def evaluate(model: nn.Module, split: Split, *, device: torch.device | str | None = None) -> dict[str, float]:
    """Every quality metric of a network on a split, on the device that :func:`predict` takes.

    Returns:
        ``accuracy``, ``errors``, ``nll``, ``ece``, ``macro_f1``; where ``split`` carries a teacher's logits, also
        ``agreement`` and ``kl_to_teacher``.

    Raises:
        ValueError: the split is empty, or the teacher's logits have another number of classes.
    """
    return evaluate_logits(predict(model, split, device=device), split)


def evaluate_logits(logits: Tensor, split: Split) -> dict[str, float]:
    """The metrics of :func:`evaluate` for logits (N, C) that are already there, row i for sample i of ``split``."""
    metrics = {
        "accuracy": accuracy(logits, split.labels),
        "errors": errors(logits, split.labels),
        "nll": nll(logits, split.labels),
        "ece": ece(logits, split.labels),
        "macro_f1": macro_f1(logits, split.labels),
    }
    if split.teacher_logits is not None:
        metrics["agreement"] = agreement(logits, split.teacher_logits)
        metrics["kl_to_teacher"] = kl_to_teacher(logits, split.teacher_logits)
    return metrics
