"""Simple predictions of returns, which a model of visits is compared with.

Each is fitted to what is known before a day, as the model is: its outcomes are those of the days
before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln, expit, gammaln

from tactful.lifecycle.model import Visits

Floats = NDArray[np.float64]

_LEAST = 1e-6
_BOUNDS = [(-8.0, 12.0)] * 4  # logarithms of the parameters


@dataclass(frozen=True)
class Known:
    """Data that a prediction may use.

    Attributes:
        visits: visits of users until the day of the prediction.
        earlier: visits of users until `days` days before it.
        answered: which of these users returned within the `days`.
        days: horizon of the prediction.
    """

    visits: Visits
    earlier: Visits
    answered: Floats
    days: int


def share_of_before(known: Known) -> Floats:
    """Predict for everybody the share that returned before."""
    return np.full(len(known.visits.age), known.answered.mean())


def by_recency(known: Known) -> Floats:
    """Predict by a logistic function of the days since the last visit."""
    return _logistic(known, lambda visits: np.column_stack([_silence(visits)]))


def by_recency_and_frequency(known: Known) -> Floats:
    """Predict by a logistic function of the days since the last visit, and of visits by day."""

    def columns(visits: Visits) -> Floats:
        rate = np.log((1 + visits.repeats) / (1 + visits.age))
        return np.column_stack([_silence(visits), rate, np.log1p(visits.repeats)])

    return _logistic(known, columns)


def by_bg_nbd(known: Known) -> Floats:
    """Predict by BG/NBD (Fader, Hardie and Lee, 2005), calibrated by Platt's sigmoid."""
    raw = bg_nbd_returns(fit_bg_nbd(known.visits), known.visits, known.days)
    before = bg_nbd_returns(fit_bg_nbd(known.earlier), known.earlier, known.days)
    line = _fit_line(_logits(before)[:, None], known.answered)
    return np.asarray(expit(line[0] + line[1] * _logits(raw)), np.float64)


def fit_bg_nbd(visits: Visits) -> Floats:
    """Return r, α, a and b of the greatest likelihood."""

    def loss(logarithms: Floats) -> float:
        return -float(bg_nbd_likelihood(np.exp(logarithms), visits).mean())

    start = np.array([0.0, np.log1p(visits.age.mean()), 0.0, 0.0])
    found = minimize(loss, start, method="L-BFGS-B", bounds=_BOUNDS)
    return np.asarray(np.exp(found.x), np.float64)


def bg_nbd_likelihood(parameters: Floats, visits: Visits) -> Floats:
    """Return the logarithm of the likelihood of each user; equation 6 of the paper."""
    r, alpha, a, b = parameters
    repeats, recency, age = visits
    rates = gammaln(r + repeats) - gammaln(r) + r * np.log(alpha)
    stays = betaln(a, b + repeats) - betaln(a, b) - (r + repeats) * np.log(alpha + age)
    leaves = (
        betaln(a + 1, b + np.maximum(repeats, 1) - 1)
        - betaln(a, b)
        - (r + repeats) * np.log(alpha + recency)
    )
    both = np.where(repeats > 0, np.logaddexp(stays, leaves), stays)
    return np.asarray(rates + both, np.float64)


def bg_nbd_returns(parameters: Floats, visits: Visits, days: int) -> Floats:
    """Return the probabilities of a visit within a number of days."""
    r, alpha, a, b = parameters
    repeats, recency, age = visits
    shape = r + repeats
    silence = np.log((alpha + age) / (alpha + recency))
    with np.errstate(over="ignore"):
        odds = a / (b + np.maximum(repeats, 1) - 1) * np.exp(shape * silence)
    alive = np.where(repeats > 0, 1 / (1 + odds), 1.0)
    comes = -np.expm1(shape * np.log((alpha + age) / (alpha + age + days)))
    return np.asarray(alive * comes, np.float64)


BASELINES: dict[str, Callable[[Known], Floats]] = {
    "base": share_of_before,
    "recency": by_recency,
    "frequency": by_recency_and_frequency,
    "bgnbd": by_bg_nbd,
}
"""Predictions by the suffix of the figure that compares them."""


def _silence(visits: Visits) -> Floats:
    return np.asarray(np.log1p(visits.age - visits.recency), np.float64)


def _logits(shares: Floats) -> Floats:
    clipped = np.clip(shares, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(clipped / (1 - clipped)), np.float64)


def _logistic(known: Known, columns: Callable[[Visits], Floats]) -> Floats:
    line = _fit_line(columns(known.earlier), known.answered)
    return np.asarray(expit(line[0] + columns(known.visits) @ line[1:]), np.float64)


def _fit_line(columns: Floats, outcomes: Floats) -> Floats:
    """Return intercept and weights of a logistic regression."""

    def loss(line: Floats) -> float:
        score = line[0] + columns @ line[1:]
        return float(np.mean(np.logaddexp(0, score) - outcomes * score))

    found = minimize(loss, np.zeros(columns.shape[1] + 1), method="BFGS")
    return np.asarray(found.x, np.float64)
