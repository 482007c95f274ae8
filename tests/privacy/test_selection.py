"""Choosing the best option: the exact probabilities, and what they cost between neighbours."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tactful_privacy import (
    Choice,
    DiscreteLaplace,
    ParameterError,
    exponential_mechanism,
    permute_and_flip,
    report_noisy_max,
)
from tactful_privacy._exact_random import bernoulli_exp, uniform_below

CHOOSING: list[Callable[..., Choice]] = [report_noisy_max, permute_and_flip, exponential_mechanism]


def by_noisy_max(scores: tuple[int, ...], noise: DiscreteLaplace) -> list[float]:
    """P(each option wins) by summing over its own noise; ties go to the first."""
    p = noise._table.weights.astype(float) / float(noise._table.total)
    below = np.concatenate([[0.0], np.cumsum(p)])  # P(Z < lowest + i)
    chances = []
    for i, own in enumerate(scores):
        lost = np.ones(len(p))
        for j, other in enumerate(scores):
            if j != i:
                # Option j loses if its noise is below, or at most, own + z - other.
                index = np.arange(len(p)) + own - other + (j > i)
                lost *= below[np.clip(index, 0, len(p))]
        chances.append(float(p @ lost))
    return chances


def by_permute_and_flip(scores: tuple[int, ...], scale: float) -> list[float]:
    """Over every order of the options."""
    accepted = [math.exp((score - max(scores)) / scale) for score in scores]
    chances = [0.0] * len(scores)
    orders = list(itertools.permutations(range(len(scores))))
    for order in orders:
        reached = 1.0
        for i in order:
            chances[i] += reached * accepted[i] / len(orders)
            reached *= 1 - accepted[i]
    return chances


def by_exponential_mechanism(scores: tuple[int, ...], scale: float) -> list[float]:
    weights = [math.exp((score - max(scores)) / scale) for score in scores]
    return [w / sum(weights) for w in weights]


def worst_loss(chances: Callable[[tuple[int, ...]], list[float]], monotone: bool) -> float:
    """Largest ln of a ratio of probabilities between neighbours; one person moves scores by 1."""
    worst = 0.0
    moves = [(0, 1)] * 3 if monotone else [(-1, 0, 1)] * 3
    for scores in itertools.product(range(3), repeat=3):
        before = chances(scores)
        for move in itertools.product(*moves):
            after = chances(tuple(s + m for s, m in zip(scores, move, strict=True)))
            worst = max(worst, *(abs(math.log(a / b)) for a, b in zip(before, after, strict=True)))
    return worst


@pytest.mark.parametrize("monotone", [False, True])
def test_no_pair_of_neighbours_differs_by_more_than_epsilon(monotone: bool) -> None:
    moved = 1 if monotone else 2
    noise = DiscreteLaplace(moved, 1)
    for loss in (
        worst_loss(lambda s: by_noisy_max(s, noise), monotone),
        worst_loss(lambda s: by_permute_and_flip(s, moved), monotone),
        worst_loss(lambda s: by_exponential_mechanism(s, moved), monotone),
    ):
        assert 0.5 < loss <= 1 + 1e-9


def test_planted_half_noise_for_scores_that_are_not_monotone_is_caught() -> None:
    noise = DiscreteLaplace(1, 1)
    assert worst_loss(lambda s: by_noisy_max(s, noise), monotone=False) > 1.3
    assert worst_loss(lambda s: by_exponential_mechanism(s, 1), monotone=False) > 1.3


@pytest.mark.parametrize("monotone", [False, True])
def test_choices_are_as_frequent_as_computed(monotone: bool) -> None:
    scores, entropy = (3, 5, 5, 1), np.random.default_rng(8).bytes
    moved = 1 if monotone else 2
    for choose, n, expected in (
        (report_noisy_max, 200, by_noisy_max(scores, DiscreteLaplace(moved, 1))),
        (permute_and_flip, 2_000, by_permute_and_flip(scores, moved)),
        (exponential_mechanism, 2_000, by_exponential_mechanism(scores, moved)),
    ):
        picked = [choose(scores, 1, 1, monotone=monotone, entropy=entropy).index for _ in range(n)]
        observed = np.bincount(picked, minlength=4)
        assert stats.chisquare(observed, np.array(expected) * n).pvalue > 1e-3


def test_permute_and_flip_is_no_worse_than_the_exponential_mechanism() -> None:
    for scores in itertools.product(range(5), repeat=3):
        flipped, weighed = by_permute_and_flip(scores, 2), by_exponential_mechanism(scores, 2)
        assert np.dot(flipped, scores) >= np.dot(weighed, scores) - 1e-12


def test_a_choice_says_what_it_cost() -> None:
    noisy = report_noisy_max([1, 2], 3, "1/2")
    assert noisy.epsilon == Fraction(1, 2)
    assert noisy.delta == DiscreteLaplace(6, "1/2").delta("1/2") > 0
    for choose in (permute_and_flip, exponential_mechanism):
        assert choose([1, 2], 3, "1/2", monotone=True).epsilon == Fraction(1, 2)
        assert choose([1, 2], 3, "1/2").delta == 0


def test_noise_of_any_scale_is_found() -> None:
    assert report_noisy_max([0, 10**9], 100, "1/10000").index == 1


@pytest.mark.parametrize("choose", CHOOSING)
@pytest.mark.parametrize(
    ("scores", "sensitivity", "epsilon", "what"),
    [
        ([], 1, 1, "nothing to choose"),
        ([1.5], 1, 1, "score 0"),
        ([1, True], 1, 1, "score 1"),
        ([1], 0, 1, "sensitivity"),
        ([1], 1, 0, "epsilon"),
        ([1], 1, 0.5, "epsilon"),
        ([1], 1, "nan", "epsilon"),
    ],
)
def test_what_cannot_be_private_is_refused(
    choose: Callable[..., Choice], scores: list[int], sensitivity: int, epsilon: int, what: str
) -> None:
    with pytest.raises(ParameterError, match=what):
        choose(scores, sensitivity, epsilon)


# -- exact coins ----------------------------------------------------------------------------------


@given(st.integers(1, 2**70), st.binary(min_size=64, max_size=64))
def test_uniform_lies_below_its_limit(limit: int, head: bytes) -> None:
    source = iter(head)
    filling = np.random.default_rng(0)
    entropy = lambda n: bytes(next(source, filling.integers(256)) for _ in range(n))  # noqa: E731
    assert 0 <= uniform_below(limit, entropy) < limit


def test_uniform_is_uniform() -> None:
    entropy = np.random.default_rng(1).bytes
    for limit in (1, 3, 6, 257):
        draws = np.bincount([uniform_below(limit, entropy) for _ in range(6_000)], minlength=limit)
        assert limit == 1 or stats.chisquare(draws).pvalue > 1e-3


@pytest.mark.parametrize("x", ["0", "1/3", "1", "5/4", "7/2"])
def test_coins_fall_with_the_exponential_probability(x: str) -> None:
    entropy, n = np.random.default_rng(2).bytes, 6_000
    heads = sum(bernoulli_exp(Fraction(x), entropy) for _ in range(n))
    assert stats.binomtest(heads, n, math.exp(-Fraction(x))).pvalue > 1e-3
