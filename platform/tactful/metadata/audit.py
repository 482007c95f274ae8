"""Audit trail of an installation: one list of all changes and of all looks at users.

Models, rollouts, definitions, imports and accesses to users keep logs of their own, which are read
here; every other change is written by `AuditTrail.record_change`, or by `note_change` in the
transaction that makes it.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec
import sqlalchemy as sa
from msgspec import Meta

from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import (
    changes,
    definition_versions,
    imports,
    model_changes,
    person_accesses,
    rollout_changes,
)
from tactful.schemas.subjects.audit import AuditEntry
from tactful_privacy.decoding import DECODE_ERRORS

_WIDTHS = {"actor": 255, "action": 64, "target": 255, "detail": 10_000}
_HASH_DIGITS = 16


@dataclass(frozen=True)
class _Source:
    """A table with changes.

    Attributes:
        kind: first part of the actions; "" if the column contains whole actions.
        at: column of the time.
        order: columns that order the rows of one millisecond.
        actor: column of the author.
        action: column of the verb, or the verb.
        target: columns of the object.
        detail: column of the reason; None for none.
        share: column of the share of the users that a change reaches; None for none.
    """

    kind: str
    at: sa.Column[Any]
    order: tuple[sa.Column[Any], ...]
    actor: sa.Column[Any]
    action: sa.Column[Any] | str
    target: tuple[sa.Column[Any], ...]
    detail: sa.Column[Any] | None = None
    share: sa.Column[Any] | None = None


class RecordedEntry(NamedTuple):
    """An entry with the identity of its row, which never changes."""

    id: str  # such as `rollout_changes:cheaper-first:3`
    entry: AuditEntry
    share: float | None = None  # of the users that the change reaches; None if it has none


# The order is part of cursors: append only.
_SOURCES = (
    _Source(
        "",
        changes.c.at,
        (changes.c.id,),
        changes.c.actor,
        changes.c.action,
        (changes.c.target,),
        changes.c.detail,
    ),
    _Source(
        "person",
        person_accesses.c.at,
        (person_accesses.c.id,),
        person_accesses.c.accessed_by,
        person_accesses.c.action,
        (person_accesses.c.digest,),
    ),
    _Source(
        "model",
        model_changes.c.begun_at,
        (model_changes.c.id,),
        model_changes.c.changed_by,
        model_changes.c.action,
        (model_changes.c.name, model_changes.c.version),
        model_changes.c.reason,
    ),
    _Source(
        "rollout",
        rollout_changes.c.at,
        (rollout_changes.c.key, rollout_changes.c.number),
        rollout_changes.c.changed_by,
        rollout_changes.c.action,
        (rollout_changes.c.key,),
        rollout_changes.c.reason,
        rollout_changes.c.share,
    ),
    _Source(
        "features",
        definition_versions.c.applied_at,
        (definition_versions.c.id,),
        definition_versions.c.applied_by,
        "apply",
        (definition_versions.c.fingerprint,),
    ),
    _Source(
        "import",
        imports.c.begun_at,
        (imports.c.number,),
        imports.c.begun_by,
        "begin",
        (imports.c.id, imports.c.name),
    ),
)
_Number = Annotated[int, Meta(ge=0, lt=2**62)]
# time, number of the source, values of its order
_Place = tuple[_Number, _Number, list[_Number | str]]


class AuditTrail:
    """The audit trail of one installation; StorageError if the database cannot be used.

    Entries by example, newest first::

        1767225661000  ann@shop.example  person.export    user 9f3c5a77e1020b44
        1767225600000  key 0f3a9c21      alert.silence    click rate              a planned sale
        1767225500000  ann@shop-1        model.promote    ranker 4                more purchases
    """

    def __init__(self, metadata: MetadataStore, *, clock: Callable[[], int]) -> None:
        """Use a database whose schema is up to date, and a clock in epoch milliseconds."""
        self._metadata = metadata
        self._clock = clock

    def record_change(self, actor: str, action: str, target: str, detail: str = "") -> None:
        """Write a change, before it happens.

        Args:
            actor: the caller (`tactful.http.common.caller_of`), or login and host of a command.
            action: kind and verb, such as ``alert.silence``.
            target: name of the changed object; never an id of a user, whose looks and erasures
                `tactful.subjects.access_log` records.
            detail: reason, or what was changed; no personal data.
        """
        at = self._clock()
        self._metadata.change(
            lambda connection: note_change(connection, at, actor, action, target, detail)
        )

    def entries(
        self, *, actor: str = "", action: str = "", cursor: str = "", limit: int = 100
    ) -> tuple[list[AuditEntry], str | None]:
        """Return a page, newest first, and the cursor of the next one.

        Args:
            actor: of the returned entries; "" for all.
            action: of the returned entries, or its first part, such as ``person``; "" for all.
            cursor: as returned with the page before; "" for the first.
            limit: most entries of the page.

        Raises:
            ValueError: if the cursor was not returned here.
        """
        before = _decode(cursor) if cursor else None
        newest = heapq.merge(
            *(
                self._rows(number, actor, action, before, limit + 1)
                for number in range(len(_SOURCES))
            ),
            key=lambda row: (row[0][0], row[0][1]),
            reverse=True,
        )
        page = [row for row, _ in zip(newest, range(limit + 1), strict=False)]
        more = len(page) > limit
        page = page[:limit]
        return [entry for _, entry in page], _encode(page[-1][0]) if more else None

    def recorded(self, kinds: Collection[str], since: int) -> list[RecordedEntry]:
        """Return the entries of some kinds, such as ``rollout``, since a time, oldest first.

        Entries of looks at users are never among them.
        """
        entries = []
        for source in _SOURCES:
            query = _select(source).where(source.at >= since)
            if source.kind == "person" or (source.kind and source.kind not in kinds):
                continue
            if not source.kind:
                query = query.where(sa.or_(*(_matches(source, kind) for kind in kinds)))
            for row in self._metadata.fetch(query):
                (_, *order), entry = _entry(source, row)
                identity = ":".join(map(str, (source.at.table.name, *order)))
                share = None if source.share is None else row.share
                entries.append(RecordedEntry(identity, entry, share))
        return sorted(entries, key=lambda recorded: (recorded.entry.at, recorded.id))

    def _rows(
        self, number: int, actor: str, action: str, before: _Place | None, limit: int
    ) -> Iterator[tuple[_Place, AuditEntry]]:
        """Yield the places and entries of one source, newest first."""
        source = _SOURCES[number]
        query = _select(source)
        if actor:
            query = query.where(source.actor == actor)
        if action:
            query = query.where(_matches(source, action))
        if before is not None:
            query = query.where(_earlier(source, number, before))
        newest = [column.desc() for column in (source.at, *source.order)]
        for row in self._metadata.fetch(query.order_by(*newest).limit(limit)):
            (at, *order), entry = _entry(source, row)
            yield (at, number, order), entry


def _select(source: _Source) -> sa.Select[Any]:
    return sa.select(
        source.at,
        *(column.label(f"order_{index}") for index, column in enumerate(source.order)),
        source.actor.label("actor"),
        sa.literal(source.action).label("action")
        if isinstance(source.action, str)
        else source.action.label("action"),
        *(column.label(f"target_{index}") for index, column in enumerate(source.target)),
        (sa.literal("") if source.detail is None else source.detail).label("detail"),
        (sa.null() if source.share is None else source.share).label("share"),
    )


def _entry(source: _Source, row: sa.Row[Any]) -> tuple[list[Any], AuditEntry]:
    """Return the values that order a row of `_select`, the time first, and its entry."""
    ordered = 1 + len(source.order)
    who, verb, *target, detail, _ = row[ordered:]
    entry = AuditEntry(
        at=row[0],
        actor=who,
        action=f"{source.kind}.{verb}" if source.kind else verb,
        target=" ".join(filter(None, map(_text, target))),
        detail=detail,
    )
    return [*row[:ordered]], entry


def note_change(
    connection: sa.Connection, at: int, actor: str, action: str, target: str, detail: str = ""
) -> None:
    """Write a change in the transaction that makes it; see `AuditTrail.record_change`."""
    values = {"actor": actor, "action": action, "target": target, "detail": detail}
    row = {name: text[: _WIDTHS[name]] for name, text in values.items()}
    connection.execute(sa.insert(changes).values(at=at, **row))


def _matches(source: _Source, action: str) -> sa.ColumnElement[bool]:
    """Return the condition of an action, or of all actions of a kind."""
    if not source.kind:
        column = changes.c.action
        within = column.startswith(f"{action}.", autoescape=True)
        return sa.or_(column == action, within)
    kind, _, verb = action.partition(".")
    if kind != source.kind:
        return sa.false()
    return sa.true() if not verb else sa.literal(verb) == source.action


def _earlier(source: _Source, number: int, before: _Place) -> sa.ColumnElement[bool]:
    """Return the condition of the rows of a source that follow a place."""
    at, place, order = before
    if number > place:
        return source.at < at
    if number < place:
        return source.at <= at
    if len(order) != len(source.order):
        raise ValueError("the cursor was not returned here")
    return sa.tuple_(source.at, *source.order) < sa.tuple_(at, *order)


def _text(value: str | bytes) -> str:
    return f"user {value.hex()[:_HASH_DIGITS]}" if isinstance(value, bytes) else value


def _encode(place: _Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def _decode(cursor: str) -> _Place:
    padded = cursor + "=" * (-len(cursor) % 4)
    decoded = base64.b64decode(padded, altchars="-_", validate=True)
    try:
        return msgspec.json.decode(decoded, type=_Place)
    except DECODE_ERRORS:
        raise ValueError("the cursor was not returned here") from None
