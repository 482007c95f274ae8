"""The lease on what one server alone may do, of several that share their metadata.

One row of the database names the holder. It renews the row some times in `LEASE_MS`; without a
renewal, for example after a kill, another server takes it, with a higher fence::

    name     holder           fence          until
    "tasks"  "shop-2:71:9f…"  1772366400123  1772366410500

Safety depends on the fence alone: a write that must not happen twice reads the row in its own
transaction (`Lease.write`, `Lease.check`), so a server that was suspended changes nothing after
another one has the lease. Another database that has no such row compares fences instead: it refuses
a lower one than it has seen.

Times only decide how soon the lease changes hands. `until` is judged by one clock: the database
server's, or that of the one machine whose processes share an SQLite file. A holder counts the time
since its last renewal by the clock of its machine that runs on while a process is stopped, and
considers the lease lost a tenth earlier; so clocks of servers may differ by any amount, and run up
to a tenth faster or slower.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from tactful.errors import StorageError
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import leases
from tactful.util.clock import elapsed_s, now_ms

T = TypeVar("T")

LEASE_MS = 10_000
"""Time after its last renewal at which another server may take the lease."""

TASKS = "tasks"
"""Name of the lease on everything that one server alone may do."""

FILE_LEDGER = "statistics ledger"
"""Name that belongs to the server with the ledger in a file, of several servers."""

_SHARE = 0.9  # of the time, after which the holder itself considers it lost
_table = leases.c
# No zone of a session, and no change of summer time, is in these: microseconds since 1970.
_MYSQL_NOW = sa.text("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3))")
_POSTGRESQL_NOW = sa.text("SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint")


class LeaseLost(StorageError):
    """Another server has the lease; nothing was written."""


@dataclass(frozen=True)
class LeaseState:
    """The lease as stored."""

    holder: str
    fence: int
    left_ms: int  # until another server may take it; 0 or less: nobody holds it


class Lease:
    """The lease, as one server sees it; any thread may use it."""

    def __init__(
        self,
        metadata: MetadataStore,
        holder: str,
        *,
        name: str = TASKS,
        clock: Callable[[], int] | None = None,
        elapsed: Callable[[], float] = elapsed_s,
        lease_ms: int = LEASE_MS,
        alone: bool = False,
    ) -> None:
        """Compete under the name `holder`, which no other process has or had.

        Attributes `holder` and `alone` are those of the arguments.

        Args:
            metadata: the shared database.
            holder: at most 128 characters.
            name: which lease.
            clock: epoch milliseconds, by which all processes judge `until`; None: the database
                server's, or of an SQLite file the machine's.
            elapsed: seconds that go on while this process is stopped.
            lease_ms: time without a renewal after which another server takes it.
            alone: no other process can use this database, so a former holder has ended.
        """
        self._metadata = metadata
        self.holder = holder
        self._is_row = _table.name == name
        self._name = name
        self._clock = clock
        self._elapsed = elapsed
        self._lease_ms = lease_ms
        self.alone = alone
        self._lock = threading.Lock()
        self._fence: int | None = None
        self._ends = 0.0

    @property
    def fence(self) -> int | None:
        """The fence while this server holds the lease, by its own clock; None when it does not.

        It may be lost at any moment after this is read: it saves useless work, and keeps what no
        transaction can guard, such as requests to other servers, to the time of the lease.
        """
        with self._lock:
            return self._fence if self._elapsed() < self._ends else None

    @property
    def held(self) -> bool:
        """Whether this server holds the lease, by its own clock; see `fence`."""
        return self.fence is not None

    def acquire(self) -> int | None:
        """Take or renew the lease, and return its fence; None while another server holds it.

        Raises:
            StorageError: if the database cannot be used; the lease then ends by itself.
        """
        began = self._elapsed()

        def take(connection: sa.Connection) -> int | None:
            query = sa.select(leases).where(self._is_row).with_for_update()
            row = connection.execute(query).first()
            now = self._now(connection)
            until = now + self._lease_ms
            if row is None:
                values = {"name": self._name, "holder": self.holder, "fence": max(now, 1)}
                connection.execute(sa.insert(leases).values(**values, until=until))
                return max(now, 1)
            own = row.holder == self.holder and row.fence == self._fence
            if not (own or self.alone or row.until <= now):
                return None
            # Restored from a backup, the database has old fences: the time is above all of them.
            fence = int(row.fence) if own else max(int(row.fence) + 1, now)
            values = {"holder": self.holder, "fence": fence, "until": until}
            connection.execute(sa.update(leases).where(self._is_row).values(**values))
            return fence

        with self._lock:
            fence = self._metadata.change(take)
            self._fence = fence
            self._ends = began + _SHARE * self._lease_ms / 1000 if fence is not None else 0.0
            return fence

    def free(self) -> bool:
        """Return whether the lease may be taken; a read, to be asked often."""
        state = self.state()
        return state is None or state.left_ms <= 0

    def state(self) -> LeaseState | None:
        """Return the lease as stored; None if nobody ever had it."""
        return read_lease(self._metadata, name=self._name, clock=self._clock)

    def check(self, connection: sa.Connection) -> None:
        """Keep the lease in this server's hands until the transaction ends.

        Raises:
            LeaseLost: if another server has taken it, or this one never had it.
        """
        fence = self._fence
        query = sa.select(_table.holder, _table.fence).where(self._is_row).with_for_update()
        row = connection.execute(query).first()
        if row is None or (row.holder, row.fence) != (self.holder, fence):
            raise LeaseLost("another server has the lease now; nothing was written")

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in a transaction that fails if the lease was lost.

        Raises:
            LeaseLost: if another server has taken it.
        """

        def guarded(connection: sa.Connection) -> T:
            self.check(connection)
            return work(connection)

        return self._metadata.change(guarded)

    def release(self) -> None:
        """Let another server take the lease at once; nothing if it was lost."""
        with self._lock:
            fence, self._fence, self._ends = self._fence, None, 0.0
        if fence is None:
            return
        own = sa.and_(self._is_row, _table.holder == self.holder, _table.fence == fence)
        statement = sa.update(leases).where(own).values(until=0)
        self._metadata.change(lambda connection: connection.execute(statement))

    def _now(self, connection: sa.Connection) -> int:
        return _now(connection, self._clock)


def process_of(holder: str) -> str:
    """Return host and process id of a holder's name, without its random part."""
    return holder.rpartition(":")[0] or holder


def read_lease(
    metadata: MetadataStore, *, name: str = TASKS, clock: Callable[[], int] | None = None
) -> LeaseState | None:
    """Return a lease as stored; None if nobody ever had it."""
    query = sa.select(leases).where(_table.name == name)

    def read(connection: sa.Connection) -> LeaseState | None:
        row = connection.execute(query).first()
        if row is None:
            return None
        left = int(row.until) - _now(connection, clock)
        return LeaseState(str(row.holder), int(row.fence), left)

    return metadata.read(read)


def check_fence(connection: sa.Connection, fence: int, *, name: str = TASKS) -> None:
    """Keep the lease of a fence unchanged until the transaction ends; for a process of the holder.

    Raises:
        LeaseLost: if the lease has changed hands.
    """
    query = sa.select(_table.fence).where(_table.name == name).with_for_update()
    if connection.execute(query).scalar() != fence:
        raise LeaseLost("the lease has changed hands: another server goes on with this")


def _now(connection: sa.Connection, clock: Callable[[], int] | None) -> int:
    if clock is not None:
        return clock()
    if connection.dialect.name == "sqlite":
        return now_ms()
    query = _POSTGRESQL_NOW if connection.dialect.name == "postgresql" else _MYSQL_NOW
    return int(connection.execute(query).scalar_one()) // 1000


def claim(metadata: MetadataStore, name: str, owner: str) -> bool:
    """Return whether a name belongs to `owner`; one that belongs to nobody does from now on."""

    def take(connection: sa.Connection) -> bool:
        query = sa.select(_table.holder).where(_table.name == name).with_for_update()
        if (stored := connection.execute(query).scalar()) is None:
            values = {"name": name, "holder": owner, "fence": 0, "until": 0}
            connection.execute(sa.insert(leases).values(**values))
        return stored in (None, owner)

    return metadata.change(take)


def give_up_claim(metadata: MetadataStore, name: str) -> None:
    """Let any other owner claim a name."""
    statement = sa.delete(leases).where(_table.name == name)
    metadata.change(lambda connection: connection.execute(statement))
