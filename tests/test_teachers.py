"""The teachers: accurate, frozen, as their cards describe them, and refused when a byte differs."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kd_course import teachers
from kd_course.data import MNIST_SHA256, Data, Split
from kd_course.inference import predict
from kd_course.models import TeacherNet, count_parameters, mlp
from kd_course.runtime import shipped
from kd_course.teachers import (
    TRAININGS,
    TeacherError,
    Training,
    card,
    load_teacher,
    publish,
    teacher_logits,
    train_teacher,
)

SHIPPED = sorted(path.stem.removeprefix("mnist_") for path in shipped("teachers").glob("mnist_*.json"))
KINDS = ["weights", "logits"]
ARCHITECTURES = {"cnn": "TeacherNet", "mlp": "MLP 784-1200-1200-10"}


@pytest.fixture
def small(tiny_split: Callable[..., Split]) -> Data:
    """A data set that calls itself MNIST: 24 images to learn from, 8 held out from the same file, 10 to test."""
    file = replace(tiny_split(32, classes=10), indices=torch.arange(32), origin="mnist/train")
    test = replace(tiny_split(10, classes=10, seed=1), indices=torch.arange(10), origin="mnist/test")
    return Data("mnist", "a test", file.subset(range(8, 32)), file.subset(range(8)), test)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the shipped teachers, used instead of them."""
    copy = tmp_path / "teachers"
    shutil.copytree(shipped("teachers"), copy, ignore=shutil.ignore_patterns(".*"))
    monkeypatch.setattr(teachers, "shipped", lambda *parts: tmp_path.joinpath(*parts))
    teachers._verified.cache_clear()
    yield copy
    teachers._verified.cache_clear()


def frozen(model: nn.Module) -> bool:
    return not any(m.training for m in model.modules()) and not any(p.requires_grad for p in model.parameters())


def wrong(logits: torch.Tensor, split: Split) -> int:
    return int((logits.argmax(1) != split.labels).sum())


# The teacher of the digits, trained when loaded.


def test_the_digits_teacher_is_right_on_95_percent_of_the_test_split_and_frozen(digits: Data) -> None:
    teacher = load_teacher(digits)
    assert isinstance(teacher, TeacherNet) and frozen(teacher)
    assert wrong(predict(teacher, digits.test), digits.test) <= 0.05 * len(digits.test)


def test_the_digits_teacher_is_trained_once_and_its_logits_follow_the_samples(digits: Data) -> None:
    teacher = load_teacher(digits)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    logits = teacher_logits(digits.test)
    assert logits.shape == (500, 10) and logits.dtype == torch.float32 and not logits.requires_grad
    torch.testing.assert_close(logits, predict(teacher, digits.test))
    torch.testing.assert_close(teacher_logits(digits.test.subset(order)), logits[order])
    again = load_teacher(digits)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), again.parameters(), strict=True))


def test_what_a_learner_does_to_a_teacher_does_not_reach_the_next_one(digits: Data) -> None:
    teacher = load_teacher(digits)
    bias = teacher.classifier.bias.detach().clone()
    try:
        teacher.train().requires_grad_(True)
        teacher.classifier.bias.data += 100
        fresh = load_teacher(digits)
        assert frozen(fresh) and torch.equal(fresh.classifier.bias, bias)
    finally:
        teacher.classifier.bias.data.copy_(bias)
        teacher.eval().requires_grad_(False)


# The shipped teachers.


def test_the_mnist_cnn_is_shipped() -> None:
    assert "cnn" in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_describes_the_files_beside_it(name: str) -> None:
    described = card(name=name)
    for kind in KINDS:
        content = shipped("teachers", f"mnist_{name}.{kind}.safetensors").read_bytes()
        assert hashlib.sha256(content).hexdigest() == described[f"{kind}_sha256"]
    assert described["teacher"] == f"mnist {name}"
    assert described["data_sha256"] == MNIST_SHA256
    assert described["command"] == f"python -m kd_course.teachers {name} --seed {described['seed']}"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_teacher_is_frozen_and_as_large_as_its_card_says(small: Data, name: str) -> None:
    before = torch.get_rng_state()
    teacher = load_teacher(small, name)
    assert torch.equal(torch.get_rng_state(), before)  # loading a teacher does not change the next student
    assert frozen(teacher) and card(name=name)["architecture"] == ARCHITECTURES[name]
    assert count_parameters(teacher) == card(name=name)["parameters"]
    assert all(parameter.dtype == torch.float32 for parameter in teacher.parameters())


def test_the_mlp_teacher_of_hinton_learned_all_images_and_is_right_on_at_least_99_percent_by_its_card() -> None:
    described = card(name="mlp")
    assert described["data"] == "MNIST, 60,000 training images; 0 held out for validation"
    assert 0.99 <= described["test_accuracy"] < 1
    assert TRAININGS["mnist", "mlp"].held_out == 0 and TRAININGS["mnist", "cnn"].held_out == 5_000


def test_the_mnist_cnn_is_right_on_at_least_99_3_percent_by_its_card() -> None:
    assert 0.993 <= card()["test_accuracy"] < 1


@pytest.mark.parametrize("name", SHIPPED)
def test_the_errors_on_the_card_are_those_of_the_shipped_logits(mnist: Data, name: str) -> None:
    described = card(name=name)
    train, held_out, test = (
        wrong(teacher_logits(part, name), part) for part in (mnist.train, mnist.validation, mnist.test)
    )
    if TRAININGS["mnist", name].held_out:
        found = {"mnist/train": train, "mnist/train (held out)": held_out, "mnist/test": test}
    else:
        found = {"mnist/train": train + held_out, "mnist/test": test}
    assert found == described["errors"]
    assert described["test_accuracy"] == pytest.approx(1 - found["mnist/test"] / 10_000)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_logits_are_those_of_the_shipped_weights_for_any_samples_in_any_order(
    mnist: Data, part: str, name: str
) -> None:
    split: Split = getattr(mnist, part)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(5))[:40]
    some = split.subset(order)
    logits = teacher_logits(some, name)
    assert logits.shape == (40, 10) and logits.dtype == torch.float32
    torch.testing.assert_close(logits, predict(load_teacher(mnist, name), some), rtol=2**-9, atol=0.01)  # float16
    assert torch.equal(teacher_logits(split, name)[order], logits)


# What is refused.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0, 0.5, 1], ids=["first byte", "middle", "last byte"])
def test_a_teacher_with_one_changed_bit_is_refused_by_name(folder: Path, small: Data, kind: str, place: float) -> None:
    path = folder / f"mnist_cnn.{kind}.safetensors"
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(TeacherError, match=rf"{re.escape(str(path))} .*SHA-256.*git checkout"):
        load(small, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_teacher_is_named_with_a_fix(folder: Path, small: Data, kind: str) -> None:
    path = folder / f"mnist_cnn.{kind}.safetensors"
    path.unlink()
    with pytest.raises(TeacherError, match=rf"{re.escape(str(path))} is missing.*kd_course\.teachers cnn"):
        load(small, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_without_its_card_is_refused(folder: Path, small: Data, kind: str) -> None:
    (folder / "mnist_cnn.json").unlink()
    with pytest.raises(TeacherError, match=r"mnist_cnn\.json is missing.*kd_course\.teachers cnn"):
        load(small, kind)


BROKEN = {
    "empty": "",
    "no JSON": "{",
    "another sort of JSON": "[]",
    "a word": '"card"',
    "a number": "7",
    "nested without end": "[" * 100_000,
    "no text": "\udcff",
    "marks of Windows": "\ufeff{}",
    "nothing in it": "{}",
    "no checksum": '{"weights_sha256": "ebfc", "logits_sha256": "38cd"}',
    "checksum of another kind": '{"weights_sha256": "ebfc", "checksum": 5}',
    "checksum that is empty": '{"weights_sha256": "ebfc", "checksum": ""}',
}


@pytest.mark.parametrize("kind", [*KINDS, "card"])
@pytest.mark.parametrize("content", BROKEN)
def test_a_card_that_says_nothing_is_refused_with_its_path_and_a_fix(
    folder: Path, small: Data, kind: str, content: str
) -> None:
    path = folder / "mnist_cnn.json"
    path.write_bytes(BROKEN[content].encode("utf-8", "surrogateescape"))
    with pytest.raises(TeacherError, match=rf"{re.escape(str(path))} .*git checkout -- data/teachers/mnist_cnn\.json"):
        card() if kind == "card" else load(small, kind)


@pytest.mark.parametrize("kind", [*KINDS, "card"])
def test_a_folder_in_place_of_a_file_is_refused(folder: Path, small: Data, kind: str) -> None:
    path = folder / ("mnist_cnn.json" if kind == "card" else f"mnist_cnn.{kind}.safetensors")
    path.unlink()
    path.mkdir()
    with pytest.raises(TeacherError, match=rf"{re.escape(str(path))} .*git checkout"):
        card() if kind == "card" else load(small, kind)


def test_a_card_with_windows_line_ends_is_the_same_card(folder: Path) -> None:
    path = folder / "mnist_cnn.json"
    expected = card()
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert card() == expected


@pytest.mark.parametrize(("kind", "flips"), [("card", 120), ("weights", 40), ("logits", 40)])
def test_200_flipped_bits_are_all_refused(folder: Path, small: Data, kind: str, flips: int) -> None:
    path = folder / ("mnist_cnn.json" if kind == "card" else f"mnist_cnn.{kind}.safetensors")
    intact = path.read_bytes()
    place = random.Random(0)
    for _ in range(flips):
        content = bytearray(intact)
        content[place.randrange(len(content))] ^= 1 << place.randrange(8)
        path.write_bytes(content)
        with pytest.raises(TeacherError, match=re.escape(str(path))):
            card() if kind == "card" else load(small, kind)
    path.write_bytes(intact)
    assert load(small, "weights" if kind == "card" else kind) is not None


def test_weights_of_another_network_are_refused_though_their_card_is_right(folder: Path, small: Data) -> None:
    for file in folder.glob("mnist_mlp*"):
        (folder / file.name.replace("mlp", "cnn")).write_bytes(file.read_bytes())
    with pytest.raises(
        TeacherError, match=r"mnist_cnn\.weights\.safetensors holds the weights of another network; .*git checkout"
    ):
        load_teacher(small)


def load(data: Data, kind: str) -> object:
    """Load the weights or the logits of the shipped CNN."""
    return load_teacher(data) if kind == "weights" else teacher_logits(data.train)


def test_an_intact_copy_is_accepted(folder: Path, small: Data) -> None:
    assert teacher_logits(small.train).shape == (24, 10)
    assert load_teacher(small)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_the_printed_git_command_names_a_path_inside_the_repository(folder: Path, small: Data) -> None:
    (folder / "mnist_cnn.weights.safetensors").write_bytes(b"")
    with pytest.raises(TeacherError, match=r"git checkout -- \S*teachers/mnist_cnn\.weights\.safetensors'"):
        load_teacher(small)


def test_an_unknown_teacher_is_refused_with_the_known_names(digits: Data, small: Data) -> None:
    for call in (lambda: load_teacher(small, "vit"), lambda: teacher_logits(small.train, "vit")):
        with pytest.raises(ValueError, match=r"'vit' for 'mnist'.*cnn, mlp"):
            call()
    with pytest.raises(ValueError, match=r"'vit' for 'digits'.*cnn, mlp"):
        load_teacher(digits, "vit")


@pytest.mark.parametrize(
    ("origin", "word"),
    [("tiny", "'tiny'"), ("cifar/train", "'cifar'"), ("mnist/extra", "extra'"), ("mnist", "'mnist'")],
)
def test_a_split_of_unknown_origin_has_no_teacher(small: Data, origin: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        teacher_logits(replace(small.train, origin=origin))


@pytest.mark.parametrize("number", [-1, 60_000, 10**12])
def test_sample_numbers_that_the_table_does_not_have_are_refused(small: Data, number: int) -> None:
    numbers = small.train.indices.clone()
    numbers[3] = number
    with pytest.raises(ValueError, match=rf"sample numbers .*{number}.*for 0\.\.59999: keep the indices"):
        teacher_logits(replace(small.train, indices=numbers))


def test_logits_of_the_shipped_teacher_are_refused_for_other_samples(small: Data) -> None:
    with pytest.raises(ValueError, match=r"other samples|made for|same samples"):
        small.train.subset(range(5)).with_teacher(teacher_logits(small.train.subset(range(5, 10))))


def test_what_somebody_writes_into_teacher_logits_does_not_reach_the_next_table(small: Data) -> None:
    first = teacher_logits(small.train)
    expected = first.clone()
    first.zero_()
    card()["errors"].clear()
    assert torch.equal(teacher_logits(small.train), expected) and card()["errors"]


@pytest.mark.parametrize("given", ["mnist", None, 5])
def test_what_is_no_data_set_is_refused_in_a_sentence(given: object, digits: Data) -> None:
    kind = type(given).__name__
    for call in (
        load_teacher,
        train_teacher,
        partial(publish, name="cnn", teacher=TeacherNet(), seed=0, folder=Path()),
    ):
        with pytest.raises(TypeError, match=rf"a teacher needs the data set, load_data\(\), not {kind}"):
            call(given)
        with pytest.raises(TypeError, match=r"a teacher needs the data set, load_data\(\), not Split"):
            call(digits.train)
    with pytest.raises(TypeError, match=rf"a teacher needs one split, such as load_data\(\)\.test, not {kind}"):
        teacher_logits(given)
    with pytest.raises(TypeError, match="not Data"):
        teacher_logits(digits)


@pytest.mark.parametrize("name", ["vit", None, 5, ["cnn"], "", np.zeros(3)])
def test_what_is_no_name_of_a_teacher_is_refused_with_the_known_names(digits: Data, small: Data, name: object) -> None:
    calls = [
        lambda: card("mnist", name),
        lambda: load_teacher(small, name),
        lambda: teacher_logits(small.train, name),
        lambda: train_teacher(digits, name),
        lambda: publish(small, name, TeacherNet(), seed=0, folder=Path()),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"no teacher .*there are: cnn, mlp"):
            call()


# Training and publishing.


@pytest.fixture
def quick(small: Data, monkeypatch: pytest.MonkeyPatch) -> Data:
    """The small data set with a training that takes no time."""
    training = Training(partial(mlp, 8, dropout=0.5), epochs=2, batch_size=8)
    monkeypatch.setitem(teachers.TRAININGS, ("mnist", "cnn"), training)
    everything = [small.validation.images, small.train.images], [small.validation.labels, small.train.labels]
    images, labels = (torch.cat(columns) for columns in everything)
    file = Split(images, labels, torch.arange(32), "mnist/train")
    whole = replace(small, train=file, validation=file.subset([]))
    monkeypatch.setattr(teachers, "load_data", lambda name, validation_size=8: small if validation_size else whole)
    return small


def test_a_teacher_depends_on_its_seed_alone_and_is_frozen(quick: Data) -> None:
    before = torch.get_rng_state()
    first, again, other = (train_teacher(quick, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert frozen(first)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_what_is_published_is_what_is_loaded(quick: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = train_teacher(quick)
    exact = [parameter.clone() for parameter in teacher.parameters()]
    described = publish(quick, "cnn", teacher, seed=0, folder=tmp_path / "teachers")
    monkeypatch.setattr(teachers, "shipped", lambda *parts: tmp_path.joinpath(*parts))
    teachers._verified.cache_clear()
    try:
        loaded = load_teacher(quick)
        for saved, original in zip(loaded.parameters(), exact, strict=True):
            assert torch.equal(saved, original.half().float())
        for part in (quick.train, quick.validation, quick.test):
            torch.testing.assert_close(teacher_logits(part), predict(loaded, part), rtol=2**-10, atol=1e-6)
        expected = {
            "mnist/train": wrong(teacher_logits(quick.train), quick.train),
            "mnist/train (held out)": wrong(teacher_logits(quick.validation), quick.validation),
            "mnist/test": wrong(teacher_logits(quick.test), quick.test),
        }
    finally:
        teachers._verified.cache_clear()
    assert described["errors"] == expected and sum(expected.values()) > 0
    assert described["test_accuracy"] == pytest.approx(1 - expected["mnist/test"] / 10)
    assert written(tmp_path / "teachers") == described


def written(folder: Path) -> dict:
    """The card in a folder, without its checksum."""
    content = json.loads((folder / "mnist_cnn.json").read_text(encoding="utf-8"))
    assert re.fullmatch("[0-9a-f]{64}", content.pop("checksum"))
    return content


def test_the_command_writes_a_teacher_and_leaves_no_checkpoint(
    quick: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("sys.argv", ["kd_course.teachers", "cnn", "--seed", "3", "--folder", str(tmp_path / "new")])
    teachers.main()
    names = ["mnist_cnn.json", "mnist_cnn.logits.safetensors", "mnist_cnn.weights.safetensors"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    described = written(tmp_path / "new")
    assert json.loads(capsys.readouterr().out) == described
    assert described["seed"] == 3 and described["command"] == "python -m kd_course.teachers cnn --seed 3"


@pytest.mark.parametrize("seed", ["5", 0.5, None, True])
def test_a_seed_that_is_none_is_refused_before_anything_is_trained_or_written(
    quick: Data, tmp_path: Path, seed: object
) -> None:
    with pytest.raises(TypeError, match="seed must be a whole number"):
        train_teacher(quick, seed=seed)
    with pytest.raises(TypeError, match="seed must be a whole number"):
        publish(quick, "cnn", TeacherNet(), seed=seed, folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_seed_of_numpy_is_written_as_a_number(quick: Data, tmp_path: Path) -> None:
    teacher = train_teacher(quick, seed=np.int64(3))
    assert publish(quick, "cnn", teacher, seed=np.int64(3), folder=tmp_path)["seed"] == 3
    assert written(tmp_path)["command"] == "python -m kd_course.teachers cnn --seed 3"


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_weights_that_float16_cannot_hold_are_refused(quick: Data, tmp_path: Path, value: float) -> None:
    teacher = train_teacher(quick)
    teacher.classifier.bias.data[0] = value
    with pytest.raises(ValueError, match=r"classifier\.bias: NaN, or too large for float16"):
        publish(quick, "cnn", teacher, seed=0, folder=tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_teacher_of_the_digits_is_not_published(digits: Data, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only teachers of MNIST"):
        publish(digits, "cnn", TeacherNet(), seed=0, folder=tmp_path)


@pytest.mark.parametrize("folder", [None, 5, b"x", ["x"]])
def test_what_is_no_folder_is_refused_in_a_sentence(quick: Data, folder: object) -> None:
    with pytest.raises(TypeError, match=f"folder must be a path, not {type(folder).__name__}"):
        publish(quick, "cnn", TeacherNet(), seed=0, folder=folder)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The sentence with which the command ends when it fails."""
    monkeypatch.setattr("sys.argv", ["kd_course.teachers", "cnn", *arguments])
    with pytest.raises(SystemExit) as ended:
        teachers.main()
    return str(ended.value)


@pytest.mark.parametrize("folder", ["a file/x", "a file", "~nobody-has-this-name/" + "x" * 300])
def test_a_folder_that_cannot_be_written_is_found_out_before_training(
    quick: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(teachers, "load_data", lambda *_, **__: pytest.fail("data were loaded first"))
    assert re.match(
        rf"\d+ MB cannot be written to {folder} \(.+\); give another folder", command(monkeypatch, "--folder", folder)
    )


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="this system has no /proc")
def test_the_folder_of_the_system_is_named(quick: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be written to /proc/x (" in command(monkeypatch, "--folder", "/proc/x")


def test_a_folder_that_takes_no_new_files_is_found_out_before_training(
    quick: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(teachers.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(teachers, "train_teacher", lambda *_, **__: pytest.fail("it was trained first"))
    said = command(monkeypatch, "--folder", str(tmp_path))
    assert f"cannot be written to {tmp_path} (Permission denied); give another folder" in said


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Lets no file grow above so many bytes, as a full disk does."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_teacher_is_found_out_before_training(
    quick: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Callable[[int], None]
) -> None:
    monkeypatch.setattr(teachers, "train_teacher", lambda *_, **__: pytest.fail("it was trained first"))
    small_disk(20_000)
    said = command(monkeypatch, "--folder", str(tmp_path / "new"))
    assert f"MB cannot be written to {tmp_path / 'new'} (" in said
    assert not [*(tmp_path / "new").iterdir()]


def test_a_disk_that_is_full_is_told_to_be(quick: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(teachers.tempfile, "TemporaryFile", full)
    assert "(No space left on device); make room there" in command(monkeypatch, "--folder", str(tmp_path))


@pytest.mark.parametrize("file", ["mnist_cnn.weights.safetensors", "mnist_cnn.logits.safetensors", "mnist_cnn.json"])
def test_a_write_that_fails_leaves_the_old_teacher_and_nothing_half(
    quick: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    publish(quick, "cnn", train_teacher(quick), seed=0, folder=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_bytes

    def fill(path: Path, content: bytes) -> int:
        if file not in path.name:
            return write(path, content)
        write(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    monkeypatch.setattr(Path, "write_text", lambda path, text, **_: fill(path, text.encode()))
    with pytest.raises(TeacherError, match=rf"could not be written to {re.escape(str(tmp_path))} .*No space left"):
        publish(quick, "cnn", train_teacher(quick, seed=1), seed=1, folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_ends_with_a_sentence_where_there_is_no_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KD_COURSE_DATA", str(tmp_path / "nowhere"))
    assert "has no usable MNIST" in command(monkeypatch, "--folder", str(tmp_path))
    assert not [*tmp_path.iterdir()]


def test_the_digits_have_no_card_and_the_error_says_why() -> None:
    with pytest.raises(TeacherError, match=r"digits.*no card.*load_teacher"):
        card("digits")
