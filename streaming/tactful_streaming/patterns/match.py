"""Matches of sequences and joins, the interface of their operators, and actions.

An action is an event of type ``x.<emit>`` that a match adds to the log, once. Its id depends on the
match alone. A match found again, after a crash or in a replay, gives the same id, and readers of
the log count an id once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from tactful_streaming.arrays import Rows
from tactful_streaming.contract.log_entries import APART, DEVICE_PREFIX, Event, Item, Property
from tactful_streaming.windows.shared_aggregate import Value

Texts = Callable[[str], Sequence[str | None]]
"""Returns the text of a source (``item_id``, ``properties.colour``…) for each event of a batch."""

_MAX_EVENT_IDS = 64  # most event ids in an action: the first ones of a longer match


@dataclass(frozen=True)
class Match:
    """One match of a sequence, or one pair of a join."""

    name: str  # name of the definition
    entity: str  # kind of entity that it describes
    key: str  # the entity
    same: str | None  # value that all its events have in common, where defined; the item of a join
    start: int  # timestamp of the first of its events, epoch milliseconds
    end: int  # timestamp of the last of its events
    decided: int  # event time at which it was certain, at least `end`
    events: tuple[str, ...]  # ids of its events, in order; of a join, one event
    subject: str | None = None  # key of the user who caused it, where known
    item_timestamp: int | None = None  # time of the item update of a join

    def as_data(self) -> dict[str, Any]:
        """Return the match as published."""
        data: dict[str, Any] = {"sequence": self.name, "entity_key": self.key}
        if self.same is not None:
            data["same"] = self.same
        return {**data, "start": self.start, "end": self.end, "events": list(self.events)}


class Operator(Protocol):
    """Finds matches among the events of each entity; commits with the engine's state.

    Its matches depend on the order of the log and the watermarks in it, never on batches.
    """

    name: str
    entity: str  # kind of entity of the keys
    # Fields of events that `apply` reads, or gets from `texts`, without ``user_id``, the key
    # of the user of each event.
    sources: tuple[str, ...]

    @property
    def late(self) -> int:
        """Number of events that came too late to count."""

    @property
    def evicted(self) -> int:
        """Number of partial matches dropped to bound the memory."""

    def apply(
        self, events: Sequence[Any], keys: Sequence[str | None], watermarks: Rows, texts: Texts
    ) -> None:
        """Apply accepted events in the order of the log; other types are ignored.

        Each comes with the key of its entity, or None, and the watermark after it; `texts` returns
        the text of a source for each of `events`.
        """

    def apply_items(self, items: Sequence[Item], watermarks: Rows) -> None:
        """Apply item updates in the order of the log, with the watermark after each."""

    def advance(self, watermark: int) -> None:
        """Find the matches that are certain once no event before `watermark` counts."""

    def next_timer(self) -> int | None:
        """Return the next watermark at which :meth:`advance` has work; None without any."""

    def take(self) -> list[Match]:
        """Return matches since the last call, in an order independent of batches."""

    def read(self, key: str, at: int) -> Value:
        """Return the value of the definition for `key` at time `at`."""

    def pack_changes(self) -> dict[str, bytes | None]:
        """Return packed state of keys changed since the last call; None if none is left."""

    def unpack(self, key: str, blob: bytes) -> None:
        """Restore the state of a key that :meth:`pack_changes` returned; else StateError."""

    def merge(self, source_key: str, target_key: str) -> None:
        """Move the state of one key to another: both are the same entity."""

    def detach(self, key: str) -> bytes | None:
        """Remove the state of a key and return it packed; None without any."""


def action_of(match: Match, type_: str) -> Event | None:
    """Return the event of type `type_` that a match causes; None if no user is known.

    It is of the user of the match, at the event time at which the match was certain.
    """
    if match.subject is None:
        return None
    device = match.subject.startswith(DEVICE_PREFIX)
    device_id = match.subject.removeprefix(DEVICE_PREFIX).removesuffix(APART) if device else None
    # Matches of an item include events of others, whose ids must not stay in this user's record
    # after these are erased.
    own = match.events if match.entity in ("user", "session") else match.events[-1:]
    properties: dict[str, Property] = {
        "sequence": match.name,
        "start": match.start,
        "end": match.end,
        "events": list(own[:_MAX_EVENT_IDS]),
    }
    if match.same is not None:
        properties["same"] = match.same
    if match.item_timestamp is not None:
        properties["item_timestamp"] = match.item_timestamp
    return Event(
        # Event ids are unique within their sender only, so others may have matched the same ids.
        event_id=_digest([*_identity(match), match.subject, match.start, match.end]),
        type=type_,
        timestamp=match.decided,
        user_id=None if device else match.subject,
        device_id=device_id,
        item_id=match.key if match.entity == "item" else None,
        session_id=match.key if match.entity == "session" else None,
        properties=properties,
    )


def former_id(match: Match) -> str:
    """Return the id of the action of a match in logs of versions with one namespace of ids."""
    return _digest(_identity(match))


def _identity(match: Match) -> list[Any]:
    return [match.name, match.key, match.same, match.item_timestamp, match.events]


def _digest(identity: list[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:32]
