"""Workers erase users: their remaining records in Kafka have no effect."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.platform.erasure.test_erase import FEATURES, Tokens, leave_traces, scan
from tests.platform.erasure.test_erase import others as server_others
from tests.platform.metadata.test_rights import installed
from tests.platform.support import Live, build, now_ms, small_settings, wait_until
from tests.streaming.brokers import topic_name
from tests.streaming.redis_server import RedisServer
from tests.streaming.shard import read_topic

from tactful.config.load import load_settings
from tactful.config.settings import Settings
from tactful.erasure.erase import request_erasure, run_erasures, settle_erasures
from tactful.erasure.offline_stores import purge_spool
from tactful.event_log.encryption import open_seal
from tactful.metadata.connections import kafka_settings, make_topic
from tactful.server.platform import Platform
from tactful.subjects.trace_search import SearchResult
from tactful_streaming.contract.log_entries import Event, Tick, User, encode_entry, route_key
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.errors import StreamingError
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.encrypted_log import Seal, SealedPartitions

pytest.importorskip("confluent_kafka")

DEADLINE_S = 120.0
FIELDS = ("user", "device", "session", "event", "recommendation", "query", "page", "email")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def config(
    tmp_path: Path, kafka_servers: str, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv("TACTFUL_REDIS_URL", redis.url)
    (tmp_path / "features.yaml").write_text(FEATURES)
    topic = topic_name()
    file = tmp_path / "tactful.toml"
    file.write_text(
        f'[engine]\nfeatures = "{tmp_path / "features.yaml"}"\n'
        f'[storage]\ndata = "{tmp_path / "data"}"\n'
        f'[log]\nkind = "kafka"\nbrokers = "{kafka_servers}"\ntopic = "{topic}"\n'
        "consumer_threads = 1\n"
        '[online]\nkind = "redis"\n'
        f'[worker]\ngroup = "{topic}"\nfired_topic = "{topic}-fired"\nidle_s = 0.2\n'
        f'checkpoints = "{tmp_path / "data" / "checkpoints"}"\ncheckpoint_s = 1\n'
    )
    return file


class Worker:
    """``tactful worker`` as a process of its own."""

    def __init__(self, config: Path, output: Path) -> None:
        self._output = output
        command = [sys.executable, "-m", "tactful", "worker", "--config", str(config), "--json"]
        with output.open("wb") as out, output.with_suffix(".err").open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)

    def offsets(self) -> dict[str, int]:
        lines = self._output.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        partitions = json.loads(whole[-1])["partitions"] if whole else {}
        return {number: at["committed"] for number, at in partitions.items()}

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def working(config: Path, output: Path) -> Iterator[Worker]:
    worker = Worker(config, output)
    try:
        yield worker
    finally:
        if worker.process.poll() is None:
            worker.kill()


def append(
    settings: Settings, entries: Sequence[Any], *, seal: Seal | None = None
) -> dict[str, int]:
    """Append to the log; the ends of the partitions."""
    kafka = kafka_settings(settings.log)
    make_topic(settings.log, kafka)
    payloads = [encode_entry(entry, "json") for entry in entries]
    keys = [route_key(entry) for entry in entries]
    with KafkaLog(kafka) as log:
        if seal is None:
            ends = log.append(payloads, keys)
        else:
            through = SealedPartitions(log, seal)
            ends = through.submit(payloads, keys).result(60)
            through.close()
    return {str(number): end for number, end in ends.items()}


def work_to(worker: Worker, ends: dict[str, int]) -> None:
    def there() -> bool:
        assert worker.process.poll() is None, "the worker ended"
        offsets = worker.offsets()
        return all(offsets.get(number, 0) >= end for number, end in ends.items())

    wait_until(there, DEADLINE_S)


def life(tokens: Tokens, name: str, at: int) -> list[Any]:
    """A user with a description, anonymous and known events, and a coupon."""
    common = {
        "session_id": tokens["session"],
        "recommendation_id": tokens["recommendation"],
        "context": {"page": tokens["page"]},
        "item_id": "i-1",
    }

    def event(number: int, kind: str, user: bool, **more: Any) -> Event:
        return Event(
            event_id=f"{tokens['event']}-{name}-{number}",
            type=kind,
            timestamp=at + number,
            user_id=tokens["user"] if user else None,
            device_id=tokens["device"],
            **{**common, **more},
        )

    return [
        User(user_id=tokens["user"], timestamp=at, properties={"email": tokens["email"]}),
        event(0, "view", False),
        event(1, "x.login", True),
        event(2, "view", False),
        event(3, "view", True),
        event(4, "search", True, properties={"query": tokens["query"]}),
        event(5, "add_to_cart", True),
    ]


def others(name: str, at: int, count: int = 12) -> list[Any]:
    return [
        Event(
            event_id=f"other-{name}-{number}",
            type="view",
            timestamp=at + number,
            user_id=f"other-{number % 3}",
            item_id="i-2",
            session_id=f"visit-{number % 3}",
        )
        for number in range(count)
    ]


def redis_bytes(redis: RedisServer) -> bytes:
    """All keys and values."""
    import redis as client

    with client.Redis.from_url(redis.url) as opened:
        keys = list(opened.scan_iter())
        return b"\0".join([*keys, *(opened.get(key) or b"" for key in keys)])


def topic_bytes(settings: Settings, topic: str) -> bytes:
    kafka = replace(kafka_settings(settings.log), topic=topic)
    records = read_topic(kafka, uncommitted=True).values()
    return b"\0".join(value for partition in records for _, value in partition)


def written_bytes(settings: Settings) -> bytes:
    """Stored keys and values of the log's topic."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    servers = {"bootstrap.servers": settings.log.brokers}
    consumer = Consumer({**servers, "group.id": "scan", "enable.partition.eof": True})
    topic, parts = settings.log.topic, []
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(2)])
        ends = 0
        until = time.monotonic() + DEADLINE_S
        while ends < 2:
            assert time.monotonic() < until, "the topic has no end"
            message = consumer.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is None:
                parts += [message.key() or b"", message.value() or b""]
            else:
                ends += error.code() == KafkaError._PARTITION_EOF
    finally:
        consumer.close()
    return b"\0".join(parts)


class Passed:
    """A seal for records that are sealed already."""

    def __init__(self, records: list[bytes]) -> None:
        self._records = records

    def seal(self, payloads: Sequence[bytes]) -> list[bytes]:
        return self._records

    def open(self, payloads: Sequence[bytes]) -> list[bytes]:
        return list(payloads)


def hits(needles: list[bytes], data: bytes) -> int:
    return sum(needle in data for needle in needles)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_erased_records_have_no_effect(config: Path, redis: RedisServer, tmp_path: Path) -> None:
    settings = load_settings(config)
    data, topic = settings.storage.data, settings.log.topic
    tokens = Tokens(*FIELDS)
    needles = tokens.needles()
    at = now_ms() - 60_000
    ends = append(settings, [*life(tokens, "first", at), *others("first", at)])
    with working(config, tmp_path / "one") as worker:
        work_to(worker, ends)
        wait_until(lambda: b"other-1" in redis_bytes(redis), DEADLINE_S)
        wait_until(lambda: any((data / "checkpoints").rglob("CURRENT")), DEADLINE_S)
        # The coupon follows: what people did reached the log again.
        wait_until(lambda: b'"x.coupon"' in topic_bytes(settings, topic), DEADLINE_S)
        worker.kill()
    assert scan(data / "partitions", needles)
    assert scan(data / "checkpoints", needles)
    assert hits(needles, redis_bytes(redis))
    with installed(settings) as installation:
        receipt = request_erasure(installation, tokens["user"])
        (told,) = run_erasures(installation)
        assert (told.receipt, told.state) == (receipt.receipt, "purging")
        assert {step.place: step.removed for step in told.steps}["partitions"] == 0
        assert settle_erasures(installation) == []
        # Killed again and again on the way; each attempt leaves it further or as it was.
        for attempt in range(3):
            with working(config, tmp_path / f"killed-{attempt}") as worker:
                until = time.monotonic() + 0.8 + 0.5 * attempt
                while time.monotonic() < until:
                    time.sleep(0.05)
                worker.kill()
        with working(config, tmp_path / "two") as worker:
            wait_until(lambda: bool(settle_erasures(installation)), DEADLINE_S)
            done = installation.jobs.find(receipt.receipt)
            assert done is not None
            assert done.state == "done"
            before = topic_bytes(settings, f"{topic}-fired")
            # Late, from a queue on a device; and a day that lets windows end.
            late = [*life(tokens, "late", at + 1_000), *others("late", at + 500 * 86_400_000)]
            work_to(worker, append(settings, late))
            worker.end()
    assert scan(data, needles) == {}
    assert hits(needles, redis_bytes(redis)) == 0
    fired = topic_bytes(settings, f"{topic}-fired")
    assert b"other-1" in fired[len(before) :]
    assert hits(needles, fired) == hits(needles, before)
    log = topic_bytes(settings, topic)
    assert log.count(b'"x.coupon"') == 1
    assert hits(needles, log), "Kafka holds them still"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_replay_leaves_out_the_erased(config: Path, redis: RedisServer, tmp_path: Path) -> None:
    settings = load_settings(config)
    tokens = Tokens(*FIELDS)
    needles = tokens.needles()
    at = now_ms() - 60_000
    with installed(settings) as installation:
        request_erasure(installation, tokens["user"])
        installation.suppression.suppress([f"device:{tokens['device']}"])
    everything = [*life(tokens, "all", at), *others("all", at)]
    ends = append(settings, [*everything, *others("end", at + 500 * 86_400_000)])
    with working(config, tmp_path / "replay") as worker:
        work_to(worker, ends)
        worker.end()
    assert scan(settings.storage.data / "partitions", needles) == {}
    assert hits(needles, redis_bytes(redis)) == 0
    assert b"other-1" in redis_bytes(redis)
    fired = topic_bytes(settings, f"{settings.log.topic}-fired")
    assert b"other-1" in fired
    assert hits(needles, fired) == 0
    assert b'"x.coupon"' not in topic_bytes(settings, settings.log.topic)


def seal_log(config: Path, key: Path) -> None:
    """Settings that seal the log, without windows, whose result rows are unsealed."""
    key.write_text("5a" * 32)
    kept = [line for line in config.read_text().splitlines() if not line.startswith("fired_topic")]
    text = "\n".join(kept)
    config.write_text(f'{text}\n[privacy]\nsealed_log = true\nmaster_key_file = "{key}"\n')


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sealed_topics_hide_the_erased(config: Path, redis: RedisServer, tmp_path: Path) -> None:
    seal_log(config, tmp_path / "master.key")
    settings = load_settings(config)
    settings.storage.data.mkdir()
    tokens = Tokens(*FIELDS)
    needles = tokens.needles()
    at = now_ms() - 60_000
    seal = open_seal(settings, clock=now_ms)
    assert seal is not None
    # From a queue that was sealed before the erasure, and is sent after it.
    late = life(tokens, "late", at + 1_000)
    queued = seal.seal([encode_entry(entry, "json") for entry in late])
    ends = append(settings, [*life(tokens, "first", at), *others("first", at)], seal=seal)
    with working(config, tmp_path / "one") as worker:
        work_to(worker, ends)
        # The coupon comes back through the log, sealed as well.
        wait_until(lambda: b"x.coupon" in opened_bytes(settings, seal), DEADLINE_S)
        wait_until(lambda: hits(needles, redis_bytes(redis)) > 0, DEADLINE_S)
        assert hits(needles, written_bytes(settings)) == 0
        assert hits(needles, opened_bytes(settings, seal)) > 0
        with installed(settings) as installation:
            receipt = request_erasure(installation, tokens["user"])
            (told,) = run_erasures(installation)
            assert {step.place: step.removed for step in told.steps}["keys"] == 2
            wait_until(
                lambda: (
                    bool(settle_erasures(installation))
                    or getattr(installation.jobs.find(receipt.receipt), "state", "") == "done"
                ),
                DEADLINE_S,
            )
        ends = append(settings, late, seal=Passed(queued))
        more = append(settings, others("more", at + 2_000), seal=seal)
        work_to(worker, {**ends, **more})
        worker.end()
    opened = opened_bytes(settings, seal)
    assert hits(needles, opened) == 0
    assert b"other-1" in opened
    assert hits(needles, written_bytes(settings)) == 0
    assert b"other-1" not in written_bytes(settings)
    assert scan(settings.storage.data, needles) == {}
    assert hits(needles, redis_bytes(redis)) == 0
    assert b"other-1" in redis_bytes(redis)
    seal.close()


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_server_erases_from_its_workers(config: Path, redis: RedisServer, tmp_path: Path) -> None:
    seal_log(config, tmp_path / "master.key")
    loaded = load_settings(config)
    settings = replace(
        loaded,
        server=replace(small_settings(tmp_path).server, after_wait_s=50),
        worker=replace(loaded.worker, fired_topic=f"{loaded.log.topic}-fired"),
    )
    tokens = Tokens(*FIELDS, "item")
    needles = tokens.needles()
    with (
        Live(Platform.open(settings, build)) as live,
        working(config, tmp_path / "worker") as worker,
    ):
        server_others(live)
        position = leave_traces(live, tokens)
        told = live.http.post("/v1/recommend", json={"user_id": tokens["user"], "after": position})
        assert told.status_code == 200, told.text
        wait_until(lambda: hits(needles, redis_bytes(redis)) > 0, DEADLINE_S)
        assert hits(needles, written_bytes(settings)) == 0
        seal = open_seal(settings, clock=now_ms)
        assert seal is not None
        assert hits(needles, opened_bytes(settings, seal)) > 0

        receipt = live.http.delete(f"/v1/users/{tokens['user']}").json()["receipt"]

        def places() -> set[str]:
            found = live.platform.erasures.find(receipt)
            return set() if found is None else {step.place for step in found.steps}

        wait_until(lambda: {"keys", "partitions"} <= places(), DEADLINE_S)
        wait_until(lambda: hits(needles, redis_bytes(redis)) == 0, DEADLINE_S)
        assert hits(needles, opened_bytes(settings, seal)) == 0
        assert b"other-1" in opened_bytes(settings, seal)
        seal.close()

        def state() -> str:
            found = live.platform.erasures.find(receipt)
            return "" if found is None else found.state

        # Its own state, too, and the receipt is complete while all of them run.
        wait_until(lambda: state() == "done", DEADLINE_S)
        done = live.platform.erasures.find(receipt)
        assert done is not None
        assert {step.place: step.removed for step in done.steps}["verification"] == 0
        handed_on = {step.place: step.at for step in done.steps}
        assert handed_on[f"topic {settings.worker.fired_topic}"]

        def clean() -> bool:
            try:
                return scan(settings.storage.data, needles) == {}
            except (OSError, StreamingError):  # a file went while it was looked at
                return False

        wait_until(clean, DEADLINE_S)
        assert hits(needles, redis_bytes(redis)) == 0
        worker.end()
    assert scan(settings.storage.data, needles) == {}


def opened_bytes(settings: Settings, seal: Seal) -> bytes:
    """Records of the log's topic, opened with the vault and its key."""
    partitions = read_topic(kafka_settings(settings.log), uncommitted=True).values()
    return b"\0".join(seal.open([value for records in partitions for _, value in records]))


def test_what_waits_for_an_absent_broker_is_blanked(tmp_path: Path) -> None:
    entries = [
        Event(event_id=f"e-{person}", type="view", timestamp=5, user_id=person)
        for person in ("erased-person", "other-person", "erased-person")
    ]
    entries.append(Event(event_id="e-4", type="view", timestamp=5, device_id="other-person"))
    spooled = [
        msgspec.msgpack.encode((entry.user_id, encode_entry(entry, "json"))) for entry in entries
    ]
    with EmbeddedLog(tmp_path / "spool") as spool:
        spool.append(spooled)
    # Their anonymous record in the topic has the number that somebody else's has in the spool.
    traces = SubjectIds(users=frozenset({"erased-person"}), shared=frozenset({"other-person"}))
    found = SearchResult(traces, frozenset({3}), 2)
    assert purge_spool(tmp_path / "spool", found).removed == 2
    assert purge_spool(tmp_path / "none", found).removed == 0
    with EmbeddedLog(tmp_path / "spool") as spool:
        left = [msgspec.msgpack.decode(record) for _, record in spool.read(0, 10)]
    assert left[1] == ["other-person", encode_entry(entries[1], "json")]
    assert left[3] == [None, encode_entry(entries[3], "json")]
    assert left[0] == left[2] == ["", encode_entry(Tick(timestamp=0), "json")]
