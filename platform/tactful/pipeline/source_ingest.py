"""Ingestion of messages of other programs, mapped to events and users."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from tactful.metrics.registry import Metrics
from tactful.pipeline.ingest import EventIngest
from tactful.pipeline.user_traits import UserTraits
from tactful.schemas.ingestion import EventsAccepted, Rejection, Upserted
from tactful.schemas.sources import SourceAnswer
from tactful.sources.mapping import Mappings, SourceMapping, SourceName
from tactful.sources.translate import Described, Message, Translation, translate
from tactful.subjects.permissions import Permissions, claimed
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.decode_requests import Limits
from tactful_streaming.contract.log_entries import SOURCE

logger = logging.getLogger(__name__)

_JSON = "application/json"
_LOG_MS = 60_000
_AT_ONCE = 128
_MOST_BATCHES = 10
_LONGEST = 64 * 1024
_NO_CONSENT = (
    "no_consent",
    "the user has not agreed that their traits are used: record their decision with "
    "PUT /v1/users/{user_id}/consent",
)
_FULL = (
    "too_many_events",
    "the messages before it became as many events as one request may: send smaller batches",
)


class _Element(NamedTuple):
    """An event or a user, encoded."""

    text: bytes
    message: int  # its index in the request
    place: str  # in its message


@dataclass
class _Run:
    """Results of the messages of one request so far."""

    longest: int  # bytes of an element
    opted_out: bool
    events: list[_Element] = field(default_factory=list)
    users: list[_Element] = field(default_factory=list)
    waiting: int = 0  # bytes of both
    made: int = 0  # number of events and users
    accepted: int = 0
    duplicates: int = 0
    kinds: dict[int, str] = field(default_factory=dict)  # of each message, by its index
    ignored: set[int] = field(default_factory=set)
    refused: dict[int, Rejection] = field(default_factory=dict)

    def result(self, index: int) -> str:
        """Return the result of a message, for metrics."""
        if index in self.refused:
            return "refused"
        return "ignored" if index in self.ignored else "accepted"

    def refuse(self, index: int, code: str, message: str, place: str = "") -> None:
        """Keep the first problem of a message."""
        text = f"{place}: {message}" if place else message
        self.refused.setdefault(index, Rejection(index=index, code=code, message=text))

    def add(self, elements: list[_Element], content: Any, index: int, place: str) -> None:
        """Add an element, or refuse its message if it cannot be sent."""
        self.made += 1
        try:
            text = msgspec.json.encode(content)
        except UnicodeEncodeError:
            self.refuse(index, "not_utf8", "a text is not Unicode", place)
            return
        if len(text) > self.longest:
            problem = f"an event has more than {self.longest} bytes: map fewer or shorter fields"
            self.refuse(index, "too_long", problem, place)
            return
        elements.append(_Element(text, index, place))
        self.waiting += len(text)

    def take(self, answer: EventsAccepted | Upserted, sent: Sequence[_Element]) -> None:
        """Count what was accepted of elements, and refuse the messages of the others."""
        self.accepted += answer.accepted
        self.duplicates += answer.duplicates if isinstance(answer, EventsAccepted) else 0
        for rejection in answer.rejected:
            element = sent[rejection.index]
            self.refuse(element.message, rejection.code, rejection.message, element.place)


class RefusalLog:
    """Logs once a minute how many messages of a source were refused, by code; no payloads."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` returns epoch milliseconds."""
        self._clock = clock
        self._next: dict[str, int] = {}
        self._messages: Counter[str] = Counter()
        self._codes: dict[str, Counter[str]] = {}

    def note(self, source: str, messages: int, codes: Iterable[str]) -> None:
        """Count the messages of a request and the codes of those that were refused."""
        self._messages[source] += messages
        counts = self._codes.setdefault(source, Counter())
        counts.update(codes)
        if not counts or self._clock() < self._next.get(source, 0):
            return
        reasons = ", ".join(f"{code} {count}" for code, count in counts.most_common())
        total = self._messages.pop(source)
        logger.warning(
            "source %s: %d of %d messages were refused: %s", source, counts.total(), total, reasons
        )
        counts.clear()
        self._next[source] = self._clock() + _LOG_MS


class SourceIngest:
    """Accepts the messages of sources. Used from the event loop only."""

    def __init__(
        self,
        ingest: EventIngest,
        mappings: Mappings,
        metrics: Metrics,
        permissions: Permissions,
        *,
        described: Callable[[str], Mapping[str, Any]],
        clock: Callable[[], int],
    ) -> None:
        """Send events and users to `ingest`; `described` returns the properties of a user."""
        self._ingest = ingest
        self._mappings = mappings
        self._metrics = metrics
        self._permissions = permissions
        self._limits = ingest.limits
        self._traits = UserTraits(described, clock=clock)
        self._clock = clock
        self._report = RefusalLog(clock)

    def now(self) -> int:
        """Return the time of this server, epoch milliseconds."""
        return self._clock()

    def mapping(self, source: SourceName) -> SourceMapping:
        """Return the mapping of a source, which is empty if the file has none."""
        return self._mappings.get(source) or SourceMapping(source)

    async def accept(
        self, source: SourceName, messages: Iterable[Message], *, opted_out: bool = False
    ) -> SourceAnswer:
        """Accept the messages of one request; with `opted_out` none of them claims consent.

        Raises:
            ProblemError: if the engine or the log is behind. Messages that are sent again count
                once if they have an id or a time.
        """
        mapping, now = self.mapping(source), self._clock()
        run = _Run(min(_LONGEST, self._limits.max_bytes - 2), opted_out)
        for message in messages:
            run.kinds[message.index] = message.kind
            if run.made >= _MOST_BATCHES * self._limits.max_batch:
                run.refuse(message.index, *_FULL)
                continue
            self._collect(run, translate(message, mapping, now=now))
            if self._is_full(run):
                await self._send(run)
            elif message.index % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)  # other requests are answered in between
        await self._send(run)
        return self._answer(source, run)

    def _collect(self, run: _Run, translation: Translation) -> None:
        index, problem = translation.message.index, translation.problem
        if problem is not None:
            run.refuse(index, *problem)
        if translation.rule is None:
            if problem is None:
                run.ignored.add(index)
            return
        user = translation.user
        if user is not None and not self._may_describe(user, run.opted_out):
            run.refuse(index, *_NO_CONSENT)
        elif user is not None:
            described = {
                "user_id": user.user_id,
                "timestamp": user.timestamp,
                "properties": self._traits.merged(user),
            }
            run.add(run.users, described, index, "traits")
        for place, event in translation.events:
            run.add(run.events, event, index, place)

    def _may_describe(self, user: Described, opted_out: bool) -> bool:
        """Return whether a message that states consent, or refuses it, allows to keep traits."""
        claim = "" if opted_out else user.claim
        if claim is None:
            return True  # `EventIngest.users` decides
        allowed = self._permissions.of(user.user_id, None, user.timestamp, claimed(claim))
        return Purpose.PERSONALISATION in allowed

    def _is_full(self, run: _Run) -> bool:
        waiting, limits = len(run.events) + len(run.users), self._limits
        return waiting >= limits.max_batch or run.waiting >= limits.max_bytes // 2

    async def _send(self, run: _Run) -> None:
        """Append what was collected, users first."""
        users, events = run.users, run.events
        run.users, run.events, run.waiting = [], [], 0
        for batch in _batches(users, self._limits):
            run.take(await self._ingest.users(_body(batch), _JSON), batch)
        for batch in _batches(events, self._limits):
            answer = await self._ingest.events(
                _body(batch), _JSON, sender=SOURCE, opted_out=run.opted_out
            )
            run.take(answer, batch)

    def _answer(self, source: SourceName, run: _Run) -> SourceAnswer:
        results = Counter((kind, run.result(index)) for index, kind in run.kinds.items())
        for (kind, result), count in results.items():
            self._metrics.sourced(source, kind, result, count)
        rejected = [run.refused[index] for index in sorted(run.refused)]
        self._report.note(source, len(run.kinds), [rejection.code for rejection in rejected])
        return SourceAnswer(
            accepted=run.accepted,
            duplicates=run.duplicates,
            ignored=len(run.ignored),
            rejected=rejected,
        )


def _batches(elements: Sequence[_Element], limits: Limits) -> Iterator[Sequence[_Element]]:
    """Split elements into batches of the size that ingestion takes."""
    start, size = 0, 2
    for end, element in enumerate(elements):
        size += len(element.text) + 1
        if end - start == limits.max_batch or size > limits.max_bytes:
            yield elements[start:end]
            start, size = end, len(element.text) + 3
    if start < len(elements):
        yield elements[start:]


def _body(elements: Sequence[_Element]) -> bytes:
    return b"[" + b",".join(element.text for element in elements) + b"]"
