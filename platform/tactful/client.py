"""The Python client of the HTTP API. It needs httpx and msgspec, and nothing of the server."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from tactful.errors import (
    ApiError,
    BadRequest,
    Busy,
    ClientError,
    ConnectionFailed,
    NotAllowed,
    ServerFault,
)
from tactful.messages import (
    EventsAccepted,
    Health,
    Problem,
    Recommendation,
    RecommendBatch,
    RecommendRequest,
    Rejection,
    ReportIndex,
    ReportInfo,
    StatisticCell,
    StatisticInfo,
    StatisticsIndex,
    StatisticsPage,
    Upserted,
    UserFeatures,
)
from tactful.positions import latest

T = TypeVar("T")
Record = Mapping[str, Any] | msgspec.Struct

Kind = Literal["events", "items", "users"]

_KINDS: Mapping[Kind, tuple[str, type[EventsAccepted | Upserted]]] = {
    "events": ("POST", EventsAccepted),
    "items": ("PUT", Upserted),
    "users": ("PUT", Upserted),
}
_CHUNK = 500
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_PASSING = frozenset({429, 503})


class Client:
    """Talks to one server over kept connections; safe to share between threads.

    Every call may be repeated safely: events carry an id, upserts replace, the rest only reads. So
    connection failures, 429 and 503 are retried, after the pause the server asks for or else an
    exponentially growing random one.

    Example:
        >>> with Client("http://127.0.0.1:8420") as client:  # doctest: +SKIP
        ...     client.events([{"event_id": "1", "type": "view", "timestamp": 1772366400000,
        ...                     "user_id": "u-17", "item_id": "sku-42"}])
        ...     client.recommend(user_id="u-17", count=5).items
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8420",
        api_key: str | None = None,
        *,
        timeout: float = 10.0,
        retries: int = 4,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Make a client; it connects at the first call.

        Args:
            base_url: where the server is.
            api_key: a key with the scopes of the calls; None for a server in ``--dev``.
            timeout: seconds for one attempt.
            retries: how often a passing failure is tried again.
            transport: another way to send requests, for tests.
            sleep: pauses between attempts.
            jitter: random numbers in [0, 1) that spread the pauses.
        """
        headers = {"accept": "application/json"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        self._http = httpx.Client(
            base_url=base_url, headers=headers, timeout=timeout, transport=transport
        )
        self._base_url = base_url
        self._retries = retries
        self._sleep = sleep
        self._jitter = jitter

    def __enter__(self) -> Self:
        """Use the client as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def events(self, events: Iterable[Record]) -> EventsAccepted:
        """Send events, in order, 500 a request.

        Returns:
            The sums; `index` of a rejection counts in `events`; `position` is behind the last one.
        """
        answers = self._send_all("POST", "/v1/events", events, EventsAccepted)
        return EventsAccepted(
            accepted=sum(answer.accepted for _, answer in answers),
            duplicates=sum(answer.duplicates for _, answer in answers),
            rejected=_shifted((start, answer.rejected) for start, answer in answers),
            position=latest(answer.position for _, answer in answers),
        )

    def items(self, items: Iterable[Record]) -> Upserted:
        """Insert or replace items, 500 a request."""
        return self._upsert("/v1/items", items)

    def users(self, users: Iterable[Record]) -> Upserted:
        """Insert or replace users, 500 a request."""
        return self._upsert("/v1/users", users)

    def send_lines(self, kind: Kind, lines: bytes) -> EventsAccepted | Upserted:
        """Send one request of NDJSON as it is.

        Args:
            kind: what each line is.
            lines: one JSON object a line.
        """
        method, answer = _KINDS[kind]
        return self._call(
            method, f"/v1/{kind}", answer, content=lines, content_type="application/x-ndjson"
        )

    def recommend(self, request: RecommendRequest | None = None, **fields: Any) -> Recommendation:
        """Ask for recommendations.

        Args:
            request: the request, or give its fields as keywords.
            fields: fields of `tactful.messages.RecommendRequest`.
        """
        body = msgspec.json.encode(_compact(request) if request is not None else fields)
        return self._call("POST", "/v1/recommend", Recommendation, content=body)

    def recommend_batch(self, requests: Sequence[RecommendRequest]) -> RecommendBatch:
        """Ask for up to a hundred recommendations at once."""
        body = msgspec.json.encode({"requests": [_compact(request) for request in requests]})
        return self._call("POST", "/v1/recommend/batch", RecommendBatch, content=body)

    def features(self, user_id: str, *, at: int | str | None = None) -> UserFeatures:
        """The features of one user, now or as of `at` (epoch milliseconds or RFC 3339)."""
        path = f"/v1/users/{quote(user_id, safe='')}/features"
        return self._call("GET", path, UserFeatures, params={"at": at})

    def statistics(
        self, name: str, *, since: int | str | None = None, until: int | str | None = None
    ) -> StatisticsPage:
        """All released numbers of one statistic, in one page, oldest pane first."""
        path = f"/v1/statistics/{quote(name, safe='')}"
        cells: list[StatisticCell] = []
        cursor: str | None = None
        while True:
            params = {"since": since, "until": until, "cursor": cursor}
            page = self._call("GET", path, StatisticsPage, params=params)
            cells += page.cells
            cursor = page.next_cursor
            if cursor is None:
                return msgspec.structs.replace(page, cells=cells)

    def statistics_list(self) -> list[StatisticInfo]:
        """The published statistics."""
        return self._call("GET", "/v1/statistics", StatisticsIndex).statistics

    def reports(self) -> list[ReportInfo]:
        """All reports of the server, by name."""
        reports: list[ReportInfo] = []
        cursor: str | None = None
        while True:
            page = self._call("GET", "/v1/reports", ReportIndex, params={"cursor": cursor})
            reports += page.reports
            cursor = page.next_cursor
            if cursor is None:
                return reports

    def report(self, name: str) -> dict[str, Any]:
        """One report."""
        return self._call("GET", f"/v1/reports/{quote(name, safe='')}", dict[str, Any])

    def models(self) -> dict[str, Any]:
        """The models in use."""
        return self._call("GET", "/v1/models", dict[str, Any])

    def health(self) -> Health:
        """Whether the server is ready for traffic.

        Raises:
            Busy: if it is alive but not ready.
        """
        return self._call("GET", "/readyz", Health)

    def _upsert(self, path: str, records: Iterable[Record]) -> Upserted:
        answers = self._send_all("PUT", path, records, Upserted)
        return Upserted(
            accepted=sum(answer.accepted for _, answer in answers),
            rejected=_shifted((start, answer.rejected) for start, answer in answers),
            position=latest(answer.position for _, answer in answers),
        )

    def _send_all(
        self, method: str, path: str, records: Iterable[Record], kind: type[T]
    ) -> list[tuple[int, T]]:
        everything = list(records)
        answers = []
        for start in range(0, len(everything), _CHUNK):
            body = msgspec.json.encode(everything[start : start + _CHUNK])
            answers.append((start, self._call(method, path, kind, content=body)))
        return answers

    def _call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        content: bytes | None = None,
        content_type: str = "application/json",
        params: Mapping[str, Any] | None = None,
    ) -> T:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        request = self._http.build_request(
            method,
            path,
            content=content,
            params=given or None,
            headers=None if content is None else {"content-type": content_type},
        )
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                response = self._http.send(request)
            except httpx.TransportError as error:
                if last:
                    raise ConnectionFailed(
                        f"{self._base_url} does not answer ({type(error).__name__}): "
                        "is `tactful serve` running there?"
                    ) from error
                self._sleep(self._pause(attempt, None))
                continue
            if response.status_code not in _PASSING or last:
                return _decode(response, kind)
            self._sleep(self._pause(attempt, response.headers.get("retry-after")))
        raise AssertionError("unreachable")

    def _pause(self, attempt: int, asked: str | None) -> float:
        """Full jitter: a random part of an exponentially growing pause, on top of what was asked.

        Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015).
        """
        growing: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * self._jitter()
        if asked is not None and asked.isdigit():
            return min(float(asked), _LONGEST_PAUSE_S) + growing
        return growing


def _decode(response: httpx.Response, kind: type[T]) -> T:
    if response.is_success:
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.DecodeError as error:
            raise ClientError(
                f"{response.request.url.path} answered what this client does not understand: "
                f"{error}; client and server should be of one version"
            ) from error
    raise _error(response)


def _error(response: httpx.Response) -> ApiError:
    status = response.status_code
    try:
        problem = msgspec.json.decode(response.content, type=Problem)
    except msgspec.DecodeError:
        problem = Problem(title=response.reason_phrase or "Error", status=status)
    if status in (401, 403):
        return NotAllowed(status, problem)
    if status in _PASSING:
        return Busy(status, problem)
    return BadRequest(status, problem) if status < 500 else ServerFault(status, problem)


def _compact(request: RecommendRequest) -> dict[str, Any]:
    """Only what differs from the defaults, so that older servers understand newer clients."""
    sent: dict[str, Any] = msgspec.to_builtins(request)
    plain = msgspec.to_builtins(RecommendRequest())
    return {name: value for name, value in sent.items() if value != plain[name]}


def _shifted(parts: Iterable[tuple[int, Sequence[Rejection]]]) -> list[Rejection]:
    return [
        msgspec.structs.replace(rejection, index=start + rejection.index)
        for start, rejections in parts
        for rejection in rejections
    ]
