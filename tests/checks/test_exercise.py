"""How an exercise checks itself, and what every exercise of the course promises."""

from __future__ import annotations

import copy
import io
import math
import pkgutil
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd_course import checks
from kd_course.checks._exercise import (
    NAN_GRADIENT,
    NO_GRADIENT,
    OVERWRITTEN,
    WRONG_GRADIENT,
    Exercise,
    Given,
    Mistake,
    NotStarted,
    Verdict,
    as_expected,
    ask,
    close,
    require,
    unchanged,
)
from kd_course.runtime import seeded

MODULES = [name for _, name, _ in pkgutil.iter_modules(checks.__path__) if name.startswith("notebook_")]


EXERCISES = {
    f"{module[-2:]} {name}": exercise
    for module in MODULES
    for name, exercise in vars(import_module(f"kd_course.checks.{module}")).items()
    if isinstance(exercise, Exercise)
}
MISTAKES = [
    pytest.param(exercise, text, function, id=f"{name} - {text[:60]}")
    for name, exercise in EXERCISES.items()
    for text, function in exercise.wrong_functions()
]


def verdict_of(submission: Any, *, of: tuple[Any, ...], **changes: Any) -> Verdict:
    """The verdict of a small exercise on the arguments ``of``: by default, twice the argument."""
    fields = {"task": "t", "solution": lambda x: 2 * x, "mistakes": {}, "praise": "yes.", "otherwise": "no.", **changes}
    return Exercise(inputs=[each if isinstance(each, Given) else Given(each) for each in of], **fields)(submission)


def double(submission: Any) -> Verdict:
    """The verdict of an exercise with several mistakes and two inputs."""
    return verdict_of(
        submission,
        of=(3.0, Given(-1.0, otherwise="right above zero, but {answer} should be {expected}.")),
        mistakes={
            "this squares; add the number to itself.": lambda x: x * x,
            "one operation too few, or too many.": (lambda x: x, lambda x: 2 * x + 1),
            "this is twice the absolute value.": lambda x: 2 * abs(x),
        },
        praise="well doubled.",
        otherwise="{answer} is not {expected}, twice three.",
    )


# --- the verdict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "sign", "truth"),
    [("solved", "✅ Solved", True), ("open", "✏️ Not started", False), ("wrong", "❌ Not yet", False)],
)
def test_a_verdict_is_true_only_when_solved(state: str, sign: str, truth: bool):
    verdict = Verdict(state, "one sentence.")
    assert bool(verdict) is truth
    assert repr(verdict) == f"{sign}: one sentence."


@pytest.mark.parametrize("right", [lambda x: x + x, lambda x: torch.tensor([2 * x]), np.double(2).__mul__])
def test_a_right_answer_is_praised(right: Callable):
    assert double(right) == Verdict("solved", "well doubled.")


@pytest.mark.parametrize("stub", [None, ..., lambda x: None, lambda x: ...])
def test_an_untouched_stub_is_open(stub: object):
    assert double(stub).state == "open"


@pytest.mark.parametrize(
    ("submission", "says"),
    [
        (lambda x: x * x, "this squares; add the number to itself."),
        (lambda x: x, "one operation too few, or too many."),
        (lambda x: 2 * x + 1, "one operation too few, or too many."),
        (lambda x: 2 * abs(x), "this is twice the absolute value."),
        (lambda x: 5.0, "5 is not 6, twice three."),
        (lambda x: math.nan, "nan is not 6, twice three."),
        (lambda x: max(2 * x, 0), "right above zero, but 0 should be -2."),
        (lambda x: "6", "return one number, not str; leave the formatting to the cell that prints it."),
        (lambda x: [6.0], "return one number, not list; leave the formatting to the cell that prints it."),
        (lambda: 6.0, "your code raised TypeError: "),
        (lambda x: 1 / 0, "your code raised ZeroDivisionError: division by zero"),
        (lambda x: sys.exit("enough"), "your code raised SystemExit: enough"),
        (6.0, "pass the function itself (without calling it), not float."),
        ("double", "pass the function itself (without calling it), not str."),
        (torch.tensor(6.0), "pass the function itself (without calling it), not Tensor."),
    ],
)
def test_a_wrong_answer_is_named_and_nothing_is_raised(submission: object, says: str):
    verdict = double(submission)
    assert verdict.state == "wrong"
    assert verdict.message.startswith(says)


def test_an_interrupt_is_not_swallowed():
    """A learner who stops a loop that never ends must be able to."""

    def endless(x: float) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        double(endless)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


class Numeric(Exception):
    def __str__(self) -> int:
        return 5


def fail(error: BaseException) -> Callable:
    def submission(x: float) -> float:
        raise error

    return submission


def endless_recursion(x: float) -> float:
    return endless_recursion(x) + 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Mute(), "your code raised Mute: its text cannot be shown"),
        (Numeric(), "your code raised Numeric: its text cannot be shown"),
        (AssertionError(), "your code raised AssertionError."),
        (GeneratorExit(), "your code raised GeneratorExit."),
        (SystemExit(3), "your code raised SystemExit: 3"),
        (
            ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
            "your code raised ExceptionGroup: two (2 sub-exceptions)",
        ),
        (ValueError("one\n\n  two"), "your code raised ValueError: one two"),
        (ValueError(" ".join(["word"] * 10_000)), "your code raised ValueError: " + "word " * 59 + "…"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_becomes_one_sentence_whatever_it_is(error: BaseException, says: str):
    assert double(fail(error)) == Verdict("wrong", says)


def test_a_mistake_that_raises_an_error_without_text_is_matched():
    assert verdict_of(fail(Mute()), of=(1.0,), mistakes={"mute.": fail(Mute())}).message == "mute."


def test_a_recursion_without_end_is_an_error():
    assert double(endless_recursion).message.startswith("your code raised RecursionError: maximum recursion depth")


def forever(x: float) -> float:
    while True:
        pass


def forever_and_careless(x: float) -> float:
    while True:
        try:
            forever(x)
        except Exception:
            continue


can_stop = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this platform has no timer")


@can_stop
@pytest.mark.parametrize("attempt", [forever, forever_and_careless])
@pytest.mark.parametrize("probe", [None, lambda function, x: function(x)])
def test_an_attempt_that_loops_forever_is_stopped(attempt: Callable, probe: Callable | None):
    verdict = verdict_of(attempt, of=(1.0,), seconds=0.05, probe=probe)
    assert verdict.state == "wrong"
    assert verdict.message.startswith("your function was stopped, since it ran for more than 0.05 seconds. Does a loop")
    assert verdict_of(lambda x: 2 * x, of=(1.0,), seconds=0.05)


@can_stop
def test_only_time_that_is_computed_counts():
    """A debugger that waits for its user uses up nothing, nor does what other threads compute."""

    def compute() -> None:
        begun = time.thread_time()
        while time.thread_time() < begun + 0.3:
            pass

    def patient(x: float) -> float:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(compute)
        return 2 * x

    assert verdict_of(patient, of=(1.0,), seconds=0.1)


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_the_time_limit_is_generous(exercise: Exercise):
    assert 10 <= exercise.seconds <= 60


def test_a_check_finds_the_same_whenever_it_is_run():
    """An attempt that draws random numbers gets the same ones, whatever was drawn before."""
    verdicts = set()
    for seed in range(8):
        with seeded(seed):
            verdicts.add(verdict_of(lambda x: x * int(3 * torch.rand(())), of=(1.0,), otherwise="{answer}.").message)
    assert len(verdicts) == 1


def test_an_attempt_finds_what_pytorch_starts_with():
    seen = set()

    def look(x: float) -> float:
        a = torch.zeros(2)
        seen.add((a.dtype, a.device.type, torch.is_grad_enabled(), a.is_inference(), torch.is_autocast_enabled("cpu")))
        return 2 * x

    for world in WORLDS.values():
        before = copy.deepcopy(world[0]())
        world[1]()
        try:
            assert double(look)
        finally:
            world[2](before)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert double(look)
    assert seen == {(torch.float32, "cpu", True, False, False)}


@can_stop
def test_a_check_leaves_no_timer_and_no_handler():
    seen = []
    before = signal.signal(signal.SIGPROF, lambda *_: seen.append(1))
    own = signal.getsignal(signal.SIGPROF)
    try:
        signal.setitimer(signal.ITIMER_PROF, 1000, 500)
        assert not verdict_of(forever, of=(1.0,), seconds=0.05)
        assert signal.getsignal(signal.SIGPROF) is own
        left, interval = signal.setitimer(signal.ITIMER_PROF, 0)
        assert 990 < left < 1001 and interval == 500 and not seen
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        assert double(lambda x: 2 * x)
        assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)
        signal.raise_signal(signal.SIGPROF)  # one that comes late must not end the process
    finally:
        signal.signal(signal.SIGPROF, before)


def test_a_check_works_in_a_thread_that_knows_no_signals():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(double, lambda x: 2 * x).result()
        assert pool.submit(double, lambda x: x * x).result().message.startswith("this squares")


def test_an_interrupt_while_a_loop_runs_is_not_swallowed():
    """What Ctrl-C and the stop button of a notebook send."""

    def interrupted(x: float) -> float:
        signal.raise_signal(signal.SIGINT)
        return forever(x)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            double(interrupted)
    finally:
        signal.signal(signal.SIGINT, before)


def test_of_much_that_is_printed_the_beginning_is_shown(capsys: pytest.CaptureFixture):
    def talkative(x: float) -> float:
        for number in range(100_000):
            print("line", number)
            print("line", number, file=sys.stderr)
        return 2 * x

    assert double(talkative)
    for text in capsys.readouterr():
        assert text.startswith("line 0\nline 1\n")
        assert text.endswith("\n… (the rest of what your function prints is left out)\n")
        assert len(text) < 11_000


def test_what_an_attempt_prints_is_shown(capsys: pytest.CaptureFixture):
    assert double(lambda x: print("x =", x, flush=True) or 2 * x)
    assert capsys.readouterr().out == "x = 3.0\nx = -1.0\n"


def test_printing_never_fails(monkeypatch: pytest.MonkeyPatch):
    """On a terminal that knows ASCII alone, one that is closed by the attempt, and where there is none."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert double(lambda x: print("α × 2") or 2 * x)
    print(Verdict("wrong", "α is flipped."))
    terminal.flush()
    assert terminal.buffer.getvalue().decode().splitlines()[-2:] == [
        r"\N{GREEK SMALL LETTER ALPHA} \N{MULTIPLICATION SIGN} 2",
        r"\N{CROSS MARK} Not yet: \N{GREEK SMALL LETTER ALPHA} is flipped.",
    ]
    assert double(lambda x: sys.stdout.close() or 2 * x)
    assert sys.stdout is terminal and not terminal.closed
    monkeypatch.setattr(sys, "stdout", None)
    assert double(lambda x: print("nowhere", flush=True) or 2 * x)
    assert repr(Verdict("solved", "yes.")) == "✅ Solved: yes."


def test_an_exercise_shows_its_task():
    task = "`submission(x)` is 2x."
    exercise = Exercise(task=task, inputs=[], solution=abs, mistakes={}, praise="", otherwise="")
    assert repr(exercise) == f"Exercise: {task}"


# --- what an exercise looks at --------------------------------------------------------------------------------------

X = torch.tensor([1.0, 2.0, 4.0])


def test_a_mistake_of_another_shape_or_full_of_nan_is_named_all_the_same():
    mistakes = {"a mean too many.": lambda x: (2 * x).mean(), "logarithm.": lambda x: (-x).log()}
    assert verdict_of(lambda x: (2 * x).mean(), of=(X,), mistakes=mistakes).message == "a mean too many."
    assert verdict_of(lambda x: x * math.nan, of=(X,), mistakes=mistakes).message == "logarithm."
    assert verdict_of(lambda x: x[:2], of=(X,), mistakes=mistakes).message == (
        "the result has shape (2,); it should be (3,)."
    )


def test_a_mistake_that_errs_does_not_hide_another():
    mistakes = {"index.": lambda x: x[7], "half.": lambda x: x / 2}
    assert verdict_of(lambda x: x / 2, of=(X,), mistakes=mistakes).message == "half."


def test_a_mistake_that_was_wrong_before_is_not_named():
    """Right at 3 and wrong at -1, like the absolute value: it cannot be the function that errs at 3 as well."""
    mistakes = {"always 2.": lambda x: 2.0, "twice the absolute value.": lambda x: 2 * abs(x)}
    assert verdict_of(lambda x: 2 * abs(x), of=(3.0, -1.0), mistakes=mistakes).message == "twice the absolute value."
    assert verdict_of(lambda x: 2.0, of=(3.0, -1.0), mistakes=mistakes).message == "always 2."


def test_a_mistake_that_raises_is_named_by_its_error():
    mistakes = {"a list has no 8th.": lambda x: [][7], "turn it into the same type.": lambda x: x @ x.double()}
    assert verdict_of(lambda x: x @ x.double(), of=(X,), mistakes=mistakes).message == "turn it into the same type."
    assert verdict_of(lambda x: x @ x[:2], of=(X,), mistakes=mistakes).message.startswith("your code raised RuntimeErr")


def test_a_rule_comes_before_the_comparison_and_a_mistake_before_the_rule():
    rules = {"the order changes.": lambda answer, x: bool((answer.argsort() == x.argsort()).all())}
    mistakes = {"the sign is reversed.": lambda x: -2 * x}
    assert verdict_of(lambda x: 4 / x, of=(X,), rules=rules, mistakes=mistakes).message == "the order changes."
    assert verdict_of(lambda x: -2 * x, of=(X,), rules=rules, mistakes=mistakes).message == "the sign is reversed."
    assert verdict_of(lambda x: 3 * x, of=(X,), rules=rules, mistakes=mistakes).message == "no."
    assert verdict_of(lambda x: 2 * x, of=(X,), rules=rules, mistakes=mistakes)


def test_many_answers_may_be_right():
    """``accepts`` sees the answer and the arguments; the form is still the solution's."""
    options = {"accepts": lambda answer, x: bool((answer > x).all()), "mistakes": {"half.": lambda x: x / 2}}
    assert verdict_of(lambda x: x + 1, of=(X,), **options)
    assert verdict_of(lambda x: x - 1, of=(X,), **options).message == "no."
    assert verdict_of(lambda x: x / 2, of=(X,), **options).message == "half."
    assert "shape (2,)" in verdict_of(lambda x: x[:2] + 1, of=(X,), **options).message


def test_a_probe_calls_the_function_as_it_likes():
    options = {"probe": lambda function, x: torch.stack([function(each) for each in x])}
    assert verdict_of(lambda x: float(x) * torch.tensor(2.0), of=(X,), **options)
    assert verdict_of(lambda x: x, of=(X,), **options).message == "no."
    assert verdict_of(lambda x: ..., of=(X,), **options).state == "open"


def test_a_view_forgives_what_does_not_matter():
    options = {"view": lambda answer, x: answer - answer[0], "mistakes": {"half.": lambda x: x / 2}}
    assert verdict_of(lambda x: 2 * x + 7, of=(X,), **options)
    assert verdict_of(lambda x: x / 2 - 7, of=(X,), **options).message == "half."
    assert verdict_of(lambda x: 3 * x, of=(X,), **options).message == "no."
    assert verdict_of(lambda x: x[:2], of=(X,), **options).message.startswith("the result has shape (2,)")


def test_a_tolerance_is_that_of_the_view():
    options = {"view": lambda answer, x: math.log(answer), "tolerance": 0.01}
    assert verdict_of(lambda x: 1.009 * 2 * x, of=(0.5,), **options)
    assert not verdict_of(lambda x: 1.03 * 2 * x, of=(0.1, 1e-6), **options)


@pytest.mark.parametrize(
    ("square", "says"),
    [
        (lambda x: x.square(), "yes."),
        (lambda x: x.square().detach(), NO_GRADIENT),
        (lambda x: torch.tensor(x.square().tolist()), NO_GRADIENT),
        (lambda x: x * x.detach(), "only one of the two factors passes the gradient."),
        (lambda x: x.square().detach() + 0 * x, WRONG_GRADIENT),
        (lambda x: x.square() + 0 * (x - x).sqrt(), NAN_GRADIENT),
        (lambda x: torch.zeros(3, requires_grad=True) + x.square().detach(), WRONG_GRADIENT),
    ],
)
def test_a_gradient_is_compared_where_it_matters(square: Callable, says: str):
    mistakes = {
        "this doubles.": lambda x: 2 * x,
        "only one of the two factors passes the gradient.": lambda x: x * x.detach(),
    }
    options = {"solution": lambda x: x * x, "mistakes": mistakes}
    assert verdict_of(square, of=(X,), gradient=(0,), **options).message == says
    assert verdict_of(square, of=(X,), **options)


def test_a_function_that_writes_into_its_argument_is_refused_and_spoils_nothing():
    def spoil(x: Tensor) -> Tensor:
        answer = 2 * x
        x.zero_()
        return answer

    solution = {"solution": lambda batch: 2 * batch["z"][0]}
    given, nested = Given(X.clone()), Given({"z": [X.clone()]})
    for _ in range(2):
        assert verdict_of(spoil, of=(given,)).message == OVERWRITTEN
        assert verdict_of(lambda batch: spoil(batch["z"][0]), of=(nested,), **solution).message == OVERWRITTEN
        assert verdict_of(lambda batch: 2 * batch.pop("z")[0], of=(nested,), **solution).message == OVERWRITTEN
    assert verdict_of(lambda x: 2 * x, of=(given,))
    assert verdict_of(lambda batch: 2 * batch["z"][0], of=(nested,), **solution)


# --- the helpers ----------------------------------------------------------------------------------------------------


def test_ask_passes_everything_on():
    assert ask(lambda a, b, *, c: (a, b, c), 1, 2, c=3) == (1, 2, 3)
    with pytest.raises(NotStarted):
        ask(lambda a: ..., 1)


@pytest.mark.parametrize("answer", [0, 0.0, False, ""])
def test_zero_is_an_answer(answer: object):
    assert ask(lambda: answer) == answer


@pytest.mark.parametrize(
    "number",
    [
        2,
        2.0,
        np.float64(2),
        np.float32(2),
        torch.tensor(2.0),
        torch.tensor([[2]]),
        torch.tensor(2.0, requires_grad=True),
    ],
)
def test_a_number_may_be_of_any_type(number: object):
    assert as_expected(number, 1.0) == 2
    assert isinstance(as_expected(number, 1.0), float)


@pytest.mark.parametrize("number", [2, 2.0, np.float64(2), torch.tensor(2.0)])
def test_a_number_counts_as_a_scalar_tensor(number: object):
    answer = as_expected(number, torch.tensor(1.0))
    assert isinstance(answer, Tensor)
    assert answer.shape == ()
    assert answer.item() == 2


@pytest.mark.parametrize(
    ("answer", "expected", "says"),
    [
        ([[1.0]], torch.zeros(2, 3), r"a tensor of shape \(2, 3\), not list"),
        (1.0, torch.zeros(2), r"a tensor of shape \(2,\), not float"),
        (np.zeros(2), torch.zeros(2), r"a tensor of shape \(2,\), not ndarray"),
        (torch.zeros(3, 2), torch.zeros(2, 3), r"has shape \(3, 2\); it should be \(2, 3\)"),
        (torch.zeros(2), 1.0, "one number, not Tensor"),
        ("1", 1.0, "one number, not str"),
        (abs, 1.0, "one number, not builtin_function_or_method"),
        ((number for number in [1.0]), 1.0, "`yield` makes your function return a generator"),
        ((number for number in [1.0]), torch.zeros(1), "`yield` makes your function return a generator"),
        (torch.eye(2).to_sparse(), torch.zeros(2, 2), "an ordinary tensor of real numbers, not torch.sparse"),
        (torch.zeros(2, device="meta"), torch.zeros(2), "an ordinary tensor of real numbers"),
        (torch.zeros(2) * 1j, torch.zeros(2), "an ordinary tensor of real numbers, not torch.ComplexFloatTensor"),
        (1j, 1.0, "one number, not complex"),
    ],
)
def test_another_type_or_shape_is_named(answer: object, expected: object, says: str):
    with pytest.raises(Mistake, match=says):
        as_expected(answer, expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_no_answer():
    with pytest.raises(Mistake, match="an ordinary tensor of real numbers"):
        as_expected(torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), torch.zeros(2, 2))


def test_a_number_that_is_too_large_is_infinite():
    assert as_expected(10**400, 1.0) == math.inf
    assert as_expected(-(10**400), 1.0) == -math.inf
    assert as_expected(10**400, torch.tensor(1.0)).item() == math.inf


def test_an_answer_of_another_kind_is_left_to_the_exercise():
    assert as_expected({"a": 1}, {"b": 2}) == {"a": 1}


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
    assert close(0.5, 0.5)


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


def test_require_speaks_the_given_text():
    require(True, "unused")
    with pytest.raises(Mistake, match=r"^say this$"):
        require(False, "say this")


def test_unchanged_looks_into_lists_and_dicts():
    before = {"a": [torch.tensor([1.0, math.nan]), 3], "b": (torch.tensor(True),)}
    assert unchanged({"a": [torch.tensor([1.0, math.nan]), 4], "b": (torch.tensor(True),)}, before)
    assert not unchanged({"a": [torch.tensor([2.0, math.nan]), 3], "b": (torch.tensor(True),)}, before)
    assert not unchanged({"a": [torch.tensor([1.0, math.nan]), 3], "b": (torch.tensor(False),)}, before)
    assert not unchanged({"a": [torch.tensor([1.0, math.nan])], "b": (torch.tensor(True),)}, before)
    assert not unchanged({"a": before["a"]}, before)
    assert not unchanged([torch.zeros(2, 1)], [torch.zeros(2)])
    assert not unchanged([torch.zeros(2).double()], [torch.zeros(2)])


def test_unchanged_looks_into_modules():
    layer = nn.Linear(2, 1)
    before = copy.deepcopy(layer)
    assert unchanged([layer], [before])
    layer.weight.data.zero_()
    assert not unchanged([layer], [before])


# --- every exercise of the course -----------------------------------------------------------------------------------

every_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)


def tensors_in(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict | list | tuple):
        for value in values.values() if isinstance(values, dict) else values:
            yield from tensors_in(value)


def test_every_notebook_has_exercises():
    assert {name[:2] for name in EXERCISES} == {module[-2:] for module in MODULES} >= {f"{n:02}" for n in range(7)}


@every_exercise
def test_every_exercise_speaks_in_sentences(exercise: Exercise):
    texts = [*exercise.mistakes, *exercise.rules, exercise.praise, exercise.otherwise]
    texts += [given.otherwise for given in exercise.inputs if given.otherwise]
    assert exercise.task.startswith("`submission(")
    for text in (exercise.task, *texts):
        assert text == " ".join(text.split())
        assert text.endswith((".", ".)", "?"))
    assert not any("{" in text for text in [*exercise.mistakes, *exercise.rules]), "only `otherwise` is filled in"


@every_exercise
def test_every_solution_is_solved(exercise: Exercise):
    assert exercise(exercise.solution) == Verdict("solved", exercise.praise)


@pytest.mark.parametrize(("exercise", "text", "function"), MISTAKES)
def test_every_mistake_is_refused_in_its_own_words(exercise: Exercise, text: str, function: Callable):
    assert exercise(function) == Verdict("wrong", text)


@every_exercise
@pytest.mark.parametrize("stub", [None, ..., lambda *_, **__: ..., lambda *_, **__: None])
def test_every_exercise_leaves_an_untouched_stub_open(exercise: Exercise, stub: object):
    assert exercise(stub).state == "open"


@every_exercise
def test_no_check_draws_from_the_notebooks_random_numbers(exercise: Exercise):
    """Running a check once more must not change what a later cell draws (networks are built in checks too)."""
    with seeded(0):
        expected = torch.rand(1)
    for submission in (exercise.solution, lambda *_, **__: torch.rand(1)):
        with seeded(0):
            exercise(submission)
            assert torch.equal(torch.rand(1), expected)


@every_exercise
def test_no_check_ever_raises_or_accepts_nonsense(exercise: Exercise):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("my own bug")

    verdict = exercise(broken)
    assert verdict.state == "wrong"
    assert "RuntimeError: my own bug" in verdict.message
    zeros = torch.zeros(3, 4)
    nonsense = [0, -1.0, math.nan, math.inf, "text", [], (), {}, zeros, zeros.long(), zeros + math.nan, np.zeros(3)]
    for answer in nonsense:
        assert exercise(lambda *_, answer=answer, **__: answer).state == "wrong", answer
    for no_function in (1, "text", [], {}, zeros):
        assert exercise(no_function).state == "wrong"


@every_exercise
def test_no_submission_spoils_an_exercise_for_the_next_one(exercise: Exercise):
    """Whoever overwrites the arguments after a right answer reads so, and the exercise is what it was."""
    overwritten = []

    def spoil(*arguments: Any, **options: Any) -> Any:
        answer = exercise.solution(*arguments, **options)
        if isinstance(answer, Tensor):
            answer = answer.clone()
        with torch.no_grad():
            overwritten.extend(tensor.fill_(7) for tensor in tensors_in([arguments, options]))
        return answer

    verdict = exercise(spoil)
    if overwritten and exercise.probe is None:  # a probe may pass on a copy
        assert verdict.message == OVERWRITTEN
    assert exercise(exercise.solution)


WORLDS = {
    "no gradients": (torch.is_grad_enabled, partial(torch.set_grad_enabled, False), torch.set_grad_enabled),
    "double": (torch.get_default_dtype, partial(torch.set_default_dtype, torch.float64), torch.set_default_dtype),
    "half": (torch.get_default_dtype, partial(torch.set_default_dtype, torch.float16), torch.set_default_dtype),
    "another device": (
        torch.get_default_device,
        partial(torch.set_default_device, "meta"),
        lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    ),
    "threads": (torch.get_num_threads, partial(torch.set_num_threads, 3), torch.set_num_threads),
    "seeds": (torch.get_rng_state, partial(torch.manual_seed, 5), torch.set_rng_state),
    "seeds of numpy": (lambda: np.random.get_state()[1], partial(np.random.seed, 5), lambda _: None),  # noqa: NPY002
    "seeds of Python": (random.getstate, partial(random.seed, 5), random.setstate),
}
"""What an attempt, or the notebook, may set for everything: how to read it, to change it, and to put it back."""


def same(one: Any, other: Any) -> bool:
    return bool((one == other).all()) if isinstance(one, Tensor | np.ndarray) else one == other


@every_exercise
@pytest.mark.parametrize("world", WORLDS)
def test_an_attempt_changes_nothing_for_the_notebook(exercise: Exercise, world: str):
    read, change, restore = WORLDS[world]
    before = copy.deepcopy(read())

    def careless(*arguments: Any) -> Any:
        answer = exercise.solution(*arguments)
        change()
        return answer

    try:
        verdict, after = exercise(careless), read()
    finally:
        restore(before)
    assert same(before, after)
    if exercise.probe is None:  # where one probe calls several times, the second call finds what the first has set
        assert verdict, verdict


@every_exercise
@pytest.mark.parametrize("world", ["no gradients", "double", "half", "another device", "inference", "autocast"])
def test_a_right_answer_is_right_whatever_the_notebook_has_set(exercise: Exercise, world: str):
    if world in WORLDS:
        read, change, restore = WORLDS[world]
        before = read()
        change()
        try:
            verdict, after, changed = exercise(exercise.solution), read(), before
        finally:
            restore(before)
        assert after != changed, "the notebook keeps what it has set"
    else:
        with torch.inference_mode() if world == "inference" else torch.autocast("cpu", torch.bfloat16):
            verdict = exercise(exercise.solution)
    assert verdict, verdict


@every_exercise
def test_an_answer_of_no_use_is_named(exercise: Exercise):
    async def coroutine(*_: Any) -> Any:
        return torch.zeros(3)

    assert "`async` makes your function return a coroutine" in exercise(coroutine).message
    odd = [torch.eye(3).to_sparse(), torch.zeros(3, device="meta"), torch.ones(3) * 1j, 10**400, -(10**400), object()]
    for answer in odd:
        verdict = exercise(lambda *_, answer=answer: answer)
        assert verdict.state == "wrong" and "your code raised" not in verdict.message, (answer, verdict)


@pytest.mark.parametrize("exercise", [pytest.param(each, id=name) for name, each in EXERCISES.items() if each.gradient])
def test_a_value_without_its_gradient_is_refused(exercise: Exercise):
    assert exercise(lambda *arguments: exercise.solution(*arguments).detach()).state == "wrong"
