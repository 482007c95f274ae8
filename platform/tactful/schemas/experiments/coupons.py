"""Coupon campaigns: funnel, budget, and effect against the held-out users."""

from __future__ import annotations

import msgspec

from tactful.schemas.experiments.readouts import Bounds, RatioCheck


class Deliveries(msgspec.Struct, kw_only=True, frozen=True):
    """Deliveries of actions to the shop's webhook, by the answering server since its start.

    Attributes:
        delivered: successful deliveries.
        failed: failed attempts, which are repeated.
        given_up: deliveries that were given up.
    """

    delivered: int
    failed: int
    given_up: int


class CampaignInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A campaign with its decisions and its budget.

    Attributes:
        name: its name.
        action: the action that is decided.
        holdout: share of the users who never get a coupon.
        eligible: actions of eligible users, each decided once.
        withheld: of them, those without a coupon: held out, not worth it, or no budget left.
        offered: of them, those with a coupon.
        redeemed: of the offered coupons, those that were redeemed.
        expired: of the offered coupons, those that were not redeemed in time.
        budget: bound on the cost of all coupons.
        left: rest of the budget; offered coupons count until they expire.
        bandit: key of the bandit that chooses the value of its coupons; None without one.
    """

    name: str
    action: str
    holdout: float
    eligible: int
    withheld: int
    offered: int
    redeemed: int
    expired: int
    budget: float
    left: float
    bandit: str | None = None


class CampaignIndex(msgspec.Struct, kw_only=True, frozen=True):
    """One page of the campaigns, by name.

    Attributes:
        campaigns: each with its decisions.
        webhook: deliveries; None without a webhook.
        next_cursor: send it as `cursor` for the next page; None at the end.
    """

    campaigns: list[CampaignInfo]
    webhook: Deliveries | None = None
    next_cursor: str | None = None


class CampaignEffect(msgspec.Struct, kw_only=True, frozen=True):
    """Difference of a mean over users, campaign minus holdout.

    Attributes:
        metric: `revenue`, or `margin`: profit of the revenue minus discounts.
        difference: campaign minus holdout, in units of money for each user.
        anytime: its interval for any number of looks.
        conclusive: whether the interval excludes no difference.
    """

    metric: str
    difference: float
    anytime: Bounds
    conclusive: bool


class CampaignReport(msgspec.Struct, kw_only=True, frozen=True):
    """A campaign's funnel in the log, and its effect.

    Attributes:
        campaign: its decisions and its budget.
        matched: actions in the log, of any user.
        decided: of them, those of eligible users.
        offered: of them, those with a coupon.
        withheld: decisions without a coupon in the log, by reason.
        people: users whose outcome time is over.
        sample_ratio: check of the sizes of holdout and campaign; None without users.
        effects: effects on revenue and margin; empty where a group has fewer than two users.
        cap: amount of revenue that counts for a user who spent more; None if nobody spent anything.
        margin: profit of a unit of revenue that was given.
    """

    campaign: CampaignInfo
    matched: int
    decided: int
    offered: int
    withheld: dict[str, int]
    people: int
    sample_ratio: RatioCheck | None
    effects: list[CampaignEffect]
    cap: float | None
    margin: float
