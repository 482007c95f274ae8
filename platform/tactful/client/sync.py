"""The blocking client of the HTTP API; it needs httpx and msgspec alone.

`Client` blocks; `AsyncClient` has the same calls as coroutines. Requests, retries and
errors are defined once, in `tactful.client.calls` and `tactful.client.exchange`.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar, Unpack

import httpx

from tactful.client import live_stream
from tactful.client.calls import Calls, Flushed, Kind, RecommendFields, Record
from tactful.client.exchange import Call, Pause, Policy, Send, Work, error_of, headers, limits
from tactful.client.item_calls import ItemFilter, ListOptions, SearchFields
from tactful.client.live_stream import live_message, stream_options
from tactful.client.offline_queue import OfflineQueue
from tactful.client.request import Request, call_of
from tactful.client.request import following as following_of
from tactful.errors import ConnectionFailed
from tactful.schemas.data.live import LiveMessage
from tactful.schemas.health import Health
from tactful.schemas.ingestion import EventsAccepted, Upserted
from tactful.schemas.items import CatalogueItem, ItemList, ItemPage
from tactful.schemas.positions import Position
from tactful.schemas.recommendations import (
    Explanation,
    Recommendation,
    RecommendBatch,
    RecommendRequest,
)
from tactful.schemas.reports import ReportInfo
from tactful.schemas.search import SearchAnswer
from tactful.schemas.statistics import StatisticInfo, StatisticsPage
from tactful.schemas.users import Consent, UserFeatures
from tactful.util.addresses import with_scheme

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """Client of one server with persistent connections, safe to share by threads.

    Every call is safe to repeat: events get an id before they are first sent, upserts replace, all
    other calls read. Connection failures and the statuses 408, 429, 502, 503 and 504 are retried
    after the pause that the server requests plus a random, exponentially growing pause.

    All calls raise a `tactful.errors.ClientError`: `ConnectionFailed` without a response in any
    attempt, `Busy` for an overloaded server, `NotAllowed` for the key, `BadRequest` for a wrong
    request, `ServerFault` for a failure of the server.

    Example:
        >>> with Client("http://127.0.0.1:8420") as client:  # doctest: +SKIP
        ...     client.events([{"type": "view", "timestamp": 1772366400000, "user_id": "u-17",
        ...                     "item_id": "sku-42"}])
        ...     client.recommend(user_id="u-17", count=5).items
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
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make a client; it connects at the first call.

        Args:
            base_url: address of the server; without a scheme http for this machine, else https.
            api_key: a key with the scopes of the calls; None for a server in ``--dev``.
            timeout: seconds for one attempt.
            retries: number of retries of a temporary failure.
            longest_pause: most seconds between two attempts. If the server requests a longer
                pause, the call raises `Busy` at once with the pause in `retry_after`.
            connections: most open connections.
            queue: queue of `enqueue`; `close` closes it, too.
            tls: certificates to trust and to show (`tls_context`); None: those that the variable
                SSL_CERT_FILE names, else the usual authorities.
            transport: another way to send requests, for tests.
            sleep: called for the pause between attempts.
            jitter: random numbers in [0, 1) that spread the pauses.
            clock: now in epoch seconds.

        Raises:
            ConfigError: if `base_url` is no address of a server.
        """
        base_url = with_scheme(base_url)
        self._http = httpx.Client(
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

    def __enter__(self) -> Self:
        """Use the client as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections and the queue."""
        self.close()

    def close(self) -> None:
        """Close the connections and the queue; queued events stay in its file."""
        self._http.close()
        if self._queue is not None:
            self._queue.close()

    def events(self, events: Iterable[Record]) -> EventsAccepted:
        """Send events, in order, up to 500 or 1 MiB a request.

        Returns:
            The sums; `index` of a rejection counts in `events`; `position` is behind the last one.
        """
        return self._run(self._calls.events(events))

    def items(self, items: Iterable[Record]) -> Upserted:
        """Insert or replace items, up to 500 or 1 MiB a request; `image` may be bytes of a file."""
        return self._run(self._calls.items(items))

    def users(self, users: Iterable[Record]) -> Upserted:
        """Insert or replace users, up to 500 or 1 MiB a request."""
        return self._run(self._calls.users(users))

    def send_lines(
        self,
        kind: Kind,
        lines: bytes,
        *,
        new_id: Callable[[int], str] | None = None,
        identified: bool = False,
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> EventsAccepted | Upserted:
        """Send one request of NDJSON.

        Args:
            kind: kind of each line.
            lines: one JSON object a line; events without an id get a new one.
            new_id: makes the id of an event from the number of its line, from 0; random by default.
            identified: whether all events have an id already.
            headers: returns further headers, called at each attempt.
        """
        call = self._calls.send_lines(
            kind, lines, new_id=new_id, identified=identified, headers=headers
        )
        return self._run(call)

    def enqueue(self, events: Iterable[Record]) -> int:
        """Append events to the queue; nothing is sent.

        On return they survive the end of the process; `flush` sends them.

        Returns:
            The number of events.

        Raises:
            QueueFull: if the events do not fit; none was appended.
            QueueError: if the queue cannot be written, or the client has none.
        """
        return self._run(self._calls.enqueue(events))

    def flush(self) -> Flushed:
        """Send the queued events, oldest first, and remove each answered batch.

        A missing connection is no error: `stopped` of the result has the reason.

        Raises:
            QueueError: if the queue cannot be used, or the client has none.
        """
        return self._run(self._calls.flush())

    def recommend(
        self, request: RecommendRequest | None = None, **fields: Unpack[RecommendFields]
    ) -> Recommendation:
        """Request a recommendation.

        Args:
            request: the request, or give its fields as keywords.
            fields: fields of `tactful.schemas.recommendations.RecommendRequest`.
        """
        return self._run(self._calls.recommend(request, **fields))

    def recommend_batch(self, requests: Sequence[RecommendRequest]) -> RecommendBatch:
        """Request up to a hundred recommendations at once."""
        return self._run(self._calls.recommend_batch(requests))

    def explain(self, recommendation_id: str) -> Explanation:
        """Explain a recent recommendation; needs a key with the scope ``admin``."""
        return self._run(self._calls.explain(recommendation_id))

    def item(self, item_id: str, *, after: Position | None = None) -> CatalogueItem:
        """Request the description of an item as it is now.

        Args:
            item_id: the item; an unknown one raises `BadRequest`.
            after: position that `items` returned, to be waited for.
        """
        return self._run(self._calls.item(item_id, after=after))

    def find_items(self, **wanted: Unpack[ItemFilter]) -> ItemPage:
        """Request one page of the catalogue, in the order of ids.

        Args:
            wanted: `search` by the words of title and id, `category`, `available`, the `cursor`
                that the page before returned, `limit`, and a position `after` to wait for.
        """
        return self._run(self._calls.find_items(**wanted))

    def search(self, query: str, **fields: Unpack[SearchFields]) -> SearchAnswer:
        """Search items by text, voice or picture.

        Args:
            query: words, of which the last may be unfinished; empty with `audio`, or `picture`.
            fields: other fields of `tactful.schemas.search.SearchRequest`.
        """
        return self._run(self._calls.search(query, **fields))

    def similar(self, item_id: str, **options: Unpack[ListOptions]) -> ItemList:
        """Request items similar to an item: by description, and by what was taken with them."""
        return self._run(self._calls.similar(item_id, **options))

    def together(self, item_id: str, **options: Unpack[ListOptions]) -> ItemList:
        """Request items that enough people took in the same visits as an item."""
        return self._run(self._calls.together(item_id, **options))

    def next_items(self, item_id: str, **options: Unpack[ListOptions]) -> ItemList:
        """Request items that enough people took right after an item."""
        return self._run(self._calls.next_items(item_id, **options))

    def popular(self, **options: Unpack[ListOptions]) -> ItemList:
        """Request the items that most people take now."""
        return self._run(self._calls.popular(**options))

    def trending(self, **options: Unpack[ListOptions]) -> ItemList:
        """Request items that rise in published statistics."""
        return self._run(self._calls.trending(**options))

    def latest(self, **options: Unpack[ListOptions]) -> ItemList:
        """Request the newest items."""
        return self._run(self._calls.latest(**options))

    def features(self, user_id: str, *, at: int | str | None = None) -> UserFeatures:
        """Request the features of one user, now or at `at` (epoch ms or RFC 3339)."""
        return self._run(self._calls.features(user_id, at=at))

    def consent(self, user_id: str) -> Consent:
        """Request the consent of one user; needs a key with the scope ``admin``."""
        return self._run(self._calls.consent(user_id))

    def statistics(
        self, name: str, *, since: int | str | None = None, until: int | str | None = None
    ) -> StatisticsPage:
        """Request all released numbers of one statistic, oldest pane first."""
        return self._run(self._calls.statistics(name, since=since, until=until))

    def statistics_list(self) -> list[StatisticInfo]:
        """Request the published statistics."""
        return self._run(self._calls.statistics_list())

    def reports(self) -> list[ReportInfo]:
        """Request all reports of the server, by name."""
        return self._run(self._calls.reports())

    def report(self, name: str) -> dict[str, Any]:
        """Request one report."""
        return self._run(self._calls.report(name))

    def models(self) -> dict[str, Any]:
        """Request the models in use."""
        return self._run(self._calls.models())

    def rollout(self, key: str) -> dict[str, Any]:
        """Request the state, history and looks of a rollout."""
        return self._run(self._calls.rollout(key))

    def plan_rollout(
        self, definition: Record, *, people_per_day: float | None = None, rate: float | None = None
    ) -> dict[str, Any]:
        """Request the forecast of a rollout: its power and days; nothing is stored.

        Args:
            definition: the rollout, as in ``rollouts.yaml``.
            people_per_day: users who are shown something on a day; None: of the last 28 days.
            rate: share of them who take something; None: of the last 28 days.
        """
        return self._run(
            self._calls.plan_rollout(definition, people_per_day=people_per_day, rate=rate)
        )

    def define_rollout(
        self, definition: Record, *, people_per_day: float | None = None, rate: float | None = None
    ) -> dict[str, Any]:
        """Define a rollout; the arguments are those of `plan_rollout`.

        The same definition may be sent again. A low power that is not accepted raises ApiError.
        """
        return self._run(
            self._calls.define_rollout(definition, people_per_day=people_per_day, rate=rate)
        )

    def health(self) -> Health:
        """Request the readiness of the server.

        Raises:
            Busy: if it is alive but not ready.
        """
        return self._run(self._calls.health())

    def run(self, request: Request[T]) -> T:
        """Send a request that a function of `tactful.client.routes` made."""
        return self._run(call_of(request, self._policy))

    def pages(self, request: Request[T]) -> Iterator[T]:
        """Send a request for a list, and again for each page that follows, and yield the pages.

        Raises:
            ClientError: if the answer has no pages.
        """
        following: Request[T] | None = request
        while following is not None:
            page = self.run(following)
            following = following_of(following, page)
            yield page

    def follow(self, *, seconds: int = 600) -> Iterator[LiveMessage]:
        """Yield what comes at the server, once a second, until it ends the stream.

        Raises:
            ClientError: if the server refuses, or the connection breaks.
        """
        options = stream_options(self._http.timeout, seconds)
        try:
            with self._http.stream("GET", live_stream.PATH, **options) as response:
                if not response.is_success:
                    response.read()
                    raise error_of(response, None)
                for line in response.iter_lines():
                    if (message := live_message(line)) is not None:
                        yield message
        except httpx.TransportError as error:
            raise ConnectionFailed(f"the stream broke: {type(error).__name__}") from error

    def _run(self, call: Call[T]) -> T:
        result: Any = None
        failure: Exception | None = None
        while True:
            try:
                step = call.send(result) if failure is None else call.throw(failure)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            result, failure = None, None
            try:
                result = self._do(step)
            except Exception as error:
                failure = error

    def _do(self, step: Send | Pause | Work) -> Any:
        if isinstance(step, Send):
            return self._http.send(step.built(self._http))
        return self._sleep(step.seconds) if isinstance(step, Pause) else step.run()
