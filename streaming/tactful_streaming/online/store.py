"""Online stores: one packed blob per entity, for processes that serve without the engine.

A blob holds the state of all features of an entity; :func:`~tactful_streaming.read_packed` merges
its panes at request time, so that silence ages them there, too.

Blobs lie under a *tag* (of the definitions that packed them) and a *kind* (of entity), so that a
changed feature set never reads what another one wrote. Beside them lie *marks*: how far into a
partition of the log the blobs have come. A mark is written after the blobs it speaks for, and only
on top of the mark before it. By this a store is noticed that was emptied or went back to an older
copy of itself, and everything can be put again (:class:`~tactful_streaming.WriteBehind`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from tactful_streaming.errors import OnlineStoreError, OnlineStoreLostError
from tactful_streaming.online.redis import RedisConnection

_BATCH = 512
_MARKS = "@"
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


class OnlineStore(Protocol):
    """Packed state by kind of entity and key, and marks by partition of the log."""

    def get_many(self, keys: Sequence[str], *, kind: str = "user") -> list[bytes | None]:
        """Blobs of `keys`, in their order; None where there is none."""

    def put_many(self, blobs: Mapping[str, bytes | None], *, kind: str = "user") -> None:
        """Store blobs by key; None removes. Repeating it is harmless."""

    def mark(self, partition: int, offset: int, *, previous: int | None) -> None:
        """Note that all that was put reflects a partition of the log up to an offset.

        Args:
            partition: number of the partition, not negative.
            offset: next offset to apply.
            previous: the mark that must be there now; None for whatever is there, after everything
                was put.

        Raises:
            OnlineStoreLostError: if it is another one: what was put before is lost or was
                overwritten, and has to be put again.
        """

    def marked(self, partition: int) -> int | None:
        """Offset up to which a partition can be read here; None if nobody has marked it."""

    def close(self) -> None:
        """Release what is held."""


@runtime_checkable
class PutsMarked(Protocol):
    """An online store that one journey takes blobs and their mark to."""

    def put_marked(
        self,
        blobs: Mapping[str, Mapping[str, bytes | None]],
        partition: int,
        offset: int,
        *,
        previous: int,
    ) -> None:
        """Store blobs by kind and key, then note how far that brings the partition."""


def put_marked(
    store: OnlineStore,
    blobs: Mapping[str, Mapping[str, bytes | None]],
    partition: int,
    offset: int,
    *,
    previous: int,
) -> None:
    """Store blobs by kind and key, then note how far that brings a partition.

    Raises:
        OnlineStoreLostError: as :meth:`OnlineStore.mark`.
        OnlineStoreError: if the store cannot be reached or refuses.
    """
    if isinstance(store, PutsMarked):
        store.put_marked(blobs, partition, offset, previous=previous)
        return
    for kind, of_kind in blobs.items():
        store.put_many(of_kind, kind=kind)
    store.mark(partition, offset, previous=previous)


class RedisOnlineStore:
    """An :class:`OnlineStore` in Redis: one command for many entities, never a field per feature.

    A lost connection is made again, a bounded number of times with growing pauses. Redis needs to
    run scripts (``EVAL``): one script call writes 512 blobs with their time to live, at a tenth of
    what as many ``SET`` cost the client.
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
            url: ``redis://``, ``rediss://`` or ``unix://``, with ``user:password@`` for an ACL and
                options of redis-py behind a question mark (``?ssl_ca_certs=…``).
            prefix: what every key begins with in Redis.
            tag: of the definitions, such as a part of their fingerprint: letters, digits, ``._-``.
            ttl_s: seconds after which a blob that was not put again vanishes; None keeps it.
            cluster: whether `url` is a node of a Redis Cluster. Commands then have one key each.
            timeout_s: for connecting and for each answer, seconds.
            attempts: how often an operation is tried.
            sleep: waits between attempts, seconds.

        Raises:
            OnlineStoreError: if the Redis client is not installed, `url` is no Redis URL or the
                tag has other characters.
        """
        self._redis = RedisConnection(
            url, cluster=cluster, timeout_s=timeout_s, attempts=attempts, sleep=sleep
        )
        self._space = f"{prefix}:{_checked('tag', tag)}"
        self._ttl_ms = _milliseconds(ttl_s)
        self._cluster = cluster

    def get_many(self, keys: Sequence[str], *, kind: str = "user") -> list[bytes | None]:
        """Blobs of `keys`, in their order; None where there is none.

        Raises:
            OnlineStoreError: if Redis cannot be reached or refuses.
        """
        if not keys:
            return []
        prefix = self._prefix(kind)
        names = [prefix + key for key in keys]

        def read(client: Any) -> list[bytes | None]:
            if not self._cluster:
                found: list[bytes | None] = client.mget(names)
                return found
            pipeline = client.pipeline()
            for name in names:
                pipeline.get(name)
            return list(pipeline.execute())

        return self._redis.run(read)

    def put_many(self, blobs: Mapping[str, bytes | None], *, kind: str = "user") -> None:
        """Store blobs by key; None removes. Repeating it after a failure is harmless.

        Raises:
            OnlineStoreError: if Redis cannot be reached or refuses.
        """
        prefix = self._prefix(kind)
        kept = [(prefix + key, blob) for key, blob in blobs.items() if blob is not None]
        removed = [prefix + key for key, blob in blobs.items() if blob is None]

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

        if blobs:
            self._redis.run(write_singly if self._cluster else write)

    def mark(self, partition: int, offset: int, *, previous: int | None) -> None:
        """Note how far a partition has come; see :meth:`OnlineStore.mark`.

        Raises:
            OnlineStoreLostError: if it is another one: what was put before is lost or was
                overwritten, and has to be put again.
            OnlineStoreError: if Redis cannot be reached or refuses.
        """
        name = self._mark_key(partition)
        before = "" if previous is None else previous
        answer = self._redis.run(lambda client: client.eval(_MARK_SCRIPT, 1, name, offset, before))
        found = self._offset(name, answer)
        if previous is not None and found not in (offset, previous):
            raise _misplaced(partition, found, previous)

    def marked(self, partition: int) -> int | None:
        """Offset up to which a partition can be read here; None if nobody has marked it.

        Raises:
            OnlineStoreError: if Redis cannot be reached or refuses.
        """
        name = self._mark_key(partition)
        return self._offset(name, self._redis.run(lambda client: client.get(name)))

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _prefix(self, kind: str) -> str:
        return f"{self._space}:{_checked('kind', kind)}:"

    def _mark_key(self, partition: int) -> str:
        return f"{self._space}:{_MARKS}:{partition}"

    def _offset(self, name: str, found: bytes | None) -> int | None:
        try:
            return None if found is None else int(found)
        except ValueError as error:
            raise OnlineStoreError(
                f"{name} in Redis is no offset: something else writes there; choose another prefix"
            ) from error


def _checked(what: str, word: str) -> str:
    if not _WORD.fullmatch(word):
        raise OnlineStoreError(f"{word!r} is no {what}: letters, digits, '.', '_' and '-' only")
    return word


def _milliseconds(seconds: float | None) -> int:
    if seconds is None:
        return 0
    if not 0.001 <= seconds < 10**9:
        raise OnlineStoreError(f"a time to live of {seconds} s: it must be at least 0.001")
    return round(seconds * 1000)


def _misplaced(partition: int, found: int | None, previous: int) -> OnlineStoreLostError:
    # A newer mark is one of a process that owned the partition before and does not know yet that
    # it lost it: what it wrote has to be overwritten just so.
    said = "has no mark" if found is None else f"is marked at offset {found}"
    return OnlineStoreLostError(
        f"partition {partition} {said}, not {previous}: the online store does not hold what was "
        "put there; put everything again"
    )
