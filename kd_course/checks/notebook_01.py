"""Checks for notebook 01: soft targets, second choices, entropy, class similarity, distributions as targets."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks._exercise import Mistake, ask, ask_tensor, close, exercise, recognise, require

# Six soft targets over three classes. The fourth is of a sample whose label (1) is not the teacher's first choice (2).
P = torch.tensor(
    [[0.8, 0.15, 0.05], [0.7, 0.1, 0.2], [0.9, 0.04, 0.06], [0.1, 0.3, 0.6], [0.02, 0.9, 0.08], [0.25, 0.05, 0.7]],
    dtype=torch.float64,
)
Y = torch.tensor([0, 0, 0, 1, 1, 2])


@exercise
def soft_targets(attempt: Callable[[Tensor], Tensor]) -> str:
    """``attempt(logits)`` is the softmax of each row of logits (B, C)."""
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.5], [0.0, 3.0, 3.0, -2.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    expected = logits.softmax(1)
    answer = ask_tensor(attempt, logits.clone(), shape=(3, 4))
    recognise(
        answer,
        {
            "your columns sum to 1; normalise over the classes (`dim=1`), so that every row is a distribution.": (
                logits.softmax(0)
            ),
            "this normalises over the whole batch at once; every row must sum to 1 by itself.": (
                logits.exp() / logits.exp().sum()
            ),
            "these are one-hot answers. That is the hard label again: keep the probability of every class.": (
                F.one_hot(logits.argmax(1), 4)
            ),
            "this divides logits by their sum; take the exponential first.": logits / logits.sum(1, keepdim=True),
            "these are logarithms of probabilities; leave the logarithm out.": logits.log_softmax(1),
            "the exponentials are right; now divide each row by its sum.": logits.exp(),
            "the maximum is subtracted and the exponentials are right; now divide each row by its sum.": (
                (logits - logits.amax(1, keepdim=True)).exp()
            ),
        },
    )
    require(
        close(answer, expected), "the rows are not exp(z) divided by their own sum; compare with the formula above."
    )
    huge = ask_tensor(attempt, torch.tensor([[1000.0, 0.0]], dtype=torch.float64), shape=(1, 2))
    require(
        bool(torch.isfinite(huge).all()),
        "correct for small logits, but exp(1000) overflows to infinity: subtract each row's maximum first, "
        "or use `torch.softmax`.",
    )
    mixed = torch.tensor([[1000.0, 0.0], [-1000.0, -1001.0]], dtype=torch.float64)
    require(
        close(ask_tensor(attempt, mixed.clone(), shape=(2, 2)), mixed.softmax(1)),
        "correct for one range of logits, but not for rows of 1000 and of -1000 together: subtract each *row's* own "
        "maximum (`amax(dim=1, keepdim=True)`), not the batch's.",
    )
    return "every row is a distribution, and even logits of 1000 do no harm."


@exercise
def second_choice(attempt: Callable[[Tensor, Tensor], Tensor]) -> str:
    """``attempt(probabilities, labels)`` is, for each sample (N,), the most probable class that is not its label."""
    given = P.clone()
    answer = ask_tensor(attempt, given, Y.clone(), shape=(6,))
    require(
        torch.equal(given, P),
        "your function wrote into the tensor it was given, so the targets are spoilt for everyone after you; "
        "work on a copy (`probabilities.clone()`).",
    )
    expected = torch.tensor([1, 2, 2, 2, 2, 0])
    values = P.gather(1, expected[:, None]).squeeze(1)
    require(
        not (answer.is_floating_point() and close(answer, values)),
        "these are the probabilities; return which class it is (`argmax` instead of `max`).",
    )
    require(not answer.is_floating_point(), f"return class numbers (int64), not {answer.dtype}.")
    recognise(
        answer,
        {
            "this is the first choice, most often the label itself; leave the label out before you take the argmax.": (
                P.argmax(1)
            ),
            "this is the second largest of each row: it leaves out the teacher's first choice. Where the teacher errs, "
            "the first choice is not the label; leave out the *label*, whatever its rank.": P.topk(2).indices[:, 1],
            "this is the least probable class; you want the most probable one that is not the label.": P.argmin(1),
            "these are the labels; you want the most probable *other* class.": Y,
        },
    )
    require(
        torch.equal(answer.long(), expected), "set each row's probability of its own label to -1, then take the argmax."
    )
    sure = ask_tensor(attempt, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), torch.tensor([0]), shape=(1,))
    require(
        int(sure) != 0,
        "right so far, but for probabilities 1, 0, 0 and label 0 you answer 0, the label: mask it with -1, not with 0.",
    )
    return "the best of the rest, also where the teacher's first choice is not the label."


@exercise
def entropy_bits(attempt: Callable[[Tensor], Tensor]) -> str:
    """``attempt(probabilities)`` is the entropy in bits of each row of probabilities (B, C), shape (B,)."""
    p = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1], [0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    terms = p * p.log2()
    bits = -terms.sum(1)
    answer = ask_tensor(attempt, p.clone(), shape=(3,))
    recognise(
        answer,
        {
            "these are nats, the unit of `log`; for bits use `log2`, or divide by ln 2.": bits * math.log(2),
            "the sign is turned round: log p is negative, so entropy needs a minus to come out positive.": -bits,
            "nats, and the sign is turned round: use `log2` and put a minus in front.": -bits * math.log(2),
            "this uses log10; bits want `log2`.": bits * math.log10(2),
            "this is the mean over the classes; entropy is the sum.": bits / 4,
            "this is what is missing to the maximum, log2(C) - H; leave the log2(C) out.": 2 - bits,
            "this is the surprise at the likeliest class alone; sum -p log2 p over *all* classes.": -p.amax(1).log2(),
            "this is the sum of -log2 p without weights; each surprise counts with its own probability p.": (
                -p.log2().sum(1)
            ),
            "this is the perplexity 2^H, an effective number of classes; leave the power out.": 2**bits,
        },
    )
    require(close(answer, bits), "the rows are not -Σ p log2 p; compare with the formula above.")
    zeros = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    certain = ask_tensor(attempt, zeros, shape=(2,))
    require(
        bool(torch.isfinite(certain).all()),
        "right where every p is above 0, but a hard label gives NaN: 0 · log2 0 counts as 0. Use "
        "`torch.special.xlogy`, or `clamp_min(1e-30)` inside the logarithm.",
    )
    require(
        close(certain, torch.tensor([0.0, 1.0])),
        "a hard label has entropy 0 and a fair coin 1 bit. If you add a small number inside the logarithm, take a "
        "smaller one.",
    )
    return "in bits, 0 for a hard label and log2(C) for a uniform target."


@exercise
def class_similarity(attempt: Callable[[Tensor, Tensor], Tensor]) -> str:
    """``attempt(probabilities, labels)`` is the mean soft target of each true class, (C, C), row = true class."""
    by_label = F.one_hot(Y, 3).double()  # (N, C)
    by_guess = F.one_hot(P.argmax(1), 3).double()
    counts = by_label.sum(0)[:, None]
    sums = by_label.T @ P
    expected = sums / counts
    answer = _class_map(attempt)
    recognise(
        answer,
        {
            "the map is transposed: row = true class, column = class the probability goes to.": expected.T,
            "these rows are grouped by the teacher's first choice (argmax); group by the true label.": (
                by_guess.T @ P / by_guess.sum(0)[:, None]
            ),
            "these are sums over the samples of a class; divide each row by the number of its samples.": sums,
            "these sums are divided by the number of *all* samples; divide each row by the number of its own class.": (
                sums / len(Y)
            ),
            "your columns sum to 1. A row is a mean of distributions, so leave it as it is: rows sum to 1.": (
                expected / expected.sum(0)
            ),
            "your columns sum to 1: the sums are divided by the wrong total. Divide each row by the number of samples "
            "with that label.": sums / sums.sum(0),
            "this counts first choices: it is a confusion matrix. Average the probabilities themselves.": (
                by_label.T @ by_guess / counts
            ),
            "the diagonal is set to 0; leave it in, and leave it out only when you draw.": (
                expected * (1 - torch.eye(3))
            ),
        },
    )
    require(close(answer, expected), "row c should be the mean of the soft targets of the samples whose label is c.")
    return "row c is what the teacher says, on average, of a digit that really is a c."


def _class_map(attempt: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The learner's (3, 3) map; says what to do about ten classes, or one precision, written into the code."""
    try:
        answer = ask(attempt, P.clone(), Y.clone())
    except RuntimeError as error:
        if "dtype" not in str(error):
            raise
        raise Mistake(
            f"your code raised RuntimeError: {error}. The probabilities are {P.dtype}, here and in the notebook: turn "
            "a one-hot matrix into their type, `one_hot(...).to(probabilities.dtype)`."
        ) from error
    rows = answer.shape[0] if isinstance(answer, Tensor) and answer.ndim == 2 else 3
    require(
        rows <= 3,
        f"your map has {rows} rows, but these probabilities have 3 classes: take C from `probabilities.shape[1]`.",
    )
    return ask_tensor(lambda: answer, shape=(3, 3))


@exercise
def soft_cross_entropy(attempt: Callable[[Tensor, Tensor], Tensor]) -> str:
    """``attempt(student_logits, target_probabilities)`` is the mean over the batch of -Σ t log s, a scalar in nats."""
    logits = torch.tensor([[2.0, 0.5, -1.0, 0.0], [-0.5, 1.5, 1.0, -2.0]], dtype=torch.float64)
    target = torch.tensor([[0.6, 0.3, 0.06, 0.04], [0.05, 0.2, 0.7, 0.05]], dtype=torch.float64)
    log_s, s = logits.log_softmax(1), logits.softmax(1)
    expected = -(target * log_s).sum(1).mean()
    student = logits.clone().requires_grad_()
    answer = ask_tensor(attempt, student, target.clone(), shape=())
    recognise(
        answer.detach(),
        {
            "student and target are swapped: the weights are the target's, the logarithm is the student's.": (
                -(s * target.log()).sum(1).mean()
            ),
            "this is KL(t ‖ s): the target's own entropy is subtracted. Leave it out, or see what it changes below.": (
                (target * (target.log() - log_s)).sum(1).mean()
            ),
            "this is the mean over batch *and* classes, C times too small; sum over the classes first.": expected / 4,
            "this is the sum over the batch; take the mean, so that the loss does not grow with the batch.": (
                expected * 2
            ),
            "this is the cross-entropy with the target's first choice: a hard label again. Keep all of t.": (
                F.cross_entropy(logits, target.argmax(1))
            ),
            "the logarithm of the softmax is missing: this weighs the raw logits.": -(target * logits).sum(1).mean(),
            "the logarithm is missing: this weighs the student's probabilities.": -(target * s).sum(1).mean(),
            "the targets went through a softmax again; they are probabilities already.": (
                F.cross_entropy(logits, target.softmax(1))
            ),
            "the student went through the softmax twice; `cross_entropy` and `log_softmax` want the raw logits.": (
                F.cross_entropy(s, target)
            ),
            "these are bits; a training loss uses the natural logarithm.": expected / math.log(2),
            "the sign is turned round: a loss falls as the student gets better, so put a minus in front.": -expected,
        },
    )
    require(close(answer.detach(), expected), "this is not the batch mean of -Σ t log s; compare with the formula.")
    require(
        answer.requires_grad,
        "the number is right, but no gradient reaches the student: leave out `.item()`, `.detach()` and `no_grad`.",
    )
    far = torch.tensor([[1000.0, 0.0]], dtype=torch.float64)
    even = ask_tensor(attempt, far.clone(), torch.tensor([[0.5, 0.5]], dtype=torch.float64), shape=())
    require(
        close(even.detach(), 500.0),
        "right for small logits, but a gap of 1000 gives infinity, NaN or a cut-off value: take `log_softmax` in one "
        "step, not the logarithm of a softmax.",
    )
    return "the target's weights, the student's logarithms, in one stable step."


@exercise
def shuffle_within_class(attempt: Callable[[Tensor, Tensor], Tensor]) -> str:
    """``attempt(probabilities, labels)`` deals the soft targets (N, C) anew, at random, among samples of one label."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    given = torch.rand(60, 4, generator=generator, dtype=torch.float64)
    given = given / given.sum(1, keepdim=True)
    before = given.clone()
    answer = ask_tensor(attempt, given, labels.clone(), shape=(60, 4))
    require(
        torch.equal(given, before),
        "your function wrote into the tensor it was given; deal into a copy (`probabilities.clone()`).",
    )
    answer = answer.to(before.dtype)
    require(not close(answer, before), "every sample still has its own target; deal them out anew.")
    means = torch.stack([before[labels == c].mean(0) for c in range(3)])
    recognise(answer, {"these are class means; deal out the single targets, each as it is.": means[labels]})
    distance, source = (answer[:, None] - before).abs().amax(2).min(1)  # whose target each sample got
    if float(distance.max()) > 1e-6:
        mixed = close(answer.sort(1).values, before.sort(1).values)
        raise Mistake(
            "the probabilities are shuffled among the classes of one target; move whole rows instead."
            if mixed
            else "some rows are nobody's target; move the rows and leave their numbers as they are."
        )
    require(
        torch.equal(labels[source], labels),
        "some samples got the target of another class; shuffle the rows of one label at a time.",
    )
    require(
        len(source.unique()) == len(source),
        "some targets are dealt twice and some not at all; use a permutation (`torch.randperm`), not random draws.",
    )
    kept = [int((source == torch.arange(60))[labels == c].sum()) for c in range(3)]
    require(max(kept) < 10, f"{max(kept)} of the 20 samples of one label kept their own target; shuffle every class.")
    return "same targets, same class averages; only the link from target to image is cut."
