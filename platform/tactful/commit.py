"""Group commit: everything that arrives while one write is synced shares the next one."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

from tactful.errors import TactfulError
from tactful_streaming import EventLog

logger = logging.getLogger(__name__)


class LogFull(TactfulError):
    """More is waiting for the disk than is allowed."""


class GroupCommit:
    """Appends to an event log from an event loop, through one writing thread.

    Attributes:
        pending_bytes: bytes handed in and not yet durable.
    """

    def __init__(self, log: EventLog, *, limit_bytes: int) -> None:
        """Prepare to write to `log`; call :meth:`start` on the event loop that will append."""
        self._log = log
        self._limit_bytes = limit_bytes
        self._queue: list[tuple[Sequence[bytes], int, asyncio.Future[int]]] = []
        self._ready = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="tactful-commit", daemon=True)
        self.pending_bytes = 0

    def start(self) -> None:
        """Start the writing thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def append(self, payloads: Sequence[bytes]) -> asyncio.Future[int]:
        """Hand `payloads` in, in order.

        Returns:
            Resolves, once they are durable, to the log offset behind the last of them; or to the
            error that kept them from being written.

        Raises:
            LogFull: if too much is waiting already; nothing was taken.
        """
        size = sum(map(len, payloads))
        if self.pending_bytes and self.pending_bytes + size > self._limit_bytes:
            raise LogFull(f"{self.pending_bytes} bytes are waiting for the disk")
        self.pending_bytes += size
        written: asyncio.Future[int] = self._loop.create_future()
        with self._ready:
            self._queue.append((payloads, size, written))
            self._ready.notify()
        return written

    def stop(self) -> None:
        """Write what was handed in and end the thread. Blocks until it is done."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._queue:
                    if self._stopping:
                        return
                    self._ready.wait()
                taken, self._queue = self._queue, []
            error: Exception | None = None
            end = 0
            try:
                end = self._log.append(
                    [payload for payloads, _, _ in taken for payload in payloads]
                )
            except Exception as caught:
                error = caught
                logger.critical("the event log cannot be written: %s", type(caught).__name__)
            self._loop.call_soon_threadsafe(self._resolve, taken, end, error)

    def _resolve(
        self,
        taken: list[tuple[Sequence[bytes], int, asyncio.Future[int]]],
        end: int,
        error: Exception | None,
    ) -> None:
        position = end - sum(len(payloads) for payloads, _, _ in taken)
        for payloads, size, written in taken:
            position += len(payloads)
            self.pending_bytes -= size
            if written.cancelled():
                continue
            if error is None:
                written.set_result(position)
            else:
                written.set_exception(error)
