"""Lengths and directions whose gradients stay finite where a vector is zero."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Vectors of length 1 along ``dim``; a zero vector stays zero, with a finite gradient."""
    return rescaled_by(vectors, torch.linalg.vector_norm(vectors, dim=dim, keepdim=True))


def centred(values: Tensor, dim: int) -> Tensor:
    """``values`` minus their mean along ``dim``; exactly 0 where all are alike, without a residue of rounding."""
    shifted = values - values.narrow(dim, 0, 1)
    return shifted - shifted.mean(dim, keepdim=True)


def rescaled_by(values: Tensor, scale: Tensor) -> Tensor:
    """``values / scale``, or ``values`` where the scale is 0."""
    return values / torch.where(scale > 0, scale, 1)
