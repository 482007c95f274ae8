"""What sequences and joins find, and the contract between them and the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.contract.log_entries import Item
from tactful_streaming.windows.shared_aggregate import Value

Texts = Callable[[str], Sequence[str | None]]
"""Gives the text of a source (``item_id``, ``properties.colour``…) for each event of a batch."""


class EventLike(Protocol):
    """What an operator reads of an event; :class:`~tactful_streaming.Event` has all of it."""

    @property
    def event_id(self) -> str:
        """Identity of the event."""

    @property
    def type(self) -> str:
        """What happened."""

    @property
    def timestamp(self) -> int:
        """When, epoch milliseconds."""


@dataclass(frozen=True)
class Match:
    """One match of a sequence, or one pair of a join.

    Attributes:
        name: of the definition.
        entity: kind of entity it describes.
        key: which entity.
        same: what all its events have in common, where the definition asks for it; the item of a
            join.
        start: timestamp of the first of its events, epoch milliseconds.
        end: timestamp of the last of its events.
        decided: event time at which it was certain, at least `end`.
        events: ids of its events, in their order; of a join, the one event.
        subject: key of the person who caused it, where it is known.
        item_timestamp: of a join, when the item was updated.
    """

    name: str
    entity: str
    key: str
    same: str | None
    start: int
    end: int
    decided: int
    events: tuple[str, ...]
    subject: str | None = None
    item_timestamp: int | None = None

    def as_data(self) -> dict[str, Any]:
        """The match as plain data, as it is published."""
        data: dict[str, Any] = {"sequence": self.name, "entity_key": self.key}
        if self.same is not None:
            data["same"] = self.same
        return {**data, "start": self.start, "end": self.end, "events": list(self.events)}


class Operator(Protocol):
    """Finds matches among the events of each entity; its state commits with the engine's.

    Everything that it finds follows from the order of the log and the watermarks in it, never from
    how the log is cut into batches.

    Attributes:
        name: of the definition.
        entity: kind of entity whose keys :meth:`apply` takes.
        types: types of the events it wants; None for all.
        sources: what :meth:`apply` reads of events and asks its `texts` for, but for
            ``user_id``, which gives the key of the person of each event.
        wants_items: whether it has to be given the updates of items.
    """

    name: str
    entity: str
    types: frozenset[str] | None
    sources: tuple[str, ...]
    wants_items: bool

    @property
    def late(self) -> int:
        """Events that came too late to count, since it was made."""

    @property
    def evicted(self) -> int:
        """Beginnings dropped to keep the memory bounded, since it was made."""

    def apply(
        self,
        events: Sequence[EventLike],
        keys: Sequence[str | None],
        watermarks: NDArray[np.int64],
        texts: Texts,
    ) -> None:
        """Take accepted events in the order of the log; those of other types are ignored.

        Args:
            events: the events.
            keys: entity of each, or None.
            watermarks: watermark after each.
            texts: gives the text of a source for each of `events`.
        """

    def apply_items(self, items: Sequence[Item], watermarks: NDArray[np.int64]) -> None:
        """Take updates of items in the order of the log, with the watermark after each."""

    def advance(self, watermark: int) -> None:
        """Find what is certain now that no event before `watermark` will count any more."""

    def next_timer(self) -> int | None:
        """The earliest watermark at which :meth:`advance` has something to do, if any."""

    def take(self) -> list[Match]:
        """What was found since the last call, in an order that batches do not change."""

    def read(self, key: str, at: int) -> Value:
        """The value of the definition for `key` at time `at`."""

    def pack_changes(self) -> dict[str, bytes | None]:
        """Packed state of each key changed since the last call; None for one with none left."""

    def unpack(self, key: str, blob: bytes) -> None:
        """Restore the state of a key that :meth:`pack_changes` gave.

        Raises:
            StateError: if `blob` is something else.
        """

    def merge(self, source_key: str, target_key: str) -> None:
        """Give what is known of one key to another: they are the same entity."""

    def detach(self, key: str) -> bytes | None:
        """Remove what is known of a key and give it packed, as :meth:`unpack` takes it."""
