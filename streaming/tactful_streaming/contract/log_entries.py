"""Entries and records of the log: events, item and user upserts, clock ticks, device links.

Events with restricted purposes are wrapped, so that readers that ignore purposes skip them.

A payload is one entry, in msgpack (compact, for the embedded log) or in JSON (for topics that other
programs read, too). Both have the same fields; JSON is recognised by its opening brace, which no
msgpack map begins with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Annotated, Literal, overload

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.errors import EntryError

Scalar = str | int | float | bool | None
Property = Scalar | list[Scalar]

LATEST_TIMESTAMP = 32_503_680_000_000
"""Start of the year 3000 in epoch milliseconds: no entry is later."""

DEVICE_PREFIX = "device:"  # prefix of the key of a user known only by a device
APART = "\x1f"  # suffix of the key of a device's events that are never merged with a user's
BROWSER, SERVER, SOURCE = "browser", "server", "source"  # kinds of keys that send events
PERSONALISATION = "personalisation"
"""The purpose of features, sequences and joins, and of consumers by default."""

Timestamp = Annotated[int, Meta(ge=0, le=LATEST_TIMESTAMP)]


class Event(
    Struct, kw_only=True, frozen=True, gc=False, omit_defaults=True, tag="event", tag_field="kind"
):
    """An action of a user or device; at least one of `user_id` and `device_id` is set.

    A record of the log leaves out fields without a value.

    Attributes:
        event_id: identity of the event within its sender: repeated, it counts once (`event_key`).
        type: one of :data:`~tactful_streaming.EVENT_TYPES`, or ``x.<custom>``.
        timestamp: when it happened, epoch milliseconds.
        user_id: the user, if known.
        device_id: first-party id of the device it happened on.
        session_id: its session.
        item_id: its item.
        recommendation_id: the recommendation that led to it.
        properties: price, currency, quantity, category, dwell_ms…
        context: page, locale, app…
        received_at: when the server received it, by the server's clock, epoch milliseconds. Only
            the server writes it; None in logs of other programs and of earlier versions.
        sender: kind of the key that sent it, :data:`BROWSER`, :data:`SERVER` or :data:`SOURCE`.
            Only the server writes it; None for events of the platform and in logs of earlier
            versions.
        import_id: the import that brought it. Only the server writes it.
    """

    event_id: str
    type: str
    timestamp: Timestamp
    user_id: str | None = None
    device_id: str | None = None
    session_id: str | None = None
    item_id: str | None = None
    recommendation_id: str | None = None
    properties: dict[str, Property] = {}
    context: dict[str, Scalar] = {}
    received_at: Timestamp | None = None
    sender: str | None = None
    import_id: str | UnsetType = UNSET


class Item(Struct, kw_only=True, frozen=True, gc=False, tag="item", tag_field="kind"):
    """The latest description of an item.

    Attributes:
        item_id: identity of the item.
        timestamp: when the description was updated or received, epoch milliseconds.
        title: its name for people.
        category: its category.
        price: in the currency of the shop, not negative.
        available: whether it can be bought now.
        properties: anything else.
        image: its picture: ``sha256:`` and the hash of its content, or its address.
        import_id: the import that brought the description. Only the server writes it.
    """

    item_id: str
    timestamp: Timestamp
    title: str | None = None
    category: str | None = None
    price: float | None = None
    available: bool = True
    properties: dict[str, Property] = {}
    image: str | UnsetType = UNSET
    import_id: str | UnsetType = UNSET


class User(Struct, kw_only=True, frozen=True, gc=False, tag="user", tag_field="kind"):
    """The latest description of a user, with demographics, membership and such as properties.

    Only the server writes `import_id`, the import that brought the description.
    """

    user_id: str
    timestamp: Timestamp
    properties: dict[str, Property] = {}
    import_id: str | UnsetType = UNSET


class Tick(Struct, kw_only=True, frozen=True, gc=False, tag="tick", tag_field="kind"):
    """A tick of the clock, which advances time without an event.

    It is written to an idle partition when a timer is due. Because it is in the log, a replay
    triggers the same timers.

    Attributes:
        timestamp: the clock, epoch milliseconds.
    """

    timestamp: Timestamp


class Link(Struct, kw_only=True, frozen=True, gc=False, tag="link", tag_field="kind"):
    """A login or logout, sent to the partition of the device by that of the user."""

    device_id: str
    timestamp: Timestamp  # when it happened, epoch milliseconds
    user_id: str | None = None  # user who logged in or out; None if any user has left
    ends: bool = False  # whether it is a logout


class Transfer(Struct, kw_only=True, frozen=True, gc=False, tag="transfer", tag_field="kind"):
    """The history of a device, sent to the partition of the user who holds it."""

    transfer_id: str  # identity of the transfer: a repeated transfer is applied once
    timestamp: Timestamp  # when the user logged in, epoch milliseconds
    source: str  # former key of the history, ``device:<device_id>``
    target: str  # id of the user whose history it joins
    state: bytes  # the packed history


class Forwarded(Struct, kw_only=True, frozen=True, tag="forwarded", tag_field="kind"):
    """An anonymous event, forwarded from the partition of its device to its user's."""

    target: str  # id of the user
    timestamp: Timestamp
    event: Event  # as it was sent; it names nobody


class Restricted(Struct, kw_only=True, frozen=True, tag="restricted", tag_field="kind"):
    """An event as it was sent, with the purposes that it is permitted for."""

    timestamp: Timestamp
    purposes: tuple[str, ...]
    event: Event


Entry = Event | Item | User | Tick | Link | Transfer | Forwarded | Restricted
"""One entry of the log."""

Record = tuple[int, bytes]  # offset and payload
Row = tuple[bytes, bytes]  # key and value of a record that is written
EntryFormat = Literal["msgpack", "json"]  # encoding of an entry

_encoders: dict[EntryFormat, msgspec.msgpack.Encoder | msgspec.json.Encoder] = {
    "msgpack": msgspec.msgpack.Encoder(),
    "json": msgspec.json.Encoder(),
}

_msgpack_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)
_json_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)

_BETWEEN = "\x1f"  # no id of a request contains it

ENTRY_ERRORS = (ValueError, *DECODE_ERRORS)
"""Errors of decoding an invalid log entry."""


def encode_entry(entry: Entry, format: EntryFormat = "msgpack") -> bytes:
    """Encode an entry for the log; JSON cannot represent a number that is not finite."""
    return _encoders[format].encode(entry)


def decode_entry(payload: bytes) -> Entry:
    """Decode an entry of :func:`encode_entry`, in either format; else EntryError."""
    try:
        return (_json_decoder if is_json(payload) else _msgpack_decoder).decode(payload)
    except ENTRY_ERRORS as error:
        raise EntryError(f"not a log entry: {error}") from error


def is_json(payload: bytes) -> bool:
    """Whether a payload is an entry in JSON rather than in msgpack."""
    return payload[:1] == b"{"


def import_of(entry: Entry) -> str | None:
    """Return the import that brought an entry; None for others."""
    if isinstance(entry, Restricted | Forwarded):
        entry = entry.event
    given = entry.import_id if isinstance(entry, Event | Item | User) else UNSET
    return None if given is UNSET else given


def event_for(entry: Entry, purpose: str) -> Event | None:
    """Return the event of an entry, if it is one and may be used for `purpose`."""
    if type(entry) is Event:
        return entry
    if type(entry) is Restricted and purpose in entry.purposes:
        return entry.event
    return None


def time_reached(event: Event) -> int:
    """Return the time that an event moves event time to: its own, but not beyond its receipt.

    So a device with a fast clock does not advance the time of others, and old events of an import
    count as of their own time.
    """
    timestamp, received = event.timestamp, event.received_at
    return timestamp if received is None or received > timestamp else received


def event_key(event: Event) -> str:
    """Return the identity of an event: its id within its sender.

    The sender is the kind of key, never the key itself (a retry may come after a rotation), with
    the device and the user as sent. So nobody else can use up an id, and users of one device do not
    either. An event without a recorded kind of key is identified by its id alone, as before.
    """
    if event.sender is None:
        return event.event_id
    device, user = event.device_id or "", event.user_id or ""
    lengths = f"{len(device)}{_BETWEEN}{len(user)}"  # so that no two senders have equal keys
    return f"{_BETWEEN}{event.sender}{_BETWEEN}{lengths}{_BETWEEN}{device}{user}{event.event_id}"


def sender_of(key: str) -> tuple[str, str, str] | None:
    """Split an :func:`event_key` into device, user and id; None for a mere id."""
    if not key.startswith(_BETWEEN):
        return None
    _, _, device, user, rest = key.split(_BETWEEN, 4)
    begin, end = int(device), int(device) + int(user)
    return rest[:begin], rest[begin:end], rest[end:]


def subject_key(event: Event) -> str | None:
    """Return the key of the user of an event: its id, else ``device:<device_id>``."""
    if event.user_id is not None:
        return event.user_id
    if event.device_id is not None:
        return DEVICE_PREFIX + event.device_id
    return None


def named_keys(entry: Entry) -> Iterator[str]:
    """Yield the keys of the users and devices that an entry names."""
    if isinstance(entry, Event | Link):
        if entry.user_id is not None:
            yield entry.user_id
        if entry.device_id is not None:
            yield DEVICE_PREFIX + entry.device_id
    elif isinstance(entry, Restricted):
        yield from named_keys(entry.event)
    elif isinstance(entry, Forwarded):
        yield entry.target
        yield from named_keys(entry.event)
    elif isinstance(entry, User):
        yield entry.user_id
    elif isinstance(entry, Transfer):
        yield entry.target
        yield entry.source


def route_key(entry: Entry) -> str | None:
    """Return the key that routes an entry; None if every partition gets a copy.

    All events of a user are in one partition. An event without a user or device is routed by its
    own id, a link by its device, a transfer and a forwarded event by their user. Item and user
    upserts and ticks go to all partitions, so that each is complete in itself.
    """
    if type(entry) is Event:
        return subject_key(entry) or entry.event_id
    if type(entry) is Restricted:
        return subject_key(entry.event) or entry.event.event_id
    if type(entry) is Link:
        return DEVICE_PREFIX + entry.device_id
    return entry.target if isinstance(entry, Transfer | Forwarded) else None


class Records(Sequence[Record]):
    """Consecutive records of one partition, as a sequence of (offset, payload) pairs.

    The pairs are made on access; the offsets are a range if there is no gap::

        offsets   range(7, 10)
        payloads  [b"…", b"…", b"…"]
    """

    __slots__ = ("offsets", "payloads")

    def __init__(self, offsets: Sequence[int], payloads: Sequence[bytes]) -> None:
        """Hold offsets and payloads of equal number."""
        self.offsets = offsets
        self.payloads = payloads

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.payloads)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Records: ...

    def __getitem__(self, index: int | slice) -> Record | Records:
        """Return a pair, or a part of the records."""
        if isinstance(index, slice):
            return Records(self.offsets[index], self.payloads[index])
        return self.offsets[index], self.payloads[index]

    def __iter__(self) -> Iterator[Record]:
        """Iterate over the pairs."""
        return iter(zip(self.offsets, self.payloads, strict=True))

    def __eq__(self, other: object) -> bool:
        """Whether it holds the same pairs as another sequence."""
        return isinstance(other, Sequence) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]  # mutable, and compared by value


def payloads_of(records: Sequence[Record]) -> Sequence[bytes]:
    """Return the payload of each record."""
    if isinstance(records, Records):
        return records.payloads
    return list(map(itemgetter(1), records))


def from_offset(records: Sequence[Record], offset: int) -> Sequence[Record]:
    """Return those of `records` that are not below `offset`."""
    if not records or records[0][0] >= offset:
        return records
    return [record for record in records if record[0] >= offset]
