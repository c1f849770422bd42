"""The losses once more, as slow and obvious loops over Python floats.

They follow the formulas of the papers and use nothing of the package. The tools that the test files share stand
below them.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kd_course
from kd_course.data import Batch, Split, jitter
from kd_course.models import StudentNet
from kd_course.training import fit

Row = list[float]
Loss = Callable[..., Tensor]


def minus(a: Row, b: Row) -> Row:
    return [x - y for x, y in zip(a, b, strict=True)]


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def square(a: Row) -> float:
    return dot(a, a)


def unit(a: Row) -> Row:
    """``a`` at length 1; zeros if it has no length."""
    length = math.sqrt(square(a))
    return [x / length for x in a] if length > 0 else a


def huber(x: float) -> float:
    """Half the square up to 1, and from there on a line."""
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# Responses.


def softmax(row: Row, temperature: float) -> Row:
    return [math.exp(x) for x in log_softmax(row, temperature)]


def log_softmax(row: Row, temperature: float) -> Row:
    largest = max(row)
    log_sum = math.log(sum(math.exp((z - largest) / temperature) for z in row))
    return [(z - largest) / temperature - log_sum for z in row]


def soft_target(student: Tensor, teacher: Tensor, *, temperature: float) -> float:
    total = 0.0
    for rows in zip(student.tolist(), teacher.tolist(), strict=True):
        log_s, log_t = (log_softmax(row, temperature) for row in rows)
        for c in range(len(log_s)):
            total += math.exp(log_t[c]) * (log_t[c] - log_s[c])
    return temperature**2 * total / len(student)


def cross_entropy(student: Tensor, labels: Tensor) -> float:
    rows = zip(student.tolist(), labels.tolist(), strict=True)
    return mean([-log_softmax(row, 1.0)[label] for row, label in rows])


def kd(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float, alpha: float) -> float:
    hard = cross_entropy(student, labels)
    return (1 - alpha) * hard + alpha * soft_target(student, teacher, temperature=temperature)


def mean_square(student: Tensor, teacher: Tensor) -> float:
    return mean([gap**2 for gap in minus(student.flatten().tolist(), teacher.flatten().tolist())])


def probability_mse(student: Tensor, teacher: Tensor, *, temperature: float) -> float:
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    gaps = [minus(softmax(s, temperature), softmax(t, temperature)) for s, t in rows]
    return mean([gap**2 for row in gaps for gap in row])


def regression(
    student: Tensor, teacher: Tensor, targets: Tensor, *, alpha: float, margin: float | None = None
) -> float:
    error = imitation = 0.0
    for i in range(len(student)):
        s, t, y = (values[i].flatten().tolist() for values in (student, teacher, targets))
        student_error, teacher_error = square(minus(s, y)), square(minus(t, y))
        error += student_error
        if margin is None:
            imitation += square(minus(s, t))
        elif student_error + margin > teacher_error:
            imitation += student_error
    return ((1 - alpha) * error + alpha * imitation) / student.numel()


def standardized(logits: Tensor) -> list[Row]:
    rows = logits.tolist()
    return [[(z - statistics.fmean(row)) / statistics.stdev(row) for z in row] for row in rows]  # stdev has n - 1


def dkd(student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, beta: float, temperature: float) -> float:
    total = 0.0
    for student_row, teacher_row, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        p_s, p_t = (softmax(row, temperature) for row in (student_row, teacher_row))
        others = [c for c in range(len(p_s)) if c != y]
        rest_s, rest_t = (sum(p[c] for c in others) for p in (p_s, p_t))
        total += alpha * (p_t[y] * math.log(p_t[y] / p_s[y]) + rest_t * math.log(rest_t / rest_s))
        for c in others:
            other_s, other_t = p_s[c] / rest_s, p_t[c] / rest_t
            total += beta * other_t * math.log(other_t / other_s)
    return temperature**2 * total / len(student)


def pearson(a: Row, b: Row) -> float:
    a, b = ([x - mean(row) for x in row] for row in (a, b))
    return dot(unit(a), unit(b))


def dist(student: Tensor, teacher: Tensor, *, beta: float, gamma: float, temperature: float) -> float:
    s, t = ([softmax(row, temperature) for row in logits.tolist()] for logits in (student, teacher))
    between = mean([1 - pearson(a, b) for a, b in zip(s, t, strict=True)])
    within = mean(
        [1 - pearson(list(a), list(b)) for a, b in zip(zip(*s, strict=True), zip(*t, strict=True), strict=True)]
    )
    return temperature**2 * (beta * between + gamma * within)


# Features.


def hint(student: Tensor, teacher: Tensor) -> float:
    rows = zip(student.flatten(1).tolist(), teacher.flatten(1).tolist(), strict=True)
    return mean([0.5 * square(minus(s, t)) for s, t in rows])


def convolved(layer: nn.Conv2d, features: Tensor) -> Tensor:
    """Each feature (C, H, W) through a convolution with stride 1 and no padding."""
    weight, bias = layer.weight.tolist(), layer.bias.tolist()  # weight[output channel][input channel][y][x]
    height, width = layer.kernel_size
    return torch.tensor([
        [[[b + sum(kernel[c][i][j] * channel[y + i][x + j]
                   for c, channel in enumerate(sample) for i in range(height) for j in range(width))
           for x in range(len(sample[0][0]) - width + 1)]
          for y in range(len(sample[0]) - height + 1)]
         for kernel, b in zip(weight, bias, strict=True)]
        for sample in features.tolist()
    ], dtype=features.dtype)  # fmt: skip


def attention(feature: Tensor, power: float) -> list[Row]:
    maps = []
    for sample in feature.tolist():  # [channel][y][x]
        height, width = len(sample[0]), len(sample[0][0])
        places = [(y, x) for y in range(height) for x in range(width)]
        maps.append(unit([sum(abs(channel[y][x]) ** power for channel in sample) for y, x in places]))
    return maps


def pooled(feature: Tensor, height: int, width: int) -> Tensor:
    """Average pooling to a smaller map: cell i takes in the places from ⌊i·n/m⌋ up to ⌈(i+1)·n/m⌉."""
    batch, channels, old_height, old_width = feature.shape
    found = torch.zeros(batch, channels, height, width, dtype=feature.dtype)
    for y in range(height):
        for x in range(width):
            ys = range(y * old_height // height, math.ceil((y + 1) * old_height / height))
            xs = range(x * old_width // width, math.ceil((x + 1) * old_width / width))
            for b in range(batch):
                for c in range(channels):
                    found[b, c, y, x] = mean([float(feature[b, c, i, j]) for i in ys for j in xs])
    return found


def attention_transfer(
    students: list[Tensor], teachers: list[Tensor], *, power: float = 2, paper_form: bool = False
) -> float:
    total = 0.0
    for student, teacher in zip(students, teachers, strict=True):
        size = [min(s, t) for s, t in zip(student.shape[2:], teacher.shape[2:], strict=True)]
        maps = zip(attention(pooled(student, *size), power), attention(pooled(teacher, *size), power), strict=True)
        gaps = [square(minus(s, t)) for s, t in maps]
        total += mean([math.sqrt(gap) / 2 for gap in gaps]) if paper_form else mean(gaps) / (size[0] * size[1])
    return total


# Relations.


def distances(embedding: Tensor) -> list[Row]:
    rows = embedding.tolist()
    return [[math.dist(a, b) for b in rows] for a in rows]


def rkd_distance(student: Tensor, teacher: Tensor) -> float:
    relative = []
    for embedding in (student, teacher):
        d = distances(embedding)
        apart = [x for row in d for x in row if x > 0]
        relative.append([[x / mean(apart) if apart else x for x in row] for row in d])
    s, t = relative
    B = len(s)
    return sum(huber(s[i][j] - t[i][j]) for i in range(B) for j in range(B)) / B**2


def rkd_angle(student: Tensor, teacher: Tensor) -> float:
    sides, B = (student.tolist(), teacher.tolist()), len(student)
    total = 0.0
    for i in range(B):
        for j in range(B):
            for k in range(B):
                s, t = (dot(unit(minus(f[i], f[j])), unit(minus(f[k], f[j]))) for f in sides)
                total += huber(s - t)
    return total / B**3


def similarity_preserving(student: Tensor, teacher: Tensor) -> float:
    grams = []
    for feature in (student, teacher):
        f = feature.flatten(1).tolist()
        grams.append([unit([dot(a, b) for b in f]) for a in f])
    return sum(square(minus(a, b)) for a, b in zip(*grams, strict=True)) / len(student) ** 2


def correlation_congruence(student: Tensor, teacher: Tensor, *, order: int = 2, gamma: float = 0.4) -> float:
    kernels = []
    for embedding in (student, teacher):
        f = [unit(row) for row in embedding.tolist()]
        terms = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
        kernels.append([[sum(term * dot(a, b) ** p for p, term in enumerate(terms)) for b in f] for a in f])
    return sum(square(minus(a, b)) for a, b in zip(*kernels, strict=True)) / len(student) ** 2


def gaussian_congruence(student: Tensor, teacher: Tensor, gamma: float) -> float:
    """What correlation congruence tends to: the squared difference of the true Gaussian kernels of directions."""
    sides, B = (student.tolist(), teacher.tolist()), len(student)
    total = 0.0
    for i in range(B):
        for j in range(B):
            s, t = (math.exp(-gamma * square(minus(unit(f[i]), unit(f[j])))) for f in sides)
            total += (s - t) ** 2
    return total / B**2


def over_the_largest(values: Row) -> Row:
    return [x / max(values) for x in values] if max(values) > 0 else values


def irg(students: list[Tensor], teachers: list[Tensor], *, vertex: float, edge: float, transform: float) -> float:
    layers_s, layers_t = ([layer.flatten(1).tolist() for layer in side] for side in (students, teachers))
    B = len(layers_s[0])
    total = 0.0
    if vertex:
        total += vertex * mean([square(minus(s, t)) for s, t in zip(layers_s[-1], layers_t[-1], strict=True)])
    for s, t in zip(layers_s, layers_t, strict=True):
        edges = [over_the_largest([square(minus(a, b)) for a in f for b in f]) for f in (s, t)]
        total += edge / B**2 * square(minus(*edges))
    for number in range(len(layers_s) - 1 if transform else 0):
        moves = []
        for layers in (layers_s, layers_t):
            pairs = zip(layers[number], layers[number + 1], strict=True)
            moves.append(over_the_largest([square(minus(after, before)) for before, after in pairs]))
        total += transform / B * square(minus(*moves))
    return total


def pkt(student: Tensor, teacher: Tensor) -> float:
    neighbours = []
    for embedding in (student, teacher):
        f = [unit(row) for row in embedding.tolist()]
        similar = [[1 + dot(a, b) for b in f] for a in f]
        neighbours.append([[x / sum(row) for x in row] for row in similar])
    pairs = [(s, t) for rows in zip(*neighbours, strict=True) for s, t in zip(*rows, strict=True)]
    return sum(t * math.log(t / s) for s, t in pairs if t > 0) / len(student)


# Contrast.


def info_nce(student: Tensor, teacher: Tensor, *, temperature: float) -> float:
    s, t = ([unit(row) for row in embedding.tolist()] for embedding in (student, teacher))
    total = 0.0
    for i in range(len(s)):
        powers = [math.exp(dot(s[i], t[j]) / temperature) for j in range(len(t))]
        total -= math.log(powers[i] / sum(powers))
    return total / len(s)


def nce(own: Row, others: list[Row], samples: int) -> float:
    """Of scores p themselves, not of their logarithms."""
    total = 0.0
    for p_own, row in zip(own, others, strict=True):
        noise = len(row) / samples
        total -= math.log(p_own / (p_own + noise))
        total -= sum(math.log(1 - p / (p + noise)) for p in row)
    return total / len(own)


def projected(layer: nn.Linear, features: Tensor) -> list[Row]:
    """Each feature through a linear layer, brought to length 1."""
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [unit([dot(w, row) + b for w, b in zip(weight, bias, strict=True)]) for row in features.flatten(1).tolist()]


def crd_side(anchors: list[Row], bank: list[Row], candidates: list[list[int]], temperature: float) -> float:
    """One anchor's loss at the first batch, where Z is the mean power times the number of samples."""
    powers = [
        [math.exp(dot(anchor, bank[row]) / temperature) for row in rows]
        for anchor, rows in zip(anchors, candidates, strict=True)
    ]
    z = mean([power for row in powers for power in row]) * len(bank)
    p = [[power / z for power in row] for row in powers]
    return nce([row[0] for row in p], [row[1:] for row in p], len(bank))


# Tools.


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Float64 numbers from a normal distribution, the same in every run."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(width: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(normal(width, width, seed=seed)).Q


def name(function: Callable) -> str:
    return function.__name__


def close(value: Tensor, expected: Tensor | float) -> bool:
    """Equal to nine digits, or both nothing."""
    expected = expected.item() if isinstance(expected, Tensor) else expected
    return value.item() == pytest.approx(expected, rel=1e-9, abs=1e-13)


def gradient(loss: Loss, student: Tensor, *rest: Any, **options: Any) -> Tensor:
    """The gradient of ``loss`` with respect to its first argument."""
    student = student.detach().clone().requires_grad_()
    loss(student, *rest, **options).backward()
    assert student.grad is not None
    return student.grad


def is_caught(wrong: Any, by: Callable[[Any], None]) -> bool:
    """Whether the property ``by`` says no to ``wrong``; any other error than its assertion is passed on."""
    try:
        by(wrong)
    except AssertionError:
        return True
    return False


def graph_size(value: Tensor) -> int:
    """Number of operations that autograd recorded on the way to ``value``."""
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return len(seen)


def peak_megabytes(setup: str, work: str) -> float:
    """By how much ``work`` raised the memory of a fresh process at most, in MiB; or a little more, never less.

    Read from the kernel's own peak of that process. (``resource.getrusage`` would pass on the peak of its parent.)
    """
    status = Path("/proc/self/status")
    if not status.is_file() or "VmHWM" not in status.read_text():
        pytest.skip("this system does not tell a process its peak memory")
    code = f"""
import torch
torch.set_num_threads(1)
def kibibytes(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field))
{setup}
before = kibibytes("VmRSS")
{work}
print((kibibytes("VmHWM") - before) / 2**10)
"""
    root = Path(kd_course.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return float(run.stdout)


def noticed(make: Callable[[], object], split: Split) -> set[str]:
    """What of a plain training changes when ``make`` is called before it and before each of its batches.

    The images are jittered, so that whoever draws from PyTorch's generator in between is found out.
    """

    def trained(bystander: Callable[[], object]) -> dict[str, list]:
        torch.manual_seed(5)
        bystander()
        state, student = torch.get_rng_state(), StudentNet(3)
        initial = [weight.detach().clone() for weight in student.parameters()]
        order = []

        def objective(model: nn.Module, batch: Batch) -> Tensor:
            bystander()
            order.append(batch.indices)
            return F.cross_entropy(model(jitter(batch.images)), batch.labels)

        fit(student, objective, split, epochs=2, batch_size=5, seed=1, progress=False)
        return {
            "generator": [state],
            "initial weights": initial,
            "data order": order,
            "trained weights": [weight.detach() for weight in student.parameters()],
        }

    before = torch.get_rng_state()
    with_it, without = trained(make), trained(lambda: None)
    torch.set_rng_state(before)
    return {
        part
        for part, values in without.items()
        if not all(torch.equal(a, b) for a, b in zip(values, with_it[part], strict=True))
    }
