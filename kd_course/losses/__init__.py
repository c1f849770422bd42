"""The losses of the course, one file per family. Student first, teacher second, options by name, a scalar out."""

from kd_course.losses import contrast, feature, relation, response
from kd_course.losses.contrast import *
from kd_course.losses.feature import *
from kd_course.losses.relation import *
from kd_course.losses.response import *

__all__ = [*contrast.__all__, *feature.__all__, *relation.__all__, *response.__all__]
