"""Checks for notebook 03: Hinton's loss, unlabelled transfer data, two conventions for α, the omitted class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course.checks._verdict import Mistake, ask, ask_tensor, close, exercise, recognise, require
from kd_course.data import Batch

STUDENT = torch.tensor([[2.0, 1.0, -1.0, 0.5], [0.0, 3.0, 2.5, -2.0], [1.0, -4.0, 1.5, 0.0]], dtype=torch.float64)
TEACHER = torch.tensor([[4.0, -1.0, 0.0, 1.0], [1.0, 5.0, 1.5, -3.0], [0.5, -2.0, 3.0, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2])
TEMPERATURE = 5.0  # not the number of classes, so that a forgotten T and a mean over classes differ
ALONE = "each term is right alone, "
NO_T2 = " (And T² is missing.)"


@exercise
def kd_loss(attempt: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]) -> str:
    """``attempt(student_logits, teacher_logits, labels, temperature, alpha)`` is (1-α)·CE + α·T²·KL(t_T ‖ s_T).

    Each term is first examined alone, at α = 0 and at α = 1, so that two mistakes at once are found one by one.
    """
    T, alpha = TEMPERATURE, 0.7
    hard, soft = F.cross_entropy(STUDENT, LABELS), T**2 * _divergence(TEACHER, STUDENT, T)
    _hard_term(ask_tensor(attempt, STUDENT, TEACHER, LABELS, T, 0.0, shape=()), hard, soft)
    _soft_term(ask_tensor(attempt, STUDENT, TEACHER, LABELS, T, 1.0, shape=()), hard, soft)

    student = STUDENT.clone().requires_grad_()
    loss = ask_tensor(attempt, student, TEACHER, LABELS, T, alpha, shape=())
    blend = (1 - alpha) * hard + alpha * soft
    require(close(loss, blend), ALONE + "but the blend at α = 0.7 is not: (1-α)·CE + α·T²·KL.")
    require(
        loss.requires_grad,
        "the value is right, but no gradient flows: return the tensor itself, without `.item()` or `.detach()`.",
    )
    (gradient,) = torch.autograd.grad(loss, student)
    hard_pull = STUDENT.softmax(1) - F.one_hot(LABELS, 4)
    soft_pull = T * (_soft(STUDENT, T) - _soft(TEACHER, T))
    require(
        close(gradient, ((1 - alpha) * hard_pull + alpha * soft_pull) / 3),
        "the value is right but its gradient is not: part of it passes through `.detach()` or `no_grad`.",
    )
    _large_gaps(attempt)
    return "both terms, T², the direction of the KL, the mean over the batch, the gradient, and huge logits: all right."


def _hard_term(answer: Tensor, hard: Tensor, soft: Tensor) -> None:
    """At α = 0 the loss is plain cross-entropy."""
    _refuse_nan(answer)
    flipped = (
        "α is flipped: at α = 0 you return the soft term. In this course α weights the *soft* loss, "
        "so α = 0 is plain cross-entropy."
    )
    softened = F.cross_entropy(STUDENT / TEMPERATURE, LABELS)
    twice = F.cross_entropy(STUDENT.softmax(1), LABELS)
    of_teacher = F.cross_entropy(TEACHER, LABELS)
    recognise(
        answer,
        {
            flipped: soft,
            flipped + NO_T2: soft / TEMPERATURE**2,
            "T softens the hard term too: the cross-entropy with the labels takes the logits at T = 1.": softened,
            "the hard term is a sum over the batch; take the mean.": 3 * hard,
            "the cross-entropy was given probabilities; it applies the softmax itself, so pass logits.": twice,
            "the hard term compares the *teacher* with the labels; it should be the student.": of_teacher,
            "at α = 0 both terms are there: the soft one must carry α, the hard one (1-α).": hard + soft,
        },
    )
    require(
        close(answer, hard),
        f"at α = 0 the loss should be the student's plain cross-entropy, {hard:.3f} here, not {answer.item():.3f}.",
    )


def _soft_term(answer: Tensor, hard: Tensor, soft: Tensor) -> None:
    """At α = 1 the loss is T²·KL, and no label matters."""
    _refuse_nan(answer)
    T = TEMPERATURE
    swapped = "the arguments of the KL are swapped: this is KL(s ‖ t). In `F.kl_div` the student comes first, as input."
    element_mean = "this is averaged over the classes too, as `F.kl_div` does by default: use reduction='batchmean'."
    probabilities = (
        "`F.kl_div` was given the student's probabilities; as input it wants log-probabilities (`log_softmax`)."
    )
    reverse = T**2 * _divergence(STUDENT, TEACHER, T)
    unlogged = T**2 * F.kl_div(_soft(STUDENT, T), _soft(TEACHER, T), reduction="batchmean")
    half_softened = T**2 * F.kl_div(_log_soft(STUDENT, 1.0), _soft(TEACHER, T), reduction="batchmean")
    cross_entropy = -(T**2) * (_soft(TEACHER, T) * _log_soft(STUDENT, T)).sum(1).mean()
    recognise(
        answer,
        {
            "T² is missing: without it the soft term's gradient fades as T grows. Multiply the KL by T².": soft / T**2,
            "the KL is multiplied by T; it needs T².": soft / T,
            swapped: reverse,
            swapped + NO_T2: reverse / T**2,
            element_mean: soft / 4,
            element_mean + NO_T2: soft / 4 / T**2,
            "the soft term is a sum over the batch: use reduction='batchmean'.": 3 * soft,
            probabilities: unlogged,
            probabilities + NO_T2: unlogged / T**2,
            "the temperature is missing: both softmaxes take z / T.": T**2 * _divergence(TEACHER, STUDENT, 1.0),
            "only the teacher is softened; the student takes z / T as well.": half_softened,
            "this is T² times the cross-entropy with the soft targets. Its gradient is right, but it is not 0 where "
            "the student equals the teacher: use `F.kl_div`, which subtracts the teacher's entropy.": cross_entropy,
            "the cross-entropy is still there at α = 1: it must carry (1-α).": hard + soft,
        },
    )
    require(
        close(answer, soft), f"at α = 1 the loss should be T²·KL(t_T ‖ s_T), {soft:.3f} here, not {answer.item():.3f}."
    )


def _large_gaps(attempt: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]) -> None:
    """Logits 20,000 apart must do no harm."""
    student = torch.tensor([[1e4, -1e4, 0.0, 0.0]], dtype=torch.float64)
    teacher = student.flip(1)
    loss = ask_tensor(attempt, student, teacher, torch.tensor([0]), 1.0, 0.5, shape=())
    require(
        bool(torch.isfinite(loss)),
        f"right for mild logits, but {loss.item()} at a gap of 10,000: `log(softmax(z))` takes the logarithm of 0. "
        "Use `F.log_softmax`, which never forms that 0.",
    )
    require(
        close(loss, 0.5 * _divergence(teacher, student, 1.0)),
        "right for mild logits, but not at a gap of 10,000: clipping, or a small number inside a logarithm, hides how "
        "far apart the two are. Use `F.log_softmax`.",
    )


@exercise
def transfer_objective(attempt: Callable[[nn.Module, Batch], Tensor]) -> str:
    """``attempt(model, batch)`` is T²·KL at T = 4, an objective for unlabelled images: ``batch.labels`` unread."""
    T = 4.0
    images = torch.arange(12.0).view(3, 1, 2, 2) / 12
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters(), start=1):
            parameter.copy_(3 * place * torch.linspace(-2, 3, parameter.numel()).sin().view_as(parameter))
        logits = model(images).double()
    labels = torch.tensor([3, 0, 1])  # none is the teacher's first choice
    batch = Batch(images, labels, torch.tensor([7, 2, 9]), TEACHER.float())

    def loss(labels: Tensor) -> Tensor:
        answer = ask(attempt, model, replace(batch, labels=labels))
        if isinstance(answer, Mapping):
            require("loss" in answer, f"a dict of terms needs one named 'loss'; yours has {sorted(answer)}.")
            answer = answer["loss"]
        return ask_tensor(lambda: answer, shape=())

    answer = loss(labels)
    soft = T**2 * _divergence(TEACHER, logits, T)
    with_labels, with_guesses = F.cross_entropy(logits, labels), F.cross_entropy(logits, TEACHER.argmax(1))
    recognise(
        answer,
        {
            "this is the cross-entropy with the teacher's best guess, which throws away all it says about the other "
            "classes: use its soft targets.": with_guesses,
            "this is the cross-entropy with `batch.labels`; these images have none: use soft targets.": with_labels,
            "T² is missing: use `soft_target_loss`, or multiply the KL by T².": soft / T**2,
            "the targets are not softened (T = 1); use T = 4.": _divergence(TEACHER, logits, 1.0),
            "student and teacher are swapped; the student's logits come first.": (
                T**2 * _divergence(logits, TEACHER, T)
            ),
            "this is averaged over the classes too: use reduction='batchmean'.": soft / 4,
        },
    )
    require(
        all(close(loss(others), answer.detach()) for others in (labels.roll(1), torch.full_like(labels, -1))),
        "the loss changes with `batch.labels`, which unlabelled images do not have: use the soft term alone (α = 1).",
    )
    require(close(answer, soft), f"expected T²·KL(t_T ‖ s_T) at T = 4, {soft:.3f} here, not {answer.item():.3f}.")
    require(
        answer.requires_grad,
        "the value is right, but no gradient reaches the model: call `model(batch.images)` outside `no_grad`, and "
        "return the tensor itself.",
    )
    return "soft targets only, with T², and not a label was read."


@exercise
def convert_beta(attempt: Callable[[float], Sequence[float]]) -> str:
    """``attempt(beta)`` is ``(alpha, scale)`` such that CE + β·soft = scale · [(1-α)·CE + α·soft]."""
    for beta in (4.0, 0.25):
        alpha, scale = beta / (1 + beta), 1 + beta
        pair = ask(attempt, beta)
        require(
            isinstance(pair, tuple | list | Tensor) and len(pair) == 2, "return two numbers: `return alpha, scale`."
        )
        answer = torch.tensor([float(number) for number in pair], dtype=torch.float64)
        recognise(
            answer,
            {
                text: torch.tensor(wrong, dtype=torch.float64)
                for text, wrong in {
                    "β is not α: α is a fraction, and β may be 9. Divide by 1 + β.": (beta, 1.0),
                    "the scale is right, but β is not α: α is a fraction, and β may be 9. Divide by 1 + β.": (
                        beta,
                        scale,
                    ),
                    "α is flipped: 1/(1+β) is the weight of the hard loss, β/(1+β) that of the soft one.": (
                        1 / scale,
                        scale,
                    ),
                    "α is right, but the scale is forgotten: both weights were divided by 1 + β.": (alpha, 1.0),
                    "α is right, but the scale is upside down: scale times the blend must give back CE + β·soft.": (
                        alpha,
                        1 / scale,
                    ),
                    "both numbers are right, but in the other order: `return alpha, scale`.": (scale, alpha),
                    "1-β would be right if the weights of CE and soft summed to 1 already; here CE weighs 1.": (
                        1 - beta,
                        1.0,
                    ),
                }.items()
            },
        )
        require(
            close(answer, torch.tensor([alpha, scale])),
            f"insert your numbers for β = {beta}: scale·(1-α) must be 1, and scale·α must be β.",
        )
    return "scale·(1-α) = 1 and scale·α = β, for a large β and a small one."


@exercise
def best_bias(attempt: Callable[[Tensor, Tensor, int], float]) -> str:
    """``attempt(validation_logits, validation_labels, class_index)`` is the shift with the fewest errors."""
    for class_index, least in ((3, 3.0), (1, 6.0)):  # two optima, so that no constant is right for both
        logits, labels = _shy_of(class_index, least)
        given = logits.clone()
        answer = ask(attempt, given, labels, class_index)
        require(
            isinstance(answer, Real) or (isinstance(answer, Tensor) and answer.numel() == 1),
            f"return one number, the shift, not {type(answer).__name__}.",
        )
        require(
            torch.equal(given, logits),
            "your function changes `validation_logits` itself, so every trial's shift adds to the last one's: "
            "work on `validation_logits.clone()`.",
        )
        _judge_shift(float(answer), logits, labels, class_index, least)
    return "the shift with the fewest validation errors, for whichever class is asked for."


def _shy_of(class_index: int, least: float) -> tuple[Tensor, Tensor]:
    """Logits (300, 5) of a network that is right but for one class, which it almost never names.

    Images of that class need a shift of up to ``least``, and the others bear one more: in between nobody errs.
    """
    generator = torch.Generator().manual_seed(class_index)
    labels = torch.arange(300) % 5
    logits = torch.rand(300, 5, generator=generator, dtype=torch.float64) + 6 * F.one_hot(labels, 5)
    best_other = logits.masked_fill(F.one_hot(torch.tensor(class_index), 5).bool(), -torch.inf).amax(1)
    spread = 3 * torch.rand(300, generator=generator, dtype=torch.float64)
    logits[:, class_index] = best_other - torch.where(labels == class_index, spread + least - 3, spread + least + 1)
    return logits, labels


def _judge_shift(shift: float, logits: Tensor, labels: Tensor, class_index: int, least: float) -> None:
    """Say what is wrong with a shift, unless it leaves hardly an error (2 %, so that a coarse search will do)."""

    def errors(value: float) -> int:
        shifted = logits + value * F.one_hot(torch.tensor(class_index), logits.shape[1])
        return int((shifted.argmax(1) != labels).sum())

    found, untouched, allowed = errors(shift), errors(0.0), 6
    if found <= allowed:
        return
    result = f"a shift of {shift:.2f} for class {class_index} leaves {found} errors of {len(labels)}"
    require(
        errors(-shift) > allowed,
        "the size is right but the sign is turned round: the logit of the missing class must go *up*.",
    )
    require(
        shift < least + 1,
        f"{result}: it calls nearly everything a {class_index}. Accuracy on that class alone always asks for more. "
        "Count the errors on *all* classes, and take the smallest count.",
    )
    require(
        found < untouched,
        f"{result}, and no shift leaves {untouched}. If your count is the same for every shift, you add it to *all* "
        "classes, which changes no argmax; if the function works for class 3 only, use `class_index`.",
    )
    raise Mistake(f"{result}, and fewer are possible: search further, or in smaller steps.")


def _log_soft(logits: Tensor, T: float) -> Tensor:
    return F.log_softmax(logits / T, dim=1)


def _soft(logits: Tensor, T: float) -> Tensor:
    return torch.softmax(logits / T, dim=1)


def _divergence(first: Tensor, second: Tensor, T: float) -> Tensor:
    """KL(first_T ‖ second_T), averaged over the batch."""
    return F.kl_div(_log_soft(second, T), _log_soft(first, T), reduction="batchmean", log_target=True)


def _refuse_nan(answer: Tensor) -> None:
    require(
        not bool(torch.isnan(answer)),
        "the loss is NaN on ordinary logits: as target `F.kl_div` wants probabilities, or log-probabilities together "
        "with `log_target=True`.",
    )
