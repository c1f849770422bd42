"""The lint of the course: the form that every notebook promises, checked against what is stored in it.

A rule is a function that takes a lesson and yields its faults, one sentence each. The rules hold for every notebook,
and at the end of the file each of them is shown to notice a notebook that was broken on purpose.
"""

from __future__ import annotations

import ast
import copy
import json
import re
import tomllib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from contrast import contrast_with_white
from nbformat import NotebookNode

from kd_course.checks._exercise import Exercise

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SLUG = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")

BOOTSTRAP = f"""\
try:
    import kd_course
except ImportError:
    %pip install -q --no-deps "git+https://github.com/{SLUG}@main"
    import kd_course
"""
SECTIONS = ("Summary", "Claim and measurement", "Quiz", "Further reading")
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


@dataclass(frozen=True)
class Lesson:
    """A notebook with its place in the repository."""

    path: Path
    notebook: NotebookNode
    size: int
    checks: frozenset[str]  # the exercises of its module in kd_course.checks

    @classmethod
    def read(cls, path: Path) -> Lesson:
        module = import_module(f"kd_course.checks.notebook_{path.name[:2]}")
        checks = frozenset(name for name, value in vars(module).items() if isinstance(value, Exercise))
        return cls(path, nbformat.read(path, as_version=nbformat.NO_CONVERT), path.stat().st_size, checks)

    @property
    def number(self) -> str:
        return self.path.name[:2]

    @property
    def cells(self) -> list[NotebookNode]:
        return self.notebook.cells

    @property
    def code(self) -> list[NotebookNode]:
        """Code cells with something in them."""
        return [cell for cell in self.cells if cell.cell_type == "code" and cell.source.strip()]

    @property
    def flow(self) -> list[NotebookNode | str]:
        """The lesson as it is read: code cells, and markdown cut into pieces that begin at a heading."""
        pieces: list[NotebookNode | str] = []
        for cell in self.cells:
            if cell.cell_type == "markdown":
                pieces += re.split(r"^(?=#{1,6} )", "\n".join(unfenced(cell.source)), flags=re.MULTILINE)
            elif cell.source.strip():
                pieces.append(cell)
        return [piece for piece in pieces if piece]

    @property
    def headings(self) -> list[tuple[int, str]]:
        """Level and text of every heading, in order."""
        found = [re.match(r"(#{1,6}) +(.*)", piece) for piece in self.flow if isinstance(piece, str)]
        return [(len(heading[1]), heading[2].strip()) for heading in found if heading]

    def below(self, heading: str, levels: int) -> dict[str, list[NotebookNode | str]]:
        """What stands below each heading that matches, up to the next one of ``levels`` signs or fewer."""
        found: dict[str, list[NotebookNode | str]] = {}
        title = None
        for piece in self.flow:
            if isinstance(piece, str) and re.match(rf"#{{1,{levels}}} ", piece):
                first = piece.splitlines()[0].strip()
                title = first if re.fullmatch(heading, first) else None
                if title:
                    found[title] = []
            if title:
                found[title].append(piece)
        return found

    def section(self, title: str) -> list[NotebookNode | str]:
        return next(iter(self.below(f"## {title}", 2).values()), [])

    @property
    def exercises(self) -> dict[str, list[NotebookNode | str]]:
        return self.below(r"### Exercise \w+ · \S.*", 3)


def code_in(pieces: list[NotebookNode | str]) -> list[NotebookNode]:
    return [piece for piece in pieces if not isinstance(piece, str)]


def text_in(pieces: list[NotebookNode | str]) -> str:
    return "\n".join(piece for piece in pieces if isinstance(piece, str))


def unfenced(markdown: str) -> list[str]:
    """The lines that stand outside fenced code."""
    return re.sub(r"^(```+|~~~+).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL).splitlines()


def python(source: str) -> ast.Module:
    """The cell without its magics, parsed."""
    return ast.parse(re.sub(r"^( *)[%!].*$", r"\1pass", source, flags=re.MULTILINE))


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def first_line(cell: NotebookNode) -> str:
    return cell.source.strip().splitlines()[0]


def outputs(lesson: Lesson) -> Iterator[tuple[NotebookNode, NotebookNode]]:
    """Every cell with each of its outputs."""
    return ((cell, output) for cell in lesson.code for output in cell.outputs)


def written(output: NotebookNode) -> str:
    """All text of an output, without its pictures."""
    data = output.get("data", {})
    parts = [value for kind, value in data.items() if isinstance(value, str) and not kind.startswith("image/")]
    return "\n".join([output.get("text", ""), *parts])


def code_lines(cell: NotebookNode) -> int:
    """Lines that are neither empty nor a comment nor the bootstrap."""
    lines = cell.source.removeprefix(BOOTSTRAP).splitlines()
    return sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))


# --- the rules ------------------------------------------------------------------------------------------------------

Rule = Callable[[Lesson], Iterator[str]]
RULES: dict[str, Rule] = {}


def rule(check: Rule) -> Rule:
    RULES[check.__name__] = check
    return check


@rule
def is_a_valid_notebook(lesson: Lesson) -> Iterator[str]:
    try:
        nbformat.validate(lesson.notebook)
    except nbformat.ValidationError as error:
        yield str(error).splitlines()[0]


@rule
def ran_from_top_to_bottom(lesson: Lesson) -> Iterator[str]:
    """Without this, nbval has nothing to compare and passes in silence."""
    counts = [cell.execution_count for cell in lesson.code if "nbval-skip" not in tags(cell)]
    if not counts or counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}, not 1 to {len(counts)}; run 'make refresh'"


@rule
def has_no_errors_or_warnings(lesson: Lesson) -> Iterator[str]:
    for cell, output in outputs(lesson):
        if output.output_type == "error" or output.get("name") == "stderr":
            yield f"{output.get('ename', 'stderr')} in the output of {first_line(cell)!r}"


@rule
def opens_with_what_a_learner_wants_to_know(lesson: Lesson) -> Iterator[str]:
    first = lesson.cells[0].source
    path = f"notebooks/{lesson.path.name}"
    if not re.match(rf"# {lesson.number} · \S", first):
        yield f"the title must begin with '# {lesson.number} · '"
    for link in (
        f"](https://colab.research.google.com/github/{SLUG}/blob/main/{path})",
        f"](https://mybinder.org/v2/gh/{SLUG}/main?urlpath=lab/tree/{path})",
    ):
        if link not in first:
            yield f"no badge that leads to {link[2:-1]}"
    _, _, objectives = first.partition("You will be able to")
    objectives, _, rest = objectives.partition("Prerequisites")
    if len(re.findall(r"^[-*] \S", objectives, re.MULTILINE)) < 3:
        yield "fewer than three objectives between 'You will be able to' and 'Prerequisites'"
    for pattern in (r"\b\d+ minutes to teach\b", r"\b\d+ s to run\b"):
        if not re.search(pattern, rest):
            yield f"after the prerequisites nothing matches {pattern!r}"


@rule
def sets_itself_up(lesson: Lesson) -> Iterator[str]:
    second = lesson.cells[1]
    if second.cell_type != "code" or not second.source.startswith(BOOTSTRAP):
        yield "the second cell must begin with the bootstrap, word for word"
    for cell in lesson.code:
        if cell is not second and re.search(r"^\s*[%!]+ *(pip|conda|wget|curl|git)\b", cell.source, re.MULTILINE):
            yield f"{first_line(cell)!r} installs or downloads; only the second cell may"


@rule
def has_headings_in_order(lesson: Lesson) -> Iterator[str]:
    levels = [level for level, _ in lesson.headings]
    if levels.count(1) != 1 or levels[0] != 1:
        yield f"{levels.count(1)} headings of level 1; there must be one, at the top"
    for (above, _), (level, text) in zip(lesson.headings, lesson.headings[1:], strict=False):
        if level > above + 1:
            yield f"{text!r} has level {level} right below level {above}"


@rule
def has_short_cells(lesson: Lesson) -> Iterator[str]:
    for cell in lesson.code:
        if code_lines(cell) > 20 and "solution" not in tags(cell):
            yield f"{code_lines(cell)} lines of code in the cell {first_line(cell)!r}; 20 at most, about 15 are better"
        if any(len(line) > 120 for line in cell.source.splitlines()):
            yield f"a line of more than 120 characters in the cell {first_line(cell)!r}"


@rule
def has_exercises(lesson: Lesson) -> Iterator[str]:
    wanted = 2 if lesson.number == "00" else 4
    if len(lesson.exercises) < wanted:
        yield f"{len(lesson.exercises)} exercises '### Exercise N · title'; {wanted} at least"
    for title, pieces in lesson.exercises.items():
        cells = code_in(pieces)
        stubs = [cell for cell in cells if "solution" not in tags(cell) and is_stub(cell)]
        solutions = [cell for cell in cells if "solution" in tags(cell)]
        asked = [cell for cell in cells if "solution" not in tags(cell) and shown_checks(cell)]
        places = [cells.index(group[0]) for group in (stubs, asked, solutions) if group]
        if len(places) < 3 or places != sorted(set(places)):
            yield f"{title}: needs a stub that returns '...', then a check, then a cell tagged 'solution'"
        for check in asked:
            if not any("Not started" in written(output) for output in check.outputs):
                yield f"{title}: the stored output of {first_line(check)!r} does not say 'Not started'"
        names = {name for check in asked for name in shown_checks(check)}
        solved = {name for cell in solutions for name in re.findall(r"\bassert checks\.(\w+)\(", cell.source)}
        if names - solved:
            yield f"{title}: no solution asserts {sorted(names - solved)}"


def is_stub(cell: NotebookNode) -> bool:
    """Whether the cell holds a function whose last statement is ``return ...`` or ``...``."""
    last = [node.body[-1] for node in ast.walk(python(cell.source)) if isinstance(node, ast.FunctionDef)]
    values = [statement.value for statement in last if isinstance(statement, ast.Return | ast.Expr)]
    return any(isinstance(value, ast.Constant) and value.value is ... for value in values)


def shown_checks(cell: NotebookNode) -> list[str]:
    """The checks whose verdict the cell shows: ``checks.name(…)`` as a statement of its own."""
    calls = [node.value for node in python(cell.source).body if isinstance(node, ast.Expr)]
    return [found[1] for call in calls if (found := re.match(r"checks\.(\w+)\(", ast.unparse(call)))]


@rule
def uses_all_checks_of_its_own_and_no_others(lesson: Lesson) -> Iterator[str]:
    nodes = [node for cell in lesson.code for node in ast.walk(python(cell.source))]
    imports = {ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)}
    found = {text for text in imports if "checks" in text}
    wanted = f"from kd_course.checks import notebook_{lesson.number} as checks"
    if found != {wanted}:
        yield f"checks are imported by {sorted(found)}, not by {wanted!r} alone"
    shown = {name for cell in lesson.code for name in shown_checks(cell)}
    if unused := lesson.checks - shown:
        yield f"{sorted(unused)} of kd_course.checks.notebook_{lesson.number} are not used"
    if unknown := shown - lesson.checks:
        yield f"{sorted(unknown)} are no exercises of kd_course.checks.notebook_{lesson.number}"


@rule
def folds_its_solutions(lesson: Lesson) -> Iterator[str]:
    inside = [cell for pieces in lesson.exercises.values() for cell in code_in(pieces)]
    for cell in lesson.code:
        if "solution" in tags(cell) or cell.source.startswith("# Solution"):
            if "solution" not in tags(cell) or not cell.metadata.get("jupyter", {}).get("source_hidden"):
                yield f"{first_line(cell)!r} must be tagged 'solution' and have jupyter.source_hidden"
            if not cell.source.startswith("# Solution") or cell not in inside:
                yield f"{first_line(cell)!r} must begin with '# Solution' and stand in its exercise"


@rule
def has_hints(lesson: Lesson) -> Iterator[str]:
    for title, pieces in lesson.exercises.items():
        if text_in(pieces).count("<summary>Hint") < 2:
            yield f"{title}: fewer than two folded hints"


@rule
def asks_before_it_tells(lesson: Lesson) -> Iterator[str]:
    if not re.search(r"^\*\*Predict\.\*\* ", text_in(lesson.flow), re.MULTILINE):
        yield "no paragraph begins with '**Predict.**'"


@rule
def holds_a_claim_to_account(lesson: Lesson) -> Iterator[str]:
    own = [python(cell.source) for cell in lesson.code if "solution" not in tags(cell)]
    if not any(isinstance(node, ast.Assert) for tree in own for node in ast.walk(tree)):
        yield "no cell outside the solutions asserts anything"
    if not any(cell.outputs for cell in code_in(lesson.section("Claim and measurement"))):
        yield "the table of claims must be made by a code cell, from what was measured"


@rule
def closes_with_its_four_sections(lesson: Lesson) -> Iterator[str]:
    found = [text for level, text in lesson.headings if level == 2 and text in SECTIONS]
    if found != list(SECTIONS):
        yield f"the closing sections are {found}, not {list(SECTIONS)}"
    answers = text_in(lesson.section("Quiz")).count("<details>")
    if answers != 5:
        yield f"the quiz has {answers} folded answers, not 5"


@rule
def has_links_that_lead_somewhere(lesson: Lesson) -> Iterator[str]:
    for cell in lesson.cells:
        if cell.cell_type == "markdown":
            text = "\n".join(unfenced(cell.source))
            for link in re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"(?:href|src)=\"([^\"]+)\"", text):
                if not re.match(r"[a-z]+:|#", link) and not inside_repository(lesson.path.parent / link.split("#")[0]):
                    yield f"{link} does not exist in the repository"


def inside_repository(path: Path) -> bool:
    return path.exists() and path.resolve().is_relative_to(ROOT)


@rule
def has_a_live_figure_that_a_page_can_show(lesson: Lesson) -> Iterator[str]:
    if not any(re.search(r"\blive_figure\(", cell.source) for cell in lesson.code):
        yield "no live_figure"
    widgets = lesson.notebook.metadata.get("widgets", {})
    stored = widgets.get(STATE, {}).get("state")
    if widgets and not stored:
        yield "metadata.widgets without a 'state', which GitHub calls invalid"
    shown = [output.data[VIEW]["model_id"] for _, output in outputs(lesson) if VIEW in output.get("data", {})]
    if not shown:
        yield "no stored output shows a widget"
    if missing := [model for model in shown if model not in (stored or {})]:
        yield f"{len(missing)} widget outputs have no state; run 'make refresh'"


@rule
def has_no_progress_bars_left(lesson: Lesson) -> Iterator[str]:
    for cell, output in outputs(lesson):
        if re.search(r"\x1b\[|\d%\||\bit/s\]|\bbatch/s\]", written(output)):
            yield f"a progress bar or terminal codes in the output of {first_line(cell)!r}"


@rule
def names_no_folder_of_one_machine(lesson: Lesson) -> Iterator[str]:
    private = re.compile(r"(?<![\w.:~-])/(?:work|home|Users|root|tmp|private)/\w|[A-Z]:\\+Users\\")
    texts = [(cell, written(output)) for cell, output in outputs(lesson)]
    for cell, text in texts + [(cell, cell.source) for cell in lesson.cells]:
        if found := private.search(text):
            yield f"{found[0]!r} in or below the cell {first_line(cell)!r}"


@rule
def says_what_each_figure_shows(lesson: Lesson) -> Iterator[str]:
    for cell, following in zip(lesson.cells, [*lesson.cells[1:], None], strict=True):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            told = following is not None and following.cell_type == "markdown"
            if not told or "What the figure shows" not in following.source:
                yield f"no 'What the figure shows' below the figure of {first_line(cell)!r}"


@rule
def draws_for_the_back_row(lesson: Lesson) -> Iterator[str]:
    """Letters of 10 points or more, and no colour that fades on a projector (WCAG 2.2, 1.4.11: 3 to 1)."""
    for cell in lesson.code:
        for node in ast.walk(python(cell.source)):
            if not isinstance(node, ast.keyword) or not isinstance(node.value, ast.Constant):
                continue
            value = node.value.value
            if node.arg in ("fontsize", "labelsize") and isinstance(value, (int, float)) and value < 10:
                yield f"letters of {value} points in {first_line(cell)!r}"
            if node.arg in ("color", "c") and value not in ("none", "white") and contrast_with_white(value) < 3:
                yield f"{value!r} is too faint on white in {first_line(cell)!r}"


@rule
def has_outputs_that_never_change(lesson: Lesson) -> Iterator[str]:
    if lesson.number != "00" and not any("nbval-check-output" in tags(cell) for cell in lesson.code):
        yield "no cell is tagged nbval-check-output"


@rule
def is_light(lesson: Lesson) -> Iterator[str]:
    if lesson.size > 1_500_000:
        yield f"{lesson.size:,} bytes; 1,500,000 at most"


# --- the notebooks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def lesson(request: pytest.FixtureRequest) -> Lesson:
    return Lesson.read(request.param)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 4
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(len(NOTEBOOKS))]


@pytest.mark.parametrize("name", RULES)
def test_a_notebook(lesson: Lesson, name: str):
    faults = list(RULES[name](lesson))
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.filterwarnings("default::UserWarning")
def test_long_cells_are_mentioned(lesson: Lesson):
    """More than 15 lines are allowed, and worth a second look: they appear among pytest's warnings."""
    long = [cell for cell in lesson.code if 15 < code_lines(cell) <= 20 and "solution" not in tags(cell)]
    for cell in long:
        warnings.warn(f"{lesson.path.name}: {code_lines(cell)} lines in {first_line(cell)!r}", stacklevel=1)
    assert len(long) <= len(lesson.code) / 5, "a notebook of long cells is a script"


def test_the_map_of_the_course_lists_every_notebook_with_its_minutes():
    """In 00_start_here, one row of the table per notebook."""
    start, *others = [Lesson.read(path) for path in NOTEBOOKS]
    text = "\n".join(cell.source for cell in start.cells if cell.cell_type == "markdown")
    for other in others:
        minutes = re.search(r"(\d+) minutes to teach", other.cells[0].source)[1]
        row = re.search(rf"^\|.*\]\({re.escape(other.path.name)}\).*$", text, re.MULTILINE)
        assert row, f"{other.path.name} is not on the map"
        assert re.search(rf"\| *{minutes} *\|", row[0]), f"{other.path.name} takes {minutes} minutes: {row[0]}"


# --- the rules themselves -------------------------------------------------------------------------------------------


def specimen() -> Lesson:
    """A notebook without a fault."""
    here = "notebooks/01_specimen.ipynb"
    top = f"""\
# 01 · Specimen

[![Open in Colab](https://example.org/c.svg)](https://colab.research.google.com/github/{SLUG}/blob/main/{here}) \
[![Launch on Binder](https://example.org/b.svg)](https://mybinder.org/v2/gh/{SLUG}/main?urlpath=lab/tree/{here})

**You will be able to**

- name it
- see it
- fix it

**Prerequisites**: none

**Time**: 15 minutes to teach · 20 s to run on two CPU cores
"""
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    stream = nbformat.v4.new_output
    open_verdict = stream("execute_result", {"text/plain": "✏️ Not started: fill in the cell above."})
    live = stream("display_data", {VIEW: {"model_id": "aa"}, "text/plain": "VBox()"})
    picture = stream("display_data", {"image/png": "aGVsbG8=", "text/plain": "<Figure size 640x480>"})
    cells = [
        text(top),
        code(BOOTSTRAP + "\nfrom kd_course.checks import notebook_01 as checks\n"),
        text("## 1 · A section\n\nSee [the course](../pyproject.toml) and [Hinton](https://arxiv.org/abs/1503.02531)."),
        text("**Predict.** Which is larger?"),
        code("plot()", outputs=[picture]),
        text("*What the figure shows:* a line."),
        code("live_figure(draw, t=slider)", outputs=[live]),
        code("assert 1 < 2", metadata={"tags": ["nbval-check-output"]}),
    ]
    for number in range(1, 5):
        section = "## 2 · Exercises\n\nTurn everything.\n\n" if number == 1 else ""
        check = f"invert_{number}"
        solution = f"# Solution {number}\ndef solution(x):\n    return 1 / x\n\n\nassert checks.{check}(solution)"
        hints = "<details><summary>Hint 1</summary>a</details>\n<details><summary>Hint 2</summary>b</details>"
        cells += [
            text(f"{section}### Exercise {number} · Turn it round\n\n{hints}"),
            code("def invert(x):\n    return ..."),
            code(f"checks.{check}(invert)", outputs=[copy.deepcopy(open_verdict)]),
            code(solution, metadata={"tags": ["solution"], "jupyter": {"source_hidden": True}}),
        ]
    cells += [
        text("## Summary\n\n- one"),
        text("## Claim and measurement"),
        code("table", outputs=[stream("execute_result", {"text/plain": "claim | measured | 5"})]),
        text("## Quiz\n\n" + "1. Why? <details><summary>Answer</summary>So.</details>\n" * 5),
        text("## Further reading\n\n- Hinton et al. 2015"),
    ]
    for count, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    state = {"state": {"aa": {"model_name": "VBoxModel"}}, "version_major": 2, "version_minor": 0}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {STATE: state}})
    checks = frozenset(f"invert_{number}" for number in range(1, 5))
    return Lesson(ROOT / here, notebook, len(json.dumps(notebook)), checks)


def replaced(place: int, old: str, new: str) -> Callable[[Lesson], None]:
    """A break: other words in one cell."""

    def apply(lesson: Lesson) -> None:
        assert old in lesson.cells[place].source, "the break itself is out of date"
        lesson.cells[place].source = lesson.cells[place].source.replace(old, new)

    return apply


def removed(place: int) -> Callable[[Lesson], None]:
    """A break: a cell is missing."""

    def apply(lesson: Lesson) -> None:
        del lesson.cells[place]

    return apply


def said(place: int, text: str, name: str = "stdout") -> Callable[[Lesson], None]:
    """A break: a cell has printed this."""

    def apply(lesson: Lesson) -> None:
        lesson.cells[place].outputs = [nbformat.v4.new_output("stream", name=name, text=text)]

    return apply


def set_to(place: int, key: str, value: object) -> Callable[[Lesson], None]:
    """A break: a field of a cell is another."""

    def apply(lesson: Lesson) -> None:
        lesson.cells[place][key] = value

    return apply


def metadata(key: str, value: object) -> Callable[[Lesson], None]:
    """A break: other metadata of the notebook."""

    def apply(lesson: Lesson) -> None:
        lesson.notebook.metadata[key] = value

    return apply


LONG = "\n".join(f"x = {number}" for number in range(21))
STUB, CHECK, SOLUTION = 9, 10, 11
SUMMARY, TABLE, QUIZ = 24, 26, 27

BREAKS: list[tuple[str, Callable[[Lesson], None]]] = [
    ("is_a_valid_notebook", set_to(4, "outputs", "none")),
    ("ran_from_top_to_bottom", set_to(4, "execution_count", None)),
    ("ran_from_top_to_bottom", set_to(4, "execution_count", 7)),
    ("has_no_errors_or_warnings", said(4, "UserWarning: mind the gap", "stderr")),
    (
        "has_no_errors_or_warnings",
        set_to(4, "outputs", [nbformat.v4.new_output("error", ename="NameError", evalue="", traceback=[])]),
    ),
    ("opens_with_what_a_learner_wants_to_know", replaced(0, "# 01 ·", "# 02 ·")),
    ("opens_with_what_a_learner_wants_to_know", replaced(0, "blob/main/notebooks/01", "blob/main/notebooks/02")),
    ("opens_with_what_a_learner_wants_to_know", replaced(0, "lab/tree/notebooks/01", "lab/tree/notebooks/02")),
    ("opens_with_what_a_learner_wants_to_know", replaced(0, f"gh/{SLUG}", "gh/some/fork")),
    ("opens_with_what_a_learner_wants_to_know", replaced(0, "- fix it\n", "")),
    ("opens_with_what_a_learner_wants_to_know", replaced(0, "Prerequisites", "Before")),
    ("opens_with_what_a_learner_wants_to_know", replaced(0, "15 minutes to teach", "a while")),
    ("opens_with_what_a_learner_wants_to_know", replaced(0, "20 s to run", "20 seconds")),
    ("sets_itself_up", replaced(1, "--no-deps", "")),
    ("sets_itself_up", replaced(4, "plot()", "%pip install more")),
    ("sets_itself_up", replaced(4, "plot()", "!wget more")),
    ("has_headings_in_order", replaced(2, "## 1", "# 1")),
    ("has_headings_in_order", replaced(2, "## 1", "### 1")),
    ("has_short_cells", set_to(4, "source", LONG)),
    ("has_short_cells", set_to(4, "source", f"x = '{'long' * 30}'")),
    ("has_exercises", replaced(8, "### Exercise 1 ·", "### Homework 1 ·")),
    ("has_exercises", replaced(STUB, "...", "1")),
    ("has_exercises", removed(STUB)),
    ("has_exercises", removed(CHECK)),
    ("has_exercises", removed(SOLUTION)),
    ("has_exercises", said(CHECK, "✅ Solved")),
    ("has_exercises", replaced(SOLUTION, "assert checks.invert", "assert checks.revert")),
    ("has_exercises", replaced(SOLUTION, "assert checks.invert_1(solution)", "print(solution)")),
    ("uses_all_checks_of_its_own_and_no_others", removed(CHECK)),
    ("uses_all_checks_of_its_own_and_no_others", replaced(CHECK, "invert_1", "revert")),
    ("uses_all_checks_of_its_own_and_no_others", replaced(1, "notebook_01", "notebook_02")),
    (
        "uses_all_checks_of_its_own_and_no_others",
        replaced(1, "kd_course.checks import notebook_01 as", "kd_course import"),
    ),
    ("uses_all_checks_of_its_own_and_no_others", replaced(4, "plot()", "import kd_course.checks.notebook_02")),
    ("folds_its_solutions", set_to(SOLUTION, "metadata", nbformat.from_dict({"tags": ["solution"]}))),
    ("folds_its_solutions", set_to(SOLUTION, "metadata", nbformat.from_dict({"jupyter": {"source_hidden": True}}))),
    ("folds_its_solutions", replaced(SOLUTION, "# Solution 1\n", "")),
    ("has_hints", replaced(8, "Hint 2", "Idea")),
    ("asks_before_it_tells", replaced(3, "**Predict.**", "Predict.")),
    ("holds_a_claim_to_account", replaced(7, "assert 1 < 2", "1 < 2")),
    ("holds_a_claim_to_account", removed(TABLE)),
    ("closes_with_its_four_sections", removed(SUMMARY)),
    ("closes_with_its_four_sections", replaced(QUIZ, "## Quiz", "## Questions")),
    ("closes_with_its_four_sections", set_to(QUIZ, "source", "## Quiz\n" + "<details></details>\n" * 4)),
    ("has_links_that_lead_somewhere", replaced(2, "../pyproject.toml", "../pyproject.tom")),
    ("has_links_that_lead_somewhere", replaced(2, "../pyproject.toml", "../../")),
    ("has_links_that_lead_somewhere", replaced(2, "See ", '<img src="figures/none.png"> ')),
    ("has_a_live_figure_that_a_page_can_show", replaced(6, "live_figure", "dead_figure")),
    ("has_a_live_figure_that_a_page_can_show", metadata("widgets", {STATE: {"version_major": 2}})),
    ("has_a_live_figure_that_a_page_can_show", metadata("widgets", {STATE: {"state": {"bb": {}}}})),
    ("has_a_live_figure_that_a_page_can_show", set_to(6, "outputs", [])),
    ("has_no_progress_bars_left", said(4, " 40%|████      | 3440/8600 [00:00<?, ?batch/s]")),
    ("has_no_progress_bars_left", said(4, "\x1b[31mred\x1b[0m")),
    ("names_no_folder_of_one_machine", said(4, "saved to /" + "home/ada/student.pt")),
    ("names_no_folder_of_one_machine", replaced(2, "See ", "See /" + "tmp/notes ")),
    ("says_what_each_figure_shows", removed(5)),
    ("says_what_each_figure_shows", replaced(5, "What the figure shows", "A figure")),
    ("draws_for_the_back_row", replaced(4, "plot()", "plot(fontsize=8)")),
    ("draws_for_the_back_row", replaced(4, "plot()", 'plot(color="0.75")')),
    ("has_outputs_that_never_change", set_to(7, "metadata", nbformat.from_dict({}))),
]


@pytest.mark.parametrize("name", RULES)
def test_a_rule_accepts_what_is_right(name: str):
    assert list(RULES[name](specimen())) == []


@pytest.mark.parametrize(("name", "apply"), BREAKS, ids=[f"{place}-{name}" for place, (name, _) in enumerate(BREAKS)])
def test_a_rule_notices_what_is_wrong(name: str, apply: Callable[[Lesson], None]):
    lesson = specimen()
    apply(lesson)
    assert list(RULES[name](lesson))


def test_the_size_rule_notices_a_heavy_notebook():
    lesson = specimen()
    assert list(is_light(replace(lesson, size=1_500_001)))


def test_every_rule_is_put_to_the_test():
    assert {name for name, _ in BREAKS} | {"is_light"} == set(RULES)


def test_a_heading_inside_code_is_no_heading():
    lesson = specimen()
    lesson.cells[2].source += "\n\n```python\n# only a comment\n```\n"
    assert not list(has_headings_in_order(lesson))
