"""Calls of the HTTP API as generators, shared by both clients."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypedDict, TypeVar, Unpack

import msgspec

from tactful.client.exchange import Call, Policy, Send, Work, exchange, get, segment
from tactful.client.item_calls import ItemCalls
from tactful.client.offline_queue import OfflineQueue, Waiting
from tactful.client.picture_url import with_picture_url
from tactful.errors import ApiError, ClientError, QueueError
from tactful.schemas.fields import Scalar
from tactful.schemas.health import Health
from tactful.schemas.ingestion import EventsAccepted, Rejection, Upserted
from tactful.schemas.positions import Position, latest
from tactful.schemas.recommendations import (
    Explanation,
    Recommendation,
    RecommendBatch,
    RecommendRequest,
)
from tactful.schemas.reports import ReportIndex, ReportInfo
from tactful.schemas.statistics import StatisticInfo, StatisticsIndex, StatisticsPage
from tactful.schemas.users import Consent, UserFeatures
from tactful_privacy.decoding import DECODE_ERRORS

T = TypeVar("T")
Page = TypeVar("Page", StatisticsPage, ReportIndex)
Record = Mapping[str, Any] | msgspec.Struct
Kind = Literal["events", "items", "users"]

logger = logging.getLogger(__name__)

_KINDS: Mapping[Kind, tuple[str, type[EventsAccepted | Upserted]]] = {
    "events": ("POST", EventsAccepted),
    "items": ("PUT", Upserted),
    "users": ("PUT", Upserted),
}
_CHUNK = 500
_CHUNK_BYTES = 1024 * 1024
_NDJSON = "application/x-ndjson"
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class RecommendFields(TypedDict, total=False):
    """The fields of `tactful.schemas.recommendations.RecommendRequest`, as keywords."""

    user_id: str | None
    device_id: str | None
    session_id: str | None
    item_id: str | None
    items: Sequence[str]
    candidates: Sequence[Mapping[str, str | float | None]]
    count: int
    context: Mapping[str, Scalar]
    exclude: Sequence[str]
    category: str | None
    filter: Mapping[str, Any] | None
    discovery: float | None
    min_price: float | None
    max_price: float | None
    exclude_seen: bool
    exclude_taken: bool
    intent: Mapping[str, float]
    timestamp: int | str | None
    as_of: Literal["last"] | None
    after: Position | None
    force: Mapping[str, str]
    explain: bool


@dataclass
class Flushed:
    """Result of sending a queue.

    Attributes:
        accepted: number of events new to the server.
        duplicates: number of events that the server had already.
        refused: refused events with the reason; they are removed from the queue.
        stopped: the error that stopped sending; None when the queue is empty.
    """

    accepted: int = 0
    duplicates: int = 0
    refused: list[tuple[dict[str, Any], Rejection]] = field(default_factory=list)
    stopped: ClientError | None = None


class Calls(ItemCalls):
    """Calls of one client."""

    def __init__(
        self,
        policy: Policy,
        queue: OfflineQueue | None,
        *,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """Make calls that retry by `policy` and queue in `queue`; `new_id` names events."""
        super().__init__(policy)
        self._queue = queue
        self._new_id = new_id

    def events(self, events: Iterable[Record]) -> Call[EventsAccepted]:
        """Send events; each has an id before the first attempt, so a retry counts once."""
        answers = yield from self._send_all("events", map(self._named, events), EventsAccepted)
        return EventsAccepted(
            accepted=sum(answer.accepted for _, answer in answers),
            duplicates=sum(answer.duplicates for _, answer in answers),
            rejected=_shifted((start, answer.rejected) for start, answer in answers),
            position=latest(answer.position for _, answer in answers),
        )

    def items(self, items: Iterable[Record]) -> Call[Upserted]:
        """Insert or replace items, up to 500 or 1 MiB a request; `image` may be bytes."""
        return self._upsert("items", map(with_picture_url, items))

    def users(self, users: Iterable[Record]) -> Call[Upserted]:
        """Insert or replace users, up to 500 or 1 MiB a request."""
        return self._upsert("users", users)

    def _upsert(self, kind: Kind, records: Iterable[Record]) -> Call[Upserted]:
        answers = yield from self._send_all(kind, records, Upserted)
        return Upserted(
            accepted=sum(answer.accepted for _, answer in answers),
            rejected=_shifted((start, answer.rejected) for start, answer in answers),
            position=latest(answer.position for _, answer in answers),
        )

    def send_lines(
        self,
        kind: Kind,
        lines: bytes,
        *,
        new_id: Callable[[int], str] | None = None,
        identified: bool = False,
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> Call[EventsAccepted | Upserted]:
        """Send one request of NDJSON; events without an id get a new one.

        `identified` says that all events have an id already.
        """
        method, answer = _KINDS[kind]
        if kind == "events" and not identified:
            name = new_id or (lambda index: self._new_id())
            split = enumerate(lines.split(b"\n"))
            lines = b"\n".join([_named_line(line, index, name) for index, line in split])
        request = Send(method, f"/v1/{kind}", lines, _NDJSON, headers=headers)
        return (yield from exchange(self._policy, request, answer))

    def enqueue(self, events: Iterable[Record]) -> Call[int]:
        """Append events to the queue, each with an id."""
        queue = self._required_queue()
        bodies = [msgspec.json.encode(self._named(event)) for event in events]
        count: int = yield Work(partial(queue.put, bodies))
        return count

    def flush(self) -> Call[Flushed]:
        """Send the queued events, oldest first."""
        queue = self._required_queue()
        done, count = Flushed(), _CHUNK
        while True:
            oldest = partial(queue.oldest, count=count, max_bytes=_CHUNK_BYTES)
            waiting: Waiting | None = yield Work(oldest)
            if waiting is None:
                return done
            body = b"[%b]" % b",".join(waiting.bodies)
            request = Send("POST", "/v1/events", content=body)
            try:
                answer = yield from exchange(self._policy, request, EventsAccepted)
            except ClientError as error:
                status = error.status if isinstance(error, ApiError) else None
                if status in (400, 413) and len(waiting.bodies) > 1:
                    # The server takes smaller requests only, or cannot read one of these events.
                    count = len(waiting.bodies) // 2
                    continue
                if status != 413:
                    done.stopped = error
                    return done
                # No server accepts an event of this size, and the events behind it must not wait.
                refusal = Rejection(index=0, code="too_large", message=str(error))
                answer = EventsAccepted(accepted=0, duplicates=0, rejected=[refusal], position=0)
            yield Work(partial(queue.remove, waiting))
            done.accepted += answer.accepted
            done.duplicates += answer.duplicates
            for refusal in answer.rejected:
                logger.warning("the server refused a queued event: %s", refusal.code)
                event = msgspec.json.decode(waiting.bodies[refusal.index])
                done.refused.append((event, refusal))

    def recommend(
        self, request: RecommendRequest | None = None, **fields: Unpack[RecommendFields]
    ) -> Call[Recommendation]:
        """Request a recommendation, by a request or by its fields as keywords."""
        body = msgspec.json.encode(_compact(request) if request is not None else fields)
        return exchange(self._policy, Send("POST", "/v1/recommend", content=body), Recommendation)

    def recommend_batch(self, requests: Sequence[RecommendRequest]) -> Call[RecommendBatch]:
        """Request several recommendations at once."""
        body = msgspec.json.encode({"requests": [_compact(request) for request in requests]})
        send = Send("POST", "/v1/recommend/batch", content=body)
        return exchange(self._policy, send, RecommendBatch)

    def explain(self, recommendation_id: str) -> Call[Explanation]:
        """Request the explanation of a recommendation."""
        return get(self._policy, f"/v1/explain/{segment(recommendation_id)}", Explanation)

    def features(self, user_id: str, *, at: int | str | None = None) -> Call[UserFeatures]:
        """Request the features of one user, now or at `at` (epoch ms or RFC 3339)."""
        return get(self._policy, f"/v1/users/{segment(user_id)}/features", UserFeatures, at=at)

    def consent(self, user_id: str) -> Call[Consent]:
        """Request the consent of one user."""
        return get(self._policy, f"/v1/users/{segment(user_id)}/consent", Consent)

    def statistics(
        self, name: str, *, since: int | str | None = None, until: int | str | None = None
    ) -> Call[StatisticsPage]:
        """Request all released numbers of one statistic, oldest pane first."""
        path = f"/v1/statistics/{segment(name)}"
        pages = yield from self._pages(path, StatisticsPage, since=since, until=until)
        cells = [cell for page in pages for cell in page.cells]
        return msgspec.structs.replace(pages[-1], cells=cells)

    def statistics_list(self) -> Call[list[StatisticInfo]]:
        """Request the published statistics."""
        return (yield from get(self._policy, "/v1/statistics", StatisticsIndex)).statistics

    def reports(self) -> Call[list[ReportInfo]]:
        """Request all reports, by name."""
        pages = yield from self._pages("/v1/reports", ReportIndex)
        return [report for page in pages for report in page.reports]

    def report(self, name: str) -> Call[dict[str, Any]]:
        """Request one report."""
        return get(self._policy, f"/v1/reports/{segment(name)}", dict[str, Any])

    def models(self) -> Call[dict[str, Any]]:
        """Request the models in use."""
        return get(self._policy, "/v1/models", dict[str, Any])

    def rollout(self, key: str) -> Call[dict[str, Any]]:
        """Request the state, history and looks of a rollout."""
        return get(self._policy, f"/v1/experiments/{segment(key)}", dict[str, Any])

    def plan_rollout(
        self, definition: Record, *, people_per_day: float | None = None, rate: float | None = None
    ) -> Call[dict[str, Any]]:
        """Request the forecast of a rollout."""
        return self._define("/v1/experiments/plan", definition, people_per_day, rate)

    def define_rollout(
        self, definition: Record, *, people_per_day: float | None = None, rate: float | None = None
    ) -> Call[dict[str, Any]]:
        """Define a rollout; the same definition may be sent again."""
        return self._define("/v1/experiments", definition, people_per_day, rate)

    def _define(
        self, path: str, definition: Record, people_per_day: float | None, rate: float | None
    ) -> Call[dict[str, Any]]:
        params = {"people_per_day": people_per_day, "rate": rate}
        content = msgspec.json.encode(definition)
        return exchange(self._policy, Send("POST", path, content, params=params), dict[str, Any])

    def health(self) -> Call[Health]:
        """Request the readiness of the server."""
        return get(self._policy, "/readyz", Health)

    def _pages(self, path: str, kind: type[Page], **params: Any) -> Call[list[Page]]:
        pages: list[Page] = []
        while not pages or pages[-1].next_cursor is not None:
            cursor = pages[-1].next_cursor if pages else None
            pages.append((yield from get(self._policy, path, kind, cursor=cursor, **params)))
        return pages

    def _send_all(
        self, kind: Kind, records: Iterable[Record], answer: type[T]
    ) -> Call[list[tuple[int, T]]]:
        answers: list[tuple[int, T]] = []
        start = 0
        for bodies in chunks(map(msgspec.json.encode, records)):
            request = Send(_KINDS[kind][0], f"/v1/{kind}", content=b"[%b]" % b",".join(bodies))
            answers.append((start, (yield from exchange(self._policy, request, answer))))
            start += len(bodies)
        return answers

    def _named(self, event: Record) -> Record:
        """Return the event with an id; the server refuses anything that is no event."""
        if isinstance(event, Mapping):
            return event if event.get("event_id") else {**event, "event_id": self._new_id()}
        if getattr(event, "event_id", "") is None:
            return msgspec.structs.replace(event, event_id=self._new_id())
        return event

    def _required_queue(self) -> OfflineQueue:
        if self._queue is None:
            raise QueueError("this client has no queue: make it with `queue=OfflineQueue(path)`")
        return self._queue


def chunks(
    bodies: Iterable[bytes], count: int = _CHUNK, max_bytes: int = _CHUNK_BYTES
) -> Iterator[list[bytes]]:
    """Split into requests by number and by size, in order."""
    chunk: list[bytes] = []
    size = 0
    for body in bodies:
        if chunk and (len(chunk) == count or size + len(body) > max_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(body)
        size += len(body)
    if chunk:
        yield chunk


def _named_line(line: bytes, index: int, new_id: Callable[[int], str]) -> bytes:
    """Return line `index` with an event id, unless it has one or is no object."""
    try:
        fields = _fields.decode(line)
    except DECODE_ERRORS:
        return line
    if "event_id" in fields:
        return line
    rest = line.lstrip()[1:]
    return b'{"event_id":"%b"%b%b' % (new_id(index).encode(), b"," if fields else b"", rest)


def _compact(request: RecommendRequest) -> dict[str, Any]:
    """Drop fields at their default, so that older servers accept newer clients."""
    sent: dict[str, Any] = msgspec.to_builtins(request)
    plain = msgspec.to_builtins(RecommendRequest())
    return {name: value for name, value in sent.items() if value != plain[name]}


def _shifted(parts: Iterable[tuple[int, Sequence[Rejection]]]) -> list[Rejection]:
    return [
        msgspec.structs.replace(rejection, index=start + rejection.index)
        for start, rejections in parts
        for rejection in rejections
    ]
