"""What a policy would have earned, from decisions that another one made and logged.

Every estimator here is a mean of per-decision terms, or a ratio of two such means, so that each has
an interval by its influence values; where one person made many decisions, the person is the unit.
With ``w = π(a | x) / propensity`` the importance weight, ``q(x, a)`` a model of the reward and
``v(x) = Σ π(a | x) q(x, a)``:

| estimator | terms | right if |
|---|---|---|
| `ips` | ``w r`` | propensities are right |
| `clipped_ips` | ``min(w, limit) r`` | few weights are clipped: biased, varies less |
| `snips` | ``w r / mean(w)`` | propensities are right; varies less |
| `direct_method` | ``v`` | the model is right |
| `doubly_robust` | ``v + w (r - q)`` | either is right |
| `self_normalised_doubly_robust` | ``v + w (r - q) / mean(w)`` | either is right |
| `switch_doubly_robust` | ``v + w 1{w <= limit} (r - q)`` | the model is right where w is large |
| `shrunk_doubly_robust` | ``v + s w / (w² + s) (r - q)`` | the model is right where w is large |

Sources: Horvitz, Thompson 1952; Swaminathan, Joachims, NIPS 2015; Dudik, Langford, Li, ICML 2011,
arXiv 1103.4601; Wang, Agarwal, Dudik, ICML 2017, arXiv 1612.01205; Su, Dimakopoulou, Krishnamurthy,
Dudik, ICML 2020, arXiv 1907.09623.

The model must not have seen the rewards that it is asked about: fit it on other folds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from tactful_bandits.comparison import Interval
from tactful_bandits.errors import EvaluationError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LoggedDecisions:
    """Decisions as logged, beside what the policy in question would have done.

    Attributes:
        rewards: ``[n]``.
        propensities: Probability with which the logged arm was chosen, ``[n]``, above 0, at most 1.
            Densities, for arms from a continuum, may exceed 1 if `densities` says so.
        target: Probability, or density, that the policy in question gives the logged arm, ``[n]``.
        expected: ``q`` of the logged arm, ``[n]``; None: no model.
        expected_target: ``v``, ``[n]``; None: no model.
        units: Who made each decision, ``[n]``; None: every decision is a unit. Whatever numbers
            are given, they are kept as 0, 1, 2 and so on.
        densities: Whether `propensities` and `target` are densities.
    """

    rewards: Floats
    propensities: Floats
    target: Floats
    expected: Floats | None = None
    expected_target: Floats | None = None
    units: NDArray[np.int64] | None = None
    densities: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not fit together.

        Raises:
            EvaluationError: Shapes differ, values are not finite, or probabilities are none.
        """
        n = len(self.rewards)
        for name in ("rewards", "propensities", "target", "expected", "expected_target", "units"):
            array = getattr(self, name)
            if array is None:
                continue
            if array.shape != (n,) or n < 2:
                raise EvaluationError(f"{name} has shape {array.shape}: [n] is needed, n above 1")
            if not np.isfinite(array).all():
                raise EvaluationError(f"{name} must be finite; some value is NaN or infinite")
        if (self.expected is None) != (self.expected_target is None):
            raise EvaluationError("a model is given by `expected` and `expected_target` together")
        largest = np.inf if self.densities else 1 + 1e-9
        if not ((self.propensities > 0) & (self.propensities <= largest)).all():
            raise EvaluationError(
                "propensities must lie above 0 and at most at 1: what had no chance to be logged"
                " cannot be evaluated"
            )
        if not ((self.target >= 0) & (self.target <= largest)).all():
            raise EvaluationError("probabilities of the target policy must lie between 0 and 1")
        if self.units is not None:
            numbered = np.unique(self.units, return_inverse=True)[1].astype(np.int64)
            object.__setattr__(self, "units", numbered)

    @classmethod
    def from_policy(
        cls,
        actions: ArrayLike,
        rewards: ArrayLike,
        propensities: ArrayLike,
        policy: ArrayLike,
        *,
        model: ArrayLike | None = None,
        units: ArrayLike | None = None,
    ) -> LoggedDecisions:
        """From what the policy does at each decision.

        Args:
            actions: Index of the logged arm, ``[n]``.
            rewards: ``[n]``.
            propensities: Of the logged arm, ``[n]``.
            policy: Probability of every arm, ``[n, arms]``; rows sum to 1.
            model: Expected reward of every arm, ``[n, arms]``.
            units: Who made each decision, ``[n]``, of any kind that can be sorted.

        Raises:
            EvaluationError: Shapes differ or values are impossible.
        """
        chances = np.asarray(policy, dtype=np.float64)
        arms = np.asarray(actions)
        if chances.ndim != 2 or arms.shape != chances.shape[:1]:
            raise EvaluationError(
                f"policy has shape {chances.shape} for {arms.shape} actions: [n, arms] is needed"
            )
        if (
            not np.issubdtype(arms.dtype, np.integer)
            or not ((arms >= 0) & (arms < chances.shape[1])).all()
        ):
            raise EvaluationError(f"actions must be indexes of the {chances.shape[1]} arms")
        if not np.allclose(chances.sum(axis=1), 1, atol=1e-6):
            raise EvaluationError("the policy's probabilities must sum to 1 at every decision")
        rows = np.arange(len(arms))
        expected = expected_target = None
        if model is not None:
            q = np.asarray(model, dtype=np.float64)
            if q.shape != chances.shape:
                raise EvaluationError(f"model has shape {q.shape}, the policy {chances.shape}")
            expected, expected_target = q[rows, arms], (chances * q).sum(axis=1)
        codes = None
        if units is not None:
            codes = np.unique(np.asarray(units), return_inverse=True)[1].astype(np.int64)
        return cls(
            np.asarray(rewards, dtype=np.float64),
            np.asarray(propensities, dtype=np.float64),
            chances[rows, arms],
            expected,
            expected_target,
            codes,
        )

    @property
    def weights(self) -> Floats:
        """Importance weights, ``[n]``."""
        return self.target / self.propensities


@dataclass(frozen=True, eq=False)
class OffPolicyEstimate:
    """An estimate of what a policy earns per decision.

    Attributes:
        value: The estimate.
        influence: What each unit moves it, ``[units]``; its mean is 0. The squared standard error
            is its variance over the number of units.
    """

    value: float
    influence: Floats

    @property
    def standard_error(self) -> float:
        """By the variance between units."""
        return float(self.influence.std(ddof=1) / np.sqrt(len(self.influence)))

    def interval(self, confidence: float = 0.95) -> Interval:
        """Asymptotic, by Student's distribution.

        Raises:
            EvaluationError: `confidence` is none.
        """
        if not 0 < confidence < 1:
            raise EvaluationError(f"confidence is {confidence}: it must lie between 0 and 1")
        reach = stats.t.ppf((1 + confidence) / 2, len(self.influence) - 1) * self.standard_error
        return Interval(
            self.value - float(reach), self.value + float(reach), confidence, "asymptotic"
        )

    def minus(self, other: OffPolicyEstimate) -> OffPolicyEstimate:
        """The difference to another estimate from the same decisions; what they share cancels.

        Raises:
            EvaluationError: They are of different decisions.
        """
        if self.influence.shape != other.influence.shape:
            raise EvaluationError("a difference needs two estimates from the same decisions")
        return OffPolicyEstimate(self.value - other.value, self.influence - other.influence)


def ips(log: LoggedDecisions) -> OffPolicyEstimate:
    """Inverse propensity scoring."""
    return _mean(log, log.weights * log.rewards)


def clipped_ips(log: LoggedDecisions, limit: float) -> OffPolicyEstimate:
    """Inverse propensity scoring with no weight above `limit`.

    Raises:
        EvaluationError: The limit is not positive.
    """
    return _mean(log, np.minimum(log.weights, _positive(limit, "limit")) * log.rewards)


def snips(log: LoggedDecisions) -> OffPolicyEstimate:
    """Self-normalised inverse propensity scoring.

    Raises:
        EvaluationError: The policy never does what was logged.
    """
    return _normalised(log, np.zeros(len(log.rewards)), log.weights, log.rewards)


def direct_method(log: LoggedDecisions) -> OffPolicyEstimate:
    """What the model expects of the policy.

    Raises:
        EvaluationError: There is no model.
    """
    return _mean(log, _model(log)[1])


def doubly_robust(log: LoggedDecisions, *, limit: float = np.inf) -> OffPolicyEstimate:
    """The model, corrected by weighted residuals; no weight counts more than `limit`.

    Raises:
        EvaluationError: There is no model, or the limit is not positive.
    """
    q, v = _model(log)
    return _mean(log, v + np.minimum(log.weights, _positive(limit, "limit")) * (log.rewards - q))


def self_normalised_doubly_robust(log: LoggedDecisions) -> OffPolicyEstimate:
    """As `doubly_robust`, with weights divided by their mean.

    Raises:
        EvaluationError: There is no model, or the policy never does what was logged.
    """
    q, v = _model(log)
    return _normalised(log, v, log.weights, log.rewards - q)


def switch_doubly_robust(log: LoggedDecisions, limit: float) -> OffPolicyEstimate:
    """As `doubly_robust` where the weight is at most `limit`; elsewhere only the model.

    Raises:
        EvaluationError: There is no model, or the limit is not positive.
    """
    q, v = _model(log)
    w = log.weights
    return _mean(log, v + np.where(w <= _positive(limit, "limit"), w, 0) * (log.rewards - q))


def shrunk_doubly_robust(log: LoggedDecisions, shrinkage: float) -> OffPolicyEstimate:
    """Doubly robust with optimistic shrinkage, ``s w / (w² + s)``: towards the model as s falls.

    Raises:
        EvaluationError: There is no model, or the shrinkage is not positive.
    """
    q, v = _model(log)
    w, s = log.weights, _positive(shrinkage, "shrinkage")
    shrunk = w if np.isinf(s) else s * w / (w**2 + s)
    return _mean(log, v + shrunk * (log.rewards - q))


def logged_value(log: LoggedDecisions) -> OffPolicyEstimate:
    """What the logging policy itself earned."""
    return _mean(log, log.rewards)


def bootstrap_interval(
    estimator: Callable[[LoggedDecisions], OffPolicyEstimate],
    log: LoggedDecisions,
    rng: np.random.Generator,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """Percentiles of the estimate over resampled units: a check of the asymptotic interval.

    Raises:
        EvaluationError: There are no resamples, or `confidence` is none.
    """
    if resamples < 2 or not 0 < confidence < 1:
        raise EvaluationError("give at least 2 resamples and a confidence between 0 and 1")
    n = len(log.rewards)
    units = log.units if log.units is not None else np.arange(n)
    members = np.split(np.argsort(units, kind="stable"), np.bincount(units).cumsum()[:-1])
    values = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(members), len(members))
        rows = drawn if log.units is None else np.concatenate([members[unit] for unit in drawn])
        values.append(estimator(_rows(log, rows)).value)
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), confidence, "bootstrap")


def _rows(log: LoggedDecisions, rows: NDArray[np.intp]) -> LoggedDecisions:
    def of(array: Floats | None) -> Floats | None:
        return None if array is None else array[rows]

    return LoggedDecisions(
        log.rewards[rows],
        log.propensities[rows],
        log.target[rows],
        of(log.expected),
        of(log.expected_target),
        densities=log.densities,
    )


def _model(log: LoggedDecisions) -> tuple[Floats, Floats]:
    if log.expected is None or log.expected_target is None:
        raise EvaluationError("this estimator needs a model of the reward: give `model`")
    return log.expected, log.expected_target


def _positive(value: float, name: str) -> float:
    if not value > 0:
        raise EvaluationError(f"{name} is {value}: it must be above 0")
    return value


def _mean(log: LoggedDecisions, terms: Floats) -> OffPolicyEstimate:
    value = float(terms.mean())
    return OffPolicyEstimate(value, _by_unit(log, terms - value))


def _normalised(log: LoggedDecisions, base: Floats, w: Floats, gains: Floats) -> OffPolicyEstimate:
    if not w.sum() > 0:
        raise EvaluationError("the policy never does what was logged: there is no overlap at all")
    gained = float((w * gains).sum() / w.sum())
    value = float(base.mean()) + gained
    # By the delta method for a ratio of two means.
    return OffPolicyEstimate(
        value, _by_unit(log, base - base.mean() + w * (gains - gained) / w.mean())
    )


def _by_unit(log: LoggedDecisions, terms: Floats) -> Floats:
    if log.units is None:
        return terms
    sums = np.bincount(log.units, weights=terms)
    if len(sums) < 2:
        raise EvaluationError("all decisions are of one unit: nothing is known of the variation")
    # A mean over decisions, taken as a sum over units.
    scaled: Floats = np.asarray(sums * (len(sums) / len(terms)), dtype=np.float64)
    return scaled
