"""Count the outcomes of recommendations, user by user and arm by arm.

The log is read inside the trusted zone. Users are assigned to arms, so users are counted: their
recommendations, those from which they took something, the amount spent, and the latencies. Only
recommendations whose outcome time is not over are held in memory.

Decisions of a bandit count as recommendations without items: events that name one take it.

Only the server's own impressions and decisions count, each once, and only events of the user who
was given the recommendation: clients can claim anything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from operator import add
from typing import NamedTuple, Protocol

from tactful.event_log.batches import read_batches
from tactful.event_log.impressions import (
    SHOWN,
    Impression,
    as_impression,
    decision_named,
    is_decision,
    is_served,
)
from tactful.event_log.recipients import LOGINS, Recipients
from tactful.experiments.metrics import ROLLOUTS, spent_in
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import Event, decode_entry, event_for, subject_key
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.engine.erasure import names_subject
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.event_log import EventLog

_CHUNK = 2_048
# Records that come later than this after the end of an outcome time are not counted.
_GRACE_MS = 3_600_000
# Bounds of outcomes that precede their recommendation: servers log it beside the response.
_EARLY = 10_000
_EARLY_EACH = 100
_PURCHASE = "purchase"


class LogReader(Protocol):
    """Interface of what counts records of a log."""

    def begin_log(self) -> None:
        """Begin with another partition."""

    def read(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Count records, given as offset and payload."""


class PersonOutcome(NamedTuple):
    """Outcomes of one user."""

    shown: int  # recommendations whose outcome time is over
    took: int  # those of them from which something was taken
    revenue: float = 0.0  # amount spent on their items
    latency_ms: float = 0.0  # sum of their latencies
    timed: int = 0  # number of them with a known latency
    failed: int = 0  # number of them whose model failed
    flat: int = 0  # number of them whose scores were all equal, or not all numbers

    def plus(self, more: PersonOutcome) -> PersonOutcome:
        """Return the outcomes with those of other recommendations."""
        return PersonOutcome(*map(add, self, more))


class FirstList(NamedTuple):
    """Outcome of the first recommendation that a user was shown."""

    over: int  # end of its outcome time, epoch milliseconds
    arm: str  # its arm
    took: bool  # whether something was taken from it


@dataclass(frozen=True)
class ArmOutcomes:
    """Outcomes of the users of each arm."""

    arms: Mapping[str, Mapping[str, PersonOutcome]]  # outcomes by arm and user
    # Number of users who were shown several arms, as after a login or another split; they are in no
    # arm
    crossed: int
    # By arm, number of users who were shown a recommendation, over or not
    exposed: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _List:
    """A recommendation whose outcome time is not over."""

    person: str
    user_id: str | None
    device_id: str | None
    arm: str
    at: int
    items: tuple[str, ...]
    latency_ms: float | None
    failed: bool = False
    flat: bool = False
    took: bool = False
    revenue: float = 0.0
    paid: set[str] = field(default_factory=set)  # its items that were bought


class Tally:
    """Counts the outcomes of one experiment's recommendations, in the order of the log.

    Memory grows with the users, and with the recommendations whose outcome time is not over.

    ```text
    _open    "rec-9"    → recommendation in its outcome time      ─ close() →  _people, _firsts
    _early   "rec-10"   → outcomes that came before their recommendation; signed ids apart
    _arms    "user:ada" → "change", or None after several arms
    _people  "user:ada" → PersonOutcome(shown=3, took=1, …)
    _last    "user:ada" → time of the newest recommendation in _people
    ```
    """

    def __init__(
        self,
        experiment: str,
        *,
        since: int,
        types: Collection[str],
        lasts: int,
        until: int | None = None,
        allows: Callable[[Event], bool] = lambda event: True,
        recipients: Recipients | None = None,
    ) -> None:
        """Start empty.

        Recommendations count from `since` until `until`, None for ever; events of `types` take an
        item, within `lasts` milliseconds; `allows` says whether an event may be used to measure, by
        its user's present consent; `recipients` whose event it is.
        """
        self._recipients = recipients or Recipients()
        self._experiment = experiment
        self._allows = allows
        self._since = since
        self._until = until
        self._lasts = lasts
        self._types = frozenset(types)
        self._wanted = self._types | {_PURCHASE}
        self._marks = [name.encode() for name in self._wanted.union(SHOWN)]
        self._marks += LOGINS
        self._open: dict[str, _List] = {}
        # Apart, so that ids that a client made up cannot displace others.
        self._early: dict[bool, OrderedDict[str, list[Event]]] = {
            signed: OrderedDict() for signed in (False, True)
        }
        self._arms: dict[str, str | None] = {}
        self._people: dict[str, PersonOutcome] = {}
        self._firsts: dict[str, FirstList] = {}
        self._last: dict[str, int] = {}
        self._newest = 0

    def read(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Count records of the log, given as offset and payload."""
        for offset, payload in records:
            if not any(mark in payload for mark in self._marks):
                continue  # decoding everything would take most of the time
            try:
                event = event_for(decode_entry(payload), Purpose.MEASUREMENT)
            except StreamingError:
                continue
            if event is None or not self._allows(event):
                continue
            self._recipients.note(event)
            decision = decision_named(event)
            identity = decision or event.recommendation_id
            if not identity:
                continue
            if is_decision(event):
                self._show(Impression(offset, offset, event, [], "", "", False, None))
            elif (impression := as_impression(event, offset)) is not None:
                if is_served(event):
                    self._show(impression)
            elif (event.item_id or decision) and event.type in self._wanted:
                self._take(event, identity)
        self.close(self._newest - _GRACE_MS, ordered=True)

    def begin_log(self) -> None:
        """Read another log, whose records may be older than those before."""
        self._newest = 0

    def close(self, now: int, *, ordered: bool = False) -> None:
        """Count the recommendations whose outcome time was over by `now`, epoch milliseconds.

        If `ordered`, stop at the first one that is not over; some after it may be.
        """
        over = []
        for identity, shown in self._open.items():
            if shown.at + self._lasts <= now:
                over.append(identity)
            elif ordered:
                break
        for identity in over:
            shown = self._open.pop(identity)
            timed = shown.latency_ms is not None
            money, latency_ms = shown.revenue, shown.latency_ms or 0.0
            outcome = PersonOutcome(
                1, shown.took, money, latency_ms, timed, shown.failed, shown.flat
            )
            self._count(shown.person, shown.at + self._lasts, outcome)
            self._last[shown.person] = max(shown.at, self._last.get(shown.person, 0))
            first = FirstList(shown.at + self._lasts, shown.arm, shown.took)
            self._firsts[shown.person] = min(first, self._firsts.get(shown.person, first))

    def _count(self, person: str, over: int, outcome: PersonOutcome) -> None:
        """Add the outcome of one recommendation, whose outcome time was over at a time."""
        known = self._people.get(person, PersonOutcome(0, 0))
        self._people[person] = known.plus(outcome)

    def forget(self, traces: SubjectIds) -> None:
        """Remove erased users from all counts."""
        people = traces.people
        for person in people:
            self._arms.pop(person, None)
            self._people.pop(person, None)
            self._firsts.pop(person, None)
            self._last.pop(person, None)
        self._open = {key: shown for key, shown in self._open.items() if shown.person not in people}
        self._recipients.forget(traces)
        for early in self._early.values():
            for identity, events in [*early.items()]:
                if others := [event for event in events if not names_subject(event, traces)]:
                    early[identity] = others
                else:
                    del early[identity]

    def outcomes(self) -> ArmOutcomes:
        """Return the counts so far."""
        arms: dict[str, dict[str, PersonOutcome]] = {}
        exposed: dict[str, int] = {}
        for person, arm in self._arms.items():
            if arm is None:
                continue
            exposed[arm] = exposed.get(arm, 0) + 1
            if (done := self._people.get(person)) is not None:
                arms.setdefault(arm, {})[person] = done
        crossed = sum(arm is None for arm in self._arms.values())
        return ArmOutcomes(arms, crossed, exposed)

    def first_lists(self, after: int, until: int) -> list[FirstList]:
        """Return the first recommendations, one for each user, that were over in (after, until].

        A user stands in one such span and in no other, also if the log is read again. `until` is at
        most the last `close`.
        """
        return [first for first in self._firsts.values() if after < first.over <= until]

    def _show(self, shown: Impression) -> None:
        at, identity = shown.event.timestamp, shown.event.recommendation_id
        self._newest = max(self._newest, at)
        arm, person = self._placed(shown)
        if arm is None or person is None or not identity or at < self._since:
            return
        if (self._until is not None and at > self._until) or identity in self._open:
            return
        if at <= self._last.get(person, -1):  # it was counted, and came again
            return
        if self._arms.setdefault(person, arm) != arm:
            self._arms[person] = None
        properties = shown.event.properties
        took_ms = properties.get("took_ms")
        self._open[identity] = _List(
            person,
            shown.event.user_id,
            shown.event.device_id,
            arm,
            at,
            tuple(shown.items),
            took_ms if isinstance(took_ms, float) else None,
            failed=properties.get("failed") is True,
            flat=_is_flat(properties.get("scores")),
        )
        for early in self._early.values():
            for event in early.pop(identity, ()):
                self._note(identity, event)

    def _placed(self, shown: Impression) -> tuple[str | None, str | None]:
        """Return the arm and the name of the user that a recommendation counts for."""
        return arm_of(shown.event, self._experiment), subject_key(shown.event)

    def _take(self, event: Event, identity: str) -> None:
        if identity in self._open:
            self._note(identity, event)
            return
        early = self._early[self._recipients.is_signed(identity)]
        events = early.setdefault(identity, [])
        if len(events) < _EARLY_EACH:
            events.append(event)
        if len(early) > _EARLY:
            early.popitem(last=False)

    def _note(self, identity: str, event: Event) -> None:
        shown = self._open[identity]
        in_time = shown.at <= event.timestamp < shown.at + self._lasts
        if not in_time or (shown.items and event.item_id not in shown.items):
            return
        if not self._recipients.includes(shown.user_id, shown.device_id, event):
            return
        shown.took |= event.type in self._types
        bought = event.item_id or event.event_id
        if event.type == _PURCHASE and bought not in shown.paid:
            shown.paid.add(bought)  # a client may send any number of purchases
            shown.revenue += spent_in(event)


def read_arm_outcomes(
    log: EventLog, experiment: str, *, since: int, until: int, types: Collection[str], lasts: int
) -> ArmOutcomes:
    """Read an experiment's recommendations whose outcome time is over, and their outcomes.

    Recommendations of a forced arm, and those without a user, are left out. The log, of events that
    may be used to measure, ends at `until`; times are epoch milliseconds.
    """
    tally = Tally(experiment, since=since, types=types, lasts=lasts, until=until - lasts)
    read_on(log, tally, log.begin)
    tally.close(until)
    return tally.outcomes()


def read_on(log: EventLog, tally: LogReader, position: int) -> int:
    """Count a log from an offset to its present end, and return the offset to continue at."""
    position = max(position, log.begin)
    tally.begin_log()
    for records in read_batches(log, position, log.end, size=_CHUNK):
        tally.read(records)
        position = records[-1][0] + 1
    return position


def arm_of(shown: Event, experiment: str) -> str | None:
    """Return the arm of a recommendation or decision, if this experiment or rollout assigned it."""
    properties = shown.properties
    if isinstance(drawn := properties.get(ROLLOUTS), list):
        for rollout in drawn:
            key, _, name = str(rollout).partition(":")
            if key == experiment:
                return name
    arm = properties.get("arm")
    if properties.get("forced") or properties.get("experiment") != experiment:
        return None
    return arm if isinstance(arm, str) else None


def _is_flat(scores: object) -> bool:
    """Return whether scores order nothing: all equal, or one is no number (logged as none)."""
    if not isinstance(scores, list) or not scores:
        return False
    if not all(isinstance(score, int | float) for score in scores):
        return True
    return len(scores) > 1 and min(scores) == max(scores)
