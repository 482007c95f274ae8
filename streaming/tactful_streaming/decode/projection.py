"""Decodes only the fields of log records that are read.

An event has a dozen fields and properties; features mostly read three or four, and decoding only
these takes less than half the time. Other fields are only checked to be well-formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from tactful_streaming.contract import log_entries

PROPERTIES = "properties."  # prefix of the source of a property
EVENT_KEY = "event_key"  # source of the identity of an event within its sender
_OPTIONAL_FIELDS = ("event_id", "sender", "session_id", "item_id")


class Projection:
    """Decodes records, and reads columns of decoded events."""

    def __init__(self, sources: Iterable[str] | None) -> None:
        """Prepare to read `sources` of each event; None: every field.

        Sources are ``event_id``, ``item_id``, ``session_id``, ``properties.<name>`` and
        :data:`EVENT_KEY`; others are ignored.
        """
        self._properties: Mapping[str, str] = {}
        self.event_class: type[Any] = log_entries.Event
        self.forwarded_class: type[Any] = log_entries.Forwarded
        self.restricted_class: type[Any] = log_entries.Restricted
        if sources is not None:
            wanted = set(sources)
            if EVENT_KEY in wanted:
                wanted |= {"event_id", "sender"}
            names = sorted(s.removeprefix(PROPERTIES) for s in wanted if s.startswith(PROPERTIES))
            self._properties = {name: f"p{number}" for number, name in enumerate(names)}
            self.event_class = self._narrow_class([f for f in _OPTIONAL_FIELDS if f in wanted])
            event = [("timestamp", log_entries.Timestamp), ("event", self.event_class)]
            purposes = ("purposes", tuple[str, ...])
            self.forwarded_class = _entry_class("forwarded", [("target", str), *event])
            self.restricted_class = _entry_class("restricted", [purposes, *event])
        described: Any = log_entries.Item | log_entries.User
        moved: Any = log_entries.Tick | log_entries.Link | log_entries.Transfer
        wrapped: Any = self.forwarded_class | self.restricted_class
        entries: Any = self.event_class | described | moved | wrapped
        self._from_msgpack = msgspec.msgpack.Decoder(entries).decode
        self._from_json = msgspec.json.Decoder(entries).decode
        self._whole = sources is None

    def decode(self, payloads: Sequence[bytes]) -> list[Any]:
        """Decode records; an exception takes the place of each invalid one."""
        if not payloads:
            return []
        try:
            return list(map(self._decoder(payloads[0]), payloads))
        except log_entries.ENTRY_ERRORS:
            return [self._decode_single(payload) for payload in payloads]

    def tick(self, timestamp: int) -> Any:
        """Return an event that only moves the watermark."""
        fields = {"event_id": ""} if "event_id" in self.event_class.__struct_fields__ else {}
        return self.event_class(type="", timestamp=timestamp, **fields)

    def column(self, events: Sequence[Any], source: str) -> list[Any]:
        """Return the values of one source for each event, as sent; None without one."""
        if source in ("event_id", "item_id", "session_id"):
            return list(map(attrgetter(source), events))
        if source == EVENT_KEY:
            return list(map(log_entries.event_key, events))
        if source == "user_id":
            users = [event.user_id for event in events]
            if None not in users:
                return users
            return [
                user
                if user is not None
                else None
                if (device := event.device_id) is None
                else log_entries.DEVICE_PREFIX + device
                for user, event in zip(users, events, strict=True)
            ]
        name = source.removeprefix(PROPERTIES)
        if self._whole:
            return [event.properties.get(name) for event in events]
        return list(map(attrgetter(f"properties.{self._properties[name]}"), events))

    def _decode_single(self, payload: bytes) -> Any:
        try:
            return self._decoder(payload)(payload)
        except log_entries.ENTRY_ERRORS as error:
            return error

    def _decoder(self, payload: bytes) -> Callable[[bytes], Any]:
        return self._from_json if log_entries.is_json(payload) else self._from_msgpack

    def _narrow_class(self, fields: Sequence[str]) -> type[Any]:
        namespace: list[Any] = [("type", str), ("timestamp", log_entries.Timestamp)]
        namespace.append(("received_at", log_entries.Timestamp | None, None))
        namespace += [(field, str | None, None) for field in ("user_id", "device_id")]
        for field in fields:
            # Every event has an id; other fields may be missing.
            namespace.append((field, str) if field == "event_id" else (field, str | None, None))
        if self._properties:
            properties = msgspec.defstruct(
                "Properties",
                [(field, log_entries.Property, None) for field in self._properties.values()],
                rename={field: name for name, field in self._properties.items()},
                frozen=True,
                gc=False,
            )
            namespace.append(("properties", properties, properties()))
        return _entry_class("event", namespace, gc=False)


def _entry_class(kind: str, fields: Sequence[Any], *, gc: bool = True) -> type[Any]:
    """Return a class of entries of the log."""
    name = f"Narrow{kind.title()}"
    return msgspec.defstruct(
        name, fields, tag=kind, tag_field="kind", kw_only=True, frozen=True, gc=gc
    )
