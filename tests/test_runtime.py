"""Device, random numbers, threads and the files that ship with the course."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from kd_course import runtime
from kd_course.models import StudentNet
from kd_course.runtime import (
    available_cores,
    download_folder,
    in_checkout,
    pick_device,
    seeded,
    setting,
    shipped,
    threads,
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretends that this machine has, or has not, CUDA and MPS, and that KD_COURSE_DEVICE is unset."""

    def pretend(*, cuda: bool, mps: bool) -> None:
        monkeypatch.delenv("KD_COURSE_DEVICE", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_fastest_available_device_is_picked(machine, cuda: bool, mps: bool, expected: str) -> None:
    machine(cuda=cuda, mps=mps)
    assert pick_device().type == expected


def test_the_argument_decides_then_the_variable_then_the_machine(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(cuda=True, mps=False)
    monkeypatch.setenv("KD_COURSE_DEVICE", "cpu")
    assert pick_device() == torch.device("cpu")
    assert pick_device("meta") == torch.device("meta")


def test_an_empty_variable_counts_as_unset(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(cuda=False, mps=False)
    monkeypatch.setenv("KD_COURSE_DEVICE", "")
    assert pick_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x", "cuda:" + "9" * 30])
def test_an_unavailable_device_is_refused_by_name_with_a_fix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"device '{name}' .*pass 'cpu'") as info:
        pick_device(name)
    assert "\n" not in str(info.value) and "KD_COURSE_DEVICE" not in str(info.value)  # which had no part in it
    monkeypatch.setenv("KD_COURSE_DEVICE", name)
    with pytest.raises(ValueError, match=f"device '{name}' .*KD_COURSE_DEVICE"):
        pick_device()


@pytest.mark.parametrize("name", ["gpu", "GPU:0"])
def test_who_asks_for_a_gpu_is_told_what_pytorch_calls_it(name: str) -> None:
    with pytest.raises(ValueError, match="names for a GPU are 'cuda' and 'mps'"):
        pick_device(name)


@pytest.mark.parametrize("name", ["CPU", " cpu ", torch.device("cpu")])
def test_a_device_is_known_by_any_of_its_forms(name: object) -> None:
    assert pick_device(name) == torch.device("cpu")


@pytest.mark.parametrize("number", [0, np.int64(0), 1])
def test_a_number_is_that_gpu_and_not_what_the_course_would_choose(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[torch.device] = []
    monkeypatch.setattr(torch, "empty", lambda size, device: wanted.append(device))
    pick_device(number)
    assert wanted == [torch.device("cuda", int(number))]


@pytest.mark.parametrize("name", [True, False, 1.5, b"cpu", ["cpu"], torch.zeros(1), torch.nn.Linear(1, 1)])
def test_what_is_no_device_is_refused_in_a_sentence(name: object) -> None:
    with pytest.raises(TypeError, match=f"^device must be a name such as 'cpu' .*not {type(name).__name__}$"):
        pick_device(name)


@pytest.mark.parametrize(
    ("value", "expected"), [(' "cpu" ', "cpu"), ("'~/a b'", "~/a b"), ("  ", None), ('""', None), ("a'b", "a'b")]
)
def test_quotes_and_spaces_round_a_setting_are_no_part_of_it(
    value: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KD_COURSE_DATA", value)
    assert setting("KD_COURSE_DATA") == expected


def test_a_quoted_device_is_that_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_COURSE_DEVICE", '"cpu"')
    assert pick_device() == torch.device("cpu")


def test_what_is_built_under_one_seed_is_the_same_and_under_another_is_not() -> None:
    with seeded(1):
        first = torch.rand(5)
    with seeded(1):
        again = torch.rand(5)
    with seeded(2):
        other = torch.rand(5)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_seeded_block_leaves_the_random_numbers_outside_as_they_were() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with seeded(0):
        torch.rand(1000)
    assert torch.equal(torch.rand(3), expected)


def test_a_seeded_block_puts_the_random_numbers_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(0):
        raise KeyError(torch.rand(1))
    assert torch.equal(torch.get_rng_state(), before)


def drawn() -> tuple[float, float, float]:
    """A number of each generator that a learner's objective may use."""
    return torch.rand(()).item(), np.random.random(), random.random()  # noqa: NPY002


def test_a_seed_decides_the_numbers_of_numpy_and_python_too() -> None:
    with seeded(1):
        first = drawn()
    with seeded(1):
        again = drawn()
    with seeded(2):
        other = drawn()
    assert first == again and not set(first) & set(other)


def test_a_seeded_block_puts_numpy_and_python_back_where_they_were() -> None:
    with seeded(7):
        expected = drawn()
    with seeded(7):
        with seeded(0):
            drawn()
        with pytest.raises(KeyError), seeded(0):
            raise KeyError(drawn())
        assert drawn() == expected


@pytest.mark.parametrize("seed", [0, -1, 2**32 + 5, 2**64 - 1, np.int64(3), np.uint8(3)])
def test_a_seed_is_any_whole_number_that_pytorch_takes(seed: int) -> None:
    with seeded(seed):
        first = drawn()
    with seeded(int(seed)):
        assert drawn() == first


@pytest.mark.parametrize("seed", [0.5, 3.0, "5", None, True, float("nan"), 2**64, -(2**64)])
def test_what_is_no_seed_is_refused_and_changes_no_generator(seed: object) -> None:
    with seeded(4):
        expected = drawn()
    with seeded(4):
        with pytest.raises((TypeError, ValueError), match=r"^seed must be"), seeded(seed):
            pytest.fail("a block ran under no seed")
        assert drawn() == expected


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", None, True, 2**70])
def test_a_number_of_threads_that_is_none_is_refused(count: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^the number of threads must be"), threads(count):
        pytest.fail("a block ran on no threads")


def test_a_seeded_block_inside_another_does_not_disturb_it() -> None:
    with seeded(3):
        expected = torch.rand(4)
    with seeded(3):
        first = torch.rand(2)
        with seeded(99):
            torch.rand(50)
        second = torch.rand(2)
    assert torch.equal(torch.cat([first, second]), expected)


def test_an_extra_layer_built_in_a_seeded_block_does_not_change_the_next_network() -> None:
    with seeded(5):
        alone = StudentNet()
    with seeded(5):
        with seeded(6):
            torch.nn.Linear(64, 512)  # a regressor that another method needs
        beside = StudentNet()
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), beside.parameters(), strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_seeded_block_covers_the_cuda_generator() -> None:
    before = torch.cuda.get_rng_state()
    with seeded(1):
        first = torch.rand(5, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with seeded(1):
        assert torch.equal(torch.rand(5, device="cuda"), first)


def test_threads_are_set_inside_and_restored_after() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
        with threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_threads_are_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


def test_available_cores_is_a_number_this_machine_can_have() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU masks")
def test_a_cpu_mask_lowers_the_available_cores() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a clone of the repository, with the package inside."""
    (tmp_path / "data").mkdir()
    (tmp_path / "kd_course").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(runtime, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(runtime, "_PACKAGE", tmp_path / "kd_course")
    return tmp_path


def test_a_clone_keeps_shipped_files_and_downloads_in_its_data_folder(checkout: Path) -> None:
    assert in_checkout()
    assert shipped("teachers", "x.json") == checkout / "data" / "teachers" / "x.json"
    assert download_folder() == checkout / "data"


@pytest.mark.parametrize("absent", ["pyproject.toml", "data"])
def test_a_wheel_keeps_shipped_files_in_the_package_and_downloads_in_the_users_cache(
    checkout: Path, absent: str
) -> None:
    (checkout / absent).rename(checkout / "elsewhere")
    assert not in_checkout()
    assert shipped("results", "x.csv") == checkout / "kd_course" / "shipped" / "results" / "x.csv"
    cache = download_folder()
    assert cache.is_absolute() and "kd_course" in cache.parts and checkout not in cache.parents
