"""Running a network without changing it: modes, gradients, statistics, row order, device."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from kd_course.data import Split, to_float
from kd_course.inference import Teacher, evaluating, freeze, logits_of, predict, predict_features, predict_top_k
from kd_course.models import StudentNet
from kd_course.runtime import seeded


def with_batch_norm() -> nn.Sequential:
    """A network with everything that behaves differently in training."""
    with seeded(0):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
        )


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_freeze_returns_the_model_in_evaluation_mode_without_gradients() -> None:
    model = with_batch_norm()
    assert freeze(model) is model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_evaluating_restores_the_mode_of_each_module_by_itself() -> None:
    model = with_batch_norm()
    model.train()
    model[2].eval()  # a frozen batch norm inside a network that trains
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not model(torch.rand(4, 1, 28, 28)).requires_grad
    assert [module.training for module in model.modules()] == before
    assert model.training and not model[2].training
    assert torch.is_grad_enabled()


def test_evaluating_restores_modes_and_gradients_after_an_error() -> None:
    model = with_batch_norm().train()
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert model.training and torch.is_grad_enabled()


def test_predict_equals_a_plain_forward_in_row_order(tiny_split: Callable[..., Split]) -> None:
    split, model = tiny_split(23), with_batch_norm()
    found = predict(model, split, batch_size=5)
    model.eval()
    with torch.no_grad():
        expected = torch.cat([model(to_float(image[None])) for image in split.images])
    torch.testing.assert_close(found, expected)
    assert found.shape == (23, 3) and found.dtype == torch.float32 and found.device.type == "cpu"


@pytest.mark.parametrize("batch_size", [1, 4, 22, 23, 500])
def test_the_batch_size_does_not_change_the_logits(tiny_split: Callable[..., Split], batch_size: int) -> None:
    split, model = tiny_split(23), with_batch_norm()
    torch.testing.assert_close(predict(model, split, batch_size=batch_size), predict(model, split))


def test_rows_follow_the_samples_of_a_reordered_split(tiny_split: Callable[..., Split]) -> None:
    split, model = tiny_split(23), with_batch_norm()
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(predict(model, split.subset(order)), predict(model, split)[order])


@pytest.mark.parametrize("training", [True, False])
def test_predict_leaves_weights_statistics_modes_and_gradients_alone(
    tiny_split: Callable[..., Split], training: bool
) -> None:
    model = with_batch_norm().train(training)
    model[4].train(not training)
    modes, before = [module.training for module in model.modules()], state(model)
    found = predict(model, tiny_split())
    assert same(state(model), before)  # bit for bit, batch-norm statistics included
    assert [module.training for module in model.modules()] == modes
    assert found.grad_fn is None and not found.requires_grad and not found.is_inference()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_logits_can_enter_a_loss_that_saves_them_for_backward(tiny_split: Callable[..., Split]) -> None:
    table = predict(with_batch_norm(), tiny_split())
    student = torch.zeros_like(table, requires_grad=True)
    nn.functional.mse_loss(student, table).backward()  # raises for tensors made in inference mode
    torch.testing.assert_close(student.grad, -2 * table / table.numel())


def test_running_a_teacher_does_not_change_the_next_network(tiny_split: Callable[..., Split]) -> None:
    teacher = with_batch_norm()
    with seeded(5):
        expected = StudentNet()
    with seeded(5):
        predict(teacher, tiny_split())
        found = StudentNet()
    assert same(state(found), state(expected))


def test_half_precision_logits_come_back_as_float32(tiny_split: Callable[..., Split]) -> None:
    class Half(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :3].half()

    assert predict(Half(), tiny_split()).dtype == torch.float32  # also of a module without parameters


def test_predict_refuses_a_model_that_returns_tensors_by_name(tiny_split: Callable[..., Split]) -> None:
    class Extractor(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"stage1": images.flatten(1).float()}

    with pytest.raises(TypeError, match=r"\['stage1'\].*predict_features"):
        predict(Extractor(), tiny_split())


def test_an_empty_split_is_refused_by_name(tiny_split: Callable[..., Split]) -> None:
    empty = tiny_split().subset([])
    with pytest.raises(ValueError, match=r"Split\(0 samples of tiny\) is empty"):
        predict(with_batch_norm(), empty)


# Features of the stages.


@pytest.mark.parametrize("batch_size", [4, 500])
def test_features_are_tables_by_stage_in_row_order_and_the_same_as_layer_by_layer(
    tiny_split: Callable[..., Split], batch_size: int
) -> None:
    with seeded(0):
        model = StudentNet()
    split = tiny_split(9)
    tables = predict_features(model, split, ["stage1", "embedding", "classifier"], batch_size=batch_size)
    first = model.stage1(to_float(split.images))
    expected = {"stage1": first, "embedding": model.embedding(model.stage2(first)), "classifier": predict(model, split)}
    assert list(tables) == list(expected)
    for stage, table in tables.items():
        torch.testing.assert_close(table, expected[stage].detach())
        assert table.dtype == torch.float32 and table.device.type == "cpu" and not table.requires_grad


def test_taking_features_leaves_weights_statistics_and_each_modules_mode_alone(
    tiny_split: Callable[..., Split],
) -> None:
    model = with_batch_norm().train()
    model[2].eval()
    modes, before = [module.training for module in model.modules()], state(model)
    tables = predict_features(model, tiny_split(), ["1", "2", "4"])
    assert same(state(model), before)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())
    normalised = nn.functional.batch_norm(tables["1"], torch.zeros(8), torch.ones(8))
    torch.testing.assert_close(tables["2"], normalised)  # by its running statistics, which are still the first ones
    torch.testing.assert_close(tables["4"], normalised.relu())  # nothing dropped


def test_taking_features_of_a_teacher_does_not_change_the_next_network(tiny_split: Callable[..., Split]) -> None:
    teacher, before = with_batch_norm(), torch.get_rng_state()
    predict_features(teacher, tiny_split(), ["1"])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_stage_is_refused_with_the_known_ones(tiny_split: Callable[..., Split]) -> None:
    with pytest.raises(ValueError, match=r"\['stage3'\].*\['stage1', 'stage2', 'embedding', 'classifier'\]"):
        predict_features(StudentNet(), tiny_split(), ["stage3"])


def test_features_of_an_empty_split_are_refused_by_name(tiny_split: Callable[..., Split]) -> None:
    with pytest.raises(ValueError, match=r"Split\(0 samples of tiny\) is empty"):
        predict_features(StudentNet(), tiny_split().subset([]), ["stage1"])


# The device.


class Recorder(nn.Module):
    """Remembers on which devices it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(784, 3))
        self.ran_on: list[str] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.ran_on.append(self.weight.device.type)
        return images.flatten(1) @ self.weight


OTHER_DEVICES = [
    name for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())) if there
]


@pytest.mark.skipif(not OTHER_DEVICES, reason="this machine has no device but the CPU")
def test_the_model_computes_on_the_given_device_and_returns_to_its_own(tiny_split: Callable[..., Split]) -> None:
    model = Recorder()
    found = predict(model, tiny_split(), device=OTHER_DEVICES[0])
    assert set(model.ran_on) == {OTHER_DEVICES[0]}
    assert model.weight.device.type == found.device.type == "cpu"


def test_the_model_returns_to_its_device_and_mode_when_it_fails(
    tiny_split: Callable[..., Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Recorder):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise KeyError

    model, moves = Broken(), []
    monkeypatch.setattr(model, "to", lambda device: moves.append(torch.device(device).type))
    with pytest.raises(KeyError):
        predict(model, tiny_split(), device="meta")
    assert moves == ["meta", "cpu"] and model.training


# What a network may return.


@dataclass
class Output:
    logits: Tensor | None = None
    loss: Tensor | None = None


class Wrapped(nn.Module):
    """Its logits, as ``wrap`` hands them out."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.wrap = with_batch_norm(), wrap

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.network(images))


HOLDERS = {
    "a tensor": lambda z: z,
    "a tuple": lambda z: (z, z + 1),
    "a list": lambda z: [z],
    "a dict": lambda z: {"loss": z.sum(), "logits": z},
    "a dict of segmentation": lambda z: {"aux": z + 1, "out": z},
    "an object": lambda z: Output(z),
    "a named tuple": lambda z: namedtuple("Answer", "aux logits")(z + 1, z),
}


@pytest.mark.parametrize("wrap", HOLDERS.values(), ids=HOLDERS)
def test_logits_are_found_in_what_networks_return(wrap: Callable, tiny_split: Callable[..., Split]) -> None:
    model, split = Wrapped(wrap), tiny_split(5)
    expected = predict(model.network, split)
    assert torch.equal(predict(model, split), expected)
    assert torch.equal(Teacher(model)(to_float(split.images)), expected)
    top = predict_top_k(model, split, 1)["top_indices"]
    assert top.flatten().tolist() == expected.argmax(1).tolist()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"stage1": torch.zeros(2, 2)}, r"returned a dict of \['stage1'\], and no tensor of logits"),
        ((), "returned a tuple, and no tensor"),
        ((None, torch.zeros(2, 2)), "returned a tuple"),
        (Output(), "returned a Output"),
        (None, "returned a NoneType"),
        (np.zeros((2, 2)), "returned a ndarray"),
        ("logits", "returned a str"),
    ],
)
def test_what_holds_no_logits_is_refused_with_the_way_out(output: object, words: str) -> None:
    with pytest.raises(TypeError, match=f"{words}.*whose forward returns its logits, or use predict_features"):
        logits_of(output)


# The live teacher.


def test_a_teacher_is_the_same_bit_for_bit_after_all_that_can_be_done_to_a_training() -> None:
    teacher = Teacher(with_batch_norm().train())
    players = nn.ModuleDict({"student": with_batch_norm(), "teacher": teacher})
    before, images = state(teacher), torch.rand(6, 1, 28, 28)
    answer = teacher(images)
    with torch.no_grad():
        assert torch.equal(answer, with_batch_norm().eval()(images))
    optimizer = torch.optim.AdamW(players.parameters(), lr=0.1, weight_decay=0.5)
    for mode in (True, False, True):
        players.train(mode)
        assert players["student"].training == mode
        assert not any(module.training for module in teacher.modules())
        optimizer.zero_grad()
        nn.functional.mse_loss(players["student"](images), players["teacher"](images)).backward()
        optimizer.step()
    assert same(state(teacher), before) and torch.equal(teacher(images), answer)
    assert all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())
    assert teacher.train() is teacher and not teacher.model.training


def test_gradients_pass_through_a_teacher_to_its_input() -> None:
    teacher, images = Teacher(with_batch_norm()), torch.rand(4, 1, 28, 28, requires_grad=True)
    teacher(images).square().sum().backward()
    assert images.grad.abs().sum() > 0 and all(weight.grad is None for weight in teacher.parameters())


def test_a_teacher_moves_and_is_saved_with_the_model_it_is_part_of() -> None:
    players = nn.ModuleDict({"teacher": Teacher(with_batch_norm())})
    other = nn.ModuleDict({"teacher": Teacher(nn.Sequential(*with_batch_norm()))})
    with torch.no_grad():
        other["teacher"].model[1].weight.zero_()
    other.load_state_dict(players.state_dict())
    assert same(state(other), state(players)) and "teacher.model.1.weight" in players.state_dict()
    assert {weight.dtype for weight in players.double().parameters()} == {torch.float64}
    assert {weight.device.type for weight in players.to("meta").parameters()} == {"meta"}
    options = Teacher(SumOf())(torch.ones(2, 3), other=torch.ones(2, 3), scale=3)
    assert torch.equal(options, torch.full((2, 3), 6.0))


class SumOf(nn.Module):
    def forward(self, one: Tensor, other: Tensor, scale: int = 1) -> Tensor:
        return (one + other) * scale


@pytest.mark.parametrize(
    ("model", "words"),
    [(StudentNet, "the class StudentNet; call it"), (lambda x: x, "function"), (None, "NoneType")],
)
def test_what_is_no_network_is_refused(model: Any, words: str, tiny_split: Callable[..., Split]) -> None:
    for use in (
        freeze,
        Teacher,
        lambda m: predict(m, tiny_split()),
        lambda m: predict_top_k(m, tiny_split(), 1),
        lambda m: predict_features(m, tiny_split(), ["stage1"]),
    ):
        with pytest.raises(TypeError, match=f"must be a network, an nn.Module, not .*{words}"):
            use(model)


# Inputs by name.


class Difference(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one.float().flatten(1)[:, :3] - 2 * other.float().flatten(1)[:, :3]


class First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()

    def forward(self, one: Tensor) -> Tensor:
        return self.same(one.float().flatten(1)[:, :3])


def test_the_model_is_given_the_inputs_that_it_asks_for_in_order() -> None:
    first, second = torch.arange(12).view(4, 3), torch.arange(12, 24).view(4, 3)
    both = Split.from_arrays(first=first, second=second)
    assert torch.equal(predict(Difference(), both, inputs=["first", "second"]), (first - 2 * second).float())
    assert torch.equal(predict(Difference(), both, inputs=("second", "first")), (second - 2 * first).float())
    assert torch.equal(predict(First(), both, inputs="second"), second.float())
    assert torch.equal(predict_features(First(), both, "same", inputs="second")["same"], second.float())
    assert predict_top_k(First(), both, 1, inputs="second")["top_indices"].tolist() == [[2]] * 4
    alone = Split.from_arrays(second=second)
    assert torch.equal(predict(First(), alone), second.float())  # the only one needs no name
    pictures = Split.from_arrays(torch.zeros(4, 1, 2, 2), second=second)
    assert torch.equal(predict(First(), pictures), torch.zeros(4, 3))  # the images, unless told otherwise


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (None, r"has no input 'images'; choose with inputs=… from \['first', 'second'\]"),
        ("third", "has no input 'third'"),
        (["first", "third"], "has no input 'third'"),
        ([], "has inputs, and the model needs one; choose with inputs=…"),
    ],
)
def test_inputs_that_are_not_there_are_refused(inputs: Any, words: str) -> None:
    both = Split.from_arrays(first=torch.ones(4, 3), second=torch.ones(4, 3))
    for use in (
        predict,
        lambda m, s, **o: predict_top_k(m, s, 1, **o),
        lambda m, s, **o: predict_features(m, s, "same", **o),
    ):
        with pytest.raises(ValueError, match=words):
            use(First(), both, inputs=inputs)


# A table that is written as it grows.


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_out_is_filled_in_its_own_type_and_is_what_comes_back(
    kind: torch.dtype, tiny_split: Callable[..., Split]
) -> None:
    split, out = tiny_split(11), torch.full((11, 3), torch.nan, dtype=kind)
    model = with_batch_norm()
    assert predict(model, split, batch_size=4, out=out) is out
    assert torch.equal(out, predict(model, split, batch_size=4).to(kind))


def test_a_table_can_grow_in_a_file(tmp_path: Path, tiny_split: Callable[..., Split]) -> None:
    split, model = tiny_split(11), with_batch_norm()
    file = np.memmap(tmp_path / "table", "float16", "w+", shape=(11, 3))
    table = predict(model, split, batch_size=4, out=torch.from_numpy(file))
    file.flush()
    read = torch.from_numpy(np.fromfile(tmp_path / "table", "float16").reshape(11, 3))
    assert torch.equal(read, predict(model, split, batch_size=4).half())
    taught = split.with_teacher(table)
    assert taught.teacher_logits.data_ptr() == table.data_ptr()  # no second table, in the file or in memory
    assert next(taught.batches(4)).teacher_logits.dtype == torch.float32


def test_one_table_is_made_and_no_batch_is_kept(
    monkeypatch: pytest.MonkeyPatch, tiny_split: Callable[..., Split]
) -> None:
    made, empty = [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **kind: made.append(shape) or empty(*shape, **kind))
    monkeypatch.setattr(torch, "cat", None)
    monkeypatch.setattr(torch, "stack", None)
    predict(with_batch_norm(), tiny_split(11), batch_size=4)
    predict(with_batch_norm(), tiny_split(11), batch_size=4, out=empty(11, 3))
    assert made.count((11, 3)) == 1


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (torch.empty(11, 4), ValueError, r"out, torch.float32 \(11, 4\), does not fit: .*shape \(11, 3\)"),
        (torch.empty(10, 3), ValueError, r"\(10, 3\), does not fit"),
        (torch.empty(12, 3), ValueError, r"\(12, 3\), does not fit"),
        (torch.empty(11), ValueError, r"\(11,\), does not fit"),
        (torch.empty(11, 3, dtype=torch.int32), ValueError, "torch.int32 .*expected a floating-point table"),
        (torch.empty(11, 3, device="meta"), TypeError, "a tensor on the CPU, not a tensor on meta"),
        (np.empty((11, 3)), TypeError, r"not a ndarray; of an array take torch\.from_numpy\(out\)"),
        ("table.npy", TypeError, "not a str"),
    ],
)
def test_a_table_that_cannot_be_written_to_is_refused(
    out: Any, error: type, words: str, tiny_split: Callable[..., Split]
) -> None:
    with pytest.raises(error, match=words):
        predict(with_batch_norm(), tiny_split(11), out=out)


@pytest.mark.parametrize(
    "answer",
    [lambda z: z.sum(), lambda z: z[:-1], lambda z: z.T, lambda z: (z.sum(), z)],
    ids=["()", "short", "T", "loss"],
)
def test_a_model_must_answer_with_one_row_per_sample(answer: Callable, tiny_split: Callable[..., Split]) -> None:
    with pytest.raises(ValueError, match=r"the model returned \(.*\) for 5 samples; expected one row for each"):
        predict(Wrapped(answer), tiny_split(5))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "5", True, None])
def test_a_batch_size_of_another_kind_is_refused(batch_size: Any, tiny_split: Callable[..., Split]) -> None:
    with pytest.raises((TypeError, ValueError), match="batch_size must be"):
        predict(with_batch_norm(), tiny_split(), batch_size=batch_size)
    assert predict(with_batch_norm(), tiny_split(), batch_size=np.int64(5)).shape == (12, 3)


# The most probable classes.


class Tokens(nn.Module):
    """Logits (B, L, V) that grow with the token's number."""

    def __init__(self, words: int = 7) -> None:
        super().__init__()
        with seeded(1):
            self.table = nn.Embedding(20, words)

    def forward(self, tokens: Tensor) -> Tensor:
        return 4 * self.table(tokens)


@pytest.mark.parametrize("k", [1, 3, 7, np.int64(2)])
def test_the_top_classes_are_those_of_the_softmax_over_all_classes(k: int) -> None:
    split, model = Split.from_arrays(tokens=torch.arange(20).view(5, 4)), Tokens()
    top = predict_top_k(model, split, k, batch_size=2)
    values, indices = predict(model, split).log_softmax(-1).topk(k)
    assert top["top_log_probabilities"].dtype == torch.float16 and top["top_indices"].dtype == torch.int32
    assert top["top_log_probabilities"].shape == top["top_indices"].shape == (5, 4, k)
    assert torch.equal(top["top_indices"].long(), indices) and torch.equal(top["top_log_probabilities"], values.half())
    kept = top["top_log_probabilities"].float().exp().sum(-1)
    assert torch.allclose(kept, torch.ones(5, 4), atol=2e-3) if k == 7 else (kept < 0.999).any()
    taught = split.with_teacher(top).subset([3, 1])
    (batch,) = taught.batches(2)
    assert torch.equal(batch.teacher["top_indices"], indices[[3, 1]])
    assert batch.teacher["top_log_probabilities"].dtype == torch.float32 and taught.teacher_logits is None


@pytest.mark.parametrize(
    ("k", "error", "words"),
    [
        (8, ValueError, r"logits \(5, 4, 7\) are of 7 classes; k=8 must not be more"),
        (0, ValueError, "k must be 1 or more, not 0"),
        (1.5, TypeError, "k must be a whole number"),
        ("3", TypeError, "k must be a whole number"),
    ],
)
def test_a_k_that_is_no_number_of_classes_is_refused(k: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        predict_top_k(Tokens(), Split.from_arrays(tokens=torch.arange(20).view(5, 4)), k)


def test_a_model_without_classes_has_no_top(tiny_split: Callable[..., Split]) -> None:
    with pytest.raises(ValueError, match=r"logits \(5,\) are of 0 classes; k=5 must not be more"):
        predict_top_k(Wrapped(lambda z: z[:, 0]), tiny_split(5), 5)


# Features of any network.


class Unruly(nn.Module):
    """Control flow that cannot be traced, work in place after a layer, layers used twice, by tuple, or never."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(2):
            self.first, self.twice, self.last = nn.Linear(784, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.inside = nn.Sequential(nn.ReLU(inplace=True))
        self.unused, self.pair = nn.Linear(6, 6), Pair()

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images.flatten(1))
        x = self.inside(x)
        for _ in range(2 if x.sum() > 0 else 1):
            x = self.twice(x)
        return self.last(self.pair(x)[0])


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Scaled(nn.Module):
    """A network round another one that is called ``module``, as DataParallel's is, and does more than it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images / 4)


def test_features_are_what_the_layer_answered_whatever_comes_after_it(tiny_split: Callable[..., Split]) -> None:
    model, split = Unruly(), tiny_split(9)
    found = predict_features(model, split, ["last", "first", "twice", "inside.0"], batch_size=4)
    assert list(found) == ["last", "first", "twice", "inside.0"]
    first = model.first(to_float(split.images).flatten(1)).detach()
    assert (first < 0).any() and torch.allclose(found["first"], first, atol=1e-6)  # not cut off by the ReLU in place
    assert torch.allclose(found["inside.0"], first.relu(), atol=1e-6)
    assert torch.allclose(found["twice"], model.twice(model.twice(first.relu())).detach(), atol=1e-6)  # the last answer
    assert torch.allclose(found["last"], predict(model, split), atol=1e-6)
    alone = predict_features(model, split, "first")  # one stage needs no list
    assert list(alone) == ["first"] and torch.allclose(alone["first"], found["first"], atol=1e-6)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        AveragedModel,
        lambda m: SimpleNamespace(_orig_mod=m),
        lambda m: SimpleNamespace(_orig_mod=nn.DataParallel(m)),
    ],
    ids=["DataParallel", "AveragedModel", "compiled", "both"],
)
def test_a_network_that_pytorch_wrapped_has_the_stages_it_had(wrap: Callable, tiny_split: Callable[..., Split]) -> None:
    model, split = Unruly(), tiny_split(5)
    expected = predict_features(model, split, ["first", "last"])
    for stage, table in predict_features(wrap(model), split, ["first", "last"]).items():
        assert torch.equal(table, expected[stage])


def test_a_network_within_a_network_of_your_own_is_run_by_it(tiny_split: Callable[..., Split]) -> None:
    model, split = Scaled(Unruly()), tiny_split(5)
    found = predict_features(model, split, ["module.first"])["module.first"]
    assert torch.allclose(found, model.module.first(to_float(split.images).flatten(1) / 4).detach(), atol=1e-6)
    with pytest.raises(ValueError, match="no layers are named"):
        predict_features(model, split, ["first"])


@pytest.mark.parametrize(
    ("stages", "error", "words"),
    [
        (["unused", "first"], ValueError, r"never calls \['unused'\]"),
        (["pair"], TypeError, "stage 'pair' is a tuple, not a tensor; name one within it"),
        (
            ["first", "stage9"],
            ValueError,
            r"no layers are named \['stage9'\], and this network cannot be traced.*'first'",
        ),
        ([], ValueError, "name at least one stage"),
    ],
)
def test_stages_that_give_no_features_are_refused(
    stages: list[str], error: type, words: str, tiny_split: Callable[..., Split]
) -> None:
    model = Unruly().train()
    with pytest.raises(error, match=words):
        predict_features(model, tiny_split(5), stages)
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_a_node_that_is_no_layer_is_found_by_tracing(tiny_split: Callable[..., Split]) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop = nn.Linear(784, 5), nn.Dropout(0.9)

        def forward(self, images: Tensor) -> Tensor:
            x = self.layer(images.flatten(1))
            return self.drop(torch.relu(x).reshape(x.size(0), 5))

    model, split = Functional().train(), tiny_split(7)
    found = predict_features(model, split, ["relu", "layer"], batch_size=3)
    assert list(found) == ["relu", "layer"] and torch.equal(found["relu"], found["layer"].relu())
    assert model.training and model.drop.training
    with pytest.raises(TypeError, match="stage 'size' is a int, not a tensor"):
        predict_features(model, split, ["size"])
    with pytest.raises(
        ValueError, match=r"stages \['nowhere'\] cannot be extracted; stages: \['layer', 'drop'\]; nodes:.*relu"
    ):
        predict_features(model, split, ["nowhere"])


@pytest.mark.parametrize("samples", [torch.zeros(3, 1, 28, 28), None, [1, 2]])
def test_what_is_no_split_is_refused_by_name(samples: object) -> None:
    for ask in (predict, partial(predict_top_k, k=1), partial(predict_features, stages=["1"])):
        with pytest.raises(TypeError, match=r"the samples must be a Split, not a .*from_arrays"):
            ask(with_batch_norm(), samples)
