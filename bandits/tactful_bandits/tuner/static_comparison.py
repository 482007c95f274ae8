"""Compare a trained policy with the best fixed weights, in markets unlike the default one.

A tuner that does not beat fixed weights is not worth its risk: then the fixed weights are the
result. Both play the same courses, one for each seed, on which neither was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful_bandits.analysis.comparison import Interval
from tactful_bandits.errors import PolicyError
from tactful_bandits.tuner.baselines import StatePolicy, play
from tactful_bandits.tuner.network import NetworkPolicy
from tactful_bandits.tuner.simulator import MarketSettings
from tactful_bandits.tuner.weight_bounds import WeightBounds
from tactful_privacy.lazy_imports import LazyModule

special = LazyModule("scipy.special")

MARKETS: dict[str, MarketSettings] = {
    "default": MarketSettings(),
    # Prices matter at all hours, and promotions change little: one set of weights is right always.
    "elastic": MarketSettings(price_sensitivity=1.4, promotion_price_sensitivity=0.2, tiring=0.0),
    # Sales of 40 hours at a time: prices matter much while they last, and not at all between them.
    "sales": MarketSettings(
        price_sensitivity=0.0,
        promotion_price_sensitivity=3.0,
        promotion_start=0.02,
        promotion_end=0.025,
    ),
    # Campaigns lose their effect within hours, and regain it as slowly as everywhere.
    "saturated": MarketSettings(tiring=0.3, new_customers=0.5),
}
"""Simulated markets by name; all but the first differ from that which the tuner was made for."""


@dataclass(frozen=True)
class StaticComparison:
    """Results of a policy relative to those of fixed weights, on seeds that neither was trained on.

    The interval is that of the mean of paired ratios or differences, by Student's t.
    """

    mean: float
    interval: Interval
    neutral: float  # value without any difference: 1 for ratios, 0 for differences

    @property
    def policy_is_better(self) -> bool:
        """Whether the whole interval lies above no difference."""
        return self.interval.low > self.neutral


def compare_in_market(
    policy: StatePolicy,
    static: NDArray[np.float64],
    seeds: Sequence[int],
    bounds: WeightBounds,
    *,
    settings: MarketSettings | None = None,
    hours: int = 500,
) -> StaticComparison:
    """Compare click rates of a policy and a constant action, as ratios, by the seeds of shops."""

    def always(states: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.tile(static, (len(states), 1))

    rates = np.array(
        [
            [
                play(each, seed, hours, bounds, settings=settings)[0].mean()
                for each in (policy, always)
            ]
            for seed in seeds
        ]
    )
    return paired(rates[:, 0] / rates[:, 1], neutral=1.0)


def paired(values: NDArray[np.float64], *, neutral: float) -> StaticComparison:
    """Compute the mean of paired ratios or differences with its 95 % interval.

    Raises:
        PolicyError: if there are fewer than three.
    """
    if len(values) < 3:
        raise PolicyError(f"{len(values)} seeds are too few to compare policies: give at least 3")
    mean, error = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
    reach = float(special.stdtrit(len(values) - 1, 0.975)) * error
    interval = Interval(mean - reach, mean + reach, 0.95, "paired t, seeds")
    return StaticComparison(mean, interval, neutral)


def constant_policy(action: NDArray[np.float64], states: int) -> NetworkPolicy:
    """Return a network that gives one action, between -1 and 1, in all states."""
    everywhere = np.full(states, np.inf, np.float32)
    biases = np.arctanh(np.clip(action, -0.9999, 0.9999)).astype(np.float32)
    return NetworkPolicy(
        [(np.zeros((states, len(action)), np.float32), biases)],
        np.zeros(states, np.float32),
        np.ones(states, np.float32),
        -everywhere,
        everywhere,
    )
