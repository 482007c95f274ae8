"""The load generator of the freshness benchmark: what a server does wrong has to show."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from benchmarks.streaming.freshness import Run, as_figure, pooled
from benchmarks.streaming.load import BATCH, PROBES_PER_S, RATE, Observed, offer

pytestmark = pytest.mark.alone  # a load at a rate needs the machine


class Stub:
    """A server that answers as ours does, late or wrongly where `behave` says so."""

    def __init__(self, behave: Callable[[], tuple[float, int]] = lambda: (0.0, 202)) -> None:
        self._behave = behave
        self.newest: dict[str, str] = {}
        self.forgets = False

    async def observe(self, seconds: float) -> Observed:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            return await offer(f"http://{host}:{port}", seconds, warm_up_s=0.2)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
            body = await reader.readexactly(length)
            pause, status = self._behave()
            await asyncio.sleep(pause)
            answer = msgspec.json.encode(self._answer(head.split(" ")[1], body))
            writer.write(
                b"HTTP/1.1 %d .\r\ncontent-length: %d\r\n\r\n%b"
                % (200 if status == 202 and "events" not in head else status, len(answer), answer)
            )
        writer.close()

    def _answer(self, path: str, body: bytes) -> object:
        if path == "/v1/events":
            events = [msgspec.json.decode(line) for line in body.split(b"\n")]
            if not self.forgets:
                self.newest.update({event["user_id"]: event["item_id"] for event in events})
            return {"accepted": len(events), "position": 1}
        if path == "/v1/recommend":
            return {"took_ms": 1.0}
        user = path.split("/")[3]
        return {"features": {"recent_items": [[self.newest.get(user), 0]]}}


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode()
    except (asyncio.IncompleteReadError, ConnectionError):
        return ""


def test_the_load_is_offered_and_every_part_of_it_observed() -> None:
    observed = asyncio.run(Stub().observe(1.0))
    # Whether what is due at the very ends counts is a matter of rounding.
    assert observed.offered == observed.accepted == pytest.approx(RATE, abs=BATCH)
    assert len(observed.post_ms) == observed.offered / BATCH
    probes = len(observed.fresh_ms)
    assert len(observed.fresh_ack_ms) == probes == pytest.approx(PROBES_PER_S, abs=1)
    assert observed.looked_up == pytest.approx(probes / 10, abs=1)
    assert all(x >= y for x, y in zip(observed.fresh_ms, observed.fresh_ack_ms, strict=True))
    assert not observed.refused
    figure = as_figure("freshness", observed)
    assert figure.value is not None
    assert figure.runs == probes


def test_a_server_that_stalls_delays_all_that_is_due_meanwhile() -> None:
    began: list[float] = []

    def behave() -> tuple[float, int]:
        """For the second after the first half second nothing is answered."""
        now = time.monotonic()
        began.append(now)
        at = now - began[0]
        return max(1.5 - at, 0.0) if at > 0.5 else 0.0, 202

    observed = asyncio.run(Stub(behave).observe(1.8))
    # One request after the other would have met the stall once.
    assert sum(took > 500 for took in observed.fresh_ms) > 5
    assert sum(took > 500 for took in observed.post_ms) > 10


def test_a_load_that_is_refused_gives_no_figure() -> None:
    answers = iter(range(10**9))

    def behave() -> tuple[float, int]:
        return 0.0, 503 if next(answers) % 20 == 19 else 202

    observed = asyncio.run(Stub(behave).observe(0.5))
    assert observed.refused["503"] > 0
    figure = as_figure("freshness", observed)
    assert figure.value is None
    assert "503" in figure.note


def test_a_list_that_has_not_seen_the_event_is_an_error() -> None:
    stub = Stub()
    stub.forgets = True
    with pytest.raises(RuntimeError, match="before the event"):
        asyncio.run(stub.observe(0.2))


def test_runs_are_pooled_and_what_gets_slower_shows() -> None:

    def observed(newest_ms: float, refused: dict[str, int]) -> Observed:
        fresh = {"fresh_ms": [10.0, 20.0, 30.0, newest_ms], "fresh_at_s": [0.5, 1.5, 2.5, 3.5]}
        load = {"seconds": 4.0, "offered": 4 * RATE, "accepted": 4 * RATE, "refused": refused}
        more: dict[str, Any] = {**fresh, **load}
        return Observed(fresh_ack_ms=[1.0] * 4, late_ms=[0.0], **more)

    slow = Run(observed(100.0, {"503": 2}), {"worker": 0.4})
    run = pooled([Run(observed(40.0, {}), {"worker": 0.2}), slow])
    assert run.cores == {"worker": pytest.approx(0.3)}
    assert run.observed.seconds == 8.0
    assert run.observed.refused == {"503": 2}
    assert as_figure("freshness", run.observed).value is None, "what one refused counts"
    run.observed.refused.clear()
    figure = as_figure("freshness", run.observed, run.cores)
    assert (figure.value, figure.low, figure.runs) == (100.0, 30.0, 8)
    assert "10.0/10.0 ms, 20.0/20.0 ms, 30.0/30.0 ms, 100.0/100.0 ms" in figure.note
