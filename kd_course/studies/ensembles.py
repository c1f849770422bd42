"""Four networks, one answer, and what is left of it in one student: errors, calibration, time and memory of each.

Four architectures learn from the same 5,000 labelled images, drawn by the seed. They are asked one by one, averaged,
averaged with weights fitted on validation, and distilled into students of two sizes. Every training sees as many images
as every other, repeats counted, so that no entry wins by computing longer. The single best and the weights are chosen
on validation images; the test set is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course import studies
from kd_course.data import Batch, Data, Split, load_data
from kd_course.ensembles import Ensemble, average_probabilities, fit_weights, member_logits
from kd_course.evaluation import Interval, errors, latency, mean_interval, measure, paired_difference, size_bytes
from kd_course.inference import freeze, predict
from kd_course.losses import kd_loss
from kd_course.models import MixerNet, SeparableNet, StudentNet, count_parameters, mlp
from kd_course.plots import COLOURS, MARKERS
from kd_course.runtime import seeded
from kd_course.studies._study import Claim, Study, gain
from kd_course.training import Objective, cosine, fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    # name: (how to build it, its learning rate, chosen on validation images)
    "MLP": (partial(mlp, 200), 2e-3),
    "StudentNet": (StudentNet, 5e-3),
    "SeparableNet": (SeparableNet, 1e-2),
    "MixerNet": (MixerNet, 2e-3),
    "small": (partial(mlp, 64), 5e-3),
}
ARCHITECTURES = ("MLP", "StudentNet", "SeparableNet", "MixerNet")
STUDENT_SEED = 500  # a student never starts where the member of its architecture started


@lru_cache(maxsize=16)
def _labelled(data: Data, draw: int, seed: int, network: str, labels: int, seen: int) -> tuple[nn.Module, float]:
    """A network trained on the ``labels`` images that ``draw`` stands for, frozen, and the seconds it took."""

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch.images), batch.labels)

    return _train(network, objective, data.train.take(labels, seed=draw), seed=seed, seen=seen)


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


def _numbers(network: nn.Module, data: Data, seconds: float) -> Mapping[str, float]:
    """Quality on test, cost in time and memory; latencies on one thread, median and interquartile range."""
    alone = latency(network, batch_size=1)
    together = latency(network, batch_size=256, repeats=15, warm_up=3)
    return measure(predict(network, data.test), data.test) | {
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
    return _numbers(_best(members, data), data, seconds)


def ensemble(data: Data, seed: int, *, one: str, weighted: bool, labels: int, seen: int) -> Mapping[str, float]:
    """The mean of the members' probabilities, simple or with weights fitted on validation."""
    members, seconds = _members(data, seed, labels, seen, one=one)
    weights = fit_weights(member_logits(members, data.validation), data.validation.labels) if weighted else None
    return _numbers(Ensemble(members, weights), data, seconds)


def student(
    data: Data, seed: int, *, network: str, teacher: str, images: int, temperature: float, alpha: float, labels: int,
    seen: int,
) -> Mapping[str, float]:  # fmt: skip
    """One student: from scratch (``teacher`` = ""), of the ``"best single"`` or of the ``"ensemble"``.

    It sees ``images`` images: the labelled ones if there are as many, else those and more, whose labels are hidden.
    """
    if not teacher:
        return _numbers(*_reordered(_labelled(data, seed, seed + STUDENT_SEED, network, labels, seen), data))
    members, seconds = _members(data, seed, labels, seen)
    asked = members if teacher == "ensemble" else [_best(members, data)]
    train = data.train.take(min(images, len(data.train)), seed=seed)  # a larger draw contains the smaller one
    if images > labels:
        train = replace(train, labels=torch.full_like(train.labels, -1))  # no loss can use them
    train = train.with_teacher(average_probabilities(member_logits(asked, train), temperature=temperature))

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch.images)
        if alpha == 1:
            return soft_target_loss(logits, batch.teacher_logits, temperature=temperature)
        return kd_loss(logits, batch.teacher_logits, batch.labels, temperature=temperature, alpha=alpha)

    model, own = _train(network, objective, train, seed=seed + STUDENT_SEED, seen=seen)
    return _numbers(model, data, seconds + own)
