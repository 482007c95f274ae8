import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.streaming import streams
from tests.streaming.engine.test_engine import FullStore
from tests.streaming.memory_online import MemoryOnlineStore
from tests.streaming.shard import Shard, append, definitions, new_shard, read_topic, truth
from tests.streaming.streams import START, random_entries

from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import FencedError, OnlineStoreLostError, StateError
from tactful_streaming.online.fenced_store import FencedRedisStore, PartitionView, redis_online
from tactful_streaming.online.store import RedisOnlineStore
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.entity_table import read_packed
from tactful_streaming.windows.shared_aggregate import Value
from tactful_streaming.worker.partition_job import PartitionJob

pytest.importorskip("redis")


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.service(name)) for name in ("redis", "valkey")]
)
def space(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    url: str = request.getfixturevalue(f"{request.param}_url")
    prefix = f"test-{tmp_path.name}-{id(tmp_path)}"
    url = url.replace("valkey", "redis", 1)  # for the client of the tests
    yield {"url": url, "prefix": prefix}
    import redis

    client = redis.Redis.from_url(url)
    for key in client.scan_iter(f"{prefix}:*"):
        client.delete(key)
    client.close()


def test_only_the_newest_owner_writes(space: dict[str, Any]) -> None:
    first = FencedRedisStore(space["url"], 3, prefix=space["prefix"])
    blobs: dict[str, bytes | None] = {f"u{n}": b"%d" % n for n in range(2_000)}
    first.put_many(blobs)
    first.mark(3, 10, previous=None)
    other_partition = FencedRedisStore(space["url"], 4, prefix=space["prefix"])
    first.put_many({"u0": None, "u1": b"one"})
    second = FencedRedisStore(space["url"], 3, prefix=space["prefix"])
    assert second.marked(3) == 10
    for late in ({"u1": b"zombie"}, {"u2": None}, {"u3": b"zombie", "u4": None}):
        with pytest.raises(FencedError, match="another process writes"):
            first.put_many(late)
    with pytest.raises(FencedError):
        first.mark(3, 20, previous=10)
    assert first.fenced
    assert not second.fenced
    with pytest.raises(OnlineStoreLostError):
        second.mark(3, 30, previous=11)
    second.mark(3, 30, previous=10)
    reader = RedisOnlineStore(space["url"], prefix=space["prefix"])
    assert reader.get_many(["u0", "u1", "u2", "u3", "u4"]) == [None, b"one", b"2", b"3", b"4"]
    assert reader.marked(3) == 30
    other_partition.put_many({"w": b"1"})
    for store in (first, second, other_partition, reader):
        store.close()


def test_blobs_and_their_mark_are_put_atomically(space: dict[str, Any]) -> None:
    first = FencedRedisStore(space["url"], 0, prefix=space["prefix"], ttl_s=600)
    first.put_many({"gone": b"1", "stays": b"1"})
    first.mark(0, 10, previous=None)
    users = {"new": b"2", "gone": None, "empty": b""}
    first.put_marked({"user": users, "session": {"new": b"visit"}}, 0, 20, previous=10)
    first.put_marked({"user": users}, 0, 20, previous=10)  # repeated after an answer was lost
    reader = RedisOnlineStore(space["url"], prefix=space["prefix"])
    keys = ["new", "gone", "empty", "stays"]
    assert reader.get_many(keys) == [b"2", None, b"", b"1"]
    assert reader.get_many(["new"], kind="session") == [b"visit"]
    assert reader.marked(0) == 20
    many: dict[str, bytes | None] = {f"u{n}": b"%d" % n for n in range(2_000)}
    first.put_marked({"user": many}, 0, 30, previous=20)
    assert reader.get_many([*many]) == [*many.values()]
    with pytest.raises(OnlineStoreLostError, match="is marked at offset 30, not 20"):
        first.put_marked({"user": {"new": b"3"}}, 0, 40, previous=20)
    second = FencedRedisStore(space["url"], 0, prefix=space["prefix"])
    with pytest.raises(FencedError):
        first.put_marked({"user": {"new": b"zombie"}}, 0, 40, previous=30)
    assert first.fenced
    assert reader.get_many(["new"]) == [b"2"]
    assert reader.marked(0) == 30
    import redis

    with redis.Redis.from_url(space["url"]) as client:
        assert 0 < client.pttl(f"{space['prefix']}::user:new") <= 600_000
    for store in (first, second, reader):
        store.close()


def test_a_copy_does_not_go_back_in_time() -> None:
    copy = MemoryOnlineStore()
    copy.put_many({"u": b"new"})
    copy.mark(0, 100, previous=None)
    view = PartitionView(copy, 0, 40, kinds=["user"])
    assert view.marked(0) == 40
    view.put_many({"u": b"old"})
    view.mark(0, 99, previous=40)
    view.put_marked({"user": {"u": b"old"}}, 0, 99, previous=40)
    assert copy.get_many(["u"]) == [b"new"]
    assert copy.marked(0) == 100
    with pytest.raises(OnlineStoreLostError, match="caught up"):
        view.mark(0, 100, previous=99)
    view.put_many({"u": b"newer"})
    view.put_many({"i": b"part"}, kind="item")
    view.mark(0, 100, previous=None)
    view.put_marked({"item": {"i": b"part"}}, 0, 101, previous=100)
    assert copy.marked(0) == 101
    assert view.get_many(["u"]) == [b"newer"]
    assert view.get_many(["i"], kind="item") == [None]
    view.committed()


@pytest.fixture
def shard(kafka_servers: str, tmp_path: Path) -> Iterator[Shard]:
    with new_shard(kafka_servers, tmp_path) as made:
        yield made


@pytest.mark.slow
def test_the_copy_follows_the_owner_through_hosts(
    shard: Shard, space: dict[str, Any], tmp_path: Path
) -> None:
    append(shard, random_entries(8, 2_000))
    records = read_topic(shard.kafka)[0]
    first_host = replace(shard.options, online=redis_online(**space))
    zombie = PartitionJob(0, definitions(), first_host)
    zombie.apply(records[:300])
    zombie.commit()
    # Another host begins anew, from the beginning of the log.
    second_host = replace(first_host, data=tmp_path / "elsewhere")
    owner = PartitionJob(0, definitions(), second_host)
    for begin in range(0, len(records), 100):
        owner.apply(records[begin : begin + 100])
        owner.commit()
    owner.close()
    zombie.close()
    reader = RedisOnlineStore(**space)
    assert reader.marked(0) == records[-1][0] + 1
    engine = truth(shard, {0: records}).engines[0]
    keys = [f"u{user}" for user in range(30)]
    read = 0
    for key, blob in zip(keys, reader.get_many(keys), strict=True):
        values = engine.read("user", key, engine.watermark)
        features = definitions().of_entity("user")
        if blob is not None:
            read += 1
            expected = {feature.name: values[feature.name] for feature in features}
            assert read_packed(features, blob, engine.watermark) == expected
    assert read
    reader.close()


BATCH = 10
KEYS = [f"u{user}" for user in range(10)]

Reading = dict[str, dict[str, Value]]


def reads_by_offset(stream: list[tuple[int, bytes]]) -> dict[int, tuple[int, Reading]]:
    """By offset, the watermark and all reads of an engine without crashes."""
    engine = Engine(streams.definitions(), MemoryState(), EngineOptions(allowed_lateness_ms=0))
    by_offset = {}
    for begin in range(0, len(stream), BATCH):
        engine.apply(stream[begin : begin + BATCH])
        at = engine.watermark
        by_offset[engine.offset] = at, {key: engine.read("user", key, at) for key in KEYS}
    return by_offset


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "memory_bytes"), [(0, None), (1, 1)], ids=["in-memory", "spilled"]
)
def test_marks_hold_through_crashes(seed: int, memory_bytes: int | None) -> None:
    rng = random.Random(seed)
    stream = streams.records(random_entries(seed, 300))
    expected = reads_by_offset(stream)
    features = streams.definitions().of_entity("user")
    state, copy = MemoryState(), MemoryOnlineStore()
    committed, furthest, ahead, checked = 0, 0, 0, 0
    while committed < len(stream):
        view = PartitionView(copy, 0, committed)
        options = EngineOptions(allowed_lateness_ms=0, memory_bytes=memory_bytes, online=view)
        engine = Engine(streams.definitions(), state, options)
        assert engine.offset == committed
        for _ in range(rng.randrange(1, 12)):
            engine.apply(stream[engine.offset : engine.offset + BATCH])
            engine.publish()
            if rng.random() < 0.3:
                engine.commit()
                committed = engine.offset
            marked = copy.marked(0) or 0
            assert marked >= furthest
            furthest = marked
            ahead += marked > committed
            if not marked:  # the first commit fills the copy
                continue
            at, values = expected[marked]
            for key, blob in zip(KEYS, copy.get_many(KEYS), strict=True):
                assert read_packed(features, blob, at) == values[key]
            checked += 1
            if engine.offset >= len(stream):
                engine.commit()
                committed = engine.offset
                break
    assert ahead > 5
    assert checked > ahead
    assert copy.marked(0) == len(stream)


def test_without_an_online_store_there_is_nothing_to_publish() -> None:
    stream = streams.records(random_entries(1, 50))
    state = MemoryState()
    engine = Engine(streams.definitions(), state)
    engine.apply(stream)
    engine.publish()
    assert list(state.scan(b"")) == []
    engine.commit()
    assert Engine(streams.definitions(), state).offset == len(stream)


HOURLY = load_definitions(
    "- {name: n, entity: user, event: view, aggregate: count, window: {size: 1h}}"
)


class Spilling:
    """An engine that spills all packed entities, and its copy."""

    def __init__(self, state: MemoryState) -> None:
        self.copy = MemoryOnlineStore()
        options = EngineOptions(allowed_lateness_ms=0, memory_bytes=1, online=self.copy)
        self.engine = Engine(HOURLY, state, options)
        self.now = START

    def see(self, user: str, minute: int) -> None:
        self.now = START + 60_000 * minute
        offset = self.engine.offset
        event = Event(event_id=f"{offset}", type="view", timestamp=self.now, user_id=user)
        self.engine.apply([(offset, encode_entry(event))])
        self.engine.publish()

    def counts(self, user: str) -> tuple[Value, Value]:
        """By the engine and by the copy."""
        (blob,) = self.copy.get_many([user])
        copied = read_packed(HOURLY.of_entity("user"), blob, self.now)
        return self.engine.read("user", user, self.now)["n"], copied["n"]


def test_a_user_who_returns_at_expiry_stays_in_the_copy() -> None:
    spilling = Spilling(MemoryState())
    spilling.see("u", 0)
    spilling.engine.commit()
    spilling.see("other", 300)
    spilling.see("u", 300)
    spilling.engine.commit()
    assert spilling.counts("u") == (1, 1)


def test_spilled_entities_survive_a_failed_commit() -> None:
    store = FullStore()
    spilling = Spilling(store)
    for minute in range(3):
        spilling.see("u", minute)
    spilling.see("other", 3)
    store.full = True
    with pytest.raises(StateError):
        spilling.engine.commit()
    store.full = False
    spilling.see("u", 4)
    spilling.engine.commit()
    assert spilling.counts("u") == (4, 4)
