"""The contrastive losses against slow loops, in closed form at chance, and CRD's memory bank by hand.

A property is a function that takes an implementation and asserts something of it. The properties hold for the losses of
the package, and each plausible wrong implementation at the end of the file fails the property that is named beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import oracles
import pytest
import torch
from cases import CASE, either, length_of_samples
from contract import (
    does_not_depend_on_the_order_of_the_batch,
    is_finite_at_zeros_repeats_and_extremes,
    is_unchanged_by,
    of,
)
from oracles import Loss, close, is_caught, name, normal, noticed, peak_megabytes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from kd_course.data import Batch, Split
from kd_course.losses import CRDLoss, info_nce_loss, nce_loss
from kd_course.models import mlp
from kd_course.runtime import seeded
from kd_course.training import fit

Property = Callable[[Any], None]
INFO_NCE_CASE, SHARP = CASE["info_nce_loss temperature 0.5"], CASE["info_nce_loss temperature 0.01"]


def example(batch: int = 5, width: int = 4) -> tuple[Tensor, Tensor]:
    """Student and teacher embeddings of a small batch."""
    return normal(batch, width, seed=1), normal(batch, width, seed=2)


# InfoNCE within a batch: loss(student, teacher, *, temperature).


def info_nce_equals_the_loops(loss: Loss) -> None:
    for number, (batch, width) in enumerate([(2, 3), (3, 1), (5, 6), (7, 2)]):
        student, teacher = normal(batch, width, seed=number), normal(batch, width, seed=10 + number)
        student[0] = 0
        for temperature in (0.07, 0.5, 1.0, 4.0):
            value = loss(student, teacher, temperature=temperature)
            assert close(value, oracles.info_nce(student, teacher, temperature=temperature))


def equal_scores_give_log_1_plus_k(loss: Loss) -> None:
    student = normal(1, 3)
    for others in (1, 2, 15):
        same = student.expand(1 + others, 3)
        for temperature in (0.07, 1.0):
            assert close(loss(same, same, temperature=temperature), math.log(1 + others))


def info_nce_of_two_samples(loss: Loss) -> None:
    """Own score 1, the other's 0 or 3/5: log(1 + e^{(0 - 1)/τ}) and log(1 + e^{(3/5 - 4/5)/τ})."""
    student = torch.tensor([[2.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    teacher = torch.tensor([[5.0, 0.0], [0.0, 7.0]], dtype=torch.float64)
    for temperature in (0.1, 1.0):
        own, other = math.log(1 + math.exp(-1 / temperature)), math.log(1 + math.exp(-0.2 / temperature))
        assert close(loss(student, teacher, temperature=temperature), (own + other) / 2)


def a_wrong_pairing_costs_more(loss: Loss) -> None:
    student, _ = example()
    order = torch.tensor([3, 0, 4, 1, 2])
    assert loss(student[order], student, temperature=0.5) > loss(student, student, temperature=0.5) + 0.1


def info_nce_is_never_negative(loss: Loss) -> None:
    for seed in range(20):
        student = normal(4, 3, seed=seed)
        assert loss(student, student, temperature=0.05) >= 0
        assert loss(student, normal(4, 3, seed=50 + seed), temperature=0.05) > 0


def info_nce_of_orthogonal_pairs_goes_to_zero_as_the_choice_sharpens(loss: Loss) -> None:
    eye = torch.eye(6, dtype=torch.float64)
    for temperature in (0.5, 0.1, 0.02):
        assert close(loss(eye, 3 * eye, temperature=temperature), math.log1p(5 * math.exp(-1 / temperature)))


def its_bound_on_information_is_kept_and_reached(loss: Loss) -> None:
    """Four classes, each twice, and embeddings that tell the class and nothing else: they share log 4 nats."""
    classes = torch.eye(4, dtype=torch.float64).repeat(2, 1)
    bounds = [math.log(8) - loss(classes, classes, temperature=t).item() for t in (1.0, 0.3, 0.1, 0.03)]
    assert bounds == sorted(bounds)
    assert all(bound <= math.log(4) + 1e-12 for bound in bounds)
    assert bounds[-1] == pytest.approx(math.log(4), rel=1e-9)


INFO_NCE = [
    info_nce_equals_the_loops,
    equal_scores_give_log_1_plus_k,
    info_nce_of_two_samples,
    a_wrong_pairing_costs_more,
    info_nce_is_never_negative,
    info_nce_of_orthogonal_pairs_goes_to_zero_as_the_choice_sharpens,
    its_bound_on_information_is_kept_and_reached,
]


# Noise-contrastive estimation: loss(log p of the positive, log p of the negatives, *, samples).


def nce_equals_the_formula(loss: Loss) -> None:
    for number, (batch, negatives, samples) in enumerate([(1, 1, 2), (3, 5, 7), (6, 40, 11), (2, 3, 1000)]):
        own, others = normal(batch, seed=number) - 3, normal(batch, negatives, seed=10 + number) - 3
        value = loss(own, others, samples=samples)
        assert close(value, oracles.nce(own.exp().tolist(), others.exp().tolist(), samples))


def chance_gives_the_closed_form(loss: Loss) -> None:
    """p = 1/M for all: log(1 + m) + m log(1 + 1/m) with m negatives, whatever M and the batch."""
    for negatives in (1, 2, 16, 4096):
        expected = math.log(1 + negatives) + negatives * math.log(1 + 1 / negatives)
        for samples in (2, 50, 60_000):
            chance = torch.full((3, 1 + negatives), -math.log(samples), dtype=torch.float64)
            assert close(loss(chance[:, 0], chance[:, 1:], samples=samples), expected)


def certainty_costs_nothing_and_error_costs_its_log(loss: Loss) -> None:
    sure, never = torch.full((2,), 50.0, dtype=torch.float64), torch.full((2, 3), -50.0, dtype=torch.float64)
    assert loss(sure, never, samples=10) < 1e-12
    assert loss(-sure, never, samples=10).item() == pytest.approx(50 + math.log(0.3), rel=1e-9)
    assert loss(sure, -never, samples=10).item() == pytest.approx(3 * (50 - math.log(0.3)), rel=1e-9)


def likelier_positives_and_rarer_negatives_cost_less(loss: Loss) -> None:
    own, others = normal(4, seed=1) - 3, normal(4, 6, seed=2) - 3
    value = loss(own, others, samples=9)
    assert 0 < loss(own + 0.1, others, samples=9) < value
    assert 0 < loss(own, others - 0.1, samples=9) < value


NCE = [
    nce_equals_the_formula,
    chance_gives_the_closed_form,
    certainty_costs_nothing_and_error_costs_its_log,
    likelier_positives_and_rarer_negatives_cost_less,
]


# CRD. A property of CRD takes the class.

MakeCRD = Callable[..., CRDLoss]
NUMBERS = torch.tensor([905, 17, 4, 33, 250, 6, 77, 101, 58, 12])  # samples of a subset, in no order
OPTIONS: dict[str, Any] = {"dimension": 3, "negatives": 6, "temperature": 0.5, "momentum": 0.75}


def crd_and_batch(make: MakeCRD = CRDLoss, **options: Any) -> tuple[CRDLoss, Tensor, Tensor, Tensor]:
    """A small CRD in float64 with features and numbers of five of its samples."""
    crd = make(4, 6, NUMBERS, **(OPTIONS | options)).double()
    return crd, normal(5, 4, seed=1), normal(5, 6, seed=2), NUMBERS[[7, 2, 9, 0, 3]]


def called(crd: CRDLoss, *arguments: Tensor, seed: int = 0) -> Tensor:
    """The loss with the negatives of one seed."""
    with seeded(seed):
        return crd(*arguments)


def banks(crd: CRDLoss) -> tuple[Tensor, Tensor]:
    return crd.student_bank.clone(), crd.teacher_bank.clone()


def crd_equals_the_loops(make: MakeCRD) -> None:
    for options in ({}, {"negatives": 1, "temperature": 0.07}, {"negatives": 50, "dimension": 5, "momentum": 0.0}):
        crd, student, teacher, numbers = crd_and_batch(make, **options)
        rows = [NUMBERS.tolist().index(number) for number in numbers.tolist()]
        with seeded(0):
            others = crd.draw_negatives(torch.tensor(rows)).tolist()
        candidates = [[row, *more] for row, more in zip(rows, others, strict=True)]
        expected = oracles.crd_side(
            oracles.projected(crd.project_student, student), crd.teacher_bank.tolist(), candidates, crd.temperature
        ) + oracles.crd_side(
            oracles.projected(crd.project_teacher, teacher), crd.student_bank.tolist(), candidates, crd.temperature
        )
        assert close(called(crd, student, teacher, numbers), expected)


def negatives_leave_the_own_row_out(make: MakeCRD) -> None:
    crd, *_ = crd_and_batch(make, negatives=2000)
    rows = torch.arange(10)
    with seeded(0):
        drawn = crd.draw_negatives(rows)
    assert drawn.shape == (10, 2000)
    assert 0 <= drawn.min()
    assert drawn.max() <= 9
    assert not (drawn == rows[:, None]).any()


def negatives_are_uniform_over_all_other_rows(make: MakeCRD) -> None:
    crd, *_ = crd_and_batch(make, negatives=2000)
    with seeded(0):
        drawn = crd.draw_negatives(torch.arange(10))
    expected = 2000 / 9
    chi_square = 0.0
    for row in range(10):
        counts = torch.bincount(drawn[row], minlength=10).tolist()
        chi_square += sum((counts[other] - expected) ** 2 / expected for other in range(10) if other != row)
    assert 40 < chi_square < 140  # 80 degrees of freedom: 80 ± 13


def z_makes_the_first_batch_average_chance(make: MakeCRD) -> None:
    """The mean of p over the scores of the first batch is 1/M, on either side."""
    crd, student, teacher, numbers = crd_and_batch(make)
    assert crd.log_z.isnan().all()
    called(crd.eval(), student, teacher, numbers)
    rows = crd.row[numbers]
    with seeded(0):
        candidates = torch.cat([rows[:, None], crd.draw_negatives(rows)], 1)
    for side, (project, feature, bank) in enumerate(
        ((crd.project_student, student, crd.teacher_bank), (crd.project_teacher, teacher, crd.student_bank))
    ):
        anchors = F.normalize(project(feature))
        scores = (anchors[:, None] * bank[candidates]).sum(2) / crd.temperature
        assert close((scores - crd.log_z[side]).exp().mean(), 1 / len(NUMBERS))


def z_is_set_once(make: MakeCRD) -> None:
    crd, student, teacher, numbers = crd_and_batch(make)
    called(crd, student, teacher, numbers)
    first = crd.log_z.clone()
    called(crd, 5 * student.flip(0), teacher.flip(0), numbers, seed=1)
    assert torch.equal(crd.log_z, first)


def banks_follow_with_momentum(make: MakeCRD) -> None:
    crd, student, teacher, numbers = crd_and_batch(make)
    before = [bank.tolist() for bank in banks(crd)]
    called(crd, student, teacher, numbers)
    embeddings = oracles.projected(crd.project_student, student), oracles.projected(crd.project_teacher, teacher)
    for old, new, embedding in zip(before, banks(crd), embeddings, strict=True):
        for number, v in zip(numbers.tolist(), embedding, strict=True):
            row = NUMBERS.tolist().index(number)
            old[row] = oracles.unit([0.75 * m + 0.25 * x for m, x in zip(old[row], v, strict=True)])
        assert_close(new, torch.tensor(old, dtype=torch.float64), rtol=1e-12, atol=1e-14)


def banks_hold_directions(make: MakeCRD) -> None:
    crd, student, teacher, numbers = crd_and_batch(make)
    for step in range(4):
        for bank in banks(crd):
            assert_close(bank.norm(dim=1), torch.ones(10, dtype=torch.float64))
        called(crd, 100 * student + step, teacher - step, numbers)


def evaluation_leaves_the_banks_alone(make: MakeCRD) -> None:
    crd, student, teacher, numbers = crd_and_batch(make)
    before = banks(crd)
    called(crd.eval(), student, teacher, numbers)
    assert all(torch.equal(a, b) for a, b in zip(banks(crd), before, strict=True))
    called(crd.train(), student, teacher, numbers)
    assert not any(torch.equal(a, b) for a, b in zip(banks(crd), before, strict=True))


def both_sides_are_anchors(make: MakeCRD) -> None:
    crd, student, teacher, numbers = crd_and_batch(make)
    student.requires_grad_()
    teacher.requires_grad_()
    called(crd, student, teacher, numbers).backward()
    for value in (student, teacher, *crd.parameters()):
        assert value.grad is not None
        assert value.grad.abs().max() > 1e-6
    assert len(list(crd.parameters())) == 4


def banks_and_z_are_saved_and_restored(make: MakeCRD) -> None:
    crd, student, teacher, numbers = crd_and_batch(make)
    for seed in range(3):
        called(crd, student, teacher, numbers, seed=seed)
    copy, *_ = crd_and_batch(make, seed=9)
    assert called(copy.eval(), student, teacher, numbers) != called(crd.eval(), student, teacher, numbers)
    copy, *_ = crd_and_batch(make, seed=9)
    copy.load_state_dict(crd.state_dict())
    assert torch.equal(called(copy.eval(), student, teacher, numbers), called(crd.eval(), student, teacher, numbers))
    assert torch.equal(called(copy.train(), student, teacher, numbers), called(crd.train(), student, teacher, numbers))
    assert all(torch.equal(a, b) for a, b in zip(banks(copy), banks(crd), strict=True))


def all_of_it_moves_with_the_module(make: MakeCRD) -> None:
    crd = make(4, 6, NUMBERS, **OPTIONS)
    assert {name for name, _ in crd.named_buffers()} == {"row", "student_bank", "teacher_bank", "log_z"}
    assert {value.dtype for value in crd.state_dict().values()} == {torch.float32, torch.int64}
    assert {value.dtype for value in crd.double().state_dict().values()} == {torch.float64, torch.int64}
    assert {value.device.type for value in crd.to("meta").state_dict().values()} == {"meta"}


CRD = [
    crd_equals_the_loops,
    negatives_leave_the_own_row_out,
    negatives_are_uniform_over_all_other_rows,
    z_makes_the_first_batch_average_chance,
    z_is_set_once,
    banks_follow_with_momentum,
    banks_hold_directions,
    evaluation_leaves_the_banks_alone,
    both_sides_are_anchors,
    banks_and_z_are_saved_and_restored,
    all_of_it_moves_with_the_module,
]


@pytest.mark.parametrize(
    ("implementation", "holds"),
    [
        pytest.param(implementation, holds, id=f"{implementation.__name__}-{holds.__name__}")
        for implementation, properties in ((info_nce_loss, INFO_NCE), (nce_loss, NCE), (CRDLoss, CRD))
        for holds in properties
    ],
)
def test_property(implementation: Any, holds: Property) -> None:
    holds(implementation)


def test_crd_is_the_noise_contrastive_loss_and_not_infonce() -> None:
    """At chance the two differ: CRD has that of NCE on either side, a softmax over the same scores log(1 + K)."""
    crd, _, _, numbers = crd_and_batch()
    with torch.no_grad():
        for parameter in crd.parameters():
            parameter.zero_()  # every score is 0
    value = crd(normal(5, 4), normal(5, 6), numbers)
    assert close(value, 2 * (math.log(7) + 6 * math.log(1 + 1 / 6)))
    assert not close(value, 2 * math.log(7))


def test_a_batch_of_one_is_enough_for_crd() -> None:
    crd, student, teacher, numbers = crd_and_batch()
    called(crd, student, teacher, numbers)
    whole = called(crd.eval(), student[:1], teacher[:1], numbers[:1])
    assert whole.isfinite()  # the negatives come from the bank, so the last batch of an epoch may hold a single sample


def test_features_of_any_shape_are_flattened() -> None:
    crd = CRDLoss(2 * 3 * 3, 6, NUMBERS, **OPTIONS).double().eval()
    student, teacher = normal(5, 2, 3, 3), normal(5, 6)
    assert torch.equal(
        called(crd, student, teacher, NUMBERS[:5]), called(crd, student.flatten(1), teacher, NUMBERS[:5])
    )


def test_the_start_of_crd_depends_on_the_seed_alone() -> None:
    first = CRDLoss(4, 6, NUMBERS, **OPTIONS).state_dict()
    torch.rand(3)
    again, other = (CRDLoss(4, 6, NUMBERS, **OPTIONS, seed=seed).state_dict() for seed in (0, 1))
    for key in ("student_bank", "teacher_bank", "project_student.weight", "project_teacher.weight"):
        assert torch.equal(first[key], again[key])
        assert not torch.equal(first[key], other[key])
    assert not torch.equal(first["student_bank"], first["teacher_bank"])


def test_making_a_bank_leaves_the_baseline_bit_for_bit(tiny_split: Callable[..., Split]) -> None:
    assert noticed(lambda: CRDLoss(4, 6, NUMBERS, **OPTIONS), tiny_split(12)) == set()


def test_the_loss_of_a_step_is_not_touched_by_the_update_of_the_banks_after_it() -> None:
    crd, student, teacher, numbers = crd_and_batch()
    crd.log_z.zero_()
    student.requires_grad_()
    still = called(crd.eval(), student, teacher, numbers)
    (expected,) = torch.autograd.grad(still, student)
    first = called(crd.train(), student, teacher, numbers)
    called(crd, student, teacher, numbers, seed=1)  # the banks move twice before the first loss is taken back
    (found,) = torch.autograd.grad(first, student)
    assert torch.equal(first, still)
    assert torch.equal(found, expected)


def test_no_gradient_enters_the_banks() -> None:
    crd, student, teacher, numbers = crd_and_batch()
    called(crd, student.requires_grad_(), teacher, numbers).backward()
    assert all(not bank.requires_grad for bank in (crd.student_bank, crd.teacher_bank, crd.log_z))


# Training with CRD.


class Interrupted(Exception):
    """Someone pulled the plug."""


def trained_with_crd(split: Split, stop_in_epoch: int | None = None, **options: Any) -> tuple[nn.Module, Any]:
    """A student and a CRD loss after three epochs, or as many as there were before the interruption."""
    with seeded(0):
        student, teacher = mlp(8, dropout=0.3, classes=3), nn.Linear(28 * 28, 12)
    crd = CRDLoss(8, 12, split.indices, dimension=4, negatives=5)
    model = nn.ModuleDict({"student": student, "crd": crd})

    def objective(model: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        if stop_in_epoch is not None and batch.progress * 3 >= stop_in_epoch:
            raise Interrupted
        feature = model["student"][:-1](batch.images)
        with torch.no_grad():
            hint = teacher(batch.images.flatten(1))
        hard = F.cross_entropy(model["student"].classifier(feature), batch.labels)
        contrast = model["crd"](feature, hint, batch.indices)
        return {"loss": hard + 0.8 * contrast, "contrast": contrast}

    return model, fit(model, objective, split, epochs=3, batch_size=5, progress=False, **options)


def test_crd_trains_with_a_last_batch_of_one_and_moves_all_but_the_numbers(tiny_split: Callable[..., Split]) -> None:
    split = tiny_split(16)  # batches of 5, 5, 5 and 1
    model, history = trained_with_crd(split)
    assert len(history) == 3
    for key, value in CRDLoss(8, 12, split.indices, dimension=4, negatives=5).state_dict().items():
        assert torch.equal(model["crd"].state_dict()[key], value) == (key == "row"), key


def test_crd_learns_to_tell_its_pair_from_all_others() -> None:
    crd = CRDLoss(6, 6, NUMBERS, dimension=8, negatives=6, temperature=0.2)
    teacher = normal(10, 6, seed=2).float()
    student = teacher @ normal(6, 6, seed=3).float()
    optimizer = torch.optim.Adam(crd.parameters(), lr=1e-2)
    losses = []
    with seeded(0):
        for _ in range(200):
            rows = torch.randperm(10)[:5]
            loss = crd(student[rows], teacher[rows], NUMBERS[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    chance = 2 * (math.log(7) + 6 * math.log(7 / 6))
    assert sum(losses[-10:]) / 10 < chance / 2 < chance < sum(losses[:10]) / 10
    with torch.no_grad():
        choice = F.normalize(crd.project_student(student)) @ crd.teacher_bank.T
    assert torch.equal(choice.argmax(1), torch.arange(10))


def test_a_resumed_training_with_crd_ends_at_the_same_numbers(tiny_split: Callable[..., Split], tmp_path: Any) -> None:
    split = tiny_split(12)
    saved = {"checkpoint": tmp_path / "crd.pt", "tag": "crd"}  # the interruption is part of the objective
    whole, history = trained_with_crd(split)
    with pytest.raises(Interrupted):
        trained_with_crd(split, stop_in_epoch=2, **saved)
    resumed, again = trained_with_crd(split, **saved)
    assert again[["loss", "contrast"]].equals(history[["loss", "contrast"]])
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


# Derivatives in the weights, and precision and edges with a bank that moves.


def test_gradients_of_features_and_projections_pass_gradcheck() -> None:
    crd, student, teacher, numbers = crd_and_batch()
    called(crd, student, teacher, numbers)  # from here on Z is set
    crd.eval()
    names = [name for name, _ in crd.named_parameters()]

    def loss(student: Tensor, teacher: Tensor, *weights: Tensor) -> Tensor:
        parameters = dict(zip(names, weights, strict=True))
        with seeded(0):
            return torch.func.functional_call(crd, parameters, (student, teacher, numbers))

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(), teacher.requires_grad_(), *crd.parameters()))


def test_crd_made_in_double_precision_takes_ordinary_features() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        crd = CRDLoss(4, 6, NUMBERS, **OPTIONS)
        value = crd(normal(5, 4).float().requires_grad_(), normal(5, 6).float(), NUMBERS[:5])
    finally:
        torch.set_default_dtype(before)
    assert value.dtype == torch.float64 and value.isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_features_enter_crd_as_float32(dtype: torch.dtype) -> None:
    crd = CRDLoss(4, 6, NUMBERS, **OPTIONS)
    student, teacher = normal(5, 4).to(dtype).requires_grad_(), normal(5, 6).to(dtype)
    value = called(crd, student, teacher, NUMBERS[:5])
    value.backward()
    assert value.dtype == crd.student_bank.dtype == torch.float32
    assert student.grad.dtype == dtype
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    "feature", [torch.zeros(5, 4), torch.ones(5, 4), 1e4 * torch.eye(5, 4), 1e-8 * torch.eye(5, 4)], ids=range(4)
)
def test_crd_is_finite_at_zeros_repeats_and_extremes(feature: Tensor) -> None:
    crd = CRDLoss(4, 6, NUMBERS, **OPTIONS)
    with torch.no_grad():
        crd.project_student.bias.zero_()  # so that zeros stay zeros
    feature = feature.requires_grad_()
    for _ in range(2):
        value = called(crd, feature, torch.ones(5, 6), NUMBERS[:5])
        value.backward()
        assert value.isfinite()
        assert feature.grad.isfinite().all()
    assert crd.student_bank.isfinite().all()


@pytest.mark.slow
def test_crd_with_the_papers_number_of_negatives_fits_in_512_megabytes() -> None:
    """Fetching 16,384 rows of 128 numbers for each of 128 anchors would fill 1,024 MB, and again for the other side."""
    setup = (
        "from kd_course.losses import CRDLoss\n"
        "crd = CRDLoss(64, 512, torch.arange(5000))\n"
        "student, teacher = torch.randn(128, 64, requires_grad=True), torch.randn(128, 512)\n"
        "crd(student[:2], teacher[:2], torch.arange(2)).backward()"
    )
    assert 16 < peak_megabytes(setup, "crd(student, teacher, torch.arange(128)).backward()") < 512


# Deliberate breaks: the mistakes that tutorials and libraries repeat. Each runs, each returns a number, and each fails
# the property beside it.


def scores(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    return F.normalize(s) @ F.normalize(t).T / temperature


def positive_twice(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    table = scores(s, t, temperature)
    return F.cross_entropy(torch.cat([table.diagonal()[:, None], table], 1), torch.zeros(len(s), dtype=torch.long))


def positive_not_among_the_candidates(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    table = scores(s, t, temperature)
    others = table.masked_fill(torch.eye(len(s), dtype=torch.bool), -torch.inf)
    return (others.logsumexp(1) - table.diagonal()).mean()


def info_nce_without_normalisation(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return F.cross_entropy(s @ t.T / temperature, torch.arange(len(s)))


def info_nce_without_temperature(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return F.cross_entropy(scores(s, t, 1), torch.arange(len(s)))


def info_nce_with_the_teacher_as_anchor(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return F.cross_entropy(scores(t, s, temperature), torch.arange(len(s)))


def info_nce_summed_over_the_batch(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    return F.cross_entropy(scores(s, t, temperature), torch.arange(len(s)), reduction="sum")


def negatives_of_the_students_own_side(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    table = scores(s, s, temperature)
    own = scores(s, t, temperature).diagonal()
    table = table.masked_fill(torch.eye(len(s), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(torch.cat([own[:, None], table], 1), torch.zeros(len(s), dtype=torch.long))


def neighbour_as_the_only_negative(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    table = scores(s, t, temperature)
    return F.softplus(table.roll(-1, 1).diagonal() - table.diagonal()).mean()


def info_nce_by_bare_exponentials(s: Tensor, t: Tensor, *, temperature: float) -> Tensor:
    powers = scores(s, t, temperature).exp()
    return -(powers.diagonal() / powers.sum(1)).log().mean()


def h(log_p: Tensor, negatives: int, samples: int) -> Tensor:
    return torch.sigmoid(log_p - math.log(negatives / samples))


def nce_with_the_positive_upside_down(own: Tensor, others: Tensor, *, samples: int) -> Tensor:
    K = others.shape[1]
    return -((1 - h(own, K, samples)).log() + (1 - h(others, K, samples)).log().sum(1)).mean()


def nce_with_the_negatives_upside_down(own: Tensor, others: Tensor, *, samples: int) -> Tensor:
    K = others.shape[1]
    return -(h(own, K, samples).log() + h(others, K, samples).log().sum(1)).mean()


def nce_meant_over_negatives(own: Tensor, others: Tensor, *, samples: int) -> Tensor:
    K = others.shape[1]
    return -(h(own, K, samples).log() + (1 - h(others, K, samples)).log().mean(1)).mean()


def nce_with_noise_of_one(own: Tensor, others: Tensor, *, samples: int) -> Tensor:
    return -(F.logsigmoid(own + math.log(samples)) + F.logsigmoid(-others - math.log(samples)).sum(1)).mean()


def nce_without_noise(own: Tensor, others: Tensor, *, samples: int) -> Tensor:
    return -(F.logsigmoid(own) + F.logsigmoid(-others).sum(1)).mean()


def nce_by_bare_logarithms(own: Tensor, others: Tensor, *, samples: int) -> Tensor:
    K = others.shape[1]
    return -(h(own, K, samples).log() + (1 - h(others, K, samples)).log().sum(1)).mean()


def nce_by_softmax(own: Tensor, others: Tensor, *, samples: int) -> Tensor:
    return (torch.cat([own[:, None], others], 1).logsumexp(1) - own).mean()


def nce_summed_over_the_batch(own: Tensor, others: Tensor, *, samples: int) -> Tensor:
    return nce_loss(own, others, samples=samples) * len(own)


class NegativesWithTheOwnRow(CRDLoss):
    def draw_negatives(self, rows: Tensor) -> Tensor:
        return torch.randint(len(self.student_bank), (len(rows), self.negatives))


class NegativesShiftedOffTheOwnRow(CRDLoss):
    """The own row's draws all go to the next, which so is drawn twice as often."""

    def draw_negatives(self, rows: Tensor) -> Tensor:
        draw = torch.randint(len(self.student_bank), (len(rows), self.negatives))
        return torch.where(draw == rows[:, None], (draw + 1) % len(self.student_bank), draw)


class NegativesWithoutTheLastRow(CRDLoss):
    def draw_negatives(self, rows: Tensor) -> Tensor:
        draw = torch.randint(len(self.student_bank) - 2, (len(rows), self.negatives))
        return draw + (draw >= rows[:, None])


class BanksThatMoveInEvaluation(CRDLoss):
    def eval(self) -> CRDLoss:
        return self


class BanksThatNeverMove(CRDLoss):
    def forward(self, *batch: Tensor) -> Tensor:
        before = banks(self)
        loss = super().forward(*batch)
        for bank, old in zip((self.student_bank, self.teacher_bank), before, strict=True):
            bank.copy_(old)
        return loss


class BanksThatLoseTheirLength(CRDLoss):
    def forward(self, *batch: Tensor) -> Tensor:
        loss = super().forward(*batch)
        self.student_bank.mul_(0.9)
        return loss


class MomentumUpsideDown(CRDLoss):
    def __init__(self, *arguments: Any, momentum: float, **options: Any) -> None:
        super().__init__(*arguments, momentum=1 - momentum, **options)


class BanksAsPlainAttributes(CRDLoss):
    """Neither saved nor moved with the module."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for bank in ("student_bank", "teacher_bank"):
            value = getattr(self, bank)
            delattr(self, bank)
            object.__setattr__(self, bank, value)


class NewZForEachBatch(CRDLoss):
    def forward(self, *batch: Tensor) -> Tensor:
        self.log_z.fill_(math.nan)
        return super().forward(*batch)


class ZOfOne(CRDLoss):
    def forward(self, *batch: Tensor) -> Tensor:
        self.log_z.zero_()
        return super().forward(*batch)


class StudentAsTheOnlyAnchor(CRDLoss):
    def _nce(self, anchor: Tensor, bank: Tensor, candidates: Tensor, *, side: int) -> Tensor:
        return super()._nce(anchor, bank, candidates, side=side) * (side == 0)


class RowsByPosition(CRDLoss):
    """Takes the place in the batch for the number of the sample."""

    def forward(self, student_feature: Tensor, teacher_feature: Tensor, indices: Tensor) -> Tensor:
        numbers = (self.row >= 0).nonzero().squeeze(1)
        numbers = numbers[self.row[numbers].argsort()]
        return super().forward(student_feature, teacher_feature, numbers[: len(indices)])


class InfoNCEUnderCRDsName(CRDLoss):
    def _nce(self, anchor: Tensor, bank: Tensor, candidates: Tensor, *, side: int) -> Tensor:
        table = torch.einsum("bd,bkd->bk", anchor, bank[candidates]) / self.temperature
        return F.cross_entropy(table, torch.zeros(len(anchor), dtype=torch.long))


def on_embeddings(loss: Loss) -> Tensor:
    return loss(*example(), temperature=0.5)


def on_scores(loss: Loss) -> Tensor:
    return loss(normal(4, seed=1) - 3, normal(4, 6, seed=2) - 3, samples=9)


def on_a_batch(make: MakeCRD) -> Tensor:
    return called(make(4, 6, NUMBERS, **OPTIONS), torch.ones(5, 4), torch.ones(5, 6), NUMBERS[:5])


WRONG: list[Any] = [
    (positive_twice, on_embeddings, equal_scores_give_log_1_plus_k),
    (positive_not_among_the_candidates, on_embeddings, info_nce_is_never_negative),
    (info_nce_without_normalisation, on_embeddings, of(INFO_NCE_CASE, is_unchanged_by, either(length_of_samples))),
    (info_nce_without_temperature, on_embeddings, info_nce_of_two_samples),
    (info_nce_with_the_teacher_as_anchor, on_embeddings, info_nce_of_two_samples),
    (info_nce_summed_over_the_batch, on_embeddings, equal_scores_give_log_1_plus_k),
    (negatives_of_the_students_own_side, on_embeddings, info_nce_of_two_samples),
    (neighbour_as_the_only_negative, on_embeddings, of(INFO_NCE_CASE, does_not_depend_on_the_order_of_the_batch)),
    (info_nce_by_bare_exponentials, on_embeddings, of(SHARP, is_finite_at_zeros_repeats_and_extremes)),
    (nce_with_the_positive_upside_down, on_scores, likelier_positives_and_rarer_negatives_cost_less),
    (nce_with_the_negatives_upside_down, on_scores, likelier_positives_and_rarer_negatives_cost_less),
    (nce_meant_over_negatives, on_scores, chance_gives_the_closed_form),
    (nce_with_noise_of_one, on_scores, chance_gives_the_closed_form),
    (nce_without_noise, on_scores, chance_gives_the_closed_form),
    (nce_by_bare_logarithms, on_scores, of(CASE["nce_loss"], is_finite_at_zeros_repeats_and_extremes)),
    (nce_by_softmax, on_scores, chance_gives_the_closed_form),
    (nce_summed_over_the_batch, on_scores, chance_gives_the_closed_form),
    (NegativesWithTheOwnRow, on_a_batch, negatives_leave_the_own_row_out),
    (NegativesShiftedOffTheOwnRow, on_a_batch, negatives_are_uniform_over_all_other_rows),
    (NegativesWithoutTheLastRow, on_a_batch, negatives_are_uniform_over_all_other_rows),
    (BanksThatMoveInEvaluation, on_a_batch, evaluation_leaves_the_banks_alone),
    (BanksThatNeverMove, on_a_batch, banks_follow_with_momentum),
    (BanksThatLoseTheirLength, on_a_batch, banks_hold_directions),
    (MomentumUpsideDown, on_a_batch, banks_follow_with_momentum),
    (BanksAsPlainAttributes, on_a_batch, all_of_it_moves_with_the_module),
    (NewZForEachBatch, on_a_batch, z_is_set_once),
    (ZOfOne, on_a_batch, z_makes_the_first_batch_average_chance),
    (StudentAsTheOnlyAnchor, on_a_batch, both_sides_are_anchors),
    (RowsByPosition, on_a_batch, banks_follow_with_momentum),
    (InfoNCEUnderCRDsName, on_a_batch, crd_equals_the_loops),
]


@pytest.mark.parametrize(("wrong", "runs_on", "by"), WRONG, ids=name)
def test_a_wrong_contrastive_loss_is_caught(wrong: Any, runs_on: Callable[[Any], Tensor], by: Property) -> None:
    assert runs_on(wrong).isfinite()  # it runs, as it does where it is published
    assert is_caught(wrong, by)
