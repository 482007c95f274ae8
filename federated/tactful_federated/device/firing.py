"""Decision whether a trigger fires now, from the state of the triggers that a device keeps.

    no open foresight -> probability >= threshold -> caps of the day -> quiet time, gap -> fires

Caps hold on each local day, also if the clock of a device was wrong: a day that it returns to keeps
its counts, and counts of days that lie ahead of the right clock end with the next day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from tactful_federated.device.event_store import StoredVisit
from tactful_federated.device.pace import DAY_S
from tactful_federated.device.triggers import Foresight, Likely, Trigger, TriggerLimits

_KEPT_DAYS: Final = 4
"""Number of days that were left whose counts are kept, in case the clock returns to them."""


class OpenForesight(msgspec.Struct, frozen=True):
    """Foresight that is not over, or was wrong and is not rearmed."""

    at: float
    visit: int  # number of the latest visit when it fired
    low: bool = False  # whether the probability fell below `rearm` since


class DayCounts(msgspec.Struct, frozen=True):
    """Foresights of a day by trigger, and how many of them were noticed."""

    fired: dict[str, int] = {}
    noticed: int = 0


class TriggerState(msgspec.Struct, frozen=True):
    """State of the triggers of a device, saved before any action."""

    day: int = 0  # local day of `today`
    today: dict[str, int] = {}  # foresights of the day by trigger
    noticed: int = 0  # noticed ones of the day
    others: dict[int, DayCounts] = {}  # of the days that were left last
    noticed_at: float = 0.0
    open: dict[str, OpenForesight] = {}
    untold: list[Foresight] = []  # that a server has not taken
    generation: str = ""  # of the store of visits that `open` and `untold` are about


@dataclass(frozen=True)
class Moment:
    """Present of a device.

    Attributes:
        now: Seconds since the epoch.
        day: Number of the local day.
        hour: Hour of the local day.
        visits: Visits by time.
        latest: Highest number of a visit; 0 without visits.
    """

    now: float
    day: int
    hour: float
    visits: Sequence[StoredVisit]
    latest: int

    def since(self, number: int) -> list[StoredVisit]:
        """Return visits that were stored after the visit of a number."""
        return [visit for visit in self.visits if visit.number > number]


def of_store(state: TriggerState, generation: str) -> TriggerState:
    """Return the state without what belongs to visits that were wiped; counts of the day stay."""
    if state.generation == generation:
        return state
    return msgspec.structs.replace(state, open={}, untold=[], generation=generation)


def decide(
    state: TriggerState,
    trigger: Trigger,
    likely: Likely,
    moment: Moment,
    limits: TriggerLimits,
) -> tuple[TriggerState, bool]:
    """Return the next state, and whether the trigger fires now."""
    state = _on_day(state, moment.day)
    opened = state.open.get(trigger.name)
    if opened is not None:
        opened = _still_open(trigger, opened, likely, moment)
        rest = {name: other for name, other in state.open.items() if name != trigger.name}
        if opened is not None:
            rest[trigger.name] = opened
        state = msgspec.structs.replace(state, open=rest)
    if opened is not None or likely.probability < trigger.threshold:
        return state, False
    if state.today.get(trigger.name, 0) >= trigger.most_per_day:
        return state, False
    if trigger.is_noticed and not _may_notice(state, moment, limits):
        return state, False
    count = state.today.get(trigger.name, 0) + 1
    state = msgspec.structs.replace(
        state,
        today={**state.today, trigger.name: count},
        noticed=state.noticed + trigger.is_noticed,
        noticed_at=moment.now if trigger.is_noticed else state.noticed_at,
        open={**state.open, trigger.name: OpenForesight(moment.now, moment.latest)},
    )
    return state, True


def _on_day(state: TriggerState, day: int) -> TriggerState:
    """Return the state with the counts of a day; one before the latest inherits those as well.

    So setting a clock back frees nothing, and one that was far ahead blocks no later day.
    """
    if day == state.day:
        return state
    left, counts = DayCounts(state.today, state.noticed), state.others.get(day, DayCounts())
    if day < state.day:
        fired = {
            name: max(left.fired.get(name, 0), counts.fired.get(name, 0))
            for name in left.fired | counts.fired
        }
        counts = DayCounts(fired, max(left.noticed, counts.noticed))
    others = {other: known for other, known in state.others.items() if other != day}
    if left.fired or left.noticed:
        others[state.day] = left
    others = dict([*others.items()][-_KEPT_DAYS:])
    return msgspec.structs.replace(
        state, day=day, today=counts.fired, noticed=counts.noticed, others=others
    )


def _may_notice(state: TriggerState, moment: Moment, limits: TriggerLimits) -> bool:
    gap = abs(moment.now - state.noticed_at)  # a clock may have been set back a little
    return (
        not limits.is_quiet(moment.hour)
        and state.noticed < limits.most_per_day
        and gap >= 60 * limits.gap_minutes
    )


def _still_open(
    trigger: Trigger, opened: OpenForesight, likely: Likely, moment: Moment
) -> OpenForesight | None:
    """Return the foresight, or None if its trigger may fire again."""
    wanted, later = set(trigger.categories), moment.since(opened.visit)
    if any(wanted.intersection(visit.categories) for visit in later):
        return None
    low = opened.low or likely.probability < trigger.rearm
    # One that fired while the clock was ahead would be open until that time.
    opened = msgspec.structs.replace(opened, at=min(opened.at, moment.now), low=low)
    if trigger.days is None:
        is_over = sum(len(set(visit.categories)) for visit in later) >= trigger.steps
    else:
        is_over = moment.now >= opened.at + trigger.days * DAY_S
    return None if is_over and opened.low else opened
