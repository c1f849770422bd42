"""Using a network without training it: the one file that switches to evaluation mode and ``no_grad``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from kd_course._engine import Engine
from kd_course._validation import network as checked
from kd_course._validation import whole
from kd_course.data import Batch, Split
from kd_course.data.split import mark_made_for

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Device = torch.device | str | None


def freeze(model: nn.Module) -> nn.Module:
    """Make ``model`` a teacher and return it: in evaluation mode, with weights that get no gradient."""
    return checked(model).eval().requires_grad_(False)


class Teacher(nn.Module):
    """A live teacher: a network that answers inside an objective, and never learns.

    It stays in evaluation mode whatever contains it, its weights get no gradient, and it moves with the model that it
    is part of. Gradients to its *input* pass, which is what a generator learns from. Put it into the ``nn.ModuleDict``
    that is trained, or close over it::

        players = nn.ModuleDict({"student": student, "teacher": Teacher(network)})

    Args:
        model: a network whose output is logits, or holds them: see :func:`logits_of`. It is frozen, not copied.

    >>> teacher = Teacher(nn.Linear(4, 3))
    >>> teacher.train().training, teacher(torch.zeros(1, 4)).requires_grad
    (False, False)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = freeze(model)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode, whatever ``mode`` is."""
        return super().train(False)

    def forward(self, *inputs: Tensor, **options: object) -> Tensor:
        """The teacher's logits."""
        return logits_of(self.model(*inputs, **options))


def logits_of(output: object) -> Tensor:
    """The logits in what a network returned: a tensor, a tuple that begins with it, or ``"logits"`` by name.

    Raises:
        TypeError: there are none.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        found = output.get("logits", output.get("out"))  # "out" is what torchvision's segmentation says
    else:
        found = getattr(output, "logits", output[0] if isinstance(output, tuple | list) and output else None)
    if not isinstance(found, Tensor):
        held = f" of {sorted(map(str, output))}" if isinstance(output, Mapping) else ""
        raise TypeError(
            f"the model returned a {type(output).__name__}{held}, and no tensor of logits: neither alone, nor as "
            "'logits', nor first in a tuple; wrap it in a module whose forward returns its logits, or use "
            "predict_features"
        )
    return found


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
    model: nn.Module,
    split: Split,
    *,
    batch_size: int = 500,
    inputs: str | Sequence[str] | None = None,
    out: Tensor | None = None,
    device: Device = None,
    fabric: Fabric | None = None,
    progress: bool = False,
) -> Tensor:
    """Logits of ``model`` for every sample of ``split``, in evaluation mode and without gradients.

    This is how a teacher is run: once, before training. Give the table to
    :meth:`~kd_course.data.Split.with_teacher` and no student ever waits for its teacher again. The model comes back
    on the device and in the mode it had, with its batch-norm statistics unchanged.

    A table of 1.28 million images and 1,000 classes takes 5.1 GB in float32. With ``out`` it is written as it grows, in
    the type of ``out``, also to a file: ``torch.from_numpy(numpy.memmap(path, "float16", "w+", shape=(N, C)))``.

    Args:
        model: a network from images (B, C, H, W), or other inputs, to logits (B, classes).
        split: N samples.
        batch_size: samples per forward pass; it changes the speed and the memory, not the logits.
        inputs: the name of the input that the model takes, or several in order; if None the images, or the only one.
        out: a floating-point table (N, …) on the CPU to write to, and to return.
        device: where to compute; see :func:`~kd_course.runtime.pick_device` if None.
        fabric: a Lightning Fabric instead of a device: each of its processes does its part, and all get the table.
        progress: show a bar.

    Returns:
        Logits (N, …), float32 (or ``out``), on the CPU; row i belongs to sample i.

    Raises:
        ValueError: ``split`` is empty, there is no such input, or ``out`` does not fit.
        TypeError: the model is no network, or returns no logits (see :func:`logits_of`), or ``out`` is no tensor.
    """
    chosen = _inputs(split, inputs)

    def answer(batch: Batch) -> dict[str, Tensor]:
        return {"logits": logits_of(model(*(batch.inputs[name] for name in chosen))).float()}

    outs = {} if out is None else {"logits": out}
    return _tables(model, answer, split, batch_size, Engine(fabric, device), outs, progress)["logits"]


def predict_top_k(
    model: nn.Module,
    split: Split,
    k: int,
    *,
    batch_size: int = 500,
    inputs: str | Sequence[str] | None = None,
    device: Device = None,
    fabric: Fabric | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    """The k most probable classes of ``model`` for every sample: what fits where a table of all logits does not.

    For a vocabulary of 128,000 a float16 table of logits takes 256 kB per token; with k = 32 this takes 192 bytes.
    Give it to :meth:`~kd_course.data.Split.with_teacher`.

    Args:
        model: a network that returns logits (B, …, classes).
        split: N samples.
        k: how many classes to keep.
        batch_size: samples per forward pass.
        inputs: as in :func:`predict`.
        device: where to compute; see :func:`~kd_course.runtime.pick_device` if None.
        fabric: as in :func:`predict`.
        progress: show a bar.

    Returns:
        ``"top_log_probabilities"``, float16 (N, …, k), at T = 1 and normalised over *all* classes, and
        ``"top_indices"``, int32 (N, …, k), the most probable class first.

    Raises:
        ValueError: as :func:`predict`, or there are fewer than ``k`` classes.
    """
    chosen, k = _inputs(split, inputs), whole(k, "k", least=1)

    def answer(batch: Batch) -> dict[str, Tensor]:
        logits = logits_of(model(*(batch.inputs[name] for name in chosen)))
        classes = logits.shape[-1] if logits.ndim > 1 else 0
        if k > classes:
            raise ValueError(f"logits {tuple(logits.shape)} are of {classes} classes; k={k} must not be more")
        top, indices = logits.float().log_softmax(-1).topk(k)
        return {"top_log_probabilities": top.half(), "top_indices": indices.int()}

    return _tables(model, answer, split, batch_size, Engine(fabric, device), {}, progress)


def predict_features(
    model: nn.Module,
    split: Split,
    stages: Sequence[str],
    *,
    batch_size: int = 500,
    inputs: str | Sequence[str] | None = None,
    device: Device = None,
) -> dict[str, Tensor]:
    """Features of ``model`` at the named stages, for every sample of ``split``.

    Give the tables to :meth:`~kd_course.data.Split.with_features`. Feature maps are large: take only the samples and
    stages you need.

    Args:
        model: the network, left as :func:`predict` leaves it.
        split: N samples.
        stages: names of layers, such as ``model.stages`` of the course's networks or any of ``named_modules()``, or of
            another node that torchvision's ``create_feature_extractor`` finds. Of a layer that is called several times
            the last answer counts.
        batch_size: samples per forward pass.
        inputs: as in :func:`predict`.
        device: where to compute; see :func:`~kd_course.runtime.pick_device` if None.

    Returns:
        A table (N, …) for each stage, float32, on the CPU; row i belongs to sample i.

    Raises:
        ValueError: ``split`` is empty, the model has no such stage, or it never calls it.
        TypeError: the model is no network, or a layer returns no tensor.
    """
    stages, chosen = [stages] if isinstance(stages, str) else list(stages), _inputs(split, inputs)
    if not stages:
        raise ValueError("name at least one stage, such as those of model.stages")
    network = _unwrapped(model)
    layers = dict(network.named_modules())
    if set(stages) <= layers.keys():
        extract = _hooked(network, {stage: layers[stage] for stage in stages})
    else:
        extract = _traced(network, stages)

    def answer(batch: Batch) -> dict[str, Tensor]:
        features = extract(*(batch.inputs[name] for name in chosen))
        for stage, feature in features.items():
            if not isinstance(feature, Tensor):
                raise TypeError(f"stage {stage!r} is a {type(feature).__name__}, not a tensor; name one within it")
        return {stage: features[stage].float() for stage in stages}

    run = extract if isinstance(extract, nn.Module) else network
    return _tables(run, answer, split, batch_size, Engine(None, device), {}, False)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network that torch.compile, or one of PyTorch's containers with a ``module``, is wrapped around."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return checked(model)


def _hooked(network: nn.Module, layers: dict[str, nn.Module]) -> Callable[..., dict[str, object]]:
    """Runs a network, and returns what these layers answered the last time they were called."""

    def extract(*inputs: Tensor) -> dict[str, Tensor]:
        found: dict[str, object] = {}

        def note(stage: str, output: object) -> None:
            found[stage] = output.clone() if isinstance(output, Tensor) else output  # the next layer may work in place

        with ExitStack() as hooks:
            for stage, layer in layers.items():
                hook = layer.register_forward_hook(lambda _module, _inputs, output, stage=stage: note(stage, output))
                hooks.enter_context(hook)
            network(*inputs)
        if missing := layers.keys() - found:
            raise ValueError(f"the network never calls {sorted(missing)}, so there are no features; name other layers")
        return found

    return extract


def _traced(network: nn.Module, stages: Sequence[str]) -> nn.Module:
    """A network that ends at nodes which are no layers, found by tracing."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    known, nodes = [name for name, _ in network.named_children()], None
    try:
        with evaluating(network):  # tracing puts one mode on every module
            nodes = get_graph_node_names(network)[1]
            return create_feature_extractor(network, list(stages))
    except Exception as error:  # whatever a forward raises when it is given symbols instead of numbers
        other = sorted(set(stages) - dict(network.named_modules()).keys())
        if nodes is not None:
            raise ValueError(f"stages {other} cannot be extracted; stages: {known}; nodes: {nodes}") from None
        raise ValueError(
            f"no layers are named {other}, and this network cannot be traced for other nodes "
            f"({type(error).__name__}); name layers: {known}, or any of named_modules()"
        ) from error


def _inputs(split: Split, names: str | Sequence[str] | None) -> list[str]:
    """The inputs that a model takes, in order."""
    if not isinstance(split, Split):
        raise TypeError(f"the samples must be a Split, not a {type(split).__name__}; make one with Split.from_arrays")
    if names is None:
        names = list(split.inputs) if len(split.inputs) == 1 else ["images"]
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in split.inputs]
    if unknown or not names:
        lacks = f"no input {unknown[0]!r}" if unknown else "inputs, and the model needs one"
        raise ValueError(f"{split!r} has {lacks}; choose with inputs=… from {list(split.inputs)}")
    return names


def _tables(
    model: nn.Module,
    answer: Callable[[Batch], dict[str, Tensor]],
    split: Split,
    batch_size: int,
    engine: Engine,
    out: Mapping[str, Tensor],
    progress: bool,
) -> dict[str, Tensor]:
    """Every table that ``answer`` makes with ``model`` of the batches of ``split``, on the CPU."""
    if not len(split):
        raise ValueError(f"{split!r} is empty, so there is nothing to predict; check how the split was made")
    for table in out.values():
        if not isinstance(table, Tensor) or table.device.type != "cpu":
            given = f"a tensor on {table.device}" if isinstance(table, Tensor) else f"a {type(table).__name__}"
            raise TypeError(f"out must be a tensor on the CPU, not {given}; of an array take torch.from_numpy(out)")
    parameter = next(checked(model).parameters(), None)
    home = engine.device if parameter is None else parameter.device
    rows = torch.arange(engine.rank, len(split), engine.processes)  # this process's share of the samples
    tables = dict(out) if engine.processes == 1 else {}
    model.to(engine.device)
    try:
        with evaluating(model), engine.autocast():
            look = {"disable": not progress, "leave": False, "unit": "batch"}
            for part in tqdm(torch.arange(len(rows)).split(whole(batch_size, "batch_size", least=1)), **look):
                for name, value in answer(split.batch(rows[part], engine.device)).items():
                    if name not in tables:
                        tables[name] = torch.empty(len(rows), *value.shape[1:], dtype=value.dtype)
                    _check_rows(tables[name], value, len(rows), len(part))
                    tables[name][part[0] : part[-1] + 1] = value
    finally:
        model.to(home)
    if engine.processes > 1:
        tables = {name: engine.gather_rows(table, len(split)) for name, table in tables.items()}
        tables = {name: out[name].copy_(table) if name in out else table for name, table in tables.items()}
    return {name: mark_made_for(table, split) for name, table in tables.items()}


def _check_rows(table: Tensor, value: Tensor, rows: int, batch: int) -> None:
    """Raise unless a batch of answers can be written to a table of ``rows`` rows."""
    if value.shape[:1] != (batch,):
        raise ValueError(f"the model returned {tuple(value.shape)} for {batch} samples; expected one row for each")
    if table.shape != (rows, *value.shape[1:]) or not (table.is_floating_point() or table.dtype == value.dtype):
        raise ValueError(
            f"out, {table.dtype} {tuple(table.shape)}, does not fit: expected a floating-point table of shape "
            f"{(rows, *value.shape[1:])}"
        )
