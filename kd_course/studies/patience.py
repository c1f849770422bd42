"""How long must a student train before its teacher pays? Errors against epochs, from scratch and distilled.

Every budget is a training of its own, with its own learning rate falling to zero, because the middle of a long
training says little about the end of a short one.
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

BUDGETS = (2, 5, 10, 20, 40, 80)  # epochs
ARMS = {"scratch": {"temperature": 1, "alpha": 0}, "distilled": {"temperature": 20, "alpha": 0.9}}


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Test errors by budget, and what the teacher saved: mean ± half the 95 % interval, pairs by seed."""
    import pandas as pd

    rows = {}
    for epochs in BUDGETS:
        names = {arm: f"{arm} {epochs}" for arm in ARMS}
        rows[epochs] = {
            arm: f"{mean_interval(runs.query('recipe == @name')['errors']):.1f}" for arm, name in names.items()
        }
        rows[epochs]["saved by the teacher"] = (
            f"{gain(runs, 'errors', of=names['distilled'], over=names['scratch']):+.1f}"
        )
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("epochs")


def figure(runs: pd.DataFrame) -> Figure:
    """Test errors against epochs, both axes logarithmic, with intervals."""
    import matplotlib.pyplot as plt

    canvas, ax = plt.subplots(figsize=(7, 4.2))
    for arm in ARMS:
        cells = [mean_interval(runs.query("recipe == @name")["errors"]) for name in (f"{arm} {e}" for e in BUDGETS)]
        means, halves = [cell.mean for cell in cells], [cell.half_width for cell in cells]
        ax.errorbar(BUDGETS, means, yerr=halves, color=COLOURS[arm], marker=MARKERS[arm], capsize=4, label=arm)
    ax.set(xscale="log", yscale="log", xlabel="epochs on 60,000 images", ylabel="test errors of 10,000")
    ax.set_xticks(BUDGETS, BUDGETS)
    ax.minorticks_off()
    ticks = [100, 150, 200, 300, 400]
    ax.set_yticks(ticks, ticks)
    ax.legend()
    return canvas


def growth(runs: pd.DataFrame) -> Interval:
    """How many more errors the teacher saves with the longest budget than with the shortest."""
    by_seed = runs.pivot(index="seed", columns="recipe", values="errors")
    saved = {epochs: by_seed[f"scratch {epochs}"] - by_seed[f"distilled {epochs}"] for epochs in BUDGETS}
    return paired_difference(saved[BUDGETS[-1]], saved[BUDGETS[0]])


def study(*, fast: bool = False) -> Study:
    """The study; see :class:`~kd_course.studies.Study`."""
    recipes = {}
    for epochs in BUDGETS:
        for arm, options in ARMS.items():
            budget = -(-epochs // 40) if fast else epochs
            recipes[f"{arm} {epochs}"] = partial(student, width=300, epochs=budget, rate=3e-3, **options)
    first, last = BUDGETS[0], BUDGETS[-1]
    return Study(
        question="How long must a student train before its teacher pays?",
        load=partial(with_answers, teacher="mlp", validation_size=0, fast=fast),
        recipes=recipes,
        table=table,
        figure=figure,
        claims=(
            Claim(
                f"Distillation speeds learning up: after {first} epochs a 2×300 student errs less with it.",
                "test errors saved",
                partial(gain, metric="errors", of=f"distilled {first}", over=f"scratch {first}"),
            ),
            Claim(
                f"After {last} epochs a 2×300 student errs less with distillation than without.",
                "test errors saved",
                partial(gain, metric="errors", of=f"distilled {last}", over=f"scratch {last}"),
            ),
            Claim(
                f"The teacher's gain grows with patience: {last} epochs against {first}.",
                "test errors more saved",
                growth,
            ),
            Claim(
                f"Training longer is as good as a teacher: {last} epochs from scratch against {first * 10} distilled.",
                "test errors saved",
                partial(gain, metric="errors", of=f"scratch {last}", over=f"distilled {first * 10}"),
            ),
        ),
        would_change=(
            "The size of the student and the number of images: with few images every epoch is short, and the same "
            "number of epochs is little training. The learning rate and the batch size move the crossing; they were "
            "the same for both arms. T = 20 was taken from the paper and not chosen anew for each budget."
        ),
    )
