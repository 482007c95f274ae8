"""Noise put together from two tables: its exact privacy, its distribution, its limits."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import exp_bounds
from tactful_privacy.mechanisms.laplace import DiscreteLaplace, WideLaplace

SMALL = [(1, "1"), (5, "1"), (3, "1/20"), (40, "2")]
LARGE = [(1, "1/100000"), (5_000, "1/24"), (10**6, "1/3")]


def side(noise: WideLaplace) -> list[int]:
    """The weights of 0, 1, 2, ... up to the end."""
    highest = (noise._coarse.highest + 1) * noise._block - 1
    return [noise._weight(k) for k in range(highest + 1)]


@pytest.mark.parametrize(("sensitivity", "epsilon"), SMALL)
def test_neighbouring_weights_across_blocks_keep_epsilon(sensitivity: int, epsilon: str) -> None:
    """Neighbouring weights, also across blocks, differ by at most a unit of epsilon."""
    noise = WideLaplace(sensitivity, epsilon)
    weights = side(noise)
    one_unit = exp_bounds(Fraction(epsilon) / sensitivity, 192)[0]
    assert len(weights) > 3 * noise._block
    for before, after in pairwise(weights):
        assert after <= before and before << 192 <= after * one_unit


@pytest.mark.parametrize(("sensitivity", "epsilon"), SMALL)
def test_delta_is_the_largest_excess_of_any_set_of_outputs(sensitivity: int, epsilon: str) -> None:
    noise = WideLaplace(sensitivity, epsilon)
    right = side(noise)
    weights = [*right[:0:-1], *right]
    factor = Fraction(exp_bounds(Fraction(epsilon), 192)[0], 2**192)
    moved = [0] * sensitivity + weights[:-sensitivity]
    excess = sum(max(Fraction(0), w - factor * m) for w, m in zip(weights, moved, strict=True))
    assert sum(weights) == noise._total
    assert noise.delta(epsilon) == Fraction(excess) / noise._total


def test_spread_changes_are_covered_like_single_cells() -> None:
    """A change spread over cells leaves no more uncovered than one in a single cell."""
    noise = WideLaplace(40, "2")
    tail = [Fraction(0)]
    for weight in side(noise)[::-1][:40]:
        tail.append(tail[-1] + weight)
    assert all(tail[a] + tail[40 - a] <= tail[40] for a in range(41))
    assert tail[40] / noise._total == noise.delta(2)


@pytest.mark.parametrize(("sensitivity", "epsilon"), [*SMALL, *LARGE])
def test_delta_is_negligible(sensitivity: int, epsilon: str) -> None:
    assert WideLaplace(sensitivity, epsilon).delta(epsilon) < Fraction(1, 10**11)


def test_planted_blocks_with_rounding_errors_are_caught() -> None:
    """The plain recipe, H with ratio e^(-m/scale), steps down by a little too much."""
    noise = WideLaplace(3, "1/20")
    one_unit = exp_bounds(Fraction(1, 60), 192)[0]
    last, first = noise._fine.weight(noise._block - 1), noise._fine.weight(0)
    plain = 2**250 // exp_bounds(Fraction(noise._block, 60), 192)[0]  # 2^58 e^(-m/scale)
    assert 2**58 * last << 192 > plain * first * one_unit


@pytest.mark.parametrize(("sensitivity", "epsilon"), SMALL)
def test_it_is_the_distribution_of_the_single_table(sensitivity: int, epsilon: str) -> None:
    wide, narrow = WideLaplace(sensitivity, epsilon), DiscreteLaplace(sensitivity, epsilon)
    reach = narrow._table.highest
    apart = sum(abs(wide.probability(k) - narrow.probability(k)) for k in range(-reach, reach + 1))
    assert apart < Fraction(1, 10**12)
    assert math.isclose(wide.variance, narrow.variance, rel_tol=1e-10)
    assert wide.interval("0.5") == narrow.interval("0.5")
    assert wide.interval("0.999") == narrow.interval("0.999")


@given(st.fractions(Fraction(1, 1000), Fraction(999, 1000), max_denominator=1000))
@settings(max_examples=50, deadline=None)
def test_interval_is_the_smallest_that_holds_the_confidence(confidence: Fraction) -> None:
    noise = WideLaplace(5, "1")
    h = noise.interval(confidence)

    def inside(limit: int) -> Fraction:
        return sum((noise.probability(k) for k in range(-limit, limit + 1)), Fraction(0))

    assert inside(h) >= confidence > (inside(h - 1) if h else 0)


@pytest.mark.parametrize(("sensitivity", "epsilon"), [(5, "1"), (1, "1/100000")])
def test_draws_agree_with_theory(sensitivity: int, epsilon: str) -> None:
    noise = WideLaplace(sensitivity, epsilon, entropy=np.random.default_rng(23).bytes)
    draws = noise.sample(300_000)
    ideal = stats.dlaplace(1 / float(noise.scale))
    edges = np.unique(ideal.ppf(np.linspace(0.01, 0.99, 50)))
    observed = np.bincount(np.searchsorted(edges, draws), minlength=len(edges) + 1)
    expected = np.diff(ideal.cdf(edges), prepend=0, append=1) * len(draws)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_minus_zero_is_drawn_again() -> None:
    parts: Iterator[bytes] = iter(
        # coarse and fine prefixes that mean 0, the sign; then the same with the other sign
        [b"\0\0", b"\0\0", b"\xff", b"\0\0", b"\0\0", b"\0"]
    )
    assert WideLaplace(5, "1", entropy=lambda n: next(parts)).sample(1).tolist() == [0]
    assert not list(parts)


@pytest.mark.parametrize(
    ("sensitivity", "epsilon", "what"),
    [(1, "2", "below 1"), (1, "1/2000000000", "above 1000000000"), (0, "1", "sensitivity")],
)
def test_what_it_cannot_hold_is_refused(sensitivity: int, epsilon: str, what: str) -> None:
    with pytest.raises(ParameterError, match=what):
        WideLaplace(sensitivity, epsilon)


def test_a_stronger_promise_than_it_was_made_for_is_refused() -> None:
    with pytest.raises(ParameterError, match="give 1, the epsilon of this noise"):
        WideLaplace(5, 1).delta("0.9")
    with pytest.raises(ParameterError, match="0 or more"):
        WideLaplace(5, 1).sample(-1)
