"""Online stores: one packed blob per entity, for processes without the engine.

A blob holds the state of all features of an entity; `read_packed` merges its panes at request time,
so that windows shrink there without events, too.

The key of a blob contains a *tag* (of the definitions that packed it) and a *kind* (of entity), so
that a changed feature set never reads blobs of another one. A *mark* is the offset of a partition
of the log up to which blobs are stored. It is written after its blobs, and only over the previous
mark. A store that was emptied or restored from an older copy is therefore detected, and all blobs
are put again (`WriteBehind`).

::

    tactful:3f1c…:user:ann   packed entity
    tactful:3f1c…:@:2        mark of partition 2
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from tactful_streaming.errors import OnlineStoreError, OnlineStoreLostError

_T = TypeVar("_T")

_BATCH = 512
MARKS = "@"  # kind of the keys of marks
_WORD = re.compile(r"[\w.-]*", re.ASCII)

_PUT_SCRIPT = """
for i, key in ipairs(KEYS) do
  if ARGV[1] == '0' then redis.call('SET', key, ARGV[i + 1])
  else redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1]) end
end
"""
_MARK_SCRIPT = """
local found = redis.call('GET', KEYS[1])
if ARGV[2] == '' or found == ARGV[1] or found == ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[1])
end
return found
"""


Blobs = Mapping[str, bytes | None]
"""Blobs by key; None removes."""

BlobsByKind = Mapping[str, Blobs]
"""Blobs by kind of entity and key."""


class OnlineStore(Protocol):
    """Packed state by kind of entity and key, and marks by partition of the log."""

    def get_many(self, keys: Sequence[str], *, kind: str = "user") -> list[bytes | None]:
        """Read the blobs of `keys`, in their order; None for a missing one."""

    def put_many(self, blobs: Blobs, *, kind: str = "user") -> None:
        """Store blobs by key; None removes. Repeating it is harmless."""

    def mark(self, partition: int, offset: int, *, previous: int | None) -> None:
        """Store the offset of a partition up to which all blobs are stored.

        It replaces the mark `previous`; None: any, after all blobs were put.

        Raises:
            OnlineStoreLostError: if another mark is stored: earlier blobs are lost or overwritten,
                and all must be put again.
        """

    def put_marked(self, blobs: BlobsByKind, partition: int, offset: int, *, previous: int) -> None:
        """Store blobs by kind and key, then the mark of a partition as :meth:`mark`."""

    def marked(self, partition: int) -> int | None:
        """Read the mark of a partition; None if there is none."""

    def close(self) -> None:
        """Release connections."""


_VALKEY = {"valkey": "redis", "valkeys": "rediss"}


def is_redis_url(address: str) -> bool:
    """Return whether an address names a Redis, or a Valkey, which speaks the same protocol."""
    scheme, separator, _ = address.partition("://")
    return bool(separator) and scheme.lower() in ("redis", "rediss", "unix", *_VALKEY)


def _redis_url(address: str) -> str:
    """Return the address as the Redis client knows it."""
    scheme, separator, rest = address.partition("://")
    return f"{_VALKEY.get(scheme.lower(), scheme)}{separator}{rest}"


class RedisConnection:
    """Runs operations on a Redis client, with bounded retries and exponential backoff.

    A retried operation may have been executed before its answer was lost, so operations must be
    idempotent.
    """

    def __init__(
        self,
        url: str,
        *,
        cluster: bool = False,
        timeout_s: float = 2.0,
        attempts: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect to `url` at the first use; the arguments are those of `RedisOnlineStore`.

        Raises:
            OnlineStoreError: if the Redis client is not installed or `url` is no Redis URL.
        """
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise OnlineStoreError(
                "the Redis client is not installed: pip install 'tactful[redis]'"
            ) from error
        try:
            url = _redis_url(url)
            redis.ConnectionPool.from_url(url)
        except ValueError as error:
            raise OnlineStoreError(f"not a Redis URL: {error}") from error
        kind: Any = redis.RedisCluster if cluster else redis.Redis
        self._connect: Callable[[], Any] = lambda: kind.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),  # `run` retries
        )
        # Not worth a retry; redis-py derives them from its connection errors.
        self._permanent = (redis.AuthenticationError, redis.exceptions.AuthorizationError)
        self._unreachable = (
            redis.ConnectionError,
            redis.TimeoutError,
            redis.ReadOnlyError,
            redis.exceptions.RedisClusterException,
            redis.exceptions.ClusterError,  # a node is away, or a slot moves
        )
        self._refused = redis.RedisError
        self._client: Any = None  # created at the first use: a cluster client connects at once
        self._attempts = attempts
        self._sleep = sleep

    def run(self, operation: Callable[[Any], _T]) -> _T:
        """Return the result of `operation`; raise OnlineStoreError if Redis fails."""
        pause = 0.05
        for attempt in range(1, self._attempts + 1):
            try:
                if self._client is None:
                    self._client = self._connect()
                return operation(self._client)
            except self._permanent as error:
                raise OnlineStoreError(f"Redis refused: {error}") from error
            except self._unreachable as error:
                if attempt == self._attempts:
                    raise OnlineStoreError(
                        f"Redis cannot be reached after {attempt} attempts: {error}"
                    ) from error
                self._sleep(pause)
                pause *= 4
            except self._refused as error:
                raise OnlineStoreError(f"Redis refused: {error}") from error
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()


class RedisOnlineStore:
    """An :class:`OnlineStore` in Redis: one command for many entities, one key per entity.

    Operations are retried a bounded number of times with growing pauses. Redis must allow scripts
    (``EVAL``): one script call writes 512 blobs with their time to live, at a tenth of the client's
    cost for as many ``SET``. Methods raise OnlineStoreError if Redis cannot be reached or refuses.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "tactful",
        tag: str = "",
        ttl_s: float | None = None,
        cluster: bool = False,
        timeout_s: float = 2.0,
        attempts: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect to `url` at the first use.

        Args:
            url: ``redis://``, ``rediss://``, ``valkey://``, ``valkeys://`` or ``unix://``, with
                ``user:password@`` for an ACL and options of redis-py behind a question mark
                (``?ssl_ca_certs=…``).
            prefix: prefix of every key in Redis.
            tag: tag of the definitions, such as a part of their fingerprint; letters, digits and
                ``._-``.
            ttl_s: seconds after which a blob that was not put again expires; None: never.
            cluster: whether `url` is a node of a Redis Cluster. Commands then have one key each.
                Workers use other keys there: see `PartitionedRedisStore`.
            timeout_s: for connecting and for each answer, seconds.
            attempts: largest number of attempts of an operation.
            sleep: waits between attempts, seconds.

        Raises:
            OnlineStoreError: if the Redis client is not installed, `url` is no Redis URL or the
                tag has other characters.
        """
        self._redis = RedisConnection(
            url, cluster=cluster, timeout_s=timeout_s, attempts=attempts, sleep=sleep
        )
        self._space = f"{prefix}:{checked('tag', tag)}"
        self._ttl_ms = _milliseconds(ttl_s)
        self._cluster = cluster

    def get_many(self, keys: Sequence[str], *, kind: str = "user") -> list[bytes | None]:
        """Read the blobs of `keys`, in their order; None for a missing one."""
        prefix = self._prefix(kind)
        return self._get([prefix + key for key in keys])

    def put_many(self, blobs: Blobs, *, kind: str = "user") -> None:
        """Store blobs by key; None removes. Repeating it after a failure is harmless."""
        prefix = self._prefix(kind)
        self._put(
            [(prefix + key, blob) for key, blob in blobs.items() if blob is not None],
            [prefix + key for key, blob in blobs.items() if blob is None],
        )

    def _get(self, names: Sequence[str]) -> list[bytes | None]:
        if not names:
            return []

        def read(client: Any) -> list[bytes | None]:
            if not self._cluster:
                blobs: list[bytes | None] = client.mget(names)
                return blobs
            pipeline = client.pipeline()
            for name in names:
                pipeline.get(name)
            return list(pipeline.execute())

        return self._redis.run(read)

    def keys(self, kind: str) -> list[str]:
        """Return the keys of all blobs of a kind, some perhaps twice; blocks no other client."""
        prefix = self._prefix(kind)
        return [name[len(prefix) :] for name in self._scan(f"{literally(prefix)}*")]

    def _scan(self, pattern: str) -> list[str]:
        def scan(client: Any) -> list[str]:
            return [name.decode() for name in client.scan_iter(match=pattern, count=_BATCH)]

        return self._redis.run(scan)

    def _put(self, kept: Sequence[tuple[str, bytes]], removed: Sequence[str]) -> None:
        def write(client: Any) -> None:
            pipeline = client.pipeline(transaction=False)
            for start in range(0, len(kept), _BATCH):
                names, values = zip(*kept[start : start + _BATCH], strict=True)
                pipeline.eval(_PUT_SCRIPT, len(names), *names, self._ttl_ms, *values)
            for start in range(0, len(removed), _BATCH):
                pipeline.unlink(*removed[start : start + _BATCH])
            pipeline.execute()

        def write_singly(client: Any) -> None:
            pipeline = client.pipeline()
            for name, blob in kept:
                pipeline.set(name, blob, px=self._ttl_ms or None)
            for name in removed:
                pipeline.delete(name)
            pipeline.execute()

        if kept or removed:
            self._redis.run(write_singly if self._cluster else write)

    def mark(self, partition: int, offset: int, *, previous: int | None) -> None:
        """Store the mark of a partition; see :meth:`OnlineStore.mark`."""
        name = self._mark_key(partition)
        before = "" if previous is None else previous
        answer = self._redis.run(lambda client: client.eval(_MARK_SCRIPT, 1, name, offset, before))
        self._check_mark(partition, answer, offset, previous)

    def put_marked(self, blobs: BlobsByKind, partition: int, offset: int, *, previous: int) -> None:
        """Store blobs by kind and key, then the mark of a partition."""
        for kind, of_kind in blobs.items():
            self.put_many(of_kind, kind=kind)
        self.mark(partition, offset, previous=previous)

    def marked(self, partition: int) -> int | None:
        """Read the mark of a partition; None if there is none."""
        name = self._mark_key(partition)
        return self._offset(partition, self._redis.run(lambda client: client.get(name)))

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _prefix(self, kind: str) -> str:
        return f"{self._space}:{checked('kind', kind)}:"

    def _mark_key(self, partition: int) -> str:
        return f"{self._space}:{MARKS}:{partition}"

    def _offset(self, partition: int, mark: bytes | None) -> int | None:
        try:
            return None if mark is None else int(mark)
        except ValueError as error:
            raise OnlineStoreError(
                f"{self._mark_key(partition)} in Redis is no offset: something else writes there; "
                "choose another prefix"
            ) from error

    def _check_mark(
        self, partition: int, mark: bytes | None, offset: int, previous: int | None
    ) -> None:
        """Check that the mark before a write was `previous`, or `offset` by a repetition."""
        present = self._offset(partition, mark)
        if previous is not None and present not in (offset, previous):
            # A newer mark is of a former owner of the partition, whose blobs must be overwritten,
            # too.
            status = "has no mark" if present is None else f"is marked at offset {present}"
            raise OnlineStoreLostError(
                f"partition {partition} {status}, not {previous}: the online store lost entities; "
                "put all of them again"
            )


def literally(text: str) -> str:
    """Return the pattern of Redis that only `text` matches."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def checked(name: str, word: str) -> str:
    """Return a part of a key's name; OnlineStoreError if it has other characters."""
    if not _WORD.fullmatch(word):
        raise OnlineStoreError(f"{word!r} is no {name}: letters, digits, '.', '_' and '-' only")
    return word


def _milliseconds(seconds: float | None) -> int:
    if seconds is None:
        return 0
    if not 0.001 <= seconds < 10**9:
        raise OnlineStoreError(f"a time to live of {seconds} s: it must be at least 0.001")
    return round(seconds * 1000)
