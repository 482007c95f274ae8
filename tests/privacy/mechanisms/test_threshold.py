"""Keys that nobody listed: shown only where noise hides whether one person brought them."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms.laplace import DiscreteLaplace
from tactful_privacy.mechanisms.threshold import ThresholdRelease


def spreads(total: int, largest: int) -> Iterator[tuple[int, ...]]:
    """Every way to write a number as a sum of parts of at most `largest`."""
    if total == 0:
        yield ()
    for part in range(1, min(total, largest) + 1):
        for rest in spreads(total - part, part):
            yield (part, *rest)


def tail(noise: DiscreteLaplace, least: int) -> Fraction:
    return sum((noise.probability(k) for k in range(least, noise._table.highest + 1)), Fraction(0))


def shown(noise: DiscreteLaplace, spread: tuple[int, ...], threshold: int) -> Fraction:
    """Expected number of keys of one person alone that are shown."""
    return sum((tail(noise, threshold - part) for part in spread), Fraction(0))


@pytest.mark.parametrize(("cap", "cell_cap"), [(1, 1), (5, 1), (5, 2), (7, 3), (6, 6)])
@pytest.mark.parametrize("epsilon", ["1", "3"])
def test_threshold_is_the_smallest_for_the_worst_spread(
    cap: int, cell_cap: int, epsilon: str
) -> None:
    allowed = Fraction(1, 10**4)
    release = ThresholdRelease(cap, epsilon, allowed, cell_cap=cell_cap)
    noise = DiscreteLaplace(cap, epsilon)

    def worst(threshold: int) -> Fraction:
        own = max(shown(noise, s, threshold) for s in spreads(cap, cell_cap))
        return own + noise.delta(epsilon)

    assert worst(release.threshold) == release.delta <= allowed < worst(release.threshold - 1)


def test_beyond_all_noise_nothing_is_shown() -> None:
    """A threshold that no draw reaches adds nothing to the delta of the noise."""
    noise = DiscreteLaplace(1, "1")
    least = Fraction(1, 2 * noise._table.total)
    release = ThresholdRelease(1, "1", noise.delta("1") + least)
    assert release.threshold == 1 + noise._table.highest + 1
    assert release.delta == noise.delta("1")


@pytest.mark.parametrize(
    ("keys", "epsilon", "threshold"), [(1, "1", 14.1), (1, "1/2", 27.2), (5, "1", 74.7)]
)
def test_the_threshold_is_the_published_one(keys: int, epsilon: str, threshold: float) -> None:
    """By the formula for real-valued noise; whole numbers lie up to two above."""
    found = ThresholdRelease(keys, epsilon, "1e-6", cell_cap=1).threshold
    assert threshold <= found <= threshold + 2


def test_a_key_of_one_person_is_shown_as_rarely_as_computed() -> None:
    release = ThresholdRelease(2, 2, "1/50", entropy=np.random.default_rng(6).bytes)
    lonely = {f"word {n}": 2 for n in range(40_000)}
    seen = len(release.release(lonely))
    expected = tail(DiscreteLaplace(2, 2), release.threshold - 2)
    assert stats.binomtest(seen, len(lonely), float(expected)).pvalue > 1e-3


def test_frequent_keys_are_shown_in_the_order_of_their_text() -> None:
    release = ThresholdRelease(5, 1, "1e-6", cell_cap=1, entropy=np.random.default_rng(1).bytes)
    counts = {"tea": 4_000, "milk": 3_000, "a secret": 1, "bread": 2_000}
    noisy = release.release(counts)
    assert list(noisy) == ["bread", "milk", "tea"]
    assert all(abs(noisy[key] - counts[key]) < 220 for key in noisy)
    assert release.release({}) == {}


def test_parameters_out_of_range_are_refused() -> None:
    good: dict[str, Any] = {"sensitivity": 5, "epsilon": 1, "delta": "1e-6", "cell_cap": None}
    for name, wrong, said in (
        ("sensitivity", [0], "sensitivity"),
        ("epsilon", [0], "epsilon"),
        ("delta", ["0", "1", 1e-6], "delta"),
        ("delta", ["1e-30"], "allow a larger delta"),
        ("cell_cap", [6, 0, True], "cell_cap"),
    ):
        for value in wrong:
            cap, epsilon, delta, cell_cap = (good | {name: value}).values()
            with pytest.raises(ParameterError, match=said):
                ThresholdRelease(cap, epsilon, delta, cell_cap=cell_cap)


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["1/2", "1", "4"]))
@settings(max_examples=40, deadline=None)
def test_delta_is_kept(cap: int, cell_cap: int, epsilon: str) -> None:
    release = ThresholdRelease(cap, epsilon, "1e-9", cell_cap=min(cap, cell_cap))
    assert 0 < release.delta <= Fraction(1, 10**9)
