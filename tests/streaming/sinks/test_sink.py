"""Every target equals a brute-force reading of the topic, also after kills."""

import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.streaming.brokers import session_ms, topic_name
from tests.streaming.redis_server import RedisServer

from tactful_streaming.errors import OnlineStoreError
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.sinks import sink
from tactful_streaming.sinks.redis import RedisRows
from tactful_streaming.sinks.sink import RowTarget, SinkProgress, WindowRow, WindowValue, run_sink
from tactful_streaming.sinks.sql import SqlRows

Truth = dict[str, dict[str, WindowValue]]
Payloads = Mapping[int, Sequence[bytes]]
"""What a topic holds, by partition; the offset of a payload is its place."""

BACKENDS = [
    "sqlite",
    *(
        pytest.param(name, marks=pytest.mark.service(name))
        for name in ("mysql", "postgres", "redis", "valkey")
    ),
]

Location = dict[str, Any]


def location_of(backend: str, request: pytest.FixtureRequest, folder: Path) -> Location:
    """Address of an empty target, and for Redis a prefix of its own."""
    if backend == "sqlite":
        return {"url": f"sqlite:///{folder / 'rows.db'}"}
    url: str = request.getfixturevalue(f"{backend}_url")
    if backend in ("mysql", "postgres"):
        import sqlalchemy as sa

        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE IF EXISTS tactful_fired_values"))
        engine.dispose()
        return {"url": url}
    return {"url": url, "prefix": f"test.{uuid.uuid4().hex}"}


def open_target(location: Location) -> RowTarget:
    return RedisRows(**location) if "prefix" in location else SqlRows(**location)


@pytest.fixture(params=BACKENDS)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return location_of(request.param, request, tmp_path)


@pytest.fixture
def target(location: Location) -> Iterator[RowTarget]:
    opened = open_target(location)
    yield opened
    opened.close()


def row(
    value: Any, end: int, offset: int = 0, *, group: str | None = None, **names: str
) -> WindowRow:
    return WindowRow(
        feature=names.get("feature", "f"),
        entity_key=names.get("entity", "u"),
        window_start=end - 10,
        window_end=end,
        feature_value=msgspec.Raw(msgspec.json.encode(value)),
        group_key=group,
        offset=offset,
    )


def encode(row: WindowRow) -> bytes:
    fields = {name: getattr(row, name) for name in row.__struct_fields__ if name != "offset"}
    if row.group_key is None:
        del fields["group_key"]
    return msgspec.json.encode(fields)


def random_topic(chance: random.Random, count: int) -> Payloads:
    """Windows of few features and entities, unordered, repeated, with or without groups."""
    partitions: dict[int, list[bytes]] = {n: [] for n in range(4)}
    for _ in range(count):
        feature = chance.choice(["plain", "grouped", "listed"])
        entity = chance.choice(["u1", "u2", "U1", "u1 ", "é|\n", "device:d"])
        group = chance.choice(["", "a", "A", "a ", "é"]) if feature == "grouped" else None
        value: Any = chance.choice([0.1 + chance.random(), 2**53 + 1, chance.randrange(9), None])
        if feature == "listed":
            value = [[['é"\\', 1.5], []], {"a": {}}][chance.randrange(2)]
        end = chance.randrange(12) * 60_000
        fired = row(value, end, group=group, feature=feature, entity=entity)
        # As Kafka does it: rows of one key lie in one partition.
        key = f"{entity}|{group}"
        partitions[zlib.crc32(key.encode()) % 4].append(encode(fired))
    return partitions


def expected(topic: Payloads) -> Truth:
    """Select the newest window of each feature and entity in the whole topic."""
    windows: dict[tuple[str, str], dict[int, dict[str | None, tuple[int, Any]]]] = {}
    for payloads in topic.values():
        for payload in payloads:
            fired = json.loads(payload)
            of = windows.setdefault((fired["entity_key"], fired["feature"]), {})
            groups = of.setdefault(fired["window_end"], {})
            groups[fired.get("group_key")] = (fired["window_start"], fired["feature_value"])
    truth: Truth = {}
    for (entity, feature), of in windows.items():
        end = max(of)
        start = min(start for start, _ in of[end].values())
        values = {group: value for group, (_, value) in of[end].items()}
        truth.setdefault(entity, {})[feature] = WindowValue(start, end, values.get(None, values))
    return truth


class Topic:
    """A source in memory that gives random runs of its partitions, as a consumer would."""

    def __init__(self, topic: Payloads, chance: random.Random, committed: dict[int, int]) -> None:
        self.topic = topic
        self.chance = chance
        self.committed = committed
        self.position = dict(committed)

    def poll(self, limit: int, wait_s: float) -> dict[int, list[tuple[int, bytes]]]:
        records = {}
        for partition, payloads in self.topic.items():
            start = self.position.get(partition, 0)
            end = min(start + self.chance.randrange(limit and 20), len(payloads))
            if end > start:
                records[partition] = list(enumerate(payloads))[start:end]
                self.position[partition] = end
        return records

    def commit(self, offsets: Mapping[int, int], *, wait: bool = False) -> None:
        self.committed.update(offsets)

    def at_end(self) -> bool:
        return self.finished()

    def finished(self) -> bool:
        return all(self.committed.get(n, 0) == len(it) for n, it in self.topic.items())


def check(target: RowTarget, truth: Truth) -> None:
    entities = [*truth, "nobody"]
    assert dict(zip(entities, target.read(entities), strict=True)) == {**truth, "nobody": {}}


@pytest.mark.parametrize(
    "writes",
    [
        # Value, end and offset of a row, and what counts afterwards: at first the topic is made
        # anew, then an older window fires late, then a paused sink delivers a row again.
        [((1, 100, 50), 1), ((2, 160, 3), 2), ((4, 160, 2), 2), ((3, 160, 4), 3)],
        [((1, 100, 5), 1), ((2, 160, 6), 2), ((9, 100, 7), 2)],
        [((1, 100, 5), 1), ((2, 100, 6), 2), ((1, 100, 5), 2), ((3, 100, 6), 3)],
    ],
)
def test_the_last_row_of_the_newest_window_counts(target: RowTarget, writes: list[Any]) -> None:
    end = 0
    for written, value in writes:
        target.write([row(*written)])
        end = max(end, written[1])
        assert target.read(["u"]) == [{"f": WindowValue(end - 10, end, value)}]


def test_groups_outside_the_newest_window_are_removed(target: RowTarget) -> None:
    target.write([row(1, 100, 0, group="a"), row(2, 100, 1, group="b"), row(3, 100, 0, group="")])
    assert target.read(["u"]) == [{"f": WindowValue(90, 100, {"a": 1, "b": 2, "": 3})}]
    target.write([row(4, 160, 2, group="b")])
    assert target.read(["u"]) == [{"f": WindowValue(150, 160, {"b": 4})}]
    target.write([row(5, 160, 9, group="a"), row(6, 100, 8, group="c")])
    assert target.read(["u"]) == [{"f": WindowValue(150, 160, {"b": 4, "a": 5})}]


@pytest.mark.parametrize(
    "value", [0.1 + 0.2, 5e-324, -0.0, 2**63 - 1, 2**53 + 1, None, [], {}, [["é", 1.0]], "x", True]
)
def test_values_are_stored_exactly(target: RowTarget, value: Any) -> None:
    target.write([row(value, 100)])
    (found,) = target.read(["u"])
    assert json.dumps(found["f"].value) == json.dumps(value)


def test_keys_differ_by_every_byte(target: RowTarget) -> None:
    keys = ["a", "A", "a ", "á", "a\u0301", "a|b", "\x00", "", "x" * 4_096, "😀"]
    target.write([row(n, 100, entity=key) for n, key in enumerate(keys)])
    assert [values["f"].value for values in target.read(keys)] == [*range(len(keys))]
    assert target.read(["B", "a"])[0] == {}
    assert target.read([]) == []
    target.write([])


@pytest.mark.parametrize("seed", range(3))
def test_random_topics_in_random_batches(target: RowTarget, seed: int) -> None:
    chance = random.Random(seed)
    topic = random_topic(chance, 600)
    source = Topic(topic, chance, {})
    done = run_sink(source, target, stop=source.finished)
    check(target, expected(topic))
    assert done == SinkProgress(rows=600, positions={n: len(it) for n, it in topic.items()})
    assert source.committed == done.positions


@pytest.mark.parametrize("seed", range(3))
def test_sinks_that_share_entities_survive_kills(location: Location, seed: int) -> None:
    """Each run stops before or after the write, and goes on from what was committed."""
    chance = random.Random(seed)
    topic = random_topic(chance, 600)
    halves = [{n: topic[n] for n in (0, 1)}, {n: topic[n] for n in (2, 3)}]
    committed: list[dict[int, int]] = [{}, {}]
    target = open_target(location)

    def write(rows: Sequence[WindowRow]) -> None:
        fate = chance.random()
        if fate < 0.1:
            raise KeyboardInterrupt
        target.write(rows)
        if fate > 0.8:
            raise KeyboardInterrupt

    unfinished = {0, 1}
    while unfinished:
        number = chance.choice([*unfinished])
        source = Topic(halves[number], chance, committed[number])
        try:
            turns = iter(range(chance.randrange(1, 6)))
            run_sink(
                source,
                Mock(write=write),
                stop=lambda it=source, turns=turns: it.finished() or next(turns, None) is None,  # type: ignore[misc]
            )
        except KeyboardInterrupt:
            continue
        if source.finished():
            unfinished.discard(number)
    check(target, expected(topic))
    target.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            row,
            st.integers(0, 3),
            st.integers(0, 3),
            st.integers(0, 3),
            group=st.sampled_from([None, "a"]),
            feature=st.sampled_from("fg"),
        )
    )
)
def test_newest_rows_equal_writing_one_by_one(rows: list[WindowRow]) -> None:
    kept: dict[tuple[str, str | None], WindowRow] = {}
    for row in rows:
        newest = kept.setdefault((row.feature, row.group_key), row)
        if (row.window_end, row.offset) >= (newest.window_end, newest.offset):
            kept[row.feature, row.group_key] = row
    assert sink.newest_rows(rows) == list(kept.values())


ROW = b'{"feature":"%s","entity_key":%s,"window_start":0,"window_end":%s,"feature_value":%s}'


@pytest.mark.parametrize(
    "payload",
    [
        b"no json",
        b"[]",
        b"{}",
        ROW.replace(b',"feature_value":%s', b"") % (b"f", b'"u"', b"9"),
        ROW % (b"", b'"u"', b"9", b"1"),
        ROW % (b"f", b"1", b"9", b"1"),
        (ROW % (b"f", b'"u"', b"9", b"1")).replace(b":0,", b":0.5,"),
        ROW % (b"f", b'"u"', b"9e99", b"1"),
        *(
            ROW % (b"f", b'"u"', b"9", value)
            for value in (b"NaN", b'"\xff"', b'"\\ud800"', b"[" * 50_000 + b"]" * 50_000)
        ),
        ROW % (b"f", b'"u"', b"9", b'"' + b"x" * (1 << 20) + b'"'),
        ROW % (b"f", b'"' + b"k" * 5_000 + b'"', b"9", b"1"),
    ],
)
def test_invalid_rows_are_skipped_and_logged(
    payload: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = SqlRows(f"sqlite:///{tmp_path / 'rows.db'}")
    topic = {0: [encode(row(1, 100)), payload, encode(row(2, 160))], 1: [b""]}
    source = Topic(topic, random.Random(0), {})
    done = run_sink(source, target, stop=source.finished)
    assert (done.rows, done.invalid, done.empty) == (2, 1, 1)
    assert source.committed == {0: 3, 1: 1}
    assert target.read(["u"])[0]["f"].value == 2
    assert "offset 1 of partition 0" in caplog.text
    assert "kkkk" not in caplog.text
    target.close()


def test_a_group_of_null_is_no_group(target: RowTarget) -> None:
    payload = (
        b'{"feature":"f","entity_key":"u","group_key":null,"window_start":0,"window_end":9,'
        b'"feature_value":1.5,"more":1}'
    )
    source = Topic({0: [payload]}, random.Random(0), {})
    run_sink(source, target, stop=source.finished)
    assert target.read(["u"]) == [{"f": WindowValue(0, 9, 1.5)}]


def test_an_unreachable_target_is_retried() -> None:
    target = Mock()
    target.write.side_effect = [OnlineStoreError("away")] * 9 + [None]
    source = Topic({0: [encode(row(1, 100))]}, random.Random(1), {})
    pauses: list[float] = []
    reports: list[SinkProgress] = []
    done = run_sink(
        source,
        target,
        stop=lambda: target.write.call_count == 10,
        progress=reports.append,
        sleep=pauses.append,
    )
    target.write.assert_called_with([row(1, 100)])
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert (done.rows, done.failures) == (1, 9)
    assert [progress.failures for progress in reports if progress.failures] == [*range(1, 10), 9]


def test_a_stop_without_target_commits_nothing() -> None:
    target = Mock()
    target.write.side_effect = OnlineStoreError("away")
    source = Topic({0: [encode(row(1, 100))] * 5}, random.Random(1), {})
    done = run_sink(source, target, stop=lambda: target.write.call_count > 2, sleep=lambda _: None)
    assert (source.committed, done.rows, done.failures) == ({}, 0, 3)


@pytest.mark.service("redis")
def test_a_restarted_redis_gets_the_remaining_rows(tmp_path: Path) -> None:
    chance = random.Random(5)
    topic = random_topic(chance, 400)
    down: list[bool] = [False]

    def disturb(progress: SinkProgress) -> None:
        if down[0]:
            server.start()
        elif chance.random() < 0.3:
            server.kill()
        else:
            return
        down[0] = not down[0]

    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        target = RedisRows(server.url, sleep=lambda _: None)
        source = Topic(topic, chance, {})
        done = run_sink(
            source, target, stop=source.finished, progress=disturb, sleep=lambda _: None
        )
        if down[0]:
            server.start()
        assert done.failures > 0
        check(target, expected(topic))
        target.close()


@pytest.mark.service("redis")
def test_a_foreign_blob_is_an_error(redis_url: str) -> None:
    import redis

    prefix = f"test.{uuid.uuid4().hex}"
    target = RedisRows(redis_url, prefix=prefix)
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{prefix}:u", b"\xc1")
    with pytest.raises(OnlineStoreError, match="not written by a sink"):
        target.read(["u"])
    with pytest.raises(OnlineStoreError, match="refused"):
        target.write([row(1, 100)])
    target.close()


@pytest.mark.service("redis")
def test_entities_without_new_rows_expire(redis_url: str) -> None:
    target = RedisRows(redis_url, prefix=f"test.{uuid.uuid4().hex}", ttl_s=0.1)
    target.write([row(1, 100)])
    assert target.read(["u"])[0]["f"].value == 1
    while target.read(["u"]) != [{}]:
        pass
    target.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "not a database URL"),
        ("mysql://u:secret@host:port/d", "not a database URL"),
        ("oracle://u:secret@h/d", "cannot be stored in oracle"),
        ("postgresql+psycopg2://u:secret@h/d", r"write postgresql\+psycopg:// and pip install"),
        ("postgres://u:secret@127.0.0.1:1/d", r"\*\*\*.*the database failed: connection.*refused"),
        ("mysql+pymysql://u:secret@127.0.0.1:1/d", r"\*\*\*.*the database failed"),
        ("sqlite:////nowhere/at/all/rows.db", "the database failed"),
    ],
)
def test_other_databases_are_refused_without_their_password(url: str, problem: str) -> None:
    with pytest.raises(OnlineStoreError, match=problem) as refusal:
        SqlRows(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.slow
def test_a_sink_waits_for_another_ones_lock(tmp_path: Path) -> None:
    file = tmp_path / "rows.db"
    SqlRows(f"sqlite:///{file}").close()
    with contextlib.closing(sqlite3.connect(file, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        # Longer than the five seconds after which SQLite's driver gives up by itself.
        release = threading.Timer(7.0, other.rollback)
        release.start()
        target = SqlRows(f"sqlite:///{file}")
        target.write([row(1, 60_000)])
        target.close()
        release.join()


@pytest.mark.parametrize(
    ("driver", "extra", "url"),
    [("pymysql", "mysql", "mysql://u@h/d"), ("psycopg", "postgres", "postgresql://u@h/d")],
)
def test_a_missing_driver_names_the_extra(
    driver: str, extra: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)
    monkeypatch.delitem(sys.modules, "tactful_privacy.postgresql", raising=False)
    with pytest.raises(OnlineStoreError, match=rf"pip install 'tactful\[{extra}\]'"):
        SqlRows(url)


def test_sinks_that_start_together_make_one_table(location: Location) -> None:
    """PostgreSQL may refuse a table, or an index, that two transactions create at once."""
    if "prefix" in location:
        return
    start = threading.Barrier(6)

    def open_at_once(_: int) -> None:
        start.wait()
        open_target(location).close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(open_at_once, range(6)))


SINK = """
import json, sys
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.sinks.redis import RedisRows
from tactful_streaming.sinks.sink import open_rows, run_sink
from tactful_streaming.sinks.sql import SqlRows
servers, topic, location, session = *sys.argv[1:3], json.loads(sys.argv[3]), int(sys.argv[4])
target = RedisRows(**location) if "prefix" in location else SqlRows(**location)
group = open_rows(KafkaSettings(servers, topic, session_timeout_ms=session), topic)
print("ready", flush=True)
run_sink(group, target, stop=lambda: False)
"""


def produce(servers: str, topic: str, rows: Payloads) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
    for partition, payloads in rows.items():
        for payload in payloads:
            producer.produce(topic, payload, partition=partition)
    assert producer.flush(30) == 0


@pytest.mark.slow
@pytest.mark.service("kafka")
def test_rows_pass_from_kafka_and_are_read_once(kafka_servers: str, tmp_path: Path) -> None:
    chance = random.Random(3)
    topic = random_topic(chance, 500)
    where = KafkaSettings(kafka_servers, topic_name(), session_timeout_ms=session_ms())
    ensure_topic(where, consumer_threads=2)
    produce(kafka_servers, where.topic, topic)
    target = SqlRows(f"sqlite:///{tmp_path / 'rows.db'}")
    done = SinkProgress()
    for count in (500, 540):
        if count == 540:
            produce(kafka_servers, where.topic, {0: [encode(row(7, 10**9, entity="new"))] * 40})
        group = sink.open_rows(where, where.topic)
        seen: list[SinkProgress] = []
        wanted = count - done.rows
        done = run_sink(
            group,
            target,
            stop=lambda seen=seen, n=wanted: bool(seen) and seen[-1].rows >= n,  # type: ignore[misc]
            progress=seen.append,
        )
        group.close()
        assert done.rows == wanted  # the second run reads only what is new
    check(target, {**expected(topic), "new": {"f": WindowValue(10**9 - 10, 10**9, 7)}})
    target.close()


@pytest.mark.slow
@pytest.mark.service("kafka")
@pytest.mark.parametrize("backend", BACKENDS)
def test_sinks_killed_under_load_lose_nothing_and_end_right(
    backend: str, kafka_servers: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Two sinks share a group and are killed with -9 in turns while rows arrive.

    The command, killed more often, is in ``tests/platform/system/test_kills.py``.
    """
    kills = 3
    chance = random.Random(kills)
    location = location_of(backend, request, tmp_path)
    target = open_target(location)
    where = KafkaSettings(kafka_servers, topic_name())
    ensure_topic(where, consumer_threads=2)
    command = [sys.executable, "-c", SINK, kafka_servers, where.topic, json.dumps(location)]
    command.append(str(session_ms(1_000)))
    everything: dict[int, list[bytes]] = {n: [] for n in range(4)}
    sinks = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for _ in range(kills):
            part = random_topic(chance, 2_000)
            for number, payloads in part.items():
                everything[number] += payloads
            produce(kafka_servers, where.topic, part)
            victim = chance.randrange(2)
            out = sinks[victim].stdout
            assert out is not None and out.readline() == b"ready\n"
            time.sleep(chance.random())
            sinks[victim].send_signal(signal.SIGKILL)
            sinks[victim].wait()
            sinks[victim] = subprocess.Popen(command, stdout=subprocess.PIPE)
        # The last row of every partition: when all are there, so is everything before them.
        ends = {n: [encode(row(n, 10**12, entity=f"end {n}"))] for n in range(4)}
        produce(kafka_servers, where.topic, ends)
        names = [f"end {n}" for n in range(4)]
        deadline = time.monotonic() + 150
        while not all(target.read(names)):
            assert all(sink.poll() is None for sink in sinks), "a sink has ended by itself"
            assert time.monotonic() < deadline, "the sinks do not arrive at the end"
            time.sleep(0.1)
        check(target, expected(everything))
    finally:
        for sink in sinks:
            sink.kill()
            sink.wait()
        target.close()
