"""What else than a split a network is trained on: views of images, labelled samples beside a pool, noise.

:func:`~kd_course.training.fit` takes whatever keeps the protocol :class:`Batches`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course._validation import whole
from kd_course.data.arrays import as_table
from kd_course.data.split import Batch, Split, seeded_generator
from kd_course.runtime import pick_device


class Batches(Protocol):
    """What a training asks of its samples. An epoch has ``len() / batch_size`` batches, rounded up."""

    origin: str

    def __len__(self) -> int:
        """Samples of an epoch."""

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """One epoch, as :meth:`kd_course.data.Split.batches`; the seed decides the order and all that is drawn."""


@dataclass(frozen=True, eq=False)
class Augmented:
    """A split whose images are changed anew whenever they are handed out.

    A teacher's table is about the images as they were, so it is refused: let the objective run the teacher on the very
    batch, with :class:`~kd_course.inference.Teacher`. Random changes draw from the generators that
    :func:`~kd_course.training.fit` seeds.

    Args:
        split: samples with images and without a teacher's tables.
        transform: from images (B, C, H, W), float32, to as many images, or to several views by name, which become
            inputs of the batch.
        per_image: call ``transform`` with one image (C, H, W) at a time. Transforms of torchvision need that, since
            they change a whole batch in one way.

    Raises:
        TypeError: ``split`` is no split, or ``transform`` no function.
        ValueError: the split carries a teacher's table, or has no images.

    >>> split = Split.from_arrays(torch.zeros(3, 1, 28, 28, dtype=torch.uint8))
    >>> [batch.images.shape for batch in Augmented(split, jitter).batches(2)]
    [torch.Size([2, 1, 28, 28]), torch.Size([1, 1, 28, 28])]
    """

    split: Split
    transform: Callable[[Tensor], Tensor | Mapping[str, Tensor]]
    per_image: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.split, Split) or not callable(self.transform):
            given = f"{type(self.split).__name__} and {type(self.transform).__name__}"
            raise TypeError(f"Augmented takes a Split and a function of images, not {given}")
        if "images" not in self.split.inputs:
            raise ValueError(f"there are no images to change, only {', '.join(self.split.inputs)}")
        if self.split.teacher:
            raise ValueError(
                f"the teacher's tables ({', '.join(self.split.teacher)}) are about the images before they are changed; "
                "take the split without with_teacher, and run a Teacher on batch.images in the objective"
            )

    @property
    def origin(self) -> str:
        """The source of the samples."""
        return self.split.origin

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batch_size: int, **options: object) -> Iterator[Batch]:
        """The batches of the split, with changed images; the options are those of :meth:`Split.batches`."""
        for batch in self.split.batches(batch_size, **options):
            views = self._views(batch.images)
            for name, view in views.items():
                if not isinstance(view, Tensor) or view.shape[:1] != (len(batch),):
                    given = tuple(view.shape) if isinstance(view, Tensor) else type(view).__name__
                    raise ValueError(
                        f"the transform made {given} of {len(batch)} images ({name!r}); it must return one each, (B, …)"
                    )
            yield replace(batch, inputs={**batch.inputs, **views})

    def _views(self, images: Tensor) -> Mapping[str, Tensor]:
        """What the transform makes of images (B, C, H, W), by name."""
        if not self.per_image:
            views = self.transform(images)
            return views if isinstance(views, Mapping) else {"images": views}
        made = [self.transform(image) for image in images]
        made = [views if isinstance(views, Mapping) else {"images": views} for views in made]
        kinds = {
            tuple((n, tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__) for n, v in views.items())
            for views in made
        }
        if len(kinds) > 1 or not all(isinstance(view, Tensor) for view in made[0].values()):
            raise ValueError(
                f"the transform made {' and '.join(map(str, sorted(kinds, key=str)[:2]))} of single images; it must "
                "make tensors of one shape of all, or such by the same names"
            )
        return {name: torch.stack([views[name] for views in made]) for name in made[0]}


@dataclass(frozen=True, eq=False)
class Paired:
    """Labelled samples, and in ``batch.unlabelled`` samples of a pool whose labels nobody needs.

    An epoch is one pass over the one that lasts longer; the other starts again, in a new order, as often as needed.
    Labelled batches come in the order that the labelled samples have alone, so that a method and its baseline can be
    compared in pairs.

    Args:
        labelled: any stream of labelled samples.
        pool: any stream; its labels, if there are any, are taken away.
        ratio: samples of the pool for each labelled one in a batch.

    Raises:
        TypeError: one of the two is no stream.
        ValueError: one of the two is empty, or ``ratio`` is below 1.
    """

    labelled: Batches
    pool: Batches
    ratio: int = 1

    def __post_init__(self) -> None:
        whole(self.ratio, "ratio", least=1)
        for stream in (self.labelled, self.pool):
            if not hasattr(stream, "batches"):
                raise TypeError(f"Paired takes two splits or other streams, not {type(stream).__name__}; make one with "
                                "Split.from_arrays")  # fmt: skip
            if not len(stream):
                raise ValueError(f"{stream!r} is empty, and both must have samples")

    @property
    def origin(self) -> str:
        """The sources of both."""
        return f"{self.labelled.origin} + {self.pool.origin}"

    def __len__(self) -> int:
        return max(len(self.labelled), -(-len(self.pool) // self.ratio))

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Batches of ``batch_size`` labelled samples, with ``ratio`` times as many unlabelled ones beside them."""
        batch_size, device = whole(batch_size, "batch_size", least=1), pick_device(device)
        steps = len(self) // batch_size if drop_last else -(-len(self) // batch_size)
        pool_seed = None
        if shuffle_seed is not None:  # the pool's own order: with the same one, equal lengths would pair the same rows
            shuffle_seed = whole(shuffle_seed, "a seed", least=None)
            pool_seed = random.Random(shuffle_seed).getrandbits(62)
        labelled = _endless(self.labelled, batch_size, shuffle_seed, device, drop_last)
        pool = _endless(self.pool, batch_size * self.ratio, pool_seed, device, drop_last)
        for _, batch, beside in zip(range(steps), labelled, pool, strict=False):
            yield replace(batch, unlabelled=replace(beside, labels=None))


def _endless(
    stream: Batches, batch_size: int, seed: int | None, device: torch.device | str, drop_last: bool
) -> Iterator[Batch]:
    """A stream again and again, shuffled by ``seed`` the first time; all it has, if that is less than a batch."""
    later = random.Random(seed)
    drop_last = drop_last and len(stream) >= batch_size
    while True:
        yield from stream.batches(batch_size, shuffle_seed=seed, device=device, drop_last=drop_last)
        seed = None if seed is None else later.getrandbits(62)


@dataclass(frozen=True)
class Noise:
    """Standard normal numbers for a generator, drawn anew in every epoch: no images, no labels.

    They are drawn on the CPU and moved, so that every device is given the same ones.

    Args:
        count: vectors in an epoch.
        shape: the shape of one, such as ``(32,)``; of a vector its length will do.
        name: the input's name in ``batch.inputs``.
    """

    count: int
    shape: Sequence[int]
    name: str = "noise"

    def __post_init__(self) -> None:
        whole(self.count, "count", least=1)
        shape = self.shape if isinstance(self.shape, Iterable) else [self.shape]
        object.__setattr__(self, "shape", tuple(whole(side, "a side of shape", least=1) for side in shape))

    @property
    def origin(self) -> str:
        """What it is, instead of a source."""
        return "noise"

    def __len__(self) -> int:
        return self.count

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Batches whose numbers ``shuffle_seed`` decides; without one, always the same."""
        generator, device = seeded_generator(0 if shuffle_seed is None else shuffle_seed), pick_device(device)
        for indices in torch.arange(self.count).split(whole(batch_size, "batch_size", least=1)):
            if len(indices) == batch_size or not drop_last:
                noise = torch.randn(len(indices), *self.shape, generator=generator)
                yield Batch({self.name: noise.to(device)}, None, indices.to(device))


def jitter(images: Tensor, pixels: int = 2) -> Tensor:
    """Shift each image by its own random whole number of pixels in x and in y. What moves in is black.

    Hinton's teacher saw each digit moved by up to two pixels. Draws from PyTorch's global generator.

    Args:
        images: (B, C, H, W), of any type.
        pixels: the largest shift.

    Returns:
        The shifted images, of the same shape and type.

    Raises:
        ValueError: the images are not (B, C, H, W).
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        given = f"of shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a tensor (B, C, H, W), not {given}; one image needs its [None]")
    pixels = whole(pixels, "pixels")
    batch, _, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4)
    shift = torch.randint(0, 2 * pixels + 1, (2, batch, 1, 1), device=images.device)
    rows = shift[0] + torch.arange(height, device=images.device)[:, None]  # (B, H, 1)
    columns = shift[1] + torch.arange(width, device=images.device)  # (B, 1, W)
    sample = torch.arange(batch, device=images.device)[:, None, None]
    return padded[sample, :, rows, columns].permute(0, 3, 1, 2)


def as_mnist(value: list[int]) -> Tensor:
    """A drawing, 784 pixels from 0 (paper) to 255 (ink) row by row, prepared as MNIST's were: uint8, (1, 28, 28).

    Its box is scaled to 20 pixels on the longer side, keeping its proportions, and its centre of mass is put in the
    middle of the image. A network that has only seen digits of this size and place recognises no others. An empty
    drawing stays empty.

    Raises:
        ValueError: these are not 784 numbers.

    Reference: LeCun, Cortes & Burges, *The MNIST database of handwritten digits*.
    """
    drawing = as_table(value, "a drawing's pixels").float()
    if drawing.numel() != 784:
        raise ValueError(f"a drawing has 28 × 28 = 784 pixels, not {drawing.numel():,}")
    drawing = drawing.view(28, 28)
    rows, columns = (drawing.amax(dim).nonzero().squeeze(1) for dim in (1, 0))
    if len(rows) == 0:
        return torch.zeros(1, 28, 28, dtype=torch.uint8)
    box = drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(box.shape)
    size = [max(1, round(side * scale)) for side in box.shape]
    box = F.interpolate(box[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    mass = box / box.sum()
    height, width = box.shape
    centre = (mass.sum(1) @ torch.arange(height).float(), mass.sum(0) @ torch.arange(width).float())
    top, left = (min(max(round(14 - float(at)), 0), 28 - side) for at, side in zip(centre, box.shape, strict=True))
    image = F.pad(box, (left, 28 - width - left, top, 28 - height - top))
    return image.round().clamp(0, 255).to(torch.uint8)[None]
