"""Webhooks: posts each action to an address at least once, with an idempotency key.

The log holds each action once. The sender follows the log from a position of its own, and queues
actions in a :class:`DeliveryQueue` until the address has answered with 2xx:

* Every delivery has the header ``Idempotency-Key: <event_id>``; a repetition has the same key.
* Other answers are retried after 1 s, 2 s, 4 s… or after ``Retry-After``. After the last attempt
  the delivery is dead: it is stored, and can be revived.
* With a secret, ``Tactful-Signature: t=<seconds>,v1=<hex>`` holds the HMAC-SHA256 of
  ``<seconds>.<body>``; receivers check it by :func:`verify_signature`.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import logging
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import Entry, Event, decode_entry
from tactful_streaming.errors import EntryError, StateError
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.state.store import Change, StateStore
from tactful_streaming.worker.erasure import is_erased

SIGNATURE_HEADER = "Tactful-Signature"
"""Header with the signature of the body."""

_WAITING = b"w"
_DEAD = b"x"
_POSITION = b"p"
_LONGEST_ANSWER = 4096

_logger = logging.getLogger(__name__)
_encode_body = msgspec.json.Encoder().encode
_encoder = msgspec.msgpack.Encoder()


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One action to deliver."""

    event_id: str
    body: bytes  # the action as JSON
    attempts: int = 0  # failed attempts
    due: int = 0  # time of the next attempt, epoch milliseconds
    problem: str = ""  # reason of the last failure


_decoder = msgspec.msgpack.Decoder(Delivery)


class Deliveries(Protocol):
    """Actions that wait for their delivery, and the position of the log behind them."""

    @property
    def position(self) -> int:
        """Next offset of the log to read."""

    def add(self, events: Sequence[Event], position: int, offsets: Sequence[int] = ()) -> None:
        """Queue `events`, which lie at `offsets`, and store the position behind them."""

    def due(self, now: int, limit: int) -> list[Delivery]:
        """Return up to `limit` deliveries that are due, the longest due first."""

    def done(self, delivery: Delivery) -> None:
        """Remove a delivery that arrived."""

    def retry(self, delivery: Delivery) -> None:
        """Store the new time and number of attempts of a delivery that still waits."""

    def mark_dead(self, delivery: Delivery) -> None:
        """End the attempts of a delivery that still waits; it is stored as dead."""


class DeliveryQueue:
    """Queue of deliveries in a state store of its own; durable and thread-safe."""

    def __init__(self, store: StateStore) -> None:
        """Open the queue in `store`."""
        self._store = store
        stored = store.get(_POSITION)
        # Next offset of the log to read.
        self.position = int.from_bytes(stored, "big") if stored is not None else 0
        self._waiting = {d.event_id: d for d in self._stored(_WAITING)}
        self._lock = threading.Lock()

    @property
    def dead(self) -> list[Delivery]:
        """Dead deliveries, with the reasons of failure."""
        return self._stored(_DEAD)

    def add(self, events: Sequence[Event], position: int, offsets: Sequence[int] = ()) -> None:
        """Queue `events` and store the position behind them, atomically."""
        new = [Delivery(event.event_id, _encode_body(event)) for event in events]
        changes: list[Change] = [_change(_WAITING, delivery) for delivery in new]
        with self._lock:
            self._store.write([*changes, (_POSITION, position.to_bytes(8, "big"))])
            self._waiting |= {delivery.event_id: delivery for delivery in new}
            self.position = position

    def due(self, now: int, limit: int) -> list[Delivery]:
        """Return up to `limit` deliveries that are due, the longest due first."""
        with self._lock:
            due = [delivery for delivery in self._waiting.values() if delivery.due <= now]
        return sorted(due, key=lambda delivery: (delivery.due, delivery.event_id))[:limit]

    def next_due(self) -> int | None:
        """Return the time of the next attempt, epoch milliseconds; None if none waits."""
        with self._lock:
            return min((delivery.due for delivery in self._waiting.values()), default=None)

    def done(self, delivery: Delivery) -> None:
        """Remove a delivery that arrived."""
        with self._lock:
            self._store.write([(_WAITING + delivery.event_id.encode(), None)])
            self._drop([delivery.event_id])

    def retry(self, delivery: Delivery) -> None:
        """Store the new time and number of attempts of a delivery that still waits."""
        with self._lock:
            if delivery.event_id in self._waiting:
                self._store.write([_change(_WAITING, delivery)])
                self._waiting[delivery.event_id] = delivery

    def mark_dead(self, delivery: Delivery) -> None:
        """End the attempts of a delivery that still waits; it is stored as dead."""
        removal = (_WAITING + delivery.event_id.encode(), None)
        with self._lock:
            if delivery.event_id in self._waiting:
                self._store.write([removal, _change(_DEAD, delivery)])
                self._drop([delivery.event_id])

    def revive(self) -> int:
        """Queue all dead deliveries again; return their number."""
        with self._lock:
            revived = [Delivery(delivery.event_id, delivery.body) for delivery in self.dead]
            changes: list[Change] = [_change(_WAITING, delivery) for delivery in revived]
            changes += [(_DEAD + delivery.event_id.encode(), None) for delivery in revived]
            self._store.write(changes)
            self._waiting |= {delivery.event_id: delivery for delivery in revived}
        return len(revived)

    def remove(self, matches: Callable[[Delivery], bool]) -> int:
        """Remove matching deliveries, also dead ones; return their number."""
        with self._lock:
            keys = [
                prefix + delivery.event_id.encode()
                for prefix in (_WAITING, _DEAD)
                for delivery in self._stored(prefix)
                if matches(delivery)
            ]
            self._store.write([(key, None) for key in keys])
            self._drop([key[len(_WAITING) :].decode() for key in keys])
        return len(keys)

    def _drop(self, event_ids: Collection[str]) -> None:
        for event_id in event_ids:
            self._waiting.pop(event_id, None)

    def _stored(self, prefix: bytes) -> list[Delivery]:
        try:
            return [_decoder.decode(value) for _, value in self._store.scan(prefix)]
        except DECODE_ERRORS as error:
            raise StateError(
                f"a stored delivery is damaged: {error}; restore the queue from a backup, or begin "
                "an empty one: actions of the log are then delivered again"
            ) from error


@dataclass(frozen=True)
class Answer:
    """Answer of a web address."""

    status: int
    retry_after: float | None = None  # seconds of the header `Retry-After`, if there is one


Post = Callable[[str, bytes, Mapping[str, str], float], Answer]
"""Posts a body with headers to an address, with a timeout in seconds; raises OSError."""


@dataclass(frozen=True)
class RetryPolicy:
    """Times of the attempts of a delivery."""

    attempts: int = 12
    first_ms: int = 1000  # wait after the first failure; it doubles with each
    longest_ms: int = 3_600_000  # longest wait, also if `Retry-After` is longer
    timeout_s: float = 10.0  # timeout of one attempt, seconds


@dataclass(frozen=True)
class SendResult:
    """Numbers of the deliveries that were due."""

    delivered: int = 0  # answered with 2xx
    failed: int = 0  # to be retried
    dead: int = 0  # failed the last time


class WebhookSender:
    """Delivers the actions of a log to one address."""

    def __init__(
        self,
        queue: Deliveries,
        url: str,
        *,
        clock: Callable[[], int],
        secret: bytes | None = None,
        policy: RetryPolicy | None = None,
        post: Post | None = None,
        jitter: Callable[[], float] = random.random,
        suppressed: Container[str] = frozenset(),
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        """Deliver the actions in `queue` to `url`.

        Args:
            queue: queue of deliveries.
            url: an ``https`` or ``http`` address.
            clock: current time, epoch milliseconds.
            secret: key of the signature of each body; None: no signature.
            policy: times of the attempts.
            post: sends one request; :func:`post_request` by default.
            jitter: returns a number in [0, 1), which shortens a wait by up to a quarter, so that
                many deliveries are not retried at once.
            suppressed: keys of erased users, whose actions are neither sent nor stored.
            may_send: asked before each request; while it is False nothing is sent.

        Raises:
            ValueError: if `url` is no ``http`` or ``https`` address.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"webhook address {url!r}: an http or https address is needed")
        self._queue = queue
        self._url = url
        self._clock = clock
        self._secret = secret
        self._policy = policy if policy is not None else RetryPolicy()
        self._post = post if post is not None else post_request
        self._jitter = jitter
        self._suppressed = suppressed
        self._may_send = may_send

    def collect(self, log: EventLog, types: Collection[str], limit: int = 1000) -> int:
        """Queue the actions of `types` in the next records; return how many were read."""
        records = log.read(max(self._queue.position, log.begin), limit)
        if not records:
            return 0
        actions: list[Event] = []
        offsets: list[int] = []
        for offset, payload in records:
            try:
                entry = decode_entry(payload)
            except EntryError:
                continue  # the engine counts it
            if isinstance(entry, Event) and entry.type in types and not self._is_erased(entry):
                actions.append(entry)
                offsets.append(offset)
        self._queue.add(actions, records[-1][0] + 1, offsets)
        return len(records)

    def send_due(self, limit: int = 100) -> SendResult:
        """Send up to `limit` deliveries that are due, one after the other."""
        delivered = failed = dead = 0
        for delivery in self._queue.due(self._clock(), limit):
            if not self._may_send():
                break
            if self._suppressed and self._is_erased(decode_entry(delivery.body)):
                self._queue.done(delivery)
                continue
            problem, retry_after = self._send(delivery)
            if problem is None:
                self._queue.done(delivery)
                delivered += 1
            elif delivery.attempts + 1 >= self._policy.attempts:
                self._queue.mark_dead(self._after_failure(delivery, problem, None))
                dead += 1
            else:
                self._queue.retry(self._after_failure(delivery, problem, retry_after))
                failed += 1
        if failed or dead:
            _logger.warning("webhook: some deliveries failed; the last reason: %s", problem)
        return SendResult(delivered, failed, dead)

    def _is_erased(self, action: Entry) -> bool:
        return is_erased(action, self._suppressed)

    def _send(self, delivery: Delivery) -> tuple[str | None, float | None]:
        """Return the problem or None, and the seconds of ``Retry-After`` or None."""
        return post_signed(
            self._url,
            delivery.body,
            delivery.event_id,
            secret=self._secret,
            seconds=self._clock() // 1000,
            timeout_s=self._policy.timeout_s,
            post=self._post,
        )

    def _after_failure(
        self, delivery: Delivery, problem: str, retry_after: float | None
    ) -> Delivery:
        policy = self._policy
        wait = min(policy.first_ms * 2 ** min(delivery.attempts, 40), policy.longest_ms)
        wait = round(wait * (1 - self._jitter() / 4))
        if retry_after is not None:
            wait = min(max(wait, round(retry_after * 1000)), policy.longest_ms)
        return msgspec.structs.replace(
            delivery, attempts=delivery.attempts + 1, due=self._clock() + wait, problem=problem
        )


def post_signed(
    url: str,
    body: bytes,
    key: str,
    *,
    secret: bytes | None,
    timeout_s: float,
    seconds: int | None = None,
    post: Post | None = None,
) -> tuple[str | None, float | None]:
    """Post a body under an idempotency key, signed if there is a secret.

    Returns the problem or None, and the seconds of ``Retry-After`` or None. `seconds` is the time
    of the signature, by default now.
    """
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    if secret is not None:
        at = int(time.time()) if seconds is None else seconds
        headers[SIGNATURE_HEADER] = sign(secret, body, at)
    try:
        answer = (post or post_request)(url, body, headers, timeout_s)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {type(error).__name__}", None
    if 200 <= answer.status < 300:
        return None, None
    return f"answered with status {answer.status}", answer.retry_after


def sign(secret: bytes, body: bytes, seconds: int) -> str:
    """Return the signature header of `body`, sent `seconds` after the epoch."""
    mac = hmac.new(secret, b"%d." % seconds + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={mac}"


def verify_signature(
    secret: bytes, body: bytes, signature: str, *, now: int, tolerance_s: int = 300
) -> bool:
    """Check that `signature` belongs to `body` and is not older than `tolerance_s`.

    >>> header = sign(b"secret", b"{}", seconds=1_767_268_800)
    >>> verify_signature(b"secret", b"{}", header, now=1_767_268_810)
    True

    Args:
        secret: the shared key.
        body: the body as received.
        signature: the header :data:`SIGNATURE_HEADER`.
        now: current time, seconds since the epoch.
        tolerance_s: largest difference of the clocks, seconds.
    """
    at = signature.partition(",")[0].removeprefix("t=")
    if not (at.isascii() and at.isdecimal() and len(at) < 16):
        return False
    expected = sign(secret, body, int(at))
    fresh = abs(now - int(at)) <= tolerance_s
    return hmac.compare_digest(expected.encode(), signature.encode()) and fresh


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Treats a redirect as an answer: actions go to the configured address only."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def post_request(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
    """Post `body`, without redirects; raise OSError if no answer comes in time."""
    request = urllib.request.Request(url, body, dict(headers), method="POST")
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=timeout_s) as response:
            response.read(_LONGEST_ANSWER)
            return Answer(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _seconds(error.headers.get("Retry-After")))


def _seconds(text: str | None) -> float | None:
    """Parse ``Retry-After`` in seconds; its other form, a date, is ignored."""
    text = (text or "").strip()
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _change(prefix: bytes, delivery: Delivery) -> Change:
    return prefix + delivery.event_id.encode(), _encoder.encode(delivery)
