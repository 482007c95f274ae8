"""Draw and store the noisy cells of an experiment's metrics, day by day, each once.

A day of exposures is drawn when its last unit's window is over by the clock of the server, whatever
events arrive, so no unit decides when. The days whose events can count are charged to the ledger
before noise is drawn; if a budget refuses one, nothing is drawn for it. Cells that were drawn stay
as they are: late events, erasures and new definitions change later days alone.

Guarantee: a unit (one key of the log: a user, or a device without a login) counts from its first
exposure, in one arm and on one day, so all days and arms of a metric cost a unit the epsilon of
that metric, and all metrics of the experiment the epsilon of its plan, also if start, metrics or
epsilon change (`due_days`, `first_time`). For that, an event counts for one key alone (`by_key`). A
unit may count twice if it is erased and returns, or withdraws consent to measurement and gives it
again.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import partial

import msgspec
import numpy as np
import sqlalchemy as sa

from tactful.config.privacy import RetentionSettings
from tactful.experiment_metrics.columns import LogColumns
from tactful.experiment_metrics.outcomes import UnitOutcomes
from tactful.experiment_metrics.released_cells import (
    MetricRelease,
    fingerprint,
    noise_of,
    refusal_of,
    release_cells,
)
from tactful.experiments.baseline import DAY_MS
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import metric_releases
from tactful.schemas.experiments.metrics import MetricDefinition, MetricPlan
from tactful_privacy.ledger.budget import date_of
from tactful_privacy.ledger.query import Query
from tactful_privacy.mechanisms.backends import Noise
from tactful_streaming.log.event_log import EventLog

UNIT = "one user, or one device without a login; all days of the experiment"
"""Unit of privacy of a release."""

_LATE_MS = 3_600_000  # events of a window may come so late
_MIX = np.int64(-7046029254386353131)  # odd: the golden ratio in 64 bits
_LONGEST_NAME = 60

_table = metric_releases.c

Held = Mapping[str, Mapping[int, MetricRelease]]
"""Drawn days by metric and day since 1970-01-01."""


def drawn_metrics(
    plan: MetricPlan, metrics: Mapping[str, MetricDefinition]
) -> tuple[dict[str, MetricDefinition], dict[str, str]]:
    """Return the metrics that are drawn, and the reasons of those that are not released.

    The parts of a released ratio are drawn, and the ratio follows from them.
    """
    refused = {
        name: reason for name in plan.roles if (reason := refusal_of(metrics[name], metrics))
    }
    drawn: dict[str, MetricDefinition] = {}
    for name in plan.roles:
        if name not in refused:
            for part in metrics[name].parts or (name,):
                drawn[part] = metrics[part]
    return drawn, refused


def closed_days(metric: MetricDefinition, start: int, now: int) -> range:
    """Return the UTC days of exposures whose windows are over, since 1970-01-01."""
    over = (now - metric.lasts - _LATE_MS) // DAY_MS  # this day has not ended for every unit
    return range(start // DAY_MS, max(over, start // DAY_MS))


def closes_at(metric: MetricDefinition, day: int) -> int:
    """Return the time at which a day of exposures is closed, epoch milliseconds."""
    return (day + 1) * DAY_MS + metric.lasts + _LATE_MS


def first_time(start: int, held: Held) -> int:
    """Return the time from which exposures are read, epoch milliseconds.

    It is the earliest start of the experiment that days were drawn for. After a later start, the
    first exposure of a unit that was drawn already must not look like one that was not.
    """
    drawn = [min(days) for days in held.values() if days]
    return min([start, *(day * DAY_MS for day in drawn)])


def due_days(
    plan: MetricPlan, drawn: Mapping[str, MetricDefinition], held: Held, now: int
) -> dict[str, list[int]]:
    """Return the closed days that are to be drawn, by metric.

    A day before the last one of a metric is not drawn any more: after an earlier start, a unit that
    stands on a later day would count again. Neither is a day on which metrics that the plan had
    before have used its epsilon up: a unit stands on the same day in all metrics.

    Args:
        plan: plan with epsilon and start.
        drawn: metrics to draw.
        held: drawn days of the experiment, also of metrics that the plan had before.
        now: present time, epoch milliseconds.
    """
    spent: dict[int, Fraction] = {}
    for days in held.values():
        for day, release in days.items():
            spent[day] = spent.get(day, Fraction(0)) + Fraction(release.epsilon)
    each, due = epsilon_of_metric(plan, drawn), {}
    for name, metric in drawn.items():
        last = max(held.get(name, {}), default=-1)
        due[name] = [
            day
            for day in closed_days(metric, plan.start or 0, now)
            if day > last and spent.get(day, Fraction(0)) + each <= each * len(drawn)
        ]
        for day in due[name]:
            spent[day] = spent.get(day, Fraction(0)) + each
    return due


def epsilon_of_metric(plan: MetricPlan, drawn: Mapping[str, MetricDefinition]) -> Fraction:
    """Return the privacy loss of one metric: an equal part of the plan's."""
    return Fraction(str(plan.epsilon)) / len(drawn)


def charges_of(
    experiment: str, metric: MetricDefinition, day: int, epsilon: Fraction
) -> list[Query]:
    """Return the charges of a day of exposures: epsilon on each day whose events can count.

    A day is charged once for an experiment and metric, also if several days of exposures reach it:
    a unit stands in one of them.
    """
    last = ((day + 1) * DAY_MS + metric.lasts - 1) // DAY_MS
    name = f"metric {_short(metric.name)} of {_short(experiment)}, epsilon {epsilon}"
    return [
        Query(
            f"{name}: {date_of(counted)}",
            counted,
            counted,
            epsilon,
            purpose="rollouts",
            mechanism="discrete Laplace noise on the users in each cell of an arm and day",
        )
        for counted in range(day, last + 1)
    ]


def by_key(columns: LogColumns) -> LogColumns:
    """Let each event count for one key of the log alone, and return the columns.

    A device that several people share would otherwise join or part other people's outcomes when
    one of them is removed, and a repeated event id drop an event of another key.
    """
    columns.links.clear()
    for table in columns.tables.values():
        users, devices = (np.array(it, np.int64) for it in (table.users, table.devices))
        devices = np.where(users >= 0, -1, devices)
        table.devices = array("q", devices.tobytes())
        keys = (users + 1) * 2 + np.where(devices >= 0, 2 * devices + 1, 0)
        identities = np.array(table.identities, np.int64) ^ (keys * _MIX)
        table.identities = array("q", identities.tobytes())
    return columns


def reaches_back(logs: Sequence[EventLog], start: int) -> bool:
    """Return whether the log still has all exposures since a start.

    Without the first one of a unit, a later one would count it a second time.
    """
    return all(log.begin == 0 or log.offset_at(start) > log.begin for log in logs)


def keeps_ms(retention: RetentionSettings) -> int | None:
    """Return the time for which the log keeps every exposure, milliseconds; None for ever."""
    days = (
        retention.personalisation_days,
        retention.measurement_days,
        retention.impressions_days,
    )
    limits = [int(limit * DAY_MS) for limit in days if limit]
    return min(limits) if limits else None


class ReleasedDays:
    """The drawn days of an installation's experiments; StorageError if they cannot be used."""

    def __init__(
        self,
        metadata: MetadataStore,
        *,
        charge: Callable[[Iterable[Query]], None],
        noise: Callable[[Fraction], Noise] = noise_of,
        chance: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Use a database and a ledger; `noise` and `chance` are replaced by tests alone."""
        self._metadata = metadata
        self._charge = charge
        self._noise = noise
        self._chance = chance

    def all(self, experiment: str) -> dict[str, dict[int, MetricRelease]]:
        """Return the drawn days of an experiment by metric and day."""
        query = sa.select(metric_releases).where(_table.experiment == experiment)
        found: dict[str, dict[int, MetricRelease]] = {}
        for row in self._metadata.fetch(query.order_by(_table.metric, _table.day)):
            release = msgspec.json.decode(row.released, type=MetricRelease)
            found.setdefault(row.metric, {})[int(row.day)] = release
        return found

    def of_metrics(
        self, experiment: str, drawn: Mapping[str, MetricDefinition], start: int
    ) -> dict[str, dict[int, MetricRelease]]:
        """Return the drawn days since a start of the metrics as they are defined now."""
        held = self.all(experiment)
        return {
            name: {
                day: release
                for day, release in held.get(name, {}).items()
                if release.definition == fingerprint(metric) and day >= start // DAY_MS
            }
            for name, metric in drawn.items()
        }

    def draw(
        self,
        experiment: str,
        metric: MetricDefinition,
        days: Iterable[int],
        seen: UnitOutcomes,
        epsilon: Fraction,
    ) -> None:
        """Draw the days of a metric that no process has drawn yet.

        Args:
            experiment: key of the experiment.
            metric: the metric.
            days: closed days of exposures.
            seen: outcomes of all units, each event of one key alone.
            epsilon: privacy loss of a unit in this metric.

        Raises:
            BudgetError: if the ledger has no room for a day; those before it are drawn.
        """
        for day in days:
            arms = outcomes_of_day(seen, metric.name, day)
            draw = partial(self._draw, (experiment, day), metric, arms, epsilon)
            self._metadata.change(draw)

    def _draw(
        self,
        place: tuple[str, int],
        metric: MetricDefinition,
        arms: Mapping[str, Mapping[str, float]],
        epsilon: Fraction,
        connection: sa.Connection,
    ) -> None:
        experiment, day = place
        known = sa.select(_table.day).where(
            _table.experiment == experiment, _table.metric == metric.name, _table.day == day
        )
        if connection.execute(known).first() is not None:
            return
        self._charge(charges_of(experiment, metric, day, epsilon))
        released = release_cells(metric, arms, self._noise(epsilon), chance=self._chance(32))
        row = {"experiment": experiment, "metric": metric.name, "day": day}
        text = msgspec.json.encode(released).decode()
        connection.execute(sa.insert(metric_releases).values(**row, released=text))


def outcomes_of_day(seen: UnitOutcomes, metric: str, day: int) -> dict[str, dict[str, float]]:
    """Return the outcomes of the units that were first exposed on a day, by arm and unit."""
    values = seen.metrics[metric].values
    places = np.flatnonzero(seen.exposed_at // DAY_MS == day)
    arms: dict[str, dict[str, float]] = {arm: {} for arm in seen.arms}
    for place in places.tolist():
        arms[seen.arms[int(seen.arm[place])]][seen.units[place]] = float(values[place])
    return arms


def _short(name: str) -> str:
    """Return a name that leaves room in that of a query."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:40]}…{hashlib.sha256(name.encode()).hexdigest()[:16]}"
