"""The course's pair of convolutional networks: what the teacher is worth at every number of labels, T and α.

Every student takes about 2,000 steps (whole epochs: 1,975 to 2,150), of 32 images up to 1,000 labels and of 128 above.
The labels are drawn by the seed, the same for every recipe of that seed, because nothing matters more than which few
images are labelled. The column ``series`` tells the three parts: "labels" (from scratch and distilled at every number
of labels), "transfer" (soft targets of all images, no labels), "grid" (every T and α at one number of labels).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kd_course.data import Batch, Data
from kd_course.evaluation import errors, evaluate_logits, mean_interval
from kd_course.inference import predict
from kd_course.losses import kd_loss
from kd_course.models import StudentNet
from kd_course.plots import COLOURS, MARKERS
from kd_course.runtime import seeded
from kd_course.studies._claims import Selection, by_seed, improvement, saves_errors
from kd_course.studies._study import Arm, Study, load_with_teacher
from kd_course.training import cosine, fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LABELS = (100, 300, 1_000, 3_000, 10_000, 55_000)
TEMPERATURES, ALPHAS = (1, 4, 8, 16), (0.5, 0.9, 1.0)
GRID_LABELS = 300  # the number of labels at which T and α are varied
TRANSFER = {"series": "transfer"}


def student(
    data: Data, seed: int, *, labels: int, temperature: float, alpha: float, steps: int, rate: float
) -> Mapping[str, float]:
    """A StudentNet trained on ``labels`` images, from scratch (``alpha`` = 0) or with the teacher's soft targets."""

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        return kd_loss(model(batch.images), batch.teacher_logits, batch.labels, temperature=temperature, alpha=alpha)

    train = data.train.sample(min(labels, len(data.train)), seed=seed)
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
    return evaluate_logits(predict(network, data.test), data.test) | {"validation_errors": validation}


def _scratch(labels: int) -> Selection:
    return {"series": "labels", "method": "scratch", "labels": labels}


def _distilled(labels: int) -> Selection:
    return {"series": "labels", "method": "distilled", "labels": labels}


def _grid(temperature: float, alpha: float) -> Selection:
    return {"series": "grid", "temperature": temperature, "alpha": alpha}


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Test errors by number of labels: from scratch, distilled, and what the teacher saves, paired by seed."""
    import pandas as pd

    rows = {}
    for count in LABELS:
        saved = improvement(runs, "errors", method=_distilled(count), baseline=_scratch(count))
        rows[f"{count:,}"] = {
            "from scratch": f"{mean_interval(by_seed(runs, 'errors', _scratch(count))):.0f}",
            "distilled": f"{mean_interval(by_seed(runs, 'errors', _distilled(count))):.0f}",
            "saved by the teacher": f"{saved:+.0f}",
        }
    transfer = f"{mean_interval(by_seed(runs, 'errors', TRANSFER)):.0f}"
    rows["none: 55,000 soft targets"] = {"from scratch": "", "distilled": transfer, "saved by the teacher": ""}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("labels")


def figure(runs: pd.DataFrame) -> Figure:
    """Left: errors against labels. Right: validation errors over T and α at 300 labels."""
    import matplotlib.pyplot as plt

    canvas, (ax, grid) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[3, 2])
    for role, chosen in (("scratch", _scratch), ("distilled", _distilled)):
        cells = [mean_interval(by_seed(runs, "errors", columns)) for columns in map(chosen, LABELS)]
        means, halves = [cell.mean for cell in cells], [cell.half_width for cell in cells]
        shown = {"scratch": "from scratch", "distilled": "distilled (T = 8, α = 0.9)"}[role]
        ax.errorbar(LABELS, means, yerr=halves, color=COLOURS[role], marker=MARKERS[role], capsize=4, label=shown)
    transfer = mean_interval(by_seed(runs, "errors", TRANSFER))
    ax.axhline(transfer.mean, color=COLOURS["teacher"], linestyle=":", label="soft targets of all images, no labels")
    ax.set(xscale="log", yscale="log", xlabel="labelled images", ylabel="test errors of 10,000")
    ax.set_xticks(LABELS, [f"{count:,}" for count in LABELS])
    ax.minorticks_off()
    ticks = [50, 100, 200, 500, 1_000, 2_000]
    ax.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.legend(fontsize=10)
    values = [[by_seed(runs, "validation_errors", _grid(T, alpha)).mean() for T in TEMPERATURES] for alpha in ALPHAS]
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


# fmt: off
CLAIMS = (
    *(saves_errors(f"kd_beats_scratch_{count}", _distilled(count), _scratch(count),
        f"Distillation helps with {count:,} labelled images.") for count in LABELS),
    saves_errors("soft_targets_replace_labels", TRANSFER, _scratch(10_000),
        "55,000 unlabelled images with the teacher's soft targets are worth more than 10,000 labels."),
    saves_errors("temperature_matters", _grid(8, 0.9), _grid(1, 0.9),
        f"The temperature matters: T = 8 against T = 1 with {GRID_LABELS} labels, α = 0.9."),
    saves_errors("labels_add_to_soft_targets", _grid(8, 0.9), _grid(8, 1.0),
        f"Labels beside soft targets help: α = 0.9 against α = 1 with {GRID_LABELS} labels, T = 8."),
)
# fmt: on


def study(*, fast: bool = False) -> Study:
    """The study; see :class:`~kd_course.studies.Study`.

    Args:
        fast: token trainings.
    """
    options = {"steps": 20 if fast else 2_000, "rate": 2e-3}
    arms = {}
    for count in LABELS:
        chosen = {"labels": count, "temperature": 1, "alpha": 0}
        recipe = partial(student, **chosen, **options)
        arms[f"scratch, {count} labels"] = Arm(recipe, {"series": "labels", "method": "scratch", **chosen})
        chosen = {"labels": count, "temperature": 8, "alpha": 0.9}
        recipe = partial(student, **chosen, **options)
        arms[f"KD, {count} labels"] = Arm(recipe, {"series": "labels", "method": "distilled", **chosen})
    chosen = {"temperature": 8, "alpha": 1}  # with α = 1 the loss reads no label
    recipe = partial(student, labels=55_000, **chosen, **options)
    arms["all images, no labels"] = Arm(recipe, {"series": "transfer", "method": "distilled", "labels": 0, **chosen})
    for temperature in TEMPERATURES:
        for alpha in ALPHAS:
            chosen = {"labels": GRID_LABELS, "temperature": temperature, "alpha": alpha}
            recipe = partial(student, **chosen, **options)
            columns = {"series": "grid", "method": "distilled", **chosen}
            arms[f"{GRID_LABELS} labels, T={temperature}, α={alpha}"] = Arm(recipe, columns)
    return Study(
        question="What is a teacher worth, by number of labelled images, temperature and α?",
        load=partial(load_with_teacher, teacher="cnn", fast=fast),
        arms=arms,
        table=table,
        figure=figure,
        claims=CLAIMS,
        limitations=(
            "The teacher learned from all 55,000 labels, so a student with 100 labels has a helper that nobody could "
            "have trained on these 100: a teacher that knows no more than they tell is another question. T = 8 and "
            "α = 0.9 were fixed for all numbers of labels; the grid on the right shows how much they matter at one. "
            "2,000 steps are 500 passes over 100 images and five over 55,000: see the study named patience."
        ),
    )
