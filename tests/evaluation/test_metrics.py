"""Metrics against scikit-learn, SciPy and slow loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import torch
from examples_of_logits import answers, example
from torch import Tensor

import kd_course.evaluation
from kd_course.data import Data, Split
from kd_course.evaluation import (
    accuracy,
    agreement,
    calibration_bins,
    confusion_matrix,
    cost,
    ece,
    errors,
    evaluate,
    evaluate_logits,
    intervals,
    kl_to_teacher,
    macro_f1,
    metrics,
    nll,
)
from kd_course.inference import predict
from kd_course.models import mlp
from kd_course.runtime import seeded

METRICS = [accuracy, errors, nll, ece, calibration_bins, macro_f1, confusion_matrix]


def test_all_that_the_three_files_define_is_offered():
    defined = {
        name
        for module in (cost, intervals, metrics)
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
    assert set(kd_course.evaluation.__all__) == defined
    assert all(hasattr(kd_course.evaluation, name) for name in defined)


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


def test_ece_of_over_confident_and_of_calibrated_logits():
    over_confident, labels = answers(0, 0, 0, 0, classes=2) * 100, torch.tensor([0, 0, 0, 1])
    assert ece(over_confident, labels) == pytest.approx(0.25)
    calibrated = torch.tensor([[math.log(3.0), 0.0]] * 4)  # 75 % confident, 75 % right
    assert ece(calibrated, labels) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("confidence", "bins", "place"), [(0.5, 2, 0), (0.25, 4, 0), (0.5, 4, 1), (1.0, 4, 3), (1.0, 1, 0)]
)
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(confidence: float, bins: int, place: int):
    """Bins are open below and closed above, so a confidence of exactly 1 has a bin too."""
    logits = torch.zeros(1, round(1 / confidence)) if confidence < 1 else torch.tensor([[1e4, 0.0]])
    table = calibration_bins(logits, torch.tensor([0]), bins=bins)
    assert table[:, 0].tolist() == [float(m == place) for m in range(bins)]
    assert table[place].tolist() == [1.0, confidence, 1.0]
    assert ece(logits, torch.tensor([0]), bins=bins) == pytest.approx(ece_by_hand(logits, torch.tensor([0]), bins))


def test_calibration_bins_count_every_sample_once():
    logits, labels = example()
    table = calibration_bins(logits, labels)
    count, confidence, correct = table.unbind(1)
    assert table.shape == (15, 3)
    assert count.sum() == 200
    assert (count * correct).sum() == pytest.approx(200 * accuracy(logits, labels))
    assert (count * confidence).sum() == pytest.approx(logits.softmax(1).max(1).values.sum())
    assert (table[count == 0] == 0).all()
    used = (count > 0).nonzero().squeeze(1)
    assert ((confidence[used] > used / 15) & (confidence[used] <= (used + 1) / 15)).all()


@pytest.mark.parametrize("bins", [0, -1])
def test_calibration_needs_a_bin(bins: int):
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


def test_a_confusion_matrix_has_labels_in_rows():
    logits, labels = example()
    table = confusion_matrix(logits, labels)
    assert np.array_equal(table, sklearn.metrics.confusion_matrix(labels, logits.argmax(1), labels=range(5)))
    assert confusion_matrix(answers(2), torch.tensor([0])).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
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


# Networks on splits.


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
    assert evaluate_logits(predict(student, split), split) == found


def test_evaluate_runs_in_evaluation_mode_and_leaves_the_model_as_it_was(tiny_split: Callable[..., Split]):
    with seeded(0):
        model = mlp(64, dropout=0.9, classes=3).train()
    split = tiny_split(30)
    assert evaluate(model, split) == evaluate(model, split), "dropout would make these differ"
    assert model.training
