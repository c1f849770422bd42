"""MNIST's four files: found, downloaded, verified and read. Nothing with another checksum is ever called MNIST here."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np
import torch
from torch import Tensor

from kd_course.data.split import Split
from kd_course.runtime import download_folder, setting

MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the four unpacked files."""

ARCHIVES_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""MD5 of the packed files (``.gz``) that the servers offer, as torchvision lists them."""

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
SECONDS = 5.0  # how long the course waits for a server to answer at all; twice that inside a download


class DataError(RuntimeError):
    """A data file is missing, damaged, or not what was asked for; the message says which and what to do."""


def find_mnist() -> Path:
    """The folder that holds MNIST's four files, intact; they are downloaded where there are none.

    They may be packed (``.gz``) and have the names that Kaggle gave them (``train-images.idx3-ubyte``).

    Raises:
        DataError: there is none and none can be downloaded, or ``$KD_COURSE_DATA`` is set and not usable.
    """
    if wanted := setting("KD_COURSE_DATA"):
        raw = _raw_folder(Path(os.path.expanduser(wanted)))  # noqa: PTH111 (Path's own raises for an unknown ~name)
        if faults := _faults(raw):
            named = wanted if len(wanted) <= 200 else f"{wanted[:80]}… ({len(wanted):,} letters)"
            there = any(_is_file(_located(raw, file)) for file in MNIST_SHA256)
            found = "; ".join(faults.values()) if there else "none of the files is in it, nor in MNIST/raw below it"
            raise DataError(
                f"KD_COURSE_DATA={named} has no usable MNIST: {found}. "
                f"Name the folder that holds {', '.join(MNIST_SHA256)}, or unset KD_COURSE_DATA"
            )
        return raw
    raw = _raw_folder(download_folder())
    faults = _faults(raw)
    if not faults:
        return raw
    if damaged := [fault for file, fault in faults.items() if _is_file(_located(raw, file))]:
        warnings.warn(f"Not using damaged MNIST files: {'; '.join(damaged)}. Fetching them again.", stacklevel=4)
    try:
        return _download(download_folder() / "MNIST" / "raw")
    except ImportError as error:
        raise DataError(f"MNIST is downloaded with pooch and requests ({error}); pip install pooch requests") from error


def read_mnist(raw: Path) -> dict[str, Split]:
    """Read a folder that :func:`find_mnist` found: the splits ``"train"`` and ``"test"``, in the order of their files.

    Raises:
        DataError: a file is not what its name says.
    """
    splits = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images = _read_idx(_located(raw, f"{prefix}-images-idx3-ubyte"), 28, 28)[:, None]
        labels = _read_idx(_located(raw, f"{prefix}-labels-idx1-ubyte")).long()
        splits[part] = Split(images, labels, torch.arange(len(labels)), f"mnist/{part}")
    return splits


def _raw_folder(root: Path) -> Path:
    """The folder with most of the files: torchvision's ``root/MNIST/raw``, its end, or one file's own folder."""
    folders = (root / "MNIST" / "raw", root / "raw", root, root.parent if _is_file(root) else root)
    return max(folders, key=lambda folder: sum(_is_file(_located(folder, file)) for file in MNIST_SHA256))


def _located(raw: Path, file: str) -> Path:
    """The path of a file in ``raw``, under any of the names it goes by; its proper one if it is not there."""
    names = (f"{name}{packed}" for packed in ("", ".gz") for name in (file, file.replace("-idx", ".idx")))
    return next((raw / name for name in names if _is_file(raw / name)), raw / file)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that nobody may look into
        return False


def _faults(raw: Path) -> dict[str, str]:
    """What is wrong with the MNIST files in ``raw``: a sentence for each file that is not as it should be."""
    faults = {}
    for file, expected in MNIST_SHA256.items():
        path = _located(raw, file)
        if not _is_file(path):
            faults[file] = f"{path} is missing"
            continue
        try:
            if _sha256(path, *_version(path)) != expected:
                faults[file] = f"{path} is truncated or corrupt ({path.stat().st_size:,} bytes, SHA-256 differs)"
        except (OSError, EOFError, zlib.error) as error:
            faults[file] = f"{path} cannot be read ({error})"
    return faults


def _version(path: Path) -> tuple[int, ...]:
    """Numbers that change with the content of a file: when it was written, and how long it is.

    The clocks of file systems are coarse, so a file that was just written may soon be another one of the same age; its
    version is never the same.
    """
    state = path.stat()
    young = time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) < 2_000_000_000
    return state.st_mtime_ns, state.st_ctime_ns, state.st_size, time.monotonic_ns() if young else 0


@lru_cache(maxsize=64)
def _sha256(path: Path, *version: int) -> str:
    """SHA-256 of a file's unpacked content, computed once per version of it."""
    return hashlib.sha256(_unpacked(path)).hexdigest()


def _unpacked(path: Path) -> np.ndarray:
    """The bytes of a file, unpacked if it is a ``.gz``, in memory that nobody else has."""
    if path.suffix != ".gz":
        return np.fromfile(path, np.uint8)
    with gzip.open(path) as file:
        return np.frombuffer(bytearray(file.read()), np.uint8)


def _read_idx(path: Path, *shape: int) -> Tensor:
    """The uint8 samples (N, *shape) of an IDX file: first type, N and shape as big-endian int32, then the bytes."""
    try:
        content = _unpacked(path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    start = 4 * (2 + len(shape))
    header = [int.from_bytes(content[at : at + 4].tobytes(), "big") for at in range(0, start, 4)]
    values = content[start:]
    samples, rest = divmod(values.size, math.prod(shape))
    if rest or header != [0x0801 + len(shape), samples, *shape]:  # 08: unsigned bytes; then the number of dimensions
        raise DataError(f"{path} is not the MNIST file it is named after: {values.size:,} bytes follow header {header}")
    return torch.from_numpy(values).view(samples, *shape)


def _download(raw: Path) -> Path:
    """Fetch the four files beside ``raw``, check every one, and only then move them in, one rename each.

    Two kernels that start at once each fetch into a folder of their own; whoever is second renames the same bytes over
    the first's, so neither ever sees half a file. Nor does whoever comes after a kernel that died.
    """
    faults = []
    for mirror in _answering():
        try:
            raw.parent.mkdir(parents=True, exist_ok=True)
            folder = tempfile.TemporaryDirectory(dir=raw.parent, prefix=".download-")
        except OSError as error:
            raise DataError(
                f"MNIST cannot be kept in {raw.parent} ({error}); set KD_COURSE_DATA to a folder that holds it"
            ) from error
        with folder as fetched:
            try:
                _fetch(mirror, Path(fetched))
                raw.mkdir(exist_ok=True)
                for file in MNIST_SHA256:
                    os.replace(Path(fetched, file), raw / file)
                return raw
            except (OSError, ValueError) as error:  # a broken connection, a full disk; another checksum
                faults.append(f"{mirror}: {' '.join(str(error).split())}")
    failed = f"downloading MNIST failed: {'; '.join(faults)}; it would be kept in {raw}"
    raise DataError(failed if faults else "no MNIST files on this machine and no download server answers")


def _fetch(mirror: str, folder: Path) -> None:
    """Download and unpack the four files into ``folder``; raises if one of them is not what it should be."""
    import pooch

    archives = {f"{file}.gz": f"md5:{checksum}" for file, checksum in ARCHIVES_MD5.items()}
    library = pooch.create(folder, mirror, registry=archives, retry_if_failed=1)
    get = pooch.HTTPDownloader(progressbar=True, chunk_size=65_536, timeout=2 * SECONDS)
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # the bars say enough
    try:
        for file in ARCHIVES_MD5:
            library.fetch(f"{file}.gz", processor=pooch.Decompress(name=file), downloader=get)
    finally:
        logger.setLevel(level)
    if faults := _faults(folder):
        raise ValueError("; ".join(faults.values()))


def _answering() -> Iterator[str]:
    """The mirrors that offer MNIST, each as soon as it answers and none later than :data:`SECONDS`.

    All are asked at once, each in a daemon thread: no time limit of a request covers a name look-up that hangs, and an
    executor would wait for it when Python exits.
    """
    import requests

    answers: SimpleQueue[str | None] = SimpleQueue()

    def ask(mirror: str) -> None:
        answer = None
        smallest = f"{mirror}t10k-labels-idx1-ubyte.gz"  # asked for and not read, because some servers refuse HEAD
        with suppress(OSError, ValueError), requests.get(smallest, stream=True, timeout=SECONDS) as response:
            answer = mirror if response.ok else None
        answers.put(answer)

    for mirror in MIRRORS:
        Thread(target=ask, args=[mirror], daemon=True).start()
    deadline = time.monotonic() + SECONDS
    with suppress(Empty):
        for _ in MIRRORS:
            if mirror := answers.get(timeout=max(0.0, deadline - time.monotonic())):
                yield mirror
