"""Fits the model of returns to the visits of a shop, and calibrates it on its latest weeks."""

from __future__ import annotations

import msgspec
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, gammaln, logit

from tactful.lifecycle.model import Floats, ReturnModel, Visits
from tactful.lifecycle.sample import VisitSample
from tactful.lifecycle.stored import Fitted

LEAST_PEOPLE, LEAST_RETURNED = 100, 30
"""Users, and users with a second visit, below which nothing is fitted."""

_LEAST_OUTCOMES = 30  # users who did, and who did not return, for a calibration
_BOUNDS = (-8.0, 12.0)  # logarithms of the parameters
_NEAR = 1e-6


def fit(sample: VisitSample) -> Fitted:
    """Fit a model to the visits of users, and calibrate it if they reach far enough.

    The model is fitted to all visits. Another one, fitted to those before the last `horizon_days`,
    predicts who returned in these days; a logistic function of its logits (Platt) is the
    calibration of both. So no outcome calibrates a model that has learnt from it.
    """
    visits, horizon_days = sample.visits, sample.horizon_days
    nothing = Fitted(
        fitted_on=sample.today,
        horizon_days=horizon_days,
        people=len(visits.age),
        priced=sample.priced,
    )
    if reason := _too_little(visits, horizon_days):
        return msgspec.structs.replace(nothing, reason=reason)
    model = fit_model(visits)
    fitted = msgspec.structs.replace(nothing, model=model)
    before, returned = sample.outcomes
    if _too_little(before, horizon_days):
        return fitted
    if min(returned.sum(), (1 - returned).sum()) < _LEAST_OUTCOMES:
        return fitted
    predicted = fit_model(before).returns(before, horizon_days)
    intercept, slope = platt(predicted, returned)
    if slope <= 0:  # the predictions say nothing: an order turned round would be worse
        return fitted
    calibrated = expit(intercept + slope * logit(predicted))
    return msgspec.structs.replace(
        fitted,
        model=msgspec.structs.replace(model, intercept=intercept, slope=slope),
        calibrated=True,
        brier=float(np.mean((calibrated - returned) ** 2)),
        base_brier=float(np.mean((returned.mean() - returned) ** 2)),
    )


def _too_little(visits: Visits, horizon_days: int) -> str:
    """Return why no model can be fitted to visits; empty if one can."""
    if len(visits.age) < LEAST_PEOPLE:
        return f"fewer than {LEAST_PEOPLE} users have a visit"
    if (visits.repeats > 0).sum() < LEAST_RETURNED:
        return f"fewer than {LEAST_RETURNED} users have returned on another day"
    span = int(visits.age.max())
    if span < horizon_days:
        return f"the first visit is {span} days old; {horizon_days} days are needed"
    return ""


def fit_model(visits: Visits) -> ReturnModel:
    """Return the parameters with the greatest likelihood, uncalibrated."""
    rows, weights = np.unique(np.column_stack(visits), axis=0, return_counts=True)
    distinct = Visits(*rows.T)
    start = np.array([0.0, np.log1p(visits.age.mean()), 0.0, 0.0])

    def loss(logarithms: Floats) -> float:
        likelihood = log_likelihood(ReturnModel(**_named(np.exp(logarithms))), distinct)
        return -float(weights @ likelihood) / float(weights.sum())

    found = minimize(loss, start, method="L-BFGS-B", bounds=[_BOUNDS] * 4)
    return ReturnModel(**_named(np.exp(found.x)))


def _named(parameters: Floats) -> dict[str, float]:
    return dict(zip(("r", "alpha", "a", "b"), map(float, parameters), strict=True))


def log_likelihood(model: ReturnModel, visits: Visits) -> Floats:
    """Return the logarithm of the likelihood of each user.

    Γ(r+x) α^r / Γ(r) · B(a, b+x+1) / B(a, b) · ((α+T)^−(r+x) + a / (b+x) (α+t)^−(r+x)).
    """
    r, alpha, a, b = model.r, model.alpha, model.a, model.b
    repeats, recency, age = visits
    rates = gammaln(r + repeats) - gammaln(r) + r * np.log(alpha)
    stays = gammaln(a + b) + gammaln(b + repeats + 1) - gammaln(b) - gammaln(a + b + repeats + 1)
    alive = -(r + repeats) * np.log(alpha + age)
    lost = np.log(a) - np.log(b + repeats) - (r + repeats) * np.log(alpha + recency)
    return np.asarray(rates + stays + np.logaddexp(alive, lost), np.float64)


def platt(predicted: Floats, outcomes: Floats) -> tuple[float, float]:
    """Fit intercept and slope of a logistic function of logits to outcomes of 0 and 1.

    Platt, "Probabilistic outputs for support vector machines" (1999).
    """
    logits = logit(np.clip(predicted, _NEAR, 1 - _NEAR))

    def loss(line: Floats) -> float:
        score = line[0] + line[1] * logits
        return float(np.mean(np.logaddexp(0, score) - outcomes * score))

    found = minimize(loss, np.array([0.0, 1.0]), method="BFGS")
    return float(found.x[0]), float(found.x[1])
