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
