"""The UCI digits: their images and labels are those of scikit-learn, enlarged."""

from __future__ import annotations

import numpy as np

from kd_course.data import Data


def test_digits_carry_the_labels_and_images_of_their_rows_in_the_source(digits: Data) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    places = (np.arange(28) + 0.5) * 8 / 28 - 0.5  # where the 28 new pixels lie among the 8 old ones
    weights = np.array([np.interp(places, np.arange(8), unit) for unit in np.eye(8)])  # (8, 28), linear in between
    enlarged = weights.T @ bunch.images @ weights * 255 / 16
    for part in (digits.train, digits.validation, digits.test):
        assert part.labels.tolist() == bunch.target[part.indices].tolist()
        assert np.abs(part.images[:, 0].numpy() - enlarged[part.indices]).max() <= 0.51  # rounded to whole numbers
