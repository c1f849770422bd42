"""What the studies found, from their result files: figures, ``data/results/README.md``, a section of the README.

``make report`` does it; a test fails where a committed text is not what this file would write today.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from kd_course.studies import fidelity, plots, studies

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results"
README = ROOT / "README.md"
BETWEEN = re.compile(r"(<!-- measured -->\n).*?(<!-- /measured -->)", re.DOTALL)
HEADLINES = {"hinton": 3, "patience": 2, "pair": 3, "omitted": 1, "league": 0, "multi_teacher": 2, "fidelity": 0}
"""How many claims of each study, the first ones, stand in the README."""
HEAD = "| Often said | We measured | Seeds | Verdict |\n|---|---|---|---|"


def main() -> None:
    """Draw every figure and write both texts."""
    import matplotlib.pyplot as plt

    plots.use_course_style()
    for name, (reading, runs, _) in readings().items():
        figure = reading.figure(runs)
        figure.savefig(RESULTS / f"{name}.png", dpi=100, metadata={"Software": None})
        plt.close(figure)
    (RESULTS / "README.md").write_text(report(), encoding="utf-8")
    README.write_text(BETWEEN.sub(lambda found: found[1] + summary() + found[2], read(README)), encoding="utf-8")


def finished() -> list[str]:
    """The studies whose result file is there."""
    return [name for name in studies.STUDIES if (RESULTS / f"{name}.json").is_file()]


def readings() -> dict[str, tuple[studies.Reading, pd.DataFrame, str]]:
    """By name: how to read the runs, the runs, and where they come from; of fidelity only when its studies are done."""
    found = {name: (studies.study(name), studies.results(name), origin(name)) for name in finished()}
    read_again = dict.fromkeys(name for name, _ in fidelity.REGIMES.values())
    if set(read_again) <= set(found):
        runs = fidelity.runs()
        found["fidelity"] = (fidelity.reading(), runs, f"{len(runs)} runs of {', '.join(read_again)}, read again.")
    return found


def origin(name: str) -> str:
    """The command, the number of runs, the time and the versions behind a study's numbers."""
    header = studies.about(name)
    return (
        f"`{header['command']}`: {len(studies.results(name))} runs, {len(header['seeds'])} seeds, "
        f"{header['seconds'] / 60:.0f} minutes on one core; torch {header['versions']['torch']}; {header['data']}."
    )


def report() -> str:
    """The whole of what was measured: every study with its table, its claims and what would change the conclusion."""
    parts = [
        "# What we measured\n\n"
        "Written by `make report` from the JSON files in this folder; a test fails if they disagree. Each file names\n"
        "the command that makes it again. A claim is *supported* or *refuted* where the 95 % interval of the paired\n"
        "difference leaves out 0, and *not told apart from chance* where it does not. `±` is half of that interval.\n"
        "Each verdict looks at its own claim alone. Where many claims are tested together, as in the league, some\n"
        "intervals leave out 0 by luck; there the columns *survives Holm* take all comparisons with one baseline\n"
        "together. Where verdict and column disagree, go by the column.\n"
    ]
    for name, (reading, runs, whence) in readings().items():
        described = reading.figure.__doc__.splitlines()[0]
        parts.append(
            f"## {reading.question}\n\n"
            f"{whence}\n\n"
            f"![{described}]({name}.png)\n\n"
            f"{described}\n\n"
            f"The table: {reading.table.__doc__.splitlines()[0]}\n\n"
            f"{markdown(reading.table(runs))}\n\n"
            f"{claims(reading, runs)}\n\n"
            f"**What would change the conclusion.** {reading.would_change}\n"
        )
    return "\n".join(parts)


def summary() -> str:
    """The short section of the README: one figure, one table."""
    found = readings()
    rows = [
        line
        for name, (reading, runs, _) in found.items()
        for line in lines(studies.verdicts(reading, runs).head(HEADLINES[name]))
    ]
    shown = next(name for name in ("pair", "hinton", "multi_teacher") if name in found)
    described = found[shown][0].figure.__doc__.splitlines()[0]
    return (
        f"![{described}](data/results/{shown}.png)\n\n*{described}*\n\n"
        f"{HEAD}\n" + "\n".join(rows) + "\n\n"
        "Every number with its seeds, its command and what would change it: [data/results](data/results/README.md).\n"
    )


def claims(reading: studies.Reading, runs: pd.DataFrame) -> str:
    """The table of claims and verdicts, those refuted once more in a sentence."""
    found = studies.verdicts(reading, runs)
    refuted = " ".join(f"*{said}*" for said in found.query("verdict == 'refuted'")["said"])
    return "\n".join([HEAD, *lines(found), "", f"**Refuted here:** {refuted or 'none of these claims.'}"])


def lines(verdicts: pd.DataFrame) -> list[str]:
    """One row of Markdown per claim."""
    return [f"| {row.said} | {row.found} | {row.seeds} | {row.verdict} |" for row in verdicts.itertuples()]


def markdown(table: pd.DataFrame) -> str:
    """A table of strings in Markdown, with its index as the first column."""
    table = table.reset_index().astype(str)
    rows = [list(table.columns), ["---"] * len(table.columns), *table.values.tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def read(path: Path) -> str:
    """The text of a file."""
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
