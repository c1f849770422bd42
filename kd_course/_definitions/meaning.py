"""What a function means: its own definition and every definition it can reach, without what only people read.

Two versions of a program mean the same here if they differ only in comments, docstrings, type hints, in what errors,
prints and ``repr`` say, or in the file that holds a definition. From each definition, names are followed to what they
stand for now: functions and classes of this package and of whoever wrote the function, by their source; constants of a
file, by the statements that define them; values of a notebook, by what they say of themselves. What is installed counts
by its name.

Not seen are names made up at run time, the insides of objects, and what :mod:`kd_course._definitions.sources` says of
files. The text is that of ``ast.unparse``, which from Python 3.12 on writes the quotes within an f-string differently.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cached_property, partial
from numbers import Number
from types import FunctionType, MethodType, ModuleType

from kd_course._definitions.sources import PACKAGE, code_of, file_of, is_installed, methods_of, nodes_of

VALIDATION = f"{PACKAGE}._validation"  # its functions get strings to word their errors with
LOADERS = {f"{PACKAGE}.data.{name}" for name in ("load", "mnist", "digits")}  # the checksum of the data stands for them
PLAIN = (Number, str, bytes, type(None), Enum)
CONTAINERS = (dict, list, tuple, set, frozenset, partial, property, cached_property, MethodType)


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
        if definition.key in found:
            continue
        found[definition.key] = definition
        for targets in definition.links.values():
            queue += targets
        for name, method in definition.methods():
            (queue if name in named else unnamed[name]).append(method)
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
        self.code = code_of(node, frozenset(checks), wordless=scope.get("__name__") == VALIDATION)
        self.text, self.words = owner + self.code.text, self.code.words

    def methods(self) -> Iterator[tuple[str, Definition]]:
        """What counts only if it is named."""
        for method in methods_of(self.node):
            yield method.name, Definition(method, self.scope, owner=f"{self.node.name}: ")

    @cached_property
    def links(self) -> dict[str, list[Definition | Value]]:
        """What each dotted name that comes from outside stands for."""
        imported = self.code.imported(self.scope)
        scope, outside = self.scope | imported, self.code.outside | imported.keys()
        return {".".join(names): _look_up(scope, *names) for names in self.code.dotted if names[0] in outside}


class Value:
    """A value that no file of ours defines: what it says of itself, and what it holds."""

    words: frozenset[str] = frozenset()

    def __init__(self, text: str, *parts: object) -> None:
        self.text = re.sub(r" at 0x\w+", "", text)
        self.parts = [part for part in parts if not isinstance(part, PLAIN)]
        self.key = (self.text, *map(id, self.parts))

    def methods(self) -> tuple:
        """None: they are among the parts of a class."""
        return ()

    @cached_property
    def links(self) -> dict[str, list[Definition | Value]]:
        """What the parts stand for."""
        return {str(number): _stands_for(part) for number, part in enumerate(self.parts)}


def _look_up(scope: dict[str, object], first: str, *rest: str) -> list[Definition | Value]:
    """What a dotted name stands for: nothing, if it is a builtin; all that is in a module, if nothing shows what."""
    if first not in scope or first.startswith("__"):
        return []
    value, file = scope[first], file_of(scope.get("__name__"))
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
    if module in LOADERS:
        return [Value(f"{module}.{name}")]
    if is_installed(module):
        return [Value(f"{module.partition('.')[0]}.{name}")]  # libraries move things between their files
    if isinstance(value, FunctionType):
        nodes, closed = nodes_of(value), zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        if not nodes:
            raise OSError(f"{value!r} has no source, or one that was edited since Python read it; reload {module}")
        scope = value.__globals__ | {variable: cell.cell_contents for variable, cell in closed}
        return [Definition(node, scope, value.__closure__) for node in nodes]
    if (file := file_of(module)) and file.scope.get(name) is value and name in file.table:
        return [Definition(node, file.scope) for node in file.table[name]]
    own = {name: each for name, each in vars(value).items() if not name.startswith("__") or nodes_of(each)}
    return [Value(f"{name} {own}", *value.__bases__, *own.values())]


def _checksum(*texts: str) -> str:
    return hashlib.sha256("\n\n".join(texts).encode()).hexdigest()[:24]
