"""Checkpoints of a training: written whole or not at all, and read back only by the training that wrote them."""

from __future__ import annotations

import hashlib
import inspect
import io
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kd_course._definitions import is_installed, meaning

Rows = list[dict[str, float]]  # the history: one row per epoch
Weights = dict[str, Tensor]
CHECKSUM = hashlib.sha256().digest_size  # bytes at the end of the file: the SHA-256 of all before


class Checkpoint:
    """The file that holds model, optimizers and history of one training; without a ``path`` nothing is saved or read.

    ``identity`` has the plain values that decide the training: a file with other values is refused.

    Raises:
        ValueError: ``path`` is there and is no file.
        OSError: nothing can be written there.
    """

    def __init__(
        self, path: str | Path | None, identity: Mapping, model: nn.Module, optimizers: Mapping[str, Optimizer]
    ) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.identity, self.model, self.optimizers = dict(identity), model, optimizers
        if self.path is None:
            return
        if self.path.exists() and not self.path.is_file():
            raise ValueError(f"checkpoint={str(path)!r} is a folder or a device; name a file, such as 'run.pt'")
        try:  # now, not after the first epoch
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            raise OSError(f"no checkpoint can be written to {self.path} ({error}); choose another folder") from error

    def resume(self) -> tuple[Rows, Weights | None]:
        """Set model and optimizers back to the saved state.

        Returns:
            The history so far and the best weights so far; no rows and None if there is no file.

        Raises:
            ValueError: the file cannot be read, was damaged, or belongs to another training, model or optimizer.
        """
        if self.path is None or not self.path.exists():
            return [], None
        fix = f"delete {self.path} to start again, or give this training a checkpoint of its own"
        content = self.path.read_bytes()
        payload, checksum = content[:-CHECKSUM], content[-CHECKSUM:]
        if hashlib.sha256(payload).digest() != checksum:
            raise ValueError(
                f"{self.path} is not a readable checkpoint (its checksum is wrong: another program wrote it, or it was "
                f"damaged); {fix}"
            )
        device = next(self.model.parameters()).device
        state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
        pairs = [(key, state["identity"].get(key), value) for key, value in self.identity.items()]
        differing = [f"{key} {there} there, {here} here" for key, there, here in pairs if there != here]
        if differing:
            raise ValueError(f"{self.path} belongs to another training ({'; '.join(differing)}); {fix}")
        try:
            self.model.load_state_dict(state["model"])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{self.path} holds another model or optimizer ({error}); {fix}") from error
        return state["rows"], state["best"]

    def save(self, rows: Rows, best: Weights | None) -> None:
        """Write a new file beside the old one and rename it, so that a kill at any moment leaves a whole file.

        Raises:
            OSError: it cannot be written; the old file stays.
            ValueError: model or optimizer hold what cannot be read back.
        """
        if self.path is None:
            return
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        state = {"identity": self.identity, "model": self.model.state_dict(), "optimizers": optimizers}
        buffer = io.BytesIO()
        torch.save(_plain(state | {"rows": rows, "best": best}), buffer)
        payload = buffer.getvalue()
        if len(rows) == 1:
            try:
                torch.load(io.BytesIO(payload), weights_only=True)
            except Exception as error:
                raise ValueError(
                    "model or optimizer hold more than tensors and plain values, so no checkpoint of them can be read "
                    f"back ({error}); keep such things out of state_dict()"
                ) from error
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(payload)
                file.write(hashlib.sha256(payload).digest())
            os.replace(name, self.path)
        except OSError as error:
            raise OSError(f"{self.path} could not be written ({error}); make room, and run this again") from error
        finally:
            Path(name).unlink(missing_ok=True)


def _plain(value: object) -> object:
    """A state with Python's numbers in place of NumPy's, which ``torch.load`` does not read back."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def checksum(value: object, own: nn.Module) -> str:
    """A checksum of what a function does or a stream of samples holds: code, constants, tensors, weights.

    Weights of ``own``, the model that is trained, do not count.
    """
    digest = hashlib.sha256()
    mine = {id(each) for each in (*own.modules(), *own.parameters(), *own.buffers())}
    for part in _parts(value, mine, set()):
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
    return digest.hexdigest()[:16]


def _parts(value: object, mine: set[int], seen: set[int]) -> Iterator[object]:
    """All that decides what a value does, piece by piece."""
    if id(value) in seen | mine:
        return
    if isinstance(value, bool | int | float | str | bytes | None | np.generic):
        yield value
        return
    seen.add(id(value))
    if isinstance(value, Tensor | np.ndarray):
        table = torch.as_tensor(value).detach().cpu().contiguous()
        yield str(table.dtype), tuple(table.shape)
        yield table.flatten().view(torch.uint8).numpy().tobytes()
        return
    yield type(value).__qualname__
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        for each in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
            yield from _parts(each, mine, seen)
            if isinstance(value, Mapping):
                yield from _parts(value[each], mine, seen)
    elif isinstance(value, nn.Module):
        yield from _parts(value.state_dict(), mine, seen)
    elif isinstance(value, partial):
        yield from _parts((value.func, value.args, value.keywords), mine, seen)
    elif isinstance(value, MethodType):
        yield from _parts((value.__func__, value.__self__), mine, seen)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _parts({field.name: getattr(value, field.name) for field in fields(value)}, mine, seen)
    elif isinstance(value, type) or is_installed(getattr(value, "__module__", type(value).__module__)):
        yield re.sub(r" at 0x\w+", "", repr(value))
    elif isinstance(value, FunctionType):
        yield _code(value)
        found = inspect.getclosurevars(value)
        held = {**found.globals, **found.nonlocals}
        held = {name: each for name, each in sorted(held.items()) if not inspect.ismodule(each)}
        yield from _parts((held, value.__defaults__, value.__kwdefaults__), mine, seen)
    else:
        yield from _parts((type(value).__call__ if callable(value) else None, vars(value)), mine, seen)


def _code(function: FunctionType) -> str:
    """The meaning of a function; its compiled form where there is no source, as in a terminal."""
    try:
        return meaning(function)
    except (OSError, SyntaxError):
        code = function.__code__
        return repr((code.co_code, [each for each in code.co_consts if not inspect.iscode(each)], code.co_names))
