"""Workers' copies in a Redis Cluster: fences, slots that move, nodes that restart."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.streaming import streams
from tests.streaming.redis_cluster import RedisCluster
from tests.streaming.streams import random_entries

from tactful_streaming.contract.key_partition import partition_of
from tactful_streaming.contract.log_entries import encode_entry, route_key
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import FencedError, OnlineStoreError, OnlineStoreLostError
from tactful_streaming.online.fenced_store import FencedRedisStore, PartitionView, redis_online
from tactful_streaming.online.partitioned_store import PartitionedRedisStore
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.entity_table import read_packed
from tactful_streaming.windows.packed_entity import NEWEST, encode
from tactful_streaming.windows.shared_aggregate import Value

pytestmark = pytest.mark.service("redis")

PARTITIONS = 4
BATCH = 10
USERS = [*(f"u{n}" for n in range(30)), *(f"device:d{n}" for n in range(10))]
Reading = dict[str, dict[str, Value]]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path) as made:
        yield made


def keys_of(partition: int, count: int) -> list[str]:
    """User ids of a partition."""
    found = (f"user-{n}" for n in range(100_000))
    own = (key for key in found if partition_of(key, PARTITIONS) == partition)
    return [next(own) for _ in range(count)]


@contextlib.contextmanager
def reading(cluster: RedisCluster) -> Iterator[PartitionedRedisStore]:
    with contextlib.closing(PartitionedRedisStore(cluster.url, PARTITIONS)) as store:
        yield store


def owner(cluster: RedisCluster, partition: int) -> FencedRedisStore:
    return FencedRedisStore(cluster.url, partition, cluster=True)


def test_only_the_newest_owner_of_a_partition_writes(cluster: RedisCluster) -> None:
    first, other = owner(cluster, 3), owner(cluster, 1)
    (gone, kept, late), (elsewhere,) = keys_of(3, 3), keys_of(1, 1)
    many = {key: b"%d" % n for n, key in enumerate(keys_of(3, 2_000))}
    first.put_many(many)
    first.mark(3, 10, previous=None)
    users = {gone: None, kept: b"one"}
    first.put_marked({"user": users, "session": {"visit": b"s"}}, 3, 20, previous=10)
    first.put_marked({"user": users}, 3, 20, previous=10)  # repeated after an answer was lost
    with reading(cluster) as reader:
        assert reader.get_many([gone, kept, late]) == [None, b"one", b"2"]
        assert reader.get_many([*many])[3:] == [*many.values()][3:]
        assert reader.get_many(["visit", "none"], kind="session") == [b"s", None]
        assert sorted(reader.keys("user")) == sorted(key for key in many if key != gone)
        assert reader.keys("session") == ["visit"]
        second = owner(cluster, 3)
        assert second.marked(3) == reader.marked(3) == 20
        with pytest.raises(FencedError, match="another process writes"):
            first.put_many({late: b"zombie"})
        with pytest.raises(FencedError):
            first.put_marked({"user": {late: b"zombie"}}, 3, 30, previous=20)
        assert (first.fenced, second.fenced) == (True, False)
        with pytest.raises(OnlineStoreLostError):
            second.mark(3, 30, previous=11)
        second.mark(3, 30, previous=20)
        other.put_many({elsewhere: b"1"})
        assert reader.get_many([late, elsewhere]) == [b"2", b"1"]
        assert (reader.marked(3), reader.marked(1)) == (30, None)
    for store in (first, second, other):
        store.close()


def test_of_a_session_in_several_partitions_the_newest_counts(cluster: RedisCluster) -> None:
    """Someone logs in: the visit goes on in the partition of the user."""
    with reading(cluster) as reader:
        for newer, older in ((0, 2), (2, 0)):
            for partition, at in ((newer, 2_000), (older, 1_000)):
                with contextlib.closing(owner(cluster, partition)) as store:
                    store.put_many({"visit": encode({NEWEST: at})}, kind="session")
            assert reader.get_many(["visit"], kind="session") == [encode({NEWEST: 2_000})]
        reader.put_many({"visit": None}, kind="session")
        assert reader.get_many(["visit"], kind="session") == [None]
        for partition in (0, 2):
            with contextlib.closing(owner(cluster, partition)) as store:
                assert store.get_many(["visit"], kind="session") == [None]


def test_the_rights_that_a_user_of_a_cluster_needs(cluster: RedisCluster) -> None:
    rights = "~tactful:* +@read +@write +@scripting +@connection +cluster|slots"
    for client in cluster.clients:
        client.execute_command("ACL", "SETUSER", "tactful", "on", ">secret", *rights.split())
    url = cluster.url.replace("://", "://tactful:secret@")
    with contextlib.closing(FencedRedisStore(url, 1, cluster=True)) as store:
        store.put_many(dict.fromkeys(keys_of(1, 3), b"1"))
        store.mark(1, 5, previous=None)
    with contextlib.closing(PartitionedRedisStore(url, PARTITIONS)) as reader:
        assert reader.get_many(keys_of(1, 1)) == [b"1"]
        assert reader.get_many(["visit"], kind="session") == [None]
        assert reader.marked(1) == 5


def test_a_store_without_partitions_is_refused() -> None:
    with pytest.raises(OnlineStoreError, match="a log has at least one"):
        PartitionedRedisStore("redis://127.0.0.1:1", 0)


def test_a_fence_holds_while_its_slot_moves(cluster: RedisCluster) -> None:
    zombie = owner(cluster, 2)
    keys = keys_of(2, 20)
    zombie.put_many(dict.fromkeys(keys, b"old"))
    zombie.mark(2, 1, previous=None)
    newest = owner(cluster, 2)
    newest.put_marked({"user": dict.fromkeys(keys, b"new")}, 2, 2, previous=1)
    refused = 0

    def moved(count: int) -> None:
        nonlocal refused
        if count % 8 != 4:  # the client tries again for some seconds
            return
        with pytest.raises((FencedError, OnlineStoreError)):
            zombie.put_marked({"user": {keys[0]: b"zombie"}}, 2, 3, previous=2)
        refused += 1
        with reading(cluster) as reader:
            assert reader.get_many(keys) == [b"new"] * len(keys)
            assert reader.marked(2) == 2

    source = cluster.node_of("{2}")
    cluster.move("{2}", (source + 1) % 3, moved)
    assert refused == 3
    assert cluster.node_of("{2}") != source
    with pytest.raises(FencedError):
        zombie.put_many({keys[0]: b"zombie"})
    newest.put_marked({"user": {keys[0]: b"newer"}}, 2, 3, previous=2)
    with reading(cluster) as reader:
        assert reader.get_many(keys[:2]) == [b"newer", b"new"]
    for store in (zombie, newest):
        store.close()


@dataclass
class Shard:
    """The engine of a partition, its copy, and what it has computed by offset."""

    cluster: RedisCluster
    number: int
    stream: list[tuple[int, bytes]]
    state: MemoryState = field(default_factory=MemoryState)
    by_offset: dict[int, tuple[int, Reading]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.users = [key for key in USERS if partition_of(key, PARTITIONS) == self.number]
        self.open(0)

    def open(self, offset: int) -> None:
        make = redis_online(self.cluster.url, cluster=True)
        self.view: PartitionView = make(self.number, self.state, offset)
        options = EngineOptions(allowed_lateness_ms=0, online=self.view, partition=self.number)
        self.engine = Engine(streams.definitions(), self.state, options)

    def step(self, begin: int, *, commit: bool) -> None:
        batch = self.stream[begin : begin + BATCH]
        if batch:
            self.engine.apply(batch)
            at = self.engine.watermark
            values = {key: self.engine.read("user", key, at) for key in self.users}
            self.by_offset[self.engine.offset] = at, values
        self.engine.publish()
        if commit:
            self.engine.commit()
            self.view.committed()

    def check(self, reader: PartitionedRedisStore) -> int | None:
        """Compare the copy with the engine; its offset, or None if it was written meanwhile."""
        before = reader.marked(self.number)
        blobs = reader.get_many(self.users)
        if before is None or reader.marked(self.number) != before:
            return None
        features = streams.definitions().of_entity("user")
        at, values = self.by_offset[before]
        for key, blob in zip(self.users, blobs, strict=True):
            assert read_packed(features, blob, at) == values[key], (self.number, before, key)
        return before


def shards(cluster: RedisCluster, seed: int) -> list[Shard]:
    payloads: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    for entry in random_entries(seed, 3_000):
        key = route_key(entry)
        chosen = range(PARTITIONS) if key is None else [partition_of(key, PARTITIONS)]
        for number in chosen:
            payloads[number].append(encode_entry(entry))
    return [Shard(cluster, n, [*enumerate(own)]) for n, own in enumerate(payloads)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_slots_move_while_workers_write(cluster: RedisCluster, seed: int) -> None:
    """Readers see the engine's values of one offset, before, while and after slots move."""
    running = shards(cluster, seed)
    longest = max(len(shard.stream) for shard in running)
    ended = threading.Event()

    def move() -> int:
        count = 0
        while not ended.is_set():
            for shard in running:
                name = f"{{{shard.number}}}"
                target = (cluster.node_of(name) + 1) % 3
                cluster.move(name, target, lambda _: time.sleep(0.005))
                count += 1
        return count

    def read() -> int:
        count, furthest = 0, dict.fromkeys(range(PARTITIONS), 0)
        with reading(cluster) as reader:
            while not ended.is_set():
                for shard in running:
                    offset = shard.check(reader)
                    if offset is not None:
                        assert offset >= furthest[shard.number]
                        furthest[shard.number] = offset
                        count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        moving, read_meanwhile = pool.submit(move), pool.submit(read)
        try:
            for begin in range(0, longest, BATCH):
                for shard in running:
                    shard.step(begin, commit=begin % 50 == 0)
                time.sleep(0.02)
        finally:
            ended.set()
        moves, checks = moving.result(), read_meanwhile.result()
    for shard in running:
        shard.step(len(shard.stream), commit=True)
    wait_for_copies(cluster, running)
    assert moves >= PARTITIONS
    assert checks > 10
    for shard in running:
        shard.view.close()


@pytest.mark.slow
def test_a_node_restarts_without_its_data(cluster: RedisCluster) -> None:
    """Its partitions are copied again by a new start, as of a worker; others continue."""
    running = shards(cluster, 5)
    lost = cluster.node_of("{1}")
    homes = {shard.number: cluster.node_of(f"{{{shard.number}}}") for shard in running}
    assert len(set(homes.values())) > 1
    for begin in range(0, 200, BATCH):
        for shard in running:
            shard.step(begin, commit=True)
    cluster.servers[lost].kill()
    for shard in running:
        if homes[shard.number] != lost:
            shard.step(200, commit=True)
    cluster.servers[lost].start()
    cluster.wait()
    for shard in running:
        begin = 200 if homes[shard.number] == lost else 210
        if homes[shard.number] == lost:
            with pytest.raises((FencedError, OnlineStoreError)):
                while True:
                    shard.step(len(shard.stream), commit=True)
                    time.sleep(0.01)
            shard.view.close()
            shard.open(begin)
        for at in range(begin, len(shard.stream), BATCH):
            shard.step(at, commit=True)
    wait_for_copies(cluster, running)
    for shard in running:
        shard.view.close()


def wait_for_copies(cluster: RedisCluster, running: list[Shard]) -> None:
    """Wait until all copies are at the end of their streams, with the engine's values."""
    until = time.monotonic() + 90
    with reading(cluster) as reader:
        while any(shard.check(reader) != len(shard.stream) for shard in running):
            assert time.monotonic() < until, "it did not happen in time"
            time.sleep(0.05)
