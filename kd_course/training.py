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
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from kd_course._engine import Engine
from kd_course._validation import network, whole
from kd_course.checkpoint import Checkpoint, checksum
from kd_course.data import Batch, Batches
from kd_course.inference import evaluating
from kd_course.runtime import seeded

if TYPE_CHECKING:
    import pandas as pd
    from lightning_fabric import Fabric

Objective = Callable[[nn.Module, Batch], "Tensor | Mapping[str, Tensor] | None"]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
Schedule = Callable[[float], float]
Better = Literal["lower", "higher"]

BETTER: dict[str, Better] = {
    **dict.fromkeys(("nll", "errors", "ece", "kl_to_teacher", "loss", "perplexity"), "lower"),
    **dict.fromkeys(("accuracy", "macro_f1", "agreement"), "higher"),
}
"""Which way the numbers of :func:`~kd_course.evaluation.evaluate` are better."""


def cosine(progress: float) -> float:
    """Learning-rate factor that falls from 1 to 0 along half a cosine as ``progress`` rises from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def fit(
    model: nn.Module,
    objective: Objective | Mapping[str, Objective],
    train: Batches,
    *,
    epochs: int,
    seed: int = 0,
    batch_size: int = 128,
    drop_last: bool = False,
    accumulate: int = 1,
    optimizer: MakeOptimizer | Mapping[str, MakeOptimizer] = partial(torch.optim.Adam, lr=1e-3),
    schedule: Schedule | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    monitor: str | None = None,
    better: Better | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    tag: str | None = None,
    device: torch.device | str | None = None,
    fabric: Fabric | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train ``model`` in place to minimise ``objective`` over ``train``, and return the history.

    ``seed`` and the epoch alone decide the random numbers of an epoch (sample order, dropout, jitter), and the
    generators are put back afterwards. So one seed gives one result, two objectives under one seed see the same
    batches, and a training resumed from its checkpoint ends at exactly the numbers of one that was never stopped.

    Frozen modules (they have parameters, none of which asks for a gradient) stay in evaluation mode.

    Several objectives take turns on every batch: ``{"generator": …, "student": …}`` moves ``model["generator"]`` by the
    first, then ``model["student"]`` by the second. Each is given the whole model, so gradients pass through all of it,
    and each has an optimizer of its own. An objective that returns None sits this turn out.

    Args:
        model: any module; for peers an ``nn.ModuleList``, for a student with a regressor an ``nn.ModuleDict``.
        objective: ``objective(model, batch)`` returns a scalar loss, or a dict of named scalars that includes
            ``"loss"``; or several of them, by the name of the child of ``model`` that each moves.
        train: the samples, with teacher logits if the objective uses them: a :class:`~kd_course.data.Split`, or another
            stream of :mod:`kd_course.data.streams`.
        epochs: passes over ``train``.
        seed: decides all randomness of the training, but not the model's initial weights: build the model in
            a :func:`~kd_course.runtime.seeded` block.
        batch_size: samples per step, over all processes; the last batch of an epoch may be smaller.
        drop_last: leave out a last batch that is smaller.
        accumulate: cut each batch into so many parts, run one after another, whose gradients add up: a part's memory,
            the whole batch's step. Exact for losses that are means over samples, without batch normalisation.
        optimizer: makes the optimizer from the parameters that require gradients; one for each objective, by name, or
            one way to make all.
        schedule: learning-rate factor as a function of the fraction of training done, in [0, 1); :func:`cosine`
            is one. With None the rate is constant.
        evaluate: called after each epoch with the model, in evaluation mode and without gradients; its numbers
            become columns of the history.
        monitor: the number of ``evaluate`` that decides which weights are best.
        better: ``"lower"`` or ``"higher"``: which way ``monitor`` is better. Known for the names in :data:`BETTER`.
        patience: stop after this many epochs without a better ``monitor``.
        checkpoint: file to save to after every epoch, and to resume from if it exists. Several processes share it.
        tag: a name by which the checkpoint knows model, objective, optimizer, schedule, samples and evaluation, in
            place of their code and content. Given from the start, it survives edits that you know to change nothing.
        device: where to train; see :func:`~kd_course.runtime.pick_device` if None.
        fabric: a launched Lightning Fabric in place of a device: its precision, its devices, its processes. Each
            process takes its rows of every batch, so that several compute what one does for losses that are means over
            samples. Relational losses see the rows of one process, batch normalisation too.
        progress: show a progress bar.

    Returns:
        A DataFrame with one row per epoch: the mean of each named term over the samples that had it, the learning rate,
        the seconds, and what ``evaluate`` returned. With several objectives a term is named ``"generator/loss"``. The
        model stays on its device, with its best weights if ``monitor`` was given.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range, the loss is no scalar or has no gradient, the numbers of ``evaluate``
            lack ``monitor`` or are named like the history's own columns, or the checkpoint is another training's.
        FloatingPointError: a term of the objective, the monitored number or a weight became NaN or infinite.
        OSError: the checkpoint cannot be written.

    Whatever ends the training early, Ctrl-C included: the exception has the history so far as its ``history``, and the
    model its best weights, if ``monitor`` was given.
    """
    epochs, batch_size = whole(epochs, "epochs", least=1), whole(batch_size, "batch_size", least=1)
    seed, accumulate = whole(seed, "seed", least=None), whole(accumulate, "accumulate", least=1)
    _check_work(model, train, schedule, tag)
    better = _direction(monitor, better, patience, evaluate)
    steps = len(train) // batch_size if drop_last else math.ceil(len(train) / batch_size)
    if not steps:
        raise ValueError(f"with drop_last no batch of {batch_size} is left of {len(train)} samples; use a smaller one")
    engine = Engine(fabric, device)
    model.to(engine.device)
    players = _players(model, objective, optimizer, engine, accumulate)
    identity = {"seed": seed, "epochs": epochs, "batch_size": batch_size, "drop_last": drop_last}
    identity |= {"accumulate": accumulate, "precision": engine.precision, "monitor": monitor, "better": better}
    identity |= {"samples": len(train), "origin": train.origin, "rates": [player.rates for player in players]}
    if tag is not None:
        identity["tag"] = tag
    elif checkpoint is not None:
        decisive = {"model": model, "objective": objective, "optimizer": optimizer, "schedule": schedule, "data": train}
        decisive |= {} if monitor is None else {"evaluate": evaluate}
        changing = _changing(model)
        identity |= {name: checksum(value, changing) for name, value in decisive.items()}
    saved = Checkpoint(checkpoint, identity, model, {player.name: player.optimizer for player in players})
    rows, best = saved.resume()  # one row per finished epoch; the best weights so far
    if len(rows) < epochs and engine.rank == 0:
        saved.rehearse()
    engine.same_everywhere([*model.parameters(), *model.buffers()])

    look = {"disable": not progress or engine.rank > 0, "leave": False, "unit": "batch", "mininterval": 0.5}
    try:
        with tqdm(total=epochs * steps, initial=len(rows) * steps, **look) as bar:
            for epoch in range(len(rows), epochs):
                if patience is not None and _epochs_since_best(rows, monitor, better) >= patience:
                    break
                start = time.perf_counter()
                epoch_seed = (seed * 1_000_003 + epoch) % 2**63
                _training_mode(model)  # in every epoch, whatever mode came before
                with seeded(epoch_seed):
                    stream = train.batches(
                        batch_size, shuffle_seed=epoch_seed, device=engine.device, drop_last=drop_last
                    )
                    for step, batch in enumerate(stream):
                        batch = replace(batch, progress=(epoch + step / steps) / epochs)
                        for player in players:
                            player.turn(model, batch, schedule)
                        bar.update()
                    row = {name: value for player in players for name, value in player.means().items()}
                    _check_finite(row, epoch)
                    _check_weights(model, epoch)
                    engine.same_everywhere(model.buffers())
                    row |= {f"{player.prefix}learning_rate": player.rate for player in players}
                    row["seconds"] = time.perf_counter() - start
                    if evaluate is not None:
                        with evaluating(model), engine.autocast():
                            row |= engine.from_first(_evaluated(evaluate(model), row, monitor, epoch))
                if monitor is not None and _epochs_since_best([*rows, row], monitor, better) == 0:
                    best = copy.deepcopy(model.state_dict())
                rows.append(row)
                if engine.rank == 0:
                    saved.save(rows, best)
    except BaseException as error:
        error.history = _frame(rows)
        weights = "" if best is None else ", and the model has the best weights of these"
        if rows:
            error.add_note(f"{len(rows)} of {epochs} epochs were finished: see .history of this exception{weights}")
        elif isinstance(error, RuntimeError) and "dtype" in str(error):
            kinds = ", ".join(sorted({str(parameter.dtype) for parameter in model.parameters()}))
            wide = torch.promote_types(torch.get_default_dtype(), torch.float32)
            error.add_note(f"the model's weights are {kinds}, and batches {wide}: convert the model with .to({wide})")
        raise
    finally:
        if best is not None:
            model.load_state_dict(best)
    return _frame(rows)


@dataclass
class _Player:
    """An objective, the parameters that it moves, and what it has seen in this epoch."""

    name: str  # "" if there is but one
    objective: Objective
    parameters: list[nn.Parameter]
    optimizer: Optimizer
    engine: Engine
    accumulate: int
    sums: dict[str, Tensor] = field(default_factory=dict)  # of each term over samples
    counts: dict[str, int] = field(default_factory=dict)  # samples that had the term

    def __post_init__(self) -> None:
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.stepper = self.engine.prepared(self.optimizer)
        self.prefix, self.of = (f"{self.name}/", f" of {self.name!r}") if self.name else ("", "")

    @property
    def rate(self) -> float:
        """The learning rate of the first group of parameters, as it is now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def turn(self, model: nn.Module, batch: Batch, schedule: Schedule | None) -> None:
        """One step of the optimizer, down the gradient of the objective over the batch."""
        if schedule is not None:
            factor = _factor(schedule, batch.progress)
            for group, base in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = base * factor
        parts = self.engine.processes * self.accumulate
        least = len(batch) if batch.unlabelled is None else min(len(batch), len(batch.unlabelled))
        if least < parts:
            raise ValueError(
                f"a batch of {least} samples cannot be cut into {parts} parts (processes × accumulate); leave the "
                "last batch out with drop_last=True, or take a larger batch_size"
            )
        for number in range(self.engine.rank, parts, self.engine.processes):
            part = batch if parts == 1 else batch.part(number, parts)
            with self.engine.autocast(), self.engine.own_numbers(number, batch.progress):
                terms = _named(self.objective(model, part), may_be_none=bool(self.name))
            if terms is None:
                return
            if number == self.engine.rank:
                self.stepper.zero_grad()
            loss = terms["loss"] if parts == 1 else terms["loss"] * (len(part) / len(batch))
            self.engine.backward(loss, self.parameters if self.name else None)
            for name, value in terms.items():
                # In float32 or wider: a sum of many bf16 numbers would stop growing.
                value = value.detach().to(torch.promote_types(value.dtype, torch.float32)) * len(part)
                self.sums[name] = self.sums.get(name, 0) + value
                self.counts[name] = self.counts.get(name, 0) + len(part)
        gradients = [each.grad for each in self.parameters if each.grad is not None]
        if not gradients:
            raise ValueError(
                f"the loss{self.of} gives no gradient to what it should move, so nothing would be learned: compute it "
                "from the model that the objective is given, without no_grad or .detach() in between"
            )
        self.engine.add_up(gradients)
        self.stepper.step()

    def means(self) -> dict[str, float]:
        """The mean of every term over the samples that had it, over all processes; a new epoch begins."""
        if not self.sums:
            why = f"the objective{self.of} sat every turn out" if self.name else "train gave no batches"
            raise ValueError(f"{why} for an epoch, so nothing would be learned")
        sums, counts = list(self.sums.values()), list(self.counts.values())
        if self.engine.processes > 1:
            counts = [torch.tensor(float(count), device=self.engine.device) for count in counts]
            self.engine.add_up(sums)
            self.engine.add_up(counts)
        means = {self.prefix + n: float(s) / float(c) for n, s, c in zip(self.sums, sums, counts, strict=True)}
        self.sums, self.counts = {}, {}
        return means


def _players(
    model: nn.Module,
    objective: Objective | Mapping[str, Objective],
    optimizer: MakeOptimizer | Mapping[str, MakeOptimizer],
    engine: Engine,
    accumulate: int,
) -> list[_Player]:
    """The objectives in the order of their turns, each with its own optimizer."""
    objectives = objective if isinstance(objective, Mapping) else {"": objective}
    optimizers = optimizer if isinstance(optimizer, Mapping) else dict.fromkeys(objectives, optimizer)
    modules = dict(model.named_children()) if isinstance(objective, Mapping) else {"": model}
    if not objectives or not objectives.keys() <= modules.keys():
        raise ValueError(
            f"objectives that take turns are named like the children of the model that they move, {list(modules)}, "
            f"not {list(objectives)}"
        )
    if objectives.keys() != optimizers.keys():
        wanted = f"one for each of {list(objectives)}" if isinstance(objective, Mapping) else "one, without a name"
        raise ValueError(f"the objectives need other optimizers than {list(optimizers)}: {wanted}")
    players = []
    for name, own in objectives.items():
        who = f"{name!r}" if name else "the model"
        parameters = [parameter for parameter in modules[name].parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError(
                f"no parameter of {who} requires a gradient; did you pass a frozen teacher as the student?"
            )
        if not callable(own):
            raise TypeError(f"an objective must be a function of model and batch, not {own!r:.80}")
        players.append(_Player(name, own, parameters, _made(optimizers[name], parameters, who), engine, accumulate))
    return players


def _made(optimizer: MakeOptimizer, parameters: list[nn.Parameter], who: str) -> Optimizer:
    """The optimizer of these parameters, once it is known to be one, and of no others."""
    fix = "pass what makes one, such as partial(torch.optim.SGD, lr=0.1)"
    if isinstance(optimizer, Optimizer) or not callable(optimizer):
        raise TypeError(f"optimizer must be a function of the parameters, not a {type(optimizer).__name__}; {fix}")
    made = optimizer(parameters)
    if not isinstance(made, Optimizer):
        raise TypeError(f"optimizer returned a {type(made).__name__}, not an optimizer; {fix}")
    moved = {id(each) for group in made.param_groups for each in group["params"]}
    if not moved or not moved <= {id(each) for each in parameters}:
        held = f"parameters that {who} does not have or does not learn" if moved else "no parameters"
        raise ValueError(
            f"the optimizer holds {held}: build it from the list that it is given, which leaves out what is frozen, "
            "and put all that learns into the model, for instance an nn.ModuleDict"
        )
    if (closure := signature(made.step).parameters.get("closure")) and closure.default is closure.empty:
        raise TypeError(f"{type(made).__name__} runs the objective several times a step, which fit does not; {fix}")
    return made


def _factor(schedule: Schedule, progress: float) -> float:
    given = schedule(progress)
    factor = _as_number(given)
    if factor is None or not 0 <= factor < math.inf:
        raise ValueError(
            f"the schedule must give finite factors, 0 or more, not {given!r:.80} at progress {progress:.3g}"
        )
    return factor


def _as_number(value: object) -> float | None:
    """A single number of Python, NumPy, pandas or PyTorch as Python's; None for everything else."""
    try:
        return None if isinstance(value, str | bytes) else float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _named(result: Tensor | Mapping[str, Tensor] | None, *, may_be_none: bool) -> Mapping[str, Tensor] | None:
    """What an objective returned, as named terms."""
    if result is None and may_be_none:
        return None
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
    if taken := sorted({"seconds", "learning_rate"} & terms.keys()):
        raise ValueError(f"the objective must not name its terms {taken}: the history has such columns; rename them")
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.numel() != 1 or not isinstance(name, str):
            given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"every term of the objective must be one scalar tensor by name; its {name!r} is {given}")
    return terms


def _evaluated(
    result: Mapping[str, float], row: Mapping[str, float], monitor: str | None, epoch: int
) -> dict[str, float]:
    """What ``evaluate`` returned, as plain numbers, since a checkpoint can hold no others."""
    if not isinstance(result, Mapping):
        raise ValueError(f"evaluate must return a dict of named numbers, not {result!r:.80}; end it with return {{…}}")
    numbers = {name: _as_number(value) for name, value in result.items()}
    if wrong := [name for name, value in numbers.items() if value is None or not isinstance(name, str)]:
        name = wrong[0]
        raise ValueError(f"evaluate must return single numbers by name, but its {name!r} is {result[name]!r:.80}")
    if taken := sorted(numbers.keys() & row.keys()):
        raise ValueError(f"evaluate must not name its numbers {taken}: the history has such columns; rename them")
    if monitor is not None and monitor not in numbers:
        raise ValueError(f"evaluate returned no {monitor!r} to monitor; it gave {', '.join(numbers) or 'nothing'}")
    if monitor is not None:
        _check_finite({monitor: numbers[monitor]}, epoch)  # no number is smaller than NaN
    return numbers


def _epochs_since_best(rows: list[dict[str, float]], monitor: str, better: Better) -> int:
    """Epochs since the one with the best ``monitor``; 0 before the first."""
    values = [row[monitor] for row in rows]
    return len(values) - 1 - values.index((min if better == "lower" else max)(values)) if values else 0


def _training_mode(model: nn.Module) -> None:
    """Training mode for all but frozen modules, whose batch statistics and dropout belong to what they know."""
    model.train()
    for module in _frozen(model):
        module.eval()


def _frozen(model: nn.Module) -> list[nn.Module]:
    """The modules that have parameters, none of which asks for a gradient; what is below such a one belongs to it."""
    found = [(module, [each.requires_grad for each in module.parameters()]) for module in model.modules()]
    return [module for module, asking in found if asking and not any(asking)]


def _changing(model: nn.Module) -> list[Tensor]:
    """The tensors of the model that a training may change, in order: all but those of frozen modules.

    Moving averages are frozen, and change nevertheless.
    """
    averages = [module for module in model.modules() if isinstance(module, AveragedModel)]
    still = _tensors(*_frozen(model)).keys() - _tensors(*averages).keys()
    return [tensor for key, tensor in _tensors(model).items() if key not in still]


def _tensors(*modules: nn.Module) -> dict[int, Tensor]:
    """Their parameters and buffers, by id."""
    return {id(each): each for module in modules for each in (*module.parameters(), *module.buffers())}


def _frame(rows: list[dict[str, float]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="epoch"))


def _check_finite(row: Mapping[str, float], epoch: int) -> None:
    for name, value in row.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name!r} became {value} in epoch {epoch + 1}; lower the learning rate, "
                "and look for a logarithm or a division in the objective that log_softmax would do safely"
            )


def _check_weights(model: nn.Module, epoch: int) -> None:
    """Raise unless the last steps left only finite weights: the losses before them say nothing of it."""
    bad = [name for name, each in model.named_parameters() if each.requires_grad and not each.isfinite().all()]
    if bad:
        raise FloatingPointError(
            f"{', '.join(bad[:3])} became NaN or infinite in epoch {epoch + 1}, though the loss was finite: a gradient "
            "was not; lower the learning rate, and look for a square root of 0 or a division by 0 in the objective"
        )


def _check_work(model: nn.Module, train: Batches, schedule: Schedule | None, tag: str | None) -> None:
    """Raise unless there is something to train, and something to train it on."""
    network(model)
    if tag is not None and not isinstance(tag, str):
        raise TypeError(f"tag must be a text that names the training, not {tag!r:.80}")
    if not all(hasattr(train, name) for name in ("batches", "origin", "__len__")):
        raise TypeError(
            f"train must be a Split or another stream of batches, not {type(train).__name__}; make one of arrays with "
            "Split.from_arrays, of a PyTorch dataset with Split.from_dataset"
        )
    if not len(train):
        raise ValueError(f"{train!r} is empty, so there is nothing to learn from; check how the split was made")
    if schedule is not None and (not callable(schedule) or isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)):
        raise TypeError(
            f"schedule must be a function of the fraction of training done, such as cosine, not a "
            f"{type(schedule).__name__}"
        )


def _direction(
    monitor: str | None, better: Better | None, patience: int | None, evaluate: Callable | None
) -> Better | None:
    """Which way the monitored number is better, once what decides the best epoch is known to fit together."""
    if evaluate is not None and not callable(evaluate):
        raise TypeError(f"evaluate must be a function of the model, not {evaluate!r:.80}")
    if monitor is not None and not isinstance(monitor, str):
        raise TypeError(f"monitor must be the name of one number of evaluate, not {monitor!r:.80}")
    if monitor is not None and evaluate is None:
        raise ValueError(f"monitor={monitor!r} needs evaluate=..., the function that returns it")
    if patience is not None and (monitor is None or whole(patience, "patience", least=None) < 1):
        raise ValueError(f"patience={patience!r} must be 1 or more, and needs monitor=..., the number that decides")
    if better not in (None, "lower", "higher") or (monitor is None and better is not None):
        raise ValueError(f"better={better!r} must be 'lower' or 'higher', and says so of monitor=...")
    if monitor is not None and better is None and monitor not in BETTER:
        raise ValueError(f"is a lower or a higher {monitor!r} better? Say better='lower' or better='higher'")
    return better or BETTER.get(monitor)
