"""Runs with numbers out of thin air, to see that tables, figures, claims and guides can be made of them."""

import numpy as np
import pandas as pd

from kd_course.studies import Study

ERRORS = [f"{name}{way}" for name in ("errors", "errors_on_missing") for way in ("", "_validation", "_prior")]
ERRORS += ["validation_errors", "teacher_errors"]
COSTS = ["latency_1_ms", "latency_1_iqr_ms", "latency_256_ms", "latency_256_iqr_ms", "parameters", "bytes"]
COSTS += ["training_seconds"]
OTHERS = ["accuracy", "nll", "ece", "macro_f1", "agreement", "kl_to_teacher", "chosen"]
OTHERS += ["bias", "bias_validation", "bias_prior"]


def imagined(study: Study, seed: int = 0, *, seeds: int = 5) -> pd.DataFrame:
    """Every number that any study has, for every arm of this one."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(seeds):
        for name, arm in study.arms.items():
            values = {metric: generator.uniform(0.1, 1) for metric in OTHERS + COSTS}
            values |= {metric: float(generator.integers(100, 150)) for metric in ERRORS}
            rows.append({"recipe": name, **arm.columns, "seed": number, **values, "seconds": 1.0})
    return pd.DataFrame(rows)
