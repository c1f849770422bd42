"""What came out: metrics with their definitions, size and speed, and how sure one can be.

Metrics take logits (N, C) and labels (N,), so a network is asked once, with
:func:`kd_course.inference.predict`, and measured as often as one likes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course.data import Split
from kd_course.inference import evaluating, predict
from kd_course.runtime import threads


class Interval(NamedTuple):
    """A mean over seeds, with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the interval's width: what stands after the ±."""
        return (self.high - self.low) / 2

    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval: for a paired difference, whether it is more than noise."""
        return self.low > 0 or self.high < 0

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} ± {self.half_width:{spec.lstrip('+')}}"

    def __str__(self) -> str:
        return f"{self:.3g} (95 % interval, n = {self.n})"


class McNemar(NamedTuple):
    """Two classifiers on one test set: samples that only the first, or only the second, got right, and the exact p."""

    only_first: int
    only_second: int
    p_value: float


class Latency(NamedTuple):
    """Milliseconds per forward pass: the median and the middle half of the repeats, and the conditions."""

    median_ms: float
    q1_ms: float
    q3_ms: float
    batch_size: int
    threads: int
    repeats: int

    @property
    def iqr_ms(self) -> float:
        """Interquartile range, in milliseconds."""
        return self.q3_ms - self.q1_ms

    def __str__(self) -> str:
        return (
            f"{self.median_ms:.2f} ms (IQR {self.iqr_ms:.2f}; batch {self.batch_size}, "
            f"{self.threads} thread{'s' * (self.threads > 1)}, {self.repeats} repeats)"
        )


def errors(logits: Tensor, labels: Tensor) -> int:
    """Number of samples whose largest logit is not the label's."""
    return int((_same_length(logits, labels).argmax(1) != labels).sum())


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction of samples whose largest logit is the label's."""
    return 1 - errors(logits, labels) / len(labels)


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the labels, in nats: -mean log softmax(z)_y."""
    return F.cross_entropy(_same_length(logits, labels), labels).item()


def ece(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over equal-width bins of confidence.

    .. math:: \\sum_m \\frac{|B_m|}{N} \\, | acc(B_m) - conf(B_m) |

    Reference: Guo et al. 2017, *On Calibration of Modern Neural Networks*, arXiv:1706.04599 (15 bins).
    """
    table = reliability(logits, labels, bins=bins)
    count, confidence, correct = table.unbind(1)
    return ((count / count.sum()) * (confidence - correct).abs()).sum().item()


def reliability(logits: Tensor, labels: Tensor, *, bins: int = 15) -> Tensor:
    """What a reliability diagram draws: (bins, 3) with count, mean confidence and accuracy per bin of confidence.

    Bins are equal in width over (0, 1]; an empty one holds zeros.
    """
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, not {bins}")
    confidence, guess = _same_length(logits, labels).double().softmax(1).max(1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    columns = torch.stack([torch.ones_like(confidence), confidence, (guess == labels).double()], dim=1)
    table = torch.zeros(bins, 3, dtype=torch.float64).index_add_(0, place, columns)
    table[:, 1:] /= table[:, :1].clamp_min(1)
    return table


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """F1 score of each class, averaged with equal weight for every class."""
    from sklearn.metrics import f1_score

    guess = _same_length(logits, labels).argmax(1)
    return float(f1_score(labels, guess, average="macro", labels=range(logits.shape[1]), zero_division=0))


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts (C, C): row the label, column the answer."""
    classes = _same_length(logits, labels).shape[1]
    return torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2).view(classes, classes)


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Fraction of samples for which student and teacher give the same answer, right or wrong.

    Reference: Stanton et al. 2021, *Does Knowledge Distillation Really Work?*, arXiv:2106.05945.
    """
    _same_shape(student_logits, teacher_logits)
    return (student_logits.argmax(1) == teacher_logits.argmax(1)).double().mean().item()


def kl_to_teacher(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Mean KL(t ‖ s) at T = 1, in nats: the distance that accuracy does not see."""
    _same_shape(student_logits, teacher_logits)
    student, teacher = (logits.double().log_softmax(1) for logits in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True).item()


def evaluate(model: nn.Module, split: Split, *, device: torch.device | str | None = None) -> dict[str, float]:
    """Every quality metric of ``model`` on ``split``; beside a teacher's logits also agreement and KL to the teacher.

    Returns:
        ``accuracy``, ``errors``, ``nll``, ``ece``, ``macro_f1``; and ``agreement``, ``kl_to_teacher``.
    """
    return measure(predict(model, split, device=device), split)


def measure(logits: Tensor, split: Split) -> dict[str, float]:
    """The metrics of :func:`evaluate` for logits that are already at hand."""
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


def size_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, in the types they have now."""
    return sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])


def latency(
    model: nn.Module, *, batch_size: int = 1, thread_count: int = 1, repeats: int = 50, warm_up: int = 10
) -> Latency:
    """Time of one forward pass over ``batch_size`` blank images, on the device the model is on.

    Measured in evaluation mode without gradients, on a fixed number of CPU threads, after ``warm_up`` passes that
    do not count. The median and the interquartile range are given because a busy machine makes means lie.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images = torch.zeros(batch_size, 1, 28, 28, device=device)
    times = torch.empty(repeats, dtype=torch.float64)
    with threads(thread_count), evaluating(model):
        for repeat in range(-warm_up, repeats):
            _wait_for(device)
            start = time.perf_counter()
            model(images)
            _wait_for(device)
            if repeat >= 0:
                times[repeat] = (time.perf_counter() - start) * 1000
    q1, median, q3 = torch.quantile(times, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return Latency(median, q1, q3, batch_size, thread_count, repeats)


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean over seeds with its Student-t confidence interval: mean ± t · s / √n.

    Raises:
        ValueError: fewer than two values, which have no spread.

    >>> f"{mean_interval([10.0, 12.0, 14.0]):.2f}"
    '12.00 ± 4.97'
    """
    from scipy.stats import t

    values = [float(value) for value in values]
    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs two seeds or more, not {n}; run the experiment again with other seeds")
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * spread / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean of ``first - second`` over seeds, pair by pair, with its confidence interval.

    Runs that share a seed share their initial weights and their data order, so the luck of a seed cancels in
    the difference. If the interval contains 0, the two have not been told apart.

    Raises:
        ValueError: the two have different lengths, or fewer than two pairs.

    >>> paired_difference([10, 20, 30], [8, 18, 28]).excludes_zero()
    True
    """
    if len(first) != len(second):
        raise ValueError(
            f"pairs need two lists of one length, not {len(first)} and {len(second)}; use the same seeds for both"
        )
    return mean_interval([a - b for a, b in zip(first, second, strict=True)], confidence=confidence)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for having asked several questions at once: below 0.05, a difference survives.

    .. math:: \\tilde p_{(k)} = \\max_{j \\le k} \\min(1, (m - j + 1)\\, p_{(j)}),
              \\quad p_{(1)} \\le \\dots \\le p_{(m)}

    Of all comparisons that differ by chance alone, the probability to call even one a difference stays below 5 %.

    Reference: Holm 1979, *A Simple Sequentially Rejective Multiple Test Procedure*, Scand. J. Statist. 6, 65-70.

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must lie between 0 and 1, not {list(p_values)}")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def mcnemar(first_logits: Tensor, second_logits: Tensor, labels: Tensor) -> McNemar:
    """Exact McNemar test: do two models, on the same samples, err equally often?

    Only the samples that one gets right and the other wrong tell; under the null hypothesis each falls to
    either side with probability ½, so the two-sided p is binomial.

    Reference: McNemar 1947, *Psychometrika* 12, 153-157.
    """
    from scipy.stats import binomtest

    first_right = _same_length(first_logits, labels).argmax(1) == labels
    second_right = _same_length(second_logits, labels).argmax(1) == labels
    only_first, only_second = int((first_right & ~second_right).sum()), int((~first_right & second_right).sum())
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p_value)


def _same_length(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.ndim != 2 or labels.ndim != 1 or len(logits) != len(labels) or not len(labels):
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be (N, classes) and (N,) "
            "with the same N of 1 or more; predict on the very split whose labels you pass"
        )
    return logits


def _same_shape(student_logits: Tensor, teacher_logits: Tensor) -> None:
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} "
            "must both be (N, classes), for the same samples"
        )


def _wait_for(device: torch.device) -> None:
    """Let queued GPU work finish, so that the clock measures it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
