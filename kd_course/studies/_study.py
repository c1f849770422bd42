"""What a study is: a question, the recipes that answer it, and what their numbers say about common claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kd_course.comparison import Recipe
from kd_course.data import Data, Split, load_data
from kd_course.evaluation import Interval, paired_difference
from kd_course.teachers import teacher_logits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Claim:
    """Something that is often said, and the measurement that speaks for it (above 0) or against it (below 0)."""

    said: str
    unit: str
    evidence: Callable[[pd.DataFrame], Interval]
    digits: int = 1

    def found(self, runs: pd.DataFrame) -> str:
        """The measurement in words: mean, half of the 95 % interval, unit."""
        return f"{self.evidence(runs):+.{self.digits}f} {self.unit}"

    def verdict(self, runs: pd.DataFrame) -> str:
        """``"supported"``, ``"refuted"``, or ``"not told apart from chance"`` where the 95 % interval holds 0."""
        interval = self.evidence(runs)
        if not interval.excludes_zero():
            return "not told apart from chance"
        return "supported" if interval.mean > 0 else "refuted"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What runs say about one question.

    Attributes:
        question: what is to be found out, in one sentence.
        table: the runs as a reader wants to see them.
        figure: the runs in one picture.
        claims: what is often said, each with the measurement behind its verdict.
        would_change: what would change the conclusion, in plain words.
    """

    question: str
    table: Callable[[pd.DataFrame], pd.DataFrame]
    figure: Callable[[pd.DataFrame], Figure]
    claims: tuple[Claim, ...]
    would_change: str


@dataclass(frozen=True, kw_only=True)
class Study(Reading):
    """One question, the trainings that answer it, and how to read them.

    Attributes:
        load: gives the data, with the teacher's logits where recipes want them.
        recipes: by name, for :func:`kd_course.comparison.compare`; plain options only, so that every run is remembered.
    """

    load: Callable[[], Data]
    recipes: Mapping[str, Recipe]


def with_answers(*, teacher: str, validation_size: int | None = None, fast: bool = False) -> Data:
    """The course's data with the answers of one of its teachers beside every image; few images if ``fast``."""
    data = load_data(validation_size=validation_size)
    parts = {}
    for name in ("train", "validation", "test"):
        split: Split = getattr(data, name)
        if fast and len(split) > 1_000:
            split = split.take(1_000, seed=0)
        parts[name] = split.with_teacher(teacher_logits(split, teacher)) if len(split) else split
    return replace(data, **parts)


def gain(runs: pd.DataFrame, metric: str, *, of: str, over: str) -> Interval:
    """How much smaller ``metric`` is with recipe ``of`` than with ``over``, paired by seed: positive is a gain."""
    by_seed = runs.pivot(index="seed", columns="recipe", values=metric)
    return paired_difference(by_seed[over], by_seed[of])
