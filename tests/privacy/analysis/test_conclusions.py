"""Shares, quantiles and places from released counts: intervals that hold."""

import itertools
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_privacy.analysis.conclusions import (
    TwoNoises,
    quantile_released,
    share_released,
    top_released,
)
from tactful_privacy.counting.released import ReleasedPane
from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

NOISE = DiscreteLaplace(5, 1)
SMALL = DiscreteLaplace(1, 2)


def pane(values: dict[str, int], start: int = 0, noise: DiscreteLaplace = NOISE) -> ReleasedPane:
    return ReleasedPane(
        statistic="s",
        start=start,
        end=start + 1,
        values=values,
        half_width=0,
        confidence=0.95,
        epsilon=noise.epsilon,
        delta=0.0,
        cap=noise.sensitivity,
        sensitivity=noise.sensitivity,
    )


def released(true: dict[str, int], noise: DiscreteLaplace, start: int = 0) -> ReleasedPane:
    drawn = noise.sample(len(true)).tolist()
    return pane({k: n + z for (k, n), z in zip(true.items(), drawn, strict=True)}, start)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(-6, 12),
    st.integers(-6, 12),
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]),
    st.sampled_from([(1, 1), (2, 1), (0, 1), (1, 2)]),
)
def test_tails_are_those_of_all_pairs_of_draws(
    a: int, b: int, r: float, terms: tuple[int, int]
) -> None:
    """Every pair of noise values, added up: at most rounding may be on top."""
    share = Fraction(str(r))
    masses = []
    for n in terms:
        mass = {0: Fraction(1)}
        for _ in range(n):
            summed: dict[int, Fraction] = {}
            for (x, p), k in itertools.product(mass.items(), range(-12, 13)):
                summed[x + k] = summed.get(x + k, Fraction(0)) + p * SMALL.probability(k)
            mass = summed
        masses.append(mass)
    t = (1 - share) * a - share * b
    upper = lower = Fraction(0)
    for (x, p), (y, q) in itertools.product(masses[0].items(), masses[1].items()):
        seen = (1 - share) * x - share * y
        upper += p * q * (seen >= t)
        lower += p * q * (seen <= t)
    found = TwoNoises.of(pane({"a": 0, "b": 0}, noise=SMALL), *terms).tails(a, b, r)
    assert found == pytest.approx((float(upper), float(lower)), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clicks", "others", "panes"), [(30, 970, 1), (3, 60, 1), (0, 400, 1), (90, 10, 4)]
)
def test_intervals_of_shares_cover_as_often_as_they_say(
    clicks: int, others: int, panes: int
) -> None:
    """400 releases at 95 %, seeded: fewer than 358 covered has probability 1e-5."""
    noise = DiscreteLaplace(5, 1, entropy=random.Random(2).randbytes)
    wanted = clicks / (clicks + others)
    covered = 0
    for _ in range(400):
        found = share_released(
            [released({"click": clicks, "other": others}, noise, n) for n in range(panes)],
            "click",
            "other",
        )
        assert 0 <= found.low <= found.value <= found.high <= 1
        covered += found.low <= wanted <= found.high
    assert covered >= 358


def test_interval_of_a_share_narrows_with_the_whole() -> None:
    """A share is narrow for a large whole and wide if noise exceeds the whole."""
    large = share_released([pane({"click": 150, "other": 4_850})], "click", "other")
    assert large.value == 0.03
    # 1.96 standard deviations of the delta method, 0.0027, less a little on the exact side
    assert large.high - large.low == pytest.approx(2 * 0.00286, rel=0.1)
    drowned = share_released([pane({"click": 2, "other": -9})], "click", "other")
    assert (drowned.value, drowned.low, drowned.high) == (0, 0, 1)


def test_ends_of_a_share_are_the_first_that_are_ruled_out() -> None:
    released_ = pane({"click": 150, "other": 4_850})
    share = share_released([released_], "click", "other")
    noise = TwoNoises.of(released_, 1, 1)
    for end, inwards in ((share.low, 1e-5), (share.high, -1e-5)):
        assert min(noise.tails(150, 4_850, end)) <= 0.025
        assert min(noise.tails(150, 4_850, end + inwards)) > 0.025


def test_a_share_needs_disjoint_known_keys() -> None:
    panes = [pane({"click": 150, "other": 4_850})]
    with pytest.raises(ParameterError, match="click in common"):
        share_released(panes, "click", ["click", "other"])
    with pytest.raises(ParameterError, match="keys"):
        share_released(panes, "click", "seen")
    with pytest.raises(ParameterError, match="confidence"):
        share_released(panes, "click", "other", "1")


def true_quantile(counts: list[int], p: float) -> int:
    cumulative = np.cumsum(counts)
    return int(np.searchsorted(cumulative, p * cumulative[-1] - 1e-9))


@pytest.mark.parametrize(
    ("counts", "probability", "wanted"),
    [
        ((0, 1000, 1000), "0.5", "112"),  # either may be the median: the interval has both
        ((100_000, 300_000, 300_000, 300_000), "0.05", "000"),
        ((100_000, 300_000, 300_000, 300_000), "0.5", "222"),
        ((100_000, 300_000, 300_000, 300_000), "0.99", "333"),
    ],
)
def test_quantiles_of_large_counts(counts: tuple[int, ...], probability: str, wanted: str) -> None:
    histogram = pane({str(n): count for n, count in enumerate(counts)})
    found = quantile_released([histogram], probability)
    assert (found.low, found.key, found.high) == tuple(wanted)


def test_a_quantile_of_nothing_but_noise_is_anywhere() -> None:
    panes = [pane({"a": 1, "b": -4, "c": 2, "d": 3})]
    found = quantile_released(panes, "0.5")
    assert (found.low, found.high) == ("a", "d")
    for probability in ("0", "1", "-0.1", "a lot"):
        with pytest.raises(ParameterError, match="probability"):
            quantile_released(panes, probability)


@pytest.mark.parametrize("probability", ["0.1", "0.5", "0.9"])
def test_quantile_intervals_have_their_coverage(probability: str) -> None:
    """300 releases at 95 %, seeded: fewer than 265 covered has probability 1e-5."""
    rng = random.Random(probability)
    noise = DiscreteLaplace(5, 1, entropy=rng.randbytes)
    covered = right = 0
    for _ in range(300):
        counts = [rng.randrange(120) for _ in range(12)]
        keys = [str(n) for n in range(12)]
        panes = [released(dict(zip(keys, counts, strict=True)), noise, n) for n in range(2)]
        wanted = true_quantile(counts, float(probability))
        found = quantile_released(panes, probability)
        covered += int(found.low) <= wanted <= int(found.high)
        right += int(found.key) == wanted
        assert int(found.low) <= int(found.key) <= int(found.high)
    assert covered >= 265
    assert right >= 150, "the estimate is mostly right where counts are far above the noise"


def test_places_hold_all_at_once_as_often_as_they_say() -> None:
    """200 releases at 95 %, seeded: fewer than 173 right has probability 1e-5."""
    rng = random.Random(3)
    noise = DiscreteLaplace(5, 1, entropy=rng.randbytes)
    right = 0
    for _ in range(200):
        true = {str(n): rng.randrange(400) for n in range(30)}
        found = top_released([released(true, noise)], 10)
        assert [it.value for it in found] == sorted((it.value for it in found), reverse=True)
        right += all(
            it.best <= 1 + sum(n > true[it.key] for n in true.values())
            and it.worst >= sum(n >= true[it.key] for n in true.values())
            for it in found
        )
    assert right >= 173


def test_places_are_those_of_every_pair_of_intervals() -> None:
    rng = random.Random(4)
    values = {str(n): rng.randrange(300) for n in range(40)}
    for it in top_released([pane(values)], 40):
        low, high = it.value - it.half_width, it.value + it.half_width
        assert it.best == 1 + sum(v - it.half_width > high for v in values.values())
        assert it.worst == 40 - sum(v + it.half_width < low for v in values.values())
    far_apart = [pane({"a": 10, "b": 1_000, "c": 500})]
    found = [(it.key, it.best, it.worst) for it in top_released(far_apart, 2)]
    assert found == [("b", 1, 1), ("c", 2, 2)]
    for k in (0, -1, 4):
        with pytest.raises(ParameterError, match="k is"):
            top_released(far_apart, k)
