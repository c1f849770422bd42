"""The course's images, by name: MNIST wherever it is available, the UCI digits everywhere else."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kd_course._terminal import say
from kd_course._validation import whole
from kd_course.data.digits import read_digits
from kd_course.data.mnist import DataError, find_mnist, read_mnist
from kd_course.data.split import Split
from kd_course.runtime import setting

SPLIT_SEED = 2015  # the one seed of the train/validation division; the year of Hinton's paper


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three parts. Learn on ``train``, choose on ``validation``, read ``test`` once.

    Attributes:
        name: ``"mnist"`` or ``"digits"``.
        source: where the images came from, in words.
        train: what networks are trained on.
        validation: what choices are made on.
        test: what the final numbers are measured on.
        classes: how many kinds of label there are.
    """

    name: str
    source: str
    train: Split
    validation: Split
    test: Split
    classes: int = 10

    def __repr__(self) -> str:
        sizes = f"train {len(self.train):,}, validation {len(self.validation):,}, test {len(self.test):,}"
        return f"{self.name}: {sizes} ({self.source})"


def load_data(name: str | None = None, *, validation_size: int | None = None) -> Data:
    """The course's images: real MNIST wherever it is available, else the 1,797 UCI digits that scikit-learn carries.

    MNIST is looked for in ``$KD_COURSE_DATA``, in ``data/`` of the clone or the user's cache, and then downloaded.
    Every file is verified by its SHA-256; a damaged one is named and not used. Where there is no network either, one
    sentence says so and the UCI digits, resized to 28×28, take MNIST's place.

    Args:
        name: ``"mnist"``, ``"digits"`` or ``"auto"``; ``$KD_COURSE_DATASET`` if None, ``"auto"`` if that is unset.
        validation_size: samples set aside from the training file; 5,000 for MNIST and 297 for digits if None.

    Raises:
        DataError: ``"mnist"`` was demanded and is not available, or ``$KD_COURSE_DATA`` is set and not usable.
        TypeError: ``name`` is no text, or ``validation_size`` no whole number.
        ValueError: ``name`` or ``validation_size`` is out of range.
    """
    if not isinstance(name, str | None):
        raise TypeError(f"name must be 'auto', 'mnist' or 'digits', not {name!r}")
    wanted = name or setting("KD_COURSE_DATASET") or "auto"
    name = wanted.strip().lower()
    if name not in ("auto", "mnist", "digits"):
        raise ValueError(f"unknown data set {wanted!r}; choose 'auto', 'mnist' or 'digits', also in KD_COURSE_DATASET")
    if name == "digits":
        return _digits("UCI digits, resized to 28×28", validation_size)
    try:
        return _mnist(validation_size)
    except DataError as error:
        if name == "mnist" or setting("KD_COURSE_DATA"):
            raise
        say(f"MNIST is not here ({error}), so this run uses the 1,797 UCI digits instead; every idea works the same.")
        return _digits("UCI digits, resized to 28×28, in MNIST's place", validation_size)


def _mnist(validation_size: int | None) -> Data:
    files = read_mnist(find_mnist())
    place = "the folder in KD_COURSE_DATA" if setting("KD_COURSE_DATA") else "this computer"
    train, validation = _divide(files["train"], 5_000 if validation_size is None else validation_size)
    return Data("mnist", f"read from {place}", train, validation, files["test"])


def _digits(source: str, validation_size: int | None) -> Data:
    rest, test = _divide(read_digits(), 500)
    train, validation = _divide(rest, 297 if validation_size is None else validation_size)
    return Data("digits", source, train, validation, test)


def _divide(split: Split, held_out: int) -> tuple[Split, Split]:
    """Two parts by one fixed random permutation, each in file order: the rest, and ``held_out`` samples."""
    held_out = whole(held_out, "validation_size, which counts samples,", least=None)
    if not 0 <= held_out < len(split):
        raise ValueError(f"cannot hold {held_out:,} of {len(split):,} samples out; choose 0 to {len(split) - 1:,}")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return split.subset(order[held_out:].sort().values), split.subset(order[:held_out].sort().values)
