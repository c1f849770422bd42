"""Metrics against scikit-learn, SciPy and slow loops; intervals against simulation; latency against a known speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
import torch
from torch import Tensor, nn

from kd_course.data import Data, Split
from kd_course.evaluation import (
    Interval,
    Latency,
    accuracy,
    agreement,
    confusion,
    ece,
    errors,
    evaluate,
    holm,
    kl_to_teacher,
    latency,
    macro_f1,
    mcnemar,
    mean_interval,
    measure,
    nll,
    paired_difference,
    reliability,
    size_bytes,
)
from kd_course.inference import predict
from kd_course.models import StudentNet, TeacherNet, mlp
from kd_course.runtime import seeded

METRICS = [accuracy, errors, nll, ece, reliability, macro_f1, confusion]


def example(samples: int = 200, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are right about half of the time, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    logits = torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(samples), labels] += 1.0
    return logits, labels


def answers(*guesses: int, classes: int = 3) -> Tensor:
    """Logits whose answers are these classes."""
    return 5.0 * torch.eye(classes)[list(guesses)]


# --- metrics --------------------------------------------------------------------------------------------------------


def test_accuracy_and_errors():
    logits, labels = example()
    guess = logits.argmax(1)
    assert accuracy(logits, labels) == pytest.approx(sklearn.metrics.accuracy_score(labels, guess))
    assert errors(logits, labels) == sum(int(g) != int(y) for g, y in zip(guess, labels, strict=True))
    assert accuracy(logits, labels) == pytest.approx(1 - errors(logits, labels) / 200)
    assert isinstance(errors(logits, labels), int)


def test_accuracy_by_hand():
    labels = torch.tensor([0, 1, 2, 2])
    assert accuracy(answers(0, 1, 2, 0), labels) == 0.75
    assert errors(answers(1, 2, 0, 0), labels) == 4


def test_nll():
    logits, labels = example()
    assert nll(logits, labels) == pytest.approx(sklearn.metrics.log_loss(labels, logits.softmax(1)))
    assert nll(torch.zeros(4, 10), torch.arange(4)) == pytest.approx(math.log(10))


def test_nll_of_extreme_logits_is_finite():
    assert nll(torch.tensor([[1e4, -1e4]]), torch.tensor([1])) == pytest.approx(2e4)


def ece_by_hand(logits: Tensor, labels: Tensor, bins: int) -> float:
    """Guo et al. 2017, bin by bin: (0, 1/M], (1/M, 2/M], …, ((M-1)/M, 1]."""
    probabilities = scipy.special.softmax(logits.double().numpy(), axis=1)
    total = 0.0
    for m in range(bins):
        confidences, hits = [], []
        for row, label in zip(probabilities, labels.tolist(), strict=True):
            if m / bins < row.max() <= (m + 1) / bins:
                confidences.append(row.max())
                hits.append(float(row.argmax() == label))
        if hits:
            total += len(hits) / len(labels) * abs(sum(hits) / len(hits) - sum(confidences) / len(hits))
    return total


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
def test_ece_against_a_slow_loop(bins: int):
    logits, labels = example()
    assert ece(logits, labels, bins=bins) == pytest.approx(ece_by_hand(logits, labels, bins))
    if bins == 15:
        assert ece(logits, labels) == ece(logits, labels, bins=15)


def test_ece_of_honest_and_of_vain_confidence():
    sure, labels = answers(0, 0, 0, 0, classes=2) * 100, torch.tensor([0, 0, 0, 1])
    assert ece(sure, labels) == pytest.approx(0.25)
    honest = torch.tensor([[math.log(3.0), 0.0]] * 4)  # 75 % sure, 75 % right
    assert ece(honest, labels) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("confidence", "bins", "place"), [(0.5, 2, 0), (0.25, 4, 0), (0.5, 4, 1), (1.0, 4, 3), (1.0, 1, 0)]
)
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(confidence: float, bins: int, place: int):
    """Bins are open below and closed above, so a confidence of exactly 1 has a bin too."""
    logits = torch.zeros(1, round(1 / confidence)) if confidence < 1 else torch.tensor([[1e4, 0.0]])
    table = reliability(logits, torch.tensor([0]), bins=bins)
    assert table[:, 0].tolist() == [float(m == place) for m in range(bins)]
    assert table[place].tolist() == [1.0, confidence, 1.0]
    assert ece(logits, torch.tensor([0]), bins=bins) == pytest.approx(ece_by_hand(logits, torch.tensor([0]), bins))


def test_reliability_counts_every_sample_once():
    logits, labels = example()
    table = reliability(logits, labels)
    count, confidence, correct = table.unbind(1)
    assert table.shape == (15, 3)
    assert count.sum() == 200
    assert (count * correct).sum() == pytest.approx(200 * accuracy(logits, labels))
    assert (count * confidence).sum() == pytest.approx(logits.softmax(1).max(1).values.sum())
    assert (table[count == 0] == 0).all()
    used = (count > 0).nonzero().squeeze(1)
    assert ((confidence[used] > used / 15) & (confidence[used] <= (used + 1) / 15)).all()


@pytest.mark.parametrize("bins", [0, -1])
def test_reliability_refuses_no_bins(bins: int):
    with pytest.raises(ValueError, match=f"bins must be 1 or more, not {bins}"):
        ece(*example(), bins=bins)


def test_macro_f1_against_a_slow_loop():
    logits, labels = example()
    guess = logits.argmax(1)
    scores = []
    for c in range(5):
        hit = int(((guess == c) & (labels == c)).sum())
        precision, recall = hit / int((guess == c).sum()), hit / int((labels == c).sum())
        scores.append(2 * precision * recall / (precision + recall))
    assert macro_f1(logits, labels) == pytest.approx(sum(scores) / 5)


def test_macro_f1_counts_a_class_that_is_never_guessed_or_never_there():
    """Macro F1 weighs classes, not samples: a class never guessed costs its full share, however rare it is."""
    labels = torch.tensor([0] * 9 + [1])
    assert macro_f1(answers(*[0] * 10, classes=2), labels) == pytest.approx((18 / 19) / 2)
    assert macro_f1(answers(0, 1, classes=3), torch.tensor([0, 1])) == pytest.approx(2 / 3)


def test_confusion_has_labels_in_rows():
    logits, labels = example()
    table = confusion(logits, labels)
    assert np.array_equal(table, sklearn.metrics.confusion_matrix(labels, logits.argmax(1), labels=range(5)))
    assert confusion(answers(2), torch.tensor([0])).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert table.trace() == 200 - errors(logits, labels)


def test_agreement_looks_at_answers_only():
    student, teacher = answers(0, 1, 2, 0), answers(0, 1, 0, 2)
    assert agreement(student, teacher) == 0.5
    assert agreement(student, 0.1 * teacher + 3) == 0.5
    assert agreement(student, student) == 1.0


def test_kl_to_teacher():
    (student, _), (teacher, _) = example(seed=1), example(seed=2)
    s, t = (scipy.special.softmax(logits.numpy(), axis=1) for logits in (student, teacher))
    expected = scipy.special.rel_entr(t, s).sum(1).mean()
    assert kl_to_teacher(student, teacher) == pytest.approx(expected)
    assert kl_to_teacher(teacher, student) != pytest.approx(expected), (
        "KL has a direction: teacher first, in the formula"
    )
    assert kl_to_teacher(student + 7, student) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_do_not_touch_their_input(metric: Callable):
    logits, labels = example()
    before = logits.clone(), labels.clone()
    metric(logits, labels)
    assert torch.equal(logits, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64)),
        (torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64)),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),
    ],
    ids=["lengths", "column of labels", "no classes", "empty"],
)
def test_metrics_refuse_what_does_not_fit(metric: Callable, logits: Tensor, labels: Tensor):
    with pytest.raises(ValueError, match="predict on the very split whose labels you pass"):
        metric(logits, labels)


@pytest.mark.parametrize("metric", [agreement, kl_to_teacher])
@pytest.mark.parametrize("teacher", [torch.zeros(5, 3), torch.zeros(1, 3), torch.zeros(4, 2), torch.zeros(4)])
def test_comparisons_with_a_teacher_refuse_what_does_not_fit(metric: Callable, teacher: Tensor):
    """One row must not be spread over all samples: that would be another number, silently."""
    with pytest.raises(ValueError, match=r"student logits .* teacher logits"):
        metric(torch.zeros(4, 3), teacher)


# --- models on splits -----------------------------------------------------------------------------------------------


def test_evaluate_without_a_teacher(digits: Data):
    with seeded(0):
        model = mlp(8)
    logits = predict(model, digits.validation)
    found = evaluate(model, digits.validation)
    assert list(found) == ["accuracy", "errors", "nll", "ece", "macro_f1"]
    for metric in (accuracy, errors, nll, ece, macro_f1):
        assert found[metric.__name__] == metric(logits, digits.validation.labels)


def test_evaluate_beside_a_teacher(tiny_split: Callable[..., Split]):
    with seeded(0):
        student, teacher = mlp(8, classes=3), mlp(9, classes=3)
    split = tiny_split(30)
    split = split.with_teacher(predict(teacher, split))
    found = evaluate(student, split)
    assert found["agreement"] == agreement(predict(student, split), split.teacher_logits)
    assert found["kl_to_teacher"] == kl_to_teacher(predict(student, split), split.teacher_logits)
    assert evaluate(teacher, split)["kl_to_teacher"] == pytest.approx(0.0, abs=1e-9)
    assert measure(predict(student, split), split) == found


def test_evaluate_asks_in_evaluation_mode_and_leaves_the_model_as_it_was(tiny_split: Callable[..., Split]):
    with seeded(0):
        model = mlp(64, dropout=0.9, classes=3).train()
    split = tiny_split(30)
    assert evaluate(model, split) == evaluate(model, split), "dropout would make these differ"
    assert model.training


# --- size and speed -------------------------------------------------------------------------------------------------


def test_size_counts_bytes_of_parameters_and_buffers():
    assert size_bytes(StudentNet()) == 4 * 105_866
    assert size_bytes(TeacherNet().half()) == 2 * 1_554_954
    assert size_bytes(nn.BatchNorm1d(3)) == 4 * (3 + 3 + 3 + 3) + 8  # scale, shift, mean, variance; one int64 counter
    assert size_bytes(nn.ReLU()) == 0


class Witness(nn.Module):
    """Notes how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict] = []

    def forward(self, images: Tensor) -> Tensor:
        conditions = {"threads": torch.get_num_threads(), "training": self.training, "grad": torch.is_grad_enabled()}
        self.calls.append({**conditions, "shape": tuple(images.shape)})
        return images.mean((1, 2, 3))[:, None]


def test_latency_measures_the_model_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    """The clock stands still but for the 50 ms that a forward pass takes on it."""
    now = [0.0]

    class Slow(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            now[0] += 0.05
            return images

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    found = latency(Slow(), repeats=5, warm_up=1)
    assert (found.q1_ms, found.median_ms, found.q3_ms) == pytest.approx((50, 50, 50))
    assert found.iqr_ms == found.q3_ms - found.q1_ms


def test_latency_gives_the_median_and_the_middle_half(monkeypatch: pytest.MonkeyPatch):
    """One slow pass in five moves the mean a lot, and neither the median nor the quartiles."""
    ticks = [second for duration in (1.0, 2.0, 3.0, 4.0, 500.0) for second in (0.0, duration / 1000)]
    clock = iter(ticks)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    found = latency(Witness(), repeats=5, warm_up=0)
    assert (found.q1_ms, found.median_ms, found.q3_ms) == pytest.approx((2.0, 3.0, 4.0))


def test_latency_fixes_the_conditions_and_reports_them():
    model = Witness().train()
    before = torch.get_num_threads()
    found = latency(model, batch_size=7, thread_count=before + 1, repeats=4, warm_up=3)
    assert (found.batch_size, found.threads, found.repeats) == (7, before + 1, 4)
    assert len(model.calls) == 3 + 4, "the warm-up passes come on top"
    assert all(
        call == {"threads": before + 1, "training": False, "grad": False, "shape": (7, 1, 28, 28)}
        for call in model.calls
    )
    assert torch.get_num_threads() == before
    assert model.training


def test_latency_restores_the_conditions_after_a_failure():
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("no")

    model, before = Broken().train(), torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no"):
        latency(model, thread_count=before + 1)
    assert torch.get_num_threads() == before
    assert model.training
    assert torch.is_grad_enabled()


def test_latency_reads_as_a_sentence():
    assert str(Latency(1.234, 1.0, 1.5, 1, 1, 50)) == "1.23 ms (IQR 0.50; batch 1, 1 thread, 50 repeats)"
    assert str(Latency(10, 9, 11, 128, 2, 5)) == "10.00 ms (IQR 2.00; batch 128, 2 threads, 5 repeats)"


# --- how sure one can be --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
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
    with pytest.raises(ValueError, match="same N"):
        mcnemar(first, second[:-1], labels)
