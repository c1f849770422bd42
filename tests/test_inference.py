"""Running a network without changing it: modes, gradients, statistics, row order, device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kd_course.data import Split, to_float
from kd_course.inference import evaluating, freeze, predict, predict_features
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
