"""Measure what personal recommendations are worth, against a permanent holdout.

A share of the users (`recommend.holdout`) always gets what an unnamed caller gets. The others are
compared with them: recommendations that are clicked, orders of a user, and the share of the revenue
that discounts cost. Exact numbers are counted inside the trusted zone; the released ones are drawn
once for each UTC week (`tactful.experiments.worth_release`) and charged to the ledger before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

import msgspec
import sqlalchemy as sa

from tactful.experiments.baseline import DAY_MS, ExactOutcomes
from tactful.experiments.definitions import CHANGE, CONTROL, HOLDOUT
from tactful.experiments.effects import effect_points, effects_of
from tactful.experiments.metrics import Metric
from tactful.experiments.readout import column_samples
from tactful.experiments.stage_readout import ratio_check
from tactful.experiments.tally import read_on
from tactful.experiments.worth_release import (
    ReleasedWeek,
    noise_of_week,
    release_week,
    released_samples,
    units_of,
)
from tactful.experiments.worth_tally import WorthTally, worth_samples
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import worth_releases
from tactful.schemas.experiments.readouts import EffectPoint, ReadOutMessage
from tactful.util.fresh_values import FreshValues
from tactful_privacy.ledger.budget import date_of
from tactful_privacy.ledger.query import Query
from tactful_streaming.log.event_log import EventLog

METRICS = {
    "ctr": Metric("share of recommendations that were clicked", "higher"),
    "orders": Metric("orders of a person", "higher"),
    "marketing_cost_share": Metric("share of the revenue that discounts cost", "lower"),
}

NO_HOLDOUT = "recommend.holdout is 0: nobody is held out, so there is nothing to compare with"
NOT_RELEASED = "recommend.holdout_epsilon is 0: no number of the effect is released"
NO_WEEK = "no whole week with recommendations is over yet"
NO_USERS = "no two groups have two users whose recommendations are over"

_WEEK_MS = 7 * DAY_MS
_MONDAY_MS = 4 * DAY_MS  # 1970-01-05, a Monday
_LASTS_MS = 3_600_000
_LATE_MS = 3_600_000  # events of a week may come so late
_FRESH_MS = 60_000
_WEEKS = 26


class Worth:
    """Reads the effect of an installation's personal recommendations."""

    def __init__(
        self,
        metadata: MetadataStore,
        outcomes: ExactOutcomes,
        *,
        holdout: float,
        epsilon: float,
        clock: Callable[[], int],
        charge: Callable[[Iterable[Query]], None] = lambda queries: None,
    ) -> None:
        """Measure with a holdout.

        `holdout` is the share of the users who are held out; `epsilon` the privacy loss of a week,
        0 to release nothing; `charge` charges a ledger, if there is one.
        """
        self._metadata = metadata
        self._outcomes = outcomes
        self._holdout = holdout
        self._epsilon = epsilon
        self._clock = clock
        self._charge = charge
        self._logs: Sequence[EventLog] | None = None
        self._fresh: FreshValues[ReadOutMessage] = FreshValues(_FRESH_MS, clock)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the users by arm."""
        return {CONTROL: self._holdout, CHANGE: 1 - self._holdout}

    def exact(self, days: float) -> ReadOutMessage:
        """Read the exact effect in the last days.

        Raises:
            StreamingError: if the log cannot be read.
        """
        if not self._holdout:
            return self._nothing("exact", NO_HOLDOUT)
        return self._fresh.get(days, lambda: self._exact(days))

    def released(self) -> ReadOutMessage:
        """Read the released effect of the last whole week, which is drawn unless it was before.

        Raises:
            BudgetError: if the ledger has no room for the week; nothing was drawn.
            StorageError: if the database cannot be used.
            StreamingError: if the log cannot be read.
        """
        if not self._epsilon:
            return self._nothing("released", NOT_RELEASED if self._holdout else NO_HOLDOUT)
        return self._fresh.get("released", self._released)

    def _exact(self, days: float) -> ReadOutMessage:
        now = self._clock()
        since = now - int(days * DAY_MS)
        tally = self._count(since, None, now)
        series: list[EffectPoint] = []
        for until in tally.until_each(40):
            arms = {
                arm: {"ctr": samples["taken_lists"]}
                for arm, rows in until.arms.items()
                if "taken_lists" in (samples := column_samples(rows))
            }
            at = min(until.at, now)
            series += effect_points(at, CONTROL, arms, metrics=METRICS)
        users = tally.users()
        people = {arm: len(users.get(arm, ())) for arm in self.shares}
        seen = tally.outcomes()
        total = sum(people.values()) + seen.crossed
        effects = effects_of(CONTROL, worth_samples(users), metrics=METRICS)
        return ReadOutMessage(
            key=HOLDOUT,
            source="exact",
            at=now,
            since=since,
            until=None,
            sample_ratio=ratio_check(
                people, self.shares, crossed=seen.crossed / total if total else 0.0
            ),
            effects=effects,
            series=series,
            reason="" if effects else NO_USERS,
        )

    def _released(self) -> ReadOutMessage:
        self._release()
        weeks = self._weeks()
        if not weeks:
            return self._nothing("released", NO_WEEK)
        series: list[EffectPoint] = []
        arms: Mapping[str, Mapping[str, object]] = {}
        for week in weeks:
            arms = released_samples(week)
            series += effect_points(week.since + _WEEK_MS, CONTROL, arms, metrics=METRICS)
        last = weeks[-1]
        effects = effects_of(CONTROL, released_samples(last), metrics=METRICS)
        return ReadOutMessage(
            key=HOLDOUT,
            source="released",
            at=self._clock(),
            since=last.since,
            until=last.since + _WEEK_MS,
            sample_ratio=ratio_check(
                dict(zip(self.shares, units_of(last, self.shares[CHANGE]), strict=True)),
                self.shares,
                shown={arm: sum(last.orders[arm]) for arm in self.shares},
            ),
            effects=effects,
            series=series,
            epsilon=last.epsilon,
            reason="" if effects else NO_USERS,
        )

    def _release(self) -> None:
        """Draw the last whole week, if no process has done so."""
        now = self._clock()
        since = (now - _LASTS_MS - _LATE_MS - _MONDAY_MS) // _WEEK_MS * _WEEK_MS + _MONDAY_MS
        since -= _WEEK_MS
        table = worth_releases.c
        query = sa.select(table.week).where(table.week == since)
        if self._metadata.fetch(query):
            return
        logs = self._opened()
        if all(log.offset_at(since + _WEEK_MS) <= log.begin for log in logs):
            return  # the installation is younger, or the log no longer has that week
        users = self._count(since, since + _WEEK_MS - 1, now).users()

        def draw(connection: sa.Connection) -> None:
            if connection.execute(query).first() is not None:
                return
            self._charge(charges_of(since, self._epsilon))
            week = release_week(users, since, self._epsilon, noise_of_week(self._epsilon))
            row = {"week": since, "released": msgspec.json.encode(week).decode()}
            connection.execute(sa.insert(worth_releases).values(**row))

        self._metadata.change(draw)

    def _weeks(self) -> list[ReleasedWeek]:
        """Return the latest releases, oldest first."""
        query = sa.select(worth_releases).order_by(worth_releases.c.week.desc()).limit(_WEEKS)
        rows = self._metadata.fetch(query)
        return [msgspec.json.decode(row.released, type=ReleasedWeek) for row in reversed(rows)]

    def _count(self, since: int, until: int | None, now: int) -> WorthTally:
        tally = WorthTally(
            since=since,
            until=until,
            lasts=_LASTS_MS,
            step=DAY_MS,
            allows=self._outcomes.allows,
            recipients=self._outcomes.recipients(),
        )
        for log in self._opened():
            read_on(log, tally, log.offset_at(since))
        tally.close(now)
        return tally

    def _opened(self) -> Sequence[EventLog]:
        if self._logs is None:
            self._logs = self._outcomes.logs()
        return self._logs

    def _nothing(self, source: str, reason: str) -> ReadOutMessage:
        return ReadOutMessage(
            key=HOLDOUT,
            source="exact" if source == "exact" else "released",
            at=self._clock(),
            since=0,
            until=None,
            sample_ratio=ratio_check(dict.fromkeys(self.shares, 0), self.shares),
            reason=reason,
        )


def charges_of(since: int, epsilon: float) -> list[Query]:
    """Return the charges of a week: ε on each of its days, as the days of a stage of a rollout."""
    return [
        Query(
            f"effect against the holdout, week of {date_of(since // DAY_MS)}: {date_of(day)}",
            day,
            day,
            Fraction(str(epsilon)),
            purpose="rollouts",
            mechanism="discrete Laplace noise on histograms of clicks and orders",
        )
        for day in range(since // DAY_MS, since // DAY_MS + 7)
    ]
