"""Rates of browser keys and of devices."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.support import SHOP, Live, build, small_settings, view, wait_until

from tactful.config.server import LimitSettings
from tactful.http.limits.rate_limits import _BURST_S, RateLimits
from tactful.schemas.problems import ProblemError
from tactful.server.platform import Platform

KEY, DEVICE = 50.0, 5.0
LIMITS = LimitSettings(browser_key_rate=KEY, device_rate=DEVICE)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def accepts(limits: RateLimits, *arguments: Any) -> bool:
    try:
        limits.count(*arguments)
    except ProblemError as error:
        assert error.kind.status == 429
        assert error.retry_after is not None
        assert error.retry_after >= 1
        return False
    return True


requests = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 60), st.floats(0, 3)), min_size=1, max_size=300
)


@given(requests)
def test_no_key_and_no_device_exceeds_its_rate(requests: list[tuple[int, int, float]]) -> None:
    """Whatever comes when: rate times time, and ten seconds' worth and one batch at once."""
    clock, accepted, began = Clock(), [0] * 4, Clock.now
    limits = RateLimits(LIMITS, clock=clock)
    for device, number, pause in requests:
        clock.now += pause
        if accepts(limits, "key", number, [f"d-{device}"] * number):
            accepted[device] += number
        span = clock.now - began + _BURST_S
        assert max(accepted) <= DEVICE * span + 60
        assert sum(accepted) <= KEY * span + 60


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), min_size=1, max_size=200))
def test_processes_count_together(requests: list[tuple[bool, int]]) -> None:
    one = RateLimits(LIMITS, clock=Clock())
    alone = RateLimits(LIMITS, clock=Clock())
    other = RateLimits(LIMITS, memory=os.dup(one.memory), clock=Clock())
    for first, number in requests:
        assert accepts(one if first else other, "key", number) == accepts(alone, "key", number)


@pytest.mark.slow
def test_invented_devices_neither_evade_nor_exhaust() -> None:
    """A million new ids from one key: its limit holds, memory is constant, others are served."""
    clock = Clock()
    limits = RateLimits(LimitSettings(), clock=clock)
    size = os.fstat(limits.memory).st_size
    accepted = 0
    for number in range(200_000):
        clock.now += 0.0001
        accepted += accepts(limits, "stolen", 1, [f"invented-{number}"])
    assert accepted <= 1_000 * (20 + _BURST_S) + 1
    assert os.fstat(limits.memory).st_size == size
    served = [accepts(limits, "mine", 1, [f"real-{number}"]) for number in range(1_000)]
    assert all(served)


def test_a_limit_of_zero_is_none() -> None:
    limits = RateLimits(LimitSettings(browser_key_rate=0, device_rate=0), clock=Clock())
    assert all(accepts(limits, "key", 1_000, ["d"]) for _ in range(1_000))


@pytest.fixture(scope="module", params=[0, 2], ids=["process", "workers"])
def slow(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """A server with low rates."""
    settings = small_settings(tmp_path_factory.mktemp("slow"))
    server = replace(settings.server, dev=False, cors_origins=SHOP)
    limits = replace(settings.limits, browser_key_rate=20, device_rate=1)
    platform = Platform.open(replace(settings, server=server, limits=limits), build)
    with Live(platform, workers=request.param) as live:
        yield live


def seen(device: str, number: int = 0) -> dict[str, Any]:
    event = view(number, device, device_id=device)
    del event["user_id"]
    return event


def posted(live: Live, path: str, key: str, body: Any) -> httpx.Response:
    """Post on a connection of its own, which may meet either worker, until that knows the key."""
    headers = {"authorization": f"Bearer {key}", "origin": SHOP, "connection": "close"}
    answers: list[httpx.Response] = []

    def known() -> bool:
        answers.append(live.http.post(path, json=body, headers=headers))
        return answers[-1].status_code != 401

    wait_until(known)
    return answers[-1]


@pytest.mark.parametrize("path", ["/v1/events", "/v1/recommend"])
def test_a_device_that_sends_too_fast_waits(slow: Live, path: str) -> None:
    key, device = slow.create_key("browser"), f"fast{path}"

    def post(device: str) -> httpx.Response:
        body = seen(device) if path == "/v1/events" else {"device_id": device}
        return posted(slow, path, key, body)

    began = time.monotonic()
    answers = [post(device) for _ in range(30)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert 10 <= len(answers) - len(refused) <= 12 + time.monotonic() - began
    for answer in refused:
        assert answer.json()["code"] == "too_many_requests"
        assert 1 <= int(answer.headers["retry-after"]) <= 11
        assert answer.headers["access-control-allow-origin"] == SHOP
        assert device not in answer.text
    assert post(f"other{path}").status_code < 300


@pytest.mark.slow
def test_a_key_that_sends_too_fast_waits(slow: Live) -> None:
    key, mine = slow.create_key("browser"), slow.create_key("ingest")
    large = [seen(f"d-{number}", number) for number in range(900)]
    assert posted(slow, "/v1/events", key, large).status_code == 202
    for number in range(3):  # whatever the device, and before the body is read
        answer = posted(slow, "/v1/events", key, seen(f"new-{number}"))
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
        assert 1 <= int(answer.headers["retry-after"]) <= 36
    assert posted(slow, "/v1/recommend", key, {}).status_code == 429
    assert posted(slow, "/v1/events", mine, large).status_code == 202
    assert posted(slow, "/v1/events", slow.create_key("browser"), large).status_code == 202
