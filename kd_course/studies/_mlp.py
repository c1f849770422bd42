"""The student of Hinton's section 3: the recipe that the studies of temperature and of patience share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from kd_course.data import Batch, Data
from kd_course.evaluation import errors, evaluate_logits
from kd_course.inference import predict
from kd_course.losses import kd_loss
from kd_course.models import mlp
from kd_course.runtime import seeded
from kd_course.training import cosine, fit


def student(
    data: Data, seed: int, *, width: int, temperature: float, alpha: float, epochs: int, rate: float
) -> Mapping[str, float]:
    """A network of two hidden layers of ``width`` units, trained from scratch (``alpha`` = 0) or by distillation."""

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        return kd_loss(model(batch.images), batch.teacher_logits, batch.labels, temperature=temperature, alpha=alpha)

    with seeded(seed):
        network = mlp((width, width))
    adam = partial(torch.optim.Adam, lr=rate)
    fit(network, objective, data.train, epochs=epochs, seed=seed, optimizer=adam, schedule=cosine, progress=False)
    teacher_errors = errors(data.test.teacher_logits, data.test.labels)
    return evaluate_logits(predict(network, data.test), data.test) | {"teacher_errors": teacher_errors}
