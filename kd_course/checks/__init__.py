"""Checks for the exercises: pass your function, read a verdict. ``checks.soft_targets(my_soft_targets)``.

A check never raises. It knows the classic mistakes of its exercise and calls them by name; one file per notebook.
"""

from kd_course.checks._verdict import Verdict
from kd_course.checks.hinton import best_bias, convert_beta, kd_loss, transfer_objective
from kd_course.checks.start import compression_ratio, error_reduction
from kd_course.checks.targets import (
    class_similarity,
    entropy_bits,
    second_choice,
    shuffle_within_class,
    soft_cross_entropy,
    soft_targets,
)
from kd_course.checks.temperature import (
    fit_temperature,
    soft_target_gradient,
    temperature_schedule,
    temperature_softmax,
)

__all__ = [
    "Verdict",
    "best_bias",
    "class_similarity",
    "compression_ratio",
    "convert_beta",
    "entropy_bits",
    "error_reduction",
    "fit_temperature",
    "kd_loss",
    "second_choice",
    "shuffle_within_class",
    "soft_cross_entropy",
    "soft_target_gradient",
    "soft_targets",
    "temperature_schedule",
    "temperature_softmax",
    "transfer_objective",
]
