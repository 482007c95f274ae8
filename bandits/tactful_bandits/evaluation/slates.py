"""Off-policy estimators for policies that choose whole lists (slates).

A list of k places has so many values that its own importance weight, the product over the places,
is useless for more than a few places. Assumptions on user behaviour reduce the weights:

| estimator | assumption |
|---|---|
| `slate_ips` | none |
| `cascade_ips`, `cascade_doubly_robust` | the reward at a place depends on it and on those above |
| `independent_ips` | the reward at a place depends on that place alone |
| `pseudo_inverse` | the reward of the list is a sum of unknown terms over its places |

Sources: Swaminathan et al., NIPS 2017, arXiv 1605.04812 (pseudo-inverse); Li, Abbasi-Yadkori,
Kveton et al., KDD 2018, arXiv 1804.10488 (independent); McInerney et al., KDD 2020, arXiv
2007.12986 (cascade); Kiyohara et al., WSDM 2022, arXiv 2202.01562 (cascade, doubly robust).

`ratios` are ``π(a_k | x, a_1..k-1) / μ(a_k | x, a_1..k-1)`` of each place given those above it,
``[n, places]``; for policies that fill the places independently, the ratio of each place alone.
Functions raise EvaluationError if shapes differ or values are impossible.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import EvaluationError
from tactful_bandits.evaluation.off_policy import OffPolicyEstimate

Floats = NDArray[np.float64]


def slate_ips(ratios: ArrayLike, rewards: ArrayLike) -> OffPolicyEstimate:
    """Estimate by weights of whole lists; `rewards` per place, ``[n, places]``."""
    w, r = _checked(ratios, rewards)
    return _mean(w.prod(axis=1) * r.sum(axis=1))


def independent_ips(ratios: ArrayLike, rewards: ArrayLike) -> OffPolicyEstimate:
    """Estimate by the weight of each place; `ratios` are of marginal probabilities."""
    w, r = _checked(ratios, rewards)
    return _mean((w * r).sum(axis=1))


def cascade_ips(ratios: ArrayLike, rewards: ArrayLike) -> OffPolicyEstimate:
    """Estimate by the product of weights down to each place."""
    w, r = _checked(ratios, rewards)
    return _mean((w.cumprod(axis=1) * r).sum(axis=1))


def cascade_doubly_robust(
    ratios: ArrayLike, rewards: ArrayLike, expected: ArrayLike, expected_target: ArrayLike
) -> OffPolicyEstimate:
    """Estimate like `cascade_ips`, corrected by a model.

    `expected` is the model's expectation for each place and all below, given the list down to the
    place; `expected_target` that before the place is filled, averaged over the policy's choices for
    it given the list above. All have the shape ``[n, places]``.
    """
    w, r = _checked(ratios, rewards)
    q, v = _checked(expected, expected_target, positive=False)
    if q.shape != w.shape:
        raise EvaluationError(f"the model has shape {q.shape}, the lists {w.shape}")
    down_to = w.cumprod(axis=1)
    above = np.column_stack([np.ones(len(w)), down_to[:, :-1]])
    # Residual of each place and all below, plus the model's expectation before the place.
    return _mean((down_to * (r - q) + above * v).sum(axis=1))


def pseudo_inverse(ratios: ArrayLike, rewards: ArrayLike) -> OffPolicyEstimate:
    """Estimate by the weight ``1 + Σ (ratio_k - 1)`` of independently filled places.

    `ratios` are of the places' marginal probabilities. Rewards are of whole lists, ``[n]``; the
    place that earned one need not be known.
    """
    w = np.asarray(ratios, dtype=np.float64)
    r = np.asarray(rewards, dtype=np.float64)
    _require(w, r, shape=w.shape[:1])
    return _mean((1 + (w - 1).sum(axis=1)) * r)


def pseudo_inverse_weights(
    slates: ArrayLike, logging: ArrayLike, target: ArrayLike, arms: int
) -> Floats:
    """Compute weights for any logging policy from all lists of one context.

    The weight of list s is ``q_π' Γ⁺ 1_s``: ``1_s`` indicates the arm at each place, ``Γ`` is the
    mean of ``1_s 1_s'`` over the logging policy, and ``q_π`` the mean of ``1_s`` over the target
    policy. `slates` are the arms of each possible list, ``[slates, places]``; the probabilities of
    the lists, ``[slates]``, sum to 1. Multiply a logged list's weight by its reward.
    """
    lists = np.asarray(slates, dtype=np.int64)
    mu, pi = np.asarray(logging, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if lists.ndim != 2 or mu.shape != lists.shape[:1] or pi.shape != mu.shape:
        raise EvaluationError("give slates [slates, places] and one probability for each slate")
    if not ((lists >= 0) & (lists < arms)).all():
        raise EvaluationError(f"slates must hold indexes of the {arms} arms")
    for chances in (mu, pi):
        if not (chances >= 0).all() or abs(chances.sum() - 1) > 1e-9:
            raise EvaluationError("probabilities of lists must be at least 0 and sum to 1")
    places = lists.shape[1]
    indicators = np.zeros((len(lists), places * arms))
    for place in range(places):
        indicators[np.arange(len(lists)), place * arms + lists[:, place]] = 1
    target_means = pi @ indicators
    if ((target_means > 0) & (mu @ indicators == 0)).any():
        raise EvaluationError("the target policy puts an arm where the logging policy never does")
    gram = indicators.T @ (mu[:, None] * indicators)
    weights: Floats = indicators @ (np.linalg.pinv(gram, hermitian=True) @ target_means)
    return weights


def _checked(
    first: ArrayLike, second: ArrayLike, *, positive: bool = True
) -> tuple[Floats, Floats]:
    w, r = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    _require(w, r, shape=w.shape, positive=positive)
    return w, r


def _require(w: Floats, r: Floats, *, shape: tuple[int, ...], positive: bool = True) -> None:
    if w.ndim != 2 or len(w) < 2 or r.shape != shape:
        raise EvaluationError(
            f"shapes {w.shape} and {r.shape} do not fit: expected [n, places], n above 1"
        )
    if not (np.isfinite(w).all() and np.isfinite(r).all()):
        raise EvaluationError("values must be finite; some are NaN or infinite")
    if positive and not (w >= 0).all():
        raise EvaluationError("ratios of probabilities must be at least 0")


def _mean(terms: Floats) -> OffPolicyEstimate:
    value = float(terms.mean())
    return OffPolicyEstimate(value, terms - value)
