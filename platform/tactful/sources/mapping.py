"""A mapping: the rules by which messages of one source become events and users."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tactful.sources.places import Place, Value, is_blank, plain_name, read_value

SourceName = Literal["segment", "rudderstack", "ga4", "plain"]
"""A source: a kind of programs that send messages, with a route of its own."""

SOURCES: tuple[SourceName, ...] = get_args(SourceName)

KINDS: Mapping[SourceName, tuple[str, ...]] = {
    **dict.fromkeys(
        ("segment", "rudderstack"),
        ("track", "identify", "page", "screen", "group", "alias"),
    ),
    "ga4": ("event", "user_properties"),
    "plain": ("event",),
}
"""Kinds of messages of each source."""

OTHER = "other"
"""Kind of a message that has none of these."""

AS_NAMED = "*"
"""`send` of a rule for messages that are named like a type of event."""

IDS = ("event_id", "user_id", "device_id", "session_id", "item_id", "recommendation_id")
"""Fields of an event that are ids."""

GRANTED = frozenset({"true", "granted", "yes", "1", "allow", "allowed", "accepted"})
"""Words for an agreement, beside ``true``; any other word is a refusal."""


@dataclass(frozen=True)
class Fields:
    """Places that the fields of an event are read from."""

    ids: Mapping[str, Value] = field(default_factory=dict)
    properties: Mapping[str, Value] = field(default_factory=dict)
    context: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """A rule for some messages, with the events and traits that they become."""

    name: str
    fields: Fields
    kinds: frozenset[str] = frozenset()  # empty for any
    names: frozenset[str] = frozenset()  # of messages, as `plain_name` writes them; empty for any
    with_all: tuple[Place, ...] = ()  # places that must not be blank
    with_any: tuple[Place, ...] = ()  # places of which one must not be blank
    each: Place | None = None  # list with an element for each event
    send: str | None = None  # type of the events; None: no event
    event_id: Value = ()  # instead of that of the source; unique among the messages of this rule
    item_needed: bool = False  # whether an event without an item is refused
    user: Mapping[str, Value] = field(default_factory=dict)  # properties of the user to be kept

    def fits(self, kind: str, name: str, message: Any) -> bool:
        """Return whether it is for a message of a kind with a plain name."""
        return (
            (not self.kinds or kind in self.kinds)
            and (not self.names or name in self.names)
            and not any(is_blank(place.read(message)) for place in self.with_all)
            and (
                not self.with_any
                or not all(is_blank(place.read(message)) for place in self.with_any)
            )
        )


@dataclass(frozen=True)
class ConsentMapping:
    """Place and meaning of the consent that a message states."""

    # an object of answers by category, a list or text of the categories agreed to, or one answer
    place: Value
    purposes: Mapping[str, tuple[str, ...]]  # purposes of each category, by its plain name

    def claim(self, message: Any) -> str | None:
        """Return the claimed purposes, separated by blanks; None if the message states nothing.

        A statement that cannot be read claims nothing, as a refusal does.
        """
        stated = next((v for p in self.place if (v := p.read(message)) is not None), None)
        if stated is None:
            return None
        agreed: Collection[Any] = ()
        if isinstance(stated, dict):
            agreed = [category for category, answer in stated.items() if _is_granted(answer)]
        elif isinstance(stated, list):
            agreed = [category for category in stated if isinstance(category, str)]
        elif isinstance(stated, str):
            agreed = stated.replace(",", " ").split()
        elif stated is True:
            agreed = self.purposes
        purposes = {
            purpose
            for category in agreed
            for purpose in self.purposes.get(plain_name(category), ())
        }
        return " ".join(sorted(purposes))


@dataclass(frozen=True)
class SourceMapping:
    """The rules of one source; the first that fits a message decides."""

    source: SourceName
    rules: tuple[Rule, ...] = ()
    name: Value = ()  # where the name of a message stands
    event_id: Value = ()
    timestamp: Value = ()  # where the time stands, for sources without one of their own
    consent: ConsentMapping | None = None

    def rule_for(self, kind: str, message: Any) -> Rule | None:
        """Return the first rule that fits a message, or None."""
        name = plain_name(self.name_of(message))
        return next((rule for rule in self.rules if rule.fits(kind, name, message)), None)

    def name_of(self, message: Any) -> str:
        """Return the name of a message as sent; empty if it has none."""
        name = read_value(self.name, message)
        return name if isinstance(name, str) else ""


Mappings = Mapping[SourceName, SourceMapping]
"""The mapping of each source of a file; a source that it leaves out has no rules."""


def _is_granted(answer: Any) -> bool:
    if isinstance(answer, str):
        return answer.strip().lower() in GRANTED
    return answer is True or (type(answer) is int and answer == 1)
