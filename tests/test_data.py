"""Where the images come from, what is refused, and what stays with a sample through shuffles and subsets.

The tests of files and downloads use an MNIST of 42 images, written in MNIST's own format into a temporary folder, with
the checksums of the package set to it; mirrors are servers on this machine.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.datasets import MNIST

from kd_course import data
from kd_course.data import MNIST_SHA256, Batch, Data, DataError, Split, find_mnist, jitter, load_data, to_float

FILES = list(MNIST_SHA256)


# A small MNIST, and mirrors that serve it well or badly.


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


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of the small MNIST, taken for the real one; a machine that has no MNIST and no mirror."""
    files = idx_files()
    monkeypatch.setattr(data, "MNIST_SHA256", {name: hashlib.sha256(files[name]).hexdigest() for name in FILES})
    trust(zipped(files), monkeypatch)
    monkeypatch.setattr(data, "download_folder", lambda: tmp_path / "downloads")
    monkeypatch.setattr(MNIST, "mirrors", [])
    monkeypatch.delenv("KD_COURSE_DATA", raising=False)
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    return files


def trust(archives: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torchvision expect these archives: it compares their MD5."""
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in archives.items()]
    monkeypatch.setattr(MNIST, "resources", resources)


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Where the small MNIST is downloaded to."""
    return tmp_path / "downloads" / "MNIST"


class Mirror(ThreadingHTTPServer):
    """A download server that knows some files, sends what ``body`` makes of them, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, archives: dict[str, bytes], body: Callable[[str], bytes] | None = None) -> None:
        mirror = self
        self.asked: list[str] = []

        class Answer(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(lambda name: b"")

            def do_GET(self) -> None:
                self.answer(body or archives.__getitem__)

            def answer(self, content: Callable[[str], bytes]) -> None:
                name = self.path.lstrip("/")
                mirror.asked.append(f"{self.command} {name}")
                if name not in archives:
                    self.send_error(404)
                    return
                sent = content(name)
                self.send_response(200)
                self.send_header("Content-Length", str(len(archives[name])))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Mirror]]:
    """Starts a mirror and has torchvision ask it, after those already started."""
    mirrors: list[Mirror] = []

    def start(*arguments: Any) -> Mirror:
        mirrors.append(Mirror(*arguments))
        monkeypatch.setattr(MNIST, "mirrors", [*MNIST.mirrors, mirrors[-1].address])
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
        monkeypatch.setattr(MNIST, "mirrors", [*MNIST.mirrors, address])
        yield address


# Files: intact ones are used, damaged ones are named and never used.


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


@pytest.mark.parametrize("inside", ["MNIST/raw", "."], ids=["root", "the files' own folder"])
def test_a_folder_named_by_the_variable_is_used(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, inside: str
) -> None:
    write(small_mnist, tmp_path / "mine" / inside)
    monkeypatch.setenv("KD_COURSE_DATA", str(tmp_path / "mine"))
    found = load_data(validation_size=10)
    assert found.name == "mnist" and "KD_COURSE_DATA" in found.source
    assert found.train.images.equal(images_of(small_mnist, "train")[found.train.indices])
    assert found.test.images.equal(images_of(small_mnist, "t10k"))
    assert (len(found.train), len(found.validation), len(found.test)) == (20, 10, 12)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", ["auto", "mnist"])
def test_a_damaged_file_is_named_and_nothing_of_the_folder_is_used(
    small_mnist: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
    file: str,
    damage: Callable[[Path], object],
    name: str,
) -> None:
    raw = write(small_mnist, tmp_path / "mine" / "MNIST" / "raw")
    damage(raw / file)
    monkeypatch.setenv("KD_COURSE_DATA", str(tmp_path / "mine"))
    monkeypatch.setattr(data, "_read_mnist", lambda raw: pytest.fail("a damaged folder was read"))
    with pytest.raises(DataError) as info:
        load_data(name)
    message = str(info.value)
    assert [other for other in FILES if str(raw / other) in message] == [file]
    assert ("missing" if damage is Path.unlink else "truncated or corrupt") in message
    assert "KD_COURSE_DATA" in message and "unset KD_COURSE_DATA" in message  # what to do
    assert capsys.readouterr().out == ""  # no silent change of data set where a folder was asked for


def test_every_damaged_file_is_named(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write(small_mnist, tmp_path / "mine")
    cut_short(raw / FILES[1])
    flip_one_bit(raw / FILES[2])
    monkeypatch.setenv("KD_COURSE_DATA", str(raw))
    with pytest.raises(DataError, match=f"{FILES[1]} is truncated or corrupt.*{FILES[2]} is truncated or corrupt"):
        find_mnist()


def test_a_file_damaged_after_it_was_found_intact_is_noticed(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write(small_mnist, tmp_path / "mine")
    monkeypatch.setenv("KD_COURSE_DATA", str(raw))
    assert find_mnist() == raw
    time.sleep(0.01)
    flip_one_bit(raw / FILES[0])
    with pytest.raises(DataError, match=FILES[0]):
        find_mnist()


def test_one_flipped_bit_of_the_real_files_is_noticed(
    mnist: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = find_mnist()
    for file in FILES:
        (tmp_path / file).symlink_to(raw / file)
    monkeypatch.setenv("KD_COURSE_DATA", str(tmp_path))
    assert find_mnist() == tmp_path
    content = (raw / FILES[2]).read_bytes()
    (tmp_path / FILES[2]).unlink()
    (tmp_path / FILES[2]).write_bytes(content)
    flip_one_bit(tmp_path / FILES[2])
    with pytest.raises(DataError, match=rf"{FILES[2]} is truncated or corrupt \(7,840,016 bytes"):
        load_data()


# Which data set.


@pytest.mark.parametrize(
    ("argument", "variable"), [("digits", None), ("DIGITS", None), (None, "digits"), ("digits", "mnist")]
)
def test_digits_are_loaded_when_asked_for_and_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys, argument: str | None, variable: str | None
) -> None:
    if variable:
        monkeypatch.setenv("KD_COURSE_DATASET", variable)
    found = load_data(argument)
    assert found.name == "digits" and "UCI" in found.source
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("argument", "variable"), [("auto", None), (None, "auto"), (None, None), (None, ""), ("", "")])
def test_auto_prefers_mnist_where_it_is(
    small_mnist: dict[str, bytes],
    downloads: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
    argument: str | None,
    variable: str | None,
) -> None:
    write(small_mnist, downloads / "raw")
    if variable is not None:
        monkeypatch.setenv("KD_COURSE_DATASET", variable)
    assert load_data(argument, validation_size=5).name == "mnist"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("argument", "variable"), [("cifar", None), (None, "cifar"), ("cifar", "digits")])
def test_an_unknown_data_set_is_refused_with_the_choices(
    monkeypatch: pytest.MonkeyPatch, argument: str | None, variable: str | None
) -> None:
    if variable:
        monkeypatch.setenv("KD_COURSE_DATASET", variable)
    with pytest.raises(ValueError, match=r"'cifar'; choose 'auto', 'mnist' or 'digits'.*KD_COURSE_DATASET"):
        load_data(argument)


def one_sentence(printed: str) -> bool:
    return bool(
        re.fullmatch(r"MNIST is not here \(.+\), so this run uses the 1,797 UCI digits instead;[^.\n]+\.\n", printed)
    )


@pytest.mark.parametrize("variable", [None, ""], ids=["unset", "empty"])
def test_without_mnist_and_network_one_sentence_says_so_and_digits_take_its_place(
    small_mnist: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys, variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv("KD_COURSE_DATA", variable)
    found = load_data()
    assert found.name == "digits" and len(found.train) == 1000
    assert one_sentence(capsys.readouterr().out)


def test_without_mnist_and_network_a_demand_for_mnist_fails_with_a_reason(
    small_mnist: dict[str, bytes], capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="no MNIST files on this machine and no download server answers"):
        load_data("mnist")
    monkeypatch.setenv("KD_COURSE_DATASET", "mnist")
    with pytest.raises(DataError, match="no download server answers"):
        load_data()
    assert capsys.readouterr().out == ""


# Downloads.


def intact(raw: Path, files: dict[str, bytes]) -> bool:
    return all((raw / name).read_bytes() == content for name, content in files.items())


def test_a_download_leaves_four_intact_files_and_nothing_else(
    small_mnist: dict[str, bytes], downloads: Path, mirror: Callable[..., Mirror], capsys
) -> None:
    server = mirror(zipped(small_mnist))
    timeout = socket.getdefaulttimeout()
    found = load_data(validation_size=10)
    assert found.name == "mnist" and (len(found.train), len(found.test)) == (20, 12)
    assert intact(downloads / "raw", small_mnist)
    assert sorted(path.name for path in downloads.rglob("*")) == sorted(["raw", *FILES])
    assert capsys.readouterr().out == ""
    assert socket.getdefaulttimeout() == timeout
    requests = len(server.asked)
    assert load_data("mnist", validation_size=10).name == "mnist"
    assert len(server.asked) == requests  # what is here is not asked for again


def test_damaged_files_of_an_earlier_download_are_named_and_fetched_again(
    small_mnist: dict[str, bytes], downloads: Path, mirror: Callable[..., Mirror]
) -> None:
    cut_short(write(small_mnist, downloads / "raw") / FILES[3])
    mirror(zipped(small_mnist))
    with pytest.warns(UserWarning, match=f"damaged MNIST files: .*{FILES[3]} is truncated.*again"):
        assert find_mnist() == downloads / "raw"
    assert intact(downloads / "raw", small_mnist)


@pytest.mark.parametrize("md5_matches", [False, True], ids=["MD5 differs", "MD5 forged, SHA-256 differs"])
def test_a_mirror_with_corrupt_files_is_refused_and_leaves_nothing(
    small_mnist: dict[str, bytes],
    downloads: Path,
    mirror: Callable[..., Mirror],
    monkeypatch: pytest.MonkeyPatch,
    capsys,
    md5_matches: bool,
) -> None:
    changed = {**small_mnist, FILES[2]: idx_files(seed=1)[FILES[2]]}  # well-formed images, but not these
    if md5_matches:
        trust(zipped(changed), monkeypatch)
    mirror(zipped(changed))
    with pytest.raises(DataError, match=f"(?s)downloading MNIST failed twice: .*({FILES[2]}|corrupted)"):
        load_data("mnist", validation_size=10)
    assert not list(downloads.iterdir())
    capsys.readouterr()
    assert load_data().name == "digits"
    assert one_sentence(capsys.readouterr().out)


def test_a_mirror_that_breaks_off_is_refused_and_leaves_nothing(
    small_mnist: dict[str, bytes], downloads: Path, mirror: Callable[..., Mirror]
) -> None:
    archives = zipped(small_mnist)
    mirror(archives, lambda name: archives[name][: len(archives[name]) // 2])
    with pytest.raises(DataError, match="downloading MNIST failed twice"):
        find_mnist()
    assert not list(downloads.iterdir())


def test_the_second_mirror_is_used_where_the_first_knows_nothing(
    small_mnist: dict[str, bytes], downloads: Path, mirror: Callable[..., Mirror]
) -> None:
    mirror({})
    mirror(zipped(small_mnist))
    assert intact(find_mnist(), small_mnist)


def test_the_second_mirror_is_used_where_the_first_hangs(
    small_mnist: dict[str, bytes],
    hanging_mirror: str,
    mirror: Callable[..., Mirror],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirror(zipped(small_mnist))
    monkeypatch.setattr(data, "_answering", functools.partial(data._answering, seconds=2))
    start = time.monotonic()
    assert intact(find_mnist(), small_mnist)
    assert time.monotonic() - start < 10


def test_servers_that_hang_and_names_that_do_not_resolve_are_given_up_in_under_15_seconds(
    small_mnist: dict[str, bytes], hanging_mirror: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    released = threading.Event()
    look_up = socket.getaddrinfo

    def hanging_look_up(host: str, *arguments: Any, **options: Any) -> list:
        if host == "hangs.invalid":
            released.wait(60)
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "name or service not known")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hanging_look_up)
    monkeypatch.setattr(MNIST, "mirrors", [hanging_mirror, "https://hangs.invalid/", "http://unknown.invalid/"])
    start = time.monotonic()
    try:
        assert load_data().name == "digits"
    finally:
        released.set()
    assert time.monotonic() - start < 15
    assert one_sentence(capsys.readouterr().out)


LOAD = """
import json, sys
from pathlib import Path
from torchvision.datasets import MNIST
from kd_course import data
told = json.loads(sys.argv[1])
MNIST.mirrors, MNIST.resources = told["mirrors"], told["resources"]
data.MNIST_SHA256 = told["sha256"]
data.download_folder = lambda: Path(told["folder"])
print(json.dumps(data.load_data("mnist", validation_size=0).train.images.sum().item()))
"""


def test_two_processes_that_download_at_once_do_not_harm_each_other(
    small_mnist: dict[str, bytes],
    downloads: Path,
    mirror: Callable[..., Mirror],
    package_environment: dict[str, str],
) -> None:
    together = threading.Barrier(2)

    archives = zipped(small_mnist)

    def wait_for_the_other(name: str) -> bytes:
        if name.startswith(FILES[0]):
            together.wait(timeout=60)  # so the two downloads do overlap
        return archives[name]

    mirror(archives, wait_for_the_other)
    told = {"mirrors": MNIST.mirrors, "resources": MNIST.resources, "sha256": data.MNIST_SHA256}
    command = [sys.executable, "-c", LOAD, json.dumps({**told, "folder": str(downloads.parent)})]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    loading = [subprocess.Popen(command, env=package_environment, **pipes) for _ in range(2)]
    try:
        while any(process.poll() is None for process in loading):
            for name, content in small_mnist.items():  # at no moment is there half a file under its own name
                path = downloads / "raw" / name
                assert not path.exists() or path.read_bytes() == content
            time.sleep(0.005)
        answers = [process.communicate() for process in loading]
    finally:
        for process in loading:
            process.kill()
            process.communicate()
    expected = int(images_of(small_mnist, "train").sum())
    assert [out.strip() for out, _ in answers] == [str(expected)] * 2, answers
    assert not together.broken
    assert intact(downloads / "raw", small_mnist)
    assert [path.name for path in downloads.iterdir()] == ["raw"]


# Splits.


def test_digits_have_fixed_sizes_and_disjoint_splits_that_cover_the_source(digits: Data) -> None:
    parts = (digits.train, digits.validation, digits.test)
    assert [len(part) for part in parts] == [1000, 297, 500]
    assert torch.cat([part.indices for part in parts]).sort().values.equal(torch.arange(1797))
    assert {part.origin for part in parts} == {"digits"}
    assert all(part.labels.unique().tolist() == list(range(10)) for part in parts)


def test_digits_carry_the_labels_and_images_of_their_rows_in_the_source(digits: Data) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    places = (np.arange(28) + 0.5) * 8 / 28 - 0.5  # where the 28 new pixels lie among the 8 old ones
    weights = np.array([np.interp(places, np.arange(8), unit) for unit in np.eye(8)])  # (8, 28), linear in between
    enlarged = weights.T @ bunch.images @ weights * 255 / 16
    for part in (digits.train, digits.validation, digits.test):
        assert part.labels.tolist() == bunch.target[part.indices].tolist()
        assert np.abs(part.images[:, 0].numpy() - enlarged[part.indices]).max() <= 0.51  # rounded to whole numbers


def test_mnist_has_fixed_sizes_and_disjoint_splits(mnist: Data) -> None:
    assert [len(part) for part in (mnist.train, mnist.validation, mnist.test)] == [55_000, 5_000, 10_000]
    assert torch.cat([mnist.train.indices, mnist.validation.indices]).sort().values.equal(torch.arange(60_000))
    assert mnist.test.indices.equal(torch.arange(10_000))
    assert [mnist.train.origin, mnist.validation.origin, mnist.test.origin] == [
        "mnist/train",
        "mnist/train",
        "mnist/test",
    ]


def test_mnist_carries_the_labels_and_images_of_its_rows_in_the_source(mnist: Data) -> None:
    files = {file: (find_mnist() / file).read_bytes() for file in FILES}
    for file, parts in (("train", (mnist.train, mnist.validation)), ("t10k", (mnist.test,))):
        labels = np.frombuffer(files[f"{file}-labels-idx1-ubyte"], np.uint8, offset=8)
        for part in parts:
            assert np.array_equal(part.labels.numpy(), labels[part.indices])
            assert part.images.equal(images_of(files, file)[part.indices])


def equal(first: Split, second: Split) -> bool:
    return all(torch.equal(getattr(first, field), getattr(second, field)) for field in ("images", "labels", "indices"))


def test_the_division_is_the_same_on_each_call_and_whatever_the_seed_outside(digits: Data) -> None:
    torch.manual_seed(123)
    again = load_data("digits")
    for part in ("train", "validation", "test"):
        assert equal(getattr(digits, part), getattr(again, part))


def test_the_division_is_the_same_in_every_release(digits: Data) -> None:
    """Published results and shipped teachers belong to this division: changing it changes what they held out."""
    assert digits.validation.indices[:5].tolist() == [0, 22, 27, 34, 35]
    assert digits.test.indices[:5].tolist() == [7, 8, 9, 15, 20]


@pytest.mark.parametrize("size", [0, 1, 100, 1296])
def test_validation_has_the_size_asked_for_and_the_test_split_never_moves(digits: Data, size: int) -> None:
    found = load_data("digits", validation_size=size)
    assert (len(found.train), len(found.validation)) == (1297 - size, size)
    assert equal(found.test, digits.test)


@pytest.mark.parametrize("size", [-1, 1297, 5000])
def test_a_validation_size_that_leaves_nothing_to_learn_from_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"cannot hold {size:,} of 1,297 samples out; choose 0 to 1,296"):
        load_data("digits", validation_size=size)


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_images_stay_uint8_in_memory(dataset: str, request: pytest.FixtureRequest) -> None:
    found: Data = request.getfixturevalue(dataset)
    for part in (found.train, found.validation, found.test):
        assert part.images.dtype == torch.uint8 and part.images.shape[1:] == (1, 28, 28)
        assert part.labels.dtype == part.indices.dtype == torch.int64
        assert part.images.amax() > 200 and part.images.amin() == 0


def test_a_data_set_and_a_split_introduce_themselves(digits: Data) -> None:
    assert repr(digits) == "digits: train 1,000, validation 297, test 500 (UCI digits, resized to 28×28)"
    assert repr(digits.train) == "Split(1,000 samples of digits)"
    assert repr(digits.test.with_teacher(torch.zeros(500, 10))) == "Split(500 samples of digits, with teacher logits)"


# Batches.


def marked(split: Split) -> Split:
    """``split`` with a teacher whose logits and features say which sample they belong to."""
    logits = torch.stack([split.indices, 2 * split.indices, split.labels], 1).float()
    maps = split.indices.float()[:, None, None, None].expand(-1, 2, 3, 3)
    return split.with_teacher(logits).with_features({"map": maps, "embedding": split.indices.float()[:, None]})


def belongs(batch: Batch) -> bool:
    """Whether every row of teacher logits and features is that of the sample it stands beside."""
    logits, features = batch.teacher_logits, batch.teacher_features
    expected = torch.stack([batch.indices, 2 * batch.indices, batch.labels], 1).float()
    assert logits is not None and list(features) == ["map", "embedding"]
    assert features["map"].shape[1:] == (2, 3, 3) and features["embedding"].shape[1:] == (1,)
    means = [table.flatten(1).mean(1) for table in features.values()]
    return torch.equal(logits, expected) and all(torch.equal(mean, batch.indices.float()) for mean in means)


def test_batches_are_float_images_in_zero_to_one_with_a_smaller_last_one(digits: Data) -> None:
    batches = list(digits.validation.batches(100))
    assert [len(batch.labels) for batch in batches] == [100, 100, 97]
    images = torch.cat([batch.images for batch in batches])
    assert images.dtype == torch.float32 and images.min() == 0 and images.max() <= 1
    torch.testing.assert_close(images, digits.validation.images / 255)
    assert torch.cat([batch.labels for batch in batches]).equal(digits.validation.labels)  # in file order
    assert torch.cat([batch.indices for batch in batches]).equal(digits.validation.indices)
    assert all(batch.teacher_logits is None and not batch.teacher_features for batch in batches)
    assert all(batch.progress == 0 for batch in batches)
    assert digits.validation.images.dtype == torch.uint8  # the split itself is as it was


@pytest.mark.parametrize("size", [1, 5, 12, 13, 100])
def test_a_shuffle_shows_every_sample_once_with_all_that_belongs_to_it(
    tiny_split: Callable[..., Split], size: int
) -> None:
    split = tiny_split(12)
    batches = list(marked(split).batches(size, shuffle_seed=1))
    assert [len(batch.labels) for batch in batches] == [size] * (12 // size) + ([12 % size] if 12 % size else [])
    order = torch.cat([batch.indices for batch in batches])
    assert not order.equal(split.indices) and order.sort().values.equal(split.indices)
    for batch in batches:
        rows = batch.indices - 100
        assert belongs(batch)
        assert batch.labels.equal(split.labels[rows])
        assert torch.equal(batch.images, to_float(split.images[rows]))


def test_a_shuffle_is_decided_by_its_seed_alone(digits: Data) -> None:
    def order(seed: int) -> list[int]:
        return [i for batch in digits.test.batches(64, shuffle_seed=seed) for i in batch.indices.tolist()]

    first = order(0)
    torch.manual_seed(99)
    assert order(0) == first and order(1) != first


@pytest.mark.parametrize("shuffle_seed", [None, 0])
def test_reading_batches_leaves_the_random_numbers_outside_as_they_were(digits: Data, shuffle_seed: int | None) -> None:
    before = torch.get_rng_state()
    list(digits.test.batches(100, shuffle_seed=shuffle_seed))
    assert torch.equal(torch.get_rng_state(), before)


# Teacher logits belong to samples.


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        pytest.param(
            torch.zeros(11, 3), r"\(11, 3\) do not fit 12 samples: expected \(12, classes\)", id="a row short"
        ),
        pytest.param(
            torch.zeros(13, 3), r"\(13, 3\) do not fit 12 samples.*predict\(teacher, split\)", id="a row more"
        ),
        pytest.param(torch.zeros(12), r"\(12,\) do not fit", id="one dimension"),
        pytest.param(torch.zeros(12, 1, 3), r"\(12, 1, 3\) do not fit", id="three dimensions"),
        pytest.param(torch.zeros(12, 3).fill_(torch.nan), "NaN or infinity", id="NaN"),
        pytest.param(torch.zeros(12, 3).index_fill(0, torch.tensor(7), torch.inf), "NaN or infinity", id="infinity"),
    ],
)
def test_teacher_logits_that_do_not_fit_are_refused(
    tiny_split: Callable[..., Split], logits: torch.Tensor, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        tiny_split(12).with_teacher(logits)


def test_a_teacher_is_attached_to_a_copy_as_constant_float32(tiny_split: Callable[..., Split]) -> None:
    split = tiny_split(12)
    logits = torch.ones(12, 3, dtype=torch.float16, requires_grad=True)
    taught = split.with_teacher(logits)
    assert split.teacher_logits is None
    assert taught.teacher_logits is not None and not taught.teacher_logits.requires_grad
    assert taught.teacher_logits.dtype == torch.float32 and equal(taught, split)


TRANSFORMS = [
    pytest.param(lambda s: s, 300, id="as it is"),
    pytest.param(lambda s: s.subset([7, 3, 200, 3]), 4, id="subset by a list"),
    pytest.param(lambda s: s.subset(torch.arange(299, -1, -2)), 150, id="subset by positions"),
    pytest.param(lambda s: s.subset(s.labels == 2), 100, id="subset by a mask"),
    pytest.param(lambda s: s.take(50, seed=3), 50, id="take"),
    pytest.param(lambda s: s.only(0, 2), 200, id="only"),
    pytest.param(lambda s: s.without(1), 200, id="without"),
    pytest.param(lambda s: s.take(200, seed=1).without(0).take(20, seed=2).only(1), None, id="a chain"),
]


@pytest.mark.parametrize(("transform", "size"), TRANSFORMS)
@pytest.mark.parametrize("shuffle_seed", [None, 5], ids=["in order", "shuffled"])
def test_what_the_teacher_said_stays_with_its_sample(
    tiny_split: Callable[..., Split], transform: Callable[[Split], Split], size: int | None, shuffle_seed: int | None
) -> None:
    source = tiny_split(300)
    split = transform(marked(source))
    assert len(split) == size if size is not None else len(split) > 0
    assert split.origin == source.origin
    assert split.labels.equal(source.labels[split.indices - 100])
    assert split.images.equal(source.images[split.indices - 100])
    seen = list(split.batches(7, shuffle_seed=shuffle_seed))
    assert sum(len(batch.labels) for batch in seen) == len(split)
    assert all(belongs(batch) for batch in seen)


def test_a_selection_of_nothing_has_no_batches_and_keeps_its_columns(tiny_split: Callable[..., Split]) -> None:
    nothing = marked(tiny_split(12)).subset([])
    assert len(nothing) == 0 and not list(nothing.batches(4))
    assert nothing.images.shape == (0, 1, 28, 28) and nothing.teacher_logits.shape == (0, 3)


@pytest.mark.parametrize("transform", [transform.values[0] for transform in TRANSFORMS])
def test_a_split_without_a_teacher_stays_without(
    tiny_split: Callable[..., Split], transform: Callable[[Split], Split]
) -> None:
    split = transform(tiny_split(300))
    assert split.teacher_logits is None and not split.teacher_features


@pytest.mark.parametrize("rows", [11, 13])
def test_teacher_features_that_do_not_fit_are_refused_by_stage(tiny_split: Callable[..., Split], rows: int) -> None:
    tables = {"stage1": torch.zeros(12, 2), "stage2": torch.zeros(rows, 2)}
    with pytest.raises(ValueError, match=rf"'stage2' has {rows} rows for 12 samples.*predict_features\(teacher, split"):
        tiny_split(12).with_features(tables)


def test_larger_draws_with_one_seed_contain_the_smaller_ones(digits: Data) -> None:
    draws = [set(digits.train.take(count, seed=4).indices.tolist()) for count in (10, 50, 400, 1000)]
    assert [len(draw) for draw in draws] == [10, 50, 400, 1000]
    assert draws[0] < draws[1] < draws[2] < draws[3]


def test_a_draw_is_decided_by_its_seed_alone(digits: Data) -> None:
    torch.manual_seed(0)
    first = digits.train.take(100, seed=0)
    torch.manual_seed(1)
    assert equal(digits.train.take(100, seed=0), first)
    assert not equal(digits.train.take(100, seed=1), first)


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_more_samples_than_there_are_cannot_be_taken(digits: Data, count: int) -> None:
    with pytest.raises(ValueError, match=f"cannot take {count:,} of 1,000 samples; choose 1 to 1,000"):
        digits.train.take(count, seed=0)


def test_only_and_without_share_the_samples_out(digits: Data) -> None:
    threes, others = digits.train.only(3), digits.train.without(3)
    assert set(threes.labels.tolist()) == {3} and 3 not in others.labels
    assert torch.cat([threes.indices, others.indices]).sort().values.equal(digits.train.indices)
    assert len(digits.train.only()) == 0 and equal(digits.train.without(), digits.train)


# Pixels.


def test_pixels_become_fractions_and_floats_pass() -> None:
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    images = torch.tensor([0.25])
    assert to_float(images) is images


def test_jitter_moves_each_image_by_its_own_amount_of_at_most_two_pixels() -> None:
    images = torch.zeros(2000, 1, 28, 28)
    images[:, 0, 10, 15] = 1
    torch.manual_seed(0)
    found = jitter(images)
    assert found.shape == images.shape
    sample, _channel, row, column = found.nonzero(as_tuple=True)
    assert sample.equal(torch.arange(2000))  # still one lit pixel in every image
    shifts = torch.stack([row - 10, column - 15], 1)
    assert shifts.abs().max() == 2
    counts = torch.unique(shifts, dim=0, return_counts=True)[1]
    assert len(counts) == 25 and counts.min() > 40 and counts.max() < 130  # each of the 25 shifts about 80 times


def test_jitter_moves_the_whole_picture_and_loses_nothing_inside_a_black_border(digits: Data) -> None:
    images = F.pad(to_float(digits.test.images[:200, :, 4:24, 4:24]), (4, 4, 4, 4))
    torch.manual_seed(0)
    found = jitter(images)
    matched = torch.zeros(200, dtype=torch.long)
    for down in range(-2, 3):
        for right in range(-2, 3):
            matched += (found == images.roll((down, right), (2, 3))).flatten(1).all(1)
    assert (matched == 1).all()
    assert torch.equal(found.flatten(1).sort(1).values, images.flatten(1).sort(1).values)


def test_jitter_fills_with_black_and_never_wraps_around() -> None:
    torch.manual_seed(0)
    found = jitter(torch.ones(500, 1, 6, 6))
    ones = found.sum((1, 2, 3))
    sides = {(6 - a) * (6 - b) for a in range(3) for b in range(3)}
    assert {int(count) for count in ones} == sides
    assert (found[:, :, 2:4, 2:4] == 1).all()


def test_jitter_moves_the_channels_of_an_image_together_and_keeps_their_type() -> None:
    image = torch.randint(0, 255, (50, 1, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    found = jitter(image.expand(-1, 3, -1, -1))
    assert found.dtype == torch.uint8 and found.shape == (50, 3, 9, 7)
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])
    assert not torch.equal(found[:, :1], image)


def test_jitter_is_decided_by_the_global_seed_and_by_zero_pixels_not_at_all() -> None:
    images = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    first = jitter(images)
    torch.manual_seed(3)
    assert torch.equal(jitter(images), first) and not torch.equal(jitter(images), first)
    assert torch.equal(jitter(images, 0), images)


@pytest.mark.parametrize("length", [11, 13])
def test_a_mask_of_another_split_is_refused(tiny_split: Callable[..., Split], length: int) -> None:
    with pytest.raises(ValueError, match=rf"a mask of shape \({length},\) does not fit 12 samples"):
        tiny_split(12).subset(torch.ones(length, dtype=torch.bool))


def test_a_folder_that_cannot_be_used_leaves_the_digits(
    small_mnist: dict[str, bytes],
    mirror: Callable[..., Mirror],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys,
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setattr("kd_course.data.download_folder", lambda: tmp_path / "a file")
    mirror(zipped(small_mnist))
    with pytest.raises(DataError, match=r"MNIST cannot be kept in .*a file.*KD_COURSE_DATA"):
        load_data("mnist")
    assert load_data().name == "digits"
