"""Nothing is read out of a name or a sentence: studies, report and notebooks select by columns and by keys.

The limit of these tests: they read programs and know no types. They see the usual methods that look into a string, and
``word in name`` and ``name[:3]`` where the variable has one of the :data:`NAMES`. They do not see one letter
(``name[0]``), slices or ``in`` of an attribute (``claim.claim[:3]``) or a call, nor a string in any other variable.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = [*sorted((ROOT / "kd_course" / "studies").glob("*.py")), ROOT / "tools" / "report.py"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
READERS = {
    *("startswith", "endswith", "removeprefix", "removesuffix", "contains", "match", "fullmatch", "search", "find"),
    *("rfind", "index", "rindex", "extract", "findall", "count", "split", "rsplit", "partition", "rpartition"),
    *("replace", "translate", "filter", "query", "eval"),
}
"""Methods that look into a string, of a plain one or of a column; and those that take a query as one."""
NAMES = {"name", "recipe", "key", "label", "title", "claim", "sentence", "text"}
"""Variables that hold a name or a sentence, wherever they occur."""
ALLOWED = {("report.py", "index"): 2, ("report.py", "slice"): 3}
"""What has nothing to do with names: the marks in the README between which the report writes."""


def called_a_name(node: ast.AST) -> bool:
    """Whether this is a variable that holds a name or a sentence."""
    return isinstance(node, ast.Name) and node.id in NAMES


def offences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Where a program looks into a string: the line, and how."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
            if {"re", "regex", "fnmatch"} & set(names):
                yield node.lineno, "import re"
        elif isinstance(node, ast.Attribute) and node.attr == "str":
            yield node.lineno, "str"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READERS:
            yield node.lineno, node.func.attr
        elif isinstance(node, ast.keyword) and node.arg in ("regex", "like"):
            yield node.value.lineno, node.arg
        elif isinstance(node, ast.Compare) and isinstance(getattr(node.left, "value", None), str):  # "scratch" in name
            yield from ((node.lineno, "in") for operator in node.ops if isinstance(operator, ast.In | ast.NotIn))
        elif isinstance(node, ast.Compare):  # word in name
            pairs = zip(node.ops, node.comparators, strict=True)
            inside = [place for operator, place in pairs if isinstance(operator, ast.In | ast.NotIn)]
            yield from ((node.lineno, "in") for place in inside if called_a_name(place))
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and called_a_name(node.value):
            yield node.lineno, "slice"  # name[:3]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_studies_and_report_read_no_names(path: Path):
    found = Counter(how for _, how in offences(ast.parse(path.read_text(encoding="utf-8"))))
    allowed = Counter({how: count for (name, how), count in ALLOWED.items() if name == path.name})
    assert found == allowed, f"{path.name} looks into a string; select by a column or a key"


def study_cells(path: Path) -> list[tuple[int, ast.AST]]:
    """The cells that read studies: those that name the annex, or what such a cell has assigned."""
    cells, known = [], {"studies", "decision_guide", "hyperparameter_guide"}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse(re.sub(r"^( *)[%!].*$", r"\1pass", "".join(cell["source"]), flags=re.MULTILINE))
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        if known & {name.id for name in names if isinstance(name.ctx, ast.Load)}:
            known |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
            cells.append((number, tree))
    return cells


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_read_no_names_of_studies(path: Path):
    found = {number: how for number, tree in study_cells(path) if (how := list(offences(tree)))}
    assert not found, f"{path.name} looks into a string; select by a column or a key"


def test_the_notebooks_that_show_studies_are_seen():
    assert {path.stem[:2] for path in NOTEBOOKS if study_cells(path)} >= {"03", "04", "05", "06"}


@pytest.mark.parametrize(
    "line",
    [
        "import re",
        "from re import match",
        'runs[runs["recipe"].str.match("KD")]',
        'runs["recipe"].str[:2]',
        'claim.claim.startswith("The temperature")',
        'runs.query("recipe == @name")',
        '"scratch" in name',
        '"±" not in found',
        'runs.filter(like="latency")',
        'name.split(" ")[0]',
        "word in name",
        "word not in recipe",
        "name[:3]",
        "label[-5:]",
        'way.replace("errors", "errors_on_missing")',
    ],
)
def test_a_look_into_a_string_is_seen(line: str):
    assert list(offences(ast.parse(line)))


@pytest.mark.parametrize(
    "line", ['runs[runs["method"] == "KD"]', "name in names", 'select(runs, {"labels": 300})', "axes[1:]"]
)
def test_a_selection_by_columns_is_none(line: str):
    assert not list(offences(ast.parse(line)))
