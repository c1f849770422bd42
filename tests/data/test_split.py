"""Batches, and what stays with a sample through shuffles and subsets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_mnist import equal

from kd_course.data import Batch, Data, Split, to_float

# Batches.


def marked(split: Split) -> Split:
    """``split`` with a teacher whose logits and features say which sample they belong to."""
    logits = torch.stack([split.indices, 2 * split.indices, split.labels], 1).float()
    maps = split.indices.float()[:, None, None, None].expand(-1, 2, 3, 3)
    return split.with_teacher(logits).with_features({"map": maps, "embedding": split.indices.float()[:, None]})


def belongs(batch: Batch) -> bool:
    """Whether every row of teacher logits and features is that of the sample it stands beside."""
    logits, features = batch.teacher_logits, batch.teacher_features
    expected = torch.stack([batch.indices, 2 * batch.indices, batch.labels], 1).float()
    assert logits is not None and list(features) == ["map", "embedding"]
    assert features["map"].shape[1:] == (2, 3, 3) and features["embedding"].shape[1:] == (1,)
    means = [table.flatten(1).mean(1) for table in features.values()]
    return torch.equal(logits, expected) and all(torch.equal(mean, batch.indices.float()) for mean in means)


def test_batches_are_float_images_in_zero_to_one_with_a_smaller_last_one(digits: Data) -> None:
    batches = list(digits.validation.batches(100))
    assert [len(batch.labels) for batch in batches] == [100, 100, 97]
    images = torch.cat([batch.images for batch in batches])
    assert images.dtype == torch.float32 and images.min() == 0 and images.max() <= 1
    torch.testing.assert_close(images, digits.validation.images / 255)
    assert torch.cat([batch.labels for batch in batches]).equal(digits.validation.labels)  # in file order
    assert torch.cat([batch.indices for batch in batches]).equal(digits.validation.indices)
    assert all(batch.teacher_logits is None and not batch.teacher_features for batch in batches)
    assert all(batch.progress == 0 for batch in batches)
    assert digits.validation.images.dtype == torch.uint8  # the split itself is as it was


@pytest.mark.parametrize("size", [1, 5, 12, 13, 100])
def test_a_shuffle_shows_every_sample_once_with_all_that_belongs_to_it(
    tiny_split: Callable[..., Split], size: int
) -> None:
    split = tiny_split(12)
    batches = list(marked(split).batches(size, shuffle_seed=1))
    assert [len(batch.labels) for batch in batches] == [size] * (12 // size) + ([12 % size] if 12 % size else [])
    order = torch.cat([batch.indices for batch in batches])
    assert not order.equal(split.indices) and order.sort().values.equal(split.indices)
    for batch in batches:
        rows = batch.indices - 100
        assert belongs(batch)
        assert batch.labels.equal(split.labels[rows])
        assert torch.equal(batch.images, to_float(split.images[rows]))


def test_a_shuffle_is_decided_by_its_seed_alone(digits: Data) -> None:
    def order(seed: int) -> list[int]:
        return [i for batch in digits.test.batches(64, shuffle_seed=seed) for i in batch.indices.tolist()]

    first = order(0)
    torch.manual_seed(99)
    assert order(0) == first and order(1) != first


@pytest.mark.parametrize("shuffle_seed", [None, 0])
def test_reading_batches_leaves_the_random_numbers_outside_as_they_were(digits: Data, shuffle_seed: int | None) -> None:
    before = torch.get_rng_state()
    list(digits.test.batches(100, shuffle_seed=shuffle_seed))
    assert torch.equal(torch.get_rng_state(), before)


# Teacher logits belong to samples.


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        pytest.param(
            torch.zeros(11, 3), r"\(11, 3\) does not fit 12 samples: expected \(12, classes\)", id="a row short"
        ),
        pytest.param(
            torch.zeros(13, 3), r"\(13, 3\) does not fit 12 samples.*predict\(teacher, split\)", id="a row more"
        ),
        pytest.param(torch.zeros(12), r"\(12,\) does not fit", id="one dimension"),
        pytest.param(torch.zeros(12, 1, 3), r"\(12, 1, 3\) does not fit", id="three dimensions"),
        pytest.param(torch.zeros(12, 3).fill_(torch.nan), "NaN or infinity", id="NaN"),
        pytest.param(torch.zeros(12, 3).index_fill(0, torch.tensor(7), torch.inf), "NaN or infinity", id="infinity"),
    ],
)
def test_teacher_logits_that_do_not_fit_are_refused(
    tiny_split: Callable[..., Split], logits: torch.Tensor, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        tiny_split(12).with_teacher(logits)


def test_a_teacher_is_attached_to_a_copy_as_a_constant_in_its_own_type(tiny_split: Callable[..., Split]) -> None:
    split = tiny_split(12)
    logits = torch.ones(12, 3, dtype=torch.float16, requires_grad=True)
    taught = split.with_teacher(logits)
    assert split.teacher_logits is None
    assert taught.teacher_logits is not None and not taught.teacher_logits.requires_grad
    assert taught.teacher_logits.dtype == torch.float16 and equal(taught, split)
    assert all(batch.teacher_logits.dtype == torch.float32 for batch in taught.batches(5))


TRANSFORMS = [
    pytest.param(lambda s: s, 300, id="as it is"),
    pytest.param(lambda s: s.subset([7, 3, 200, 3]), 4, id="subset by a list"),
    pytest.param(lambda s: s.subset(torch.arange(299, -1, -2)), 150, id="subset by positions"),
    pytest.param(lambda s: s.subset(s.labels == 2), 100, id="subset by a mask"),
    pytest.param(lambda s: s.sample(50, seed=3), 50, id="sample"),
    pytest.param(lambda s: s.only(0, 2), 200, id="only"),
    pytest.param(lambda s: s.without(1), 200, id="without"),
    pytest.param(lambda s: s.sample(200, seed=1).without(0).sample(20, seed=2).only(1), None, id="a chain"),
]


@pytest.mark.parametrize(("transform", "size"), TRANSFORMS)
@pytest.mark.parametrize("shuffle_seed", [None, 5], ids=["in order", "shuffled"])
def test_what_the_teacher_said_stays_with_its_sample(
    tiny_split: Callable[..., Split], transform: Callable[[Split], Split], size: int | None, shuffle_seed: int | None
) -> None:
    source = tiny_split(300)
    split = transform(marked(source))
    assert len(split) == size if size is not None else len(split) > 0
    assert split.origin == source.origin
    assert split.labels.equal(source.labels[split.indices - 100])
    assert split.images.equal(source.images[split.indices - 100])
    seen = list(split.batches(7, shuffle_seed=shuffle_seed))
    assert sum(len(batch.labels) for batch in seen) == len(split)
    assert all(belongs(batch) for batch in seen)


def test_a_selection_of_nothing_has_no_batches_and_keeps_its_columns(tiny_split: Callable[..., Split]) -> None:
    nothing = marked(tiny_split(12)).subset([])
    assert len(nothing) == 0 and not list(nothing.batches(4))
    assert nothing.images.shape == (0, 1, 28, 28) and nothing.teacher_logits.shape == (0, 3)


@pytest.mark.parametrize("transform", [transform.values[0] for transform in TRANSFORMS])
def test_a_split_without_a_teacher_stays_without(
    tiny_split: Callable[..., Split], transform: Callable[[Split], Split]
) -> None:
    split = transform(tiny_split(300))
    assert split.teacher_logits is None and not split.teacher_features


@pytest.mark.parametrize("rows", [11, 13])
def test_teacher_features_that_do_not_fit_are_refused_by_stage(tiny_split: Callable[..., Split], rows: int) -> None:
    tables = {"stage1": torch.zeros(12, 2), "stage2": torch.zeros(rows, 2)}
    with pytest.raises(ValueError, match=rf"'stage2' of shape \({rows}, 2\) does not fit 12 samples.*predict_features\(teacher, split"):
        tiny_split(12).with_features(tables)


def test_larger_draws_with_one_seed_contain_the_smaller_ones(digits: Data) -> None:
    draws = [set(digits.train.sample(count, seed=4).indices.tolist()) for count in (10, 50, 400, 1000)]
    assert [len(draw) for draw in draws] == [10, 50, 400, 1000]
    assert draws[0] < draws[1] < draws[2] < draws[3]


def test_a_draw_is_decided_by_its_seed_alone(digits: Data) -> None:
    torch.manual_seed(0)
    first = digits.train.sample(100, seed=0)
    torch.manual_seed(1)
    assert equal(digits.train.sample(100, seed=0), first)
    assert not equal(digits.train.sample(100, seed=1), first)


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_more_samples_than_there_are_cannot_be_drawn(digits: Data, count: int) -> None:
    with pytest.raises(ValueError, match=f"cannot draw {count:,} of 1,000 samples; choose 1 to 1,000"):
        digits.train.sample(count, seed=0)


def test_only_and_without_share_the_samples_out(digits: Data) -> None:
    threes, others = digits.train.only(3), digits.train.without(3)
    assert set(threes.labels.tolist()) == {3} and 3 not in others.labels
    assert torch.cat([threes.indices, others.indices]).sort().values.equal(digits.train.indices)
    assert len(digits.train.only()) == 0 and equal(digits.train.without(), digits.train)


@pytest.mark.parametrize("length", [11, 13])
def test_a_mask_of_another_split_is_refused(tiny_split: Callable[..., Split], length: int) -> None:
    with pytest.raises(ValueError, match=rf"a mask of shape \({length},\) does not fit 12 samples"):
        tiny_split(12).subset(torch.ones(length, dtype=torch.bool))


def test_pixels_become_fractions_and_floats_pass() -> None:
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    images = torch.tensor([0.25])
    assert to_float(images) is images
