"""Hinton, Vinyals and Dean 2015, section 3, again: does a large network's advice help a small one on all of MNIST?

All 60,000 training images, as in the paper. The teacher is the shipped 2×1200 network (dropout, ±2 pixel jitter). The
students have two hidden layers too, of 800, 300 or 30 units, see every image unmoved, and learn from the labels alone
("scratch") or from the labels and the teacher's soft targets. Both get the same initial weights, the same order of
images and the same number of steps.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kd_course.evaluation import Interval, mean_interval, paired_difference
from kd_course.plots import COLOURS, MARKERS
from kd_course.studies._mlp import student
from kd_course.studies._study import Claim, Study, gain, with_answers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

WIDTHS = (800, 300, 30)
TEMPERATURES = (2, 4, 8, 20)


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Test errors by width and by what was learned from: mean ± half the 95 % interval; the paper's beside them."""
    import pandas as pd

    columns = {}
    for width in WIDTHS:
        names = {"scratch": f"{width} scratch"} | {f"T = {T}": f"{width} T={T}" for T in TEMPERATURES}
        cells = {row: mean_interval(runs.query("recipe == @name")["errors"]) for row, name in names.items()}
        columns[f"2×{width}"] = {row: f"{cell:.1f}" for row, cell in cells.items()}
    teacher = f"{runs['teacher_errors'].iloc[0]:.0f}"
    columns["teacher 2×1200"] = {"scratch": teacher} | {f"T = {T}": "" for T in TEMPERATURES}
    columns["paper, 2×800"] = {"scratch": "146 (teacher 67)", "T = 2": "", "T = 4": "", "T = 8": "", "T = 20": "74"}
    return pd.DataFrame(columns).rename_axis("test errors of 10,000")


def figure(runs: pd.DataFrame) -> Figure:
    """One panel per width: test errors over the temperature, the student from scratch as a band."""
    import matplotlib.pyplot as plt

    canvas, axes = plt.subplots(1, len(WIDTHS), figsize=(11, 3.8))
    for ax, width in zip(axes, WIDTHS, strict=True):
        by_recipe = {name: group["errors"] for name, group in runs.groupby("recipe")}
        scratch = mean_interval(by_recipe[f"{width} scratch"])
        ax.axhspan(scratch.low, scratch.high, color=COLOURS["scratch"], alpha=0.3, hatch="//", label="from scratch")
        ax.axhline(scratch.mean, color=COLOURS["scratch"], linestyle="--")
        cells = [mean_interval(by_recipe[f"{width} T={T}"]) for T in TEMPERATURES]
        ax.errorbar(
            range(len(TEMPERATURES)),
            [cell.mean for cell in cells],
            yerr=[cell.half_width for cell in cells],
            color=COLOURS["distilled"],
            marker=MARKERS["distilled"],
            capsize=4,
            label="distilled",
        )
        if width == 800:
            ax.axhline(runs["teacher_errors"].iloc[0], color=COLOURS["teacher"], linestyle=":", label="teacher")
        ax.set_xticks(range(len(TEMPERATURES)), TEMPERATURES)
        ax.set(title=f"student 2×{width}", xlabel="temperature T", ylim=(0, None))
    axes[0].set_ylabel("test errors of 10,000")
    axes[0].legend(fontsize=10, loc="lower left")
    return canvas


def beyond_thirty_percent(runs: pd.DataFrame) -> Interval:
    """Errors that T = 20 saves the 2×800 student beyond 30 % of those from scratch."""
    by_seed = runs.pivot(index="seed", columns="recipe", values="errors")
    return paired_difference(0.7 * by_seed["800 scratch"], by_seed["800 T=20"])


def against_the_teacher(runs: pd.DataFrame) -> Interval:
    """The teacher's test errors minus those of the 2×800 student at T = 20."""
    chosen = runs.query("recipe == '800 T=20'")
    return mean_interval(chosen["teacher_errors"] - chosen["errors"])


def agreement_gained(runs: pd.DataFrame) -> Interval:
    """How much more often the distilled 2×800 student answers as the teacher does than the one from scratch, in %."""
    disagreement = runs.assign(disagreement=100 * (1 - runs["agreement"]))
    return gain(disagreement, "disagreement", of="800 T=20", over="800 scratch")


def study(*, fast: bool = False) -> Study:
    """The study; see :class:`~kd_course.studies.Study`."""
    options = {"epochs": 1 if fast else 30, "rate": 3e-3}
    recipes = {}
    for width in WIDTHS:
        recipes[f"{width} scratch"] = partial(student, width=width, temperature=1, alpha=0, **options)
        for temperature in TEMPERATURES:
            name = f"{width} T={temperature}"
            recipes[name] = partial(student, width=width, temperature=temperature, alpha=0.9, **options)
    return Study(
        question="Does distillation on all of MNIST give what Hinton et al. report, and at which temperature?",
        load=partial(with_answers, teacher="mlp", validation_size=0, fast=fast),
        recipes=recipes,
        table=table,
        figure=figure,
        claims=(
            Claim(
                "A 2×800 student errs less with the teacher's soft targets (T = 20) than with labels alone.",
                "test errors saved",
                partial(gain, metric="errors", of="800 T=20", over="800 scratch"),
            ),
            Claim(
                "Distillation removes at least 30 % of the 2×800 student's errors (paper: 146 to 74, half of them).",
                "test errors beyond 30 %",
                beyond_thirty_percent,
            ),
            Claim(
                "The 2×800 student at T = 20 is as good as its teacher or better.",
                "test errors saved against the teacher",
                against_the_teacher,
            ),
            Claim(
                "With 30 units a low temperature is better: T = 4 against T = 20 (paper: 2.5 to 4 works best).",
                "test errors saved",
                partial(gain, metric="errors", of="30 T=4", over="30 T=20"),
            ),
            Claim(
                "With 300 units T = 20 is as good as T = 8 or better (paper: above 8 all T are much alike).",
                "test errors saved against T = 8",
                partial(gain, metric="errors", of="300 T=20", over="300 T=8"),
            ),
            Claim(
                "A distilled student agrees with its teacher more than one from scratch (2×800, T = 20).",
                "more agreement, in % of the test images",
                agreement_gained,
            ),
        ),
        would_change=(
            "Training length: with five epochs a student from the teacher is no better than one from scratch, with "
            "two it is worse (see the study of patience). The teacher: the paper's made 67 errors, ours makes as many "
            "as its card says, and a student cannot learn what its teacher does not know. The learning rate: on "
            "validation images (30 epochs, one seed) both arms were best at 3e-3, where the student from scratch is "
            "far better than at the usual 1e-3; with the rate left there, distillation would look better than it is. "
            "Moved images, weight decay or dropout for the students would help the baseline too."
        ),
    )
