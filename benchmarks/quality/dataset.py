"""A data set to measure on: events in the order of arrival, and its variants.

Every set has this form, the one in a stranger's file as well, so no code depends on a set's name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DAY = 86_400_000
GUEST = "guest-"
"""Begins the name of a person that is known by a device only."""

_TAKEN_BACK = frozenset({"return", "refund", "remove_from_cart"})
_VISIT_GAP = 30 * 60_000
_TEST_SHARE = 0.2
_ENOUGH = 1_000
"""Events of a type that make it the one to predict, in a large set."""

Record = tuple[Literal["event", "item"], dict[str, Any]]


@dataclass(frozen=True)
class Dataset:
    """Events in the order of arrival as columns of equal length, and what is asked about them.

    Attributes:
        name: begins the names of the figures.
        items: item upserts that are sent first.
        users: user upserts that are sent first.
        timestamp: event times, epoch milliseconds, shape (n,).
        type: event types.
        person: user id, or a device id that begins with ``guest-``.
        session: visit ids.
        item: item ids, None for an event without one.
        properties: properties of the events.
        cut: number of the first event of the test period.
        answers: event types that make an item a right answer.
        task: what is predicted: the `next` item, or the whole `basket` before its first item.
        sends_session: whether the visit ids are the data's own, so that they are sent.
        asks_guests: whether the visits of guests are asked about.
        updates: item upserts that arrive later: number of the event before which, and the upsert.
        best: returns the best possible recommendation of a person who has seen some items in the
            visit; None where nobody knows.
        note: what a reader must know about the data.
    """

    name: str
    items: Sequence[Mapping[str, Any]]
    users: Sequence[Mapping[str, Any]]
    timestamp: NDArray[np.int64]
    type: Sequence[str]
    person: Sequence[str]
    session: Sequence[str]
    item: Sequence[str | None]
    properties: Sequence[Mapping[str, Any] | None]
    cut: int
    answers: Collection[str]
    task: Literal["next", "basket"] = "next"
    sends_session: bool = True
    asks_guests: bool = True
    updates: Sequence[tuple[int, Mapping[str, Any]]] = ()
    best: Callable[[str, Collection[str]], Collection[str]] | None = None
    note: str = ""

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.timestamp)

    @cached_property
    def is_funnel(self) -> bool:
        """Whether items get events of several types, so that one touch foretells another."""
        types = {kind for kind, item in zip(self.type, self.item, strict=True) if item is not None}
        return len(types - _TAKEN_BACK) > 1

    def records(self, start: int, end: int) -> Iterator[Record]:
        """Yield wire events number `start` to `end`, the last excluded, and upserts between."""
        updates = iter([update for update in self.updates if start <= update[0] < end])
        update = next(updates, None)
        for number in range(start, end):
            while update is not None and update[0] == number:
                yield "item", dict(update[1])
                update = next(updates, None)
            yield "event", self._event(number)

    def events(self, start: int, end: int) -> Iterator[dict[str, Any]]:
        """Yield wire events number `start` to `end`, the last excluded."""
        return (self._event(number) for number in range(start, end))

    def _event(self, number: int) -> dict[str, Any]:
        event: dict[str, Any] = {
            "event_id": f"e{number}",
            "type": self.type[number],
            "timestamp": int(self.timestamp[number]),
            **who(self.person[number]),
        }
        if self.sends_session:
            event["session_id"] = self.session[number]
        if (item := self.item[number]) is not None:
            event["item_id"] = item
        if properties := self.properties[number]:
            event["properties"] = dict(properties)
        return event

    def keep(self, rows: NDArray[np.int64]) -> Dataset:
        """Return the set with some of its events, in the order given."""
        places = np.zeros(len(self) + 1, np.int64)
        places[rows + 1] = 1
        places = np.cumsum(places)  # number of kept events before each, for rows in order
        numbers = rows.tolist()

        def column(values: Sequence[Any]) -> list[Any]:
            return [values[number] for number in numbers]

        return replace(
            self,
            timestamp=self.timestamp[rows],
            type=column(self.type),
            person=column(self.person),
            session=column(self.session),
            item=column(self.item),
            properties=column(self.properties),
            cut=int(places[self.cut]),
            updates=[(int(places[number]), item) for number, item in self.updates],
        )


def who(person: str) -> dict[str, Any]:
    """Return the field that names a person in events and requests."""
    return {"device_id" if person.startswith(GUEST) else "user_id": person}


def squeezed(dataset: Dataset, days: float) -> Dataset:
    """Scale all times so that the set lasts `days`; events of a visit stay in order.

    Two events of one visit stay at least one millisecond apart where they had different times.
    """
    first = int(dataset.timestamp.min())
    # A stray date in the future must not squeeze everything else into nothing.
    last = int(np.quantile(dataset.timestamp, 0.999))
    factor = days * DAY / max(last - first, 1)
    scaled = first + ((dataset.timestamp - first) * factor).astype(np.int64)
    latest: dict[str, tuple[int, int]] = {}
    for number, (session, original) in enumerate(
        zip(dataset.session, dataset.timestamp.tolist(), strict=True)
    ):
        at = int(scaled[number])
        if session in latest:
            was, became = latest[session]
            if original > was:
                at = max(at, became + 1)
            elif original == was:
                at = became
        latest[session] = (original, at)
        scaled[number] = at
    changed = replace(dataset, timestamp=scaled, updates=_scaled(dataset, first, factor))
    # A long visit may now end behind events that came later: arrival follows the new times where it
    # followed the old ones.
    if np.any(np.diff(dataset.timestamp) < 0):
        return changed
    order = np.argsort(scaled[: dataset.cut], kind="stable")
    rest = np.argsort(scaled[dataset.cut :], kind="stable") + dataset.cut
    return _reordered(changed, np.concatenate([order, rest]))


def _scaled(dataset: Dataset, first: int, factor: float) -> list[tuple[int, Mapping[str, Any]]]:
    return [
        (number, {**item, "timestamp": first + int((item["timestamp"] - first) * factor)})
        if "timestamp" in item
        else (number, item)
        for number, item in dataset.updates
    ]


def _reordered(dataset: Dataset, order: NDArray[np.int64]) -> Dataset:
    """Return the events in another order that moves none of them over the cut."""
    return replace(dataset.keep(order), cut=dataset.cut, updates=dataset.updates)


def sent_as(dataset: Dataset, kind: str) -> Dataset:
    """Send every interaction with an item as one event type; what takes one back is left out."""
    rows = [
        number
        for number, (item, was) in enumerate(zip(dataset.item, dataset.type, strict=True))
        if item is not None and was not in _TAKEN_BACK
    ]
    kept = dataset.keep(np.array(rows, np.int64))
    return replace(
        kept,
        type=[kind] * len(kept),
        properties=[None] * len(kept),
        answers=frozenset({kind}),
        best=None,  # a repeated touch is an answer now, too
    )


def read_set(path: Path) -> Dataset:
    """Read a file of NDJSON in the form of the events that the server takes.

    A line with `type` is an event; one without is the upsert of an item (`item_id`) or of a user
    (`user_id`). Events without `session_id` are cut into visits at pauses of half an hour, which
    are not sent. The last fifth of the events is the test period.

    Raises:
        ValueError: if a line is no such object; the message names it.
    """
    upserts: dict[str, list[dict[str, Any]]] = {"item_id": [], "user_id": []}
    events = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                if "type" in record:
                    events.append({**record, "timestamp": _epoch_ms(record["timestamp"])})
                else:
                    key = "item_id" if "item_id" in record else "user_id"
                    upserts[key].append({key: record[key], **record})
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: is no event, item or user: {error!r}"
                ) from None
    return from_events(path.stem, events, items=upserts["item_id"], users=upserts["user_id"])


def _epoch_ms(value: int | str) -> int:
    if isinstance(value, str):
        return int(datetime.fromisoformat(value).timestamp() * 1000)
    return int(value)


def from_events(
    name: str,
    events: Sequence[Mapping[str, Any]],
    *,
    items: Sequence[Mapping[str, Any]] = (),
    users: Sequence[Mapping[str, Any]] = (),
    **rest: Any,
) -> Dataset:
    """Build a set from wire events in the order of arrival.

    Args:
        name: of the set.
        events: with `type`, `timestamp` in milliseconds, `user_id` or `device_id`.
        items: item upserts; an item that has none is upserted with its id alone.
        users: user upserts.
        rest: other attributes of a `Dataset`, instead of the defaults.

    Raises:
        ValueError: if there are no events with an item, or an event names nobody.
    """
    kinds = Counter(str(event["type"]) for event in events if event.get("item_id"))
    for kind in _TAKEN_BACK:
        kinds.pop(kind, None)
    if not kinds:
        raise ValueError(f"{name}: no event has an item_id: there is nothing to ask about")
    people = []
    for event in events:
        person = event.get("user_id")
        if person is None:
            if "device_id" not in event:
                raise ValueError(f"{name}: event {dict(event)} has no user_id and no device_id")
            person = GUEST + str(event["device_id"])
        people.append(str(person))
    timestamp = np.array([event["timestamp"] for event in events], np.int64)
    own = all("session_id" in event for event in events)
    described = {str(item["item_id"]) for item in items}
    touched = dict.fromkeys(str(event["item_id"]) for event in events if event.get("item_id"))
    bare = [{"item_id": item} for item in touched if item not in described]
    fields: dict[str, Any] = {
        "cut": int(len(events) * (1 - _TEST_SHARE)),
        "answers": _strongest(kinds),
        "sends_session": own,
        **rest,
    }
    return Dataset(
        name=name,
        items=[*items, *bare],
        users=users,
        timestamp=timestamp,
        type=[str(event["type"]) for event in events],
        person=people,
        # Two people may use the same visit id.
        session=[str(event["session_id"]) for event in events] if own else _cut(people, timestamp),
        item=[event.get("item_id") for event in events],
        properties=[event.get("properties") for event in events],
        **fields,
    )


def _strongest(kinds: Mapping[str, int]) -> frozenset[str]:
    """Return the types that are right answers: the last stage of the funnel with enough events.

    Args:
        kinds: number of events by type.
    """
    enough = min(_ENOUGH, 0.05 * sum(kinds.values()))
    for stage in ({"purchase", "add_to_cart"}, {"rating"}, {"click"}, {"view"}):
        if sum(kinds.get(kind, 0) for kind in stage) >= enough:
            return frozenset(stage & set(kinds))
    return frozenset(kinds)


def _cut(people: Sequence[str], timestamp: NDArray[np.int64]) -> list[str]:
    """Name visits by person and a number that grows at each pause."""
    latest: dict[str, tuple[int, int]] = {}
    names = []
    for person, at in zip(people, timestamp.tolist(), strict=True):
        was, visit = latest.get(person, (at, 0))
        visit += at - was > _VISIT_GAP
        latest[person] = (at, visit)
        names.append(f"{person}/{visit}")
    return names
