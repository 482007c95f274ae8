"""Stream of the newest events: what it says, who sees it, and how it ends."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.support import Live, build, small_settings, view, wait_until

from tactful.client import Client
from tactful.errors import ConnectionFailed
from tactful.pipeline.live_feed import MOST_LISTENERS, LiveFeed
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event

STREAM = "/v1/events/stream"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        yield live


def messages(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_it_says_what_comes_without_ids(live: Live) -> None:
    with live.http.stream("GET", STREAM) as response:
        assert response.headers["content-type"] == "text/event-stream"
        wait_until(lambda: live.platform.ingest.feed.is_heard)
        wrong = {**view(3), "type": "nonsense"}
        with httpx.Client(base_url=live.url) as other:
            other.post("/v1/events", json=[view(1, "ada"), view(2, "bob"), wrong, view(1, "ada")])
        message = next(messages(response))
    assert message["accepted"] == {"view": 2}
    assert message["refused"] == {"unknown_type": 1}
    assert [it["item_id"] for it in message["newest"]] == ["i-1", "i-2"]
    users = [it["user_id"] for it in message["newest"]]
    assert len({*users}) == 2 and not {*users} & {"ada", "bob"}
    assert [it.action for it in live.platform.accesses.accesses("*")] == ["stream"]
    wait_until(lambda: not live.platform.ingest.feed.is_heard)


def test_it_ends_after_its_time_and_is_whole_http(live: Live) -> None:
    began = time.monotonic()
    told = live.http.get(STREAM, params={"seconds": 1})
    assert told.status_code == 200
    assert told.text.startswith(": stream of the newest events")
    assert 0.9 < time.monotonic() - began < 20
    assert live.http.get("/healthz").status_code == 200, "the connection goes on"
    assert live.http.head(STREAM).status_code == 200


def test_it_ends_when_the_server_stops(tmp_path: Path) -> None:
    live = Live(Platform.open(small_settings(tmp_path), build))
    ended = threading.Event()

    def follow() -> None:
        url = f"{live.url}{STREAM}"
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.stream("GET", url, timeout=60) as response,
        ):
            for _ in response.iter_raw():
                pass
        ended.set()

    with live:
        threading.Thread(target=follow, daemon=True).start()
        wait_until(lambda: live.platform.ingest.feed.is_heard)
        began = time.monotonic()
    assert time.monotonic() - began < 20
    assert ended.wait(20)


def test_streams_that_are_opened_together_are_few_too(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tactful.pipeline.live_feed.MOST_LISTENERS", 1)
    record, together = live.platform.accesses.record, threading.Barrier(3)

    def note(*words: Any, **more: Any) -> None:
        record(*words, **more)
        together.wait(30)

    monkeypatch.setattr(live.platform.accesses, "record", note)

    def follow(_: int) -> str:
        return httpx.get(f"{live.url}{STREAM}", params={"seconds": 1}, timeout=60).text

    with ThreadPoolExecutor(3) as pool:
        refused = ["too many" in text for text in pool.map(follow, range(3))]
    assert sorted(refused) == [False, True, True]


def test_there_are_few_at_a_time(live: Live) -> None:
    with live.http.stream("GET", STREAM):
        wait_until(lambda: live.platform.ingest.feed.is_heard)
        feed = live.platform.ingest.feed
        feed._listeners += feed._listeners * (MOST_LISTENERS - 1)
        told = httpx.get(f"{live.url}{STREAM}")
        assert (told.status_code, told.json()["code"]) == (503, "overloaded")
        del feed._listeners[1:]


def test_only_administrators_see_it(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    settings = replace(settings, server=replace(settings.server, dev=False))
    with Live(Platform.open(settings, build)) as live:
        key = live.create_key("analyst", "ingest")
        assert live.http.get(STREAM).status_code == 401
        told = live.http.get(STREAM, headers={"x-api-key": key})
        assert (told.status_code, told.json()["code"]) == (403, "missing_scope")


def test_a_listener_who_does_not_read_takes_no_more_memory() -> None:
    feed = LiveFeed()
    with feed.listening() as listener:
        for number in range(1_000):
            event = Event(event_id=f"e{number}", type="view", timestamp=number, user_id="u")
            feed.publish([event], ["bad"])
        accepted, refused, newest = listener.take()
        assert (accepted, refused) == ({"view": 1_000}, {"bad": 1_000})
        assert [event.timestamp for event in newest] == [*range(950, 1_000)]
        assert listener.take() == ({}, {}, [])
    assert not feed.is_heard


def test_the_client_follows_it(live: Live) -> None:
    with Client(live.url, timeout=5) as client:
        messages_ = client.follow(seconds=30)

        def send() -> None:
            wait_until(lambda: live.platform.ingest.feed.is_heard)
            client.events([view(1, "ada")])

        sender = threading.Thread(target=send)
        sender.start()
        assert next(messages_).accepted == {"view": 1}
        messages_.close()  # type: ignore[attr-defined]
        sender.join()
    refusing = Client("http://127.0.0.1:9", retries=0)
    with refusing, pytest.raises(ConnectionFailed):
        next(refusing.follow())
