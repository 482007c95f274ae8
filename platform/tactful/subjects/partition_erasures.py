"""Erasures as the owners of partitions have to do them: asked for, and reported, in the metadata.

Workers keep states that no other process can open. Each follows here who was erased, purges what it
owns, and says so. An erasure is complete when every partition is past it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container

import msgspec
import sqlalchemy as sa

from tactful.metadata.store import MetadataStore, purged_partitions, purges
from tactful.subjects.suppression import SuppressionStore
from tactful_streaming.contract.subject_ids import SubjectIds

_purge = purges.c
_partition = purged_partitions.c


class _Traces(msgspec.Struct, frozen=True):
    users: frozenset[str]
    devices: frozenset[str]
    shared: frozenset[str]
    sessions: frozenset[str]
    event_ids: frozenset[str]


class PartitionErasures:
    """The erasures of one installation; for many threads.

    What people have left is here only as long as their erasure is not complete. A state that turns
    up later is purged by what it shows itself.
    """

    def __init__(
        self,
        metadata: MetadataStore,
        suppression: SuppressionStore,
        *,
        clock: Callable[[], int],
    ) -> None:
        """See how far the erasures are.

        Args:
            metadata: where they are kept.
            suppression: the erased people.
            clock: now in epoch milliseconds.

        Raises:
            StorageError: if the database or the keyring cannot be used.
        """
        self._metadata = metadata
        self._suppression = suppression
        self._clock = clock
        self._newest = 0
        self._lock = threading.Lock()
        self.refresh()

    @property
    def suppressed(self) -> Container[str]:
        """Keys of people of whom nothing counts any more."""
        return self._suppression.suppressed

    @property
    def newest(self) -> int:
        """Number of the last erasure, as of the last :meth:`refresh`."""
        return self._newest

    def refresh(self) -> None:
        """Take in what other processes added.

        Raises:
            StorageError: if the database cannot be reached, or a key is missing.
        """
        newest = self._metadata.fetch(sa.select(sa.func.max(_purge.number)))[0][0] or 0
        # Whoever the erasures are of was suppressed before they were asked for.
        self._suppression.refresh()
        with self._lock:
            self._newest = max(self._newest, newest)

    def after(self, number: int) -> tuple[int, SubjectIds]:
        """Number of the last erasure, and what is known of those after `number` from the log.

        Raises:
            StorageError: if the database cannot be reached.
        """
        query = sa.select(_purge.number, _purge.traces).where(_purge.number > number)
        rows = self._metadata.fetch(query.order_by(_purge.number))
        self._suppression.refresh()
        traces = SubjectIds()
        for row in rows:
            if row.traces is not None:
                traces |= _decoded(row.traces)
        return max([number, *(row.number for row in rows)]), traces

    def purged(self, partition: str, number: int) -> None:
        """Take note that a partition keeps nothing of the erasures up to `number`.

        Raises:
            StorageError: if the database cannot be reached.
        """
        mine = _partition.name == partition
        values = {"number": number, "at": self._clock()}

        def put(connection: sa.Connection) -> None:
            found = connection.execute(sa.select(_partition.number).where(mine)).scalar()
            if found is None:
                row = sa.insert(purged_partitions).values(name=partition, **values)
                connection.execute(row)
            else:
                connection.execute(sa.update(purged_partitions).where(mine).values(**values))

        self._metadata.change(put)

    def publish(self, receipt: str, traces: SubjectIds, *, partitions: int = 0) -> None:
        """Ask the owners of partitions to erase people; once for each receipt.

        Args:
            receipt: of the erasure.
            traces: what the log shows of them; they are suppressed already.
            partitions: how many partitions have to report at least, also ones that never did.

        Raises:
            StorageError: if that cannot be kept.
        """
        encoded = msgspec.msgpack.encode(
            _Traces(traces.users, traces.devices, traces.shared, traces.sessions, traces.event_ids)
        )
        highest = sa.select(sa.func.max(_purge.number))

        def insert(connection: sa.Connection) -> None:
            if connection.execute(self._of(receipt)).first() is not None:
                return
            # A state may remember the numbers of a database that was replaced by its backup: by
            # the clock, new ones are above those.
            number = max((connection.execute(highest).scalar() or 0) + 1, self._clock())
            connection.execute(
                sa.insert(purges).values(
                    number=number, receipt=receipt, traces=encoded, partitions=partitions
                )
            )

        self._metadata.change(insert)

    def missing(self, receipt: str) -> int | None:
        """How many partitions have not reported yet; None if this erasure was never published."""
        rows = self._metadata.fetch(self._of(receipt))
        if not rows:
            return None
        known = self._metadata.fetch(sa.select(_partition.number))
        behind = sum(row.number < rows[0].number for row in known)
        return int(behind + max(rows[0].partitions - len(known), 0))

    def finish(self, receipt: str) -> None:
        """Forget what was known of the people."""
        change = sa.update(purges).where(_purge.receipt == receipt).values(traces=None)
        self._metadata.change(lambda connection: connection.execute(change))

    def _of(self, receipt: str) -> sa.Select[tuple[int, int]]:
        return sa.select(_purge.number, _purge.partitions).where(_purge.receipt == receipt)


def _decoded(blob: bytes) -> SubjectIds:
    found = msgspec.msgpack.decode(blob, type=_Traces)
    return SubjectIds(found.users, found.devices, found.shared, found.sessions, found.event_ids)
