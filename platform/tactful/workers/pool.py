"""A server from its settings, and the pool of worker processes (``serve --workers N``).

```
             listening socket (shared)
                |          |
            worker 0    worker 1   ...      index and model: mapped from files
                |          |
                +-- IPC ---+---- this process: log, engine, state
```

With workers, this process accepts no HTTP connection itself. It starts the workers
(`tactful.workers.serving_worker`), answers their requests (`tactful.workers.state_server`), and
replaces a worker that ends. With a worker only the requests that it was answering are lost:
connections that nobody has accepted yet wait in the shared socket for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import msgspec

from tactful.config import logging as logs
from tactful.config.ledger_location import ledger_location, named
from tactful.config.server import ServerSettings
from tactful.config.settings import Settings
from tactful.errors import TactfulError
from tactful.http.routes import make_application
from tactful.http.tls.certificate import open_certificate
from tactful.http.uvicorn_server import listen, make_server, run, run_loop
from tactful.metadata.directory_lock import exclusive
from tactful.metrics.registry import SummedRegistry
from tactful.recommend.build import Counts, build, open_counts
from tactful.schemas.problems import ProblemError
from tactful.server.platform import Platform
from tactful.statistics.service import SECRET, PrivateStatistics, open_statistics
from tactful.util.process_tuning import end_start, return_large_pieces, returning_large_pieces
from tactful.workers import ipc
from tactful.workers.state_server import StateServer
from tactful.workers.status import Served, WorkerStatus
from tactful_privacy.errors import PrivacyError
from tactful_streaming.errors import StreamingError
from tactful_streaming.kernels.compile import Compilation, compilations

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_CALM_S = 30.0
_START_S = 600.0


class WorkerPool:
    """Worker processes of one server, each kept running in its place."""

    def __init__(
        self, platform: Platform, server: StateServer, listener: socket.socket, *, count: int
    ) -> None:
        """Prepare `count` workers that accept from `listener` and ask `server`."""
        self._platform = platform
        self._server = server
        self._listener = listener
        self._count = count
        self._stopping = False
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._status = WorkerStatus(count, lambda: server.served)
        self._keeping: list[asyncio.Task[None]] = []
        self._started = 0
        platform.workers = self._status.health
        gauge, status = platform.metrics.gauge, self._status
        gauge("serving_workers", "Workers that accept requests", lambda: status.serving)
        text = "Workers that replaced another one"
        gauge("serving_workers_restarted", text, lambda: status.restarted)
        text, health = "Workers that answer from the present model and items", status.health
        gauge("serving_workers_ready", text, lambda: sum(w.state == "ready" for w in health()))

    async def start(self) -> bool:
        """Start all workers; return whether all accept requests."""
        self._keeping = [asyncio.create_task(self._keep(place)) for place in range(self._count)]
        until = time.monotonic() + _START_S
        status = self._status
        while status.serving < self._count and time.monotonic() < until and not self._stopping:
            if status.restarted > self._count:
                break  # they fail again and again
            await asyncio.sleep(0.02)
        return status.serving == self._count

    async def stop(self) -> None:
        """Let all workers finish their requests, and end them."""
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
        """Keep one worker running, with backoff between restarts."""
        pause = _FIRST_PAUSE_S
        while not self._stopping:
            began = time.monotonic()
            code = await self._run_one(place)
            if self._stopping:
                return
            pause = _FIRST_PAUSE_S if time.monotonic() - began > _CALM_S else pause
            logger.error("a worker ended with code %d and is replaced", code)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _run_one(self, place: int) -> int:
        """Run one worker until it ends; return its exit code."""
        number = self._started
        self._started += 1
        self._status.started(place)
        connections: list[WorkerConnection] = []
        ends: list[socket.socket] = []
        try:
            for _ in range(3):  # for its requests, its refresh thread and its event loop
                connections.append(await self._connect(place, number, ends))
            rates, counts = self._platform.rates.memory, self._platform.key_counters.memory
            numbers = [self._listener.fileno(), rates, counts, *(end.fileno() for end in ends)]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tactful.workers.serving_worker",
                *map(str, numbers),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=numbers,
                env={**returning_large_pieces(), **os.environ},
            )
            self._processes[number] = process
            for end in ends:
                end.close()
            if self._stopping:
                process.terminate()
            return await process.wait()
        finally:
            self._processes.pop(number, None)
            self._status.ended(place)
            self._platform.metrics.others.end(number)
            for connection in connections:
                connection.frames.close()
            for end in ends:
                end.close()

    async def _connect(
        self, place: int, number: int, ends: list[socket.socket]
    ) -> WorkerConnection:
        """Make a socket pair; append the end for the worker to `ends`."""
        ours, end = socket.socketpair()
        ends.append(end)
        others = self._platform.metrics.others
        connection = WorkerConnection(self._server, self._status, others, place, number)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: connection.frames, sock=ours)
        return connection


class WorkerConnection:
    """One connection to a worker: receives its requests and sends the responses."""

    def __init__(
        self,
        server: StateServer,
        status: WorkerStatus,
        metrics: SummedRegistry,
        place: int,
        number: int,
    ) -> None:
        """Answer worker `number` from `server`; pass its reports to `status` and `metrics`."""
        self._server = server
        self._status = status
        self._metrics = metrics
        self._place = place
        self._number = number
        self._tasks: set[asyncio.Task[None]] = set()
        self.frames = ipc.FrameProtocol(self._arrived)  # end of the socket pair

    def _arrived(self, number: int, payload: bytes) -> None:
        request = ipc.decode_request(payload)
        value = None
        match request:
            case ipc.PositionRequest() | ipc.FlagVersionRequest() | ipc.ForwardRequest():
                task = asyncio.create_task(self._respond_later(number, request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                return
            case ipc.ReadyNotice():
                self._status.is_ready(self._place)
            case ipc.ServedNotice(model, items):
                self._status.report(self._place, Served(model, items))
            case ipc.MetricsNotice(samples):
                self._metrics.take(self._number, samples)
            case _:
                try:
                    value = self._server.respond(request)
                except Exception as error:
                    self.frames.send(number, ipc.encode_problem(_problem(error)))
                    return
        self.frames.send(number, ipc.encode_response(value))

    async def _respond_later(
        self,
        number: int,
        request: ipc.PositionRequest | ipc.FlagVersionRequest | ipc.ForwardRequest,
    ) -> None:
        try:
            payload = ipc.encode_response(await self._server.respond_later(request))
        except Exception as error:
            payload = ipc.encode_problem(_problem(error))
        self.frames.send(number, payload)


def _problem(error: Exception) -> ProblemError:
    if isinstance(error, ProblemError):
        return error
    # Only the type is logged: the message may quote personal data.
    logger.error("the request of a worker failed with %s", type(error).__name__)
    return ProblemError("internal", "report it with the request id")


def run_pool(
    platform: Platform,
    listener: socket.socket,
    *,
    build: str,
    count: int,
    started: Callable[[], None],
    counts: Counts | None = None,
) -> bool:
    """Serve with `count` processes until SIGTERM or SIGINT; return whether all came to serve.

    `build` is the module and name of the function that makes the recommender of a worker.
    `platform` is not started yet; it is closed at the end.
    """

    async def serve() -> bool:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        server = StateServer(platform, build, counts or Counts())
        await platform.start(refresh=server.refresh)
        pool = WorkerPool(platform, server, listener, count=count)
        try:
            starting = asyncio.create_task(pool.start())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                return False
            if starting.result():
                end_start()
                started()
                await stopped
            return starting.result()
        finally:
            await pool.stop()
            await platform.stop()

    return run_loop(serve())


@dataclass(frozen=True)
class OpenedServer:
    """The opened parts of a server that does not accept requests yet."""

    platform: Platform
    statistics: PrivateStatistics | None
    counts: Counts


def open_server(settings: Settings, *, rebuild: bool) -> OpenedServer:
    """Open data and statistics of an installation, or raise `TactfulError`."""
    with exclusive(settings.storage.data):
        pass  # completes an interrupted restore before anything is opened
    try:
        statistics = open_statistics(settings)
        consumers: dict[str, Any] = {} if statistics is None else statistics.counter.consumers()
        counts = open_counts(settings, None if statistics is None else statistics.trends())
        with compilations() as compiled:
            platform = Platform.open(
                settings,
                partial(build, **counts.options()),
                consumers={**consumers, **counts.consumers()},
                statistics=statistics,
                rebuild=rebuild,
            )
        _log_compilations(compiled)
    except StreamingError as error:
        raise TactfulError(str(error)) from error
    except PrivacyError as error:
        where = f"{named(ledger_location(settings))}, {settings.storage.data / SECRET}"
        raise TactfulError(f"{where}: {error}") from error
    return OpenedServer(platform, statistics, counts)


def open_listener(server: ServerSettings) -> socket.socket:
    """Prepare this process to serve, and open the socket; TactfulError if it is not possible."""
    return_large_pieces()  # before there are threads, which choose an arena
    certificate = open_certificate(server)  # now: workers would fail again and again
    for warning in [] if certificate is None else certificate.warnings():
        logger.warning("%s", warning)
    try:
        return listen(server.host, server.port)
    except OSError as error:
        raise TactfulError(f"{server.host}:{server.port}: {error.strerror or error}") from error


def run_server(settings: Settings, *, rebuild: bool, as_json: bool) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        TactfulError: the address is taken, the data cannot be opened, or the server cannot start.
    """
    logs.configure(settings.logging)
    server = settings.server
    with open_listener(server) as listener:
        opened = open_server(settings, rebuild=rebuild)
        platform, statistics, counts = opened.platform, opened.statistics, opened.counts
        started = partial(_announce, platform, server, listener, as_json)
        if server.workers:
            served = run_pool(
                platform,
                listener,
                build=f"{build.__module__}:{build.__name__}",
                count=server.workers,
                started=started,
                counts=counts,
            )
        else:
            served = run(make_server(make_application(platform), server), listener, started=started)
        if statistics is not None:
            statistics.close()
        if not served:
            platform.close()
            raise TactfulError("the server could not start; its log says why")


def url_of(server: ServerSettings, listener: socket.socket) -> str:
    """Return the address of a server that listens."""
    name = f"[{server.host.strip('[]')}]" if ":" in server.host else server.host
    return f"{server.scheme}://{name}:{listener.getsockname()[1]}"


def _log_compilations(compiled: Sequence[Compilation]) -> None:
    """Log what a first start has compiled, which later ones do not do."""
    if not compiled:
        return
    names = ", ".join(each.name for each in compiled)
    seconds, folder = sum(each.seconds for each in compiled), compiled[-1].folder
    later = "as at each start" if folder is None else f"once: later starts read it from {folder}"
    logger.info("compiled %s for this processor in %.1f s, %s", names, seconds, later)


def _announce(
    platform: Platform, server: ServerSettings, listener: socket.socket, as_json: bool
) -> None:
    """Print the address of the server that has started."""
    url = url_of(server, listener)
    if as_json:
        click.echo(msgspec.json.encode({"url": url, "pid": os.getpid(), "dev": server.dev}))
    else:
        click.echo(f"tactful serves on {url}{' without API keys' if server.dev else ''}")
    if not server.dev and not any(key.revoked_at is None for key in platform.keys.list()):
        click.echo(
            "There is no API key yet: `tactful keys create --scope admin` makes one.", err=True
        )
