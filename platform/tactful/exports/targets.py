"""Targets of exports: a signed webhook, and keys in Redis."""

from __future__ import annotations

import contextlib
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from tactful.errors import ConfigError, DatasetError
from tactful_streaming.errors import OnlineStoreError
from tactful_streaming.online.store import RedisConnection, is_redis_url
from tactful_streaming.sinks.webhook import Post, RetryPolicy, post_signed


@dataclass(frozen=True)
class Batch:
    """Rows of some users, delivered at once."""

    key: str  # the same in every attempt to deliver it
    kind: str  # ``recommendations``, or ``segment`` and its name
    rows: Mapping[str, Mapping[str, Any]]  # by user id
    absent: Sequence[str]  # users without a row, of whom an earlier one is withdrawn


class Target(Protocol):
    """A place that takes batches; a batch may come twice."""

    def deliver(self, batch: Batch) -> None:
        """Deliver a batch; raise DatasetError if that fails for good."""


class Webhook:
    """Posts each batch as JSON, signed as the webhooks of actions are.

    ``{"export": "recommendations", "rows": [{"user_id": "ada", "items": […]}], "absent": ["bob"]}``
    """

    def __init__(
        self,
        url: str,
        *,
        secret: bytes | None,
        policy: RetryPolicy,
        post: Post | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Post to `url`, an http or https address; `sleep` waits between attempts, in seconds."""
        self._url = url
        self._secret = secret
        self._policy = policy
        self._post = post
        self._sleep = sleep

    def deliver(self, batch: Batch) -> None:
        """Post a batch until the address answers with 2xx, or the attempts are over."""
        rows = [{"user_id": user, **row} for user, row in batch.rows.items()]
        content = {"export": batch.kind, "rows": rows, "absent": batch.absent}
        body, policy, problem = msgspec.json.encode(content), self._policy, ""
        for attempt in range(policy.attempts):
            failure, retry_after = post_signed(
                self._url,
                body,
                batch.key,
                secret=self._secret,
                timeout_s=policy.timeout_s,
                post=self._post,
            )
            if failure is None:
                return
            problem = failure
            if attempt + 1 < policy.attempts:
                pause = policy.first_ms * 2**attempt / 1000
                longest = policy.longest_ms / 1000
                self._sleep(min(max(pause, retry_after or 0.0), longest))
        raise DatasetError(
            f"the webhook took no batch in {policy.attempts} attempts ({problem}); mend it and run "
            "the same command again, which resumes"
        )


class RedisKeys:
    """Writes one key for each user: JSON under ``<prefix>:<user id>``, which expires.

    Erasures delete it if `consent.sinks_env` names the same address and prefix.
    """

    def __init__(self, url: str, prefix: str, *, ttl_s: float) -> None:
        """Connect to `url` at the first use; a key expires after `ttl_s` seconds.

        Raises:
            ConfigError: if the Redis client is missing, or `url` is no address of a Redis.
        """
        try:
            self._redis = RedisConnection(url, timeout_s=5.0)
        except OnlineStoreError as error:
            raise ConfigError(str(error)) from error
        self._prefix = prefix
        self._ttl_ms = max(round(ttl_s * 1000), 1)

    def deliver(self, batch: Batch) -> None:
        """Write the rows and delete the keys of absent users."""
        encoded = {
            f"{self._prefix}:{user}": msgspec.json.encode(row) for user, row in batch.rows.items()
        }

        def write(client: Any) -> None:
            pipeline = client.pipeline(transaction=False)
            for key, value in encoded.items():
                pipeline.set(key, value, px=self._ttl_ms)
            for user in batch.absent:
                pipeline.delete(f"{self._prefix}:{user}")
            pipeline.execute()

        try:
            self._redis.run(write)
        except OnlineStoreError as error:
            raise DatasetError(
                f"Redis takes no batch: {error}; run the same command again, which resumes"
            ) from error

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


@contextlib.contextmanager
def open_target(
    address: str, kind: str, *, secret: str | None, ttl_s: float, attempts: int
) -> Iterator[Target]:
    """Open the target at an address: ``https://…``, or ``redis://…`` with a prefix after ``#``.

    Raises:
        ConfigError: if it is neither.
    """
    place, _, prefix = address.partition("#")
    try:
        parts = urllib.parse.urlsplit(place)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_web, parts = False, urllib.parse.SplitResult("", "", "", "", "")
    if is_web:
        signing = None if secret is None else secret.encode()
        yield Webhook(address, secret=signing, policy=RetryPolicy(attempts))
    elif is_redis_url(place):
        name = prefix or "tactful-" + kind.replace(" ", "-")
        with contextlib.closing(RedisKeys(place, name, ttl_s=ttl_s)) as target:
            yield target
    else:
        raise ConfigError(f"--to {address!r}: give an https://, redis:// or valkey:// address")


def without_password(address: str) -> str:
    """Return an address without user and password."""
    scheme, separator, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
