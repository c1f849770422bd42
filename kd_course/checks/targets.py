"""Checks for notebook 01: soft targets, entropy, dark knowledge."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kd_course.checks._verdict import ask_tensor, close, exercise, recognise, require


@exercise
def soft_targets(attempt: Callable[[Tensor], Tensor]) -> str:
    """``attempt(logits)`` is the softmax of each row of logits (B, C)."""
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.5], [0.0, 3.0, 3.0, -2.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    expected = logits.softmax(1)
    answer = ask_tensor(attempt, logits, shape=(3, 4))
    recognise(
        answer,
        {
            "your columns sum to 1; normalise over the classes (`dim=1`), so that every row is a distribution.": logits.softmax(
                0
            ),
            "this normalises over the whole batch at once; every row must sum to 1 by itself.": logits.exp()
            / logits.exp().sum(),
            "these are one-hot answers. That is the hard label again: keep the probability of every class.": torch.eye(
                4, dtype=torch.float64
            )[logits.argmax(1)],
            "this divides logits by their sum; take the exponential first.": logits / logits.sum(1, keepdim=True),
            "these are logarithms of probabilities; leave the logarithm out.": logits.log_softmax(1),
            "the exponentials are right; now divide each row by its sum.": logits.exp(),
        },
    )
    require(
        close(answer, expected), "the rows are not exp(z) divided by their own sum; compare with the formula above."
    )
    huge = ask_tensor(attempt, torch.tensor([[1000.0, 0.0], [0.0, -1000.0]], dtype=torch.float64), shape=(2, 2))
    require(
        bool(torch.isfinite(huge).all()),
        "correct for small logits, but exp(1000) overflows to infinity: subtract each row's maximum first, or use `torch.softmax`.",
    )
    return "every row is a distribution, and even logits of 1000 do no harm."
