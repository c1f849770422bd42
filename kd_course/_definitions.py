"""What a function means: its own definition and every definition it can reach, without what only people read.

Two versions of a program mean the same here if they differ only in comments, docstrings, type hints, in what errors,
prints and ``repr`` say, or in the file that holds a definition. From each definition, names are followed to what they
stand for now: functions and classes of this package and of whoever wrote the function, by their source; constants of a
file, by the statements that define them; values of a notebook, by what they say of themselves. What is installed counts
by its name.

A file is read once for every time that Python loads its module: as ever, reload what you edited, or start Python again.
Not seen are names made up at run time and the insides of objects. The text is that of ``ast.unparse``, which writes the
quotes inside an f-string differently from Python 3.12 on.
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
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import cached_property, lru_cache, partial
from numbers import Number
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import NamedTuple

PACKAGE, VALIDATION = __package__, f"{__package__}._validation"
SPEAKING = ("print", "warn")  # calls that only tell people something
PLAIN = (Number, str, bytes, type(None), Enum)
CONTAINERS = (dict, list, tuple, set, frozenset, partial, property, cached_property, MethodType)
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def meaning(function: Callable, *given: type) -> str:
    """A checksum of all code that decides what a function returns for given arguments.

    Args:
        function: made with ``def``.
        given: classes of its arguments; a method of theirs counts where its name is used.

    Raises:
        OSError: the source of the function, or of one that it uses, is not available.
    """
    lines = set()
    for definition in reachable(function, *given):
        links = [f"{name} = {_checksum(each.text)}" for name, found in definition.links().items() for each in found]
        lines.add("\n".join([definition.text, *sorted(links)]))
    return _checksum(*(each.text for each in _stands_for(function)), *sorted(lines))


def reachable(*roots: object) -> list[Definition]:
    """The definitions of functions and classes, and all that these use, directly or not."""
    queue = [definition for root in roots for definition in _stands_for(root)]
    found: dict[object, Definition] = {}
    named: set[str] = set()
    unnamed: dict[str, list[Definition]] = defaultdict(list)  # methods whose name nobody has used yet
    while queue:
        definition = queue.pop()
        if definition.key in found:
            continue
        found[definition.key] = definition
        for targets in definition.links().values():
            queue += targets
        for name, method in definition.methods():
            (queue if name in named else unnamed[name]).append(method)
        for name in definition.words - named:
            queue += unnamed.pop(name, [])
        named |= definition.words
    return list(found.values())


class Definition:
    """A statement that defines something, a function, a constant, a method or a class, and the names that it can see.

    A class that inherits has all its methods, because its base may call any of them. Of another class every ``__name__``
    counts, and each other method is a definition of its own, which counts once somebody uses its name.
    """

    def __init__(self, node: ast.AST, scope: dict[str, object], closure: object = None, owner: str = "") -> None:
        self.node, self.scope, self.key = node, scope, (id(node), scope.get("__name__"), id(closure))
        checks = (name for name, value in scope.items() if getattr(value, "__module__", None) == VALIDATION)
        self.code = _code(node, frozenset(checks), wordless=scope.get("__name__") == VALIDATION)
        self.text, self.words = owner + self.code.text, self.code.words

    def methods(self) -> Iterator[tuple[str, Definition]]:
        """What counts only if it is named."""
        for method in _apart(self.node):
            yield method.name, Definition(method, self.scope, owner=f"{self.node.name}: ")

    def links(self) -> dict[str, list[Definition | _Value]]:
        """What each dotted name that comes from outside stands for."""
        imported = _imported(self.code.imports, self.scope)
        scope, outside = self.scope | imported, self.code.outside | imported.keys()
        return {".".join(names): _look_up(scope, *names) for names in self.code.dotted if names[0] in outside}


class _Value:
    """A value that no file of ours defines: what it says of itself, and what it holds."""

    words: frozenset[str] = frozenset()

    def __init__(self, text: str, parts: Iterable[object] = ()) -> None:
        self.text = re.sub(r" at 0x\w+", "", text)
        self.parts = [part for part in parts if not isinstance(part, PLAIN)]
        self.key = (self.text, *map(id, self.parts))

    def methods(self) -> tuple:
        return ()

    def links(self) -> dict[str, list[Definition | _Value]]:
        return {str(number): _stands_for(part) for number, part in enumerate(self.parts)}


def _look_up(scope: dict[str, object], first: str, *rest: str) -> list[Definition | _Value]:
    """What a dotted name stands for: nothing, if it is a builtin; all that is in a module, if nothing shows what."""
    if first not in scope:
        return []
    value, file = scope[first], _file(scope.get("__name__"))
    if isinstance(value, ModuleType):
        inside = vars(value)
        if _installed(value.__name__):
            return [_Value(".".join([value.__name__, *rest]))]
        if rest and rest[0] in inside:
            return _look_up(inside, *rest)
        own = [name for name, each in inside.items() if name[:2] != "__" and not isinstance(each, ModuleType)]
        return [definition for name in own for definition in _look_up(inside, name)]
    if file and first in file.table and not isinstance(value, FunctionType | type):
        return [Definition(node, file.scope) for node in file.table[first]]
    return _stands_for(value)


def _stands_for(value: object) -> list[Definition | _Value]:
    """What a value stands for: the definition of a function or a class, and else the value itself."""
    value = inspect.unwrap(value)
    if isinstance(value, ModuleType):
        return _look_up({value.__name__: value}, value.__name__)
    if not isinstance(value, FunctionType | type):
        return [_Value(repr(value), gc.get_referents(value) if isinstance(value, CONTAINERS) else [type(value)])]
    module, name = value.__module__, value.__qualname__
    if _installed(module):
        return [_Value(f"{module}.{name}")]
    if isinstance(value, FunctionType):
        closed = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        scope = value.__globals__ | {name: cell.cell_contents for name, cell in closed}
        nodes = _source(value)
        if not nodes:
            raise OSError(f"the source of {value!r} is not what Python loaded, or not there; reload {module}")
        return [Definition(node, scope, value.__closure__) for node in nodes]
    if (file := _file(module)) and name in file.table:
        return [Definition(node, file.scope) for node in file.table[name]]
    own = {name: each for name, each in vars(value).items() if not name.startswith("__") or _source(each)}
    return [_Value(f"{name} {value.__bases__} {own}", [*value.__bases__, *own.values()])]


class _File:
    """A file of ours: its text, and the statements by what they define."""

    def __init__(self, module: ModuleType) -> None:
        self.spec, self.scope = module.__spec__, vars(module)
        self.text = Path(self.spec.origin).read_text(encoding="utf-8")
        self.table: dict[str, list[ast.stmt]] = defaultdict(list)
        for statement in _parsed(self.text).body:
            for name in _defined(statement):
                self.table[name].append(statement)


_files: dict[str, _File] = {}


def _file(name: str | None) -> _File | None:
    """The file of a module, read once for every time that the module is loaded; None, if it is not ours."""
    module = sys.modules.get(name or "")
    spec = getattr(module, "__spec__", None)
    if _installed(name) or not str(getattr(spec, "origin", None)).endswith(".py"):
        return None
    if name not in _files or _files[name].spec is not spec:
        _files[name] = _File(module)
    return _files[name]


@lru_cache
def _installed(module: str | None) -> bool:
    """Whether a module belongs to the standard library, or to an installed package other than this one."""
    top = (module or "").partition(".")[0]
    spec = getattr(sys.modules.get(top), "__spec__", None)
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    packages = any({"site-packages", "dist-packages"} & {*Path(place).parts} for place in places)
    return top != PACKAGE and (packages or top in sys.stdlib_module_names)


def _defined(statement: ast.stmt) -> set[str]:
    """The names that a statement at the top of a file defines or may change, functions and imports aside."""
    if isinstance(statement, (*FUNCTION, ast.ClassDef)):
        return {statement.name} if isinstance(statement, ast.ClassDef) else set()
    names: set[str | None] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Expr):
            names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}  # register(T), T.update(…)
        elif isinstance(getattr(node, "ctx", None), ast.Store):
            while isinstance(node, ast.Attribute | ast.Subscript):  # T["key"] = …
                node = node.value
            names.add(getattr(node, "id", None))
    return names - {None}


@lru_cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _source(function: object) -> list[ast.AST]:
    """The nodes of a function (of lambdas on one line: all); none where there is no source, as for generated code."""
    function = inspect.unwrap(function)
    if not isinstance(function, FunctionType):
        return []
    code, file = function.__code__, _file(function.__module__)
    loaded = file and file.spec.origin == code.co_filename
    return [
        node
        for node in ast.walk(_parsed(file.text if loaded else "".join(linecache.getlines(code.co_filename))))
        if isinstance(node, (*FUNCTION, ast.Lambda))
        and getattr(node, "name", "<lambda>") == code.co_name
        and min(each.lineno for each in (node, *getattr(node, "decorator_list", ()))) == code.co_firstlineno
    ]


def _apart(node: ast.AST) -> list[ast.AST]:
    """The methods of a class that count only if they are named."""
    if not isinstance(node, ast.ClassDef) or node.bases or node.keywords:
        return []
    return [each for each in node.body if isinstance(each, FUNCTION) and not each.name.startswith("__")]


def _imported(imports: Iterable[ast.Import | ast.ImportFrom], scope: dict[str, object]) -> dict[str, object]:
    """What imports within a function bring in from files of ours."""
    found = {name: scope.get(name) for name in ("__name__", "__package__")}
    for node in imports:
        origin = PACKAGE if getattr(node, "level", 0) else getattr(node, "module", None) or node.names[0].name
        if importlib.util.find_spec(origin.partition(".")[0]) and not _installed(origin):
            exec(compile(ast.Module([node], []), "import", "exec"), found)
    return {name: value for name, value in found.items() if name[:2] != "__"}


class _Code(NamedTuple):
    """What a statement says, and the names in it: behind dots or in strings, dotted, from outside, imported."""

    text: str
    words: frozenset[str]
    dotted: frozenset[tuple[str, ...]]
    outside: frozenset[str]
    imports: tuple[ast.Import | ast.ImportFrom, ...]


@lru_cache(maxsize=4096)
def _code(node: ast.AST, checks: frozenset[str], *, wordless: bool) -> _Code:
    """A statement without its prose and without the methods that count for themselves.

    Args:
        node: the statement.
        checks: functions whose strings only word errors.
        wordless: whether no string of the statement counts.
    """
    apart = _apart(node)
    node = copy.copy(node)
    if apart:
        node.body = [each for each in node.body if each not in apart]
    node = copy.deepcopy(node)
    _remove_prose(node, checks)
    if wordless:
        _remove_words(node)
    nodes = list(ast.walk(node))
    text = ast.unparse(node)
    dotted = {_dotted(each) for each in nodes} - {_dotted(each.value) for each in nodes if isinstance(each, ast.Attribute)}
    strings = {each.value for each in nodes if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    return _Code(
        text,
        frozenset(strings | {each.attr for each in nodes if isinstance(each, ast.Attribute)}),
        frozenset(dotted - {()}),
        frozenset(_globals(symtable.symtable(text, "", "exec"))),
        tuple(each for each in nodes if isinstance(each, ast.Import | ast.ImportFrom)),
    )


def _globals(table: symtable.SymbolTable) -> set[str]:
    """The names that a piece of code takes from its surroundings."""
    at_top = table.get_type() == "module"
    symbols = [symbol for symbol in table.get_symbols() if symbol.is_referenced() and (at_top or symbol.is_global())]
    return {symbol.get_name() for symbol in symbols}.union(*map(_globals, table.get_children()))


def _dotted(node: ast.AST) -> tuple[str, ...]:
    """``a.b.c`` as its names; empty where it does not begin with a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return (node.id, *names) if isinstance(node, ast.Name) else ()


def _checksum(*texts: str) -> str:
    return hashlib.sha256("\n\n".join(texts).encode()).hexdigest()[:24]


def _remove_prose(tree: ast.AST, checks: frozenset[str]) -> None:
    """Take out what people read and the machine does not."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTION):
            node.returns = None
            heard = _only_in_errors(node)
            for part in ast.walk(node):
                if isinstance(part, ast.Assign) and {getattr(target, "id", "") for target in part.targets} <= heard:
                    _remove_words(part.value)
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.Raise):
            if isinstance(node.exc, ast.Call) and any(_is_string(part) for part in ast.walk(node.exc)):
                node.exc = node.exc.func
            node.cause = None
        elif isinstance(node, ast.Assert):
            node.msg = None
        elif isinstance(node, ast.Call) and (_dotted(node.func) or ("",))[-1] in {*SPEAKING, *checks}:
            for argument in (*node.args, *node.keywords):
                _remove_words(argument)
        for block in ("body", "orelse", "finalbody"):
            if isinstance(lines := getattr(node, block, None), list) and lines:
                setattr(node, block, [line for line in lines if not _is_prose(line)] or [ast.Pass()])


def _is_prose(line: ast.stmt) -> bool:
    return (isinstance(line, ast.Expr) and _is_string(line.value)) or getattr(line, "name", "") == "__repr__"


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _only_in_errors(function: ast.AST) -> set[str]:
    """The variables that nobody reads but a ``raise``."""
    said = {part for node in ast.walk(function) if isinstance(node, ast.Raise) for part in ast.walk(node)}
    read = [node for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    return {node.id for node in read if node in said} - {node.id for node in read if node not in said}


def _remove_words(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if _is_string(node):
            node.value = ""
