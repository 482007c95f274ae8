"""Outcomes of units equal a recount event by event; planted bugs are found by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.platform.experiment_metrics.naive import (
    ARMS,
    BEGIN,
    DAY,
    HOUR,
    KEY,
    METRICS,
    random_log,
    recount,
)
from tests.platform.memory_log import log_of

from tactful.experiment_metrics import columns as columns_module
from tactful.experiment_metrics import outcomes as outcomes_module
from tactful.experiment_metrics.columns import EventTable, LogColumns, ReadSpan
from tactful.experiment_metrics.definitions import load_metrics
from tactful.experiment_metrics.outcomes import UnitOutcomes, unit_outcomes
from tactful_streaming.contract.log_entries import Entry

_SET = load_metrics(METRICS)
_PLAN = _SET.plans[KEY]
_OF_PLAN = _SET.of_plan(_PLAN)


def times_of(seed: int) -> tuple[int, int]:
    """Return the begin of exposures and the present of a random log."""
    return BEGIN + (seed % 3) * DAY, BEGIN + (4 + seed % 4) * DAY + 5 * HOUR


def computed(entries: list[Entry], seed: int) -> UnitOutcomes:
    since, now = times_of(seed)
    span = ReadSpan(since, None, now, _PLAN.cuped_ms)
    read = LogColumns(KEY, _OF_PLAN, span, attributes=("context", "user"))
    read.read_log(log_of(entries, format="json" if seed % 5 == 0 else "msgpack"))
    return unit_outcomes(
        read, ARMS, _OF_PLAN, now=now, cuped_ms=_PLAN.cuped_ms, segments=_PLAN.segments
    )


def differs(seed: int) -> str:
    """Return the first difference from the recount; empty if all is equal."""
    entries = random_log(seed)
    since, now = times_of(seed)
    truth = recount(entries, _OF_PLAN, since=since, now=now, cuped_ms=_PLAN.cuped_ms)
    found = computed(entries, seed)
    if [*found.units] != sorted(truth.units):
        return f"units {found.units}, not {sorted(truth.units)}"
    if (found.crossed, found.unknown) != (truth.crossed, truth.unknown):
        return f"left out {found.crossed}, {found.unknown}, not {truth.crossed}, {truth.unknown}"
    for name, members in truth.segments.items():
        if {it for it, inside in zip(found.units, found.segments[name], strict=True) if inside} != (
            members
        ):
            return f"segment {name}"
    for number, key in enumerate(found.units):
        unit = truth.units[key]
        if {ARMS[found.arm[number]]} != unit.arms or found.exposed_at[number] != unit.at:
            return f"arm or time of {key}"
        for name, outcomes in found.metrics.items():
            metric = outcomes.metric
            first, second = metric.parts or (name, name)
            lasts = _OF_PLAN[first].lasts
            if bool(outcomes.complete[number]) != (unit.at + lasts <= now):
                return f"{name} of {key} is complete"
            if outcomes.values[number] != unit.outcomes[first]:
                return f"{name} of {key}: {outcomes.values[number]}, not {unit.outcomes[first]}"
            if outcomes.before[number] != unit.before[first]:
                return f"{name} of {key} before"
            below = outcomes.denominators
            if below is not None and below[number] != unit.outcomes[second]:
                return f"{name} of {key} below"
            if outcomes.event_units is not None and outcomes.event_values is not None:
                own = outcomes.event_values[outcomes.event_units == number]
                expected = unit.prices[name] if outcomes.complete[number] else []
                if sorted(own.tolist()) != sorted(expected):
                    return f"values of {name} of {key}"
    return ""


@pytest.mark.parametrize("block", range(4))
def test_outcomes_equal_a_recount_of_random_logs(block: int) -> None:
    for seed in range(block * 75, (block + 1) * 75):
        assert not differs(seed), f"seed {seed}: {differs(seed)}"


@pytest.mark.slow  # 3,000 logs take 15 seconds
def test_outcomes_equal_a_recount_of_thousands_of_random_logs() -> None:
    for seed in range(10_000, 13_000):
        assert not differs(seed), f"seed {seed}: {differs(seed)}"


def _patched(module: Any, name: str, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def plant(patch: Any) -> None:
        patch.setattr(module, name, change(getattr(module, name)))

    return plant


def _repeated_events_count(rows: Any) -> Any:
    def wrong(table: EventTable, *more: Any) -> Any:
        unlike = EventTable(table.users, table.devices, table.times, table.numbers)
        unlike.identities.extend(range(len(table.times)))
        return rows(unlike, *more)

    return wrong


def _shifted(low: int, high: int) -> Callable[[Any], Any]:
    def change(within: Any) -> Any:
        return lambda self, first, last: within(self, first + low, last + high)

    return change


def _no_cap(totals: Any) -> Any:
    import msgspec

    return lambda metric, *more: totals(msgspec.structs.replace(metric, cap=None), *more)


def _one_sided_cap(totals: Any) -> Any:
    import msgspec

    def wrong(metric: Any, rows: Any, units: int) -> Any:
        free = totals(msgspec.structs.replace(metric, cap=None), rows, units)
        capped = metric.kind in ("sum", "count") and metric.cap is not None
        return np.minimum(free, metric.cap) if capped else free

    return wrong


def _ignore_filter(number_in: Any) -> Any:
    import msgspec

    return lambda event, metric: number_in(event, msgspec.structs.replace(metric, filter={}))


def _ignore_times(number_in: Any) -> Any:
    import msgspec

    return lambda event, metric: number_in(event, msgspec.structs.replace(metric, times=""))


def _trust_claims(as_exposure: Any) -> Any:
    import msgspec

    def wrong(event: Any) -> Any:
        found = as_exposure(event)
        return None if found is None else msgspec.structs.replace(found, verified=True)

    return wrong


def _any_link_wins(link: Any) -> Any:
    def wrong(self: Any, event: Any) -> None:
        if event.user_id is not None and event.device_id is not None:
            self.links[f"device:{event.device_id}"] = event.user_id

    return wrong


def _all_attributes_new(members: Any) -> Any:
    def wrong(segment: Any, units: Any, read: Any) -> Any:
        later = [(name, outcomes_module._Unit(it.arms, it.at + 9 * DAY, it.attributes))
                 for name, it in units]  # fmt: skip
        return members(segment, later, read)

    return wrong


PLANTED = {
    "repeated events count": _patched(outcomes_module, "_rows", _repeated_events_count),
    "the window's end counts": _patched(outcomes_module._Rows, "within", _shifted(0, 1)),
    "the exposure's time does not": _patched(outcomes_module._Rows, "within", _shifted(1, 0)),
    "events before the exposure count": _patched(
        outcomes_module._Rows, "within", _shifted(-2 * HOUR, 0)
    ),
    "no cap": _patched(outcomes_module, "_totals", _no_cap),
    "a cap above alone": _patched(outcomes_module, "_totals", _one_sided_cap),
    "the filter is ignored": _patched(columns_module, "number_in", _ignore_filter),
    "the quantity is ignored": _patched(columns_module, "number_in", _ignore_times),
    "claims of clients are trusted": _patched(columns_module, "as_exposure", _trust_claims),
    "impressions of clients are trusted": _patched(
        columns_module, "is_served", lambda _: lambda event: True
    ),
    "a shared device is its last user's": _patched(LogColumns, "_link", _any_link_wins),
    "no device is a user's": _patched(LogColumns, "_link", lambda _: lambda self, event: None),
    "users as described later": _patched(outcomes_module, "_members", _all_attributes_new),
    "consent is ignored": _patched(
        columns_module, "event_for", lambda _: lambda entry, purpose: getattr(entry, "event", entry)
    ),
    "large amounts count": _patched(columns_module, "LARGEST_AMOUNT", lambda _: 1e12),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_the_recount_finds_a_planted_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[bug](monkeypatch)
    assert any(differs(seed) for seed in range(200))
