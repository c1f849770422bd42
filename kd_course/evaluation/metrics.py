"""How good the answers are: metrics of logits (N, C) against labels (N,), each with its definition.

A network is run once, with :func:`kd_course.inference.predict`, and its logits are evaluated as often as needed, on
the CPU and in float32 or wider. A logit of -∞ gives a class no chance. Every metric raises ``TypeError`` for what is no
tensor of floating-point logits or of labels, and ``ValueError`` for what it cannot judge: no samples, one class, tables
that do not fit each other, labels outside 0..C-1 (such as -100), a row without a largest logit, and, where it takes a
softmax, probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course._validation import judged, not_probabilities, same_answers, whole
from kd_course.data import Split
from kd_course.inference import predict

__all__ = [
    "accuracy", "agreement", "calibration_bins", "confusion_matrix", "ece", "errors", "evaluate",
    "evaluate_logits", "kl_to_teacher", "macro_f1", "nll",
]  # fmt: skip


def errors(logits: Tensor, labels: Tensor) -> int:
    """Number of wrong answers: samples whose largest logit, in a row of (N, C), is not at their label, in (N,)."""
    logits, labels = judged(logits, labels)
    return int((logits.argmax(1) != labels).sum())


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction of right answers, in [0, 1]: the largest logit, in a row of (N, C), is at the label, in (N,)."""
    return 1 - errors(logits, labels) / len(labels)


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of labels y (N,) under logits z (N, C), in nats: -mean log softmax(z)_y."""
    logits, labels = judged(logits, labels)
    return F.cross_entropy(not_probabilities(logits), labels).item()


def ece(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    r"""Expected calibration error, in [0, 1]: mean gap of confidence and accuracy over equal-width bins of confidence.

    .. math:: \sum_m \frac{|B_m|}{N} \, | acc(B_m) - conf(B_m) |

    Reference: Guo et al. 2017, *On Calibration of Modern Neural Networks*, arXiv:1706.04599 (15 bins).

    Args:
        logits: (N, C).
        labels: (N,).
        bins: how many, equal in width over (0, 1].

    Raises:
        ValueError: the logits cannot be judged by the labels, or ``bins`` is below 1, or above a million.
        TypeError: ``bins`` is no whole number.
    """
    table = calibration_bins(logits, labels, bins=bins)
    count, confidence, correct = table.unbind(1)
    return ((count / count.sum()) * (confidence - correct).abs()).sum().item()


def calibration_bins(logits: Tensor, labels: Tensor, *, bins: int = 15) -> Tensor:
    """The table that a reliability diagram draws, from the arguments of :func:`ece`.

    Returns:
        (bins, 3), float64: count, mean confidence and accuracy per bin of confidence; an empty bin holds zeros.
    """
    bins = whole(bins, "bins", least=1, most=1_000_000)
    logits, labels = judged(logits, labels)
    confidence, guess = not_probabilities(logits).double().softmax(1).max(1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    columns = torch.stack([torch.ones_like(confidence), confidence, (guess == labels).double()], dim=1)
    table = torch.zeros(bins, 3, dtype=torch.float64).index_add_(0, place, columns)
    table[:, 1:] /= table[:, :1].clamp_min(1)
    return table


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """F1 of each class of logits (N, C) against labels (N,), averaged with equal weight for every class, in [0, 1].

    A class that is neither a label nor an answer has no F1 and is left out; one that is only one of the two has 0.
    """
    from sklearn.metrics import f1_score

    logits, labels = judged(logits, labels)
    return float(f1_score(labels, logits.argmax(1), average="macro", zero_division=0))


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """How often each label (N,) got each answer of logits (N, C): int64, (C, C), row the label, column the answer."""
    logits, labels = judged(logits, labels)
    classes = logits.shape[1]
    return torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2).view(classes, classes)


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Fraction of samples for which two tables of logits (N, C) give the same answer, right or wrong, in [0, 1].

    Reference: Stanton et al. 2021, *Does Knowledge Distillation Really Work?*, arXiv:2106.05945.
    """
    student, teacher = same_answers(student_logits, teacher_logits)
    return (student.argmax(1) == teacher.argmax(1)).double().mean().item()


def kl_to_teacher(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Mean KL(t ‖ s) of two tables of logits (N, C) at T = 1, in nats: the distance that accuracy does not see."""
    tables = same_answers(student_logits, teacher_logits)
    student, teacher = (not_probabilities(logits).double().log_softmax(1) for logits in tables)
    terms = F.kl_div(student, teacher, reduction="none", log_target=True).masked_fill(teacher.isneginf(), 0)  # 0 log 0
    return max(0.0, terms.sum().item() / len(terms))


def evaluate(model: nn.Module, split: Split, *, device: torch.device | str | None = None) -> dict[str, float]:
    """Every quality metric of a network on a split, on the device that :func:`predict` takes.

    Returns:
        ``accuracy``, ``errors``, ``nll``, ``ece``, ``macro_f1``; where ``split`` carries a teacher's logits, also
        ``agreement`` and ``kl_to_teacher``.

    Raises:
        ValueError: the split is empty, its labels are no classes of the network, or the teacher's logits have another
            number of classes.
    """
    return evaluate_logits(predict(model, split, device=device), split)


def evaluate_logits(logits: Tensor, split: Split) -> dict[str, float]:
    """The metrics of :func:`evaluate` for logits (N, C) that are already there, row i for sample i of ``split``."""
    if not hasattr(split, "teacher_logits"):
        raise TypeError(f"evaluate_logits needs logits and then their Split, not {type(split).__name__}")
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
