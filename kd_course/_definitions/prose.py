"""What only people read, taken out of code: docstrings, type hints, and what errors, prints and ``repr`` say."""

from __future__ import annotations

import ast
from collections.abc import Collection

SPEAKING = ("print", "warn")  # functions that only tell people something


def remove_prose(tree: ast.Module, checks: Collection[str]) -> None:
    """Take the prose out of a tree, in place.

    Args:
        tree: parsed code.
        checks: names of functions whose strings only word errors.
    """
    for node in ast.walk(tree):
        for block in ("body", "orelse", "finalbody"):
            if isinstance(lines := getattr(node, block, None), list) and lines:
                bare = [_without_hint(line, node) for line in lines if not _is_prose(line)]
                setattr(node, block, bare or [ast.Pass()])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            for value in _only_in_errors(node):
                remove_words(value)
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.Raise):
            if isinstance(node.exc, ast.Call) and any(map(is_string, ast.walk(node.exc))):
                node.exc = node.exc.func  # other arguments may be more than words
            node.cause = None
        elif isinstance(node, ast.Assert):
            node.msg = None
        elif isinstance(node, ast.Call) and {*dotted(node.func)[-1:]} & {*SPEAKING, *checks}:
            for argument in (*node.args, *node.keywords):
                remove_words(argument)


def remove_words(tree: ast.AST) -> None:
    """Empty every string of a tree, in place."""
    for node in ast.walk(tree):
        if is_string(node):
            node.value = ""


def is_string(node: ast.AST) -> bool:
    """Whether a node is a string, or a part of an f-string."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def dotted(node: ast.AST) -> tuple[str, ...]:
    """``a.b.c`` as its names; empty where it does not begin with a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return (node.id, *names) if isinstance(node, ast.Name) else ()


def _is_prose(line: ast.stmt) -> bool:
    return (isinstance(line, ast.Expr) and is_string(line.value)) or getattr(line, "name", "") == "__repr__"


def _without_hint(line: ast.stmt, place: ast.AST) -> ast.stmt:
    """A statement without its type hint; in a class the hint stays as ``None``, because it makes a name a field."""
    if isinstance(line, ast.AnnAssign):
        line.annotation = ast.Constant(None)
        if line.value and not isinstance(place, ast.ClassDef):
            return ast.copy_location(ast.Assign([line.target], line.value), line)
    return line


def _only_in_errors(function: ast.AST) -> list[ast.expr]:
    """What is assigned to variables that nobody reads but a ``raise``."""
    nodes = list(ast.walk(function))
    said = {part for node in nodes if isinstance(node, ast.Raise) for part in ast.walk(node)}
    read = [node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    heard = {node.id for node in read if node in said} - {node.id for node in read if node not in said}
    found = []
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [node.value] if {getattr(target, "id", "") for target in targets} <= heard else []
    return found
