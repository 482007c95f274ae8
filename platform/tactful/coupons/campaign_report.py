"""Report campaigns: decisions and budget from the database, funnel and effect from the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import sqlalchemy as sa

from tactful.coupons.definitions import WITHHELD, CouponDefinition
from tactful.coupons.report import CouponOutcomes, Effect, lift, read_coupon_outcomes
from tactful.event_log.batches import read_batches
from tactful.event_log.impressions import OFFER, OFFER_ID
from tactful.experiments.effects import bounds
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import coupon_offers
from tactful.schemas.experiments.coupons import CampaignEffect, CampaignInfo, CampaignReport
from tactful.schemas.experiments.readouts import RatioCheck
from tactful.util.fresh_values import FreshValues
from tactful_streaming.contract.log_entries import Event, decode_entry, event_key
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.event_log import EventLog

_CHUNK = 2_048
_HOUR_MS = 3_600_000
_FRESH_MS = 60_000


@dataclass(frozen=True)
class Funnel:
    """Actions and decisions of a campaign in the log."""

    matched: int  # actions of any user
    offered: int  # decisions with a coupon
    withheld: dict[str, int]  # decisions without one, by reason

    def plus(self, more: Funnel) -> Funnel:
        """Return the sum with another partition's."""
        withheld = Counter(self.withheld) + Counter(more.withheld)
        return Funnel(self.matched + more.matched, self.offered + more.offered, dict(withheld))


class CampaignReports:
    """Reports the campaigns of an installation."""

    def __init__(
        self,
        campaigns: Sequence[CouponDefinition],
        metadata: MetadataStore,
        logs: Callable[[], Sequence[EventLog]],
        left: Callable[[str], float],
        *,
        clock: Callable[[], int],
    ) -> None:
        """Report campaigns.

        `logs` are the partitions with the events that may be used to measure; `left` returns the
        rest of a campaign's budget; the clock is in epoch milliseconds.
        """
        self._campaigns = {campaign.name: campaign for campaign in campaigns}
        self._metadata = metadata
        self._logs = logs
        self._left = left
        self._clock = clock
        self._fresh: FreshValues[CampaignReport] = FreshValues(_FRESH_MS, clock)

    def all(self) -> list[CampaignInfo]:
        """Return all campaigns with their decisions, by name.

        Raises:
            StorageError: if the database cannot be used.
        """
        table = coupon_offers.c
        query = sa.select(table.campaign, table.state, sa.func.count().label("rows"))
        counts: dict[str, Counter[str]] = {name: Counter() for name in self._campaigns}
        for row in self._metadata.fetch(query.group_by(table.campaign, table.state)):
            if row.campaign in counts:
                counts[row.campaign][row.state] = int(row.rows)
        return [self._info(name, counts[name]) for name in sorted(counts)]

    def of(self, name: str, *, margin: float, hours: float) -> CampaignReport:
        """Report one campaign, by purchases of so many hours after a decision.

        `margin` is the profit of a unit of revenue, in (0, 1].

        Raises:
            KeyError: if there is no such campaign.
            StorageError: if the database cannot be used.
            StreamingError: if the log cannot be read.
        """
        campaign = self._campaigns[name]
        lasts = int(hours * _HOUR_MS)
        return self._fresh.get((name, margin, lasts), lambda: self._report(campaign, margin, lasts))

    def _report(self, campaign: CouponDefinition, margin: float, lasts: int) -> CampaignReport:
        now, funnel, parts = self._clock(), Funnel(0, 0, {}), []
        for log in self._logs():  # all events of a user are in one partition
            funnel = funnel.plus(read_funnel(log, campaign))
            parts.append(read_coupon_outcomes(log, campaign, until=now, lasts=lasts))
        outcomes = _joined(parts)
        found = lift(outcomes, campaign, margin=margin) if len(outcomes.treated) else None
        (info,) = (info for info in self.all() if info.name == campaign.name)
        return CampaignReport(
            campaign=info,
            matched=funnel.matched,
            decided=funnel.offered + sum(funnel.withheld.values()),
            offered=funnel.offered,
            withheld=funnel.withheld,
            people=len(outcomes.treated),
            sample_ratio=None
            if found is None
            else RatioCheck(
                verdict="mismatch" if found.sample_ratio.mismatch else "ok",
                p=found.sample_ratio.fixed_horizon_p,
                expected={"holdout": campaign.holdout, "campaign": 1 - campaign.holdout},
                people={
                    "holdout": int((~outcomes.treated).sum()),
                    "campaign": int(outcomes.treated.sum()),
                },
            ),
            effects=[]
            if found is None
            else [_effect("revenue", found.revenue), _effect("margin", found.profit)],
            cap=None if found is None else found.cap,
            margin=margin,
        )

    def _info(self, name: str, counts: Counter[str]) -> CampaignInfo:
        campaign = self._campaigns[name]
        offered = sum(counts[state] for state in ("offered", "redeemed", "expired"))
        return CampaignInfo(
            name=name,
            action=campaign.action,
            holdout=campaign.holdout,
            eligible=counts.total(),
            withheld=counts["withheld"],
            offered=offered,
            redeemed=counts["redeemed"],
            expired=counts["expired"],
            budget=campaign.budget.amount,
            left=self._left(name),
            bandit=campaign.bandit or None,
        )


def read_funnel(log: EventLog, campaign: CouponDefinition) -> Funnel:
    """Count the actions and decisions of a campaign in a log, each once."""
    matched: set[str] = set()
    decisions: dict[str, str | None] = {}  # reason of each decision; None with a coupon
    marks = tuple(name.encode() for name in (campaign.trigger, OFFER, WITHHELD))
    for records in read_batches(log, log.begin, log.end, size=_CHUNK):
        for _, payload in records:
            if not any(mark in payload for mark in marks):
                continue
            try:
                entry = decode_entry(payload)
            except StreamingError:
                continue
            if not isinstance(entry, Event) or entry.sender is not None:
                continue
            if entry.type == campaign.trigger:
                matched.add(event_key(entry))
            elif (
                entry.type in (OFFER, WITHHELD)
                and entry.event_id.startswith(OFFER_ID)
                and entry.properties.get("campaign") == campaign.name
            ):
                why = str(entry.properties.get("why", ""))
                decisions[entry.event_id] = None if entry.type == OFFER else why
    reasons = Counter(why for why in decisions.values() if why is not None)
    offered = sum(why is None for why in decisions.values())
    return Funnel(len(matched), offered, dict(reasons))


def _joined(parts: Sequence[CouponOutcomes]) -> CouponOutcomes:
    columns = {
        each.name: np.concatenate([getattr(part, each.name) for part in parts])
        for each in fields(CouponOutcomes)
    }
    return CouponOutcomes(**columns)


def _effect(metric: str, found: Effect) -> CampaignEffect:
    return CampaignEffect(
        metric=metric,
        difference=found.difference,
        anytime=bounds(found.anytime),
        conclusive=found.conclusive,
    )
