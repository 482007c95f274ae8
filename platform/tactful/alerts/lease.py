"""The lease of the evaluator: of several servers one evaluates.

The holder renews it at each evaluation. Without a renewal for `LEASE_MS`, for example after a kill,
another server takes it and raises its fence. Each write of an evaluator checks holder and fence in
the same transaction, so a server that was suspended changes nothing afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from tactful.errors import StorageError
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import alert_evaluator

T = TypeVar("T")

LEASE_MS = 45_000

_ROW = 1
_table = alert_evaluator.c


class LeaseLost(StorageError):
    """Another server evaluates the alerts now; nothing was written."""


@dataclass(frozen=True)
class Held:
    """A lease that this server holds."""

    fence: int
    fresh: bool  # whether it was just taken: the stored memory is to be read
    memory: bytes | None = None  # the stored memory, of a fresh lease


class Lease:
    """The lease, as one server sees it."""

    def __init__(self, metadata: MetadataStore, holder: str) -> None:
        """Compete under the name `holder`, which no other server has."""
        self._metadata = metadata
        self._holder = holder
        self._fence = 0

    def acquire(self, now: int) -> Held | None:
        """Take or renew the lease; None while another server holds it."""

        def take(connection: sa.Connection) -> Held | None:
            row = connection.execute(
                sa.select(alert_evaluator).where(_table.id == _ROW).with_for_update()
            ).first()
            if row is None:
                values = {"id": _ROW, "evaluated_at": 0, "memory": None, "fence": 1}
                held = {"holder": self._holder, "until": now + LEASE_MS}
                connection.execute(sa.insert(alert_evaluator).values(**values, **held))
                return Held(1, fresh=True)
            own = row.holder == self._holder and row.fence == self._fence
            if not own and row.until > now and row.holder != self._holder:
                return None
            fence = row.fence if own else row.fence + 1
            connection.execute(
                sa.update(alert_evaluator)
                .where(_table.id == _ROW)
                .values(holder=self._holder, fence=fence, until=now + LEASE_MS)
            )
            return Held(fence, fresh=not own, memory=None if own else row.memory)

        held = self._metadata.change(take)
        self._fence = 0 if held is None else held.fence
        return held

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in a transaction that fails if the lease was lost.

        Raises:
            LeaseLost: if another server has taken it.
        """

        def guarded(connection: sa.Connection) -> T:
            query = sa.select(_table.holder, _table.fence).where(_table.id == _ROW)
            row = connection.execute(query.with_for_update()).first()
            if row is None or (row.holder, row.fence) != (self._holder, self._fence):
                raise LeaseLost("another server evaluates the alerts now")
            return work(connection)

        return self._metadata.change(guarded)

    def release(self) -> None:
        """Let another server take the lease at once."""
        statement = (
            sa.update(alert_evaluator)
            .where(_table.holder == self._holder, _table.fence == self._fence)
            .values(until=0)
        )
        self._metadata.change(lambda connection: connection.execute(statement))
