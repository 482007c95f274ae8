"""Lists made from what a Flink cluster computed: Kafka, Flink, Redis, MariaDB, HTTP."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from tests.platform.databases import execute
from tests.platform.support import FEATURES, Live, build, view, wait_until
from tests.streaming.brokers import topic_name
from tests.streaming.flink_cluster import FlinkProcesses, flink_processes
from tests.streaming.redis_server import RedisServer

from tactful.config.load import load_settings
from tactful.config.settings import Settings
from tactful.metadata.store import VERSION_TABLE
from tactful.metadata.tables import tables
from tactful.server.platform import Platform
from tactful_streaming.flink.rest_client import FlinkCluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.service("kafka", "flink", "mysql"),
    pytest.mark.timeout(900),
]

PEOPLE = ["u0", "u1", "ä b|c", "𝔘", "5"]


@pytest.fixture
def installation(
    tmp_path: Path, kafka_servers: str, mysql_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, RedisServer]]:
    """A directory with settings and definitions, and an empty Redis and database."""
    names = [*tables.tables, VERSION_TABLE]
    drops = [f"DROP TABLE IF EXISTS {name}" for name in names]
    execute(mysql_url, *drops)
    (tmp_path / "features.yaml").write_text(FEATURES)
    log = topic_name()
    (tmp_path / "tactful.toml").write_text(
        f"""
[server]
dev = true
after_wait_s = 60
[storage]
data = "data"
reports = "reports"
[log]
kind = "kafka"
brokers = "{kafka_servers}"
topic = "{log}"
consumer_threads = 1
[online]
kind = "redis"
[metadata]
url_env = "TACTFUL_METADATA_URL"
[engine]
kind = "flink"
features = "features.yaml"
[flink]
entities_topic = "{log}-entities"
erased_topic = "{log}-erased"
[identity]
enabled = false
[consent]
default = "assume"
[worker]
group = "{log}"
"""
    )
    with RedisServer(tmp_path) as redis:
        monkeypatch.setenv("TACTFUL_REDIS_URL", redis.url)
        monkeypatch.setenv("TACTFUL_METADATA_URL", mysql_url)
        yield tmp_path, redis
    execute(mysql_url, *drops)


def test_from_event_to_list(
    installation: tuple[Path, RedisServer],
    flink_home: Path,
    record_property: Any,
) -> None:
    folder, redis = installation
    settings = load_settings(folder / "tactful.toml", overrides={"server.port": 0})
    with (
        flink_processes(flink_home, folder) as flink,
        Live(Platform.open(settings, build)) as live,
        worker(folder) as copier,
    ):
        live.http.put("/v1/items", json=[{"item_id": f"i-{n}"} for n in range(7)])
        counts = 3
        for number in range(counts):  # before there is a job
            last = post(live, [view(number, person) for person in PEOPLE])
        job = submit(folder, settings, flink, flink_home)
        assert all(live.views(person, last) == counts for person in PEOPLE)
        taken = [event_to_list(live, counts + number) for number in range(60)]
        counts += 60
        taken.sort()
        record_property("freshness_p50_ms", round(1000 * taken[30]))
        record_property("freshness_p99_ms", round(1000 * taken[-1]))

        flink.kill_worker()
        last = post(live, [view(counts, person) for person in PEOPLE])
        flink.start()
        counts += 1
        wait_until(lambda: views(live, "u1", last) == counts, seconds=120)
        last = post(live, [view(counts, person) for person in PEOPLE])
        counts += 1
        assert all(live.views(person, last) == counts for person in PEOPLE)

        redis_client.Redis.from_url(redis.url).flushall()
        wait_until(lambda: all(views(live, p, last) == counts for p in PEOPLE), seconds=60)

        check_erasure(live, redis, copier)
        check_receipt(live, flink)
        with FlinkCluster(flink.url) as cluster:
            assert cluster.state(job) == "RUNNING"


def check_erasure(live: Live, redis: RedisServer, copier: subprocess.Popen[bytes]) -> None:
    """An erased person is in Redis no more, and does not come back with a later event."""
    known = redis_client.Redis.from_url(redis.url)

    def kept() -> list[Any]:
        found: list[Any] = known.keys("*:user:u1")
        return found

    assert kept()
    assert live.http.delete("/v1/users/u1").status_code in (200, 202)
    wait_until(lambda: not kept(), seconds=60)
    last = post(live, [view(1000, person) for person in PEOPLE if person != "u1"])
    assert live.views("u0", last) > 0
    assert not kept()
    assert copier.poll() is None


def check_receipt(live: Live, flink: FlinkProcesses) -> None:
    """An erasure is done once the job has dropped the person's state, and not before."""

    def requested(person: str) -> str:
        return str(live.http.delete(f"/v1/users/{person}").json()["receipt"])

    def state(receipt: str) -> str:
        return str(live.http.get(f"/v1/erasures/{receipt}").json()["state"])

    first = requested("u0")
    wait_until(lambda: state(first) == "done", seconds=60)
    flink.kill_worker()
    second = requested("5")
    wait_until(lambda: state(second) == "purging", seconds=60)
    time.sleep(4)  # the owners of partitions look for erasures each second
    assert state(second) == "purging"
    flink.start()
    wait_until(lambda: state(second) == "done", seconds=120)


def event_to_list(live: Live, number: int) -> float:
    """Return the seconds from an event to a list that knows it."""
    begin = time.monotonic()
    last = post(live, [view(number, person) for person in PEOPLE])
    assert live.views(PEOPLE[number % len(PEOPLE)], last) == number + 1
    return time.monotonic() - begin


def views(live: Live, person: str, after: str) -> float | None:
    """Return the views of a list for a person; None while there is none."""
    asked = {"user_id": person, "after": after, "explain": True}
    answer = live.http.post("/v1/recommend", json=asked)
    if answer.status_code != 200:
        return None
    return float(answer.json()["explanation"]["rules"]["views"])


def post(live: Live, events: list[dict[str, Any]]) -> str:
    answer = live.http.post("/v1/events", json=events)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["position"])


@contextmanager
def worker(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``tactful worker``, started again where that is its exit code."""
    command = [sys.executable, "-m", "tactful", "worker", "--supervise", "--config"]
    with (folder / "worker.log").open("wb") as output:
        process = subprocess.Popen(
            [*command, str(folder / "tactful.toml"), "--json"], stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def submit(folder: Path, settings: Settings, flink: FlinkProcesses, flink_home: Path) -> str:
    """``tactful flink submit``; return the job."""
    options = {
        "--output": "entities",
        "--kafka": settings.log.brokers,
        "--topic": settings.log.topic,
        "--entities-topic": settings.flink.entities_topic,
        "--erased-topic": settings.flink.erased_topic,
        "--group": settings.log.topic + "-flink",
        "--cluster": flink.url,
        "--flink-home": str(flink_home),
        "--checkpoint": "500ms",
        "--parallelism": "2",
    }
    named = [part for option in options.items() for part in option]
    done = subprocess.run(
        [sys.executable, "-m", "tactful", "flink", "submit", str(folder / "features.yaml"), *named],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
