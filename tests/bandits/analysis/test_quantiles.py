import math

import numpy as np
import pytest
from scipy import stats

from tactful_bandits.analysis.comparison import difference, fixed_horizon_interval
from tactful_bandits.analysis.quantiles import Quantile
from tactful_bandits.errors import StatisticsError


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
    with pytest.raises(StatisticsError, match=r"too few for the quantile at 0\.99"):
        Quantile.from_units(np.arange(20.0), 0.99)
    with pytest.raises(StatisticsError, match="finite values"):
        Quantile.from_units([1.0, math.nan], 0.5)
    with pytest.raises(StatisticsError, match="finite values"):
        Quantile.from_units([1.0, 2.0], 1)
    with pytest.raises(StatisticsError, match="one value per unit"):
        Quantile.from_events([1.0, 2.0], [0], 0.5)
    with pytest.raises(StatisticsError, match="at least 2 units"):
        Quantile(1, 0.5, 1, 1)
    with pytest.raises(StatisticsError, match="finite"):
        Quantile(5, 0.5, math.inf, 1)
