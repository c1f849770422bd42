"""Checks for notebook 04: the hint loss, what an optimizer must see, attention maps, the contrast within a batch."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course.checks._exercise import NO_GRADIENT, WRONG_GRADIENT, Exercise, Given, Submission
from kd_course.losses import HintRegressor
from kd_course.models import mlp
from kd_course.runtime import seeded

# Three samples, two channels, 2×3 places: no two of the numbers 2, 3 and 6 that a mean could be taken over are alike.
FEATURE = torch.tensor(
    [
        [[[1.0, -2.0, 0.5], [0.0, 1.5, 3.0]], [[2.0, 1.0, -1.0], [0.5, 0.0, -0.5]]],
        [[[0.0, 1.0, 1.0], [-3.0, 2.0, 0.5]], [[1.0, -1.0, 0.0], [2.0, 2.5, 1.0]]],
        [[[4.0, 0.0, -1.0], [1.0, 0.5, 0.0]], [[0.5, 3.0, 1.0], [-2.0, 1.0, 0.0]]],
    ],
    dtype=torch.float64,
)
EMBEDDING = torch.tensor([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0], [3.0, -1.0, 0.5], [-1.0, 1.0, 2.0]], dtype=torch.float64)
PARTNERS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 1.0], [1.0, -2.0, 1.5], [0.0, 0.5, 1.0]], dtype=torch.float64)

# --- Exercise 1: the hint loss --------------------------------------------------------------------------------------

# With three channels, a sum over channels halved is not a mean over two of them.
STUDENT_FEATURE = torch.cat([FEATURE, FEATURE[:, :1] - 1], dim=1)
TEACHER_FEATURE = torch.cat([FEATURE.flip(0) + 0.5, FEATURE[:, 1:] + 2], dim=1)


def _gaps(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).flatten(1)


hint_loss = Exercise(
    task=(
        "`submission(student_feature, teacher_feature)` is half the squared distance of two features (B, …), averaged "
        "over the samples."
    ),
    inputs=[
        Given(STUDENT_FEATURE, TEACHER_FEATURE),
        Given(EMBEDDING, PARTNERS, otherwise="right for features (B, C, H, W), but not for features (B, D)."),
    ],
    solution=lambda s, t: 0.5 * _gaps(s, t).square().sum(1).mean(),
    gradient=(0,),
    mistakes={
        "this is `F.mse_loss`, the mean over every element. FitNets sums over a sample's elements and averages over "
        "samples only; with D numbers per sample yours is 2/D of it.": F.mse_loss,
        "this is half the element mean; sum over the elements of a sample, average over samples.": (
            lambda s, t: 0.5 * F.mse_loss(s, t)
        ),
        "the factor ½ is missing.": lambda s, t: _gaps(s, t).square().sum(1).mean(),
        "this sums over dimension 1 only and averages the rest; flatten each sample first.": (
            lambda s, t: 0.5 * (s - t).square().sum(1).mean()
        ),
        "this is summed over the batch; take the mean over samples.": lambda s, t: 0.5 * (s - t).square().sum(),
        "this is summed over the batch, and the factor ½ is missing; take half the mean over samples.": (
            lambda s, t: (s - t).square().sum()
        ),
        "the sign is reversed: this would drive the student away.": (
            lambda s, t: -0.5 * _gaps(s, t).square().sum(1).mean()
        ),
        "this is half the distance; the hint loss takes its *square*.": lambda s, t: (
            0.5 * _gaps(s, t).norm(dim=1).mean()
        ),
        "these are absolute differences; square them.": lambda s, t: 0.5 * _gaps(s, t).abs().sum(1).mean(),
        WRONG_GRADIENT: lambda s, t: 0.5 * (_gaps(s, t) * _gaps(s.detach(), t)).sum(1).mean(),
        NO_GRADIENT: lambda s, t: 0.5 * _gaps(s.detach(), t).square().sum(1).mean(),
    },
    praise="half the squared distance of each sample, averaged over the batch.",
    otherwise="the value should be {expected} here, not {answer}.",
)

# --- Exercise 2: both must learn ------------------------------------------------------------------------------------

with seeded(0):  # an import draws nothing from the notebook's generator
    PARTS = mlp(5), HintRegressor((5,), (7,))


class _Holder(nn.Module):
    """A module that keeps its parts in a plain list."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = list(parts)


def _what_learns(function: Submission, student: nn.Module, regressor: nn.Module) -> Tensor:
    """Is the answer a module, are all of the student's and of the regressor's weights in it, and do all learn?"""
    answer = function(student, regressor)
    held = {id(each): each for each in answer.parameters()} if isinstance(answer, nn.Module) else {}
    complete = [all(id(each) in held for each in part.parameters()) for part in (student, regressor)]
    learning = all(each.requires_grad for each in held.values())
    return torch.tensor([isinstance(answer, nn.Module), *complete, learning])


trained_together = Exercise(
    task="`submission(student, regressor)` is the module to hand to `fit`: both must be inside it, themselves.",
    inputs=[Given(*PARTS)],
    probe=_what_learns,
    solution=lambda student, regressor: nn.ModuleDict({"student": student, "regressor": regressor}),
    mistakes={
        "return one module that holds both, such as an `nn.ModuleDict`: in anything else, such as a list, `fit` finds "
        "no parameters.": (
            lambda student, regressor: [student, regressor],
            lambda student, regressor: [*student.parameters(), *regressor.parameters()],
        ),
        "neither the student nor the regressor is in your module. Are they copies, or hidden in a plain list or dict? "
        "Only registered submodules count: `nn.ModuleDict`, `nn.ModuleList`, `nn.Sequential`.": (
            _Holder,
            lambda student, regressor: nn.ModuleList(copy.deepcopy([student, regressor])),
            lambda student, regressor: nn.Linear(2, 2),
        ),
        "the regressor is not in your module, so the optimizer never sees its weights: they stay at their random "
        "start, and the student is trained through a random translation. This is the classic mistake.": (
            lambda student, regressor: student
        ),
        "the student is not in your module: only the regressor would learn.": lambda student, regressor: regressor,
        "some of the parameters are frozen (`requires_grad` is False); both must learn.": (
            lambda student, regressor: nn.ModuleList([student, regressor.requires_grad_(False)]),
            lambda student, regressor: nn.ModuleList([student.requires_grad_(False), regressor]),
        ),
    },
    praise="every parameter of both is where the optimizer looks.",
    otherwise="every parameter of both must be in your module, and none may be frozen.",
)

# --- Exercise 3: attention maps -------------------------------------------------------------------------------------


def _energy(feature: Tensor) -> Tensor:
    return feature.square().sum(1).flatten(1)


def _unit(maps: Tensor) -> Tensor:
    return F.normalize(maps.flatten(1), dim=1)


attention_map = Exercise(
    task=(
        "`submission(feature)`, of a feature (B, C, H, W), is the (B, H·W) map of its squares summed over the "
        "channels, each sample's map of length 1."
    ),
    inputs=[
        Given(FEATURE),
        Given(7 * FEATURE, otherwise="a feature seven times as large should give the same map."),
    ],
    solution=lambda feature: _unit(_energy(feature)),
    gradient=(0,),
    mistakes={
        "these are the sums of squares; now scale each sample's map to length 1.": _energy,
        "these are the means of squares; now scale each sample's map to length 1.": lambda f: _energy(f) / f.shape[1],
        "each map is divided by its sum. It should have *length* 1: divide by the root of the sum of squares.": (
            lambda f: _energy(f) / _energy(f).sum(1, keepdim=True)
        ),
        "each map is divided by its maximum; divide by its length.": lambda f: _energy(f) / _energy(f).amax(1, True),
        "the whole batch is scaled at once; each sample's map has length 1 by itself.": (
            lambda f: _energy(f) / _energy(f).norm()
        ),
        "your columns have length 1; it is the rows that should, one per sample.": (
            lambda f: F.normalize(_energy(f), dim=0)
        ),
        "this sums the activations with their signs, so that opposite ones cancel; square them first.": (
            lambda f: _unit(f.sum(1))
        ),
        "you sum first and square afterwards, so opposite signs cancel; square first.": (
            lambda f: _unit(f.sum(1).square())
        ),
        "this takes absolute values (p = 1); the course's maps square them (p = 2).": lambda f: _unit(f.abs().sum(1)),
        "this is a softmax over places, which depends on the scale of the features; divide by the length.": (
            lambda f: _energy(f).softmax(1)
        ),
        WRONG_GRADIENT: lambda f: _energy(f) / _energy(f).norm(dim=1, keepdim=True).detach(),
        NO_GRADIENT: lambda f: _unit(_energy(f.detach())),
    },
    praise="of length 1, blind to the scale of a feature and to the order of its channels.",
    otherwise="compare with the formula: squares, summed over channels, flattened, of length 1.",
)

# --- Exercise 4: InfoNCE --------------------------------------------------------------------------------------------

CLIPPED = (
    "right at a mild τ, but not at τ = 0.001: clipping, or a small number inside a logarithm, hides how far apart the "
    "scores are. `F.cross_entropy` needs neither."
)


def _scores(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Cosines over τ, (B, B): row i for student i, column j for teacher j."""
    return F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).T / tau


def _pick(scores: Tensor, **options: Any) -> Tensor:
    """The cross-entropy of each row's choice, where its own column is right."""
    return F.cross_entropy(scores, torch.arange(len(scores)), **options)


def _without_the_pair(s: Tensor, t: Tensor, tau: float) -> Tensor:
    scores = _scores(s, t, tau)
    others = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    return (others.logsumexp(1) - scores.diagonal()).mean()


def _written_out(scores: Tensor) -> Tensor:
    return -(scores.exp().diagonal() / scores.exp().sum(1)).log().mean()


info_nce = Exercise(
    task="`submission(student_embedding, teacher_embedding, tau)` is InfoNCE, each student against all the teachers.",
    inputs=[
        Given(EMBEDDING, PARTNERS, 0.4),
        Given(EMBEDDING, PARTNERS, 1e-3, otherwise=CLIPPED),
    ],
    solution=lambda s, t, tau: _pick(_scores(s, t, tau)),
    gradient=(0,),
    mistakes={
        "these are dot products of embeddings as they are; scale both to length 1 first.": (
            lambda s, t, tau: _pick(s @ t.T / tau)
        ),
        "only the student is scaled to length 1; a cosine needs both.": (
            lambda s, t, tau: _pick(F.normalize(s, dim=1) @ t.T / tau)
        ),
        "only the teacher is scaled to length 1; a cosine needs both.": (
            lambda s, t, tau: _pick(s @ F.normalize(t, dim=1).T / tau)
        ),
        "each feature is scaled over the batch (`dim=0`); it is each embedding that must have length 1 (`dim=1`).": (
            lambda s, t, tau: _pick(F.normalize(s, dim=0) @ F.normalize(t, dim=0).T / tau)
        ),
        "every student is told to choose the first teacher; its own is number i: `torch.arange(B)`.": (
            lambda s, t, tau: F.cross_entropy(_scores(s, t, tau), torch.zeros(len(s), dtype=torch.long))
        ),
        "the logarithm is missing: this is the mean probability of one's own pair.": (
            lambda s, t, tau: -_scores(s, t, tau).softmax(1).diagonal().mean()
        ),
        "the cosines are not divided by τ.": lambda s, t, tau: _pick(_scores(s, t, 1.0)),
        "the cosines are multiplied by τ; divide by it.": lambda s, t, tau: _pick(_scores(s, t, 1 / tau)),
        "the cross-entropy was given probabilities; it applies the softmax itself, so pass the scores.": (
            lambda s, t, tau: _pick(_scores(s, t, tau).softmax(1))
        ),
        "the roles are exchanged: each *student* looks for its teacher among all teachers. Yours compares columns; the "
        "rows of the matrix belong to students.": lambda s, t, tau: _pick(_scores(t, s, tau)),
        "this is the mean of both directions (as in CLIP); here only the students choose.": (
            lambda s, t, tau: (_pick(_scores(s, t, tau)) + _pick(_scores(t, s, tau))) / 2
        ),
        "this is summed over the batch; take the mean.": lambda s, t, tau: _pick(_scores(s, t, tau), reduction="sum"),
        "the positive pair is missing from the denominator: it holds *all* teachers, one's own among them, so the loss "
        "is a cross-entropy and never below 0.": _without_the_pair,
        "the sign is missing: the loss is the *negative* log-probability of one's own pair.": (
            lambda s, t, tau: -_pick(_scores(s, t, tau))
        ),
        "this compares students with students; the columns belong to the teacher.": (
            lambda s, t, tau: _pick(_scores(s, s, tau))
        ),
        "right at a mild τ, but at τ = 0.001 the exponential overflows: leave it to `F.cross_entropy` or "
        "`log_softmax`.": lambda s, t, tau: _written_out(_scores(s, t, tau)),
        CLIPPED: (
            lambda s, t, tau: _pick(_scores(s, t, tau).clamp(max=80)),
            lambda s, t, tau: -(_scores(s, t, tau).softmax(1).diagonal() + 1e-12).log().mean(),
        ),
        WRONG_GRADIENT: lambda s, t, tau: _pick(
            s / s.detach().norm(dim=1, keepdim=True) @ F.normalize(t, dim=1).T / tau
        ),
        NO_GRADIENT: lambda s, t, tau: _pick(_scores(s.detach(), t, tau)),
    },
    praise="each student finds its own teacher among all of the batch.",
    otherwise="the value should be {expected} here, not {answer}.",
)
