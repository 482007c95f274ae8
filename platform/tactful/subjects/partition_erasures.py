"""Erasures by the owners of partitions, requested and reported in the metadata.

Workers hold states that no other process can open. Each reads here which users were erased, purges
its partitions, and reports that. An erasure is complete when every partition has reported it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container

import msgspec
import sqlalchemy as sa

from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import purged_partitions, purges
from tactful.subjects.suppression import SuppressionStore
from tactful_streaming.contract.subject_ids import SubjectIds

_purge = purges.c
_partition = purged_partitions.c


class PartitionErasures:
    """The partitions' erasures of one installation; thread-safe.

    Subject ids are stored only until their erasure is complete. A state that is opened later is
    purged by the ids in it. Methods raise StorageError if the database or keyring cannot be used.

    ::

        purges             number | receipt | subject ids | partitions     purged_partitions
    partition -> number of the last erasure that it was purged by
    """

    def __init__(
        self, metadata: MetadataStore, suppression: SuppressionStore, *, clock: Callable[[], int]
    ) -> None:
        """Read the number of the last erasure."""
        self._metadata = metadata
        self._suppression = suppression
        self._clock = clock
        self._newest = 0
        self._lock = threading.Lock()
        self.refresh()

    @property
    def suppressed(self) -> Container[str]:
        """Keys of erased users."""
        return self._suppression.suppressed

    @property
    def newest(self) -> int:
        """Number of the last erasure at the last :meth:`refresh`."""
        return self._newest

    def refresh(self) -> None:
        """Read the erasures of other processes."""
        newest = self._metadata.fetch(sa.select(sa.func.max(_purge.number)))[0][0] or 0
        # Users are suppressed before their erasure is requested.
        self._suppression.refresh()
        with self._lock:
            self._newest = max(self._newest, newest)

    def after(self, number: int) -> tuple[int, SubjectIds]:
        """Return the last erasure's number, and the subject ids of those after `number`."""
        query = sa.select(_purge.number, _purge.traces).where(_purge.number > number)
        rows = self._metadata.fetch(query.order_by(_purge.number))
        self._suppression.refresh()
        traces = SubjectIds()
        for row in rows:
            if row.traces is not None:
                traces |= msgspec.msgpack.decode(row.traces, type=SubjectIds)
        return max([number, *(row.number for row in rows)]), traces

    def purged(self, partition: str, number: int) -> None:
        """Record that a partition was purged by the erasures up to `number`."""
        same = _partition.name == partition
        values = {"number": number, "at": self._clock()}

        def put(connection: sa.Connection) -> None:
            stored = connection.execute(sa.select(_partition.number).where(same)).scalar()
            if stored is None:
                connection.execute(sa.insert(purged_partitions).values(name=partition, **values))
            else:
                connection.execute(sa.update(purged_partitions).where(same).values(**values))

        self._metadata.change(put)

    def publish(self, receipt: str, traces: SubjectIds, *, partitions: int = 0) -> None:
        """Request an erasure from the owners of partitions, once for each receipt.

        The users are suppressed already. At least `partitions` partitions must report.
        """
        encoded = msgspec.msgpack.encode(traces)
        highest = sa.select(sa.func.max(_purge.number))

        def insert(connection: sa.Connection) -> None:
            if connection.execute(self._of(receipt)).first() is not None:
                return
            # A state may hold numbers of a database that was replaced by a backup; numbers from
            # the clock are higher.
            number = max((connection.execute(highest).scalar() or 0) + 1, self._clock())
            row = {"receipt": receipt, "traces": encoded, "partitions": partitions}
            connection.execute(sa.insert(purges).values(number=number, **row))

        self._metadata.change(insert)

    def missing(self, receipt: str) -> int | None:
        """Count the partitions that have not reported yet; None if nothing was published."""
        rows = self._metadata.fetch(self._of(receipt))
        if not rows:
            return None
        known = self._metadata.fetch(sa.select(_partition.number))
        behind = sum(row.number < rows[0].number for row in known)
        return int(behind + max(rows[0].partitions - len(known), 0))

    def traces_of(self, receipt: str) -> SubjectIds | None:
        """Return the subject ids of an incomplete erasure that was published."""
        query = sa.select(_purge.traces).where(_purge.receipt == receipt)
        rows = self._metadata.fetch(query)
        if not rows or rows[0].traces is None:
            return None
        return msgspec.msgpack.decode(rows[0].traces, type=SubjectIds)

    def finish(self, receipt: str) -> None:
        """Delete the subject ids of an erasure."""
        change = sa.update(purges).where(_purge.receipt == receipt).values(traces=None)
        self._metadata.change(lambda connection: connection.execute(change))

    def _of(self, receipt: str) -> sa.Select[tuple[int, int]]:
        return sa.select(_purge.number, _purge.partitions).where(_purge.receipt == receipt)
