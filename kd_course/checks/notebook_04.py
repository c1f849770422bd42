"""Checks for notebook 04: the hint loss, what an optimizer must see, attention maps, the contrast within a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course.checks._exercise import Mistake, ask, ask_tensor, close, exercise, recognise, require
from kd_course.losses import HintRegressor, info_nce_loss
from kd_course.models import mlp

# Three samples, two channels, 2×3 places: no two of the numbers 2, 3 and 6 that a mean could be taken over are alike.
STUDENT = torch.tensor(
    [
        [[[1.0, -2.0, 0.5], [0.0, 1.5, 3.0]], [[2.0, 1.0, -1.0], [0.5, 0.0, -0.5]]],
        [[[0.0, 1.0, 1.0], [-3.0, 2.0, 0.5]], [[1.0, -1.0, 0.0], [2.0, 2.5, 1.0]]],
        [[[4.0, 0.0, -1.0], [1.0, 0.5, 0.0]], [[0.5, 3.0, 1.0], [-2.0, 1.0, 0.0]]],
    ],
    dtype=torch.float64,
)
TEACHER = STUDENT.flip(0) + 0.5
EMBEDDING = torch.tensor([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0], [3.0, -1.0, 0.5], [-1.0, 1.0, 2.0]], dtype=torch.float64)
PARTNERS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 1.0], [1.0, -2.0, 1.5], [0.0, 0.5, 1.0]], dtype=torch.float64)
NO_GRADIENT = (
    "the value is right, but no gradient flows back to the student: leave out `.item()`, `.detach()` and `no_grad`."
)


@exercise
def hint_loss(attempt: Callable[[Tensor, Tensor], Tensor]) -> str:
    """``attempt(student_feature, teacher_feature)`` is half the squared distance, averaged over samples."""
    student = torch.cat([STUDENT, STUDENT[:, :1] - 1], dim=1).requires_grad_()  # 3 channels
    teacher = torch.cat([TEACHER, TEACHER[:, :1] + 2], dim=1)
    gap = (student - teacher).detach()
    squared = gap.square()
    expected = 0.5 * squared.flatten(1).sum(1).mean()
    answer = ask_tensor(attempt, student, teacher, shape=())
    distances = squared.flatten(1).sum(1).sqrt()
    recognise(
        answer.detach(),
        {
            "this is `F.mse_loss`, the mean over every element. FitNets sums over a sample's elements and averages "
            "over samples only; with D numbers per sample yours is 2/D of it.": squared.mean(),
            "the factor ½ is missing.": 2 * expected,
            "this sums over dimension 1 only and averages the rest; flatten each sample first.": (
                0.5 * squared.sum(1).mean()
            ),
            "this is summed over the batch; take the mean over samples.": 3 * expected,
            "this is half the element mean; sum over the elements of a sample, average over samples.": (
                0.5 * squared.mean()
            ),
            "this is half the distance; the hint loss takes its *square*.": 0.5 * distances.mean(),
            "these are absolute differences; square them.": 0.5 * gap.abs().flatten(1).sum(1).mean(),
        },
    )
    require(close(answer, expected), f"the value should be {expected:.3f} here, not {answer.item():.3f}.")
    require(answer.requires_grad, NO_GRADIENT)
    return "half the squared distance of each sample, averaged over the batch."


@exercise
def trained_together(attempt: Callable[[nn.Module, nn.Module], nn.Module]) -> str:
    """``attempt(student, regressor)`` is the module to hand to ``fit``: both must be inside it, themselves."""
    student, regressor = mlp(5), HintRegressor((5,), (7,))
    answer = ask(attempt, student, regressor)
    if not isinstance(answer, nn.Module):
        raise Mistake(
            f"return one module that holds both, such as an `nn.ModuleDict`; {type(answer).__name__} is none, "
            "so `fit` could not find any parameters in it."
        )
    held = {id(parameter) for parameter in answer.parameters()}
    has_student, has_regressor = (
        all(id(parameter) in held for parameter in part.parameters()) for part in (student, regressor)
    )
    require(
        has_student or has_regressor,
        "neither the student nor the regressor is in there. Are they copies, or hidden in a plain list or dict? Only "
        "registered submodules count: `nn.ModuleDict`, `nn.ModuleList`, `nn.Sequential`.",
    )
    require(
        has_regressor,
        "the regressor is not in it, so the optimizer never sees its weights: it stays at its random start, and the "
        "student has to imitate through a lens that nobody focuses. This is the classic mistake.",
    )
    require(has_student, "the student is not in it: only the regressor would learn.")
    require(
        all(parameter.requires_grad for parameter in answer.parameters()),
        "some of the parameters are frozen (`requires_grad` is False); both must learn.",
    )
    return "every parameter of both is where the optimizer looks."


@exercise
def attention_map(attempt: Callable[[Tensor], Tensor]) -> str:
    """``attempt(feature)``, (B, C, H, W), is the (B, H·W) map of mean squared activations, of length 1 per sample."""
    energy = STUDENT.square().sum(1).flatten(1)  # (3, 6)
    expected = energy / energy.norm(dim=1, keepdim=True)
    answer = ask_tensor(attempt, STUDENT.clone(), shape=(3, 6))
    signed = STUDENT.sum(1).flatten(1)
    absolute = STUDENT.abs().sum(1).flatten(1)
    recognise(
        answer,
        {
            "these are the sums of squares; now scale each sample's map to length 1.": energy,
            "these are the means of squares; now scale each sample's map to length 1.": energy / 2,
            "each map is divided by its sum. It should have *length* 1: divide by the root of the sum of squares.": (
                energy / energy.sum(1, keepdim=True)
            ),
            "each map is divided by its maximum; divide by its length.": energy / energy.amax(1, keepdim=True),
            "the whole batch is scaled at once; each sample's map has length 1 by itself.": energy / energy.norm(),
            "this sums the activations with their signs, so that opposite ones cancel; square them first.": (
                signed / signed.norm(dim=1, keepdim=True)
            ),
            "you sum first and square afterwards, so opposite signs cancel; square first.": (
                signed.square() / signed.square().norm(dim=1, keepdim=True)
            ),
            "your columns have length 1; it is the rows that should, one per sample.": energy / energy.norm(dim=0),
            "this takes absolute values (p = 1); the course's maps square them (p = 2).": (
                absolute / absolute.norm(dim=1, keepdim=True)
            ),
            "this is a softmax over places, which depends on the scale of the features; divide by the length.": (
                energy.softmax(1)
            ),
        },
    )
    require(close(answer, expected), "compare with the formula: squares, summed over channels, flattened, of length 1.")
    scaled = ask_tensor(attempt, 7 * STUDENT, shape=(3, 6))
    require(close(scaled, expected), "a feature seven times as large should give the same map.")
    return "of length 1, blind to the scale of a feature and to the order of its channels."


@exercise
def info_nce(attempt: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """``attempt(student_embedding, teacher_embedding, tau)`` is the in-batch contrast, student against all teachers."""
    tau = 0.4
    unit_s, unit_t = F.normalize(EMBEDDING, dim=1), F.normalize(PARTNERS, dim=1)
    cosine, dot = unit_s @ unit_t.T, EMBEDDING @ PARTNERS.T
    own = torch.arange(4)
    expected = info_nce_loss(EMBEDDING, PARTNERS, temperature=tau)
    student = EMBEDDING.clone().requires_grad_()
    answer = ask_tensor(attempt, student, PARTNERS.clone(), tau, shape=())
    others = (cosine / tau).masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf)
    recognise(
        answer.detach(),
        {
            "these are dot products of embeddings as they are; scale both to length 1 first.": (
                F.cross_entropy(dot / tau, own)
            ),
            "the cosines are not divided by τ.": F.cross_entropy(cosine, own),
            "the cosines are multiplied by τ; divide by it.": F.cross_entropy(cosine * tau, own),
            "the roles are exchanged: each *student* looks for its teacher among all teachers. Yours compares columns; "
            "the rows of the matrix belong to students.": F.cross_entropy(cosine.T / tau, own),
            "this is the mean of both directions (as in CLIP); here only the student asks.": (
                (F.cross_entropy(cosine / tau, own) + F.cross_entropy(cosine.T / tau, own)) / 2
            ),
            "this is summed over the batch; take the mean.": 4 * expected,
            "the positive pair is missing from the denominator: it holds *all* teachers, one's own among them, so the "
            "loss is a cross-entropy and never below 0.": (others.logsumexp(1) - cosine.diagonal() / tau).mean(),
            "the sign is missing: the loss is the *negative* log-probability of one's own pair.": -expected,
            "this compares students with students; the columns belong to the teacher.": (
                F.cross_entropy(unit_s @ unit_s.T / tau, own)
            ),
        },
    )
    require(close(answer, expected), f"the value should be {expected:.3f} here, not {answer.item():.3f}.")
    require(answer.requires_grad, NO_GRADIENT)
    far = ask_tensor(attempt, EMBEDDING.clone(), PARTNERS.clone(), 1e-3, shape=())
    require(
        bool(torch.isfinite(far)),
        "right here, but at τ = 0.001 the exponential overflows: let `F.cross_entropy` or `log_softmax` do it.",
    )
    return "each student finds its own teacher among all of the batch."
