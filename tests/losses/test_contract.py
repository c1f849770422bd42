"""Every public loss is held to the contract, and the contract to deliberate mistakes.

The table is in ``cases.py`` and the promises are in ``contract.py``. A promise that no mistake breaks proves nothing, so
each has one at the end of this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import contract
import pytest
import torch
from cases import CASES, either, growth, out_of_range, shift, tensors
from contract import PROMISES, Case, Refusal, gives, is_changed_by, is_unchanged_by, of, refuses
from oracles import Loss, is_caught, name
from torch import Tensor
from torch.nn import functional as F

from kd_course import losses
from kd_course.losses import logit_mse_loss, rkd_distance_loss, soft_target_loss

Promise = Callable[[Case], None]


def each(attribute: str) -> list[Any]:
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


@pytest.mark.parametrize(("case", "change"), each("invariant_to"))
def test_a_loss_is_unchanged_by(case: Case, change: contract.Change) -> None:
    is_unchanged_by(case, change)


@pytest.mark.parametrize(("case", "change"), each("changed_by"))
def test_a_loss_is_changed_by(case: Case, change: contract.Change) -> None:
    is_changed_by(case, change)


@pytest.mark.parametrize(("case", "refusal"), each("refuses"))
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
