"""What a rule is: the file of rules as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tactful_streaming.contract.log_entries import Scalar

Action = Literal["drop", "dead_letter", "normalise"]
"""What a rule does with an event it holds for."""


@dataclass(frozen=True)
class Relative:
    """A bound that is another field of the same event, times a factor."""

    of: str
    times: float = 1.0


@dataclass(frozen=True)
class FieldTest:
    """A look at one field: ``properties.price: {below: 0}``.

    Attributes:
        field: ``type``, ``properties.price``, ``item.price``, ``age``…
        operator: ``equals``, ``in``, ``matches``, ``starts``, ``above``, ``below``, ``at_least``,
            ``at_most``, ``missing`` or ``kind``.
        operand: what the field is compared with.
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

    Counted are the events that come to this condition. An event whose window ended a window before
    the newest timestamp so far is late and counts for none. All events of a key are above for
    `hold_ms` after one that was, by the newest timestamp so far.

    Attributes:
        by: fields whose values make the key; an event that lacks one is never above.
        above: events in a window that are still in order.
        within_ms: length of the window, milliseconds.
        hold_ms: how long a key stays above, milliseconds.
        most: keys remembered.
    """

    by: tuple[str, ...]
    above: int
    within_ms: int
    hold_ms: int = 0
    most: int = 100_000


@dataclass(frozen=True)
class Earlier:
    """A clean event with the same values came earlier in the log.

    It counts while its timestamp is at most `within_ms` older than the newest so far. Compared are
    the values that events have when they come to the rule.

    Attributes:
        events: types that count; empty for any.
        same: fields that are equal, or ``content`` for all but the ``event_id``; an event that
            lacks one of them has nothing earlier.
        within_ms: milliseconds of event time.
        most: keys remembered.
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
        field: what is changed.
        operation: ``strip``, ``lower``, ``map``, ``clamp``, ``convert``…
        operand: what the operation needs, if anything.
    """

    field: str
    operation: str
    operand: Scalar | tuple[tuple[str, Scalar], ...] | Conversion = None


@dataclass(frozen=True)
class Conversion:
    """Amounts of other currencies into one, by a table.

    Attributes:
        currency: field that names the currency; set to `to` with the amount.
        to: currency of the result.
        rates: what one unit of each other currency is worth in `to`.
    """

    currency: str
    to: str
    rates: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: snake_case, unique.
        action: what happens to an event it holds for.
        events: event types it is about; empty for any.
        when: alternatives, of each of which all conditions must hold; empty: always.
        unless: alternatives; the rule does not hold when one of them does.
        changes: what is normalised, in order.
        reason: why an event was set aside, for people.
        line: where it was written, from 1; no part of the fingerprint.
    """

    name: str
    action: Action
    events: tuple[str, ...] = ()
    when: tuple[tuple[Condition, ...], ...] = ()
    unless: tuple[tuple[Condition, ...], ...] = ()
    changes: tuple[FieldChange, ...] = ()
    reason: str = ""
    line: int = field(default=0, compare=False)
