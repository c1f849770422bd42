"""Samples as tensors in memory: a :class:`Split` is handed out in batches, and what belongs to a sample stays with it.

A split is a set of named tables with one row per sample: inputs, labels, the number of each sample in its source, and
what a teacher said about it. Tables stay in their own small type (uint8 images, integer tokens, float16 logits) and are
widened batch by batch. A batch is a list of rows, looked up in every table, so shuffles and subsets keep them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kd_course._validation import whole
from kd_course.data.arrays import (
    as_images,
    as_indices,
    as_labels,
    as_table,
    as_tensor,
    finite,
    source_name,
    stack_dataset,
)
from kd_course.runtime import pick_device

if TYPE_CHECKING:
    from torch.utils.data import Dataset

TOP_K = ("top_log_probabilities", "top_indices")  # a teacher's k most probable classes, at T = 1, over all classes


def _images(tables: Batch | Split) -> Tensor:
    """The input ``"images"``."""
    if "images" not in tables.inputs:
        raise AttributeError(f"there are no images here, only {', '.join(tables.inputs)}: use inputs[…]")
    return tables.inputs["images"]


def _teacher_logits(tables: Batch | Split) -> Tensor | None:
    """The teacher's logits; None if there are none."""
    return tables.teacher.get("logits")


def _teacher_features(tables: Batch | Split) -> dict[str, Tensor]:
    """The teacher's features by stage: all tables but logits and top-k."""
    return {stage: table for stage, table in tables.teacher.items() if stage not in ("logits", *TOP_K)}


@dataclass(frozen=True)
class Batch:
    """What a training objective sees: B samples, on the training device.

    Attributes:
        inputs: by name, (B, …) each: ``"images"`` as float32 in [0, 1], (B, C, H, W), whole numbers as int64.
        labels: int64, (B,); None if there are none.
        indices: number of each sample in its source, int64, (B,).
        teacher: what a teacher said about these samples, by name, (B, …) each, in float32 or int64.
        progress: fraction of the training done before this batch, in [0, 1): for schedules.
        unlabelled: the samples beside these, from :class:`~kd_course.data.streams.Paired`; else None.
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor | None
    indices: Tensor
    teacher: Mapping[str, Tensor] = field(default_factory=dict)
    progress: float = 0.0
    unlabelled: Batch | None = None

    images, teacher_logits, teacher_features = property(_images), property(_teacher_logits), property(_teacher_features)

    def __post_init__(self) -> None:
        if isinstance(self.inputs, Tensor):  # images alone need no name
            object.__setattr__(self, "inputs", {"images": self.inputs})

    def __len__(self) -> int:
        return len(self.indices)

    def part(self, number: int, count: int) -> Batch:
        """Every ``count``-th sample, from sample ``number`` on: one of ``count`` parts of the batch."""
        labels = None if self.labels is None else self.labels[number::count]
        pool = None if self.unlabelled is None else self.unlabelled.part(number, count)
        inputs, teacher = ({n: t[number::count] for n, t in tables.items()} for tables in (self.inputs, self.teacher))
        return Batch(inputs, labels, self.indices[number::count], teacher, self.progress, pool)


@dataclass(frozen=True, eq=False)
class Split:
    """Named tables with one row per sample.

    Attributes:
        inputs: by name, (N, …) each: ``"images"`` uint8 (N, C, H, W), ``"tokens"`` of a whole-number type, or several
            at once. A bare tensor is taken for the images.
        labels: int64, (N,); None if there are none.
        indices: number of each sample in its source, int64, (N,).
        origin: the source the ``indices`` count in, such as ``"mnist/train"``.
        teacher: what a teacher said, by name, (N, …) each: ``"logits"``, the stages of :meth:`with_features`, or
            ``"top_log_probabilities"`` and ``"top_indices"`` (T = 1, over all classes).

    Raises:
        TypeError: a table is no tensor, or ``labels`` or ``indices`` are no int64.
        ValueError: a table has not one row per sample, or there is no input.
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor | None
    indices: Tensor
    origin: str
    teacher: Mapping[str, Tensor] = field(default_factory=dict)

    images, teacher_logits, teacher_features = property(_images), property(_teacher_logits), property(_teacher_features)

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Mapping):  # images alone need no name
            object.__setattr__(self, "inputs", {"images": self.inputs})
        if not self.inputs:
            raise ValueError("a split needs at least one input, such as {'images': …} or {'tokens': …}")
        numbers = {"indices": self.indices} | ({} if self.labels is None else {"labels": self.labels})
        for named, wanted in ((self.inputs, "(N, …)"), (self.teacher, "(N, …)"), (numbers, "(N,) of int64")):
            for name, table in named.items():
                fits = isinstance(table, Tensor) and table.ndim > 0
                if not fits or (named is numbers and (table.ndim != 1 or table.dtype != torch.int64)):
                    given = f"{table.dtype} {tuple(table.shape)}" if isinstance(table, Tensor) else type(table).__name__
                    raise TypeError(
                        f"{name!r} must be a tensor {wanted}, one row per sample, not {given}; use Split.from_arrays, "
                        "which takes NumPy arrays and lists"
                    )
                if len(table) != len(self.indices):
                    raise ValueError(
                        f"{name!r} has {len(table):,} rows, but there are {len(self.indices):,} samples (so many "
                        "indices); every table must have one row per sample"
                    )

    @classmethod
    def from_arrays(
        cls, images: Any = None, labels: Any = None, *, origin: str | None = None, indices: Any = None, **inputs: Any
    ) -> Split:
        """A split of your own arrays: tensors, NumPy arrays or lists.

        Args:
            images: (N, C, H, W) or (N, H, W); whole numbers in 0..255, or floats between 0 and 1, or floats that were
                standardised. None if the samples are no images.
            labels: (N,), the number of each sample's class, from 0; None if there are none.
            origin: a name for where the samples come from, by which teacher tables are kept apart; a checksum of the
                inputs if None.
            indices: (N,), the number of each sample in its source; 0 … N-1 if None.
            **inputs: further inputs by name, (N, …) each, such as ``tokens=…``.

        Raises:
            TypeError: what was given is no array of numbers.
            ValueError: shapes, lengths or values do not fit; the message says how to bring them into form.

        >>> Split.from_arrays(torch.zeros(5, 3, 32, 32, dtype=torch.uint8), [0, 1, 2, 1, 0], origin="photos")
        Split(5 samples of photos)
        """
        tables = {} if images is None else {"images": as_images(images)}
        tables |= {name: as_table(table, name) for name, table in inputs.items()}
        if not tables:
            raise TypeError("a split needs inputs: give images, or other tables by name, such as tokens=…")
        count = len(next(iter(tables.values())))
        return cls(
            tables,
            None if labels is None else as_labels(labels, count),
            torch.arange(count) if indices is None else as_indices(indices, count),
            source_name("own", tables.values()) if origin is None else origin,
        )

    @classmethod
    def from_dataset(cls, dataset: Dataset, *, origin: str | None = None, progress: bool = True) -> Split:
        """All samples of a PyTorch dataset, such as torchvision's, read into memory once.

        Args:
            dataset: item i is ``(image, class)``, or an image alone. An image is a tensor (C, H, W), or a picture of
                Pillow; all have one size. A picture with a palette becomes RGB.
            origin: a name for where the samples come from; the dataset's class and a checksum if None.
            progress: show a bar.

        Raises:
            TypeError: an item is something else, or the dataset has no length.
            ValueError: the dataset is empty, sizes differ, or :meth:`from_arrays` refuses what it holds.
        """
        images, labels = stack_dataset(dataset, progress)
        name = source_name(type(dataset).__name__, [images]) if origin is None else origin
        return cls.from_arrays(images, labels, origin=name)

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        unlabelled = " unlabelled" if self.labels is None else ""
        teacher = "" if self.teacher_logits is None else ", with teacher logits"
        return f"Split({len(self):,}{unlabelled} samples of {self.origin}{teacher})"

    def with_teacher(self, tables: Tensor | Mapping[str, Tensor]) -> Split:
        """This split with what a teacher said. From here on shuffling and subsets move each row with its sample.

        A table that :func:`~kd_course.inference.predict` made, or that was attached before, knows the samples it was
        made for, and is refused for others; what you compute of it does not. A table is kept in its own type (float16
        stays float16) until it is a batch; float64 becomes float32.

        Args:
            tables: logits (N, classes), row i for sample i, or several tables by name: logits of another shape,
                features, or what :func:`~kd_course.inference.predict_top_k` returns.

        Raises:
            TypeError: a table is no tensor, or a bare table is not floating point.
            ValueError: a table has another number of rows, was made for other samples, is empty, or holds NaN or
                infinity; or a bare table is not 2-D.
        """
        if isinstance(tables, Mapping):
            tables = {name: self._table(table, f"the table of {name!r}") for name, table in tables.items()}
        else:
            tables = {"logits": self._table(tables, "the table of teacher logits", ndim=2)}
        return replace(self, teacher={**self.teacher, **tables})

    def with_features(self, features: Mapping[str, Tensor]) -> Split:
        """This split with tables of teacher features, in place of those it had.

        Args:
            features: (N, …) by stage, row i for sample i: what ``predict_features`` returns.

        Raises:
            ValueError: as :meth:`with_teacher`, or a stage has the name of another of the teacher's tables.
        """
        if taken := {"logits", *TOP_K} & features.keys():
            raise ValueError(f"{sorted(taken)} are no stages; attach such tables with with_teacher")
        others = {name: table for name, table in self.teacher.items() if name in ("logits", *TOP_K)}
        return replace(self, teacher=others).with_teacher(features)

    def _table(self, table: Tensor, what: str, ndim: int | None = None) -> Tensor:
        """A teacher's table as it is kept, once it is known to be one of these samples."""
        redo = f"make it with {'predict' if ndim else 'predict_features'}(teacher, split, …) on this very split"
        if not isinstance(table, Tensor):
            fix = "use torch.as_tensor(…)" if isinstance(table, list) or hasattr(table, "__array__") else redo
            raise TypeError(f"{what} must be a tensor, not {type(table).__name__}; {fix}")
        if table.is_complex() or (ndim and not table.is_floating_point()):
            raise TypeError(f"{what} must be floating-point numbers, not {table.dtype}; {redo}")
        if not table.ndim or len(table) != len(self) or (ndim and table.ndim != ndim) or 0 in table.shape[1:]:
            wanted = f"({len(self):,}, classes)" if ndim else f"({len(self):,}, …)"
            raise ValueError(
                f"{what} of shape {tuple(table.shape)} does not fit {len(self):,} samples: expected {wanted}; {redo}"
            )
        origin, indices = made_for(table) or (self.origin, self.indices)
        if origin != self.origin or not torch.equal(indices, self.indices):
            raise ValueError(
                f"{what} was made for {len(indices):,} samples of {origin}, and these are others, or in another order "
                f"({len(self):,} of {self.origin}); {redo}, or attach it before you take a subset"
            )
        table = table.detach().cpu()
        kept = table.float() if table.dtype == torch.float64 else table
        if not finite(kept):
            raise ValueError(f"{what} holds NaN or infinity; is the teacher trained, and are its inputs right?")
        return mark_made_for(kept, self)

    def subset(self, choice: Tensor | Sequence[int]) -> Split:
        """Some of the samples, with all that belongs to them.

        Args:
            choice: their positions (whole numbers, 0 … N-1), or a mask (N,) that is true for them.

        Raises:
            ValueError: a mask does not have one entry per sample, or positions are not one list of such numbers.
        """
        choice = as_tensor(choice, "positions")
        if choice.dtype == torch.bool:
            if choice.shape != (len(self),):
                raise ValueError(
                    f"a mask of shape {tuple(choice.shape)} does not fit {len(self):,} samples; "
                    "make it from this very split"
                )
            choice = choice.nonzero().squeeze(1)
        choice = self._positions(choice)
        inputs, teacher = ({n: t[choice] for n, t in tables.items()} for tables in (self.inputs, self.teacher))
        labels = None if self.labels is None else self.labels[choice]
        part = Split(inputs, labels, self.indices[choice], self.origin, teacher)
        for table in teacher.values():
            mark_made_for(table, part)
        return part

    def _positions(self, choice: Tensor) -> Tensor:
        """Positions in this split, (B,) of int64, once they are known to be such."""
        if choice.shape == (0,):
            return choice.long()
        if choice.ndim != 1 or choice.is_floating_point() or choice.dtype == torch.bool:
            raise ValueError(
                f"positions must be one list of whole numbers, not {choice.dtype} of shape {tuple(choice.shape)}; "
                "for one sample write [i], for probabilities a mask such as p > 0.5"
            )
        low, high = (int(bound) for bound in torch.aminmax(choice))
        if low < 0 or high >= len(self):
            raise ValueError(
                f"positions {low:,} … {high:,} must lie in 0 … {len(self) - 1:,}: they count in this split, not in the "
                "source file"
            )
        return choice.long()

    def sample(self, count: int, *, seed: int) -> Split:
        """Samples drawn at random, so the classes have their natural proportions in expectation.

        Args:
            count: how many.
            seed: decides the draw. Larger draws with one seed contain the smaller ones, so learning curves are nested.

        Raises:
            ValueError: fewer than ``count`` samples are there.
        """
        count, seed = whole(count, "count", least=None), whole(seed, "seed", least=None)
        if not 0 < count <= len(self):
            raise ValueError(f"cannot draw {count:,} of {len(self):,} samples; choose 1 to {len(self):,}")
        return self.subset(row_order(len(self), seed)[:count])

    def only(self, *classes: int) -> Split:
        """The samples of these classes."""
        return self.subset(self._is_of(classes))

    def without(self, *classes: int) -> Split:
        """The samples of every class but these: Hinton's transfer set without 3s is ``train.without(3)``."""
        return self.subset(~self._is_of(classes))

    def _is_of(self, classes: Sequence[int]) -> Tensor:
        if self.labels is None:
            raise ValueError(f"{self!r} has no labels, so nobody knows the classes; choose before unlabelled()")
        return torch.isin(self.labels, torch.tensor([whole(each, "a class", least=None) for each in classes]))

    def unlabelled(self) -> Split:
        """The same samples without their labels."""
        return replace(self, labels=None)

    def batch(self, rows: Tensor | Sequence[int], device: torch.device | str = "cpu") -> Batch:
        """The samples at these positions (whole numbers, (B,)) as a batch on ``device``, every table widened.

        This is the seam for other engines: a ``DataLoader`` over ``range(len(split))`` whose ``collate_fn`` is
        ``split.batch`` gives the same batches.
        """
        return self._batch(self._positions(as_tensor(rows, "positions")), pick_device(device))

    def _batch(self, rows: Tensor, device: torch.device) -> Batch:
        """:meth:`batch` for rows that are known to be positions here."""

        def taken(table: Tensor) -> Tensor:
            return widened(table[rows].to(device))

        inputs, teacher = ({n: taken(t) for n, t in tables.items()} for tables in (self.inputs, self.teacher))
        labels = None if self.labels is None else self.labels[rows].to(device)
        return Batch(inputs, labels, self.indices[rows].to(device), teacher)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """The split in batches, whose images become float32 in [0, 1] only here.

        Args:
            batch_size: samples per batch; the last one may be smaller.
            shuffle_seed: decides the random order; in file order if None.
            device: where the batches lie.
            drop_last: leave out a last batch that is smaller.
        """
        batch_size, device = whole(batch_size, "batch_size", least=1), pick_device(device)
        for rows in row_order(len(self), shuffle_seed).split(batch_size):
            if len(rows) == batch_size or (len(rows) and not drop_last):
                yield self._batch(rows, device)


def row_order(count: int, shuffle_seed: int | None) -> Tensor:
    """The numbers 0 … count-1, shuffled by a seed, in order if it is None."""
    if shuffle_seed is None:
        return torch.arange(count)
    return torch.randperm(count, generator=seeded_generator(shuffle_seed))


def seeded_generator(seed: int) -> torch.Generator:
    """A generator of its own, which leaves PyTorch's as it is."""
    return torch.Generator().manual_seed(whole(seed, "a seed", least=-(2**63), most=2**64 - 1))


def widened(table: Tensor) -> Tensor:
    """A table as a batch has it: uint8 images in [0, 1], whole numbers as int64, half precision as float32."""
    if table.dtype == torch.uint8 and table.ndim == 4:
        return to_float(table)
    if table.is_floating_point():
        return table.to(torch.promote_types(table.dtype, _wide()))
    return table if table.dtype == torch.bool else table.long()


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels 0..255 to float32 in [0, 1]; float images pass unchanged.

    Raises:
        TypeError: the images are neither.
    """
    if not isinstance(images, Tensor) or (images.dtype != torch.uint8 and not images.is_floating_point()):
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a tensor of uint8 or floating point, not {given}; use Split.from_arrays(…)")
    return images.to(_wide()).div_(255) if images.dtype == torch.uint8 else images


def _wide() -> torch.dtype:
    """PyTorch's default type, and float32 at least."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def mark_made_for(table: Tensor, split: Split) -> Tensor:
    """Note on a teacher's table which samples it is of. What is computed from the table has no such note."""
    table.made_for = (split.origin, split.indices)
    return table


def made_for(table: Tensor) -> tuple[str, Tensor] | None:
    """Origin and sample numbers that a table was made for; None if nobody noted them."""
    return getattr(table, "made_for", None)
