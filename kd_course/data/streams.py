"""What happens to images on their way into a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def jitter(images: Tensor, pixels: int = 2) -> Tensor:
    """Shift each image by its own random whole number of pixels in x and in y. What moves in is black.

    Hinton's teacher saw each digit moved by up to two pixels. Draws from PyTorch's global generator.

    Args:
        images: (B, C, H, W), of any type.
        pixels: the largest shift.

    Returns:
        The shifted images, of the same shape and type.
    """
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

    Reference: LeCun, Cortes & Burges, *The MNIST database of handwritten digits*.
    """
    drawing = torch.tensor(value, dtype=torch.float32).view(28, 28)
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
