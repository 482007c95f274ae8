"""The client: what it sends, what it retries, and what it raises."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest

from tactful.client import AsyncClient, Client, RecommendFields
from tactful.client.routes import items, statistics
from tactful.errors import (
    BadRequest,
    Busy,
    ClientError,
    ConfigError,
    ConnectionFailed,
    NotAllowed,
    ServerFault,
    TactfulError,
)
from tactful.schemas.elements import NewEvent
from tactful.schemas.ingestion import Rejection
from tactful.schemas.recommendations import RecommendRequest

ACCEPTED = {"accepted": 1, "duplicates": 0, "rejected": [], "position": 5}


class Awaited:
    """An `AsyncClient` that is used like a `Client`, so that one test holds for both."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))


class Scripted:
    """A transport that answers from a script and remembers the requests."""

    def __init__(self, runner: asyncio.Runner | None, answers: list[Any]) -> None:
        self.runner = runner
        self.answers = answers
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []

    def client(self, base_url: str = "http://server", **options: Any) -> Any:
        options |= {"jitter": lambda: 0.5, "clock": lambda: 1_000_000.0}
        options["transport"] = httpx.MockTransport(self._answer)
        if self.runner is None:
            return Client(base_url, sleep=self.pauses.append, **options)
        return Awaited(AsyncClient(base_url, sleep=self._sleep, **options), self.runner)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx.Response)
        # A response can be read by one kind of client only, and the script may serve both.
        headers = {k: v for k, v in answer.headers.raw if k.lower() != b"content-length"}
        return httpx.Response(answer.status_code, headers=headers, content=answer.content)


Script = Callable[..., Scripted]


@pytest.fixture(params=["blocking", "asyncio"])
def scripted(request: pytest.FixtureRequest) -> Iterator[Script]:
    """Makes scripts for a client of either kind."""
    if request.param == "blocking":
        yield lambda *answers: Scripted(None, [*answers])
        return
    with asyncio.Runner() as runner:
        yield lambda *answers: Scripted(runner, [*answers])


def problem(status: int, **fields: object) -> httpx.Response:
    return httpx.Response(status, json={"title": "No", "status": status, **fields})


def test_structs_and_mappings_are_sent_alike_with_the_key(scripted: Script) -> None:
    script = scripted(httpx.Response(202, json=ACCEPTED))
    client = script.client(api_key="k")
    assert client.events([]).accepted == 0
    assert script.requests == []
    event = NewEvent(type="view", timestamp=1, user_id="u")
    client.events([event, {"type": "view", "timestamp": 1, "user_id": "u"}])
    (request,) = script.requests
    assert request.headers["authorization"] == "Bearer k"
    assert request.headers["content-type"] == "application/json"
    first, second = json.loads(request.content)
    assert first.pop("event_id") != second.pop("event_id")
    assert first == second == {"type": "view", "timestamp": 1, "user_id": "u"}


@pytest.mark.parametrize(
    ("written", "asked"),
    [("localhost:8420", "http://localhost:8420"), ("shop.example/t/", "https://shop.example/t")],
)
def test_an_address_needs_no_scheme(scripted: Script, written: str, asked: str) -> None:
    script = scripted(httpx.Response(200, json={"status": "ok", "version": "1"}))
    script.client(base_url=written).health()
    assert str(script.requests[0].url) == f"{asked}/readyz"
    with pytest.raises(ConfigError, match="'nowhere:port' is no address of a server"):
        script.client(base_url="nowhere:port")


def test_an_event_has_its_id_before_the_first_attempt(scripted: Script) -> None:
    script = scripted(
        httpx.ReadTimeout("the answer was lost"), problem(503), httpx.Response(202, json=ACCEPTED)
    )
    script.client().events(
        [{"type": "view"}, NewEvent(type="view", timestamp=1), {"event_id": "e"}]
    )
    sent = [json.loads(request.content) for request in script.requests]
    assert sent[0] == sent[1] == sent[2]
    identifiers = [event["event_id"] for event in sent[0]]
    assert all(identifiers)
    assert len(set(identifiers)) == 3
    assert identifiers[2] == "e"


def test_lines_without_an_id_are_given_one(scripted: Script) -> None:
    lines = [
        b'{"event_id": "a", "type": "view"}',
        b'  {"type": "x", "properties": {"event_id": "not this one"}}',
        b"{}",
        b"",
        b"[1]",
        b'{"type": ',
        b'"\xff"',
        b'{"type": "last"}\r',
    ]
    items = httpx.Response(202, json={"accepted": 1, "rejected": [], "position": 5})
    script = scripted(httpx.ReadTimeout("lost"), httpx.Response(202, json=ACCEPTED), items)
    script.client().send_lines("events", b"\n".join(lines))
    script.client().send_lines("items", b'{"item_id": "a"}')
    first, second, third = (request.content for request in script.requests)
    assert first == second
    assert third == b'{"item_id": "a"}', "items have ids"
    sent = first.split(b"\n")
    assert [sent[n] for n in (0, 3, 4, 5, 6)] == [lines[n] for n in (0, 3, 4, 5, 6)]
    named = [json.loads(sent[n]) for n in (1, 2, 7)]
    identifiers = {event.pop("event_id") for event in named}
    assert len(identifiers) == 3
    assert named == [json.loads(lines[n]) for n in (1, 2, 7)]


def test_a_request_stays_below_a_mebibyte(scripted: Script) -> None:
    large = {"event_id": "e", "properties": {"text": "x" * 400_000}}
    script = scripted(*[httpx.Response(202, json=ACCEPTED)] * 2)
    script.client().events([large] * 4)
    assert [len(json.loads(request.content)) for request in script.requests] == [2, 2]


def test_large_batches_are_cut_and_indices_put_together(scripted: Script) -> None:
    refused = {"index": 2, "code": "c", "message": "m"}
    answers = [
        {"accepted": 499, "duplicates": 0, "rejected": [refused], "position": 9},
        {"accepted": 1, "duplicates": 98, "rejected": [refused], "position": 7},
    ]
    script = scripted(*(httpx.Response(202, json=answer) for answer in answers))
    answer = script.client().events([{"n": n} for n in range(600)])
    sent = [json.loads(request.content) for request in script.requests]
    assert [len(batch) for batch in sent] == [500, 100]
    assert [event["n"] for batch in sent for event in batch] == list(range(600))
    assert (answer.accepted, answer.duplicates, answer.position) == (500, 98, 9)
    assert answer.rejected == [Rejection(index=n, code="c", message="m") for n in (2, 502)]


def test_passing_failures_are_retried_and_retry_after_is_honoured(scripted: Script) -> None:
    script = scripted(
        httpx.ConnectError("down"),
        problem(503),
        httpx.Response(429, headers={"retry-after": "2"}, json={"title": "No", "status": 429}),
        httpx.Response(502, text="<html>bad gateway</html>"),
        httpx.Response(202, json=ACCEPTED),
    )
    assert script.client().events([{}]).position == 5
    assert script.pauses == [0.05, 0.1, 2.2, 0.4]


def test_a_phrase_is_sent_once_and_a_text_again(scripted: Script) -> None:
    found = httpx.Response(200, json={"items": [], "total": 0})
    script = scripted(problem(503), found, problem(503), problem(503))
    client = script.client()
    assert client.search("mug").total == 0
    with pytest.raises(Busy):
        client.search("", audio=b"RIFF")
    with pytest.raises(Busy):
        client.run(items.search_text("", audio=b"RIFF"))
    assert len(script.requests) == 4


def test_a_pause_that_is_too_long_is_told_instead_of_cut_short(scripted: Script) -> None:
    busy = {"title": "No", "status": 503}
    script = scripted(httpx.Response(503, headers={"retry-after": "86400"}, json=busy))
    with pytest.raises(Busy, match="try again in 86400 s") as caught:
        script.client().events([{}])
    assert caught.value.retry_after == 86400
    assert script.pauses == []


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ("Mon, 12 Jan 1970 13:46:47 GMT", 7.05),
        ("Mon, 12 Jan 1970 13:46:00 GMT", 0.05),
        ("soon", 0.05),
        ("-3", 0.05),
        ("0", 0.05),
        ("\xb2", 0.05),
    ],
)
def test_retry_after_may_be_a_date_or_nonsense(scripted: Script, header: str, pause: float) -> None:
    answer = httpx.Response(503, headers={b"retry-after": header.encode("latin-1")})
    script = scripted(answer, httpx.Response(202, json=ACCEPTED))
    script.client().events([{}])
    assert script.pauses == [pytest.approx(pause)]


@pytest.mark.parametrize(
    ("answer", "expected", "builtin"),
    [
        (problem(400, code="bad_body"), BadRequest, ValueError),
        (problem(404), BadRequest, ValueError),
        (problem(422, field="$.count"), BadRequest, ValueError),
        (problem(401), NotAllowed, PermissionError),
        (problem(403), NotAllowed, PermissionError),
        (problem(500), ServerFault, TactfulError),
        (problem(501), ServerFault, TactfulError),
    ],
)
def test_other_failures_are_raised_at_once(
    scripted: Script, answer: httpx.Response, expected: type[Exception], builtin: type[Exception]
) -> None:
    script = scripted(answer)
    with pytest.raises(expected) as caught:
        script.client().recommend(user_id="u")
    assert isinstance(caught.value, builtin)
    assert script.pauses == []


@pytest.mark.parametrize(
    ("answers", "call", "expected", "message"),
    [
        (
            [problem(422, detail="too many", code="invalid", request_id="r-1", new="x")],
            lambda client: client.recommend(count=1000),
            BadRequest,
            r"422 No: too many \(request r-1\)",
        ),
        (
            [httpx.Response(200, json={"items": 3})],
            *(lambda client: client.recommend(user_id="u"), ClientError),
            "/v1/recommend: the response cannot be decoded",
        ),
        (
            [httpx.Response(502, text="<html>bad gateway</html>")],
            *(lambda client: client.models(), ServerFault, "502 Bad Gateway"),
        ),
        ([problem(503)] * 3, lambda client: client.health(), Busy, "."),
        (
            [httpx.ReadTimeout("slow")] * 3,
            *(lambda client: client.health(), ConnectionFailed, "tactful serve"),
        ),
    ],
)
def test_errors_are_typed_and_say_what_happened(
    scripted: Script, answers: list[Any], call: Callable[[Any], object], expected: Any, message: str
) -> None:
    """The last two are raised after all retries."""
    with pytest.raises(expected, match=message) as caught:
        call(scripted(*answers).client(retries=len(answers) - 1))
    assert expected is not BadRequest or caught.value.problem.code == "invalid"


def test_a_request_struct_sends_only_what_was_set(scripted: Script) -> None:
    body = {"recommendation_id": "r", "items": [], "model_version": "1"}
    script = scripted(httpx.Response(200, json=body))
    script.client().recommend(RecommendRequest(user_id="u", count=3))
    assert json.loads(script.requests[0].content) == {"user_id": "u", "count": 3}


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (
            lambda client: client.features("a/../b?c", at=3),
            "/v1/users/a%2F..%2Fb%3Fc/features?at=3",
        ),
        (lambda client: client.features(".."), "/v1/users/%2E%2E/features"),
        (lambda client: client.report("../x"), "/v1/reports/..%2Fx"),
        (lambda client: client.explain("../users"), "/v1/explain/..%2Fusers"),
        (lambda client: client.item("x/similar"), "/v1/items/x%2Fsimilar"),
        (lambda client: client.item("..", after=5), "/v1/items/%2E%2E?after=5"),
        (
            lambda client: client.similar("50 %/ü", count=3),
            "/v1/items/50%20%25%2F%C3%BC/similar?count=3",
        ),
        (
            lambda client: client.together(".", category="a&b"),
            "/v1/items/%2E/together?category=a%26b",
        ),
        (lambda client: client.next_items("x"), "/v1/items/x/next"),
        (lambda client: client.popular(count=2), "/v1/popular?count=2"),
        (lambda client: client.trending(), "/v1/trending"),
        (lambda client: client.latest(category="tea"), "/v1/latest?category=tea"),
        (
            lambda client: client.find_items(search="b c", available=False, cursor="ü", limit=5),
            "/v1/items?search=b+c&available=false&cursor=%C3%BC&limit=5",
        ),
    ],
)
def test_ids_are_escaped(scripted: Script, call: Callable[[Any], object], path: str) -> None:
    script = scripted(problem(404))
    with pytest.raises(BadRequest):
        call(script.client())
    assert script.requests[0].url.raw_path.decode() == path


def test_lists_are_read_to_the_end(scripted: Script) -> None:
    cell = {"pane_start": 1, "key": "a", "value": 1.0, "low": 0.0, "high": 2.0}
    page = {"name": "s", "epsilon": 1.0, "cap": 2, "unit": "user-day", "cells": [cell]}
    pages = {**page, "next_cursor": "c"}, page
    script = scripted(*(httpx.Response(200, json=each) for each in pages))
    answer = script.client().statistics("s", since=5)
    assert len(answer.cells) == 2
    asked = [dict(request.url.params) for request in script.requests]
    assert asked == [{"since": "5"}, {"since": "5", "cursor": "c"}]


def test_its_import_is_light() -> None:
    code = (
        "import sys, tactful.client\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} &"
        " {'uvicorn', 'numpy', 'tactful_streaming', 'prometheus_client', 'yaml'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, object]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {
            name: inspect.signature(function).parameters
            for name, function in members
            if not name.startswith("_")
        }

    assert calls(Client) == calls(AsyncClient)
    functions = {name: getattr(AsyncClient, name) for name in calls(Client)}
    for name in ("pages", "follow"):
        assert inspect.isasyncgenfunction(functions.pop(name)), "they come one by one"
    assert all(map(inspect.iscoroutinefunction, functions.values()))


def test_pages_follow_each_other_until_the_last() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.query.decode())
        number = len(asked)
        cursor = None if number == 3 else f"c{number}"
        return httpx.Response(200, json={"reports": [], "next_cursor": cursor})

    transport = httpx.MockTransport(answer)
    request = statistics.reports(limit=2)
    with Client("http://server.example", transport=transport) as client:
        pages = [page.next_cursor for page in client.pages(request)]
        with pytest.raises(ClientError, match="has no pages"):
            next(client.pages(replace(statistics.ledger(), path="/v1/reports")))
    assert pages == ["c1", "c2", None]
    assert asked[:3] == ["limit=2", "cursor=c1&limit=2", "cursor=c2&limit=2"]
    asked.clear()

    async def story() -> list[str | None]:
        async with AsyncClient("http://server.example", transport=transport) as client:
            return [page.next_cursor async for page in client.pages(request)]

    assert asyncio.run(story()) == pages


def test_keywords_are_the_fields_of_a_request() -> None:
    fields = {field.name for field in msgspec.structs.fields(RecommendRequest)}
    assert set(RecommendFields.__annotations__) == fields, "add it to RecommendFields, too"


def test_one_async_client_serves_many_calls_at_once() -> None:
    started: list[int] = []
    everybody = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        started.append(1)
        if len(started) == 8:
            everybody.set()
        await everybody.wait()
        return httpx.Response(200, json={})

    async def ask() -> list[dict[str, Any]]:
        async with AsyncClient(transport=httpx.MockTransport(answer)) as client:
            return await asyncio.gather(*[client.models() for _ in range(8)])

    assert asyncio.run(asyncio.wait_for(ask(), 20)) == [{}] * 8
