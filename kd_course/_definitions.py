"""What a function means: its own definition and every definition it can reach, without what only people read.

Two versions of a program mean the same here if they differ only in comments, docstrings, type hints, line breaks, or in
what their errors say. Definitions are followed by name, from file to file, through the code of this package and of
whoever wrote the function; the standard library and installed packages are taken as they are.

Code is read as text and never run, so what is looked up by a computed name (``getattr``, ``importlib``) stays unseen.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

PACKAGE = __package__
TALK = ("print", "warn")  # calls that only tell people something
Plain = int | float | str | bytes | bool | None


def meaning(function: Callable) -> str:
    """A checksum of all that decides what ``function`` returns for given arguments, as far as its code tells."""
    found = reachable(function)
    return hashlib.sha256("\n".join(f"{name} {found[name]}" for name in sorted(found)).encode()).hexdigest()[:24]


def reachable(function: Callable) -> dict[str, str]:
    """Every definition that ``function`` reaches, its own included: by full name, its code without the prose.

    Raises:
        OSError: the source of ``function`` is not available.
    """
    module, name = function.__module__, function.__qualname__
    if _file(module) and "." not in name:
        start: dict[str, _Definition] = _resolve(module, name)
    else:  # a cell of a notebook, or a function made inside another one
        node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        start = {f"{module}.{name}": _Definition(module, node, function.__globals__)}
    found, named = start, set[str]()  # a method counts once its name is used
    while True:
        parts = [(definition, part) for definition in found.values() for part in definition.parts(named)]
        names = {node.attr for _, part in parts for node in ast.walk(part) if isinstance(node, ast.Attribute)}
        reached = dict(found)
        for definition, part in parts:
            reached = definition.follow(part) | reached
        if (len(reached), names) == (len(found), named):
            return {label: definition.text(named) for label, definition in found.items()}
        found, named = reached, names


class _Definition:
    """One statement that defines a name, and where it stands; or a plain value that a notebook's function reads."""

    def __init__(self, module: str, node: ast.AST, scope: dict | None = None) -> None:
        self.module, self.node, self.scope = module, node, scope

    def parts(self, named: set[str]) -> Iterator[ast.AST]:
        """The statement, or of a class without bases what belongs to every instance and the methods that are named."""
        if not isinstance(self.node, ast.ClassDef) or self.node.bases:
            yield self.node
            return
        yield from self.node.decorator_list
        for member in self.node.body:
            method = isinstance(member, ast.FunctionDef) and not member.name.startswith("__")
            if not method or member.name in named:
                yield member

    def text(self, named: set[str]) -> str:
        """What the statement does, as Python would write it."""
        prose = _WithoutProse(self.module)
        return "\n".join(ast.unparse(prose.visit(copy.deepcopy(part))) for part in self.parts(named))

    def follow(self, part: ast.AST) -> dict[str, _Definition]:
        """The definitions that the names in ``part`` lead to."""
        found: dict[str, _Definition] = {}
        for node in ast.walk(part):
            if isinstance(node, ast.Name | ast.Attribute):
                if chain := _chain(node):
                    found |= _from_scope(self.scope, chain) if self.scope else _resolve(self.module, *chain)
            elif isinstance(node, ast.ImportFrom | ast.Import):
                for alias in node.names:
                    found |= _imported(self.module, node, alias, ())
        return found


def _resolve(module: str, name: str, *attributes: str) -> dict[str, _Definition]:
    """What ``name``, with the attributes behind it, stands for in a module: its definition, wherever that is."""
    found: dict[str, _Definition] = {}
    for place, node in enumerate(_definitions(module).get(name, ())):
        if isinstance(node, ast.ImportFrom | ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name.split(".")[0]) == name:
                    found |= _imported(module, node, alias, attributes)
        else:
            found[f"{module}.{name}" + f" ({place})" * bool(place)] = _Definition(module, node)
    return found


def _imported(
    module: str, node: ast.ImportFrom | ast.Import, alias: ast.alias, attributes: tuple[str, ...]
) -> dict[str, _Definition]:
    """What an import brings in: of a module, what is named behind it; all of it, where nothing is."""
    if isinstance(node, ast.Import):
        origin, names = alias.name, attributes
    else:
        base = module if _file(module) and _file(module).name == "__init__.py" else module.rpartition(".")[0]
        for _ in range(node.level - 1):
            base = base.rpartition(".")[0]
        origin = ".".join(filter(None, (base if node.level else "", node.module)))
        names = (alias.name, *attributes)
    while names and _followed(f"{origin}.{names[0]}"):
        origin, names = f"{origin}.{names[0]}", names[1:]
    if not _followed(origin):
        return {}
    if names:
        return _resolve(origin, *names)
    own = [
        name for name, nodes in _definitions(origin).items() if not isinstance(nodes[0], ast.ImportFrom | ast.Import)
    ]
    return {label: node for name in own for label, node in _resolve(origin, name).items()}


def _from_scope(scope: dict, chain: tuple[str, ...]) -> dict[str, _Definition]:
    """What a name means to a function that has no file: a definition, or a plain value as it is now."""
    if chain[0] not in scope:
        return {}
    value, names = scope[chain[0]], chain[1:]
    if inspect.ismodule(value):
        return _imported("", ast.Import(), ast.alias(value.__name__), names)
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if (inspect.isfunction(value) or inspect.isclass(value)) and module:
        if _followed(module):
            return _resolve(module, name)
        if module == "__main__":
            node = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
            return {f"{module}.{name}": _Definition(module, node, scope)}
    elif isinstance(value, Plain) or (isinstance(value, tuple) and all(isinstance(item, Plain) for item in value)):
        return {f"value of {chain[0]}": _Definition("", ast.Constant(value), {})}
    return {}


def _chain(node: ast.AST) -> tuple[str, ...]:
    """``a.b.c`` as its names; empty where it does not begin with a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ()


@lru_cache
def _definitions(module: str) -> dict[str, list[ast.AST]]:
    """The statements at the top of a module's file, by the names they define."""
    path = _file(module)
    table: dict[str, list[ast.AST]] = {}

    def collect(statements: list[ast.stmt]) -> None:
        for node in statements:
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                names = [node.name]
            elif isinstance(node, ast.ImportFrom | ast.Import):
                names = [alias.asname or alias.name.split(".")[0] for alias in node.names]
            else:
                names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and _stored(part)]
            for name in names:
                table.setdefault(name, []).append(node)
            if isinstance(node, ast.If | ast.Try | ast.With):
                collect([part for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt)])

    if path:
        collect(ast.parse(path.read_text(encoding="utf-8")).body)
    return table


def _stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


@lru_cache
def _file(module: str) -> Path | None:
    """The source file of a module, found without importing it."""
    loaded = sys.modules.get(module)
    try:
        spec = getattr(loaded, "__spec__", None) or (None if loaded else importlib.util.find_spec(module))
    except (ImportError, ValueError, AttributeError):
        return None
    origin = getattr(spec, "origin", None) or getattr(loaded, "__file__", None)
    return Path(origin) if origin and origin.endswith(".py") and Path(origin).is_file() else None


@lru_cache
def _followed(module: str) -> bool:
    """Whether a module is ours, or its author's, rather than an installed package or the standard library."""
    path = _file(module)
    if not path or module.split(".")[0] == PACKAGE:
        return bool(path)
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
    return not any(path.resolve().is_relative_to(folder) for folder in installed)


class _WithoutProse(ast.NodeTransformer):
    """Take out what people read and the machine does not: docstrings, type hints, and what errors and warnings say."""

    def __init__(self, module: str) -> None:
        self.module = module

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        node.body = [line for line in node.body if line not in _only_for_errors(node)]
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        value = node.value
        talk = isinstance(value, ast.Call) and (_chain(value.func) or ("",))[-1] in TALK
        text = isinstance(value, ast.Constant) and isinstance(value.value, str)
        return ast.Pass() if talk or text else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(raised, None)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return ast.Assert(self.visit(node.test), None)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """What an argument is called matters to nobody but a reader of the error."""
        if any(".".join(label.split(".")[:-1]) == f"{PACKAGE}._validation" for label in self._callee(node)):
            node.args = [part for part in node.args if not isinstance(part, ast.Constant)]
        return self.generic_visit(node)

    def _callee(self, node: ast.Call) -> dict[str, _Definition]:
        chain = _chain(node.func)
        return _resolve(self.module, *chain) if chain and self.module else {}


def _only_for_errors(function: ast.FunctionDef) -> list[ast.stmt]:
    """The assignments whose value nobody reads but a ``raise``."""
    said = {part for node in ast.walk(function) if isinstance(node, ast.Raise) for part in ast.walk(node)}
    read = {
        part.id for part in ast.walk(function) if isinstance(part, ast.Name) and part not in said and not _stored(part)
    }
    heard = {part.id for part in said if isinstance(part, ast.Name)}
    return [
        line
        for line in function.body
        if isinstance(line, ast.Assign)
        and all(isinstance(target, ast.Name) and target.id in heard - read for target in line.targets)
    ]
