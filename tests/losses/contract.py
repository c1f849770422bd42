"""What every loss promises, whatever it computes. A :class:`Case` says what is special about one loss.

A promise is a function that takes a case and asserts something of it. ``cases.py`` has the table, ``test_contract.py``
holds every case to every promise, and the family files use promises to catch deliberate mistakes.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pytest
import torch
from oracles import Loss, graph_size
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError
from torch.testing import assert_close

CLASSES = 5
HALF = (torch.float16, torch.bfloat16)
FULL = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Change:
    """Something done to inputs. It changes one set of ``places`` at a time: as a rule the student, then the teacher."""

    name: str
    apply: Callable[[Tensor], Tensor]
    places: tuple[tuple[int, ...], ...] = ((0,), (1,))

    def versions(self, inputs: tuple) -> list[tuple]:
        """The inputs with each set of places changed."""
        return [
            tuple(self.apply(value) if i in places else value for i, value in enumerate(inputs))
            for places in self.places
        ]


@dataclass(frozen=True)
class Refusal:
    """A call that must fail, with the names and numbers that its message must give.

    Attributes:
        name: what is wrong with the call.
        says: pieces of the message, in any order: the argument and what was given for it.
        arguments: what is passed; None for good inputs.
        options: what is passed besides the options of the case.
        error: what must be raised.
        call: what is called, without the options of the case; None for the case itself.
    """

    name: str
    says: tuple[str, ...]
    arguments: tuple | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    error: type[Exception] = ValueError
    call: Loss | None = None


@dataclass(frozen=True)
class Case:
    """One loss with fixed options, and what it promises beyond the contract.

    Attributes:
        loss: what ``kd_course.losses`` exports.
        inputs: float64 tensors (and labels) for ``inputs(batch, seed)``; dimension 0 of each is the batch.
        options: the keyword arguments.
        variant: tells several cases of one loss apart.
        call: calls the loss, its first argument, with those inputs: where it wants lists of them, or is a module.
        oracle: the same formula as slow, obvious loops, called as the loss is. Every case of the table has one, or an
            excuse in ``apart_from`` that names what holds the loss to a value, as ``FILE::FUNCTION``.
        oracle_at: other values of the options; the oracle is compared at every combination of them too.
        rows: shape of the result for one sample; None for a loss, which gives one number for the batch.
        zero_at_equal: how far from 0 the value may be where the student equals the teacher; None without the promise.
        zero_gradient: how far from 0 its gradient may be there.
        mean_over_samples: whether the value of a batch is the mean over its samples.
        least: the smallest batch.
        invariant_to: what leaves the value alone.
        changed_by: what must not.
        refuses: what raises.
        precision: relative error of the value in float32.
        gradient_tolerance: absolute error of the gradient in any type.
        widens: whether half precision is widened to float32.
        apart_from: promises that this case does not give, by name, with the reason.
    """

    loss: Loss
    inputs: Callable[..., tuple]
    options: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""
    call: Loss | None = None
    oracle: Callable[..., Any] | None = None
    oracle_at: Mapping[str, tuple] = field(default_factory=dict)
    rows: tuple[int, ...] | None = None
    zero_at_equal: float | None = None
    zero_gradient: float = 1e-15
    mean_over_samples: bool = False
    least: int = 1
    invariant_to: tuple[Change, ...] = ()
    changed_by: tuple[Change, ...] = ()
    refuses: tuple[Refusal, ...] = ()
    precision: float = 1e-5
    gradient_tolerance: float = 1e-6
    widens: bool = True
    apart_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def types(self) -> tuple[torch.dtype, ...]:
        """The types that the inputs may have."""
        return (*HALF, *FULL) if self.widens else FULL

    def __call__(self, *inputs: Any, **options: Any) -> Tensor:
        options = {**self.options, **options}
        return self.call(self.loss, *inputs, **options) if self.call else self.loss(*inputs, **options)

    def __str__(self) -> str:
        return " ".join(filter(None, (self.loss.__name__, self.variant)))


def of(case: Case, promise: Callable[..., None], *more: Any) -> Callable[[Loss], None]:
    """``promise`` as a property of any function that is called as the loss of ``case`` is."""

    def holds(loss: Loss) -> None:
        promise(replace(case, loss=loss), *more)

    holds.__name__ = "-".join([promise.__name__, *(each.name for each in more)])
    return holds


# Tools.


def floats(inputs: tuple) -> list[int]:
    """The places of the inputs that have a derivative."""
    return [i for i, value in enumerate(inputs) if value.is_floating_point()]


def cast(inputs: tuple, dtype: torch.dtype) -> tuple:
    return tuple(value.to(dtype) if value.is_floating_point() else value for value in inputs)


def prepared(inputs: tuple, places: list[int]) -> tuple:
    """Fresh copies, of which those at ``places`` ask for a gradient."""
    return tuple(value.detach().clone().requires_grad_(i in places) for i, value in enumerate(inputs))


def one_number(value: Tensor) -> Tensor:
    """The value of a loss; of rows, a sum in which every element counts differently."""
    return value if value.ndim == 0 else (value * torch.linspace(1, 2, value.numel()).view_as(value)).sum()


def value_and_gradients(case: Case, inputs: tuple, places: list[int] | None = None) -> tuple[Tensor, list[Tensor]]:
    """The value, and its gradient at each place (by default all that have one): zeros where the loss does not look."""
    places = floats(inputs) if places is None else places
    inputs = prepared(inputs, places)
    value = case(*inputs)
    one_number(value).backward()
    assert inputs[0].grad is not None, "no gradient arrived at the student"
    return value.detach(), [torch.zeros_like(inputs[i]) if inputs[i].grad is None else inputs[i].grad for i in places]


def same_value(found: Tensor, expected: Tensor, rtol: float = 1e-9) -> None:
    assert_close(found, expected, rtol=rtol, atol=1e-13)


# Promises.


def gives_one_float_for_the_batch_or_a_row_for_each_sample(case: Case) -> None:
    for batch in (case.least, 6):
        value = case(*case.inputs(batch))
        assert value.shape == (() if case.rows is None else (batch, *case.rows))
        assert value.isfinite().all()


def equals_its_oracle(case: Case) -> None:
    assert case.oracle is not None, f"{case} has no oracle, and no excuse that names the test of its value"
    others = [dict(zip(case.oracle_at, values, strict=True)) for values in product(*case.oracle_at.values())]
    for options in ({}, *others):
        for batch in (case.least, 3, 6):
            inputs = case.inputs(batch, seed=batch)
            expected = torch.tensor(case.oracle(*inputs, **{**case.options, **options}), dtype=torch.float64)
            same_value(case(*inputs, **options), expected, rtol=1e-12)


def is_zero_with_a_zero_gradient_at_equal_inputs(case: Case) -> None:
    for batch in (case.least, 6):
        student, _, *rest = case.inputs(batch)
        value, (found, *_) = value_and_gradients(case, (student, student.clone(), *rest), [0])
        assert abs(value.item()) <= case.zero_at_equal
        assert found.abs().max() <= case.zero_gradient


def is_positive_elsewhere(case: Case) -> None:
    for seed in range(20):
        assert case(*case.inputs(4, seed)) > 1e-6


def does_not_depend_on_the_order_of_the_batch(case: Case) -> None:
    inputs = case.inputs(7)
    for seed in range(3):
        order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
        value = case(*inputs)
        same_value(case(*(each[order] for each in inputs)), value if case.rows is None else value[order])


def depends_on_who_is_who(case: Case) -> None:
    first, *rest = case.inputs(7)
    assert abs(case(first.roll(1, 0), *rest) / case(first, *rest) - 1) > 1e-9


def is_the_mean_over_the_samples(case: Case) -> None:
    inputs = case.inputs(6)
    alone = [case(*(each[[i]] for each in inputs)) for i in range(6)]
    same_value(case(*inputs), torch.stack(alone).mean() if case.rows is None else torch.cat(alone))


def passes_gradcheck_in_every_input(case: Case) -> None:
    inputs = case.inputs(4)
    try:
        assert torch.autograd.gradcheck(case, prepared(inputs, floats(inputs)))
    except GradcheckError as error:
        raise AssertionError(str(error)) from error


def computes_in_float32_or_wider_and_gives_gradients_of_the_inputs_type(case: Case) -> None:
    for dtype in case.types:
        inputs = cast(case.inputs(), dtype)
        exact, exact_gradients = value_and_gradients(case, cast(inputs, torch.float64))
        value, gradients = value_and_gradients(case, inputs)
        assert value.dtype == torch.promote_types(dtype, torch.float32)
        assert_close(value.double(), exact, rtol=case.precision, atol=1e-12 if case.rows is None else 1e-6)
        for found, expected in zip(gradients, exact_gradients, strict=True):
            assert found.dtype == dtype
            assert_close(found.double(), expected, rtol=1e-2 if dtype in HALF else 1e-4, atol=case.gradient_tolerance)


def computes_in_the_finer_of_two_types(case: Case) -> None:
    inputs = case.inputs()
    first, second, *_ = floats(inputs)
    for a, b, expected in (
        (torch.float16, torch.float64, torch.float64),
        (torch.float64, torch.bfloat16, torch.float64),
        (torch.float16, torch.bfloat16, torch.float32),
    ):
        mixed = [value.to(a) if value.is_floating_point() else value for value in inputs]
        mixed[first], mixed[second] = inputs[first].to(a), inputs[second].to(b)
        assert case(*mixed).dtype == expected


def extremes(value: Tensor) -> list[Tensor]:
    """What an input of this type may look like at worst: twins, zeros, constants, and numbers far too large."""
    twins, one_zero, one_huge = (value.clone() for _ in range(3))
    twins[0], one_zero[2], one_huge[2] = twins[3], 0, 1e4
    nothing, huge = torch.zeros_like(value), 1e4 * value.sign()
    found = [twins, one_zero, one_huge, nothing, nothing + 3, huge, -huge]
    for size in (1e-8, 1e4) if value.dtype in FULL else ():  # half precision ends at 65,504
        one = value.clone()
        one[0] *= size
        found += [size * value, one]
    return found


def is_finite_at_zeros_repeats_and_extremes(case: Case) -> None:
    for dtype in case.types:
        inputs = cast(case.inputs(5), dtype)
        places = floats(inputs)
        worst = {i: extremes(inputs[i]) for i in places}
        for kind in range(len(worst[places[0]])):
            hard = [tuple(worst[i][kind] if i in chosen else value for i, value in enumerate(inputs))
                    for chosen in (*([i] for i in places), places)]  # fmt: skip
            if case.zero_at_equal is not None:
                hard.append((worst[0][kind], worst[0][kind].clone(), *inputs[2:]))
            for each in hard:
                value, gradients = value_and_gradients(case, each)
                assert value.isfinite().all(), (dtype, kind)
                assert all(found.isfinite().all() for found in gradients), (dtype, kind)


def tiny_and_huge_inputs_keep_the_value(case: Case) -> None:
    for dtype in FULL:
        inputs = cast(case.inputs(), dtype)
        value = case(*inputs)
        for size in (1e-8, 1e4):
            resize = Change("size", lambda each, size=size: size * each, (*scale.places, tuple(floats(inputs))))
            for changed in resize.versions(inputs):
                found, gradients = value_and_gradients(case, changed)
                assert_close(found, value, rtol=1e-4, atol=1e-6)
                assert all(gradient.isfinite().all() for gradient in gradients)


def is_exact_in_float32_where_student_and_teacher_are_near(case: Case) -> None:
    """Also at temperatures at which the two hardly differ, and never below 0."""
    for seed in range(5):
        _, second, *rest = cast(case.inputs(6, seed), torch.float32)
        near = second + 0.02 * second.roll(1, 0)
        for temperature in (1.0, 20.0, 1e3, 1e5, 1e10) if "temperature" in case.options else (None,):
            options = {} if temperature is None else {"temperature": temperature}
            value = case(near, second, *rest, **options)
            assert value >= 0
            if temperature in (None, 1.0, 20.0):
                fixed = replace(case, options={**case.options, **options})
                _, gradients = value_and_gradients(fixed, (near, second, *rest))
                _, exact = value_and_gradients(fixed, cast((near, second, *rest), torch.float64))
                for found, expected in zip(gradients, exact, strict=True):
                    assert_close(found.double(), expected, rtol=0, atol=1e-2 * float(expected.abs().max()))
            assert_close(
                value.double(), case(*cast((near, second, *rest), torch.float64), **options), rtol=1e-3, atol=0
            )


def masks_classes_at_minus_infinity(case: Case) -> None:
    """A class that both leave out makes no NaN, neither in the value nor in a gradient, of which it gets nothing."""
    inputs = case.inputs(5)
    out = torch.zeros(5, CLASSES, dtype=torch.bool)
    for row, label in enumerate(inputs[2].tolist() if len(inputs) > 2 else [0] * 5):
        out[row, (label + 1) % CLASSES] = True
    for dtype in case.types:
        student, teacher, *rest = cast(inputs, dtype)
        masked = (student.masked_fill(out, -math.inf), teacher.masked_fill(out, -math.inf), *rest)
        for each in (masked, (masked[1], masked[1], *rest)):
            value, gradients = value_and_gradients(case, each)
            assert value.isfinite()
            assert all(found.isfinite().all() and not found[out].any() for found in gradients)


def computes_in_full_precision_whatever_autocast_surrounds_it(case: Case) -> None:
    def surrounded(*inputs: Tensor, narrow: torch.dtype) -> Tensor:
        with torch.autocast("cpu", dtype=narrow):
            return case(*inputs)

    for dtype in (torch.float32, *(HALF if case.widens else ())):
        inputs = cast(case.inputs(), dtype)
        value, gradients = value_and_gradients(case, inputs)
        for narrow in HALF:
            inside = replace(case, call=lambda _, *given, narrow=narrow, **__: surrounded(*given, narrow=narrow))
            found, again = value_and_gradients(inside, inputs)
            assert torch.equal(found, value) and found.dtype == value.dtype
            assert all(torch.equal(a, b) for a, b in zip(again, gradients, strict=True))


def takes_tensors_made_in_inference_mode(case: Case) -> None:
    inputs = case.inputs()
    value, (expected,) = value_and_gradients(case, inputs, [0])
    with torch.inference_mode():
        student, *rest = (each.clone() for each in inputs)
        assert torch.equal(case(student, *rest), value)
    student = student.clone().requires_grad_()
    try:
        found = case(student, *rest)
        one_number(found).backward()
    except RuntimeError as error:
        raise AssertionError(str(error)) from error
    assert torch.equal(found, value) and torch.equal(student.grad, expected)


def does_not_depend_on_the_default_type(case: Case) -> None:
    inputs = cast(case.inputs(), torch.float32)
    value, gradients = value_and_gradients(case, inputs)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        again, same = value_and_gradients(case, inputs)
    finally:
        torch.set_default_dtype(before)
    assert again.dtype == value.dtype and torch.equal(again, value)
    assert all(torch.equal(a, b) for a, b in zip(same, gradients, strict=True))


def says_so_when_student_and_teacher_are_swapped(case: Case) -> None:
    inputs = case.inputs()
    student, teacher, *rest = prepared(inputs, [1])
    try:
        with pytest.raises(ValueError, match="swapped"):
            case(student, teacher, *rest)
    except pytest.fail.Exception as failed:
        raise AssertionError(str(failed)) from failed
    with torch.no_grad():
        case(student, teacher, *rest)
    for places in ([0], [0, 1]):
        case(*prepared(inputs, places))


def takes_as_many_operations_for_a_large_batch_as_for_a_small_one(case: Case) -> None:
    small, large = (graph_size(one_number(case(*prepared(case.inputs(batch), [0])))) for batch in (3, 30))
    assert small == large  # a Python loop over samples would leave its operations in the graph


def leaves_its_inputs_alone(case: Case) -> None:
    inputs = case.inputs()
    for places in (floats(inputs), [0], []):
        given = prepared(inputs, places)
        value = one_number(case(*given))
        if places:
            value.backward()
        assert all(torch.equal(a, b) for a, b in zip(given, inputs, strict=True))
        assert all(value._version == 0 for value in given)  # not even written to and restored


def gives_the_same_bits_again_and_draws_no_random_number(case: Case) -> None:
    inputs, state = case.inputs(), torch.get_rng_state()
    (value, gradients), (again, same) = (value_and_gradients(case, inputs) for _ in range(2))
    assert torch.equal(value, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def takes_a_teacher_without_gradient(case: Case) -> None:
    inputs = case.inputs()
    value, (expected, *_) = value_and_gradients(case, inputs)
    alone, (found,) = value_and_gradients(case, inputs, [0])
    assert torch.equal(alone, value)
    assert torch.equal(found, expected)
    with torch.no_grad():
        assert torch.equal(case(*inputs), value)


def is_unchanged_by(case: Case, change: Change) -> None:
    inputs = case.inputs(5)
    for changed in change.versions(inputs):
        same_value(case(*changed), case(*inputs))


def is_changed_by(case: Case, change: Change) -> None:
    inputs = case.inputs(5)
    assert any(abs(case(*changed) / case(*inputs) - 1).max() > 1e-9 for changed in change.versions(inputs))


def refuses(case: Case, refusal: Refusal) -> None:
    arguments = case.inputs(3) if refusal.arguments is None else refusal.arguments
    with pytest.raises(refusal.error) as raised:
        (refusal.call or case)(*arguments, **refusal.options)
    assert type(raised.value) is refusal.error
    for piece in refusal.says:
        assert mentions(str(raised.value), piece), f"{piece!r} is not in {str(raised.value)!r}"


def mentions(message: str, piece: str) -> bool:
    """Whether ``piece`` stands in ``message`` as words and numbers of its own: 1 is not part of 10, of -1 or of 1.5."""
    return re.search(rf"(?<![\w-])(?<!\d\.){re.escape(piece)}(?!\w|\.\d)", message) is not None


def parameters(case: Case) -> list[str]:
    """Names of the arguments of the loss; of a module, those that it is called with."""
    return list(inspect.signature(getattr(case.loss, "forward", case.loss)).parameters)


scale = Change("scale", lambda value: 1e-3 * value)  # the one change that a promise, and not only a case, asks about

# Each promise, and which cases give it.
PROMISES: dict[Callable[[Case], None], Callable[[Case], bool]] = {
    gives_one_float_for_the_batch_or_a_row_for_each_sample: lambda case: True,
    equals_its_oracle: lambda case: True,
    is_zero_with_a_zero_gradient_at_equal_inputs: lambda case: case.zero_at_equal is not None,
    is_positive_elsewhere: lambda case: case.zero_at_equal is not None,
    does_not_depend_on_the_order_of_the_batch: lambda case: True,
    depends_on_who_is_who: lambda case: len(case.inputs()) > 1,
    is_the_mean_over_the_samples: lambda case: case.mean_over_samples,
    passes_gradcheck_in_every_input: lambda case: True,
    computes_in_float32_or_wider_and_gives_gradients_of_the_inputs_type: lambda case: True,
    computes_in_the_finer_of_two_types: lambda case: case.widens and len(floats(case.inputs())) > 1,
    is_finite_at_zeros_repeats_and_extremes: lambda case: True,
    tiny_and_huge_inputs_keep_the_value: lambda case: any(change.name == scale.name for change in case.invariant_to),
    is_exact_in_float32_where_student_and_teacher_are_near: lambda case: case.zero_at_equal is not None,
    masks_classes_at_minus_infinity: lambda case: "student_logits" in parameters(case),
    computes_in_full_precision_whatever_autocast_surrounds_it: lambda case: True,
    takes_tensors_made_in_inference_mode: lambda case: True,
    does_not_depend_on_the_default_type: lambda case: True,
    says_so_when_student_and_teacher_are_swapped: lambda case: " student_" in " ".join(["", *parameters(case)]),
    takes_as_many_operations_for_a_large_batch_as_for_a_small_one: lambda case: True,
    leaves_its_inputs_alone: lambda case: True,
    gives_the_same_bits_again_and_draws_no_random_number: lambda case: True,
    takes_a_teacher_without_gradient: lambda case: len(floats(case.inputs())) > 1,
}


def gives(case: Case, promise: Callable[[Case], None]) -> bool:
    """Whether ``case`` has to keep ``promise``."""
    return PROMISES[promise](case) and promise.__name__ not in case.apart_from
