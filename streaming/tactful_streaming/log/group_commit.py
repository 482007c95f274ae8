"""Durable appends of many coroutines.

To a disk by group commit: all appends that arrive during a sync share the next sync. To a
partitioned log directly, since its client batches concurrent appends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tactful_streaming.errors import BackpressureError, LogError
from tactful_streaming.log.event_log import EventLog, PartitionedLog, Positions
from tactful_streaming.log.segment import MAX_PAYLOAD


@dataclass
class _Waiting:
    payloads: Sequence[bytes]
    size: int
    done: asyncio.Future[int]


class GroupCommit:
    """Appends of many coroutines to one log, written by one thread.

    It belongs to the event loop of its first use. A cancelled :meth:`append` may or may not be in
    the log: as after a lost answer, the sender repeats it with the same ids.
    """

    def __init__(self, log: EventLog, *, max_waiting_bytes: int = 64 * 1024 * 1024) -> None:
        """Write to `log`, which the caller closes; queue at most `max_waiting_bytes`."""
        self._log = log
        self._max_waiting_bytes = max_waiting_bytes
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="log-writer")
        self._waiting: list[_Waiting] = []
        self.waiting_bytes = 0  # queued and not durable yet
        self._bytes_per_second = 1e6
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False

    async def append(self, payloads: Sequence[bytes]) -> int:
        """Append `payloads`, durable on return; return the offset after the last."""
        if self._closed:
            raise LogError("the log is closing: no more appends")
        if not payloads:
            return self._log.end
        size = sum(map(len, payloads))
        if max(map(len, payloads)) > MAX_PAYLOAD:
            raise LogError(f"a record is over {MAX_PAYLOAD} bytes")
        if self.waiting_bytes and self.waiting_bytes + size > self._max_waiting_bytes:
            raise BackpressureError(
                f"{self.waiting_bytes} bytes wait to be written: slow down",
                retry_after=max(1.0, self.waiting_bytes / self._bytes_per_second),
            )
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(payloads, size, done))
        self.waiting_bytes += size
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return await done

    async def append_keyed(
        self, payloads: Sequence[bytes], keys: Sequence[str | None]
    ) -> Positions:
        """Append to the only partition, as :meth:`append`; keys are ignored."""
        return {0: await self.append(payloads)}

    async def close(self) -> None:
        """Write queued appends, then stop. Later appends are refused."""
        self._closed = True
        if self._flusher is not None:
            await self._flusher
        self._writer.shutdown()

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                size = sum(waiting.size for waiting in group)
                payloads = [payload for waiting in group for payload in waiting.payloads]
                started = time.monotonic()
                try:
                    end = await loop.run_in_executor(self._writer, self._log.append, payloads)
                except BaseException as error:
                    reason = error if isinstance(error, Exception) else LogError("interrupted")
                    for waiting in group:
                        if not waiting.done.done():
                            waiting.done.set_exception(reason)
                    if reason is not error:
                        raise
                else:
                    offset = end - len(payloads)
                    for waiting in group:
                        offset += len(waiting.payloads)
                        if not waiting.done.done():
                            waiting.done.set_result(offset)
                    seconds = max(time.monotonic() - started, 1e-4)
                    self._bytes_per_second += 0.2 * (size / seconds - self._bytes_per_second)
                finally:
                    self.waiting_bytes -= size
        finally:
            self._flusher = None


class KeyedCommit:
    """Appends of many coroutines to a partitioned log. It belongs to one event loop."""

    def __init__(self, log: PartitionedLog) -> None:
        """Append to `log`; the caller closes it."""
        self._log = log
        self._pending: set[asyncio.Future[Positions]] = set()
        self._closed = False

    async def append_keyed(
        self, payloads: Sequence[bytes], keys: Sequence[str | None]
    ) -> Positions:
        """Append each payload to the partition of its key; durable on return.

        If the caller is cancelled, the records are appended nevertheless.

        Returns:
            By partition, the offset behind the last record; empty for records spooled to disk.
        """
        if self._closed:
            raise LogError("the log is closing: no more appends")
        appended = asyncio.wrap_future(self._log.submit(payloads, keys))
        self._pending.add(appended)
        appended.add_done_callback(self._pending.discard)
        return await asyncio.shield(appended)

    async def close(self) -> None:
        """Wait for submitted appends. Later appends are refused."""
        self._closed = True
        if self._pending:
            await asyncio.wait(self._pending)


Commit = GroupCommit | KeyedCommit
"""Appends of requests to any log.

They raise BackpressureError if too many bytes wait (nothing was queued) and LogError if the log
refuses (nothing is acknowledged).
"""
