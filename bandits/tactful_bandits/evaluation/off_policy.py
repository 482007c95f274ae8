"""Off-policy estimators: the value of a policy from another policy's log.

Every estimator is a mean of per-decision terms, or a ratio of two such means, so its interval
follows from influence values; if one person made many decisions, the person is the unit.
With ``w = π(a | x) / propensity`` the importance weight, ``q(x, a)`` a model of the reward and
``v(x) = Σ π(a | x) q(x, a)``:

| estimator | terms | consistent if |
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

Fit the model on other folds: it must not have been trained on the rewards that it predicts here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from tactful_bandits.analysis.comparison import Interval
from tactful_bandits.errors import EvaluationError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LoggedDecisions:
    """Logged decisions with the target policy's probabilities of them.

    Attributes:
        rewards: Reward of each decision, ``[n]``.
        propensities: Probability with which the logged arm was chosen, ``[n]``, above 0, at most 1.
            Densities, for arms from a continuum, may exceed 1 if `densities` says so.
        target: Probability, or density, that the target policy gives the logged arm, ``[n]``.
        expected: ``q`` of the logged arm, ``[n]``; None: no model.
        expected_target: ``v``, ``[n]``; None: no model.
        units: Unit of each decision, such as its person, ``[n]``; None: every decision is a unit.
            Any numbers are stored as 0, 1, 2 and so on.
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
        """Validate the arrays and number the units."""
        n = len(self.rewards)
        for name in ("rewards", "propensities", "target", "expected", "expected_target", "units"):
            array = getattr(self, name)
            if array is None:
                continue
            if array.shape != (n,) or n < 2:
                raise EvaluationError(f"{name} has shape {array.shape}; expected [n], n above 1")
            if not np.isfinite(array).all():
                raise EvaluationError(f"{name} must be finite; some value is NaN or infinite")
        if (self.expected is None) != (self.expected_target is None):
            raise EvaluationError("a model needs both `expected` and `expected_target`")
        largest = np.inf if self.densities else 1 + 1e-9
        if not ((self.propensities > 0) & (self.propensities <= largest)).all():
            raise EvaluationError(
                "propensities must lie above 0 and at most at 1: an arm that could not be logged"
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
        """Create a log from the policy's probabilities of all arms at each decision.

        Actions are indexes of the logged arms, ``[n]``; the rows of `policy`, ``[n, arms]``, sum to
        1; `model` is the expected reward of every arm, ``[n, arms]``. Units, ``[n]``, may be of any
        sortable type.
        """
        chances = np.asarray(policy, dtype=np.float64)
        arms = np.asarray(actions)
        if chances.ndim != 2 or arms.shape != chances.shape[:1]:
            raise EvaluationError(
                f"policy has shape {chances.shape} for {arms.shape} actions; expected [n, arms]"
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
        codes = None if units is None else np.unique(np.asarray(units), return_inverse=True)[1]
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
    """Estimate of a policy's mean reward per decision."""

    value: float  # the estimate
    # Influence of each unit on the value, ``[units]``; its mean is 0. The squared standard error is
    # its variance over the number of units.
    influence: Floats

    @property
    def standard_error(self) -> float:
        """Standard error by the variance between units."""
        return float(self.influence.std(ddof=1) / np.sqrt(len(self.influence)))

    def interval(self, confidence: float = 0.95) -> Interval:
        """Compute the asymptotic interval by Student's distribution."""
        if not 0 < confidence < 1:
            raise EvaluationError(f"confidence is {confidence}: it must lie between 0 and 1")
        reach = stats.t.ppf((1 + confidence) / 2, len(self.influence) - 1) * self.standard_error
        return Interval(
            self.value - float(reach), self.value + float(reach), confidence, "asymptotic"
        )

    def minus(self, other: OffPolicyEstimate) -> OffPolicyEstimate:
        """Subtract another estimate from the same decisions; shared variation cancels."""
        if self.influence.shape != other.influence.shape:
            raise EvaluationError("a difference needs two estimates from the same decisions")
        return OffPolicyEstimate(self.value - other.value, self.influence - other.influence)


def ips(log: LoggedDecisions) -> OffPolicyEstimate:
    """Estimate by inverse propensity scoring."""
    return _mean(log, log.weights * log.rewards)


def clipped_ips(log: LoggedDecisions, limit: float) -> OffPolicyEstimate:
    """Estimate by inverse propensity scoring with weights clipped at `limit`.

    Raises:
        EvaluationError: The limit is not above 0.
    """
    return _mean(log, np.minimum(log.weights, _positive(limit, "limit")) * log.rewards)


def snips(log: LoggedDecisions) -> OffPolicyEstimate:
    """Estimate by self-normalised inverse propensity scoring.

    Raises:
        EvaluationError: The policy gives no logged arm a positive probability.
    """
    return _normalised(log, np.zeros(len(log.rewards)), log.weights, log.rewards)


def direct_method(log: LoggedDecisions) -> OffPolicyEstimate:
    """Estimate by the reward model alone.

    Raises:
        EvaluationError: There is no model.
    """
    return _mean(log, _model(log)[1])


def doubly_robust(log: LoggedDecisions, *, limit: float = np.inf) -> OffPolicyEstimate:
    """Estimate by the model plus residuals with weights clipped at `limit`.

    Raises:
        EvaluationError: There is no model, or the limit is not above 0.
    """
    q, v = _model(log)
    return _mean(log, v + np.minimum(log.weights, _positive(limit, "limit")) * (log.rewards - q))


def self_normalised_doubly_robust(log: LoggedDecisions) -> OffPolicyEstimate:
    """Estimate like `doubly_robust`, with weights divided by their mean.

    Raises:
        EvaluationError: There is no model, or the policy gives no logged arm a positive
            probability.
    """
    q, v = _model(log)
    return _normalised(log, v, log.weights, log.rewards - q)


def switch_doubly_robust(log: LoggedDecisions, limit: float) -> OffPolicyEstimate:
    """Estimate like `doubly_robust` up to weight `limit`, above it by the model alone.

    Raises:
        EvaluationError: There is no model, or the limit is not above 0.
    """
    q, v = _model(log)
    w = log.weights
    return _mean(log, v + np.where(w <= _positive(limit, "limit"), w, 0) * (log.rewards - q))


def shrunk_doubly_robust(log: LoggedDecisions, shrinkage: float) -> OffPolicyEstimate:
    """Estimate with shrinkage ``s w / (w² + s)``; small s favours the model.

    Raises:
        EvaluationError: There is no model, or the shrinkage is not above 0.
    """
    q, v = _model(log)
    w, s = log.weights, _positive(shrinkage, "shrinkage")
    shrunk = w if np.isinf(s) else s * w / (w**2 + s)
    return _mean(log, v + shrunk * (log.rewards - q))


def logged_value(log: LoggedDecisions) -> OffPolicyEstimate:
    """Estimate the mean reward of the logging policy itself."""
    return _mean(log, log.rewards)


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
        raise EvaluationError("the policy gives no logged arm a positive probability: no overlap")
    gained = float((w * gains).sum() / w.sum())
    value = float(base.mean()) + gained
    # The influence of a ratio of two means, by the delta method.
    influence = base - base.mean() + w * (gains - gained) / w.mean()
    return OffPolicyEstimate(value, _by_unit(log, influence))


def _by_unit(log: LoggedDecisions, terms: Floats) -> Floats:
    if log.units is None:
        return terms
    sums = np.bincount(log.units, weights=terms)
    if len(sums) < 2:
        raise EvaluationError("all decisions have one unit: the variation between units is unknown")
    # The mean over decisions, written as a mean over units.
    scaled: Floats = np.asarray(sums * (len(sums) / len(terms)), dtype=np.float64)
    return scaled
