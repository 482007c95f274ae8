"""Sending a file: several batches at once, in the order of the file, resumed after an end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.client import AsyncClient
from tactful.client.ingest_file import Outcome, ingest_file
from tactful.errors import ClientError
from tactful.pipeline.batch_order import BatchOrder, place_of
from tactful.schemas.problems import ProblemError

Answer = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]


class Log:
    """A server that keeps the events of a request in order, each id once."""

    def __init__(self, faults: list[str] | None = None) -> None:
        self.ids: list[str] = []
        self.at_once = self.most_at_once = 0
        self._faults = iter(faults or [])
        self._order = BatchOrder(wait_s=0.05)

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._answer(request, next(self._faults, "none"))
        finally:
            self.at_once -= 1

    async def _answer(self, request: httpx.Request, fault: str) -> httpx.Response:
        if fault == "late":
            await asyncio.sleep(0.002)
        if fault == "refused":
            return httpx.Response(429)
        if fault == "restart":
            self._order = BatchOrder(wait_s=0.05)
            raise httpx.ConnectError("gone")
        place = place_of({name.lower(): value for name, value in request.headers.raw})
        try:
            await self._order.reach(place.after)
        except ProblemError as error:
            return httpx.Response(error.kind.status)
        events = [json.loads(line) for line in request.content.splitlines()]
        known = {*self.ids}
        new = [event["event_id"] for event in events if event["event_id"] not in known]
        self.ids += new
        self._order.note(place.batch)
        await asyncio.sleep(0)
        if fault == "lost":
            raise httpx.ReadTimeout("lost")
        duplicates = len(events) - len(new)
        fields = {"accepted": len(new), "duplicates": duplicates, "rejected": [], "position": 1}
        return httpx.Response(202, json=fields)


async def nothing(seconds: float) -> None:
    await asyncio.sleep(0)


def send(path: Path, answer: Answer, **options: Any) -> Outcome:
    async def main() -> Outcome:
        transport = httpx.MockTransport(answer)
        retries = options.pop("retries", 20)
        async with AsyncClient(
            "http://server", transport=transport, sleep=nothing, retries=retries
        ) as client:
            given: dict[str, Any] = {"batch": 2, "in_flight": 4, "restart": False}
            given |= {"advanced": lambda size: None, **options}
            return await ingest_file(client, path, "events", **given)

    return asyncio.run(main())


def write(path: Path, ids: list[str]) -> Path:
    path.write_text("".join(json.dumps({"event_id": name}) + "\n" for name in ids))
    return path


def test_several_batches_are_sent_at_once(tmp_path: Path) -> None:
    """Up to `in_flight` requests wait for their answers together."""
    names = [str(number) for number in range(40)]
    file = write(tmp_path / "events", names)
    for in_flight in (1, 4):
        log = Log(["late"] * 20)
        outcome = send(file, log.answer, in_flight=in_flight, restart=True)
        assert (outcome.accepted, log.most_at_once, log.ids) == (40, in_flight, names)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["none", "late", "refused", "restart", "lost"]), max_size=16))
def test_any_fault_keeps_the_order_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, faults: list[str]
) -> None:
    """Whatever is refused, late or lost, each event is appended once, in the order of the file."""
    names = [str(number) for number in range(20)]
    log = Log(faults)
    outcome = send(write(tmp_path_factory.mktemp("sent") / "events", names), log.answer)
    assert log.ids == names
    assert outcome.accepted + outcome.duplicates == 20


def test_a_refused_batch_stops_those_behind_it(tmp_path: Path) -> None:
    """The progress ends before a refused batch, and the next run begins there."""
    names = [str(number) for number in range(20)]
    file, log = write(tmp_path / "events", names), Log()

    async def refusing(request: httpx.Request) -> httpx.Response:
        if b'"6"' in request.content:
            return httpx.Response(500)
        return await log.answer(request)

    with pytest.raises(ClientError):
        send(file, refusing)
    assert log.ids == names[:6]
    rest = send(file, log.answer)
    assert (rest.resumed_at, rest.accepted, log.ids) == (7, 14, names)


def test_lines_without_an_id_count_once_in_a_second_run(tmp_path: Path) -> None:
    """Equal lines differ by their place, and a second run gives each the same id."""
    file, log = tmp_path / "events", Log()
    file.write_text('{"type":"view"}\n\n' * 5)
    first = send(file, log.answer)
    again = send(file, log.answer, restart=True)
    assert (first.accepted, again.accepted, again.duplicates) == (5, 0, 5)
