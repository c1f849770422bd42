"""Which data set is loaded, from where, and how it is divided."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_mnist import equal, images_of, write, zipped

from kd_course.data import Data, DataError, load_data

# Which data set.


@pytest.mark.parametrize("inside", ["MNIST/raw", "raw", "."], ids=["root", "MNIST's folder", "the files' own folder"])
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


def dotted(name: str) -> str:
    """The name that Kaggle gave a file."""
    return name.replace("-idx", ".idx")


NAMES = {
    "Kaggle's": lambda files: {dotted(name): content for name, content in files.items()},
    "packed": zipped,
    "packed, Kaggle's": lambda files: {dotted(name): content for name, content in zipped(files).items()},
    "some of each": lambda files: dict([*files.items()][:2]) | dict([*zipped(files).items()][2:]),
}


@pytest.mark.parametrize("names", NAMES)
def test_files_under_other_names_are_used(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    mine = write(NAMES[names](small_mnist), tmp_path / "mine")
    (mine / "train-labels-idx1-ubyte.d").mkdir()
    monkeypatch.setenv("KD_COURSE_DATA", str(mine))
    found = load_data(validation_size=10)
    assert found.train.images.equal(images_of(small_mnist, "train")[found.train.indices])
    assert found.test.images.equal(images_of(small_mnist, "t10k"))
    found.test.images.zero_()
    assert load_data(validation_size=10).test.images.equal(images_of(small_mnist, "t10k"))


def test_kaggles_folders_of_the_same_names_are_passed_over(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = write(NAMES["Kaggle's"](small_mnist), tmp_path / "mine")
    for name in small_mnist:
        (mine / name).mkdir()
    monkeypatch.setenv("KD_COURSE_DATA", str(mine))
    assert load_data(validation_size=10).test.images.equal(images_of(small_mnist, "t10k"))


@pytest.mark.parametrize(
    "written", ["~/m n", '"{home}/m n"', "'{home}/m n'", " {home}/m n ", '"~/m n"', "{home}/m n/{file}"]
)
def test_a_folder_is_found_however_it_is_written(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    write(small_mnist, tmp_path / "m n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("KD_COURSE_DATA", written.format(home=tmp_path, file="train-images-idx3-ubyte"))
    assert load_data(validation_size=10).test.images.equal(images_of(small_mnist, "t10k"))


@pytest.mark.parametrize("folder", ["nowhere", "~nobody-has-this-name/x", "x" * 5000, "d/" * 3000, "nul"])
@pytest.mark.parametrize("name", ["auto", "mnist"])
def test_a_folder_without_mnist_is_refused_in_one_short_sentence(
    small_mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_COURSE_DATA", folder)
    with pytest.raises(DataError, match=r"KD_COURSE_DATA=.* has no usable MNIST: none of the files is in it") as info:
        load_data(name)
    message = str(info.value)
    assert folder[:80] in message and len(message) < 500 and "unset KD_COURSE_DATA" in message
    assert (f"({len(folder):,} letters)" in message) == (len(folder) > 200)


def test_a_quoted_data_set_is_that_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_COURSE_DATASET", '"Digits" ')
    assert load_data().name == "digits"


@pytest.mark.parametrize("name", [0, 5, True, b"digits", ["digits"], Path("digits")])
def test_a_name_that_is_no_text_is_refused(name: object) -> None:
    with pytest.raises(TypeError, match=r"name must be 'auto', 'mnist' or 'digits', not"):
        load_data(name)


def test_the_sentence_about_the_digits_is_printed_on_any_terminal(
    small_mnist: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr("kd_course.data.load.find_mnist", lambda: raises(DataError("данные × gone")))
    assert load_data().name == "digits"
    assert b"MNIST is not here (?????? x gone), so this run uses the 1,797 UCI digits" in written.getvalue()


def raises(error: Exception) -> None:
    raise error


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


@pytest.mark.parametrize("variable", [None, ""], ids=["unset", "empty"])
def test_without_mnist_and_network_one_sentence_says_so_and_digits_take_its_place(
    small_mnist: dict[str, bytes],
    one_sentence: Callable[[str], bool],
    monkeypatch: pytest.MonkeyPatch,
    capsys,
    variable: str | None,
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


# How it is divided.


def test_digits_have_fixed_sizes_and_disjoint_splits_that_cover_the_source(digits: Data) -> None:
    parts = (digits.train, digits.validation, digits.test)
    assert [len(part) for part in parts] == [1000, 297, 500]
    assert torch.cat([part.indices for part in parts]).sort().values.equal(torch.arange(1797))
    assert {part.origin for part in parts} == {"digits"}
    assert all(part.labels.unique().tolist() == list(range(10)) for part in parts)


def test_mnist_has_fixed_sizes_and_disjoint_splits(mnist: Data) -> None:
    assert [len(part) for part in (mnist.train, mnist.validation, mnist.test)] == [55_000, 5_000, 10_000]
    assert torch.cat([mnist.train.indices, mnist.validation.indices]).sort().values.equal(torch.arange(60_000))
    assert mnist.test.indices.equal(torch.arange(10_000))
    assert [mnist.train.origin, mnist.validation.origin, mnist.test.origin] == [
        "mnist/train",
        "mnist/train",
        "mnist/test",
    ]


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


@pytest.mark.parametrize("size", ["5", 0.5, 100.0, True, [5], float("nan")])
def test_a_validation_size_that_is_no_whole_number_is_refused(size: object) -> None:
    with pytest.raises(TypeError, match=r"validation_size, which counts samples, must be a whole number, not"):
        load_data("digits", validation_size=size)


@pytest.mark.parametrize("size", [np.int64(100), torch.tensor(100)])
def test_a_validation_size_may_be_a_whole_number_of_numpy_or_pytorch(digits: Data, size: object) -> None:
    assert equal(load_data("digits", validation_size=size).train, load_data("digits", validation_size=100).train)


def test_what_somebody_writes_into_the_digits_does_not_reach_the_next_load() -> None:
    first = load_data("digits")
    expected = {part: getattr(first, part).images.clone() for part in ("train", "validation", "test")}
    for part in expected:
        for table in (getattr(first, part).images, getattr(first, part).labels, getattr(first, part).indices):
            table.zero_()
    again = load_data("digits")
    assert all(getattr(again, part).images.equal(images) for part, images in expected.items())
    assert again.test.labels.any() and again.test.indices[:5].tolist() == [7, 8, 9, 15, 20]


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
