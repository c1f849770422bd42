"""What an answer costs: bytes and milliseconds."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import nn

from kd_course.inference import evaluating
from kd_course.runtime import threads

__all__ = ["Latency", "latency", "size_bytes"]


class Latency(NamedTuple):
    """Milliseconds per forward pass: the median and the middle half of the repeats, and the conditions."""

    median_ms: float
    q1_ms: float
    q3_ms: float
    batch_size: int
    threads: int
    repeats: int

    @property
    def iqr_ms(self) -> float:
        """Interquartile range, in milliseconds."""
        return self.q3_ms - self.q1_ms

    def __str__(self) -> str:
        return (
            f"{self.median_ms:.2f} ms (IQR {self.iqr_ms:.2f}; batch {self.batch_size}, "
            f"{self.threads} thread{'s' * (self.threads > 1)}, {self.repeats} repeats)"
        )


def size_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, in the types they have now."""
    return sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])


def latency(
    model: nn.Module, *, batch_size: int = 1, thread_count: int = 1, repeats: int = 50, warm_up: int = 10
) -> Latency:
    """Time of one forward pass over blank images, in evaluation mode, without gradients, on the model's own device.

    The result has the median and the interquartile range, because a few slow passes on a busy machine distort a mean.

    Args:
        model: takes images (B, 1, 28, 28).
        batch_size: images per pass.
        thread_count: CPU threads during the measurement.
        repeats: passes that count.
        warm_up: passes before them that do not.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images = torch.zeros(batch_size, 1, 28, 28, device=device)
    times = torch.empty(repeats, dtype=torch.float64)
    with threads(thread_count), evaluating(model):
        for repeat in range(-warm_up, repeats):
            _wait_for(device)
            start = time.perf_counter()
            model(images)
            _wait_for(device)
            if repeat >= 0:
                times[repeat] = (time.perf_counter() - start) * 1000
    q1, median, q3 = torch.quantile(times, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return Latency(median, q1, q3, batch_size, thread_count, repeats)


def _wait_for(device: torch.device) -> None:
    """Let queued GPU work finish, so that the clock measures it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
