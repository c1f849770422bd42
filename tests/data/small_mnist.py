"""An MNIST of 42 images in MNIST's own format, ways to damage it, and mirrors on this machine that serve it."""

from __future__ import annotations

import gzip
import struct
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import torch

from kd_course.data import MNIST_SHA256, Split

FILES = list(MNIST_SHA256)


def idx_files(seed: int = 0) -> dict[str, bytes]:
    """The four files of an MNIST of 30 and 12 random images."""
    random = np.random.default_rng(seed)
    files = {}
    for part, count in (("train", 30), ("t10k", 12)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        files[f"{part}-images-idx3-ubyte"] = struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes()
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">II", 2049, count) + labels.tobytes()
    return files


def images_of(files: dict[str, bytes], part: str) -> torch.Tensor:
    """The images in an IDX file, read without the package and without torchvision."""
    pixels = np.frombuffer(files[f"{part}-images-idx3-ubyte"], np.uint8, offset=16)
    return torch.from_numpy(pixels.copy()).view(-1, 1, 28, 28)


def zipped(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}


def write(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def intact(raw: Path, files: dict[str, bytes]) -> bool:
    return all((raw / name).read_bytes() == content for name, content in files.items())


def equal(first: Split, second: Split) -> bool:
    return all(torch.equal(getattr(first, field), getattr(second, field)) for field in ("images", "labels", "indices"))


# Damages.


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [Path.unlink, cut_short, flip_one_bit, lengthen, empty]


# Mirrors.


class Mirror(ThreadingHTTPServer):
    """A download server that knows some files, sends what ``body`` makes of them, and remembers what it was asked.

    Like some real mirrors it refuses HEAD.
    """

    daemon_threads = True

    def __init__(self, archives: dict[str, bytes], body: Callable[[str], bytes] | None = None) -> None:
        mirror = self
        self.asked: list[str] = []

        class Answer(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                mirror.asked.append(f"HEAD {self.path.lstrip('/')}")
                self.send_error(405)

            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                mirror.asked.append(f"GET {name}")
                if name not in archives:
                    self.send_error(404)
                    return
                sent = archives[name] if body is None else body(name)
                self.send_response(200)
                self.send_header("Content-Length", str(len(archives[name])))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that had heard enough
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"
