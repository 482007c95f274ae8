"""Compute the outcomes of each unit of an experiment from columns of the log.

A unit is a user, or a device that no event connects with exactly one user. It counts from its first
exposure, in the arm it then got; a unit that was exposed to several arms is left out. Its outcome
is complete, and counts, once the window of the metric is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.experiment_metrics.columns import EventTable, FirstExposure, LogColumns
from tactful.schemas.experiments.metrics import MetricDefinition, SegmentDefinition
from tactful_bandits.assignment.conditions import matches

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Truths = NDArray[np.bool_]


@dataclass(frozen=True)
class MetricOutcomes:
    """Outcomes of all units on one metric."""

    metric: MetricDefinition
    complete_at: (
        Integers  # time at which each unit's window is over, epoch milliseconds, ``[units]``
    )
    complete: Truths  # whether it is over, ``[units]``
    values: Floats  # outcome of each unit, capped, ``[units]``; 0 or 1 of a share
    before: Floats  # the same before the exposure, for CUPED, ``[units]``
    denominators: Floats | None = None  # of a ratio, ``[units]``
    # Of a quantile: numbers of the units and values of all events, ``[events]``
    event_units: Integers | None = None
    event_values: Floats | None = None


@dataclass(frozen=True)
class UnitOutcomes:
    """Units of an experiment, and their outcomes."""

    arms: tuple[str, ...]  # the control first
    units: Sequence[str]  # key of each unit
    arm: Integers  # place of each unit's arm in `arms`, ``[units]``
    exposed_at: Integers  # its first exposure, epoch milliseconds, ``[units]``
    metrics: Mapping[str, MetricOutcomes]  # by name
    segments: Mapping[str, Truths]  # whether each unit belongs to a segment, by name, ``[units]``
    crossed: int  # number of units that were exposed to several arms, and left out
    unknown: int  # number of units in an arm that the experiment does not have, and left out

    def people(self) -> dict[str, int]:
        """Count the units of each arm."""
        counts = np.bincount(self.arm, minlength=len(self.arms))
        return {arm: int(count) for arm, count in zip(self.arms, counts, strict=True)}


@dataclass
class _Unit:
    """A unit while exposures of several names are joined."""

    arms: set[str]
    at: int
    attributes: Mapping[str, object]


def unit_outcomes(
    columns: LogColumns,
    arms: Sequence[str],
    metrics: Mapping[str, MetricDefinition],
    *,
    now: int,
    cuped_ms: int = 0,
    segments: Sequence[SegmentDefinition] = (),
) -> UnitOutcomes:
    """Join exposures and events by unit.

    Args:
        columns: what was read from the log.
        arms: names of the arms, the control first.
        metrics: metrics by name; the parts of a ratio stand before it.
        now: outcomes are complete as of this time, epoch milliseconds.
        cuped_ms: time before the exposure whose outcomes are returned as `before`.
        segments: segments to find the units of.
    """
    joined = _joined(columns)
    crossed = sum(len(unit.arms) > 1 for unit in joined.values())
    known = {name: unit for name, unit in joined.items() if len(unit.arms) == 1}
    place = {arm: number for number, arm in enumerate(arms)}
    # Sorted: the order of sums, and so the last digit of a number, is that of the units alone.
    kept = sorted((name, unit) for name, unit in known.items() if unit.arms & place.keys())
    units = [name for name, _ in kept]
    exposed_at = np.array([unit.at for _, unit in kept], np.int64)
    arm = np.array([place[next(iter(unit.arms))] for _, unit in kept], np.int64)
    numbers = _unit_of_name(columns, units)
    found: dict[str, MetricOutcomes] = {}
    for name, metric in metrics.items():
        if metric.kind == "ratio":
            found[name] = _ratio(metric, found[metric.numerator], found[metric.denominator])
            continue
        rows = _rows(columns.tables[name], numbers, exposed_at)
        found[name] = _outcomes(metric, rows, exposed_at, now=now, cuped_ms=cuped_ms)
    return UnitOutcomes(
        tuple(arms),
        units,
        arm,
        exposed_at,
        found,
        {it.name: _members(it, kept, columns) for it in segments},
        crossed,
        len(known) - len(kept),
    )


def _joined(columns: LogColumns) -> dict[str, _Unit]:
    """Join the exposures of a user and of the devices that are this user's alone."""
    joined: dict[str, _Unit] = {}
    for (subject, arm), first in columns.exposures.items():
        name = columns.links.get(subject) or subject
        unit = joined.get(name)
        if unit is None:
            joined[name] = _Unit({arm}, first.at, first.attributes)
            continue
        unit.arms.add(arm)
        if _order(first) < (unit.at, str(unit.attributes)):
            unit.at, unit.attributes = first.at, first.attributes
    return joined


def _order(first: FirstExposure) -> tuple[int, str]:
    return first.at, str(first.attributes)


def _unit_of_name(columns: LogColumns, units: Sequence[str]) -> Integers:
    """Return the number of the unit of each name in the columns, -1 for none; the last is -1."""
    of_unit = {name: number for number, name in enumerate(units)}
    numbers = np.full(len(columns.names) + 1, -1, np.int64)
    for name, number in columns.names.items():
        numbers[number] = of_unit.get(columns.links.get(name) or name, -1)
    return numbers


@dataclass(frozen=True)
class _Rows:
    """Events of exposed units: number of the unit, time since its exposure, and number."""

    unit: Integers
    age: Integers
    number: Floats

    def within(self, low: int, high: int) -> _Rows:
        """Return the events of an age, half open."""
        inside = (self.age >= low) & (self.age < high)
        return _Rows(self.unit[inside], self.age[inside], self.number[inside])


def _rows(table: EventTable, unit_of_name: Integers, exposed_at: Integers) -> _Rows:
    """Return each event once for each unit that it names."""
    identities = np.array(table.identities, np.int64)
    _, first = np.unique(identities, return_index=True)  # a repeated event counts once
    first = np.sort(first)
    times = np.array(table.times, np.int64)[first]
    values = np.array(table.numbers, np.float64)[first]
    user = unit_of_name[np.array(table.users, np.int64)[first]]
    device = unit_of_name[np.array(table.devices, np.int64)[first]]
    device[device == user] = -1
    units, ages, numbers = [], [], []
    for unit in (user, device):
        exposed = unit >= 0
        units.append(unit[exposed])
        ages.append(times[exposed] - exposed_at[unit[exposed]])
        numbers.append(values[exposed])
    return _Rows(np.concatenate(units), np.concatenate(ages), np.concatenate(numbers))


def _outcomes(
    metric: MetricDefinition, rows: _Rows, exposed_at: Integers, *, now: int, cuped_ms: int
) -> MetricOutcomes:
    complete_at = exposed_at + metric.lasts
    complete = complete_at <= now
    inside = rows.within(metric.delay_ms, metric.lasts)
    before = _totals(metric, rows.within(-cuped_ms, 0), len(exposed_at))
    values = _totals(metric, inside, len(exposed_at))
    if metric.kind != "quantile":
        return MetricOutcomes(metric, complete_at, complete, values, before)
    counted = complete[inside.unit] if len(inside.unit) else np.zeros(0, bool)
    return MetricOutcomes(
        metric,
        complete_at,
        complete,
        values,
        before,
        event_units=inside.unit[counted],
        event_values=inside.number[counted],
    )


def _totals(metric: MetricDefinition, rows: _Rows, units: int) -> Floats:
    """Return the outcome of each unit from its events."""
    totals = np.bincount(rows.unit, rows.number, minlength=units).astype(np.float64)
    if metric.kind in ("binary", "retention"):
        return (np.bincount(rows.unit, minlength=units) > 0).astype(np.float64)
    if metric.kind == "quantile":
        return np.bincount(rows.unit, minlength=units).astype(np.float64)
    if metric.cap is not None:
        totals = np.clip(totals, -metric.cap, metric.cap)
    return totals


def _ratio(
    metric: MetricDefinition, above: MetricOutcomes, below: MetricOutcomes
) -> MetricOutcomes:
    return MetricOutcomes(
        metric,
        above.complete_at,
        above.complete,
        above.values,
        above.before,
        denominators=below.values,
    )


def _members(
    segment: SegmentDefinition, units: Sequence[tuple[str, _Unit]], columns: LogColumns
) -> Truths:
    """Return which units a segment's condition holds for, as of their first exposure."""
    found = []
    for name, unit in units:
        described = [it for it in columns.described.get(name, ()) if it[0] <= unit.at]
        described.reverse()  # of equal times, the description that came last holds
        latest = max(described, key=lambda it: it[0])[1] if described else {}
        found.append(matches(segment.condition, {**unit.attributes, "user": latest}))
    return np.array(found, bool)
