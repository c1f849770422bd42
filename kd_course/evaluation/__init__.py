"""What came out: metrics with their definitions, intervals over seeds, size and speed."""

from kd_course.evaluation.cost import Latency, latency, size_bytes
from kd_course.evaluation.intervals import Interval, McNemar, holm, mcnemar, mean_interval, paired_difference
from kd_course.evaluation.metrics import (
    accuracy,
    agreement,
    calibration_bins,
    confusion_matrix,
    ece,
    errors,
    evaluate,
    evaluate_logits,
    kl_to_teacher,
    macro_f1,
    nll,
)

__all__ = [
    "Interval",
    "Latency",
    "McNemar",
    "accuracy",
    "agreement",
    "calibration_bins",
    "confusion_matrix",
    "ece",
    "errors",
    "evaluate",
    "evaluate_logits",
    "holm",
    "kl_to_teacher",
    "latency",
    "macro_f1",
    "mcnemar",
    "mean_interval",
    "nll",
    "paired_difference",
    "size_bytes",
]
