"""The asyncio client of the HTTP API."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from tactful.client.calls import Calls, Flushed, Kind, RecommendFields, Record
from tactful.client.exchange import Call, Pause, Policy, Send, Work, headers, limits
from tactful.client.offline_queue import OfflineQueue
from tactful.schemas.health import Health
from tactful.schemas.ingestion import EventsAccepted, Upserted
from tactful.schemas.recommendations import (
    Explanation,
    Recommendation,
    RecommendBatch,
    RecommendRequest,
)
from tactful.schemas.reports import ReportInfo
from tactful.schemas.statistics import StatisticInfo, StatisticsPage
from tactful.schemas.users import UserFeatures

T = TypeVar("T")


class AsyncClient:
    """`tactful.client.Client` for asyncio: the same calls as coroutines.

    Example:
        >>> async with AsyncClient("http://127.0.0.1:8420") as client:  # doctest: +SKIP
        ...     (await client.recommend(user_id="u-17", count=5)).items
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8420",
        api_key: str | None = None,
        *,
        timeout: float = 10.0,
        retries: int = 4,
        longest_pause: float = 10.0,
        connections: int = 100,
        queue: OfflineQueue | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make a client; `tactful.client.Client` describes the arguments."""
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers=headers(api_key),
            timeout=timeout,
            limits=limits(connections),
            transport=transport,
        )
        policy = Policy(base_url, retries, 0.1, longest_pause, jitter, clock)
        self._calls = Calls(policy, queue)
        self._queue = queue
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        """Use the client as an asynchronous context manager."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections and the queue."""
        await self.close()

    async def close(self) -> None:
        """Close the connections and the queue; queued events stay in its file."""
        await self._http.aclose()
        if self._queue is not None:
            await asyncio.to_thread(self._queue.close)

    async def events(self, events: Iterable[Record]) -> EventsAccepted:
        """Send events, in order; see `Client.events`."""
        return await self._run(self._calls.events(events))

    async def items(self, items: Iterable[Record]) -> Upserted:
        """Insert or replace items, up to 500 or 1 MiB a request."""
        return await self._run(self._calls.upsert("items", items))

    async def users(self, users: Iterable[Record]) -> Upserted:
        """Insert or replace users, up to 500 or 1 MiB a request."""
        return await self._run(self._calls.upsert("users", users))

    async def send_lines(self, kind: Kind, lines: bytes) -> EventsAccepted | Upserted:
        """Send one request of NDJSON; see `Client.send_lines`."""
        return await self._run(self._calls.send_lines(kind, lines))

    async def enqueue(self, events: Iterable[Record]) -> int:
        """Append events to the queue; see `Client.enqueue`."""
        return await self._run(self._calls.enqueue(events))

    async def flush(self) -> Flushed:
        """Send the queued events; see `Client.flush`."""
        return await self._run(self._calls.flush())

    async def recommend(
        self, request: RecommendRequest | None = None, **fields: Unpack[RecommendFields]
    ) -> Recommendation:
        """Request a recommendation; see `Client.recommend`."""
        return await self._run(self._calls.recommend(request, fields))

    async def recommend_batch(self, requests: Sequence[RecommendRequest]) -> RecommendBatch:
        """Request up to a hundred recommendations at once."""
        return await self._run(self._calls.recommend_batch(requests))

    async def explain(self, recommendation_id: str) -> Explanation:
        """Explain a recent recommendation; needs a key with the scope ``admin``."""
        return await self._run(self._calls.explain(recommendation_id))

    async def features(self, user_id: str, *, at: int | str | None = None) -> UserFeatures:
        """Request the features of one user, now or at `at` (epoch ms or RFC 3339)."""
        return await self._run(self._calls.features(user_id, at))

    async def statistics(
        self, name: str, *, since: int | str | None = None, until: int | str | None = None
    ) -> StatisticsPage:
        """Request all released numbers of one statistic, oldest pane first."""
        return await self._run(self._calls.statistics(name, since, until))

    async def statistics_list(self) -> list[StatisticInfo]:
        """Request the published statistics."""
        return await self._run(self._calls.statistics_list())

    async def reports(self) -> list[ReportInfo]:
        """Request all reports of the server, by name."""
        return await self._run(self._calls.reports())

    async def report(self, name: str) -> dict[str, Any]:
        """Request one report."""
        return await self._run(self._calls.report(name))

    async def models(self) -> dict[str, Any]:
        """Request the models in use."""
        return await self._run(self._calls.models())

    async def health(self) -> Health:
        """Request the readiness of the server; see `Client.health`."""
        return await self._run(self._calls.health())

    async def _run(self, call: Call[T]) -> T:
        result: Any = None
        failure: Exception | None = None
        while True:
            try:
                step = call.send(result) if failure is None else call.throw(failure)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            result, failure = None, None
            try:
                result = await self._do(step)
            except Exception as error:
                failure = error

    async def _do(self, step: Send | Pause | Work) -> Any:
        if isinstance(step, Send):
            return await self._http.send(step.built(self._http))
        if isinstance(step, Pause):
            return await self._sleep(step.seconds)
        return await asyncio.to_thread(step.run)
