"""What the one loop and its tables are for: each of these is a kind of distillation, in few lines of a user's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from small_training import network, same, state
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from kd_course.data import Augmented, Batch, Noise, Paired, Split, jitter
from kd_course.inference import Teacher, predict, predict_top_k
from kd_course.losses import kd_loss, soft_target_loss
from kd_course.runtime import seeded
from kd_course.training import fit

quick = partial(fit, progress=False, optimizer=partial(torch.optim.Adam, lr=1e-2))


def bigram(seed: int) -> nn.Module:
    """A language model of one layer: logits of the next of six tokens, (B, L, 6)."""
    with seeded(seed):
        return nn.Sequential(nn.Embedding(6, 16), nn.Linear(16, 6))


def test_a_token_model_learns_from_a_table_of_top_k_log_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 6, (64, 9), generator=generator, dtype=torch.uint8)
    text = Split.from_arrays(tokens=tokens, origin="made up")
    teacher = bigram(1)
    teacher[1].weight.data *= 8  # with an opinion
    taught = text.with_teacher(predict_top_k(teacher, text, 2))
    assert taught.teacher["top_log_probabilities"].dtype == torch.float16 and taught.labels is None

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        top, chosen = batch.teacher["top_log_probabilities"], batch.teacher["top_indices"]
        student = model(batch.inputs["tokens"]).log_softmax(-1).gather(-1, chosen)
        tails = [(1 - known.exp().sum(-1)).clamp_min(1e-6) for known in (top, student)]  # all other classes: one bin
        known = (top.exp() * (top - student)).sum(-1)
        return (known + tails[0] * (tails[0].log() - tails[1].log())).mean()

    student = bigram(2)
    history = quick(student, objective, taught, epochs=30, batch_size=16)
    assert history["loss"].iloc[-1] < 0.02 < 0.5 < history["loss"].iloc[0]
    assert predict(student, text).argmax(-1).equal(predict(teacher, text).argmax(-1))


def test_generator_and_student_play_against_each_other_under_a_teacher_that_stays_as_it_is() -> None:
    """Adversarial distillation without data: the generator looks for images on which the two disagree."""
    with seeded(0):
        generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 784), nn.Sigmoid())
        body = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3)
        )
    players = nn.ModuleDict({"generator": generator, "student": network(), "teacher": Teacher(body)})
    before = state(players["teacher"])

    def disagreement(players: nn.ModuleDict, batch: Batch) -> Tensor:
        images = players["generator"](batch.inputs["noise"]).view(-1, 1, 28, 28)
        return F.l1_loss(players["student"](images), players["teacher"](images))

    turns = {
        "generator": lambda players, batch: -disagreement(players, batch),  # gradients pass through the teacher
        "student": disagreement,
    }
    history = quick(players, turns, Noise(128, 8), epochs=4, batch_size=32)
    assert same(state(players["teacher"]), before)
    assert list(history)[:2] == ["generator/loss", "student/loss"]
    assert history["student/loss"].iloc[-1] < 0.5 * history["student/loss"].iloc[0]


def test_a_live_teacher_sees_the_very_view_that_the_student_sees(tiny_split: Callable[..., Split]) -> None:
    seen: dict[str, list[Tensor]] = {"student": [], "teacher": []}
    models = nn.ModuleDict({"student": network(1), "teacher": Teacher(network(2))})
    for name, model in models.items():
        model.register_forward_pre_hook(lambda _, images, name=name: seen[name].append(images[0].clone()))

    def objective(models: nn.ModuleDict, batch: Batch) -> Tensor:
        return soft_target_loss(models["student"](batch.images), models["teacher"](batch.images), temperature=4)

    split = tiny_split(24)
    history = quick(models, objective, Augmented(split, jitter), epochs=15, batch_size=8)
    assert all(map(torch.equal, seen["student"], seen["teacher"])) and len(seen["student"]) == 45
    assert len({view.sum().item() for view in seen["student"]}) == 45  # another view each time
    assert history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0]


def test_a_pool_without_labels_teaches_beside_a_few_labels(tiny_split: Callable[..., Split]) -> None:
    few, pool = tiny_split(3), tiny_split(60, seed=1)
    teacher = network(1)
    quick(
        teacher, lambda model, batch: F.cross_entropy(model(batch.images), batch.labels), pool, epochs=20, batch_size=20
    )
    pool = pool.unlabelled().with_teacher(predict(teacher, pool))

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert batch.unlabelled.labels is None and len(batch.unlabelled) == 4 * len(batch)
        hard = F.cross_entropy(model(batch.images), batch.labels)
        soft = kd_loss(model(batch.unlabelled.images), batch.unlabelled.teacher_logits, None, temperature=2, alpha=1)
        return {"loss": hard + soft, "hard": hard, "soft": soft}

    student, unseen = network(2), tiny_split(30, seed=2)
    quick(student, objective, Paired(few, pool, ratio=4), epochs=10, batch_size=3)
    assert predict(student, unseen).argmax(1).equal(unseen.labels)


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_own_colour_images_train_an_own_network(kind: str) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = generator.integers(0, 100, (40, 3, 32, 32)).astype(np.uint8)
    images[labels == 1, 0] += 120  # class 1 is red
    if kind == "arrays":
        split = Split.from_arrays(images, labels, origin="my photos")
    else:
        split = Split.from_dataset(
            TensorDataset(torch.from_numpy(images), torch.from_numpy(labels)), origin="my photos"
        )
    with seeded(0):
        own = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 15 * 15, 2))
    quick(own, lambda model, batch: F.cross_entropy(model(batch.images), batch.labels), split, epochs=5, batch_size=8)
    assert predict(own, split).argmax(1).equal(split.labels)
    assert split.origin == "my photos" and split.images.shape == (40, 3, 32, 32)
