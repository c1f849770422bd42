"""The losses of the course, one file per family. Student first, teacher second, options by name, a scalar out."""

from kd_course.losses.response import (
    kd_loss,
    logit_mse_loss,
    probability_mse_loss,
    regression_kd_loss,
    soft_target_loss,
    standardize_logits,
)

__all__ = [
    "kd_loss",
    "logit_mse_loss",
    "probability_mse_loss",
    "regression_kd_loss",
    "soft_target_loss",
    "standardize_logits",
]
