"""The small MNIST taken for the real one, and the mirrors that the package then asks for it."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_mnist import Mirror, idx_files, zipped

from kd_course.data import mnist as source

PATIENT = 3600.0  # seconds; no machine is so slow that a mirror on it seems silent


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes]], None]:
    """Has the package expect these archives: it compares their MD5."""

    def expect(archives: dict[str, bytes]) -> None:
        table = {name.removesuffix(".gz"): hashlib.md5(content).hexdigest() for name, content in archives.items()}
        monkeypatch.setattr(source, "ARCHIVES_MD5", table)

    return expect


@pytest.fixture
def small_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: Callable[[dict[str, bytes]], None]
) -> dict[str, bytes]:
    """The files of the small MNIST, taken for the real one; a machine that has no MNIST and no mirror."""
    files = idx_files()
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(source, "MNIST_SHA256", sums)
    trust(zipped(files))
    monkeypatch.setattr(source, "download_folder", lambda: tmp_path / "downloads")
    monkeypatch.setattr(source, "MIRRORS", ())
    monkeypatch.setattr(source, "SECONDS", PATIENT)
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))  # before a second attempt
    monkeypatch.delenv("KD_COURSE_DATA", raising=False)
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    return files


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Where the small MNIST is downloaded to."""
    return tmp_path / "downloads" / "MNIST"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Mirror]]:
    """Starts a mirror and has the package ask it beside those already started."""
    mirrors: list[Mirror] = []

    def start(*arguments: Any) -> Mirror:
        mirrors.append(Mirror(*arguments))
        monkeypatch.setattr(source, "MIRRORS", (*source.MIRRORS, mirrors[-1].address))
        return mirrors[-1]

    yield start
    for each in mirrors:
        each.shutdown()
        each.server_close()


@pytest.fixture
def hanging_mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that takes every call and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr(source, "MIRRORS", (*source.MIRRORS, address))
        yield address


@pytest.fixture
def one_sentence() -> Callable[[str], bool]:
    """Tells whether what was printed is the one sentence with which the digits take MNIST's place."""
    sentence = r"MNIST is not here \(.+\), so this run uses the 1,797 UCI digits instead;[^.\n]+\.\n"
    return lambda printed: bool(re.fullmatch(sentence, printed))
