"""Estimates for whole lists against expectations that are summed exactly."""

import itertools
from typing import Any

import numpy as np
import pytest

from tactful_bandits.errors import EvaluationError
from tactful_bandits.evaluation.slates import (
    cascade_doubly_robust,
    cascade_ips,
    independent_ips,
    pseudo_inverse,
    pseudo_inverse_weights,
    slate_ips,
)

ARMS, PLACES = 3, 2
_RNG = np.random.default_rng(3)


def _plackett_luce(scores: np.ndarray, slate: tuple[int, ...]) -> float:
    """Probability of a list without repetition, drawn from the top."""
    left, chance = list(range(ARMS)), 1.0
    for arm in slate:
        chance *= np.exp(scores[arm]) / np.exp(scores[left]).sum()
        left.remove(arm)
    return float(chance)


def _steps(scores: np.ndarray, slate: tuple[int, ...]) -> list[float]:
    chances = [_plackett_luce(scores, slate[:k]) for k in range(PLACES + 1)]
    return [after / before for before, after in itertools.pairwise(chances)]


def _exact(terms: list[float], chances: list[float]) -> float:
    return float(np.dot(terms, chances))


def _terms(estimate: Any) -> np.ndarray:
    found: np.ndarray = estimate.value + estimate.influence
    return found


MU, PI = _RNG.normal(size=ARMS), _RNG.normal(size=ARMS)
SLATES = list(itertools.permutations(range(ARMS), PLACES))
MU_CHANCES = [_plackett_luce(MU, slate) for slate in SLATES]
PI_CHANCES = [_plackett_luce(PI, slate) for slate in SLATES]
RATIOS = [
    [p / m for p, m in zip(_steps(PI, slate), _steps(MU, slate), strict=True)] for slate in SLATES
]


def test_any_reward_by_the_weight_of_the_whole_list() -> None:
    rewards = _RNG.random((len(SLATES), PLACES))
    truth = _exact(list(rewards.sum(axis=1)), PI_CHANCES)
    assert _exact(list(_terms(slate_ips(RATIOS, rewards))), MU_CHANCES) == pytest.approx(truth)
    wrong = _exact(list(_terms(cascade_ips(RATIOS, rewards))), MU_CHANCES)
    assert wrong != pytest.approx(truth, abs=1e-3), "the reward on top depends on what is below"


def _below(values: np.ndarray) -> list[float]:
    """For each arm on top the mean value, over the policy, of what is below it."""

    def chance(a: int, b: int) -> float:
        return _plackett_luce(PI, (a, b)) / _plackett_luce(PI, (a,))

    arms = range(ARMS)
    return [sum(chance(a, b) * float(values[a, b]) for b in arms if b != a) for a in arms]


def _cascade_rewards() -> np.ndarray:
    first = _RNG.random(ARMS)
    second = _RNG.random((ARMS, ARMS))
    return np.array([[first[a], second[a, b]] for a, b in SLATES])


def test_cascade_estimates_are_exact_for_cascades() -> None:
    rewards = _cascade_rewards()
    truth = _exact(list(rewards.sum(axis=1)), PI_CHANCES)
    assert _exact(list(_terms(cascade_ips(RATIOS, rewards))), MU_CHANCES) == pytest.approx(truth)
    # Any model whatever: q of (a), q of (a, b), and their averages over the policy.
    top, below = _RNG.random(ARMS), _RNG.random((ARMS, ARMS))
    q = np.array([[top[a], below[a, b]] for a, b in SLATES])
    v_top = sum(_plackett_luce(PI, (a,)) * top[a] for a in range(ARMS))
    v = np.array([[v_top, _below(below)[a]] for a, _ in SLATES])
    terms = _terms(cascade_doubly_robust(RATIOS, rewards, q, v))
    assert _exact(list(terms), MU_CHANCES) == pytest.approx(truth)


def test_a_right_model_leaves_no_variance_below_the_top() -> None:
    rewards = _cascade_rewards()
    below = _below(np.array([[dict(zip(SLATES, rewards[:, 1], strict=True)).get((a, b), 0.0)
                              for b in range(ARMS)] for a in range(ARMS)]))  # fmt: skip
    q = np.array([[r[0] + below[a], r[1]] for (a, _), r in zip(SLATES, rewards, strict=True)])
    top = dict(zip([slate[0] for slate in SLATES], q[:, 0], strict=True))
    v_top = sum(_plackett_luce(PI, (a,)) * top[a] for a in range(ARMS))
    v = np.array([[v_top, below[a]] for a, _ in SLATES])
    terms = _terms(cascade_doubly_robust(RATIOS, rewards, q, v))
    np.testing.assert_allclose(terms, v_top)


def test_sums_over_places_by_the_pseudo_inverse() -> None:
    parts = _RNG.random((PLACES, ARMS))
    rewards = np.array([sum(parts[k, arm] for k, arm in enumerate(slate)) for slate in SLATES])
    truth = _exact(list(rewards), PI_CHANCES)
    weights = pseudo_inverse_weights(SLATES, MU_CHANCES, PI_CHANCES, ARMS)
    assert _exact(list(weights * rewards), MU_CHANCES) == pytest.approx(truth)
    assert _exact(list(weights), MU_CHANCES) == pytest.approx(1)


def test_places_filled_independently_need_no_matrix() -> None:
    mu, pi = (_RNG.dirichlet(np.ones(ARMS), PLACES) for _ in range(2))
    slates = list(itertools.product(range(ARMS), repeat=PLACES))
    chances = [
        [float(np.prod([p[k, arm] for k, arm in enumerate(s)])) for s in slates] for p in (mu, pi)
    ]
    ratios = np.array([[pi[k, arm] / mu[k, arm] for k, arm in enumerate(s)] for s in slates])
    rewards = _RNG.random(len(slates))
    np.testing.assert_allclose(
        _terms(pseudo_inverse(ratios, rewards)),
        pseudo_inverse_weights(slates, chances[0], chances[1], ARMS) * rewards,
        atol=1e-9,
    )
    parts = _RNG.random((PLACES, ARMS))
    by_place = np.array([[parts[k, arm] for k, arm in enumerate(s)] for s in slates])
    truth = float((pi * parts).sum())
    assert _exact(list(_terms(independent_ips(ratios, by_place))), chances[0]) == pytest.approx(
        truth
    )


def test_what_does_not_fit_is_refused() -> None:
    ratios, rewards = np.ones((4, 2)), np.ones((4, 2))
    for call in (
        lambda: slate_ips(ratios, rewards[:, :1]),
        lambda: slate_ips(ratios[:1], rewards[:1]),
        lambda: cascade_ips(-ratios, rewards),
        lambda: independent_ips(ratios * np.nan, rewards),
        lambda: pseudo_inverse(ratios, rewards),
        lambda: cascade_doubly_robust(ratios, rewards, rewards, rewards[:, :1]),
        lambda: cascade_doubly_robust(ratios, rewards, np.ones((3, 2)), np.ones((3, 2))),
        lambda: pseudo_inverse_weights([[0, 1]], [0.5], [1.0], 2),
        lambda: pseudo_inverse_weights([[0, 2]], [1.0], [1.0], 2),
        lambda: pseudo_inverse_weights([[0, 1], [1, 0]], [1.0, 0.0], [0.5, 0.5], 2),
    ):
        with pytest.raises(EvaluationError):
            call()
