"""What every test file shares: a clean environment, the two data sets, and splits small enough to reason about."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

import kd_course
from kd_course.data import MNIST_SHA256, Data, Split, load_data
from kd_course.runtime import download_folder


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No choice of data set made outside reaches a test, and tests compute on the CPU, where bits can be compared."""
    monkeypatch.delenv("KD_COURSE_DATASET", raising=False)
    monkeypatch.setenv("KD_COURSE_DEVICE", "cpu")


@pytest.fixture(scope="session")
def digits() -> Data:
    """The UCI digits, which are on every machine."""
    return load_data("digits")


@pytest.fixture(scope="session")
def mnist() -> Data:
    """Real MNIST. Skips where it is not on this machine; nothing is ever downloaded for a test."""
    raw = download_folder() / "MNIST" / "raw"
    if not os.environ.get("KD_COURSE_DATA") and not all((raw / file).is_file() for file in MNIST_SHA256):
        pytest.skip("real MNIST is not on this machine; set KD_COURSE_DATA to the folder that holds MNIST/raw")
    return load_data("mnist")


@pytest.fixture
def tiny_split() -> Callable[..., Split]:
    """Makes a learnable random split: ``tiny_split(12)`` has 12 images, numbered 100, 101, … in their source file.

    Image i is black but for a bright band of rows that stands for its label, so a network can learn it in a few steps.
    """

    def make(samples: int = 12, *, classes: int = 3, seed: int = 0) -> Split:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(samples) % classes
        images = torch.randint(0, 60, (samples, 1, 28, 28), generator=generator, dtype=torch.uint8)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[0, 3 * label : 3 * label + 3] += 180
        return Split(images, labels, 100 + torch.arange(samples), "tiny")

    return make


@pytest.fixture(scope="session")
def tool() -> Callable[[str], ModuleType]:
    """Loads a file of ``tools/`` by name, which is no part of the package: ``tool("report")``."""

    def load(name: str) -> ModuleType:
        path = Path(__file__).resolve().parent.parent / "tools" / f"{name}.py"
        specification = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        specification.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def package_environment() -> dict[str, str]:
    """The environment in which another Python process finds the package under test."""
    return {**os.environ, "PYTHONPATH": str(Path(kd_course.__file__).parents[1])}
