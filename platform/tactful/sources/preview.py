"""Previews of messages: their events and users, without storing anything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tactful.sources.mapping import SourceMapping
from tactful.sources.translate import Message, Translation, translate
from tactful_streaming.contract.decode_requests import Limits, decode_events, decode_users
from tactful_streaming.contract.log_entries import Event, User

_LIMITS = Limits(max_bytes=1 << 30)


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Reason for which a message, or a part of it, would be refused."""

    code: str
    message: str


class Preview(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Result that one message would have; consent is not considered.

    Attributes:
        index: place in the request, from 0; negative for what is no event of GA4.
        kind: its kind, such as ``track``.
        rule: rule that fits; None: the message is ignored.
        events: its events.
        user: traits that the description of its user gets.
        problems: reasons for which it, or a part of it, would be refused.
    """

    index: int
    kind: str
    rule: str | None
    events: list[Event] = []
    user: User | None = None
    problems: list[Problem] = []


def preview(messages: Iterable[Message], mapping: SourceMapping, *, now: int) -> list[Preview]:
    """Translate messages that were received at `now`, epoch milliseconds, and check the result."""
    return [_preview(translate(message, mapping, now=now), now) for message in messages]


def _preview(translation: Translation, now: int) -> Preview:
    problems = [] if translation.problem is None else [translation.problem]
    events: list[Event] = []
    for place, event in translation.events:
        accepted, rejected = decode_events(_encoded(event), now=now, limits=_LIMITS)
        events += [entry for _, entry in accepted]
        where = f"{place}: " if place else ""
        problems += [(it.code, where + it.message) for it in rejected]
    user = None
    if (described := translation.user) is not None:
        traits: dict[str, Any] = {
            "user_id": described.user_id,
            "timestamp": described.timestamp,
            "properties": {k: v for k, v in described.properties.items() if v is not None},
        }
        users, rejected = decode_users(_encoded(traits), now=now, limits=_LIMITS)
        user = users[0][1] if users else None
        problems += [(it.code, f"traits: {it.message}") for it in rejected]
    message, rule = translation.message, translation.rule
    return Preview(
        index=message.index,
        kind=message.kind,
        rule=None if rule is None else rule.name,
        events=events,
        user=user,
        problems=[Problem(code=code, message=text) for code, text in problems],
    )


def _encoded(element: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(element)
    except UnicodeEncodeError:
        return b'{"": "not Unicode"}'
