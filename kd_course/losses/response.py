"""Losses on what the network answers: its logits, its softened probabilities, its regression outputs.

The notation of the whole course: ``s`` and ``t`` are student and teacher, ``z`` logits, ``p_T = softmax(z / T)``,
B the batch, C the classes. Everything is computed in log space and, for half-precision inputs, in float32.
The functions are differentiable in both arguments; teacher logits from :func:`kd_course.inference.predict`
carry no graph, so there the teacher is a constant. What is no floating-point tensor is a ``TypeError``, other shapes
than the docstring names are a ``ValueError``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course._validation import (
    at_least,
    batch_pair,
    floating_pair,
    floating_tensor,
    fraction,
    labelled_logits,
    logit_pair,
    logit_table,
    not_negative,
    per_sample,
    softening,
)
from kd_course.losses._geometry import centred, unit
from kd_course.losses._precision import divergence, divergences, known, loss

__all__ = [
    "dist_loss", "dkd_loss", "kd_loss", "logit_mse_loss", "probability_mse_loss", "regression_kd_loss",
    "soft_target_loss", "standardize_logits",
]  # fmt: skip


@loss
def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    r"""T² times the Kullback-Leibler divergence from the student's to the teacher's softened probabilities.

    .. math:: T^2 \cdot \frac{1}{B} \sum_b \sum_c t_{T,bc} \, (\log t_{T,bc} - \log s_{T,bc})

    T² undoes the 1/T² by which softening shrinks the gradient, so the balance with a hard-label loss does not
    move when T does. The gradient is ``T (s_T - t_T) / B``.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: T > 0, dimensionless; 1 leaves the probabilities as they are. A tensor (B,) gives each sample its
            own; the mean is then that of T² times its divergence.

    Returns:
        A scalar in nats, averaged over the batch; 0 exactly where the two sets of logits differ by a constant per row.
        A class at -inf is masked out: where the teacher masks it, its term is 0; where only the student does, infinite.

    Raises:
        TypeError: logits that are not floating-point tensors.
        ValueError: shapes that differ or are not (B, C), or T ≤ 0.

    Reference: Hinton, Vinyals & Dean 2015, *Distilling the Knowledge in a Neural Network*, arXiv:1503.02531.

    >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
    >>> soft_target_loss(logits, logits + 5, temperature=4).item()
    0.0
    """
    student, teacher = logit_pair(student_logits, teacher_logits)
    temperature = softening(temperature, len(student))
    if isinstance(temperature, Tensor) and temperature.ndim:
        return _soft_targets(student, teacher, temperature).mean()
    log_p = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * divergence(*log_p, lambda: (teacher - student) / temperature)


@loss
def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None, *, temperature: float, alpha: float
) -> Tensor:
    r"""Hinton's distillation loss: hard labels and soft targets, blended.

    .. math:: (1 - \alpha) \cdot CE(y, s) + \alpha \cdot T^2 \cdot KL(t_T \,\|\, s_T)

    **α weights the soft targets**, here and everywhere in this course. α = 0 is plain cross-entropy and does not
    look at the teacher; α = 1 does not look at the labels, which may then be None (unlabelled transfer data).

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        labels: class numbers, (B,); None allowed at α = 1.
        temperature: T > 0, used for the soft term only; or one for each sample, (B,).
        alpha: weight of the soft term, in [0, 1]; or one for each sample, (B,).

    Returns:
        A scalar in nats, averaged over the batch.

    Raises:
        TypeError: as :func:`soft_target_loss`; also labels that are not a tensor.
        ValueError: as :func:`soft_target_loss`; also α outside [0, 1], or labels that are missing or no class numbers.

    Reference: Hinton, Vinyals & Dean 2015, arXiv:1503.02531.

    >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, -1.0]])
    >>> round(kd_loss(student, teacher, torch.tensor([0]), temperature=2, alpha=0.5).item(), 4)
    0.3371
    """
    if isinstance(alpha, Tensor) and alpha.ndim:  # one for each sample
        logits, labels = labelled_logits(student_logits, labels)
        alpha = per_sample(alpha, "alpha", len(logits), fraction).squeeze(1)
        student, teacher = logit_pair(logits, teacher_logits)
        soft = _soft_targets(student, teacher, softening(temperature, len(logits)))
        return ((1 - alpha) * F.cross_entropy(logits, labels, reduction="none") + alpha * soft).mean()
    if fraction(alpha, "alpha") == 1:
        return soft_target_loss(student_logits, teacher_logits, temperature=temperature)
    if labels is None:
        raise ValueError("labels are needed at alpha < 1; pass them, or set alpha=1 for unlabelled data")
    hard = F.cross_entropy(*labelled_logits(student_logits, labels))
    if alpha == 0:
        softening(temperature, len(labels))
        return hard
    return (1 - alpha) * hard + alpha * soft_target_loss(student_logits, teacher_logits, temperature=temperature)


def _soft_targets(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """T²·KL of each sample (B,), with one T for all or a column (B, 1)."""
    log_p = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    rows = divergences(*log_p, (teacher - student) / temperature)
    return (temperature.squeeze(1) if isinstance(temperature, Tensor) and temperature.ndim else temperature) ** 2 * rows


@loss
def logit_mse_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    r"""Mean squared difference of the logits, over batch and classes.

    .. math:: \frac{1}{BC} \sum_{bc} (z_{s,bc} - z_{t,bc})^2

    The high-temperature limit of distillation: T²·KL tends to half this value once each row is centred. A class that
    both mask out, at -inf, differs by 0.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).

    References: Ba & Caruana 2014, *Do Deep Nets Really Need to be Deep?*, arXiv:1312.6184; Hinton et al. 2015,
    section 2.1.

    >>> logit_mse_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 3.0]])).item()
    0.5
    """
    student, teacher = logit_pair(student_logits, teacher_logits)
    value = F.mse_loss(student, teacher)
    if not math.isnan(known(value)):
        return value
    masked = (student == -math.inf) & (teacher == -math.inf)
    return F.mse_loss(student.masked_fill(masked, 0), teacher.masked_fill(masked, 0))


@loss
def probability_mse_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    r"""Mean squared difference of the softened probabilities, over batch and classes.

    .. math:: \frac{1}{BC} \sum_{bc} (s_{T,bc} - t_{T,bc})^2

    Its gradient passes through the softmax and fades as 1/T², like that of the KL before the T²: added to a
    cross-entropy at T = 5 it all but vanishes. It is here to be measured (notebook 03), not to be recommended.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: T > 0; or one for each sample, (B,).

    >>> probability_mse_loss(torch.tensor([[9.0, 9.0]]), torch.tensor([[0.0, 0.0]]), temperature=1).item()
    0.0
    """
    student, teacher = logit_pair(student_logits, teacher_logits)
    temperature = softening(temperature, len(student))
    value = F.mse_loss(torch.softmax(student / temperature, dim=1), torch.softmax(teacher / temperature, dim=1))
    if known(value) > 1e4 * torch.finfo(value.dtype).eps ** 2:  # else it may be rounding
        return value
    return F.mse_loss(_spread(student, temperature), _spread(teacher, temperature))


@loss
def regression_kd_loss(
    student_prediction: Tensor,
    teacher_prediction: Tensor,
    targets: Tensor | None = None,
    *,
    alpha: float = 1.0,
    margin: float | None = None,
) -> Tensor:
    r"""Distillation for regression: follow the targets and the teacher's real-valued predictions.

    .. math:: (1 - \alpha) \cdot \overline{(f_s - y)^2} + \alpha \cdot \overline{(f_s - f_t)^2}

    Unlike probabilities, a teacher's numbers can be wrong without limit. With a ``margin`` m the teacher is only a
    bound: the second term becomes the student's own squared error ‖f_s - y‖², counted for those samples where it plus m
    exceeds the teacher's, and 0 for the others.

    Args:
        student_prediction: (B, …).
        teacher_prediction: the same shape.
        targets: y, the same shape; needed at α < 1 and with a margin.
        alpha: weight of the teacher's term, in [0, 1].
        margin: m ≥ 0, in squared units of y; None for no bound.

    Raises:
        TypeError: predictions or targets that are not floating-point tensors.
        ValueError: shapes that differ, α or margin out of range, or targets missing.

    Reference: Chen et al. 2017, *Learning Efficient Object Detection Models with Knowledge Distillation*, NeurIPS
    (the bound).

    >>> regression_kd_loss(torch.tensor([[1.0]]), torch.tensor([[3.0]])).item()
    4.0
    """
    student, teacher = floating_pair(student_prediction, teacher_prediction, "predictions")
    if margin is not None:
        at_least(margin, 0, "margin")
    if fraction(alpha, "alpha") == 1 and margin is None:
        return F.mse_loss(student, teacher)
    if targets is None:
        raise ValueError("targets are needed at alpha < 1 and with a margin; pass them, or use alpha=1 and no margin")
    targets = floating_tensor(targets, "targets")
    if targets.shape != student.shape:
        raise ValueError(
            f"targets {tuple(targets.shape)} must have the predictions' shape {tuple(student.shape)}; "
            "try targets.view_as(predictions)"
        )
    error = (student - targets).square()  # (B, …)
    if margin is None:
        imitation = F.mse_loss(student, teacher)
    else:
        own, bound = (each.reshape(len(each), -1).sum(1) for each in (error, (teacher - targets).square()))  # (B,)
        imitation = error[own + margin > bound].sum() / error.numel()
    return (1 - alpha) * error.mean() + alpha * imitation


@loss
def standardize_logits(logits: Tensor) -> Tensor:
    r"""Each row of logits with mean 0 and sample standard deviation 1 (n - 1 in the denominator).

    .. math:: (z_{bc} - \bar z_b) / \sqrt{\textstyle\sum_c (z_{bc} - \bar z_b)^2 / (C - 1)}

    Before a softened softmax it frees the student from copying the teacher's logit *range*: only the shape counts.
    Unchanged by adding a constant to a row or multiplying it by a positive one. A constant row gives zeros.

    Args:
        logits: (B, C), C ≥ 2.

    Raises:
        TypeError: logits that are not a floating-point tensor.
        ValueError: logits that are not (B, C), or a class masked out at -inf.

    Reference: Sun et al. 2024, *Logit Standardization in Knowledge Distillation*, arXiv:2403.01427.

    >>> standardize_logits(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[-1.,  0.,  1.]])
    """
    logits = logit_table(logits)
    deviation = centred(logits, dim=1)
    variance = deviation.square().sum(dim=1, keepdim=True) / (logits.shape[1] - 1)
    if math.isnan(known(variance.sum())) and known((logits == -math.inf).any()) == 1:
        raise ValueError("logits at -inf have no mean; standardize only the classes that count, logits[:, allowed]")
    return deviation / torch.where(variance > 0, variance, 1).sqrt()


@loss
def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, alpha: float, beta: float, temperature: float
) -> Tensor:
    r"""DKD: the soft-target loss taken apart, so that its two halves can be weighed.

    .. math:: T^2 \cdot \frac{1}{B} \sum_b \big[ \alpha \, KL(b_t \,\|\, b_s)
              + \beta \, KL(\hat t_T \,\|\, \hat s_T) \big]

    The first divergence (target class, TCKD) compares ``b = (p_y, 1 - p_y)``, how confident each is of the label; the
    second (non-target class, NCKD) compares ``p̂_T``, the softened softmax over all *other* classes. In the soft-target
    loss NCKD carries the weight ``1 - t_y``, next to nothing where the teacher is confident: α = 1, β = 1 - t_y is that
    loss again, sample by sample. Here α weighs one soft half against the other; add the cross-entropy yourself.

    Args:
        student_logits: (B, C), C ≥ 3.
        teacher_logits: (B, C).
        labels: class numbers, (B,).
        alpha: weight of TCKD, ≥ 0; the paper's is 1.
        beta: weight of NCKD, ≥ 0; the paper's is 1 to 8.
        temperature: T > 0.

    Returns:
        A scalar in nats, averaged over the batch.

    Raises:
        ValueError: as :func:`soft_target_loss`; also a weight below 0, labels that are no class numbers, or C < 3.

    Reference: Zhao et al. 2022, *Decoupled Knowledge Distillation*, arXiv:2203.08679.

    >>> student, teacher = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 2.0, -1.0]])
    >>> round(dkd_loss(student, teacher, torch.tensor([0]), alpha=0, beta=1, temperature=1).item(), 4)
    0.5023
    """
    student, teacher = logit_pair(student_logits, teacher_logits)
    student, labels = labelled_logits(student, labels)
    if student.shape[1] == 2:
        raise ValueError(
            "dkd_loss needs three classes or more, not 2: beside the label only one other class is left, and NCKD has "
            "nothing to compare; use soft_target_loss, which is then TCKD"
        )
    temperature = softening(temperature)
    others = F.one_hot(labels, student.shape[1]) == 0  # (B, C)
    rest = [logits[others].view(len(logits), -1) for logits in (student, teacher)]  # (B, C-1)
    target = [
        torch.stack([logits[~others], _soft_maximum(other, temperature)], dim=1)  # (B, 2)
        for logits, other in zip((student, teacher), rest, strict=True)
    ]
    many = student.new_tensor([0, math.log(student.shape[1] - 1)])  # the second stands for C - 1 classes
    tckd, nckd = (
        divergence(
            *(F.log_softmax(logits / temperature + prior, dim=1) for logits in pair),
            lambda pair=pair: (pair[1] - pair[0]) / temperature,
        )
        for pair, prior in ((target, many), (rest, 0))
    )
    return temperature**2 * (not_negative(alpha, "alpha") * tckd + not_negative(beta, "beta") * nckd)


@loss
def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float, gamma: float, temperature: float
) -> Tensor:
    r"""DIST: the student should rank as the teacher does, classes within a sample and samples within a class.

    .. math:: T^2 \Big[ \beta \big(1 - \tfrac{1}{B} \sum_b \rho(s_{T,b\cdot}, t_{T,b\cdot})\big)
              + \gamma \big(1 - \tfrac{1}{C} \sum_c \rho(s_{T,\cdot c}, t_{T,\cdot c})\big) \Big]

    ρ is Pearson's correlation, of the rows of softened probabilities (between classes) and of their columns (within a
    class, over the batch). It does not see scale and shift, so a student may be less confident than a strong teacher.

    Args:
        student_logits: (B, C), B ≥ 2.
        teacher_logits: (B, C).
        beta: weight between classes, ≥ 0.
        gamma: weight within classes, ≥ 0.
        temperature: T > 0.

    Returns:
        A scalar, each bracket in [0, 2]; a row or column without spread counts as uncorrelated, 1.

    Raises:
        TypeError: logits that are not floating-point tensors.
        ValueError: shapes that differ or are not (B, C), a batch of one, a weight below 0, or T ≤ 0.

    Reference: Huang et al. 2022, *Knowledge Distillation from A Stronger Teacher*, arXiv:2205.10536.

    >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    >>> round(dist_loss(logits, logits, beta=1, gamma=1, temperature=1).item(), 6)
    0.0
    """
    student, teacher = logit_pair(student_logits, teacher_logits)
    batch_pair(student, teacher, "logits")
    temperature = softening(temperature)
    student, teacher = (_spread(logits, temperature) for logits in (student, teacher))
    between, within = (_lack_of_correlation(student, teacher, dim).mean() for dim in (1, 0))
    return temperature**2 * (not_negative(beta, "beta") * between + not_negative(gamma, "gamma") * within)


def _soft_maximum(logits: Tensor, temperature: float) -> Tensor:
    """T·log of the mean of exp(z / T) in each row (B,), exact at any T."""
    top = logits.detach().amax(1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)
    return top.squeeze(1) + temperature * ((logits - top) / temperature).expm1().mean(1).log1p()


def _spread(logits: Tensor, temperature: float) -> Tensor:
    """Softened probabilities minus 1/C, exact also where T is so high that they hardly differ from it."""
    powers = ((logits - logits.detach().amax(1, keepdim=True)) / temperature).expm1()  # (B, C), in [-1, 0]
    mean = powers.mean(1, keepdim=True)
    return (powers - mean) / (logits.shape[1] * (1 + mean))


def _lack_of_correlation(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """1 - ρ along ``dim``, as half a squared distance, which is never below 0; 1 where one of the two does not vary."""
    first, second = (unit(centred(values, dim), dim) for values in (first, second))
    vary = first.any(dim) & second.any(dim)
    return torch.where(vary, (first - second).square().sum(dim) / 2, 1 - (first * second).sum(dim))
