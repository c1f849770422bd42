"""The course's pair of convolutional networks: what the teacher is worth at every number of labels, T and α.

Every student takes about 2,000 steps (whole epochs: 1,975 to 2,150), of 32 images up to 1,000 labels and of 128 above.
The labels are drawn by the seed, the same for every recipe of that seed, because which few images are labelled matters
more than anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kd_course.data import Batch, Data
from kd_course.evaluation import errors, mean_interval, measure
from kd_course.inference import predict
from kd_course.losses import kd_loss
from kd_course.models import StudentNet
from kd_course.plots import COLOURS, MARKERS
from kd_course.runtime import seeded
from kd_course.studies._study import Claim, Study, gain, with_answers
from kd_course.training import cosine, fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LABELS = (100, 300, 1_000, 3_000, 10_000, 55_000)
TEMPERATURES, ALPHAS = (1, 4, 8, 16), (0.5, 0.9, 1.0)
GRID_LABELS = 300  # the number of labels at which T and α are varied
TRANSFER = "all images, no labels"


def student(
    data: Data, seed: int, *, labels: int, temperature: float, alpha: float, steps: int, rate: float
) -> Mapping[str, float]:
    """A StudentNet trained on ``labels`` images, from scratch (``alpha`` = 0) or with the teacher's soft targets."""

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        return kd_loss(model(batch.images), batch.teacher_logits, batch.labels, temperature=temperature, alpha=alpha)

    train = data.train.take(min(labels, len(data.train)), seed=seed)
    batch_size = 32 if len(train) <= 1_000 else 128
    steps_per_epoch = -(-len(train) // batch_size)
    with seeded(seed):
        network = StudentNet(data.classes)
    fit(
        network,
        objective,
        train,
        epochs=max(1, round(steps / steps_per_epoch)),
        batch_size=batch_size,
        seed=seed,
        optimizer=partial(torch.optim.Adam, lr=rate),
        schedule=cosine,
        progress=False,
    )
    validation = errors(predict(network, data.validation), data.validation.labels)
    return measure(predict(network, data.test), data.test) | {"validation_errors": validation}


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Test errors by number of labels: from scratch, distilled, and what the teacher saves, paired by seed."""
    import pandas as pd

    rows = {}
    for count in LABELS:
        scratch, distilled = f"scratch, {count} labels", f"KD, {count} labels"
        cells = {name: mean_interval(runs.query("recipe == @name")["errors"]) for name in (scratch, distilled)}
        saved = gain(runs, "errors", of=distilled, over=scratch)
        rows[f"{count:,}"] = {
            "from scratch": f"{cells[scratch]:.0f}",
            "distilled": f"{cells[distilled]:.0f}",
            "saved by the teacher": f"{saved:+.0f}",
        }
    transfer = f"{mean_interval(runs.query('recipe == @TRANSFER')['errors']):.0f}"
    rows["none: 55,000 soft targets"] = {"from scratch": "", "distilled": transfer, "saved by the teacher": ""}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("labels")


def figure(runs: pd.DataFrame) -> Figure:
    """Left: errors against labels. Right: validation errors over T and α at 300 labels."""
    import matplotlib.pyplot as plt

    canvas, (ax, grid) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[3, 2])
    for role, name in (("scratch", "scratch, {} labels"), ("distilled", "KD, {} labels")):
        cells = [mean_interval(runs.query("recipe == @recipe")["errors"]) for recipe in map(name.format, LABELS)]
        means, halves = [cell.mean for cell in cells], [cell.half_width for cell in cells]
        shown = {"scratch": "from scratch", "distilled": "distilled (T = 8, α = 0.9)"}[role]
        ax.errorbar(LABELS, means, yerr=halves, color=COLOURS[role], marker=MARKERS[role], capsize=4, label=shown)
    transfer = mean_interval(runs.query("recipe == @TRANSFER")["errors"])
    ax.axhline(transfer.mean, color=COLOURS["teacher"], linestyle=":", label="soft targets of all images, no labels")
    ax.set(xscale="log", yscale="log", xlabel="labelled images", ylabel="test errors of 10,000")
    ax.set_xticks(LABELS, [f"{count:,}" for count in LABELS])
    ax.minorticks_off()
    ticks = [50, 100, 200, 500, 1_000, 2_000]
    ax.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.legend(fontsize=10)
    by_recipe = runs.groupby("recipe")["validation_errors"].mean()
    values = [[by_recipe[_grid_name(T, alpha)] for T in TEMPERATURES] for alpha in ALPHAS]
    grid.imshow(values, cmap="Blues", aspect="auto")
    middle = (max(map(max, values)) + min(map(min, values))) / 2
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            colour = "white" if value > middle else "black"
            grid.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour)
    grid.set_xticks(range(len(TEMPERATURES)), TEMPERATURES)
    grid.set_yticks(range(len(ALPHAS)), ALPHAS)
    grid.grid(visible=False)
    grid.set(xlabel="temperature T", ylabel="α", title=f"validation errors of 5,000, {GRID_LABELS} labels")
    return canvas


def study(*, fast: bool = False) -> Study:
    """The study; see :class:`~kd_course.studies.Study`."""
    options = {"steps": 20 if fast else 2_000, "rate": 2e-3}
    chosen = {"temperature": 8, "alpha": 0.9}
    recipes = {}
    for count in LABELS:
        recipes[f"scratch, {count} labels"] = partial(student, labels=count, temperature=1, alpha=0, **options)
        recipes[f"KD, {count} labels"] = partial(student, labels=count, **chosen, **options)
    recipes[TRANSFER] = partial(student, labels=55_000, temperature=8, alpha=1, **options)
    for temperature in TEMPERATURES:
        for alpha in ALPHAS:
            made = partial(student, labels=GRID_LABELS, temperature=temperature, alpha=alpha, **options)
            recipes[_grid_name(temperature, alpha)] = made
    return Study(
        question="What is a teacher worth, by number of labelled images, temperature and α?",
        load=partial(with_answers, teacher="cnn", fast=fast),
        recipes=recipes,
        table=table,
        figure=figure,
        claims=(
            *(
                Claim(
                    f"Distillation helps with {count:,} labelled images.",
                    "test errors saved",
                    partial(gain, metric="errors", of=f"KD, {count} labels", over=f"scratch, {count} labels"),
                )
                for count in LABELS
            ),
            Claim(
                "55,000 unlabelled images with the teacher's soft targets are worth more than 10,000 labels.",
                "test errors saved",
                partial(gain, metric="errors", of=TRANSFER, over="scratch, 10000 labels"),
            ),
            Claim(
                f"The temperature matters: T = 8 against T = 1 with {GRID_LABELS} labels, α = 0.9.",
                "test errors saved",
                partial(gain, metric="errors", of=_grid_name(8, 0.9), over=_grid_name(1, 0.9)),
            ),
            Claim(
                f"Labels beside soft targets help: α = 0.9 against α = 1 with {GRID_LABELS} labels, T = 8.",
                "test errors saved",
                partial(gain, metric="errors", of=_grid_name(8, 0.9), over=_grid_name(8, 1.0)),
            ),
        ),
        would_change=(
            "The teacher learned from all 55,000 labels, so a student with 100 labels has a helper that it could not "
            "have trained itself: a teacher that knows no more than the same 100 images is another question. T = 8 and "
            "α = 0.9 were fixed for all numbers of labels; the grid on the right shows how much they matter at one. "
            "2,000 steps are 500 passes over 100 images and five over 55,000: see the study of patience."
        ),
    )


def _grid_name(temperature: float, alpha: float) -> str:
    return f"{GRID_LABELS} labels, T={temperature}, α={alpha}"
