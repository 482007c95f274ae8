import builtins
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.streaming.memory_online import MemoryOnlineStore
from tests.streaming.redis_cluster import RedisCluster
from tests.streaming.redis_server import RedisServer
from tests.streaming.streams import definitions, random_entries, records

from benchmarks.ports import free_port
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import OnlineStoreError, OnlineStoreLostError
from tactful_streaming.online.partitioned_store import PartitionedRedisStore
from tactful_streaming.online.store import OnlineStore, RedisOnlineStore
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.entity_table import read_packed

Opener = Callable[..., OnlineStore]
"""Opens the same data once more, under another tag or time to live."""


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.service("redis")),
        pytest.param("valkey", marks=pytest.mark.service("valkey")),
        pytest.param("cluster", marks=pytest.mark.service("redis")),
        pytest.param("partitioned cluster", marks=pytest.mark.service("redis")),
    ]
)
def opener(request: pytest.FixtureRequest) -> Iterator[Opener]:
    opened: list[OnlineStore] = []
    prefix = f"test.{uuid.uuid4().hex}"
    cluster = request.param not in ("redis", "valkey")
    url = request.getfixturevalue("cluster_url" if cluster else f"{request.param}_url")
    kind: Callable[..., OnlineStore] = partial(RedisOnlineStore, url, cluster=cluster)
    if request.param == "partitioned cluster":
        kind = partial(PartitionedRedisStore, url, 5)

    def open_redis(**options: Any) -> OnlineStore:
        opened.append(kind(prefix=prefix, **options))
        return opened[-1]

    yield open_redis
    for store in opened:
        store.close()


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster, which refuses a command whose keys lie in several slots."""
    import redis

    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        with pytest.raises(redis.ResponseError, match="same slot"):
            cluster.clients[0].execute_command("MGET", "a", "b")
        yield cluster.url


@pytest.fixture
def store(opener: Opener) -> OnlineStore:
    return opener()


@pytest.mark.slow
def test_blobs_are_put_replaced_removed_and_returned_in_order(store: OnlineStore) -> None:
    store.put_many({"a": b"1", "b": b"", "é\n": bytes(range(256))})
    assert [bytes(range(256)), None, b"1", b"", b"1"] == store.get_many(["é\n", "x", "a", "b", "a"])
    assert store.get_many([]) == []
    store.put_many({})
    store.put_many({"a": b"3", "b": None, "absent": None})
    assert store.get_many(["a", "b", "absent"]) == [b"3", None, None]
    blobs: Mapping[str, bytes | None] = {f"k{n}": b"%d" % n for n in range(2000)}
    store.put_many(blobs)
    assert [*blobs.values()] == store.get_many([*blobs])
    store.put_many(dict.fromkeys(blobs))
    assert {None} == set(store.get_many([*blobs]))


@pytest.mark.slow
def test_kinds_and_tags_have_keys_of_their_own(opener: Opener) -> None:
    first, second = opener(tag="v1"), opener(tag="v2")
    first.put_many({"a": b"user", "b:c": b"1"})
    first.put_many({"a": b"item"}, kind="item")
    second.put_many({"a": b"other"})
    first.mark(0, 5, previous=None)
    assert first.get_many(["a"]) == [b"user"]
    assert first.get_many(["a", "b:c"], kind="item") == [b"item", None]
    assert second.get_many(["a", "b:c"]) == [b"other", None]
    assert (first.marked(0), second.marked(0)) == (5, None)
    assert first.get_many(["0"], kind="0") == [None]
    first.put_many({"a": None})
    assert second.get_many(["a"]) == [b"other"]


@pytest.mark.parametrize("word", ["a:b", "@", "é", "a b"])
def test_invalid_kinds_and_tags_are_refused(opener: Opener, word: str) -> None:
    with pytest.raises(OnlineStoreError, match="letters, digits"):
        opener(tag=word)
    with pytest.raises(OnlineStoreError, match="letters, digits"):
        opener().put_many({"a": b""}, kind=word)


def test_blobs_that_are_not_put_again_expire(opener: Opener) -> None:
    ttl_s = 0.2
    lasting, store = opener(), opener(ttl_s=ttl_s)
    lasting.put_many({"kept": b"0"})
    put_at = time.monotonic()
    store.put_many({"old": b"1", "again": b"1"})
    found = store.get_many(["old", "again"])
    # On a busy machine this process may stand still for as long as blobs last.
    assert found == [b"1", b"1"] or time.monotonic() - put_at >= ttl_s
    store.mark(0, 7, previous=None)
    expired = False
    while not expired:
        put_at = time.monotonic()
        store.put_many({"again": b"2"})
        old, again = store.get_many(["old", "again"])
        if time.monotonic() - put_at < ttl_s:
            assert again == b"2"
            expired = old is None
    assert store.get_many(["kept"]) == [b"0"]
    assert store.marked(0) == 7


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan"), float("inf")])
def test_an_invalid_time_to_live_is_refused(ttl_s: float) -> None:
    with pytest.raises(OnlineStoreError, match="at least"):
        RedisOnlineStore("redis://localhost", ttl_s=ttl_s)


def test_a_mark_replaces_the_previous_one(store: OnlineStore) -> None:
    assert store.marked(2) is None
    store.mark(2, 10, previous=None)
    store.mark(2, 20, previous=10)
    store.mark(2, 20, previous=10)  # repeated after an answer was lost
    store.mark(2, 30, previous=20)
    assert (store.marked(2), store.marked(0)) == (30, None)


def test_an_unexpected_mark_is_an_error_and_stays(store: OnlineStore) -> None:
    with pytest.raises(OnlineStoreLostError, match="partition 1 has no mark, not 10"):
        store.mark(1, 20, previous=10)
    assert store.marked(1) is None
    for there in (5, 90):
        store.mark(1, there, previous=None)
        with pytest.raises(OnlineStoreLostError, match=f"marked at offset {there}, not 10"):
            store.mark(1, 20, previous=10)
        assert store.marked(1) == there


def test_each_mark_is_set_by_one_of_many_threads(store: OnlineStore) -> None:
    # Every step from one mark to the next is taken by exactly one of the threads that try it.
    store.mark(0, 0, previous=None)
    taken: list[int] = []

    def climb() -> None:
        for step in range(50):
            try:
                if store.marked(0) == step:
                    store.mark(0, step + 1, previous=step)
                    taken.append(step)
            except OnlineStoreLostError:
                pass

    with ThreadPoolExecutor(4) as pool:
        climbing = [pool.submit(climb) for _ in range(4)]
    assert [done.result() for done in climbing] == [None] * 4
    assert store.marked(0) == len(set(taken))


@pytest.mark.slow
def test_the_engine_copies_users_for_other_processes(store: OnlineStore) -> None:
    stream = records(random_entries(6, 3000))
    engine = Engine(definitions(), MemoryState(), EngineOptions(online=store))
    for start in range(0, len(stream), 100):
        engine.apply(stream[start : start + 100])
        engine.commit()
    features = definitions().of_entity("user")
    users = [f"u{n}" for n in range(30)] + [f"device:d{n}" for n in range(10)] + ["nobody"]
    for at in (engine.watermark, engine.watermark + 600_000):
        for user, blob in zip(users, store.get_many(users), strict=True):
            assert engine.read("user", user, at) == read_packed(features, blob, at)


class Unreliable(MemoryOnlineStore):
    down = False

    def put_many(self, blobs: Mapping[str, bytes | None], *, kind: str = "user") -> None:
        if self.down:
            raise OnlineStoreError("away")
        super().put_many(blobs, kind=kind)


def test_the_copy_catches_up_after_an_outage() -> None:
    stream = records(random_entries(7, 1000))
    online = Unreliable()
    state = MemoryState()
    engine = Engine(definitions(), state, EngineOptions(online=online))
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
    fresh = MemoryOnlineStore()
    Engine(definitions(), state, EngineOptions(online=fresh))
    assert online.get_many(["u1", "u2"]) == fresh.get_many(["u1", "u2"])


def test_retries_of_an_unreachable_redis_are_bounded() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    for cluster in (False, True):
        pauses: list[float] = []
        store = RedisOnlineStore(url, attempts=3, sleep=pauses.append, cluster=cluster)
        with pytest.raises(OnlineStoreError, match="cannot be reached after 3 attempts"):
            store.get_many(["a"])
        assert pauses == [0.05, 0.2]
        with pytest.raises(OnlineStoreError):
            store.put_many({"a": b"1"})
        store.close()


def test_a_closed_connection_is_retried() -> None:
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


@pytest.mark.service("redis")
def test_a_restarted_redis_is_reached_again(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        store = RedisOnlineStore(server.url)
        store.put_many({"a": b"1"})
        store.mark(0, 1, previous=None)
        server.kill()
        server.start()
        assert store.get_many(["a"]) == [None]
        with pytest.raises(OnlineStoreLostError):
            store.mark(0, 2, previous=1)
        store.put_many({"a": b"2"})
        assert store.get_many(["a"]) == [b"2"]
        store.close()


@pytest.mark.service("redis")
def test_a_redis_restored_from_a_snapshot_is_detected(tmp_path: Path) -> None:
    import redis

    with RedisServer(tmp_path) as server, redis.Redis(port=server.port) as client:
        store = RedisOnlineStore(server.url)
        store.put_many({"a": b"1"})
        store.mark(0, 1, previous=None)
        client.save()
        store.put_many({"a": b"2"})
        store.mark(0, 2, previous=1)
        server.kill()
        server.start()
        assert store.get_many(["a"]) == [b"1"]
        with pytest.raises(OnlineStoreLostError, match="marked at offset 1, not 2"):
            store.mark(0, 3, previous=2)
        store.close()


@pytest.mark.service("redis")
def test_a_full_redis_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--maxmemory", "8mb") as server:
        store = RedisOnlineStore(server.url, sleep=lambda _: None)
        store.put_many({"a": b"1"})
        with pytest.raises(OnlineStoreError, match=r"refused.*memory"):
            for n in range(100):
                store.put_many({f"k{n}": bytes(1 << 20)})
        assert store.get_many(["a"]) == [b"1"]
        store.close()


@pytest.mark.service("redis")
def test_password_and_acl(tmp_path: Path) -> None:
    user = ["--user", "tactful", "on", ">secret", "~tactful:*"]
    rights = ["+@read", "+@write", "+@scripting", "+@connection"]
    with RedisServer(tmp_path, "--requirepass", "root", *user, *rights) as server:
        place = f"127.0.0.1:{server.port}/0"
        pauses: list[float] = []
        stranger = RedisOnlineStore(f"redis://tactful:wrong@{place}", sleep=pauses.append)
        with pytest.raises(OnlineStoreError, match="refused") as refusal:
            stranger.get_many(["a"])
        assert "wrong" not in str(refusal.value)
        assert pauses == []  # no later attempt can cure it
        store = RedisOnlineStore(f"redis://tactful:secret@{place}", ttl_s=60)
        store.put_many({"a": b"1", "b": None})
        store.mark(0, 1, previous=None)
        assert (store.get_many(["a"]), store.marked(0)) == ([b"1"], 1)
        elsewhere = RedisOnlineStore(f"redis://tactful:secret@{place}", prefix="other")
        with pytest.raises(OnlineStoreError, match="refused"):
            elsewhere.put_many({"a": b"1"})
        for opened in (stranger, store, elsewhere):
            opened.close()


@pytest.mark.service("redis")
def test_tls(tmp_path: Path) -> None:
    made = subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 1"
        " -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("no openssl here to make a certificate with")
    port = free_port()
    options = f"--tls-port {port} --tls-cert-file cert.pem --tls-key-file key.pem"
    with RedisServer(tmp_path, *options.split(), "--tls-auth-clients", "no"):
        url = f"rediss://127.0.0.1:{port}/0"
        store = RedisOnlineStore(f"{url}?ssl_ca_certs={tmp_path / 'cert.pem'}")
        store.put_many({"a": b"1"})
        assert store.get_many(["a"]) == [b"1"]
        store.close()
        distrustful = RedisOnlineStore(url, attempts=1)
        with pytest.raises(OnlineStoreError, match="certificate"):
            distrustful.get_many(["a"])
        distrustful.close()


@pytest.mark.service("redis")
def test_a_foreign_mark_is_an_error(redis_url: str) -> None:
    import redis

    prefix = f"test.{uuid.uuid4().hex}"
    store = RedisOnlineStore(redis_url, prefix=prefix)
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{prefix}::@:0", "theirs")
    with pytest.raises(OnlineStoreError, match="something else writes there"):
        store.marked(0)
    store.close()


def test_no_redis_url() -> None:
    for cluster in (False, True):
        with pytest.raises(OnlineStoreError, match="not a Redis URL"):
            RedisOnlineStore("http://example.org", cluster=cluster)


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_redis(name: str, *rest: Any) -> Any:
        if name == "redis":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_redis)
    with pytest.raises(OnlineStoreError, match=r"pip install 'tactful\[redis\]'"):
        RedisOnlineStore("redis://localhost")
