"""Recent recommendations of a server, kept to be explained."""

from __future__ import annotations

import asyncio

from tactful.event_log.impressions import RecentImpressions, find_impression
from tactful.pipeline.backends import Backend
from tactful.pipeline.ingest import EventIngest
from tactful.schemas.positions import Offsets
from tactful.schemas.problems import ProblemError
from tactful.subjects.trace_search import SearchResult
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.engine.erasure import names_subject
from tactful_streaming.errors import LogError

_SEARCHED_RECORDS = 200_000
_FORGET_S = 30.0


class RecentRecommendations:
    """The recent recommendations of one server. For its event loop, except `forget`."""

    def __init__(self, ingest: EventIngest, backend: Backend) -> None:
        """Start empty; write to the log by `ingest`, and search that of `backend`."""
        self._ingest = ingest
        self._backend = backend
        self._recent = RecentImpressions()
        self.waiting: set[asyncio.Future[Offsets]] = set()  # writes that are not durable yet

    def begin(self) -> None:
        """Use the running event loop."""
        self._loop = asyncio.get_running_loop()

    def note(self, recommendation_id: str, impression: bytes) -> None:
        """Log a recommendation, and keep it for explanations."""
        self._recent.add(recommendation_id, impression)
        written = self._ingest.append_internal(impression)
        self.waiting.add(written)
        written.add_done_callback(self.waiting.discard)

    async def find(self, recommendation_id: str) -> Event | None:
        """Return the event of a recommendation; None if the latest log records lack it."""
        event = self._recent.find(recommendation_id)
        return event or await asyncio.to_thread(self._search, recommendation_id)

    def forget(self, result: SearchResult) -> int:
        """Delete the recent recommendations of users and return their number.

        For other threads than the loop's.
        """

        async def drop() -> int:
            return self._recent.forget(
                result.needles, lambda entry: names_subject(entry, result.traces)
            )

        return asyncio.run_coroutine_threadsafe(drop(), self._loop).result(_FORGET_S)

    def _search(self, recommendation_id: str) -> Event | None:
        with self._backend.searched() as partitions:
            latest = _SEARCHED_RECORDS // len(partitions)
            try:
                events = (
                    find_impression(log, recommendation_id, latest=latest) for log in partitions
                )
                return next(filter(None, events), None)
            except LogError as error:
                raise ProblemError(
                    "not_ready", f"the log cannot be searched now: {error}", retry_after=2
                ) from None
