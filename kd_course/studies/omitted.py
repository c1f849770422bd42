"""Classes that the student has never seen: Hinton et al. 2015, section 3, with biases chosen without the test set.

The transfer set lacks the 3s, or holds only 7s and 8s. The student learns from the teacher's soft targets alone, so
all that it knows of a missing class is what the teacher said about other digits. Its one clear fault is a bias: it was
never rewarded for answering "3". A single number, added to the logits of the missing classes, corrects it. The paper
chose that number on the test set; here it is chosen in two ways that the test set has no part in: by the errors on
validation images, and, without any label, by the class prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from kd_course.data import Batch, Data
from kd_course.evaluation import Interval, errors, mean_interval
from kd_course.inference import predict
from kd_course.losses import soft_target_loss
from kd_course.models import mlp
from kd_course.plots import COLOURS, HATCHES
from kd_course.runtime import seeded
from kd_course.studies._claims import Claim, Selection, by_seed, paired, select
from kd_course.studies._study import Arm, Study, load_with_teacher
from kd_course.training import cosine, fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

WAYS = {"": "no bias", "_validation": "bias by validation", "_prior": "bias by prior"}
"""How the bias is chosen: how the names of its numbers end, and what people call it."""


class Gap(NamedTuple):
    """Classes that a transfer set lacks.

    Attributes:
        key: for the keys of claims.
        missing: the classes.
        images: how many images of these classes MNIST's test set has.
        digits: what people call them.
        student: what people call a student that never saw them.
        paper: the paper's test errors before and after the bias, in brackets those on the missing classes.
    """

    key: str
    missing: tuple[int, ...]
    images: int
    digits: str
    student: str
    paper: str

    @property
    def columns(self) -> Selection:
        """The columns of the students that never saw these classes."""
        return {"missing_classes": " ".join(map(str, self.missing))}


GAPS = {
    "no 3s": Gap("no_3", (3,), 1_010, "the 3s", "A student that never saw a 3", "206 (133), then 109 (14)"),
    "only 7s and 8s": Gap(
        "only_7_8",
        (0, 1, 2, 3, 4, 5, 6, 9),
        7_998,
        "the other digits",
        "A student that saw only 7s and 8s",
        "4,730, then 1,320",
    ),
}
"""By the name of the transfer set."""


def student(
    data: Data, seed: int, *, missing: Sequence[int], width: int, temperature: float, epochs: int, rate: float
) -> Mapping[str, float]:
    """A student that never saw the ``missing`` classes, before and after a bias for them has been chosen."""

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        return soft_target_loss(model(batch.images), batch.teacher_logits, temperature=temperature)

    with seeded(seed):
        network = mlp((width, width))
    adam = partial(torch.optim.Adam, lr=rate)
    transfer = data.train.without(*missing)
    fit(network, objective, transfer, epochs=epochs, seed=seed, optimizer=adam, schedule=cosine, progress=False)
    held_out, test = predict(network, data.validation), predict(network, data.test)
    unseen = torch.isin(torch.arange(data.classes), torch.tensor(missing)).float()  # (C,): 1 for a missing class
    prior = torch.isin(data.train.labels, torch.tensor(missing)).double().mean().item()
    biases = {
        "": 0.0,
        "_validation": bias_by_errors(held_out, data.validation.labels, unseen),
        "_prior": bias_by_prior(held_out, unseen, prior),
    }
    absent = torch.isin(data.test.labels, torch.tensor(missing))
    numbers = {}
    for way, bias in biases.items():
        moved = test + bias * unseen
        numbers[f"errors{way}"] = errors(moved, data.test.labels)
        numbers[f"errors_on_missing{way}"] = errors(moved[absent], data.test.labels[absent])
        numbers[f"bias{way}"] = bias
    return numbers


def bias_by_errors(logits: Tensor, labels: Tensor, unseen: Tensor) -> float:
    """The bias for the unseen classes that makes the fewest errors on these samples; of several, the middle one."""
    candidates = torch.arange(0, 40.01, 0.25)
    counts = torch.tensor([errors(logits + bias * unseen, labels) for bias in candidates])
    best = candidates[counts == counts.min()]
    return best[len(best) // 2].item()


def bias_by_prior(logits: Tensor, unseen: Tensor, prior: float) -> float:
    """The bias with which the student answers with an unseen class as often as the class prior says; needs no label."""
    masked = logits.masked_fill(unseen.bool(), -torch.inf).max(1).values
    gaps = masked - logits.masked_fill(~unseen.bool(), -torch.inf).max(1).values  # the bias at which each one changes
    return max(torch.quantile(gaps.double(), prior).item(), 0.0)


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Test errors by transfer set and by how the bias was chosen; in brackets those on the missing classes."""
    import pandas as pd

    rows = {}
    for name, gap in GAPS.items():
        own = select(runs, gap.columns)
        rows[name] = {
            label: f"{mean_interval(own[f'errors{way}']):.0f} ({own[f'errors_on_missing{way}'].mean():.0f})"
            for way, label in WAYS.items()
        } | {"paper": gap.paper}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("test errors of 10,000")


def figure(runs: pd.DataFrame) -> Figure:
    """Test errors by transfer set and by choice of the bias, on digits that the student saw and on those it did not.

    The bar is the mean over the seeds in two parts; the interval is that of the whole.
    """
    import matplotlib.pyplot as plt

    canvas, axes = plt.subplots(1, len(GAPS), figsize=(10, 4), layout="constrained")
    places = range(len(WAYS))
    for ax, (name, gap) in zip(axes, GAPS.items(), strict=True):
        own = select(runs, gap.columns)
        all_errors = [mean_interval(own[f"errors{way}"]) for way in WAYS]
        unseen = [own[f"errors_on_missing{way}"].mean() for way in WAYS]
        seen = [cell.mean - part for cell, part in zip(all_errors, unseen, strict=True)]
        ax.bar(places, seen, color=COLOURS["neutral"], label="on digits it saw")
        style = {"color": COLOURS["scratch"], "hatch": HATCHES["scratch"]}
        ax.bar(places, unseen, bottom=seen, label="on digits it never saw", **style)
        means, halves = [cell.mean for cell in all_errors], [cell.half_width for cell in all_errors]
        ax.errorbar(places, means, yerr=halves, fmt="none", color="black", capsize=5)
        ax.set_xticks(places, ["no bias", "bias\nby validation", "bias\nby prior"])
        ax.set(title=f"transfer set: {name}", ylabel="test errors of 10,000")
    axes[-1].legend()
    return canvas


def errors_saved(runs: pd.DataFrame, *, gap: Gap, way: str, baseline: str = "") -> Interval:
    """Test errors that a bias saves.

    Args:
        runs: of this study.
        gap: which students.
        way: how the bias was chosen, one of :data:`WAYS`.
        baseline: how the bias was chosen that it is compared with; "" for none.
    """
    return paired(by_seed(runs, f"errors{baseline}", gap.columns), by_seed(runs, f"errors{way}", gap.columns))


def missed_beyond_half(runs: pd.DataFrame, *, gap: Gap) -> Interval:
    """How many more than half of the images of the unseen classes are missed before any bias is added."""
    return mean_interval(by_seed(runs, "errors_on_missing", gap.columns) - gap.images / 2)


def missed(runs: pd.DataFrame, *, gap: Gap) -> str:
    """How many images of the unseen classes are missed before any bias is added, in words."""
    found = mean_interval(by_seed(runs, "errors_on_missing", gap.columns))
    return f"misses {found:.1f} of {gap.images:,} images of {gap.digits}"


# fmt: off
CLAIMS = tuple(claim for gap in GAPS.values() for claim in (
    Claim(key=f"bias_by_validation_helps_{gap.key}", evidence=partial(errors_saved, gap=gap, way="_validation"),
        claim=f"{gap.student} makes fewer errors with a bias chosen on validation images."),
    Claim(key=f"bias_by_prior_helps_{gap.key}", evidence=partial(errors_saved, gap=gap, way="_prior"),
        claim=f"{gap.student} makes fewer errors with a bias chosen by the class prior, without any label."),
    Claim(key=f"unseen_is_unknown_{gap.key}", evidence=partial(missed_beyond_half, gap=gap),
        claim=f"{gap.student} cannot know {gap.digits}: without a bias it misses more than half of them.",
        wording=partial(missed, gap=gap)),
    Claim(key=f"bias_needs_labels_{gap.key}",
        evidence=partial(errors_saved, gap=gap, way="_validation", baseline="_prior"),
        claim=f"{gap.student} needs labels for its bias: validation images choose a better one than the class prior.",
        unit="test errors saved by the labels"),
))
# fmt: on


def study(*, fast: bool = False) -> Study:
    """The study; see :class:`~kd_course.studies.Study`.

    Args:
        fast: token trainings.
    """
    options = {"width": 800, "temperature": 20, "epochs": 1 if fast else 30, "rate": 3e-3}
    return Study(
        question="What does a student know about digits that it has never seen, and what does one bias correct?",
        load=partial(load_with_teacher, teacher="mlp", fast=fast),
        arms={
            name: Arm(partial(student, missing=list(gap.missing), **options), gap.columns) for name, gap in GAPS.items()
        },
        table=table,
        figure=figure,
        claims=CLAIMS,
        limitations=(
            "The number of steps on the transfer set: the students of notebook 03, which train for a short time on "
            "few images, miss nearly all 3s without a bias and need a far larger one. (They are other networks with "
            "another teacher, so this does not show that the steps alone are the reason.) The temperature: at T = 1 "
            "the soft targets of other digits say next to nothing about a 3. The teacher has seen every class, the "
            "validation images among them; the student has not."
        ),
    )
