"""Streams: what every one of them promises, then each by itself; jitter: where pixels go, and what decides the draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_course.data import Augmented, Batch, Batches, Data, Noise, Paired, Split, as_mnist, jitter, to_float
from kd_course.runtime import seeded

# What every stream promises.


def samples(count: int = 11, start: int = 0) -> Split:
    """Images of one pixel that is the sample's number, like its label."""
    numbers = torch.arange(start, start + count)
    return Split(numbers.to(torch.uint8).view(-1, 1, 1, 1), numbers.clone(), numbers, f"from {start}")


STREAMS: dict[str, Callable[[], Batches]] = {
    "split": samples,
    "split with a teacher": lambda: samples().with_teacher(torch.arange(22.0).view(11, 2)),
    "unlabelled split": lambda: samples().unlabelled(),
    "augmented": lambda: Augmented(samples(), jitter),
    "augmented image by image": lambda: Augmented(samples(), lambda image: image + torch.rand(()), per_image=True),
    "paired with a large pool": lambda: Paired(samples(4), samples(22, 100), 2),
    "paired with a small pool": lambda: Paired(samples(), samples(3, 100)),
    "paired with streams": lambda: Paired(Augmented(samples(), jitter), Noise(4, (2,))),
    "noise": lambda: Noise(11, (3,)),
}


def tables(batch: Batch | None) -> dict[str, Tensor]:
    """Every tensor of a batch and of the batch beside it."""
    if batch is None:
        return {}
    found = {**batch.inputs, "indices": batch.indices, **{f"teacher {n}": t for n, t in batch.teacher.items()}}
    found |= {} if batch.labels is None else {"labels": batch.labels}
    return found | {f"beside {name}": table for name, table in tables(batch.unlabelled).items()}


def epoch(stream: Batches, size: int, seed: int | None, **options: Any) -> list[dict[str, Tensor]]:
    with seeded(5):
        return [tables(batch) for batch in stream.batches(size, shuffle_seed=seed, **options)]


def equal_epochs(first: list[dict[str, Tensor]], second: list[dict[str, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("name", STREAMS)
def test_every_stream_keeps_the_protocol(name: str) -> None:
    stream = STREAMS[name]()
    assert len(stream) == 11 and isinstance(stream.origin, str) and stream.origin
    for size in (1, 2, 3, 5, 11, 12):
        for drop_last, count in ((False, math.ceil(11 / size)), (True, 11 // size)):
            found = list(stream.batches(size, shuffle_seed=1, drop_last=drop_last))
            assert len(found) == count  # and it ends
            for batch in found:
                assert batch.indices.dtype == torch.int64 and batch.indices.shape == (len(batch),)
                assert 1 <= len(batch) <= size and batch.progress == 0
                assert all(table.device.type == "cpu" for table in tables(batch).values())
                assert all(len(table) == len(batch) for n, table in tables(batch).items() if "beside" not in n)
                assert {t.dtype for t in (*batch.inputs.values(), *batch.teacher.values())} == {torch.float32}
    first = epoch(stream, 4, 1)
    assert equal_epochs(epoch(stream, 4, 1), first) and not equal_epochs(epoch(stream, 4, 2), first)
    assert equal_epochs(epoch(stream, np.int64(4), np.int64(1), device=torch.device("cpu")), first)
    assert equal_epochs(epoch(stream, 4, None), epoch(stream, 4, None))
    assert not equal_epochs(epoch(stream, 4, None), epoch(stream, 4, 1)) or name == "noise"
    elsewhere = epoch(stream, 4, 1, device="meta")
    assert {table.device.type for batch in elsewhere for table in batch.values()} == {"meta"}


@pytest.mark.parametrize("name", STREAMS)
def test_every_stream_refuses_the_same_arguments(name: str) -> None:
    stream = STREAMS[name]()
    for size in (0, -1, 2.5, "5", True, None):
        with pytest.raises((TypeError, ValueError), match="batch_size must be"):
            next(stream.batches(size))
    for seed in (2.5, "0", True):
        with pytest.raises(TypeError, match="seed must be a whole number"):
            next(stream.batches(4, shuffle_seed=seed))
    with pytest.raises(ValueError, match="device 'gpu' cannot be used here"):
        next(stream.batches(4, device="gpu"))


@pytest.mark.parametrize("name", ["split", "unlabelled split", "augmented", "paired with a small pool", "noise"])
def test_streams_draw_nothing_from_the_generators_outside_unless_their_transform_does(name: str) -> None:
    before = torch.get_rng_state()
    list(STREAMS[name]().batches(4, shuffle_seed=3))
    assert torch.equal(torch.get_rng_state(), before) == (name != "augmented")


# Augmented.


@pytest.mark.parametrize("per_image", [False, True])
def test_augmented_images_stay_with_their_labels_in_the_order_of_the_split(per_image: bool) -> None:
    split, seen = samples(), []

    def transform(images: Tensor) -> Tensor:
        seen.append(images.shape)
        return images.add_(1)  # in place, which must not reach the split

    stream = Augmented(split, transform, per_image)
    plain = list(split.batches(4, shuffle_seed=2))
    for batch, before in zip(stream.batches(4, shuffle_seed=2), plain, strict=True):
        assert batch.labels.equal(before.labels) and batch.indices.equal(before.indices)
        assert torch.equal(batch.images, before.images + 1)
    assert seen == ([(1, 1, 1)] * 11 if per_image else [(4, 1, 1, 1), (4, 1, 1, 1), (3, 1, 1, 1)])
    assert split.images.flatten().equal(split.labels.to(torch.uint8)) and stream.origin == split.origin


@pytest.mark.parametrize("per_image", [False, True])
def test_several_views_become_inputs_of_one_batch_beside_the_images_as_they_were(per_image: bool) -> None:
    split = samples()
    stream = Augmented(split, lambda x: {"weak": x + 1, "strong": x + 2}, per_image)
    for batch in stream.batches(4):
        assert list(batch.inputs) == ["images", "weak", "strong"]
        assert torch.equal(batch.inputs["strong"], batch.images + 2) and torch.equal(
            batch.inputs["weak"], batch.images + 1
        )
        assert torch.equal(batch.images.flatten(), batch.labels / 255)


def test_every_image_has_a_draw_of_its_own_which_the_generators_decide() -> None:
    for per_image, noise in ((True, lambda x: x + torch.rand(())), (True, lambda x: x + np.random.rand())):  # noqa: NPY002
        stream = Augmented(samples(), noise, per_image)
        first, again = epoch(stream, 11, None), epoch(stream, 11, None)
        assert equal_epochs(first, again)
        (batch,) = first
        assert len((batch["images"].flatten() - batch["labels"] / 255).unique()) == 11


@pytest.mark.parametrize(
    ("transform", "per_image", "words"),
    [
        (lambda x: x[:-1], False, r"made \(10, 1, 1, 1\) of 11 images \('images'\); it must return one each"),
        (lambda x: x.mean(), False, r"made \(\) of 11 images"),
        (lambda x: None, False, "made NoneType of 11 images"),
        (lambda x: {"a": x, "b": [x]}, False, r"made list of 11 images \('b'\)"),
        (lambda x: None, True, r"\(\('images', 'NoneType'\),\) of single images; it must make tensors of one shape"),
        (lambda x: x.numpy(), True, r"'ndarray'"),
        (lambda x: x.expand(1, 1, 1 + int(x * 255)), True, r"\(1, 1, 1\).* and .*\(1, 1, 10\).*of one shape"),
        (lambda x: {"a": x} if x == 0 else {"b": x}, True, r"\('a', .* and .*\('b', .*by the same names"),
    ],
)
def test_what_a_transform_must_not_return_is_named(transform: Callable, per_image: bool, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        next(Augmented(samples(), transform, per_image).batches(11))


def test_only_a_split_with_images_and_without_tables_can_be_augmented() -> None:
    taught = samples().with_teacher(torch.zeros(11, 2)).with_features({"stage1": torch.zeros(11, 1)})
    for split, names in ((taught, "logits, stage1"), (replace(taught, teacher=taught.teacher_features), "stage1")):
        with pytest.raises(ValueError, match=rf"tables \({names}\) are about the images before.*run a Teacher"):
            Augmented(split, jitter)
    with pytest.raises(ValueError, match="there are no images to change, only tokens"):
        Augmented(Split.from_arrays(tokens=[[1], [2]]), jitter)
    for arguments in ((Noise(3, (1,)), jitter), (Augmented(samples(), jitter), jitter), (samples(), None)):
        with pytest.raises(TypeError, match="takes a Split and a function of images, not"):
            Augmented(*arguments)


# Paired.


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("ratio", [1, 2, 7])
@pytest.mark.parametrize(("labelled", "pool"), [(11, 30), (30, 11), (4, 4), (1, 9), (9, 1), (3, 100)])
def test_an_epoch_of_pairs_is_one_pass_over_the_one_that_lasts_longer(
    labelled: int, pool: int, ratio: int, drop_last: bool
) -> None:
    stream, size = Paired(samples(labelled), samples(pool, 100), ratio), 4
    steps = math.ceil(labelled / size), math.ceil(pool / (size * ratio))
    assert len(stream) == max(labelled, math.ceil(pool / ratio)) and stream.origin == "from 0 + from 100"
    found = list(stream.batches(size, shuffle_seed=3, drop_last=drop_last))
    assert len(found) == (len(stream) // size if drop_last else max(steps))
    own, beside = ([each.indices for each in batches] for batches in (found, [batch.unlabelled for batch in found]))
    for seen, count, most in ((own, labelled, size), (beside, pool, size * ratio)):
        wanted = min(most, count) if drop_last else most
        assert all(len(each) == wanted if drop_last else 1 <= len(each) <= wanted for each in seen)
        steps_of_a_pass = max(1, count // most) if drop_last else math.ceil(count / most)
        for first in range(0, len(seen) - steps_of_a_pass + 1, steps_of_a_pass):  # every pass shows each at most once
            whole_pass = torch.cat(seen[first : first + steps_of_a_pass])
            assert len(whole_pass.unique()) == len(whole_pass) == (count if not drop_last else wanted * steps_of_a_pass)
    assert all(batch.labels.equal(batch.indices) and batch.unlabelled.labels is None for batch in found)
    assert all(batch.unlabelled.unlabelled is None for batch in found)


@pytest.mark.parametrize("shuffle_seed", [None, 0, 1, -5])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_labelled_come_in_the_order_that_they_have_alone(shuffle_seed: int | None, drop_last: bool) -> None:
    split, options = samples(), {"shuffle_seed": shuffle_seed, "drop_last": drop_last}
    alone = [batch.indices.tolist() for batch in split.batches(4, **options)]
    for pool in (samples(11, 100), samples(2, 100), samples(200, 100), Noise(50, 3)):
        found = [batch.indices.tolist() for batch in Paired(split, pool).batches(4, **options)]
        assert found[: len(alone)] == alone


def test_each_pass_has_a_new_order_and_the_pool_one_of_its_own() -> None:
    stream = Paired(samples(8), samples(8))
    pairs = [(batch.indices.tolist(), batch.unlabelled.indices.tolist()) for batch in stream.batches(8, shuffle_seed=0)]
    assert pairs[0][0] != pairs[0][1]
    passes = [b.unlabelled.indices.tolist() for b in Paired(samples(40), samples(8)).batches(8, shuffle_seed=0)]
    assert len(passes) == 5 and len({tuple(each) for each in passes}) == 5
    own = [batch.indices.tolist() for batch in Paired(samples(8), samples(40)).batches(8, shuffle_seed=0)]
    assert len({tuple(each) for each in own}) == 5
    straight = [b.unlabelled.indices.tolist() for b in Paired(samples(40), samples(8)).batches(8)]
    assert straight == [list(range(8))] * 5


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((samples().subset([]), samples()), ValueError, r"Split\(0 samples of from 0\) is empty"),
        ((samples(), samples().subset([])), ValueError, "is empty, and both must have samples"),
        ((samples(), samples(), 0), ValueError, "ratio must be 1 or more, not 0"),
        ((samples(), samples(), 1.5), TypeError, "ratio must be a whole number, not 1.5"),
        ((samples(), samples(), True), TypeError, "ratio must be a whole number"),
        ((samples(), torch.zeros(3, 1)), TypeError, "not Tensor; make one with Split.from_arrays"),
        ((None, samples()), TypeError, "not NoneType"),
    ],
)
def test_pairs_of_nothing_are_refused(arguments: tuple, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        Paired(*arguments)


# Noise.


@pytest.mark.parametrize(("shape", "side"), [((2, 3), (2, 3)), ([4], (4,)), (4, (4,)), (np.int64(4), (4,)), ((), ())])
def test_noise_is_standard_normal_and_the_same_whenever_its_seed_is(shape: Any, side: tuple[int, ...]) -> None:
    noise = Noise(2000, shape, name="z")
    batches = list(noise.batches(900, shuffle_seed=4))
    assert [batch.inputs["z"].shape for batch in batches] == [(900, *side), (900, *side), (200, *side)]
    assert torch.cat([batch.indices for batch in batches]).equal(torch.arange(2000))
    assert all(batch.labels is None and list(batch.inputs) == ["z"] for batch in batches)
    drawn = torch.cat([batch.inputs["z"] for batch in batches])
    assert abs(float(drawn.mean())) < 0.1 and abs(float(drawn.std()) - 1) < 0.1
    assert len(drawn.unique()) > 0.99 * drawn.numel() and noise.origin == "noise" and len(noise) == 2000
    assert equal_epochs(epoch(noise, 900, None), epoch(noise, 900, 0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 3), "count must be 1"),
        ((2.5, 3), "count must be"),
        ((True, 3), "count must be"),
        (("9", 3), "count must be"),
    ]
    + [((4, shape), "a side of shape must be") for shape in (0, (3, -1), 2.5, "32", None, (True,), (2.0,))],
)
def test_noise_of_no_shape_is_refused(arguments: tuple, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Noise(*arguments)


# Jitter.


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


@pytest.mark.parametrize("images", [torch.zeros(28, 28), torch.zeros(1, 28, 28), np.zeros((2, 1, 28, 28)), None])
def test_jitter_of_other_than_a_batch_of_images_is_refused(images: Any) -> None:
    with pytest.raises(
        ValueError, match=r"images must be a tensor \(B, C, H, W\), not .*; one image needs its \[None\]"
    ):
        jitter(images)
    for pixels in (-1, 1.5, "2", True):
        with pytest.raises((TypeError, ValueError), match="pixels must be"):
            jitter(torch.zeros(2, 1, 28, 28), pixels)


@pytest.mark.parametrize("value", [[0] * 783, [], [0] * 783 + [None], ["0"] * 784, [float("nan")] * 784, None])
def test_a_drawing_of_other_than_784_pixels_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="a drawing"):
        as_mnist(value)
    assert as_mnist(np.zeros((28, 28))).shape == (1, 28, 28)
