"""Ends, uses, rates and quotas of API keys, counted alone and over HTTP."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.support import Live, build, logged_ids, small_settings, view, wait_until

from tactful.http.limits import key_limits
from tactful.http.limits.key_limits import EventQuota, KeyCounters
from tactful.metadata.key_cache import DAY_MS, ApiKey, KeyLimits, KeyUse
from tactful.schemas.problems import ProblemError
from tactful.server import background
from tactful.server.platform import Platform

NOON = 20_000 * DAY_MS + DAY_MS // 2


class Clock:
    """Monotonic seconds, and the wall clock in milliseconds."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.wall = NOON

    def counters(self, memory: int | None = None) -> KeyCounters:
        return KeyCounters(memory=memory, clock=lambda: self.seconds, wall=lambda: self.wall)


def key(identifier: str = "0000000a", **limits: Any) -> ApiKey:
    return ApiKey(identifier, frozenset({"ingest"}), "", 0, None, limits=KeyLimits(**limits))


def refusal(call: Any, *arguments: Any) -> ProblemError | None:
    try:
        call(*arguments)
    except ProblemError as error:
        return error
    return None


@given(st.lists(st.floats(0, 2), max_size=200), st.integers(1, 20), st.floats(0.5, 50))
def test_a_rate_is_held_exactly(pauses: list[float], burst: int, rate: float) -> None:
    """In any span come at most the burst and the rate times the span, and never fewer."""
    clock, limited = Clock(), key(rate=rate, burst=burst)
    counters = clock.counters()
    tokens, at = float(burst), clock.seconds
    for pause in pauses:
        clock.seconds += pause
        tokens, at = min(burst, tokens + (clock.seconds - at) * rate), clock.seconds
        if abs(tokens - 1) < 1e-6:
            continue
        error = refusal(counters.request, limited)
        assert (error is None) == (tokens >= 1)
        if error is None:
            tokens -= 1
        else:
            assert error.retry_after is not None
            assert error.retry_after * rate >= 1 - tokens - 1e-6
            assert error.retry_after - 1 <= max((1 - tokens) / rate, 1)


def test_a_day_has_its_requests_and_events() -> None:
    clock = Clock()
    counters, limited = clock.counters(), key(requests_per_day=3, events_per_day=10)
    assert [refusal(counters.request, limited) for _ in range(3)] == [None] * 3
    error = refusal(counters.request, limited)
    assert error is not None
    assert (error.kind.code, error.retry_after) == ("quota_used_up", 43_200)
    for number, code in ((6, None), (5, "quota_used_up"), (4, None), (1, "quota_used_up")):
        error = refusal(counters.events, limited, number)
        assert (error and error.kind.code) == code, number
    error = refusal(counters.events, limited, 11)
    assert error is not None
    assert error.kind.code == "too_large", "no day has room for it"
    assert refusal(counters.request, key("0000000b", requests_per_day=1)) is None
    clock.wall += DAY_MS // 2
    assert refusal(counters.request, limited) is None
    assert refusal(counters.events, limited, 10) is None


def test_a_clock_that_is_set_back_begins_no_new_day() -> None:
    clock = Clock()
    counters, limited = clock.counters(), key(requests_per_day=2)
    midnight = NOON + DAY_MS // 2
    clock.wall = midnight - 1
    assert [refusal(counters.request, limited) for _ in range(2)] == [None] * 2
    accepted = 0
    for offset in (1, -1, 1, -1, 1, -1):
        clock.wall = midnight + offset
        accepted += refusal(counters.request, limited) is None
    assert accepted == 2
    clock.wall = midnight - 30 * DAY_MS  # it had been wrong by a month: the key is not locked out
    assert refusal(counters.request, limited) is None


def test_refused_events_are_given_back() -> None:
    counters, limited = Clock().counters(), key(events_per_day=10)

    def send(number: int, error: BaseException | None) -> None:
        with EventQuota(counters, limited) as quota:
            quota.count(number)
            if error is not None:
                raise error

    for _ in range(5):
        assert refusal(send, 8, ProblemError("too_many_events")) is not None
    assert refusal(send, 8, None) is None
    assert refusal(send, 3, None) is not None
    assert refusal(send, 2, None) is None


def test_keys_whose_ids_meet_in_one_row_are_counted_apart() -> None:
    counters = Clock().counters()
    keys = [key(f"{1 + 4096 * number:08x}", requests_per_day=1) for number in range(50)]
    assert [refusal(counters.request, each) for each in keys] == [None] * 50
    assert all(refusal(counters.request, each) is not None for each in keys)


def test_servers_of_one_database_add_up_and_a_restart_forgets_nothing() -> None:
    clock, limited = Clock(), key(requests_per_day=100, events_per_day=100)
    stored: dict[str, KeyUse] = {}

    def save(counters: KeyCounters) -> None:
        sent = counters.unsaved()
        for use in sent:
            before = stored.get(use.key_id, KeyUse(use.key_id, use.day, 0, 0))
            stored[use.key_id] = KeyUse(
                use.key_id, use.day, before.requests + use.requests, before.events + use.events
            )
        counters.saved(sent, stored.values())

    one, two = clock.counters(), clock.counters()
    for _ in range(10):
        for _ in range(4):
            one.request(limited)
            two.request(limited)
        two.events(limited, 1)
        save(one)
        one.request(limited)  # between the two
        save(two)
    save(one)
    save(two)
    assert stored[limited.id] == KeyUse(limited.id, NOON // DAY_MS, 90, 10)
    again = clock.counters()
    again.saved([], stored.values())
    assert again.unsaved() == []
    for counters in (one, two, again):
        assert refusal(counters.events, limited, 91) is not None
    assert [refusal(again.request, limited) is None for _ in range(11)] == [True] * 10 + [False]
    save(again)
    assert stored[limited.id].requests == 100


def _send(memory: int, number: int, accepted: Any) -> None:
    counters, limited = KeyCounters(memory=os.dup(memory)), key(requests_per_day=5_000)
    count = sum(refusal(counters.request, limited) is None for _ in range(number))
    with accepted.get_lock():
        accepted.value += count


@pytest.mark.alone  # its fork waits for locks that threads of other tests hold
def test_processes_share_a_quota_exactly() -> None:
    """Without the lock, some of the counts of processes that write at once are lost."""
    fork = multiprocessing.get_context("fork")
    counters, accepted = KeyCounters(), fork.Value("q", 0)
    started = [
        fork.Process(target=_send, args=(counters.memory, 4_000, accepted)) for _ in range(3)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert accepted.value == 5_000


def _hold(memory: int, held: Any, seconds: float) -> None:
    fcntl.lockf(memory, fcntl.LOCK_EX)
    held.set()
    time.sleep(seconds)


@pytest.mark.alone  # its fork waits for locks that threads of other tests hold
@pytest.mark.parametrize("patient", [True, False])
def test_a_count_waits_for_another_process_and_not_for_a_stopped_one(
    patient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if patient:
        monkeypatch.setattr(key_limits, "_ATTEMPTS", 10**9)
    fork = multiprocessing.get_context("fork")
    counters, held = KeyCounters(), fork.Event()
    seconds = 0.5 if patient else 60.0
    holder = fork.Process(target=_hold, args=(counters.memory, held, seconds))
    holder.start()
    assert held.wait(60)
    began = time.monotonic()
    counters.request(key(requests_per_day=5))
    took = time.monotonic() - began
    holder.kill()
    holder.join(60)
    assert took > 0.2 if patient else took < 30


# Over HTTP.


@pytest.fixture(scope="module", params=[0, 2], ids=["process", "workers"])
def open_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Live, Path]]:
    settings = small_settings(tmp_path_factory.mktemp("limits"))
    platform = Platform.open(replace(settings, server=replace(settings.server, dev=False)), build)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "_USES_S", 0.3)
        with Live(platform, workers=request.param) as live:
            yield live, settings.storage.data


def made(live: Live, *scopes: str, lasts_ms: int | None = None, **limits: Any) -> tuple[str, str]:
    """A key that every process knows, without a use of it; and its id."""
    secret, about = live.platform.keys.create(
        scopes, lasts_ms=lasts_ms, limits=KeyLimits(**limits) if limits else None
    )
    live.create_key("monitor")  # waits until all processes know it, and those made before
    return secret, about.id


def test_an_expired_key_ends_open_connections(open_server: tuple[Live, Path]) -> None:
    live, _ = open_server
    secret, _ = made(live, "ingest", lasts_ms=3_600_000)
    lasting = live.platform.keys._clock
    with httpx.Client(base_url=live.url, headers={"x-api-key": secret}) as kept:
        answer = kept.get("/v1/me")
        assert answer.status_code == 200
        assert answer.json()["expires_at"] > lasting()
        # A second server of the installation, or the command, ends it.
        identifier = secret.split("_")[1]
        fresh, about = live.platform.keys.rotate(identifier, overlap_ms=1_500)
        assert about.expires_at is not None
        wait_until(lambda: kept.get("/v1/me").status_code == 401)
        refused = kept.get("/v1/me")
        assert refused.json()["code"] == "key_expired"
        assert refused.json()["detail"].startswith("it expired at 20")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert kept.post("/v1/events", json=view(1)).status_code == 401
    answer = live.http.get("/v1/me", headers={"x-api-key": fresh})
    assert (answer.status_code, answer.json()["scopes"]) == (200, ["ingest"])
    # Whoever does not have the secret is told nothing.
    guess = f"tactful_{identifier}_{'A' * 43}"
    assert live.http.get("/v1/me", headers={"x-api-key": guess}).json()["code"] == "no_key"


def test_a_hundred_parallel_requests_meet_the_limit(open_server: tuple[Live, Path]) -> None:
    live, _ = open_server
    secret, _ = made(live, "monitor", requests_per_day=40)

    def ask(_: int) -> httpx.Response:
        headers = {"x-api-key": secret, "connection": "close"}
        return live.http.get("/v1/me", headers=headers)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(100)))
    codes = [answer.status_code for answer in answers]
    assert (codes.count(200), codes.count(429)) == (40, 60)
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "quota_used_up"
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    for path in ("/healthz", "/readyz"):
        assert live.http.get(path).status_code == 200


def test_a_rate_over_http(open_server: tuple[Live, Path]) -> None:
    live, _ = open_server
    secret, _ = made(live, "monitor", rate=0.01, burst=5)
    codes = [
        live.http.get("/v1/me", headers={"x-api-key": secret, "connection": "close"})
        for _ in range(8)
    ]
    assert [answer.status_code for answer in codes] == [200] * 5 + [429] * 3
    assert codes[-1].json()["code"] == "too_many_requests"
    assert 90 <= int(codes[-1].headers["retry-after"]) <= 100


def test_batches_are_refused_whole(open_server: tuple[Live, Path]) -> None:
    live, data = open_server
    secret, identifier = made(live, "ingest", events_per_day=10)

    def post(first: int, count: int) -> httpx.Response:
        batch = [view(number, "quota") for number in range(first, first + count)]
        return live.http.post("/v1/events", json=batch, headers={"x-api-key": secret})

    too_large = post(0, 11)
    assert (too_large.status_code, too_large.json()["code"]) == (413, "too_large")
    assert post(0, 7).json()["accepted"] == 7
    refused = post(7, 4)
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_used_up")
    assert "of which 3 are left" in refused.json()["detail"]
    assert post(7, 3).json()["accepted"] == 3
    assert post(20, 1).status_code == 429
    sent = {identity for identity in logged_ids(data) if identity.startswith("quota-")}
    assert sent == {f"quota-{number}" for number in range(10)}

    def counted() -> bool:
        return live.platform.keys.uses().get(identifier, KeyUse("", 0, 0, 0)).events == 10

    wait_until(counted, 30)
    use = live.platform.keys.uses()[identifier]
    assert use.day == time.time_ns() // 1_000_000 // DAY_MS


def test_uses_are_stored_once_a_day(open_server: tuple[Live, Path]) -> None:
    live, _ = open_server
    secret, identifier = made(live, "monitor")
    assert identifier not in live.platform.keys.uses()
    for _ in range(20):
        assert live.http.get("/v1/me", headers={"x-api-key": secret}).status_code == 200
    wait_until(lambda: identifier in live.platform.keys.uses(), 30)
    use = live.platform.keys.uses()[identifier]
    assert (use.requests, use.events) == (0, 0), "those without limits are not counted"
