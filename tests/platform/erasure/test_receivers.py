"""Erasures handed on: to the webhook, and to databases that sinks write."""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.platform.databases import SERVERS
from tests.platform.support import Live, build, now_ms, small_settings, view
from tests.platform.webhook_receiver import Shop, receiving

from tactful.config.server import ActionSettings
from tactful.config.settings import Settings
from tactful.erasure.erase import request_erasure, run_erasures, settle_erasures
from tactful.erasure.receivers import ErasureNotices, receivers_of
from tactful.errors import ConfigError
from tactful.maintenance.doctor import _metadata
from tactful.metadata.connections import open_installation
from tactful.schemas.users import Erasure
from tactful.server.platform import Platform
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.errors import LogError
from tactful_streaming.kafka import tombstones as tombstones_module
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.tombstones import write_tombstones
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.sinks.sink import WindowRow
from tactful_streaming.sinks.sql import SqlRows
from tactful_streaming.sinks.webhook import SIGNATURE_HEADER, verify_signature

SECRET = "a secret of the shop"


@pytest.fixture
def shop() -> Iterator[Shop]:
    with receiving() as server:
        yield server


def settings_of(tmp_path: Path, shop: Shop) -> Settings:
    (tmp_path / "secret").write_text(SECRET)
    url = f"http://127.0.0.1:{shop.server_port}/actions"
    actions = ActionSettings(webhook_url=url, secret_file=tmp_path / "secret")
    return replace(small_settings(tmp_path), actions=actions)


def leave(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        sent = [view(1, "ada-17", device_id="dev-1"), view(2, "bob-18", device_id="dev-2")]
        live.views("ada-17", live.http.post("/v1/events", json=sent).json()["position"])


@contextlib.contextmanager
def installed(settings: Settings, late_ms: int = 0) -> Iterator[Installation]:
    def clock() -> int:
        return now_ms() + late_ms

    with contextlib.closing(open_installation(settings)) as metadata:
        yield Installation(
            settings, metadata, open_suppression(settings, metadata, clock=clock), clock
        )


def erase(settings: Settings, person: str = "ada-17") -> Erasure:
    with installed(settings) as installation:
        receipt = request_erasure(installation, person).receipt
        run_erasures(installation)
        found = installation.jobs.find(receipt)
    assert found is not None
    return found


def settled(settings: Settings, late_ms: int = 0) -> Erasure | None:
    with installed(settings, late_ms) as installation:
        done = settle_erasures(installation)
        waiting = installation.jobs.waiting()
    assert bool(done) != bool(waiting)
    return done[0] if done else None


def ids_left(settings: Settings) -> list[str]:
    """Files of the data directory with the id of the erased user."""
    files = (path for path in settings.storage.data.rglob("*") if path.is_file())
    return [str(path) for path in files if b"ada-17" in path.read_bytes()]


def test_webhook(tmp_path: Path, shop: Shop) -> None:
    """The webhook gets a signed notice with receipt and ids, after which no id is stored."""
    settings = settings_of(tmp_path, shop)
    leave(settings)
    done = erase(settings)
    assert done.state == "done"
    ((headers, body),) = shop.attempts
    at = int(time.time())
    assert verify_signature(SECRET.encode(), body, headers[SIGNATURE_HEADER], now=at)
    assert headers["Idempotency-Key"] == f"erasure-{done.receipt}"
    assert json.loads(body) == {
        "type": "erasure",
        "receipt": done.receipt,
        "requested_at": done.requested_at,
        "user_ids": ["ada-17"],
        "device_ids": ["dev-1"],
    }
    (step,) = (step for step in done.steps if step.place == "webhook")
    assert step.note == "handed on" and step.at is not None
    assert ids_left(settings) == []


@pytest.mark.slow
@pytest.mark.parametrize("status", [500, 301, 410])
def test_unreachable_receiver(tmp_path: Path, shop: Shop, status: int) -> None:
    """The receipt waits for a receiver that refuses, and doctor names it, late as a failure."""
    settings = settings_of(tmp_path, shop)
    leave(settings)
    shop.status = status
    waiting = erase(settings)
    assert (waiting.state, waiting.done_at) == ("purging", None)
    (step,) = (step for step in waiting.steps if step.place == "webhook")
    assert step.at is None and step.note == f"waits: answered with status {status}"
    assert any(step.place == "verification" for step in waiting.steps)
    (check,) = (check for check in _metadata(settings) if check.name == "erasures")
    assert (check.state, check.said) == ("warning", "1 wait, not confirmed by webhook")
    with installed(settings) as installation:
        notices = ErasureNotices(settings)
        for _ in range(3):  # the second and third come too early
            assert settle_erasures(installation, notices) == []
        assert notices.failing == 1
    assert len(shop.attempts) == 2
    shop.status = 204
    done = settled(settings)
    assert done is not None and done.state == "done"
    assert len({headers["Idempotency-Key"] for headers, _ in shop.attempts}) == 1
    assert json.loads(shop.attempts[-1][1])["device_ids"] == ["dev-1"]
    assert ids_left(settings) == []


_ERASE = """
import contextlib, pickle, sys
from pathlib import Path
from tactful.erasure.erase import request_erasure, run_erasures
from tactful.metadata.connections import open_installation
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful.util.clock import now_ms

settings = pickle.loads(Path(sys.argv[1]).read_bytes())
with contextlib.closing(open_installation(settings)) as metadata:
    suppression = open_suppression(settings, metadata, clock=now_ms)
    installation = Installation(settings, metadata, suppression, now_ms)
    if sys.argv[2] == "request":
        request_erasure(installation, "ada-17")
    run_erasures(installation)
"""


@pytest.mark.slow
def test_killed_between_post_and_answer(tmp_path: Path, shop: Shop) -> None:
    """A process that is killed while the receiver has the notice sends it again."""
    settings = settings_of(tmp_path, shop)
    leave(settings)
    shop.answers.clear()
    (tmp_path / "settings").write_bytes(pickle.dumps(settings))
    command = [sys.executable, "-c", _ERASE, str(tmp_path / "settings")]
    with subprocess.Popen([*command, "request"]) as process:
        limit = time.monotonic() + 120
        while not shop.attempts and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        process.kill()
    assert len(shop.attempts) == 1
    shop.answers.set()
    subprocess.run([*command, "resume"], check=True, timeout=120)
    (_, first), (_, second) = shop.attempts
    assert first == second and json.loads(first)["device_ids"] == ["dev-1"]
    with installed(settings) as installation:
        assert installation.jobs.waiting() == [] and installation.jobs.incomplete() == 0
    assert ids_left(settings) == []


@pytest.mark.slow
def test_server(tmp_path: Path, shop: Shop) -> None:
    """A running server hands an erasure on, and shows a receiver that fails."""
    settings = settings_of(tmp_path, shop)
    shop.status = 503
    with Live(Platform.open(settings, build)) as live:
        sent = [view(1, "ada-17", device_id="dev-1")]
        live.views("ada-17", live.http.post("/v1/events", json=sent).json()["position"])
        receipt = live.http.delete("/v1/users/ada-17").json()["receipt"]
        limit = time.monotonic() + 90

        def state_until(state: str) -> Any:
            while time.monotonic() < limit:
                erasure = live.http.get(f"/v1/erasures/{receipt}").json()
                places = {step["place"]: step for step in erasure["steps"]}
                if erasure["state"] == state and "webhook" in places and shop.attempts:
                    return places["webhook"]
                time.sleep(0.1)
            raise AssertionError(erasure)

        state_until("purging")
        assert live.platform.notices.failing == 1
        assert "tactful_erasure_receivers_failing 1.0" in live.http.get("/metrics").text
        shop.status = 200
        assert state_until("done")["at"]
    assert ids_left(settings) == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", SERVERS)
def test_sinks(
    backend: str,
    tmp_path: Path,
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Rows of the user leave the databases of sinks, and those of nobody else."""
    url, other = request.getfixturevalue(f"{backend}_url"), f"sqlite:///{tmp_path}/rows.db"
    settings = settings_of(tmp_path, shop)
    settings = replace(settings, consent=replace(settings.consent, sinks_env="TEST_SINKS"))
    monkeypatch.setenv("TEST_SINKS", f"{url} {other}\n{url}")
    leave(settings)
    kept = ["bob-18", "ada-17 ", "ADA-17", "ada-1", "device:dev-2"]
    keys = ["ada-17", "device:dev-1", *kept]
    rows = [WindowRow("views", key, 0, 60_000, msgspec.Raw(b"1")) for key in keys]
    rows += [WindowRow("grouped", "ada-17", 0, 60_000, msgspec.Raw(b"1"), g) for g in "abc"]
    targets = [SqlRows(url), SqlRows(other)]
    for target in targets:
        target.erase(keys)
        target.write(rows)
    done = erase(settings)
    assert done.state == "done"
    steps = {step.place: step for step in done.steps if step.place.startswith("sink ")}
    assert len(steps) == 2 and {step.removed for step in steps.values()} == {5}
    assert not any("password" in place or "@" in place for place in steps)
    for target in targets:
        assert [bool(found) for found in target.read(keys)] == [False, False] + [True] * len(kept)
        target.close()
    # A database that is away keeps its own step open, and the others are not asked again.
    monkeypatch.setenv("TEST_SINKS", f"{other} mysql://nobody:s3cret@127.0.0.1:1/none")
    waiting = erase(settings, "bob-18")
    open_steps = [step for step in waiting.steps if step.at is None]
    assert [step.place for step in open_steps] == ["sink mysql 127.0.0.1/none"]
    assert "s3cret" not in open_steps[0].note and "bob-18" not in open_steps[0].note
    assert settled(settings) is None and len(shop.attempts) == 2
    monkeypatch.setenv("TEST_SINKS", other)  # not configured any more
    done_without = settled(settings)
    assert done_without is not None and all(step.at for step in done_without.steps)


@pytest.mark.slow
@pytest.mark.service("kafka")
def test_topics(kafka_servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key with rows of the user gets one tombstone, and no key of anybody else."""
    from confluent_kafka import Consumer, Producer, TopicPartition

    topic = f"test-{uuid.uuid4().hex}"
    kafka = KafkaSettings(kafka_servers, topic)
    ensure_topic(kafka, partitions=2)
    rows: list[tuple[str, dict[str, Any]]] = [
        ("ada-17|", {"feature": "views", "entity_key": "ada-17"}),
        ("ada-17|shoes", {"feature": "by", "entity_key": "ada-17", "group_key": "shoes"}),
        ("ada-17|shoes|x", {"feature": "by", "entity_key": "ada-17|shoes", "group_key": "x"}),
        ("i-1|", {"feature": "sold", "entity_key": "i-1", "note": "ada-17"}),
        ("device:dev-1|", {"feature": "views", "entity_key": "device:dev-1"}),
    ]
    event = {"kind": "event", "event_id": "e", "type": "view", "timestamp": 1, "user_id": "ada-17"}
    rows += [("ada-17", {"features": ["views"], "event": event})]
    rows += [("bob-18", {"features": ["views"], "event": {**event, "user_id": "bob-18"}})]
    producer = Producer({"bootstrap.servers": kafka_servers})
    for number, (key, value) in enumerate([*rows, ("ada-17|", rows[0][1])]):
        producer.produce(topic, json.dumps(value), key, partition=number % 2)
    producer.produce(topic, b"no row", b"ada-17|damaged", partition=0)
    assert producer.flush(30) == 0
    subjects = SubjectIds(users=frozenset({"ada-17"}), devices=frozenset({"dev-1"}))
    assert write_tombstones(kafka, subjects) == 5  # a key is written to each of its partitions
    assert write_tombstones(kafka, subjects) == 0
    reader = Consumer({"bootstrap.servers": kafka_servers, "group.id": topic})
    reader.assign([TopicPartition(topic, number, 0) for number in range(2)])
    tombstones: list[Any] = []
    while len(tombstones) < 5:
        message = reader.poll(30)
        assert message is not None and message.error() is None
        if message.value() is None:
            tombstones.append((message.partition(), message.key()))
    reader.close()
    assert sorted(tombstones) == [
        (0, b"ada-17|"),
        (0, b"device:dev-1|"),
        (1, b"ada-17"),
        (1, b"ada-17|"),
        (1, b"ada-17|shoes"),
    ]
    monkeypatch.setattr(tombstones_module, "_TIMEOUT_S", 0.5)
    with pytest.raises(LogError):
        write_tombstones(KafkaSettings("127.0.0.1:1", topic), subjects)


def test_topics_of_the_settings(tmp_path: Path) -> None:
    """Topics are receivers only with the log in Kafka, and each one once."""
    settings = small_settings(tmp_path)
    more = replace(settings, consent=replace(settings.consent, topics="fired matches"))
    with pytest.raises(ConfigError, match=r"consent\.topics"):
        receivers_of(more)
    workers = replace(settings.worker, fired_topic="fired", late_topic="late")
    assert receivers_of(replace(settings, worker=workers)) == []
    log = replace(settings.log, kind="kafka", brokers="127.0.0.1:1")
    found = receivers_of(replace(more, worker=workers, log=log))
    assert [receiver.place for receiver in found] == [
        *("topic fired", "topic matches", "topic late")
    ]
