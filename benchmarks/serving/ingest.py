"""Events over HTTP, by what an acknowledgement promises: after power loss, after a kill, nothing.

Three servers of the product run side by side and are offered the same load in turn. They differ in
the log alone. ``power`` answers when the events are on the disk, ``process`` when the kernel has
them, and ``memory`` when they stand in a list of Python: that is the price of the door itself, with
everything that the engine does behind it. An event is acknowledged in the first figures; it is
sustained when the engine has applied it, too, which is what bounds a server for longer than a
moment.

``python -m benchmarks.serving.ingest DATA KIND`` is one of the servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from unittest import mock

import msgspec

from benchmarks.figures import Figure
from benchmarks.serving.request import cpu_s
from tactful.config.server import ServerSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.http.routes import make_application
from tactful.http.uvicorn_server import listen, make_server, run
from tactful.recommend.build import build
from tactful.server.platform import Platform
from tactful_streaming.errors import OffsetError

Kind = Literal["memory", "process", "power"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_PEOPLE = 20_000
_ITEMS = 5_000
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Load:
    """How events are sent.

    Attributes:
        name: of the load, in the names of its figures.
        batch: events in a request.
        senders: callers that each wait for their answer before they send again.
        requests: how many are sent in a round.
    """

    name: str
    batch: int
    senders: int
    requests: int


@dataclass(frozen=True)
class _Server:
    """Where a server answers, and which process it is."""

    port: int
    pid: int


@dataclass(frozen=True)
class Sent:
    """One round at one server.

    Attributes:
        events: how many were acknowledged.
        acknowledged_s: from the first request to the last answer.
        applied_s: until the engine had applied all of them.
        waits_s: from request to answer, of each request.
        cpu_s: processor seconds of the server until then.
    """

    events: int
    acknowledged_s: float
    applied_s: float
    waits_s: list[float]
    cpu_s: float


class MemoryLog:
    """An event log that keeps its records in memory, and therefore nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        """Begin empty, whatever the settings of a log on disk are."""
        self._records: list[bytes] = []
        self._lock = threading.Lock()

    @property
    def begin(self) -> int:
        """Offset of the oldest record."""
        return 0

    @property
    def end(self) -> int:
        """Offset the next record will get."""
        return len(self._records)

    def append(self, payloads: Sequence[bytes]) -> int:
        """Append; returns the offset after the last payload."""
        with self._lock:
            self._records += payloads
            return len(self._records)

    def probe(self) -> None:
        """An append is never refused."""

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` records from `offset` on; empty at the end of the log."""
        if not 0 <= offset <= self.end:
            raise OffsetError(f"offset {offset} is outside the log [0, {self.end}]")
        return [*enumerate(self._records[offset : offset + limit], offset)]

    def offset_at(self, timestamp: int) -> int:
        """The end: when a record came is not kept."""
        return self.end

    def trim(self, retain_from: int) -> int:
        """Drop nothing."""
        return self.begin

    def close(self) -> None:
        """Nothing is held."""


def ingest_figures(quick: bool) -> list[Figure]:
    """Single events of many senders, then batches of a few, at all three servers in turn."""
    rounds = 3 if quick else 9
    loads = [
        Load("single", batch=1, senders=64, requests=2_000 if quick else 6_000),
        Load("batch", batch=100, senders=8, requests=150 if quick else 300),
    ]
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name, _servers(Path(name)) as all_:
        numbers = itertools.count()
        for load in loads:
            taken: dict[Kind, list[Sent]] = {kind: [] for kind in KINDS}
            for number in range(-1, rounds):  # the first one warms up
                shift = number % len(KINDS)
                for kind in KINDS[shift:] + KINDS[:shift]:
                    sent = _send(all_[kind], load, numbers)
                    if number >= 0:
                        taken[kind].append(sent)
            figures += _figures(load, taken)
    return figures


def _figures(load: Load, taken: Mapping[Kind, Sequence[Sent]]) -> list[Figure]:
    senders = f"{load.senders} senders, {load.batch} an answer, {load.requests:,} requests a round"
    shape = f"{senders}; server and senders share {os.cpu_count()} cores"
    single = load.name == "single"
    figures: list[Figure] = []
    for kind in KINDS[1:]:
        # Round by round: what slowed the machine down in one slowed both.
        pairs = [
            safe.events / safe.acknowledged_s / (loose.events / loose.acknowledged_s)
            for safe, loose in zip(taken[kind], taken["memory"], strict=True)
        ]
        name = "durable_vs_memory_ingest" + ("" if single else "_batch")
        if kind == "process":
            name = name.replace("durable", "process")
        note = f"acknowledged events/s, log that outlives {_OUTLIVES[kind]} by one in memory"
        figures.append(_spread(name, pairs, "1", f"{note}; {shape}"))
    for kind in KINDS:
        sents = taken[kind]
        rates = [sent.events / sent.acknowledged_s for sent in sents]
        waits = sorted(wait * 1e3 for sent in sents for wait in sent.waits_s)
        cpu = statistics.median(sent.cpu_s / sent.events * 1e6 for sent in sents)
        note = (
            f"outlives {_OUTLIVES[kind]}; answers p50 {waits[len(waits) // 2]:.1f} ms, "
            f"p99 {waits[int(len(waits) * 0.99)]:.1f} ms; {cpu:.0f} us of the server's processor "
            f"an event, engine included; {shape}"
        )
        figures.append(_spread(f"acknowledged_{load.name}_per_s_{kind}", rates, "events/s", note))
    rates = [sent.events / sent.applied_s for sent in taken["power"]]
    note = f"from the first request until all are on disk and in the features; {shape}"
    name = "ingest_single_events_per_s" if single else "ingest_events_per_s"
    return [*figures, _spread(name, rates, "events/s", note)]


_OUTLIVES: Mapping[Kind, str] = {
    "power": "a loss of power",
    "process": "a kill of the process",
    "memory": "nothing",
}


def _spread(name: str, values: Sequence[float], unit: str, note: str) -> Figure:
    return Figure(
        name, statistics.median(values), unit, min(values), max(values), len(values), note
    )


def _send(server: _Server, load: Load, numbers: Iterator[int]) -> Sent:
    """One round: as many requests as the load says, then wait until they are applied."""
    bodies = [_body(load.batch, numbers) for _ in range(load.requests)]
    before, began = cpu_s(server.pid), time.perf_counter()
    waits, position = asyncio.run(_posted(server.port, load.senders, bodies))
    acknowledged = time.perf_counter() - began
    _reach(server.port, position)
    return Sent(
        events=load.batch * load.requests,
        acknowledged_s=acknowledged,
        applied_s=time.perf_counter() - began,
        waits_s=waits,
        cpu_s=cpu_s(server.pid) - before,
    )


def _body(count: int, numbers: Iterator[int]) -> bytes:
    now = time.time_ns() // 1_000_000
    events: list[dict[str, Any]] = []
    for number in itertools.islice(numbers, count):
        chance = random.Random(number)
        events.append(
            {
                "event_id": f"e-{number}",
                "type": chance.choice(["view", "view", "view", "add_to_cart", "purchase"]),
                "timestamp": now,
                "user_id": f"u-{chance.randrange(_PEOPLE)}",
                "session_id": f"s-{chance.randrange(_PEOPLE)}",
                "item_id": f"i-{chance.randrange(_ITEMS)}",
                "properties": {"price": 9.5, "category": f"c-{chance.randrange(40)}"},
            }
        )
    return msgspec.json.encode(events if count > 1 else events[0])


async def _posted(port: int, senders: int, bodies: Sequence[bytes]) -> tuple[list[float], int]:
    """Post all bodies; the seconds each answer took, and the farthest position told.

    Raises:
        RuntimeError: if an answer is not that all of its events are new and safe.
    """
    waits: list[float] = []
    positions: list[int] = []
    left = iter(bodies)

    async def call() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in left:
            began = time.perf_counter()
            writer.write(
                b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            answer = await reader.readexactly(length)
            if head[9:12] != b"202":
                raise RuntimeError(f"events were answered with {head[9:12].decode()}: {answer!r}")
            told = json.loads(answer)
            if told["rejected"] or told["duplicates"]:
                raise RuntimeError(f"not all events were taken: {answer!r}")
            positions.append(told["position"])
            waits.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(call() for _ in range(senders)))
    return waits, max(positions)


def _reach(port: int, position: int) -> None:
    """Wait until the engine has applied the log up to a position."""
    until = time.monotonic() + _PATIENCE_S
    wire = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    with contextlib.closing(wire):
        while time.monotonic() < until:
            wire.request("GET", "/v1/users/u-0/features")
            if json.loads(wire.getresponse().read())["position"] >= position:
                return
            time.sleep(0.005)
    raise RuntimeError("the engine has not caught up with what was sent")


@contextlib.contextmanager
def _servers(folder: Path) -> Iterator[dict[Kind, _Server]]:
    with contextlib.ExitStack() as stack:
        yield {kind: stack.enter_context(_server(folder / kind, kind)) for kind in KINDS}


@contextlib.contextmanager
def _server(data: Path, kind: Kind) -> Iterator[_Server]:
    data.mkdir(mode=0o700)
    with (data / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.ingest", str(data), kind],
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            reason = (data / "server.log").read_text(errors="replace").strip()
            raise RuntimeError(f"the server did not start: {reason[-600:]}")
        server = _Server(int(line), process.pid)
        _reach(server.port, 0)
        yield server
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()


def main(data: Path, kind: Kind) -> None:
    """Serve until a signal says stop; the port is printed once it listens."""
    settings = Settings(
        server=ServerSettings(port=0, dev=True),
        storage=StorageSettings(
            data=data,
            reports=data / "reports",
            durability="process" if kind == "memory" else kind,
        ),
    )
    with contextlib.ExitStack() as stack:
        if kind == "memory":
            # Where the product opens its log; all else is what users run.
            stack.enter_context(mock.patch("tactful.pipeline.backends.EmbeddedLog", MemoryLog))
        listener = stack.enter_context(listen(settings.server.host, 0))
        port = listener.getsockname()[1]
        server = make_server(make_application(Platform.open(settings, build)), settings.server)
        run(server, listener, started=lambda: print(port, flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])  # type: ignore[arg-type]
