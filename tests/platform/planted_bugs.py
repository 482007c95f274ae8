"""Command line with planted mistakes: ``planted_bugs.py MISTAKE,MISTAKE ARGUMENTS``.

Each mistake shows after a kill only: the kill tests must find it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from tactful.cli.main import main
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.outbox import Outbox
from tactful_streaming.kafka.consumer_group import PartitionGroup
from tactful_streaming.kafka.transactional_producer import TransactionalProducer
from tactful_streaming.log.group_commit import GroupCommit
from tactful_streaming.sinks.sql import SqlRows
from tactful_streaming.state.key_layout import META, OUTBOX
from tactful_streaming.state.store import Change, RocksState
from tactful_streaming.worker.worker import Worker


def acknowledge_before_append() -> None:
    """Append an event a quarter of a second after its acknowledgement."""
    append = GroupCommit.append
    under_way: set[asyncio.Task[Any]] = set()

    async def later(commit: GroupCommit, payloads: Sequence[bytes]) -> int:
        await asyncio.sleep(0.25)
        return await append(commit, payloads)

    async def planted(self: GroupCommit, payloads: Sequence[bytes]) -> int:
        task = asyncio.create_task(later(self, payloads))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        return self._log.end

    GroupCommit.append = planted  # type: ignore[method-assign]


def offset_before_state() -> None:
    """Store the offset of a commit with the changes of the previous commit."""
    write, close = RocksState.write, RocksState.close
    held: dict[int, list[Change]] = {}

    def planted(self: RocksState, changes: Sequence[Change]) -> None:
        offset = [change for change in changes if change[0] == META]
        now = [*held.pop(id(self), []), *offset]
        held[id(self)] = [change for change in changes if change[0] != META]
        write(self, now)

    def closed(self: RocksState) -> None:
        if late := held.pop(id(self), None):
            write(self, late)
        close(self)

    RocksState.write = planted  # type: ignore[method-assign]
    RocksState.close = closed  # type: ignore[method-assign]


def actions_stay_in_the_outbox() -> None:
    """Never discard actions from the outbox, so that a restart appends them again."""

    def planted(self: Outbox[Any], keys: Collection[bytes]) -> None:
        pass

    Outbox.discard = planted  # type: ignore[method-assign]


def actions_are_appended_again() -> None:
    """Never discard actions, nor look for their ids in the log before they are appended."""
    discard = Outbox.discard

    def planted(self: Outbox[Any], keys: Collection[bytes]) -> None:
        if self._prefix != OUTBOX:  # transfers would be appended again and again
            discard(self, keys)

    def unseen(self: Engine, key: str, at: int | None = None, **_: object) -> bool:
        return False

    Outbox.discard = planted  # type: ignore[method-assign]
    Engine.seen = unseen  # type: ignore[method-assign]


def rows_after_state() -> None:
    """Publish triggered windows after the state that will not trigger them again."""
    write = TransactionalProducer.write
    # By producer: a transaction begun for another partition stays open where that one has nothing
    # more to commit, and readers of what is committed wait for its end.
    held: WeakKeyDictionary[TransactionalProducer, list[tuple[float, str, Sequence[Any]]]] = (
        WeakKeyDictionary()
    )

    def planted(
        self: TransactionalProducer, topic: str, rows: Sequence[Any], partition: int | None = None
    ) -> None:
        if partition is not None:  # histories on their way to other partitions, and no rows
            write(self, topic, rows, partition)
            return
        waiting = held.setdefault(self, [])
        waiting.append((time.monotonic() + 4.0, topic, rows))
        while waiting and waiting[0][0] <= time.monotonic():
            _, name, late = waiting.pop(0)
            write(self, name, late)

    TransactionalProducer.write = planted  # type: ignore[method-assign]


def sink_commits_before_it_writes() -> None:
    """Commit the offsets of rows before the target has the rows."""
    poll, write = PartitionGroup.poll, SqlRows.write

    def planted(self: PartitionGroup, limit: int, wait_s: float) -> Any:
        records = poll(self, limit, wait_s)
        self.commit({number: run[-1][0] + 1 for number, run in records.items()}, wait=True)
        return records

    def slowly(self: SqlRows, rows: Sequence[Any]) -> None:
        time.sleep(3.0)
        write(self, rows)

    PartitionGroup.poll = planted  # type: ignore[method-assign]
    SqlRows.write = slowly  # type: ignore[method-assign]


def a_restarted_worker_hangs() -> None:
    """Let workers that were started again neither work nor end, until one did so for 170 s."""
    data, been = Path(sys.argv[-1]), Path("a-worker-hung")

    def planted(self: Worker) -> bool:
        time.sleep(170)
        been.touch()
        time.sleep(3600)
        return False

    if "worker" in sys.argv and data.exists() and not been.exists():
        Worker.step = planted  # type: ignore[method-assign]


MISTAKES: dict[str, Callable[[], None]] = {
    mistake.__name__: mistake
    for mistake in (
        acknowledge_before_append,
        offset_before_state,
        actions_stay_in_the_outbox,
        actions_are_appended_again,
        rows_after_state,
        sink_commits_before_it_writes,
        a_restarted_worker_hangs,
    )
}

if __name__ == "__main__":
    for mistake in sys.argv.pop(1).split(","):
        MISTAKES[mistake]()
    main()
