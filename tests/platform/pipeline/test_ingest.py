"""Ingestion: every event once, durable before the response, under concurrency."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.platform.support import blocked, build, logged_ids, now_ms, view

from tactful.config.settings import Settings
from tactful.schemas.ingestion import EventsAccepted
from tactful.schemas.positions import Offsets, covers
from tactful.schemas.problems import ProblemError
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event, decode_entry, encode_entry
from tactful_streaming.errors import LogWriteError

Scenario = Callable[[Platform], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Platform]:
    platform = Platform.open(settings, build)
    await platform.start()
    try:
        yield platform
    finally:
        await platform.stop()


def run(settings: Settings, scenario: Scenario) -> None:
    async def main() -> None:
        async with running(settings) as platform:
            await scenario(platform)

    asyncio.run(main())


def body(*events: Any) -> bytes:
    return json.dumps(events).encode()


def impression(number: int) -> bytes:
    return encode_entry(Event(event_id=f"s-{number}", type="impression", timestamp=1, user_id="u"))


def test_a_repeated_id_counts_once(settings: Settings) -> None:
    async def scenario(platform: Platform) -> None:
        first = await platform.ingest.events(body(view(1), view(2), view(1)))
        assert first == EventsAccepted(accepted=2, duplicates=1, rejected=[], position=2)
        assert logged_ids(settings.storage.data) == ["u-1", "u-2"], (
            "it is in the log when it is answered"
        )
        second = await platform.ingest.events(body(view(2), view(3)))
        assert await platform.recommendations.applied(second.position, 60)
        third = await platform.ingest.events(body(view(1), view(2), view(3)))

        assert (second.accepted, second.duplicates) == (1, 1)
        assert (third.accepted, third.duplicates) == (0, 3)
        assert covers(third.position, second.position)

    async def again(platform: Platform) -> None:
        answer = await platform.ingest.events(body(view(1), view(2)))
        assert (answer.accepted, answer.duplicates) == (0, 2)

    run(settings, scenario)
    run(settings, again)
    assert logged_ids(settings.storage.data) == ["u-1", "u-2", "u-3"]


def test_ids_of_a_request_are_looked_up_together(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request of 100 events asks the engine once; asking for each took 18 us an event."""

    async def scenario(platform: Platform) -> None:
        asked: list[int] = []
        seen = platform.engine.seen_many

        def counted(keys: Sequence[str], *args: Any, **options: Any) -> set[str]:
            asked.append(len(keys))
            return seen(keys, *args, **options)

        monkeypatch.setattr(platform.engine, "seen_many", counted)
        await platform.ingest.events(body(*map(view, range(100))))
        assert asked == [100]

    run(settings, scenario)


def test_receipt(settings: Settings) -> None:
    """The server logs the time of receipt with each event, and believes no sender's."""

    async def scenario(platform: Platform) -> None:
        begin = now_ms()
        sent = [{**view(1), "received_at": 1}, view(2, context={"received_at": 1}), view(3)]
        answer = await platform.ingest.events(body(*sent))
        assert [(it.index, it.code) for it in answer.rejected] == [(0, "unknown_field")]
        await platform.ingest.append_internal(impression(1))
        log = platform.backend.partitions()[0]
        events = [decode_entry(payload) for _, payload in log.read(0, 10)]
        assert len(events) == 3
        for event in events:
            assert isinstance(event, Event)
            assert begin <= (event.received_at or 0) <= now_ms()

    run(settings, scenario)


def test_concurrent_posts_of_one_id_write_it_once_and_all_wait(settings: Settings) -> None:
    async def scenario(platform: Platform) -> None:
        begin = now_ms()
        with blocked(platform.backend.partitions()[0], "append") as gate:
            bodies = [body(view(1), view(number + 10)) for number in range(20)]
            posts = [asyncio.create_task(platform.ingest.events(sent)) for sent in bodies]
            await asyncio.to_thread(gate.reached.wait, 60)
            assert not any(post.done() for post in posts), "nothing is durable yet"
            assert begin <= (platform.ingest.unwritten_since or 0) <= now_ms()
            gate.set()
            answers = await asyncio.gather(*posts)
            assert platform.ingest.unwritten_since is None

        assert sum(answer.accepted for answer in answers) == 21
        assert sum(answer.duplicates for answer in answers) == 19
        for answer in answers:
            assert await platform.recommendations.applied(answer.position, 60)

    run(settings, scenario)
    expected = ["u-1", *(f"u-{n + 10}" for n in range(20))]
    assert sorted(logged_ids(settings.storage.data)) == sorted(expected)


def test_a_failed_write_is_refused_and_can_be_repeated(settings: Settings) -> None:
    async def scenario(platform: Platform) -> None:
        append = platform.backend.partitions()[0].append

        def refuse(payloads: Any) -> int:
            raise LogWriteError(28, "no space")

        platform.backend.partitions()[0].append = refuse  # type: ignore[method-assign]
        for _ in range(2):
            posts = [platform.ingest.events(body(view(1))) for _ in range(3)]
            for answer in await asyncio.gather(*posts, return_exceptions=True):
                assert isinstance(answer, ProblemError)
                assert answer.problem(None).code == "not_ready"
                assert answer.retry_after
        platform.backend.partitions()[0].append = append  # type: ignore[method-assign]

        answer = await platform.ingest.events(body(view(1)))
        assert (answer.accepted, answer.duplicates) == (1, 0)

    run(settings, scenario)
    assert logged_ids(settings.storage.data) == ["u-1"]


def test_a_caller_that_goes_away_does_not_undo_its_write(settings: Settings) -> None:
    async def scenario(platform: Platform) -> None:
        with blocked(platform.backend.partitions()[0], "append") as gate:
            post = asyncio.create_task(platform.ingest.events(body(view(1))))
            await asyncio.to_thread(gate.reached.wait, 60)
            post.cancel()
            again = asyncio.create_task(platform.ingest.events(body(view(1))))
            await asyncio.wait([post])
            await asyncio.sleep(0)
            assert post.cancelled()
            assert not again.done()
            gate.set()
            answer = await again

        assert (answer.accepted, answer.duplicates) == (0, 1)

    run(settings, scenario)
    assert logged_ids(settings.storage.data) == ["u-1"]


def test_too_much_waiting_for_the_disk_is_refused_with_a_time(settings: Settings) -> None:
    small = replace(settings, limits=replace(settings.limits, body_bytes=2048, pending_bytes=2048))

    async def scenario(platform: Platform) -> None:
        with blocked(platform.backend.partitions()[0], "append") as gate:
            posts = [
                asyncio.create_task(
                    platform.ingest.events(body(*(view(n * 10 + k) for k in range(5))))
                )
                for n in range(10)
            ]
            await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
            gate.set()
            answers = await asyncio.gather(*posts, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, ProblemError)]
        assert 0 < len(refused) < 10
        for answer in answers:
            if isinstance(answer, ProblemError):
                assert answer.problem(None).status == 429
                assert answer.retry_after is not None
                assert answer.retry_after >= 1
        accepted = sum(it.accepted for it in answers if isinstance(it, EventsAccepted))
        assert accepted == 5 * (10 - len(refused))

        for n in range(10):
            await platform.ingest.events(body(*(view(n * 10 + k) for k in range(5))))

    run(small, scenario)
    assert sorted(logged_ids(small.storage.data)) == sorted(
        f"u-{n * 10 + k}" for n in range(10) for k in range(5)
    )


def test_an_engine_far_behind_stops_ingestion(settings: Settings) -> None:
    tight = replace(settings, limits=replace(settings.limits, engine_lag=10))

    async def scenario(platform: Platform) -> None:
        with blocked(platform.engine, "apply") as gate:
            last = await platform.ingest.events(body(*(view(n) for n in range(12))))
            with pytest.raises(ProblemError) as caught:
                await platform.ingest.events(body(view(99)))
            assert caught.value.problem(None).status == 429
            gate.set()
            assert await platform.recommendations.applied(last.position, 60)
        assert (await platform.ingest.events(body(view(99)))).accepted == 1

    run(tight, scenario)


def test_items_and_users_go_through_the_log(settings: Settings) -> None:
    async def scenario(platform: Platform) -> None:
        items = await platform.ingest.items(
            body({"item_id": "a", "price": 1}, {"item_id": ""}, {"item_id": "b", "title": "B"})
        )
        users = await platform.ingest.users(b'{"user_id": "u", "properties": {"age": "35-44"}}')
        assert await platform.recommendations.applied(users.position, 60)

        assert (items.accepted, [it.index for it in items.rejected]) == (2, [1])
        assert users.accepted == 1
        with platform.lock:
            assert set(platform.engine.items) == {"a", "b"}
            assert platform.engine.users["u"].properties == {"age": "35-44"}

    run(settings, scenario)
    run(settings, _nothing_lost)


async def _nothing_lost(platform: Platform) -> None:
    assert set(platform.engine.items) == {"a", "b"}
    assert set(platform.engine.users) == {"u"}


def test_pending_ids_are_dropped_once_applied(settings: Settings) -> None:
    async def scenario(platform: Platform) -> None:
        for number in range(30):
            answer = await platform.ingest.events(body(view(number)))
        assert await platform.recommendations.applied(answer.position, 60)
        await platform.ingest.events(body({"type": "view"}))

        assert platform.ingest._pending == {}

    run(settings, scenario)


def test_lists_that_were_shown_are_applied_together(settings: Settings) -> None:
    async def scenario(platform: Platform) -> None:
        woken: list[Offsets] = []
        notice = platform.ingest._applier.notice

        def noticed(written: Offsets) -> None:
            woken.append(written)
            notice(written)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(platform.ingest._applier, "notice", noticed)
            await asyncio.gather(
                *(platform.ingest.append_internal(impression(number)) for number in range(50))
            )
            assert await platform.recommendations.applied(50, 60), "although no event comes"
            assert 1 <= len(woken) < 50
            last = await platform.ingest.events(body(view(1)))
            assert await platform.recommendations.applied(last.position, 60)
            assert woken[-1], "an event is told at once"

    run(settings, scenario)


def test_a_recommendation_precedes_its_clicks_in_the_log(settings: Settings) -> None:
    async def scenario(platform: Platform) -> None:
        appended: list[int] = []
        append = platform.backend.commit.append_keyed

        async def counted(payloads: Sequence[bytes], keys: Sequence[str | None]) -> Offsets:
            appended.append(len(payloads))
            return await append(payloads, keys)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(platform.backend.commit, "append_keyed", counted)
            noted = [platform.ingest.append_internal(impression(number)) for number in range(3)]
            await platform.ingest.events(body(view(1)))
            await asyncio.gather(*noted)
        assert appended == [3, 1], "lists share an append, which waits for no timer"

    run(settings, scenario)
    assert logged_ids(settings.storage.data) == ["s-0", "s-1", "s-2", "u-1"]


def test_lists_that_find_no_room_are_counted_and_events_go_on(settings: Settings) -> None:
    async def scenario(platform: Platform) -> None:
        append = platform.backend.commit.append_keyed

        async def refuse(payloads: Sequence[bytes], keys: Sequence[str | None]) -> Offsets:
            if b"impression" in payloads[0]:
                raise LogWriteError("no room")
            return await append(payloads, keys)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(platform.backend.commit, "append_keyed", refuse)
            noted = [platform.ingest.append_internal(impression(1)) for _ in range(3)]
            answer = await platform.ingest.events(body(view(1)))
            assert answer.accepted == 1
            with pytest.raises(LogWriteError):
                await noted[-1]
        assert platform.metrics.impressions_lost._value.get() == 3

    run(settings, scenario)
    assert logged_ids(settings.storage.data) == ["u-1"]


def test_lists_that_still_wait_are_in_the_log_when_it_ends(settings: Settings) -> None:
    async def interrupted(platform: Platform, note: bytes) -> None:
        await asyncio.gather(platform.ingest.append_internal(note))

    async def scenario(platform: Platform) -> None:
        platform.recent.note("r-0", impression(0))
        # It shares the write, and is cancelled as the tasks of a server are when it ends.
        task = asyncio.create_task(interrupted(platform, impression(1)))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    run(settings, scenario)
    assert logged_ids(settings.storage.data) == ["s-0", "s-1"]
