"""Requested erasures, their steps and receipts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

import msgspec
import sqlalchemy as sa

from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import erasures
from tactful.schemas.users import Erasure, ErasureStep

_table = erasures.c
_DAY_MS = 86_400_000
_steps = msgspec.json.Decoder(list[ErasureStep])


class ErasureJobs:
    """The erasure jobs of one installation; StorageError if the database cannot be used.

    Their states, and the user id in each::

        requested (id) -> purging (id) -> purging (id deleted) -> done
    """

    def __init__(
        self, metadata: MetadataStore, *, clock: Callable[[], int], days: float = 30.0
    ) -> None:
        """Use a database whose schema is up to date; erasures are due within `days`."""
        self._metadata = metadata
        self._clock = clock
        self._days = days

    def request(self, person: str) -> Erasure:
        """Add a job for a user; a waiting job keeps its receipt."""
        now = self._clock()
        waiting = sa.select(erasures).where(_table.person == person, _table.state != "done")

        def insert(connection: sa.Connection) -> str:
            row = connection.execute(waiting.with_for_update()).first()
            if row is not None:
                return str(row.receipt)
            receipt = uuid.uuid4().hex
            due_at = now + round(self._days * _DAY_MS)
            times = {"requested_at": now, "due_at": due_at, "done_at": None}
            job = {"receipt": receipt, "person": person, "state": "requested", "report": "[]"}
            connection.execute(sa.insert(erasures).values({**job, **times}))
            return receipt

        receipt = self._metadata.change(insert)
        erasure = self.find(receipt)
        assert erasure is not None
        return erasure

    def find(self, receipt: str) -> Erasure | None:
        """Read an erasure by its receipt."""
        rows = self._metadata.fetch(sa.select(erasures).where(_table.receipt == receipt))
        return _erasure(rows[0]) if rows else None

    def list(
        self, *, is_open: bool | None = None, limit: int = 100, after: tuple[int, str] | None = None
    ) -> list[Erasure]:
        """Return erasures by due time and receipt, from the one after `after`.

        `is_open` selects incomplete or completed ones; completed ones are listed newest first.
        """
        newest = is_open is False
        place = sa.tuple_(_table.due_at, _table.receipt)
        query = sa.select(erasures)
        if is_open is not None:
            query = query.where(_table.state != "done" if is_open else _table.state == "done")
        if after is not None:
            query = query.where(place < sa.tuple_(*after) if newest else place > sa.tuple_(*after))
        order = [_table.due_at, _table.receipt]
        query = query.order_by(*(column.desc() if newest else column for column in order))
        return [_erasure(row) for row in self._metadata.fetch(query.limit(limit))]

    def waiting(self) -> Sequence[tuple[str, str]]:
        """List receipts and users of incomplete erasures, in order of request."""
        query = sa.select(_table.receipt, _table.person).where(_table.person.is_not(None))
        rows = self._metadata.fetch(query.order_by(_table.requested_at, _table.receipt))
        return [(row.receipt, row.person) for row in rows]

    def unconfirmed(self) -> Sequence[str]:
        """List the receivers, outside the installation, that have not confirmed an erasure."""
        rows = self._metadata.fetch(sa.select(_table.report).where(_table.person.is_not(None)))
        steps = (step for row in rows for step in _steps.decode(row.report))
        return sorted({step.place for step in steps if step.at is None})

    def incomplete(self) -> int:
        """Count incomplete erasures, also those that only wait for the removal of the id."""
        return self._count(_table.state != "done")

    def oldest(self) -> int | None:
        """Return the time of the oldest incomplete request, epoch milliseconds; None for none."""
        query = sa.select(sa.func.min(_table.requested_at)).where(_table.state != "done")
        found = self._metadata.fetch(query)[0][0]
        return None if found is None else int(found)

    def overdue(self) -> int:
        """Count incomplete erasures that are past their due time."""
        return self._count(_table.state != "done", _table.due_at < self._clock())

    def _count(self, *conditions: sa.ColumnElement[bool]) -> int:
        count = sa.select(sa.func.count()).select_from(erasures).where(*conditions)
        return int(self._metadata.fetch(count)[0][0])

    def latest(self) -> int:
        """Return the time of the last completed erasure, epoch milliseconds; 0 for none."""
        return int(self._metadata.fetch(sa.select(sa.func.max(_table.done_at)))[0][0] or 0)

    def note(self, receipt: str, steps: Sequence[ErasureStep]) -> None:
        """Write the steps of an erasure."""
        self._write(receipt, steps)

    def forget(self, receipt: str, steps: Sequence[ErasureStep]) -> None:
        """Delete the user id of a finished erasure.

        The receipt is complete when the id has left the database's files, too; see `complete`.
        """
        self._write(receipt, steps, person=None)

    def _write(self, receipt: str, steps: Sequence[ErasureStep], **values: None) -> None:
        report = msgspec.json.encode(list(steps)).decode()
        change = sa.update(erasures).where(_table.receipt == receipt)
        change = change.values(state="purging", report=report, **values)
        self._metadata.change(lambda connection: connection.execute(change))

    def complete(self) -> None:
        """Mark the erasures with deleted user ids as done."""
        change = sa.update(erasures).where(_table.person.is_(None), _table.state != "done")
        values = {"state": "done", "done_at": self._clock()}
        self._metadata.change(lambda connection: connection.execute(change.values(**values)))

    def forgotten(self) -> bool:
        """Return whether a receipt only waits for the removal of its id from files."""
        return self._count(_table.person.is_(None), _table.state != "done") > 0


def _erasure(row: sa.Row[tuple[object, ...]]) -> Erasure:
    return Erasure(
        receipt=row.receipt,
        state=row.state,
        requested_at=row.requested_at,
        due_at=row.due_at,
        done_at=row.done_at,
        steps=_steps.decode(row.report),
    )
