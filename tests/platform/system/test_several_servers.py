"""Servers behind a balancer on Kafka, Redis and MariaDB: one is killed, one is suspended.

Clients send through a small balancer that repeats a request once at another server. No request
fails, every action reaches the webhook once, and every published number is drawn once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from tests.platform.support import now_ms, wait_until
from tests.platform.webhook_receiver import Shop, receiving
from tests.streaming.brokers import topic_name

from benchmarks.ports import free_port
from tactful_privacy.ledger.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MINUTE, HOUR = 60_000, 3_600_000
FEATURES = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 28d, slide: 1d}}
- {name: again, entity: user, sequence: [view, add_to_cart], within: 5m, emit: coupon}
"""
STATISTICS = """
daily_epsilon: "4"
statistics:
  - {name: pages, event: x.read, by: event.page, keys: [a, b], pane: 1m, cap: 5, epsilon: "1",
     running_total: "1/2", periods: {1d: "1/2"}}
"""


class Server:
    """One server process; it can be killed, suspended and started again."""

    def __init__(self, folder: Path, name: str, environ: Mapping[str, str], kind: str) -> None:
        self.folder, self.name, self.kind = folder, name, kind
        self.environ = {**os.environ, **environ}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", str(self.port), "--dev"] if self.kind == "serve" else []
        common = ["--config", str(self.folder / "tactful.toml")]
        data = ["--data", str(self.folder / self.name)]
        with (self.folder / f"{self.name}.log").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tactful", self.kind, *common, *data, *options],
                env=self.environ,
                stdout=out,
                stderr=out,
            )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def health(self) -> dict[str, Any]:
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=5)
        except httpx.HTTPError:
            return {}
        return dict(answer.json()) if answer.status_code == 200 else {}

    @property
    def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / f"{self.name}.log").read_text()[-3000:]
        return self.health().get("status") == "ok"

    @property
    def holds(self) -> bool:
        return self.health().get("holds_lease") is True


class Balancer:
    """Sends each request to the next server, and once more to another one if it fails."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self.turn = itertools.count()
        self.down: dict[str, float] = {}
        self.failed: list[str] = []
        self.answered = 0
        self.http = httpx.Client(timeout=httpx.Timeout(6, connect=2))

    def send(self, method: str, path: str, body: Any) -> httpx.Response | None:
        problem = ""
        for _ in range(2):
            now = time.monotonic()
            for _ in self.servers:
                server = self.servers[next(self.turn) % len(self.servers)]
                if self.down.get(server.name, 0) <= now:
                    break
            try:
                answer = self.http.request(method, server.url + path, json=body)
            except httpx.HTTPError as error:
                problem = repr(error)
                self.down[server.name] = time.monotonic() + 3
                continue
            if answer.status_code < 500:
                self.answered += 1
                return answer
            problem = f"{server.name}: {answer.status_code} {answer.text[:200]}"
            self.down[server.name] = time.monotonic() + 3
        self.failed.append(problem)
        return None


class Load:
    """A thread that sends events, recommendations and the time of the statistics."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self.people = 0
        self.minute = 0
        self.begin = (now_ms() - 6 * HOUR) // MINUTE * MINUTE
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.stopping.wait(0.2):
            self.step()

    def step(self) -> None:
        person, now = f"p{self.people}", now_ms()
        self.people += 1
        about: dict[str, Any] = {"user_id": person, "item_id": "tea"}
        view: dict[str, Any] = {
            "event_id": f"{person}-v",
            "type": "view",
            "timestamp": now - 1_000,
            **about,
        }
        cart = {"event_id": f"{person}-c", "type": "add_to_cart", "timestamp": now, **about}
        # Statistics have their own clock, which runs faster.
        read: dict[str, Any] = {
            "type": "x.read",
            "timestamp": self.begin + self.minute * MINUTE + 10_000,
        }
        read |= {"event_id": f"{person}-r", "user_id": person}
        read["properties"] = {"page": "ab"[self.people % 2]}
        events = [view, cart, read]
        if self.people % 4 == 0:
            self.minute += 1
            now = self.begin + self.minute * MINUTE + 70_000
            clock = {"event_id": f"t{now}", "type": "x.clock", "timestamp": now}
            events.append({**clock, "user_id": "clock"})
        answer = self.balancer.send("POST", "/v1/events", events)
        if answer is not None:
            assert answer.json()["rejected"] == [], answer.text
        self.balancer.send("POST", "/v1/recommend", {"user_id": person, "count": 1})


@pytest.fixture
def shop() -> Iterator[Shop]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def environ(mysql_url: str, redis_url: str) -> Iterator[dict[str, str]]:
    """Addresses of Redis and of a database of its own."""
    place = sa.make_url(mysql_url)
    own = place.set(database=f"servers_{uuid.uuid4().hex[:12]}")
    engine = sa.create_engine(place)
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {own.database} CHARACTER SET utf8mb4"))
    url = own.render_as_string(hide_password=False)
    yield {"DATABASE": url, "TACTFUL_REDIS_URL": redis_url}
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP DATABASE {own.database}"))
    engine.dispose()


@pytest.fixture
def servers(
    tmp_path: Path, environ: dict[str, str], apache_servers: str, shop: Shop
) -> Iterator[list[Server]]:
    """Two running servers and a worker, with one configuration for all."""
    (tmp_path / "features.yaml").write_text(FEATURES)
    (tmp_path / "statistics.yaml").write_text(STATISTICS)
    name = topic_name()
    (tmp_path / "tactful.toml").write_text(f"""
[log]
kind = "kafka"
brokers = "{apache_servers}"
topic = "{name}"
consumer_threads = 1
linger_ms = 5
[online]
kind = "redis"
prefix = "{name}"
[worker]
group = "{name}"
lead_ms = 86400000
[metadata]
url_env = "DATABASE"
[engine]
features = "{tmp_path}/features.yaml"
clock = "events"
[statistics]
definitions = "{tmp_path}/statistics.yaml"
ledger_url_env = "DATABASE"
clock = "replay"
[actions]
webhook_url = "http://127.0.0.1:{shop.server_port}/"
[consent]
default = "assume"
keyring = "{tmp_path}/keyring.json"
[training]
recall_seconds = 0
quality_minutes = 0
""")
    worker = Server(tmp_path, "worker", environ, "worker")
    made = [Server(tmp_path, f"server-{number}", environ, "serve") for number in range(2)]
    try:
        made[0].start()
        wait_until(lambda: made[0].ready, 240)  # it makes topic, keyring and tables
        worker.start()
        made[1].start()
        wait_until(lambda: made[1].ready, 240)
        yield made
    finally:
        for process in (*made, worker):
            process.kill()


def holder(servers: list[Server]) -> Server:
    """Wait until one server holds the lease, and return it."""
    found: list[Server] = []

    def one() -> bool:
        found[:] = [server for server in servers if server.holds]
        return len(found) == 1

    wait_until(one)
    return found[0]


def test_a_killed_and_a_suspended_holder_lose_nothing_and_repeat_nothing(
    servers: list[Server], environ: dict[str, str], shop: Shop
) -> None:
    assert not shop.attempts
    balancer = Balancer(servers)
    load = Load(balancer)
    balancer.send("PUT", "/v1/items", [{"item_id": "tea", "category": "drinks"}])
    first = holder(servers)
    load.thread.start()
    try:
        wait_until(lambda: len(shop.attempts) > 10)
        first.kill()
        first.start()
        second = holder(servers)
        wait_until(lambda: first.ready, 240)
        sent = len(shop.attempts)
        wait_until(lambda: len(shop.attempts) > sent)

        second.signal(signal.SIGSTOP)
        others = [server for server in servers if server is not second]
        third = holder(others)
        sent = len(shop.attempts)
        wait_until(lambda: len(shop.attempts) > sent)
        second.signal(signal.SIGCONT)
        wait_until(lambda: second.ready)
        assert third.holds and not second.holds
        # Matches are certain once time has gone on in their partition, so the load goes on.
        people = {f"p{number}" for number in range(load.people)}
        wait_until(lambda: {*_receivers(shop)} >= people)

        third.signal(signal.SIGTERM)  # a clean stop hands over at once
        wait_until(lambda: second.holds)
        panes = load.minute
        wait_until(lambda: len(_pages(environ["DATABASE"], "pages")) >= panes - 1)
    finally:
        load.stopping.set()
        load.thread.join()
    assert balancer.failed == [] and balancer.answered > 50
    counts = _receivers(shop)
    assert counts.keys() >= people
    repeated = sum(counts.values()) - len(counts)
    assert repeated <= 2, "at most the request that was under way at the kill or the stop"
    keys = Counter(headers["Idempotency-Key"] for headers, _ in shop.attempts)
    assert len(keys) == len(counts), "a repetition has the same id"
    starts = [release.start for release in _pages(environ["DATABASE"], "pages")]
    assert starts == list(range(starts[0], starts[0] + len(starts) * MINUTE, MINUTE)), "no gap"
    totals = [release.start for release in _pages(environ["DATABASE"], "pages.total")]
    assert totals == starts


def _receivers(shop: Shop) -> Counter[str]:
    """Return how often a coupon of each user was sent."""
    bodies = [json.loads(body) for _, body in [*shop.attempts]]
    return Counter(body["user_id"] for body in bodies if body["type"] == "x.coupon")


def _pages(url: str, name: str) -> list[Any]:
    with contextlib.closing(Ledger(url)) as ledger:
        return list(ledger.read(name, limit=1_000).releases)
