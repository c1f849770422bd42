"""Checks for the exercises: pass your function, read a verdict. ``checks.soft_targets(my_soft_targets)``.

A check never raises. It knows the classic mistakes of its exercise and calls them by name; one file per notebook.
"""

from kd_course.checks._verdict import Verdict
from kd_course.checks.ensembles import ensemble_targets, ensemble_weights, mean_probabilities, pairwise_disagreement
from kd_course.checks.feature import attention_map, hint_loss, info_nce, trained_together
from kd_course.checks.hinton import best_bias, convert_beta, kd_loss, transfer_objective
from kd_course.checks.relation import centred_sp, gram_rows, relative_distances, vertex_cosine
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
    "attention_map",
    "best_bias",
    "centred_sp",
    "class_similarity",
    "compression_ratio",
    "convert_beta",
    "ensemble_targets",
    "ensemble_weights",
    "entropy_bits",
    "error_reduction",
    "fit_temperature",
    "gram_rows",
    "hint_loss",
    "info_nce",
    "kd_loss",
    "mean_probabilities",
    "pairwise_disagreement",
    "relative_distances",
    "second_choice",
    "shuffle_within_class",
    "soft_cross_entropy",
    "soft_target_gradient",
    "soft_targets",
    "temperature_schedule",
    "temperature_softmax",
    "trained_together",
    "transfer_objective",
    "vertex_cosine",
]
