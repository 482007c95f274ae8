"""Queued changes are written in order, also if the store fails meanwhile."""

import random
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from unittest.mock import Mock

import pytest
from tests.streaming.memory_online import MemoryOnlineStore
from tests.streaming.redis_server import RedisServer
from tests.streaming.streams import definitions, random_entries, records

from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import OnlineStoreError
from tactful_streaming.online.mirror import stored_blobs
from tactful_streaming.online.store import OnlineStore, RedisOnlineStore
from tactful_streaming.online.write_behind import WriteBehind
from tactful_streaming.state.store import RocksState
from tactful_streaming.windows.entity_table import read_packed


class Gate(MemoryOnlineStore):
    """A store that can block, be emptied, and records the order of writes."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.failures = 0
        self.calls: list[str] = []
        self.closed = False

    def put_many(self, blobs: Mapping[str, bytes | None], *, kind: str = "user") -> None:
        self._enter()
        self.calls.append(f"put {kind} {' '.join(sorted(blobs))}")
        super().put_many(blobs, kind=kind)

    def mark(self, partition: int, offset: int, *, previous: int | None) -> None:
        self._enter()
        self.calls.append(f"mark {partition} {offset}")
        super().mark(partition, offset, previous=previous)

    def close(self) -> None:
        self.closed = True

    def lose_everything(self) -> None:
        self.blobs.clear()
        self.marks.clear()

    def _enter(self) -> None:
        self.entered.set()
        self.open.wait()
        if self.failures:
            self.failures -= 1
            raise OnlineStoreError("away")


def nothing_to_refill() -> Iterable[tuple[str, Mapping[str, bytes]]]:
    raise AssertionError("nothing was lost")


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def behind(gate: Gate) -> Iterator[WriteBehind]:
    behind = WriteBehind(gate, nothing_to_refill, max_bytes=100)
    yield behind
    gate.open.set()
    behind.close()


def occupy(gate: Gate, behind: WriteBehind) -> None:
    """Shut the gate with the writing thread in it."""
    gate.open.clear()
    gate.entered.clear()
    behind.put_many({"first": b"0"})
    gate.entered.wait()


def test_the_last_blob_of_a_key_is_written_before_the_mark(gate: Gate, behind: WriteBehind) -> None:
    occupy(gate, behind)
    behind.put_many({"a": b"1", "b": b"1"})
    behind.mark(0, 1, previous=None)
    behind.put_many({"a": b"2", "b": None, "c": b"2"})
    behind.put_many({"a": b"i"}, kind="item")
    behind.mark(0, 2, previous=1)
    behind.mark(1, 9, previous=None)
    assert gate.calls == []
    gate.open.set()
    assert behind.flush()
    assert gate.calls == ["put user first", "put user a b c", "put item a", "mark 0 2", "mark 1 9"]
    assert gate.get_many(["first", "a", "b", "c"]) == [b"0", b"2", None, b"2"]
    assert gate.get_many(["a"], kind="item") == [b"i"]


def test_blobs_and_their_mark_are_queued_atomically(gate: Gate) -> None:
    behind = WriteBehind(gate, nothing_to_refill, max_bytes=100, when_full="raise")
    behind.mark(0, 1, previous=None)
    behind.put_marked({"user": {"a": b"1", "b": None}, "item": {"a": b"i"}}, 0, 2, previous=1)
    assert behind.flush()
    assert gate.calls[-3:] == ["put user a b", "put item a", "mark 0 2"]
    occupy(gate, behind)
    behind.put_many({"c": bytes(90)})
    with pytest.raises(OnlineStoreError, match="bytes wait"):
        behind.put_marked({"user": {"d": b"123"}}, 0, 3, previous=2)
    behind.mark(0, 2, previous=2)  # takes no room
    gate.open.set()
    assert behind.flush()
    assert gate.get_many(["d"]) == [None]
    assert gate.marked(0) == 2
    behind.close()


def test_queued_blobs_can_be_read(gate: Gate, behind: WriteBehind) -> None:
    behind.put_many({"a": b"1", "b": b"1", "c": b"1"})
    behind.flush()
    occupy(gate, behind)
    behind.put_many({"a": b"2", "b": None})
    assert behind.get_many(["c", "b", "a", "x", "a"]) == [b"1", None, b"2", None, b"2"]
    assert behind.get_many(["a", "first"]) == [b"2", b"0"]
    assert behind.get_many(["a"], kind="item") == [None]
    assert gate.get_many(["a"]) == [b"1"]


def test_a_full_queue_raises_and_queues_nothing(gate: Gate) -> None:
    behind = WriteBehind(gate, nothing_to_refill, max_bytes=100, when_full="raise")
    occupy(gate, behind)
    behind.put_many({"a": bytes(90)})
    assert behind.waiting_bytes == 97
    with pytest.raises(OnlineStoreError, match="97 bytes wait"):
        behind.put_many({"b": b"123"})
    assert behind.waiting_bytes == 97
    gate.open.set()
    behind.flush()
    assert behind.waiting_bytes == 0
    behind.put_many({"b": bytes(1000)})  # larger than the bound, but alone
    behind.close()
    assert gate.get_many(["a", "b"]) == [bytes(90), bytes(1000)]


def test_a_full_queue_blocks_until_there_is_room(gate: Gate, behind: WriteBehind) -> None:
    occupy(gate, behind)
    behind.put_many({"a": bytes(90)})
    waiting = threading.Thread(target=behind.put_many, args=[{"b": bytes(90)}])
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    assert behind.waiting_bytes == 97
    gate.open.set()
    waiting.join()
    behind.flush()
    assert gate.get_many(["a", "b"]) == [bytes(90), bytes(90)]


def test_replacing_a_blob_frees_its_room(gate: Gate, behind: WriteBehind) -> None:
    occupy(gate, behind)
    for n in range(50):
        behind.put_many({"a": b"%d" % n})
    behind.put_many({"a": None})
    assert behind.waiting_bytes == len("first0") + len("a")


def test_an_unreachable_store_gets_all_changes_later(gate: Gate, behind: WriteBehind) -> None:
    gate.failures = 3
    behind.put_many({"a": b"1"})
    behind.mark(0, 1, previous=None)
    assert behind.flush()
    assert (gate.get_many(["a"]), gate.marked(0)) == ([b"1"], 1)


def test_close_without_a_store_ends_after_the_timeout(gate: Gate) -> None:
    behind = WriteBehind(gate, nothing_to_refill)
    gate.failures = 1_000_000
    behind.put_many({"a": b"1"})
    behind.mark(0, 1, previous=None)
    behind.close(timeout_s=0.01)
    behind.close()
    assert gate.closed
    assert gate.marked(0) is None  # the next process sees that it has to fill the store
    with pytest.raises(OnlineStoreError, match="closed"):
        behind.put_many({"a": b"1"})
    with pytest.raises(OnlineStoreError, match="closed"):
        behind.mark(0, 2, previous=1)


def test_close_wakes_calls_that_wait_for_room(gate: Gate) -> None:
    behind = WriteBehind(gate, nothing_to_refill, max_bytes=10)
    gate.failures = 1_000_000
    behind.put_many({"a": bytes(10)})
    refused: list[OnlineStoreError] = []

    def wait_for_room() -> None:
        try:
            behind.put_many({"b": bytes(10)})
        except OnlineStoreError as error:
            refused.append(error)

    waiting = threading.Thread(target=wait_for_room)
    waiting.start()
    behind.close(timeout_s=0.01)
    waiting.join()
    assert len(refused) == 1


def test_a_lost_store_is_detected_by_the_mark_and_filled(gate: Gate) -> None:
    truth: dict[str, bytes] = {f"k{n}": b"old" for n in range(10)}

    def refill() -> Iterator[tuple[str, Mapping[str, bytes]]]:
        view = dict(truth)
        for key in view:
            if key == "k5":  # the engine goes on while the store is filled
                truth.update(k1=b"newer", k9=b"newer")
                writer.put_many({"k1": b"newer", "k9": b"newer"})
                writer.mark(0, 3, previous=2)
            yield "user", {key: view[key]}

    refills = Mock(side_effect=refill)
    writer = WriteBehind(gate, refills)
    writer.put_many(truth)
    writer.mark(0, 1, previous=None)
    writer.mark(7, 1, previous=None)
    writer.flush()
    gate.lose_everything()
    truth["k0"] = b"new"
    writer.put_many({"k0": b"new"})
    writer.mark(0, 2, previous=1)
    assert writer.flush()
    assert dict(zip(truth, gate.get_many([*truth]), strict=True)) == truth
    assert [gate.marked(partition) for partition in (0, 7)] == [3, 1]
    assert refills.call_count == 1
    writer.close()


def test_an_interrupted_refill_starts_again(gate: Gate) -> None:
    truth: dict[str, bytes] = {f"k{n}": b"%d" % n for n in range(20)}

    def refill() -> Iterator[tuple[str, Mapping[str, bytes]]]:
        for key, blob in dict(truth).items():
            if key == "k10" and not started:
                started.append(True)
                gate.failures = 2
                writer.put_many({"k3": b"late"})
                truth["k3"] = b"late"
            yield "user", {key: blob}

    started: list[bool] = []
    writer = WriteBehind(gate, refill)
    writer.mark(0, 1, previous=None)
    writer.flush()
    gate.lose_everything()
    writer.mark(0, 2, previous=1)
    assert writer.flush()
    assert gate.get_many([*truth]) == [*truth.values()]
    assert gate.marked(0) == 2
    writer.close()


def test_a_failed_refill_is_an_error_of_the_engine(gate: Gate) -> None:
    def refill() -> Iterable[tuple[str, Mapping[str, bytes]]]:
        raise ValueError("the state is damaged")

    behind = WriteBehind(gate, refill)
    behind.mark(0, 2, previous=1)
    with pytest.raises(OnlineStoreError, match="the state is damaged"):
        behind.flush()
    with pytest.raises(OnlineStoreError, match="the state is damaged"):
        behind.put_many({"a": b"1"})
    behind.close()


def test_a_refill_includes_uncommitted_blobs(gate: Gate) -> None:
    truth: dict[str, bytes] = {"a": b"old", "b": b"old", "c": b"old"}
    refill = Mock(side_effect=lambda: [("user", dict(truth))])
    writer = WriteBehind(gate, refill, early=True)
    writer.put_many(truth)
    writer.mark(0, 1, previous=None)
    writer.committed()
    writer.put_marked({"user": {"a": b"new", "b": None}}, 0, 1, previous=1)
    writer.put_marked({"user": {"a": b"newest"}}, 0, 2, previous=1)
    writer.flush()
    gate.lose_everything()
    writer.put_marked({"user": {"c": b"new"}}, 0, 3, previous=2)
    assert writer.flush()
    assert gate.get_many(["a", "b", "c"]) == [b"newest", None, b"new"]
    truth = {"a": b"newest", "c": b"new"}
    writer.committed()
    truth["a"] = b"committed since"
    gate.lose_everything()
    writer.mark(0, 4, previous=3)
    assert writer.flush()
    assert gate.get_many(["a", "b", "c"]) == [b"committed since", None, b"new"]
    assert refill.call_count == 2
    writer.close()


def test_committed_blobs_are_not_kept_in_memory(gate: Gate) -> None:
    """A refill must not hold all blobs in memory."""
    truth: dict[str, bytes] = {}
    refill = Mock(side_effect=lambda: [("user", dict(truth))])
    writer = WriteBehind(gate, refill, early=True)
    writer.mark(0, 0, previous=None)
    writer.put_marked({"user": {"k0": b"early"}}, 0, 1, previous=0)
    assert writer.flush()
    gate.lose_everything()
    truth = {f"k{n}": b"committed" for n in range(1_000)}
    writer.put_many(truth)
    assert writer._uncommitted is not None
    assert not writer._uncommitted.blobs
    writer.mark(0, 2, previous=1)
    assert writer.flush()
    assert refill.call_count == 1
    assert gate.get_many([*truth]) == [*truth.values()]
    writer.close()


@pytest.mark.slow
@pytest.mark.service("redis")
@pytest.mark.parametrize("seed", range(3))
def test_a_redis_killed_under_load_ends_with_everything(tmp_path: Path, seed: int) -> None:
    """Commits go on while Redis dies and comes back, empty or with an old snapshot.

    Blobs are put before they are committed, now and then; only then does a refill give them.
    Whenever a mark can be read, every blob is at least as new as the mark says: never is an offset
    promised whose blobs are missing.
    """
    import redis

    chance = random.Random(seed)
    truth: dict[str, bytes] = {}
    uncommitted: dict[str, bytes] = {}
    lock = threading.Lock()

    def refill() -> Iterator[tuple[str, Mapping[str, bytes]]]:
        with lock:
            view = dict(truth)
        names = [*view]
        for start in range(0, len(names), 50):
            yield "user", {name: view[name] for name in names[start : start + 50]}

    def check(reader: OnlineStore) -> None:
        try:
            promised = reader.marked(0)
            blobs = reader.get_many([f"u{n}" for n in range(500)])
        except OnlineStoreError:
            return
        for n, blob in enumerate(blobs):
            changes = last_change[n]
            due = max((c for c in changes if c <= (promised or 0)), default=None)
            if due is not None and reader.marked(0) == promised:
                assert blob is not None and int(blob) >= due

    last_change: list[list[int]] = [[] for _ in range(500)]
    with RedisServer(tmp_path) as server:
        store = RedisOnlineStore(server.url, sleep=lambda _: None)
        refills = Mock(side_effect=refill)
        behind = WriteBehind(store, refills, early=True)
        reader = RedisOnlineStore(server.url, attempts=1)
        offset = 0
        behind.mark(0, offset, previous=None)
        for _ in range(5):
            for _ in range(chance.randrange(50, 150)):
                users = chance.sample(range(500), 20)
                changed: dict[str, bytes] = {f"u{n}": b"%d" % (offset + 1) for n in users}
                uncommitted.update({f"u{n}": b"%d" % (offset + 1) for n in users})
                for n in users:
                    last_change[n].append(offset + 1)
                behind.put_marked({"user": changed}, 0, offset + 1, previous=offset)
                offset += 1
                if chance.random() < 0.2:
                    with lock:
                        truth.update(uncommitted)
                    uncommitted.clear()
                    behind.committed()
                if offset % 10 == 0:
                    check(reader)
                if offset % 60 == 0 and chance.random() < 0.5:
                    behind.flush()
                    with redis.Redis(port=server.port) as client:
                        client.save()
            server.kill()
            server.start()
        behind.mark(0, offset + 1, previous=offset)
        assert behind.flush()
        truth.update(uncommitted)
        assert reader.get_many([*truth]) == [*truth.values()]
        assert reader.marked(0) == offset + 1
        assert refills.called
        behind.close()
        reader.close()


@pytest.mark.slow
@pytest.mark.service("redis")
def test_the_engine_behind_a_redis_that_dies(tmp_path: Path) -> None:
    """Readers of Redis get the values of the engine in the end, of every kind."""
    stream = records(random_entries(8, 4_000))
    state = RocksState(tmp_path / "state")
    with RedisServer(tmp_path) as server:
        store = RedisOnlineStore(server.url, tag="v1", sleep=lambda _: None)
        refill = Mock(side_effect=lambda: stored_blobs(state))
        writer = WriteBehind(store, refill, max_bytes=20_000)
        engine = Engine(definitions(), state, EngineOptions(online=writer))
        for start in range(0, len(stream), 50):
            engine.apply(stream[start : start + 50])
            engine.commit()
            if start % 1_000 == 500:
                server.kill()
                server.start()
        assert writer.flush()
        assert refill.called
        assert store.marked(0) == engine.offset
        at = engine.watermark
        for kind, keys in {
            "user": [f"u{n}" for n in range(30)] + [f"device:d{n}" for n in range(10)],
            "item": [f"i{n}" for n in range(30)],
        }.items():
            features = definitions().of_entity(kind)
            blobs = store.get_many(keys, kind=kind)
            assert sum(blob is not None for blob in blobs) > 10
            for key, blob in zip(keys, blobs, strict=True):
                assert engine.read(kind, key, at) == read_packed(features, blob, at)
        writer.close()
        engine.close()
