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
import os
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
        json.dumps(options)
    except TypeError as error:
        raise TypeError(f"options of a cached recipe must be plain values ({error}): {options}") from None
    code = meaning(recipe, Data, Split)
    return {"meaning": code, "options": options, "data": data_checksum, "torch": torch.__version__}


def load_or_run(
    key: Mapping[str, object], work: Callable[[], Run], folder: Path, *, wait: bool, **provenance: object
) -> Run | None:
    """The run that ``key`` stands for (:func:`cache_key` and the seed): read from ``folder``, or done by ``work``.

    Without ``wait``, None is returned while another process is at this very run. What is given as ``provenance`` is
    written beside the run for a reader. Raises ``ValueError`` for a file that is not a readable run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f"{name}.json"
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    try:
        if path.exists():
            try:
                saved = json.loads(path.read_text(encoding="utf-8"))
                return Run(saved["numbers"], saved["seconds"], saved.get("package"))
            except (ValueError, KeyError, TypeError) as error:
                fix = "delete it, and the run will be done again"
                raise ValueError(f"{path} is not a readable result ({error!r}); {fix}") from error
        run = work()._replace(package=package_checksum())
        content = {**provenance, **key, **run._asdict()}
        unfinished = folder / f".{name}.unfinished"  # only the holder of the lock writes it
        unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(unfinished, path)
        return run
    finally:
        lock.release()


def fingerprint(data: Data) -> str:
    """A checksum of a data set's three splits: pixels, labels, sample numbers, teacher logits and features."""
    digest = hashlib.sha256(data.name.encode())
    for split in (data.train, data.validation, data.test):
        tables = {"images": split.images, "labels": split.labels, "indices": split.indices}
        tables["teacher logits"] = split.teacher_logits
        tables |= {f"features of {stage}": table for stage, table in split.teacher_features.items()}
        for name, table in tables.items():
            digest.update(name.encode())
            digest.update(b"none" if table is None else table.contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


@lru_cache
def package_checksum() -> str:
    """A checksum of every source file of this package, as they were when first asked for: which code made a run."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:24]
