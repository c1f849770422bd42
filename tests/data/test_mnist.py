"""MNIST's files: intact ones are found and read as torchvision reads them; damaged ones are named and never used."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_mnist import DAMAGES, FILES, cut_short, flip_one_bit, images_of, write, zipped
from torchvision.datasets import MNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from kd_course.data import Data, DataError, as_mnist, find_mnist, load_data
from kd_course.data import mnist as source
from kd_course.data.mnist import ARCHIVES_MD5, read_mnist

# Finding.


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
    monkeypatch.setattr("kd_course.data.load.read_mnist", lambda raw: pytest.fail("a damaged folder was read"))
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
    written = (raw / FILES[0]).stat().st_mtime_ns
    flip_one_bit(raw / FILES[0])
    os.utime(raw / FILES[0], ns=(written, written + 10**9))  # whatever the grain of this file system's clock
    with pytest.raises(DataError, match=FILES[0]):
        find_mnist()


@pytest.mark.parametrize("age", ["the same age", "just written"])
def test_a_file_damaged_within_one_tick_of_a_clock_is_noticed(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: str
) -> None:
    """The age that a file is given back after the damage, or that it has because the clock stands, says nothing."""
    raw = write(small_mnist, tmp_path / "mine")
    monkeypatch.setenv("KD_COURSE_DATA", str(raw))
    written = (raw / FILES[0]).stat()
    if age == "just written":
        fixed = ("st_mode", "st_size", "st_mtime_ns", "st_ctime_ns")
        stand = SimpleNamespace(**{name: getattr(written, name) for name in fixed})
        monkeypatch.setattr(source.time, "time_ns", lambda: written.st_mtime_ns)
        real = Path.stat
        monkeypatch.setattr(Path, "stat", lambda path, **how: stand if path == raw / FILES[0] else real(path, **how))
    assert find_mnist() == raw
    flip_one_bit(raw / FILES[0])
    os.utime(raw / FILES[0], ns=(written.st_atime_ns, written.st_mtime_ns))
    with pytest.raises(DataError, match=FILES[0]):
        find_mnist()


def test_an_old_file_is_hashed_once(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write(small_mnist, tmp_path / "mine")
    monkeypatch.setenv("KD_COURSE_DATA", str(raw))
    read: list[Path] = []
    unpacked = source._unpacked
    monkeypatch.setattr(source, "_unpacked", lambda path: read.append(path) or unpacked(path))
    monkeypatch.setattr(source.time, "time_ns", lambda: max((raw / file).stat().st_ctime_ns for file in FILES) + 10**10)
    for _ in range(3):
        assert find_mnist() == raw
    assert len(read) == 4


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_100_flipped_bits_are_all_refused(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    files = zipped(small_mnist) if packed else small_mnist
    raw = write(files, tmp_path / "mine")
    monkeypatch.setenv("KD_COURSE_DATA", str(raw))
    random = np.random.default_rng(0)
    for number in range(100):
        name = [*files][number % 4]
        content = bytearray(files[name])
        # An archive begins with ten bytes that have no part in its content, and may have idle bits before its checksum.
        first, last = (10, len(content) - 9) if packed else (0, len(content))
        content[random.integers(first, last)] ^= 1 << random.integers(8)
        (raw / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} (is truncated or corrupt|cannot be read)"):
            load_data(validation_size=10)
        (raw / name).write_bytes(files[name])
        assert load_data(validation_size=10).name == "mnist"


@pytest.mark.parametrize("damage", [cut_short, DAMAGES[-1], lambda path: path.write_bytes(b"no archive")])
def test_a_damaged_archive_is_named(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    raw = write(zipped(small_mnist), tmp_path / "mine")
    damage(raw / f"{FILES[1]}.gz")
    monkeypatch.setenv("KD_COURSE_DATA", str(raw))
    with pytest.raises(DataError, match=rf"{FILES[1]}\.gz (cannot be read|is truncated).*unset KD_COURSE_DATA"):
        load_data()


def test_a_file_that_must_not_be_read_is_named(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write(small_mnist, tmp_path / "mine")
    monkeypatch.setenv("KD_COURSE_DATA", str(raw))

    def refuse(path: Path, kind: type) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(source.np, "fromfile", refuse)
    with pytest.raises(DataError, match=f"{FILES[0]} cannot be read .*Permission denied"):
        load_data()


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


def test_the_archives_are_those_that_torchvision_lists() -> None:
    assert {f"{file}.gz": checksum for file, checksum in ARCHIVES_MD5.items()} == dict(MNIST.resources)
    assert list(ARCHIVES_MD5) == FILES


# Reading.


def as_torchvision_reads(raw: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels of both parts, by torchvision."""
    return {
        part: (
            read_image_file(str(raw / f"{prefix}-images-idx3-ubyte"))[:, None],
            read_label_file(str(raw / f"{prefix}-labels-idx1-ubyte")),
        )
        for part, prefix in (("train", "train"), ("test", "t10k"))
    }


def same(raw: Path) -> bool:
    """Whether the package and torchvision read the same from ``raw``, in the same types."""
    found, expected = read_mnist(raw), as_torchvision_reads(raw)
    assert list(found) == ["train", "test"]
    for part, (images, labels) in expected.items():
        torch.testing.assert_close(found[part].images, images, rtol=0, atol=0)
        torch.testing.assert_close(found[part].labels, labels, rtol=0, atol=0)
        assert found[part].indices.equal(torch.arange(len(labels)))
        assert found[part].origin == f"mnist/{part}"
    return True


def test_the_small_files_are_read_as_torchvision_reads_them(small_mnist: dict[str, bytes], tmp_path: Path) -> None:
    assert same(write(small_mnist, tmp_path / "mine"))


def test_the_real_files_are_read_as_torchvision_reads_them(mnist: Data) -> None:
    assert same(find_mnist())


def test_what_somebody_writes_into_the_images_does_not_reach_the_next_load(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KD_COURSE_DATA", str(write(small_mnist, tmp_path / "mine")))
    for _ in range(2):
        found = load_data(validation_size=10)
        assert found.test.images.equal(images_of(small_mnist, "t10k"))
        for part in (found.train, found.validation, found.test):
            part.images.zero_()
            part.labels.zero_()


def header(*numbers: int) -> Callable[[bytes], bytes]:
    """Replaces the first numbers of a file's header."""
    return lambda content: struct.pack(f">{len(numbers)}I", *numbers) + content[4 * len(numbers) :]


IMAGES, LABELS = FILES[2:]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        pytest.param(IMAGES, header(2049), id="images that say they are labels"),
        pytest.param(LABELS, header(2051), id="labels that say they are images"),
        pytest.param(IMAGES, header(0x0D03), id="floats"),
        pytest.param(IMAGES, header(2051, 13), id="one image less than the header says"),
        pytest.param(LABELS, header(2049, 11), id="one label more than the header says"),
        pytest.param(IMAGES, header(2051, 12, 14, 56), id="another shape"),
        pytest.param(IMAGES, lambda content: content[:-1], id="cut short"),
        pytest.param(IMAGES, lambda content: content + b"\0", id="a pixel too many"),
        pytest.param(LABELS, lambda content: content + b"\0", id="a label too many"),
        pytest.param(IMAGES, lambda content: content[:10], id="half a header"),
        pytest.param(LABELS, lambda content: b"", id="empty"),
    ],
)
def test_a_file_with_another_header_than_its_name_promises_is_refused(
    small_mnist: dict[str, bytes], tmp_path: Path, file: str, change: Callable[[bytes], bytes]
) -> None:
    raw = write({**small_mnist, file: change(small_mnist[file])}, tmp_path / "mine")
    with pytest.raises(DataError, match=f"{file} is not the MNIST file"):
        read_mnist(raw)


def test_mnist_carries_the_labels_and_images_of_its_rows_in_the_source(mnist: Data) -> None:
    files = {file: (find_mnist() / file).read_bytes() for file in FILES}
    for file, parts in (("train", (mnist.train, mnist.validation)), ("t10k", (mnist.test,))):
        labels = np.frombuffer(files[f"{file}-labels-idx1-ubyte"], np.uint8, offset=8)
        for part in parts:
            assert np.array_equal(part.labels.numpy(), labels[part.indices])
            assert part.images.equal(images_of(files, file)[part.indices])


def test_a_file_that_vanished_since_it_was_found_is_named(small_mnist: dict[str, bytes], tmp_path: Path) -> None:
    raw = write(small_mnist, tmp_path / "mine")
    (raw / LABELS).unlink()
    with pytest.raises(DataError, match=f"{LABELS} cannot be read"):
        read_mnist(raw)


# Drawings.


def drawn(image: torch.Tensor) -> list[int]:
    return image.flatten().tolist()


def test_a_drawing_gets_the_size_and_the_place_that_mnist_gave_its_digits() -> None:
    image = torch.zeros(28, 28)
    image[2:7, 1:3] = 200  # a small bar in the corner, 5 by 2
    ready = as_mnist(drawn(image.byte()))
    assert ready.shape == (1, 28, 28) and ready.dtype == torch.uint8
    rows, columns = (ready[0].amax(dim).nonzero().squeeze(1) for dim in (1, 0))
    assert len(rows) == 20 and len(columns) == 8  # the proportions stay
    mass = ready[0].double() / ready.sum()
    for side in (1, 0):
        assert (mass.sum(side) @ torch.arange(28).double()).item() == pytest.approx(14, abs=0.51)
    assert ready.max() == 200


def test_an_empty_drawing_stays_empty_and_a_dot_stays_inside() -> None:
    assert as_mnist([0] * 784).sum() == 0
    for corner in (0, 27, 756, 783):
        dot = [0] * 784
        dot[corner] = 255
        assert as_mnist(dot)[0, 3:25, 3:25].sum() == as_mnist(dot).sum() > 0


def test_real_mnist_digits_pass_nearly_unchanged(mnist: Data) -> None:
    images = mnist.test.images[:50]
    ready = torch.stack([as_mnist(drawn(image)) for image in images])
    assert (ready.float() - images.float()).abs().mean() < 8  # of 255: they were prepared in this way already
