import builtins
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.streaming.streams import definitions, random_entries, records

from tactful_streaming import (
    EmbeddedOnlineStore,
    Engine,
    MemoryState,
    OnlineStore,
    OnlineStoreError,
    RedisOnlineStore,
    StateError,
    read_packed,
)


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.service("redis"))])
def store(request: pytest.FixtureRequest) -> Iterator[OnlineStore]:
    store: OnlineStore
    if request.param == "embedded":
        store = EmbeddedOnlineStore(MemoryState())
    else:
        url = request.getfixturevalue("redis_url")
        store = RedisOnlineStore(url, prefix=f"test:{uuid.uuid4().hex}:")
    yield store
    store.close()


def test_blobs_come_back_in_the_order_asked(store: OnlineStore) -> None:
    store.put_many({"a": b"1", "b": b"", "é\n": bytes(range(256))})
    assert [bytes(range(256)), None, b"1", b"", b"1"] == store.get_many(["é\n", "x", "a", "b", "a"])
    assert store.get_many([]) == []
    store.put_many({})


def test_put_replaces_and_removes(store: OnlineStore) -> None:
    store.put_many({"a": b"1", "b": b"2"})
    store.put_many({"a": b"3", "b": None, "absent": None})
    assert store.get_many(["a", "b", "absent"]) == [b"3", None, None]


def test_many(store: OnlineStore) -> None:
    blobs: Mapping[str, bytes | None] = {f"k{n}": b"%d" % n for n in range(2000)}
    store.put_many(blobs)
    assert [*blobs.values()] == store.get_many([*blobs])
    store.put_many(dict.fromkeys(blobs))
    assert {None} == set(store.get_many([*blobs]))


def test_the_engine_mirrors_users_for_other_processes(store: OnlineStore) -> None:
    stream = records(random_entries(6, 3000))
    engine = Engine(definitions(), MemoryState(), online=store)
    for start in range(0, len(stream), 100):
        engine.apply(stream[start : start + 100])
        engine.commit()
    features = definitions().of_entity("user")
    users = [f"u{n}" for n in range(30)] + [f"device:d{n}" for n in range(10)] + ["nobody"]
    for at in (engine.watermark, engine.watermark + 600_000):
        for user, blob in zip(users, store.get_many(users), strict=True):
            assert engine.read("user", user, at) == read_packed(features, blob, at)


class Unreliable(EmbeddedOnlineStore):
    down = False

    def put_many(self, blobs: Mapping[str, bytes | None]) -> None:
        if self.down:
            raise OnlineStoreError("away")
        super().put_many(blobs)


def test_a_mirror_that_was_away_catches_up() -> None:
    stream = records(random_entries(7, 1000))
    online = Unreliable(MemoryState())
    state = MemoryState()
    engine = Engine(definitions(), state, online=online)
    online.down = True
    engine.apply(stream[:500])
    engine.commit()
    assert online.get_many(["u1"]) == [None]
    online.down = False
    engine.apply(stream[500:501])
    engine.commit()
    features = definitions().of_entity("user")
    at = engine.watermark
    assert engine.read("user", "u1", at) == read_packed(features, online.get_many(["u1"])[0], at)
    fresh = EmbeddedOnlineStore(MemoryState())
    Engine(definitions(), state, online=fresh)
    assert online.get_many(["u1", "u2"]) == fresh.get_many(["u1", "u2"])


@pytest.mark.parametrize("blob", [b"", b"\xc1", b"\x91\x00"])
def test_what_is_no_packed_state_is_refused(blob: bytes) -> None:
    with pytest.raises(StateError):
        read_packed(definitions().of_entity("user"), blob, 0)


def test_redis_that_is_away_is_tried_a_bounded_number_of_times() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    pauses: list[float] = []
    store = RedisOnlineStore(f"redis://127.0.0.1:{port}/0", attempts=3, sleep=pauses.append)
    with pytest.raises(OnlineStoreError, match="cannot be reached after 3 attempts"):
        store.get_many(["a"])
    assert pauses == [0.05, 0.2]
    with pytest.raises(OnlineStoreError):
        store.put_many({"a": b"1"})
    store.close()


def test_redis_that_hangs_up_is_asked_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in (b"", b"*1\r\n$1\r\nx\r\n"):
                connection, _ = server.accept()
                with connection:
                    while answer or not connection.recv(4096):
                        request = connection.recv(4096)
                        if not request:
                            break
                        if b"MGET" in request:
                            connection.sendall(answer)
                            break
                        connection.sendall(b"+OK\r\n" * max(request.count(b"*"), 1))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        store = RedisOnlineStore(f"redis://127.0.0.1:{port}/0?protocol=2", sleep=lambda _: None)
        assert store.get_many(["a"]) == [b"x"]
        store.close()


def test_no_redis_url() -> None:
    with pytest.raises(OnlineStoreError, match="not a Redis URL"):
        RedisOnlineStore("http://example.org")


def test_without_the_extra_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_redis(name: str, *rest: Any) -> Any:
        if name == "redis":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_redis)
    with pytest.raises(OnlineStoreError, match=r"pip install 'tactful\[redis\]'"):
        RedisOnlineStore("redis://localhost")
