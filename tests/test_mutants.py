"""The tool that changes the library to see whether a test notices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

CODE = '''"""Prose with a number, 3."""

def middle(values: Sequence[int], count: int = 2):
    """More prose, 4."""
    if count < 1 or not values:
        raise ValueError(f"count must be {1 + 1}")
    return sum(values).detach() / count if count > 0 else pair(values, count)
'''


@pytest.fixture
def mutants(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("mutants")


def test_every_operator_number_argument_and_call_is_changed_alone(
    mutants: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    file = tmp_path / "file.py"
    file.write_text(CODE, encoding="utf-8")
    found = list(mutants.mutants(file))
    changes = {(mutant.before, mutant.after) for mutant in found}
    assert changes == {
        ("2", "3"),  # the default
        ("count < 1 or not values", "count < 1 and (not values)"),
        ("count < 1", "count <= 1"),
        ("1", "2"),
        ("not values", "values"),
        ("sum(values).detach() / count", "sum(values).detach() * count"),
        ("sum(values).detach()", "sum(values)"),
        ("count > 0", "count >= 0"),
        ("0", "1"),
        ("pair(values, count)", "pair(count, values)"),
        ("sum(values).detach() / count if count > 0 else pair(values, count)", "sum(values).detach() / count"),
        ("sum(values).detach() / count if count > 0 else pair(values, count)", "pair(values, count)"),
    }
    for mutant in found:
        compile(mutant.text, "file.py", "exec")
        before, after = CODE.splitlines(), mutant.text.splitlines()
        assert [n for n, (a, b) in enumerate(zip(before, after, strict=True), 1) if a != b] == [mutant.line]


def test_every_file_of_the_library_has_tests_that_are_there(mutants: ModuleType) -> None:
    for file in (mutants.ROOT / "kd_course").rglob("*.py"):
        found = mutants.tests_of(file)
        assert found and all((mutants.ROOT / path).exists() for path in found), file


@pytest.mark.slow
def test_a_mutant_that_a_test_notices_dies_and_one_that_means_nothing_lives(
    mutants: ModuleType, tmp_path: Path
) -> None:
    copy, file = mutants.Copy(tmp_path), mutants.ROOT / "kd_course" / "data" / "digits.py"
    text = file.read_text(encoding="utf-8")
    assert copy.passes(file, text + "\n_UNUSED = 1\n", 120)
    assert not copy.passes(file, text.replace("255 / 16", "255 * 16"), 120)
    assert (tmp_path / "kd_course" / "data" / "digits.py").read_text(encoding="utf-8") == text
