"""Where source code stands, and what is in it: files, functions, the names that a statement takes from elsewhere.

A file is read once for every time that Python loads its module: as ever, reload what you edited, or start Python again.
(An edit between the import of a file and the first look at it here goes unseen, unless it moves a function.)
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import inspect
import linecache
import symtable
import sys
from collections import defaultdict
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType

from kd_course._definitions.prose import dotted, is_string, remove_prose, remove_words

PACKAGE = __name__.partition(".")[0]
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


class File:
    """A file of ours: its text, and by name the statements that define what is in it."""

    def __init__(self, module: ModuleType) -> None:
        self.spec, self.scope = module.__spec__, vars(module)
        self.text = Path(self.spec.origin).read_text(encoding="utf-8")
        self.table: dict[str, list[ast.stmt]] = defaultdict(list)
        for statement in _parsed(self.text).body:
            for name in _defined(statement):
                self.table[name].append(statement)


_files: dict[str, File] = {}


def file_of(module: str | None) -> File | None:
    """The file of a module that is loaded; None if it has none, or is installed."""
    spec = getattr(sys.modules.get(module or ""), "__spec__", None)
    if is_installed(module) or not str(getattr(spec, "origin", None)).endswith(".py"):
        return None
    if module not in _files or _files[module].spec is not spec:
        _files[module] = File(sys.modules[module])
    return _files[module]


@lru_cache
def is_installed(module: str | None) -> bool:
    """Whether a module belongs to the standard library, or to an installed package other than this one."""
    top = (module or "__main__").partition(".")[0]
    if top in (PACKAGE, "__main__"):
        return False
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # somebody made a module by hand
        spec = None
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


def nodes_of(function: object) -> list[ast.AST]:
    """A function's nodes (of lambdas on one line: all); none if there is no source, as for what a dataclass makes."""
    function = inspect.unwrap(function)
    if not isinstance(function, FunctionType):
        return []
    code, file = function.__code__, file_of(function.__module__)
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


@lru_cache(maxsize=1024)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def methods_of(node: ast.AST) -> list[ast.AST]:
    """The methods of a class that nobody calls but by their name: all without ``__``, unless the class inherits."""
    if not isinstance(node, ast.ClassDef) or node.bases or node.keywords:
        return []
    return [each for each in node.body if isinstance(each, FUNCTION) and not each.name.startswith("__")]


class Code:
    """A statement without its prose, and without the methods of :func:`methods_of`; read it with :func:`code_of`.

    Attributes:
        text: as Python would write it.
        words: what stands behind a dot or in a string, and so might be a method's name.
        dotted: the names in it, each with the attributes behind it.
        outside: those names that it takes from its surroundings.
    """

    def __init__(self, node: ast.AST, checks: frozenset[str], *, wordless: bool) -> None:
        apart, node = methods_of(node), copy.copy(node)
        if apart:
            node.body = [each for each in node.body if each not in apart] or [ast.Pass()]
        tree = ast.Module([copy.deepcopy(node) if isinstance(node, ast.stmt) else ast.Expr(copy.deepcopy(node))], [])
        remove_prose(tree, checks)
        if wordless:
            remove_words(tree)
        nodes = list(ast.walk(tree))
        attributes = [each for each in nodes if isinstance(each, ast.Attribute)]
        inner = {each.value for each in attributes}
        self.text = ast.unparse(tree)
        self.words = {each.attr for each in attributes} | {each.value for each in nodes if is_string(each)}
        self.dotted = {dotted(each) for each in nodes if each not in inner} - {()}
        self.outside = _globals(symtable.symtable(self.text, "", "exec"))
        self._imports = [each for each in nodes if isinstance(each, ast.Import | ast.ImportFrom)]

    def imported(self, scope: dict[str, object]) -> dict[str, object]:
        """What the imports within a function bring in from files of ours."""
        found = {name: scope.get(name) for name in ("__name__", "__package__")}
        for node in self._imports:
            origin = getattr(node, "module", None) or node.names[0].name
            top = PACKAGE if getattr(node, "level", 0) else origin.partition(".")[0]
            if not is_installed(top):
                with suppress(ImportError):
                    exec(compile(ast.Module([node], []), "import", "exec"), found)
        return {name: value for name, value in found.items() if not name.startswith("__")}


code_of = lru_cache(maxsize=4096)(Code)


def _globals(table: symtable.SymbolTable) -> set[str]:
    """The names that a piece of code takes from its surroundings."""
    at_top = table.get_type() == "module"
    symbols = [symbol for symbol in table.get_symbols() if symbol.is_referenced() and (at_top or symbol.is_global())]
    return {symbol.get_name() for symbol in symbols}.union(*map(_globals, table.get_children()))
