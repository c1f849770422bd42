"""Claims and their evidence: runs are chosen by their columns, claims by their keys, verdicts by an interval.

A table of runs has one row per run: ``recipe`` (a name for people), ``seed``, the columns that say what the recipe is
(``method``, ``labels``, ``temperature``, …), and the numbers that were measured. Nothing here reads a name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Number
from typing import TYPE_CHECKING

from kd_course import training
from kd_course.evaluation import Interval, paired_difference

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Plain = str | int | float | bool
Selection = Mapping[str, Plain]
"""Runs, chosen by their columns: ``{"width": 800, "temperature": 20}``."""


def select(runs: pd.DataFrame, columns: Selection) -> pd.DataFrame:
    """The runs that have these values in these columns.

    Args:
        runs: from :func:`kd_course.studies.results`.
        columns: names of columns with one value each; with none, all runs.

    Raises:
        TypeError: no table of runs, or no columns with their values.
        ValueError: a column that is not there, or values that no run has.

    >>> import pandas as pd
    >>> runs = pd.DataFrame({"method": ["KD", "scratch"], "labels": [300, 300], "errors": [5, 9]})
    >>> select(runs, {"method": "KD", "labels": 300})["errors"].tolist()
    [5]
    """
    if not hasattr(runs, "columns") or not isinstance(columns, Mapping):
        raise TypeError(
            f"a selection takes a table of runs and a dict of columns, not {_kind(runs)} and {_kind(columns)}"
        )
    if several := {name: value for name, value in columns.items() if not isinstance(value, Plain | Number)}:
        raise TypeError(f"a selection has one plain value for each column, not {several}")
    if missing := [name for name in columns if name not in runs]:
        raise ValueError(f"no column {missing} in these runs; there are: {list(runs)}")
    found = runs
    for name, value in columns.items():
        found = found[found[name] == value]
    if found.empty:
        raise ValueError(f"no run has {dict(columns)}")
    return found


BETTER = {**training.BETTER, **dict.fromkeys(("disagreement", "brier", "seconds"), "lower")}
"""Which is better, a lower or a higher number, in the metrics of the course."""


def _kind(value: object) -> str:
    return type(value).__name__


def by_seed(runs: pd.DataFrame, metric: str, columns: Selection) -> pd.Series:
    """The numbers of one recipe, in the order of their seeds.

    Args:
        runs: from :func:`kd_course.studies.results`.
        metric: the column of the numbers.
        columns: which recipe; see :data:`Selection`.

    Raises:
        ValueError: no such metric, or columns that belong to no recipe or to several.
    """
    found = select(runs, columns)
    if metric not in list(runs):
        raise ValueError(f"no column {metric!r} in these runs; there are: {list(runs)}")
    if found[metric].dtype.kind not in "biuf":
        raise ValueError(f"the column {metric!r} has no numbers, and cannot be a metric")
    if found["recipe"].nunique() > 1:
        raise ValueError(f"{dict(columns)} are the columns of several recipes: {sorted(set(found['recipe']))}")
    return found.set_index("seed")[metric].sort_index()


def paired(first: pd.Series, second: pd.Series) -> Interval:
    """Mean of ``first - second``, seed by seed, with its 95 % interval.

    Args:
        first: one number per seed, its index being the seeds, as from :func:`by_seed`.
        second: the same for what is subtracted.

    Raises:
        TypeError: no series.
        ValueError: the two have different seeds or other orders of them, a seed between two others is missing, or a
            seed has no number.
    """
    if not (hasattr(first, "sort_index") and hasattr(second, "sort_index")):
        raise TypeError(
            f"pairs are made of two series by seed, as from by_seed, not {_kind(first)} and {_kind(second)}"
        )
    seeds, others = list(first.index), list(second.index)
    if seeds != others:
        raise ValueError(f"pairs need the same seeds in the same order, not {seeds} and {others}")
    if seeds and sorted(seeds) != list(range(min(seeds), max(seeds) + 1)):
        raise ValueError(f"pairs need every seed from the first to the last once, not {seeds}")
    if missing := [seed for seed in seeds if math.isnan(first[seed]) or math.isnan(second[seed])]:
        raise ValueError(f"pairs need a number for every seed; the seeds {missing} have none")
    return paired_difference(first, second)


def improvement(
    runs: pd.DataFrame, metric: str, *, method: Selection, baseline: Selection, better: str | None = None
) -> Interval:
    """How much better ``metric`` is with one recipe than with another, paired by seed; positive is better.

    Args:
        runs: from :func:`kd_course.studies.results`.
        metric: the column of the numbers.
        method: the columns of one recipe.
        baseline: the columns of the other.
        better: "lower" or "higher"; if None, what :data:`BETTER` says of this metric.

    Raises:
        ValueError: a metric of which nobody says which way is better, columns of no recipe or of several, or two
            recipes that ran with different seeds.
    """
    if (better := better or BETTER.get(metric)) not in ("lower", "higher"):
        raise ValueError(f"say whether a lower or a higher {metric!r} is better, with better='lower' or 'higher'")
    method, baseline = by_seed(runs, metric, method), by_seed(runs, metric, baseline)
    return paired(baseline, method) if better == "lower" else paired(method, baseline)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A common claim, and the measurement that speaks for it (above 0) or against it (below 0).

    Attributes:
        key: a short name that stays when the sentence is reworded.
        claim: the sentence.
        evidence: the measurement.
        unit: what the measurement counts.
        digits: how many decimals it is shown with.
        family: the group it belongs to, where a study has groups of claims.
        wording: the measurement as a sentence, where "mean ± half the interval, unit" would be hard to read.
    """

    key: str
    claim: str
    evidence: Callable[[pd.DataFrame], Interval]
    unit: str = "test errors saved"
    digits: int = 1
    family: str = ""
    wording: Callable[[pd.DataFrame], str] | None = None

    def estimate(self, runs: pd.DataFrame | None) -> str:
        """The measurement in words: mean, half of the 95 % interval, unit; a dash without runs."""
        if runs is None:
            return "–"
        return self.wording(runs) if self.wording else f"{self.evidence(runs):+.{self.digits}f} {self.unit}"

    def seeds(self, runs: pd.DataFrame | None) -> int:
        """The number of seeds behind the measurement."""
        return 0 if runs is None else self.evidence(runs).n

    def verdict(self, runs: pd.DataFrame | None) -> str:
        """Supported, contradicted, inconclusive (the 95 % interval includes 0) or not measured (without runs)."""
        if runs is None:
            return "not measured"
        interval = self.evidence(runs)
        if not interval.excludes_zero():
            return "inconclusive"
        return "supported" if interval.mean > 0 else "contradicted"


def saves_errors(key: str, method: Selection, baseline: Selection, claim: str, **fields: object) -> Claim:
    """The claim that one recipe makes fewer test errors than another: a row of a table of claims.

    Args:
        key: see :class:`Claim`.
        method: the columns of the recipe that is said to be better.
        baseline: the columns of the other.
        claim: the sentence.
        **fields: other fields of :class:`Claim`.
    """
    evidence = partial(improvement, metric="errors", method=method, baseline=baseline)
    return Claim(key=key, claim=claim, evidence=evidence, **fields)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What runs say about one question.

    Attributes:
        question: what is to be found out, in one sentence.
        table: the runs as a reader wants to see them.
        figure: the runs in one picture.
        claims: common claims, each with the measurement behind its verdict.
        limitations: what would change the conclusion, in plain words.
    """

    question: str
    table: Callable[[pd.DataFrame], pd.DataFrame]
    figure: Callable[[pd.DataFrame], Figure]
    claims: tuple[Claim, ...]
    limitations: str

    def claim(self, key: str) -> Claim:
        """The claim with this key.

        Raises:
            KeyError: no claim has it.
        """
        claims = {claim.key: claim for claim in self.claims}
        if key not in claims:
            raise KeyError(f"no claim {key!r}; there are: {', '.join(claims)}")
        return claims[key]


def verdicts(analysis: Analysis, runs: pd.DataFrame | None, *, family: str | None = None) -> pd.DataFrame:
    """The claims of an analysis beside what was measured.

    Args:
        analysis: whose claims.
        runs: what was measured; None where nothing was.
        family: only the claims of this family; all of them if None.

    Returns:
        One row per claim: ``key``, ``claim``, ``estimate`` (mean ± half the 95 % interval), ``seeds``, ``verdict``.

    Raises:
        ValueError: no claim is of this family.
    """
    import pandas as pd

    if family is not None and family not in (families := {claim.family for claim in analysis.claims} - {""}):
        raise ValueError(f"no family {family!r} of claims; there are: {', '.join(sorted(families)) or 'none'}")
    rows = [
        {
            "key": claim.key,
            "claim": claim.claim,
            "estimate": claim.estimate(runs),
            "seeds": claim.seeds(runs),
            "verdict": claim.verdict(runs),
        }
        for claim in analysis.claims
        if family in (None, claim.family)
    ]
    return pd.DataFrame(rows)
