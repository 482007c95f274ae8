"""Tells a web address about actions: at least once each, with a key by which repeats are known.

The log holds each action once. The sender follows the log with a position of its own, and what it
finds waits in a :class:`DeliveryQueue` until the address has answered with 2xx:

* Every delivery carries ``Idempotency-Key: <event_id>``, so the receiver can tell a repeat.
* Whatever is no 2xx is tried again, after 1 s, 2 s, 4 s… or when ``Retry-After`` says. After the
  last attempt the delivery is dead: it is kept, and can be revived.
* With a secret, ``Tactful-Signature: t=<seconds>,v1=<hex>`` holds the HMAC-SHA256 of
  ``<seconds>.<body>``; :func:`verify_signature` is what a receiver does with it.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import logging
import random
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from tactful_streaming.contract.log_entries import Entry, Event, decode_entry
from tactful_streaming.errors import EntryError, StateError
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.state.store import Change, StateStore
from tactful_streaming.worker.erasure import is_erased

SIGNATURE_HEADER = "Tactful-Signature"
"""Header that carries the signature of the body."""

_WAITING = b"w"
_DEAD = b"x"
_POSITION = b"p"
_LONGEST_ANSWER = 4096

_logger = logging.getLogger(__name__)
_encode_body = msgspec.json.Encoder().encode
_encoder = msgspec.msgpack.Encoder()


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One action on its way.

    Attributes:
        event_id: of the action.
        body: the action as JSON.
        attempts: how often it was sent in vain.
        due: when it is to be sent, epoch milliseconds.
        problem: what went wrong the last time.
    """

    event_id: str
    body: bytes
    attempts: int = 0
    due: int = 0
    problem: str = ""


_decoder = msgspec.msgpack.Decoder(Delivery)


class DeliveryQueue(Protocol):
    """Keeps what has to be delivered; everything is durable when a method returns."""

    @property
    def position(self) -> int:
        """Next offset of the log to look at."""

    def add(self, events: Sequence[Event], position: int) -> None:
        """Let `events`, found before `position` of the log, be delivered; all or nothing."""

    def due(self, now: int, limit: int) -> list[Delivery]:
        """Up to `limit` deliveries whose time has come, those that wait longest first."""

    def next_due(self) -> int | None:
        """When the next delivery is to be sent, epoch milliseconds; None if none waits."""

    def done(self, delivery: Delivery) -> None:
        """Forget a delivery that arrived."""

    def retry(self, delivery: Delivery) -> None:
        """Keep a delivery with another time and number of attempts."""

    def bury(self, delivery: Delivery) -> None:
        """Give a delivery up; it is kept among the dead."""


class StoredQueue:
    """A :class:`DeliveryQueue` in a state store that nothing else uses; for several threads."""

    def __init__(self, store: StateStore) -> None:
        """Open the queue in `store`.

        Raises:
            StateError: if what is stored is damaged.
        """
        self._store = store
        stored = store.get(_POSITION)
        self._position = int.from_bytes(stored, "big") if stored is not None else 0
        self._waiting = {d.event_id: d for d in self._stored(_WAITING)}
        self._lock = threading.Lock()

    @property
    def position(self) -> int:
        """Next offset of the log to look at."""
        return self._position

    @property
    def dead(self) -> list[Delivery]:
        """Deliveries given up, with what went wrong."""
        return self._stored(_DEAD)

    def add(self, events: Sequence[Event], position: int) -> None:
        """Let `events`, found before `position` of the log, be delivered; all or nothing."""
        new = [Delivery(event.event_id, _encode_body(event)) for event in events]
        changes: list[Change] = [_change(_WAITING, delivery) for delivery in new]
        with self._lock:
            self._store.write([*changes, (_POSITION, position.to_bytes(8, "big"))])
            self._waiting |= {delivery.event_id: delivery for delivery in new}
            self._position = position

    def due(self, now: int, limit: int) -> list[Delivery]:
        """Up to `limit` deliveries whose time has come, those that wait longest first."""
        with self._lock:
            due = [delivery for delivery in self._waiting.values() if delivery.due <= now]
        return sorted(due, key=lambda delivery: (delivery.due, delivery.event_id))[:limit]

    def next_due(self) -> int | None:
        """When the next delivery is to be sent, epoch milliseconds; None if none waits."""
        with self._lock:
            return min((delivery.due for delivery in self._waiting.values()), default=None)

    def done(self, delivery: Delivery) -> None:
        """Forget a delivery that arrived."""
        with self._lock:
            self._store.write([(_WAITING + delivery.event_id.encode(), None)])
            self._drop([delivery.event_id])

    def retry(self, delivery: Delivery) -> None:
        """Keep a delivery with another time and number of attempts, if it waits still."""
        with self._lock:
            if delivery.event_id in self._waiting:
                self._store.write([_change(_WAITING, delivery)])
                self._waiting[delivery.event_id] = delivery

    def bury(self, delivery: Delivery) -> None:
        """Give a delivery up, if it waits still; it is kept among the dead."""
        gone = (_WAITING + delivery.event_id.encode(), None)
        with self._lock:
            if delivery.event_id in self._waiting:
                self._store.write([gone, _change(_DEAD, delivery)])
                self._drop([delivery.event_id])

    def revive(self) -> int:
        """Let every dead delivery begin again. Returns how many there were."""
        with self._lock:
            revived = [Delivery(delivery.event_id, delivery.body) for delivery in self.dead]
            changes: list[Change] = [_change(_WAITING, delivery) for delivery in revived]
            changes += [(_DEAD + delivery.event_id.encode(), None) for delivery in revived]
            self._store.write(changes)
            self._waiting |= {delivery.event_id: delivery for delivery in revived}
        return len(revived)

    def forget(self, theirs: Callable[[Delivery], bool]) -> int:
        """Forget deliveries, also dead ones; how many there were."""
        with self._lock:
            gone = [
                prefix + delivery.event_id.encode()
                for prefix in (_WAITING, _DEAD)
                for delivery in self._stored(prefix)
                if theirs(delivery)
            ]
            self._store.write([(key, None) for key in gone])
            self._drop([key[len(_WAITING) :].decode() for key in gone])
        return len(gone)

    def _drop(self, event_ids: Collection[str]) -> None:
        for event_id in event_ids:
            self._waiting.pop(event_id, None)

    def _stored(self, prefix: bytes) -> list[Delivery]:
        try:
            return [_decoder.decode(value) for _, value in self._store.scan(prefix)]
        except msgspec.MsgspecError as error:
            raise StateError(
                f"a stored delivery is damaged: {error}; restore the queue from a backup, or begin "
                "an empty one: actions of the log are then delivered again"
            ) from error


@dataclass(frozen=True)
class Answer:
    """What a web address answered.

    Attributes:
        status: HTTP status.
        retry_after: seconds after which it wants to be asked again, where it says so.
    """

    status: int
    retry_after: float | None = None


Post = Callable[[str, bytes, Mapping[str, str], float], Answer]
"""Posts a body with headers to an address, within seconds; raises OSError if nobody answers."""


@dataclass(frozen=True)
class RetryPolicy:
    """When a delivery is tried again.

    Attributes:
        attempts: how often it is sent at most.
        first_ms: wait after the first failure; it doubles with each.
        longest_ms: longest wait, also where ``Retry-After`` asks for more.
        timeout_s: how long one attempt may take.
    """

    attempts: int = 12
    first_ms: int = 1000
    longest_ms: int = 3_600_000
    timeout_s: float = 10.0


@dataclass(frozen=True)
class Sent:
    """What became of the deliveries that were due.

    Attributes:
        delivered: answered with 2xx.
        failed: to be tried again.
        buried: given up.
    """

    delivered: int = 0
    failed: int = 0
    buried: int = 0


class WebhookSender:
    """Delivers the actions of a log to one address."""

    def __init__(
        self,
        queue: DeliveryQueue,
        url: str,
        *,
        clock: Callable[[], int],
        secret: bytes | None = None,
        policy: RetryPolicy | None = None,
        post: Post | None = None,
        jitter: Callable[[], float] = random.random,
        suppressed: Container[str] = frozenset(),
    ) -> None:
        """Deliver what is in `queue` to `url`.

        Args:
            queue: what waits.
            url: an ``https`` or ``http`` address.
            clock: the time, epoch milliseconds.
            secret: signs each body.
            policy: when to try again.
            post: sends one request; :func:`post_request` by default.
            jitter: a number in [0, 1): waits are shortened by up to a quarter, so that many
                deliveries do not come back together.
            suppressed: keys of people who were erased: of them nothing is told, nor kept.

        Raises:
            ValueError: if `url` is no such address.
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

    def collect(self, log: EventLog, types: Collection[str], limit: int = 1000) -> int:
        """Take actions of `types` from the next `limit` records of the log into the queue.

        Returns:
            How many records were looked at; 0 at the end of the log.
        """
        records = log.read(max(self._queue.position, log.begin), limit)
        if not records:
            return 0
        actions: list[Event] = []
        for _, payload in records:
            try:
                entry = decode_entry(payload)
            except EntryError:
                continue  # the engine counts these
            if isinstance(entry, Event) and entry.type in types and not self._is_erased(entry):
                actions.append(entry)
        self._queue.add(actions, records[-1][0] + 1)
        return len(records)

    def send_due(self, limit: int = 100) -> Sent:
        """Send up to `limit` deliveries whose time has come, one after the other."""
        delivered = failed = buried = 0
        for delivery in self._queue.due(self._clock(), limit):
            if self._suppressed and self._is_erased(decode_entry(delivery.body)):
                self._queue.done(delivery)
                continue
            problem, retry_after = self._send(delivery)
            if problem is None:
                self._queue.done(delivery)
                delivered += 1
            elif delivery.attempts + 1 >= self._policy.attempts:
                self._queue.bury(self._after_failure(delivery, problem, None))
                buried += 1
            else:
                self._queue.retry(self._after_failure(delivery, problem, retry_after))
                failed += 1
        if failed or buried:
            _logger.warning("webhook: some deliveries failed; the last reason: %s", problem)
        return Sent(delivered, failed, buried)

    def _is_erased(self, action: Entry) -> bool:
        return is_erased(action, self._suppressed)

    def _send(self, delivery: Delivery) -> tuple[str | None, float | None]:
        """Returns what went wrong, or None, and how many seconds the receiver wants to have."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": delivery.event_id}
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = sign(self._secret, delivery.body, self._clock() // 1000)
        try:
            answer = self._post(self._url, delivery.body, headers, self._policy.timeout_s)
        except (OSError, http.client.HTTPException) as error:
            return f"no answer: {type(error).__name__}", None
        if 200 <= answer.status < 300:
            return None, None
        return f"answered with status {answer.status}", answer.retry_after

    def _after_failure(
        self, delivery: Delivery, problem: str, retry_after: float | None
    ) -> Delivery:
        policy = self._policy
        wait = min(policy.first_ms * 2 ** min(delivery.attempts, 40), policy.longest_ms)
        wait = round(wait * (1 - self._jitter() / 4))
        if retry_after is not None:
            wait = min(max(wait, round(retry_after * 1000)), policy.longest_ms)
        return msgspec.structs.replace(
            delivery,
            attempts=delivery.attempts + 1,
            due=self._clock() + wait,
            problem=problem,
        )


def sign(secret: bytes, body: bytes, seconds: int) -> str:
    """The signature header of `body`, sent `seconds` after the epoch."""
    mac = hmac.new(secret, b"%d." % seconds + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={mac}"


def verify_signature(
    secret: bytes, body: bytes, signature: str, *, now: int, tolerance_s: int = 300
) -> bool:
    """Whether `signature` is that of `body` and not older than `tolerance_s`.

    Args:
        secret: what both sides know.
        body: the body as received.
        signature: the header :data:`SIGNATURE_HEADER`.
        now: the time, seconds since the epoch.
        tolerance_s: how far the sender's clock may be away.
    """
    moment = signature.partition(",")[0].removeprefix("t=")
    if not (moment.isascii() and moment.isdecimal() and len(moment) < 16):
        return False
    expected = sign(secret, body, int(moment))
    fresh = abs(now - int(moment)) <= tolerance_s
    return hmac.compare_digest(expected.encode(), signature.encode()) and fresh


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like another: nothing is sent where nobody asked for it."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def post_request(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
    """Post `body` to `url`; redirects are not followed.

    Raises:
        OSError: if nobody answers in time.
    """
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
    """``Retry-After`` in seconds; its other form, a date, is as good as none."""
    text = (text or "").strip()
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _change(prefix: bytes, delivery: Delivery) -> Change:
    return prefix + delivery.event_id.encode(), _encoder.encode(delivery)
