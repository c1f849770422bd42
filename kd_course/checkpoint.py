"""Checkpoints of a training: written whole or not at all, and read back only by the training that wrote them."""

from __future__ import annotations

import copy
import dis
import hashlib
import inspect
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kd_course._definitions import Definition, is_installed, meaning, reachable

Rows = list[dict[str, float]]  # the history: one row per epoch
Weights = dict[str, Tensor]
CHECKSUM = hashlib.sha256().digest_size  # bytes at the end of the file: the SHA-256 of all before


class Checkpoint:
    """The file that holds model, optimizers and history of one training; without a ``path`` nothing is saved or read.

    ``identity`` has the plain values that decide the training: a file with other values is refused.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: ``path`` cannot name a file, or names a folder or a device.
    """

    def __init__(
        self, path: str | Path | None, identity: Mapping, model: nn.Module, optimizers: Mapping[str, Optimizer]
    ) -> None:
        self.identity, self.model, self.optimizers = dict(identity), model, optimizers
        self.path = None if path is None else _file(path)

    def resume(self) -> tuple[Rows, Weights | None]:
        """Set model and optimizers back to the saved state; they stay as they are if that is refused.

        Returns:
            The history so far and the best weights so far; no rows and None if there is no file.

        Raises:
            ValueError: the file was damaged, or belongs to another training, model or optimizer.
            OSError: the file cannot be read.
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
        before = copy.deepcopy(self.model.state_dict())
        try:
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            self.model.load_state_dict(state["model"])
        except (KeyError, RuntimeError, ValueError) as error:
            self.model.load_state_dict(before)
            raise ValueError(f"{self.path} holds another model or optimizer ({error}); {fix}") from error
        return state["rows"], state["best"]

    def rehearse(self) -> None:
        """Write what there is, and delete it: a full disk should be found now, not after the first epoch.

        Raises:
            OSError: nothing can be written there.
            ValueError: as :meth:`save`.
        """
        self._write([], None, keep=False)

    def save(self, rows: Rows, best: Weights | None) -> None:
        """Write a new file beside the old one and rename it, so that a kill at any moment leaves a whole file.

        Raises:
            OSError: it cannot be written; the old file stays.
            ValueError: model or optimizer hold what cannot be read back.
        """
        self._write(rows, best, keep=True)

    def _write(self, rows: Rows, best: Weights | None, *, keep: bool) -> None:
        if self.path is None:
            return
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        state = _plain({"identity": self.identity, "optimizers": optimizers, "rows": rows})
        buffer = io.BytesIO()
        torch.save(state | {"model": self.model.state_dict(), "best": best}, buffer)
        payload = buffer.getvalue()
        if len(rows) <= 1:  # later ones hold the same kinds of things
            try:
                torch.load(io.BytesIO(payload), weights_only=True)
            except Exception as error:
                found = re.search(r"GLOBAL (\S+)", str(error))
                raise ValueError(
                    "a checkpoint of model or optimizer could not be read back, since they hold more than tensors and "
                    f"plain values{f', such as {found[1]}' if found else ''}; keep such things out of state_dict()"
                ) from error
        partial = self.path.with_name(f".{self.path.name}.partial")  # one name: no kill leaves a second
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(payload + hashlib.sha256(payload).digest())
            if keep:
                os.replace(partial, self.path)
        except OSError as error:
            raise OSError(
                f"no checkpoint can be written to {self.path} ({error}); make room, or choose another folder"
            ) from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _file(path: str | Path) -> Path:
    """The whole path of a file, which need not be there yet."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"checkpoint must be the path of a file, not {path!r} of type {type(path).__name__}")
    try:
        file = Path(path).expanduser().resolve()
        fault = "names a folder or a device" if file.exists() and not file.is_file() else ""
    except (OSError, RuntimeError, ValueError) as error:
        fault = f"cannot name a file ({error})"
    if fault:
        raise ValueError(f"checkpoint={str(path)!r:.80} {fault}; name a file, such as 'run.pt'")
    return file


def _plain(value: object) -> object:
    """A state with Python's numbers in place of NumPy's, which ``torch.load`` does not read back."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def checksum(value: object, changing: Iterable[Tensor] = ()) -> str:
    """A checksum of all that decides what a function does, or what a stream of samples or a network holds.

    That is code by its meaning, and by value: globals, closures, defaults, attributes, tables, weights. An object of an
    installed class counts by its ``repr``, and a tensor that training is ``changing`` by its place alone.
    """
    digest = hashlib.sha256()
    for part in _parts(value, {id(each): (f"changing {number}", each) for number, each in enumerate(changing)}):
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return f"checksum {digest.hexdigest()[:16]}"


def _parts(value: object, seen: dict[int, tuple[str, object]]) -> Iterator[str | np.ndarray]:
    """All that decides what a value does, piece by piece.

    ``seen`` has, by its id, a name for each thing that was met, and the thing: kept alive, no other can get its id.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool | int | float | complex | str | bytes | None):
        yield repr(value)
        return
    if id(value) in seen:
        yield seen[id(value)][0]
        return
    seen[id(value)] = (f"again {len(seen)}", value)
    yield type(value).__qualname__
    if isinstance(value, Tensor):
        table = (value.dequantize() if value.is_quantized else value).detach().to_dense().cpu().contiguous()
        yield f"{value.dtype} {tuple(value.shape)}"
        yield table.flatten().view(torch.uint8).numpy()
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        yield from _parts(value.tolist(), seen)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}"
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    elif isinstance(value, Mapping | list | tuple | set | frozenset):
        yield str(len(value))
        for each in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
            yield from _parts(each, seen)
            if isinstance(value, Mapping):
                yield from _parts(value[each], seen)
    elif isinstance(value, nn.Module):
        marks = [seen.get(id(each), ("",))[0] for each in value.parameters()]
        learns = not marks or any(mark.startswith("changing") for mark in marks)  # its mode is the training's affair
        hidden = vars(nn.Module()).keys() - {"_parameters", "_buffers", "_modules", "" if learns else "training"}
        held = {name: each for name, each in vars(value).items() if name not in hidden}
        yield from _parts((type(value), held), seen)
    elif isinstance(value, partial):
        yield from _parts((value.func, value.args, dict(sorted(value.keywords.items()))), seen)
    elif isinstance(value, MethodType):
        yield from _parts((value.__func__, value.__self__), seen)
    elif is_installed(getattr(value, "__module__", type(value).__module__)):
        yield re.sub(r" at 0x\w+", "", repr(value))
    elif isinstance(value, FunctionType) and is_installed(value.__globals__.get("__name__")):
        yield from _parts(inspect.unwrap(value), seen)  # what torch.compile and torch.no_grad put around a function
    elif isinstance(value, FunctionType):
        yield _code(value)
        closed = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        held = {name: value.__globals__[name] for name in _globals(value.__code__) & value.__globals__.keys()}
        held |= {name: cell.cell_contents for name, cell in closed}
        held = {name: each for name, each in sorted(held.items()) if not inspect.ismodule(each)}
        yield from _parts((held, value.__defaults__, value.__kwdefaults__), seen)
    elif isinstance(value, type):
        yield _code(value)
    else:
        yield from _parts((type(value), value.__getstate__()), seen)


def _code(value: FunctionType | type) -> str:
    """The meaning of a function or of all methods of a class; compiled, where there is no source, as in a terminal."""
    functions = [value]
    if isinstance(value, type):  # what static methods and properties hold, too
        held = [getattr(each, "__func__", getattr(each, "fget", each)) for each in vars(value).values()]
        functions = [*filter(inspect.isfunction, held)]
    try:
        if isinstance(value, type):
            return meaning(value, *functions)
        # Not the values that a function reaches: they count by what they hold. Lambdas of one line have one text.
        texts = sorted(each.text for each in reachable(value) if isinstance(each, Definition))
        return repr((texts, _compiled(value.__code__) if value.__name__ == "<lambda>" else None))
    except (OSError, SyntaxError):
        return repr([_compiled(each.__code__) for each in functions])


def _compiled(code: CodeType) -> tuple:
    constants = [_compiled(each) if inspect.iscode(each) else each for each in code.co_consts]
    return code.co_code, constants, code.co_names


def _globals(code: CodeType) -> set[str]:
    """The global names that a function uses, within its inner functions too."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(_globals(each) for each in code.co_consts if inspect.iscode(each)))
