"""What is written about the studies is what their result files say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results"


@pytest.fixture(scope="module")
def report(tool: Callable[[str], ModuleType]) -> ModuleType:
    """``tools/report.py``, which is no part of the package."""
    return tool("report")


def test_the_page_on_the_results_is_what_make_report_writes(report: ModuleType) -> None:
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == report.report(), "run 'make report'"


def test_the_readme_says_what_make_report_writes(report: ModuleType) -> None:
    _, section, _ = report.measured((ROOT / "README.md").read_text(encoding="utf-8"))
    assert section == report.summary(), "run 'make report'"


def test_every_headline_leads_to_one_claim(report: ModuleType) -> None:
    found = report.findings()
    for name, key in report.HEADLINES:
        assert [claim.key for claim in found[name].analysis.claims].count(key) == 1


def test_whatever_is_reported_has_its_picture(report: ModuleType) -> None:
    assert {path.stem for path in RESULTS.glob("*.png")} == set(report.findings())


def test_a_table_in_markdown(report: ModuleType) -> None:
    import pandas as pd

    table = pd.DataFrame({"x": ["1 ± 2"]}, index=["a"]).rename_axis("method")
    assert report.markdown(table) == "| method | x |\n| --- | --- |\n| a | 1 ± 2 |"
