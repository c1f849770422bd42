"""Checks for notebook 06: mean probabilities, disagreement, weights from validation, targets of an ensemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.checks._exercise import Exercise, Given, close
from kd_course.ensembles import average_logits, average_probabilities, combine, disagreement, fit_weights
from kd_course.evaluation import nll

# Three members, four samples, five classes.
Z = torch.tensor(
    [
        [[4.0, 1, 0, -1, 0], [0, 2, 1, 0, -3], [1, 0, 5, 1, 0], [0, 0, 1, 3, 2]],
        [[1.0, 3, 0, 0, 1], [0, 4, 0, 1, -1], [0, 1, 2, 0, 0], [2, 0, 0, 1, 4]],
        [[-2.0, 0, 6, 1, 1], [0, 1, 2, 0, 0], [0, 0, 1, 3, 0], [1, -4, 0, 0, 2]],
    ],
    dtype=torch.float64,
)
FAR = torch.tensor([[[2000.0, 0.0]], [[1500.0, 0.0]]], dtype=torch.float64)
Tables = Mapping[str, Tensor]


def _all_pairs(table: Tensor) -> Tensor:
    """The difference of each member's table from each other's: (M, M, …)."""
    return (table[:, None] - table[None]).double()


# --- the mean of probabilities --------------------------------------------------------------------------------------

mean_probabilities = Exercise(
    task="`submission(logits)` is the arithmetic mean over members of their probabilities, (M, N, C) to (N, C).",
    inputs=[Given(Z)],
    solution=lambda z: z.softmax(2).mean(0),
    mistakes={
        "you average the logits and take the softmax of that: the geometric mean, another ensemble. Take each "
        "member's softmax first, then the mean.": lambda z: z.mean(0).softmax(1),
        "this is the mean of the logits: neither softmax nor the right order. Softmax first, then the mean.": (
            lambda z: z.mean(0)
        ),
        "you add the logits up: that sharpens a geometric mean, another ensemble. Take each member's softmax first, "
        "then the mean.": lambda z: z.sum(0).softmax(1),
        "this is the product of the probabilities to the power 1/M, a geometric mean (and it does not sum to 1); "
        "add the probabilities and divide by M.": lambda z: z.softmax(2).prod(0) ** (1 / len(z)),
        "these are sums over the members; divide by their number, so that each row sums to 1.": (
            lambda z: z.softmax(2).sum(0)
        ),
        "this is a vote: each member's first choice counts, and its confidence is lost. Average the probabilities.": (
            lambda z: F.one_hot(z.argmax(2), z.shape[2]).double().mean(0)
        ),
        "your softmax runs over the samples; classes are the last dimension (`dim=2` of members, samples, "
        "classes).": lambda z: z.softmax(1).mean(0),
        "your softmax runs over the members; classes are the last dimension (`dim=2`).": lambda z: z.softmax(0).mean(0),
        "these are logarithms; return the probabilities themselves.": lambda z: z.softmax(2).mean(0).log(),
        "the mean is right, but then a second softmax flattens it; a mean of distributions is one already.": (
            lambda z: z.softmax(2).mean(0).softmax(1)
        ),
    },
    otherwise="the rows are not the mean over members of softmax(z_m); look at the formula.",
    praise="each member's softmax first, then the mean: every row is a distribution.",
)


# --- disagreement ---------------------------------------------------------------------------------------------------

pairwise_disagreement = Exercise(
    task="`submission(logits)` is, for each pair of members, the fraction of samples they answer differently, (M, M).",
    inputs=[Given(Z)],
    solution=disagreement,
    mistakes={
        "this is agreement: the diagonal is 1. Count where the answers differ.": lambda z: 1 - disagreement(z),
        "the diagonal is 1, but no member disagrees with itself: let it be 0.": (
            lambda z: disagreement(z) + torch.eye(len(z))
        ),
        "these are counts; divide by the number of samples.": lambda z: z.shape[1] * disagreement(z),
        "this is in percent; return a fraction between 0 and 1.": lambda z: 100 * disagreement(z),
        "each pair is counted once, and the other half of the table is 0; fill in both (i, j) and (j, i).": (
            lambda z: disagreement(z).triu(),
            lambda z: disagreement(z).tril(),
        ),
        "this compares probabilities; disagreement asks only whether the *answers* (argmax) differ.": (
            lambda z: _all_pairs(z.softmax(2)).abs().mean((2, 3))
        ),
        "this subtracts class numbers, as if 9 were further from 1 than 7 is; ask only whether they differ.": (
            lambda z: _all_pairs(z.argmax(2)).abs().mean(2)
        ),
        "your argmax runs over the samples; the answer is the largest logit of each sample (`dim=2`).": (
            lambda z: (_all_pairs(z.argmax(1)) != 0).double().mean(2)
        ),
    },
    otherwise="entry (i, j) should be the fraction of samples where the argmax of i and the argmax of j differ.",
    praise="0 on the diagonal, symmetric, and no label needed.",
)


# --- weights --------------------------------------------------------------------------------------------------------


def _three_splits() -> tuple[Tables, Tables]:
    """Logits (3, 200, 4) and labels (200,) of each split. Member 0 has memorised the training images, and little else.

    The last member is over-confident: not the most accurate, but the one that a loss without a logarithm prefers.
    """
    generator = torch.Generator().manual_seed(0)
    strength = {"train": [7.0, 2.0, 1.5], "validation": [1.5, 2.5, 2.0], "test": [1.0, 1.5, 3.0]}
    confidence = torch.tensor([1.0, 0.7, 1.5], dtype=torch.float64)[:, None, None]
    logits, labels = {}, {}
    for split, strong in strength.items():
        labels[split] = torch.randint(0, 4, (200,), generator=generator)
        truth = F.one_hot(labels[split], 4)
        noise = 1.5 * torch.randn(3, 200, 4, generator=generator, dtype=torch.float64)
        logits[split] = confidence * (noise + torch.tensor(strong, dtype=torch.float64)[:, None, None] * truth)
    return logits, labels


def _on(split: str, fit: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tables, Tables], Tensor]:
    """``fit`` on the logits and labels of one split, in double precision."""
    return lambda logits, labels: fit(logits[split], labels[split]).double()


def _descend(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Weights softmax(a) that minimise ``loss(probabilities of the ensemble, labels)``."""

    def fit(logits: Tensor, labels: Tensor) -> Tensor:
        a = torch.zeros(len(logits), dtype=logits.dtype, requires_grad=True)
        optimizer = torch.optim.Adam([a], lr=0.3)
        for _ in range(100):
            optimizer.zero_grad()
            loss(torch.einsum("m,mnc->nc", a.softmax(0), logits.softmax(2)), labels).backward()
            optimizer.step()
        return a.detach().softmax(0)

    return fit


def _scores(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(2) == labels).double().mean(1)  # accuracy of each member


_best = _on("validation", fit_weights)


def _not_before_the_softmax(answer: Tensor, logits: Tables, labels: Tables) -> bool:
    return _sum_to_one(answer) or not close(answer.softmax(0), _best(logits, labels), 0.02)


def _sum_to_one(answer: Tensor, *_: Tables) -> bool:
    return close(answer.sum(), 1.0, 1e-4)


def _as_good_as_the_best(answer: Tensor, logits: Tables, labels: Tables) -> bool:
    found, best = (
        nll(combine(logits["validation"], weights), labels["validation"])
        for weights in (answer.detach().double(), _best(logits, labels))
    )
    return found <= best + 1e-3


ensemble_weights = Exercise(
    task="`submission(logits, labels)` is softmax(a), (M,), with a fitted on the *validation* tables. Both are dicts "
    "with the keys train, validation and test, of (M, N, C) and (N,).",
    inputs=[Given(*_three_splits())],
    solution=_best,
    accepts=_as_good_as_the_best,
    rules={
        "these are the numbers a before the softmax: good ones, but they do not sum to 1. Return `a.softmax(0)`.": (
            _not_before_the_softmax
        ),
        "these weights do not sum to 1, as a mean needs. Learn a, and use `a.softmax(0)` as the weights.": _sum_to_one,
        "some weights are negative; learn a, and use `a.softmax(0)` as the weights.": lambda answer, *_: (
            min(answer) >= 0
        ),
    },
    mistakes={
        "these are fitted on *training* images, and nearly all the weight goes to the member that has memorised them. "
        "Fit on validation.": _on("train", fit_weights),
        "these are fitted on the *test* images, so the test can no longer judge them. Fit on validation.": (
            _on("test", fit_weights)
        ),
        "these fit the mean of *logits*; here the members' probabilities are averaged.": (
            _on("validation", lambda z, y: fit_weights(z, y, average="logits"))
        ),
        "these are equal weights, the start: a did not move. Does `backward()` reach a, and does the optimizer hold "
        "it?": _on("validation", lambda z, y: torch.full((len(z),), 1 / len(z))),
        "this takes the best single member and drops the others; fit the weights instead.": (
            _on("validation", lambda z, y: F.one_hot(_scores(z, y).argmax(), len(z)))
        ),
        "these weights are proportional to the members' accuracies: that is no fit, and hardly differs from equal "
        "weights. Minimise the NLL of the ensemble.": (
            _on("validation", lambda z, y: _scores(z, y) / _scores(z, y).sum()),
            _on("validation", lambda z, y: _scores(z, y).softmax(0)),
        ),
        "the weights went through the softmax twice, which draws them together; once is enough.": (
            _on("validation", lambda z, y: fit_weights(z, y).softmax(0))
        ),
        "these are fitted on the training images as well, which one member has memorised. Fit on validation alone.": (
            lambda logits, labels: fit_weights(
                *(torch.cat([of["train"], of["validation"]], dim) for of, dim in ((logits, 1), (labels, 0)))
            ).double()
        ),
        "these weights make the squared error of the probabilities small (the Brier score); minimise the NLL of the "
        "ensemble.": _on("validation", _descend(lambda p, y: (p - F.one_hot(y, p.shape[1])).square().mean())),
        "`F.cross_entropy` was given probabilities, and takes a softmax of its own. Use `F.nll_loss(p.log(), y)`.": (
            _on("validation", _descend(F.cross_entropy))
        ),
        "`F.nll_loss` was given probabilities, and it wants their logarithms. Without them nearly all the weight goes "
        "to the most confident member: use `F.nll_loss(p.log(), y)`.": _on("validation", _descend(F.nll_loss)),
    },
    otherwise="the NLL of the ensemble on validation can be lower than with these weights. Take more steps, or "
    "another learning rate, and use the validation images only.",
    praise="weights from validation, positive, summing to 1; and only three numbers were learned.",
    tolerance=0.01,
)


# --- targets --------------------------------------------------------------------------------------------------------


def _soft(logits: Tensor, T: float) -> Tensor:
    return (logits / T).softmax(2).mean(0)


ensemble_targets = Exercise(
    task="`submission(logits, temperature)` stands for one teacher: z with softmax(z/T) = mean of softmax(z_m/T).",
    inputs=[
        Given(Z, 3.0),
        Given(Z, 8.0, otherwise="right at T = 3, but not at T = 8; use the temperature that is passed in."),
        Given(
            FAR,
            1.0,
            otherwise="right for mild logits, but not where they are 1,500 apart: use `log_softmax` and "
            "`torch.logsumexp`, and clip nothing.",
        ),
    ],
    solution=lambda z, T: average_probabilities(z, temperature=T),
    view=lambda answer, _, T: (answer / T).log_softmax(1),  # logits may differ by a constant in each row
    mistakes={
        "these are the mean probabilities at T. A loss takes a teacher's *logits* and softens them itself: "
        "return T · log of the mean.": _soft,
        "T is forgotten at the end: the loss will divide by T once more, and soften twice. Return T · log of "
        "the mean.": lambda z, T: _soft(z, T).log(),
        "these are mean probabilities at T = 1; soften every member first, and return T · log of the mean.": (
            lambda z, T: _soft(z, 1.0)
        ),
        "you average the logits and let the loss soften that: the geometric mean, another ensemble. Soften "
        "each member, average the probabilities, and come back with T · log.": lambda z, T: average_logits(z),
        "the average is made at T = 1 and softened afterwards. Soften each member first: the mean of soft "
        "targets is not the softened mean.": lambda z, T: average_probabilities(z),
        "the average is made at T = 1; soften each member at T first, then T · log of the mean.": (
            lambda z, T: T * average_probabilities(z)
        ),
        "this is multiplied by T²; T is right: the loss divides by T once.": lambda z, T: T**2 * _soft(z, T).log(),
        "normalise each member first (`log_softmax`): a member with large logits drowns the others.": (
            lambda z, T: T * torch.logsumexp(z / T, dim=0)
        ),
        "right for mild logits, but where they are 1,500 apart the target is infinite, which `with_teacher` refuses: "
        "use `log_softmax` and `torch.logsumexp`, which never form that 0.": lambda z, T: T * _soft(z, T).log(),
    },
    otherwise="softened at T, these targets are not the mean of the members' softened probabilities.",
    praise="softened at T, they are exactly the mean of the members' soft targets.",
)
