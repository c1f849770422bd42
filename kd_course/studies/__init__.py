"""The studies behind the course's long-run numbers: hours of training, run in the background, remembered run by run.

``python -m kd_course.studies hinton`` (or ``make studies STUDY=hinton``) runs one; stopped at any moment, even by
``kill -9``, it goes on where it was. Each study is one file here, and each result one file in ``data/results`` with all
that is needed to get it again: options, seeds, versions, checksums, seconds. Notebooks read it with :func:`results`.

A run carries what it is as columns (``method``, ``labels``, ``temperature``, …), a claim has a key; tables, figures,
claims and the two annexes, ``guide`` (how to choose) and ``fidelity`` (copies and errors), select by these alone.
"""

from kd_course.studies._claims import (
    Analysis,
    Claim,
    by_seed,
    improvement,
    saves_errors,
    select,
    verdicts,
)
from kd_course.studies._results import STUDIES, about, results, run, study
from kd_course.studies._study import Arm, Study, load_with_teacher

__all__ = [
    "STUDIES",
    "Analysis",
    "Arm",
    "Claim",
    "Study",
    "about",
    "by_seed",
    "improvement",
    "load_with_teacher",
    "results",
    "run",
    "saves_errors",
    "select",
    "study",
    "verdicts",
]
