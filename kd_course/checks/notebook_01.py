"""Checks for notebook 01: soft targets, second choices, entropy, class similarity, distributions as targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks._exercise import NO_GRADIENT, WRONG_GRADIENT, Exercise, Given, close


def _tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# Six soft targets over three classes. The fourth is of a sample whose label (1) is not the teacher's first choice (2).
P = _tensor(
    [0.8, 0.15, 0.05], [0.7, 0.1, 0.2], [0.9, 0.04, 0.06], [0.1, 0.3, 0.6], [0.02, 0.9, 0.08], [0.25, 0.05, 0.7]
)
Y = torch.tensor([0, 0, 0, 1, 1, 2])


# --- soft targets ---------------------------------------------------------------------------------------------------


def _normalised(powers: Tensor) -> Tensor:
    return powers / powers.sum(1, keepdim=True)


OVERFLOW = (
    "correct for small logits, but exp(1000) overflows to infinity: subtract each row's maximum first, "
    "or use `torch.softmax`."
)
ONE_RANGE = (
    "correct for one range of logits, but not for rows of 1000 and of -1000 together: subtract each *row's* own "
    "maximum (`amax(dim=1, keepdim=True)`), not the batch's."
)
soft_targets = Exercise(
    task="`submission(logits)` is the softmax of each row of logits (B, C).",
    inputs=[
        Given(_tensor([2.0, 1.0, -1.0, 0.5], [0.0, 3.0, 3.0, -2.0], [1.0, 1.0, 1.0, 1.0])),
        Given(_tensor([1000.0, 0.0]), otherwise=OVERFLOW),
        Given(_tensor([1000.0, 0.0], [-1000.0, -1001.0]), otherwise=ONE_RANGE),
    ],
    solution=lambda z: z.softmax(1),
    mistakes={
        "your columns sum to 1; normalise over the classes (`dim=1`), so that every row is a distribution.": (
            lambda z: z.softmax(0)
        ),
        "this normalises over the whole batch at once; every row must sum to 1 by itself.": (
            lambda z: z.exp() / z.exp().sum()
        ),
        "these are one-hot answers. That is the hard label again: keep the probability of every class.": (
            lambda z: F.one_hot(z.argmax(1), z.shape[1])
        ),
        "this divides logits by their sum; take the exponential first.": _normalised,
        "the softmax is taken twice, which flattens it; once is enough.": lambda z: z.softmax(1).softmax(1),
        "these are logarithms of probabilities; leave the logarithm out.": lambda z: z.log_softmax(1),
        "the exponentials are right; now divide each row by its sum.": torch.exp,
        "the maximum is subtracted and the exponentials are right; now divide each row by its sum.": (
            lambda z: (z - z.amax(1, keepdim=True)).exp()
        ),
        OVERFLOW: lambda z: _normalised(z.exp()),
        ONE_RANGE: lambda z: _normalised((z - z.max()).exp()),
        "right for mild logits, but clipping makes all that lies beyond the limit alike: subtract each row's own "
        "maximum instead.": (
            *(lambda z, limit=limit: _normalised(z.clamp(-limit, limit).exp()) for limit in (50, 80, 88, 700)),
        ),
    },
    otherwise="the rows are not exp(z) divided by their own sum; compare with the formula above.",
    praise="every row is a distribution, and even logits of 1000 do no harm.",
)


# --- second choices -------------------------------------------------------------------------------------------------


def _masked(p: Tensor, y: Tensor, value: float) -> Tensor:
    return p.scatter(1, y[:, None], value)


CLASS_NUMBERS = "return class numbers as integers (int64, what `argmax` gives), not as floating-point numbers."
second_choice = Exercise(
    task="`submission(probabilities, labels)` is, for each sample (N,), the most probable class that is not its label.",
    inputs=[Given(P, Y), Given(_tensor([1.0, 0.0]), torch.tensor([0]))],
    solution=lambda p, y: _masked(p, y, -1.0).argmax(1),
    mistakes={
        "these are the probabilities; return which class it is (`argmax` instead of `max`).": (
            lambda p, y: _masked(p, y, -1.0).amax(1)
        ),
        CLASS_NUMBERS: lambda p, y: _masked(p, y, -1.0).argmax(1).double(),
        "this is the first choice, most often the label itself; leave the label out before you take the argmax.": (
            lambda p, y: p.argmax(1)
        ),
        "this is the second largest of each row: it leaves out the teacher's first choice. Where the teacher errs, the "
        "first choice is not the label; leave out the *label*, whatever its rank.": (
            lambda p, y: p.topk(2).indices[:, 1]
        ),
        "this is the least probable class; you want the most probable one that is not the label.": (
            lambda p, y: p.argmin(1)
        ),
        "these are the labels; you want the most probable *other* class.": lambda p, y: y,
        "right so far, but for probabilities 1, 0 and label 0 you answer 0, the label: mask it with -1, not with 0.": (
            lambda p, y: _masked(p, y, 0.0).argmax(1)
        ),
    },
    rules={CLASS_NUMBERS: lambda answer, p, y: not answer.is_floating_point()},
    otherwise="set each row's probability of its own label to -1, then take the argmax.",
    praise="the best of the rest, also where the teacher's first choice is not the label.",
)


# --- entropy --------------------------------------------------------------------------------------------------------


def _bits(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(1) / math.log(2)


TOO_LARGE = (
    "right for middling probabilities, but not for tiny ones: a small number that you add or clamp to must be far "
    "smaller than any p that counts, such as 1e-12. A hard label has entropy 0 and a fair coin 1 bit."
)
entropy_bits = Exercise(
    task="`submission(probabilities)` is the entropy in bits of each row of probabilities (B, C), shape (B,).",
    inputs=[
        Given(_tensor([0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1], [0.5, 0.3, 0.15, 0.05])),
        Given(_tensor([1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]), otherwise=TOO_LARGE),
        Given(_tensor([0.98] + 200 * [1e-4]), otherwise=TOO_LARGE),
        Given(_tensor([0.997] + 600 * [5e-6]), otherwise=TOO_LARGE),
    ],
    solution=_bits,
    mistakes={
        "these are nats, the unit of `log`; for bits use `log2`, or divide by ln 2.": lambda p: _bits(p) * math.log(2),
        "the sign is reversed: log p is negative, so entropy needs a minus to come out positive.": lambda p: -_bits(p),
        "nats, and the sign is reversed: use `log2` and put a minus in front.": lambda p: -_bits(p) * math.log(2),
        "this uses log10; bits want `log2`.": lambda p: _bits(p) * math.log10(2),
        "this is the mean over the classes; entropy is the sum.": lambda p: _bits(p) / p.shape[1],
        "this is how far the entropy is below its maximum, log2(C) - H; leave the log2(C) out.": (
            lambda p: math.log2(p.shape[1]) - _bits(p)
        ),
        "this is the surprise at the likeliest class alone; sum -p log2 p over *all* classes.": (
            lambda p: -p.amax(1).log2()
        ),
        "this is the sum of -log2 p without weights; each surprise counts with its own probability p.": (
            lambda p: -p.log2().sum(1)
        ),
        "this is the perplexity 2^H, an effective number of classes; leave the power out.": lambda p: 2 ** _bits(p),
        "right where every p is above 0, but a hard label gives NaN: 0 · log2 0 counts as 0. Use "
        "`torch.special.xlogy`, or `clamp_min(1e-30)` inside the logarithm.": lambda p: -(p * p.log2()).sum(1),
        "right where every p is above 0, but a NaN that is replaced after the sum takes its whole row along: replace "
        "it before you sum.": lambda p: -(p * p.log2()).sum(1).nan_to_num(0),
        TOO_LARGE: (
            lambda p: _bits(p.clamp_min(0.05)),
            *(lambda p, least=10.0**-k: -(p * p.clamp_min(least).log2()).sum(1) for k in range(2, 6)),
            *(lambda p, least=10.0**-k: -(p * (p + least).log2()).sum(1) for k in range(2, 8)),
        ),
    },
    otherwise="the rows are not -Σ p log2 p; compare with the formula above.",
    praise="in bits, 0 for a hard label and log2(C) for a uniform target.",
)


# --- class similarity -----------------------------------------------------------------------------------------------


def _by_class(p: Tensor, y: Tensor) -> Tensor:
    return F.one_hot(y, p.shape[1]).to(p.dtype).T  # (C, N)


def _sums(p: Tensor, y: Tensor) -> Tensor:
    return _by_class(p, y) @ p


def _means(p: Tensor, y: Tensor) -> Tensor:
    return _sums(p, y) / _by_class(p, y).sum(1, keepdim=True)


ABSENT = (
    "right where every class occurs, but not where some class has no sample: the map is (C, C) all the same, so take C "
    "from `probabilities.shape[1]`, not from the labels."
)
class_similarity = Exercise(
    task="`submission(probabilities, labels)` is the mean soft target of each true class, (C, C), row = true class. "
    "A class without samples keeps its row, whatever stands in it.",
    inputs=[
        Given(P, Y),
        Given(_tensor([0.6, 0.2, 0.15, 0.05], [0.5, 0.1, 0.1, 0.3], [0.2, 0.1, 0.7, 0.0]), torch.tensor([0, 0, 2])),
    ],
    solution=_means,
    mistakes={
        "the map is transposed: row = true class, column = class the probability goes to.": lambda p, y: _means(p, y).T,
        "these rows are grouped by the teacher's first choice (argmax); group by the true label.": (
            lambda p, y: _means(p, p.argmax(1))
        ),
        "these are sums over the samples of a class; divide each row by the number of its samples.": _sums,
        "these sums are divided by the number of *all* samples; divide each row by the number of its own class.": (
            lambda p, y: _sums(p, y) / len(y)
        ),
        "your columns sum to 1. A row is a mean of distributions, so leave it as it is: rows sum to 1.": (
            lambda p, y: _means(p, y) / _means(p, y).sum(0)
        ),
        "your columns sum to 1: the sums are divided by the wrong total. Divide each row by the number of samples with "
        "that label.": lambda p, y: _sums(p, y) / _sums(p, y).sum(0),
        "this counts first choices: it is a confusion matrix. Average the probabilities themselves.": (
            lambda p, y: _means(F.one_hot(p.argmax(1), p.shape[1]).double(), y)
        ),
        "the diagonal is set to 0; leave it in, and leave it out only when you draw.": (
            lambda p, y: _means(p, y).fill_diagonal_(0)
        ),
        "your map has 10 rows, but these probabilities have 3 classes: take C from `probabilities.shape[1]`.": (
            lambda p, y: torch.stack([p[y == c].mean(0) for c in range(10)])
        ),
        ABSENT: (
            lambda p, y: torch.stack([p[y == c].mean(0) for c in y.unique()]),
            lambda p, y: torch.stack([p[y == c].mean(0) for c in range(int(y.max()) + 1)]),
            lambda p, y: _sums(p, y) / y.bincount()[:, None],
        ),
        "a one-hot matrix and the probabilities are of two types, which `@` refuses: turn it into theirs, "
        "`one_hot(...).to(probabilities.dtype)`.": (
            lambda p, y: F.one_hot(y, p.shape[1]).T @ p,
            lambda p, y: F.one_hot(y, p.shape[1]).float().T @ p,
        ),
    },
    view=lambda answer, p, y: answer[y.unique()],
    otherwise="row c should be the mean of the soft targets of the samples whose label is c.",
    praise="row c is what the teacher says, on average, of a digit that really is a c.",
)


# --- distributions as targets ---------------------------------------------------------------------------------------

UNSTABLE = (
    "right for small logits, but a gap of 1000 gives infinity, NaN or a cut-off value: take `log_softmax` in one step, "
    "not the logarithm of a softmax."
)
soft_cross_entropy = Exercise(
    task="`submission(student_logits, target_probabilities)` is the batch mean of -Σ t log s, a scalar in nats.",
    inputs=[
        Given(
            _tensor([2.0, 0.5, -1.0, 0.0], [-0.5, 1.5, 1.0, -2.0]),
            _tensor([0.6, 0.3, 0.06, 0.04], [0.05, 0.2, 0.7, 0.05]),
        ),
        Given(_tensor([1000.0, 0.0]), _tensor([0.5, 0.5]), otherwise=UNSTABLE),
    ],
    solution=F.cross_entropy,
    gradient=(0,),
    mistakes={
        "student and target are swapped: the weights are the target's, the logarithm is the student's.": (
            lambda z, t: -(z.softmax(1) * t.log()).sum(1).mean()
        ),
        "this is KL(t ‖ s): the target's own entropy is subtracted. Leave it out, or see what it changes below.": (
            lambda z, t: F.kl_div(z.log_softmax(1), t, reduction="batchmean"),
            lambda z, t: F.kl_div(z.log_softmax(1), t, reduction="none").mean(),
        ),
        "your softmax runs over the samples; classes are the last dimension (`dim=1`).": (
            lambda z, t: -(t * z.log_softmax(0)).sum(1).mean()
        ),
        "this is the mean over batch *and* classes, C times too small; sum over the classes first.": (
            lambda z, t: -(t * z.log_softmax(1)).mean()
        ),
        "this is the sum over the batch; take the mean, so that the loss does not grow with the batch.": (
            lambda z, t: F.cross_entropy(z, t, reduction="sum")
        ),
        "this is the cross-entropy with the target's first choice: a hard label again. Keep all of t.": (
            lambda z, t: F.cross_entropy(z, t.argmax(1))
        ),
        "the logarithm of the softmax is missing: this weighs the raw logits.": lambda z, t: -(t * z).sum(1).mean(),
        "the logarithm is missing: this weighs the student's probabilities.": (
            lambda z, t: -(t * z.softmax(1)).sum(1).mean()
        ),
        "the targets went through a softmax again; they are probabilities already.": (
            lambda z, t: F.cross_entropy(z, t.softmax(1))
        ),
        "the student went through the softmax twice; `cross_entropy` and `log_softmax` want the raw logits.": (
            lambda z, t: F.cross_entropy(z.softmax(1), t)
        ),
        "these are bits; a training loss uses the natural logarithm.": lambda z, t: F.cross_entropy(z, t) / math.log(2),
        "the sign is reversed: a loss falls as the student gets better, so put a minus in front.": (
            lambda z, t: -F.cross_entropy(z, t)
        ),
        UNSTABLE: (
            lambda z, t: -(t * z.softmax(1).log()).sum(1).mean(),
            lambda z, t: -(t * z.softmax(1).clamp_min(1e-12).log()).sum(1).mean(),
        ),
        NO_GRADIENT: (lambda z, t: F.cross_entropy(z, t).item(), lambda z, t: F.cross_entropy(z.detach(), t)),
        WRONG_GRADIENT: lambda z, t: (z.logsumexp(1).detach() - (t * z).sum(1)).mean(),
    },
    otherwise="this is not the batch mean of -Σ t log s; compare with the formula.",
    praise="the target's weights, the student's logarithms, in one stable step.",
)


# --- somebody else's targets ----------------------------------------------------------------------------------------


def _dealt(p: Tensor, y: Tensor, order: Callable[[int], Tensor] = torch.randperm) -> Tensor:
    result = p.clone()
    for c in y.unique():
        mine = (y == c).nonzero().squeeze(1)
        result[mine] = p[mine[order(len(mine))]]
    return result


def _dealt_below(classes: int, p: Tensor, y: Tensor) -> Tensor:
    return torch.where((y < classes)[:, None], _dealt(p, y), p)


def _sources(answer: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """For each sample, whose target it got (the nearest), and how far from it the numbers are, both (N,)."""
    distance, source = (answer[:, None].to(p.dtype) - p).abs().amax(2).min(1)
    return source, distance


def _whole_rows(answer: Tensor, p: Tensor) -> bool:
    return float(_sources(answer, p)[1].max()) <= 1e-6


def _most_moved(answer: Tensor, p: Tensor, y: Tensor) -> bool:
    kept = _sources(answer, p)[0] == torch.arange(len(p))
    return all(int(kept[y == c].sum()) < (y == c).sum() / 2 for c in y.unique())


def _sixty_targets() -> Given:
    p = torch.rand(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Given(_normalised(p), torch.arange(60) % 3)


SHUFFLES = {  # what must hold of every answer, and the functions that break it
    "every sample still has its own target; deal them out anew.": (
        lambda answer, p, y: not close(answer, p),
        lambda p, y: p.clone(),
    ),
    "the probabilities are shuffled among the classes of one target; move whole rows instead.": (
        lambda answer, p, y: _whole_rows(answer, p) or not close(answer.sort(1).values, p.sort(1).values),
        lambda p, y: p.roll(1, 1),
    ),
    "some rows are nobody's target; move the rows and leave their numbers as they are.": (
        lambda answer, p, y: _whole_rows(answer, p),
        lambda p, y: (_dealt(p, y) + p) / 2,
    ),
    "some samples got the target of another class; shuffle the rows of one label at a time.": (
        lambda answer, p, y: torch.equal(y[_sources(answer, p)[0]], y),
        lambda p, y: p.roll(1, 0),
    ),
    "some targets are dealt twice and some not at all; use a permutation (`torch.randperm`), not random draws.": (
        lambda answer, p, y: len(_sources(answer, p)[0].unique()) == len(p),
        partial(_dealt, order=lambda n: torch.randint(n, (n,))),
    ),
    "half the samples of some label, or more, kept their own target; shuffle every class.": (
        _most_moved,
        (partial(_dealt_below, 1), partial(_dealt_below, 2)),
    ),
}
shuffle_within_class = Exercise(
    task="`submission(probabilities, labels)` deals the soft targets (N, C) anew, at random, within each label.",
    inputs=[_sixty_targets()],
    solution=_dealt,
    mistakes={
        "these are class means; deal out the single targets, each as it is.": lambda p, y: _means(p, y)[y],
        **{text: functions for text, (_, functions) in SHUFFLES.items()},
    },
    rules={text: rule for text, (rule, _) in SHUFFLES.items()},
    accepts=lambda answer, p, y: True,
    otherwise="deal the rows of one label out among the samples of that label.",
    praise="same targets, same class averages; only the link from target to image is cut.",
)
