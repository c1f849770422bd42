"""What changes the meaning of a function and what does not: in small modules, in a notebook, in this package."""

from __future__ import annotations

import ast
import importlib
import linecache
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import kd_course
from kd_course._definitions import meaning, reachable

# Small modules: a recipe, what it uses, and what it does not.

PROGRAM = {
    "recipe_module": '''
"""Prose about the module."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import helper_package.shapes
import helper_package.shapes as S
from helper_package import exported, schedule
from helper_package.stars import *
from math import sin as wave

if TYPE_CHECKING:
    from collections.abc import Mapping

RATE = 0.5
TABLE = {"double": lambda x: 2 * x, "shift": partial(schedule, by=3)}
TABLE["late"] = schedule
TABLE.update(more=lambda x: x + 7)
FACTOR = 2
FACTOR *= 5
WORDS = "Cannot do it: "
try:
    import missing_library
except ImportError:
    missing_library = None


@lru_cache(maxsize=4)
def cached(x: float) -> float:
    return x + 11


def unused(x):
    return RATE - x


def shadowed(x):
    return x


def recursive(n):
    return 0 if n == 0 else 1 + other(n - 1)


def other(n):
    return recursive(n)


def default(x, *, scale=RATE):
    return scale * x


def recipe(data: list, seed: int, *, alpha: float = 0.5) -> Mapping[str, float]:
    """Prose about the recipe."""
    # a remark
    from helper_package.local import within

    if seed < 0:
        advice = f"try {abs(seed)}"
        raise ValueError(WORDS + f"seed {seed} is below 0; {advice}")
    shadowed: float = 1.0

    def inner(x: float) -> float:
        """Prose about the inner function."""
        return TABLE["double"](x) + shadowed

    print(f"seed {seed}")
    assert alpha >= 0, "alpha must not be below 0"
    network = S.Network(4)
    total = inner(alpha) + exported(seed) + helper_package.shapes.area(2) + starred(3) + within(1)
    return {"errors": total + FACTOR + cached(1.0) + recursive(2) + default(1) + network.forward(1) + wave(0) + math.pi}
''',
    "helper_package/__init__": "from .losses import loss as exported, schedule\n",
    "helper_package/losses": """
from ._checks import at_least

def loss(x):
    return inside(x) + 1

def inside(x):
    return at_least(x, 3) * 2

def schedule(x, by=1):
    return x - by

def apart(x):
    return x / 2
""",
    "helper_package/_checks": """
def at_least(value, least):
    if value < least:
        raise ValueError(f"{value} is below {least}")
    return value
""",
    "helper_package/shapes": '''
from dataclasses import dataclass, field

class Base:
    def forward(self, x):
        return self.hook(x)
    def hook(self, x):
        return x

class Network(Base):
    """Prose about the network."""
    width = 3
    def __init__(self, size):
        self.size = size
    def hook(self, x):
        return Point(x, self.size).norm + self.width

@dataclass(frozen=True)
class Point:
    x: float
    y: float = 0.0
    names: list = field(default_factory=list)
    def __repr__(self):
        return f"a point at {self.x}"
    @property
    def norm(self) -> float:
        return abs(self.x) + self.y
    @classmethod
    def origin(cls):
        return cls(0, 0)

def area(x):
    return x**2
''',
    "helper_package/stars": "def starred(x):\n    return x * 13\n",
    "helper_package/local": "LIMIT = 17\n\ndef within(x):\n    return min(x, LIMIT)\n",
}

SAME = {
    "a docstring": ("recipe_module", '"""Prose about the recipe."""', '"""Other words."""'),
    "no docstring": ("recipe_module", '    """Prose about the inner function."""\n', ""),
    "a module's docstring": ("recipe_module", '"""Prose about the module."""', ""),
    "a class's docstring": ("helper_package/shapes", "Prose about the network", "Other words"),
    "a comment": ("recipe_module", "# a remark", "# two remarks"),
    "line breaks": ("recipe_module", "RATE = 0.5", "\n\nRATE = (\n    0.5\n)"),
    "a type hint of an argument": ("recipe_module", "data: list,", "data: dict[str, int],"),
    "a type hint of a variable": ("recipe_module", "shadowed: float = 1.0", "shadowed = 1.0"),
    "a type hint of a field": ("helper_package/shapes", "    x: float\n", "    x: int | None\n"),
    "what is imported for hints": ("recipe_module", "import Mapping\n", "import Mapping, Sequence\n"),
    "an error": ("recipe_module", "is below 0; {advice}", "should not be negative: {advice}"),
    "what an error interpolates": ("recipe_module", "seed {seed} is below", "{seed!r} is below"),
    "words put together for an error": ("recipe_module", 'f"try {abs(seed)}"', 'f"take {abs(seed)} instead"'),
    "a constant that only errors use": ("recipe_module", '"Cannot do it: "', '"No: "'),
    "an error in another file": ("helper_package/_checks", "is below", "must not be below"),
    "an assertion's words": ("recipe_module", "alpha must not be below 0", "alpha >= 0"),
    "what is printed": ("recipe_module", 'f"seed {seed}"', 'f"this is seed {seed}"'),
    "a repr": ("helper_package/shapes", "a point at", "the point"),
    "a function that nobody calls": ("recipe_module", "RATE - x", "RATE + x"),
    "a function with the name of a variable": ("recipe_module", "def shadowed(x):\n    return x", "def shadowed(x): 1"),
    "a new function": ("recipe_module", "def unused", "def new():\n    return 1\n\n\ndef unused"),
    "a function elsewhere that nobody calls": ("helper_package/losses", "x / 2", "x / 3"),
    "a method that nobody names": ("helper_package/shapes", "cls(0, 0)", "cls(1, 1)"),
    "a new method": (
        "helper_package/shapes",
        "    @classmethod",
        "    def new(self):\n        return 1\n    @classmethod",
    ),
    "an import that nobody uses": ("recipe_module", "import math\n", "import math\nimport json\n"),
}
CHANGES = {
    "an operator": ("recipe_module", "inner(alpha) + exported", "inner(alpha) - exported"),
    "an option's default": ("recipe_module", "alpha: float = 0.5", "alpha: float = 0.6"),
    "a condition": ("recipe_module", "seed < 0", "seed <= 0"),
    "the class of an error": ("recipe_module", "raise ValueError(WORDS", "raise KeyError(WORDS"),
    "what an assertion asks": ("recipe_module", "assert alpha >= 0", "assert alpha > 0"),
    "what is done while printing": ("recipe_module", 'print(f"seed {seed}")', "print(data.pop())"),
    "a nested function": ("recipe_module", "(x) + shadowed", "(x) - shadowed"),
    "a lambda in a table": ("recipe_module", "2 * x", "3 * x"),
    "a partial in a table": ("recipe_module", "by=3", "by=4"),
    "what is put into a table": ("recipe_module", 'TABLE["late"] = schedule', 'TABLE["late"] = wave'),
    "what a table is updated with": ("recipe_module", "x + 7", "x + 8"),
    "a constant that is changed": ("recipe_module", "FACTOR *= 5", "FACTOR *= 6"),
    "a constant in a default": ("recipe_module", "RATE = 0.5", "RATE = 0.4"),
    "a decorator": ("recipe_module", "maxsize=4", "maxsize=5"),
    "a decorated function": ("recipe_module", "x + 11", "x + 12"),
    "a function called in turn": ("recipe_module", "return recursive(n)", "return recursive(n) + 0"),
    "an alias of an import": ("helper_package/__init__", "loss as exported", "apart as exported"),
    "an import of the standard library": ("recipe_module", "sin as wave", "cos as wave"),
    "an attribute of a library": ("recipe_module", "math.pi", "math.e"),
    "a function behind a relative import": ("helper_package/losses", "inside(x) + 1", "inside(x) + 2"),
    "a function behind that": ("helper_package/losses", "at_least(x, 3) * 2", "at_least(x, 3) * 3"),
    "a check": ("helper_package/_checks", "value < least", "value <= least"),
    "a function behind two dots": ("helper_package/shapes", "x**2", "x**3"),
    "a function behind a star": ("helper_package/stars", "x * 13", "x * 14"),
    "a constant behind an import in a function": ("helper_package/local", "LIMIT = 17", "LIMIT = 18"),
    "a method": ("helper_package/shapes", ".norm + self.width", ".norm - self.width"),
    "an inherited method": ("helper_package/shapes", "self.hook(x)", "self.hook(x) + 1"),
    "a constant of a class": ("helper_package/shapes", "width = 3", "width = 4"),
    "__init__": ("helper_package/shapes", "self.size = size", "self.size = size + 1"),
    "the base": ("helper_package/shapes", "class Network(Base)", "class Network(Base, object)"),
    "a property": ("helper_package/shapes", "abs(self.x) + self.y", "abs(self.x) - self.y"),
    "a field's default": ("helper_package/shapes", "y: float = 0.0", "y: float = 1.0"),
    "whether it is a field": ("helper_package/shapes", "y: float = 0.0", "y = 0.0"),
    "a decorator's option": ("helper_package/shapes", "frozen=True", "frozen=False"),
}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], ModuleType]]:
    """Writes the files of a program and imports the first one as Python does at a fresh start."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file edited twice in a second would not be read again

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("recipe_module", "helper_package")]:
            del sys.modules[name]

    def load(files: dict[str, str]) -> ModuleType:
        forget()
        for name, text in files.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        return importlib.import_module(next(iter(files)))

    yield load
    forget()


def edited(files: dict[str, str], name: str, old: str, new: str) -> dict[str, str]:
    assert files[name].count(old) == 1, f"{old!r} must occur once"
    return files | {name: files[name].replace(old, new)}


def test_the_program_runs_and_its_meaning_is_the_same_every_time(load: Callable) -> None:
    first = load(PROGRAM)
    assert first.recipe([], 3)["errors"] > 0
    before = meaning(first.recipe)
    assert before == meaning(first.recipe) == meaning(load(PROGRAM).recipe)
    assert len(before) == 24


@pytest.mark.parametrize("edit", SAME)
def test_the_meaning_stays_when_only_this_changes(edit: str, load: Callable) -> None:
    before = meaning(load(PROGRAM).recipe)
    after = load(edited(PROGRAM, *SAME[edit]))
    assert after.recipe([1], 3)["errors"] > 0
    assert meaning(after.recipe) == before


@pytest.mark.parametrize("edit", CHANGES)
def test_the_meaning_changes_with(edit: str, load: Callable) -> None:
    before = meaning(load(PROGRAM).recipe)
    assert meaning(load(edited(PROGRAM, *CHANGES[edit])).recipe) != before


def test_a_definition_may_move_to_another_file(load: Callable) -> None:
    before = meaning(load(PROGRAM).recipe)
    inside = "def inside(x):\n    return at_least(x, 3) * 2\n"
    moved = edited(PROGRAM, "helper_package/losses", inside, "from .moved import inside\n")
    moved = {"recipe_module": moved.pop("recipe_module"), **moved}
    moved["helper_package/moved"] = "from ._checks import at_least\n" + inside
    assert meaning(load(moved).recipe) == before


def test_two_functions_that_use_each_other_differ_in_meaning(load: Callable) -> None:
    module = load(PROGRAM)
    assert meaning(module.recursive) != meaning(module.other)


def test_what_a_name_stands_for_counts_and_not_only_what_is_reached(load: Callable) -> None:
    source = "from helper_package.two import a as first, b as second\n\n"
    source += "def recipe(data, seed):\n    return first(second(seed))\n"
    two = "def a(x):\n    return x + 1\n\ndef b(x):\n    return x * 2\n"
    files = {"recipe_module": source, "helper_package/__init__": "", "helper_package/two": two}
    swapped = edited(files, "recipe_module", "a as first, b as second", "b as first, a as second")
    assert meaning(load(files).recipe) != meaning(load(swapped).recipe)


def test_a_module_that_is_handed_on_counts_as_a_whole(load: Callable) -> None:
    source = "from helper_package import two\n\ndef recipe(data, seed):\n    return getattr(two, 'a')(seed)\n"
    files = {
        "recipe_module": source,
        "helper_package/__init__": "",
        "helper_package/two": "def a(x):\n    return x + 1\n",
    }
    assert meaning(load(files).recipe) != meaning(load(edited(files, "helper_package/two", "x + 1", "x + 2")).recipe)


def test_methods_of_what_a_function_is_given_count_by_their_name(load: Callable) -> None:
    source = "class Given:\n    def a(self):\n        return 1\n    def b(self):\n        return 2\n\n"
    source += "def recipe(data, seed):\n    return data.a()\n"
    files = {"recipe_module": source}

    def of(module: ModuleType) -> str:
        return meaning(module.recipe, module.Given)

    before = of(load(files))
    assert of(load(edited(files, "recipe_module", "return 2", "return 3"))) == before
    assert of(load(edited(files, "recipe_module", "return 1", "return 3"))) != before
    named = edited(files, "recipe_module", "data.a()", "getattr(data, 'b')()")
    assert of(load(named)) != of(load(edited(named, "recipe_module", "return 2", "return 3")))


def test_a_file_counts_as_it_was_when_its_module_was_loaded(load: Callable, tmp_path: Path) -> None:
    module = load(PROGRAM)
    before = meaning(module.recipe)
    path = tmp_path / "recipe_module.py"
    path.write_text(PROGRAM["recipe_module"].replace("FACTOR *= 5", "FACTOR *= 6"), encoding="utf-8")
    assert meaning(module.recipe) == before  # the old code is what runs
    importlib.reload(module)
    assert meaning(module.recipe) != before
    path.write_text(PROGRAM["recipe_module"], encoding="utf-8")
    importlib.reload(module)
    assert meaning(module.recipe) == before


def test_a_file_that_is_not_what_was_loaded_is_refused(load: Callable, tmp_path: Path) -> None:
    module = load(PROGRAM)
    (tmp_path / "recipe_module.py").write_text("\n\n" + PROGRAM["recipe_module"], encoding="utf-8")
    with pytest.raises(OSError, match=r"recipe at .* edited since .* reload recipe_module"):
        meaning(module.recipe)


# Cells of a notebook: no file, only values and the text of each cell.


@pytest.fixture
def cell() -> Iterator[Callable[[str, dict], dict]]:
    """Runs a cell in a namespace as IPython does, which keeps the text of every cell for tracebacks."""
    names = []

    def cell(source: str, namespace: dict) -> dict:
        source = textwrap.dedent(source).lstrip("\n")
        names.append(f"/tmp/ipykernel_test/{len(names)}.py")
        linecache.cache[names[-1]] = (len(source), None, source.splitlines(keepends=True), names[-1])
        namespace["__name__"] = "__main__"
        exec(compile(source, names[-1], "exec"), namespace)
        return namespace

    yield cell
    for name in names:
        del linecache.cache[name]


NOTEBOOK = '''
import math
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property, partial

from kd_course.losses import kd_loss

ALPHA = 0.9
OPTIONS = {"rate": [0.1, 0.2], "shape": (3, 4)}
SCALES = [lambda x: 2 * x]


class Mode(Enum):
    FAST = 1


@dataclass
class Config:
    width: int = 5


CONFIG = Config()


def power(exponent):
    def raised(x):
        return x**exponent

    return raised


square = power(2)


class Base:
    def forward(self, x):
        return x + 31


class Network(Base):
    """Prose."""

    depth = 6

    def __init__(self):
        self.extra = Network.depth

    @property
    def double(self):
        return 2 * self.extra

    @staticmethod
    def third(x):
        return x / 3

    @cached_property
    def fourth(self):
        return self.extra / 4


@cache
def cached(x):
    return x + 8


def helper(x):
    """Prose."""
    if x < 0:
        raise ValueError(f"{x} is below 0")
    return math.sin(x) + SCALES[0](x) + add_nine(x)


def add(x, by):
    return x + by


add_nine = partial(add, by=9)


def recipe(data, seed):
    network = Network()
    total = helper(seed) + square(seed) + cached(1) + network.forward(1) + network.double + network.third(3)
    total += ALPHA + OPTIONS["rate"][0] + CONFIG.width + Mode.FAST.value
    return {"errors": total, "arguments": kd_loss.__code__.co_argcount}
'''
CELL_CHANGES = [
    ("ALPHA = 0.9", "ALPHA = 0.8"),
    ("[0.1, 0.2]", "[0.1, 0.3]"),
    ("2 * x]", "3 * x]"),
    ("FAST = 1", "FAST = 2"),
    ("width: int = 5", "width: int = 6"),
    ("CONFIG = Config()", "CONFIG = Config(7)"),
    ("x**exponent", "x**-exponent"),
    ("power(2)", "power(3)"),
    ("x + 31", "x + 32"),
    ("depth = 6", "depth = 7"),
    ("self.extra = Network.depth", "self.extra = -Network.depth"),
    ("2 * self.extra", "3 * self.extra"),
    ("x / 3", "x / 4"),
    ("self.extra / 4", "self.extra / 5"),
    ("x + 8", "x + 9"),
    ("math.sin(x)", "math.cos(x)"),
    ("x + by", "x - by"),
    ("by=9", "by=10"),
    ("x < 0", "x <= 0"),
    ("import kd_loss", "import dkd_loss as kd_loss"),
]


@pytest.mark.parametrize(("old", "new"), CELL_CHANGES)
def test_in_a_notebook_every_part_of_a_recipe_counts(old: str, new: str, cell: Callable) -> None:
    assert NOTEBOOK.count(old) == 1
    before, after = cell(NOTEBOOK, {}), cell(NOTEBOOK.replace(old, new), {})
    assert after["recipe"]([], 3)
    assert meaning(before["recipe"]) != meaning(after["recipe"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("is below 0", "must not be below 0"),
        ('def helper(x):\n    """Prose."""', "def helper(x: float) -> float:\n    # a remark"),
        ("ALPHA = 0.9", "\n\nALPHA = 0.9\nBETA = 0.1"),
    ],
)
def test_and_prose_does_not(old: str, new: str, cell: Callable) -> None:
    assert NOTEBOOK.count(old) == 1
    before, after = cell(NOTEBOOK, {}), cell(NOTEBOOK.replace(old, new), {})
    assert meaning(before["recipe"]) == meaning(after["recipe"])


def test_a_cell_that_is_run_again_counts_as_it_is_now(cell: Callable) -> None:
    namespace = cell("def helper(x):\n    return x + 1\n", {})
    cell("def recipe(data, seed):\n    return {'errors': helper(seed)}\n", namespace)
    before = meaning(namespace["recipe"])
    cell("# moved\n\ndef helper(x):\n    return x + 1\n", namespace)
    assert meaning(namespace["recipe"]) == before
    cell("def helper(x):\n    return x + 2\n", namespace)
    assert meaning(namespace["recipe"]) != before


def test_a_notebook_imports_a_helper_from_a_file(cell: Callable, load: Callable) -> None:
    source = "import recipe_module\n\ndef own(data, seed):\n    return recipe_module.recipe(data, seed)\n"
    meanings = set()
    for files in (PROGRAM, edited(PROGRAM, *CHANGES["a check"]), edited(PROGRAM, *SAME["an error in another file"])):
        load(files)
        meanings.add(meaning(cell(source, {})["own"]))
    assert len(meanings) == 2


def test_functions_that_refer_to_each_other_and_values_that_hold_themselves_come_to_an_end(cell: Callable) -> None:
    source = """
    class Node:
        first = None

        def again(self):
            return recipe(self, 0)

    Node.first = Node()
    LOOP = [1]
    LOOP.append(LOOP)

    def recipe(data, seed):
        return Node.first or LOOP or recipe
    """
    namespace = cell(source, {})
    assert len(meaning(namespace["recipe"])) == 24


def test_a_function_without_source_is_refused(cell: Callable) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def hidden(x):\n    return x\n", namespace)
    cell("def recipe(data, seed):\n    return hidden(seed)\n", namespace)
    for name in ("hidden", "recipe"):
        with pytest.raises(OSError, match=r"hidden at .* has no source"):
            meaning(namespace[name])


def test_in_a_real_ipython_session(package_environment: dict[str, str]) -> None:
    session = """
    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell.instance()
    def run(source):
        shell.run_cell(source, store_history=True).raise_error()
        return shell.user_ns
    run("class Network:\\n    def forward(self, x):\\n        return x + 1\\n")
    run("RATE = 0.1\\n\\ndef helper(x):\\n    return Network().forward(x) * RATE\\n")
    run("%matplotlib --list\\n\\ndef recipe(data, seed):\\n    return {'errors': helper(seed)}\\n")
    run("from kd_course._definitions import meaning\\nfirst = meaning(recipe)")
    run("class Network:\\n    def forward(self, x):\\n        return x + 2\\n")
    run("second = meaning(recipe)")
    run("RATE = 0.2")
    ns = run("third = meaning(recipe)")
    run("RATE = 0.1")
    run("class Network:\\n    '''Prose.'''\\n    def forward(self, x: float):\\n        return x + 1\\n")
    ns = run("fourth = meaning(recipe)")
    print("RESULT", len({ns["first"], ns["second"], ns["third"]}), ns["fourth"] == ns["first"])
    """
    command = [sys.executable, "-c", textwrap.dedent(session)]
    done = subprocess.run(command, env=package_environment, capture_output=True, text=True, check=False)
    assert "RESULT 3 True" in done.stdout, done.stdout + done.stderr


# This package: a copy, edited, and imported in the place of the original.


@contextmanager
def imported_from(folder: Path) -> Iterator[None]:
    """Within the block, ``kd_course`` is the package in ``folder``."""
    original = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "kd_course"}
    without_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    for name in original:
        del sys.modules[name]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "kd_course"]:
            del sys.modules[name]
        sys.modules.update(original)
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = without_bytecode


def keys_of_all_recipes(package: Path) -> dict[tuple[str, str], object]:
    """The key of every recipe of every study, when the package is imported from here."""
    with imported_from(package.parent):
        studies, memo = (importlib.import_module(f"kd_course.{name}") for name in ("studies", "memo"))
        assert Path(memo.__file__).parent == package
        recipes = {
            (name, recipe): made for name in studies.STUDIES for recipe, made in studies.study(name).recipes.items()
        }
        return {name: memo.cache_key(recipe, "data") for name, recipe in recipes.items()}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, to be edited."""
    target = tmp_path / "kd_course"
    shutil.copytree(Path(kd_course.__file__).parent, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], object]:
    """The keys of the package as it is."""
    target = tmp_path_factory.mktemp("original") / "kd_course"
    shutil.copytree(Path(kd_course.__file__).parent, target, ignore=shutil.ignore_patterns("__pycache__"))
    return keys_of_all_recipes(target)


class Reword(ast.NodeTransformer):
    """Other words in every docstring and in every string of a ``raise``; in a study, in all its sentences."""

    def __init__(self, *, sentences: bool) -> None:
        self.sentences, self.count = sentences, 0

    def _reworded(self, node: ast.AST, *, least: int) -> None:
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and len(part.value.split()) >= least:
                part.value = f"{part.value} In other words."
                self.count += 1

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant):
            self._reworded(node, least=0)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self._reworded(node, least=0)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if self.sentences:  # question, claims, limitations
            for argument in (*node.args, *node.keywords):
                self._reworded(argument, least=5)
        return self.generic_visit(node)


def test_no_word_of_the_package_is_in_the_key_of_a_recipe(package: Path, keys: dict) -> None:
    counts = {}
    for path in sorted(package.rglob("*.py")):
        reword = Reword(sentences=path.parent.name == "studies")
        tree = reword.visit(ast.parse(path.read_text(encoding="utf-8")))
        path.write_text(ast.unparse(tree) + "\n\ndef one_more():\n    return 42\n", encoding="utf-8")
        counts[path.relative_to(package).as_posix()] = reword.count
    assert counts["losses/response.py"] > 10
    assert counts["studies/pair.py"] > 10
    assert keys_of_all_recipes(package) == keys
    assert len(keys) > 80


def change_one_thing(path: Path, name: str) -> None:
    """Another operator, the first there is in the body of a definition (``Class.method``); if there is none, a line."""
    tree: Any = ast.parse(path.read_text(encoding="utf-8"))
    found = tree
    for part in name.split("."):
        (found,) = (node for node in found.body if getattr(node, "name", "") == part)
    operations = [node for node in ast.walk(ast.Module(found.body, [])) if isinstance(node, ast.BinOp)]
    if operations:
        operations[0].op = ast.Add() if isinstance(operations[0].op, ast.Sub) else ast.Sub()
    else:
        found.body.insert(1, ast.parse("changed = True").body[0])
    path.write_text(ast.unparse(tree), encoding="utf-8")


def with_students(study: str, recipe: str) -> bool:
    return study != "multi_teacher" or "student" in recipe


@pytest.mark.parametrize(
    ("file", "name", "uses_it"),
    [
        ("losses/response.py", "soft_target_loss", with_students),
        ("losses/relation.py", "_edges", lambda study, recipe: study == "league"),
        ("training.py", "fit", lambda study, recipe: True),
        ("models.py", "StudentNet", lambda study, recipe: study in ("pair", "league", "multi_teacher")),
        ("data/split.py", "Split.batches", lambda study, recipe: True),
        ("data/split.py", "Split.with_features", lambda study, recipe: study == "league"),
        ("evaluation/cost.py", "latency", lambda study, recipe: study == "multi_teacher"),
        ("ensembles.py", "disagreement", lambda study, recipe: False),
        ("plots.py", "use_course_style", lambda study, recipe: False),
        ("studies/omitted.py", "bias_by_prior", lambda study, recipe: study == "omitted"),
    ],
)
def test_a_change_of_the_package_changes_the_keys_of_the_recipes_that_use_it(
    file: str, name: str, uses_it: Callable[[str, str], bool], package: Path, keys: dict
) -> None:
    change_one_thing(package / file, name)
    after = keys_of_all_recipes(package)
    changed = {recipe for recipe in keys if after[recipe] != keys[recipe]}
    assert changed == {recipe for recipe in keys if uses_it(*recipe)}


def test_the_place_of_the_clone_is_in_no_key(keys: dict, package: Path) -> None:
    assert keys_of_all_recipes(package) == keys


def test_the_definitions_can_be_read(load: Callable) -> None:
    texts = {definition.text for definition in reachable(load(PROGRAM).recipe)}
    assert "def inside(x):\n    return at_least(x, 3) * 2" in texts
    assert "FACTOR *= 5" in texts
    assert "math.pi" in texts
    assert not any("def apart" in text or "Prose" in text for text in texts)
