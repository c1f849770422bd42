"""One training loop for every method of the course.

The loop knows nothing of distillation, and an objective knows nothing of loops::

    def objective(model, batch):
        return kd_loss(model(batch.images), batch.teacher_logits, batch.labels, temperature=4, alpha=0.9)


    history = fit(student, objective, train.with_teacher(logits), epochs=8, seed=0)
"""

from __future__ import annotations

import copy
import math
import os
import tempfile
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

from kd_course.data import Batch, Split
from kd_course.inference import evaluating
from kd_course.runtime import pick_device, seeded

if TYPE_CHECKING:
    import pandas as pd

Objective = Callable[[nn.Module, Batch], "Tensor | Mapping[str, Tensor]"]
Schedule = Callable[[float], float]


def cosine(progress: float) -> float:
    """Learning-rate factor that falls from 1 to 0 along half a cosine as ``progress`` goes from 0 to 1."""
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
    """Minimise ``objective`` over ``train``; the model is trained in place and its history returned.

    Every epoch starts from random numbers that ``seed`` and the epoch alone decide (sample order, dropout, jitter), on
    generators that are put back afterwards. So one seed gives one result, two objectives under one seed see the
    same batches, and a training resumed from its checkpoint ends at the very numbers of one that was never stopped.

    Args:
        model: any module; for peers an ``nn.ModuleList``, for a student with a regressor an ``nn.ModuleDict``.
        objective: ``objective(model, batch)`` gives a scalar loss, or a dict of named scalars with ``"loss"`` among
            them.
        train: the samples, with teacher logits if the objective wants them.
        epochs: passes over ``train``.
        seed: decides all randomness of the training, not the model's initial weights (build it in ``seeded(…)``).
        batch_size: samples per step; the last batch of an epoch may be smaller.
        optimizer: makes the optimizer from the parameters that ask for gradients; Adam at 1e-3 if left out.
        schedule: learning-rate factor as a function of the fraction of training done, such as :func:`cosine`.
        evaluate: called after each epoch with the model in evaluation mode and without gradients; its numbers
            join the history.
        monitor: column of ``evaluate`` to keep the best weights by, smaller is better (``"nll"``, ``"errors"``).
        patience: stop after this many epochs without a better ``monitor``.
        checkpoint: file to save to after every epoch, and to resume from when it exists.
        device: where to train; cuda, mps or cpu, the first there is, if None.
        progress: show a bar.

    Returns:
        A DataFrame with one row per epoch: the mean of each named term, the learning rate, the seconds, and what
        ``evaluate`` returned. The model stays on ``device``, with its best weights if ``monitor`` was given.

    Raises:
        ValueError: an argument out of range, an objective without a scalar loss or without a gradient, an ``evaluate``
            whose numbers bear the names of the history's own columns or lack ``monitor``, or a checkpoint of another
            training.
        FloatingPointError: a term of the objective, or the monitored number, became NaN or infinite.
    """
    import pandas as pd

    _check(model, train, epochs, batch_size, evaluate, monitor, patience)
    device = torch.device(device) if device else pick_device()
    model.to(device)
    optim = optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    base_rates = [group["lr"] for group in optim.param_groups]
    identity = {"seed": seed, "epochs": epochs, "batch_size": batch_size, "monitor": monitor}
    identity |= {"samples": len(train), "origin": train.origin, "rates": base_rates}
    rows, best = _resume(checkpoint, identity, model, optim)
    steps = math.ceil(len(train) / batch_size)

    bar = tqdm(
        total=epochs * steps,
        initial=len(rows) * steps,
        disable=not progress,
        leave=False,
        unit="batch",
        mininterval=0.5,
    )
    with bar:
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
            _refuse_non_finite(row, epoch)
            row |= {"learning_rate": optim.param_groups[0]["lr"], "seconds": time.perf_counter() - start}
            if evaluate is not None:
                with evaluating(model):
                    row |= _measured(evaluate(model), row, monitor, epoch)
            rows.append(row)
            if monitor is not None and _epochs_since_best(rows, monitor) == 0:
                best = copy.deepcopy(model.state_dict())
            if checkpoint is not None:
                _save(Path(checkpoint), identity, model, optim, rows, best)
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


def _measured(
    result: Mapping[str, float], row: Mapping[str, float], monitor: str | None, epoch: int
) -> dict[str, float]:
    """What ``evaluate`` returned, as plain numbers (a checkpoint can hold no others), fit to be monitored."""
    numbers = {name: float(value) for name, value in result.items()}
    if taken := sorted(numbers.keys() & row.keys()):
        raise ValueError(f"evaluate must not name its numbers {taken}: the history has such columns; rename them")
    if monitor is not None and monitor not in numbers:
        raise ValueError(f"evaluate measured no {monitor!r} to monitor; it gave {', '.join(numbers) or 'nothing'}")
    if monitor is not None:
        _refuse_non_finite({monitor: numbers[monitor]}, epoch)  # no number is smaller than NaN
    return numbers


def _epochs_since_best(rows: list[dict[str, float]], monitor: str) -> int:
    """Epochs after the one with the smallest ``monitor``; 0 before the first."""
    values = [row[monitor] for row in rows]
    return len(values) - 1 - values.index(min(values)) if values else 0


def _refuse_non_finite(row: Mapping[str, float], epoch: int) -> None:
    for name, value in row.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name!r} became {value} in epoch {epoch + 1}; lower the learning rate, "
                "and look for a logarithm or a division in the objective that log_softmax would do safely"
            )


def _check(
    model: nn.Module,
    train: Split,
    epochs: int,
    batch_size: int,
    evaluate: Callable | None,
    monitor: str | None,
    patience: int | None,
) -> None:
    """Refuse, before any work is done, what could only fail or mislead later."""
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be 1 or more, not {epochs} and {batch_size}")
    if not len(train):
        raise ValueError(f"{train!r} is empty, so there is nothing to learn from; check how the split was made")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("no parameter of the model asks for a gradient; did you pass a frozen teacher as the student?")
    if monitor is not None and evaluate is None:
        raise ValueError(f"monitor={monitor!r} needs evaluate=..., the function that measures it")
    if patience is not None and (monitor is None or patience < 1):
        raise ValueError(
            f"patience={patience!r} must be 1 or more, and needs monitor=..., the number to be patient about"
        )


def _save(
    path: Path,
    identity: dict,
    model: nn.Module,
    optim: Optimizer,
    rows: list[dict[str, float]],
    best: dict[str, Tensor] | None,
) -> None:
    """Write a checkpoint beside ``path`` and rename it there, so that a kill at any moment leaves a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"identity": identity, "model": model.state_dict(), "optim": optim.state_dict(), "rows": rows, "best": best}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _resume(
    checkpoint: str | Path | None, identity: dict, model: nn.Module, optim: Optimizer
) -> tuple[list[dict[str, float]], dict[str, Tensor] | None]:
    """History and best weights so far, model and optimizer set back to them; empty without a checkpoint."""
    if checkpoint is None or not Path(checkpoint).exists():
        return [], None
    mend = f"delete {checkpoint} to start afresh, or give this training a checkpoint of its own"
    try:
        state = torch.load(checkpoint, map_location=next(model.parameters()).device, weights_only=True)
        saved = state["identity"]
    except Exception as error:
        raise ValueError(f"{checkpoint} is not a readable checkpoint ({error}); {mend}") from error
    differing = [
        f"{key} {saved.get(key)} there, {value} here" for key, value in identity.items() if saved.get(key) != value
    ]
    if differing:
        raise ValueError(f"{checkpoint} belongs to another training ({'; '.join(differing)}); {mend}")
    try:
        model.load_state_dict(state["model"])
        optim.load_state_dict(state["optim"])
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{checkpoint} holds another model or optimizer ({error}); {mend}") from error
    return state["rows"], state["best"]
