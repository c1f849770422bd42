"""What the course's design costs and saves, as ratios measured side by side in one run: ``make bench``.

Wall times depend on the machine and on its other work; ratios of interleaved runs hardly do. Every figure is the
median over rounds, each of which times all variants once, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from kd_course.data import Batch, Split, load_data
from kd_course.inference import freeze, predict
from kd_course.losses import kd_loss
from kd_course.models import StudentNet, TeacherNet
from kd_course.runtime import seeded
from kd_course.training import fit

BATCH = 128
DISTIL = {"temperature": 4.0, "alpha": 0.9}


def plain(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy with the labels."""
    return F.cross_entropy(model(batch.images), batch.labels)


def distil(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Hinton's loss, with the teacher logits that the batch carries."""
    return kd_loss(model(batch.images), batch.teacher_logits, batch.labels, **DISTIL)


def bare_loop(model: torch.nn.Module, train: Split) -> None:
    """The least that training an epoch needs: batches, forward, backward, step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for batch in train.batches(BATCH, shuffle_seed=0):
        loss = plain(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class TextbookImages(Dataset):
    """Images as most tutorials read them: one PIL image at a time, through ``ToTensor``."""

    def __init__(self, split: Split) -> None:
        from torchvision.transforms import ToPILImage, ToTensor

        self.images = [ToPILImage()(image) for image in split.images]
        self.labels = split.labels.tolist()
        self.transform = ToTensor()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def textbook_loop(model: torch.nn.Module, teacher: torch.nn.Module, images: TextbookImages) -> None:
    """Distillation as most tutorials write it: per-image transforms, and the teacher run again on every batch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for pixels, labels in DataLoader(images, batch_size=BATCH, shuffle=True):
        with torch.no_grad():
            teacher_logits = teacher(pixels)
        loss = kd_loss(model(pixels), teacher_logits, labels, **DISTIL)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def rounds(variants: dict[str, Callable[[torch.nn.Module], object]], count: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round, after one round of warm-up; every second round runs in reverse order."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(-1, count):
        names = list(variants) if number % 2 else list(reversed(variants))
        for name in names:
            with seeded(0):
                model = StudentNet()
            start = time.perf_counter()
            variants[name](model)
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, baseline: str) -> float:
    """Median over rounds of how many times as long ``name`` took as ``baseline``."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[baseline], strict=True))


def main() -> None:
    """Time an epoch each way and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=6_400, help="images per epoch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds to take the median over (default: %(default)s)")
    options = parser.parse_args()

    data = load_data()
    train = data.train.sample(min(options.images, len(data.train)), seed=0)
    teacher = freeze(TeacherNet())  # its speed matters here, not its predictions
    with_logits, textbook = train.with_teacher(predict(teacher, train)), TextbookImages(train)
    everyday = {"epochs": 1, "batch_size": BATCH, "progress": False, "device": "cpu"}
    print(f"{len(train):,} images of {data.name}, StudentNet, batch {BATCH}, {torch.get_num_threads()} threads")

    seconds = rounds(
        {
            "bare loop": lambda model: bare_loop(model, train),
            "fit, plain": lambda model: fit(model, plain, train, **everyday),
            "fit, KD from cached logits": lambda model: fit(model, distil, with_logits, **everyday),
        },
        options.rounds,
    )
    seconds |= rounds({"textbook KD": lambda model: textbook_loop(model, teacher, textbook)}, 1)
    for name, values in seconds.items():
        print(f"  {name:<28}{statistics.median(values):7.2f} s per epoch")
    cached = statistics.median(seconds["fit, KD from cached logits"])
    kd, overhead = ratio(seconds, "fit, KD from cached logits", "fit, plain"), ratio(seconds, "fit, plain", "bare loop")
    print(f"KD from cached logits / plain epoch: {kd:.2f}  (at most 1.10)")
    print(f"fit / bare loop:                     {overhead:.2f}  (at most 1.05)")
    print(f"textbook KD / KD from cached logits: {seconds['textbook KD'][0] / cached:.1f}   (expected above 4)")


if __name__ == "__main__":
    main()
