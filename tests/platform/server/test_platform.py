"""The assembled platform: read-your-writes, overload, a failed engine, a stop."""

from __future__ import annotations

import logging
import math
import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.platform.support import (
    FEATURES,
    Live,
    TinyRecommender,
    blocked,
    build,
    events,
    logged,
    now_ms,
    post_all,
    view,
    wait_until,
    work,
)

from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.metrics.registry import Metrics
from tactful.recommend.build import build as recommender
from tactful.schemas.recommendations import OVERLOADED, RecommendRequest
from tactful.server import overload
from tactful.server.gauges import add_gauges
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event, encode_entry


def test_after_reads_your_own_writes(live: Live) -> None:
    for number in range(1, 40):
        position = live.http.post("/v1/events", json=view(number)).json()["position"]
        asked = {"user_id": "u", "after": position, "explain": True}
        answer = live.http.post("/v1/recommend", json=asked).json()
        assert answer["explanation"]["rules"]["views"] == number
        assert answer["position"] >= position
    recommender = live.platform.recommender
    assert isinstance(recommender, TinyRecommender)
    wait_until(lambda: recommender.refreshed >= 2)


def test_missing_features_count_as_0(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with Live(Platform.open(settings, recommender)) as live:
        assert live.http.put("/v1/items", json=[{"item_id": "a"}, {"item_id": "b"}]).is_success
        assert live.http.post("/v1/events", json=view(1)).status_code == 202
    (told,) = [it.message for it in caplog.records if "counts as 0" in it.message]
    assert f"{settings.features} lacks" in told and "sold_28d" in told
    with Live(Platform.open(settings, recommender)) as live:  # now with items, from the start
        answer = live.http.post("/v1/recommend", json={"user_id": "u"})
        assert answer.status_code == 200, answer.text
        assert {it["item_id"] for it in answer.json()["items"]} == {"a", "b"}
        assert live.http.get("/v1/users/u/features").json()["features"]["views"] == 1


def test_extreme_numbers_are_right_or_absent_over_http(settings: Settings) -> None:
    """A mean whose weights vanished is no 500, and a sum beyond a double is left out."""
    of = "entity: user, event: purchase, of: properties.price, aggregate"
    settings.features.write_text(
        f"{FEATURES}\n- {{name: spent, {of}: sum, window: {{size: 1d, slide: 1m}}}}\n"
        f"- {{name: usual, {of}: mean, window: {{size: 1d, slide: 1m, decay: 0.5}}}}\n"
    )
    at = now_ms() - 1000

    def purchase(user: str, number: int, price: float) -> dict[str, Any]:
        properties = {"price": price}
        sent = {"event_id": f"{user}-{number}", "type": "purchase", "timestamp": at}
        return {**sent, "user_id": user, "properties": properties}

    with Live(Platform.open(settings, build)) as live:
        bought = [purchase("u", 1, 7.0), purchase("v", 1, 1e308), purchase("v", 2, 1e308)]
        live.views("u", live.http.post("/v1/events", json=bought).json()["position"])
        for minutes in (0, 1075, 1439):
            when = at + minutes * 60_000
            asked = [live.http.get(f"/v1/users/{u}/features", params={"at": when}) for u in "uv"]
            assert [answer.status_code for answer in asked] == [200, 200]
            usual, huge = (answer.json()["features"] for answer in asked)
            assert (usual["spent"], usual["usual"]) == (7.0, 7.0)
            assert not {"spent", "usual"} & huge.keys()
            assert "views" in huge


def test_after_waits_for_the_engine_but_not_for_ever(settings: Settings) -> None:
    hasty = replace(settings, server=replace(settings.server, after_wait_s=0.2))
    with Live(Platform.open(hasty, build)) as live:
        with blocked(live.platform.engine, "apply"):
            position = live.http.post("/v1/events", json=view(1)).json()["position"]
            late = live.http.post("/v1/recommend", json={"user_id": "u", "after": position})
            assert (late.status_code, late.json()["code"]) == (503, "not_caught_up")
            assert int(late.headers["retry-after"]) >= 1
        assert live.views("u", position) == 1


def test_the_request_may_say_when_and_which_arm_in_dev(live: Live) -> None:
    body = {"user_id": "u", "explain": True, "force": {"ranking": "b"}}
    for at in (1_700_000_000_000, "2023-11-14T22:13:20Z"):
        answer = live.http.post("/v1/recommend", json={**body, "timestamp": at}).json()
        assert answer["explanation"]["at"] == 1_700_000_000_000
        assert answer["variant"] == {"ranking": "b"}
    refused = live.http.post("/v1/recommend", json={"user_id": "u", "after": 10**9})
    assert (refused.status_code, refused.json()["field"]) == (422, "$.after")
    nobody = live.http.post("/v1/recommend", json={})
    assert (nobody.status_code, nobody.json()["fallback"]) == (200, "nobody was named")


def test_impressions_reach_the_log_off_the_request_path(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        live.http.put("/v1/items", json=[{"item_id": "a"}, {"item_id": "b"}])
        with blocked(live.platform.backend.partitions()[0], "append"):
            lists = [live.http.post("/v1/recommend", json={"user_id": "u"}) for _ in range(5)]
            shown = [each.json()["recommendation_id"] for each in lists]
    events = [it for it in logged(settings.storage.data) if isinstance(it, Event)]
    assert [it.recommendation_id for it in events if it.type == "impression"] == shown


def test_an_impression_without_room_is_dropped_and_counted(settings: Settings) -> None:
    tight = replace(settings, limits=replace(settings.limits, body_bytes=1024, pending_bytes=1024))
    with Live(Platform.open(tight, build)) as live:

        def lost() -> bool:  # what is shown within 20 ms is written together
            answer = live.http.post("/v1/recommend", json={"user_id": "u"})
            assert answer.status_code == 200
            metrics = live.http.get("/metrics").text.splitlines()
            (line,) = (it for it in metrics if it.startswith("tactful_impressions_lost_t"))
            return float(line.split()[1]) > 0

        with blocked(live.platform.backend.partitions()[0], "append"):
            wait_until(lost)


@pytest.mark.slow
@pytest.mark.parametrize(("queue", "wait_s"), [(2, 30), (100, 0.1)])
def test_overload_is_turned_away(settings: Settings, queue: int, wait_s: float) -> None:
    """Requests are refused for which there is no room, and those that waited too long."""
    server = replace(settings.server, recommend_queue=queue, recommend_wait_s=wait_s)
    with Live(Platform.open(replace(settings, server=server), build)) as live:
        recommender = live.platform.recommender
        assert isinstance(recommender, TinyRecommender)
        recommender.before = work(0.05)
        answers = post_all(live.url, "/v1/recommend", [{"user_id": "u"}] * 30)
        assert {answer.status_code for answer in answers} == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert answer.json()["code"] == "overloaded"
                assert int(answer.headers["retry-after"]) >= 1
        assert live.http.post("/v1/recommend", json={"user_id": "u"}).status_code == 200


def test_before_a_refusal_comes_a_cheaper_recommendation(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the user, and without an impression; filters that need the user are refused."""
    monkeypatch.setattr(overload, "_CHEAPER_SHARE", math.inf)  # on a slow machine it is reached
    server = replace(settings.server, recommend_queue=2)
    with Live(Platform.open(replace(settings, server=server), build)) as live:
        live.http.put("/v1/items", json=[{"item_id": "a"}])
        recommender = live.platform.recommender
        assert isinstance(recommender, TinyRecommender)
        recommender.before_personal = work(0.05)
        answers = post_all(live.url, "/v1/recommend", [{"user_id": "u"}] * 30)
        assert {answer.status_code for answer in answers} == {200}
        cheaper = [it for it in answers if it.json()["fallback"] == OVERLOADED]
        assert 15 <= len(cheaper) <= 29
        assert all(answer.json()["items"] for answer in answers)
        strict = [{"user_id": "u", "exclude_seen": True}] * 30
        codes = {answer.status_code for answer in post_all(live.url, "/v1/recommend", strict)}
        assert codes == {200, 503}
        personal = {it.json()["recommendation_id"] for it in answers if it not in cheaper}
    events = [it for it in logged(settings.storage.data) if isinstance(it, Event)]
    shown = {it.recommendation_id for it in events if it.type == "impression"}
    assert personal <= shown
    assert not shown & {it.json()["recommendation_id"] for it in cheaper}


def test_a_dead_engine_is_reported(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    def fail(records: list[tuple[int, bytes]]) -> None:
        raise RuntimeError(str(records))

    live.platform.engine.apply = fail  # type: ignore[method-assign, assignment]
    with caplog.at_level(logging.CRITICAL, logger="tactful"):
        live.http.post("/v1/events", json=view(1))
        wait_until(lambda: live.http.get("/readyz").status_code == 503)
    ready = live.http.get("/readyz").json()
    assert "RuntimeError" in ready["detail"]
    assert live.http.get("/healthz").status_code == 200
    for answer in (
        live.http.post("/v1/events", json=view(2)),
        live.http.post("/v1/recommend", json={"user_id": "u"}),
        live.http.get("/v1/users/u/features"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert "retry-after" in answer.headers
    assert "RuntimeError" in caplog.text
    assert "kitchen" not in caplog.text + live.http.get("/readyz").text


def test_errors_are_problems_without_ids(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: RecommendRequest, *, now: int) -> None:
        raise KeyError(request.user_id)

    live.platform.recommender.answer = fail  # type: ignore[method-assign, assignment]
    body, headers = {"user_id": "user-4711"}, {"x-request-id": "trace-12345"}
    answer = live.http.post("/v1/recommend", json=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.json()["request_id"] == "trace-12345"
    assert "trace-12345" in caplog.text
    assert "KeyError" in caplog.text
    assert "user-4711" not in caplog.text + answer.text


def test_a_stop_applies_and_commits_what_was_accepted(settings: Settings) -> None:
    slow = replace(settings, engine=replace(settings.engine, commit_ms=60_000))
    with Live(Platform.open(slow, build)) as live:
        for start in range(0, 2000, 200):
            batch = [view(number) for number in range(start, start + 200)]
            assert live.http.post("/v1/events", json=batch).json()["accepted"] == 200
    platform = Platform.open(slow, build)
    offset, views = platform.engine.offset, platform.engine.read("user", "u", now_ms())["views"]
    platform.close()
    assert (offset, views) == (2000, 2000)


def test_until_it_and_its_lists_have_caught_up_it_is_not_ready(settings: Settings) -> None:
    never = replace(settings, engine=replace(settings.engine, commit_ms=60_000))
    first = Platform.open(never, build)
    first.backend.partitions()[0].append([encode_entry(it) for it in events(20)])
    first.close()
    platform = Platform.open(settings, build)
    with blocked(platform.engine, "apply") as applying, Live(platform, ready=False) as live:
        assert live.http.get("/readyz").json()["detail"] == "engine: catching up"
        assert live.http.get("/healthz").status_code == 200
        refused = live.http.post("/v1/events", json=view(1))
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        with blocked(platform.recommender, "refresh") as refreshing:
            # One that began while the engine was behind may end; it saw too little.
            applying.set()
            wait_until(lambda: platform.position == 20)
            assert live.http.get("/readyz").status_code == 503
            refused = live.http.post("/v1/recommend", json={"user_id": "u"})
            assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
            assert int(refused.headers["retry-after"]) >= 1
            refreshing.set()
        wait_until(lambda: live.http.get("/readyz").status_code == 200)
        assert live.http.post("/v1/events", json=view(1)).json()["duplicates"] == 1
        assert live.http.post("/v1/recommend", json={"user_id": "u"}).status_code == 200


@pytest.mark.slow
def test_a_stop_during_recovery_goes_on_at_the_next_start(settings: Settings) -> None:
    first = Platform.open(settings, build)
    first.backend.partitions()[0].append([encode_entry(it) for it in events(3000)])
    first.close()
    platform = Platform.open(settings, build)
    apply = platform.engine.apply

    def slowly(records: list[tuple[int, bytes]]) -> Any:
        time.sleep(0.2)  # all of them take longer than a stop
        return apply(records)

    platform.engine.apply = slowly  # type: ignore[method-assign, assignment]
    with Live(platform, ready=False):
        wait_until(lambda: platform.position != 0)
    assert platform.position in range(1, 3000)
    with Live(Platform.open(settings, build)) as live:
        assert live.views("u", 3000) == 3000


def test_one_data_directory_has_one_server(settings: Settings) -> None:
    platform = Platform.open(settings, build)
    try:
        with pytest.raises(StorageError, match="another process uses"):
            Platform.open(settings, build)
    finally:
        platform.close()
    Platform.open(settings, build).close()


@pytest.mark.slow
def test_changed_features_need_a_rebuild(settings: Settings) -> None:
    """A changed definition counts nothing before `rebuild`, and loses nothing by it."""
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/events", json=[view(number) for number in range(50)])
    settings.features.write_text(FEATURES.replace("364d, slide: 28d", "90d, slide: 9d"))
    with Live(Platform.open(settings, build)) as live:
        assert "views" in live.platform.engine.missing
        assert live.views("u", 50) == 0
    with Live(Platform.open(settings, build, rebuild=True)) as live:
        assert live.views("u", 50) == 50


def test_a_state_that_is_ahead_of_the_log_is_refused(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/events", json=view(1))
    shutil.rmtree(settings.storage.data / "log")
    with pytest.raises(StorageError, match="--rebuild"):
        Platform.open(settings, build)
    Platform.open(settings, build, rebuild=True).close()


class Engine:
    """Engine with a size that may be read under the lock only."""

    watermark = 0
    missing = ()

    def __init__(self, nbytes: int, lock: threading.Lock) -> None:
        self._nbytes = nbytes
        self._lock = lock

    @property
    def nbytes(self) -> int:
        assert self._lock.locked()
        return self._nbytes


@pytest.mark.parametrize(
    ("size", "told"), [(0, 0), (490, 0), (7 * 2**20 - 490, 7), (7 * 2**20 + 490, 7), (2**30, 1024)]
)
def test_the_size_of_the_state_is_rounded(size: int, told: int) -> None:
    metrics, lock = Metrics(CollectorRegistry()), threading.Lock()
    backend: Any = SimpleNamespace(
        engine=Engine(size, lock),
        waiting_bytes=lambda: 0,
        problem=lambda: None,
        spooled=lambda: 0,
        rules=None,
        copied=None,
    )
    platform: Any = SimpleNamespace(
        metrics=metrics,
        lock=lock,
        backend=backend,
        engine=backend.engine,
        applier=SimpleNamespace(lag=0),
        notices=SimpleNamespace(failing=0),
        recommendations=SimpleNamespace(admission=SimpleNamespace(waiting=0)),
        resources=SimpleNamespace(webhooks=None, installation=SimpleNamespace(clock=lambda: 0)),
        settings=SimpleNamespace(storage=SimpleNamespace(data=Path("/"))),
        started_at=0,
        rollouts=SimpleNamespace(all=lambda: []),
        encoding=None,
        lease=SimpleNamespace(held=True),
        flink=None,
    )
    add_gauges(platform)
    shown = metrics.render().decode()
    (value,) = re.findall(r"^tactful_engine_state_bytes (\S+)$", shown, re.MULTILINE)
    assert float(value) == told * 2**20
