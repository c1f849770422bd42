"""Checks for notebook 03: Hinton's loss, unlabelled transfer data, two conventions for α, the omitted class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from kd_course.checks._exercise import (
    NO_GRADIENT,
    WRONG_GRADIENT,
    Exercise,
    Given,
    Mistake,
    Submission,
    as_expected,
    require,
)
from kd_course.data import Batch

STUDENT = torch.tensor([[2.0, 1.0, -1.0, 0.5], [0.0, 3.0, 2.5, -2.0], [1.0, -4.0, 1.5, 0.0]], dtype=torch.float64)
TEACHER = torch.tensor([[4.0, -1.0, 0.0, 1.0], [1.0, 5.0, 1.5, -3.0], [0.5, -2.0, 3.0, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2])
FAR = torch.tensor([[1e4, -1e4, 0.0, 0.0]], dtype=torch.float64)

_kl_div = partial(F.kl_div, reduction="batchmean")

# --- Exercise 1: the loss -------------------------------------------------------------------------------------------

FLIPPED = (
    "α is flipped: at α = 0 you return the soft term. In this course α weights the *soft* loss, so α = 0 is plain "
    "cross-entropy."
)
SWAPPED = "the arguments of the KL are swapped: this is KL(s ‖ t). In `F.kl_div` the student comes first, as input."
ELEMENT_MEAN = "this is averaged over the classes too, as `F.kl_div` does by default: use reduction='batchmean'."
PROBABILITIES = "`F.kl_div` was given the student's probabilities; as input it wants log-probabilities (`log_softmax`)."
NO_T2 = " (And T² is missing.)"
CLIPPED = (
    "right for mild logits, but not at a gap of 10,000: clipping, or a small number inside a logarithm, hides how far "
    "apart the two are. Use `F.log_softmax`."
)


def _hard(student: Tensor, teacher: Tensor, labels: Tensor, T: float) -> Tensor:
    return F.cross_entropy(student, labels)


def _soft(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    return T**2 * _kl(teacher, student, T)


def _kl(first: Tensor, second: Tensor, T: float, reduction: str = "batchmean") -> Tensor:
    """KL(first_T ‖ second_T), averaged over the batch."""
    return F.kl_div(_log_soft(second, T), _log_soft(first, T), reduction=reduction, log_target=True)


def _log_soft(logits: Tensor, T: float) -> Tensor:
    return F.log_softmax(logits / T, dim=1)


def _loss(hard: Callable[..., Tensor] = _hard, soft: Callable[..., Tensor] = _soft) -> Submission:
    """(1-α)·hard + α·soft, of the two right terms or of a wrong one."""
    return lambda s, t, labels, T, alpha: (1 - alpha) * hard(s, t, labels, T) + alpha * soft(s, t, T)


def _of_probabilities(s: Tensor, t: Tensor, T: float) -> Tensor:
    return _kl_div((s / T).softmax(1), (t / T).softmax(1))


def _written_out(s: Tensor, t: Tensor, T: float, smallest: float = 0.0) -> Tensor:
    s, t = ((logits / T).softmax(1).clamp_min(smallest) for logits in (s, t))
    return T**2 * (t * (t.log() - s.log())).sum(1).mean()


def _at(alpha: float, otherwise: str) -> Given:
    """T = 5 is not the number of classes, so that a forgotten T and a mean over the classes differ."""
    return Given(STUDENT, TEACHER, LABELS, 5.0, alpha, otherwise=otherwise)


kd_loss = Exercise(
    task="`submission(student_logits, teacher_logits, labels, temperature, alpha)` is (1-α)·CE + α·T²·KL(t_T ‖ s_T).",
    inputs=[  # each term alone first, so that two mistakes at once are found one by one
        _at(0.0, "at α = 0 the loss should be the student's plain cross-entropy, {expected} here, not {answer}."),
        _at(1.0, "at α = 1 the loss should be T²·KL(t_T ‖ s_T), {expected} here, not {answer}."),
        _at(0.7, "each term is right alone, but the blend at α = 0.7 is not: (1-α)·CE + α·T²·KL."),
        Given(FAR, FAR.flip(1), torch.tensor([0]), 1.0, 0.5, otherwise=CLIPPED),
    ],
    solution=_loss(),
    gradient=(0,),
    mistakes={
        FLIPPED: lambda s, t, labels, T, alpha: _loss()(s, t, labels, T, 1 - alpha),
        FLIPPED + NO_T2: lambda s, t, labels, T, alpha: alpha * _hard(s, t, labels, T) + (1 - alpha) * _kl(t, s, T),
        "T softens the hard term too: the cross-entropy with the labels takes the logits at T = 1.": _loss(
            hard=lambda s, t, labels, T: F.cross_entropy(s / T, labels)
        ),
        "the hard term is a sum over the batch; take the mean.": _loss(
            hard=lambda s, t, labels, T: F.cross_entropy(s, labels, reduction="sum")
        ),
        "the cross-entropy was given probabilities; it applies the softmax itself, so pass logits.": _loss(
            hard=lambda s, t, labels, T: F.cross_entropy(s.softmax(1), labels)
        ),
        "the hard term compares the *teacher* with the labels; it should be the student.": _loss(
            hard=lambda s, t, labels, T: F.cross_entropy(t, labels)
        ),
        "the cross-entropy is still there at α = 1: it must carry (1-α).": (
            lambda s, t, labels, T, alpha: _hard(s, t, labels, T) + alpha * _soft(s, t, T)
        ),
        "at α = 0 both terms are there: the soft one must carry α, the hard one (1-α).": (
            lambda s, t, labels, T, alpha: _hard(s, t, labels, T) + _soft(s, t, T),
            lambda s, t, labels, T, alpha: (1 - alpha) * _hard(s, t, labels, T) + _soft(s, t, T),
        ),
        "T² is missing: without it the soft term's gradient fades as T grows. Multiply the KL by T².": _loss(
            soft=lambda s, t, T: _kl(t, s, T)
        ),
        "the KL is multiplied by T; it needs T².": _loss(soft=lambda s, t, T: T * _kl(t, s, T)),
        "the KL is divided by T²; multiply by it, since the softened gradient is T² times too small.": _loss(
            soft=lambda s, t, T: _kl(t, s, T) / T**2
        ),
        "T² stands before both terms; it belongs to the soft one alone.": _loss(
            hard=lambda s, t, labels, T: T**2 * _hard(s, t, labels, T)
        ),
        "both terms have the weight ½; use α: (1-α) for the hard one, α for the soft one.": (
            lambda s, t, labels, T, alpha: (_hard(s, t, labels, T) + _soft(s, t, T)) / 2
        ),
        "the sign of the soft term is reversed: it drives the student away from the teacher.": _loss(
            soft=lambda s, t, T: -_soft(s, t, T)
        ),
        "the soft term is the cross-entropy with the teacher's first choice, another hard label: compare the whole "
        "distributions, softened.": _loss(soft=lambda s, t, T: F.cross_entropy(s, t.argmax(1))),
        "the soft term is the squared difference of the logits; the course's is T²·KL of the softened distributions.": (
            _loss(soft=lambda s, t, T: F.mse_loss(s, t))
        ),
        "the softmaxes of the soft term run over the samples; classes are `dim=1`.": _loss(
            soft=lambda s, t, T: T**2 * _kl_div((s / T).log_softmax(0), (t / T).softmax(0))
        ),
        SWAPPED: _loss(soft=lambda s, t, T: T**2 * _kl(s, t, T)),
        SWAPPED + NO_T2: _loss(soft=lambda s, t, T: _kl(s, t, T)),
        ELEMENT_MEAN: _loss(soft=lambda s, t, T: T**2 * _kl(t, s, T) / s.shape[1]),
        ELEMENT_MEAN + NO_T2: _loss(soft=lambda s, t, T: _kl(t, s, T) / s.shape[1]),
        "the soft term is a sum over the batch: use reduction='batchmean'.": _loss(
            soft=lambda s, t, T: T**2 * _kl(t, s, T, reduction="sum")
        ),
        "the soft term is a sum over the batch: use reduction='batchmean'." + NO_T2: _loss(
            soft=lambda s, t, T: _kl(t, s, T, reduction="sum")
        ),
        PROBABILITIES: _loss(soft=lambda s, t, T: T**2 * _of_probabilities(s, t, T)),
        PROBABILITIES + NO_T2: _loss(soft=_of_probabilities),
        "the temperature is missing: both softmaxes take z / T.": (
            _loss(soft=lambda s, t, T: T**2 * _kl(t, s, 1.0)),
            _loss(soft=lambda s, t, T: _kl(t, s, 1.0)),
        ),
        "only the student is softened; the teacher takes z / T as well.": _loss(
            soft=lambda s, t, T: T**2 * _kl_div(_log_soft(s, T), t.softmax(1))
        ),
        "only the teacher is softened; the student takes z / T as well.": _loss(
            soft=lambda s, t, T: T**2 * _kl_div(_log_soft(s, 1.0), (t / T).softmax(1))
        ),
        "this is T² times the cross-entropy with the soft targets. Its gradient is right, but it is not 0 where the "
        "student equals the teacher: use `F.kl_div`, which subtracts the teacher's entropy.": _loss(
            soft=lambda s, t, T: T**2 * F.cross_entropy(s / T, (t / T).softmax(1))
        ),
        WRONG_GRADIENT: (
            _loss(hard=lambda s, t, labels, T: _hard(s.detach(), t, labels, T)),
            _loss(soft=lambda s, t, T: _soft(s.detach(), t, T)),
        ),
        NO_GRADIENT: lambda s, *others: _loss()(s.detach(), *others),
        "right for mild logits, but NaN or infinite at a gap of 10,000: `log(softmax(z))` takes the logarithm of 0. "
        "Use `F.log_softmax`, which never forms that 0.": (
            _loss(soft=_written_out),
            _loss(soft=lambda s, t, T: T**2 * _kl_div((s / T).softmax(1).log(), (t / T).softmax(1))),
            _loss(
                soft=lambda s, t, T: T**2 * kl_divergence(Categorical(logits=t / T), Categorical(logits=s / T)).mean()
            ),
        ),
        CLIPPED: _loss(soft=lambda s, t, T: _written_out(s, t, T, smallest=1e-12)),
        "the loss is NaN on ordinary logits: as target `F.kl_div` wants probabilities, or log-probabilities together "
        "with `log_target=True`.": _loss(soft=lambda s, t, T: T**2 * _kl_div(_log_soft(s, T), _log_soft(t, T))),
    },
    praise="both terms, T², the direction of the KL, the batch mean, the gradient, and huge logits: all right.",
    otherwise="the loss should be {expected} here, not {answer}.",
)

# --- Exercise 2: an objective for unlabelled images -----------------------------------------------------------------

WEIGHT = 3 * torch.linspace(-2, 3, 20).sin().view(4, 5)  # five classes: four would be as many as T
ASKED = torch.cat([TEACHER, TEACHER[:, :1].flip(0) - 1], dim=1).float()
IMAGES = torch.arange(12.0).view(3, 1, 2, 2) / 12
UNRELATED = torch.tensor([3, 0, 1])  # none is the teacher's first choice


class _Linear(nn.Module):
    """A network whose weight comes from outside, so that the check can ask for its gradient."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight


def _two_losses(objective: Submission, weight: Tensor, images: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
    """The loss of a batch with these labels, and with others: the right objective sees no difference."""
    batch = Batch(images, labels, torch.tensor([7, 2, 9]), {"logits": logits})
    batches = (replace(batch, labels=each) for each in (labels, labels.roll(1)))
    return torch.stack([_scalar(objective(_Linear(weight), each)) for each in batches])


def _scalar(answer: Any) -> Tensor:
    """The loss itself, which an objective may return among other terms."""
    if isinstance(answer, Mapping):
        require("loss" in answer, f"a dict of terms needs one named 'loss'; yours has {sorted(answer)}.")
        answer = answer["loss"]
    return as_expected(answer, torch.zeros(()))


def _objective(loss: Callable[[Tensor, Tensor], Tensor]) -> Submission:
    """An objective that looks at the student's and the teacher's logits alone."""
    return lambda model, batch: loss(model(batch.images), batch.teacher_logits)


def _without_graph(model: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        return _soft(model(batch.images), batch.teacher_logits, 4.0)


transfer_objective = Exercise(
    task="`submission(model, batch)` is T²·KL at T = 4, for unlabelled images: `batch.labels` is not read.",
    inputs=[
        Given(WEIGHT, IMAGES, UNRELATED, ASKED),
        Given(WEIGHT, IMAGES, torch.full_like(UNRELATED, -1), ASKED),
    ],
    probe=_two_losses,
    solution=_objective(lambda s, t: _soft(s, t, 4.0)),
    gradient=(0,),
    rules={
        "the loss changes with `batch.labels`, which unlabelled images do not have: use the soft term alone (α = 1).": (
            lambda losses, *_: torch.allclose(*losses, equal_nan=True)
        )
    },
    mistakes={
        "this is the cross-entropy with `batch.labels`; these images have none: use soft targets.": (
            lambda model, batch: F.cross_entropy(model(batch.images), batch.labels)
        ),
        "this is the cross-entropy with the teacher's best guess, which throws away all it says about the other "
        "classes: use its soft targets.": _objective(lambda s, t: F.cross_entropy(s, t.argmax(1))),
        "T² is missing: use `soft_target_loss`, or multiply the KL by T².": _objective(lambda s, t: _kl(t, s, 4.0)),
        "the KL is multiplied by T; it needs T².": _objective(lambda s, t: 4 * _kl(t, s, 4.0)),
        "the targets are not softened (T = 1); use T = 4.": (
            _objective(lambda s, t: _soft(s, t, 1.0)),
            _objective(lambda s, t: 16 * _kl(t, s, 1.0)),
            _objective(lambda s, t: F.cross_entropy(s, t.softmax(1))),
        ),
        "this is T² times the cross-entropy with the soft targets. Its gradient is right, but it is not 0 where the "
        "student equals the teacher: use `soft_target_loss`.": _objective(
            lambda s, t: 16 * F.cross_entropy(s / 4, (t / 4).softmax(1))
        ),
        "the temperature is another; use T = 4.": (
            _objective(lambda s, t: _soft(s, t, 2.0)),
            _objective(lambda s, t: _soft(s, t, 8.0)),
        ),
        "this is a sum over the batch: use reduction='batchmean'.": _objective(lambda s, t: len(s) * _soft(s, t, 4.0)),
        "this is the squared difference of the logits; the soft term is T²·KL at T = 4.": _objective(F.mse_loss),
        "student and teacher are swapped; the student's logits come first.": _objective(lambda s, t: _soft(t, s, 4.0)),
        "this is averaged over the classes too: use reduction='batchmean'.": _objective(
            lambda s, t: _soft(s, t, 4.0) / s.shape[1]
        ),
        NO_GRADIENT: _without_graph,
    },
    praise="soft targets only, with T², and not a label was read.",
    otherwise="the loss should be T²·KL(t_T ‖ s_T) at T = 4.",
)

# --- Exercise 3: from β to α ----------------------------------------------------------------------------------------


TWO_NUMBERS = "return two numbers: `return alpha, scale`."


def _two_numbers(convert: Submission, beta: float) -> Tensor:
    pair = convert(beta)
    with suppress(TypeError, ValueError, RuntimeError):  # one number, text, tensors of several
        require(not isinstance(pair, Mapping | Set | str), TWO_NUMBERS)
        alpha, scale = (float(number) for number in pair)
        return torch.tensor([alpha, scale], dtype=torch.float64)
    raise Mistake(TWO_NUMBERS)


convert_beta = Exercise(
    task="`submission(beta)` is `(alpha, scale)` such that CE + β·soft = scale · [(1-α)·CE + α·soft].",
    inputs=[
        Given(beta, otherwise=f"insert your numbers for β = {beta}: scale·(1-α) must be 1, and scale·α must be β.")
        for beta in (4.0, 0.25, 6.0)  # of the last, no number is short
    ],
    probe=_two_numbers,
    solution=lambda beta: (beta / (1 + beta), 1 + beta),
    mistakes={
        "β is not α: α is a fraction, and β may be 9. Divide by 1 + β.": lambda beta: (beta, 1),
        "the scale is right, but β is not α: α is a fraction, and β may be 9. Divide by 1 + β.": (
            lambda beta: (beta, 1 + beta)
        ),
        "α is flipped: 1/(1+β) is the weight of the hard loss, β/(1+β) that of the soft one.": (
            lambda beta: (1 / (1 + beta), 1 + beta)
        ),
        "α is right, but the scale is missing: both weights were divided by 1 + β.": (
            lambda beta: (beta / (1 + beta), 1)
        ),
        "α is right, but the scale is upside down: scale times the blend must give back CE + β·soft.": (
            lambda beta: (beta / (1 + beta), 1 / (1 + beta))
        ),
        "α is flipped, and the scale is missing: α = β/(1+β), and both weights were divided by 1 + β.": (
            lambda beta: (1 / (1 + beta), 1)
        ),
        "right, but rounded; return the numbers themselves.": tuple(
            lambda beta, digits=digits: (round(beta / (1 + beta), digits), 1 + beta) for digits in (1, 2, 3)
        ),
        "both numbers are right, but in the other order: `return alpha, scale`.": (
            lambda beta: (1 + beta, beta / (1 + beta))
        ),
        "1-β would be right if the weights of CE and soft already summed to 1; here CE weighs 1.": (
            lambda beta: (1 - beta, 1)
        ),
    },
    praise="scale·(1-α) = 1 and scale·α = β, for a large β and a small one.",
    otherwise="scale·(1-α) must be 1, and scale·α must be β.",
)

# --- Exercise 4: the best bias --------------------------------------------------------------------------------------

SHIFTS = torch.arange(-5, 20, 0.25).tolist()
FEW = 6  # errors of 300: two are unavoidable, and a coarse search will do


def _omitted(class_index: int, least: float) -> tuple[Tensor, Tensor, int]:
    """Logits (300, 5) and labels of a network that is right except for one class, which it never predicts.

    Shifts between ``least`` and ``least + 1`` leave two errors. Those two images would need ``least + 3``, where every
    other image is called ``class_index``: whoever looks at this class alone goes that far.
    """
    generator = torch.Generator().manual_seed(class_index)
    labels = torch.arange(300) % 5
    logits = torch.rand(300, 5, generator=generator, dtype=torch.float64) + 6 * F.one_hot(labels, 5)
    spread = 2 * torch.rand(300, generator=generator, dtype=torch.float64)
    needed = torch.where(labels == class_index, least - spread, least + 1 + spread)
    needed[(labels == class_index).nonzero()[:2]] = least + 3
    logits[:, class_index] = -torch.inf
    logits[:, class_index] = logits.amax(1) - needed
    return logits, labels, class_index


def _errors(shift: float, logits: Tensor, labels: Tensor, class_index: int) -> int:
    shifted = logits.clone()
    shifted[:, class_index] += shift
    return int((shifted.argmax(1) != labels).sum())


def _search(logits: Tensor, labels: Tensor, class_index: int) -> float:
    return min(SHIFTS, key=lambda shift: _errors(shift, logits, labels, class_index))


def _for_that_class_alone(logits: Tensor, labels: Tensor, class_index: int) -> float:
    member = labels == class_index
    return _search(logits[member], labels[member], class_index)


def _effect(shift: float, *validation: Any) -> Tensor:
    """What a shift does, whatever the steps of the search: its errors, and whether the opposite shift is good."""
    return torch.tensor([_errors(shift, *validation), _errors(-shift, *validation) <= FEW])


best_bias = Exercise(
    task=(
        "`submission(validation_logits, validation_labels, class_index)` is the shift of that class's logit that "
        "leaves the fewest errors over all classes."
    ),
    inputs=[Given(*_omitted(3, 3.1)), Given(*_omitted(1, 6.1))],  # two optima: no constant is right for both
    solution=_search,
    accepts=lambda shift, *validation: _errors(shift, *validation) <= FEW,
    view=_effect,
    mistakes={
        "the size is right but the sign is reversed: the logit of the missing class must go *up*.": (
            lambda *validation: -_search(*validation)
        ),
        "right for class 3, but no errors are saved for class 1: use `class_index`, and search for each class anew.": (
            lambda logits, labels, class_index: _search(logits, labels, 3)
        ),
        "your shift saves no error at all. If your count of errors is the same for every shift, you add the shift to "
        "*all* classes, which changes no argmax.": (
            lambda logits, labels, _: min(SHIFTS, key=lambda shift: ((logits + shift).argmax(1) != labels).sum())
        ),
        "with your shift nearly every image is assigned to the class. Accuracy on that class alone always asks for "
        "more: count the errors on *all* classes, and take the smallest count.": (
            _for_that_class_alone,
            lambda *validation: max(SHIFTS, key=lambda shift: _errors(shift, *validation)),
        ),
    },
    praise="the shift with the fewest validation errors, for whichever class is asked for.",
    otherwise="a shift of {answer} leaves more errors than necessary: search further, or in smaller steps.",
)
