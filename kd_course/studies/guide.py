"""How to choose, from what was measured: how to use several networks, and how to set the hyper-parameters.

Both guides are made from the result files of the studies, line by line, so they cannot say what was not measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kd_course.evaluation import mean_interval
from kd_course.studies._claims import by_seed, paired, select
from kd_course.studies._results import results, study
from kd_course.studies.multi_teacher import SIMPLE, costs

if TYPE_CHECKING:
    import pandas as pd


class Limit(NamedTuple):
    """A situation: what an answer may cost, as fractions of what the simple ensemble costs.

    Attributes:
        given: the situation in words.
        latency: of one image.
        bytes: of the weights and buffers.
        training: the seconds of all trainings that are needed.
        unlabelled: whether there are images without labels to learn from.
    """

    given: str
    latency: float = float("inf")
    bytes: float = float("inf")
    training: float = float("inf")
    unlabelled: bool = False

    def fits(self, cost: pd.DataFrame) -> pd.DataFrame:
        """The rows of ``cost`` (from :func:`~kd_course.studies.multi_teacher.costs`) that keep to this limit."""
        whole = select(cost, SIMPLE).iloc[0]
        return cost[
            (cost["latency_1_ms"] <= self.latency * whole["latency_1_ms"])
            & (cost["bytes"] <= self.bytes * whole["bytes"])
            & (cost["training_seconds"] <= self.training * whole["training_seconds"])
            & (self.unlabelled | ~cost["unlabelled"])
        ]


LIMITS = (
    Limit("accuracy is all that counts"),
    Limit("an answer may take half as long as the ensemble's", latency=0.5),
    Limit("an answer may take a tenth as long as the ensemble's", latency=0.1),
    Limit("half of the ensemble's memory is available", bytes=0.5),
    Limit("a fifth of the ensemble's memory is available", bytes=0.2),
    Limit("training may take a third as long as the ensemble's", training=1 / 3),
    Limit("unlabelled images are available", unlabelled=True),
    Limit("unlabelled images are available, and a tenth of the ensemble's time", latency=0.1, unlabelled=True),
)


def decision_guide(runs: pd.DataFrame) -> pd.DataFrame:
    """For each situation the recipe with the fewest mean validation errors among those that fit it, with its cost.

    ``not clearly worse`` names the others that fit and for which the 95 % interval of their additional test errors,
    paired by seed, includes 0 or lies below it.

    Args:
        runs: of the study ``multi_teacher``.

    Raises:
        ValueError: two recipes that are compared ran with different seeds.
    """
    import pandas as pd

    cost = costs(runs)
    errors = {name: by_seed(runs, "errors", {"recipe": name}) for name in cost.index}
    rows = []
    for limit in LIMITS:
        fitting = limit.fits(cost)
        if fitting.empty:
            rows.append({"if": limit.given, "choose": "nothing that we measured"})
            continue
        name = fitting["validation_errors"].idxmin()
        alike = [other for other in fitting.index.drop(name) if paired(errors[other], errors[name]).low <= 0]
        rows.append(
            {
                "if": limit.given,
                "choose": name,
                "test errors": f"{mean_interval(errors[name]):.0f}",
                "ms, batch 1": f"{fitting.loc[name, 'latency_1_ms']:.2f}",
                "kB": f"{fitting.loc[name, 'bytes'] / 1000:,.0f}",
                "training s": f"{fitting.loc[name, 'training_seconds']:.0f}",
                "not clearly worse": "; ".join(alike) or "none",
            }
        )
    return pd.DataFrame(rows).fillna("").set_index("if")


EVIDENCE = (
    # hyper-parameter, study, key of the claim about it
    ("T", "pair", "temperature_matters"),
    ("T", "hinton", "low_temperature_helps_30"),
    ("T", "hinton", "high_temperature_is_safe_300"),
    ("α", "pair", "labels_add_to_soft_targets"),
    ("student size", "multi_teacher", "larger_student_is_better"),
    ("training length", "patience", "kd_speeds_up_learning"),
    ("training length", "patience", "benefit_grows_with_epochs"),
    ("number of labels", "pair", "kd_beats_scratch_300"),
    ("number of labels", "pair", "kd_beats_scratch_55000"),
)


def hyperparameter_guide(*, folder: Path | None = None) -> pd.DataFrame:
    """What is often advised about T, α, size, training length and labels, each line with the measurement behind it.

    Args:
        folder: where the result files are; the shipped ones if None.

    Returns:
        One row per piece of advice, ``parameter`` being the index: ``advice``, ``study``, ``measured``, ``verdict``. A
        line without a result file says "not measured".
    """
    import pandas as pd

    rows = []
    for parameter, name, key in EVIDENCE:
        claim = study(name).claim(key)
        try:
            runs = results(name, folder=folder)
        except FileNotFoundError:
            runs = None
        measured = claim.estimate(runs) if runs is None else f"{claim.estimate(runs)} ({claim.seeds(runs)} seeds)"
        rows.append(
            {
                "parameter": parameter,
                "advice": claim.claim,
                "study": name,
                "measured": measured,
                "verdict": claim.verdict(runs),
            }
        )
    return pd.DataFrame(rows).set_index("parameter")
