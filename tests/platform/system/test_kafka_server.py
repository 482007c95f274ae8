"""The server on Kafka, alone and with workers and Redis: guarantees, and outages."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.platform.support import Live, build, now_ms, view, wait_until
from tests.streaming.brokers import ApacheBroker, Broker, Proxy, topic_name
from tests.streaming.redis_cluster import RedisCluster
from tests.streaming.redis_server import RedisServer

from tactful.config.privacy import MinimiseSettings
from tactful.config.settings import Settings
from tactful.config.storage import LogSettings, OnlineSettings
from tactful.errors import StorageError
from tactful.event_log.merged_log import MergedLog, Span
from tactful.metadata.connections import kafka_settings, make_topic, open_redis
from tactful.pipeline.online_features import SharedFeatures, own_definitions, shared_definitions
from tactful.schemas.problems import ProblemError
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import (
    Event,
    Item,
    Restricted,
    decode_entry,
    encode_entry,
    event_for,
    route_key,
)
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import FencedError, OnlineStoreError, TopicError
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.kafka_partition import KafkaPartition
from tactful_streaming.online.fenced_store import redis_online
from tactful_streaming.state.store import MemoryState
from tactful_streaming.worker.partition_job import JobOptions
from tactful_streaming.worker.worker import Worker, WorkerOptions

BOTH_BROKERS = pytest.mark.parametrize(
    "broker_and_proxy", ["memory", pytest.param("apache", marks=pytest.mark.slow)], indirect=True
)


def on_kafka(settings: Settings, servers: str, **changes: Any) -> Settings:
    log = LogSettings(
        kind="kafka", brokers=servers, topic=topic_name(), consumer_threads=2, linger_ms=5
    )
    return replace(settings, log=replace(log, **changes))


@pytest.fixture
def kafka(settings: Settings, kafka_servers: str) -> Settings:
    """Settings of a server that computes all features itself, from a topic of its own."""
    return on_kafka(settings, kafka_servers)


def people(count: int) -> list[str]:
    return [f"u{number}" for number in range(count)]


def post(live: Live, events: list[dict[str, Any]]) -> Any:
    answer = live.http.post("/v1/events", json=events)
    assert answer.status_code == 202, answer.text
    return answer.json()


def records(settings: Settings, count: int) -> list[bytes]:
    """Return the records of the topic, at least `count`."""
    with contextlib.closing(MergedLog(kafka_settings(settings.log), 4, Span())) as log:
        found: list[bytes] = []
        until = time.monotonic() + 120
        while len(found) < count and time.monotonic() < until:
            found += [payload for _, payload in log.read(len(found), 1000)]
        return found + [payload for _, payload in log.read(len(found), 1000)]


def test_no_raw_value_reaches_the_topic(kafka: Settings) -> None:
    """Fields that `[minimise]` names are shortened before the broker gets them."""
    named = MinimiseSettings(truncate_ip="context.ip", hash="properties.email")
    fields: dict[str, Any] = {
        "properties": {"email": "ada@example.com"},
        "context": {"ip": "203.0.113.77"},
    }
    with Live(Platform.open(replace(kafka, minimise=named), build)) as live:
        post(live, [view(n, **fields) for n in range(8)])
        written = b"".join(records(kafka, 8))
    assert b"203.0.113.0" in written
    assert b"ada@example.com" not in written
    assert b"203.0.113.77" not in written


def test_fast_clock_in_a_replay(kafka: Settings) -> None:
    """A replay reads events with fast clocks at their receipt among those of other partitions."""
    settings = kafka_settings(kafka.log)
    make_topic(kafka.log, settings)
    entries: list[Event | Restricted] = []
    for number in range(100):
        at = number * 1000 + 295_000 * (number % 5 == 0)
        user = f"u{number % 9}"
        event = Event(
            event_id=str(number), type="view", timestamp=at, user_id=user, received_at=number * 1000
        )
        wrapped = Restricted(timestamp=at, purposes=("personalisation",), event=event)
        entries.append(wrapped if number % 3 else event)
    with KafkaLog(settings) as log:
        payloads = [encode_entry(entry, "json") for entry in entries]
        log.append(payloads, [route_key(entry) for entry in entries])
    read = [event_for(decode_entry(it), "personalisation") for it in records(kafka, len(entries))]
    assert [event.event_id for event in read if event] == [str(number) for number in range(100)]


def test_you_read_your_own_writes_from_every_partition(kafka: Settings) -> None:
    with Live(Platform.open(kafka, build)) as live:
        live.http.put("/v1/items", json=[{"item_id": "a"}, {"item_id": "b"}])
        for number in range(1, 6):
            answer = post(live, [view(number, user) for user in people(9)])
            assert answer["accepted"] == 9
            for user in people(9):
                assert live.views(user, answer["position"]) == number
        shown = live.http.post("/v1/recommend", json={"user_id": "u1"}).json()
        assert {item["item_id"] for item in shown["items"]} == {"a", "b"}
        assert live.http.get("/readyz").status_code == 200
    found = records(kafka, 93)
    kinds = Counter(getattr(decode_entry(payload), "type", "item") for payload in found)
    assert kinds == {"item": 2, "view": 45, "impression": 46}
    assert all(payload.startswith(b"{") for payload in found), "others read it, too"


def test_a_restart_goes_on_where_each_partition_was(kafka: Settings) -> None:
    batch = [view(number, user) for number in range(20) for user in people(7)]
    with Live(Platform.open(kafka, build)) as live:
        first = post(live, batch)
    with Live(Platform.open(kafka, build)) as live:
        offset = live.platform.engine.offset
        again = post(live, batch)
        assert (again["accepted"], again["duplicates"]) == (0, len(batch))
        assert live.views("u3", first["position"]) == 20
        assert offset >= len(batch), "nothing was read again"
        new = post(live, [view(20, user) for user in people(7)])
        assert all(live.views(user, new["position"]) == 21 for user in people(7))


@pytest.mark.slow
def test_a_list_is_explained_from_the_log_after_a_restart(kafka: Settings) -> None:
    with Live(Platform.open(kafka, build)) as live:
        live.http.put("/v1/items", json=[{"item_id": "a"}, {"item_id": "b"}])
        post(live, [view(1, user) for user in people(5)])
        asked = [{"user_id": user, "count": 2, "explain": True} for user in people(5)]
        given = [live.http.post("/v1/recommend", json=one).json() for one in asked]
    with Live(Platform.open(kafka, build)) as live:
        for one in given:
            told = live.http.get(f"/v1/explain/{one['recommendation_id']}")
            assert told.json() == one["explanation"]
        assert live.http.get("/v1/explain/nobody").json()["code"] == "not_found"


@pytest.mark.slow
def test_searches_close_their_connections(kafka: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with Live(Platform.open(kafka, build)) as live:
        live.http.put("/v1/items", json=[{"item_id": "a"}])
        post(live, [view(number) for number in range(3)])
    opened: list[KafkaPartition] = []
    closed: list[KafkaPartition] = []
    begin, close = KafkaPartition.__init__, KafkaPartition.close

    def noted(self: KafkaPartition, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        opened.append(self)

    def noted_end(self: KafkaPartition) -> None:
        close(self)
        closed.append(self)

    with Live(Platform.open(kafka, build)) as live:
        monkeypatch.setattr(KafkaPartition, "__init__", noted)
        monkeypatch.setattr(KafkaPartition, "close", noted_end)
        export = live.http.get("/v1/users/u/export").json()
        assert [it["event_id"] for it in export["records"]] == ["u-0", "u-1", "u-2"]
        assert live.http.get("/v1/explain/nobody").status_code == 404
        assert len(opened) == 2 * 4
        assert set(closed) == set(opened)


@pytest.mark.slow
def test_a_state_of_another_topic_is_refused(kafka: Settings) -> None:
    with Live(Platform.open(kafka, build)) as live:
        live.views("u", post(live, [view(1)])["position"])
    other = replace(kafka, log=replace(kafka.log, topic=topic_name()))
    with pytest.raises(StorageError, match="--rebuild"):
        Platform.open(other, build)
    Platform.open(other, build, rebuild=True).close()


@pytest.mark.slow
def test_a_topic_made_anew_is_not_the_topic_of_the_state(kafka: Settings) -> None:
    from confluent_kafka.admin import AdminClient

    with Live(Platform.open(kafka, build)) as live:
        live.views("u", post(live, [view(1), view(2)])["position"])
    admin = AdminClient({"bootstrap.servers": kafka.log.brokers})
    admin.delete_topics([kafka.log.topic], operation_timeout=10)[kafka.log.topic].result(120)
    with pytest.raises(TopicError, match=r"deleted and made anew.*tactful serve --rebuild"):
        Platform.open(kafka, build)
    with Live(Platform.open(kafka, build, rebuild=True)) as live:
        assert live.views("u", post(live, [view(3)])["position"]) == 1
    Platform.open(kafka, build).close()


def test_positions_that_nobody_was_given_are_refused(kafka: Settings) -> None:
    with Live(Platform.open(kafka, build)) as live:
        for position in ("1:", "a", "99:1", 3, "0:1,"):
            answer = live.http.post("/v1/recommend", json={"user_id": "u", "after": position})
            assert (answer.status_code, answer.json()["field"]) == (422, "$.after")


@pytest.fixture
def proxied(
    settings: Settings, broker_and_proxy: tuple[Broker | ApacheBroker, Proxy]
) -> tuple[Settings, Proxy]:
    broker, proxy = broker_and_proxy
    return on_kafka(settings, broker.servers), proxy


@pytest.mark.slow
@BOTH_BROKERS
def test_events_are_refused_while_no_broker_answers(proxied: tuple[Settings, Proxy]) -> None:
    """They are accepted again afterwards."""
    settings, proxy = proxied
    with Live(Platform.open(settings, build)) as live:
        before = post(live, [view(1)])
        assert live.views("u", before["position"]) == 1
        proxy.cut()
        wait_until(lambda: live.platform.backend.problem() is not None)
        refused = live.http.post("/v1/events", json=[view(2)])
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert int(refused.headers["retry-after"]) >= 1
        assert live.http.post("/v1/recommend", json={"user_id": "u"}).status_code == 200
        assert "tactful_log_unreachable 1.0" in live.http.get("/metrics").text
        assert live.http.get("/readyz").json()["checks"]["log"]
        proxy.restore()
        wait_until(lambda: live.http.post("/v1/events", json=[view(2)]).status_code == 202)
        after = post(live, [view(3)])
        assert live.views("u", after["position"]) == 3


@pytest.mark.slow
@BOTH_BROKERS
def test_spooled_events_count_once_a_broker_answers(proxied: tuple[Settings, Proxy]) -> None:
    settings, proxy = proxied
    settings = replace(settings, log=replace(settings.log, on_outage="spool"))
    with Live(Platform.open(settings, build)) as live:
        post(live, [view(1)])
        proxy.cut()
        wait_until(lambda: live.platform.backend.problem() is not None)
        for number in range(2, 7):
            assert post(live, [view(number)])["position"] == ""
        assert post(live, [view(6)])["accepted"] == 1, "counted once all the same"
        proxy.restore()
        wait_until(lambda: live.platform.backend.spooled() == 0)
        after = post(live, [view(7)])
        wait_until(lambda: live.views("u", after["position"]) == 7)


class Workers(threading.Thread):
    """A worker in a thread of this process, which is restarted when it ends."""

    def __init__(self, settings: Settings, url: str, data: Path) -> None:
        super().__init__(daemon=True)
        self._settings = settings
        self._url = url
        self._data = data
        self._told = threading.Event()
        self.start()

    def run(self) -> None:
        definitions = load_definitions(self._settings.features)
        kafka = kafka_settings(self._settings.log)
        cluster = self._settings.online.cluster
        online = redis_online(self._url, tag=definitions.fingerprint[:16], cluster=cluster)
        group = self._settings.log.topic
        options = JobOptions(kafka=kafka, data=self._data, group=group, online=online)
        pace = WorkerOptions(commit_interval_s=0.01)
        while not self._told.is_set():
            with contextlib.suppress(FencedError, OnlineStoreError):
                worker = Worker(definitions, options, pace=pace)
                with contextlib.closing(worker):
                    worker.run(self._told.is_set)

    def stop(self) -> None:
        self._told.set()
        self.join(120)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def shared(kafka: Settings, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a server that reads the features of users from Redis."""
    monkeypatch.setenv("TACTFUL_REDIS_URL", redis.url)
    return replace(kafka, online=OnlineSettings(kind="redis"))


@pytest.mark.slow
def test_people_are_read_from_redis(shared: Settings, redis: RedisServer, tmp_path: Path) -> None:
    settings = replace(shared, server=replace(shared.server, after_wait_s=50))

    def recommended() -> int:
        return live.http.post("/v1/recommend", json={"user_id": "u"}).status_code

    with Live(Platform.open(settings, build)) as live:
        worker = Workers(settings, redis.url, tmp_path / "worker")
        try:
            for number in range(1, 4):
                answer = post(live, [view(number, user) for user in people(9)])
                for user in people(9):
                    assert live.views(user, answer["position"]) == number
            features = live.http.get("/v1/users/u2/features").json()
            assert features["features"]["by_category"] == {"kitchen": 3.0}
            redis.kill()
            wait_until(lambda: recommended() == 503)
            refused = live.http.post("/v1/recommend", json={"user_id": "u"})
            assert refused.json()["code"] == "not_ready"
            assert int(refused.headers["retry-after"]) >= 1
            assert live.http.post("/v1/recommend", json={}).status_code == 200
            assert live.http.get("/readyz").json()["checks"]["online"]
            accepted = post(live, [view(4, user) for user in people(9)])
            redis.start()  # empty: the worker writes everything again
            wait_until(lambda: recommended() == 200)
            at = accepted["position"]
            wait_until(lambda: all(live.views(user, at) == 4 for user in people(9)))
        finally:
            worker.stop()


@pytest.mark.slow
def test_people_are_read_from_a_cluster(
    kafka: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot moves, then a node loses its data; lists know all events in the end."""
    online = OnlineSettings(kind="redis", cluster=True)
    server = replace(kafka.server, after_wait_s=50)
    settings = replace(kafka, server=server, online=online)
    with RedisCluster(tmp_path) as redis:
        monkeypatch.setenv("TACTFUL_REDIS_URL", redis.url)
        with Live(Platform.open(settings, build)) as live:
            worker = Workers(settings, redis.url, tmp_path / "worker")
            try:
                for number in range(1, 4):
                    after = post(live, [view(number, user) for user in people(9)])["position"]
                    assert {live.views(user, after) for user in people(9)} == {number}
                    home = redis.node_of("{1}")
                    redis.move("{1}", (home + 1) % 3)
                lost = redis.node_of("{0}")
                redis.servers[lost].kill()
                redis.servers[lost].start()
                redis.wait()
                after = post(live, [view(4, user) for user in people(9)])["position"]
                wait_until(lambda: all(live.views(user, after) == 4 for user in people(9)))
            finally:
                worker.stop()


def test_waiting_ends(shared: Settings) -> None:
    settings = replace(shared, server=replace(shared.server, after_wait_s=0.3))
    with Live(Platform.open(settings, build)) as live:
        position = post(live, [view(1)])["position"]
        late = live.http.post("/v1/recommend", json={"user_id": "u", "after": position})
        assert (late.status_code, late.json()["code"]) == (503, "not_caught_up")


CONTRACT = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 1h, slide: 5m}}
- {name: kinds, entity: user, event: view, aggregate: count, group_by: category,
   window: {size: 1d, slide: 1h}}
- {name: seen, entity: session, event: view, aggregate: last_n, of: item_id, n: 3}
- {name: sold, entity: item, event: view, aggregate: count, window: {size: 1d, slide: 1h}}
- {name: heat, entity: category, event: view, aggregate: count, window: {size: 1d, slide: 1h}}
"""


def test_definitions_are_computed_where_data_are_complete() -> None:
    definitions = load_definitions(
        CONTRACT
        + """
- {name: bought, entity: user, sequence: [view, purchase], within: 1h}
- {name: wanted, entity: item, sequence: [view, purchase], within: 1h}
- {name: fresh, entity: category, join: {event: view, with: item_updates, within: 1m}}
"""
    )
    shared, own = shared_definitions(definitions), own_definitions(definitions)
    assert [one.name for one in shared.all] == ["views", "kinds", "seen", "bought"]
    assert [one.name for one in own.all] == ["sold", "heat", "wanted", "fresh"]
    beside_flink = own_definitions(definitions, patterns=True)
    assert [one.name for one in beside_flink.all] == ["sold", "heat", "bought", "wanted", "fresh"]


def test_feature_sources_agree(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACTFUL_REDIS_URL", redis.url)
    definitions = load_definitions(CONTRACT)
    online = open_redis(OnlineSettings(kind="redis"), definitions)
    whole = Engine(definitions, MemoryState(), EngineOptions(online=online))
    own = Engine(own_definitions(definitions), MemoryState())
    start = now_ms()
    entries = [Item(item_id=f"i{n}", timestamp=start, category=f"c{n % 2}") for n in range(4)]
    log = [encode_entry(item) for item in entries]
    for n in range(100):
        about: dict[str, Any] = {"user_id": f"u{n % 3}", "session_id": f"s{n % 5}"}
        about["item_id"] = f"i{n % 4}"
        event = Event(event_id=str(n), type="view", timestamp=start + n * 1000, **about)
        log.append(encode_entry(event))
    for engine in (whole, own):
        engine.apply(list(enumerate(log)))
        engine.commit()
    shared = SharedFeatures(own, definitions, online)
    at = start + 2 * 3_600_000
    people = (("user", "u1"), ("user", "nobody"), ("session", "s4"))
    for entity, key in (*people, ("item", "i2"), ("category", "c1")):
        for moment in (start + 100_000, at):
            assert shared.read(entity, key, moment) == whole.read(entity, key, moment)
    asked = ("user", ["u0", "nobody", "u2"], ["views"]), ("item", ["i0", "i9"], ["sold"])
    for entity, keys, names in asked:
        columns = [source.read_columns(entity, keys, names, at) for source in (shared, whole)]
        assert np.array_equal(columns[0], columns[1])
    assert shared.items == whole.items
    assert (shared.items_version, shared.watermark) == (whole.items_version, whole.watermark)
    assert shared.marks([0]) == {0: len(log)}
    assert shared.definitions.fingerprint == whole.definitions.fingerprint
    shared.close()


def test_a_store_that_does_not_answer_is_not_asked_again_at_once() -> None:
    definitions = load_definitions(CONTRACT)
    asked = 0

    class Away:
        def get_many(self, keys: Any, *, kind: str = "user") -> Any:
            nonlocal asked
            asked += 1
            raise OnlineStoreError("away")

    now = 0.0
    own, away = Engine(own_definitions(definitions), MemoryState()), Away()
    shared = SharedFeatures(own, definitions, away, clock=lambda: now)  # type: ignore[arg-type]
    for _ in range(5):
        with pytest.raises(ProblemError):
            shared.read("user", "u", 0)
    assert asked == 1
    now = 1.5
    with pytest.raises(ProblemError):
        shared.read("user", "u", 0)
    assert asked == 2
