"""Arrays and datasets of other people's making, checked and brought into the form that a split keeps.

Everything here answers a mistake with what was given, what was expected, and the line that puts it right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from torch.utils.data import Dataset


def as_table(values: Any, name: str) -> Tensor:
    """A tensor, a NumPy array or a list of numbers as a tensor (N, …) on the CPU, N ≥ 1."""
    if isinstance(values, Tensor):
        table = values.detach().cpu()
    else:
        array = np.asarray(values)
        if array.dtype.kind not in "buif":
            raise TypeError(
                f"{name} must be numbers, not {array.dtype} ({str(array.ravel()[:2])[:60]}); of words take the numbers "
                "that numpy.unique(words, return_inverse=True) gives, of lists of unequal length pad the shorter ones"
            )
        # PyTorch knows few unsigned types, no foreign byte order and no negative strides.
        small = array.astype(np.int64) if array.dtype.kind == "u" and array.dtype != np.uint8 else array
        small = np.ascontiguousarray(small.astype(small.dtype.newbyteorder("="), copy=False))
        table = torch.from_numpy(small if small.flags.writeable else small.copy())
    if not table.ndim or not table.numel():
        raise ValueError(f"{name} must be (N, …) with one row per sample, not of shape {tuple(table.shape)}")
    if table.is_floating_point() and not torch.isfinite(torch.stack(torch.aminmax(table))).all():
        raise ValueError(f"{name} hold NaN or infinity; look for them with ~numpy.isfinite(…)")
    return table.float() if table.dtype == torch.float64 else table


def as_images(images: Any) -> Tensor:
    """Images (N, C, H, W), uint8 in 0..255 or floating point, from such or from (N, H, W)."""
    table = as_table(images, "images")
    if table.ndim == 3:
        table = table[:, None]
    if table.ndim != 4:
        raise ValueError(
            f"images must be (N, C, H, W) or (N, H, W), not of shape {tuple(table.shape)}; one image needs its [None], "
            "a table of pixels a reshape(N, C, H, W)"
        )
    if table.shape[3] in (1, 3, 4) and table.shape[1] not in (1, 3, 4):
        raise ValueError(
            f"images of shape {tuple(table.shape)} look like (N, H, W, C), and (N, C, H, W) is expected; use "
            "torch.as_tensor(images).permute(0, 3, 1, 2)"
        )
    low, high = (float(bound) for bound in torch.aminmax(table.byte() if table.dtype == torch.bool else table))
    if table.is_floating_point():
        if (low >= 0 and high > 1) or max(-low, high) > 100:
            raise ValueError(
                f"floating-point images must lie in 0..1 (or be standardised), and these lie in {low:g}..{high:g}; "
                f"divide by {'255' if high > 16 else f'{high:g}'}, or pass 0..255 as uint8: images.astype('uint8')"
            )
        return table
    if low < 0 or high > 255 or high == 1:
        raise ValueError(
            f"images of whole numbers must lie in 0..255, and these lie in {low:g}..{high:g}; "
            + ("pass them as floating-point numbers: images.astype('float32')" if high == 1 else "scale them")
        )
    return table.to(torch.uint8)


def as_labels(labels: Any, count: int) -> Tensor:
    """Class numbers (N,) as int64, one for each of ``count`` samples."""
    table = as_table(labels, "labels")
    if table.ndim == 2 and len(table) == count:
        advice = "pass labels.argmax(1)" if table.shape[1] > 1 else "pass labels[:, 0]"
        raise ValueError(f"labels must be (N,), one class each, not one-hot or a column {tuple(table.shape)}; {advice}")
    if table.shape != (count,):
        raise ValueError(f"labels of shape {tuple(table.shape)} do not fit {count:,} samples: expected ({count:,},)")
    if table.is_floating_point() or table.dtype == torch.bool:
        raise ValueError(f"labels must be whole class numbers, not {table.dtype}; if they are, use .astype('int64')")
    if int(table.min()) < 0:
        raise ValueError(f"labels must be class numbers from 0 on, not {int(table.min())}; leave such samples out, or "
                         "put them into a split of their own without labels")  # fmt: skip
    return table.long()


def as_indices(indices: Any, count: int) -> Tensor:
    """Sample numbers (N,) as int64, one for each of ``count`` samples."""
    table = as_table(indices, "indices")
    if table.shape != (count,) or table.is_floating_point() or table.dtype == torch.bool or int(table.min()) < 0:
        raise ValueError(
            f"indices must be {count:,} whole numbers from 0 on, one per sample, not {table.dtype} of shape "
            f"{tuple(table.shape)}; leave them out, and samples are numbered 0 … {count - 1:,}"
        )
    return table.long()


def stack_dataset(dataset: Dataset, progress: bool) -> tuple[Tensor, list[int] | None]:
    """All images of a dataset in one tensor, and their classes if it has some."""
    if not len(dataset):
        raise ValueError(f"{type(dataset).__name__} is empty, so there are no samples to take")
    images, labels = [], []
    for number in tqdm(range(len(dataset)), disable=not progress, leave=False, unit="sample", delay=1):
        item = dataset[number]
        image, *rest = item if isinstance(item, tuple | list) else (item,)
        if len(rest) > 1 or isinstance(item, dict):
            raise TypeError(
                f"item {number} of {type(dataset).__name__} must be (image, class) or an image, and is a "
                f"{type(item).__name__} of {len(item)}; build the split with Split.from_arrays"
            )
        images.append(_as_image(image, number))
        labels += [int(each) for each in rest]
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"item {number} has shape {tuple(images[-1].shape)}, and item 0 has {tuple(images[0].shape)}; bring "
                "them to one size and mode: transform=v2.Compose([v2.RGB(), v2.Resize((32, 32)), v2.PILToTensor()])"
            )
    return torch.stack(images), labels or None


def _as_image(image: Any, number: int) -> Tensor:
    """A tensor (C, H, W), from such a tensor or a picture of Pillow."""
    if isinstance(image, Tensor):
        return image
    if hasattr(image, "getbands"):  # Pillow's: (H, W) or (H, W, C)
        pixels = np.array(image)
        return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())
    raise TypeError(
        f"the image of item {number} must be a tensor or a picture of Pillow, not {type(image).__name__}; give the "
        "dataset transform=torchvision.transforms.v2.PILToTensor()"
    )
