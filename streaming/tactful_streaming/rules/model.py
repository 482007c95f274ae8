"""Rules that clean events, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tactful_streaming.contract.log_entries import Scalar

Action = Literal["drop", "dead_letter", "normalise"]
"""Effect of a rule on an event that it matches."""

BOUNDS = ("above", "below", "at_least", "at_most")
"""Operators that compare a number with an operand."""

_OF_A_USER = frozenset({"subject", "user_id", "content"})  # any of them in a key names the user

TEXT_TESTS = ("matches", "starts")
"""Operators that test a text."""


@dataclass(frozen=True)
class Relative:
    """A bound that is another field of the same event, times a factor."""

    of: str
    times: float = 1.0


@dataclass(frozen=True)
class FieldTest:
    """A test of one field: ``properties.price: {below: 0}``."""

    field: str  # `type`, `properties.price`, `item.price`, `age`…
    # `equals`, `in`, `matches`, `starts`, `above`, `below`, `at_least`, `at_most`, `missing` or
    # `kind`
    operator: str
    operand: Scalar | tuple[Scalar, ...] | Relative


@dataclass(frozen=True)
class UserAgent:
    """The class of ``context.user_agent`` is one of `classes`."""

    classes: tuple[str, ...]


@dataclass(frozen=True)
class Rate:
    """More than `above` events of one key in a window aligned to the epoch.

    The rate counts the events that reach this condition. An event whose window ended a window
    before the newest timestamp so far is late and does not count. After the rate was exceeded, all
    events of the key exceed it for `hold_ms`, by the newest timestamp so far.
    """

    by: tuple[str, ...]  # fields of the key; without one, the rate is never exceeded
    above: int  # largest allowed number of events in a window
    within_ms: int  # length of the window, milliseconds
    hold_ms: int = 0  # time for which a key continues to exceed the rate, milliseconds
    most: int = 100_000  # largest number of stored keys


@dataclass(frozen=True)
class Earlier:
    """A clean event with the same values came earlier in the log.

    It counts while its timestamp is at most `within_ms` older than the newest so far. Values are
    compared as they are when the event reaches the rule.
    """

    events: tuple[str, ...]  # types that count; empty for any
    same: tuple[str, ...]  # equal fields, or `content`: all but the `event_id`
    within_ms: int  # milliseconds of event time
    most: int = 200_000  # largest number of stored keys


Condition = FieldTest | UserAgent | Rate | Earlier


@dataclass(frozen=True)
class FieldChange:
    """One step of normalising a field."""

    field: str
    operation: str  # `strip`, `lower`, `map`, `clamp`, `convert`…
    operand: Scalar | tuple[tuple[str, Scalar], ...] | Conversion = None


@dataclass(frozen=True)
class Conversion:
    """Conversion of amounts to one currency, by a table."""

    currency: str  # field that names the currency; set to `to` with the amount
    to: str  # currency of the result
    rates: tuple[tuple[str, float], ...]  # value in `to` of one unit of each other currency


@dataclass(frozen=True)
class Rule:
    """One rule."""

    name: str  # snake_case, unique
    action: Action  # effect on an event that it matches
    events: tuple[str, ...] = ()  # event types it is about; empty for any
    when: tuple[tuple[Condition, ...], ...] = ()  # alternatives of conditions; empty: always
    unless: tuple[tuple[Condition, ...], ...] = ()  # alternatives that exclude an event
    changes: tuple[FieldChange, ...] = ()  # steps of normalising, in order
    reason: str = ""  # explanation of a set-aside event, for operators
    line: int = field(default=0, compare=False)  # from 1; not part of the fingerprint

    @property
    def memories(self) -> tuple[Rate | Earlier, ...]:
        """Its conditions that look at earlier events."""
        conditions = (c for parts in (self.when, self.unless) for part in parts for c in part)
        return tuple(c for c in conditions if isinstance(c, Rate | Earlier))

    @property
    def looks_across_users(self) -> bool:
        """Whether an event of one user may decide about an event of another by its key."""
        keys = (c.by if isinstance(c, Rate) else c.same for c in self.memories)
        return any(_OF_A_USER.isdisjoint(key) for key in keys)
