"""Where the work is done: on one device, or by the processes of a Lightning Fabric, each of which does its part.

Fabric brings precision, devices and processes. A batch is the same in every process, which takes its rows of it, so
that several processes compute what one does, up to the order in which numbers are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kd_course.runtime import pick_device, seeded

if TYPE_CHECKING:
    from lightning_fabric import Fabric

STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")
PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed")


class Engine:
    """One process on one device, or what a launched ``fabric`` says.

    Raises:
        TypeError: ``fabric`` is something else.
        ValueError: both are given, or the strategy or the precision would work on another model than the one given.
    """

    def __init__(self, fabric: Fabric | None = None, device: torch.device | str | None = None) -> None:
        self.fabric = fabric
        if fabric is None:
            self.device, self.rank, self.processes, self.precision = pick_device(device), 0, 1, "32-true"
            return
        if not hasattr(fabric, "setup_optimizers"):
            raise TypeError(f"fabric must be a lightning_fabric.Fabric, not {type(fabric).__name__}")
        if device is not None:
            raise ValueError(f"fabric and device={device!r} both say where to compute; leave device out")
        strategy, precision = type(fabric.strategy).__name__, fabric.strategy.precision.precision
        if strategy not in STRATEGIES or precision not in PRECISIONS:
            raise ValueError(
                f"a Fabric of {strategy} with precision {precision!r} would change or split the model, and here every "
                f"process has it as it is; choose strategy 'auto' or 'ddp', and of precisions {', '.join(PRECISIONS)}"
            )
        self.device, self.rank, self.processes = fabric.device, fabric.global_rank, fabric.world_size
        self.precision = precision

    def autocast(self) -> AbstractContextManager:
        """Where forward passes and losses are computed."""
        return nullcontext() if self.fabric is None else self.fabric.autocast()

    def prepared(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer whose ``step`` is to be called."""
        return optimizer if self.fabric is None else self.fabric.setup_optimizers(optimizer)

    def backward(self, loss: Tensor, parameters: Sequence[nn.Parameter] | None) -> None:
        """Add the gradients of ``loss``, only those of ``parameters`` if there are any given."""
        options = {} if parameters is None else {"inputs": parameters}
        if self.fabric is None:
            loss.backward(**options)
        else:
            self.fabric.backward(loss, **options)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, in place."""
        if self.processes == 1 or not tensors:
            return
        flat = self.fabric.all_reduce(torch.cat([tensor.flatten() for tensor in tensors]), reduce_op="sum")
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def same_everywhere(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the tensors of the first, in place."""
        if self.processes > 1:
            with torch.no_grad():
                for tensor in tensors:
                    tensor.copy_(self.from_first(tensor.detach()))

    def own_numbers(self, number: int, progress: float) -> AbstractContextManager:
        """Random numbers for part ``number`` of a batch, which leave those that all processes share in step."""
        if self.processes == 1:
            return nullcontext()
        return seeded((torch.initial_seed() + int(progress * 2**50) + 7919 * number) % 2**63)

    def from_first(self, value: Any) -> Any:
        """What the first process has."""
        return value if self.processes == 1 else self.fabric.broadcast(value, src=0)

    def gather_rows(self, table: Tensor, count: int) -> Tensor:
        """The whole table, of which this process has every row whose number leaves its rank when divided."""
        most = -(-count // self.processes)
        padded = torch.cat([table, table.new_zeros(most - len(table), *table.shape[1:])])
        gathered = self.fabric.all_gather(padded.to(self.device)).cpu()  # (processes, most, …)
        return gathered.transpose(0, 1).flatten(0, 1)[:count].contiguous()
