"""The asyncio client of the HTTP API."""

from __future__ import annotations

import asyncio
import functools
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from tactful.client import live_stream
from tactful.client.calls import Calls
from tactful.client.exchange import Call, Pause, Policy, Send, Work, error_of, headers, limits
from tactful.client.live_stream import live_message, stream_options
from tactful.client.offline_queue import OfflineQueue
from tactful.client.request import Request, call_of
from tactful.client.request import following as following_of
from tactful.errors import ConnectionFailed
from tactful.schemas.data.live import LiveMessage
from tactful.util.addresses import with_scheme

P = ParamSpec("P")
T = TypeVar("T")


def _awaited(
    call: Callable[Concatenate[Calls, P], Call[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """Return the method of `AsyncClient` that makes a call."""

    @functools.wraps(call)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(call(self._calls, *args, **kwargs))

    return method


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
        tls: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make a client; `tactful.client.Client` describes the arguments."""
        base_url = with_scheme(base_url)
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers=headers(api_key),
            timeout=timeout,
            limits=limits(connections),
            verify=True if tls is None else tls,
            transport=transport,
        )
        policy = Policy(base_url, retries, 0.1, longest_pause, jitter, clock)
        self._policy = policy
        self._calls = Calls(policy, queue)
        self._queue = queue
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        """Use the client as an asynchronous context manager."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections and the queue."""
        await self.close()

    async def close(self) -> None:
        """Close the connections and the queue; queued events stay in its file."""
        await self._http.aclose()
        if self._queue is not None:
            await asyncio.to_thread(self._queue.close)

    events = _awaited(Calls.events)
    """`Client.events` as a coroutine."""
    items = _awaited(Calls.items)
    """`Client.items` as a coroutine."""
    users = _awaited(Calls.users)
    """`Client.users` as a coroutine."""
    send_lines = _awaited(Calls.send_lines)
    """`Client.send_lines` as a coroutine."""
    enqueue = _awaited(Calls.enqueue)
    """`Client.enqueue` as a coroutine."""
    flush = _awaited(Calls.flush)
    """`Client.flush` as a coroutine."""
    recommend = _awaited(Calls.recommend)
    """`Client.recommend` as a coroutine."""
    recommend_batch = _awaited(Calls.recommend_batch)
    """`Client.recommend_batch` as a coroutine."""
    explain = _awaited(Calls.explain)
    """`Client.explain` as a coroutine."""
    item = _awaited(Calls.item)
    """`Client.item` as a coroutine."""
    find_items = _awaited(Calls.find_items)
    """`Client.find_items` as a coroutine."""
    search = _awaited(Calls.search)
    """`Client.search` as a coroutine."""
    similar = _awaited(Calls.similar)
    """`Client.similar` as a coroutine."""
    together = _awaited(Calls.together)
    """`Client.together` as a coroutine."""
    next_items = _awaited(Calls.next_items)
    """`Client.next_items` as a coroutine."""
    popular = _awaited(Calls.popular)
    """`Client.popular` as a coroutine."""
    trending = _awaited(Calls.trending)
    """`Client.trending` as a coroutine."""
    latest = _awaited(Calls.latest)
    """`Client.latest` as a coroutine."""
    features = _awaited(Calls.features)
    """`Client.features` as a coroutine."""
    consent = _awaited(Calls.consent)
    """`Client.consent` as a coroutine."""
    statistics = _awaited(Calls.statistics)
    """`Client.statistics` as a coroutine."""
    statistics_list = _awaited(Calls.statistics_list)
    """`Client.statistics_list` as a coroutine."""
    reports = _awaited(Calls.reports)
    """`Client.reports` as a coroutine."""
    report = _awaited(Calls.report)
    """`Client.report` as a coroutine."""
    models = _awaited(Calls.models)
    """`Client.models` as a coroutine."""
    rollout = _awaited(Calls.rollout)
    """`Client.rollout` as a coroutine."""
    plan_rollout = _awaited(Calls.plan_rollout)
    """`Client.plan_rollout` as a coroutine."""
    define_rollout = _awaited(Calls.define_rollout)
    """`Client.define_rollout` as a coroutine."""
    health = _awaited(Calls.health)
    """`Client.health` as a coroutine."""

    async def run(self, request: Request[T]) -> T:
        """Send a request that a function of `tactful.client.routes` made."""
        return await self._run(call_of(request, self._policy))

    async def pages(self, request: Request[T]) -> AsyncIterator[T]:
        """`Client.pages` as an asynchronous iterator."""
        following: Request[T] | None = request
        while following is not None:
            page = await self.run(following)
            following = following_of(following, page)
            yield page

    async def follow(self, *, seconds: int = 600) -> AsyncIterator[LiveMessage]:
        """`Client.follow` as an asynchronous iterator."""
        options = stream_options(self._http.timeout, seconds)
        try:
            async with self._http.stream("GET", live_stream.PATH, **options) as response:
                if not response.is_success:
                    await response.aread()
                    raise error_of(response, None)
                async for line in response.aiter_lines():
                    if (message := live_message(line)) is not None:
                        yield message
        except httpx.TransportError as error:
            raise ConnectionFailed(f"the stream broke: {type(error).__name__}") from error

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
