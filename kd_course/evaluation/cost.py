"""What an answer costs: bytes and milliseconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kd_course._validation import network, whole
from kd_course.inference import evaluating
from kd_course.models import packed_weights
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
    """Bytes of all parameters and buffers, quantised ones included, in the types they have now; a tied one counts once.

    The scales of quantised weights, a few bytes a layer, are left out.

    Raises:
        TypeError: ``model`` is not a network.
    """
    return sum(map(_bytes, [*network(model).parameters(), *model.buffers(), *packed_weights(model)]))


def _bytes(tensor: Tensor) -> int:
    if hasattr(tensor, "__tensor_flatten__"):  # a wrapper, such as torchao's, over the tensors it keeps
        return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def latency(
    model: nn.Module,
    *,
    sample: Tensor | Sequence[int] = (1, 28, 28),
    batch_size: int = 1,
    thread_count: int = 1,
    repeats: int = 50,
    warm_up: int = 10,
) -> Latency:
    """Time of one forward pass over blank images, in evaluation mode, without gradients, on the model's own device.

    The result has the median and the interquartile range, because a few slow passes on a busy machine distort a mean.

    Args:
        model: takes batches of ``sample``; what it returns does not matter.
        sample: one sample, without a batch dimension, or the shape of a blank one. In floating point it takes the type
            of the model's weights; whole numbers, such as tokens, stay what they are.
        batch_size: copies of the sample per pass.
        thread_count: CPU threads during the measurement.
        repeats: passes that count.
        warm_up: passes before them that do not.

    Raises:
        ValueError: a count is too small, or too large to be meant, or the model cannot take the sample.
        TypeError: ``model`` is not a network, ``sample`` neither tensor nor shape, or a count is no whole number.
    """
    batch_size = whole(batch_size, "batch_size", least=1, most=1_000_000)
    thread_count = whole(thread_count, "thread_count", least=1, most=1_000)
    repeats = whole(repeats, "repeats", least=1, most=1_000_000)
    warm_up = whole(warm_up, "warm_up", most=1_000_000)
    device, inputs = _inputs(network(model), sample, batch_size)
    times = torch.empty(repeats, dtype=torch.float64)
    with threads(thread_count), evaluating(model):
        for repeat in range(-warm_up, repeats):
            _wait_for(device)
            start = time.perf_counter()
            try:
                model(inputs)
            except (IndexError, RuntimeError, TypeError, ValueError) as error:
                raise ValueError(
                    f"the model cannot take inputs {tuple(inputs.shape)} of {inputs.dtype} ({error}); "
                    "pass one sample of what it takes, or its shape: latency(model, sample=…)"
                ) from error
            _wait_for(device)
            if repeat >= 0:
                times[repeat] = (time.perf_counter() - start) * 1000
    q1, median, q3 = torch.quantile(times, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return Latency(median, q1, q3, batch_size, thread_count, repeats)


def _inputs(model: nn.Module, sample: Tensor | Sequence[int], batch_size: int) -> tuple[torch.device, Tensor]:
    """The device of a model and a batch of copies of ``sample`` there, in the type of the model's weights."""
    tensors = [*model.parameters(), *model.buffers()]
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    if hasattr(sample, "shape"):  # a tensor or an array
        one = torch.as_tensor(sample)
    elif isinstance(sample, Sequence) and not isinstance(sample, str):
        one = torch.zeros([whole(size, "a size in sample", least=1) for size in sample])
    else:
        raise TypeError(f"sample must be one sample or its shape, such as (1, 28, 28), not {sample!r}")
    if one.is_floating_point():
        one = one.to(next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32))
    return device, one.to(device).expand(batch_size, *one.shape).contiguous()


def _wait_for(device: torch.device) -> None:
    """Let queued GPU work finish, so that the clock measures it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
