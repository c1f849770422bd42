"""How to choose, from what was measured: which way to use several networks, and what to set the hyper-parameters to.

Both guides are made from the result files of the studies, line by line, so they cannot say what was not measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kd_course import studies
from kd_course.evaluation import mean_interval, paired_difference
from kd_course.studies.ensembles import costs

if TYPE_CHECKING:
    import pandas as pd


class Limit(NamedTuple):
    """A situation: what an answer may cost, as fractions of what the simple ensemble costs."""

    given: str
    latency: float = float("inf")
    bytes: float = float("inf")
    training: float = float("inf")
    unlabelled: bool = False

    def fits(self, cost: pd.DataFrame) -> pd.DataFrame:
        """The rows of ``cost`` that keep to this limit."""
        whole = cost.loc["simple ensemble"]
        return cost[
            (cost["latency_1_ms"] <= self.latency * whole["latency_1_ms"])
            & (cost["bytes"] <= self.bytes * whole["bytes"])
            & (cost["training_seconds"] <= self.training * whole["training_seconds"])
            & (self.unlabelled | ~cost.index.str.contains("unlabelled"))
        ]


LIMITS = (
    Limit("accuracy is all that counts"),
    Limit("an answer may take half as long as the ensemble's", latency=0.5),
    Limit("an answer may take a tenth as long as the ensemble's", latency=0.1),
    Limit("half of the ensemble's memory is there", bytes=0.5),
    Limit("a fifth of the ensemble's memory is there", bytes=0.2),
    Limit("training may take a third as long as the ensemble's", training=1 / 3),
    Limit("unlabelled images are at hand", unlabelled=True),
    Limit("unlabelled images are at hand, and a tenth of the ensemble's time", latency=0.1, unlabelled=True),
)


def decision_guide(runs: pd.DataFrame) -> pd.DataFrame:
    """For each situation the recipe with the fewest mean validation errors among those that fit it, with its cost.

    ``no worse, as far as we can tell`` names the others that fit and whose test errors, paired by seed, cannot be
    told to be more than the choice's.
    """
    import pandas as pd

    cost = costs(runs)
    by_seed = runs.pivot(index="seed", columns="recipe", values="errors")
    rows = []
    for limit in LIMITS:
        fitting = limit.fits(cost)
        if fitting.empty:
            rows.append({"if": limit.given, "choose": "nothing that we measured"})
            continue
        name = fitting["validation_errors"].idxmin()
        alike = [
            other for other in fitting.index.drop(name) if paired_difference(by_seed[other], by_seed[name]).low <= 0
        ]
        rows.append(
            {
                "if": limit.given,
                "choose": name,
                "test errors": f"{mean_interval(by_seed[name]):.0f}",
                "ms, batch 1": f"{fitting.loc[name, 'latency_1_ms']:.2f}",
                "kB": f"{fitting.loc[name, 'bytes'] / 1000:,.0f}",
                "training s": f"{fitting.loc[name, 'training_seconds']:.0f}",
                "no worse, as far as we can tell": "; ".join(alike) or "none",
            }
        )
    return pd.DataFrame(rows).fillna("").set_index("if")


EVIDENCE = (
    # hyper-parameter, study, how the claim begins that bears on it
    ("T", "pair", "The temperature matters"),
    ("T", "hinton", "With 30 units a low temperature is better"),
    ("T", "hinton", "With 300 units T = 20"),
    ("α", "pair", "Labels beside soft targets help"),
    ("student size", "ensembles", "A larger student is worth it"),
    ("training length", "patience", "Distillation speeds learning up"),
    ("training length", "patience", "The teacher's gain grows with patience"),
    ("number of labels", "pair", "Distillation helps with 300 labelled images"),
    ("number of labels", "pair", "Distillation helps with 55,000 labelled images"),
)
UNSUPPORTED = "not supported by our measurements"


def hyperparameter_guide(*, folder: Path | None = None) -> pd.DataFrame:
    """What is often advised about T, α, size, training length and labels, each line with the measurement behind it.

    A line without a result file, or whose interval holds 0, says "not supported by our measurements".
    """
    import pandas as pd

    rows = []
    for parameter, name, beginning in EVIDENCE:
        claim = next(claim for claim in studies.study(name).claims if claim.said.startswith(beginning))
        row = {"parameter": parameter, "advice": claim.said, "study": name}
        try:
            runs = studies.results(name, folder=folder)
        except FileNotFoundError:
            rows.append(row | {"measured": "not yet", "verdict": UNSUPPORTED})
            continue
        interval, verdict = claim.evidence(runs), claim.verdict(runs)
        rows.append(
            row
            | {
                "measured": f"{claim.found(runs)} ({interval.n} seeds)",
                "verdict": verdict if interval.excludes_zero() else UNSUPPORTED,
            }
        )
    return pd.DataFrame(rows).set_index("parameter")
