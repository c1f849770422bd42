"""Checks for the exercises: pass your function, read a verdict. ``checks.soft_targets(my_soft_targets)``.

A check never raises. It knows the classic mistakes of its exercise and calls them by name; one file per notebook.
"""

from kd_course.checks._verdict import Verdict
from kd_course.checks.targets import soft_targets
from kd_course.checks.temperature import (
    fit_temperature,
    soft_target_gradient,
    temperature_schedule,
    temperature_softmax,
)

__all__ = [
    "Verdict",
    "fit_temperature",
    "soft_target_gradient",
    "soft_targets",
    "temperature_schedule",
    "temperature_softmax",
]
