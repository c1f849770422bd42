"""Handwritten digits as tensors in memory: MNIST where it can be had, the UCI digits everywhere else.

Images stay uint8 until they are a batch. A batch is a list of sample numbers looked up in a
:class:`~torch.utils.data.TensorDataset`, so whatever belongs to a sample (its label, its number in the source
file, what a teacher said about it) travels with it through every shuffle and every subset.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from kd_course.runtime import download_folder

MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the four unpacked MNIST files. Nothing else is ever called MNIST by this course."""

SPLIT_SEED = 2015  # the one seed of the train/validation division; the year of Hinton's paper


class DataError(RuntimeError):
    """A data file is missing, damaged, or not what was asked for; the message says which and what to do."""


@dataclass(frozen=True)
class Batch:
    """What a training objective sees: B samples, on the training device.

    Attributes:
        images: float32 in [0, 1], (B, 1, 28, 28).
        labels: int64, (B,).
        indices: number of each sample in its source file, int64, (B,).
        teacher_logits: the teacher's logits for these samples, (B, classes); None if the split carries none.
        teacher_features: the teacher's features by stage, (B, …) each; see :meth:`Split.with_features`.
        progress: fraction of the training done before this batch, in [0, 1): for schedules.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    teacher_logits: Tensor | None = None
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)
    progress: float = 0.0


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one split, with the number each sample has in its source file.

    Attributes:
        images: uint8, (N, 1, 28, 28). labels: int64, (N,). indices: int64, (N,).
        origin: the source file the ``indices`` count in, such as ``"mnist/train"``.
        teacher_logits: (N, classes), or None; see :meth:`with_teacher`.
        teacher_features: (N, …) by stage; see :meth:`with_features`.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    origin: str
    teacher_logits: Tensor | None = None
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        teacher = "" if self.teacher_logits is None else ", with teacher logits"
        return f"Split({len(self):,} samples of {self.origin}{teacher})"

    def with_teacher(self, logits: Tensor) -> Split:
        """This split with the teacher's logits, (N, classes), row i for sample i: what ``predict`` returns.

        From here on each row belongs to its sample: shuffling and subsets move both together.

        Raises:
            ValueError: the table has another number of rows, is not 2-D, or holds NaN or infinity.
        """
        if logits.ndim != 2 or len(logits) != len(self):
            raise ValueError(
                f"teacher logits of shape {tuple(logits.shape)} do not fit {len(self):,} samples: expected "
                f"({len(self):,}, classes); make them with predict(teacher, split) on this very split"
            )
        if not torch.isfinite(logits).all():
            raise ValueError(
                "the teacher logits hold NaN or infinity; is the teacher trained, and are its inputs right?"
            )
        return replace(self, teacher_logits=logits.detach().to("cpu", torch.float32))

    def with_features(self, features: Mapping[str, Tensor]) -> Split:
        """This split with tables of teacher features by stage: what ``predict_features`` returns, row i for sample i.

        Raises:
            ValueError: a table has another number of rows.
        """
        for stage, table in features.items():
            if len(table) != len(self):
                raise ValueError(
                    f"the table of {stage!r} has {len(table):,} rows for {len(self):,} samples; "
                    "make it with predict_features(teacher, split, stages) on this very split"
                )
        return replace(self, teacher_features={stage: table.detach().cpu() for stage, table in features.items()})

    def subset(self, choice: Tensor | Sequence[int]) -> Split:
        """The samples at these positions (integers) or where this mask is true, with all that belongs to them.

        Raises:
            ValueError: a mask that has not one entry per sample.
        """
        choice = torch.as_tensor(choice)
        if choice.dtype == torch.bool:
            if choice.shape != (len(self),):
                raise ValueError(
                    f"a mask of shape {tuple(choice.shape)} does not fit {len(self):,} samples; "
                    "make it from this very split"
                )
            choice = choice.nonzero().squeeze(1)
        elif choice.numel() == 0:
            choice = choice.long()
        teacher = None if self.teacher_logits is None else self.teacher_logits[choice]
        features = {stage: table[choice] for stage, table in self.teacher_features.items()}
        return Split(self.images[choice], self.labels[choice], self.indices[choice], self.origin, teacher, features)

    def take(self, count: int, *, seed: int) -> Split:
        """``count`` samples drawn at random, so the classes have their natural proportions in expectation.

        Larger draws with one seed contain the smaller ones, so learning curves over ``count`` are nested.

        Raises:
            ValueError: fewer than ``count`` samples are there.
        """
        if not 0 < count <= len(self):
            raise ValueError(f"cannot take {count:,} of {len(self):,} samples; choose 1 to {len(self):,}")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[:count])

    def only(self, *classes: int) -> Split:
        """The samples of these classes."""
        return self.subset(torch.isin(self.labels, torch.tensor(classes)))

    def without(self, *classes: int) -> Split:
        """The samples of every class but these: Hinton's transfer set without 3s is ``train.without(3)``."""
        return self.subset(~torch.isin(self.labels, torch.tensor(classes)))

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, device: torch.device | str = "cpu"
    ) -> Iterator[Batch]:
        """The split in batches, in file order or in the random order that ``shuffle_seed`` stands for.

        Images become float32 in [0, 1] here, batch by batch, on ``device``.
        """
        logits = torch.empty(len(self), 0) if self.teacher_logits is None else self.teacher_logits
        dataset = TensorDataset(self.images, self.labels, self.indices, logits, *self.teacher_features.values())
        if shuffle_seed is None:
            order = SequentialSampler(dataset)
        else:
            order = RandomSampler(dataset, generator=torch.Generator().manual_seed(shuffle_seed))
        batches = BatchSampler(order, batch_size, drop_last=False)
        # A generator of its own, or each new loader would draw a number from the global one.
        loader = DataLoader(dataset, batch_size=None, sampler=batches, generator=torch.Generator())
        for columns in loader:
            images, labels, indices, logits, *tables = (column.to(device) for column in columns)
            features = dict(zip(self.teacher_features, tables, strict=True))
            yield Batch(to_float(images), labels, indices, logits if logits.shape[1] else None, features)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three parts. Learn on ``train``, choose on ``validation``, read ``test`` once.

    ``name`` is ``"mnist"`` or ``"digits"``; ``source`` says in words where the images came from.
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


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels 0..255 to float32 in [0, 1]; float images pass unchanged."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def jitter(images: Tensor, pixels: int = 2) -> Tensor:
    """Shift each image (B, C, H, W) by its own random whole number of pixels in x and in y, at most ``pixels``.

    What moves in is black. Hinton's teacher saw each digit moved by up to two pixels. Draws from PyTorch's global
    generator.
    """
    batch, _, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4)
    shift = torch.randint(0, 2 * pixels + 1, (2, batch, 1, 1), device=images.device)
    rows = shift[0] + torch.arange(height, device=images.device)[:, None]  # (B, H, 1)
    columns = shift[1] + torch.arange(width, device=images.device)  # (B, 1, W)
    sample = torch.arange(batch, device=images.device)[:, None, None]
    return padded[sample, :, rows, columns].permute(0, 3, 1, 2)


def load_data(name: str | None = None, *, validation_size: int | None = None) -> Data:
    """The course's images: real MNIST where it can be had, else the 1,797 UCI digits that scikit-learn carries.

    MNIST is looked for in ``$KD_COURSE_DATA``, in ``data/`` of the clone or the user's cache, and then
    downloaded by torchvision. Every file is held against its SHA-256; a damaged one is named and not used. Where
    there is no network either, one sentence says so and the UCI digits, resized to 28×28, take MNIST's place.

    Args:
        name: ``"mnist"``, ``"digits"`` or ``"auto"``; ``$KD_COURSE_DATASET`` if None, ``"auto"`` if that is unset.
        validation_size: samples set aside from the training file; 5,000 for MNIST and 297 for digits if None.

    Raises:
        DataError: ``"mnist"`` was demanded and cannot be had, or ``$KD_COURSE_DATA`` holds damaged files.
        ValueError: ``name`` or ``validation_size`` is out of range.
    """
    name = (name or os.environ.get("KD_COURSE_DATASET") or "auto").lower()
    if name not in ("auto", "mnist", "digits"):
        raise ValueError(
            f"unknown data set {name!r}; choose 'auto', 'mnist' or 'digits' (argument or KD_COURSE_DATASET)"
        )
    if name == "digits":
        return _digits("UCI digits, resized to 28×28", validation_size)
    try:
        return _mnist(find_mnist(), validation_size)
    except DataError as error:
        if name == "mnist" or os.environ.get("KD_COURSE_DATA"):
            raise
        print(f"MNIST is not here ({error}), so this run uses the 1,797 UCI digits instead; every idea works the same.")
        return _digits("UCI digits, resized to 28×28, in MNIST's place", validation_size)


def find_mnist() -> Path:
    """The folder that holds intact MNIST files, after downloading them if need be.

    Raises:
        DataError: there is none and none can be downloaded, or ``$KD_COURSE_DATA`` is set and not usable.
    """
    if wanted := os.environ.get("KD_COURSE_DATA"):
        raw = _raw_folder(Path(wanted))
        if faults := _faults(raw):
            raise DataError(
                f"KD_COURSE_DATA={wanted} has no usable MNIST: {'; '.join(faults)}. "
                f"Put the four IDX files in {raw}, or unset KD_COURSE_DATA"
            )
        return raw
    raw = _raw_folder(download_folder())
    if raw.is_dir():
        faults = _faults(raw)
        if not faults:
            return raw
        if damaged := [fault for fault in faults if not fault.endswith("is missing")]:
            warnings.warn(f"Not using damaged MNIST files: {'; '.join(damaged)}. Fetching them again.", stacklevel=3)
    return _download(raw)


def _raw_folder(root: Path) -> Path:
    """torchvision's layout: ``root/MNIST/raw``; the folder with the files itself is welcome too."""
    return root if (root / "train-images-idx3-ubyte").is_file() else root / "MNIST" / "raw"


def _faults(raw: Path) -> list[str]:
    """What is wrong with the MNIST files in ``raw``, one sentence per file; an empty list if nothing is."""
    faults = []
    for file, expected in MNIST_SHA256.items():
        path = raw / file
        if not path.is_file():
            faults.append(f"{path} is missing")
        elif _sha256(path, path.stat().st_mtime_ns, path.stat().st_size) != expected:
            faults.append(f"{path} is truncated or corrupt ({path.stat().st_size:,} bytes, SHA-256 differs)")
    return faults


@lru_cache(maxsize=64)
def _sha256(path: Path, modified: int, size: int) -> str:
    """SHA-256 of a file, computed once per version of it (``modified`` and ``size`` are the cache's key)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(raw: Path) -> Path:
    """Have torchvision download MNIST beside ``raw``, check every file, and only then move them in, one rename each.

    Two kernels that start at once each fetch into a folder of their own; whoever is second renames the same
    bytes over the first's, so neither ever sees half a file.
    """
    from torchvision.datasets import MNIST

    mirrors = _answering(MNIST.mirrors)
    if not mirrors:
        raise DataError("no MNIST files on this machine and no download server answers")
    try:
        raw.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=raw.parent, prefix=".download-"):
            pass
    except OSError as error:
        raise DataError(
            f"MNIST cannot be kept in {raw.parent} ({error}); set KD_COURSE_DATA to a folder that holds it"
        ) from error
    patience = socket.getdefaulttimeout()
    fault: object = None
    for _attempt in range(2):
        with tempfile.TemporaryDirectory(dir=raw.parent, prefix=".download-") as folder:
            try:
                socket.setdefaulttimeout(10)  # torchvision's own download waits for ever
                with redirect_stdout(io.StringIO()):
                    type("MNIST", (MNIST,), {"mirrors": mirrors})(folder, download=True)  # the class names the folder
                fetched = Path(folder, "MNIST", "raw")
                if not (faults := _faults(fetched)):
                    raw.mkdir(exist_ok=True)
                    for file in MNIST_SHA256:
                        os.replace(fetched / file, raw / file)
                    return raw
                fault = "; ".join(faults)
            except (OSError, RuntimeError) as error:
                fault = " ".join(str(error).split())
            finally:
                socket.setdefaulttimeout(patience)
    raise DataError(f"downloading MNIST failed twice: {fault}")


def _answering(mirrors: Sequence[str], seconds: float = 5) -> list[str]:
    """The mirrors that offer MNIST within ``seconds``, all asked at once.

    Each is asked in a thread of its own, since no socket timeout covers a name look-up that hangs.
    """
    answered: list[str] = []

    def ask(mirror: str) -> None:
        request = urllib.request.Request(f"{mirror}t10k-labels-idx1-ubyte.gz", method="HEAD")
        with suppress(OSError, ValueError), urllib.request.urlopen(request, timeout=seconds):
            answered.append(mirror)

    asking = [threading.Thread(target=ask, args=[mirror], daemon=True) for mirror in mirrors]
    for thread in asking:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in asking:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [mirror for mirror in mirrors if mirror in answered]


@lru_cache(maxsize=1)
def _read_mnist(raw: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The two MNIST files as uint8 images (N, 1, 28, 28) and int64 labels, read by torchvision."""
    from torchvision.datasets import MNIST

    with tempfile.TemporaryDirectory() as folder:  # torchvision wants root/MNIST/raw whatever the files' folder is
        link = Path(folder, "MNIST", "raw")
        link.parent.mkdir()
        try:
            link.symlink_to(raw.resolve(), target_is_directory=True)
        except OSError:  # Windows without the right to make links
            shutil.copytree(raw, link)
        files = {part: MNIST(folder, train=part == "train") for part in ("train", "test")}
    return {part: (file.data[:, None], file.targets.long()) for part, file in files.items()}


def _mnist(raw: Path, validation_size: int | None) -> Data:
    place = "the folder in KD_COURSE_DATA" if os.environ.get("KD_COURSE_DATA") else "this computer"
    files = _read_mnist(raw)
    splits = {
        part: Split(images, labels, torch.arange(len(labels)), f"mnist/{part}")
        for part, (images, labels) in files.items()
    }
    train, validation = _divide(splits["train"], 5_000 if validation_size is None else validation_size)
    return Data("mnist", f"read from {place}", train, validation, splits["test"])


def _digits(source: str, validation_size: int | None) -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)  # (1797, 1, 8, 8), 0..255
    images = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False).round().to(torch.uint8)
    everything = Split(images, torch.from_numpy(bunch.target).long(), torch.arange(len(images)), "digits")
    rest, test = _divide(everything, 500)
    train, validation = _divide(rest, 297 if validation_size is None else validation_size)
    return Data("digits", source, train, validation, test)


def _divide(split: Split, held_out: int) -> tuple[Split, Split]:
    """Two parts by one fixed random permutation, each in file order: the rest, and ``held_out`` samples."""
    if not 0 <= held_out < len(split):
        raise ValueError(f"cannot hold {held_out:,} of {len(split):,} samples out; choose 0 to {len(split) - 1:,}")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return split.subset(order[held_out:].sort().values), split.subset(order[:held_out].sort().values)
