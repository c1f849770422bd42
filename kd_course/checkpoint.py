"""Checkpoints of a training: written whole or not at all, and read back only by the training that wrote them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Rows = list[dict[str, float]]  # the history: one row per epoch
Weights = dict[str, Tensor]


class Checkpoint:
    """The file that holds model, optimizer and history of one training; without a ``path`` nothing is saved or read.

    ``identity`` has the plain values that decide the training: a file with other values is refused.
    """

    def __init__(self, path: str | Path | None, identity: dict, model: nn.Module, optim: Optimizer) -> None:
        self.path = None if path is None else Path(path)
        self.identity, self.model, self.optim = identity, model, optim

    def resume(self) -> tuple[Rows, Weights | None]:
        """Set model and optimizer back to the saved state.

        Returns:
            The history so far and the best weights so far; no rows and None if there is no file.

        Raises:
            ValueError: the file cannot be read, or belongs to another training, model or optimizer.
        """
        if self.path is None or not self.path.exists():
            return [], None
        fix = f"delete {self.path} to start again, or give this training a checkpoint of its own"
        try:
            state = torch.load(self.path, map_location=next(self.model.parameters()).device, weights_only=True)
            saved = state["identity"]
        except Exception as error:
            raise ValueError(f"{self.path} is not a readable checkpoint ({error}); {fix}") from error
        pairs = [(key, saved.get(key), value) for key, value in self.identity.items()]
        differing = [f"{key} {there} there, {here} here" for key, there, here in pairs if there != here]
        if differing:
            raise ValueError(f"{self.path} belongs to another training ({'; '.join(differing)}); {fix}")
        try:
            self.model.load_state_dict(state["model"])
            self.optim.load_state_dict(state["optim"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{self.path} holds another model or optimizer ({error}); {fix}") from error
        return state["rows"], state["best"]

    def save(self, rows: Rows, best: Weights | None) -> None:
        """Write a new file beside the old one and rename it, so that a kill at any moment leaves a whole file."""
        if self.path is None:
            return
        state = {"identity": self.identity, "model": self.model.state_dict(), "optim": self.optim.state_dict()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(state | {"rows": rows, "best": best}, file)
            os.replace(name, self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
