"""The plan of an import: from which column each field comes, and how it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from tactful.client import Kind
from tactful.imports.amounts import NumberFormat
from tactful.imports.moments import MomentFormat

Read = Literal["id", "text", "number", "moment", "type", "flag", "currency", "value", "picture"]
"""Ways to read the values of a column."""


class Mapped(msgspec.Struct, frozen=True, kw_only=True):
    """A field of the elements, and the column that it comes from.

    Attributes:
        target: field, such as ``user_id`` or ``properties.price``.
        columns: one column, or date and time of day.
        read: how its values are read.
        number: format of numbers.
        moment: format of times.
        whole: whether ids such as ``17850.0`` are read as ``17850``.
    """

    target: str
    columns: tuple[str, ...]
    read: Read
    number: NumberFormat | None = None
    moment: MomentFormat | None = None
    whole: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Rules by which the rows of a file become elements.

    Attributes:
        kind: kind of the elements.
        raw: whether the lines are elements already.
        fields: fields that come from columns.
        constants: fields that are the same in all rows.
        types: type of each word in the column of types; an empty one skips the row.
        time_zone: zone of times without an offset.
        guest: column whose value is the device of a row without user, such as the invoice.
        returns: whether a purchase with a negative quantity is a return.
        by_time: whether the rows are sorted by time before they are sent.
    """

    kind: Kind
    raw: bool = False
    fields: tuple[Mapped, ...] = ()
    constants: dict[str, Any] = {}
    types: dict[str, str] = {}
    time_zone: str = "UTC"
    guest: str | None = None
    returns: bool = False
    by_time: bool = False

    def column_of(self, target: str) -> str | None:
        """Return the first column of a field, or None."""
        return next((mapped.columns[0] for mapped in self.fields if mapped.target == target), None)


@dataclass
class Guess:
    """A plan, and remarks for the user.

    Attributes:
        plan: the plan.
        source: why it is this kind.
        remarks: remark on each field.
        left_out: columns that are not sent.
        notes: further remarks.
    """

    plan: Plan
    source: str
    remarks: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def described(guess: Guess) -> Iterator[str]:
    """Yield the lines that show a plan to the user."""
    plan = guess.plan
    yield f"kind: {plan.kind} ({guess.source})"
    if plan.raw:
        yield "  the lines are sent as they are: their fields have the names of the contract"
    rows = [(mapped.target, "←", " + ".join(mapped.columns)) for mapped in plan.fields]
    rows += [(target, "=", str(value)) for target, value in plan.constants.items()]
    if plan.guest is not None:
        rows.append(("device_id", "←", plan.guest))
    width = max((len(target) for target, _, _ in rows), default=0)
    source = max((len(column) for _, _, column in rows), default=0)
    for target, sign, column in rows:
        remark = guess.remarks.get(target, "")
        yield f"  {target:<{width}} {sign} {column:<{source}}  {remark}".rstrip()
    if plan.types:
        words = [f"{word} → {type_ or 'skipped'}" for word, type_ in plan.types.items()]
        yield f"  types: {', '.join(words)}"
    if plan.by_time:
        yield "  the rows are sorted by time before they are sent (--order file keeps their order)"
    if guess.left_out:
        yield f"  not sent: {', '.join(guess.left_out)}"
    for note in guess.notes:
        yield f"note: {note}"


def as_json(guess: Guess) -> Mapping[str, Any]:
    """Return a plan for ``--json``."""
    plan = guess.plan
    return {
        "kind": plan.kind,
        "raw": plan.raw,
        "mapping": {mapped.target: "+".join(mapped.columns) for mapped in plan.fields},
        "constants": plan.constants,
        "types": plan.types,
        "time_zone": plan.time_zone,
        "guest": plan.guest,
        "returns": plan.returns,
        "by_time": plan.by_time,
        "not_sent": guess.left_out,
        "remarks": guess.remarks,
        "notes": guess.notes,
    }
