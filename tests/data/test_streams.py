"""Jitter: where pixels go, that nothing is lost or wrapped around, and what decides the draw."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from kd_course.data import Data, jitter, to_float


def test_jitter_moves_each_image_by_its_own_amount_of_at_most_two_pixels() -> None:
    images = torch.zeros(2000, 1, 28, 28)
    images[:, 0, 10, 15] = 1
    torch.manual_seed(0)
    found = jitter(images)
    assert found.shape == images.shape
    sample, _channel, row, column = found.nonzero(as_tuple=True)
    assert sample.equal(torch.arange(2000))  # still one lit pixel in every image
    shifts = torch.stack([row - 10, column - 15], 1)
    assert shifts.abs().max() == 2
    counts = torch.unique(shifts, dim=0, return_counts=True)[1]
    assert len(counts) == 25 and counts.min() > 40 and counts.max() < 130  # each of the 25 shifts about 80 times


def test_jitter_moves_the_whole_picture_and_loses_nothing_inside_a_black_border(digits: Data) -> None:
    images = F.pad(to_float(digits.test.images[:200, :, 4:24, 4:24]), (4, 4, 4, 4))
    torch.manual_seed(0)
    found = jitter(images)
    matched = torch.zeros(200, dtype=torch.long)
    for down in range(-2, 3):
        for right in range(-2, 3):
            matched += (found == images.roll((down, right), (2, 3))).flatten(1).all(1)
    assert (matched == 1).all()
    assert torch.equal(found.flatten(1).sort(1).values, images.flatten(1).sort(1).values)


def test_jitter_fills_with_black_and_never_wraps_around() -> None:
    torch.manual_seed(0)
    found = jitter(torch.ones(500, 1, 6, 6))
    ones = found.sum((1, 2, 3))
    sides = {(6 - a) * (6 - b) for a in range(3) for b in range(3)}
    assert {int(count) for count in ones} == sides
    assert (found[:, :, 2:4, 2:4] == 1).all()


def test_jitter_moves_the_channels_of_an_image_together_and_keeps_their_type() -> None:
    image = torch.randint(0, 255, (50, 1, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    found = jitter(image.expand(-1, 3, -1, -1))
    assert found.dtype == torch.uint8 and found.shape == (50, 3, 9, 7)
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])
    assert not torch.equal(found[:, :1], image)


def test_jitter_is_decided_by_the_global_seed_and_by_zero_pixels_not_at_all() -> None:
    images = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    first = jitter(images)
    torch.manual_seed(3)
    assert torch.equal(jitter(images), first) and not torch.equal(jitter(images), first)
    assert torch.equal(jitter(images, 0), images)
