"""Batches, and what stays with a sample through shuffles and subsets."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_mnist import equal
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from kd_course.data import Batch, Data, Split, to_float
from kd_course.inference import predict, predict_features, predict_top_k

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
            torch.zeros(13, 3), r"\(13, 3\) does not fit 12 samples.*predict\(teacher, split, …\)", id="a row more"
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
    with pytest.raises(
        ValueError, match=rf"'stage2' of shape \({rows}, 2\) does not fit 12 samples.*predict_features\(teacher, split"
    ):
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


@pytest.mark.parametrize("images", [np.zeros(3, "u1"), torch.zeros(3, dtype=torch.int64), [0, 255], None])
def test_pixels_of_another_kind_are_refused(images: Any) -> None:
    with pytest.raises(TypeError, match=r"uint8 or floating point, not .*; use Split\.from_arrays"):
        to_float(images)


# Named tables.


def many_tables() -> Split:
    """Twelve samples with three inputs, whose every table says which sample a row belongs to."""
    number = torch.arange(12)
    inputs = {
        "images": number.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2),
        "tokens": number.to(torch.int16)[:, None].expand(-1, 5),
        "spans": number.double()[:, None],
        "mask": (number % 2 == 0)[:, None],
        "bytes": number.to(torch.uint8)[:, None],
    }
    split = Split(inputs, number % 3, 40 + number, "made")
    half, int32 = number.half()[:, None], number.int()[:, None].expand(-1, 2)
    return split.with_teacher({"logits": half, "top_log_probabilities": -half, "top_indices": int32, "stage": half})


@pytest.mark.parametrize("shuffle_seed", [None, 3])
def test_every_named_table_goes_with_its_sample_and_is_widened_in_the_batch(shuffle_seed: int | None) -> None:
    split = many_tables().subset([5, 2, 9, 2, 11])
    assert {n: t.dtype for n, t in split.teacher.items()} == {
        "logits": torch.float16,
        "top_log_probabilities": torch.float16,
        "top_indices": torch.int32,
        "stage": torch.float16,
    }
    assert list(split.teacher_features) == ["stage"]
    wide = {"images": torch.float32, "tokens": torch.int64, "spans": torch.float64, "mask": torch.bool}
    wide |= {"bytes": torch.int64}
    for batch in split.batches(2, shuffle_seed=shuffle_seed):
        number = batch.indices - 40
        assert len(batch) == len(number) and batch.labels.equal(number % 3)
        assert {name: table.dtype for name, table in batch.inputs.items()} == wide
        assert torch.allclose(batch.images, (number / 255).float()[:, None, None, None])
        for name in ("tokens", "spans", "bytes"):
            assert (batch.inputs[name] == number[:, None]).all()
        assert batch.inputs["mask"].flatten().equal(number % 2 == 0)
        assert batch.teacher["top_indices"].equal(number[:, None].expand(-1, 2))
        assert batch.teacher_logits.dtype == torch.float32 and batch.teacher_logits.flatten().equal(number.float())
        assert batch.teacher["top_log_probabilities"].flatten().equal(-number.float())
        assert list(batch.teacher_features) == ["stage"]


def test_a_batch_can_be_cut_into_parts_that_hold_every_row_once() -> None:
    batch = replace(
        next(many_tables().batches(8)), progress=0.5, unlabelled=next(many_tables().unlabelled().batches(9))
    )
    parts = [batch.part(number, 3) for number in range(3)]
    assert [part.indices.tolist() for part in parts] == [[40, 43, 46], [41, 44, 47], [42, 45]]
    assert [len(part.unlabelled) for part in parts] == [3, 3, 3] and parts[1].unlabelled.labels is None
    for part in parts:
        assert part.labels.equal((part.indices - 40) % 3) and part.progress == 0.5
        assert all(
            (table.flatten(1)[:, 0] == part.indices - 40).all()
            for table in (part.inputs["tokens"], part.teacher_logits)
        )


def test_a_default_of_float64_makes_float64_batches(tiny_split: Callable[..., Split]) -> None:
    split = tiny_split(12).with_teacher(torch.ones(12, 3, dtype=torch.float16))
    torch.set_default_dtype(torch.float64)
    try:
        (batch,) = split.batches(12)
        assert batch.images.dtype == batch.teacher_logits.dtype == torch.float64
        assert predict(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), split).shape == (12, 3)
    finally:
        torch.set_default_dtype(torch.float32)


def test_unlabelled_samples_keep_all_but_their_labels(tiny_split: Callable[..., Split]) -> None:
    split = marked(tiny_split(12))
    bare = split.unlabelled()
    assert bare.labels is None and split.labels is not None and "12 unlabelled samples of tiny" in repr(bare)
    assert torch.equal(bare.images, split.images) and bare.teacher.keys() == split.teacher.keys()
    assert all(batch.labels is None for batch in bare.subset([3, 1, 4]).batches(2, shuffle_seed=0))
    for choose in (bare.only, bare.without):
        with pytest.raises(
            ValueError, match=r"has no labels, so nobody knows the classes; choose before unlabelled\(\)"
        ):
            choose(1)


@pytest.mark.parametrize("classes", [("3",), ([0, 1],), (1.0,), (True,), (None,)])
def test_classes_that_are_no_numbers_are_refused(tiny_split: Callable[..., Split], classes: tuple) -> None:
    for choose in (tiny_split().only, tiny_split().without):
        with pytest.raises(TypeError, match="a class must be a whole number, not"):
            choose(*classes)
    assert len(tiny_split(12).only(np.int64(1), torch.tensor(2))) == 8


# What a split is made of.


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        (
            {"inputs": np.zeros((3, 1))},
            TypeError,
            r"'images' must be a tensor \(N, …\).*not ndarray; use Split\.from_arrays",
        ),
        ({"inputs": {"images": torch.zeros(3, 1), "tokens": [1, 2, 3]}}, TypeError, "'tokens' .*not list"),
        ({"inputs": None}, TypeError, "'images' .*not NoneType"),
        ({"inputs": {}}, ValueError, "at least one input"),
        ({"inputs": torch.tensor(1.0)}, TypeError, r"'images' .*not torch.float32 \(\)"),
        ({"inputs": torch.zeros(4, 1)}, ValueError, "'images' has 4 rows, but there are 3 samples"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, ValueError, "'labels' has 4 rows"),
        (
            {"labels": torch.zeros(3)},
            TypeError,
            r"'labels' must be a tensor \(N,\) of int64.*not torch.float32 \(3,\)",
        ),
        ({"labels": torch.zeros(3, 1, dtype=torch.int64)}, TypeError, r"'labels' .*not torch.int64 \(3, 1\)"),
        ({"labels": [0, 1, 2]}, TypeError, "'labels' .*not list"),
        ({"indices": torch.arange(3.0)}, TypeError, "'indices' .*not torch.float32"),
        ({"indices": torch.arange(3, dtype=torch.int32)}, TypeError, "'indices' .*not torch.int32"),
        ({"indices": range(3)}, TypeError, "'indices' .*not range"),
        ({"teacher": {"logits": torch.zeros(2, 2)}}, ValueError, "'logits' has 2 rows"),
        (
            {"inputs": {"logits": torch.zeros(2, 1)}, "teacher": {"logits": torch.zeros(3, 1)}},
            ValueError,
            "'logits' has 2",
        ),
        ({"teacher": {"logits": None}}, TypeError, "'logits' .*not NoneType"),
    ],
)
def test_a_split_is_made_of_tensors_with_one_row_per_sample(fields: dict, error: type, words: str) -> None:
    good = {
        "inputs": torch.zeros(3, 1),
        "labels": torch.zeros(3, dtype=torch.int64),
        "indices": torch.arange(3),
        "origin": "x",
    }
    assert len(Split(**good)) == 3
    with pytest.raises(error, match=words):
        Split(**good | fields)


# Rows by position.

GOOD_POSITIONS = [[3, 1, 3], (3, 1, 3), torch.tensor([3, 1, 3], dtype=torch.int32), np.array([3, 1, 3])[::-1][::-1]]
GOOD_POSITIONS += [
    np.array([3, 1, 3], "u2"),
    [torch.tensor(3), torch.tensor(1), torch.tensor(3)],
    np.array([3, 1, 3], ">i4"),
]
BAD_POSITIONS = [
    ([[0], [1]], r"one list of whole numbers, not torch.int64 of shape \(2, 1\); for one sample write \[i\]"),
    (3, r"not torch.int64 of shape \(\); for one sample write \[i\]"),
    ([0.0, 1.0], r"not torch.float64 of shape \(2,\).*p > 0\.5"),
    (torch.rand(12), r"not torch.float32 .*for probabilities a mask such as p > 0\.5"),
    (torch.zeros(0, 2), r"of shape \(0, 2\)"),
    ([0, -1], r"positions -1 … 0 must lie in 0 … 11: they count in this split"),
    ([0, 12], r"positions 0 … 12 must lie in 0 … 11"),
    ([100, 101], r"positions 100 … 101 must lie in 0 … 11"),
    ([[0], [1, 2]], "do not fit together"),
]


@pytest.mark.parametrize("take", [Split.subset, Split.batch])
def test_rows_are_taken_by_position_from_anything_that_lists_them(
    tiny_split: Callable[..., Split], take: Callable[[Split, Any], Split | Batch]
) -> None:
    for positions in GOOD_POSITIONS:
        assert take(tiny_split(12), positions).indices.tolist() == [103, 101, 103]
    assert len(take(tiny_split(12), [])) == len(take(tiny_split(12), torch.empty(0))) == 0
    for positions, words in BAD_POSITIONS:
        with pytest.raises(ValueError, match=words):
            take(tiny_split(12), positions)
    for positions in ("abc", {1, 2}, None, [1, None], (i for i in range(3))):
        with pytest.raises(TypeError, match="positions must be numbers, not"):
            take(tiny_split(12), positions)


def test_a_mask_may_be_a_list_or_an_array_and_is_none_for_batch(tiny_split: Callable[..., Split]) -> None:
    mask = [False, True] * 6
    for each in (mask, np.array(mask), torch.tensor(mask)):
        assert tiny_split(12).subset(each).indices.tolist() == [101, 103, 105, 107, 109, 111]
    with pytest.raises(ValueError, match=r"a mask of shape \(12, 1\) does not fit 12 samples"):
        tiny_split(12).subset(np.array(mask)[:, None])
    with pytest.raises(ValueError, match=r"whole numbers, not torch.bool"):
        tiny_split(12).batch(mask)
    with pytest.raises(ValueError, match=r"positions 0 … 0 must lie in"):
        tiny_split(12).subset([]).batch([0])


# Batches, in which order and of which size.


def same_batches(first: list[Batch], second: list[Batch]) -> bool:
    """Equal bit for bit, in every table."""
    return len(first) == len(second) and all(
        a.inputs.keys() == b.inputs.keys()
        and a.teacher.keys() == b.teacher.keys()
        and all(torch.equal(a.inputs[n], b.inputs[n]) for n in a.inputs)
        and all(torch.equal(a.teacher[n], b.teacher[n]) for n in a.teacher)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle_seed", [None, 7, -3])
def test_a_data_loader_over_the_same_rows_gives_the_same_batches(shuffle_seed: int | None, drop_last: bool) -> None:
    split, sampler = many_tables(), None
    if shuffle_seed is not None:  # RandomSampler draws its order as PyTorch's own loaders do
        sampler = RandomSampler(range(12), generator=torch.Generator().manual_seed(shuffle_seed))
    loader = DataLoader(range(12), batch_size=5, sampler=sampler, drop_last=drop_last, collate_fn=split.batch)
    found = list(split.batches(5, shuffle_seed=shuffle_seed, drop_last=drop_last))
    assert same_batches(found, list(loader))
    assert [len(batch) for batch in found] == ([5, 5] if drop_last else [5, 5, 2])


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64])
def test_what_an_objective_does_to_a_batch_leaves_the_split_as_it_was(kind: torch.dtype) -> None:
    number = torch.arange(6)
    split = Split(torch.ones(6, 1, 2, 2).to(kind), number, number.clone(), "x").with_teacher(torch.ones(6, 2))
    before = copy.deepcopy(split)
    for batch in [*split.batches(6), *split.batches(3, shuffle_seed=1), split.batch(number)]:
        for table in (batch.images, batch.labels, batch.indices, batch.teacher_logits):
            table.fill_(7)
    assert same_batches(list(split.batches(6)), list(before.batches(6)))


@pytest.mark.parametrize("seed", [2.5, "0", True, [1], 2**64, -(2**63) - 1])
def test_a_seed_of_another_kind_is_refused(tiny_split: Callable[..., Split], seed: Any) -> None:
    for draw in (lambda: list(tiny_split().batches(4, shuffle_seed=seed)), lambda: tiny_split().sample(4, seed=seed)):
        with pytest.raises((TypeError, ValueError), match="seed must be"):
            draw()
    assert tiny_split().sample(4, seed=np.int64(3)).indices.equal(tiny_split().sample(4, seed=3).indices)


@pytest.mark.parametrize("count", [2.0, "4", True, None])
def test_a_count_of_another_kind_is_refused(tiny_split: Callable[..., Split], count: Any) -> None:
    with pytest.raises(TypeError, match="count must be a whole number"):
        tiny_split().sample(count, seed=0)


# Tables know the samples they were made for.


def quick_teacher() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 3))


TABLES = [
    pytest.param(lambda s: predict(quick_teacher(), s), id="predict"),
    pytest.param(lambda s: predict(quick_teacher(), s, out=torch.empty(len(s), 3, dtype=torch.float16)), id="out"),
    pytest.param(lambda s: predict_features(quick_teacher(), s, ["1"])["1"], id="features"),
    pytest.param(lambda s: predict_top_k(quick_teacher(), s, 2)["top_log_probabilities"], id="top k"),
    pytest.param(lambda s: s.with_teacher(torch.zeros(len(s), 3)).teacher_logits, id="of a split"),
    pytest.param(lambda s: s.with_features({"a": torch.zeros(len(s), 3)}).teacher_features["a"], id="stage of a split"),
]


@pytest.mark.parametrize("make", TABLES)
def test_a_table_is_refused_for_samples_it_was_not_made_for(
    make: Callable[[Split], Tensor], tiny_split: Callable[..., Split], tmp_path: Path
) -> None:
    source = tiny_split(40)
    split = source.sample(12, seed=0)
    table = make(split)
    torch.save(table, tmp_path / "table.pt")
    loaded = torch.load(tmp_path / "table.pt", weights_only=True)
    others = {
        "another draw": source.sample(12, seed=1),
        "another order": split.subset(range(11, -1, -1)),
        "another source": replace(split, origin="elsewhere"),
    }
    for each in (table, loaded, copy.deepcopy(table), table.cpu()):
        assert torch.equal(split.with_teacher(each).teacher_logits, table)
        assert torch.equal(split.unlabelled().with_teacher(each).teacher_logits, table)
        for other in others.values():
            for attach in (other.with_teacher, lambda t, other=other: other.with_features({"stage": t})):
                with pytest.raises(
                    ValueError,
                    match=r"was made for 12 samples of tiny, and these are others, or in another order \(12 of",
                ):
                    attach(each)
    for derived in (table + 1, table[range(12)], table.double(), torch.stack([table, table]).mean(0)):
        assert not hasattr(derived, "made_for") and others["another draw"].with_teacher(derived) is not None


def test_a_subset_has_tables_that_know_its_own_samples(tiny_split: Callable[..., Split]) -> None:
    split = marked(tiny_split(12))
    first, second = split.subset([3, 1]), split.subset([2, 5])
    assert first.with_teacher(first.teacher_logits).teacher_logits.equal(split.teacher_logits[[3, 1]])
    for table in ({"logits": first.teacher_logits}, first.teacher_features):
        with pytest.raises(ValueError, match="was made for 2 samples of tiny"):
            second.with_teacher(table)
    assert (
        split.with_teacher(split.teacher_logits).with_features(split.teacher_features).teacher.keys()
        == split.teacher.keys()
    )


@pytest.mark.parametrize(
    ("table", "error", "words"),
    [
        (torch.full((12, 3), 1e300, dtype=torch.float64), ValueError, "NaN or infinity; is the teacher trained"),
        (torch.full((12, 3), -torch.inf, dtype=torch.float16), ValueError, "NaN or infinity"),
        (torch.zeros(12, 0), ValueError, r"of shape \(12, 0\) does not fit 12 samples"),
        (torch.tensor(1.0), ValueError, r"of shape \(\) does not fit"),
        (np.zeros((12, 3)), TypeError, r"must be a tensor, not ndarray; use torch\.as_tensor"),
        ([[0.0] * 3] * 12, TypeError, r"not list; use torch\.as_tensor"),
        (None, TypeError, r"must be a tensor, not NoneType; make it with predict"),
        ((torch.zeros(12, 3),), TypeError, "not tuple; make it with predict"),
        (torch.zeros(12, 3, dtype=torch.complex64), TypeError, "floating-point numbers, not torch.complex64"),
    ],
)
def test_tables_that_are_none_are_refused(
    tiny_split: Callable[..., Split], table: Any, error: type, words: str
) -> None:
    for attach in (tiny_split().with_teacher, lambda t: tiny_split().with_features({"stage": t})):
        with pytest.raises(error, match=words):
            attach(table)


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool])
def test_logits_that_are_whole_numbers_are_refused_and_indices_are_not(
    tiny_split: Callable[..., Split], kind: torch.dtype
) -> None:
    with pytest.raises(TypeError, match=f"the table of teacher logits must be floating-point numbers, not {kind}"):
        tiny_split().with_teacher(torch.ones(12, 3, dtype=kind))
    taught = tiny_split().with_teacher({"top_indices": torch.ones(12, 3, dtype=kind)})
    assert taught.teacher["top_indices"].dtype == kind and taught.teacher_logits is None


def test_tables_by_name_are_added_and_features_take_the_place_of_those_before(
    tiny_split: Callable[..., Split],
) -> None:
    top = {"top_log_probabilities": torch.zeros(12, 5, 2).half(), "top_indices": torch.zeros(12, 5, 2).int()}
    split = tiny_split().with_teacher({"logits": torch.zeros(12, 5, 7, dtype=torch.float64)}).with_teacher(top)
    assert split.teacher_logits.dtype == torch.float32 and split.teacher_logits.shape == (12, 5, 7)
    split = split.with_features({"one": torch.zeros(12, 1)}).with_features({"two": torch.zeros(12, 1)})
    assert list(split.teacher_features) == ["two"] and list(split.teacher) == ["logits", *top, "two"]
    for name in ("logits", *top):
        with pytest.raises(ValueError, match=rf"\['{name}'\] are no stages; attach such tables with with_teacher"):
            split.with_features({name: torch.zeros(12, 2)})
    assert split.with_features({}).teacher.keys() == {"logits", *top}
