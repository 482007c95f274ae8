"""Requests of other programs' clients, and the answers to them."""

from __future__ import annotations

from typing import Any

import msgspec

from tactful.schemas.ingestion import Rejection


class SourceBatch(msgspec.Struct, kw_only=True, frozen=True):
    """Messages of a client of Segment or RudderStack; other fields are allowed.

    Attributes:
        batch: messages, each as its call has it, with its `type`.
        sentAt: time of the sending by the client's clock, to correct the times of the messages.
        context: context of every message, which a message's own completes.
    """

    batch: list[Any]
    sentAt: Any = None
    context: Any = None


class SourceAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to the messages of a source: what was accepted of them is durable.

    Attributes:
        success: true, as clients of other programs expect.
        accepted: new events and descriptions of users, now in the log.
        duplicates: events that were accepted before; they change nothing.
        ignored: messages that no rule of the mapping fits.
        rejected: messages that were refused, wholly or in part, each with its index in the batch.
    """

    success: bool = True
    accepted: int
    duplicates: int
    ignored: int
    rejected: list[Rejection]


class ValidationMessage(msgspec.Struct, kw_only=True, frozen=True):
    """Problem of an event of the measurement protocol.

    Attributes:
        fieldPath: place in the request, such as ``events[0]``.
        description: reason, and correction.
        validationCode: short stable name of the reason.
    """

    fieldPath: str
    description: str
    validationCode: str


class ValidationMessages(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to a request of the measurement protocol that is to be checked.

    Attributes:
        validationMessages: problems; none if every event would be accepted.
    """

    validationMessages: list[ValidationMessage]
