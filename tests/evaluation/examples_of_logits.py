"""Logits whose metrics are known, or can be computed in a slow loop."""

from __future__ import annotations

import torch
from torch import Tensor


def example(samples: int = 200, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are right about half of the time, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    logits = torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(samples), labels] += 1.0
    return logits, labels


def answers(*guesses: int, classes: int = 3) -> Tensor:
    """Logits whose answers are these classes."""
    return 5.0 * torch.eye(classes)[list(guesses)]
