"""Worker process that answers requests (``tactful serve --workers N``).

It accepts connections on the shared port and computes recommendations. The process that started it
owns log, engine and state: it provides the features of users, and receives every other request,
after the API key was checked here. When that process ends, the worker ends, too.

It is not a command for users: its arguments are file descriptors that it inherits.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from tactful.config import logging as logs
from tactful.config.settings import Settings
from tactful.errors import NotPersonal
from tactful.event_log.recipients import open_ids
from tactful.flags.streams import VersionStreams
from tactful.http.asgi import Call, Endpoint, Reply
from tactful.http.credentials import open_tokens
from tactful.http.data.live import STREAM
from tactful.http.experiments.flags import FLAG_STREAM, stream_reply
from tactful.http.items import LIST_ENDPOINTS
from tactful.http.limits.key_limits import KeyCounters
from tactful.http.limits.rate_limits import RateLimits
from tactful.http.resource import Application, route
from tactful.http.routes import (
    ENDPOINTS,
    batch_decoder,
    recommend_each,
    recommend_one,
    request_decoder,
)
from tactful.http.uvicorn_server import Server, make_server, run_loop, serve
from tactful.metadata.key_cache import ApiKey, ValidKeys
from tactful.metrics.registry import Metrics
from tactful.metrics.tracing import open_traces
from tactful.recommend.fallback import kind_of
from tactful.recommend.item_lists import ItemLists
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import (
    NOT_PERSONALISED,
    OVERLOADED,
    Recommendation,
    RecommendRequest,
)
from tactful.server.gauges import rounded
from tactful.server.overload import AdmissionControl, CheaperAnswers
from tactful.subjects.minimise import make_minimiser
from tactful.util import process_tuning
from tactful.util.clock import now_ms
from tactful.util.machine_memory import own_memory
from tactful.workers import ipc
from tactful.workers.remote_features import RemoteFeatures
from tactful.workers.status import served
from tactful_streaming.definitions.model import Definitions

logger = logging.getLogger(__name__)

_REFRESH_S = 0.25
_METRICS_S = 1.0


@dataclass(frozen=True)
class WorkerConfig:
    """Configuration that a worker receives at its start."""

    settings: Settings
    build: str  # module and name of the function that makes the recommender
    definitions: Definitions
    counts_shown: bool  # whether the impressions of each item today are counted
    reads_trends: bool  # whether published statistics are read for rises
    reads_takers: bool  # whether anonymous recommendations have a minimum of people
    reads_latest: bool  # whether the time of the latest event is known


class ServingWorker:
    """Application of one worker process.

    ```
    POST /v1/recommend   ->  recommender here, features by `FeaturesRequest`
    GET /v1/popular ...  ->  items here; `ForwardRequest` for an item that is not known here yet
    GET /v1/flags/stream ->  versions here; `FlagVersionRequest` waits for the next one
    everything else      ->  `ForwardRequest` to the process that owns the state
    ```
    """

    def __init__(
        self,
        settings: Settings,
        *,
        recommender: Any,
        source: RemoteFeatures,
        client: ipc.AsyncClient,
        refresh_client: ipc.BlockingClient,
        rates: RateLimits | None = None,
        key_counters: KeyCounters | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """Prepare to serve; `refresh_client` is for the thread that refreshes."""
        self.settings = settings
        self.rates = rates or RateLimits(settings.limits)
        self.minimise = make_minimiser(
            settings.minimise, lambda: open_ids(settings, clock=clock).keyring
        )
        self.version = metadata.version("tactful")
        self.key_counters = key_counters or KeyCounters()
        self.keys = ValidKeys(clock=clock)
        self.tokens = open_tokens(settings, clock=clock)
        self.metrics = Metrics(CollectorRegistry())
        if settings.server.traces:
            self.metrics.traces = open_traces(self.version)
        self._recommender = recommender
        recommender.observe = self.metrics.stage
        self._source = source
        self._client = client
        self._refresh_client = refresh_client
        self._clock = clock
        self.flag_streams = VersionStreams(self._newer_flags, clock=clock)
        self._no_lock = contextlib.nullcontext()
        self._trimmed_for: float | None = None
        self._admission = AdmissionControl(settings.server)
        self._cheaper = CheaperAnswers()
        text = "Recommendations waiting for their turn"
        self.metrics.gauge("recommend_waiting", text, lambda: self._admission.waiting)
        text = "Memory of the server's processes, in whole megabytes"
        self.metrics.gauge("memory_bytes", text, lambda: rounded(own_memory()))

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """Answer one request of a caller without the rights of an administrator."""
        started = time.perf_counter()
        if request.after is not None:
            await self._client.request(ipc.PositionRequest(request.after), type(None))
        try:
            async with self._admission:
                self._source.begin(request.device_id, request.context.get("consent"))
                try:
                    answer, impression = self._recommender.recommend(request, now=self._clock())
                except NotPersonal:
                    request = request.anonymous()
                    answer, impression = self._recommender.recommend(request, now=self._clock())
                    answer = msgspec.structs.replace(answer, fallback=NOT_PERSONALISED)
        except ProblemError as refusal:
            cheaper = self._cheaper.of(request, refusal)
            with self._cheaper.counted():
                self._source.begin(None, None)
                answer, _ = self._recommender.recommend(cheaper, now=self._clock())
            impression, answer = None, msgspec.structs.replace(answer, fallback=OVERLOADED)
        self.metrics.recommended(kind_of(answer.fallback))
        position = self._source.position
        if impression is not None:
            self._client.notify(ipc.ImpressionNotice(answer.recommendation_id, impression))
        took = (time.perf_counter() - started) * 1000
        response: Recommendation = msgspec.structs.replace(
            answer, position=position, took_ms=round(took, 3)
        )
        return response

    @contextlib.contextmanager
    def lists(self) -> Iterator[ItemLists]:
        """Hold the items of this process as they are, to list some of them; for a moment.

        Raises:
            ProblemError: if there are none, perhaps because they are not read yet.
        """
        with self._recommender.lists() as lists:
            if not len(lists.catalogue):
                raise ProblemError("not_found", "there are no items here")
            yield lists

    async def forward(self, endpoint: Endpoint, call: Call) -> Reply:
        """Forward a request to the process that owns the state."""
        body = b"" if endpoint.body is None else await call.body()
        headers = {k: v for k, v in call.headers.items() if k != b"content-encoding"}
        request = ipc.ForwardRequest(
            endpoint.method,
            endpoint.path,
            dict(call.path),
            call.query_string,
            headers,  # without the encoding: the body is inflated
            call.key,
            body,
            call.peer,
        )
        return await self._client.request(request, Reply)

    async def _newer_flags(self, number: int) -> int:
        return await self._client.request(ipc.FlagVersionRequest(number), int)

    async def refresh(self) -> None:
        """Refresh keys, models and items and send reports, until cancelled."""
        sent_at = 0.0
        while True:
            await asyncio.sleep(_REFRESH_S)
            for refresh in (self.refresh_keys, self._refresh_recommender):
                try:
                    await asyncio.to_thread(refresh)
                except Exception as error:
                    logger.warning(
                        "refresh failed with %s; the old state is kept", type(error).__name__
                    )
            self._client.notify(ipc.ServedNotice(*served(self._recommender.describe())))
            if time.monotonic() - sent_at >= _METRICS_S:
                sent_at = time.monotonic()
                self.send_metrics()

    def refresh_keys(self) -> None:
        """Request the valid API keys."""
        used = self.keys.take_uses()
        try:
            keys = self._refresh_client.request(ipc.KeysRequest(used), list[tuple[bytes, ApiKey]])
        except ProblemError:
            self.keys.note_uses(used)
            raise
        self.keys.replace(keys)

    def _refresh_recommender(self) -> None:
        self._recommender.refresh(self._no_lock)
        if self._recommender.counted_at != self._trimmed_for:
            # Counting what is popular leaves most of the free memory of a worker.
            self._trimmed_for = self._recommender.counted_at
            process_tuning.return_free_pages()

    def send_metrics(self) -> None:
        """Send the samples of this process's metrics."""
        self._client.notify(ipc.MetricsNotice(self.metrics.samples()))


async def _recommend(worker: ServingWorker, call: Call, endpoint: Endpoint) -> Reply:
    request = await call.json(request_decoder)
    if _is_special(request):
        return await worker.forward(endpoint, call)
    return await recommend_one(worker, call, request, worker.recommend)


async def _recommend_batch(worker: ServingWorker, call: Call, endpoint: Endpoint) -> Reply:
    batch = await call.json(batch_decoder)
    if any(map(_is_special, batch.requests)):
        return await worker.forward(endpoint, call)
    return await recommend_each(worker, call, batch, worker.recommend)


async def _list(worker: ServingWorker, call: Call, endpoint: Endpoint) -> Reply:
    """List items of this process; the one that owns the state knows new ones a little earlier."""
    try:
        return await endpoint.handle(worker, call)
    except ProblemError as error:
        if error.kind.code != "not_found":
            raise
    return await worker.forward(endpoint, call)


async def _no_stream(worker: ServingWorker, call: Call, endpoint: Endpoint) -> Reply:
    """Refuse a stream: answers of the process that owns the state are forwarded whole."""
    call.query(endpoint.query)
    raise ProblemError("not_found", "a server with worker processes (server.workers) has no stream")


async def _flag_stream(worker: ServingWorker, call: Call, endpoint: Endpoint) -> Reply:
    return stream_reply(worker, call, worker.flag_streams)


def _is_special(request: RecommendRequest) -> bool:
    """Whether a request has fields of administrators and replays, which are rare."""
    timed = request.timestamp is not None or request.as_of is not None
    return timed or bool(request.force) or request.explain


def make_worker_application(worker: ServingWorker) -> Application:
    """Make the ASGI application of one worker, without a lifespan."""
    local = {endpoint.path: _list for endpoint in LIST_ENDPOINTS}
    local |= {"/v1/recommend": _recommend, "/v1/recommend/batch": _recommend_batch}
    local |= {STREAM: _no_stream, FLAG_STREAM: _flag_stream}

    def handled(endpoint: Endpoint) -> Endpoint:
        handle = local.get(endpoint.path)
        if endpoint.path == "/healthz":
            return endpoint
        if handle is None:
            return replace(endpoint, handle=lambda host, call: host.forward(endpoint, call))
        return replace(endpoint, handle=lambda host, call: handle(host, call, endpoint))

    return route([handled(endpoint) for endpoint in ENDPOINTS], worker)


def main(numbers: list[int]) -> int:
    """Serve until SIGTERM, or until the process that owns the state has ended.

    Args:
        numbers: file descriptors of the listening socket, of the memory of the rate limits and of
            that of the counts of keys, and of the socket pairs for requests, for refreshes and for
            the event loop.

    Returns:
        The exit code.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives Ctrl-C and stops workers
    memory, counts = numbers.pop(1), numbers.pop(1)
    listener, requests, refresh, loop_end = (socket.socket(fileno=number) for number in numbers)
    refresh_client = ipc.BlockingClient(refresh, timeout_s=60.0)
    config: WorkerConfig = pickle.loads(refresh_client.request(ipc.ConfigRequest(), bytes))
    settings = config.settings
    logs.configure(settings.logging)
    source = RemoteFeatures(config.definitions, ipc.BlockingClient(requests), refresh_client)
    module, _, name = config.build.partition(":")
    build = getattr(importlib.import_module(module), name)
    options: dict[str, Any] = {"shown": source} if config.counts_shown else {}
    if config.reads_trends:
        options["rising"] = source.rises
    if config.reads_takers:
        options["takers"] = source
    if config.reads_latest:
        options["latest"] = source.latest
    recommender = build(engine=source, settings=settings, **options)
    recommender.crossed = source.crossed
    worker = partial(
        ServingWorker,
        settings,
        recommender=recommender,
        source=source,
        refresh_client=refresh_client,
        rates=RateLimits(settings.limits, memory=memory),
        key_counters=KeyCounters(memory=counts),
    )
    return run_loop(_serve(settings, worker, recommender, listener, loop_end))


async def _serve(
    settings: Settings,
    make_worker: Callable[..., ServingWorker],
    recommender: Any,
    listener: socket.socket,
    loop_end: socket.socket,
) -> int:
    orphaned = False

    def lost() -> None:
        nonlocal orphaned
        orphaned = True
        server.should_exit = True

    client = ipc.AsyncClient(lost)
    worker = make_worker(client=client)
    worker.refresh_keys()
    server: Server = make_server(make_worker_application(worker), settings.server, lifespan=False)
    await client.open(loop_end)
    refreshing = asyncio.create_task(worker.refresh())
    await serve(server, listener, lambda: client.notify(ipc.ReadyNotice()))
    refreshing.cancel()
    worker.send_metrics()
    client.close()
    recommender.close()
    return 1 if orphaned or not server.started else 0


if __name__ == "__main__":
    sys.exit(main([int(number) for number in sys.argv[1:]]))
