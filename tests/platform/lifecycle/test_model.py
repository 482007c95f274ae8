"""The model of returns against integrals over all users, and on simulated shops."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from tactful.lifecycle.fit import fit, fit_model, log_likelihood, platt
from tactful.lifecycle.model import ReturnModel, Visits
from tactful.lifecycle.sample import VisitSample

Histories = list[NDArray[np.int64]]
TRUE = ReturnModel(r=0.8, alpha=12.0, a=0.9, b=4.0)

NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)


def one(repeats: float, recency: float, age: float) -> Visits:
    return Visits(*(np.array([value], np.float64) for value in (repeats, recency, age)))


def integral(model: ReturnModel, visits: Visits, returns_within: float | None = None) -> float:
    """Integrate over rate and probability: of the visits, or of them and a later return.

    Both are integrated over their quantiles, by the Gauss-Legendre rule.
    """
    repeats, recency, age = (float(column[0]) for column in visits)
    share, weights = (NODES + 1) / 2, WEIGHTS / 2
    rate = stats.gamma(model.r, scale=1 / model.alpha).ppf(share)[:, np.newaxis]
    drop = stats.beta(model.a, model.b).ppf(share)
    alive = (1 - drop) * np.exp(-rate * (age - recency))
    seen = rate**repeats * (1 - drop) ** repeats * np.exp(-rate * recency)
    if returns_within is None:
        values = seen * (alive + drop)
    else:
        values = seen * alive * -np.expm1(-rate * returns_within)
    return float(weights @ values @ weights)


@pytest.mark.parametrize(
    ("model", "visits"),
    [
        (ReturnModel(r=1.5, alpha=8.0, a=1.2, b=2.5), one(2, 30, 39)),
        (ReturnModel(r=2.0, alpha=5.0, a=2.0, b=3.0), one(0, 0, 10)),
        (ReturnModel(r=1.2, alpha=20.0, a=1.5, b=6.0), one(4, 12, 60)),
    ],
)
def test_formulas_are_the_integrals_over_users(model: ReturnModel, visits: Visits) -> None:
    likelihood = integral(model, visits)
    assert np.exp(log_likelihood(model, visits)[0]) == pytest.approx(likelihood, rel=1e-5)
    returns = integral(model, visits, returns_within=14.0) / likelihood
    assert model.returns(visits, 14.0)[0] == pytest.approx(returns, rel=1e-5)


@given(st.integers(0, 2_000), st.integers(0, 5_000), st.integers(0, 5_000), st.floats(1e-3, 1e5))
@settings(max_examples=80, deadline=None)
def test_probabilities_stay_probabilities(repeats: int, last: int, more: int, scale: float) -> None:
    model = ReturnModel(r=scale, alpha=1 / scale, a=scale, b=0.001, intercept=0.5, slope=2.0)
    visits = one(repeats, last, last + more)
    assert 0 <= model.returns(visits, 30)[0] <= 1
    longer = one(repeats, last, last + more + 10)
    assert model.alive(longer)[0] <= model.alive(visits)[0]


def sampled(histories: Histories, today: int, horizon: int = 30) -> VisitSample:
    sample = VisitSample(today, horizon, random.Random(0))
    for days in histories:
        sample.add(days.tolist())
    return sample


def shop(people: int, days: int, seed: int) -> Histories:
    """Simulate the visits of users who come for the first time within half of the days."""
    rng = np.random.default_rng(seed)
    histories = []
    for _ in range(people):
        rate = rng.gamma(TRUE.r, 1 / TRUE.alpha)
        drop = rng.beta(TRUE.a, TRUE.b)
        at = float(rng.uniform(0, days / 2))
        visits = [at]
        while rng.random() >= drop and (at := at + rng.exponential(1 / rate)) < days:
            visits.append(at)
        histories.append(np.unique(np.array(visits, np.int64)))
    return histories


@pytest.fixture(scope="module")
def simulated() -> Histories:
    return shop(3_000, 400, 7)


def test_a_simulated_shop_is_fitted_and_calibrated(simulated: Histories) -> None:
    """Probabilities of the future match what happens, by tenths of the users."""
    today, horizon = 360, 40
    fitted = fit(sampled(simulated, today, horizon))
    assert fitted.calibrated
    assert fitted.model is not None
    assert fitted.brier is not None and fitted.base_brier is not None
    assert fitted.brier < 0.9 * fitted.base_brier
    came = np.array([bool((days > today).any()) for days in simulated])
    predicted = fitted.model.returns(sampled(simulated, today).visits, horizon)
    for part in np.array_split(np.argsort(predicted), 5):
        noise = 4 * np.sqrt(predicted[part].mean() / len(part)) + 0.02
        assert abs(predicted[part].mean() - came[part].mean()) < noise


def test_a_user_with_short_gaps_is_missed_sooner(simulated: Histories) -> None:
    """Ten days of silence say more of a daily guest than of a monthly one."""
    model = fit_model(sampled(simulated, 360).visits)
    silence = 30
    shares = []
    for gap in (2, 20):
        age = 9.0 * gap
        now, fresh = (model.returns(one(9, age, age + more), 30)[0] for more in (silence, 0))
        shares.append(now / fresh)
    assert shares[0] < 0.6 * shares[1]


def test_little_data_is_no_model() -> None:
    young = [np.array([20_000, 20_001])] * 200
    assert fit(sampled(young, 20_003)).reason == "the first visit is 3 days old; 30 days are needed"
    assert "fewer than 100 users" in fit(sampled(young[:99], 20_100)).reason
    once = [np.array([20_000])] * 200
    assert "returned on another day" in fit(sampled(once, 20_100)).reason
    assert fit(sampled([], 20_100)).model is None
    future = fit(sampled([np.array([30_000, 30_001])] * 200, 20_100))
    assert future.people == 0 and future.model is None


def test_a_young_shop_is_predicted_without_calibration() -> None:
    fitted = fit(sampled(shop(2_000, 90, 3), 44))
    assert fitted.model is not None and not fitted.calibrated
    assert (fitted.model.intercept, fitted.model.slope) == (0.0, 1.0)


def test_platt_recovers_a_line() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1.5, 20_000)
    outcomes = (rng.random(20_000) < 1 / (1 + np.exp(-(0.4 + 0.7 * logits)))).astype(float)
    intercept, slope = platt(1 / (1 + np.exp(-logits)), outcomes)
    assert intercept == pytest.approx(0.4, abs=0.05)
    assert slope == pytest.approx(0.7, abs=0.05)
