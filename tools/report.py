"""What the studies found, from their result files: figures, ``data/results/README.md``, a section of the README.

``make report`` does it; a test fails where a committed text is not what this file would write today.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kd_course import plots, studies
from kd_course.studies import fidelity

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results"
README = ROOT / "README.md"
OPENING, CLOSING = "<!-- measured -->\n", "<!-- /measured -->"
HEADLINES = (
    ("hinton", "kd_beats_scratch_800"),
    ("hinton", "kd_saves_thirty_percent_800"),
    ("hinton", "student_matches_teacher_800"),
    ("omitted", "bias_by_validation_helps_no_3"),
    ("patience", "kd_speeds_up_learning"),
    ("patience", "kd_beats_scratch_after_80_epochs"),
    ("pair", "kd_beats_scratch_100"),
    ("pair", "kd_beats_scratch_300"),
    ("pair", "kd_beats_scratch_1000"),
    ("multi_teacher", "ensemble_teaches_better_than_best"),
    ("multi_teacher", "ensemble_beats_best"),
)
"""The claims that stand in the README: the study and the key."""
HEAD = "| Often said | We measured | Seeds | Verdict |\n|---|---|---|---|"


class Finding(NamedTuple):
    """An analysis, the runs it is about, and where these come from."""

    analysis: studies.Analysis
    runs: pd.DataFrame
    origin: str


def main() -> None:
    """Draw every figure and write both texts."""
    import matplotlib.pyplot as plt

    plots.use_course_style()
    for name, (analysis, runs, _) in findings().items():
        figure = analysis.figure(runs)
        figure.savefig(RESULTS / f"{name}.png", dpi=100, metadata={"Software": None})
        plt.close(figure)
    (RESULTS / "README.md").write_text(report(), encoding="utf-8")
    before, _, after = measured(README.read_text(encoding="utf-8"))
    README.write_text(before + summary() + after, encoding="utf-8")


def measured(text: str) -> tuple[str, str, str]:
    """The README in three parts: up to the mark where the measured section begins, the section, and the rest.

    Raises:
        ValueError: a mark is missing.
    """
    start, end = text.index(OPENING) + len(OPENING), text.index(CLOSING)
    return text[:start], text[start:end], text[end:]


def finished() -> list[str]:
    """The studies whose result file is there."""
    return [name for name in studies.STUDIES if (RESULTS / f"{name}.json").is_file()]


def findings() -> dict[str, Finding]:
    """Every analysis with its runs, by name; fidelity only when its studies are done."""
    found = {name: Finding(studies.study(name), studies.results(name), origin(name)) for name in finished()}
    sources = dict.fromkeys(regime.study for regime in fidelity.REGIMES.values())
    if set(sources) <= set(found):
        runs = fidelity.collect_runs()
        found["fidelity"] = Finding(fidelity.analysis(), runs, f"{len(runs)} runs of {', '.join(sources)}, read again.")
    return found


def origin(name: str) -> str:
    """The command, the number of runs, the time and the versions behind a study's numbers."""
    header = studies.about(name)
    return (
        f"`{header['command']}`: {len(studies.results(name))} runs, {len(header['seeds'])} seeds, "
        f"{header['seconds'] / 60:.0f} minutes on one core; torch {header['versions']['torch']}; {header['data']}."
    )


def report() -> str:
    """The whole of what was measured: every study with its table, its claims and its limitations."""
    parts = [
        "# What we measured\n\n"
        "Written by `make report` from the JSON files in this folder; a test fails if they disagree. Each file names\n"
        "the command that makes it again, and its runs carry what they are as columns. A claim is *supported* or\n"
        "*contradicted* where the 95 % interval of the paired difference excludes 0, and *inconclusive* where it\n"
        "includes 0. `±` is half of that interval. Each verdict looks at its own claim alone. Where many claims are\n"
        "tested together, as in the league, some intervals exclude 0 by luck; there the columns *survives Holm* take\n"
        "all comparisons with one baseline together. Where verdict and column disagree, trust the column.\n"
    ]
    for name, (analysis, runs, whence) in findings().items():
        described = analysis.figure.__doc__.splitlines()[0]
        parts.append(
            f"## {analysis.question}\n\n"
            f"{whence}\n\n"
            f"![{described}]({name}.png)\n\n"
            f"{described}\n\n"
            f"The table: {analysis.table.__doc__.splitlines()[0]}\n\n"
            f"{markdown(analysis.table(runs))}\n\n"
            f"{claims(analysis, runs)}\n\n"
            f"**Limitations.** {analysis.limitations}\n"
        )
    return "\n".join(parts)


def summary() -> str:
    """The short section of the README: one figure, one table."""
    found = findings()
    rows = []
    for name, key in HEADLINES:
        if name in found:
            verdicts = studies.verdicts(found[name].analysis, found[name].runs)
            rows += lines(verdicts[verdicts["key"] == key])
    shown = next(name for name in ("pair", "hinton", "multi_teacher") if name in found)
    described = found[shown].analysis.figure.__doc__.splitlines()[0]
    return (
        f"![{described}](data/results/{shown}.png)\n\n*{described}*\n\n"
        f"{HEAD}\n" + "\n".join(rows) + "\n\n"
        "Every number with its seeds, its command and its limitations: [data/results](data/results/README.md).\n"
    )


def claims(analysis: studies.Analysis, runs: pd.DataFrame) -> str:
    """The table of claims and verdicts, those contradicted once more in a sentence."""
    found = studies.verdicts(analysis, runs)
    contradicted = " ".join(f"*{claim}*" for claim in found[found["verdict"] == "contradicted"]["claim"])
    return "\n".join([HEAD, *lines(found), "", f"**Contradicted here:** {contradicted or 'none of these claims.'}"])


def lines(verdicts: pd.DataFrame) -> list[str]:
    """One row of Markdown per claim."""
    return [f"| {row.claim} | {row.estimate} | {row.seeds} | {row.verdict} |" for row in verdicts.itertuples()]


def markdown(table: pd.DataFrame) -> str:
    """A table of strings in Markdown, with its index as the first column."""
    table = table.reset_index().astype(str)
    rows = [list(table.columns), ["---"] * len(table.columns), *table.values.tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


if __name__ == "__main__":
    main()
