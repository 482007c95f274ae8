"""An open-loop load on a server, from a process of its own.

Batches of events are due on a fixed schedule and go out over several connections, whatever becomes
of those before them; so do probes. A probe posts one event and asks for recommendations ``after``
its position. All times count from the moment when something was due: a server that stalls, or a
load generator that comes too late, shows in them.

``python -m benchmarks.streaming.load URL SECONDS`` prints what came of it as JSON.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec

from benchmarks.streaming.events import events

RATE = 5000
BATCH = 100
"""Events of a request: what a tag server or a back end gathers, up to the 500 of our client."""
CONNECTIONS = 8
PROBES_PER_S = 20
WARM_UP_S = 5.0

_PROBE_CONNECTIONS = 8
_PROBE_USERS = 500
_LOOK_EVERY = 10
_PATIENCE_S = 90.0
_PREPARED = 50_000


class Observed(msgspec.Struct, kw_only=True):
    """What came of a load, its warm-up left out.

    Attributes:
        seconds: how long it was measured.
        offered: events that were due.
        accepted: events that the server acknowledged.
        refused: requests by the status of their answer, where it was not the good one.
        post_ms: due to acknowledged, of each batch.
        fresh_ms: due to a list that has seen it, of each probe.
        fresh_at_s: when each of them was due, seconds since the warm-up.
        fresh_ack_ms: the part of it up to the acknowledgement.
        fresh_list_ms: the part of it that the server says it took to recommend.
        late_ms: how late this process itself began, of each batch and probe.
        looked_up: probes whose event was looked for among the features of its user, and found.
        cpu_s: CPU seconds of this process.
    """

    seconds: float
    offered: int = 0
    accepted: int = 0
    refused: dict[str, int] = {}
    post_ms: list[float] = []
    fresh_ms: list[float] = []
    fresh_at_s: list[float] = []
    fresh_ack_ms: list[float] = []
    fresh_list_ms: list[float] = []
    late_ms: list[float] = []
    looked_up: int = 0
    cpu_s: float = 0.0

    def refuse(self, status: int) -> None:
        """Count an answer that is not the good one."""
        self.refused[str(status)] = self.refused.get(str(status), 0) + 1


class _Connections:
    """A few kept connections, of which a request takes the next that is free."""

    def __init__(self, url: str, count: int) -> None:
        address = urlsplit(url)
        assert address.hostname is not None and address.port is not None
        self._host, self._port = address.hostname, address.port
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None]
        self._free = asyncio.Queue()
        for _ in range(count):
            self._free.put_nowait(None)

    async def request(self, method: str, path: str, kind: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        async with self._taken() as (reader, writer):
            writer.write(head.encode() + body)
            answered = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = answered.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            return int(answered[9:12]), await reader.readexactly(int(length))

    def close(self) -> None:
        """Close those that are not in use."""
        while not self._free.empty():
            connection = self._free.get_nowait()
            if connection is not None:
                connection[1].close()

    @asynccontextmanager
    async def _taken(self) -> Any:
        connection = await self._free.get()
        try:
            if connection is None:
                connection = await asyncio.open_connection(self._host, self._port)
            yield connection
        except BaseException:
            if connection is not None:
                connection[1].close()
            connection = None
            raise
        finally:
            self._free.put_nowait(connection)


async def offer(url: str, seconds: float, *, warm_up_s: float = WARM_UP_S) -> Observed:
    """Offer the load for so long, after a warm-up, and observe.

    Raises:
        RuntimeError: if a probe's event is missing from what the server says of its user, or the
            server is not ready in time.
    """
    load = _Load(url)
    try:
        await load.await_first()
        began = time.perf_counter()
        load.counts_from = began + warm_up_s
        ends = load.counts_from + seconds
        running = asyncio.gather(
            _each(began, ends, RATE / BATCH, load.post),
            _each(began, ends, PROBES_PER_S, load.probe),
        )
        await asyncio.sleep(warm_up_s)
        cpu = time.process_time()
        await running
        load.observed.cpu_s = time.process_time() - cpu
    finally:
        load.close()
    load.observed.seconds = seconds
    return load.observed


async def _each(
    began: float, ends: float, rate: float, act: Callable[[float], Awaitable[None]]
) -> None:
    """Begin `act` at its time, `rate` times a second, whether or not those before it are done."""
    number, due = 0, began
    acting = []
    while due < ends:
        await asyncio.sleep(due - time.perf_counter())
        acting.append(asyncio.ensure_future(act(due)))
        number += 1
        due = began + number / rate
    await asyncio.gather(*acting)


class _Load:
    """The requests of one load.

    Attributes:
        counts_from: when what is due begins to count.
        observed: what came of that.
    """

    def __init__(self, url: str) -> None:
        self.counts_from = math.inf
        self.observed = Observed(seconds=0.0)
        self._warm_up = Observed(seconds=0.0)
        self._posting = _Connections(url, CONNECTIONS)
        self._probing = _Connections(url, _PROBE_CONNECTIONS)
        self._batches = _batches(_prepare())
        self._probes = 0
        self._rng = random.Random(11)

    async def post(self, due: float) -> None:
        """Post a batch."""
        observed, batch = self._note_of(due), next(self._batches)
        observed.late_ms.append((time.perf_counter() - due) * 1e3)
        observed.offered += BATCH
        status, body = await self._posting.request(
            "POST", "/v1/events", "application/x-ndjson", batch
        )
        if status == 202:
            observed.accepted += int(msgspec.json.decode(body)["accepted"])
            observed.post_ms.append((time.perf_counter() - due) * 1e3)
        else:
            observed.refuse(status)

    async def probe(self, due: float) -> None:
        """Post one event and ask for a list that has seen it."""
        observed, number = self._note_of(due), self._probes
        self._probes += 1
        observed.late_ms.append((time.perf_counter() - due) * 1e3)
        user, item = f"probe{number % _PROBE_USERS}", f"i{self._rng.randrange(100_000):06}"
        event = {
            "event_id": f"probe-{time.time_ns()}",
            "type": "view",
            "timestamp": time.time_ns() // 1_000_000,
            "user_id": user,
            "item_id": item,
        }
        answer = await self._ask(observed, "POST", "/v1/events", 202, event)
        if answer is None:
            return
        acknowledged = time.perf_counter()
        asked = {"user_id": user, "count": 20, "after": answer["position"]}
        answer = await self._ask(observed, "POST", "/v1/recommend", 200, asked)
        if answer is None:
            return
        observed.fresh_ms.append((time.perf_counter() - due) * 1e3)
        observed.fresh_at_s.append(due - self.counts_from)
        observed.fresh_ack_ms.append((acknowledged - due) * 1e3)
        observed.fresh_list_ms.append(answer["took_ms"])
        if number % _LOOK_EVERY == 0:
            await self._look_up(observed, user, item)

    async def await_first(self) -> None:
        """Return when the first event has arrived where it is read: workers take a while to join.

        Raises:
            RuntimeError: if that takes too long.
        """
        until = time.monotonic() + _PATIENCE_S
        while not self._warm_up.fresh_ms:
            if time.monotonic() > until:
                raise RuntimeError(f"the server was not ready in time: {self._warm_up.refused}")
            await self.probe(time.perf_counter())
            await asyncio.sleep(0.1)

    def close(self) -> None:
        """Hang up."""
        self._posting.close()
        self._probing.close()

    def _note_of(self, due: float) -> Observed:
        return self.observed if due >= self.counts_from else self._warm_up

    async def _look_up(self, observed: Observed, user: str, item: str) -> None:
        answer = await self._ask(observed, "GET", f"/v1/users/{user}/features", 200, None)
        if answer is None:
            return
        if answer["features"]["recent_items"][0][0] != item:
            raise RuntimeError("a list came back before the event that it was to have seen")
        observed.looked_up += 1

    async def _ask(
        self, observed: Observed, method: str, path: str, good: int, value: object
    ) -> Any:
        """The answer; None, and noted, if it is not the good one."""
        body = b"" if value is None else msgspec.json.encode(value)
        status, answer = await self._probing.request(method, path, "application/json", body)
        if status != good:
            observed.refuse(status)
            return None
        return msgspec.json.decode(answer)


def _prepare() -> list[bytes]:
    """Events but for id and time: this process shall take little of the server's cores."""
    encode = msgspec.json.Encoder().encode
    return [
        b'","type":"%b","timestamp":%%d,"user_id":"%b","item_id":"%b","session_id":"%b",'
        b'"properties":%b,"context":%b}'
        % (
            event.type.encode(),
            (event.user_id or "").encode(),
            (event.item_id or "").encode(),
            (event.session_id or "").encode(),
            encode(event.properties),
            encode(event.context),
        )
        for event in events(_PREPARED)
    ]


def _batches(prepared: list[bytes]) -> Iterator[bytes]:
    """Batches of events as lines, with the times of now."""
    place = 0
    while True:
        now = time.time_ns()
        stamp = now // 1_000_000
        lines = [
            b'{"event_id":"%x-%d' % (now, n) + end % stamp
            for n, end in enumerate(prepared[place : place + BATCH])
        ]
        place = (place + BATCH) % len(prepared)
        yield b"\n".join(lines)


def main(url: str, seconds: float) -> Observed:
    """Offer the load from this process."""
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):
        import uvloop

        loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(offer(url, seconds))


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(main(sys.argv[1], float(sys.argv[2]))))
