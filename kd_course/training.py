"""One training loop for every method of the course.

The loop knows nothing of distillation, and an objective knows nothing of loops::

    def objective(model, batch):
        return kd_loss(model(batch.images), batch.teacher_logits, batch.labels, temperature=4, alpha=0.9)


    history = fit(student, objective, train.with_teacher(logits), epochs=8, seed=0)
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from kd_course.checkpoint import Checkpoint
from kd_course.data import Batch, Split
from kd_course.inference import evaluating
from kd_course.runtime import pick_device, seeded

if TYPE_CHECKING:
    import pandas as pd

Objective = Callable[[nn.Module, Batch], "Tensor | Mapping[str, Tensor]"]
Schedule = Callable[[float], float]


def cosine(progress: float) -> float:
    """Learning-rate factor that falls from 1 to 0 along half a cosine as ``progress`` rises from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def fit(
    model: nn.Module,
    objective: Objective,
    train: Split,
    *,
    epochs: int,
    seed: int = 0,
    batch_size: int = 128,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = partial(torch.optim.Adam, lr=1e-3),
    schedule: Schedule | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    monitor: str | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train ``model`` in place to minimise ``objective`` over ``train``, and return the history.

    ``seed`` and the epoch alone decide the random numbers of an epoch (sample order, dropout, jitter), and the
    generators are put back afterwards. So one seed gives one result, two objectives under one seed see the same
    batches, and a training resumed from its checkpoint ends at exactly the numbers of one that was never stopped.

    Args:
        model: any module; for peers an ``nn.ModuleList``, for a student with a regressor an ``nn.ModuleDict``.
        objective: ``objective(model, batch)`` returns a scalar loss, or a dict of named scalars that includes
            ``"loss"``.
        train: the samples, with teacher logits if the objective uses them.
        epochs: passes over ``train``.
        seed: decides all randomness of the training, but not the model's initial weights: build the model in
            a :func:`~kd_course.runtime.seeded` block.
        batch_size: samples per step; the last batch of an epoch may be smaller.
        optimizer: makes the optimizer from the parameters that require gradients.
        schedule: learning-rate factor as a function of the fraction of training done, in [0, 1); :func:`cosine`
            is one. With None the rate is constant.
        evaluate: called after each epoch with the model, in evaluation mode and without gradients; its numbers
            become columns of the history.
        monitor: the number of ``evaluate`` that decides which weights are best, smaller is better (``"nll"``,
            ``"errors"``).
        patience: stop after this many epochs without a better ``monitor``.
        checkpoint: file to save to after every epoch, and to resume from if it exists.
        device: where to train; see :func:`~kd_course.runtime.pick_device` if None.
        progress: show a progress bar.

    Returns:
        A DataFrame with one row per epoch: the mean of each named term over the samples, the learning rate, the
        seconds, and what ``evaluate`` returned. The model stays on ``device``, with its best weights if ``monitor``
        was given.

    Raises:
        ValueError: an argument is out of range, the loss is no scalar or has no gradient, the numbers of ``evaluate``
            lack ``monitor`` or are named like the history's own columns, or the checkpoint is another training's.
        FloatingPointError: a term of the objective, or the monitored number, became NaN or infinite.
    """
    import pandas as pd

    _check_work(model, train, epochs, batch_size)
    _check_monitor(monitor, patience, evaluate)
    device = torch.device(device) if device else pick_device()
    model.to(device)
    optim = optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    base_rates = [group["lr"] for group in optim.param_groups]
    identity = {"seed": seed, "epochs": epochs, "batch_size": batch_size, "monitor": monitor}
    identity |= {"samples": len(train), "origin": train.origin, "rates": base_rates}
    saved = Checkpoint(checkpoint, identity, model, optim)
    rows, best = saved.resume()  # one row per finished epoch; the best weights so far
    steps = math.ceil(len(train) / batch_size)

    look = {"disable": not progress, "leave": False, "unit": "batch", "mininterval": 0.5}
    with tqdm(total=epochs * steps, initial=len(rows) * steps, **look) as bar:
        for epoch in range(len(rows), epochs):
            if patience is not None and _epochs_since_best(rows, monitor) >= patience:
                break
            start = time.perf_counter()
            epoch_seed = seed * 1_000_003 + epoch
            sums: dict[str, Tensor] = {}
            model.train()  # in every epoch, whatever mode came before
            with seeded(epoch_seed):
                for step, batch in enumerate(train.batches(batch_size, shuffle_seed=epoch_seed, device=device)):
                    done = (epoch + step / steps) / epochs
                    if schedule is not None:
                        for group, base in zip(optim.param_groups, base_rates, strict=True):
                            group["lr"] = base * schedule(done)
                    terms = _named(objective(model, replace(batch, progress=done)))
                    optim.zero_grad()
                    terms["loss"].backward()
                    optim.step()
                    for name, value in terms.items():
                        sums[name] = sums.get(name, 0) + value.detach() * len(batch.labels)
                    bar.update()
            row = {name: float(total) / len(train) for name, total in sums.items()}
            _check_finite(row, epoch)
            row |= {"learning_rate": optim.param_groups[0]["lr"], "seconds": time.perf_counter() - start}
            if evaluate is not None:
                with evaluating(model):
                    row |= _evaluated(evaluate(model), row, monitor, epoch)
            rows.append(row)
            if monitor is not None and _epochs_since_best(rows, monitor) == 0:
                best = copy.deepcopy(model.state_dict())
            saved.save(rows, best)
    if best is not None:
        model.load_state_dict(best)
    return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="epoch"))


def _named(result: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What an objective returned, as named terms."""
    terms = result if isinstance(result, Mapping) else {"loss": result}
    loss = terms.get("loss")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{type(loss).__name__}"
        raise ValueError(
            "the objective must return one scalar tensor, or a dict of them with 'loss' among its names; "
            f"its loss is {given}"
        )
    if not loss.requires_grad:
        raise ValueError(
            "the objective's loss has no gradient, so nothing would be learned: compute it from model(batch.images), "
            "without no_grad, .detach() or .item()"
        )
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"every term of the objective must be one scalar tensor; its {name!r} is {given}")
    return terms


def _evaluated(
    result: Mapping[str, float], row: Mapping[str, float], monitor: str | None, epoch: int
) -> dict[str, float]:
    """What ``evaluate`` returned, as plain numbers, since a checkpoint can hold no others."""
    numbers = {name: float(value) for name, value in result.items()}
    if taken := sorted(numbers.keys() & row.keys()):
        raise ValueError(f"evaluate must not name its numbers {taken}: the history has such columns; rename them")
    if monitor is not None and monitor not in numbers:
        raise ValueError(f"evaluate returned no {monitor!r} to monitor; it gave {', '.join(numbers) or 'nothing'}")
    if monitor is not None:
        _check_finite({monitor: numbers[monitor]}, epoch)  # no number is smaller than NaN
    return numbers


def _epochs_since_best(rows: list[dict[str, float]], monitor: str) -> int:
    """Epochs since the one with the smallest ``monitor``; 0 before the first."""
    values = [row[monitor] for row in rows]
    return len(values) - 1 - values.index(min(values)) if values else 0


def _check_finite(row: Mapping[str, float], epoch: int) -> None:
    for name, value in row.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name!r} became {value} in epoch {epoch + 1}; lower the learning rate, "
                "and look for a logarithm or a division in the objective that log_softmax would do safely"
            )


def _check_work(model: nn.Module, train: Split, epochs: int, batch_size: int) -> None:
    """Raise ``ValueError`` unless there is something to train, and something to train it on."""
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be 1 or more, not {epochs} and {batch_size}")
    if not len(train):
        raise ValueError(f"{train!r} is empty, so there is nothing to learn from; check how the split was made")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("no parameter of the model requires a gradient; did you pass a frozen teacher as the student?")


def _check_monitor(monitor: str | None, patience: int | None, evaluate: Callable | None) -> None:
    """Raise ``ValueError`` unless what decides the best epoch fits together."""
    if monitor is not None and evaluate is None:
        raise ValueError(f"monitor={monitor!r} needs evaluate=..., the function that returns it")
    if patience is not None and (monitor is None or patience < 1):
        raise ValueError(f"patience={patience!r} must be 1 or more, and needs monitor=..., the number that has to fall")
