"""How long after an event is posted a recommendation knows of it, while the server is busy.

A poster keeps 5,000 events a second coming over HTTP. Beside it a prober posts one event, asks for
recommendations ``after`` that event's position, and notes the time from the post to the answer: the
answer is held back until the engine has applied the event.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from benchmarks._streaming_events import events
from benchmarks._streaming_server import Server
from benchmarks.figures import Figure
from tactful.client import Client
from tactful.errors import Busy

RATE = 5000
_BATCH = 100
_PROBE_PAUSE_S = 0.02
_WARM_UP_S = 5.0
_PATIENCE_S = 90.0


def freshness(name: str, data: Path, settings: Mapping[str, str], seconds: float) -> Figure:
    """Measure one server for so many seconds.

    Args:
        name: name of the figure.
        data: folder for the server's data.
        settings: environment variables of the server.
        seconds: how long to probe.
    """
    server = Server(data, settings)
    stop = threading.Event()
    posted: list[float] = []
    poster = threading.Thread(target=_post, args=(server.url, stop, posted), daemon=True)
    try:
        _await_first(server.url)
        poster.start()
        time.sleep(_WARM_UP_S)
        began, before = time.monotonic(), len(posted)
        samples = sorted(_probe(server.url, seconds))
        rate = (len(posted) - before) * _BATCH / (time.monotonic() - began)
    finally:
        stop.set()
        if poster.ident is not None:
            poster.join(30)
        server.stop()
    note = (
        f"event posted to /v1/recommend answered with it, over HTTP on loopback; {rate:,.0f} of "
        f"{RATE:,} events/s arrived beside it; low is p50; driver and server share "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    if rate < 0.95 * RATE:
        note = f"the server was offered fewer events than meant: {note}"
    middle = samples[len(samples) // 2]
    worst = samples[int(len(samples) * 0.99)]
    return Figure(name, round(worst, 2), "ms", low=round(middle, 2), runs=len(samples), note=note)


def _await_first(url: str) -> None:
    """Return when the first event has arrived where it is read: workers take a while to join."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            _probe(url, 0.0)
            return
        except Busy:
            if time.monotonic() > until:
                raise


def _post(url: str, stop: threading.Event, posted: list[float]) -> None:
    """Post batches on a fixed schedule; note when each was accepted."""
    stamped = _stream()
    began, number = time.monotonic(), 0
    with Client(url, timeout=30.0) as client:
        while not stop.is_set():
            due = began + number * _BATCH / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            client.send_lines("events", next(stamped))
            posted.append(time.monotonic())
            number += 1


def _stream() -> Iterator[bytes]:
    """Batches of events as lines, with the times of now."""
    prepared = [
        (event.user_id, event.type, event.item_id, event.session_id, event.properties)
        for event in events(50_000)
    ]
    place = 0
    encode = msgspec.json.Encoder().encode
    while True:
        now = int(time.time() * 1000)
        lines: list[bytes] = []
        for user, type_, item, session, properties in prepared[place : place + _BATCH]:
            event = {
                "event_id": f"{now}-{place}-{len(lines)}",
                "type": type_,
                "timestamp": now,
                "user_id": user,
                "item_id": item,
                "session_id": session,
                "properties": properties,
            }
            lines.append(encode(event))
        place = (place + _BATCH) % len(prepared)
        yield b"\n".join(lines)


def _probe(url: str, seconds: float) -> list[float]:
    """Milliseconds from posting an event to a list that has seen it, one after the other."""
    samples: list[float] = []
    end = time.monotonic() + seconds
    with Client(url, timeout=30.0) as client:
        while not samples or time.monotonic() < end:
            user = f"probe{len(samples) % 100}"
            event = {
                "event_id": f"probe-{time.time_ns()}",
                "type": "view",
                "timestamp": int(time.time() * 1000),
                "user_id": user,
                "item_id": f"i{len(samples) % 1000:06}",
            }
            started = time.perf_counter()
            position = client.events([event]).position
            client.recommend(user_id=user, count=20, after=position)
            samples.append((time.perf_counter() - started) * 1e3)
            time.sleep(_PROBE_PAUSE_S)
    return samples
