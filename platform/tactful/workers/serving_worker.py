"""One of several processes that answer requests: ``tactful serve --workers N`` starts them.

It accepts connections on the common port and computes recommendations. The process that started it
keeps log, engine and state: it is asked for what is known of a person, and gets every request that
is not for a recommendation, after the key was checked here. When it dies, so does this one.

Not a command for people: it is handed its ends of socket pairs by number.
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
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from tactful.config import logging as logs
from tactful.config.settings import Settings
from tactful.errors import NotPersonal
from tactful.http.app import route
from tactful.http.asgi import Application, Call, Endpoint, Reply, decoded, json_reply
from tactful.http.routes import ENDPOINTS
from tactful.http.uvicorn_server import Server, loop_factory, make_server
from tactful.metadata.key_cache import ApiKey, ValidKeys
from tactful.metrics.registry import Metrics
from tactful.recommend.anonymous import NOT_PERSONALISED, for_everybody
from tactful.schemas import browser_access as browser
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import (
    BatchResult,
    Recommendation,
    RecommendBatch,
    RecommendBatchRequest,
    RecommendRequest,
)
from tactful.server.admission import AdmissionControl
from tactful.util import malloc as heap
from tactful.util.clock import now_ms
from tactful.util.gc_tuning import freeze_living_objects, short_delays
from tactful.workers.ipc import (
    Asker,
    Caller,
    Count,
    Forward,
    Hello,
    Keys,
    Note,
    Reach,
    Ready,
    Serves,
    Told,
)
from tactful.workers.remote_features import WorkerSource
from tactful.workers.status import serving
from tactful_streaming.definitions.model import Definitions

logger = logging.getLogger(__name__)

_REFRESH_S = 0.25
_COUNT_S = 1.0

_one = msgspec.json.Decoder(RecommendRequest)
_many = msgspec.json.Decoder(RecommendBatchRequest)


@dataclass(frozen=True)
class Orders:
    """What a worker is told at its start.

    Attributes:
        settings: checked settings.
        build: module and name of what makes the recommender.
        definitions: what the engine computes.
        counts_shown: whether it is counted how often each item was shown today.
        tells_rises: whether statistics are read for what rises.
    """

    settings: Settings
    build: str
    definitions: Definitions
    counts_shown: bool
    tells_rises: bool


class ServingWorker:
    """What answers requests in one worker.

    Attributes:
        settings: as ordered.
        keys: API keys of the installation.
        metrics: of this process.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        recommender: Any,
        source: WorkerSource,
        caller: Caller,
        refreshing: Asker,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """Prepare to serve.

        Args:
            settings: as ordered.
            recommender: reads from `source`.
            source: the features.
            caller: reaches the keeper from the event loop.
            refreshing: reaches it from the thread that follows keys, models and items.
            clock: now in epoch milliseconds.
        """
        self.settings = settings
        self.keys = ValidKeys()
        self.metrics = Metrics(CollectorRegistry())
        self._recommender = recommender
        self._source = source
        self._caller = caller
        self._refreshing = refreshing
        self._clock = clock
        self._nothing = contextlib.nullcontext()
        self._tidied_for: float | None = None
        self._admission = AdmissionControl(settings.server)
        self.metrics.gauge(
            "recommend_waiting",
            "Recommendations waiting for their turn",
            lambda: self._admission.waiting,
        )

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """Answer one request that needs nothing but what is here.

        Raises:
            ProblemError: if it cannot be answered in time.
        """
        started = time.perf_counter()
        if request.after is not None:
            await self._caller.ask(Reach(request.after), type(None))
        async with self._admission:
            self._source.begin(request.device_id, request.context.get("consent"))
            try:
                answer, impression = self._recommender.recommend(request, now=self._clock())
            except NotPersonal:
                request = for_everybody(request)
                answer, impression = self._recommender.recommend(request, now=self._clock())
                answer = msgspec.structs.replace(answer, fallback=NOT_PERSONALISED)
            position = self._source.position
        if impression is not None:
            self._caller.tell(Note(answer.recommendation_id, impression))
        took = (time.perf_counter() - started) * 1000
        told: Recommendation = msgspec.structs.replace(
            answer, position=position, took_ms=round(took, 3)
        )
        return told

    async def forward(self, endpoint: Endpoint, call: Call, body: bytes | None = None) -> Reply:
        """Let the keeper of the state answer.

        Raises:
            ProblemError: if it refuses, or is gone.
        """
        reads = endpoint.body is not None and body is None
        told = await self._caller.ask(
            Forward(
                endpoint.method,
                endpoint.path,
                dict(call.path),
                call.query_string,
                dict(call.headers),
                call.trusted,
                call.public,
                await call.body() if reads else body or b"",
            ),
            Told,
        )
        return Reply(told.status, told.body, told.content_type, tuple(told.headers))

    async def follow(self) -> None:
        """Follow keys, models and items, and tell what was counted, until cancelled."""
        counted = 0.0
        while True:
            await asyncio.sleep(_REFRESH_S)
            for refresh in (self.follow_keys, self._follow_items):
                try:
                    await asyncio.to_thread(refresh)
                except Exception as error:
                    logger.warning(
                        "refresh failed with %s; the old state is kept", type(error).__name__
                    )
            self.tell()
            if time.monotonic() - counted >= _COUNT_S:
                counted = time.monotonic()
                self.count()

    def follow_keys(self) -> None:
        """Take over which keys are valid."""
        self.keys.replace(self._refreshing.ask(Keys(), list[tuple[bytes, ApiKey]]))

    def _follow_items(self) -> None:
        self._recommender.refresh(self._nothing)
        if self._recommender.counted_at != self._tidied_for:
            # Of all that lies free in a worker, counting what is popular leaves most.
            self._tidied_for = self._recommender.counted_at
            heap.return_free_pages()

    def tell(self) -> None:
        """Tell what lists are made from here."""
        self._caller.tell(Serves(*serving(self._recommender.describe())))

    def count(self) -> None:
        """Tell what was counted."""
        self._caller.tell(Count(self.metrics.samples()))


async def _recommend(worker: ServingWorker, call: Call, endpoint: Endpoint) -> Reply:
    body = await call.body()
    request = decoded(body, _one)
    if _is_special(request):
        return await worker.forward(endpoint, call, body)
    if call.public:
        browser.check_request(request)
    answer = await worker.recommend(request)
    return json_reply(msgspec.structs.replace(answer, position=0) if call.public else answer)


async def _recommend_batch(worker: ServingWorker, call: Call, endpoint: Endpoint) -> Reply:
    body = await call.body()
    batch = decoded(body, _many)
    if any(map(_is_special, batch.requests)):
        return await worker.forward(endpoint, call, body)
    results = []
    for request in batch.requests:
        try:
            results.append(BatchResult(recommendation=await worker.recommend(request)))
        except ProblemError as error:
            results.append(BatchResult(problem=error.problem(None)))
    return json_reply(RecommendBatch(results=results))


def _is_special(request: RecommendRequest) -> bool:
    """Whether it asks for what administrators and replays ask for: rare, and answered once."""
    return bool(request.force) or request.timestamp is not None or request.explain


def make_worker_application(worker: ServingWorker) -> Application:
    """The application of one worker; it has no lifespan of its own."""
    here = {"/v1/recommend": _recommend, "/v1/recommend/batch": _recommend_batch}

    def handled(endpoint: Endpoint) -> Endpoint:
        handle = here.get(endpoint.path)
        if endpoint.path == "/healthz":
            return endpoint
        if handle is None:
            return replace(endpoint, handle=lambda host, call: host.forward(endpoint, call))
        return replace(endpoint, handle=lambda host, call: handle(host, call, endpoint))

    return route([handled(endpoint) for endpoint in ENDPOINTS], worker)


def main(numbers: list[int]) -> int:
    """Serve until SIGTERM, or until the keeper of the state is gone.

    Args:
        numbers: file descriptors of the listening socket and of the ends for requests, for the
            refresh and for calls.

    Returns:
        The exit code.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the keeper, which tells us
    listener, requests, refresh, calls = (socket.socket(fileno=number) for number in numbers)
    refreshing = Asker(refresh, timeout_s=60.0)
    orders: Orders = pickle.loads(refreshing.ask(Hello(), bytes))
    settings = orders.settings
    logs.configure(settings.logging)
    source = WorkerSource(orders.definitions, Asker(requests), refreshing)
    module, _, name = orders.build.partition(":")
    build = getattr(importlib.import_module(module), name)
    known: dict[str, Any] = {"shown": source} if orders.counts_shown else {}
    if orders.tells_rises:
        known["rising"] = source.rises
    recommender = build(engine=source, settings=settings, **known)
    with short_delays(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(settings, recommender, source, refreshing, listener, calls))


async def _serve(
    settings: Settings,
    recommender: Any,
    source: WorkerSource,
    refreshing: Asker,
    listener: socket.socket,
    calls: socket.socket,
) -> int:
    orphaned = False

    def lost() -> None:
        nonlocal orphaned
        orphaned = True
        server.should_exit = True

    caller = Caller(lost)
    worker = ServingWorker(
        settings, recommender=recommender, source=source, caller=caller, refreshing=refreshing
    )
    worker.follow_keys()
    server: Server = make_server(make_worker_application(worker), settings.server, lifespan=False)
    await caller.open(calls)
    following = asyncio.create_task(worker.follow())
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    if server.started:
        freeze_living_objects()
        caller.tell(Ready())
    await serving
    following.cancel()
    worker.count()
    caller.close()
    recommender.close()
    return 1 if orphaned or not server.started else 0


if __name__ == "__main__":
    sys.exit(main([int(number) for number in sys.argv[1:]]))
