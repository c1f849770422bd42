"""Every public loss is held to the contract, and the contract to deliberate mistakes.

The table is in ``cases.py`` and the promises are in ``contract.py``. A promise that no mistake breaks proves nothing,
so each has one at the end of this file.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import contract
import oracles
import pytest
import torch
from cases import CASE, CASES, either, growth, out_of_range, shift, tensors
from contract import PROMISES, Case, Refusal, gives, is_changed_by, is_unchanged_by, of, refuses
from oracles import Loss, is_caught, name
from torch import Tensor
from torch.nn import functional as F

from kd_course import losses
from kd_course.losses import logit_mse_loss, soft_target_loss

Promise = Callable[[Case], None]


def every_case_with(attribute: str) -> list[Any]:
    """Every case with each of its changes, or refusals."""
    return [
        pytest.param(case, one, id=f"{case}-{one.name}")
        for case in CASES
        for one in getattr(case, attribute)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "promise"),
    [
        pytest.param(case, promise, id=f"{case}-{promise.__name__}")
        for case in CASES
        for promise in PROMISES
        if gives(case, promise)
    ],
)
def test_every_loss_keeps_its_promises(case: Case, promise: Promise) -> None:
    promise(case)


@pytest.mark.parametrize(("case", "change"), every_case_with("invariant_to"))
def test_a_loss_is_unchanged_by(case: Case, change: contract.Change) -> None:
    is_unchanged_by(case, change)


@pytest.mark.parametrize(("case", "change"), every_case_with("changed_by"))
def test_a_loss_is_changed_by(case: Case, change: contract.Change) -> None:
    is_changed_by(case, change)


@pytest.mark.parametrize(("case", "refusal"), every_case_with("refuses"))
def test_a_loss_refuses(case: Case, refusal: Refusal) -> None:
    refuses(case, refusal)


# The table itself.


def test_every_public_loss_has_a_case() -> None:
    assert {case.loss.__name__ for case in CASES} == set(losses.__all__)
    assert all(case.loss is getattr(losses, case.loss.__name__) for case in CASES)


def test_cases_have_names_of_their_own_and_refuse_something() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)
    assert [str(case) for case in CASES if not case.refuses] == []


def test_a_case_is_excused_from_promises_that_exist_and_that_it_would_break() -> None:
    promises = {promise.__name__: promise for promise in PROMISES}
    for case in CASES:
        for excused, reason in case.apart_from.items():
            assert reason
            with pytest.raises((AssertionError, RuntimeError)):
                promises[excused](case)


def is_defined(excuse: str) -> bool:
    """Whether ``excuse`` is the name of a function in a family file, as FILE::FUNCTION."""
    file, _, function = excuse.partition("::")
    path = Path(__file__).with_name(file)
    return path.is_file() and any(
        isinstance(node, ast.FunctionDef) and node.name == function for node in ast.parse(path.read_text()).body
    )


def test_a_case_without_an_oracle_names_what_holds_it_to_a_value() -> None:
    promise = contract.equals_its_oracle
    for case in CASES:
        assert gives(case, promise) == (case.oracle is not None), f"{case} wants an oracle, or an excuse"
        assert gives(case, promise) or is_defined(case.apart_from[promise.__name__])
    assert not is_defined("test_contrast.py::no_such_test")
    assert not is_defined("test_nothing.py::crd_equals_the_loops")
    assert not is_defined("compared elsewhere")


def test_a_case_with_neither_an_oracle_nor_an_excuse_breaks_the_contract() -> None:
    bare = replace(MEAN_SQUARE, oracle=None)
    assert gives(bare, contract.equals_its_oracle)
    with pytest.raises(AssertionError, match="logit_mse_loss has no oracle, and no excuse"):
        contract.equals_its_oracle(bare)


# Deliberate breaks: each is a mean squared error, or the like, with one flaw, and breaks the promise beside it.


def one_number_for_each_sample(s: Tensor, t: Tensor) -> Tensor:
    return (s - t).square().mean(1)


def weighted_twice(s: Tensor, t: Tensor) -> Tensor:
    return 2 * F.mse_loss(s, t)


def never_quite_zero(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s, t) + 1e-6


def zero_with_a_slope(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s, t) + (s - t).sum()


def sometimes_negative(s: Tensor, t: Tensor) -> Tensor:
    return s.square().mean() - t.square().mean()


def later_samples_count_more(s: Tensor, t: Tensor) -> Tensor:
    return ((s - t).square().mean(1) * torch.arange(len(s))).sum()


def compares_the_means_of_batches(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s.mean(0), t.mean(0))


def sum_over_the_batch(s: Tensor, t: Tensor) -> Tensor:
    return (s - t).square().mean(1).sum()


def half_of_it_detached(s: Tensor, t: Tensor) -> Tensor:
    return ((s - t) * (s - t).detach()).mean()


def teacher_detached(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s, t.detach())


def computed_in_half_precision(s: Tensor, t: Tensor) -> Tensor:
    return (s - t).square().mean().to(torch.promote_types(s.dtype, torch.float32))


def given_in_half_precision(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s.float(), t.float()).to(s.dtype)


def always_in_float32(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s.float(), t.float())


def logarithm_of_a_softmax(s: Tensor, t: Tensor) -> Tensor:
    s, t = s.float().softmax(1), t.float().softmax(1)
    return (t * (t.log() - s.log())).sum(1).mean()


def distance_by_a_bare_root(s: Tensor, t: Tensor) -> Tensor:
    return (s - t).square().sum(1).sqrt().mean()


def cosine_with_a_floor(s: Tensor, t: Tensor) -> Tensor:
    s, t = (z / (z.norm(dim=1, keepdim=True) + 1e-6) for z in (s, t))
    return (s - t).square().mean()


def kl_that_drowns_in_rounding(s: Tensor, t: Tensor) -> Tensor:
    s, t = s / 1e4, t / 1e4
    return 1e8 * F.kl_div(s.log_softmax(1), t.log_softmax(1), reduction="batchmean", log_target=True)


def as_a_product(s: Tensor, t: Tensor) -> Tensor:
    gap = (s - t).flatten()
    return (gap[None] @ gap[:, None]).sum() / gap.numel()


def weighted_in_the_default_type(s: Tensor, t: Tensor) -> Tensor:
    return ((s - t).square().mean(1) * torch.ones(len(s))).mean()


def loop_over_samples(s: Tensor, t: Tensor) -> Tensor:
    return sum(F.mse_loss(a, b) for a, b in zip(s, t, strict=True)) / len(s)


@torch.no_grad()
def _centre(z: Tensor) -> None:
    z -= z.mean(1, keepdim=True)


def centres_the_teacher_where_it_stands(s: Tensor, t: Tensor) -> Tensor:
    _centre(t)
    return F.mse_loss(s, t.clone())


def centres_a_teacher_without_gradient(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s, t if t.requires_grad else t.sub_(t.mean(1, keepdim=True)))


def writes_and_restores(s: Tensor, t: Tensor) -> Tensor:
    with torch.no_grad():
        t.neg_().neg_()
    return F.mse_loss(s, t.clone())


def noise_on_the_teacher(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s, t + 1e-3 * torch.randn_like(t))


def a_random_number_for_nothing(s: Tensor, t: Tensor) -> Tensor:
    torch.rand(1)
    return F.mse_loss(s, t)


def teacher_must_ask_for_a_gradient(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s, t) if t.requires_grad else F.mse_loss(s.detach(), t) + 0 * s.sum()


def bits_that_depend_on_the_graph(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s, t) + (0 if torch.is_grad_enabled() else 1e-3)


MEAN_SQUARE = Case(
    logit_mse_loss,
    tensors((5,), (5,), scale=3.0),
    oracle=oracles.mean_square,
    zero_at_equal=0.0,
    mean_over_samples=True,
)
BREAKS: list[tuple[Loss, Promise]] = [
    (one_number_for_each_sample, contract.gives_one_float_for_the_batch_or_a_row_for_each_sample),
    (weighted_twice, contract.equals_its_oracle),
    (never_quite_zero, contract.is_zero_with_a_zero_gradient_at_equal_inputs),
    (zero_with_a_slope, contract.is_zero_with_a_zero_gradient_at_equal_inputs),
    (sometimes_negative, contract.is_positive_elsewhere),
    (later_samples_count_more, contract.does_not_depend_on_the_order_of_the_batch),
    (compares_the_means_of_batches, contract.depends_on_who_is_who),
    (sum_over_the_batch, contract.is_the_mean_over_the_samples),
    (half_of_it_detached, contract.passes_gradcheck_in_every_input),
    (teacher_detached, contract.passes_gradcheck_in_every_input),
    (computed_in_half_precision, contract.computes_in_float32_or_wider_and_gives_gradients_of_the_inputs_type),
    (given_in_half_precision, contract.computes_in_float32_or_wider_and_gives_gradients_of_the_inputs_type),
    (always_in_float32, contract.computes_in_the_finer_of_two_types),
    (logarithm_of_a_softmax, contract.is_finite_at_zeros_repeats_and_extremes),
    (distance_by_a_bare_root, contract.is_finite_at_zeros_repeats_and_extremes),
    (cosine_with_a_floor, contract.tiny_and_huge_inputs_keep_the_value),
    (kl_that_drowns_in_rounding, contract.is_exact_in_float32_where_student_and_teacher_are_near),
    (weighted_twice, contract.masks_classes_at_minus_infinity),
    (as_a_product, contract.computes_in_full_precision_whatever_autocast_surrounds_it),
    (weighted_twice, contract.takes_tensors_made_in_inference_mode),
    (weighted_in_the_default_type, contract.does_not_depend_on_the_default_type),
    (weighted_twice, contract.says_so_when_student_and_teacher_are_swapped),
    (loop_over_samples, contract.takes_as_many_operations_for_a_large_batch_as_for_a_small_one),
    (centres_the_teacher_where_it_stands, contract.leaves_its_inputs_alone),
    (centres_a_teacher_without_gradient, contract.leaves_its_inputs_alone),
    (writes_and_restores, contract.leaves_its_inputs_alone),
    (noise_on_the_teacher, contract.gives_the_same_bits_again_and_draws_no_random_number),
    (a_random_number_for_nothing, contract.gives_the_same_bits_again_and_draws_no_random_number),
    (teacher_must_ask_for_a_gradient, contract.takes_a_teacher_without_gradient),
    (bits_that_depend_on_the_graph, contract.takes_a_teacher_without_gradient),
]


@pytest.mark.parametrize(("wrong", "promise"), BREAKS, ids=name)
def test_a_broken_promise_is_noticed(wrong: Loss, promise: Promise) -> None:
    assert torch.isfinite(wrong(*MEAN_SQUARE.inputs())).all()  # it runs
    caught = is_caught(wrong, of(MEAN_SQUARE, promise))
    assert caught


def without_temperature_squared(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return soft_target_loss(s, t, temperature=temperature) / temperature**2


def test_only_the_oracle_notices_that_temperature_squared_is_missing() -> None:
    case = replace(CASE["soft_target_loss"], loss=without_temperature_squared)
    caught = {promise for promise in PROMISES if gives(case, promise) and is_caught(case, promise)}
    assert caught == {contract.equals_its_oracle}


@pytest.mark.parametrize("case", [case for case in CASES if gives(case, contract.equals_its_oracle)], ids=str)
def test_a_wrong_factor_is_noticed_in_every_loss(case: Case) -> None:
    temperature = case.options.get("temperature", 1)
    for factor in {2, 1 / temperature**2} - {1}:  # the second: temperature squared is missing
        wrong = replace(case, call=lambda _, *inputs, factor=factor, **options: factor * case(*inputs, **options))
        assert is_caught(wrong, contract.equals_its_oracle)


def test_every_promise_has_a_break_and_is_kept_by_the_mean_square() -> None:
    assert {promise for _, promise in BREAKS} == set(PROMISES)
    for promise in PROMISES:
        if promise is not contract.tiny_and_huge_inputs_keep_the_value:  # which a mean square does not promise
            promise(MEAN_SQUARE)


def test_changes_are_noticed_and_their_absence_too() -> None:
    is_unchanged_by(MEAN_SQUARE, contract.Change("shift of both", shift, ((0, 1),)))
    assert is_caught(logit_mse_loss, of(MEAN_SQUARE, is_unchanged_by, either(growth)))
    assert is_caught(logit_mse_loss, of(MEAN_SQUARE, is_unchanged_by, either(shift)))
    is_changed_by(MEAN_SQUARE, either(shift))
    assert is_caught(logit_mse_loss, of(MEAN_SQUARE, is_changed_by, contract.Change("shift of both", shift, ((0, 1),))))


def test_a_refusal_wants_the_error_the_argument_and_the_number() -> None:
    case = Case(soft_target_loss, MEAN_SQUARE.inputs, {"temperature": 1.0})
    (refusal,) = out_of_range("temperature", -1)
    refuses(case, refusal)
    for wrong in (
        replace(refusal, options={"temperature": 1}),  # nothing is wrong
        replace(refusal, options={"temperature": -10}),  # another number: 1 is no part of 10
        replace(refusal, says=("alpha",)),
    ):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            refuses(case, wrong)
    with pytest.raises(ValueError, match="temperature"):
        refuses(case, replace(refusal, error=TypeError))


@pytest.mark.parametrize(
    ("message", "piece", "found"),
    [
        ("T must be above 0, not -1", "-1", True),
        ("T must be above 0, not -1", "1", False),
        ("T must be above 0, not 1.5", "1", False),
        ("T must be above 0, not 1.5", "5", False),
        ("T must be above 0, not 10.", "10", True),
        ("student logits (2, 3) are not", "student logits (2, 3)", True),
        ("logits of shape (12, 3)", "(2, 3)", False),
        ("not torch.int64; use .float()", "int64", True),
        ("not torch.int64; use .float()", ".float()", True),
        ("labels are missing", "label", False),
    ],
)
def test_a_piece_of_a_message_is_whole_words_and_numbers(message: str, piece: str, found: bool) -> None:
    assert contract.mentions(message, piece) == found
