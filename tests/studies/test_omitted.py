"""The bias for classes that a student never saw: what each way of choosing it does, on made-up logits."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from kd_course import studies
from kd_course.data import Data
from kd_course.evaluation import errors
from kd_course.studies import omitted
from kd_course.studies.omitted import bias_by_errors, bias_by_prior

UNSEEN = torch.tensor([0.0, 0.0, 1.0, 0.0])  # class 2 is the one that was missing


def blind(samples: int = 400, *, handicap: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Good logits, but for a handicap of class 2."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % 4
    logits = torch.randn(samples, 4, generator=generator)
    logits[torch.arange(samples), labels] += 6
    return logits - handicap * UNSEEN, labels


@pytest.mark.parametrize("handicap", [0.0, 5.0, 12.0])
def test_both_ways_give_back_what_was_taken(handicap: float) -> None:
    logits, labels = blind(handicap=handicap)
    chosen = bias_by_errors(logits, labels, UNSEEN), bias_by_prior(logits, UNSEEN, 0.25)
    for bias in chosen:
        assert errors(logits + bias * UNSEEN, labels) <= errors(logits + handicap * UNSEEN, labels) + 2
        assert bias == pytest.approx(handicap, abs=2.5)


def test_the_bias_by_errors_is_the_middle_of_the_best() -> None:
    logits = torch.tensor([[8.0, 0, 0, 0], [6.0, 0, 0, 0]])  # one bias range, 6 to 8, gets both right
    assert bias_by_errors(logits, torch.tensor([0, 2]), UNSEEN) == pytest.approx(7.0, abs=0.3)


@pytest.mark.parametrize("prior", [0.1, 0.25, 0.6])
def test_the_bias_by_prior_makes_the_student_answer_so_often(prior: float) -> None:
    logits, _ = blind(handicap=9.0)
    answers = (logits + bias_by_prior(logits, UNSEEN, prior) * UNSEEN).argmax(1)
    assert (answers == 2).double().mean().item() == pytest.approx(prior, abs=0.01)


def test_the_bias_by_prior_never_takes_away() -> None:
    logits, _ = blind(handicap=-9.0)
    assert bias_by_prior(logits, UNSEEN, 0.25) == 0


def test_the_claims_count_what_they_say() -> None:
    ways = {"errors": [30, 32], "errors_validation": [20, 20], "errors_prior": [21, 23]}
    gap = omitted.GAPS["no 3s"]
    runs = pd.DataFrame({"recipe": "no 3s", "seed": [0, 1], "errors_on_missing": [500, 508]} | ways).assign(
        **gap.columns
    )
    saved = omitted.errors_saved(runs, way="_validation", gap=gap)
    by_labels = omitted.errors_saved(runs, way="_validation", baseline="_prior", gap=gap)
    missed = omitted.missed_beyond_half(runs, gap=gap)
    assert (saved.mean, by_labels.mean, missed.mean) == (11, 2, 504 - 505)
    claim = studies.study("omitted").claim("unseen_is_unknown_no_3")
    assert claim.estimate(runs) == "misses 504.0 ± 50.8 of 1,010 images of the 3s"  # t(1) = 12.71 times 4
    assert claim.verdict(runs) == "inconclusive"


def test_the_unseen_images_are_counted_right(mnist: Data) -> None:
    for gap in omitted.GAPS.values():
        assert gap.images == torch.isin(mnist.test.labels, torch.tensor(gap.missing)).sum()
