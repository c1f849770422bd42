"""Where and how the course computes: device, random numbers, threads, and the files that ship with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent


def pick_device(name: str | None = None) -> torch.device:
    """The device to compute on.

    Args:
        name: a PyTorch device, such as ``"cpu"`` or ``"cuda:1"``. If None, ``$KD_COURSE_DEVICE`` decides; if that is
            unset or empty, the first of cuda, mps and cpu that is available.

    Raises:
        ValueError: PyTorch does not know the device, or this machine does not have it.
    """
    name = name or os.environ.get("KD_COURSE_DEVICE") or None
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); "
            "pass 'cpu', or unset KD_COURSE_DEVICE to let the course choose"
        ) from None
    return device


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with every PyTorch generator seeded by ``seed``, then put the generators back as they were.

    What is built inside depends on the seed alone, and the code after it draws the same numbers as without it: an
    extra layer made in a ``seeded`` block never changes the initialisation of the next network.

    >>> with seeded(0):
    ...     first = torch.rand(2)
    >>> with seeded(0):
    ...     bool((torch.rand(2) == first).all())
    True
    """
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        torch.manual_seed(seed)  # seeds every device
        yield
    finally:
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run a block with PyTorch on ``count`` CPU threads, then restore the number that was set before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def available_cores() -> int:
    """CPU cores this process may use (a container or a CPU mask can give it fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_checkout() -> bool:
    """Whether the package runs from a clone of the repository rather than from an installed wheel."""
    return (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "data").is_dir()


def shipped(*parts: str) -> Path:
    """Path of a file that ships with the course: ``shipped("teachers", "mnist_cnn.json")``, in a clone or a wheel."""
    return (_CHECKOUT / "data" if in_checkout() else _PACKAGE / "shipped").joinpath(*parts)


def download_folder() -> Path:
    """Where downloads are kept: ``data/`` of a clone (git ignores them there), else the user's cache."""
    if in_checkout():
        return _CHECKOUT / "data"
    from platformdirs import user_cache_path

    return user_cache_path("kd_course")
