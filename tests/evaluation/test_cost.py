"""Bytes by hand; latency against a clock that stands still, and the conditions it is measured under."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd_course.evaluation import Latency, latency, size_bytes
from kd_course.models import StudentNet, TeacherNet, count_parameters, mlp


def test_size_counts_bytes_of_parameters_and_buffers():
    assert size_bytes(StudentNet()) == 4 * 105_866
    assert size_bytes(TeacherNet().half()) == 2 * 1_554_954
    assert size_bytes(nn.BatchNorm1d(3)) == 4 * (3 + 3 + 3 + 3) + 8  # scale, shift, mean, variance; one int64 counter
    assert size_bytes(nn.ReLU()) == 0


def test_what_is_used_twice_is_kept_once():
    first, second = nn.Linear(5, 5), nn.Linear(5, 5, bias=False)
    second.weight = first.weight
    tied = nn.Sequential(first, second, first)
    assert size_bytes(tied) == 4 * 30
    assert count_parameters(tied) == 30


# PyTorch's own quantisation, which packs weights where parameters() does not find them. It announces its successor.
quantised = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def dynamic(model: nn.Module, dtype: torch.dtype = torch.qint8) -> nn.Module:
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(model, {nn.Linear, nn.LSTM, nn.GRUCell}, dtype=dtype)


def convolution() -> nn.Module:
    """A convolution (8, 1, 3, 3) in int8, between a layer that quantises and one that does the opposite."""
    from torch.ao import quantization

    model = quantization.QuantWrapper(nn.Conv2d(1, 8, 3)).eval()
    torch.backends.quantized.engine = "qnnpack" if "x86" not in torch.backends.quantized.supported_engines else "x86"
    model.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
    prepared = quantization.prepare(model)
    prepared(torch.rand(4, 1, 8, 8))
    return quantization.convert(prepared)


@quantised
@pytest.mark.parametrize(
    ("build", "parameters", "size"),
    [
        pytest.param(lambda: dynamic(mlp(30)), 23_860, 784 * 30 + 30 * 10 + 4 * 40, id="int8"),
        pytest.param(lambda: dynamic(mlp(30), torch.float16), 23_860, 2 * (784 * 30 + 30 * 10) + 4 * 40, id="float16"),
        pytest.param(lambda: dynamic(nn.Sequential(nn.Linear(8, 4, bias=False))), 32, 32, id="no bias"),
        pytest.param(
            lambda: dynamic(StudentNet()), 105_866, 4 * (160 + 4640) + 1568 * 64 + 64 * 10 + 4 * 74, id="half quantised"
        ),
        pytest.param(lambda: dynamic(nn.Sequential(nn.LSTM(8, 4))), 224, 192 + 4 * 32, id="LSTM"),
        pytest.param(lambda: dynamic(nn.Sequential(nn.GRUCell(8, 4))), 168, 144 + 4 * 24, id="GRU cell"),
        pytest.param(convolution, 80, 72 + 4 * 8 + 4 + 8, id="convolution, scale and zero point of its input"),
        pytest.param(lambda: torch.ao.nn.quantized.Embedding(10, 4), 40, 40, id="embedding"),
        pytest.param(
            lambda: torch.jit.script(dynamic(nn.Sequential(nn.Linear(8, 4)))), 36, 32 + 4 * 4, id="TorchScript"
        ),
    ],
)
def test_quantised_weights_count_in_the_type_they_are_kept_in(
    build: Callable[[], nn.Module], parameters: int, size: int
):
    model = build()
    assert not any(weight.numel() for weight in model.parameters()) or isinstance(model, StudentNet)
    assert count_parameters(model) == parameters
    assert size_bytes(model) == size


@quantised
def test_the_latency_of_a_quantised_model_is_measured_on_float32_images():
    assert latency(dynamic(mlp(30)), repeats=2, warm_up=0).repeats == 2
    assert latency(convolution(), repeats=2, warm_up=0).repeats == 2


def test_a_wrapper_counts_the_bytes_of_what_it_wraps():
    """As torchao's quantised tensors, which claim the type that they stand for."""
    from torch.testing._internal.two_tensor import TwoTensor

    model = nn.Linear(4, 4, bias=False)
    model.weight = nn.Parameter(TwoTensor(torch.zeros(4, 4), torch.zeros(4, 4)))
    assert size_bytes(model) == 2 * 4 * 16
    assert count_parameters(model) == 16


@pytest.mark.parametrize("function", [size_bytes, count_parameters, latency])
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (StudentNet, "the class StudentNet; call it"),
        (StudentNet().state_dict(), "OrderedDict"),
        ([StudentNet()], "list"),
        ("student.pt", "str"),
        (None, "NoneType"),
    ],
    ids=["class", "weights", "list", "path", "None"],
)
def test_what_is_no_network_is_refused(function: Callable, model: object, words: str):
    with pytest.raises(TypeError, match=rf"the model must be a network, an nn\.Module, not {words}"):
        function(model)


class Witness(nn.Module):
    """Notes how it was called, and answers with an object that holds its logits somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict] = []

    def forward(self, images: Tensor) -> Tensor:
        conditions = {"threads": torch.get_num_threads(), "training": self.training, "grad": torch.is_grad_enabled()}
        self.calls.append({**conditions, "shape": tuple(images.shape)})
        self.images = images
        return {"logits": (images.double().flatten(1).mean(1),)}


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
    with pytest.raises(
        ValueError, match=r"cannot take inputs \(1, 1, 28, 28\) of torch.float32 \(no\); pass one sample"
    ):
        latency(model, thread_count=before + 1)
    assert torch.get_num_threads() == before
    assert model.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("sample", [(3, 32, 32), [3, 32, 32], torch.zeros(3, 32, 32), np.zeros((3, 32, 32))])
def test_latency_of_other_inputs(sample: object):
    model = Witness()
    latency(model, sample=sample, batch_size=2, repeats=1, warm_up=0)
    assert model.images.shape == (2, 3, 32, 32)
    assert model.images.dtype == torch.float32
    assert model.images.is_contiguous()


def test_latency_of_tokens_keeps_them_whole():
    model, tokens = Witness(), torch.tensor([3, 1, 4])
    model.weight = nn.Parameter(torch.zeros(1))
    latency(model, sample=tokens, batch_size=2, repeats=1, warm_up=0)
    assert torch.equal(model.images, tokens.expand(2, 3))
    assert model.images.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_latency_asks_in_the_type_of_the_weights(dtype: torch.dtype):
    model = mlp(4).to(dtype)
    assert latency(model, repeats=1, warm_up=0).repeats == 1
    model = Witness()
    model.register_buffer("count", torch.zeros(1, dtype=torch.int64))
    model.register_buffer("scale", torch.zeros(1, dtype=dtype))
    latency(model, repeats=1, warm_up=0)
    assert model.images.dtype == dtype


def test_latency_does_not_depend_on_the_default_type():
    torch.set_default_dtype(torch.float64)
    try:
        model = Witness()
        latency(model, repeats=1, warm_up=0)
        assert model.images.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_latency_without_a_warm_up_counts_every_pass():
    model = Witness()
    latency(model, repeats=2, warm_up=0)
    assert len(model.calls) == 2


@pytest.mark.parametrize("name", ["batch_size", "thread_count", "repeats", "warm_up"])
def test_latency_refuses_counts_that_are_none(name: str):
    for count in (1.5, "2", True, None):
        with pytest.raises(TypeError, match=f"{name} must be a whole number"):
            latency(Witness(), **{name: count})
    with pytest.raises(ValueError, match=f"{name} must be {int(name != 'warm_up')} or more, not -1"):
        latency(Witness(), **{name: -1})
    with pytest.raises(ValueError, match=f"{name} must be 1,000(,000)? or less"):
        latency(Witness(), **{name: 10**12})
    if name != "warm_up":
        with pytest.raises(ValueError, match=f"{name} must be 1 or more, not 0"):
            latency(Witness(), **{name: 0})
    found = latency(Witness(), **{"repeats": 1, "warm_up": 0, name: np.int64(1)})
    assert all(type(value) is int for value in found[3:])


@pytest.mark.parametrize("sample", [784, "28", None, 28.0])
def test_latency_refuses_what_is_neither_a_sample_nor_a_shape(sample: object):
    with pytest.raises(TypeError, match=r"sample must be one sample or its shape, such as \(1, 28, 28\)"):
        latency(Witness(), sample=sample)
    with pytest.raises(ValueError, match="a size in sample must be 1 or more, not 0"):
        latency(Witness(), sample=(0, 28, 28))
    with pytest.raises(TypeError, match="a size in sample must be a whole number"):
        latency(Witness(), sample=(1.0, 28, 28))


def test_latency_says_what_a_model_of_other_inputs_was_given():
    with pytest.raises(ValueError, match=r"inputs \(1, 1, 28, 28\) .*latency\(model, sample=…\)") as caught:
        latency(nn.Linear(8, 3))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(ValueError, match="cannot take inputs"):
        latency(nn.Bilinear(2, 2, 2))  # which takes two


def test_latency_reads_as_a_sentence():
    assert str(Latency(1.234, 1.0, 1.5, 1, 1, 50)) == "1.23 ms (IQR 0.50; batch 1, 1 thread, 50 repeats)"
    assert str(Latency(10, 9, 11, 128, 2, 5)) == "10.00 ms (IQR 2.00; batch 128, 2 threads, 5 repeats)"
