"""Devices in web pages: their questions and answers over two HTTP routes.

A page cannot use Flower's Fleet API, which has neither CORS nor a format that browsers read. It
polls for questions and posts answers, whose bytes are those of `tactful_federated.secagg.messages`:

    POST /v1/device/poll     Poll -> 200 Question, or 204 if there was none for a while
    POST /v1/device/answer   Answer -> 204

Bodies are MessagePack arrays. A page is known by its enrolment and its signature alone, so the
server stores no page. The routes listen on loopback, behind a TLS proxy of the operator.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tactful_federated.core.compression import to_bytes
from tactful_federated.errors import SecureSumError
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg import messages
from tactful_federated.secagg.collectors import SecureTransport
from tactful_federated.secagg.messages import Enrolment
from tactful_federated.secagg.server import Payloads

HOLD_S = 20.0
"""Seconds that a poll waits for a question."""

_PRESENT_S = 3 * HOLD_S
_MOST_SKEW_MS = 120_000


class Poll(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Request for a question: encoded enrolment, milliseconds since the epoch, signature."""

    enrolment: bytes
    time: int
    signature: bytes


class Question(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Question of a stage; the weights are little-endian float32 at stage 1, else empty."""

    ticket: bytes
    stage: int
    data: bytes
    weights: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Answer to the question of a ticket; empty data say that the page leaves the sum."""

    enrolment: bytes
    ticket: bytes
    data: bytes
    signature: bytes


class PollTimeError(SecureSumError):
    """The time of a poll is not that of the server."""


class PageTransport:
    """Enrolled pages as a `SecureTransport`.

    Methods of rounds run in the thread that leads them, `poll` and `answer` in an event loop.

    Args:
        authority: Key to check enrolments with.
        timeout: Seconds to wait for the answers of a stage.
        monotonic: Returns seconds of a clock that never goes back.
        now: Returns seconds since the epoch.
        entropy: Source of cryptographically secure bytes.
    """

    def __init__(
        self,
        authority: Ed25519PublicKey,
        *,
        timeout: float,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Create a transport without pages."""
        self._authority, self._timeout = authority, timeout
        self._monotonic, self._now, self._entropy = monotonic, now, entropy
        self._changed = threading.Condition()
        self._seen: dict[int, float] = {}
        self._open: dict[int, Question] = {}
        self._answers: dict[int, bytes] = {}
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}

    def ids(self) -> Sequence[int]:
        """Return the numbers of the pages that polled lately."""
        with self._changed:
            first = self._monotonic() - _PRESENT_S
            self._seen = {device: at for device, at in self._seen.items() if at >= first}
            return sorted(self._seen)

    def exchange(self, stage: int, questions: Payloads, weights: Vector) -> Payloads:
        """Return the answers in time; pages that leave or do not answer are left out."""
        sent = to_bytes(weights) if stage == 1 else b""
        with self._changed:
            self._answers = {}
            self._open = {
                device: Question(self._entropy(16), stage, data, sent)
                for device, data in questions.items()
            }
            for device in questions:
                self._wake(device)
            self._changed.wait_for(lambda: not self._open, self._timeout)
            self._open = {}
            return {device: data for device, data in self._answers.items() if data}

    async def poll(self, body: bytes, hold: float = HOLD_S) -> bytes | None:
        """Return the encoded question of a page; None after `hold` seconds without one.

        Raises:
            SecureSumError: The body is not a poll of an enrolled page.
        """
        poll = messages.decode(body, Poll)
        text = messages.poll_text(poll.enrolment, poll.time)
        device = self._device(poll.enrolment, poll.signature, text)
        if abs(poll.time - self.now_ms) > _MOST_SKEW_MS:
            raise PollTimeError("the time of a poll is not that of the server")
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        with self._changed:
            self._seen[device] = self._monotonic()
            question = self._open.get(device)
            if question is None:
                self._wake(device)  # a second tab replaces the first
                self._waiting[device] = loop, event
        if question is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), hold)
            with self._changed:
                if self._waiting.get(device, (loop, None))[1] is event:
                    del self._waiting[device]
                self._seen[device] = self._monotonic()
                question = self._open.get(device)
        return messages.encode(question) if question else None

    def answer(self, body: bytes) -> None:
        """Read an answer; one that comes too late or again is ignored.

        Raises:
            SecureSumError: The body is not an answer of an enrolled page.
        """
        answer = messages.decode(body, Answer)
        text = messages.answer_text(answer.enrolment, answer.ticket, answer.data)
        device = self._device(answer.enrolment, answer.signature, text)
        with self._changed:
            self._seen[device] = self._monotonic()
            question = self._open.get(device)
            if question and question.ticket == answer.ticket:
                del self._open[device]
                self._answers[device] = answer.data
                self._changed.notify_all()

    @property
    def now_ms(self) -> int:
        """Time of the server, milliseconds since the epoch."""
        return int(1000 * self._now())

    def _device(self, encoded: bytes, signature: bytes, text: bytes) -> int:
        enrolment = messages.decode(encoded, Enrolment)
        if not messages.is_enrolled(enrolment, self._authority):
            raise SecureSumError("a page is not enrolled")
        if not messages.is_signed(enrolment.identity, signature, text):
            raise SecureSumError("the signature of a page is wrong")
        return enrolment.device

    def _wake(self, device: int) -> None:
        if waiting := self._waiting.pop(device, None):
            loop, event = waiting
            loop.call_soon_threadsafe(event.set)


class JoinedTransports:
    """Devices of several transports in the same sums.

    Args:
        transports: Transports whose numbers of devices differ.
    """

    def __init__(self, transports: Sequence[SecureTransport]) -> None:
        """Keep the transports."""
        self._transports = transports
        self._owners: dict[int, SecureTransport] = {}

    def ids(self) -> Sequence[int]:
        """Return the numbers of the devices that are available now."""
        self._owners |= {device: each for each in self._transports for device in each.ids()}
        return [device for each in self._transports for device in each.ids()]

    def exchange(self, stage: int, questions: Payloads, weights: Vector) -> Payloads:
        """Return the answers in time, of all transports at once."""
        shares: dict[SecureTransport, dict[int, bytes]] = {}
        for device, data in questions.items():
            shares.setdefault(self._owners[device], {})[device] = data
        with ThreadPoolExecutor(len(self._transports)) as pool:
            parts = pool.map(
                lambda share: share[0].exchange(stage, share[1], weights), shares.items()
            )
            return {device: data for part in parts for device, data in part.items()}
