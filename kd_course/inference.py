"""Using a network without training it: the one place where evaluation mode and ``no_grad`` are switched on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kd_course.data import Split
from kd_course.runtime import pick_device


def freeze(model: nn.Module) -> nn.Module:
    """Make ``model`` a teacher: evaluation mode, no gradient to its weights. Returns the model."""
    return model.eval().requires_grad_(False)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block with ``model`` in evaluation mode and without gradients, then restore each module's mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(
    model: nn.Module, split: Split, *, batch_size: int = 500, device: torch.device | str | None = None
) -> Tensor:
    """Logits of ``model`` for every sample of ``split``: float32 on the CPU, (N, classes), row i for sample i.

    This is how a teacher is asked: once, before training, in evaluation mode and without gradients. Give the
    table to :meth:`~kd_course.data.Split.with_teacher` and no student ever waits for its teacher again. The model
    comes back on the device and in the mode it had, its batch-norm statistics untouched.

    Raises:
        ValueError: ``split`` is empty.
    """
    if not len(split):
        raise ValueError(f"{split!r} is empty, so there is nothing to predict; check how the split was made")
    device = torch.device(device) if device else pick_device()
    parameter = next(model.parameters(), None)
    home = device if parameter is None else parameter.device
    model.to(device)
    try:
        with evaluating(model):
            return torch.cat([model(batch.images).float().cpu() for batch in split.batches(batch_size, device=device)])
    finally:
        model.to(home)
