"""The losses of the course, one file per family. Student first, teacher second, options by name, a scalar out."""

from kd_course.losses.contrast import CRDLoss, info_nce_loss, nce_loss
from kd_course.losses.feature import (
    HintRegressor,
    attention_map,
    attention_transfer_loss,
    hint_loss,
    layerwise_loss,
)
from kd_course.losses.relation import (
    correlation_congruence_loss,
    irg_loss,
    pkt_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    similarity_preserving_loss,
)
from kd_course.losses.response import (
    dist_loss,
    dkd_loss,
    kd_loss,
    logit_mse_loss,
    probability_mse_loss,
    regression_kd_loss,
    soft_target_loss,
    standardize_logits,
)

__all__ = [
    "CRDLoss",
    "HintRegressor",
    "attention_map",
    "attention_transfer_loss",
    "correlation_congruence_loss",
    "dist_loss",
    "dkd_loss",
    "hint_loss",
    "info_nce_loss",
    "irg_loss",
    "kd_loss",
    "layerwise_loss",
    "logit_mse_loss",
    "nce_loss",
    "pkt_loss",
    "probability_mse_loss",
    "regression_kd_loss",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "similarity_preserving_loss",
    "soft_target_loss",
    "standardize_logits",
]
