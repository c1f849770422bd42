"""Checks for notebook 02: the softmax with a temperature, its gradient, schedules, calibration."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks._exercise import Mistake, ask_tensor, close, exercise, recognise, require

Z = torch.tensor([[2.0, 1.0, -1.0, 0.5], [0.0, 3.0, 2.5, -2.0], [1.0, -4.0, 1.5, 0.0]], dtype=torch.float64)


@exercise
def temperature_softmax(attempt: Callable[[Tensor, float], Tensor]) -> str:
    """``attempt(logits, temperature)`` is softmax(z / T) of each row of logits (B, C)."""
    T = 4.0
    expected, unsoftened = (Z / T).softmax(1), Z.softmax(1)
    answer = ask_tensor(attempt, Z, T, shape=(3, 4))
    recognise(
        answer,
        {
            "this is the softmax at T = 1: T is not used, or it cancels. (Probabilities divided by T and then "
            "normalised again are what they were.) Divide the *logits* by T.": unsoftened,
            "this sharpens: it is softmax(z · T), or the probabilities to the power T. Divide the logits by T.": (
                Z * T
            ).softmax(1),
            "these are the probabilities divided by T: each row sums to 1/T and is as sharp as before. Divide the "
            "logits by T, *before* the exponential.": unsoftened / T,
            "T comes after the softmax here, and then a second softmax. There is one softmax, and it takes z / T.": (
                unsoftened / T
            ).softmax(1),
            "the power 1/T of the probabilities is right up to a factor; now divide each row by its sum.": unsoftened
            ** (1 / T),
            "your columns sum to 1; normalise over the classes (`dim=1`), so that every row is a distribution.": (
                Z / T
            ).softmax(0),
            "these are logarithms of probabilities; leave the logarithm out.": (Z / T).log_softmax(1),
            "the exponentials of z / T are right; now divide each row by its sum.": (Z / T).exp(),
        },
    )
    require(
        close(answer, expected), "the rows are not exp(z / T) divided by their own sum; compare with the formula above."
    )
    again = ask_tensor(attempt, Z, 0.5, shape=(3, 4))
    require(
        close(again, (Z / 0.5).softmax(1)), "right at T = 4 but not at T = 0.5; use the argument, for every T above 0."
    )
    huge = ask_tensor(attempt, torch.tensor([[30.0, 0.0], [0.0, -30.0]], dtype=torch.float64), 0.01, shape=(2, 2))
    require(
        bool(torch.isfinite(huge).all()),
        "correct for mild logits, but at T = 0.01 the logit 30 becomes 3000 and exp(3000) overflows: subtract each "
        "row's maximum first, or use `torch.softmax`.",
    )
    return "softmax(z / T), row by row, and a very small T does no harm."


@exercise
def soft_target_gradient(attempt: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """``attempt(student_logits, teacher_logits, temperature)`` is the gradient T (s_T - t_T) / B of T²·KL, (B, C)."""
    student, teacher, T, B = Z, Z.flip(0) + torch.tensor([0.0, 1.0, -1.0, 0.5]), 5.0, 3
    s, t = (student / T).softmax(1), (teacher / T).softmax(1)
    log_ratio = s.log() - t.log()
    reverse = s * (log_ratio - (s * log_ratio).sum(1, keepdim=True))  # the gradient of KL(s ‖ t), times T
    answer = ask_tensor(attempt, student, teacher, T, shape=(3, 4))
    recognise(
        answer,
        {
            "the sign is turned round: this would drive the student away. The student comes first: s_T - t_T.": (
                T * (t - s) / B
            ),
            "this is the gradient without T²: it fades as 1/T. The loss is T² · KL, so multiply by T² once more.": (
                (s - t) / (T * B)
            ),
            "no T stands before the difference. T² comes from the loss and 1/T from z / T; together they leave T.": (
                (s - t) / B
            ),
            "T² is right for the loss, but the inner derivative of z / T gives 1/T as well; together they leave T.": (
                T**2 * (s - t) / B
            ),
            "this is the gradient of the *sum* over the batch; `batchmean` divides by the batch size B.": T * (s - t),
            "this divides by B · C, as `reduction='mean'` would. KL is a *sum* over classes: divide by B only.": (
                T * (s - t) / (B * 4)
            ),
            "the softmax is taken at T = 1 here. Soften the student and the teacher: softmax(z / T).": (
                T * (student.softmax(1) - teacher.softmax(1)) / B
            ),
            "only the student is softened here. The teacher needs the same T.": T * (s - teacher.softmax(1)) / B,
            "only the teacher is softened here. The student needs the same T.": T * (student.softmax(1) - t) / B,
            "this is the gradient of KL(s ‖ t). Distillation takes KL(t ‖ s), the teacher as the reference.": (
                T * reverse / B
            ),
        },
    )
    require(
        close(answer, T * (s - t) / B),
        "this is not T (s_T - t_T) / B; compare with the three lines above, term by term.",
    )
    again = ask_tensor(attempt, student[:2], teacher[:2], 10.0, shape=(2, 4))
    expected = 10 * ((student[:2] / 10).softmax(1) - (teacher[:2] / 10).softmax(1)) / 2
    require(
        close(again, expected),
        "right for T = 5 and three samples, but not for T = 10 and two; take T and B from the arguments.",
    )
    return "T (s_T - t_T) / B: what autograd finds, in one line."


@exercise
def temperature_schedule(attempt: Callable[[float], float]) -> str:
    """``attempt(progress)`` falls from 8 at progress 0 to 1 at progress 1, monotone and without jumps."""

    def at(progress: float) -> float:
        return float(ask_tensor(attempt, progress, shape=()))

    start, end = at(0.0), at(1.0)
    require(
        not (_near(start, 1) and _near(end, 8)),
        "this rises from 1 to 8, from hard to soft. Annealing begins soft: 8 at progress 0, 1 at progress 1.",
    )
    require(
        not _near(start, end),
        f"the temperature is {start:.3g} at both ends, so it never changes; `progress` must enter the formula.",
    )
    require(_near(start, 8), f"at progress 0 the temperature is {start:.3g}; it should be 8.")
    if not _near(end, 1):
        epochs = None
        with suppress(Exception):  # a function that guards its domain has no such answer
            epochs = next((epochs for epochs in range(2, 1001) if _near(at(float(epochs)), 1)), None)
        if epochs is not None:
            raise Mistake(
                f"this arrives at 1 when its argument is {epochs}, as if it were an epoch number. `progress` is the "
                "fraction of the training done, between 0 and 1."
            )
        raise Mistake(
            f"at progress 1 the temperature is {end:.3g}; it should be exactly 1. "
            "(A factor per step, such as 8 · 0.9^k, comes near but never arrives.)"
        )
    values = [at(step / 1000) for step in range(1001)]
    steps = [after - before for before, after in pairwise(values)]
    require(all(math.isfinite(value) for value in values), "some temperatures in between are NaN or infinite.")
    require(max(steps) <= 1e-9, "the temperature rises again on the way; from 8 to 1 it should only fall.")
    require(
        min(steps) > -0.25,
        "the temperature falls in jumps (whole numbers, or an `if`). Let it glide: use the formula without rounding.",
    )
    return "from 8 to 1, soft to hard, without a jump."


@exercise
def fit_temperature(attempt: Callable[[Tensor, Tensor], float]) -> str:
    """``attempt(logits, labels)`` is the T > 0 at which the mean NLL of softmax(z / T) is smallest."""
    for scale in (3.0, 0.5):
        logits, labels = _known_calibration(scale)
        best = _best_temperature(logits, labels)
        T = float(ask_tensor(lambda z, y: _one_number(attempt(z, y)), logits, labels, shape=()))
        require(math.isfinite(T), f"the temperature came out as {T}; keep T above 0 by searching over log T.")
        require(
            T > 0, f"T = {T:.3g} is not above 0, and would turn the ranking of the classes round; search over log T."
        )
        require(
            abs(T * best - 1) > 0.05,
            f"you return {T:.3g}, which is 1/T: that *multiplies* the logits. The answer here is what divides them.",
        )
        require(
            not (scale < 1 and _near(T, 1)),
            "T = 1 for logits that are too timid. T may lie below 1 as well: widen the search, say from 0.05 to 20.",
        )
        found, lowest = (F.cross_entropy(logits / value, labels).item() for value in (T, best))
        require(
            abs(T / best - 1) <= 0.05,
            f"for logits whose right T is near {best:.2f} you return {T:.3g}: a mean NLL of {found:.3f}, where "
            f"{lowest:.3f} can be had. Minimise the NLL itself (the number of errors is the same at every T and cannot "
            "choose), over a fine enough search.",
        )
    return "the T of the smallest NLL, for boastful logits and for timid ones."


def _one_number(answer: object) -> object:
    """A tensor that holds one number, whatever its shape, as a scalar; anything else as it is."""
    return answer.reshape(()) if isinstance(answer, Tensor) and answer.numel() == 1 else answer


def _near(value: float, target: float) -> bool:
    return abs(value - target) < 1e-6


def _known_calibration(scale: float) -> tuple[Tensor, Tensor]:
    """Logits (4000, 5) that are ``scale`` times the honest ones, and labels drawn from the honest ones."""
    generator = torch.Generator().manual_seed(2017)
    honest = 1.5 * torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator).squeeze(1)
    return scale * honest, labels


def _best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T of the smallest mean NLL, convex in b = 1/T: bisects its slope, E_p[z] - z_y at p = softmax(bz)."""
    chosen = logits.gather(1, labels[:, None])
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        slope = ((middle * logits).softmax(1) * logits).sum(1, keepdim=True) - chosen
        low, high = (low, middle) if slope.mean() > 0 else (middle, high)
    return 1 / low
