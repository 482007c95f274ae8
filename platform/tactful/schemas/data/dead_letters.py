"""Dead letters, their redrive, and the counts of cleaning rules."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta


class DeadLetterInfo(msgspec.Struct, kw_only=True, frozen=True):
    """Event that a rule set aside.

    Attributes:
        position: position among the dead letters.
        rule: rule, or ``unreadable`` for a record that is no entry.
        reason: reason in words.
        partition: partition of the log.
        offset: offset of the record.
        received: time of receipt, epoch milliseconds, if known.
        event: event as it was sent, with user, device and session as keyed hashes; None if the
            record is no event.
    """

    position: int
    rule: str
    reason: str
    partition: int
    offset: int
    received: int | None
    event: dict[str, Any] | None


class DeadLetterPage(msgspec.Struct, kw_only=True, frozen=True):
    """Page of dead letters, oldest first.

    Attributes:
        letters: dead letters.
        next_cursor: cursor of the next page; None if there is none.
    """

    letters: list[DeadLetterInfo]
    next_cursor: str | None = None


class RuleCounts(msgspec.Struct, kw_only=True, frozen=True):
    """Effect of one cleaning rule.

    Attributes:
        rule: name.
        action: ``drop``, ``dead_letter`` or ``normalise``.
        reason: reason in words.
        line: line in the file of rules.
        events: events that it dropped, set aside or changed since the server started.
        letters: dead letters of it that are kept.
    """

    rule: str
    action: str
    reason: str = ""
    line: int = 0
    events: int = 0
    letters: int = 0


class RulesInfo(msgspec.Struct, kw_only=True, frozen=True):
    """Effect of all cleaning rules since the server started.

    Attributes:
        events: events that were judged.
        clean: events that passed.
        changed: events that passed and were changed.
        dropped: events that were dropped.
        dead_lettered: events that were set aside.
        rules: rules in their order, then those that only have dead letters.
    """

    events: int
    clean: int
    changed: int
    dropped: int
    dead_lettered: int
    rules: list[RuleCounts]


class NewRedrive(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Dead letters to send again.

    Attributes:
        rules: rules whose letters are sent; all of them for none.
        restart: whether those of earlier redrives are sent again.
        most: letters of one request; the rest waits for the next.
    """

    rules: Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=100)] = []
    restart: bool = False
    most: Annotated[int, Meta(ge=1, le=5_000)] = 5_000


class RefusedLetter(msgspec.Struct, kw_only=True, frozen=True):
    """A dead letter that the server refused.

    Attributes:
        position: position among the dead letters.
        code: short stable name of the reason.
        message: reason, and correction.
    """

    position: int
    code: str
    message: str


class Redriven(msgspec.Struct, kw_only=True):
    """Result of one redrive.

    Attributes:
        accepted: events that are new to the log.
        duplicates: events that it had before.
        held_back: events that the correcting rules dropped or set aside.
        unreadable: letters that are no event.
        rejected: events that were refused.
        refusals: the first refused events.
        more: whether letters are left for another request.
    """

    accepted: int = 0
    duplicates: int = 0
    held_back: int = 0
    unreadable: int = 0
    rejected: int = 0
    refusals: list[RefusedLetter] = []
    more: bool = False
