"""The memory of :func:`kd_course.comparison.compare`: a finished run is kept in a file named after all that decides it.

That is the meaning of the recipe (:mod:`kd_course._definitions`), its options, the seed, the data and the version of
PyTorch. Rewording an error, adding a function or editing a docstring changes none of them, so it repeats no run;
changing a line that a recipe can reach does. What else was true of a run (its name, the checksum of the whole
package) is written beside it, and decides nothing.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock, Timeout

from kd_course._definitions import meaning
from kd_course.data import Data, Split


class Run(NamedTuple):
    """What one recipe returned for one seed, how long it took, and the checksum of the package that made it.

    The checksum is None where nobody wrote it down.
    """

    numbers: dict[str, float]
    seconds: float
    package: str | None = None


def cache_key(recipe: Callable, data_checksum: str) -> dict[str, object]:
    """All that decides the numbers of a recipe's runs but their seed, as plain values.

    Args:
        recipe: a function made with ``def``, its options fixed with ``functools.partial``.
        data_checksum: from :func:`fingerprint`.

    Raises:
        TypeError: an option that is not a plain value, or a recipe whose source does not tell what it does: a lambda, a
            function that closes over variables, an object.
        OSError: the source of the recipe, or of something that it uses, is not available.
    """
    options: dict[str, object] = {}
    while isinstance(recipe, partial):
        if recipe.args:
            raise TypeError(f"options of a cached recipe go by name, not {recipe.args!r}")
        options = {**recipe.keywords, **options}
        recipe = recipe.func
    if not inspect.isfunction(recipe) or recipe.__name__ == "<lambda>" or recipe.__closure__:
        raise TypeError(
            f"a cached recipe must be a function made with def that takes all it needs as options, not {recipe!r}: "
            "what a lambda, a closure or an object does is not in its source; fix options with functools.partial"
        )
    parameters = inspect.signature(recipe).parameters.values()
    options = {entry.name: entry.default for entry in parameters if entry.default is not entry.empty} | options
    try:
        json.dumps(options, sort_keys=True)
    except TypeError as error:
        raise TypeError(f"options of a cached recipe must be plain values ({error}): {options}") from None
    code = meaning(recipe, Data, Split)
    return {"meaning": code, "options": options, "data": data_checksum, "torch": torch.__version__}


def load_or_run(
    key: Mapping[str, object], work: Callable[[], Run], folder: Path, *, wait: bool, **provenance: object
) -> Run | None:
    """The run that ``key`` stands for (:func:`cache_key` and the seed): read from ``folder``, or done by ``work``.

    Without ``wait``, None is returned while another process is at this very run. What is given as ``provenance`` is
    written beside the run for a reader. Raises ``ValueError`` for a folder that cannot be written, and for a file that
    is not this run as it was written.
    """
    folder = writable(folder)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f"{name}.json"
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    try:
        if path.exists():
            return _read_run(path, key)
        run = work()._replace(package=package_checksum())
        content = {**provenance, **key, **run._asdict(), "checksum": ""}
        write_sealed(path, json.dumps(content, indent=1))  # only the holder of the lock writes it
        return run
    finally:
        lock.release()


def _read_run(path: Path, key: Mapping[str, object]) -> Run:
    fix = "delete it, and the run will be done again"
    saved = read_sealed(path, fix=fix)
    run = Run(*(saved.get(name) for name in Run._fields))
    numbers = [run.seconds, *run.numbers.values()] if isinstance(run.numbers, dict) and run.numbers else [run.numbers]
    if wrong := [value for value in numbers if type(value) not in (int, float) or math.isnan(value)]:
        raise ValueError(f"{path} is not a readable result (it has {wrong[0]!r} in place of a number); {fix}")
    if _plain({name: saved.get(name) for name in key}) != _plain(key):
        raise ValueError(f"{path} is not a readable result (it is another run under this name); {fix}")
    return run


def _plain(key: Mapping[str, object]) -> str:
    """A key as text, the same before and after it was in a file."""
    return json.dumps(json.loads(json.dumps(key)), sort_keys=True)


def writable(folder: Path | str) -> Path:
    """The folder, made if need be, without ``~``; raises ``ValueError`` if no file can be written there."""
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"nothing can be written to {folder} ({reason}); give another folder") from error


def write_sealed(path: Path, text: str) -> None:
    """Write JSON text, in which ``"checksum": ""`` stands once, with its own SHA-256 between these quotes.

    The file is whole at every moment; where it cannot be written, nothing stays, and an ``OSError`` names it.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(text.replace('"checksum": ""', f'"checksum": "{digest}"', 1), encoding="utf-8")
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(f"{path} cannot be written ({error}); make room for it, or give another folder") from error
        raise


def read_sealed(path: Path, *, fix: str) -> dict:
    """The content of a file of :func:`write_sealed`, without its checksum.

    Raises:
        ValueError: it is not as it was written, to the bit; the message has the path, what is wrong, and the ``fix``.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        digest = content.pop("checksum", None) if isinstance(content, dict) else None
        if not isinstance(digest, str):
            raise ValueError("it has no checksum")
        if hashlib.sha256(text.replace(digest, "", 1).encode()).hexdigest() != digest:
            raise ValueError("it has changed since it was written")
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise ValueError(f"{path} is not a readable result ({error}); {fix}") from error
    return content


def fingerprint(data: Data) -> str:
    """A checksum of a data set's three splits: inputs, labels, sample numbers, and what a teacher said."""
    digest = hashlib.sha256(data.name.encode())
    for split in (data.train, data.validation, data.test):
        tables = {**split.inputs, "labels": split.labels, "indices": split.indices}
        tables["teacher logits"] = split.teacher_logits
        tables |= {f"features of {name}": table for name, table in split.teacher.items() if name != "logits"}
        for name, table in tables.items():
            digest.update(name.encode())
            digest.update(b"none" if table is None else table.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:24]


@lru_cache
def package_checksum() -> str:
    """A checksum of every source file of this package, as they were when first asked for: which code made a run."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:24]
