"""Is the better copy the better classifier? An analysis of the runs of the other studies; it trains nothing.

Fidelity is how near a student's answers are to its teacher's, here the mean KL divergence KL(teacher ‖ student) over
the test images at T = 1, in nats. Generalisation is how few of these images the student gets wrong. Over all students,
both improve together, if only because a well-trained network is near the truth and so is its teacher. The question is
whether that still holds among students of one regime, where a choice has to be made.

The measure is Spearman's rank correlation between the two over the recipes of a regime, once per seed: 1 if the order
by KL is the order by errors, 0 if one says nothing about the other.

Paper: Stanton, Izmailov, Kirichenko, Alemi, Wilson (2021), "Does Knowledge Distillation Really Work?",
https://arxiv.org/abs/2106.05945.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kd_course.evaluation import Interval, mean_interval
from kd_course.plots import COLOURS, MARKERS
from kd_course.studies._claims import Analysis, Claim, Selection, paired, select
from kd_course.studies._results import results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Regime(NamedTuple):
    """Runs that are compared with each other.

    Attributes:
        title: what people call it.
        study: whose runs.
        selections: the columns of these runs; a run belongs to the regime if one of the selections holds.
    """

    title: str
    study: str
    selections: tuple[Selection, ...] = ({},)


REGIMES = {
    "temperature_mlp": Regime("2×800, 2×300 and 2×30 units, by T", "hinton"),
    "epochs_mlp": Regime("2×300 units, 2 to 80 epochs", "patience"),
    "labels": Regime("StudentNet, 100 to 55,000 labels", "pair", ({"series": "labels"},)),
    "temperature_and_alpha": Regime(
        "StudentNet, 300 labels, by T and α",
        "pair",
        ({"series": "grid"}, {"series": "labels", "method": "scratch", "labels": 300}),
    ),
    "methods": Regime("StudentNet, 300 labels, by method", "league"),
}
SCRATCH = "scratch"  # the method of students that never saw the teacher, in every study


def collect_runs(*, folder: Path | None = None) -> pd.DataFrame:
    """Every run of every regime.

    Args:
        folder: where the result files are; the shipped ones if None.

    Returns:
        One row per run and regime: ``regime`` (a key of :data:`REGIMES`), ``recipe``, ``method``, ``seed``,
        ``kl_to_teacher``, ``errors``.

    Raises:
        FileNotFoundError: one of the studies has not been run; the message names the command that does it.
    """
    import pandas as pd

    columns = ["recipe", "method", "seed", "kl_to_teacher", "errors"]
    parts = []
    for key, regime in REGIMES.items():
        found = results(regime.study, folder=folder)
        places = sorted({place for selection in regime.selections for place in select(found, selection).index})
        parts.append(found.loc[places, columns].assign(regime=key))
    return pd.concat(parts, ignore_index=True)


def rank_correlation(runs: pd.DataFrame, *, regime: str, distilled: bool = True) -> Interval:
    """Spearman's ρ between KL to the teacher and test errors over the recipes of a regime, over the seeds.

    Args:
        runs: from :func:`collect_runs`.
        regime: one of :data:`REGIMES`.
        distilled: leave out students trained from scratch, which never saw the teacher.

    Raises:
        ValueError: a recipe lacks a seed that another has.
    """
    return mean_interval(_by_seed(runs, regime, distilled=distilled))


def difference(runs: pd.DataFrame, *, regime: str, baseline: str) -> Interval:
    """How much higher the rank correlation is in one regime than in another, paired by seed.

    Args:
        runs: from :func:`collect_runs`.
        regime: one of :data:`REGIMES`.
        baseline: the other.

    Raises:
        ValueError: the regimes have different seeds, or a recipe lacks one.
    """
    return paired(_by_seed(runs, regime), _by_seed(runs, baseline))


def _by_seed(runs: pd.DataFrame, regime: str, *, distilled: bool = True) -> pd.Series:
    """Spearman's ρ of every seed; the seeds, in order, are the index."""
    import pandas as pd

    own = select(runs, {"regime": regime})
    if distilled:
        own = own[own["method"] != SCRATCH]
    recipes = own.groupby("seed")["recipe"].nunique()
    if recipes.nunique() > 1:
        raise ValueError(f"every recipe of {regime!r} needs every seed; recipes by seed: {recipes.to_dict()}")
    parts = own.groupby("seed")[["kl_to_teacher", "errors"]]
    return pd.Series({seed: part.corr(method="spearman").loc["kl_to_teacher", "errors"] for seed, part in parts})


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """The rank correlation of every regime, and the range of errors over which it was taken."""
    import pandas as pd

    rows = {}
    for key, regime in REGIMES.items():
        own = select(runs, {"regime": key})
        means = own[own["method"] != SCRATCH].groupby("recipe")["errors"].mean()
        rows[regime.title] = {
            "distilled recipes": len(means),
            "their mean test errors": f"{means.min():.0f} to {means.max():.0f}",
            "rank correlation of KL and errors": f"{rank_correlation(runs, regime=key):.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("regime")


def figure(runs: pd.DataFrame) -> Figure:
    """Test errors against KL to the teacher, one point per recipe (mean of its seeds), one panel per regime."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    canvas, axes = plt.subplots(2, 3, figsize=(12.5, 7.6), layout="constrained")
    *panels, corner = axes.flat
    for ax, (key, regime) in zip(panels, REGIMES.items(), strict=True):
        own = select(runs, {"regime": key})
        for role, part in (("distilled", own[own["method"] != SCRATCH]), ("scratch", own[own["method"] == SCRATCH])):
            means = part.groupby("recipe")[["kl_to_teacher", "errors"]].mean()
            style = {"color": COLOURS[role], "marker": MARKERS[role], "linestyle": "none", "alpha": 0.8}
            ax.plot(means["kl_to_teacher"], means["errors"], label=role, **style)
        ax.set(xscale="log", yscale="log", xlabel="KL(teacher ‖ student), nats", ylabel="test errors of 10,000")
        ax.set_title(regime.title, fontsize=12)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    corner.axis("off")
    corner.legend(*panels[0].get_legend_handles_labels(), loc="center")
    return canvas


UNIT = "rank correlation of KL and test errors"
# fmt: off
CLAIMS = (
    *(Claim(key=f"copy_is_classifier_{key}", evidence=partial(rank_correlation, regime=key), unit=UNIT, digits=2,
        claim=f"The better copy is the better classifier ({regime.title}).") for key, regime in REGIMES.items()),
    Claim(key="methods_ordered_as_well_as_settings", unit=f"difference in the {UNIT}", digits=2,
        evidence=partial(difference, regime="methods", baseline="temperature_and_alpha"),
        claim="Copying predicts errors as well between methods as between settings of T and α (both with 300 labels)."),
)
# fmt: on


def analysis() -> Analysis:
    """The question, with its table, figure and claims; see :class:`~kd_course.studies.Analysis`."""
    return Analysis(
        question="Is the student that copies its teacher better also the better classifier?",
        table=table,
        figure=figure,
        claims=CLAIMS,
        limitations=(
            "The teacher: these make few errors, so copying them is nearly the same as being right; a teacher that is "
            "often wrong would separate the two. The measure: KL at T = 1 is dominated by the most confident answers, "
            "and a student trained at a high T is trained to match others. The regime: the wider the range of "
            "budgets, the higher the correlation, because budget improves both. The choice of students: those from "
            "scratch are left out; the longer they train, the more confident they are and the further from the "
            "teacher's probabilities, at the same errors. The two points far to the right in the last panel are "
            "students of DIST and of standardised logits: losses that do not fix the scale of the logits, so that an "
            "answer can be right and its probabilities far from the teacher's."
        ),
    )
