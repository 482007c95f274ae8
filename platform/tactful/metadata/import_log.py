"""Imports of files: who sent them, how much of them came, and what an undo removed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import sqlalchemy as sa

from tactful.errors import ImportRefused
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import imports
from tactful.schemas.data.imports import Import, ImportUndo, NewImport

_table = imports.c
_PROBLEM_LENGTH = 2_000
_undo = msgspec.json.Decoder(ImportUndo | None)


class ImportLog:
    """The imports of one installation; StorageError if the database cannot be used.

    Their states::

        running -> done -> undoing -> undone      (an interrupted one goes running -> undoing)

    Counts of accepted and refused elements are kept in memory and written by `flush`; a crash loses
    those of the last moment.
    """

    def __init__(self, metadata: MetadataStore, *, clock: Callable[[], int]) -> None:
        """Use a database whose schema is up to date."""
        self._metadata = metadata
        self._clock = clock
        self._lock = threading.Lock()
        self._accepted: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def register(self, import_id: str, new: NewImport, *, by: str) -> Import:
        """Begin or end an import; repeated, it changes nothing more.

        Raises:
            ImportRefused: if it is undone, or of another kind.
        """
        self.flush()
        found = sa.select(imports).where(_table.id == import_id).with_for_update()
        newest = sa.select(sa.func.coalesce(sa.func.max(_table.number), 0))
        now, done = self._clock(), new.state == "done"
        ended = {"state": new.state, "ended_at": now if done else None}

        def write(connection: sa.Connection) -> None:
            row = connection.execute(found).first()
            if row is None:
                first = {"id": import_id, "number": connection.execute(newest).scalar_one() + 1}
                given = {"name": new.name, "kind": new.kind, "begun_at": now, "begun_by": by}
                counts = {"accepted": 0, "refused": new.refused, "report": "null", "problem": ""}
                row_values = {**first, **given, **counts, **ended}
                connection.execute(sa.insert(imports).values(row_values))
                return
            if row.state not in ("running", "done") or row.kind != new.kind:
                raise ImportRefused(
                    f"the import {import_id} is {row.state} and of {row.kind}: begin another one"
                )
            refused = row.refused + (new.refused if done and row.state == "running" else 0)
            change = sa.update(imports).where(_table.id == import_id)
            connection.execute(change.values(refused=refused, **ended))

        self._metadata.change(write)
        written = self.find(import_id)
        assert written is not None
        return written

    def find(self, import_id: str) -> Import | None:
        """Return an import, if there is one."""
        self.flush()
        rows = self._metadata.fetch(sa.select(imports).where(_table.id == import_id))
        return _import(rows[0]) if rows else None

    def accepts(self, import_id: str) -> bool:
        """Return whether an import takes elements; asked for each request, so it writes nothing."""
        rows = self._metadata.fetch(sa.select(_table.state).where(_table.id == import_id))
        return bool(rows) and rows[0].state in ("running", "done")

    def page(self, *, limit: int, before: int | None = None) -> tuple[Sequence[Import], int | None]:
        """Return imports of a smaller number than `before`, newest first; and the next `before`."""
        self.flush()
        query = sa.select(imports).order_by(_table.number.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(_table.number < before)
        rows = self._metadata.fetch(query)
        more = rows[limit - 1].number if len(rows) > limit else None
        return [_import(row) for row in rows[:limit]], more

    def undoing(self) -> Sequence[Import]:
        """Return the imports whose undo is not complete, in order of their beginning."""
        query = sa.select(imports).where(_table.state == "undoing").order_by(_table.number)
        return [_import(row) for row in self._metadata.fetch(query)]

    def request_undo(self, import_id: str, *, by: str) -> Import | None:
        """Begin the undo of an import, if there is one; repeated, it changes nothing more."""
        known = self.find(import_id)
        if known is None or known.undo is not None:
            return known
        self.note(import_id, ImportUndo(requested_at=self._clock(), requested_by=by))
        return self.find(import_id)

    def note(self, import_id: str, undo: ImportUndo) -> None:
        """Write the progress of an undo."""
        state = "undoing" if undo.done_at is None else "undone"
        change = sa.update(imports).where(_table.id == import_id)
        change = change.values(state=state, report=msgspec.json.encode(undo).decode())
        self._metadata.change(lambda connection: connection.execute(change))

    def fail(self, import_id: str, problem: str) -> None:
        """Note why an import ended early."""
        change = sa.update(imports).where(_table.id == import_id)
        values = {"problem": problem[:_PROBLEM_LENGTH], "ended_at": self._clock()}
        self._metadata.change(lambda connection: connection.execute(change.values(values)))

    def count(self, import_id: str, accepted: int, refused: int) -> None:
        """Add to the counts of an import, in memory."""
        with self._lock:
            self._accepted[import_id] += accepted
            self._refused[import_id] += refused

    def flush(self) -> None:
        """Write the counts."""
        with self._lock:
            accepted, refused = self._accepted, self._refused
            self._accepted, self._refused = Counter(), Counter()
        if not accepted:
            return

        def write(connection: sa.Connection) -> None:
            for import_id, number in accepted.items():
                change = sa.update(imports).where(_table.id == import_id)
                added = {
                    "accepted": _table.accepted + number,
                    "refused": _table.refused + refused[import_id],
                }
                connection.execute(change.values(added))

        self._metadata.change(write)


def _import(row: sa.Row[tuple[object, ...]]) -> Import:
    values = {name: getattr(row, name) for name in Import.__struct_fields__ if name != "undo"}
    return Import(**values, undo=_undo.decode(row.report))
