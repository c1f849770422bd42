"""What a function means: its own definition and every definition it can reach, without what only people read.

Two versions of a program mean the same here if they differ only in comments, docstrings, type hints, in what errors,
prints and ``repr`` say, or in the file that holds a definition. Names are followed to what they stand for: functions
and classes of this package and of whoever wrote the function, by their source; constants of a file, by the statements
that define them; values of a notebook, by their ``repr`` and what they hold. What is installed counts by its name.
Names made up at run time and the insides of objects are not seen.

A file is read once for every time that Python loads its module: as ever, reload what you edited, or start Python again.
The text is that of ``ast.unparse``, which from Python 3.12 on writes the quotes within an f-string differently.
"""

from __future__ import annotations

import ast
import copy
import gc
import hashlib
import importlib.util
import inspect
import linecache
import re
import symtable
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from functools import cached_property, lru_cache, partial
from numbers import Number
from pathlib import Path
from types import FunctionType, MethodType, ModuleType

PACKAGE = __name__.partition(".")[0]
VALIDATION = f"{PACKAGE}._validation"  # its functions get strings to word their errors with
LOADERS = {f"{PACKAGE}.data.{name}" for name in ("load", "mnist", "digits")}  # the checksum of the data stands for them
SPEAKING = {"print", "warn"}  # functions that only tell people something
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
PLAIN = (Number, str, bytes, type(None), Enum)
CONTAINERS = (dict, list, tuple, set, frozenset, partial, property, cached_property, MethodType)


def meaning(function: Callable, *given: type) -> str:
    """A checksum of all code that decides what a function returns for arguments of the ``given`` classes.

    Raises ``OSError`` if the source of the function, or of one that it uses, is not available.
    """
    lines = set()
    for definition in reachable(function, *given):
        links = [f"{name} = {_checksum(each.text)}" for name, found in definition.links.items() for each in found]
        lines.add("\n".join([definition.text, *sorted(links)]))
    return _checksum(*(each.text for each in _stands_for(function)), *sorted(lines))


def reachable(*roots: object) -> list[Definition | Value]:
    """The definitions of functions and classes, and all that these use, directly or not."""
    queue = [definition for root in roots for definition in _stands_for(root)]
    found: dict[object, Definition | Value] = {}
    named: set[str] = set()
    unnamed: dict[str, list[Definition]] = defaultdict(list)  # methods whose name nobody has used yet
    while queue:
        definition = queue.pop()
        if definition.key not in found:
            found[definition.key] = definition
            queue += [each for targets in definition.links.values() for each in targets]
            for method in definition.methods:
                (queue if method.node.name in named else unnamed[method.node.name]).append(method)
            for name in definition.words - named:
                queue += unnamed.pop(name, [])
            named |= definition.words
    return list(found.values())


class Definition:
    """A statement that defines a function, a constant, a class or a method, with the names that it can see.

    A class that inherits has all its methods, because its base may call any of them. Of another class those with ``__``
    count, and each of the others is a definition of its own, which counts once somebody uses its name.
    """

    def __init__(self, node: ast.AST, scope: dict[str, object], closure: object = None, owner: str = "") -> None:
        self.node, self.scope, self.key = node, scope, (id(node), scope.get("__name__"), id(closure))
        checks = (name for name, value in scope.items() if getattr(value, "__module__", None) == VALIDATION)
        self.code = _Code(node, frozenset(checks), wordless=scope.get("__name__") == VALIDATION)
        self.text, self.words = owner + self.code.text, self.code.words

    @cached_property
    def methods(self) -> list[Definition]:
        """What counts only if it is named."""
        return [Definition(each, self.scope, owner=f"{self.node.name}: ") for each in _called_by_name(self.node)]

    @cached_property
    def links(self) -> dict[str, list[Definition | Value]]:
        """What each dotted name that comes from outside stands for."""
        imported = self.code.imported(self.scope)
        scope, outside = self.scope | imported, self.code.outside | imported.keys()
        return {".".join(names): _look_up(scope, *names) for names in self.code.dotted if names[0] in outside}


class Value:
    """A value that no file of ours defines: what it says of itself, and what it holds."""

    words, methods = frozenset[str](), ()

    def __init__(self, text: str, *parts: object) -> None:
        self.text = re.sub(r" at 0x\w+", "", text)
        self.parts = [part for part in parts if not isinstance(part, PLAIN)]
        self.key = (self.text, *map(id, self.parts))

    @cached_property
    def links(self) -> dict[str, list[Definition | Value]]:
        """What the parts stand for."""
        return {str(number): _stands_for(part) for number, part in enumerate(self.parts)}


def _look_up(scope: dict[str, object], first: str, *rest: str) -> list[Definition | Value]:
    """What a dotted name stands for: nothing, if it is a builtin; all that is in a module, if nothing shows what."""
    if first not in scope or first.startswith("__"):
        return []
    value, file = scope[first], _file(scope.get("__name__"))
    if isinstance(value, ModuleType):
        inside = vars(value)
        if is_installed(value.__name__):
            return [Value(".".join([value.__name__, *rest]))]
        if rest and rest[0] in inside:
            return _look_up(inside, *rest)
        own = [name for name, each in inside.items() if not isinstance(each, ModuleType)]
        return [definition for name in own for definition in _look_up(inside, name)]
    of_file = file and file.spec is scope.get("__spec__") and first in file.table
    if of_file and not isinstance(value, FunctionType | type):
        return [Definition(node, file.scope) for node in file.table[first]]
    return _stands_for(value)


def _stands_for(value: object) -> list[Definition | Value]:
    """What a value stands for: the definition of a function or a class, and else the value itself."""
    value = inspect.unwrap(value)
    if isinstance(value, ModuleType):
        return _look_up({value.__name__: value}, value.__name__)
    if not isinstance(value, FunctionType | type):
        return [Value(repr(value), *(gc.get_referents(value) if isinstance(value, CONTAINERS) else [type(value)]))]
    module, name = value.__module__, value.__qualname__
    if is_installed(module) or module in LOADERS:
        return [Value(f"{module.partition('.')[0]}.{name}")]  # libraries move things between their files
    if isinstance(value, FunctionType):
        nodes, closed = _nodes(value), zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        if not nodes:
            raise OSError(f"{value!r} has no source, or one that was edited since Python read it; reload {module}")
        scope = value.__globals__ | {variable: cell.cell_contents for variable, cell in closed}
        return [Definition(node, scope, value.__closure__) for node in nodes]
    if (file := _file(module)) and file.scope.get(name) is value and name in file.table:
        return [Definition(node, file.scope) for node in file.table[name]]
    own = {name: each for name, each in vars(value).items() if not name.startswith("__") or _nodes(each)}
    return [Value(f"{name} {own}", *value.__bases__, *own.values())]


class _File:
    """A file of ours: its text, and by name the statements that define what is in it, or may change it."""

    def __init__(self, module: ModuleType) -> None:
        self.spec, self.scope = module.__spec__, vars(module)
        self.text = Path(self.spec.origin).read_text(encoding="utf-8")
        self.table: dict[str, list[ast.stmt]] = defaultdict(list)
        for statement in _parsed(self.text).body:
            for name in _defined(statement):
                self.table[name].append(statement)


_files: dict[str, _File] = {}


def _file(module: str | None) -> _File | None:
    """The file of a module that is loaded; None if it has none, or is installed."""
    spec = getattr(sys.modules.get(module or ""), "__spec__", None)
    if is_installed(module) or not str(getattr(spec, "origin", None)).endswith(".py"):
        return None
    if module not in _files or _files[module].spec is not spec:
        _files[module] = _File(sys.modules[module])
    return _files[module]


@lru_cache
def is_installed(module: str | None) -> bool:
    """Whether a module belongs to the standard library, or to an installed package other than this one."""
    top, spec = (module or "__main__").partition(".")[0], None
    if top in (PACKAGE, "__main__"):
        return False
    with suppress(ValueError):  # somebody made a module by hand
        spec = importlib.util.find_spec(top)
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    packages = any({"site-packages", "dist-packages"} & {*Path(place).parts} for place in places)
    return packages or top in sys.stdlib_module_names


def _defined(statement: ast.stmt) -> set[str]:
    """The names that a statement at the top of a file defines or may change, imports aside."""
    if isinstance(statement, (*FUNCTION, ast.ClassDef)):
        return {statement.name}
    names: set[str | None] = set()
    for node in ast.walk(statement):
        if isinstance(node, (*FUNCTION, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Expr):
            names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}  # register(T), T.update(…)
        elif isinstance(getattr(node, "ctx", None), ast.Store):
            while isinstance(node, ast.Attribute | ast.Subscript):  # T["key"] = …
                node = node.value
            names.add(getattr(node, "id", None))
    return names - {None}


def _nodes(function: object) -> list[ast.AST]:
    """A function's nodes (of lambdas on one line: all); none if there is no source, as for what a dataclass makes."""
    function = inspect.unwrap(function)
    if not isinstance(function, FunctionType):
        return []
    code, file = function.__code__, _file(function.__module__)
    in_file = file and file.spec.origin == code.co_filename
    text = file.text if in_file else "".join(linecache.getlines(code.co_filename))
    return _functions(text).get((code.co_name, code.co_firstlineno), [])


@lru_cache(maxsize=1024)
def _functions(text: str) -> dict[tuple[str, int], list[ast.AST]]:
    """The functions in a text, by name and first line."""
    found = defaultdict(list)
    for node in ast.walk(_parsed(text)):
        if isinstance(node, (*FUNCTION, ast.Lambda)):
            first = min(each.lineno for each in (node, *getattr(node, "decorator_list", ())))
            found[getattr(node, "name", "<lambda>"), first].append(node)
    return found


_parsed = lru_cache(maxsize=1024)(ast.parse)


def _called_by_name(node: ast.AST) -> list[ast.AST]:
    """The methods of a class that nobody calls but by their name: all without ``__``, unless the class inherits."""
    if not isinstance(node, ast.ClassDef) or node.bases or node.keywords:
        return []
    return [each for each in node.body if isinstance(each, FUNCTION) and not each.name.startswith("__")]


@lru_cache(maxsize=4096)
class _Code:
    """A statement without its prose and without methods that count for themselves, as text; and the names in it.

    ``words`` might be names of methods, ``dotted`` are names with the attributes behind them, ``outside`` the first
    parts of those that come from the surroundings.
    """

    def __init__(self, node: ast.AST, checks: frozenset[str], *, wordless: bool) -> None:
        apart, node = _called_by_name(node), copy.copy(node)
        if apart:
            node.body = [each for each in node.body if each not in apart] or [ast.Pass()]
        tree = ast.Module([copy.deepcopy(node) if isinstance(node, ast.stmt) else ast.Expr(copy.deepcopy(node))], [])
        _remove_prose(tree, checks)
        if wordless:
            _remove_words(tree)
        nodes = list(ast.walk(tree))
        attributes = [each for each in nodes if isinstance(each, ast.Attribute)]
        self.text = ast.unparse(tree)
        self.words = {each.attr for each in attributes} | {each.value for each in nodes if _is_string(each)}
        self.dotted = {_dotted(each) for each in {*nodes} - {each.value for each in attributes}} - {()}
        self.outside = _globals(symtable.symtable(self.text, "", "exec"))
        self._imports = [each for each in nodes if isinstance(each, ast.Import | ast.ImportFrom)]

    def imported(self, scope: dict[str, object]) -> dict[str, object]:
        """What the imports within a function bring in from files of ours."""
        found = {name: scope.get(name) for name in ("__name__", "__package__")}
        for node in self._imports:
            origin = PACKAGE if getattr(node, "level", 0) else getattr(node, "module", None) or node.names[0].name
            if not is_installed(origin):
                with suppress(ImportError):
                    exec(compile(ast.Module([node], []), "import", "exec"), found)
        return {name: value for name, value in found.items() if not name.startswith("__")}


def _globals(table: symtable.SymbolTable) -> set[str]:
    """The names that a piece of code takes from its surroundings."""
    at_top = table.get_type() == "module"
    symbols = [symbol for symbol in table.get_symbols() if symbol.is_referenced() and (at_top or symbol.is_global())]
    return {symbol.get_name() for symbol in symbols}.union(*map(_globals, table.get_children()))


def _remove_prose(tree: ast.Module, checks: frozenset[str]) -> None:
    """Take what only people read out of a tree, in place; strings for ``checks`` only word errors."""
    for node in ast.walk(tree):
        for block in ("body", "orelse", "finalbody"):
            if isinstance(lines := getattr(node, block, None), list) and lines:
                bare = [_without_hint(line, node) for line in lines if not _is_prose(line)]
                setattr(node, block, bare or [ast.Pass()])
        if isinstance(node, FUNCTION):
            node.returns = None
            for value in _only_in_errors(node):
                _remove_words(value)
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.Raise):
            if isinstance(node.exc, ast.Call) and any(map(_is_string, ast.walk(node.exc))):
                node.exc = node.exc.func  # other arguments may be more than words
            node.cause = None
        elif isinstance(node, ast.Assert):
            node.msg = None
        elif isinstance(node, ast.Call) and {*_dotted(node.func)[-1:]} & (SPEAKING | checks):
            for argument in (*node.args, *node.keywords):
                _remove_words(argument)


def _remove_words(tree: ast.AST) -> None:
    """Empty every string of a tree, in place."""
    for node in filter(_is_string, ast.walk(tree)):
        node.value = ""


def _is_prose(line: ast.stmt) -> bool:
    return (isinstance(line, ast.Expr) and _is_string(line.value)) or getattr(line, "name", "") == "__repr__"


def _without_hint(line: ast.stmt, place: ast.AST) -> ast.stmt:
    """A statement without its type hint; in a class the hint stays as ``None``, because it makes a name a field."""
    if isinstance(line, ast.AnnAssign):
        line.annotation = ast.Constant(None)
        if line.value and not isinstance(place, ast.ClassDef):
            return ast.copy_location(ast.Assign([line.target], line.value), line)
    return line


def _only_in_errors(function: ast.AST) -> Iterator[ast.expr]:
    """What is assigned to variables that nobody reads but a ``raise``."""
    nodes = list(ast.walk(function))
    said = {part for node in nodes if isinstance(node, ast.Raise) for part in ast.walk(node)}
    read = [node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    heard = {node.id for node in read if node in said} - {node.id for node in read if node not in said}
    for node in nodes:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if isinstance(node, ast.Assign | ast.AnnAssign) and {getattr(each, "id", "") for each in targets} <= heard:
            yield node.value or ast.Constant(None)


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _dotted(node: ast.AST) -> tuple[str, ...]:
    """``a.b.c`` as its names; empty where it does not begin with a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return (node.id, *names) if isinstance(node, ast.Name) else ()


def _checksum(*texts: str) -> str:
    return hashlib.sha256("\n\n".join(texts).encode()).hexdigest()[:24]
