"""Precision and several processes, which Lightning Fabric brings (extra ``scale``).

Run as a script, this file is what each of two processes does; a test below runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small_training import cross_entropy, network, numbers, same, state
from torch import Tensor, nn

from kd_course.data import Augmented, Batch, Split, jitter
from kd_course.inference import predict, predict_top_k
from kd_course.losses import kd_loss
from kd_course.training import cosine, fit

lightning_fabric = pytest.importorskip("lightning_fabric", reason="the extra `scale` is not installed")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning_fabric"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning_fabric"),
]


def distil(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    logits = model(batch.images)
    loss = kd_loss(logits, batch.teacher_logits, batch.labels, temperature=4, alpha=0.5)
    return {"loss": loss, "hard": cross_entropy(model, batch)}


def samples() -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (38, 1, 28, 28), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(38) % 3, torch.arange(38), "noise")
    return split.with_teacher(torch.randn(38, 3, generator=generator))


def trained(fabric: Any = None, **options: Any) -> dict[str, Any]:
    """Three trainings: from a table; with changed images; with dropout, of which no two ways can be equal."""
    split, plain, moved, dropped = samples(), network(), network(), network(dropout=0.5)
    common = {"epochs": 3, "batch_size": 12, "progress": False, "fabric": fabric, "schedule": cosine, **options}
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    history = fit(
        plain, distil, split, optimizer=optimizer, evaluate=lambda m: {"answer": float(m[-1].bias[0])}, **common
    )
    augmented = Augmented(Split(split.inputs, split.labels, split.indices, split.origin), jitter)
    after = fit(moved, cross_entropy, augmented, optimizer=optimizer, **common)
    fit(dropped, cross_entropy, split, optimizer=optimizer, **common)
    return {
        "history": numbers(history).to_dict("list"),
        "augmented": numbers(after).to_dict("list"),
        "weights": state(plain),
        "dropped": state(dropped),
        "table": predict(plain, split, batch_size=7, fabric=fabric),
        "top": predict_top_k(plain, split, 2, batch_size=7, fabric=fabric),
    }


def close(first: dict[str, Any], second: dict[str, Any]) -> None:
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return trained()


def test_two_processes_compute_what_one_does(
    alone: dict[str, Any], tmp_path: Path, package_environment: dict[str, str]
) -> None:
    folder = str(Path(__file__).parent)
    environment = package_environment | {"PYTHONPATH": os.pathsep.join([package_environment["PYTHONPATH"], folder])}
    # Fabric starts the second process itself.
    subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment, check=True, timeout=240, capture_output=True
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name in ("history", "augmented", "weights", "table", "top"):
        close(first[name], alone[name])
        close(second[name], first[name])
    assert same(first["weights"], second["weights"]) and same(first["dropped"], second["dropped"])  # to the bit
    assert first["rows"] != second["rows"] and sum(first["rows"] + second["rows"]) == 3 * 38


def test_a_fabric_of_one_process_changes_nothing(alone: dict[str, Any]) -> None:
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    found = trained(fabric)
    assert same(found["weights"], alone["weights"]) and found["history"] == alone["history"]
    assert found["table"].equal(alone["table"])


def test_mixed_precision_multiplies_in_bf16_and_keeps_weights_and_losses_wide(alone: dict[str, Any]) -> None:
    seen = []

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch.images)
        seen.append(logits.dtype)
        return {"loss": kd_loss(logits, batch.teacher_logits, batch.labels, temperature=4, alpha=0.5)}

    model = network()
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    history = fit(model, objective, samples(), epochs=3, batch_size=12, fabric=fabric, progress=False, schedule=cosine,
                  optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9))  # fmt: skip
    assert set(seen) == {torch.bfloat16}
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())
    wide = pd.Series(alone["history"]["loss"])
    assert 0 < (history["loss"].to_numpy() - wide.to_numpy()).__abs__().max() < 0.02 * wide.max()
    assert predict(model, samples(), fabric=fabric).dtype == torch.float32


def test_a_checkpoint_of_another_precision_is_refused(tmp_path: Path) -> None:
    options = {"epochs": 1, "progress": False, "checkpoint": tmp_path / "run.pt"}
    fit(network(), cross_entropy, samples(), **options)
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    with pytest.raises(ValueError, match="precision 32-true there, bf16-mixed here"):
        fit(network(), cross_entropy, samples(), fabric=fabric, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        pytest.param({"fabric": "ddp"}, TypeError, "lightning_fabric.Fabric, not str", id="a name"),
        pytest.param({"device": "cpu"}, ValueError, "fabric and device='cpu' both", id="and a device"),
        pytest.param({"precision": "bf16-true"}, ValueError, "'bf16-true'.*bf16-mixed", id="half weights"),
    ],
)
def test_a_fabric_that_would_mean_something_else_is_refused(options: dict, error: type[Exception], words: str) -> None:
    precision = options.pop("precision", "32-true")
    options = {"fabric": lightning_fabric.Fabric(accelerator="cpu", devices=1, precision=precision), **options}
    with pytest.raises(error, match=words):
        fit(network(), cross_entropy, samples(), epochs=1, progress=False, **options)


def in_one_of_two_processes(folder: Path) -> None:
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    rows = []

    def counting(model: nn.Module, batch: Batch) -> Tensor:
        rows.append(len(batch))
        return cross_entropy(model, batch)

    found = trained(fabric)
    fit(network(), counting, samples(), epochs=3, batch_size=13, fabric=fabric, progress=False)
    torch.save(found | {"rows": rows}, folder / f"{fabric.global_rank}.pt")


if __name__ == "__main__":
    in_one_of_two_processes(Path(sys.argv[1]))
