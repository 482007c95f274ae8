"""Read the exposures and events of an experiment from the log, once, into columns.

```text
exposures   ("ada", "short")  → first time, attributes of that event
events      users  devices  times          numbers      one table for each metric
            0      3        1767225661000  49.0         number of a name, -1 for none
```
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tactful.event_log.batches import read_batches
from tactful.event_log.impressions import SHOWN, is_decision, is_served
from tactful.experiment_metrics.record_filter import LINKING, RecordFilter
from tactful.experiments.metrics import LARGEST_AMOUNT
from tactful.experiments.tally import arm_of
from tactful.flags.exposures import EXPOSURE, as_exposure
from tactful.schemas.experiments.metrics import MetricDefinition
from tactful_bandits.assignment.conditions import matches
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import (
    DEVICE_PREFIX,
    Event,
    User,
    decode_entry,
    event_for,
    event_key,
    subject_key,
)
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.event_log import EventLog

_CHUNK = 2_048

Attributes = Mapping[str, object]


@dataclass(frozen=True)
class ReadSpan:
    """Exposures and outcomes to read, in epoch milliseconds."""

    since: int  # first time of exposures
    until: int | None  # last time of exposures; None while they go on
    now: int  # events after this do not count
    before_ms: int = 0  # time before an exposure whose events count for CUPED


@dataclass
class EventTable:
    """Events that count for one metric, as columns."""

    users: array[int] = field(default_factory=lambda: array("q"))  # number of the user, or -1
    devices: array[int] = field(default_factory=lambda: array("q"))  # of the device, or -1
    times: array[int] = field(default_factory=lambda: array("q"))  # epoch milliseconds
    numbers: array[float] = field(default_factory=lambda: array("d"))  # value; 1 of a count
    identities: array[int] = field(default_factory=lambda: array("q"))  # hash of the event's key


@dataclass(frozen=True)
class FirstExposure:
    """First exposure of a user or device to an arm."""

    at: int  # epoch milliseconds
    attributes: Attributes  # for segments; empty if there are none


class LogColumns:
    """Collects the exposures of one experiment, and the events of its metrics.

    Only exposures that the server made or verified count. Memory grows with the exposed units and
    with the events of the metrics.
    """

    def __init__(
        self,
        experiment: str,
        metrics: Mapping[str, MetricDefinition],
        span: ReadSpan,
        *,
        allows: Callable[[Event], bool] = lambda event: True,
        attributes: Collection[str] = (),
    ) -> None:
        """Start empty.

        `metrics` are those to collect events for, by name; `allows` says whether an event may be
        used to measure; `attributes` are the kinds that segments read, such as `context`.
        """
        self._experiment = experiment
        self._span = span
        self._allows = allows
        self._attributes = frozenset(attributes)
        self._counted = {name: it for name, it in metrics.items() if it.kind != "ratio"}
        self._of_type: dict[str, list[tuple[MetricDefinition, EventTable, float]]] = {}
        self.tables = {name: EventTable() for name in self._counted}
        for name, metric in self._counted.items():
            for types, sign in ((metric.events, 1.0), (metric.minus, -1.0)):
                for event_type in types:
                    place = metric, self.tables[name], sign
                    self._of_type.setdefault(event_type, []).append(place)
        self._filter = RecordFilter(experiment, self._of_type, users="user" in self._attributes)
        self.names: dict[str, int] = {}  # number of each user and device
        self.exposures: dict[tuple[str, str], FirstExposure] = {}  # by subject and arm
        self.links: dict[str, str | None] = {}  # by device, its user; None for several
        self.described: dict[str, list[tuple[int, Attributes]]] = {}  # properties of users by time

    def read_log(self, log: EventLog) -> None:
        """Read one partition: earlier logins and users first, then the span."""
        end = log.end
        first = max(log.begin, log.offset_at(self._span.since - self._span.before_ms))
        self.read_before(log, first)
        for records in read_batches(log, first, end, size=_CHUNK):
            self.read(records)

    def read_before(self, log: EventLog, position: int) -> None:
        """Read the logins and users of one partition before an offset."""
        for records in read_batches(log, log.begin, position, size=_CHUNK):
            self.read(records, early=True)

    def forget(self, people: Collection[str]) -> None:
        """Remove erased users and devices; their events count for nobody."""
        for name in people:
            if (number := self.names.pop(name, None)) is not None:
                self.names[f"\0{number}"] = number  # the number stays taken
            self.links.pop(name, None)
            self.described.pop(name, None)
        self.exposures = {
            place: first for place, first in self.exposures.items() if place[0] not in people
        }
        self.links = {
            device: None if user in people else user for device, user in self.links.items()
        }

    def read(self, records: Iterable[tuple[int, bytes]], *, early: bool = False) -> None:
        """Collect records, given as offset and payload; of early ones logins and users alone."""
        selects = self._filter.selects
        for _, payload in records:
            if not selects(payload, early=early):
                continue
            try:
                entry = decode_entry(payload)
            except StreamingError:
                continue
            if type(entry) is User:
                self._describe(entry)
                continue
            event = event_for(entry, Purpose.MEASUREMENT)
            if event is not None and self._allows(event):
                self._take(event)

    def _take(self, event: Event) -> None:
        counted = self._of_type.get(event.type)
        if counted is not None or event.type.startswith(LINKING):
            self._link(event)
        if event.timestamp > self._span.now:
            return
        if event.type == EXPOSURE or event.type in SHOWN:
            self._expose(event)
        if counted is None:
            return
        user = self._number(event.user_id)
        device = -1 if event.device_id is None else self._number(DEVICE_PREFIX + event.device_id)
        identity = hash(event_key(event))
        for metric, table, sign in counted:
            if (number := number_in(event, metric)) is not None:
                table.users.append(user)
                table.devices.append(device)
                table.times.append(event.timestamp)
                table.numbers.append(sign * number)
                table.identities.append(identity)

    def _number(self, name: str | None) -> int:
        return -1 if name is None else self.names.setdefault(name, len(self.names))

    def _link(self, event: Event) -> None:
        if event.user_id is None or event.device_id is None:
            return
        device = DEVICE_PREFIX + event.device_id
        if self.links.setdefault(device, event.user_id) != event.user_id:
            self.links[device] = None

    def _expose(self, event: Event) -> None:
        at = event.timestamp
        if at < self._span.since or (self._span.until is not None and at > self._span.until):
            return
        arm, subject = self._arm_in(event), subject_key(event)
        if arm is None or subject is None:
            return
        known = self.exposures.get((subject, arm))
        if known is None or at < known.at:
            self.exposures[subject, arm] = FirstExposure(at, self._seen(event))
            self._number(subject)

    def _arm_in(self, event: Event) -> str | None:
        """Return the arm of an exposure that the server vouches for; None for others."""
        if event.type == EXPOSURE:
            exposure = as_exposure(event)
            if exposure is None or not exposure.verified:
                return None
            return exposure.arm if exposure.experiment == self._experiment else None
        if not is_decision(event) and not (is_served(event) and event.properties.get("items")):
            return None
        return arm_of(event, self._experiment)

    def _seen(self, event: Event) -> Attributes:
        if not self._attributes:
            return {}
        features = ("features", "layout")  # of a ranking: large, and of no use here
        properties = {k: v for k, v in event.properties.items() if k not in features}
        return {"properties": properties, "context": event.context}

    def _describe(self, user: User) -> None:
        probe = Event(event_id="", type="", timestamp=user.timestamp, user_id=user.user_id)
        if self._allows(probe):
            self.described.setdefault(user.user_id, []).append((user.timestamp, user.properties))


def number_in(event: Event, metric: MetricDefinition) -> float | None:
    """Return the number of an event for a metric, 1 of a count; None if it does not count.

    A value that is missing, no number, or beyond `LARGEST_AMOUNT` does not count: any client can
    send it.
    """
    if metric.filter:
        about = {
            "type": event.type,
            "item_id": event.item_id,
            "properties": event.properties,
            "context": event.context,
        }
        if not matches(metric.filter, about):
            return None
    if not metric.value:
        return 1.0
    value = _number_at(event, metric.value)
    if value is None:
        return None
    if metric.times:
        times = _number_at(event, metric.times)
        value *= 1.0 if times is None else times
    return value if abs(value) <= LARGEST_AMOUNT else None


def _number_at(event: Event, path: str) -> float | None:
    where, _, name = path.partition(".")
    held: Mapping[str, Any] = event.properties if where == "properties" else event.context
    value = held.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond all doubles
        return None
    return number if math.isfinite(number) else None
