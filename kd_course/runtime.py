"""Where and how the course computes: device, random numbers, threads, settings, and the files that ship with it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

import numpy as np
import torch

from kd_course._validation import whole

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent


def pick_device(name: str | int | torch.device | None = None) -> torch.device:
    """The device to compute on.

    Args:
        name: a PyTorch device, or its name, such as ``"cpu"`` or ``"cuda:1"``, or the number of a GPU. If None,
            ``$KD_COURSE_DEVICE`` decides; if that is unset or empty, the first of cuda, mps and cpu that is available.

    Raises:
        TypeError: ``name`` is something else.
        ValueError: PyTorch does not know the device, or this machine does not have it.
    """
    if isinstance(name, bool) or not isinstance(name, str | Integral | torch.device | None):
        raise TypeError(f"device must be a name such as 'cpu' or 'cuda:1', or None, not {type(name).__name__}")
    wanted, fix = name, "pass 'cpu', or no device to let the course choose"
    if name in (None, ""):
        wanted, fix = setting("KD_COURSE_DEVICE"), "set KD_COURSE_DEVICE to cpu, or unset it to let the course choose"
    if wanted is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(int(wanted) if isinstance(wanted, Integral) else str(wanted).strip().lower())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError, OverflowError) as error:
        hint = "PyTorch's names for a GPU are 'cuda' and 'mps'; " if "gpu" in str(wanted).lower() else ""
        raise ValueError(
            f"device {str(wanted)!r} cannot be used here ({str(error).splitlines()[0]}); {hint}{fix}"
        ) from None
    return device


def setting(variable: str) -> str | None:
    """What an environment variable is set to, without quotes and spaces round it; None if that is nothing."""
    return os.environ.get(variable, "").strip(" \t'\"") or None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with the generators of PyTorch, NumPy and Python seeded, then put them all back as they were.

    What is built inside depends on the seed alone, and the code after it draws the same numbers as without it: an
    extra layer made in a ``seeded`` block never changes the initialisation of the next network.

    >>> with seeded(0):
    ...     first = torch.rand(2)
    >>> with seeded(0):
    ...     bool((torch.rand(2) == first).all())
    True
    """
    seed = whole(seed, "seed", least=-(2**63), most=2**64 - 1)
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        torch.manual_seed(seed)  # seeds every device
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run a block with PyTorch on ``count`` CPU threads, then restore the number that was set before."""
    count, before = whole(count, "the number of threads", least=1, most=4_096), torch.get_num_threads()
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
