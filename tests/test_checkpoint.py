"""Checkpoints: a training that was interrupted or killed ends at the same numbers, and no other file is accepted.

Run as a script, this file trains with a checkpoint, then hangs until it is killed; a test below does that.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_training import (
    MakeSplit,
    Marks,
    State,
    cross_entropy,
    interrupted_after,
    network,
    numbers,
    quietly,
    same,
    state,
)
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course.data import Batch, Split
from kd_course.inference import predict
from kd_course.models import mlp
from kd_course.training import cosine, fit

# Interruption and resumption.


@pytest.mark.parametrize("steps", [1, 3, 4, 8, 11])
def test_an_interrupted_training_ends_at_the_same_numbers(tiny_split: MakeSplit, tmp_path: Path, steps: int) -> None:
    split, checkpoint = tiny_split(12), tmp_path / "deep" / "run.pt"  # 3 steps in each of 4 epochs

    def run(objective: Any, model: nn.Module, checkpoint: Path | None) -> pd.DataFrame:
        return quietly(
            model,
            objective,
            split,
            epochs=4,
            seed=3,
            schedule=cosine,
            evaluate=lambda model: {"mean": predict(model, split).mean().item()},
            checkpoint=checkpoint,
            tag="the same training",
        )

    whole = network(dropout=0.5)
    expected = run(cross_entropy, whole, None)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted_after(steps), network(dropout=0.5), checkpoint)
    assert checkpoint.exists() == (steps >= 3)
    resumed = network(seed=77, dropout=0.5)  # the checkpoint replaces these weights
    if not checkpoint.exists():
        resumed = network(dropout=0.5)
    seen = []
    found = run(lambda model, batch: seen.append(batch.progress) or cross_entropy(model, batch), resumed, checkpoint)
    assert len(seen) == 12 - steps // 3 * 3  # only what was missing was trained
    pd.testing.assert_frame_equal(numbers(found), numbers(expected), check_exact=True)
    assert same(state(resumed), state(whole))


def test_a_checkpoint_holds_whatever_kind_of_number_evaluate_returns(tiny_split: MakeSplit, tmp_path: Path) -> None:
    """NumPy's scalars, which most metrics return, cannot be read back from a checkpoint."""
    kinds = {"numpy": np.float64(0.5), "tensor": torch.tensor(0.25), "whole": 3}
    options = {"evaluate": lambda model: kinds, "monitor": "numpy", "better": "lower"}
    options |= {"checkpoint": tmp_path / "run.pt", "epochs": 2}
    history = quietly(network(), cross_entropy, tiny_split(), **options)
    again = quietly(network(), cross_entropy, tiny_split(), **options)
    assert history.equals(again)
    assert again.loc[1, ["numpy", "tensor", "whole"]].to_list() == [0.5, 0.25, 3.0]


def test_a_finished_training_is_not_trained_again(tiny_split: MakeSplit, tmp_path: Path) -> None:
    model, options = network(), {"epochs": 2, "checkpoint": tmp_path / "run.pt", "tag": "the same training"}
    expected = quietly(model, cross_entropy, tiny_split(), **options)
    again = network(seed=5)
    found = quietly(again, lambda *_: pytest.fail("trained again"), tiny_split(), **options)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert same(state(again), state(model))


@pytest.mark.parametrize("steps", [4, 7, 10, 13])
def test_patience_counts_on_through_an_interruption(tiny_split: MakeSplit, tmp_path: Path, steps: int) -> None:
    marks, options = (5, 3, 4, 4, 4, 0), {"epochs": 6, "monitor": "nll", "patience": 3, "tag": "the same training"}
    whole, all_marks = network(), Marks(*marks)
    expected = quietly(whole, cross_entropy, tiny_split(), evaluate=all_marks, **options)
    before, checkpoint = Marks(*marks), tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        quietly(network(), interrupted_after(steps), tiny_split(), evaluate=before, checkpoint=checkpoint, **options)
    after, resumed = Marks(*marks[len(before.weights) :]), network()
    found = quietly(resumed, cross_entropy, tiny_split(), evaluate=after, checkpoint=checkpoint, **options)
    pd.testing.assert_frame_equal(numbers(found), numbers(expected), check_exact=True)
    assert same(state(resumed), state(whole))


def test_a_training_that_ran_out_of_patience_stays_stopped_and_gives_its_best_weights(
    tiny_split: MakeSplit, tmp_path: Path
) -> None:
    options = {"epochs": 6, "monitor": "nll", "patience": 2, "checkpoint": tmp_path / "run.pt", "tag": "the same"}
    evaluate = Marks(5, 3, 4, 4)
    quietly(network(), cross_entropy, tiny_split(), evaluate=evaluate, **options)
    again = network(seed=9)
    found = quietly(
        again, cross_entropy, tiny_split(), evaluate=lambda model: pytest.fail("one epoch too many"), **options
    )
    assert found["nll"].to_list() == [5, 3, 4, 4]
    assert same(state(again), evaluate.weights[1])


# What is refused.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"seed": 1}, "seed 0 .*1 here", id="seed"),
        pytest.param({"epochs": 9}, "epochs 2 .*9 here", id="epochs"),
        pytest.param({"batch_size": 3}, "batch_size 5 .*3 here", id="batch size"),
        pytest.param({"samples": 9}, "samples 12 .*9 here", id="samples"),
        pytest.param({"evaluate": lambda model: {"nll": 1.0}, "monitor": "nll"}, "monitor", id="monitor"),
        pytest.param({"optimizer": partial(torch.optim.Adam, lr=0.5)}, r"rates \[\[0.001\]\] .*\[\[0.5\]\] here", id="rate"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_name(
    tiny_split: MakeSplit, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt", "samples": 12}

    def run(samples: int, **options: Any) -> None:
        quietly(network(), cross_entropy, tiny_split(samples), **options)

    run(**options)
    with pytest.raises(ValueError, match=rf"run\.pt .*another training.*{words}.*delete .*run\.pt"):
        run(**(options | change))


def test_a_checkpoint_of_another_network_is_refused_by_name(tiny_split: MakeSplit, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt"}
    quietly(network(), cross_entropy, tiny_split(), **options)
    with pytest.raises(ValueError, match=r"run\.pt .*another training .*model checksum.*delete .*run\.pt"):
        quietly(mlp(17, classes=3), cross_entropy, tiny_split(), **options)


@pytest.mark.parametrize("change", ["network", "optimizer"])
def test_under_a_tag_another_network_or_optimizer_is_refused_and_the_model_stays_as_it_is(
    tiny_split: MakeSplit, tmp_path: Path, change: str
) -> None:
    def one_group(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": parameters}], lr=0.1)

    def two_groups(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.1}], lr=0.1)

    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt", "tag": "mine"}
    quietly(network(), cross_entropy, tiny_split(), optimizer=one_group, **options)
    model = mlp(17, classes=3) if change == "network" else network(seed=5)
    before = state(model)
    # Two groups would be seen by their rates, were those not lists of as many numbers in both.
    optimizer = one_group if change == "network" else two_groups
    with pytest.raises(ValueError, match=r"(?s)run\.pt (belongs to|holds) another .*delete .*run\.pt"):
        quietly(model, cross_entropy, tiny_split(), optimizer=optimizer, **options)
    assert same(state(model), before)


class Trap:
    """Unpickling it would run a command."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("a checkpoint ran code",)


def damaged(kind: str, path: Path) -> None:
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "cut short":
            path.write_bytes(path.read_bytes()[:-100])
        case "text":
            path.write_text("not a checkpoint")
        case "a list":
            torch.save([1, 2], path)
        case "code":
            torch.save({"identity": Trap()}, path)


@pytest.mark.parametrize("kind", ["empty", "cut short", "text", "a list", "code"])
def test_a_file_that_is_not_a_checkpoint_is_refused_by_name(tiny_split: MakeSplit, tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path / "run.pt"}
    quietly(network(), cross_entropy, tiny_split(), **options)
    damaged(kind, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"(?s)run\.pt .*readable checkpoint.*delete .*run\.pt"):
        quietly(network(), cross_entropy, tiny_split(), **options)


# Failures while a checkpoint is written.


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one_whole(
    tiny_split: MakeSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"epochs": 3, "checkpoint": tmp_path / "run.pt"}
    whole = network()
    quietly(whole, cross_entropy, tiny_split(), epochs=3)
    save, calls = torch.save, itertools.count()

    def disk_full_at_the_second(value: Any, file: Any) -> None:
        if next(calls) == 1:
            file.write(b"half a checkpoint")
            raise OSError("no space left on device")
        save(value, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", disk_full_at_the_second)
        with pytest.raises(OSError, match="no space left"):
            quietly(network(), cross_entropy, tiny_split(), **options)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    assert len(torch.load(tmp_path / "run.pt")["rows"]) == 1
    resumed = network()
    quietly(resumed, cross_entropy, tiny_split(), **options)
    assert same(state(resumed), state(whole))


def trained_on_noise(checkpoint: Path | None, *, stall: bool = False) -> tuple[pd.DataFrame, State]:
    """A training with dropout, schedule, evaluation and early stopping, on images of noise.

    With ``stall`` it hangs in its sixth epoch, until it is killed.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 28, 28), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(60) % 3, torch.arange(60), "noise")
    model = network(dropout=0.5)

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        if stall and batch.progress > 5 / 12:
            time.sleep(3600)
        return cross_entropy(model, batch)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"nll": F.cross_entropy(predict(model, split), split.labels).item()}

    history = fit(
        model,
        objective,
        split,
        epochs=12,
        batch_size=16,
        schedule=cosine,
        evaluate=evaluate,
        monitor="nll",
        patience=12,
        checkpoint=checkpoint,
        progress=False,
    )
    return history, state(model)


def wait_for_epochs(checkpoint: Path, count: int, process: subprocess.Popen) -> None:
    """Wait until the file holds at least ``count`` epochs; it must be whole whenever it is read."""
    while process.poll() is None:
        if checkpoint.exists() and len(torch.load(checkpoint)["rows"]) >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"the training ended before it could be killed: {process.communicate()}")


@pytest.mark.slow
def test_a_killed_training_ends_at_the_numbers_of_one_that_was_not_killed(
    tmp_path: Path, package_environment: dict[str, str]
) -> None:
    checkpoint = tmp_path / "run.pt"
    command = [sys.executable, __file__, str(checkpoint)]
    with subprocess.Popen(
        command, env=package_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        try:
            wait_for_epochs(checkpoint, 5, training)
        finally:
            training.kill()  # kill -9
            training.communicate()
    assert len(torch.load(checkpoint)["rows"]) == 5
    found, resumed = trained_on_noise(checkpoint)
    expected, weights = trained_on_noise(None)
    pd.testing.assert_frame_equal(numbers(found), numbers(expected), check_exact=True)
    assert same(resumed, weights)


if __name__ == "__main__":
    trained_on_noise(Path(sys.argv[1]), stall=True)
