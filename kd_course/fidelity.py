"""Is the better copy the better classifier? A reading of the runs of the other studies; it trains nothing.

Fidelity is how near a student's answers are to its teacher's, here the mean KL divergence KL(teacher ‖ student) over
the test images at T = 1, in nats. Generalisation is how few of these images the student gets wrong. Between all
students there are, both improve together, if only because a well-trained network is near the truth and so is its
teacher. The question is whether that still holds among students of one regime, where a choice has to be made.

The measure is Spearman's rank correlation between the two over the recipes of a regime, once per seed: 1 if the order
by KL is the order by errors, 0 if one says nothing about the other.

Paper: Stanton, Izmailov, Kirichenko, Alemi, Wilson (2021), "Does Knowledge Distillation Really Work?",
https://arxiv.org/abs/2106.05945.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kd_course import studies
from kd_course.evaluation import Interval, mean_interval, paired_difference
from kd_course.plots import COLOURS, MARKERS
from kd_course.studies import Claim, Reading

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

REGIMES = {
    "2×800, 2×300 and 2×30 units, by T": ("hinton", r"\d+ (T=|scratch)"),
    "2×300 units, 2 to 80 epochs": ("patience", r"."),
    "StudentNet, 100 to 55,000 labels": ("pair", r"(KD|scratch), \d+ labels"),
    "StudentNet, 300 labels, by T and α": ("pair", r"(300 labels, T=|scratch, 300 labels)"),
    "StudentNet, 300 labels, by method": ("league", r"."),
}
"""Which runs are held against each other: the study, and how the names of its recipes begin (a regular expression)."""


def runs(*, folder: Path | None = None) -> pd.DataFrame:
    """Every run of every regime, one row each: ``regime``, ``recipe``, ``seed``, ``kl_to_teacher``, ``errors``.

    Raises:
        FileNotFoundError: one of the studies has not been run; the message names the command that does it.
    """
    import pandas as pd

    columns = ["recipe", "seed", "kl_to_teacher", "errors"]
    parts = []
    for regime, (name, beginning) in REGIMES.items():
        found = studies.results(name, folder=folder)
        found = found[found["recipe"].str.match(beginning)]
        parts.append(found[columns].assign(regime=regime))
    return pd.concat(parts, ignore_index=True)


def rank_correlation(runs: pd.DataFrame, *, regime: str, distilled: bool = True) -> Interval:
    """Spearman's ρ between KL to the teacher and test errors over the recipes of a regime, over the seeds.

    Args:
        runs: from :func:`runs`. regime: one of :data:`REGIMES`.
        distilled: leave out students trained from scratch, which never saw the teacher.
    """
    return mean_interval(_by_seed(runs, regime, distilled=distilled))


def difference(runs: pd.DataFrame, *, of: str, over: str) -> Interval:
    """How much higher the rank correlation is in regime ``of`` than in ``over``, paired by seed."""
    return paired_difference(_by_seed(runs, of), _by_seed(runs, over))


def _by_seed(runs: pd.DataFrame, regime: str, *, distilled: bool = True) -> list[float]:
    """Spearman's ρ of every seed, in order."""
    own = runs[runs["regime"] == regime]
    if distilled:
        own = own[~own["recipe"].str.contains("scratch")]
    parts = own.groupby("seed")[["kl_to_teacher", "errors"]]
    return [part.corr(method="spearman").loc["kl_to_teacher", "errors"] for _, part in parts]


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """The rank correlation of every regime, and the range of errors over which it was taken."""
    import pandas as pd

    rows = {}
    for regime in REGIMES:
        own = runs[(runs["regime"] == regime) & ~runs["recipe"].str.contains("scratch")]
        means = own.groupby("recipe")["errors"].mean()
        rows[regime] = {
            "distilled recipes": len(means),
            "their mean test errors": f"{means.min():.0f} to {means.max():.0f}",
            "rank correlation of KL and errors": f"{rank_correlation(runs, regime=regime):.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("regime")


def figure(runs: pd.DataFrame) -> Figure:
    """Test errors against KL to the teacher, one point per recipe (mean of its seeds), one panel per regime."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    canvas, axes = plt.subplots(2, 3, figsize=(12.5, 7.6), layout="constrained")
    *panels, corner = axes.flat
    for ax, regime in zip(panels, REGIMES, strict=True):
        means = runs[runs["regime"] == regime].groupby("recipe")[["kl_to_teacher", "errors"]].mean()
        from_scratch = means.index.str.contains("scratch")
        for role, part in (("distilled", means[~from_scratch]), ("scratch", means[from_scratch])):
            style = {"color": COLOURS[role], "marker": MARKERS[role], "linestyle": "none", "alpha": 0.8}
            ax.plot(part["kl_to_teacher"], part["errors"], label=role, **style)
        ax.set(xscale="log", yscale="log", xlabel="KL(teacher ‖ student), nats", ylabel="test errors of 10,000")
        ax.set_title(regime, fontsize=12)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    corner.axis("off")
    corner.legend(*panels[0].get_legend_handles_labels(), loc="center")
    return canvas


def reading() -> Reading:
    """How to read the runs; see :class:`~kd_course.studies.Reading`."""
    unit = "rank correlation of KL and test errors"
    *_, by_setting, by_method = REGIMES
    return Reading(
        question="Is the student that copies its teacher better also the better classifier?",
        table=table,
        figure=figure,
        claims=(
            *(
                Claim(
                    f"The better copy is the better classifier ({regime}).",
                    unit,
                    partial(rank_correlation, regime=regime),
                    digits=2,
                )
                for regime in REGIMES
            ),
            Claim(
                "It is as sure a guide from method to method as from one T and α to another (both with 300 labels).",
                f"difference in the {unit}",
                partial(difference, of=by_method, over=by_setting),
                digits=2,
            ),
        ),
        would_change=(
            "The teacher: these make few errors, so copying them and being right are nearly one thing; a teacher that "
            "is often wrong pulls the two apart. The measure: KL at T = 1 looks at the surest answers, and a student "
            "trained at a high T is told to match others. The regime: the wider the range of budgets, the higher the "
            "correlation, because budget improves both. Whom one counts: students from scratch are left out; the "
            "longer they train, the surer they are and the further from the teacher's probabilities, at the same "
            "errors. The two points far to the right in the last panel are students of DIST and of standardised "
            "logits: losses that do not fix the scale of the logits, so that an answer can be right and its "
            "probabilities far from the teacher's."
        ),
    )
