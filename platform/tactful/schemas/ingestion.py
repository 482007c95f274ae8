"""Responses to events, items and users."""

from __future__ import annotations

import msgspec

from tactful.schemas.positions import Position


class Rejection(msgspec.Struct, kw_only=True, frozen=True):
    """Rejected element of a batch.

    Attributes:
        index: position in the batch, from 0.
        code: short stable name of the reason.
        message: reason, and correction.
    """

    index: int
    code: str
    message: str


class EventsAccepted(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to events: they are durable.

    Attributes:
        accepted: events that are new and now in the log.
        duplicates: events whose ``event_id`` was accepted before from this sender; they change
            nothing. A browser key gets 0, and repetitions count as accepted.
        rejected: rejected events, each with its index.
        position: log position behind these events; send it as ``after`` to read your own writes.
    """

    accepted: int
    duplicates: int
    rejected: list[Rejection]
    position: Position


class Upserted(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to item and user upserts: they are durable.

    Attributes:
        accepted: upserts now in the log.
        rejected: rejected upserts, each with its index.
        position: log position behind these upserts.
    """

    accepted: int
    rejected: list[Rejection]
    position: Position
