"""Checks for notebook 02: the softmax with a temperature, its gradient, schedules, calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks._exercise import Exercise, Given, as_expected

Z = torch.tensor([[2.0, 1.0, -1.0, 0.5], [0.0, 3.0, 2.5, -2.0], [1.0, -4.0, 1.5, 0.0]], dtype=torch.float64)
WIDE = torch.tensor(  # exp(715) is just too much, and the last two are near each other
    [[30.0, 0.0], [0.0, -30.0], [7.15, 0.0], [30.0, 29.99]], dtype=torch.float64
)
TEACHER_Z = Z.flip(0) + torch.tensor([0.0, 1.0, -1.0, 0.5])


def _soft(z: Tensor, T: float = 1.0) -> Tensor:
    return (z / T).softmax(1)


def _normalised(powers: Tensor) -> Tensor:
    return powers / powers.sum(1, keepdim=True)


# --- the softmax ----------------------------------------------------------------------------------------------------

OVERFLOW = (
    "correct for mild logits, but at T = 0.01 the logit 30 becomes 3000 and exp(3000) overflows: subtract each row's "
    "maximum first, or use `torch.softmax`."
)
temperature_softmax = Exercise(
    task="`submission(logits, temperature)` is softmax(z / T) of each row of logits (B, C).",
    inputs=[
        Given(Z, 4.0),
        Given(Z, 0.5, otherwise="right at T = 4 but not at T = 0.5; use the argument, for every T above 0."),
        Given(WIDE, 0.01, otherwise=OVERFLOW),
    ],
    solution=_soft,
    mistakes={
        "this is the softmax at T = 1: T is not used, or it cancels. (Probabilities divided by T and then normalised "
        "again are what they were.) Divide the *logits* by T.": (
            lambda z, T: _soft(z),
            lambda z, T: _normalised(_soft(z) / T),
        ),
        "this sharpens: it is softmax(z · T), or the probabilities to the power T. Divide the logits by T.": (
            lambda z, T: _soft(z * T),
            lambda z, T: _normalised(_soft(z) ** T),
        ),
        "these are the probabilities divided by T: each row sums to 1/T and is as sharp as before. Divide the logits "
        "by T, *before* the exponential.": lambda z, T: _soft(z) / T,
        "T comes after the softmax here, and then a second softmax. There is one softmax, and it takes z / T.": (
            lambda z, T: _soft(_soft(z), T)
        ),
        "the power 1/T of the probabilities is right up to a factor; now divide each row by its sum.": (
            lambda z, T: _soft(z) ** (1 / T)
        ),
        "your columns sum to 1; normalise over the classes (`dim=1`), so that every row is a distribution.": (
            lambda z, T: (z / T).softmax(0)
        ),
        "these are logarithms of probabilities; leave the logarithm out.": lambda z, T: (z / T).log_softmax(1),
        "the exponentials of z / T are right; now divide each row by its sum.": lambda z, T: (z / T).exp(),
        OVERFLOW: lambda z, T: _normalised((z / T).exp()),
        "right for mild logits, but at T = 0.01 clipping makes 3000 and 2999 alike: subtract each row's maximum of "
        "z / T instead.": (
            *(lambda z, T, limit=limit: _normalised((z / T).clamp(-limit, limit).exp()) for limit in (50, 80, 88, 700)),
            *(lambda z, T, limit=limit: _normalised((z / T).clamp(max=limit).exp()) for limit in (50, 80, 88, 700)),
        ),
        "right down to some temperature, below which yours does not go; use T as it is, for every T above 0.": (
            lambda z, T: _soft(z, max(T, 0.05)),
            lambda z, T: _soft(z, max(T, 0.1)),
        ),
        "a maximum is subtracted, but that of z, and at T = 0.01 the scaled logits are a hundred times larger: divide "
        "by T first, then subtract each row's maximum of z / T.": (
            lambda z, T: _normalised((z / T - z.amax(1, keepdim=True)).exp()),
            lambda z, T: _normalised((z / T - z.max()).exp()),
        ),
        "the maximum of the whole batch is subtracted, and at T = 0.01 the other rows underflow to 0 / 0: subtract "
        "each *row's* own maximum (`amax(dim=1, keepdim=True)`).": lambda z, T: _normalised(
            (z / T - (z / T).max()).exp()
        ),
    },
    otherwise="the rows are not exp(z / T) divided by their own sum; compare with the formula above.",
    praise="softmax(z / T), row by row, and a very small T does no harm.",
)


# --- its gradient ---------------------------------------------------------------------------------------------------


def _gradient(s: Tensor, t: Tensor, T: float) -> Tensor:
    return T * (_soft(s, T) - _soft(t, T)) / len(s)


def _reverse_gradient(s: Tensor, t: Tensor, T: float) -> Tensor:
    s = s.clone().requires_grad_()
    log_s, log_t = (s / T).log_softmax(1), (t / T).log_softmax(1)
    return torch.autograd.grad(T**2 * F.kl_div(log_t, log_s, reduction="batchmean", log_target=True), s)[0]


soft_target_gradient = Exercise(
    task="`submission(student_logits, teacher_logits, temperature)` is T (s_T - t_T) / B, the gradient of T²·KL.",
    inputs=[
        Given(Z, TEACHER_Z, 5.0),
        Given(
            Z[:2],
            TEACHER_Z[:2],
            10.0,
            otherwise="right for T = 5 and three samples, but not for T = 10 and two; take T and B from the arguments.",
        ),
    ],
    solution=_gradient,
    mistakes={
        "the sign is reversed: this would drive the student away. The student comes first: s_T - t_T.": (
            lambda s, t, T: _gradient(t, s, T)
        ),
        "this is the gradient without T²: it fades as 1/T. The loss is T² · KL, so multiply by T² once more.": (
            lambda s, t, T: _gradient(s, t, T) / T**2
        ),
        "no T stands before the difference. T² comes from the loss and 1/T from z / T; together they leave T.": (
            lambda s, t, T: _gradient(s, t, T) / T
        ),
        "T² is right for the loss, but the inner derivative of z / T gives 1/T as well; together they leave T.": (
            lambda s, t, T: _gradient(s, t, T) * T
        ),
        "this is the gradient of the *sum* over the batch; `batchmean` divides by the batch size B.": (
            lambda s, t, T: _gradient(s, t, T) * len(s)
        ),
        "this divides by B · C, as `reduction='mean'` would. KL is a *sum* over classes: divide by B only.": (
            lambda s, t, T: _gradient(s, t, T) / s.shape[1]
        ),
        "the softmax is taken at T = 1 here. Soften the student and the teacher: softmax(z / T).": (
            lambda s, t, T: T * (_soft(s) - _soft(t)) / len(s)
        ),
        "only the student is softened here. The teacher needs the same T.": (
            lambda s, t, T: T * (_soft(s, T) - _soft(t)) / len(s)
        ),
        "only the teacher is softened here. The student needs the same T.": (
            lambda s, t, T: T * (_soft(s) - _soft(t, T)) / len(s)
        ),
        "this is the gradient of KL(s ‖ t). Distillation takes KL(t ‖ s), the teacher as the reference.": (
            _reverse_gradient
        ),
    },
    otherwise="this is not T (s_T - t_T) / B; compare with the three lines above, term by term.",
    praise="T (s_T - t_T) / B: what autograd finds, in one line.",
)


# --- schedules ------------------------------------------------------------------------------------------------------


def _temperatures(schedule: Callable[[float], float], progress: Sequence[float], epochs: Sequence[float]) -> Tensor:
    """The temperature at each progress, then at each epoch number: NaN where the schedule refuses it."""
    values = [as_expected(schedule(each), 1.0) for each in progress]
    for epoch in epochs:
        try:
            values.append(as_expected(schedule(epoch), 1.0))
        except Exception:  # a function that guards its domain has no such answer
            values.append(math.nan)
    return torch.tensor(values, dtype=torch.float64)


def _stairs(values: Tensor) -> int:
    """How often they begin to fall after they stood still."""
    still = values.diff().abs() < 1e-9
    return int((still[:-1] & ~still[1:]).sum())


def _near(value: Tensor, target: float) -> Tensor:
    return (value - target).abs() < 1e-6


def _guarded(progress: float) -> float:
    if not 0 <= progress <= 1:
        raise ValueError("progress must be in [0, 1]")
    return 8 - 6 * progress


PROGRESS = [step / 1000 for step in range(1001)]
EPOCHS = [float(epochs) for epochs in range(2, 1001)]
START, END, DURING, AFTERWARDS = 0, 1000, slice(0, 1001), slice(1001, None)  # where they stand among the temperatures
SCHEDULES = {  # what must hold of every schedule T, and the functions that break it
    "this rises from 1 to 8, from hard to soft. Annealing begins soft: 8 at progress 0, 1 at progress 1.": (
        lambda T, *_: not (_near(T[START], 1) and _near(T[END], 8)),
        lambda progress: 1 + 7 * progress,
    ),
    "the temperature is the same at both ends, so it never changes; `progress` must enter the formula.": (
        lambda T, *_: not _near(T[START], T[END]),
        lambda progress: 8.0,
    ),
    "at progress 0 the temperature should be 8.": (
        lambda T, *_: _near(T[START], 8),
        lambda progress: 4 - 3 * progress,
    ),
    "this arrives at 1 when its argument is a whole number above 1, as if it were an epoch number. `progress` is the "
    "fraction of the training done, between 0 and 1.": (
        lambda T, *_: _near(T[END], 1) or not _near(T[AFTERWARDS], 1).any(),
        (lambda progress: 8 - 7 * progress / 20, lambda progress: max(1.0, 8 - 7 * progress / 12)),
    ),
    "at progress 1 the temperature should be exactly 1. (A factor per step, such as 8 · 0.9^k, comes near but never "
    "arrives.)": (
        lambda T, *_: _near(T[END], 1),
        (lambda progress: 8 * math.exp(-progress), _guarded),
    ),
    "some temperatures in between are NaN or infinite.": (
        lambda T, *_: T[DURING].isfinite().all(),
        lambda progress: math.nan if progress == 0.5 else 8 - 7 * progress,
    ),
    "the temperature rises again on the way; from 8 to 1 it should only fall.": (
        lambda T, *_: T[DURING].diff().max() <= 1e-9,
        lambda progress: 8 - 7 * progress + math.sin(2 * math.pi * progress) * 2,
    ),
    "the temperature falls in jumps (whole numbers, or an `if`). Let it glide: use the formula without rounding.": (
        lambda T, *_: T[DURING].diff().min() > -0.25 and _stairs(T[DURING]) < 5,
        (
            lambda progress: 8 - int(7 * progress),
            lambda progress: 8.0 if progress < 0.5 else 1.0,
            lambda progress: round(8 - 7 * progress, 1),
        ),
    ),
}
temperature_schedule = Exercise(
    task="`submission(progress)` falls from 8 at progress 0 to 1 at progress 1, monotone and without jumps.",
    inputs=[Given(PROGRESS, EPOCHS)],
    solution=lambda progress: 8 ** (1 - progress),
    mistakes={text: functions for text, (_, functions) in SCHEDULES.items()},
    probe=_temperatures,
    rules={text: rule for text, (rule, _) in SCHEDULES.items()},
    accepts=lambda T, *_: True,
    otherwise="let the temperature fall from 8 to 1.",
    praise="from 8 to 1, soft to hard, without a jump.",
)


# --- calibration ----------------------------------------------------------------------------------------------------


def _known_calibration(scale: float) -> tuple[Tensor, Tensor]:
    """Logits (4000, 5) that are ``scale`` times the calibrated ones, and labels drawn from the calibrated ones."""
    generator = torch.Generator().manual_seed(2017)
    calibrated = 1.5 * torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(calibrated.softmax(1), 1, generator=generator).squeeze(1)
    return scale * calibrated, labels


def _best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T of the smallest mean NLL, convex in b = 1/T: bisects its slope, E_p[z] - z_y at p = softmax(bz)."""
    chosen = logits.gather(1, labels[:, None])
    low, high = 1e-3, 1e3
    for _ in range(32):
        middle = math.sqrt(low * high)
        slope = ((middle * logits).softmax(1) * logits).sum(1, keepdim=True) - chosen
        low, high = (low, middle) if slope.mean() > 0 else (middle, high)
    return 1 / low


NOT_FINITE = "the temperature came out as NaN or infinite; keep T above 0 by searching over log T."
NOT_ABOVE_0 = "T is not above 0, and would reverse the ranking of the classes; search over log T."
fit_temperature = Exercise(
    task="`submission(logits, labels)` is the T > 0 at which the mean NLL of softmax(z / T) is smallest.",
    inputs=[Given(*_known_calibration(3.0)), Given(*_known_calibration(0.5))],  # over- and under-confident
    solution=_best_temperature,
    mistakes={
        NOT_FINITE: (lambda z, y: math.nan, lambda z, y: math.inf),
        NOT_ABOVE_0: lambda z, y: -_best_temperature(z, y),
        "this is 1/T, which *multiplies* the logits. The answer here is what divides them.": (
            lambda z, y: 1 / _best_temperature(z, y)
        ),
        "T = 1 for under-confident logits. T may lie below 1 as well: widen the search, say from 0.05 to 20.": (
            lambda z, y: max(1.0, _best_temperature(z, y))
        ),
    },
    rules={NOT_FINITE: lambda T, *_: math.isfinite(T), NOT_ABOVE_0: lambda T, *_: T > 0},
    view=lambda T, *_: math.log(T),
    tolerance=0.02,  # of log T
    otherwise="the mean NLL of these logits is smallest near T = {expected}, and you return {answer}. Minimise the NLL "
    "itself (the number of errors is the same at every T and cannot choose), over a fine enough search.",
    praise="the T of the smallest NLL, for over-confident logits and for under-confident ones.",
)
