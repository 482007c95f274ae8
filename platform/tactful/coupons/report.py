"""Measure the effect of coupons: users who may get one against the holdout.

Each user who was eligible at their first action is counted from then on, in the group by the hash
of their id, whether or not they were offered a coupon. So the difference is the effect of the
campaign, and not of being the kind of user who redeems coupons. A discount counts for the user who
was offered its coupon, once, and costs what the campaign says at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tactful.coupons.definitions import PROPENSITY, WITHHELD, CouponDefinition
from tactful.event_log.batches import read_batches
from tactful.event_log.impressions import OFFER, OFFER_ID
from tactful.experiments.metrics import number_of, spent_in
from tactful.experiments.readout import revenue_cap
from tactful_bandits.analysis.comparison import Interval
from tactful_bandits.analysis.sample_ratio import SampleRatio, check_sample_ratio
from tactful_bandits.analysis.skewed_means import SkewedMean, compare_skewed
from tactful_streaming.contract.log_entries import (
    decode_entry,
    event_for,
    event_key,
    subject_key,
)
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.event_log import EventLog

_CHUNK = 2_048
_MEASUREMENT = "measurement"


@dataclass(frozen=True)
class CouponOutcomes:
    """Outcomes of users after their first decision."""

    treated: NDArray[np.bool_]  # whether each user is not held out, shape (n,)
    offered: NDArray[np.bool_]  # whether they were offered a coupon, shape (n,)
    explored: NDArray[np.bool_]  # whether they were offered it for exploration, shape (n,)
    spent: NDArray[np.float64]  # on purchases, before the discount, shape (n,)
    discount: NDArray[np.float64]  # cost of their coupons, shape (n,)
    features: NDArray[np.float64]  # logged values, shape (n, features)
    # logged chance of a coupon among the explored and the held out; NaN if not logged, shape (n,)
    propensity: NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """Difference of a mean over users, campaign minus holdout."""

    difference: float
    anytime: Interval  # for any number of looks

    @property
    def conclusive(self) -> bool:
        """Whether the interval excludes no difference."""
        return 0.0 not in self.anytime


@dataclass(frozen=True)
class CouponLift:
    """Effect of a campaign."""

    revenue: Effect  # amount spent by a user, at most `cap`
    profit: Effect  # margin of that amount minus discounts, by a user
    sample_ratio: SampleRatio  # check of the groups' sizes
    cap: float | None  # amount that counts for a user who spent more; None if nobody spent anything


@dataclass
class _Person:
    at: int
    treated: bool
    offered: bool
    explored: bool
    features: list[float]
    propensity: float = math.nan
    spent: float = 0.0
    discount: float = 0.0
    paid: set[str] = field(default_factory=set)
    used: dict[str, bool] = field(default_factory=dict)  # by offered code, whether it was used


def read_coupon_outcomes(
    log: EventLog, campaign: CouponDefinition, *, until: int, lasts: int
) -> CouponOutcomes:
    """Read the outcomes of users whose outcome time after their first decision is over.

    The log, of events that may be used to measure, ends at `until`, epoch milliseconds; purchases
    count for `lasts` milliseconds after the decision.
    """
    people: dict[str, _Person] = {}
    marks = (OFFER.encode(), WITHHELD.encode(), b"purchase")
    for records in read_batches(log, log.begin, log.end, size=_CHUNK):
        for _, payload in records:
            if any(mark in payload for mark in marks):
                _read(payload, campaign, people, lasts)
    over = [person for person in people.values() if person.at + lasts <= until]
    width = len(campaign.features)
    return CouponOutcomes(
        np.array([person.treated for person in over], np.bool_),
        np.array([person.offered for person in over], np.bool_),
        np.array([person.explored for person in over], np.bool_),
        np.array([person.spent for person in over], np.float64),
        np.array([person.discount for person in over], np.float64),
        np.array(
            [it.features if len(it.features) == width else [0.0] * width for it in over], np.float64
        ).reshape(len(over), width),
        np.array([person.propensity for person in over], np.float64),
    )


def lift(
    outcomes: CouponOutcomes, campaign: CouponDefinition, *, margin: float, alpha: float = 0.05
) -> CouponLift | None:
    """Compare the campaign with its holdout; None where either has fewer than two users.

    Revenue is compared after amounts above the 90 % quantile of all buyers are set to it. `margin`
    is the profit of the shop from a unit of revenue, in (0, 1]; `alpha` the probability that an
    interval ever misses the truth, at any number of looks.
    """
    treated = outcomes.treated
    if min(treated.sum(), (~treated).sum()) < 2:
        return None
    spent, discounts = (
        (SkewedMean.from_units(units[~treated]), SkewedMean.from_units(units[treated]))
        for units in (outcomes.spent, outcomes.discount)
    )
    cap = revenue_cap(*spent)
    revenue = _effect(spent, cap, alpha)
    # The ends of two intervals that miss the truth with half of alpha each.
    value = _effect(spent, cap, alpha / 2).anytime
    cost = _effect(discounts, max(campaign.cost, float(outcomes.discount.max())), alpha / 2)
    profit = Effect(
        margin * revenue.difference - cost.difference,
        Interval(
            margin * value.low - cost.anytime.high,
            margin * value.high - cost.anytime.low,
            1 - alpha,
            "revenue and discounts, any look",
        ),
    )
    shares = [campaign.holdout, 1 - campaign.holdout]
    ratio = check_sample_ratio([arm.units for arm in spent], shares)
    return CouponLift(revenue, profit, ratio, cap)


def _effect(arms: tuple[SkewedMean, SkewedMean], cap: float | None, alpha: float) -> Effect:
    compared = compare_skewed(*arms, cap=cap, alpha=alpha)
    return Effect(compared.estimate.value, compared.anytime)


def _read(
    payload: bytes, campaign: CouponDefinition, people: dict[str, _Person], lasts: int
) -> None:
    try:
        event = event_for(decode_entry(payload), _MEASUREMENT)
    except StreamingError:
        return
    person = None if event is None else subject_key(event)
    if event is None or person is None:
        return
    if event.type == "purchase":
        known = people.get(person)
        if known is None or (key := event_key(event)) in known.paid:
            return  # the log may hold an event twice, after a retry
        if known.at <= event.timestamp < known.at + lasts:
            known.paid.add(key)
            known.spent += spent_in(event)
            code = event.properties.get("coupon")
            if isinstance(code, str) and known.used.get(code) is False:
                known.used[code] = True
                discount = number_of(event, "discount", campaign.cost)
                known.discount += discount if 0 <= discount <= campaign.cost else campaign.cost
    elif event.sender is not None or not event.event_id.startswith(OFFER_ID):
        return
    elif event.type in (OFFER, WITHHELD) and event.properties.get("campaign") == campaign.name:
        features = event.properties.get("features")
        group = event.properties.get("group")
        known = people.setdefault(
            person,
            _Person(
                event.timestamp,
                treated=group != "holdout",
                offered=event.type == OFFER,
                explored=group == "explore" and event.type == OFFER,
                features=[float(value) for value in features if isinstance(value, int | float)]
                if isinstance(features, list)
                else [],
                propensity=number_of(event, PROPENSITY, math.nan),
            ),
        )
        if event.type == OFFER:
            known.used.setdefault(event.event_id.removeprefix(OFFER_ID), False)
