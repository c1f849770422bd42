"""How long must a student train before a teacher pays off? Errors against epochs, from scratch and distilled.

Every budget is a training of its own, with its own learning rate falling to zero, because the middle of a long
training says little about the end of a short one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kd_course.evaluation import Interval, mean_interval
from kd_course.plots import COLOURS, MARKERS
from kd_course.studies._claims import Claim, Selection, by_seed, improvement, paired, saves_errors
from kd_course.studies._mlp import student
from kd_course.studies._study import Arm, Study, load_with_teacher

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BUDGETS = (2, 5, 10, 20, 40, 80)  # epochs
METHODS = {"scratch": {"temperature": 1, "alpha": 0}, "distilled": {"temperature": 20, "alpha": 0.9}}


def _columns(method: str, epochs: int) -> Selection:
    return {"method": method, "epochs": epochs}


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Test errors by budget, and what the teacher saved: mean ± half the 95 % interval, paired by seed."""
    import pandas as pd

    rows = {}
    for epochs in BUDGETS:
        chosen = {method: _columns(method, epochs) for method in METHODS}
        rows[epochs] = {
            method: f"{mean_interval(by_seed(runs, 'errors', columns)):.1f}" for method, columns in chosen.items()
        }
        saved = improvement(runs, "errors", method=chosen["distilled"], baseline=chosen["scratch"])
        rows[epochs]["saved by the teacher"] = f"{saved:+.1f}"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("epochs")


def figure(runs: pd.DataFrame) -> Figure:
    """Test errors against epochs, both axes logarithmic, with intervals."""
    import matplotlib.pyplot as plt

    canvas, ax = plt.subplots(figsize=(7, 4.2))
    for method in METHODS:
        cells = [mean_interval(by_seed(runs, "errors", _columns(method, epochs))) for epochs in BUDGETS]
        means, halves = [cell.mean for cell in cells], [cell.half_width for cell in cells]
        style = {"color": COLOURS[method], "marker": MARKERS[method], "capsize": 4, "label": method}
        ax.errorbar(BUDGETS, means, yerr=halves, **style)
    ax.set(xscale="log", yscale="log", xlabel="epochs on 60,000 images", ylabel="test errors of 10,000")
    ax.set_xticks(BUDGETS, BUDGETS)
    ax.minorticks_off()
    ticks = [100, 150, 200, 300, 400]
    ax.set_yticks(ticks, ticks)
    ax.legend()
    return canvas


def growth(runs: pd.DataFrame) -> Interval:
    """How many more errors the teacher saves with the longest budget than with the shortest."""
    first, last = (
        by_seed(runs, "errors", _columns("scratch", epochs)) - by_seed(runs, "errors", _columns("distilled", epochs))
        for epochs in (BUDGETS[0], BUDGETS[-1])
    )
    return paired(last, first)


# fmt: off
CLAIMS = (
    saves_errors("kd_speeds_up_learning", _columns("distilled", 2), _columns("scratch", 2),
        "Distillation speeds learning up: after 2 epochs a 2×300 student makes fewer errors with it."),
    saves_errors("kd_beats_scratch_after_80_epochs", _columns("distilled", 80), _columns("scratch", 80),
        "After 80 epochs a 2×300 student makes fewer errors with distillation than without."),
    Claim(key="benefit_grows_with_epochs", evidence=growth, unit="more test errors saved",
        claim="The longer a student trains, the more its teacher helps: 80 epochs against 2."),
    saves_errors("long_training_replaces_teacher", _columns("scratch", 80), _columns("distilled", 20),
        "Training longer is as good as a teacher: 80 epochs from scratch against 20 distilled."),
)
# fmt: on


def study(*, fast: bool = False) -> Study:
    """The study; see :class:`~kd_course.studies.Study`.

    Args:
        fast: token trainings.
    """
    arms = {}
    for epochs in BUDGETS:
        for method, chosen in METHODS.items():
            budget = -(-epochs // 40) if fast else epochs
            recipe = partial(student, width=300, epochs=budget, rate=3e-3, **chosen)
            arms[f"{method} {epochs}"] = Arm(recipe, {"method": method, "epochs": epochs, **chosen})
    return Study(
        question="How long must a student train before a teacher pays off?",
        load=partial(load_with_teacher, teacher="mlp", validation_size=0, fast=fast),
        arms=arms,
        table=table,
        figure=figure,
        claims=CLAIMS,
        limitations=(
            "The size of the student and the number of images: with few images every epoch is short, and the same "
            "number of epochs is little training. The learning rate and the batch size move the crossing; they were "
            "the same for both methods. T = 20 was taken from the paper and not chosen anew for each budget."
        ),
    )
