"""Decodes of each record of the log only what somebody reads.

An event carries a dozen fields and properties; features mostly read three or four of them, and
decoding only these takes less than half the time. What nobody reads is checked to be well-formed,
and no further.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Protocol

import msgspec

from tactful_streaming.contract.log_entries import (
    DEVICE_PREFIX,
    ENTRY_ERRORS,
    Event,
    Forwarded,
    Item,
    Link,
    Property,
    Restricted,
    Tick,
    Timestamp,
    Transfer,
    User,
    is_json,
)

PROPERTIES = "properties."
"""What the source of a property begins with."""

_OPTIONAL_FIELDS = ("event_id", "session_id", "item_id")


class EventRecord(Protocol):
    """An event of which at least these fields are there."""

    @property
    def type(self) -> str:
        """What happened."""

    @property
    def timestamp(self) -> int:
        """When, epoch milliseconds."""

    @property
    def user_id(self) -> str | None:
        """Who did it."""

    @property
    def device_id(self) -> str | None:
        """On which device."""


Decoded = EventRecord | Item | User
"""What :class:`Projection` decodes to; a tick of the clock is an event of type ``""``."""


class Projection:
    """Decodes records, and reads columns of what it decoded.

    Attributes:
        event_class: class of the events it makes.
        forwarded_class: class of events sent on by other partitions.
        restricted_class: class of events that may not be used for everything.
    """

    def __init__(self, sources: Iterable[str] | None) -> None:
        """Prepare to read `sources` of each event; of None, every field.

        Args:
            sources: ``event_id``, ``item_id``, ``session_id``, ``properties.<name>``; others are
                read by nobody or always there.
        """
        self._properties: Mapping[str, str] = {}
        self.event_class: type[Any] = Event
        if sources is not None:
            wanted = set(sources)
            names = sorted(s.removeprefix(PROPERTIES) for s in wanted if s.startswith(PROPERTIES))
            self._properties = {name: f"p{number}" for number, name in enumerate(names)}
            self.event_class = self._narrow_class([f for f in _OPTIONAL_FIELDS if f in wanted])
        self.forwarded_class: type[Any] = Forwarded
        self.restricted_class: type[Any] = Restricted
        if sources is not None:
            event = [("timestamp", Timestamp), ("event", self.event_class)]
            self.forwarded_class = _wrapper("forwarded", [("target", str), *event])
            self.restricted_class = _wrapper("restricted", [("purposes", tuple[str, ...]), *event])
        entries: Any = (
            self.event_class
            | Item
            | User
            | Tick
            | Link
            | Transfer
            | self.forwarded_class
            | self.restricted_class
        )
        self._from_msgpack = msgspec.msgpack.Decoder(entries).decode
        self._from_json = msgspec.json.Decoder(entries).decode
        self._whole = sources is None

    def decode(self, payloads: Sequence[bytes]) -> list[Any]:
        """Decode records; an exception stands in the place of each one that is no entry."""
        if not payloads:
            return []
        decode = self._from_json if is_json(payloads[0]) else self._from_msgpack
        try:
            return list(map(decode, payloads))
        except ENTRY_ERRORS:
            return [self._decode_one(payload) for payload in payloads]

    def tick(self, timestamp: int) -> Any:
        """An event that counts for nothing but moves the watermark."""
        fields = {"event_id": ""} if "event_id" in self.event_class.__struct_fields__ else {}
        return self.event_class(type="", timestamp=timestamp, **fields)

    def column(self, events: Sequence[Any], source: str) -> list[Any]:
        """Values of one source for each event, as they were sent; None where there is none."""
        if source in ("event_id", "item_id", "session_id"):
            return list(map(attrgetter(source), events))
        if source == "user_id":
            users = [event.user_id for event in events]
            if None not in users:
                return users
            return [
                user
                if user is not None
                else None
                if (device := event.device_id) is None
                else DEVICE_PREFIX + device
                for user, event in zip(users, events, strict=True)
            ]
        name = source.removeprefix(PROPERTIES)
        if self._whole:
            return [event.properties.get(name) for event in events]
        return list(map(attrgetter(f"properties.{self._properties[name]}"), events))

    def _decode_one(self, payload: bytes) -> Any:
        decode = self._from_json if is_json(payload) else self._from_msgpack
        try:
            return decode(payload)
        except ENTRY_ERRORS as error:
            return error

    def _narrow_class(self, fields: Sequence[str]) -> type[Any]:
        namespace: list[Any] = [("type", str), ("timestamp", Timestamp)]
        namespace += [(field, str | None, None) for field in ("user_id", "device_id")]
        for field in fields:
            # Every event has an id; the other fields may be missing.
            namespace.append((field, str) if field == "event_id" else (field, str | None, None))
        if self._properties:
            properties = msgspec.defstruct(
                "Properties",
                [(field, Property, None) for field in self._properties.values()],
                rename={field: name for name, field in self._properties.items()},
                frozen=True,
                gc=False,
            )
            namespace.append(("properties", properties, properties()))
        return msgspec.defstruct(
            "NarrowEvent",
            namespace,
            tag="event",
            tag_field="kind",
            kw_only=True,
            frozen=True,
            gc=False,
        )


def _wrapper(kind: str, fields: Sequence[tuple[str, Any]]) -> type[Any]:
    """The class of entries that carry an event."""
    return msgspec.defstruct(
        f"Narrow{kind.title()}", fields, tag=kind, tag_field="kind", kw_only=True, frozen=True
    )
