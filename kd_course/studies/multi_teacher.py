"""Four networks, one answer, and what is left of it in one student: errors, calibration, time and memory of each.

Four architectures learn from the same 5,000 labelled images, drawn by the seed. Then we use the best of them alone,
their mean, their mean with weights fitted on validation, and students of two sizes that they teach. Every training sees
as many images as every other, repeats counted, so that no entry wins by computing longer. The single best and the
weights are chosen on validation images; the test set is read once.

Columns: ``method`` is "single", "ensemble", "scratch" or "distilled". Of an ensemble, ``members`` are "architectures"
or "seeds" and ``average`` is "simple" or "weighted"; of a student, ``network`` and ``teacher``, and ``unlabelled`` says
whether it learned from images without labels. What does not apply is "".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course.data import Batch, Data, Split, load_data
from kd_course.ensembles import Ensemble, average_probabilities, fit_weights, member_logits
from kd_course.evaluation import Interval, errors, evaluate_logits, latency, mean_interval, size_bytes
from kd_course.inference import freeze, predict
from kd_course.losses import kd_loss
from kd_course.models import MixerNet, SeparableNet, StudentNet, count_parameters, mlp
from kd_course.plots import COLOURS, MARKERS
from kd_course.runtime import seeded
from kd_course.studies._claims import Claim, Selection, by_seed, improvement, saves_errors
from kd_course.studies._study import Arm, Study, at_most
from kd_course.training import Objective, cosine, fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    # name: (how to build it, its learning rate, chosen on validation images)
    "MLP": (partial(mlp, 200), 5e-3),
    "StudentNet": (StudentNet, 5e-3),
    "SeparableNet": (SeparableNet, 2e-2),
    "MixerNet": (MixerNet, 4e-3),
    "small": (partial(mlp, 64), 1e-2),
}
ARCHITECTURES = ("MLP", "StudentNet", "SeparableNet", "MixerNet")
LABELS, SEEN, UNLABELLED = 5_000, 60_000, 20_000  # labelled images; images seen, repeats counted; images without labels
TEMPERATURE, ALPHA = 2.0, 0.9  # chosen on validation images with a seed (100) that is not among the study's
STUDENT_SEED = 500  # a student never starts where the member of its architecture started

BEST_SINGLE = {"method": "single"}
SIMPLE = {"members": "architectures", "average": "simple"}
WEIGHTED = {"members": "architectures", "average": "weighted"}
FOUR_SEEDS = {"members": "seeds", "average": "simple"}
COLUMNS = ["method", "members", "average", "network", "teacher", "unlabelled"]
ROLES = {"single": "neutral", "ensemble": "teacher", "scratch": "scratch", "distilled": "distilled"}  # whose colours
LATENCIES = ["latency_1_ms", "latency_1_iqr_ms", "latency_256_ms", "latency_256_iqr_ms"]


@lru_cache(maxsize=16)
def _labelled(data: Data, draw: int, seed: int, network: str, labels: int, seen: int) -> tuple[nn.Module, float]:
    """A network trained on the ``labels`` images that ``draw`` stands for, frozen, and the seconds it took."""

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch.images), batch.labels)

    return _train(network, objective, data.train.sample(labels, seed=draw), seed=seed, seen=seen)


def _train(network: str, objective: Objective, train: Split, *, seed: int, seen: int) -> tuple[nn.Module, float]:
    build, rate = NETWORKS[network]
    with seeded(seed):
        model = build()
    history = fit(
        model,
        objective,
        train,
        epochs=max(1, round(seen / len(train))),
        batch_size=64,
        seed=seed,
        optimizer=partial(torch.optim.Adam, lr=rate),
        schedule=cosine,
        progress=False,
    )
    return freeze(model), float(history["seconds"].sum())


def _members(data: Data, seed: int, labels: int, seen: int, *, one: str = "") -> tuple[list[nn.Module], float]:
    """The four architectures, or four seeds of ``one``, on the same images; and the seconds of all four trainings."""
    kinds = [(one, seed + 1_000 * copy) for copy in range(4)] if one else [(name, seed) for name in ARCHITECTURES]
    trained = [_labelled(data, seed, start, name, labels, seen) for name, start in kinds]
    return [network for network, _ in trained], sum(seconds for _, seconds in trained)


def _best(members: list[nn.Module], data: Data) -> nn.Module:
    """The member with the fewest validation errors."""
    return min(members, key=lambda member: errors(predict(member, data.validation), data.validation.labels))


def _numbers(network: nn.Module, seconds: float, *, data: Data) -> Mapping[str, float]:
    """Quality on test, cost in time and memory; latencies on one thread, median and interquartile range."""
    alone = latency(network, batch_size=1)
    together = latency(network, batch_size=256, repeats=15, warm_up=3)
    return evaluate_logits(predict(network, data.test), data.test) | {
        "validation_errors": errors(predict(network, data.validation), data.validation.labels),
        "latency_1_ms": alone.median_ms,
        "latency_1_iqr_ms": alone.iqr_ms,
        "latency_256_ms": together.median_ms,
        "latency_256_iqr_ms": together.iqr_ms,
        "parameters": count_parameters(network),
        "bytes": size_bytes(network),
        "training_seconds": seconds,
    }


def best_single(data: Data, seed: int, *, labels: int, seen: int) -> Mapping[str, float]:
    """The best of the four architectures; to know which, all four have to be trained."""
    members, seconds = _members(data, seed, labels, seen)
    return _numbers(_best(members, data), seconds, data=data)


def ensemble(data: Data, seed: int, *, one: str, weighted: bool, labels: int, seen: int) -> Mapping[str, float]:
    """The mean of the members' probabilities, simple or with weights fitted on validation."""
    members, seconds = _members(data, seed, labels, seen, one=one)
    weights = fit_weights(member_logits(members, data.validation), data.validation.labels) if weighted else None
    return _numbers(Ensemble(members, weights), seconds, data=data)


def student(
    data: Data,
    seed: int,
    *,
    network: str,
    teacher: str,
    images: int,
    temperature: float,
    alpha: float,
    labels: int,
    seen: int,
) -> Mapping[str, float]:
    """One student: from scratch, or of one teacher or several.

    Args:
        data: the data.
        seed: draws the labelled images and the initial weights.
        network: one of :data:`NETWORKS`.
        teacher: "" (from scratch), "best single", "ensemble" or "four seeds".
        images: how many images it sees: the labelled ones if there are as many, else those and more, with all labels
            hidden.
        temperature: of the soft targets.
        alpha: the weight of the soft loss.
        labels: how many labelled images the teachers, or a student from scratch, learn from.
        seen: how many images a training sees, repeats counted.
    """
    if not teacher:
        return _numbers(*_labelled(data, seed, seed + STUDENT_SEED, network, labels, seen), data=data)
    members, seconds = _members(data, seed, labels, seen, one="StudentNet" if teacher == "four seeds" else "")
    teachers = [_best(members, data)] if teacher == "best single" else members
    train = data.train.sample(min(images, len(data.train)), seed=seed)  # a larger draw contains the smaller one
    if images > labels:
        train = replace(train, labels=torch.full_like(train.labels, -1))  # a loss that touched them would fail
    train = train.with_teacher(average_probabilities(member_logits(teachers, train), temperature=temperature))

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        return kd_loss(model(batch.images), batch.teacher_logits, batch.labels, temperature=temperature, alpha=alpha)

    model, own = _train(network, objective, train, seed=seed + STUDENT_SEED, seen=seen)
    return _numbers(model, seconds + own, data=data)


def costs(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per recipe with its columns; over the seeds, the median of each latency, the mean of other numbers."""
    by_recipe = runs.groupby("recipe", sort=False)
    found = by_recipe.mean(numeric_only=True)
    found[LATENCIES] = by_recipe[LATENCIES].median()
    found[COLUMNS] = by_recipe[COLUMNS].first()
    return found


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """The cost table: errors, calibration, time, memory and training of every way to answer.

    Times are those of one thread after warm-up, median and interquartile range over the seeds.
    """
    import pandas as pd

    quartiles = runs.groupby("recipe")[["latency_1_ms", "latency_256_ms"]].quantile([0.25, 0.75]).unstack()
    spread = quartiles.xs(0.75, axis=1, level=1) - quartiles.xs(0.25, axis=1, level=1)
    rows = {}
    for name, cost in costs(runs).iterrows():
        rows[name] = {
            "test errors": f"{mean_interval(by_seed(runs, 'errors', {'recipe': name})):.0f}",
            "NLL": f"{cost['nll']:.3f}",
            "ECE (%)": f"{100 * cost['ece']:.1f}",
            "ms, batch 1 (IQR)": f"{cost['latency_1_ms']:.2f} ({spread.loc[name, 'latency_1_ms']:.2f})",
            "ms, batch 256 (IQR)": f"{cost['latency_256_ms']:.1f} ({spread.loc[name, 'latency_256_ms']:.1f})",
            "parameters": f"{cost['parameters']:,.0f}",
            "kB": f"{cost['bytes'] / 1000:,.0f}",
            "training s": f"{cost['training_seconds']:.0f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("recipe")


def pareto(cost: pd.DataFrame, *, tolerance: float = 0.1) -> list[str]:
    """Recipes that no other beats: none with fewer errors takes at most (1 + tolerance) times as long at batch 1.

    The tolerance keeps the noise of the clock from ranking two networks of one architecture.
    """
    return [
        name
        for name, own in cost.iterrows()
        if not (
            (cost["errors"] < own["errors"]) & (cost["latency_1_ms"] <= (1 + tolerance) * own["latency_1_ms"])
        ).any()
    ]


def figure(runs: pd.DataFrame) -> Figure:
    """Test errors against the time of one answer, for every way to use four networks; the Pareto front is ringed."""
    import matplotlib.pyplot as plt

    cost = costs(runs)
    cells = {name: mean_interval(by_seed(runs, "errors", {"recipe": name})) for name in cost.index}
    roles = cost["method"].map(ROLES)
    canvas, ax = plt.subplots(figsize=(11, 7))
    for name, cell in cells.items():
        style = {"color": COLOURS[roles[name]], "marker": MARKERS[roles[name]], "capsize": 3, "elinewidth": 1}
        ax.errorbar(cost.loc[name, "latency_1_ms"], cell.mean, yerr=cell.half_width, **style)
    ringed = cost.loc[pareto(cost)]
    ax.plot(ringed["latency_1_ms"], ringed["errors"], "o", markersize=16, fillstyle="none", color="black", mew=1)
    ax.set(xscale="log", yscale="log", ylim=(0.8 * cost["errors"].min(), 1.25 * cost["errors"].max()))
    for _, column in cost.sort_values("errors").groupby(_column(cost["latency_1_ms"])):
        heights = _spread(column["errors"].tolist(), 1.05)
        for name, height in zip(column.index, heights, strict=True):
            ax.annotate(
                name,
                (cost.loc[name, "latency_1_ms"], cells[name].mean),
                (column["latency_1_ms"].max() * 1.18, height),
                va="center",
                fontsize=10,
                color=COLOURS[roles[name]],
                arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.7, "shrinkB": 9, "relpos": (0, 0.5)},
            )
    ax.set(xlabel="milliseconds per answer (batch 1, one thread)", ylabel="test errors of 10,000")
    ax.set_xlim(right=cost["latency_1_ms"].max() * 4)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter("{x:.0f}")
    ax.yaxis.set_minor_formatter("{x:.0f}")
    return canvas


def _column(latencies: pd.Series, gap: float = 1.5) -> pd.Series:
    """The number of the column that each latency is drawn in: a new one begins after a step by ``gap`` or more."""
    in_order = latencies.sort_values()
    return (in_order / in_order.shift() >= gap).cumsum()


def _spread(heights: list[float], ratio: float) -> list[float]:
    """Heights in rising order, moved apart to at least this ratio between neighbours, about where they were."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] * ratio) if placed else height)
    shift = math.prod(new / old for new, old in zip(placed, heights, strict=True)) ** (1 / len(heights))
    return [height / shift for height in placed]


def calibration(runs: pd.DataFrame, *, method: Selection) -> Interval:
    """How much smaller the ECE of a recipe is than that of the best single member, in percentage points."""
    return improvement(runs.assign(ece=100 * runs["ece"]), "ece", method=method, baseline=BEST_SINGLE)


def _distilled(network: str, teacher: str, *, unlabelled: bool = False) -> Selection:
    return {"method": "distilled", "network": network, "teacher": teacher, "unlabelled": unlabelled}


def _load(*, fast: bool) -> Data:
    """The course's data, without a teacher: the members are the teachers here. Few images if ``fast``."""
    return at_most(300, load_data()) if fast else load_data()


# fmt: off
CLAIMS = (
    saves_errors("ensemble_teaches_better_than_best", _distilled("StudentNet", "ensemble"),
        _distilled("StudentNet", "best single"),
        "A student of the ensemble makes fewer errors than a student of its best member."),
    saves_errors("ensemble_beats_best", SIMPLE, BEST_SINGLE,
        "The mean of four architectures makes fewer errors than the best of them."),
    saves_errors("weights_help_ensemble", WEIGHTED, SIMPLE,
        "Weights fitted on validation make the ensemble better."),
    saves_errors("architectures_beat_seeds", SIMPLE, FOUR_SEEDS,
        "Different architectures make a better ensemble than four seeds of one (StudentNet)."),
    Claim(key="simple_ensemble_is_calibrated", evidence=partial(calibration, method=SIMPLE),
        claim="The simple mean of four architectures is better calibrated than their best.",
        unit="percentage points of ECE saved"),
    Claim(key="weighted_ensemble_is_calibrated", evidence=partial(calibration, method=WEIGHTED),
        claim="The weighted ensemble is better calibrated than the best member.",
        unit="percentage points of ECE saved"),
    saves_errors("better_ensemble_is_better_teacher", _distilled("StudentNet", "four seeds"),
        _distilled("StudentNet", "ensemble"),
        "The better ensemble is the better teacher: four seeds against four architectures."),
    saves_errors("ensemble_student_beats_scratch", _distilled("StudentNet", "ensemble"),
        {"method": "scratch", "network": "StudentNet"},
        "A student of the ensemble makes fewer errors than one from scratch."),
    saves_errors("ensemble_student_beats_scratch_small", _distilled("small", "ensemble"),
        {"method": "scratch", "network": "small"},
        "A small student of the ensemble makes fewer errors than one from scratch."),
    saves_errors("ensemble_teaches_better_than_best_small", _distilled("small", "ensemble"),
        _distilled("small", "best single"),
        "A small student learns more from the ensemble than from its best member."),
    saves_errors("student_matches_ensemble", _distilled("StudentNet", "ensemble"), SIMPLE,
        "A student is as good as the ensemble it learned from, or better.",
        unit="test errors saved against the simple ensemble"),
    saves_errors("unlabelled_beats_labelled_small", _distilled("small", "ensemble", unlabelled=True),
        _distilled("small", "ensemble"),
        f"{UNLABELLED:,} images without labels teach a small student more than {LABELS:,} with labels."),
    saves_errors("larger_student_is_better", _distilled("StudentNet", "ensemble"), _distilled("small", "ensemble"),
        "A larger student is worth it: StudentNet against an MLP with 64 hidden units, both of the ensemble."),
)
# fmt: on


def study(*, fast: bool = False) -> Study:
    """The study; see :class:`~kd_course.studies.Study`.

    Args:
        fast: token trainings.
    """
    budget = {"labels": 100, "seen": 200} if fast else {"labels": LABELS, "seen": SEEN}
    on_labels = {"images": budget["labels"], "temperature": TEMPERATURE, "alpha": ALPHA, **budget}
    on_more = {"images": 200 if fast else UNLABELLED, "temperature": TEMPERATURE, "alpha": 1.0, **budget}
    nothing = dict.fromkeys(COLUMNS, "") | {"unlabelled": False}

    def mean(members: str, average: str, one: str) -> Arm:
        recipe = partial(ensemble, one=one, weighted=average == "weighted", **budget)
        return Arm(recipe, nothing | {"method": "ensemble", "members": members, "average": average})

    def learner(network: str, teacher: str, *, unlabelled: bool = False) -> Arm:
        recipe = partial(student, network=network, teacher=teacher, **(on_more if unlabelled else on_labels))
        method = "distilled" if teacher else "scratch"
        return Arm(
            recipe,
            nothing | {"method": method, "network": network, "teacher": teacher, "unlabelled": unlabelled},
        )

    arms = {
        "best single": Arm(partial(best_single, **budget), nothing | BEST_SINGLE),
        "simple ensemble": mean("architectures", "simple", ""),
        "weighted ensemble": mean("architectures", "weighted", ""),
        "ensemble of four seeds": mean("seeds", "simple", "StudentNet"),
    }
    for size, network in (("", "StudentNet"), ("small ", "small")):
        arms |= {
            f"{size}student from scratch": learner(network, ""),
            f"{size}student from best single": learner(network, "best single"),
            f"{size}student from ensemble": learner(network, "ensemble"),
            f"{size}student from ensemble, unlabelled images": learner(network, "ensemble", unlabelled=True),
        }
    arms["student from four seeds"] = learner("StudentNet", "four seeds")
    return Study(
        question="What do many networks give, and how much of it can one student keep, at which cost?",
        load=partial(_load, fast=fast),
        arms=arms,
        table=table,
        figure=figure,
        claims=CLAIMS,
        limitations=(
            "How unequal the members are: here one of the four is far better than the rest, which hurts a simple mean "
            "and helps a weighted one. The number of labels: with all of MNIST the members make hardly any errors. The "
            "budget: every training saw 60,000 images, and longer training helps some networks more than others. T, α "
            "and the learning rates were chosen with one seed. Latencies belong to one thread of one machine."
        ),
    )
