"""Checks for notebook 06: mean probabilities, disagreement, weights from validation, targets of an ensemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from kd_course.checks._exercise import Mistake, ask_tensor, close, exercise, recognise, require
from kd_course.ensembles import average_logits, average_probabilities, combine, fit_weights
from kd_course.evaluation import accuracy, nll

# Three members, four samples, five classes.
Z = torch.tensor(
    [
        [[4.0, 1, 0, -1, 0], [0, 2, 1, 0, -3], [1, 0, 5, 1, 0], [0, 0, 1, 3, 2]],
        [[1.0, 3, 0, 0, 1], [0, 4, 0, 1, -1], [0, 1, 2, 0, 0], [2, 0, 0, 1, 4]],
        [[-2.0, 0, 6, 1, 1], [0, 1, 2, 0, 0], [0, 0, 1, 3, 0], [1, -4, 0, 0, 2]],
    ],
    dtype=torch.float64,
)
Tables = Mapping[str, Tensor]


@exercise
def mean_probabilities(attempt: Callable[[Tensor], Tensor]) -> str:
    """``attempt(logits)`` is the arithmetic mean over members of their probabilities, (M, N, C) to (N, C)."""
    p = Z.softmax(2)
    expected = p.mean(0)
    answer = ask_tensor(attempt, Z.clone(), shape=(4, 5))
    recognise(
        answer,
        {
            "you average the logits and take the softmax of that: the geometric mean, another ensemble. Take each "
            "member's softmax first, then the mean.": average_logits(Z).softmax(1),
            "this is the mean of the logits: neither softmax nor the right order. Softmax first, then the mean.": (
                average_logits(Z)
            ),
            "this is the product of the probabilities to the power 1/M, a geometric mean (and it does not sum to 1); "
            "add the probabilities and divide by M.": p.log().mean(0).exp(),
            "these are sums over the members; divide by their number, so that each row sums to 1.": p.sum(0),
            "this is a vote: each member's first choice counts, and how sure it was is lost. Average the "
            "probabilities.": torch.nn.functional.one_hot(Z.argmax(2), 5).double().mean(0),
            "your softmax runs over the samples; classes are the last dimension (`dim=2` of members, samples, "
            "classes).": Z.softmax(1).mean(0),
            "your softmax runs over the members; classes are the last dimension (`dim=2`).": Z.softmax(0).mean(0),
            "these are logarithms; return the probabilities themselves.": expected.log(),
            "the mean is right, but then a second softmax flattens it; a mean of distributions is one already.": (
                expected.softmax(1)
            ),
        },
    )
    require(close(answer, expected), "the rows are not the mean over members of softmax(z_m); look at the formula.")
    return "each member's softmax first, then the mean: every row is a distribution."


@exercise
def pairwise_disagreement(attempt: Callable[[Tensor], Tensor]) -> str:
    """``attempt(logits)`` is, for each pair of members, the fraction of samples they answer differently, (M, M)."""
    answers = Z.argmax(2)  # (M, N)
    different = (answers[:, None] != answers[None]).double()
    expected = different.mean(2)
    answer = ask_tensor(attempt, Z.clone(), shape=(3, 3))
    p, over_samples = Z.softmax(2), Z.argmax(1)
    recognise(
        answer,
        {
            "this is agreement: the diagonal is 1. Count where the answers differ.": 1 - expected,
            "these are counts; divide by the number of samples.": different.sum(2),
            "this is in percent; return a fraction between 0 and 1.": 100 * expected,
            "each pair is counted once, the other half of the table is 0; fill in both (i, j) and (j, i).": (
                expected.triu()
            ),
            "this compares probabilities; disagreement asks only whether the *answers* (argmax) differ.": (
                (p[:, None] - p[None]).abs().mean((2, 3))
            ),
            "this subtracts class numbers, as if 9 were further from 1 than 7 is; ask only whether they differ.": (
                (answers[:, None] - answers[None]).abs().double().mean(2)
            ),
            "your argmax runs over the samples; the answer is the largest logit of each sample (`dim=2`).": (
                (over_samples[:, None] != over_samples[None]).double().mean(2)
            ),
        },
    )
    require(close(answer, expected), "entry (i, j) should be the fraction of samples where argmax of i and j differ.")
    return "0 on the diagonal, symmetric, and no label needed."


def _tables() -> tuple[Tables, Tables]:
    """Logits (3, 200, 4) and labels of three splits. Member 0 knows the training images by heart, and little else."""
    generator = torch.Generator().manual_seed(0)
    strength = {"train": [7.0, 2.0, 1.5], "validation": [1.5, 2.5, 2.0], "test": [1.0, 1.5, 3.0]}
    logits, labels = {}, {}
    for split, strong in strength.items():
        labels[split] = torch.randint(0, 4, (200,), generator=generator)
        truth = torch.nn.functional.one_hot(labels[split], 4)
        noise = 1.5 * torch.randn(3, 200, 4, generator=generator, dtype=torch.float64)
        logits[split] = noise + torch.tensor(strong, dtype=torch.float64)[:, None, None] * truth
    return logits, labels


@exercise
def ensemble_weights(attempt: Callable[[Tables, Tables], Tensor]) -> str:
    """``attempt(logits, labels)`` is softmax(a), (M,), with a fitted on the *validation* tables.

    ``logits`` and ``labels`` are dicts with the keys train, validation and test, of (M, N, C) and (N,).
    """
    logits, labels = _tables()
    given = {split: table.clone() for split, table in logits.items()}
    weights = ask_tensor(attempt, given, dict(labels), shape=(3,)).detach().double()
    z, y = logits["validation"], labels["validation"]

    def loss(weights: Tensor) -> float:
        return nll(combine(z, weights), y)

    best = fit_weights(z, y).double()
    if not close(weights.sum(), 1.0, 1e-3):
        require(
            not close(weights.softmax(0), best, 0.02),
            "these are the numbers a before the softmax: good ones, but they do not sum to 1. Return `a.softmax(0)`.",
        )
        raise Mistake(
            f"these weights sum to {float(weights.sum()):.3g}, not to 1, as a mean needs. Learn a, and use "
            "`a.softmax(0)` as the weights."
        )
    require(bool((weights >= 0).all()), "some weights are negative; learn a, and use `a.softmax(0)` as the weights.")
    if loss(weights) <= loss(best) + 1e-3:
        return "weights from validation, positive, summing to 1; and only three numbers were learned."
    scores = torch.tensor([accuracy(member, y) for member in z], dtype=torch.float64)
    classics = {
        "these are fitted on *training* images, and nearly all the weight goes to the member that has learned those by "
        "heart. Fit on validation.": fit_weights(logits["train"], labels["train"]),
        "these are fitted on the *test* images, so the test can no longer judge them. Fit on validation.": (
            fit_weights(logits["test"], labels["test"])
        ),
        "these fit the mean of *logits*; here the members' probabilities are averaged.": (
            fit_weights(z, y, average="logits")
        ),
        "these are equal weights, the start: a did not move. Does `backward()` reach a, and does the optimizer hold "
        "it?": torch.full((3,), 1 / 3),
        "this takes the best single member and drops the others; fit the weights instead.": (
            torch.nn.functional.one_hot(scores.argmax(), 3)
        ),
        "these weights are proportional to the members' accuracies: that is no fit, and hardly differs from equal "
        "weights. Minimise the NLL of the ensemble.": scores / scores.sum(),
    }
    for text, wrong in classics.items():
        require(not close(weights, wrong, 0.01), text)
    raise Mistake(
        f"with these weights the NLL of the ensemble on validation is {loss(weights):.4f}; {loss(best):.4f} can be "
        "had. Take more steps, or a larger learning rate, and use the validation images only."
    )


@exercise
def ensemble_targets(attempt: Callable[[Tensor, float], Tensor]) -> str:
    """``attempt(logits, temperature)`` is what stands for one teacher: z with softmax(z/T) = mean of softmax(z_m/T)."""
    for T in (3.0, 8.0):  # two, so that a temperature written into the code is noticed
        answer = ask_tensor(attempt, Z.clone(), T, shape=(4, 5))
        p = (Z / T).softmax(2).mean(0)
        require(
            bool(torch.isfinite(answer).all()), "some targets are infinite or NaN; work with `log_softmax` throughout."
        )
        recognise(
            answer,
            {
                "these are the mean probabilities at T. A loss takes a teacher's *logits* and softens them itself: "
                "return T · log of the mean.": p,
                "T is forgotten at the end: the loss will divide by T once more, and soften twice. Return T · log of "
                "the mean.": p.log(),
                "these are mean probabilities at T = 1; soften every member first, and return T · log of the mean.": (
                    Z.softmax(2).mean(0)
                ),
            },
        )
        softened = (answer.double() / T).softmax(1)  # logits may differ by a constant in each row
        recognise(
            softened,
            {
                "you average the logits and let the loss soften that: the geometric mean, another ensemble. Soften "
                "each member, average the probabilities, and come back with T · log.": (
                    (average_logits(Z) / T).softmax(1)
                ),
                "the average is made at T = 1 and softened afterwards. Soften each member first: the mean of soft "
                "targets is not the softened mean.": (average_probabilities(Z) / T).softmax(1),
                "this is multiplied by T²; T is right: the loss divides by T once.": (p.log() * T).softmax(1),
                "T is forgotten at the end: the loss will divide by T once more. Return T · log of the mean.": (
                    (p.log() / T).softmax(1)
                ),
                "the average is made at T = 1; soften each member at T first, then T · log of the mean.": (
                    average_probabilities(Z).softmax(1)
                ),
                "normalise each member first (`log_softmax`): a member with large logits drowns the others.": (
                    torch.logsumexp(Z / T, dim=0).softmax(1)
                ),
            },
        )
        require(
            close(softened, p),
            f"softened at T = {T:g}, these targets are not the mean of the members' softened probabilities.",
        )
    far = torch.tensor([[[2000.0, 0.0]], [[1500.0, 0.0]]], dtype=torch.float64)
    sure = ask_tensor(attempt, far.clone(), 1.0, shape=(1, 2))
    require(
        bool(torch.isfinite(sure).all()),
        "right for mild logits, but members that are 1,500 sure give an infinite target, which `with_teacher` refuses: "
        "use `log_softmax` and `torch.logsumexp`, which never form that 0.",
    )
    require(
        close(sure.double().log_softmax(1), average_probabilities(far).log_softmax(1)),
        "right for mild logits, but clipped where members are 1,500 sure: use `log_softmax` and `torch.logsumexp`.",
    )
    return "softened at T, they are exactly the mean of the members' soft targets."
