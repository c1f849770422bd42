"""Every method of the course, alone and added to Hinton's distillation, on one budget.

300 labelled images drawn by the seed, 600 steps, five seeds or more. Each entry has three trials on the same images,
and the one with the fewest validation errors is measured on the test set: the student from scratch tries three learning
rates, distillation three temperatures, every other method three weights around its reference default. So all are tuned
with the same effort, and all have the same luck of the best of three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from kd_course import losses
from kd_course.comparison import league
from kd_course.data import Batch, Data, Split
from kd_course.evaluation import errors, evaluate_logits, holm
from kd_course.inference import predict, predict_features
from kd_course.models import StudentNet
from kd_course.plots import COLOURS, MARKERS
from kd_course.runtime import seeded
from kd_course.studies._claims import improvement, saves_errors
from kd_course.studies._study import Arm, Study, load_with_teacher
from kd_course.teachers import load_teacher
from kd_course.training import cosine, fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Term = Callable[[Mapping[str, Tensor], Batch, nn.Module | None], Tensor]

TRIALS = {"rate": (2e-3, 5e-3, 1e-2), "temperature": (8, 16, 32), "weight": (0.1, 1, 10), "share": (0.1, 0.25, 0.5)}
RATE, TEMPERATURE, ALPHA = 2e-3, 8, 0.9  # where they are not on trial
WIDTHS = {"student": 64, "teacher": 512}  # of the embeddings


def _on(stage: str, loss: Callable[..., Tensor], **options: float) -> Term:
    """The term that compares student and teacher at one stage."""
    return lambda features, batch, helper: loss(features[stage], batch.teacher_features[stage], **options)


def _hint(features: Mapping[str, Tensor], batch: Batch, regressor: nn.Module) -> Tensor:
    return F.mse_loss(regressor(features["stage2"]), batch.teacher_features["stage2"])


def _attention(features: Mapping[str, Tensor], batch: Batch, helper: nn.Module | None) -> Tensor:
    stages = ("stage1", "stage2")
    return losses.attention_transfer_loss(
        [features[stage] for stage in stages], [batch.teacher_features[stage] for stage in stages]
    )


def _info_nce(features: Mapping[str, Tensor], batch: Batch, projection: nn.Module) -> Tensor:
    return losses.info_nce_loss(projection(features["embedding"]), batch.teacher_features["embedding"], temperature=0.1)


def _crd(features: Mapping[str, Tensor], batch: Batch, crd: nn.Module) -> Tensor:
    return crd(features["embedding"], batch.teacher_features["embedding"], batch.indices)


def _rkd(features: Mapping[str, Tensor], batch: Batch, helper: nn.Module | None) -> Tensor:
    pair = features["embedding"], batch.teacher_features["embedding"]
    return losses.rkd_distance_loss(*pair) + 2 * losses.rkd_angle_loss(*pair)


def _dkd(features: Mapping[str, Tensor], batch: Batch, helper: nn.Module | None) -> Tensor:
    pair = features["classifier"], batch.teacher_logits
    return losses.dkd_loss(*pair, batch.labels, alpha=1, beta=8, temperature=4)


def _standardized(features: Mapping[str, Tensor], batch: Batch, helper: nn.Module | None) -> Tensor:
    pair = (losses.standardize_logits(logits) for logits in (features["classifier"], batch.teacher_logits))
    return losses.soft_target_loss(*pair, temperature=2)


def _logits(loss: Callable[..., Tensor], **options: float) -> Term:
    return lambda features, batch, helper: loss(features["classifier"], batch.teacher_logits, **options)


def _regressor(train_indices: Tensor) -> nn.Module:
    return losses.HintRegressor((32, 7, 7), (128, 7, 7))


def _projection(train_indices: Tensor) -> nn.Module:
    return losses.HintRegressor((WIDTHS["student"],), (WIDTHS["teacher"],))


def _bank(train_indices: Tensor) -> nn.Module:
    return losses.CRDLoss(*WIDTHS.values(), train_indices, negatives=128)


TWO_STAGES = "hints, two stages"
METHODS: dict[str, tuple[float, Term, Callable[[Tensor], nn.Module] | None]] = {
    # name: (reference weight; the trials are a tenth, once and ten times of it), the term, what it trains beside)
    "logit MSE": (0.01, _logits(losses.logit_mse_loss), None),
    "DKD": (1, _dkd, None),
    "DIST": (1, _logits(losses.dist_loss, beta=1, gamma=1, temperature=4), None),
    "standardised logits": (9, _standardized, None),
    "hints": (100, _hint, _regressor),
    TWO_STAGES: (1, _hint, _regressor),  # alone in its stage: on trial is the share of the steps, not the weight
    "attention transfer": (1_000, _attention, None),
    "InfoNCE": (1, _info_nce, _projection),
    "CRD": (0.8, _crd, _bank),
    "RKD distance": (25, _on("embedding", losses.rkd_distance_loss), None),
    "RKD angle": (50, _on("embedding", losses.rkd_angle_loss), None),
    "RKD both": (25, _rkd, None),
    "similarity preserving": (3_000, _on("stage2", losses.similarity_preserving_loss), None),
    "correlation congruence": (100, _on("embedding", losses.correlation_congruence_loss), None),
    "IRG": (0.01, _logits(losses.irg_loss), None),
    "PKT": (1_000, _on("embedding", losses.pkt_loss), None),
}
ON_LOGITS = ("logit MSE", "DKD", "DIST", "standardised logits")  # in the place of soft targets, so not beside them
FAMILIES = {
    "response": {
        "logit MSE": "logit_mse",
        "DKD": "dkd",
        "DIST": "dist",
        "standardised logits": "standardised_logits",
    },
    "feature": {
        "hints": "hints",
        TWO_STAGES: "hints_two_stages",
        "attention transfer": "attention_transfer",
        "InfoNCE": "info_nce",
        "CRD": "crd",
    },
    "relation": {
        "RKD distance": "rkd_distance",
        "RKD angle": "rkd_angle",
        "RKD both": "rkd_both",
        "similarity preserving": "similarity_preserving",
        "correlation congruence": "correlation_congruence",
        "IRG": "irg",
        "PKT": "pkt",
    },
}
"""The methods of each family, and what the keys of their claims begin with."""
KD, SCRATCH = {"method": "KD"}, {"method": "scratch"}


def entry(
    data: Data, seed: int, *, method: str, with_kd: bool, trials: Sequence[float], labels: int, steps: int
) -> Mapping[str, float]:
    """One entry of the league: the best of its trials by validation errors, measured on the test set."""
    train = data.train.sample(labels, seed=seed)
    stages = ["stage1", "stage2", "embedding"]
    train = train.with_features(predict_features(load_teacher(data), train, stages))
    found = []
    for trial in trials:
        network = _train(train, seed, data.classes, method=method, with_kd=with_kd, trial=trial, steps=steps)
        found.append((errors(predict(network, data.validation), data.validation.labels), trial, network))
    validation, chosen, network = min(found, key=lambda each: each[0])
    return evaluate_logits(predict(network, data.test), data.test) | {"validation_errors": validation, "chosen": chosen}


def _train(train: Split, seed: int, classes: int, *, method: str, with_kd: bool, trial: float, steps: int) -> nn.Module:
    """One trial: a StudentNet trained by ``method``, with or without soft targets beside it."""
    reference, term, make = METHODS.get(method, (0, None, None))
    two_stages = method == TWO_STAGES
    weight = reference if two_stages else reference * trial
    temperature = trial if method == "KD" else TEMPERATURE
    rate = trial if method == "scratch" else RATE

    def objective(model: nn.ModuleDict, batch: Batch) -> Tensor:
        features = model["student"](batch.images)
        first = two_stages and batch.progress < trial
        guided = term and (first or not two_stages)
        extra = weight * term(features, batch, model["helper"] if make else None) if guided else 0
        if first:
            return extra  # the first steps teach the guided layers alone, the others the whole student, without hints
        if with_kd:
            pair = features["classifier"], batch.teacher_logits
            return losses.kd_loss(*pair, batch.labels, temperature=temperature, alpha=ALPHA) + extra
        return F.cross_entropy(features["classifier"], batch.labels) + extra

    with seeded(seed):
        network = StudentNet(classes)
    nodes = ["stage1", "stage2", "embedding", "classifier"]
    model = nn.ModuleDict({"student": create_feature_extractor(network, nodes)})  # shares the network's weights
    if make:
        model["helper"] = make(train.indices)
    fit(
        model,
        objective,
        train,
        epochs=max(1, round(steps / -(-len(train) // 32))),
        batch_size=32,
        seed=seed,
        optimizer=partial(torch.optim.Adam, lr=rate),
        schedule=cosine,
        progress=False,
    )
    return network


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Test errors of every entry, errors saved against scratch and against KD, and what survives Holm's correction."""
    import pandas as pd
    from scipy.stats import ttest_rel

    against_scratch, against_kd = (league(runs, "errors", baseline=name) for name in ("scratch", "KD"))
    by_recipe = runs.pivot(index="seed", columns="recipe", values="errors")
    corrected = {}
    for baseline in ("scratch", "KD"):
        others = [name for name in by_recipe if name != baseline]
        p_values = ttest_rel(by_recipe[others], by_recipe[[baseline]]).pvalue
        p_values[np.isnan(p_values)] = 1.0  # equal in every seed
        corrected[baseline] = dict(zip(others, holm(p_values.tolist()), strict=True))
    rows = {}
    for name in against_scratch.index:
        rows[name] = {"test errors": f"{against_scratch.loc[name, 'mean']:.0f} ± {against_scratch.loc[name, '±']:.0f}"}
        for baseline, compared in (("scratch", against_scratch), ("KD", against_kd)):
            line = compared.loc[name]
            half = (line["high"] - line["low"]) / 2
            saved = "" if name == baseline else f"{-line['difference']:+.0f} ± {half:.0f}"
            rows[name][f"saved against {baseline}"] = saved
            survives = corrected[baseline].get(name, 1) < 0.05
            rows[name][f"survives Holm ({baseline})"] = "yes" if survives else "" if name == baseline else "no"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def figure(runs: pd.DataFrame) -> Figure:
    """Errors saved against scratch, paired by seed: each method alone and with KD, with 95 % intervals."""
    import matplotlib.pyplot as plt

    names = ["KD", *METHODS]
    saved = {  # by method, and whether it is added to KD
        (name, with_kd and name != "KD"): improvement(
            runs, "errors", method={"method": name, "with_kd": with_kd}, baseline=SCRATCH
        )
        for name, with_kd in set(zip(runs["method"], runs["with_kd"], strict=True))
    }
    canvas, ax = plt.subplots(figsize=(9, 7))
    for offset, role, added, label in (
        (-0.18, "scratch", False, "alone"),
        (0.18, "distilled", True, "added to KD"),
    ):
        places = [place for place, name in enumerate(names) if (name, added) in saved]
        cells = [saved[names[place], added] for place in places]
        ax.errorbar(
            [cell.mean for cell in cells],
            [place + offset for place in places],
            xerr=[cell.half_width for cell in cells],
            linestyle="",
            color=COLOURS[role],
            marker=MARKERS[role],
            capsize=3,
            label=label,
        )
    ax.axvline(0, color="black", linewidth=1)
    ax.axvline(saved["KD", False].mean, color=COLOURS["teacher"], linestyle=":", label="KD")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("test errors of 10,000 saved against scratch (right is better)")
    ax.legend(loc="lower left")
    return canvas


# fmt: off
CLAIMS = (
    *(saves_errors(f"{key}_beats_kd", {"method": name, "with_kd": False}, KD,
        f"{name}, 300 labels: alone it makes fewer errors than Hinton's distillation.",
        unit="test errors saved against KD", family=family)
      for family, methods in FAMILIES.items() for name, key in methods.items()),
    *(saves_errors(f"{key}_adds_to_kd", {"method": name, "with_kd": True}, KD,
        f"{name}, 300 labels: added to Hinton's distillation it makes fewer errors than distillation alone.",
        unit="test errors saved against KD", family=family)
      for family, methods in FAMILIES.items() for name, key in methods.items() if name not in ON_LOGITS),
)
# fmt: on


def study(*, fast: bool = False) -> Study:
    """The study; see :class:`~kd_course.studies.Study`.

    Args:
        fast: token trainings.
    """
    budget = {"labels": 300, "steps": 10 if fast else 600}
    few = slice(1) if fast else slice(None)

    def arm(method: str, family: str, trials: str, *, with_kd: bool) -> Arm:
        columns = {"method": method, "with_kd": with_kd}
        return Arm(partial(entry, **columns, trials=TRIALS[trials][few], **budget), {"family": family, **columns})

    arms = {
        "scratch": arm("scratch", "baseline", "rate", with_kd=False),
        "KD": arm("KD", "baseline", "temperature", with_kd=True),
    }
    for family, methods in FAMILIES.items():
        for name in methods:
            trials = "share" if name == TWO_STAGES else "weight"
            arms[name] = arm(name, family, trials, with_kd=False)
            if name not in ON_LOGITS:
                arms[f"{name} + KD"] = arm(name, family, trials, with_kd=True)
    return Study(
        question="Which method helps a small student most, alone and added to distillation, on one budget?",
        load=partial(load_with_teacher, teacher="cnn", fast=fast),
        arms=arms,
        table=table,
        figure=figure,
        claims=CLAIMS,
        limitations=(
            "The regime: 300 images, 600 steps, one pair of networks, digits. The published tables come from "
            "CIFAR-100 and ImageNet, with all labels and hundreds of epochs. More trials per method might find "
            "weights that three did not: where the largest of the three was chosen in most seeds (`chosen` in the "
            "result file), a larger one might be better. A method with several hyper-parameters (CRD, DKD, IRG) had "
            "only one of them tuned; the learning rate was tuned for scratch alone, T for KD alone, and the KD beside "
            "a method had T = 8. The teacher saw 55,000 labels, so every method here is also a way to pass on what "
            "they taught it."
        ),
    )
