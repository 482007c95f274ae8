"""Several processes that answer requests, around one that keeps the state.

This process keeps log, engine and state, and listens to nobody outside. It starts the workers
(`tactful.workers.serving_worker`), which share the listening socket and, mapped from files, the index and
the model; it answers what they ask; and it starts another in the place of one that ends. A worker
that dies takes the requests it was answering with it, and no others: connections that nobody has
accepted yet wait in the common socket for those that are left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any

import msgspec

from tactful.catalogue.changes import ChangeList
from tactful.catalogue.request_context import described, read_columns, read_nonzero
from tactful.http.asgi import Call, Endpoint
from tactful.http.routes import ENDPOINTS
from tactful.http.uvicorn_server import loop_factory
from tactful.recall.trending import Trends
from tactful.rerank.frequency_caps import Shown
from tactful.schemas.problems import ProblemError
from tactful.server.platform import Platform
from tactful.util import malloc as heap
from tactful.util.gc_tuning import freeze_living_objects, short_delays
from tactful.util.yielding_lock import YieldingLock
from tactful.workers.ipc import (
    Changed,
    Changes,
    Count,
    Forward,
    Frames,
    Hello,
    Keys,
    Note,
    Numbers,
    Question,
    Reach,
    Read,
    ReadColumns,
    ReadNonZero,
    Ready,
    Rises,
    Seen,
    Serves,
    Told,
    answer,
    decode_question,
    refusal,
)
from tactful.workers.serving_worker import Orders
from tactful.workers.status import Roster, Serving, serving

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_CALM_S = 30.0
_START_S = 600.0

_ENDPOINTS: Mapping[tuple[str, str], Endpoint] = {(e.method, e.path): e for e in ENDPOINTS}


class Keeper:
    """Answers what workers ask, on the event loop of the platform."""

    def __init__(
        self, platform: Platform, build: str, shown: Shown | None, trends: Trends | None
    ) -> None:
        """Answer from `platform`.

        Args:
            platform: started.
            build: module and name of what makes the recommender of a worker, as ``module:name``.
            shown: how often each item was shown today, where that is counted.
            trends: what rises in published statistics, where they are read for that; `platform`'s
                own recommender looks.
        """
        self._platform = platform
        self._source = platform.backend.source
        self._changes = ChangeList(self._source)
        self._shown = shown
        self._trends = trends
        orders = Orders(
            platform.settings,
            build,
            self._source.definitions,
            counts_shown=shown is not None,
            tells_rises=trends is not None,
        )
        self._orders = pickle.dumps(orders)

    @property
    def serving(self) -> Serving:
        """What lists would be made from here."""
        return serving(self._platform.recommender.describe())

    def refresh(self) -> None:
        """Follow models and items; for one thread at a time.

        Workers hear of an item only when the index of this process has a row for it, so that it
        has the same row everywhere.
        """
        self._changes.look(self._platform.lock)
        self._platform.recommender.refresh(YieldingLock(self._platform.lock))
        self._changes.publish()

    def at_once(self, question: Question) -> Any:
        """The answer to what needs no waiting.

        Raises:
            ProblemError: if it cannot be given.
        """
        platform, source = self._platform, self._source
        match question:
            case Read(entity, key, at, device, claim):
                platform.check()
                with platform.lock:
                    reads = platform.permissions.reads_history
                    if entity == "user" and not reads(key, device, at, claim):
                        return Seen({}, source.offset, platform.position, personal=False)
                    seen = Seen(
                        dict(source.read(entity, key, at)), source.offset, platform.position
                    )
                    return self._described(seen, key, at) if entity == "user" else seen
            case ReadColumns(entity, keys, names, at):
                with platform.lock:
                    return read_columns(source, entity, keys, names, at).tobytes()
            case ReadNonZero(entity, name, at, start):
                with platform.lock:
                    found = read_nonzero(source, entity, name, at, start)
                if found is None:
                    return Numbers(None, b"", None)
                return Numbers(found.keys, found.numbers.tobytes(), found.following)
            case Changes(epoch, start):
                now, following, items = self._changes.read(epoch, start)
                return Changed(
                    now, following, items, source.watermark, source.offset, platform.position
                )
            case Rises():
                return () if self._trends is None else self._trends.latest
            case Note(recommendation_id, impression):
                platform.recommendations.log_impression(recommendation_id, impression)
                return None
            case Keys():
                return platform.keys.valid
            case Hello():
                return self._orders
        raise TypeError(f"not answered at once: {type(question).__name__}")

    def _described(self, seen: Seen, key: str, at: int) -> Seen:
        """With what else is known of a person."""
        properties = dict(described(self._source, key, at)) or None
        shown = None if self._shown is None else dict(self._shown.of(key, at))
        return msgspec.structs.replace(seen, properties=properties, shown=shown)

    async def later(self, question: Question) -> Any:
        """The answer to what may take its time.

        Raises:
            ProblemError: if it cannot be given.
        """
        if isinstance(question, Reach):
            await self._platform.recommendations.reach(question.position)
            return None
        assert isinstance(question, Forward)
        return await self._forwarded(question)

    async def _forwarded(self, asked: Forward) -> Told:
        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": asked.body}

        scope = {"query_string": asked.query, "path_params": asked.parameters}
        settings = self._platform.settings
        call = Call(
            scope,
            receive,
            asked.headers,
            asked.trusted,
            asked.public,
            settings.limits.body_bytes,
            settings.server.body_timeout_s,
        )
        reply = await _ENDPOINTS[asked.method, asked.path].handle(self._platform, call)
        return Told(reply.status, reply.body, reply.content_type, [*reply.headers])


class _Line:
    """One end of a socket pair to a worker: questions come in, answers go out."""

    def __init__(
        self,
        keeper: Keeper,
        *,
        ready: Callable[[], None],
        serves: Callable[[Serving], None],
        count: Callable[[Count], None],
    ) -> None:
        self._keeper = keeper
        self._ready = ready
        self._serves = serves
        self._count = count
        self._tasks: set[asyncio.Task[None]] = set()
        self.frames = Frames(self._arrived)

    def _arrived(self, number: int, payload: bytes) -> None:
        question = decode_question(payload)
        match question:
            case Reach() | Forward():
                task = asyncio.create_task(self._answer_later(number, question))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                return
            case Ready():
                self._ready()
                value = None
            case Serves(model, items):
                self._serves(Serving(model, items))
                value = None
            case Count():
                self._count(question)
                value = None
            case _:
                try:
                    value = self._keeper.at_once(question)
                except Exception as error:
                    self.frames.send(number, refusal(_problem(error)))
                    return
        self.frames.send(number, answer(value))

    async def _answer_later(self, number: int, question: Question) -> None:
        try:
            payload = answer(await self._keeper.later(question))
        except Exception as error:
            payload = refusal(_problem(error))
        self.frames.send(number, payload)


class Crew:
    """The workers of one server."""

    def __init__(
        self,
        platform: Platform,
        keeper: Keeper,
        listener: socket.socket,
        *,
        count: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare `count` workers that accept from `listener`."""
        self._platform = platform
        self._keeper = keeper
        self._listener = listener
        self._count = count
        self._clock = clock
        self._stopping = False
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._roster = Roster(count, lambda: keeper.serving, clock=clock)
        self._keeping: list[asyncio.Task[None]] = []
        self._started = 0
        platform.workers = self._roster.health
        platform.metrics.gauge(
            "serving_workers", "Processes that answer requests now", lambda: self.serving
        )
        platform.metrics.gauge(
            "serving_workers_restarted", "Processes that had to be replaced", lambda: self.restarted
        )
        platform.metrics.gauge(
            "serving_workers_ready",
            "Processes that answer requests from the model and the items of now",
            lambda: sum(each.state == "ready" for each in self._roster.health()),
        )

    @property
    def serving(self) -> int:
        """How many answer requests now."""
        return self._roster.serving

    @property
    def restarted(self) -> int:
        """How many had to be replaced."""
        return self._roster.restarted

    @property
    def processes(self) -> list[int]:
        """Process ids of those that run."""
        return [process.pid for process in self._processes.values()]

    async def start(self) -> bool:
        """Start all; whether all came to serve."""
        self._keeping = [asyncio.create_task(self._keep(place)) for place in range(self._count)]
        until = self._clock() + _START_S
        while self.serving < self._count and self._clock() < until and not self._stopping:
            if self.restarted > self._count:
                break  # what is wrong will not mend by itself
            await asyncio.sleep(0.02)
        return self.serving == self._count

    async def stop(self) -> None:
        """Let all finish what they answer, and end them."""
        self._stopping = True
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        patience = self._platform.settings.server.shutdown_s + 5
        if self._keeping:
            _, late = await asyncio.wait(self._keeping, timeout=patience)
            for process in self._processes.values():
                logger.warning("a worker did not stop in time and was killed")
                process.kill()
            if late:
                await asyncio.wait(late)

    async def _keep(self, place: int) -> None:
        """Have one worker running, whatever happens to it."""
        pause = _FIRST_PAUSE_S
        while not self._stopping:
            began = self._clock()
            code = await self._run_one(place)
            if self._stopping:
                return
            pause = _FIRST_PAUSE_S if self._clock() - began > _CALM_S else pause
            logger.error("a worker ended with code %d; another one takes its place", code)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _run_one(self, place: int) -> int:
        """Start a worker and wait for its end; its exit code."""
        number = self._started
        self._started += 1
        self._roster.started(place)
        lines, theirs = [], []
        loop = asyncio.get_running_loop()
        try:
            for _ in range(3):
                ours, end = socket.socketpair()
                theirs.append(end)
                line = _Line(
                    self._keeper,
                    ready=partial(self._roster.is_ready, place),
                    serves=partial(self._roster.tells, place),
                    count=self._counter(number),
                )
                await loop.create_unix_connection(lambda line=line: line.frames, sock=ours)  # type: ignore[misc]
                lines.append(line)
            numbers = [self._listener.fileno(), *(end.fileno() for end in theirs)]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tactful.workers.serving_worker",
                *map(str, numbers),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=numbers,
                env={**heap.returning_large_pieces(), **os.environ},
            )
            self._processes[number] = process
            for end in theirs:
                end.close()
            if self._stopping:
                process.terminate()
            return await process.wait()
        finally:
            self._processes.pop(number, None)
            self._roster.ended(place)
            self._platform.metrics.others.end(number)
            for line in lines:
                line.frames.close()
            for end in theirs:
                end.close()

    def _counter(self, number: int) -> Callable[[Count], None]:
        return lambda told: self._platform.metrics.others.take(number, told.samples)


def run_crew(
    platform: Platform,
    listener: socket.socket,
    *,
    build: str,
    count: int,
    started: Callable[[], None],
    shown: Shown | None = None,
    trends: Trends | None = None,
) -> bool:
    """Serve with several processes until a signal says stop.

    Args:
        platform: not started yet; closed at the end.
        listener: what workers accept from.
        build: module and name of what makes the recommender of a worker.
        count: how many workers.
        started: called when all answer.
        shown: how often each item was shown today, where that is counted.
        trends: what rises in published statistics, where they are read for that.

    Returns:
        Whether it came to serving at all.
    """

    async def serve() -> bool:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, stop.set)
        keeper = Keeper(platform, build, shown, trends)
        await platform.start(refresh=keeper.refresh)
        crew = Crew(platform, keeper, listener, count=count)
        try:
            starting = asyncio.create_task(crew.start())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                return False
            if starting.result():
                freeze_living_objects()
                started()
                await stopped
            return starting.result()
        finally:
            await crew.stop()
            await platform.stop()

    heap.return_large_pieces()
    with short_delays(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(serve())


def _problem(error: Exception) -> ProblemError:
    if isinstance(error, ProblemError):
        return error
    # The message may quote what a person sent.
    logger.error("a worker's question failed with %s", type(error).__name__)
    return ProblemError("internal", "report it with the request id")
