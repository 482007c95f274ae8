"""Streams of version numbers, and the threads that change the version under them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import pytest
from tests.platform.flags.conftest import Clock
from tests.platform.flags.flag_files import FLAGS

from tactful.flags.service import FlagService
from tactful.flags.store import FlagStore, FlagVersion
from tactful.flags.streams import VersionStreams
from tactful.schemas.experiments.flags import FlagsFile


@pytest.fixture
def service(store: FlagStore, clock: Clock) -> FlagService:
    return FlagService(store, clock=clock)


def test_a_stream_sends_each_version_and_comments_between(clock: Clock) -> None:
    numbers = iter([3, 3, 7])
    asked: list[int] = []

    async def newer(number: int) -> int:
        asked.append(number)
        return next(numbers)

    async def follow() -> None:
        streams = VersionStreams(newer, clock=clock)
        async with aclosing(streams.events()) as events:
            assert await anext(events) == b'event: version\ndata: {"version":3}\n\n'
            assert streams._open == 1
            assert (await anext(events)).startswith(b":")
            assert await anext(events) == b'event: version\ndata: {"version":7}\n\n'
            clock.pass_days(1)
            with pytest.raises(StopAsyncIteration):
                await anext(events)
        assert streams._open == 0

    asyncio.run(follow())
    assert asked == [-1, 3, 3]


def test_only_another_version_wakes_a_stream(service: FlagService) -> None:
    """A server looks for versions four times a second: a stream must not send as often."""

    async def follow() -> None:
        waiting = asyncio.ensure_future(service.newer(0))
        for _ in range(3):
            await asyncio.sleep(0)
            service.announce()
        assert not waiting.done()
        await asyncio.to_thread(service.apply, FlagsFile(definitions=FLAGS), by="ann")
        service.announce()
        assert await waiting == 1
        assert await service.newer(0) == 1

    asyncio.run(follow())


def test_a_slow_thread_does_not_serve_an_older_version(
    service: FlagService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that has read version 1 goes on after another has served version 2."""
    read, late = threading.Event(), threading.Event()
    plain = service.store.recent

    def recent(limit: int, *, after: int = 0) -> list[FlagVersion]:
        found = plain(limit, after=after)
        if threading.current_thread() is slow:
            read.set()
            late.wait(10)
        return found

    def apply() -> None:
        other = FlagService(service.store, clock=lambda: 5)
        other.apply(FlagsFile(definitions=FLAGS.replace("0.5", "0.6")), by="ann")

    slow = threading.Thread(target=service.refresh)
    FlagService(service.store, clock=lambda: 5).apply(FlagsFile(definitions=FLAGS), by="ann")
    monkeypatch.setattr(service.store, "recent", recent)
    slow.start()
    assert read.wait(10)
    apply()
    quick = threading.Thread(target=service.refresh)
    quick.start()
    late.set()
    slow.join(10)
    quick.join(10)
    assert service.served.number == 2
    assert [(it, known.ends is None) for it, known in service.versions.items()] == [
        (2, True),
        (1, False),
    ]
