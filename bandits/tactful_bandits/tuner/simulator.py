"""Market simulator: a shop to test policies without people.

It is a simulator: a lift here shows that a policy can learn, not its effect on people. Values
calibrated on the UCI Online Retail data are in `MarketSettings` with their source; other values
are assumed and marked so, because those data hold sales but no views.

One step is a trading hour, in which `sessions` people each see the `shown` best of `candidates`
items, ordered by a weighted sum of five objectives. Clicks depend on the same five, by hidden
weights: new customers prefer campaigns, regular ones relevance and novelty, and during a promotion
everybody prefers low prices; tastes drift, and repeated campaigns lose their effect. Purchases
follow clicks after a delay, and some are returned.

Events of the shop (promotions, people, items) and reactions of people have separate random streams,
so one seed gives every policy the same course: compare policies hour by hour. Shops with the same
seed and other people are the arms of an experiment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.tuner.weight_bounds import OBJECTIVES

Floats = NDArray[np.float64]

STATE = (
    "promotion",
    "discount",
    "hour_sine",
    "hour_cosine",
    "traffic",
    "price_level",
    "new_customers",
    "released_click_rate",
    "released_conversion_rate",
    "campaign_fatigue",
)
"""Names of the state values that a policy gets, in this order."""

# Share of invoices by hour, 7 to 20 o'clock.
_TRAFFIC = (
    *(0.0015, 0.0286, 0.0744, 0.1183, 0.1200, 0.1620, 0.1381),
    *(0.1224, 0.1168, 0.0665, 0.0335, 0.0097, 0.0073, 0.0009),
)


@dataclass(frozen=True)
class MarketSettings:
    """Parameters of the simulated shop."""

    # Share of a day's visits in each trading hour. Calibrated: invoices by hour.
    traffic: tuple[float, ...] = _TRAFFIC
    # Mean share of sessions by new customers. Calibrated: invoices that are a customer's first,
    # 23.6 %, nearly alike at all hours.
    new_customers: float = 0.236
    # Discounts in promotions are uniform between 10 % and this. Calibrated: lines sold at 10 % or
    # more below the item's usual price are 28.9 % below it on average.
    deepest_discount: float = 0.478
    # Share of purchases that are returned. Calibrated: units returned per unit sold.
    return_share: float = 0.049
    promotion_start: float = 0.04  # Probability that a promotion begins in an hour. Assumed.
    promotion_end: float = 0.1  # Probability that it ends in an hour. Assumed.
    promotion_price_sensitivity: float = 2.2  # Additional weight of prices in promotions. Assumed.
    price_sensitivity: float = 0.3  # Weight of prices outside promotions. Assumed.
    drift: float = 0.02  # Standard deviation of an hour's change of tastes. Assumed.
    tiring: float = 0.05  # Fatigue added by one hour of campaign items only. Assumed.
    # Probability that a click leads to a purchase, before prices. Assumed.
    purchase_share: float = 0.25
    purchase_delay: float = 6.0  # Mean hours from click to purchase. Assumed.
    # Scale of the noise on an hour's released counts, 5 for a cap of 5 clicks at ε = 1. 0: exact.
    release_scale: float = 5.0
    sessions: int = 64  # number of people per step
    candidates: int = 60  # number of candidate items per session
    shown: int = 10  # number of items shown

    def __post_init__(self) -> None:
        """Validate the parameters."""
        shares = (self.new_customers, self.return_share, self.promotion_start, self.promotion_end)
        if not all(0 <= share <= 1 for share in (*shares, self.purchase_share)):
            raise PolicyError("shares and chances must lie between 0 and 1")
        if not 1 <= self.shown < self.candidates or self.sessions < 1 or not self.traffic:
            raise PolicyError("a market shows some of its candidates to at least one session")
        if not 0.1 <= self.deepest_discount < 1 or self.purchase_delay < 1:
            raise PolicyError("discounts reach from 0.1 to below 1, purchases take 1 hour or more")


@dataclass(frozen=True, eq=False)
class MarketStep:
    """Results of one hour, each per environment, ``[environments]``."""

    click_rate: Floats  # clicks per shown item
    expected_click_rate: Floats  # expected click rate, for evaluation only; no real shop has it
    purchases: Floats  # purchases in this hour, from clicks of this hour or before
    returns: Floats  # purchases that were returned
    margin: Floats  # mean standardised margin of the clicked items
    promotion: NDArray[np.bool_]  # whether there was a promotion


class MarketSimulator:
    """Vectorised simulation of several shops.

    Attributes:
        common: Whether all have the same people, items and promotions, so that they differ by their
            weights alone.
        state: State values of each shop, ``[environments, 10]``, in the order of `STATE`.
    """

    def __init__(
        self,
        seed: int,
        *,
        people: int = 0,
        environments: int = 1,
        settings: MarketSettings | None = None,
        common: bool = False,
    ) -> None:
        """Create the shops.

        Seeds are whole numbers from 0: `seed` of promotions, prices and tastes, `people` of the
        people and their behaviour. Shops with the same `seed` and other people are arms of one
        experiment.
        """
        if seed < 0 or people < 0:
            raise PolicyError("seeds are whole numbers from 0")
        if environments < 1:
            raise PolicyError("a simulator needs at least one environment")
        self.environments, self.common = environments, common
        self.settings = settings or MarketSettings()
        self._course, self._people, self._luck = (
            np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
            for key in ((0,), (1, people), (2, people))
        )
        self._own = 1 if common else environments  # rows with random numbers of their own
        shape = (self._own,)
        self._hour = 0
        self._promotion = np.zeros(shape, dtype=np.bool_)
        self._discount = np.zeros(shape)
        self._new = np.full(shape, self.settings.new_customers)
        self._taste = np.zeros((self._own, 2))
        self._price = np.zeros(shape)
        self._fatigue = np.zeros(environments)
        self._click_rate = np.full(environments, 0.12)
        self._conversion = np.full(environments, 0.02)
        self._waiting = np.zeros(environments, dtype=np.int64)
        self._begin_hour()

    def step(self, weights: ArrayLike) -> MarketStep:
        """Simulate an hour of lists ordered by the weights.

        Weights are in the order of `OBJECTIVES`, ``[5]`` or ``[environments, 5]``.
        """
        values = np.asarray(weights, dtype=np.float64)
        if values.shape[-1:] != (len(OBJECTIVES),) or not np.isfinite(values).all():
            raise PolicyError(f"weights are {len(OBJECTIVES)} finite numbers, not {values.shape}")
        w = np.broadcast_to(values, (self.environments, len(OBJECTIVES))).astype(np.float32)
        s, luck = self.settings, self._luck
        size = (self._own, s.sessions, s.candidates, len(OBJECTIVES))
        items = self._people.standard_normal(size, dtype=np.float32)
        newcomer = self._people.random((self._own, s.sessions, 1)) < self._new[:, None, None]
        scores = np.einsum("esif,ef->esi", np.broadcast_to(items, (len(w), *size[1:])), w)
        top = np.argpartition(-scores, s.shown, axis=2)[:, :, : s.shown]
        whole = np.broadcast_to(items, (len(w), *size[1:]))
        shown = np.take_along_axis(whole, top[..., None], axis=2).astype(np.float64)
        chance = 1 / (1 + np.exp(-self._utility(shown, newcomer)))
        clicked = luck.random((self._own, s.sessions, s.shown)) < chance
        self._waiting += luck.binomial(clicked.sum(axis=(1, 2)), s.purchase_share)
        purchases = luck.binomial(self._waiting, 1 / s.purchase_delay)
        self._waiting -= purchases
        returns = luck.binomial(purchases, s.return_share)
        clicks = clicked.sum(axis=(1, 2))
        margin = (clicked * shown[..., 3]).sum(axis=(1, 2)) / np.maximum(clicks, 1)
        exposure = 1 / (1 + np.exp(-shown[..., 4].mean(axis=(1, 2))))
        self._fatigue = 0.95 * self._fatigue + s.tiring * exposure
        step = MarketStep(
            clicks / (s.sessions * s.shown),
            chance.mean(axis=(1, 2)),
            purchases.astype(np.float64),
            returns.astype(np.float64),
            margin,
            np.broadcast_to(self._promotion, (self.environments,)).copy(),
        )
        released = self._released(clicks) / (s.sessions * s.shown)
        self._click_rate = 0.8 * self._click_rate + 0.2 * released
        bought = self._released(purchases) / (s.sessions * s.shown)
        self._conversion = 0.8 * self._conversion + 0.2 * bought
        self._hour += 1
        self._begin_hour()
        return step

    def _utility(self, shown: Floats, newcomer: NDArray[np.bool_]) -> Floats:
        """Compute the log-odds of a click from hidden preferences."""
        n = newcomer.astype(np.float64)
        sensitivity = self.settings.promotion_price_sensitivity
        price = self.settings.price_sensitivity + sensitivity * self._promotion * (
            0.5 + self._discount
        )
        taste = self._taste[:, :, None, None]
        campaign = (0.2 + 0.9 * n) * (1 - np.minimum(self._fatigue, 0.9))[:, None, None]
        utility: Floats = (
            -2.9
            + (1.3 * (1 - 0.5 * n) + taste[:, 0]) * shown[..., 0]
            + price[:, None, None] * shown[..., 1]
            + (0.35 * (1 - n) + taste[:, 1]) * shown[..., 2]
            - 0.1 * shown[..., 3]
            + campaign * shown[..., 4]
        )
        return utility

    def _released(self, counts: NDArray[np.int64]) -> Floats:
        if not self.settings.release_scale:
            return counts.astype(np.float64)
        # A difference of two geometric draws is discrete Laplace noise. It imitates a private
        # release; simulated data need no protection.
        stop = 1 - np.exp(-1 / self.settings.release_scale)
        draws = self._luck.geometric(stop, size=(2, *counts.shape))
        noisy: Floats = np.maximum(counts + draws[0] - draws[1], 0).astype(np.float64)
        return noisy

    def _begin_hour(self) -> None:
        s, rng, shape = self.settings, self._course, (self._own,)
        luck = rng.random(shape)
        self._promotion = np.where(
            self._promotion, luck >= s.promotion_end, luck < s.promotion_start
        )
        depth = rng.uniform(0.1, s.deepest_discount, shape)
        self._discount = np.where(self._promotion, depth, 0.0)
        self._price = rng.normal(0, 0.3, shape)
        moved = self._new + 0.3 * (s.new_customers - self._new) + rng.normal(0, 0.05, shape)
        self._new = np.clip(moved, 0, 1)
        self._taste = np.clip(
            0.999 * self._taste + rng.normal(0, s.drift, (self._own, 2)), -0.3, 0.3
        )
        hour = self._hour % len(s.traffic)
        angle = 2 * np.pi * hour / len(s.traffic)
        traffic = s.traffic[hour] * len(s.traffic) - 1
        rows = (
            self._promotion,
            self._discount,
            np.sin(angle),
            np.cos(angle),
            traffic,
            self._price,
            self._new,
            (self._click_rate - 0.12) * 10,
            (self._conversion - 0.02) * 20,
            self._fatigue,
        )
        self.state = np.column_stack(
            [np.broadcast_to(np.asarray(row, dtype=np.float64), self.environments) for row in rows]
        )
