"""The checks of notebook 00: other right ways, and wrong ones that nobody foresaw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from kd_course.checks._exercise import Exercise
from kd_course.checks.notebook_00 import _ratio, compression_ratio, error_reduction
from kd_course.evaluation import size_bytes
from kd_course.models import StudentNet, TeacherNet, count_parameters


@pytest.mark.parametrize(
    ("exercise", "submission"),
    [
        (compression_ratio, lambda teacher, student: count_parameters(teacher) / count_parameters(student)),
        (compression_ratio, lambda teacher, student: np.float32(_ratio(teacher, student))),
        (compression_ratio, lambda teacher, student: torch.tensor([_ratio(teacher, student)])),
        (error_reduction, lambda before, after: 1 - after / before),
        (error_reduction, lambda before, after: np.float64(1 - after / before)),
        (error_reduction, lambda before, after: torch.tensor((before - after) / before)),
    ],
)
def test_another_right_way_is_accepted(exercise: Exercise, submission: Callable):
    verdict = exercise(submission)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("exercise", "submission", "says"),
    [
        (compression_ratio, lambda teacher, student: 14.7, "divide all parameters"),
        (compression_ratio, lambda teacher, student: max(1.0, _ratio(teacher, student)), "ratio below 1"),
        (compression_ratio, lambda teacher, student: f"{_ratio(teacher, student):.1f} times", "not str"),
        (error_reduction, lambda before, after: 0.5, "a quarter less"),
        (error_reduction, lambda before, after: round((before - after) / before, 2), "rounded"),
        (error_reduction, lambda before, after: round((before - after) / before, 4), "from 610 to 433 errors"),
        (error_reduction, lambda before, after: (before - after) / max(before, after), "right for a gain"),
        (error_reduction, lambda before, after: f"{1 - after / before:.0%}", "not str"),
    ],
)
def test_what_nobody_foresaw_is_refused(exercise: Exercise, submission: Callable, says: str):
    verdict = exercise(submission)
    assert verdict.state == "wrong"
    assert says in verdict.message


def test_compression_ratio_is_the_one_that_the_course_quotes():
    """What the check calls right gives 14.7 for the course's pair; bytes in one type have the same ratio."""
    assert round(_ratio(TeacherNet(), StudentNet()), 1) == 14.7
    assert size_bytes(TeacherNet()) / size_bytes(StudentNet()) == _ratio(TeacherNet(), StudentNet())
