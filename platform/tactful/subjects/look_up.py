"""Search for the users in whose data a value occurs: an e-mail address, a session, an order."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from tactful.schemas.users import PersonMatch, PersonMatches
from tactful.subjects.minimise import Minimiser
from tactful.subjects.trace_search import (
    Search,
    decoded,
    event_in,
    login_before,
    needles_of,
)
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, Entry, User

_MOST_PEOPLE = 100  # of one identifier
_MOST_ANONYMOUS = 1_000  # events without a user of one identifier
_MOST_NEEDLES = 32  # with more, it is faster to decode every record
_EVERYTHING = frozenset({b""})


class Identifier(NamedTuple):
    """A value and its kind, as ``("properties.email", "ada@example.com")``."""

    by: str
    value: str


@dataclass
class _Matches:
    """Records with one identifier; bounded.

    ::

        people     {"u-17": (3, 1767225600000)}  number of records, latest time
        anonymous  [("d-1", 512, 1767225600000)]  device, offset, time
    """

    people: dict[str, tuple[int, int]] = field(default_factory=dict)
    anonymous: list[tuple[str, int, int]] = field(default_factory=list)
    more: bool = False

    def add(self, person: str, at: int) -> None:
        if person not in self.people and len(self.people) >= _MOST_PEOPLE:
            self.more = True
            return
        records, latest = self.people.get(person, (0, at))
        self.people[person] = records + 1, max(latest, at)

    def add_anonymous(self, device: str, offset: int, at: int) -> None:
        if len(self.anonymous) >= _MOST_ANONYMOUS:
            self.more = True
            return
        self.anonymous.append((device, offset, at))


def look_up(
    search: Search,
    identifiers: Collection[Identifier],
    *,
    erased: Container[str] = (),
    minimise: Minimiser | None = None,
) -> dict[Identifier, PersonMatches]:
    """Find the users of each identifier in a log, by one pass over it, two for anonymous events.

    Values are compared exactly. An anonymous event belongs to a user as in an erasure: to the last
    login on its device before it, or the first one; without a login to ``device:<device_id>``.
    A value of a field that is hashed before it is stored is found by its hash. Memory is bounded by
    the number of identifiers.
    """
    matches = {identifier: _Matches() for identifier in identifiers}
    stored: dict[Identifier, list[_Matches]] = defaultdict(list)
    for by, value in matches:
        for form in {value} if minimise is None else minimise.stored_forms(by, value):
            stored[Identifier(by, form)].append(matches[Identifier(by, value)])
    kinds = {identifier.by for identifier in identifiers}
    needles = frozenset[bytes]().union(*(_forms(identifier.value) for identifier in stored))
    for offset, payload in search(needles if len(needles) <= _MOST_NEEDLES else _EVERYTHING):
        entry = decoded(payload)
        for identifier in {Identifier(by, text) for by in kinds for text in _texts(entry, by)}:
            for of_identifier in stored.get(identifier, ()):
                _add(of_identifier, offset, entry)
    _name_anonymous(search, matches.values())
    return {
        identifier: PersonMatches(
            people=[
                PersonMatch(person=person, records=records, last_at=latest)
                for person, (records, latest) in sorted(
                    found.people.items(), key=lambda item: (-item[1][1], item[0])
                )
                if person not in erased
            ],
            more=found.more,
        )
        for identifier, found in matches.items()
    }


def _add(matches: _Matches, offset: int, entry: Entry | None) -> None:
    event = event_in(entry)
    if event is not None:
        if event.user_id is not None:
            matches.add(event.user_id, event.timestamp)
        elif event.device_id is not None:
            matches.add_anonymous(event.device_id, offset, event.timestamp)
    elif isinstance(entry, User):
        matches.add(entry.user_id, entry.timestamp)


def _name_anonymous(search: Search, matches: Collection[_Matches]) -> None:
    """Add the users of anonymous events."""
    devices = {device for found in matches for device, _, _ in found.anonymous}
    if not devices:
        return
    # Of each device, the logins that changed its user.
    logins: dict[str, list[tuple[int, str]]] = defaultdict(list)
    needles = needles_of(devices)
    for offset, payload in search(needles if len(needles) <= _MOST_NEEDLES else _EVERYTHING):
        event = event_in(decoded(payload))
        if event is not None and event.user_id is not None and event.device_id in devices:
            held = logins[event.device_id]
            if not held or held[-1][1] != event.user_id:
                held.append((offset, event.user_id))
    for found in matches:
        for device, offset, at in found.anonymous:
            held = logins.get(device, [])
            found.add(login_before(held, offset)[1] if held else DEVICE_PREFIX + device, at)


def _texts(entry: Entry | None, by: str) -> Iterator[str]:
    """Yield the values of one kind in an entry, numbers as they are written in JSON."""
    event = event_in(entry)
    owner = event if event is not None else entry if isinstance(entry, User) else None
    source, _, name = by.partition(".")
    value: object
    if name:
        mapping: Mapping[str, object] | None = getattr(owner, source, None)
        value = None if mapping is None else mapping.get(name)
    else:
        value = getattr(owner, source, None)
    for element in value if isinstance(value, list) else [value]:
        if isinstance(element, str):
            yield element
        elif isinstance(element, int | float) and not isinstance(element, bool):
            yield json.dumps(element)
            if isinstance(element, float) and element.is_integer():
                yield str(int(element))


def _forms(value: str) -> frozenset[bytes]:
    """Return a value as bytes of records, also as those of a number."""
    try:
        number = msgspec.json.decode(value.encode(), type=int | float)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return needles_of([value])
    forms = {msgspec.msgpack.encode(float(number))} if abs(number) < 1 << 63 else {b""}
    if isinstance(number, int) and -1 << 63 <= number < 1 << 64:
        forms.add(msgspec.msgpack.encode(number))
    return needles_of([value]) | forms
