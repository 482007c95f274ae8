"""Online stores: one packed blob per entity, for processes that serve without the engine.

A blob holds the panes of all features of an entity; :func:`~tactful_streaming.read_packed` merges
them at request time, so that silence ages them there, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from tactful_streaming.errors import OnlineStoreError, StateError
from tactful_streaming.state import StateStore

_BATCH = 512
_T = TypeVar("_T")


class OnlineStore(Protocol):
    """Packed state by entity key."""

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Blobs of `keys`, in their order; None where there is none."""

    def put_many(self, blobs: Mapping[str, bytes | None]) -> None:
        """Store blobs by key; None removes."""

    def close(self) -> None:
        """Release what is held."""


class EmbeddedOnlineStore:
    """An :class:`OnlineStore` in a state store of its own."""

    def __init__(self, store: StateStore) -> None:
        """Keep blobs in `store`; closed with this object."""
        self._store = store

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Blobs of `keys`, in their order; None where there is none."""
        return self._store.get_many([key.encode() for key in keys])

    def put_many(self, blobs: Mapping[str, bytes | None]) -> None:
        """Store blobs by key; None removes.

        Raises:
            OnlineStoreError: if the store refused.
        """
        try:
            self._store.write([(key.encode(), blob) for key, blob in blobs.items()])
        except StateError as error:
            raise OnlineStoreError(str(error)) from error

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class RedisOnlineStore:
    """An :class:`OnlineStore` in Redis: one MSET for many entities, never a field per feature.

    A lost connection is made again, a bounded number of times with growing pauses.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "tactful:user:",
        timeout_s: float = 2.0,
        attempts: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect to `url` at the first use.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``.
            prefix: what keys begin with in Redis.
            timeout_s: for connecting and for each answer, seconds.
            attempts: how often an operation is tried.
            sleep: waits between attempts, seconds.

        Raises:
            OnlineStoreError: if the Redis client is not installed or `url` is no Redis URL.
        """
        try:
            import redis
        except ImportError as error:
            raise OnlineStoreError(
                "the Redis client is not installed: pip install 'tactful[redis]'"
            ) from error
        try:
            self._client: Any = redis.Redis.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
            )
        except ValueError as error:
            raise OnlineStoreError(f"not a Redis URL: {error}") from error
        self._unreachable = (redis.ConnectionError, redis.TimeoutError)
        self._refused = redis.RedisError
        self._prefix = prefix
        self._attempts = attempts
        self._sleep = sleep

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Blobs of `keys`, in their order; None where there is none.

        Raises:
            OnlineStoreError: if Redis cannot be reached or refuses.
        """
        if not keys:
            return []
        names = [self._prefix + key for key in keys]
        found: list[bytes | None] = self._try(lambda: self._client.mget(names))
        return found

    def put_many(self, blobs: Mapping[str, bytes | None]) -> None:
        """Store blobs by key; None removes. Repeating it after a failure is harmless.

        Raises:
            OnlineStoreError: if Redis cannot be reached or refuses.
        """
        kept = [(self._prefix + key, blob) for key, blob in blobs.items() if blob is not None]
        removed = [self._prefix + key for key, blob in blobs.items() if blob is None]

        def write() -> None:
            pipeline = self._client.pipeline(transaction=False)
            for start in range(0, len(kept), _BATCH):
                pipeline.mset(dict(kept[start : start + _BATCH]))
            for start in range(0, len(removed), _BATCH):
                pipeline.delete(*removed[start : start + _BATCH])
            pipeline.execute()

        if blobs:
            self._try(write)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _try(self, operation: Callable[[], _T]) -> _T:
        pause = 0.05
        for attempt in range(1, self._attempts + 1):
            try:
                return operation()
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
