"""Intervals and tests against SciPy, by hand and by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from examples_of_logits import answers
from torch import Tensor

from kd_course.evaluation import Interval, holm, mcnemar, mean_interval, paired_difference


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("values", [[1.0, 3.0], [10, 12, 14], [0.5, 0.25, -3.0, 8.0, 2.0], np.array([3.0, 4.0, 8.0])])
def test_mean_interval_is_student_t(values: list[float], confidence: float):
    found = mean_interval(values, confidence=confidence)
    low, high = scipy.stats.t.interval(
        confidence, len(values) - 1, loc=np.mean(values), scale=scipy.stats.sem(values, ddof=1)
    )
    assert found == pytest.approx((np.mean(values), low, high, len(values)))


def test_mean_interval_is_95_percent_and_takes_tensors():
    values = [1.0, 2.0, 4.0]
    assert mean_interval(values) == mean_interval(values, confidence=0.95)
    assert mean_interval(torch.tensor(values)) == mean_interval(values)


def test_mean_interval_of_equal_values_is_a_point():
    assert mean_interval([0.1] * 5) == pytest.approx((0.1, 0.1, 0.1, 5))


@pytest.mark.parametrize("confidence", [95, 0, 1, -0.5, math.nan, math.inf, True, "0.95", None])
def test_confidence_is_a_fraction_and_not_a_percentage(confidence: object):
    for function in (mean_interval, lambda values, **options: paired_difference(values, [0, 0], **options)):
        with pytest.raises(ValueError, match=r"between 0 and 1, not .*for 95 % pass 0\.95"):
            function([1.0, 2.0], confidence=confidence)
    assert mean_interval([1, 2], confidence=np.float32(0.5)).low < 1.5


NO_SERIES = ["123", {0: 1.0, 1: 2.0}, {1.0, 2.0}, 5, 2.5, None, torch.tensor(3.0), pd.DataFrame({0: [1.0], 1: [2.0]})]
NO_NUMBERS = [
    ["1", "2"],
    [True, False],
    [1.0, None],
    [[1, 2], [3, 4]],
    np.ones((2, 2)),
    torch.ones(2, 2),
    [1j, 2],
    [10**400],
]
FUNCTIONS = {
    "mean_interval": mean_interval,
    "paired_difference": lambda values: paired_difference(values, [1.0, 2.0]),
    "second": lambda values: paired_difference([1.0, 2.0], values),
    "holm": holm,
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_what_is_no_series_of_numbers_is_refused(function: Callable):
    """Of a dictionary the keys would be averaged, of a text the digits, and a set drops a seed that repeats another."""
    for values in NO_SERIES:
        with pytest.raises(TypeError, match="must be a list of numbers, not"):
            function(values)
    with pytest.raises(TypeError, match=r"pass its \.values\(\)"):
        function({0: 0.1, 1: 0.2})
    for values in NO_NUMBERS:
        with pytest.raises(TypeError, match="must be numbers, not"):
            function(values)
    for value in (math.nan, math.inf, -math.inf, 1e200):
        with pytest.raises(ValueError, match="must be finite numbers below 1e150, not"):
            function([0.5, value])


@pytest.mark.parametrize(
    "make", [np.array, torch.tensor, pd.Series, tuple, iter, lambda v: dict(enumerate(v)).values()]
)
def test_any_series_of_numbers_will_do(make: Callable):
    assert mean_interval(make([1.0, 2.0, 4.0])) == mean_interval([1.0, 2.0, 4.0])
    assert paired_difference(make([1.0, 2.0, 4.0]), make([0.5, 1.0, 1.0])) == mean_interval([0.5, 1.0, 3.0])
    assert holm(make([0.25, 0.125])) == [0.25, 0.25]


def test_differences_of_unsigned_numbers_do_not_wrap():
    few, many = np.array([1, 2], dtype=np.uint8), np.array([3, 5], dtype=np.uint8)
    assert paired_difference(few, many) == mean_interval([-2, -3])
    assert paired_difference(torch.tensor(few), torch.tensor(many)) == mean_interval([-2, -3])


@pytest.mark.parametrize("values", [[], [1.0]])
def test_mean_interval_refuses_one_seed(values: list[float]):
    with pytest.raises(ValueError, match=f"two seeds or more, not {len(values)}; run the experiment again"):
        mean_interval(values)


def test_mean_interval_covers_the_truth_as_often_as_it_says():
    """Of 3,000 experiments with 5 seeds about 95 % hold the true mean; with a normal quantile it would be 88 %."""
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(3000, 5))
    intervals = [mean_interval(row) for row in draws]
    covered = np.mean([interval.low <= 3.0 <= interval.high for interval in intervals])
    assert 0.935 < covered < 0.965


def test_paired_difference_is_the_interval_of_the_differences():
    first, second = [101, 205, 309, 404], [100, 202, 305, 399]
    assert paired_difference(first, second) == mean_interval([1, 3, 4, 5])
    assert paired_difference(first, second, confidence=0.5) == mean_interval([1, 3, 4, 5], confidence=0.5)
    low, high = scipy.stats.ttest_rel(first, second).confidence_interval(0.95)
    assert paired_difference(first, second)[1:3] == pytest.approx((low, high))


def test_pairing_removes_the_luck_of_a_seed():
    """The two lists overlap widely, yet the first is larger in every pair."""
    first, second = [10.0, 20.0, 30.0, 40.0], [9.0, 18.9, 29.1, 39.0]
    assert paired_difference(first, second).excludes_zero()
    assert mean_interval(first).low < mean_interval(second).mean < mean_interval(first).high


def test_paired_difference_refuses_lists_of_two_lengths():
    with pytest.raises(ValueError, match="not 3 and 2; use the same seeds for both"):
        paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="two seeds or more"):
        paired_difference([1], [2])


def test_interval_reads_as_mean_and_half_width():
    interval = Interval(1.5, 1.0, 2.0, 5)
    assert interval.half_width == 0.5
    assert f"{interval:.2f}" == "1.50 ± 0.50"
    assert f"{interval:+.1f}" == "+1.5 ± 0.5"
    assert f"{Interval(0.5, 0.25, 0.75, 5):.0%}" == "50% ± 25%"
    assert str(interval) == "1.5 ± 0.5 (95 % interval, n = 5)"


@pytest.mark.parametrize(
    ("low", "high", "excluded"), [(0.1, 2, True), (-2, -0.1, True), (-1, 1, False), (0, 1, False), (-1, 0, False)]
)
def test_interval_excludes_zero(low: float, high: float, excluded: bool):
    assert Interval((low + high) / 2, low, high, 5).excludes_zero() is excluded


def discordant(only_first: int, only_second: int, both: int = 3, neither: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Two classifiers and labels with these numbers of samples that only one of them, both, or neither gets right."""
    first = [1] * only_first + [0] * only_second + [1] * both + [0] * neither
    second = [0] * only_first + [1] * only_second + [1] * both + [0] * neither
    return answers(*first), answers(*second), torch.ones(len(first), dtype=torch.int64)


def test_holm_by_hand_and_in_the_order_given():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last may not fall below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    assert holm([0.0, 1.0]) == [0, 1]


@pytest.mark.parametrize("p", [-0.1, 1.1, 1.0000001])
def test_holm_refuses_what_is_no_probability(p: float):
    with pytest.raises(ValueError, match="p-values must lie between 0 and 1"):
        holm([0.5, p])


def test_holm_keeps_the_chance_of_any_false_alarm_at_5_percent():
    generator = np.random.default_rng(0)
    ten_null_comparisons = generator.uniform(size=(4_000, 10))
    alarms = np.mean([min(holm(list(row))) < 0.05 for row in ten_null_comparisons])
    assert 0.03 < alarms < 0.065
    assert np.mean((ten_null_comparisons < 0.05).any(1)) > 0.35  # what happens without a correction


def test_mcnemar_by_hand():
    """Of 10 discordant samples 8 fall to the first: p = 2 · (C(10,0) + C(10,1) + C(10,2)) / 2¹⁰ = 112/1024."""
    found = mcnemar(*discordant(8, 2))
    assert found[:2] == (8, 2)
    assert found.p_value == pytest.approx(112 / 1024)


@pytest.mark.parametrize("counts", [(1, 0), (0, 5), (6, 6), (20, 7)])
def test_mcnemar_is_the_exact_binomial_test(counts: tuple[int, int]):
    found = mcnemar(*discordant(*counts))
    tail = sum(math.comb(sum(counts), k) for k in range(min(counts) + 1)) / 2 ** sum(counts)
    assert found[:2] == counts
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert found.p_value == pytest.approx(scipy.stats.binomtest(counts[0], sum(counts)).pvalue)


def test_mcnemar_without_a_discordant_sample_tells_nothing():
    assert mcnemar(*discordant(0, 0)) == (0, 0, 1.0)


def test_mcnemar_looks_only_at_discordant_samples():
    assert mcnemar(*discordant(8, 2, both=1000)).p_value == mcnemar(*discordant(8, 2, both=0, neither=0)).p_value


def test_mcnemar_refuses_what_does_not_fit():
    first, second, labels = discordant(2, 1)
    with pytest.raises(ValueError, match=r"labels must be 7 .*take both from the same samples"):
        mcnemar(first, second[:-1], labels)
    with pytest.raises(ValueError, match=r"0\.\.2, not -99\.\.-99"):
        mcnemar(first, second, labels - 100)
    with pytest.raises(ValueError, match="second logits hold NaN"):
        mcnemar(first, second * math.nan, labels)
    with pytest.raises(ValueError, match="first logits hold NaN"):
        mcnemar(first * math.nan, second, labels)
    with pytest.raises(TypeError, match=r"first logits must be floating point, not torch\.int64"):
        mcnemar(labels, first, second)
    with pytest.raises(ValueError, match="bool"):
        mcnemar(first, second, labels > 0)
