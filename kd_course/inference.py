"""Using a network without training it: the one file that switches to evaluation mode and ``no_grad``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kd_course.data import Split
from kd_course.runtime import pick_device


def freeze(model: nn.Module) -> nn.Module:
    """Make ``model`` a teacher and return it: in evaluation mode, with weights that get no gradient."""
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
    """Logits of ``model`` for every sample of ``split``, in evaluation mode and without gradients.

    This is how a teacher is run: once, before training. Give the table to
    :meth:`~kd_course.data.Split.with_teacher` and no student ever waits for its teacher again. The model comes back
    on the device and in the mode it had, with its batch-norm statistics unchanged.

    Args:
        model: a network that returns logits (B, classes) for images (B, 1, 28, 28).
        split: N samples.
        batch_size: samples per forward pass; it changes the speed and the memory, not the logits.
        device: where to compute; see :func:`~kd_course.runtime.pick_device` if None.

    Returns:
        Logits (N, classes), float32, on the CPU; row i belongs to sample i.

    Raises:
        ValueError: ``split`` is empty.
        TypeError: the model returns several tensors, by name.
    """
    tables = _table(model, model, split, batch_size, device)
    if set(tables) != {"logits"}:
        raise TypeError(
            f"predict needs a model that returns one tensor of logits, and this one returns {sorted(tables)} by name; "
            "pass the network itself, or use predict_features"
        )
    return tables["logits"]


def predict_features(
    model: nn.Module,
    split: Split,
    stages: Sequence[str],
    *,
    batch_size: int = 500,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Features of ``model`` at the named stages, for every sample of ``split``.

    Give the tables to :meth:`~kd_course.data.Split.with_features`. Feature maps are large: take only the samples and
    stages you need.

    Args:
        model: the network, left as :func:`predict` leaves it.
        split: N samples.
        stages: names of layers, such as ``model.stages`` of the course's networks, or of any other node that
            torchvision's ``create_feature_extractor`` finds.
        batch_size: samples per forward pass.
        device: where to compute; see :func:`~kd_course.runtime.pick_device` if None.

    Returns:
        A table (N, …) for each stage, float32, on the CPU; row i belongs to sample i.

    Raises:
        ValueError: ``split`` is empty, or the model has no such stage.
    """
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    try:
        with evaluating(model):  # tracing puts one mode on every module
            extractor = create_feature_extractor(model, list(stages))
    except ValueError:
        known = [name for name, _ in model.named_children()]
        with evaluating(model):
            nodes = get_graph_node_names(model)[1]
        raise ValueError(f"no stage among {list(stages)} can be extracted; stages: {known}; nodes: {nodes}") from None
    return _table(model, extractor, split, batch_size, device)


def _table(
    model: nn.Module, function: nn.Module, split: Split, batch_size: int, device: torch.device | str | None
) -> dict[str, Tensor]:
    """Run ``function``, which shares the weights of ``model``, on all of ``split``: one table per output."""
    if not len(split):
        raise ValueError(f"{split!r} is empty, so there is nothing to predict; check how the split was made")
    device = torch.device(device) if device else pick_device()
    parameter = next(model.parameters(), None)
    home = device if parameter is None else parameter.device
    function.to(device)
    parts: dict[str, list[Tensor]] = {}
    try:
        with evaluating(model), evaluating(function):
            for batch in split.batches(batch_size, device=device):
                output = function(batch.images)
                for name, value in (output if isinstance(output, dict) else {"logits": output}).items():
                    parts.setdefault(name, []).append(value.float().cpu())
    finally:
        function.to(home)
    return {name: torch.cat(values) for name, values in parts.items()}
