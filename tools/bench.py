"""What the course's design costs and saves, as ratios measured side by side in one run: ``make bench``.

Seconds depend on the machine and on its other work; ratios of interleaved runs hardly do. A ratio is the median over
rounds, each of which times both sides in turn; the one beside it is that of the two fastest times. All runs on one
thread. ``--json`` writes the same table for machines.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler says much on its own

import torch
from bench_losses import CRD, PAIRS, make_pair
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from kd_course import losses
from kd_course.data import Batch, Split, load_data
from kd_course.inference import freeze, predict
from kd_course.losses import kd_loss
from kd_course.models import StudentNet, TeacherNet
from kd_course.runtime import seeded, threads
from kd_course.training import fit

BATCH = 128
DISTIL = {"temperature": 4.0, "alpha": 0.9}
Work = Callable[[], object]


class Row(NamedTuple):
    """One line of the table: what is compared, two ratios or one number, and what it should be."""

    what: str
    ratio: float
    of_fastest: float | None = None
    goal: str = ""

    @property
    def reached(self) -> str:
        """Whether the goal is reached."""
        if not self.goal:
            return ""
        sign, bound = self.goal.split()
        value = self.ratio if self.of_fastest is None else min(self.ratio, self.of_fastest)
        if sign == "≥":
            return "yes" if max(self.ratio, self.of_fastest or 0) >= float(bound) else "no"
        return "yes" if value <= float(bound) else "no"


def interleaved(variants: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round, after one round of warm-up; every second round runs in reverse order."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(-1, rounds):
        for name in variants if number % 2 else reversed(variants):
            start = time.perf_counter()
            variants[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(what: str, seconds: dict[str, list[float]], name: str, baseline: str, goal: str = "") -> Row:
    """How many times as long ``name`` took as ``baseline``."""
    median = statistics.median(a / b for a, b in zip(seconds[name], seconds[baseline], strict=True))
    return Row(what, median, min(seconds[name]) / min(seconds[baseline]), goal)


# The loop.


def plain(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy with the labels."""
    return F.cross_entropy(model(batch.images), batch.labels)


def distil(model: nn.Module, batch: Batch) -> Tensor:
    """Hinton's loss, with the teacher logits that the batch carries."""
    return kd_loss(model(batch.images), batch.teacher_logits, batch.labels, **DISTIL)


def student() -> StudentNet:
    """A new student, always the same."""
    with seeded(0):
        return StudentNet()


def bare_loop(train: Split) -> None:
    """The least that training an epoch needs: batches, forward, backward, step."""
    model = student()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
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

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def textbook_loop(teacher: nn.Module, images: TextbookImages) -> None:
    """Distillation as most tutorials write it: per-image transforms, and the teacher run again on every batch."""
    model = student()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for pixels, labels in DataLoader(images, batch_size=BATCH, shuffle=True):
        with torch.no_grad():
            teacher_logits = teacher(pixels)
        loss = kd_loss(model(pixels), teacher_logits, labels, **DISTIL)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def multiplications() -> None:
    """Matrix products of 2·10⁹ floating-point operations, as fast as the machine can."""
    left, right = torch.ones(1000, 1000), torch.ones(1000, 1000)
    left @ right


def operations(train: Split) -> tuple[int, int]:
    """Floating-point operations of an epoch's matrix products and convolutions, and of a forward pass over it."""
    model, batch = student(), train.batch(torch.arange(BATCH))
    with FlopCounterMode(display=False) as whole:
        plain(model, batch).backward()
    with FlopCounterMode(display=False) as forward:
        model(batch.images)
    steps = math.ceil(len(train) / BATCH)
    return whole.get_total_flops() * steps, forward.get_total_flops() * steps


def loop(images: int, rounds: int) -> list[Row]:
    """What an epoch costs, each way."""
    data = load_data()
    train = data.train.sample(min(images, len(data.train)), seed=0)
    teacher = freeze(TeacherNet())  # its speed matters here, not its predictions
    taught, textbook = train.with_teacher(predict(teacher, train)), TextbookImages(train)
    everyday = {"epochs": 1, "batch_size": BATCH, "progress": False, "device": "cpu"}
    seconds = interleaved(
        {
            "bare": lambda: bare_loop(train),
            "plain": lambda: fit(student(), plain, train, **everyday),
            "KD": lambda: fit(student(), distil, taught, **everyday),
            "predict": lambda: predict(student(), train, device="cpu"),
            "products": multiplications,
        },
        rounds,
    )
    seconds |= {"textbook": [interleaved({"": lambda: textbook_loop(teacher, textbook)}, 1)[""][0]] * rounds}
    training, forward = operations(train)
    for name, count in (("limit", training), ("limit of predict", forward)):
        seconds[name] = [each * count / 2e9 for each in seconds["products"]]
    return [
        ratio("epoch of KD from cached logits / plain epoch", seconds, "KD", "plain", "≤ 1.10"),
        ratio("fit / the barest loop", seconds, "plain", "bare", "≤ 1.03"),
        ratio("textbook loop / KD from cached logits", seconds, "textbook", "KD", "≥ 8"),
        ratio("fit / its matrix products alone", seconds, "plain", "limit", "≤ 2.3"),
        ratio("predict / its matrix products alone", seconds, "predict", "limit of predict", "≤ 2"),
    ]


# Losses.


def peak_mib(work: Work) -> float:
    """The most memory that PyTorch's allocator had in use for ``work`` at once, in MiB: the same on every machine."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        work()
    events = [event for event in run.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak / 2**20


def step(loss: Callable[[Tensor, Tensor], Tensor], s: Tensor, t: Tensor) -> float:
    """Forward and backward; the value."""
    s.grad = None
    with seeded(0):  # the same negatives for both
        value = loss(s, t)
        value.backward()
    return value.item()


def loss_rows(rounds: int) -> list[Row]:
    """Each loss against a plain reading of its formula: time, and peak memory."""
    rows = []
    for name in tqdm(PAIRS, leave=False, unit="loss"):
        ours, formula, shape = make_pair(name)
        s, t = torch.randn(shape, generator=(g := torch.Generator().manual_seed(0))), torch.randn(shape, generator=g)
        works = {"ours": partial(step, ours, s.requires_grad_(), t), "plain": partial(step, formula, s, t)}
        values = {which: work() for which, work in works.items()}
        if not math.isclose(*values.values(), rel_tol=1e-3):
            raise RuntimeError(f"{name} is {values['ours']}, and its plain reading {values['plain']}; they must agree")
        rows.append(ratio(f"{name}: time", interleaved(works, rounds), "ours", "plain", "≤ 1.05"))
        memory = {which: peak_mib(work) for which, work in works.items()}
        rows.append(Row(f"{name}: memory", memory["ours"] / memory["plain"]))
    return rows


def growth() -> list[Row]:
    """The exponent with which the memory of some losses grows in the batch size, from 64 to 256."""
    rows = []
    for name, loss in {"RKD distance": losses.rkd_distance_loss, "RKD angle": losses.rkd_angle_loss}.items():
        peaks = [peak_mib(partial(step, loss, torch.randn(b, 128, requires_grad=True), torch.randn(b, 128)))
                 for b in (64, 256)]  # fmt: skip
        rows.append(Row(f"{name}: exponent of memory in the batch size", math.log(peaks[1] / peaks[0], 4)))
    peaks = []
    for b in (64, 256):
        crd = CRD()
        peaks.append(peak_mib(lambda b=b, crd=crd: crd(
            torch.randn(b, 128, requires_grad=True), torch.randn(b, 128), torch.arange(b)).backward()))  # fmt: skip
    return [*rows, Row("CRD: exponent of memory in the batch size", math.log(peaks[1] / peaks[0], 4))]


# Start-up.


def start_up(rounds: int) -> list[Row]:
    """A new process that loads the data, against one that only imports PyTorch."""

    def process(code: str) -> Work:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    seconds = interleaved(
        {
            "torch": process("import torch"),
            "data": process("from kd_course.data import load_data; load_data()"),
        },
        rounds,
    )
    return [ratio("import and load_data / import torch", seconds, "data", "torch")]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=6_400, help="images per epoch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds to take the median over (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    options = parser.parse_args()
    with threads(1):
        rows = [
            *loop(options.images, options.rounds),
            *loss_rows(2 * options.rounds),
            *growth(),
            *start_up(min(5, options.rounds)),
        ]
    if options.json:
        print(json.dumps({"torch": torch.__version__, "machine": platform.machine(),
                          "rows": [row._asdict() | {"reached": row.reached} for row in rows]}, indent=1))  # fmt: skip
        return
    print(f"{'':<58}{'median':>8}{'fastest':>9}   goal")
    for row in rows:
        fastest = "" if row.of_fastest is None else f"{row.of_fastest:.2f}"
        print(f"{row.what:<58}{row.ratio:8.2f}{fastest:>9}   {row.goal:<8}{row.reached}")


if __name__ == "__main__":
    main()
