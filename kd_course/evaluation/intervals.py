"""How certain a result is: intervals over paired seeds, many comparisons at once, two classifiers on one test set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

from torch import Tensor

from kd_course._validation import finite_numbers, judged

__all__ = ["Interval", "McNemar", "holm", "mcnemar", "mean_interval", "paired_difference"]


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


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean over seeds with its Student-t confidence interval: mean ± t · s / √n.

    Args:
        values: one per seed, in any unit, which the interval shares.
        confidence: the chance that the interval covers the true mean.

    Raises:
        ValueError: there are fewer than two values, which have no spread, one is not finite, or ``confidence`` is not
            between 0 and 1.
        TypeError: the values are not numbers.

    >>> f"{mean_interval([10.0, 12.0, 14.0]):.2f}"
    '12.00 ± 4.97'
    """
    from scipy.stats import t

    if not (isinstance(confidence, Real) and 0 < confidence < 1):
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence!r}; for 95 % pass 0.95")
    values = finite_numbers(values, "values")
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
    the difference. If the interval includes 0, the comparison is inconclusive.

    Args:
        first: one value per seed.
        second: one value per seed, for the same seeds in the same order.
        confidence: the chance that the interval covers the true difference.

    Raises:
        ValueError: the two have different lengths, or :func:`mean_interval` refuses the differences.
        TypeError: the values are not numbers.

    >>> paired_difference([10, 20, 30], [8, 18, 28]).excludes_zero()
    True
    """
    first, second = finite_numbers(first, "the first values"), finite_numbers(second, "the second values")
    if len(first) != len(second):
        raise ValueError(f"pairs need equal lengths, not {len(first)} and {len(second)}; use the same seeds for both")
    return mean_interval([a - b for a, b in zip(first, second, strict=True)], confidence=confidence)


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Correct p-values for having asked several questions at once: below 0.05, a difference survives.

    .. math:: \tilde p_{(k)} = \max_{j \le k} \min(1, (m - j + 1)\, p_{(j)}),
              \quad p_{(1)} \le \dots \le p_{(m)}

    If chance alone makes some comparisons differ, the probability of calling any of those a difference is at most 5 %.

    Reference: Holm 1979, *A Simple Sequentially Rejective Multiple Test Procedure*, Scand. J. Statist. 6, 65-70.

    Args:
        p_values: one per comparison, uncorrected.

    Returns:
        The corrected p-values, in the order given.

    Raises:
        ValueError: a p-value is outside [0, 1].
        TypeError: the p-values are not numbers.

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    p_values = finite_numbers(p_values, "p-values")
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must lie between 0 and 1, not {p_values}")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def mcnemar(first_logits: Tensor, second_logits: Tensor, labels: Tensor) -> McNemar:
    """Exact McNemar test: do two models with logits (N, C) err equally often on the same samples?

    Only the samples that one gets right and the other wrong count. Under the null hypothesis each falls to
    either side with probability ½, so the two-sided p is binomial.

    Reference: McNemar 1947, *Psychometrika* 12, 153-157.

    Raises:
        ValueError: logits cannot be judged by the labels; see :mod:`~kd_course.evaluation.metrics`.
        TypeError: these are no tensors of logits and labels.
    """
    from scipy.stats import binomtest

    first, classes = judged(first_logits, labels, "first logits")
    second, _ = judged(second_logits, labels, "second logits")
    first_right, second_right = first.argmax(1) == classes, second.argmax(1) == classes
    only_first, only_second = int((first_right & ~second_right).sum()), int((~first_right & second_right).sum())
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p_value)
