"""A connection to Redis with reconnects and bounded retries."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from tactful_streaming.errors import OnlineStoreError

_T = TypeVar("_T")


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
