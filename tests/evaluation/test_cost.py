"""Bytes by hand; latency against a clock that stands still, and the conditions it is measured under."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from kd_course.evaluation import Latency, latency, size_bytes
from kd_course.models import StudentNet, TeacherNet


def test_size_counts_bytes_of_parameters_and_buffers():
    assert size_bytes(StudentNet()) == 4 * 105_866
    assert size_bytes(TeacherNet().half()) == 2 * 1_554_954
    assert size_bytes(nn.BatchNorm1d(3)) == 4 * (3 + 3 + 3 + 3) + 8  # scale, shift, mean, variance; one int64 counter
    assert size_bytes(nn.ReLU()) == 0


class Witness(nn.Module):
    """Notes how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict] = []

    def forward(self, images: Tensor) -> Tensor:
        conditions = {"threads": torch.get_num_threads(), "training": self.training, "grad": torch.is_grad_enabled()}
        self.calls.append({**conditions, "shape": tuple(images.shape)})
        return images.mean((1, 2, 3))[:, None]


def test_latency_measures_the_model_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    """The clock stands still but for the 50 ms that a forward pass takes on it."""
    now = [0.0]

    class Slow(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            now[0] += 0.05
            return images

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    found = latency(Slow(), repeats=5, warm_up=1)
    assert (found.q1_ms, found.median_ms, found.q3_ms) == pytest.approx((50, 50, 50))
    assert found.iqr_ms == found.q3_ms - found.q1_ms


def test_latency_gives_the_median_and_the_middle_half(monkeypatch: pytest.MonkeyPatch):
    """One slow pass in five moves the mean a lot, and neither the median nor the quartiles."""
    ticks = [second for duration in (1.0, 2.0, 3.0, 4.0, 500.0) for second in (0.0, duration / 1000)]
    clock = iter(ticks)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    found = latency(Witness(), repeats=5, warm_up=0)
    assert (found.q1_ms, found.median_ms, found.q3_ms) == pytest.approx((2.0, 3.0, 4.0))


def test_latency_fixes_the_conditions_and_reports_them():
    model = Witness().train()
    before = torch.get_num_threads()
    found = latency(model, batch_size=7, thread_count=before + 1, repeats=4, warm_up=3)
    assert (found.batch_size, found.threads, found.repeats) == (7, before + 1, 4)
    assert len(model.calls) == 3 + 4, "the warm-up passes come on top"
    assert all(
        call == {"threads": before + 1, "training": False, "grad": False, "shape": (7, 1, 28, 28)}
        for call in model.calls
    )
    assert torch.get_num_threads() == before
    assert model.training


def test_latency_restores_the_conditions_after_a_failure():
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("no")

    model, before = Broken().train(), torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no"):
        latency(model, thread_count=before + 1)
    assert torch.get_num_threads() == before
    assert model.training
    assert torch.is_grad_enabled()


def test_latency_reads_as_a_sentence():
    assert str(Latency(1.234, 1.0, 1.5, 1, 1, 50)) == "1.23 ms (IQR 0.50; batch 1, 1 thread, 50 repeats)"
    assert str(Latency(10, 9, 11, 128, 2, 5)) == "10.00 ms (IQR 2.00; batch 128, 2 threads, 5 repeats)"
