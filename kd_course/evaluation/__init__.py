"""What came out: metrics with their definitions, intervals over seeds, size and speed."""

from kd_course.evaluation import cost, intervals, metrics
from kd_course.evaluation.cost import *
from kd_course.evaluation.intervals import *
from kd_course.evaluation.metrics import *

__all__ = [*cost.__all__, *intervals.__all__, *metrics.__all__]
