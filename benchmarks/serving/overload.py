"""More requests than the server can answer: what the answered and the refused ones wait.

A server of the product's own is asked over HTTP by a process that keeps to its timetable: the next
request goes out when it is due, whether or not earlier ones were answered (an open loop, with
exponential gaps). The latency is counted from the moment it was due, so that a stalled sender hides
nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Figure, percentile_figure
from tactful.client import Client
from tactful.errors import ClientError

_ITEMS = 3_000
_PEOPLE = 300
_VIEWS = 60
_WAITING = 16
_FACTOR = 2.0
_PATIENCE_S = 30.0
_KEPT_S = 5.0  # a server may close what is idle at any time: clients let go of it well before


@dataclass
class Load:
    """What came of a load.

    Attributes:
        answered: seconds to each answer, from when the request was due.
        refused: the same for each 503 and 429.
        failures: requests with any other outcome, by what it was.
        late: seconds by which the sender itself was behind, of each request.
        span: seconds that it took.
    """

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    late: list[float] = field(default_factory=list)
    span: float = 0.0

    @property
    def failed(self) -> int:
        """How many failed."""
        return self.failures.total()

    @property
    def asked(self) -> int:
        """How many requests there were."""
        return len(self.answered) + len(self.refused) + self.failed


def overload_figures(quick: bool) -> list[Figure]:
    """At rest, at full load, and at twice the rate that can be answered."""
    seconds = 5.0 if quick else 20.0
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name, _server(Path(name)) as port:
        closed(port, waiting=1, seconds=2.0)
        idle = closed(port, waiting=1, seconds=seconds)
        full = closed(port, waiting=_WAITING, seconds=seconds)
        rate = len(full.answered) / full.span
        over = opened(port, rate=_FACTOR * rate, seconds=seconds)
    failed = idle.failed + full.failed + over.failed
    note = f"at {_FACTOR:g} x {rate:.0f} requests/s, open loop, {failed} failed"
    return [
        Figure("full_load_requests_per_s", rate, "requests/s", runs=len(full.answered),
               note=f"{_WAITING} callers, one list of 20 each; {_ITEMS} items, no model"),
        percentile_figure("idle_p99_ms", idle.answered, 99, "one caller"),
        percentile_figure("overload_answered_p99_ms", over.answered, 99, note),
        percentile_figure("overload_refused_p99_ms", over.refused, 99, note),
        Figure("overload_goodput_ratio", len(over.answered) / over.span / rate, "1",
               note="answered at overload, personal or not, to what was answered at full load"),
        Figure("overload_refused_share", len(over.refused) / max(over.asked, 1), "1", note=note),
        percentile_figure(
            "overload_sender_late_p99_ms",
            over.late,
            99,
            "of the load itself; where it is large, the machine was too busy to tell",
        ),
        Figure("overload_failed_requests", failed, "requests", note="neither 200 nor 503"),
    ]  # fmt: skip


def closed(port: int, *, waiting: int, seconds: float) -> Load:
    """Callers that each wait for their answer before they ask again."""
    load = Load()

    async def call(end: float) -> None:
        pool: list[_Wire] = []
        while (due := time.perf_counter()) < end:
            await _ask(port, pool, due, load)
        for wire in pool:
            wire.close()

    async def calls() -> None:
        end = time.perf_counter() + seconds
        await asyncio.gather(*(call(end) for _ in range(waiting)))

    _run(calls())
    load.span = seconds
    return load


def opened(port: int, *, rate: float, seconds: float, seed: int = 1, evenly: bool = False) -> Load:
    """Callers that come when they come, or at even intervals, over connections that are kept."""
    load, chance = Load(), random.Random(seed)
    pool: list[_Wire] = []
    tasks: set[asyncio.Task[None]] = set()

    async def come() -> None:
        began = due = time.perf_counter()
        while due < began + seconds:
            if (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            task = asyncio.create_task(_ask(port, pool, due, load))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += 1.0 / rate if evenly else chance.expovariate(rate)
        load.span = time.perf_counter() - began
        await asyncio.gather(*tasks)
        for wire in pool:
            wire.close()

    _run(come())
    return load


def _run(work: Coroutine[None, None, None]) -> None:
    """Run on a loop that wakes up when it is due: that of epoll does so at whole milliseconds."""

    def loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work)


class _Wire(asyncio.Protocol):
    """A connection on which one answer at a time is waited for, with as little ado as can be.

    The streams of asyncio take longer for an exchange than the server for a list.
    """

    def __init__(self) -> None:
        self.used = time.monotonic()
        self.lost = False
        self._answer: asyncio.Future[bytes] | None = None
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, ended, body = self._got.partition(b"\r\n\r\n")
        if not ended or self._answer is None or self._answer.done():
            return
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if not length.isdigit():
            self._answer.set_exception(EOFError("an answer without a length"))
        elif len(body) >= int(length):
            self._got = b""
            self._answer.set_result(head)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(EOFError("the server hung up"))

    async def exchange(self, request: bytes) -> bytes:
        """Send a request; the head of its answer, once all of it is there."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        self._answer = answer
        limit = loop.call_later(_PATIENCE_S, self._transport.abort)
        self._transport.write(request)
        try:
            return await answer
        finally:
            limit.cancel()
            self.used = time.monotonic()

    def close(self) -> None:
        self._transport.close()


async def _ask(port: int, pool: list[_Wire], due: float, load: Load) -> None:
    load.late.append(time.perf_counter() - due)
    body = json.dumps({"user_id": f"u-{int(due * 1e6) % _PEOPLE}", "count": 20}).encode()
    try:
        if (wire := _kept(pool)) is None:
            loop = asyncio.get_running_loop()
            wire = (await loop.create_connection(_Wire, "127.0.0.1", port))[1]
        head = await wire.exchange(
            b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
    except (OSError, EOFError) as error:
        load.failures[str(error)] += 1
        return
    pool.append(wire)
    status, took = int(head[9:12]), time.perf_counter() - due
    if status == 200:
        load.answered.append(took)
    elif status in (429, 503) and b"retry-after" in head.lower():
        load.refused.append(took)
    else:
        load.failures[f"status {status}"] += 1


def _kept(pool: list[_Wire]) -> _Wire | None:
    """The connection used last, if any may be used again; those idle for too long are let go."""
    while pool:
        wire = pool.pop()
        if not wire.lost and time.monotonic() - wire.used < _KEPT_S:
            return wire
        wire.close()
    return None


@contextmanager
def _server(folder: Path) -> Iterator[int]:
    """A server in ``--dev`` with items, and people who looked at some."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tactful", "serve", "--dev", "--port", "0"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "TACTFUL_STORAGE__DURABILITY": "process"},
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            port = int(line.rsplit(":", 1)[1].split()[0].strip("/"))
            _fill(f"http://127.0.0.1:{port}")
            yield port
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


def _fill(url: str) -> None:
    chance, now = random.Random(7), int(time.time() * 1000)
    with Client(url, retries=12) as client:
        client.items(
            {"item_id": f"i-{n}", "category": f"c-{n % 40}", "price": 1 + n % 90}
            for n in range(_ITEMS)
        )
        sent = client.events(
            {
                "type": "view",
                "timestamp": now - chance.randrange(86_400_000),
                "user_id": f"u-{n % _PEOPLE}",
                "item_id": f"i-{int(chance.paretovariate(1)) % _ITEMS}",
            }
            for n in range(_PEOPLE * _VIEWS)
        )
        for _ in range(60):
            with suppress(ClientError):
                client.recommend(user_id="u-1", after=sent.position)
                return
    raise RuntimeError("the server has not caught up")
