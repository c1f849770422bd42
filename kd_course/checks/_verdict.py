"""How a check speaks: it runs the learner's function, names the mistake it recognises, and never raises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from kd_course.runtime import seeded

Check = Callable[[Callable[..., Any]], str]


@dataclass(frozen=True)
class Verdict:
    """What a check found. True only when the exercise is solved; printed as one sentence."""

    state: str  # "solved", "open" or "wrong"
    message: str

    def __bool__(self) -> bool:
        return self.state == "solved"

    def __repr__(self) -> str:
        sign = {"solved": "✅ Solved", "open": "✏️ Not started", "wrong": "❌ Not yet"}[self.state]
        return f"{sign}: {self.message}"


class NotStarted(Exception):
    """The learner's function still returns nothing."""


class Mistake(Exception):
    """A recognised mistake; its text is what the learner reads."""


def exercise(check: Check) -> Callable[[Any], Verdict]:
    """Turn ``check(attempt) -> praise``, which raises :class:`Mistake`, into a check that always returns a verdict."""

    @wraps(check)
    def run(attempt: Any) -> Verdict:
        if attempt is None or attempt is ...:
            return Verdict("open", "fill in the cell above, run it, and run this check again.")
        if not callable(attempt):
            return Verdict("wrong", f"pass the function itself (without calling it), not {type(attempt).__name__}.")
        try:
            with seeded(0):  # a check draws no random numbers from the notebook's generator
                return Verdict("solved", check(attempt))
        except NotStarted:
            return Verdict("open", "the function still returns nothing; replace the `...` and run both cells again.")
        except Mistake as mistake:
            return Verdict("wrong", str(mistake))
        except Exception as error:  # whatever the learner's code raises is an answer too
            return Verdict("wrong", f"your code raised {type(error).__name__}: {error}")

    return run


def ask(attempt: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call the learner's function; an untouched stub is not a mistake."""
    answer = attempt(*arguments, **options)
    if answer is None or answer is ...:
        raise NotStarted
    return answer


def ask_tensor(attempt: Callable[..., Any], *arguments: Any, shape: tuple[int, ...], **options: Any) -> Tensor:
    """Call the learner's function and expect a tensor of this shape; ``()`` is a scalar, and a plain number will do."""
    answer = ask(attempt, *arguments, **options)
    if shape == () and isinstance(answer, int | float):
        answer = torch.tensor(float(answer), dtype=torch.float64)
    if not isinstance(answer, Tensor):
        raise Mistake(f"return a tensor of shape {shape}, not {type(answer).__name__}.")
    if tuple(answer.shape) != shape:
        raise Mistake(f"the result has shape {tuple(answer.shape)}; it should be {shape}.")
    return answer


def close(answer: Tensor, expected: Tensor | float, tolerance: float = 1e-5) -> bool:
    """Whether two tensors agree within ``tolerance``, absolutely and relatively; NaN agrees with nothing."""
    answer, expected = answer.double(), torch.as_tensor(expected).double()
    return bool(torch.allclose(answer, expected.expand_as(answer), rtol=tolerance, atol=tolerance))


def require(correct: bool, otherwise: str) -> None:
    """Raise :class:`Mistake` with this text unless ``correct``."""
    if not correct:
        raise Mistake(otherwise)


def recognise(answer: Tensor, classics: dict[str, Tensor | float]) -> None:
    """Raise :class:`Mistake` with the text whose wrong value the learner has reproduced, if there is one."""
    for text, wrong in classics.items():
        require(not close(answer, wrong), text)
