"""Point every badge, bootstrap cell and link of the course at another repository: ``make fork SLUG=you/your-repo``.

The address of the repository lives in ``[project.urls]`` of ``pyproject.toml``. This command reads the old one there
and rewrites each link to it in the files of this folder, ``pyproject.toml`` last, so that an interrupted run can be
repeated. It needs only Python.
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("*", "binder/*", "data/*", "notebooks/**/*", "kd_course/**/*", "tools/*", ".github/**/*")
SUFFIXES = {".cff", ".ipynb", ".md", ".py", ".toml", ".yml", ""}
HOSTS = ("github.com", "colab.research.google.com/github", "mybinder.org/v2/gh")
SLUG = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9])*/(?!\.{1,2}$)[\w.-]+(?<!\.git)", re.ASCII)


def main(arguments: list[str]) -> None:
    """Rewrite all links to the slug, which must be the only argument, and print what changed."""
    if len(arguments) != 1 or not SLUG.fullmatch(arguments[0]):
        given = " ".join(arguments).strip()
        sys.exit(f"expected owner/name, not {given!r}; for example: make fork SLUG=you/your-repo")
    new, old = arguments[0], current()
    if new == old:
        sys.exit(f"the course already points at {old}; nothing to do")
    for path in files():
        text = path.read_bytes().decode("utf-8", "surrogateescape")  # so that other bytes stay what they are
        rewritten, count = rewrite(text, old, new)
        if count:
            unfinished = path.with_name(f".{path.name}.unfinished")
            try:  # the file is whole at every moment
                unfinished.write_bytes(rewritten.encode("utf-8", "surrogateescape"))
                shutil.copymode(path, unfinished)
                unfinished.replace(path)
            except OSError as error:
                unfinished.unlink(missing_ok=True)
                sys.exit(f"{path} could not be written ({error}); make room, and run this again")
            print(f"{path.relative_to(ROOT)}: {count} link{'s' if count > 1 else ''}")
    print(f"{old} is now {new}. Look at 'git diff', then commit.")


def current() -> str:
    """The repository's owner/name, as given in ``pyproject.toml``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix("https://github.com/")


def rewrite(text: str, old: str, new: str) -> tuple[str, int]:
    """``text`` with every link to ``old`` replaced by one to ``new``, and how many there were.

    >>> rewrite("see https://github.com/a/b, not https://github.com/a/bc", "a/b", "me/mine")
    ('see https://github.com/me/mine, not https://github.com/a/bc', 1)
    """
    hosts = "|".join(re.escape(host) for host in HOSTS)
    ends = r"(?=\.git\b|(?!\.?[\w-]))"  # a full stop may end a sentence, but not when the name goes on after it
    return re.subn(rf"((?:{hosts})/){re.escape(old)}{ends}", rf"\g<1>{new}", text)


def files() -> Iterator[Path]:
    """The text files that may hold links, ``pyproject.toml`` last."""
    found = {path for place in PLACES for path in ROOT.glob(place) if path.is_file() and path.suffix in SUFFIXES}
    caches = {"__pycache__", ".ipynb_checkpoints"}
    last = ROOT / "pyproject.toml"
    yield from sorted(path for path in found - {last} if not caches & set(path.parts))
    yield last


if __name__ == "__main__":
    main(sys.argv[1:])
