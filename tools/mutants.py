"""Which small errors in the library would no test notice: ``python tools/mutants.py --count 200``.

A mutant is the library with one operator, number, argument or call changed. Each is written to a copy of the project,
in which the tests of the changed file run. One that passes them lives: either a test is missing, or the change means
nothing. What only words errors is left alone.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
RENAMED = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "mean": "sum", "sum": "mean", "any": "all",
           "all": "any", "ceil": "floor", "argmax": "argmin", "softmax": "log_softmax"}  # fmt: skip
DROPPED = {"detach", "clone", "abs", "contiguous", "eval", "zero_grad", "float", "double", "copy", "flatten"}
MORE_TESTS = {
    "_validation": ["tests/losses/test_contract.py", "tests/evaluation", "tests/data/test_split.py"],
    "_engine": ["tests/test_fabric.py", "tests/test_training.py"],
    "data/split": ["tests/data/test_split.py", "tests/data/test_arrays.py", "tests/test_one_core.py"],
    "data/arrays": ["tests/data/test_arrays.py", "tests/data/test_split.py"],
    "training": ["tests/test_training.py", "tests/test_turns.py", "tests/test_checkpoint.py"],
    "memo": ["tests/test_memo.py", "tests/test_comparison.py", "tests/test_results.py"],
    "models": ["tests/test_models.py", "tests/test_networks.py"],
    "comparison": ["tests/test_comparison.py", "tests/test_executors.py"],
    "losses": ["tests/losses/test_contract.py"],
}
"""Tests beside those that are named after the file; those of a folder go with each of its files."""


class Mutant(NamedTuple):
    """One changed place: the file, the line, what stood there, and what stands there now."""

    file: Path
    line: int
    before: str
    after: str
    text: str  # of the whole file

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}: {self.before}  →  {self.after}"


def mutants(file: Path) -> Iterator[Mutant]:
    """Every mutant of a file."""
    text = file.read_text(encoding="utf-8")
    lines = text.encode().splitlines(keepends=True)
    starts = [sum(map(len, lines[:number])) for number in range(len(lines))]
    for node in _meaningful(ast.parse(text)):
        for after in _changed(node):
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            old = text.encode()
            new = old[:start] + f"({after})".encode() + old[end:]
            try:
                ast.parse(new)
            except SyntaxError:
                continue
            before = " ".join(old[start:end].decode().split())
            yield Mutant(file, node.lineno, before[:80], after[:80], new.decode())


def _meaningful(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions of a tree that decide what it does: no messages, annotations, docstrings or imports."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "exc", "cause", "msg", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.expr):
                yield child
            yield from _meaningful(child)


def _changed(node: ast.expr) -> Iterator[str]:
    """What could stand in the place of an expression."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPPED:
        other = SWAPPED[type(node.op)]()
        yield ast.unparse(
            ast.BinOp(node.left, other, node.right) if isinstance(node, ast.BinOp) else ast.BoolOp(other, node.values)
        )
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        yield ast.unparse(ast.Compare(node.left, [SWAPPED[type(node.ops[0])](), *node.ops[1:]], node.comparators))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield ast.unparse(node.operand)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        yield repr(not node.value) if isinstance(node.value, bool) else repr(node.value + 1)
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in RENAMED:
            renamed = ast.Attribute(node.func.value, RENAMED[node.func.attr])
            yield ast.unparse(ast.Call(renamed, node.args, node.keywords))
        if isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED and not node.args:
            yield ast.unparse(node.func.value)
        if len(node.args) == 2 and not any(isinstance(each, ast.Starred) for each in node.args):
            yield ast.unparse(ast.Call(node.func, node.args[::-1], node.keywords))
    elif isinstance(node, ast.IfExp):
        yield ast.unparse(node.body)
        yield ast.unparse(node.orelse)


def tests_of(file: Path) -> list[str]:
    """The tests that are to notice a change of this file."""
    name = file.relative_to(ROOT / "kd_course").with_suffix("").as_posix()
    folder, _, stem = name.rpartition("/")
    own = Path("tests", folder, f"test_{stem.strip('_')}.py")
    found = [*MORE_TESTS.get(name, []), *MORE_TESTS.get(folder, [])]
    return sorted({*found, *([own.as_posix()] if (ROOT / own).exists() else [])}) or [f"tests/{folder}".rstrip("/")]


class Copy:
    """A copy of the project whose library may be changed; all else is linked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for path in ROOT.iterdir():
            if path.name == "kd_course":
                shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            elif not path.name.startswith(".") and path.name != "build":
                (folder / path.name).symlink_to(path)

    def passes(self, file: Path, text: str, seconds: int) -> bool:
        """Whether the file's tests pass with this text in its place; an endless loop does not."""
        place = self.folder / file.relative_to(ROOT)
        original = place.read_text(encoding="utf-8")
        place.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
                   "-m", "not slow", f"--timeout={seconds}", *tests_of(file)]  # fmt: skip
        environment = os.environ | {
            "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        try:
            return not subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, check=False
            ).returncode
        finally:
            place.write_text(original, encoding="utf-8")


def main() -> None:
    """Try mutants, and print those that live."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="files of the library (default: all)")
    parser.add_argument("--count", type=int, default=200, help="how many, drawn at random (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides the draw (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="how many at once (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=120, help="of one test before it counts as failed (%(default)s)")
    options = parser.parse_args()
    annexes = {"checks", "studies"}
    library = [path for path in sorted((ROOT / "kd_course").rglob("*.py")) if not annexes & {*path.parts}]
    files = [path.resolve() for path in options.files] or library
    found = [mutant for file in files for mutant in mutants(file)]
    chosen = random.Random(options.seed).sample(found, min(options.count, len(found)))
    print(f"{len(found):,} mutants of {len(files)} files, {len(chosen)} of them are tried", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Copy] = Queue()
        for number in range(options.workers):
            (Path(folder) / str(number)).mkdir()
            copies.put(Copy(Path(folder) / str(number)))

        def lives(file: Path, text: str) -> bool:
            copy = copies.get()
            try:
                return copy.passes(file, text, options.seconds)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(options.workers) as pool:
            touched = sorted({mutant.file for mutant in chosen})
            intact = list(pool.map(lambda file: lives(file, file.read_text(encoding="utf-8")), touched))
            if broken := [str(file) for file, passes in zip(touched, intact, strict=True) if not passes]:
                sys.exit(f"the tests of {', '.join(broken)} fail without any change; put that right first")
            living = 0
            results = pool.map(lambda mutant: (mutant, lives(mutant.file, mutant.text)), chosen)
            for mutant, alive in tqdm(results, total=len(chosen), unit="mutant"):
                if alive:
                    living += 1
                    print(mutant, flush=True)
    print(f"{living} of {len(chosen)} live")


if __name__ == "__main__":
    main()
