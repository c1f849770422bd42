"""How good the answers are: metrics of logits (N, C) against labels (N,), each with its definition.

A network is run once, with :func:`kd_course.inference.predict`, and its logits are evaluated as often as needed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course._validation import one_label_each, same_logits
from kd_course.data import Split
from kd_course.inference import predict


def errors(logits: Tensor, labels: Tensor) -> int:
    """Number of samples whose largest logit is not the label's.

    Args:
        logits: (N, C).
        labels: int64, (N,).

    Raises:
        ValueError: the two do not fit each other, or N is 0.
    """
    return int((one_label_each(logits, labels).argmax(1) != labels).sum())


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction of samples whose largest logit is the label's, in [0, 1].

    Args:
        logits: (N, C).
        labels: int64, (N,).

    Raises:
        ValueError: the two do not fit each other, or N is 0.
    """
    return 1 - errors(logits, labels) / len(labels)


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the labels, in nats: -mean log softmax(z)_y.

    Args:
        logits: (N, C).
        labels: int64, (N,).

    Raises:
        ValueError: the two do not fit each other, or N is 0.
    """
    return F.cross_entropy(one_label_each(logits, labels), labels).item()


def ece(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    r"""Expected calibration error: the mean gap between confidence and accuracy over equal-width bins of confidence.

    .. math:: \sum_m \frac{|B_m|}{N} \, | acc(B_m) - conf(B_m) |

    Reference: Guo et al. 2017, *On Calibration of Modern Neural Networks*, arXiv:1706.04599 (15 bins).

    Args:
        logits: (N, C).
        labels: int64, (N,).
        bins: how many, equal in width over (0, 1].

    Returns:
        The error, in [0, 1].

    Raises:
        ValueError: the tensors do not fit each other, N is 0, or ``bins`` is below 1.
    """
    table = calibration_bins(logits, labels, bins=bins)
    count, confidence, correct = table.unbind(1)
    return ((count / count.sum()) * (confidence - correct).abs()).sum().item()


def calibration_bins(logits: Tensor, labels: Tensor, *, bins: int = 15) -> Tensor:
    """The table that a reliability diagram draws.

    Args:
        logits: (N, C).
        labels: int64, (N,).
        bins: how many, equal in width over (0, 1].

    Returns:
        (bins, 3), float64: count, mean confidence and accuracy per bin of confidence; an empty bin holds zeros.

    Raises:
        ValueError: the tensors do not fit each other, N is 0, or ``bins`` is below 1.
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
    """F1 score of each class, averaged with equal weight for every class, in [0, 1].

    Args:
        logits: (N, C).
        labels: int64, (N,).

    Raises:
        ValueError: the two do not fit each other, or N is 0.
    """
    from sklearn.metrics import f1_score

    guess = one_label_each(logits, labels).argmax(1)
    return float(f1_score(labels, guess, average="macro", labels=range(logits.shape[1]), zero_division=0))


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """How often each label got each answer.

    Args:
        logits: (N, C).
        labels: int64, (N,).

    Returns:
        Counts, int64, (C, C): row the label, column the answer.

    Raises:
        ValueError: the two do not fit each other, or N is 0.
    """
    classes = one_label_each(logits, labels).shape[1]
    return torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2).view(classes, classes)


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Fraction of samples for which student and teacher give the same answer, right or wrong, in [0, 1].

    Reference: Stanton et al. 2021, *Does Knowledge Distillation Really Work?*, arXiv:2106.05945.

    Args:
        student_logits: (N, C).
        teacher_logits: (N, C), of the same samples.

    Raises:
        ValueError: the shapes differ, or are not (N, C).
    """
    same_logits(student_logits, teacher_logits)
    return (student_logits.argmax(1) == teacher_logits.argmax(1)).double().mean().item()


def kl_to_teacher(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Mean KL(t ‖ s) at T = 1, in nats: the distance that accuracy does not see.

    Args:
        student_logits: (N, C).
        teacher_logits: (N, C), of the same samples.

    Raises:
        ValueError: the shapes differ, or are not (N, C).
    """
    same_logits(student_logits, teacher_logits)
    student, teacher = (logits.double().log_softmax(1) for logits in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True).item()


def evaluate(model: nn.Module, split: Split, *, device: torch.device | str | None = None) -> dict[str, float]:
    """Every quality metric of a network.

    Args:
        model: run in evaluation mode, without gradients.
        split: the samples, and perhaps the logits of a teacher.
        device: where to compute, by default where :func:`~kd_course.runtime.pick_device` says.

    Returns:
        ``accuracy``, ``errors``, ``nll``, ``ece``, ``macro_f1``; where ``split`` carries a teacher's logits, also
        ``agreement`` and ``kl_to_teacher``.

    Raises:
        ValueError: the split is empty, or the teacher's logits have another number of classes.
    """
    return evaluate_logits(predict(model, split, device=device), split)


def evaluate_logits(logits: Tensor, split: Split) -> dict[str, float]:
    """The metrics of :func:`evaluate` for logits that are already there.

    Args:
        logits: (N, C), row i for sample i of ``split``.
        split: the samples, and perhaps the logits of a teacher.

    Raises:
        ValueError: the logits do not fit the split, or the split is empty.
    """
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
