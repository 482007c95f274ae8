"""Release the effect against the permanent holdout with noise, week by week.

A user has one arm, and stands in one cell of each of two histograms of a week: clicked by shown
recommendations, and orders. Each cell gets discrete Laplace noise of scale ``2 / ε``, so a week is
ε-differentially private for adding or removing a user. Larger values are set to the last cell. All
sums that a comparison needs follow from the cells, and so do the variances of their noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.experiments.definitions import CHANGE, CONTROL
from tactful.experiments.worth_tally import UserWorth
from tactful_bandits.analysis.noisy_samples import (
    RatioSums,
    ReleasedProportion,
    ReleasedRatio,
    units_behind_noise,
)
from tactful_bandits.analysis.samples import Sample
from tactful_bandits.errors import StatisticsError
from tactful_privacy.mechanisms.backends import Noise
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

Floats = NDArray[np.float64]

MOST_SHOWN, MOST_CLICKED, MOST_ORDERS = 8, 5, 4
"""Largest values of a user in a week that count."""


class ReleasedWeek(msgspec.Struct, kw_only=True, frozen=True):
    """Noisy histograms of one week."""

    since: int  # begin of the week, epoch milliseconds
    epsilon: float  # privacy loss of a user
    clicks: dict[str, list[list[int]]]  # by arm, users by clicked and shown recommendations
    orders: dict[str, list[int]]  # by arm, users by orders


def noise_of_week(epsilon: float) -> DiscreteLaplace:
    """Return the noise of one cell."""
    return DiscreteLaplace(2, str(epsilon))


def release_week(
    users: Mapping[str, Sequence[UserWorth]], since: int, epsilon: float, noise: Noise
) -> ReleasedWeek:
    """Draw the release of a week; to be called once for each week."""
    clicks, orders = {}, {}
    for arm in (CONTROL, CHANGE):
        table = np.zeros((MOST_CLICKED + 1, MOST_SHOWN), np.int64)
        counts = np.zeros(MOST_ORDERS + 1, np.int64)
        for user in users.get(arm, ()):
            if user.shown:
                table[min(user.clicked, MOST_CLICKED), min(user.shown, MOST_SHOWN) - 1] += 1
            counts[min(user.orders, MOST_ORDERS)] += 1
        clicks[arm] = (table + noise.sample(table.size).reshape(table.shape)).tolist()
        orders[arm] = (counts + noise.sample(counts.size)).tolist()
    return ReleasedWeek(since=since, epsilon=epsilon, clicks=clicks, orders=orders)


def released_samples(week: ReleasedWeek) -> dict[str, dict[str, Sample]]:
    """Return the released outcomes by arm and metric; what noise outweighs is left out."""
    variance = float(noise_of_week(week.epsilon).variance)
    found: dict[str, dict[str, Sample]] = {}
    for arm in (CONTROL, CHANGE):
        clicks = np.array(week.clicks[arm], np.float64)
        clicked, shown = np.indices(clicks.shape, dtype=np.float64)
        orders = np.array(week.orders[arm], np.float64)
        samples: dict[str, Sample] = {}
        values: dict[str, tuple[Floats, Floats, Floats]] = {
            "ctr": (clicks, np.asarray(clicked), np.asarray(shown) + 1),
            "orders": (orders, np.arange(len(orders), dtype=np.float64), np.ones(len(orders))),
        }
        for metric, (cells, x, y) in values.items():
            try:
                samples[metric] = ratio_of_cells(cells, x, y, variance)
            except StatisticsError:
                continue
        found[arm] = samples
    return found


def units_of(week: ReleasedWeek, share: float) -> tuple[int, int]:
    """Return exact numbers of users with the evidence of the noisy ones on the sample ratio."""
    noise = (MOST_ORDERS + 1) * float(noise_of_week(week.epsilon).variance)
    try:
        control, change = (
            ReleasedProportion(float(sum(week.orders[arm])), 0.0, noise, 0.0)
            for arm in (CONTROL, CHANGE)
        )
    except StatisticsError:
        return 0, 0
    return units_behind_noise(control, change, share)


def ratio_of_cells(cells: Floats, x: Floats, y: Floats, variance: float) -> ReleasedRatio:
    """Return the ratio of Σx to Σy over the users in noisy cells.

    The errors of both sums are taken as independent. They come from the same cells and are
    positively correlated, so the stated error is too large rather than too small.
    """
    parts = (x, y, x**2, y**2, x * y)
    sums = RatioSums(*(float((part * cells).sum()) for part in parts))
    noise = RatioSums(*(float((part**2).sum() * variance) for part in parts))
    return ReleasedRatio(float(cells.sum()), sums, noise)
