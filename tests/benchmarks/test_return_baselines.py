"""The simple predictions of returns: against published parameters and simulated shops."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.return_baselines import (
    BASELINES,
    Known,
    bg_nbd_likelihood,
    bg_nbd_returns,
    fit_bg_nbd,
)
from tactful.lifecycle.model import Visits


def visits(repeats: list[float], recency: list[float], age: list[float]) -> Visits:
    return Visits(np.array(repeats), np.array(recency), np.array(age))


def test_bg_nbd_expects_what_its_paper_does() -> None:
    """A user with x = 2, t = 30.43, T = 38.86 weeks is alive with 0.72 (Fader et al., 2005)."""
    published = np.array([0.243, 4.414, 0.793, 2.426])
    later = bg_nbd_returns(published, visits([2], [30.43], [38.86]), 10**9)
    assert later[0] == pytest.approx(0.7266, abs=0.001)
    once = bg_nbd_returns(published, visits([0], [0], [38.86]), 39)
    assert once[0] == pytest.approx(1 - ((4.414 + 38.86) / (4.414 + 38.86 + 39)) ** 0.243)


def test_a_fit_is_a_maximum() -> None:
    rng = np.random.default_rng(2)
    age = rng.uniform(20, 60, 400)
    repeats = rng.poisson(2, 400).astype(float)
    known = Visits(repeats, np.where(repeats > 0, age * rng.random(400), 0), age)
    best = fit_bg_nbd(known)
    most = bg_nbd_likelihood(best, known).sum()
    for near in (0.9, 1.1):
        for place in range(4):
            moved = best * np.where(np.arange(4) == place, near, 1)
            assert bg_nbd_likelihood(moved, known).sum() <= most + 1e-3


def test_predictions_are_probabilities_that_follow_the_outcomes() -> None:
    rng = np.random.default_rng(5)
    age = rng.uniform(30, 90, 500)
    repeats = rng.poisson(3, 500).astype(float)
    recency = np.where(repeats > 0, age * rng.random(500), 0)
    answered = (rng.random(500) < np.exp(-(age - recency) / 30)).astype(float)
    same = Visits(repeats, recency, age)
    for name, predict in BASELINES.items():
        predicted = predict(Known(same, same, answered, 30))
        assert ((predicted >= 0) & (predicted <= 1)).all(), name
        assert predicted.mean() == pytest.approx(answered.mean(), abs=0.01), name
