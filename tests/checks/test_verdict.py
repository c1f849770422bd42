"""How a check speaks: three states, one sentence, never an exception; and every check of the course keeps to that."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_course import checks
from kd_course.checks._verdict import (
    Mistake,
    NotStarted,
    Verdict,
    ask,
    ask_tensor,
    close,
    exercise,
    recognise,
    require,
)
from kd_course.runtime import seeded

CHECKS = {name: getattr(checks, name) for name in checks.__all__ if name != "Verdict"}


@exercise
def double(attempt: Callable[[float], float]) -> str:
    """``attempt(x)`` is 2x."""
    answer = ask_tensor(attempt, 3.0, shape=())
    recognise(answer, {"this squares; add the number to itself.": 9.0, "this is the number itself.": 3.0})
    require(close(answer, 6.0), "twice three is six.")
    return "well doubled."


# --- the verdict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "sign", "truth"),
    [("solved", "✅ Solved", True), ("open", "✏️ Not started", False), ("wrong", "❌ Not yet", False)],
)
def test_a_verdict_is_true_only_when_solved(state: str, sign: str, truth: bool):
    verdict = Verdict(state, "one sentence.")
    assert bool(verdict) is truth
    assert repr(verdict) == f"{sign}: one sentence."


def test_a_right_answer_is_praised():
    assert double(lambda x: x + x) == Verdict("solved", "well doubled.")


@pytest.mark.parametrize("attempt", [None, ..., lambda x: None, lambda x: ...])
def test_an_empty_answer_is_open(attempt: object):
    assert double(attempt).state == "open"


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda x: x * x, "this squares"),
        (lambda x: x, "the number itself"),
        (lambda x: 5.0, "twice three"),
        (lambda x: math.nan, "twice three"),
        (lambda x: "6", "not str"),
        (lambda x: torch.tensor([6.0]), r"shape (1,); it should be ()"),
        (lambda: 6.0, "raised TypeError"),
        (lambda x: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda x: [][1], "raised IndexError"),
        (6.0, "without calling it), not float"),
        ("double", "not str"),
        (torch.tensor(6.0), "not Tensor"),
    ],
)
def test_a_wrong_answer_is_told_what_is_wrong(attempt: object, says: str):
    verdict = double(attempt)
    assert verdict.state == "wrong"
    assert says in verdict.message


def test_an_interrupt_is_not_swallowed():
    """A learner who stops a loop that never ends must be able to."""

    def endless(x: float) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        double(endless)


def test_a_check_keeps_its_name_and_docstring():
    assert (double.__name__, double.__doc__) == ("double", "``attempt(x)`` is 2x.")


# --- the helpers ----------------------------------------------------------------------------------------------------


def test_ask_passes_everything_on():
    assert ask(lambda a, b, *, c: (a, b, c), 1, 2, c=3) == (1, 2, 3)
    with pytest.raises(NotStarted):
        ask(lambda a: ..., 1)


@pytest.mark.parametrize("answer", [0, 0.0, False, ""])
def test_zero_is_an_answer(answer: object):
    assert ask(lambda: answer) == answer


@pytest.mark.parametrize("number", [2, 2.0, np.float64(2), torch.tensor(2.0)])
def test_a_number_counts_as_a_scalar_tensor(number: object):
    answer = ask_tensor(lambda: number, shape=())
    assert isinstance(answer, Tensor)
    assert answer.shape == ()
    assert answer.item() == 2


def test_ask_tensor_names_type_and_shape():
    with pytest.raises(Mistake, match=r"a tensor of shape \(2, 3\), not list"):
        ask_tensor(lambda: [[1.0]], shape=(2, 3))
    with pytest.raises(Mistake, match=r"a tensor of shape \(2,\), not float"):
        ask_tensor(lambda: 1.0, shape=(2,))
    with pytest.raises(Mistake, match=r"has shape \(3, 2\); it should be \(2, 3\)"):
        ask_tensor(lambda: torch.zeros(3, 2), shape=(2, 3))


def test_close_is_absolute_and_relative():
    assert close(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.00001]))
    assert close(torch.tensor(1e6), 1e6 + 5)
    assert close(torch.tensor(1e-7), 0.0)
    assert not close(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.001]))
    assert close(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.001]), tolerance=0.01)


def test_close_compares_any_floating_type_and_a_scalar_with_each_element():
    assert close(torch.full((2, 3), 0.5, dtype=torch.float16), torch.full((2, 3), 0.5, dtype=torch.float64))
    assert close(torch.full((2, 3), 0.5), 0.5)
    assert close(torch.full((2, 3), 0.5, requires_grad=True), 0.5)


@pytest.mark.parametrize("answer", [math.nan, math.inf])
def test_nothing_agrees_with_nan_nor_a_number_with_infinity(answer: float):
    assert not close(torch.tensor(answer), 1.0)
    assert not close(torch.tensor(1.0), answer)
    assert not close(torch.tensor(math.nan), math.nan)


def test_whole_numbers_agree_only_with_whole_numbers():
    """An answer of integers must not make the expected value an integer too."""
    assert close(torch.tensor([1, 2]), torch.tensor([1.0, 2.0]))
    assert not close(torch.tensor(4), 4.7)
    assert not close(torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 3), 0.4))


def test_require_and_recognise_speak_the_given_text():
    require(True, "unused")
    with pytest.raises(Mistake, match="say this"):
        require(False, "say this")
    recognise(torch.tensor([1.0, 2.0]), {"other": torch.tensor([2.0, 1.0]), "constant": 0.0})
    with pytest.raises(Mistake, match=r"^constant$"):
        recognise(torch.tensor([0.0, 0.0]), {"other": torch.tensor([2.0, 1.0]), "constant": 0.0})


# --- every check of the course --------------------------------------------------------------------------------------


def test_there_are_checks():
    assert {"soft_targets", "compression_ratio", "error_reduction"} <= set(CHECKS)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_every_check_is_documented_by_its_own_name(name: str):
    check = CHECKS[name]
    assert check.__name__ == name
    assert check.__doc__
    assert "attempt" in check.__doc__


@pytest.mark.parametrize("name", sorted(CHECKS))
@pytest.mark.parametrize("attempt", [None, ..., lambda *_, **__: ..., lambda *_, **__: None])
def test_every_check_leaves_an_untouched_stub_open(name: str, attempt: object):
    assert CHECKS[name](attempt).state == "open"


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_no_check_draws_from_the_notebooks_random_numbers(name: str):
    """Running a check once more must not change what a later cell draws (networks are built in checks too)."""
    with seeded(0):
        expected = torch.rand(1)
    with seeded(0):
        CHECKS[name](lambda *_, **__: torch.rand(1))
        assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_no_check_ever_raises_or_accepts_nonsense(name: str):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("my own bug")

    verdict = CHECKS[name](broken)
    assert verdict.state == "wrong"
    assert "RuntimeError: my own bug" in verdict.message
    zeros = torch.zeros(3, 4)
    nonsense = [0, -1.0, math.nan, math.inf, "text", [], (), {}, zeros, zeros.long(), zeros + math.nan, np.zeros(3)]
    for answer in nonsense:
        assert CHECKS[name](lambda *_, answer=answer, **__: answer).state != "solved", answer
    for no_function in (1, "text", [], {}, zeros):
        assert CHECKS[name](no_function).state == "wrong"
