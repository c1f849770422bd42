"""Arrays and datasets of other people's making, checked and brought into the form that a split keeps.

Everything here answers a mistake with what was given, what was expected, and the line that puts it right.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from kd_course._validation import whole

if TYPE_CHECKING:
    from torch.utils.data import Dataset

_FEW_OPERATIONS = (torch.uint16, torch.uint32, torch.uint64)  # PyTorch stores these, and computes little with them


def as_tensor(values: Any, name: str) -> Tensor:
    """Numbers as a tensor on the CPU: a tensor, an array, or a list of such or of numbers."""
    try:
        if isinstance(values, list | tuple) and values and all(isinstance(each, Tensor) for each in values):
            values = torch.stack(list(values))
        array = None if isinstance(values, Tensor) else np.asarray(values)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be one table, and the rows given do not fit together ({error}); bring them to one shape, pad "
            "the shorter ones"
        ) from None
    if array is None:
        if values.is_complex() or values.is_quantized or values.layout != torch.strided:
            raise TypeError(f"{name} must be real numbers in a dense table, not {values.dtype} ({values.layout})")
        table = values.detach().cpu().as_subclass(Tensor)
        return table.long() if table.dtype in _FEW_OPERATIONS else table
    kind = array.dtype.kind
    if kind not in "buif":
        raise TypeError(
            f"{name} must be numbers, not {array.dtype} ({str(array.ravel()[:2])[:60]}); of words take the numbers "
            "that numpy.unique(words, return_inverse=True) gives"
        )
    # PyTorch knows few unsigned types, no long double, no foreign byte order and no negative strides.
    wanted = array.dtype.newbyteorder("=")
    if array.itemsize > (1 if kind == "u" else 8):
        wanted = np.dtype("i8" if kind == "u" else "f8")
    return torch.from_numpy(np.require(array, wanted, ["C", "W", "E"]))


def as_table(values: Any, name: str) -> Tensor:
    """Finite numbers as a tensor (N, …) on the CPU, N ≥ 1; float64 as float32."""
    table = as_tensor(values, name)
    table = table.float() if table.dtype == torch.float64 else table
    if not table.ndim or not table.numel():
        raise ValueError(f"{name} must be (N, …) with one row per sample, not of shape {tuple(table.shape)}")
    if not finite(table):
        raise ValueError(f"{name} hold NaN, infinity or more than float32 can; look for them with ~numpy.isfinite(…)")
    return table


def finite(table: Tensor) -> bool:
    """Whether a table holds neither NaN nor infinity, without a copy of it."""
    if not table.is_floating_point() or not table.numel():
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(table))).all())


def source_name(kind: str, tables: Iterable[Tensor]) -> str:
    """A name for the source of these tables that the tables of no other source have: a kind and a checksum."""
    checksum = 0
    for table in tables:
        checksum = zlib.crc32(table.contiguous().flatten().view(torch.uint8).numpy(), checksum)
    return f"{kind}/{checksum:08x}"


def as_images(images: Any) -> Tensor:
    """Images (N, C, H, W), uint8 in 0..255 or floating point, from such or from (N, H, W)."""
    table = as_table(images, "images")
    if table.ndim not in (3, 4):
        raise ValueError(
            f"images must be (N, C, H, W) or (N, H, W), not of shape {tuple(table.shape)}; one image needs its [None], "
            "a table of pixels a reshape(N, C, H, W)"
        )
    if table.shape[-1] in (1, 3, 4) and table.shape[1] not in (1, 3, 4):
        fix = "permute(0, 3, 1, 2)" if table.ndim == 4 else "permute(2, 0, 1)[None], if it is one image"
        raise ValueError(
            f"images of shape {tuple(table.shape)} look as if their channels were last, and (N, C, H, W) is expected; "
            f"use torch.as_tensor(images).{fix}"
        )
    table = table if table.ndim == 4 else table[:, None]
    low, high = (float(bound) for bound in torch.aminmax(table.byte() if table.dtype == torch.bool else table))
    if table.is_floating_point():
        if (low >= 0 and high > 1) or max(-low, high) > 100:
            raise ValueError(
                f"floating-point images must lie in 0..1 (or be standardised), and these lie in {low:g}..{high:g}; "
                f"divide by {'255' if high > 16 else f'{high:g}'}, or pass 0..255 as uint8: images.astype('uint8')"
            )
        return table
    if low < 0 or high > 255 or 0 < high <= 16:
        fix = "scale them" if low < 0 or high > 255 else f"pass them as fractions: images / {high:g}"
        raise ValueError(
            f"images of whole numbers must lie in 0..255, with 255 for white, and these lie in {low:g}..{high:g}; {fix}"
        )
    return table.to(torch.uint8)


def as_labels(labels: Any, count: int) -> Tensor:
    """Class numbers (N,) as int64, one for each of ``count`` samples."""
    table = as_table(labels, "labels")
    if table.shape != (count,):
        advice = "pass as many labels as samples"
        if len(table) == count:
            rows = table.flatten(1)
            one_hot = ((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all()
            advice = "give such a target as an input of its own, target=…, and use batch.inputs['target']"
            advice = "pass labels.argmax(1)" if one_hot else advice
            advice = "pass labels[:, 0]" if table.shape == (count, 1) else advice
        raise ValueError(
            f"labels of shape {tuple(table.shape)} are not one class for each of {count:,} samples, ({count},); "
            f"{advice}"
        )
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
    kind = type(dataset).__name__
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"a dataset must have a length and items by number, and {kind} does not; of a DataLoader pass its .dataset"
        )
    if not len(dataset):
        raise ValueError(f"{kind} is empty, so there are no samples to take")
    images, labels = [], []
    for number in tqdm(range(len(dataset)), disable=not progress, leave=False, unit="sample", delay=1):
        item = dataset[number]
        image, *rest = item if isinstance(item, tuple | list) and item else (item,)
        if len(rest) > 1 or isinstance(item, dict):
            raise TypeError(
                f"item {number} of {kind} must be (image, class) or an image, and is a {type(item).__name__} of "
                f"{len(item)}; build the split with Split.from_arrays"
            )
        images.append(_as_image(image, number))
        labels += [whole(each, f"the class of item {number}", least=None) for each in rest]
        first, this = ((tuple(each.shape), each.dtype) for each in (images[0], images[-1]))
        if this != first:
            raise ValueError(
                f"item {number} is {this[1]} of shape {this[0]}, and item 0 is {first[1]} of shape {first[0]}; bring "
                "them to one size and mode: transform=v2.Compose([v2.RGB(), v2.Resize((32, 32)), v2.PILToTensor()])"
            )
    return torch.stack(images), labels or None


def _as_image(image: Any, number: int) -> Tensor:
    """A tensor (C, H, W), from such a tensor or a picture of Pillow."""
    if isinstance(image, Tensor):
        return image
    if hasattr(image, "getbands"):  # Pillow's: (H, W) or (H, W, C); mode P holds numbers of colours, 1 truth values
        mode = {"P": "RGB", "PA": "RGB", "1": "L"}.get(image.mode)
        return as_tensor(image.convert(mode) if mode else image, "images").movedim((0, 1), (-2, -1)).contiguous()
    raise TypeError(
        f"the image of item {number} must be a tensor or a picture of Pillow, not {type(image).__name__}; give the "
        "dataset transform=torchvision.transforms.v2.ToImage()"
    )
