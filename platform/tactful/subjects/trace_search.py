"""Search of log and state for the data of users."""

from __future__ import annotations

import bisect
import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import TypeVar

import msgspec

from tactful.config.settings import Settings
from tactful.event_log.encryption import open_seal
from tactful_streaming.contract.log_entries import (
    DEVICE_PREFIX,
    Entry,
    Event,
    Forwarded,
    Item,
    Link,
    Restricted,
    Transfer,
    User,
    decode_entry,
)
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.engine.erasure import devices_of, names_subject, sessions_of
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.encrypted_log import SealedLog
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.log.redaction import matching_records
from tactful_streaming.sinks.webhook import Delivery
from tactful_streaming.state.store import StateStore

T = TypeVar("T")

_CHUNK = 4_096
_APART = 1 << 48  # more than a partition has records
_MOST_TEXTS = 10_000


@dataclass(frozen=True)
class SearchResult:
    """Data of users in a log.

    ::

        SearchResult(
            SubjectIds(users={"ada"}, devices={"d-1"}, shared={"d-2"}, sessions={"s-7"}, …),
            offsets={512},  # anonymous, on the shared device d-2 while ada used it
            records=9,
        )
    """

    traces: SubjectIds  # their ids
    offsets: frozenset[int]  # offsets of their anonymous records on shared devices
    records: int  # number of their records in the log
    texts: frozenset[str] = frozenset()  # texts in their records, which others may have, too

    def __or__(self, other: SearchResult) -> SearchResult:
        """Combine two searches, the second maybe after some records were removed."""
        return SearchResult(
            self.traces | other.traces,
            self.offsets | other.offsets,
            max(self.records, other.records),
            self.texts | other.texts,
        )

    @property
    def ids(self) -> frozenset[str]:
        """Ids that belong to the users alone."""
        traces = self.traces
        return traces.users | traces.devices | traces.sessions | traces.event_ids

    @property
    def needles(self) -> frozenset[bytes]:
        """Bytes of which one occurs in each of their records."""
        named = self.traces.users | self.traces.devices | self.traces.shared
        return needles_of(named)

    @property
    def keys(self) -> frozenset[str]:
        """Keys under which their records may be sealed."""
        shared = {DEVICE_PREFIX + device for device in self.traces.shared}
        return self.traces.people | shared

    def owns(self, offset: int, entry: Entry) -> bool:
        """Return whether a record of the log belongs to the users."""
        traces = self.traces
        if isinstance(entry, Event | Restricted):
            event = entry.event if isinstance(entry, Restricted) else entry
            if event.user_id is not None:
                return event.user_id in traces.users
            return event.device_id in traces.devices or offset in self.offsets
        if isinstance(entry, User):
            return entry.user_id in traces.users
        if isinstance(entry, Link):
            return entry.user_id in traces.users or entry.device_id in traces.devices
        if isinstance(entry, Transfer):
            device = entry.source.removeprefix(DEVICE_PREFIX)
            return entry.target in traces.users or device in traces.devices
        if isinstance(entry, Forwarded):
            return entry.target in traces.users
        return False

    def owns_payload(self, offset: int, payload: bytes) -> bool:
        """Return the same of an encoded record; a damaged one matches by its bytes."""
        try:
            return self.owns(offset, decode_entry(payload))
        except StreamingError:
            return any(needle in payload for needle in self.needles)

    def owns_delivery(self, delivery: Delivery) -> bool:
        """Return whether a waiting webhook call concerns the users."""
        if delivery.event_id in self.traces.event_ids:
            return True
        try:
            return names_subject(decode_entry(delivery.body), self.traces)
        except StreamingError:
            return any(needle in delivery.body for needle in self.needles)


def needles_of(names: Iterable[str]) -> frozenset[bytes]:
    """Return ids as bytes, as they occur in MessagePack and in JSON."""
    forms = [name.encode() for name in names]
    for name in names:
        forms.append(msgspec.json.encode(name)[1:-1])
        forms.append(json.dumps(name)[1:-1].encode())
    return frozenset(forms)


Search = Callable[[Collection[bytes]], Iterable[tuple[int, bytes]]]
"""Finds the records with any of some bytes, oldest first, under unique numbers."""


Progress = Callable[[int, int], None]
"""Receives the searched parts of a log and the number of all parts."""


def _no_progress(done: int, total: int) -> None:
    pass


def search_partitions(
    partitions: Sequence[EventLog], *, progress: Progress = _no_progress
) -> Search:
    """Search a log in partitions by reading all of it."""

    def search(needles: Collection[bytes]) -> Iterator[tuple[int, bytes]]:
        done, total = 0, sum(log.end - log.begin for log in partitions)
        for number, log in enumerate(partitions):
            position = log.begin
            while records := log.read(position, _CHUNK):
                done += records[-1][0] + 1 - position
                position = records[-1][0] + 1
                for offset, payload in records:
                    if any(needle in payload for needle in needles):
                        yield number * _APART + offset, payload
                progress(done, max(done, total))

    return search


@contextlib.contextmanager
def search_log(
    settings: Settings, *, clock: Callable[[], int], progress: Progress = _no_progress
) -> Iterator[Search]:
    """Search the log of the data directory, also with sealed records.

    Raises:
        LogError: if records of the log are lost: what it holds about users is unknown.
    """
    path = settings.storage.data / "log"
    with contextlib.ExitStack() as stack:
        if not path.is_dir():
            yield partial(matching_records, path, progress=progress)
            return
        log = stack.enter_context(contextlib.closing(EmbeddedLog(path, read_only=True)))
        seal = open_seal(settings, clock=clock)
        if seal is None:
            yield partial(matching_records, path, progress=progress)
            return
        stack.callback(seal.close)
        yield search_partitions([SealedLog(log, seal)], progress=progress)


def find_traces(log: Search, store: StateStore | None, people: Collection[str]) -> SearchResult:
    """Find the data of users; LogCorruptedError if the log is damaged before its end.

    An anonymous event belongs to the only user of its device. On a shared device it belongs to the
    user of the last login before it, or of the first login if there is none before. People are user
    ids, or ``device:`` and device ids. The engine's state, if there is one, adds devices of records
    that retention removed.
    """
    users = frozenset(p for p in people if not p.startswith(DEVICE_PREFIX))
    given = frozenset(people) - users
    devices = {device.removeprefix(DEVICE_PREFIX) for device in given}
    sessions: set[str] = set()
    event_ids: set[str] = set()
    texts: set[str] = set()
    records = 0
    for _, payload in log(needles_of(users)):
        entry = decoded(payload)
        event = event_in(entry)
        if event is None:
            if isinstance(entry, User) and entry.user_id in users:
                records += 1
                texts.update(texts_of(entry))
        elif event.user_id in users:
            records += 1
            texts.update(texts_of(event))
            event_ids.add(event.event_id)
            devices |= {event.device_id} - {None}  # type: ignore[arg-type]
            sessions |= {event.session_id} - {None}  # type: ignore[arg-type]
    if store is not None:
        for user in users:
            devices.update(devices_of(store, user))
    logins: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    anonymous: dict[str, list[tuple[int, Event]]] = defaultdict(list)
    for offset, payload in log(needles_of(devices)):
        event = event_in(decoded(payload))
        if event is not None and event.device_id in devices:
            if event.user_id is None:
                anonymous[event.device_id].append((offset, event))
            else:
                logins[event.device_id].append((offset, event.user_id in users))
    shared = {device for device, by in logins.items() if not all(own for _, own in by)}
    shared -= {device.removeprefix(DEVICE_PREFIX) for device in given}
    if store is not None:
        known = users | {DEVICE_PREFIX + device for device in devices - shared}
        sessions.update(sessions_of(store, known))
    offsets: set[int] = set()
    for device, events in anonymous.items():
        for offset, event in events:
            if device not in shared or login_before(logins[device], offset)[1]:
                records += 1
                event_ids.add(event.event_id)
                texts.update(texts_of(event))
                sessions |= {event.session_id} - {None}  # type: ignore[arg-type]
                if device in shared:
                    offsets.add(offset)
    return SearchResult(
        SubjectIds(
            users=users,
            devices=frozenset(devices - shared),
            shared=frozenset(shared),
            sessions=frozenset(sessions),
            event_ids=frozenset(event_ids),
        ),
        frozenset(offsets),
        records,
        frozenset(islice(texts, _MOST_TEXTS)),
    )


def texts_of(entry: Entry | None) -> Iterator[str]:
    """Yield the texts that an entry says of a user or an item, in any depth.

    A recommendation is written by the server, of names that it has anyway.
    """
    if isinstance(entry, Restricted | Forwarded):
        entry = entry.event
    if isinstance(entry, Event) and entry.type != "impression":
        yield from _strings([*entry.properties.values(), *entry.context.values()])
    elif isinstance(entry, User):
        yield from _strings([*entry.properties.values()])
    elif isinstance(entry, Item):
        yield from _strings([entry.title, entry.category, *entry.properties.values()])


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings([*value, *value.values()])
    elif isinstance(value, list):
        for element in value:
            yield from _strings(element)


def decoded(payload: bytes) -> Entry | None:
    """Decode a record of the log; None for a damaged one."""
    try:
        return decode_entry(payload)
    except StreamingError:
        return None


def event_in(entry: Entry | None) -> Event | None:
    """Return the event of an entry, also of one whose purposes are restricted."""
    if isinstance(entry, Restricted | Forwarded):
        return entry.event
    return entry if isinstance(entry, Event) else None


def login_before(logins: Sequence[tuple[int, T]], offset: int) -> tuple[int, T]:
    """Return the last login before a record, or the first one if there is none before."""
    place = bisect.bisect_left(logins, offset, key=itemgetter(0)) - 1
    return logins[max(place, 0)]
