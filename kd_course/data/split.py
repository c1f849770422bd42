"""Samples as tensors in memory: a :class:`Split` is handed out in batches, and what belongs to a sample stays with it.

Images stay uint8 until they are a batch. A batch is a list of sample numbers looked up in a
:class:`~torch.utils.data.TensorDataset`, so whatever belongs to a sample (its label, its number in the source
file, what a teacher said about it) travels with it through every shuffle and every subset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset


@dataclass(frozen=True)
class Batch:
    """What a training objective sees: B samples, on the training device.

    Attributes:
        images: float32 in [0, 1], (B, 1, 28, 28).
        labels: int64, (B,).
        indices: number of each sample in its source file, int64, (B,).
        teacher_logits: the teacher's logits for these samples, (B, classes); None if the split carries none.
        teacher_features: the teacher's features by stage, (B, …) each; see :meth:`Split.with_features`.
        progress: fraction of the training done before this batch, in [0, 1): for schedules.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    teacher_logits: Tensor | None = None
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)
    progress: float = 0.0


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one split, with the number each sample has in its source file.

    Attributes:
        images: uint8, (N, 1, 28, 28).
        labels: int64, (N,).
        indices: number of each sample in its source file, int64, (N,).
        origin: the source file the ``indices`` count in, such as ``"mnist/train"``.
        teacher_logits: (N, classes), or None; see :meth:`with_teacher`.
        teacher_features: (N, …) by stage; see :meth:`with_features`.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    origin: str
    teacher_logits: Tensor | None = None
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        teacher = "" if self.teacher_logits is None else ", with teacher logits"
        return f"Split({len(self):,} samples of {self.origin}{teacher})"

    def with_teacher(self, logits: Tensor) -> Split:
        """This split with the teacher's logits. From here on shuffling and subsets move each row with its sample.

        Args:
            logits: (N, classes), row i for sample i: what ``predict`` returns.

        Raises:
            ValueError: the table has another number of rows, is not 2-D, or holds NaN or infinity.
        """
        if logits.ndim != 2 or len(logits) != len(self):
            raise ValueError(
                f"teacher logits of shape {tuple(logits.shape)} do not fit {len(self):,} samples: expected "
                f"({len(self):,}, classes); make them with predict(teacher, split) on this very split"
            )
        if not torch.isfinite(logits).all():
            raise ValueError("teacher logits hold NaN or infinity; is the teacher trained, and are its inputs right?")
        return replace(self, teacher_logits=logits.detach().to("cpu", torch.float32))

    def with_features(self, features: Mapping[str, Tensor]) -> Split:
        """This split with tables of teacher features.

        Args:
            features: (N, …) by stage, row i for sample i: what ``predict_features`` returns.

        Raises:
            ValueError: a table has another number of rows.
        """
        for stage, table in features.items():
            if len(table) != len(self):
                raise ValueError(
                    f"the table of {stage!r} has {len(table):,} rows for {len(self):,} samples; "
                    "make it with predict_features(teacher, split, stages) on this very split"
                )
        return replace(self, teacher_features={stage: table.detach().cpu() for stage, table in features.items()})

    def subset(self, choice: Tensor | Sequence[int]) -> Split:
        """Some of the samples, with all that belongs to them.

        Args:
            choice: their positions (integers), or a mask (N,) that is true for them.

        Raises:
            ValueError: a mask does not have one entry per sample.
        """
        choice = torch.as_tensor(choice)
        if choice.dtype == torch.bool:
            if choice.shape != (len(self),):
                raise ValueError(
                    f"a mask of shape {tuple(choice.shape)} does not fit {len(self):,} samples; "
                    "make it from this very split"
                )
            choice = choice.nonzero().squeeze(1)
        elif choice.numel() == 0:
            choice = choice.long()
        teacher = None if self.teacher_logits is None else self.teacher_logits[choice]
        features = {stage: table[choice] for stage, table in self.teacher_features.items()}
        return Split(self.images[choice], self.labels[choice], self.indices[choice], self.origin, teacher, features)

    def sample(self, count: int, *, seed: int) -> Split:
        """Samples drawn at random, so the classes have their natural proportions in expectation.

        Args:
            count: how many.
            seed: decides the draw. Larger draws with one seed contain the smaller ones, so learning curves are nested.

        Raises:
            ValueError: fewer than ``count`` samples are there.
        """
        if not 0 < count <= len(self):
            raise ValueError(f"cannot draw {count:,} of {len(self):,} samples; choose 1 to {len(self):,}")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[:count])

    def only(self, *classes: int) -> Split:
        """The samples of these classes."""
        return self.subset(torch.isin(self.labels, torch.tensor(classes)))

    def without(self, *classes: int) -> Split:
        """The samples of every class but these: Hinton's transfer set without 3s is ``train.without(3)``."""
        return self.subset(~torch.isin(self.labels, torch.tensor(classes)))

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, device: torch.device | str = "cpu"
    ) -> Iterator[Batch]:
        """The split in batches, whose images become float32 in [0, 1] only here.

        Args:
            batch_size: samples per batch; the last one may be smaller.
            shuffle_seed: decides the random order; in file order if None.
            device: where the batches lie.
        """
        logits = torch.empty(len(self), 0) if self.teacher_logits is None else self.teacher_logits
        dataset = TensorDataset(self.images, self.labels, self.indices, logits, *self.teacher_features.values())
        if shuffle_seed is None:
            order = SequentialSampler(dataset)
        else:
            order = RandomSampler(dataset, generator=torch.Generator().manual_seed(shuffle_seed))
        batches = BatchSampler(order, batch_size, drop_last=False)
        # A generator of its own, or each new loader would draw a number from the global one.
        loader = DataLoader(dataset, batch_size=None, sampler=batches, generator=torch.Generator())
        for columns in loader:
            images, labels, indices, logits, *tables = (column.to(device) for column in columns)
            features = dict(zip(self.teacher_features, tables, strict=True))
            yield Batch(to_float(images), labels, indices, logits if logits.shape[1] else None, features)


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels 0..255 to float32 in [0, 1]; float images pass unchanged."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images
