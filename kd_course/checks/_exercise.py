"""How a check works: it runs the learner's function, names the mistake it finds, and never raises.

An exercise is data: what the function is given, a right solution, and the mistakes that people make, each written once
as a wrong function under the sentence that a learner should read::

    softmax = Exercise(
        task="`submission(logits)` is the softmax of each row of logits (B, C).",
        inputs=[Given(MILD), Given(HUGE, otherwise="right for small logits only: use `torch.softmax`.")],
        solution=lambda z: z.softmax(1),
        mistakes={"your columns sum to 1; normalise over the classes (`dim=1`).": lambda z: z.softmax(0)},
        otherwise="the rows are not exp(z) divided by their own sum.",
        praise="every row is a distribution.",
    )

``softmax(my_function)`` then compares, input by input, what the learner's function returns with what the solution
returns. Where they differ, it names the first mistake that returns the same as the learner's function, here and on the
inputs before.
"""

from __future__ import annotations

import copy
import inspect
import io
import math
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from kd_course.runtime import seeded, threads

Submission = Callable[..., Any]

NO_GRADIENT = "the value is right, but no gradient flows back: leave out `.item()`, `.detach()` and `no_grad`."
NAN_GRADIENT = (
    "the value is right, but its gradient is NaN or infinite here, which ruins a training at its first batch."
)
WRONG_GRADIENT = "the value is right, but its gradient is not: part of it passes through `.detach()` or `no_grad`."
OVERWRITTEN = (
    "your function changed what it was given, by writing into a tensor or a module, so it is spoilt for everyone after "
    "you; work on a copy (`.clone()`)."
)


@dataclass(frozen=True)
class Verdict:
    """What a check found. True only when the exercise is solved; printed as one sentence."""

    state: str  # "solved", "open" or "wrong"
    message: str

    def __bool__(self) -> bool:
        return self.state == "solved"

    def __repr__(self) -> str:
        sign = {"solved": "✅ Solved", "open": "✏️ Not started", "wrong": "❌ Not yet"}[self.state]
        letters = getattr(sys.stdout, "encoding", None) or "utf-8"  # a terminal may know no α, and no tick
        return f"{sign}: {self.message}".encode(letters, "namereplace").decode(letters)


class NotStarted(Exception):
    """The learner's function still returns nothing."""


class Mistake(Exception):
    """What is wrong with a submission; its text is what the learner reads."""


class TooLong(BaseException):
    """A function was stopped; ``except Exception`` in it does not keep it running."""


class Given:
    """One set of arguments for the learner's function; every call gets its own copy.

    Args:
        arguments: tensors, numbers, modules, dicts of these.
        otherwise: what to say when the answer is wrong here and no mistake matches; the exercise's text if None.
    """

    def __init__(self, *arguments: Any, otherwise: str | None = None) -> None:
        self._arguments, self.otherwise = arguments, otherwise

    def fresh(self, gradient: Sequence[int] = ()) -> list[Any]:
        """A copy of the arguments, in which those at the positions ``gradient`` ask for a gradient."""
        arguments = copy.deepcopy(list(self._arguments))
        for place in gradient:
            arguments[place].requires_grad_()
        return arguments


@dataclass(frozen=True, kw_only=True, eq=False)
class Exercise:
    """An exercise that checks itself; call it with the learner's function to get a :class:`Verdict`.

    Attributes:
        task: what the function must do, beginning with its call: "`submission(logits)` is …".
        inputs: the arguments it is tried with, mild ones first.
        solution: a right function; what it returns decides type and shape of the answer.
        mistakes: wrong functions, or tuples of them, by the sentence that names the mistake. One that raises is matched
            by its error.
        praise: the sentence for a right function.
        otherwise: the sentence for a wrong one that nobody foresaw; ``{answer}`` and ``{expected}`` are filled in.
        rules: by the sentence for whoever breaks it, ``rule(answer, *arguments)``: what must hold of every answer,
            whatever its value. Rules come before the comparison; where one is broken, a matching mistake goes first.
        accepts: ``accepts(answer, *arguments)``, where many answers are right; if None, it must be the solution's.
        probe: ``probe(function, *arguments)`` gives the answer to be judged, where one call of the function is not
            enough; if None, ``function(*arguments)``.
        view: ``view(answer, *arguments)`` is the part of an answer that counts, where some differences do not matter.
        gradient: positions of the arguments whose gradient must be the solution's as well.
        tolerance: absolute and relative, of every comparison.
        seconds: how long one call, or one ``probe``, may compute, where the platform can stop it.
    """

    task: str
    inputs: Sequence[Given]
    solution: Submission
    mistakes: Mapping[str, Submission | tuple[Submission, ...]]
    praise: str
    otherwise: str
    rules: Mapping[str, Callable[..., bool]] = field(default_factory=dict)
    accepts: Callable[..., bool] | None = None
    probe: Callable[..., Any] | None = None
    view: Callable[..., Any] | None = None
    gradient: Sequence[int] = ()
    tolerance: float = 1e-5
    seconds: float = 20.0

    def __call__(self, submission: Any) -> Verdict:
        """The verdict on a learner's function; nothing is ever raised, and nothing the notebook owns is changed.

        Only what stops the notebook itself, an interrupt by its user, gets through.
        """
        if submission is None or submission is ...:
            return Verdict("open", "fill in the cell above, run it, and run this check again.")
        if not callable(submission):
            return Verdict("wrong", f"pass the function itself (without calling it), not {type(submission).__name__}.")
        try:
            with redirect_stdout(_Brief(sys.stdout)), redirect_stderr(_Brief(sys.stderr)), seeded(0), _own_world():
                for given in self.inputs:
                    self._examine(submission, given)
        except NotStarted:
            return Verdict("open", "the function still returns nothing; replace the `...` and run both cells again.")
        except Mistake as mistake:
            return Verdict("wrong", str(mistake))
        except TooLong:
            text = f"your function was stopped, since it ran for more than {self.seconds:g} seconds. "
            return Verdict("wrong", text + "Does a loop in it never end? If it is only slow, take fewer steps.")
        except (Exception, SystemExit, GeneratorExit) as error:  # whatever the learner's code raises is an answer too
            return Verdict("wrong", _raised(error))
        return Verdict("solved", self.praise)

    def __repr__(self) -> str:
        return f"Exercise: {self.task}"

    def wrong_functions(self) -> Iterator[tuple[str, Submission]]:
        """Every mistake as a function, with the sentence that names it."""
        for text, functions in self.mistakes.items():
            yield from ((text, function) for function in (functions if isinstance(functions, tuple) else (functions,)))

    def _examine(self, submission: Submission, given: Given) -> None:
        """Raise :class:`Mistake` unless the submission does the right thing with these arguments."""
        arguments = given.fresh()
        answer = self._outcome(submission, arguments)
        require(unchanged(arguments, given.fresh()), OVERWRITTEN)
        try:
            self._judge(answer, given)
        except Mistake:  # its text is for what nobody foresaw
            self._match_mistake(given, (), lambda wrong, _: self._alike(answer, wrong, given))
            raise
        if self.gradient:
            self._examine_gradient(submission, given)

    def _judge(self, answer: Any, given: Given) -> None:
        """Raise :class:`Mistake` unless this is a right answer to these arguments."""
        if isinstance(answer, Exception):
            raise Mistake(_raised(answer))
        arguments, expected = given.fresh(), self._ask(self.solution, given.fresh())
        answer = as_expected(answer, expected)
        for text, holds in self.rules.items():
            require(bool(holds(answer, *arguments)), text)
        right = self.accepts(answer, *arguments) if self.accepts else self._alike(answer, expected, given)
        require(bool(right), _filled(given.otherwise or self.otherwise, answer, expected))

    def _examine_gradient(self, submission: Submission, given: Given) -> None:
        """Raise :class:`Mistake` unless the gradient is the solution's; the value is known to be right."""
        arguments, reference = given.fresh(self.gradient), given.fresh(self.gradient)
        answer = self._ask(submission, arguments)
        require(isinstance(answer, Tensor) and answer.requires_grad, NO_GRADIENT)
        slopes = self._slopes(answer, arguments)
        if not close(slopes, self._slopes(self._ask(self.solution, reference), reference), self.tolerance):

            def same_slopes(wrong: Tensor, of: list[Any]) -> bool:
                return self._alike(answer, wrong, given) and _same(self._slopes(wrong, of), slopes, self.tolerance)

            self._match_mistake(given, self.gradient, same_slopes)
            raise Mistake(WRONG_GRADIENT if bool(slopes.isfinite().all()) else NAN_GRADIENT)

    def _match_mistake(self, given: Given, gradient: Sequence[int], alike: Callable[[Any, list[Any]], bool]) -> None:
        """Raise :class:`Mistake` with the sentence of the first mistake that does what the submission did, if any.

        The submission was right about all inputs before this one; so must the mistake be.
        """
        before = self.inputs[: list(self.inputs).index(given)]
        for text, function in self.wrong_functions():
            arguments, same = given.fresh(gradient), False
            with suppress(Exception):  # where one wrong function only errs, another may fail
                if alike(self._outcome(function, arguments), arguments):
                    for each in before:
                        self._judge(self._outcome(function, each.fresh()), each)
                    same = True
            require(not same, text)

    def _outcome(self, function: Submission, arguments: list[Any]) -> Any:
        """What the function answers, or the error that it raises."""
        try:
            return self._ask(function, arguments)
        except (NotStarted, Mistake):
            raise
        except Exception as error:
            return error

    def _ask(self, function: Submission, arguments: list[Any]) -> Any:
        with _time_limit(self.seconds), _own_world():
            return self.probe(partial(ask, function), *arguments) if self.probe else ask(function, *arguments)

    def _alike(self, answer: Any, other: Any, given: Given) -> bool:
        """Whether two answers agree in what counts; NaN agrees with NaN, so that a NaN can be matched."""
        if self.view:
            with suppress(Exception):  # an answer of a wrong shape has no view, and is compared as it is
                answer, other = self.view(answer, *given.fresh()), self.view(other, *given.fresh())
        return _same(answer, other, self.tolerance)

    def _slopes(self, answer: Tensor, arguments: list[Any]) -> Tensor:
        """The gradient of one number made of the answer, with respect to the arguments that count, as one vector."""
        sources = [arguments[place] for place in self.gradient]
        if not answer.requires_grad:
            return torch.cat([torch.zeros_like(source).flatten() for source in sources])
        weights = torch.linspace(1, 2, answer.numel(), dtype=answer.dtype, device=answer.device).view_as(answer)
        slopes = torch.autograd.grad((weights * answer).sum(), sources, allow_unused=True, retain_graph=True)
        pairs = zip(sources, slopes, strict=True)
        return torch.cat([(torch.zeros_like(of) if slope is None else slope).flatten() for of, slope in pairs])


def ask(submission: Submission, *arguments: Any, **options: Any) -> Any:
    """Call the learner's function; an untouched stub is not a mistake."""
    answer = submission(*arguments, **options)
    if answer is None or answer is ...:
        raise NotStarted
    if inspect.iscoroutine(answer):
        answer.close()
        raise Mistake("`async` makes your function return a coroutine instead of its result; leave it out.")
    return answer


def as_expected(answer: Any, expected: Any) -> Any:
    """The answer in the form of the expected one: a tensor of its shape, or one number; anything else as it is.

    Raises:
        Mistake: another type or shape than the exercise asks for.
    """
    if inspect.isgenerator(answer):
        raise Mistake("`yield` makes your function return a generator instead of its result; use `return`.")
    if isinstance(expected, Tensor):
        if expected.shape == () and isinstance(answer, Real):
            answer = torch.tensor(_float(answer), dtype=torch.float64)
        if not isinstance(answer, Tensor):
            raise Mistake(f"return a tensor of shape {tuple(expected.shape)}, not {type(answer).__name__}.")
        odd = answer.is_nested or answer.is_meta or answer.is_quantized or answer.is_complex()
        if odd or answer.layout != torch.strided:
            raise Mistake(f"return an ordinary tensor of real numbers, not {answer.type()}.")
        answer = answer.cpu()
        if answer.shape != expected.shape:
            raise Mistake(f"the result has shape {tuple(answer.shape)}; it should be {tuple(expected.shape)}.")
    elif isinstance(expected, Real):
        with suppress(TypeError, ValueError, RuntimeError):  # a list, a tensor of several numbers, a function
            if not isinstance(answer, str):
                return _float(answer.item() if isinstance(answer, Tensor) else answer)
        raise Mistake(
            f"return one number, not {type(answer).__name__}; leave the formatting to the cell that prints it."
        )
    return answer


def _float(number: Any) -> float:
    """The number as Python's, where one that is too large is infinite."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def close(answer: Tensor, expected: Tensor | float, tolerance: float = 1e-5) -> bool:
    """Whether two tensors agree within ``tolerance``, absolutely and relatively; NaN agrees with nothing."""
    answer, expected = torch.as_tensor(answer).double(), torch.as_tensor(expected).double()
    return bool(torch.allclose(answer, expected.expand_as(answer), rtol=tolerance, atol=tolerance))


def require(correct: bool, otherwise: str) -> None:
    """Raise :class:`Mistake` with this text unless ``correct``."""
    if not correct:
        raise Mistake(otherwise)


def unchanged(after: Any, before: Any) -> bool:
    """Whether the tensors in ``after``, however deep in lists, dicts and modules, hold what those in ``before`` do."""
    if isinstance(before, Tensor):
        same_kind = isinstance(after, Tensor) and (after.shape, after.dtype) == (before.shape, before.dtype)
        return same_kind and torch.equal(after.detach().nan_to_num(), before.detach().nan_to_num())
    if isinstance(before, nn.Module):
        return unchanged(after.state_dict(), before.state_dict())
    if isinstance(before, Mapping):
        return before.keys() == after.keys() and all(unchanged(after[key], before[key]) for key in before)
    if isinstance(before, list | tuple):
        return len(after) == len(before) and all(map(unchanged, after, before))
    return True


def _same(answer: Any, other: Any, tolerance: float) -> bool:
    """Whether two answers have one shape and agree within ``tolerance`` (NaN with NaN), or are the same error."""
    if isinstance(answer, Exception):
        return type(answer) is type(other) and _raised(answer) == _raised(other)
    if not all(isinstance(each, Tensor | Real) for each in (answer, other)):
        return False
    answer, other = (torch.as_tensor(each).detach().double() for each in (answer, other))
    if answer.numel() == other.numel() == 1:
        answer, other = answer.flatten(), other.flatten()
    return answer.shape == other.shape and bool(
        torch.allclose(answer, other, rtol=tolerance, atol=tolerance, equal_nan=True)
    )


def _raised(error: BaseException) -> str:
    """The sentence about an error, of whose text the beginning is enough."""
    text = "its text cannot be shown"
    with suppress(Exception):  # an error of one's own may have a broken text
        text = textwrap.shorten(str(error), 300, placeholder=" …")
    return f"your code raised {type(error).__name__}" + (f": {text}" if text else ".")


@contextmanager
def _own_world() -> Iterator[None]:
    """What PyTorch starts with, whatever the notebook has set; afterwards all is as the notebook had it."""
    dtype, device = torch.get_default_dtype(), _device()
    try:
        torch.set_default_dtype(torch.float32)
        if device.type != "cpu":
            torch.set_default_device("cpu")
        with threads(torch.get_num_threads()), torch.inference_mode(False), torch.autocast("cpu", enabled=False):
            yield  # outside inference mode, gradients flow
    finally:
        torch.set_default_dtype(dtype)
        if _device() != device:
            torch.set_default_device(device)


def _device() -> torch.device:
    """Where a new tensor is made."""
    return torch.empty(0).device


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`TooLong` in a block that computes for longer; where there is no timer (Windows, a thread), never.

    What counts is the time in which this thread computes: neither a busy machine nor a debugger's prompt uses it up.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or not hasattr(signal, "setitimer") or (before := signal.getsignal(signal.SIGPROF)) is None:
        yield
        return
    begun = time.thread_time()

    def ring(*_: object) -> None:
        if time.thread_time() - begun >= seconds:  # the timer adds up the time of all threads
            raise TooLong

    signal.signal(signal.SIGPROF, ring)
    timer = signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, *timer)
        # By default a late signal would end the process.
        signal.signal(signal.SIGPROF, signal.SIG_IGN if before == signal.SIG_DFL else before)


class _Brief(io.TextIOBase):
    """Passes on the beginning of what a function prints, in whatever letters the terminal has."""

    def __init__(self, target: TextIO | None, letters: int = 10_000) -> None:
        self._target, self._left = target, letters if target else 0

    def write(self, text: str) -> int:
        if self._left > 0:
            shown = text[: self._left]
            self._left -= len(text)
            if self._left <= 0:
                shown += "\n… (the rest of what your function prints is left out)\n"
            encoding = getattr(self._target, "encoding", None) or "utf-8"
            self._target.write(shown.encode(encoding, "namereplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        if self._target:
            self._target.flush()


def _filled(text: str, answer: Any, expected: Any) -> str:
    """The text with the two values in the places that ask for them."""
    for name, value in (("answer", answer), ("expected", expected)):
        if isinstance(value, Tensor | Real) and torch.as_tensor(value).numel() == 1:
            text = text.replace(f"{{{name}}}", f"{torch.as_tensor(value).item():.4g}")
    return text
