"""Splits of your own arrays and datasets: what is taken, in which form it is kept, and how the rest is refused."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from kd_course.data import Split

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 10))
PIXELS[0, 0, 0, :2] = 0, 255
READ_ONLY = PIXELS.astype("u1")
READ_ONLY.flags.writeable = False


# Arrays that are images.


@pytest.mark.parametrize(
    "images",
    [
        *(
            pytest.param(PIXELS.astype(kind), id=kind)
            for kind in ("u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">u2")
        ),
        *(
            pytest.param(torch.from_numpy(PIXELS).to(kind), id=str(kind))
            for kind in (torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64)
        ),
        pytest.param(PIXELS.tolist(), id="lists"),
        pytest.param([torch.from_numpy(each) for each in PIXELS], id="a list of tensors"),
        pytest.param(tuple(PIXELS.astype("u1")), id="a tuple of arrays"),
        pytest.param(READ_ONLY, id="read-only"),
        pytest.param(np.asfortranarray(PIXELS.astype("u1")), id="Fortran order"),
        pytest.param(PIXELS.astype("u1")[::-1, :, ::-1][::-1, :, ::-1], id="strides back and forth"),
        pytest.param(np.ma.masked_array(PIXELS.astype("u1")), id="masked array"),
    ],
)
def test_whole_numbers_of_every_type_become_uint8_images(images: Any) -> None:
    split = Split.from_arrays(images, range(6))
    assert split.images.dtype == torch.uint8 and type(split.images) is Tensor
    assert split.images.tolist() == PIXELS.tolist()
    assert split.labels.tolist() == split.indices.tolist() == [0, 1, 2, 3, 4, 5]
    assert split.labels.dtype == split.indices.dtype == torch.int64


def test_negative_strides_are_read_in_the_order_they_give() -> None:
    assert Split.from_arrays(PIXELS[::-1, :, :, ::-1]).images.tolist() == PIXELS[::-1, :, :, ::-1].tolist()


FRACTIONS = PIXELS / 255


@pytest.mark.parametrize(
    ("images", "kept"),
    [
        *(pytest.param(FRACTIONS.astype(kind), torch.float32, id=kind) for kind in ("f4", "f8", ">f8", "g")),
        pytest.param(FRACTIONS.astype("f2"), torch.float16, id="f2"),
        pytest.param(torch.from_numpy(FRACTIONS).bfloat16(), torch.bfloat16, id="bfloat16"),
        pytest.param(torch.from_numpy(FRACTIONS).requires_grad_(), torch.float32, id="with a gradient"),
        pytest.param((FRACTIONS - 0.5) / 0.25, torch.float32, id="standardised"),
        pytest.param(2 * FRACTIONS - 1, torch.float32, id="-1 … 1"),
        pytest.param(np.zeros((2, 1, 4, 4)), torch.float32, id="black"),
    ],
)
def test_floats_stay_floats_and_batches_have_their_values(images: Any, kept: torch.dtype) -> None:
    split = Split.from_arrays(images)
    assert split.images.dtype == kept and not split.images.requires_grad and split.labels is None
    (batch,) = split.batches(6)
    expected = np.asarray(images.detach().float() if isinstance(images, Tensor) else images, dtype="f8")
    assert batch.images.dtype == torch.float32 and batch.labels is None
    np.testing.assert_allclose(batch.images.numpy(), expected, atol=1e-6)


def test_grey_images_without_channels_get_one_and_other_inputs_stay_as_they_are() -> None:
    tokens = np.arange(12, dtype="i2").reshape(6, 2)
    split = Split.from_arrays(PIXELS[:, 0], tokens=tokens, spans=torch.ones(6, 2, 2), origin="x", indices=range(7, 13))
    assert split.images.tolist() == PIXELS[:, :1].tolist() and list(split.inputs) == ["images", "tokens", "spans"]
    assert split.inputs["tokens"].dtype == torch.int16 and split.indices.tolist() == [7, 8, 9, 10, 11, 12]
    assert split.origin == "x"
    (batch,) = split.batches(6)
    assert batch.inputs["tokens"].dtype == torch.int64 and batch.inputs["spans"].dtype == torch.float32
    assert not Split.from_arrays(np.zeros((2, 4, 4), "u1")).images.any()  # black is no reason to refuse
    alone = Split.from_arrays(tokens=tokens.astype("f8"))
    assert list(alone.inputs) == ["tokens"] and alone.inputs["tokens"].dtype == torch.float32
    with pytest.raises(AttributeError, match=r"no images here, only tokens: use inputs\[…\]"):
        _ = alone.images


def test_splits_of_other_images_have_other_origins_so_that_tables_are_kept_apart() -> None:
    first, again, other = (Split.from_arrays(each) for each in (PIXELS, PIXELS.astype("u1").copy(), 255 - PIXELS))
    assert first.origin == again.origin != other.origin and first.origin.startswith("own/")
    assert Split.from_arrays(tokens=PIXELS).origin != Split.from_arrays(tokens=PIXELS, more=PIXELS).origin
    table = first.with_teacher(torch.zeros(6, 3)).teacher_logits
    with pytest.raises(ValueError, match=f"made for 6 samples of {first.origin}.*6 of {other.origin}"):
        other.with_teacher(table)
    assert again.with_teacher(table).teacher_logits is not None


BAD_IMAGES = [
    (
        (PIXELS + 0.5) / 255 * 255,
        ValueError,
        r"0\.\.1 .*these lie in 0\.5\.\.255\.5; divide by 255, or pass 0\.\.255 as uint8",
    ),
    (PIXELS / 255 * 16, ValueError, r"these lie in 0\.\.16; divide by 16"),
    (PIXELS - 127.0, ValueError, r"0\.\.1 \(or be standardised\).*-127\.\.128; divide by 255"),
    (np.full((2, 1, 4, 4), 1.5), ValueError, r"1\.5\.\.1\.5"),
    (np.full((2, 1, 4, 4), -101.0), ValueError, r"-101\.\.-101"),
    (
        PIXELS.clip(0, 16),
        ValueError,
        r"whole numbers must lie in 0\.\.255.*0\.\.16; pass them as fractions: images / 16",
    ),
    (PIXELS % 2, ValueError, r"0\.\.1; pass them as fractions: images / 1$"),
    (PIXELS > 9, ValueError, r"fractions: images / 1$"),
    (PIXELS - 1, ValueError, r"-1\.\.254; scale them"),
    (PIXELS + 1, ValueError, r"1\.\.256; scale them"),
    (PIXELS.astype("u2") * 257, ValueError, r"0\.\.65535; scale them"),
    (PIXELS.transpose(0, 2, 3, 1), ValueError, r"\(6, 8, 10, 3\).*channels were last.*permute\(0, 3, 1, 2\)"),
    (PIXELS[0].transpose(1, 2, 0), ValueError, r"\(8, 10, 3\).*last.*permute\(2, 0, 1\)\[None\], if it is one image"),
    (PIXELS.reshape(6, -1), ValueError, r"not of shape \(6, 240\).*reshape\(N, C, H, W\)"),
    (PIXELS[0, 0], ValueError, r"one image needs its \[None\]"),
    (PIXELS[0, 0, 0], ValueError, r"not of shape \(10,\)"),
    (PIXELS[None], ValueError, r"not of shape \(1, 6, 3, 8, 10\)"),
    (7, ValueError, r"\(N, …\) with one row per sample, not of shape \(\)"),
    (PIXELS[:0], ValueError, r"not of shape \(0, 3, 8, 10\)"),
    ([], ValueError, r"not of shape \(0,\)"),
    (np.where(PIXELS > 200, np.nan, 0.5), ValueError, r"images hold NaN, infinity"),
    (np.where(PIXELS > 200, np.inf, 0.5), ValueError, r"images hold NaN, infinity"),
    (np.where(PIXELS > 200, 1e300, 0.5), ValueError, r"more than float32 can"),
    ([PIXELS[0], PIXELS[0, :, :4]], ValueError, "images must be one table, and the rows given do not fit together"),
    ([torch.zeros(1, 4, 4), torch.zeros(1, 5, 5)], ValueError, "do not fit together .*bring them to one shape"),
    (PIXELS.astype(object), TypeError, "images must be numbers, not object"),
    (PIXELS.astype(complex), TypeError, "not complex128"),
    (torch.zeros(2, 1, 4, 4, dtype=torch.complex64), TypeError, "real numbers in a dense table, not torch.complex64"),
    (torch.zeros(2, 1, 4, 4).to_sparse(), TypeError, "dense table.*sparse"),
    ("photos/*.png", TypeError, "images must be numbers, not <U12"),
    (None, TypeError, "a split needs inputs: give images, or other tables by name"),
]


@pytest.mark.parametrize(("images", "error", "words"), BAD_IMAGES)
def test_images_in_another_form_are_refused_with_the_way_to_it(images: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        Split.from_arrays(images)


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (np.eye(6), ValueError, r"\(6, 6\) are not one class for each of 6 samples, \(6,\); pass labels\.argmax\(1\)"),
        (np.eye(6, dtype=bool), ValueError, r"pass labels\.argmax\(1\)"),
        (np.arange(6)[:, None], ValueError, r"pass labels\[:, 0\]"),
        (np.eye(6) + np.eye(6)[::-1], ValueError, r"input of its own, target=…"),
        (np.full((6, 3), 1 / 3), ValueError, r"use batch\.inputs\['target'\]"),
        (np.ones((6, 8, 10), dtype=int), ValueError, r"input of its own"),
        (np.arange(5), ValueError, r"\(5,\) are not one class for each of 6 samples, \(6,\); pass as many labels"),
        (3, ValueError, r"labels must be \(N, …\) with one row per sample, not of shape \(\)"),
        (np.arange(6.0), ValueError, r"whole class numbers, not torch.float32; if they are, use \.astype\('int64'\)"),
        ([True, False] * 3, ValueError, "whole class numbers, not torch.bool"),
        ([0, 1, 2, 3, 4, -1], ValueError, r"from 0 on, not -1; leave such samples out"),
        (list("catdog"), TypeError, r"labels must be numbers, not <U1 \(\['c' 'a'\]\); .*return_inverse"),
        ([0, 1, None, 2, 3, 4], TypeError, "labels must be numbers, not object"),
        ([[0, 1], [2], [3], [4], [5], [5]], ValueError, "do not fit together"),
        (np.array([0, 1, 2, 3, 4, np.nan]), ValueError, "labels hold NaN"),
    ],
)
def test_labels_in_another_form_are_refused_with_the_way_to_it(labels: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        Split.from_arrays(PIXELS, labels)


@pytest.mark.parametrize("indices", [range(5), np.arange(6.0), [True] * 6, np.arange(6)[:, None], range(-1, 5)])
def test_sample_numbers_in_another_form_are_refused(indices: Any) -> None:
    with pytest.raises(ValueError, match=r"6 whole numbers from 0 on, one per sample.*numbered 0 … 5"):
        Split.from_arrays(PIXELS, indices=indices)


@pytest.mark.parametrize("rows", [5, 7])
def test_inputs_of_other_lengths_are_refused_by_name(rows: int) -> None:
    with pytest.raises(ValueError, match=f"'tokens' has {rows} rows, but there are 6 samples"):
        Split.from_arrays(PIXELS, tokens=torch.ones(rows, 2))


# Datasets.


class Pictures(Dataset):
    """A dataset of a list of items, as torchvision's are."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number]


GREY, OTHER = (Image.fromarray(each.astype("u1")) for each in PIXELS[:2, 0])
COLOUR = Image.fromarray(PIXELS[0].transpose(1, 2, 0).astype("u1"))
PALETTE = COLOUR.quantize(4)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        pytest.param(GREY, PIXELS[0, :1], id="L"),
        pytest.param(COLOUR, PIXELS[0], id="RGB"),
        pytest.param(PALETTE, np.asarray(PALETTE.convert("RGB")).transpose(2, 0, 1), id="P"),
        pytest.param(COLOUR.convert("RGBA"), np.concatenate([PIXELS[0], np.full((1, 8, 10), 255)]), id="RGBA"),
        pytest.param(GREY.convert("1"), 255 * np.asarray(GREY.convert("1"))[None], id="1"),
        pytest.param(torch.from_numpy(PIXELS[0, 0]), PIXELS[0, :1], id="a tensor (H, W)"),
        pytest.param(torch.from_numpy(PIXELS[0]), PIXELS[0], id="a tensor (C, H, W)"),
    ],
)
def test_a_dataset_of_pictures_of_any_mode_becomes_images(picture: Any, expected: np.ndarray) -> None:
    split = Split.from_dataset(Pictures((picture, 3), (picture, 0)), progress=False)
    assert split.images.dtype == torch.uint8 and split.images.tolist() == [expected.tolist()] * 2
    assert split.labels.tolist() == [3, 0] and split.indices.tolist() == [0, 1]


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, torch.tensor, lambda label: torch.tensor([label])])
def test_classes_may_be_whole_numbers_of_any_kind(kind: type) -> None:
    split = Split.from_dataset(Pictures((GREY, kind(2)), [OTHER, kind(7)]), origin="mine", progress=False)
    assert split.labels.tolist() == [2, 7] and split.labels.dtype == torch.int64 and split.origin == "mine"


def test_datasets_of_pytorch_are_read_in_order_with_or_without_classes() -> None:
    images, labels = torch.from_numpy(FRACTIONS).float(), torch.arange(6)
    dataset = TensorDataset(images, labels)
    split = Split.from_dataset(dataset, progress=False)
    assert torch.equal(split.images, images) and torch.equal(split.labels, labels)
    assert split.origin.startswith("TensorDataset/")
    chosen = Split.from_dataset(ConcatDataset([Subset(dataset, [4]), Subset(dataset, [1])]), progress=False)
    assert chosen.labels.tolist() == [4, 1] and chosen.origin != split.origin
    for alone in (TensorDataset(images), Pictures(*images)):
        bare = Split.from_dataset(alone, progress=False)
        assert bare.labels is None and torch.equal(bare.images, images)


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        return iter([(GREY, 0)])


@pytest.mark.parametrize(
    ("dataset", "error", "words"),
    [
        (
            Pictures((GREY, 0), (GREY.resize((4, 4)), 0)),
            ValueError,
            r"item 1 is torch.uint8 of shape \(4, 4\), and item 0 .*v2\.Resize",
        ),
        (
            Pictures((GREY, 0), (COLOUR, 0)),
            ValueError,
            r"item 1 is torch.uint8 of shape \(3, 8, 10\).*one size and mode",
        ),
        (Pictures(torch.ones(1, 4, 4, dtype=torch.uint8), torch.ones(1, 4, 4)), ValueError, r"item 1 is torch.float32"),
        (Pictures({"image": GREY, "label": 1}), TypeError, r"item 0 of Pictures must be \(image, class\).*dict of 2"),
        (Pictures((GREY, 1), (GREY, 1, 2)), TypeError, r"item 1 .*tuple of 3; build the split with Split\.from_arrays"),
        (Pictures(()), TypeError, "item 0 must be a tensor or a picture of Pillow, not tuple"),
        (Pictures((PIXELS[0], 1)), TypeError, r"not ndarray; .*v2\.ToImage\(\)"),
        (Pictures(None), TypeError, "not NoneType"),
        (Pictures(), ValueError, "Pictures is empty"),
        (Pictures((GREY, 2.7)), TypeError, "the class of item 0 must be a whole number, not 2.7"),
        (Pictures((GREY, 1), (GREY, "cat")), TypeError, "the class of item 1 must be a whole number, not 'cat'"),
        (Pictures((GREY, None)), TypeError, "the class of item 0 must be a whole number, not None"),
        (Pictures((GREY, torch.eye(3)[0])), TypeError, "the class of item 0 must be a whole number"),
        (Pictures((GREY, -1)), ValueError, "from 0 on, not -1"),
        (Pictures((GREY, 1), GREY), ValueError, r"labels of shape \(1,\) are not one class for each of 2 samples"),
        (Pictures((Image.fromarray(PIXELS[0, 0].astype("u2") * 257), 1)), ValueError, r"0\.\.65535; scale them"),
        (Endless(), TypeError, "must have a length and items by number, and Endless does not"),
        (DataLoader(Pictures((GREY, 0))), TypeError, r"DataLoader does not; of a DataLoader pass its \.dataset"),
        (None, TypeError, "NoneType does not"),
    ],
)
def test_datasets_of_other_items_are_refused_by_number(dataset: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        Split.from_dataset(dataset, progress=False)


def test_a_split_of_arrays_can_be_sent_to_another_process() -> None:
    split = Split.from_arrays(PIXELS, range(6)).with_teacher(torch.zeros(6, 3))
    again = pickle.loads(pickle.dumps(split))
    assert torch.equal(again.images, split.images) and again.origin == split.origin
    assert again.with_teacher(again.teacher_logits).teacher.keys() == {"logits"}
