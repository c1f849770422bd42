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
from torch.nn import functional as F

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


def test_confidences_are_computed_in_double_precision():
    logits, labels = example()
    assert torch.equal(calibration_bins(logits.float(), labels), calibration_bins(logits.float().double(), labels))


@pytest.mark.parametrize("bins", [0, -1])
def test_calibration_needs_a_bin(bins: int):
    with pytest.raises(ValueError, match=f"bins must be 1 or more, not {bins}"):
        ece(*example(), bins=bins)


@pytest.mark.parametrize("bins", [2.5, "15", True, None, math.nan])
def test_bins_are_a_whole_number(bins: object):
    with pytest.raises(TypeError, match="bins must be a whole number"):
        ece(*example(), bins=bins)
    assert ece(*example(), bins=np.int64(10)) == ece(*example(), bins=10)


def test_more_bins_than_can_be_meant_are_refused_before_they_fill_the_memory():
    with pytest.raises(ValueError, match="bins must be 1,000,000 or less"):
        calibration_bins(*example(), bins=10**12)


def test_macro_f1_against_a_slow_loop():
    logits, labels = example()
    guess = logits.argmax(1)
    scores = []
    for c in range(5):
        hit = int(((guess == c) & (labels == c)).sum())
        precision, recall = hit / int((guess == c).sum()), hit / int((labels == c).sum())
        scores.append(2 * precision * recall / (precision + recall))
    assert macro_f1(logits, labels) == pytest.approx(sum(scores) / 5)


def test_macro_f1_counts_a_class_that_is_only_a_label_or_only_an_answer():
    """Macro F1 weighs classes, not samples: a class never guessed costs its full share, however rare it is."""
    labels = torch.tensor([0] * 9 + [1])
    assert macro_f1(answers(*[0] * 10, classes=2), labels) == pytest.approx((18 / 19) / 2)
    assert macro_f1(answers(0, 1, 2), torch.tensor([0, 1, 1])) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_perfect_answers_have_macro_f1_of_1_though_a_class_is_missing():
    """A split without 9s says nothing about 9s, so the class has no share in the mean."""
    assert macro_f1(answers(*range(9), classes=10), torch.arange(9)) == 1
    assert macro_f1(answers(0, 0, classes=10), torch.tensor([0, 0])) == 1


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


Z, Y = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
UNANSWERED = {
    "NaN": [math.nan, 0.0, 0.0],
    "infinity": [math.inf, 0.0, 0.0],
    "NaN beside masked classes": [math.nan, -math.inf, -math.inf],
    "no class left": [-math.inf] * 3,
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        pytest.param(Z, Y[[0, 1, 2, 0, 1]], r"labels must be 4 .*\(5,\); take both from the same", id="lengths"),
        pytest.param(Z, Y[:, None], r"labels .*\(4, 1\); pass labels.flatten\(\)", id="column of labels"),
        pytest.param(Z, torch.eye(3, dtype=torch.int64)[Y], r"\(4, 3\); .*pass labels.argmax\(1\)", id="one-hot"),
        pytest.param(Z, Y.float(), r"labels .*float32.*pass labels.long\(\)", id="float labels"),
        pytest.param(Z, Y > 0, r"labels .*bool.*pass labels.long\(\)", id="boolean labels"),
        pytest.param(Z, torch.tensor([0, 1, -100, 2]), r"0\.\.2, not -100\.\.2; leave unlabelled", id="-100"),
        pytest.param(Z, Y + 90, r"0\.\.2, not 90\.\.92; take a network", id="90 to 92"),
        pytest.param(Z, Y + 1, r"0\.\.2, not 1\.\.3; take a network", id="one too many"),
        pytest.param(Z[:, 0], Y, r"\(batch, classes\).*not \(4,\)", id="no classes"),
        pytest.param(Z[:, :1], 0 * Y, r"two classes or more, not \(4, 1\)", id="one class"),
        pytest.param(Z[:0], Y[:0], r"\(0, 3\) are empty; at least one sample", id="empty"),
        *(
            pytest.param(torch.tensor([row, *[[0.0] * 3] * 3]), Y, "in 1 of 4 rows, which give no answer", id=name)
            for name, row in UNANSWERED.items()
        ),
    ],
)
def test_metrics_refuse_what_they_cannot_judge(metric: Callable, logits: Tensor, labels: Tensor, words: str):
    with pytest.raises(ValueError, match=words):
        metric(logits, labels)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        pytest.param(Y, Z, "logits must be floating point, not torch.int64", id="swapped"),
        pytest.param(Z.numpy(), Y, "logits must be a tensor, not ndarray; use torch.as_tensor", id="array"),
        pytest.param(Z.tolist(), Y, "logits must be a tensor, not list; use torch.as_tensor", id="list"),
        pytest.param([Z, Z], Y, "logits must be a tensor, not list; use torch.stack", id="list of tables"),
        pytest.param((Z, Z), Y, "logits must be a tensor, not tuple; .*logits_of", id="output of a model"),
        pytest.param({"logits": Z}, Y, "logits must be a tensor, not dict; .*logits_of", id="outputs by name"),
        pytest.param(Z, Y.tolist(), "labels must be a tensor .*not list; use torch.as_tensor", id="list of labels"),
        pytest.param(Z, Y.numpy(), "labels must be a tensor .*not ndarray; use torch.as_tensor", id="array of labels"),
        pytest.param(Z, None, "labels .*NoneType; the split is unlabelled", id="no labels"),
    ],
)
def test_metrics_refuse_what_is_no_tensor_of_logits_or_labels(
    metric: Callable, logits: object, labels: object, words: str
):
    with pytest.raises(TypeError, match=words):
        metric(logits, labels)


@pytest.mark.parametrize("metric", [agreement, kl_to_teacher])
@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        pytest.param(torch.zeros(5, 3), "compare the same samples", id="other samples"),
        pytest.param(torch.zeros(1, 3), "compare the same samples", id="one row"),
        pytest.param(torch.zeros(4, 2), "compare the classes that both know", id="other classes"),
        pytest.param(torch.zeros(4), r"teacher logits must be \(batch, classes\)", id="one dimension"),
        pytest.param(torch.full((4, 3), math.nan), "teacher logits hold NaN.* in 4 of 4 rows", id="NaN"),
    ],
)
def test_comparisons_with_a_teacher_refuse_what_does_not_fit(metric: Callable, teacher: Tensor, words: str):
    """One row must not be spread over all samples: that would be another number, silently."""
    with pytest.raises(ValueError, match=words):
        metric(Z, teacher)
    if "teacher" in words:
        with pytest.raises(ValueError, match=words.replace("teacher", "student")):
            metric(teacher, Z)


@pytest.mark.parametrize("metric", [agreement, kl_to_teacher])
def test_comparisons_with_a_teacher_refuse_labels_and_nothing(metric: Callable):
    with pytest.raises(TypeError, match=r"teacher logits must be floating point, not torch\.int64"):
        metric(Z, Y)
    with pytest.raises(TypeError, match=r"teacher logits .*NoneType; attach teacher logits with split\.with_teacher"):
        metric(Z, None)
    with pytest.raises(ValueError, match="empty"):
        metric(Z[:0], Z[:0])


@pytest.mark.parametrize("metric", [nll, ece, calibration_bins])
def test_metrics_with_a_softmax_refuse_probabilities(metric: Callable):
    """The softmax of a softmax is nearly uniform: a confident network would look timid."""
    logits, labels = example()
    for probabilities in (logits.softmax(1), logits.softmax(1).half()):
        with pytest.raises(ValueError, match=r"probabilities.* sums to 1; pass logits, or probabilities.log\(\)"):
            metric(probabilities, labels)
    found, expected = (torch.as_tensor(metric(z, labels)) for z in (logits.softmax(1).log(), logits))
    torch.testing.assert_close(found, expected)


def test_what_only_resembles_probabilities_is_judged():
    """One-hot answers, rows that sum to another number, and rows that sum to 1 with a negative logit are logits."""
    for logits in (
        torch.eye(3),
        2 * torch.full((3, 3), 1 / 3),
        torch.tensor([[2.0, -1.25, 0.25]] * 2 + [[0.5, 0.25, 0.25]]),
    ):
        assert nll(logits, torch.arange(3)) == pytest.approx(F.cross_entropy(logits, torch.arange(3)).item())
    uniform = torch.full((4, 2), 0.5)
    assert accuracy(uniform, torch.tensor([0, 1, 0, 1])) == 0.5, "answers can be counted in probabilities too"
    with pytest.raises(ValueError, match="probabilities"):
        kl_to_teacher(torch.zeros(4, 2), uniform)
    with pytest.raises(ValueError, match="probabilities"):
        kl_to_teacher(uniform, torch.zeros(4, 2))


def test_a_masked_class_has_no_chance():
    """A logit of -∞ is a class that cannot be answered: 0 log 0 is 0, and a label there is infinitely unlikely."""
    logits, labels = torch.tensor([[1.0, 2.0, -math.inf], [0.0, 3.0, -math.inf]]), torch.tensor([0, 1])
    assert nll(logits, labels) == pytest.approx(nll(logits[:, :2], labels))
    assert ece(logits, labels) == pytest.approx(ece(logits[:, :2], labels))
    assert accuracy(logits, labels) == 0.5
    assert nll(logits, torch.tensor([0, 2])) == math.inf
    assert kl_to_teacher(logits, logits) == 0
    other = torch.tensor([[0.5, 1.0, -math.inf], [1.0, 0.0, -math.inf]])
    assert kl_to_teacher(other, logits) == pytest.approx(kl_to_teacher(other[:, :2], logits[:, :2]))
    unmasked = torch.tensor([[0.5, 1.0, 0.0], [1.0, 0.0, 0.0]])
    expected = scipy.special.rel_entr(logits.softmax(1).numpy(), unmasked.softmax(1).numpy()).sum(1).mean()
    assert kl_to_teacher(unmasked, logits) == pytest.approx(expected, rel=1e-6)
    assert kl_to_teacher(logits, unmasked) == math.inf, "the student rules out what the teacher does not"


def test_a_divergence_is_never_below_0():
    """Between logits that hardly differ, the sum of terms of both signs rounds to either side of 0."""
    for seed in range(20):
        teacher = 8 * example(64, 100, seed=seed)[0]
        assert kl_to_teacher(teacher + 1e-9 * example(64, 100, seed=100 + seed)[0], teacher) >= 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tables_in_half_precision_are_judged_in_single(dtype: torch.dtype):
    """In float16 the mean of 200 terms is off in the third digit, and the NLL of a logit of 60,000 is infinite."""
    logits, labels = example()
    logits = logits.to(dtype)
    for metric in (nll, ece, accuracy, macro_f1):
        assert metric(logits, labels) == metric(logits.float(), labels)
    assert nll(torch.tensor([[6e4, -6e4]], dtype=torch.float32).to(dtype), torch.tensor([1])) == pytest.approx(
        1.2e5, rel=0.01
    )


def test_float32_tables_are_judged_in_float32():
    logits, labels = example()
    assert nll(logits.float(), labels) == F.cross_entropy(logits.float(), labels).item()
    assert nll(logits, labels) == F.cross_entropy(logits, labels).item()


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_take_any_integers_a_history_and_what_inference_mode_made(metric: Callable):
    logits, labels = example()
    expected = torch.as_tensor(metric(logits, labels))
    with torch.inference_mode():
        inferred, its_labels = logits.clone(), labels.clone()
    for z, y in [
        (logits, labels.to(torch.uint8)),
        (logits, labels.int()),
        (logits.clone().requires_grad_(), labels),
        (inferred, its_labels),
    ]:
        found = torch.as_tensor(metric(z, y))
        assert torch.equal(found, expected)
        assert not found.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(torch.as_tensor(metric(logits, labels)), expected)


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


def test_evaluating_beside_a_teacher_of_other_classes_is_refused(tiny_split: Callable[..., Split]):
    split = tiny_split(6).with_teacher(torch.zeros(6, 4))
    with pytest.raises(ValueError, match=r"\(6, 3\) .*\(6, 4\) .*compare the classes that both know"):
        evaluate_logits(torch.zeros(6, 3), split)


def test_evaluate_logits_wants_logits_and_their_split(tiny_split: Callable[..., Split]):
    split = tiny_split(6)
    for arguments in ((torch.zeros(6, 3), split.labels), (split, torch.zeros(6, 3)), (torch.zeros(6, 3), None)):
        with pytest.raises(TypeError, match="needs logits and then their Split"):
            evaluate_logits(*arguments)
    with pytest.raises(ValueError, match="same samples"):
        evaluate_logits(torch.zeros(4, 3), split)
    with pytest.raises(ValueError, match=r"0\.\.1, not 0\.\.2"):
        evaluate_logits(torch.zeros(6, 2), split)


def test_evaluate_runs_in_evaluation_mode_and_leaves_the_model_as_it_was(tiny_split: Callable[..., Split]):
    with seeded(0):
        model = mlp(64, dropout=0.9, classes=3).train()
    split = tiny_split(30)
    assert evaluate(model, split) == evaluate(model, split), "dropout would make these differ"
    assert model.training
