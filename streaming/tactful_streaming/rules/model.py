"""Rules that clean events, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tactful_streaming.contract.log_entries import Scalar

Action = Literal["drop", "dead_letter", "normalise"]
"""Effect of a rule on an event that it matches."""

BOUNDS = ("above", "below", "at_least", "at_most")
"""Operators that compare a number with an operand."""

TEXT_TESTS = ("matches", "starts")
"""Operators that test a text."""


@dataclass(frozen=True)
class Relative:
    """A bound that is another field of the same event, times a factor."""

    of: str
    times: float = 1.0


@dataclass(frozen=True)
class FieldTest:
    """A test of one field: ``properties.price: {below: 0}``.

    Attributes:
        field: ``type``, ``properties.price``, ``item.price``, ``age``…
        operator: ``equals``, ``in``, ``matches``, ``starts``, ``above``, ``below``, ``at_least``,
            ``at_most``, ``missing`` or ``kind``.
        operand: value to compare with.
    """

    field: str
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

    Attributes:
        by: fields whose values form the key; an event that lacks one never exceeds the rate.
        above: largest allowed number of events in a window.
        within_ms: length of the window, milliseconds.
        hold_ms: time for which a key continues to exceed the rate, milliseconds.
        most: largest number of stored keys.
    """

    by: tuple[str, ...]
    above: int
    within_ms: int
    hold_ms: int = 0
    most: int = 100_000


@dataclass(frozen=True)
class Earlier:
    """A clean event with the same values came earlier in the log.

    It counts while its timestamp is at most `within_ms` older than the newest so far. Values are
    compared as they are when the event reaches the rule.

    Attributes:
        events: types that count; empty for any.
        same: fields that are equal, or ``content`` for all but the ``event_id``; an event that
            lacks one of them has nothing earlier.
        within_ms: milliseconds of event time.
        most: largest number of stored keys.
    """

    events: tuple[str, ...]
    same: tuple[str, ...]
    within_ms: int
    most: int = 200_000


Condition = FieldTest | UserAgent | Rate | Earlier


@dataclass(frozen=True)
class FieldChange:
    """One step of normalising a field.

    Attributes:
        field: the field to change.
        operation: ``strip``, ``lower``, ``map``, ``clamp``, ``convert``…
        operand: operand of the operation, if it has one.
    """

    field: str
    operation: str
    operand: Scalar | tuple[tuple[str, Scalar], ...] | Conversion = None


@dataclass(frozen=True)
class Conversion:
    """Conversion of amounts to one currency, by a table.

    Attributes:
        currency: field that names the currency; set to `to` with the amount.
        to: currency of the result.
        rates: value in `to` of one unit of each other currency.
    """

    currency: str
    to: str
    rates: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: snake_case, unique.
        action: effect on an event that it matches.
        events: event types it is about; empty for any.
        when: alternatives; all conditions of one must hold; empty: always.
        unless: alternatives; if one holds, the rule does not match.
        changes: steps of normalising, in order.
        reason: explanation of a set-aside event, for operators.
        line: line in the file, from 1; not part of the fingerprint.
    """

    name: str
    action: Action
    events: tuple[str, ...] = ()
    when: tuple[tuple[Condition, ...], ...] = ()
    unless: tuple[tuple[Condition, ...], ...] = ()
    changes: tuple[FieldChange, ...] = ()
    reason: str = ""
    line: int = field(default=0, compare=False)
