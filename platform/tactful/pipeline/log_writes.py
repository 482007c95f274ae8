"""Durable writes of ingestion: entries are encoded, appended, and waited for.

Entries of the platform itself are gathered for a moment and appended together. They precede the
entries of the next request, so that a recommendation is in the log before its clicks.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Callable, Sequence

from tactful.metrics.registry import Metrics
from tactful.pipeline.applier import LogApplier
from tactful.pipeline.backends import Backend
from tactful.schemas.positions import Offsets, Position, merged
from tactful.schemas.problems import ProblemError
from tactful_streaming.contract.log_entries import Entry, encode_entry, route_key
from tactful_streaming.errors import BackpressureError, LogError, LogUnreachableError

logger = logging.getLogger(__name__)

_GATHERED_S = 0.02
"""Delay in which internal entries are collected into one append, which costs log, engine and
workers little more than a single entry. No client waits for it."""

Write = asyncio.Future[Offsets]
"""A write to the log; its result are the offsets after it, none while it is spooled."""


class LogWrites:
    """Appends entries to the log of a backend. Used from the event loop only."""

    def __init__(
        self,
        backend: Backend,
        applier: LogApplier,
        metrics: Metrics,
        *,
        clock: Callable[[], int],
    ) -> None:
        """Append to `backend`; `applier` learns of the writes of internal entries."""
        self._backend = backend
        self._applier = applier
        self._metrics = metrics
        self._clock = clock
        self._log_failed = False
        self._writing: dict[Write, int] = {}
        # When the oldest write began that is not durable yet, epoch milliseconds; read by threads
        self.unwritten_since: int | None = None
        self._internal: list[Entry] = []
        self._internal_write: Write | None = None
        self._flush_timer: asyncio.TimerHandle | None = None

    def append(self, entries: Sequence[Entry], settle: Callable[[Write], None]) -> Write:
        """Append entries after the internal ones; `settle` is called once the write has ended."""
        self.flush()
        return self._write(entries, settle)

    def gather(self, entry: Entry) -> Write:
        """Append an internal entry soon; return the write of its batch."""
        if self._internal_write is None:
            loop = asyncio.get_running_loop()
            self._internal_write = loop.create_future()
            self._flush_timer = loop.call_later(_GATHERED_S, self.flush)
        self._internal.append(entry)
        return self._internal_write

    def flush(self) -> None:
        """Append the gathered internal entries now."""
        if self._internal_write is None or self._flush_timer is None:
            return
        self._flush_timer.cancel()
        settle = functools.partial(self._settle_internal, len(self._internal), self._internal_write)
        self._write(self._internal, settle)
        self._internal, self._internal_write, self._flush_timer = [], None, None

    def _write(self, entries: Sequence[Entry], settle: Callable[[Write], None]) -> Write:
        payloads = [encode_entry(entry, self._backend.format) for entry in entries]
        keys = [route_key(entry) for entry in entries]
        began = time.perf_counter()
        written = asyncio.ensure_future(self._backend.commit.append_keyed(payloads, keys))
        written.add_done_callback(
            lambda written: self._metrics.stage("log", time.perf_counter() - began)
        )
        self._writing[written] = now = self._clock()
        self.unwritten_since = self.unwritten_since or now
        written.add_done_callback(settle)
        written.add_done_callback(self._note_written)
        return written

    def _note_written(self, written: Write) -> None:
        """Note that a write has ended, once the applier knows where."""
        del self._writing[written]
        self.unwritten_since = next(iter(self._writing.values()), None)

    def _settle_internal(self, count: int, noted: Write, written: Write) -> None:
        error = asyncio.CancelledError() if written.cancelled() else written.exception()
        if error is None:
            self._applier.notice({})
        else:
            self._metrics.impressions_lost.inc(count)
        if noted.done():  # cancelled by its waiter
            return
        if error is None:
            noted.set_result(written.result())
        elif isinstance(error, asyncio.CancelledError):
            noted.cancel()
        else:
            noted.set_exception(error)
            noted.exception()  # marks it as retrieved: often nothing waits

    async def written(self, writes: set[Write]) -> Position:
        """Wait for durable writes; return the position after them, or the log's end.

        Raises:
            ProblemError: if the log is behind, cannot be reached or cannot be written.
        """
        if not writes:
            return self._backend.show(self._backend.ends())
        offsets: Offsets = {}
        for write in writes:
            try:
                # A cancelled caller must not cancel the write, for which others wait.
                offsets = merged((offsets, await asyncio.shield(write)))
            except (BackpressureError, LogUnreachableError) as error:
                behind = isinstance(error, BackpressureError)
                raise ProblemError(
                    "too_many_events" if behind else "not_ready",
                    f"the event log {'is behind' if behind else 'cannot be reached'}; send it again"
                    " later",
                    retry_after=math.ceil(error.retry_after),
                ) from None
            except LogError as error:
                self._report_failure(error)
                raise ProblemError(
                    "not_ready", "the event log cannot be written", retry_after=5
                ) from None
        if self._log_failed:
            logger.warning("the log can be written again: events are accepted")
            self._log_failed = False
        return self._backend.show(offsets)

    def _report_failure(self, error: LogError) -> None:
        """Log that the log failed: once, not for each request, as its disk may be full."""
        if not self._log_failed:
            logger.error(
                "events are refused with 503 until the log can be written again: %s. If the disk "
                "is full, free some space",
                error,
            )
        self._log_failed = True
