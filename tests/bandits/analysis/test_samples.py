import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tactful_bandits.analysis.comparison import difference, fixed_horizon_interval
from tactful_bandits.analysis.samples import Proportion, Quantile, retention
from tactful_bandits.errors import StatisticsError


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_intervals_of_independent_values_cover(level: float) -> None:
    rng = np.random.default_rng(1)
    truth = float(stats.lognorm(0.5).ppf(level)) * 0.1
    covered = 0
    for _ in range(1000):
        slow = Quantile.from_units(rng.lognormal(0, 0.5, 2000), level)
        slower = Quantile.from_units(rng.lognormal(0, 0.5, 1000) * 1.1, level)
        covered += truth in fixed_horizon_interval(difference(slow, slower))
    assert 0.93 <= covered / 1000 <= 0.97


def requests(rng: np.random.Generator, users: int) -> tuple[np.ndarray, np.ndarray]:
    """Latencies of users whose own networks differ, many requests each."""
    owner = np.repeat(np.arange(users), 1 + rng.poisson(9, users))
    return rng.lognormal(rng.normal(4, 0.6, users)[owner], 0.3), owner


@pytest.mark.slow
def test_requests_of_one_user_are_not_independent() -> None:
    rng = np.random.default_rng(2)
    truth = math.exp(stats.norm(4, math.hypot(0.6, 0.3)).ppf(0.9))
    covered, naive = 0, 0
    for _ in range(500):
        values, owner = requests(rng, 400)
        by_user = Quantile.from_events(values, owner, 0.9)
        by_request = Quantile.from_units(values, 0.9)
        assert by_user.value == by_request.value
        assert by_user.units == 400
        covered += abs(by_user.value - truth) < 1.96 * by_user.standard_error
        naive += abs(by_request.value - truth) < 1.96 * by_request.standard_error
    assert 0.92 <= covered / 500 <= 0.975
    assert naive / 500 < 0.8


def test_what_has_no_quantile_is_refused() -> None:
    refused: list[tuple[str, Callable[[], object]]] = [
        (r"too few for the quantile at 0\.99", lambda: Quantile.from_units(np.arange(20.0), 0.99)),
        ("finite values", lambda: Quantile.from_units([1.0, math.nan], 0.5)),
        ("finite values", lambda: Quantile.from_units([1.0, 2.0], 1)),
        ("one value per unit", lambda: Quantile.from_events([1.0, 2.0], [0], 0.5)),
        ("at least 2 units", lambda: Quantile(1, 0.5, 1, 1)),
        ("finite", lambda: Quantile(5, 0.5, math.inf, 1)),
    ]
    for message, call in refused:
        with pytest.raises(StatisticsError, match=message):
            call()


joins = st.lists(st.integers(0, 20), min_size=2, max_size=12)


@given(joins, st.data(), st.integers(0, 6), st.integers(1, 5))
def test_counts_as_by_hand(joined: list[int], data: st.DataObject, start: int, wide: int) -> None:
    visits = data.draw(
        st.lists(st.tuples(st.integers(0, len(joined) - 1), st.integers(0, 30)), max_size=40)
    )
    now, end = 25, start + wide
    counted = [unit for unit, first in enumerate(joined) if first + end <= now]
    came = [
        any(who == unit and start <= when - joined[unit] < end for who, when in visits)
        for unit in counted
    ]
    ask = {"span": (start, end), "now": now}
    who, when = [v[0] for v in visits], [v[1] for v in visits]
    if len(counted) < 2:
        with pytest.raises(StatisticsError, match="at least 2 units"):
            retention(joined, who, when, **ask)  # type: ignore[arg-type]
    else:
        assert retention(joined, who, when, **ask) == Proportion(len(counted), sum(came))  # type: ignore[arg-type]


def test_the_young_do_not_count_as_lost() -> None:
    joined = [0, 0, 9, 9]
    assert retention(joined, [0], [7.5], span=(7, 8), now=10) == Proportion(2, 1)
    for day, expected in ((1, Proportion(4, 1)), (7, Proportion(2, 1))):
        visits = [0, 2, 3], [7.5, 10, 11]
        assert retention(joined, *visits, span=(day, day + 1), now=11) == expected


def test_what_cannot_be_counted_is_refused() -> None:
    for span in ((3, 3), (-1, 2)):
        with pytest.raises(StatisticsError, match="span must start"):
            retention([0, 0], [], [], span=span, now=9)
    with pytest.raises(StatisticsError, match="from 0 to 1"):
        retention([0, 0], [2], [1], span=(0, 1), now=9)
