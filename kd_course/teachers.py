"""The teachers of the course: trained by one command, shipped with a card, and verified when loaded.

``python -m kd_course.teachers cnn`` trains the MNIST teacher again and writes three files to ``data/teachers``: weights
(float16 safetensors), the logits of every MNIST image (float16), and a JSON card with data, seed, command, accuracy and
checksums. For the fallback digits a teacher is trained when loaded, in seconds.
"""

from __future__ import annotations

import argparse
import copy
import errno
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course._terminal import say
from kd_course._validation import whole
from kd_course.data import MNIST_SHA256, Batch, Data, DataError, Split, jitter, load_data
from kd_course.data.split import mark_made_for
from kd_course.inference import freeze, predict
from kd_course.memo import read_sealed, write_sealed
from kd_course.models import TeacherNet, count_parameters, mlp
from kd_course.runtime import seeded, shipped
from kd_course.training import cosine, fit


class TeacherError(RuntimeError):
    """A teacher's file is missing, damaged or cannot be written; the message names it and says what to do."""


@dataclass(frozen=True)
class Training:
    """How a teacher is made: the network, its training (Adam, cosine rate, ±2 pixel jitter), the images held out."""

    build: Callable[[], nn.Module]
    epochs: int
    batch_size: int = 128
    held_out: int = 5_000


TRAININGS = {
    ("mnist", "cnn"): Training(TeacherNet, epochs=20),
    ("mnist", "mlp"): Training(partial(mlp, (1200, 1200), dropout=0.5, input_dropout=0.2), epochs=100, held_out=0),
    ("digits", "cnn"): Training(TeacherNet, epochs=12, batch_size=32),
    ("digits", "mlp"): Training(partial(mlp, (1200, 1200), dropout=0.5, input_dropout=0.2), epochs=40, batch_size=32),
}
"""How each teacher is trained, by data set and name: the CNN of the pair, and the 2×1200 MLP of Hinton et al. 2015
(*Distilling the Knowledge in a Neural Network*, arXiv:1503.02531).

The MLP learns all 60,000 MNIST images, as in the paper, so the course's validation images are not held out from it.
"""


def train_teacher(
    data: Data, name: str = "cnn", *, seed: int = 0, checkpoint: Path | None = None, progress: bool = False
) -> nn.Module:
    """Train a teacher on ``data.train`` as :data:`TRAININGS` says, and freeze it.

    ``seed`` decides the initial weights and the training; ``checkpoint`` and ``progress`` are those of
    :func:`~kd_course.training.fit`.

    Raises:
        TypeError: ``data`` is not the data set as a whole.
        ValueError: there is no such teacher.
    """
    training = _training(_checked(data, Data).name, name)

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(jitter(batch.images)), batch.labels)

    with seeded(seed):
        teacher = training.build()
    fit(
        teacher,
        objective,
        data.train,
        epochs=training.epochs,
        batch_size=training.batch_size,
        schedule=cosine,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )
    return freeze(teacher.cpu())


def load_teacher(data: Data, name: str = "cnn") -> nn.Module:
    """The course's teacher for ``data``, frozen: with shipped weights for MNIST, trained when loaded for the digits.

    No teacher has seen a test image. The CNN, and both teachers of the digits, learned the *default* training split:
    with another ``validation_size`` some validation images are among those they learned.

    Args:
        data: the data set; its ``name`` decides which teacher fits.
        name: ``"cnn"`` (:class:`~kd_course.models.TeacherNet`) or ``"mlp"`` (2×1200, Hinton et al. 2015).

    Returns:
        A network from images (B, 1, 28, 28) to logits (B, 10), the caller's own copy.

    Raises:
        TeacherError: the weights are missing or do not match the checksum on their card.
        TypeError: ``data`` is not the data set as a whole.
        ValueError: there is no such teacher.

    >>> teacher = load_teacher(load_data("digits"))
    >>> teacher.training, any(parameter.requires_grad for parameter in teacher.parameters())
    (False, False)
    """
    training = _training(_checked(data, Data).name, name)
    if data.name == "digits":
        return copy.deepcopy(_digits_teacher(name))
    with seeded(0):  # so that loading a teacher draws no random numbers from the student's generator
        teacher = training.build()
    weights = _verified(data.name, name, "weights")
    try:
        teacher.load_state_dict({key: value.float() for key, value in weights.items()})
    except RuntimeError as error:
        path = _file(data.name, name, "weights")
        raise TeacherError(f"{path} holds the weights of another network; {_fix(path, name)}") from error
    return freeze(teacher)


def teacher_logits(split: Split, name: str = "cnn") -> Tensor:
    """Logits of the course's teacher for every sample of ``split``.

    For MNIST they were computed once and ship with the course; each sample's row is found by its number in the
    MNIST file, so any subset in any order gets its own. For the digits they are computed here.

    Args:
        split: N samples of a data set of the course.
        name: ``"cnn"`` or ``"mlp"``, as in :func:`load_teacher`.

    Returns:
        Logits (N, 10), float32, on the CPU; row i belongs to sample i.

    Raises:
        TeacherError: the table is missing or does not match the checksum on the teacher's card.
        TypeError: ``split`` is not one split.
        ValueError: there is no such teacher, or none for the ``origin`` or the ``indices`` of the split.
    """
    dataset, _, part = _checked(split, Split).origin.partition("/")
    _training(dataset, name)
    if dataset == "digits":
        return predict(_digits_teacher(name), split)
    tables = _verified(dataset, name, "logits")
    if part not in tables:
        raise ValueError(f"there are no teacher logits for {split.origin!r}; choose from: {', '.join(sorted(tables))}")
    table, numbers = tables[part], split.indices
    least, most = (int(numbers.min()), int(numbers.max())) if len(split) else (0, 0)
    if not 0 <= least <= most < len(table):
        raise ValueError(
            f"{split!r} has sample numbers {least}..{most}, and there are teacher logits for 0..{len(table) - 1}: "
            "keep the indices that load_data gave, or run the teacher with predict"
        )
    return mark_made_for(table[numbers].float(), split)


def card(dataset: str = "mnist", name: str = "cnn") -> dict:
    """The card of a shipped teacher: architecture, data, seed, command, accuracy, checksums.

    Raises:
        TeacherError: no such card is shipped, or it is not as it was written.
        ValueError: there is no such teacher.
    """
    _training(dataset, name)
    if dataset == "digits":
        raise TeacherError("the teacher of the digits is trained when loaded and has no card; use load_teacher(data)")
    path = _file(dataset, name, "card")
    if not path.exists():
        raise TeacherError(f"{path} is missing; {_fix(path, name)}")
    try:
        return read_sealed(path, fix=_fix(path, name))
    except (ValueError, OSError) as error:
        raise TeacherError(str(error)) from error


def _training(dataset: str, name: str) -> Training:
    if not (isinstance(dataset, str) and isinstance(name, str)) or (dataset, name) not in TRAININGS:
        known = ", ".join(sorted(known for of, known in TRAININGS if of == str(dataset))) or "none"
        raise ValueError(f"no teacher {name!r} for {dataset!r}; there are: {known}")
    return TRAININGS[dataset, name]


def _checked(value: Data | Split, kind: type) -> Data | Split:
    if not isinstance(value, kind):
        wanted = "the data set, load_data()" if kind is Data else "one split, such as load_data().test"
        raise TypeError(f"a teacher needs {wanted}, not {type(value).__name__}")
    return value


def _fix(path: Path, name: str) -> str:
    return (
        f"restore it with 'git checkout -- data/teachers/{path.name}', reinstall the course, "
        f"or run 'python -m kd_course.teachers {name}'"
    )


def _file(dataset: str, name: str, kind: str) -> Path:
    return shipped("teachers", f"{dataset}_{name}.{'json' if kind == 'card' else f'{kind}.safetensors'}")


@lru_cache(maxsize=4)
def _verified(dataset: str, name: str, kind: str) -> dict[str, Tensor]:
    """The tensors of a shipped file, once its bytes are verified by the card's checksum."""
    from safetensors.torch import load

    path, expected = _file(dataset, name, kind), card(dataset, name).get(f"{kind}_sha256", "none")
    fix = _fix(path, name)
    if not path.exists():
        raise TeacherError(f"{path} is missing; {fix}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TeacherError(f"{path} cannot be read ({error}); {fix}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise TeacherError(
            f"{path} is not the file its card describes: SHA-256 {found[:12]}…, not {expected[:12]}…; {fix}"
        )
    return load(content)


@lru_cache(maxsize=2)
def _digits_teacher(name: str) -> nn.Module:
    return train_teacher(load_data("digits"), name)


def publish(data: Data, name: str, teacher: nn.Module, *, seed: int, folder: Path) -> dict:
    """Write weights, logits and card of a newly trained MNIST teacher to ``folder``, and return the card.

    The weights of ``teacher`` are rounded to float16 first, in place, so that every figure on the card belongs to the
    weights that ship. Either all three files are written, or what was there stays.

    Raises:
        TeacherError: the files cannot be written.
        TypeError: ``data`` is not the data set as a whole, or ``seed`` no whole number.
        ValueError: there is no such teacher of MNIST, or its weights are too large for float16.
    """
    from safetensors.torch import save

    training, seed = _training(_checked(data, Data).name, name), whole(seed, "seed", least=None)
    if data.name == "digits":
        raise ValueError("only teachers of MNIST are published; those of the digits are trained when loaded")
    folder = _room(folder, teacher)
    weights = {key: value.half().contiguous() for key, value in teacher.state_dict().items()}
    if broken := [key for key, value in weights.items() if not value.isfinite().all()]:
        raise ValueError(f"{', '.join(broken)}: NaN, or too large for float16 (65,504); train the teacher again")
    teacher.load_state_dict({key: value.float() for key, value in weights.items()})
    everything = load_data(data.name, validation_size=0)
    logits = {"train": predict(teacher, everything.train).half(), "test": predict(teacher, everything.test).half()}
    contents = {"weights": save(weights), "logits": save(logits)}
    errors = {
        part.origin + (" (held out)" if part is data.validation else ""): int(
            (logits[part.origin.split("/")[1]][part.indices].argmax(1) != part.labels).sum()
        )
        for part in (data.train, data.validation, data.test)
        if len(part)
    }
    result = {
        "teacher": f"{data.name} {name}",
        "architecture": _architecture(teacher),
        "parameters": count_parameters(teacher),
        "data": f"MNIST, {len(data.train):,} training images; {len(data.validation):,} held out for validation",
        "data_sha256": MNIST_SHA256,
        "recipe": f"{training.epochs} epochs, Adam 1e-3, cosine rate, ±2 pixel jitter, cross-entropy",
        "seed": seed,
        "command": f"python -m kd_course.teachers {name} --seed {seed}",
        "errors": errors,
        "test_accuracy": 1 - errors["mnist/test"] / len(data.test),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "licence": "BSD-3-Clause, as the code",
        **{f"{kind}_sha256": hashlib.sha256(content).hexdigest() for kind, content in contents.items()},
    }
    names = {kind: _file(data.name, name, kind).name for kind in (*contents, "card")}
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".checkpoint") as unfinished:
            for kind, content in contents.items():
                Path(unfinished, names[kind]).write_bytes(content)
            text = json.dumps(result | {"checksum": ""}, indent=2, ensure_ascii=False) + "\n"
            write_sealed(Path(unfinished, names["card"]), text)
            for file in names.values():
                os.replace(Path(unfinished, file), folder / file)
    except OSError as error:
        raise TeacherError(f"the teacher could not be written to {folder} ({error}); make room there") from error
    return result


def _room(folder: Path, teacher: nn.Module) -> Path:
    """The folder, made if need be, once it is sure that it takes the checkpoints and the files of ``teacher``."""
    if not isinstance(folder, str | Path):
        raise TypeError(f"folder must be a path, not {type(folder).__name__}")
    folder = Path(os.path.expanduser(folder))  # noqa: PTH111 (Path's own raises for an unknown ~name)
    size = 32 * count_parameters(teacher)  # weights and two moments, twice; float16 weights; logits
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(size))
            probe.flush()
    except OSError as error:
        advice = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "give another folder"
        problem = f"{size / 2**20:.0f} MB cannot be written to {folder} ({error.strerror})"
        raise TeacherError(f"{problem}; {advice}") from error
    return folder


def _architecture(model: nn.Module) -> str:
    """The class of a network, or the widths of a plain stack of layers: ``MLP 784-1200-1200-10``."""
    if not isinstance(model, nn.Sequential):
        return type(model).__name__
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    return "MLP " + "-".join(str(width) for width in (layers[0].in_features, *(layer.out_features for layer in layers)))


def main() -> None:
    """Train and publish one MNIST teacher; run again after an interruption, it goes on from the last epoch."""
    parser = argparse.ArgumentParser(description="Train a teacher on MNIST and write its weights, logits and card.")
    parser.add_argument("name", choices=sorted(name for dataset, name in TRAININGS if dataset == "mnist"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, default=shipped("teachers"), help="where to write (default: %(default)s)"
    )
    options = parser.parse_args()
    training = TRAININGS["mnist", options.name]
    try:
        folder = _room(options.folder, training.build())
        data = load_data("mnist", validation_size=training.held_out)
        checkpoint = folder / f".{options.name}-{options.seed}.checkpoint"
        teacher = train_teacher(data, options.name, seed=options.seed, checkpoint=checkpoint, progress=True)
        say(json.dumps(publish(data, options.name, teacher, seed=options.seed, folder=folder), indent=2))
    except (DataError, TeacherError, OSError, ValueError) as error:
        sys.exit(str(error))
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
