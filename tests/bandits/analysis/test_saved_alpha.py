from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from tactful_bandits.analysis.comparison import Estimate, confidence_sequence
from tactful_bandits.analysis.saved_alpha import last_level, spent_alpha
from tactful_bandits.errors import StatisticsError


def simulated(seed: int, looks: int, paths: int) -> Iterator[tuple[Any, Any]]:
    """Whether the sequence called each of a hundred Brownian paths, and the path's last score."""
    rng = np.random.default_rng(seed)
    units = np.linspace(4_000, 60_000, looks).round()
    options: Any = {"alpha": 0.04, "tightest_at": 20_000, "alternative": "greater"}
    estimates = (Estimate(0.0, 1.0, int(n), np.inf) for n in units)
    bounds = np.array([-confidence_sequence(it, **options).low for it in estimates])
    steps = np.sqrt(np.diff(units, prepend=0.0))
    for _ in range(paths // 100):
        scores = np.cumsum(rng.standard_normal((100, looks)) * steps, axis=1) / np.sqrt(units)
        yield (scores > bounds).any(axis=1), scores[:, -1]


def test_it_is_what_paths_do() -> None:
    """Two thousand Brownian paths, looked at two thousand times; 0.01 is 3 standard errors."""
    crossed = sum(int(called.sum()) for called, _ in simulated(1, 2_000, 2_000))
    spent = spent_alpha(alpha=0.04, tightest_at=20_000, first=4_000, last=60_000)
    assert spent == pytest.approx(crossed / 2_000, abs=0.01)
    assert spent == pytest.approx(0.0226, abs=0.0005)


@settings(max_examples=25)
@given(st.floats(0.001, 0.2), st.floats(10, 1e6), st.floats(0, 6), st.floats(0, 6))
def test_it_grows_with_the_looks_and_never_beyond_alpha(
    alpha: float, first: float, some: float, more: float
) -> None:
    def spent(last: float) -> float:
        return spent_alpha(alpha=alpha, tightest_at=20_000, first=first, last=last)

    shorter, longer = spent(first * np.exp(some)), spent(first * np.exp(some + more))
    assert 0 <= shorter <= longer + 0.02 * alpha
    assert longer <= alpha


@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 1), (1, float("inf"))])
def test_looks_that_cannot_be_are_refused(first: float, last: float) -> None:
    with pytest.raises(StatisticsError, match="must be above 0 and rise"):
        spent_alpha(alpha=0.05, tightest_at=100, first=first, last=last)


@pytest.mark.parametrize("first", [0.02, 2, 20])
def test_nothing_is_spent_so_early_that_no_path_comes_near(first: float) -> None:
    """At 80 of 20,000 units the bound lies 14 standard deviations away."""
    spent = spent_alpha(alpha=0.04, tightest_at=20_000, first=first, last=60_000)
    later = spent_alpha(alpha=0.04, tightest_at=20_000, first=80, last=60_000)
    assert spent == pytest.approx(later, rel=0.03)
    for_ever = spent_alpha(alpha=0.04, tightest_at=10_000, first=10, last=1e9)
    assert for_ever == pytest.approx(0.04, rel=0.05), "all of it is spent"


def test_the_last_test_and_the_sequence_spend_it_all_together() -> None:
    """Of simulated paths without any effect: 0.006 is 3 standard errors."""
    alpha, kept = 0.04, 0.0075
    level = last_level(alpha=alpha, kept=kept, tightest_at=20_000, first=4_000, last=60_000)
    found = sum(
        int((called | (special.ndtr(-last) < level)).sum())
        for called, last in simulated(2, 500, 12_000)
    )
    assert found / 12_000 == pytest.approx(alpha + kept, abs=0.006)
    saved = alpha - spent_alpha(alpha=alpha, tightest_at=20_000, first=4_000, last=60_000)
    assert level > 1.2 * (kept + saved), "what both find counts once"
    single = last_level(alpha=0.04, kept=0.01, tightest_at=20_000, first=20_000, last=20_000)
    assert single == pytest.approx(0.05, rel=1e-6), "a single look tests at all there is"
    with pytest.raises(StatisticsError, match="kept must lie"):
        last_level(alpha=0.04, kept=0.6, tightest_at=20_000, first=10, last=20)


@settings(max_examples=25)
@given(st.floats(0.001, 0.2), st.floats(0, 0.05), st.floats(10, 1e6), st.floats(0, 6))
def test_the_last_level_lies_between_what_is_left_and_all(
    alpha: float, kept: float, first: float, some: float
) -> None:
    last = first * np.exp(some)
    level = last_level(alpha=alpha, kept=kept, tightest_at=20_000, first=first, last=last)
    spent = spent_alpha(alpha=alpha, tightest_at=20_000, first=first, last=last)
    assert alpha + kept - spent <= level * 1.001 + 1e-9
    assert level <= alpha + kept + 0.02 * alpha
