"""The client: what it sends, what it retries, and what it raises."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest

from tactful.client import Client
from tactful.errors import (
    BadRequest,
    Busy,
    ClientError,
    ConnectionFailed,
    NotAllowed,
    ServerFault,
    TactfulError,
)
from tactful.messages import NewEvent, RecommendRequest, Rejection

ACCEPTED = {"accepted": 1, "duplicates": 0, "rejected": [], "position": 5}


class Scripted:
    """A transport that answers from a script and remembers the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []

    def client(self, **options: object) -> Client:
        return Client(
            "http://server",
            transport=httpx.MockTransport(self._answer),
            sleep=self.pauses.append,
            jitter=lambda: 0.5,
            **options,  # type: ignore[arg-type]
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def problem(status: int, **fields: object) -> httpx.Response:
    return httpx.Response(status, json={"title": "No", "status": status, **fields})


def test_the_key_travels_as_bearer() -> None:
    script = Scripted(httpx.Response(202, json=ACCEPTED))

    script.client(api_key="k").events([{"type": "view"}])

    assert script.requests[0].headers["authorization"] == "Bearer k"
    assert script.requests[0].headers["content-type"] == "application/json"


def test_structs_and_mappings_are_sent_alike() -> None:
    script = Scripted(httpx.Response(202, json=ACCEPTED))
    event = NewEvent(type="view", timestamp=1, user_id="u")

    script.client().events([event, {"type": "view", "timestamp": 1, "user_id": "u"}])

    first, second = json.loads(script.requests[0].content)
    assert first == second


def test_large_batches_are_cut_and_indices_put_together() -> None:
    refused = {"index": 2, "code": "c", "message": "m"}
    script = Scripted(
        httpx.Response(
            202, json={"accepted": 499, "duplicates": 0, "rejected": [refused], "position": 9}
        ),
        httpx.Response(
            202, json={"accepted": 1, "duplicates": 98, "rejected": [refused], "position": 7}
        ),
    )

    answer = script.client().events([{"n": n} for n in range(600)])

    sent = [json.loads(request.content) for request in script.requests]
    assert [event["n"] for batch in sent for event in batch] == list(range(600))
    assert (answer.accepted, answer.duplicates, answer.position) == (500, 98, 9)
    assert answer.rejected == [
        Rejection(index=2, code="c", message="m"),
        Rejection(index=502, code="c", message="m"),
    ]


def test_nothing_to_send_sends_nothing() -> None:
    script = Scripted()

    assert script.client().events([]).accepted == 0
    assert script.requests == []


def test_passing_failures_are_retried_and_retry_after_is_honoured() -> None:
    script = Scripted(
        httpx.ConnectError("down"),
        problem(503),
        httpx.Response(429, headers={"retry-after": "2"}, json={"title": "No", "status": 429}),
        httpx.Response(202, json=ACCEPTED),
    )

    assert script.client().events([{}]).position == 5
    assert script.pauses == [0.05, 0.1, 2.2]


def test_retry_after_is_not_honoured_for_ever() -> None:
    script = Scripted(
        httpx.Response(503, headers={"retry-after": "86400"}, json={"title": "No", "status": 503}),
        httpx.Response(202, json=ACCEPTED),
    )

    script.client().events([{}])

    assert script.pauses == [10.05]


@pytest.mark.parametrize(
    ("answer", "expected", "builtin"),
    [
        (problem(400, code="bad_body"), BadRequest, ValueError),
        (problem(404), BadRequest, ValueError),
        (problem(422, field="$.count"), BadRequest, ValueError),
        (problem(401), NotAllowed, PermissionError),
        (problem(403), NotAllowed, PermissionError),
        (problem(500), ServerFault, TactfulError),
        (problem(502), ServerFault, TactfulError),
    ],
)
def test_other_failures_are_raised_at_once(
    answer: httpx.Response, expected: type[Exception], builtin: type[Exception]
) -> None:
    script = Scripted(answer)

    with pytest.raises(expected) as caught:
        script.client().recommend(user_id="u")

    assert isinstance(caught.value, builtin)
    assert script.pauses == []


def test_a_problem_is_told_in_full() -> None:
    script = Scripted(problem(422, detail="too many", code="invalid", request_id="r-1", new="x"))

    with pytest.raises(BadRequest, match=r"422 No: too many \(request r-1\)") as caught:
        script.client().recommend(count=1000)

    assert caught.value.problem.code == "invalid"


def test_after_all_retries_it_is_busy_or_not_connected() -> None:
    with pytest.raises(Busy):
        Scripted(*[problem(503)] * 3).client(retries=2).health()
    with pytest.raises(ConnectionFailed, match="tactful serve"):
        Scripted(*[httpx.ReadTimeout("slow")] * 3).client(retries=2).health()


def test_an_error_that_is_no_problem_document_is_still_typed() -> None:
    script = Scripted(httpx.Response(502, text="<html>bad gateway</html>"))

    with pytest.raises(ServerFault, match="502 Bad Gateway"):
        script.client().models()


def test_an_answer_it_does_not_understand_is_named() -> None:
    script = Scripted(httpx.Response(200, json={"items": 3}))

    with pytest.raises(ClientError, match=r"/v1/recommend answered"):
        script.client().recommend(user_id="u")


def test_a_request_struct_sends_only_what_was_set() -> None:
    body = {"recommendation_id": "r", "items": [], "model_version": "1"}
    script = Scripted(httpx.Response(200, json=body))

    script.client().recommend(RecommendRequest(user_id="u", count=3))

    assert json.loads(script.requests[0].content) == {"user_id": "u", "count": 3}


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (
            lambda client: client.features("a/../b?c", at=3),
            "/v1/users/a%2F..%2Fb%3Fc/features?at=3",
        ),
        (lambda client: client.report("../x"), "/v1/reports/..%2Fx"),
    ],
)
def test_ids_cannot_change_the_path(call: Callable[[Client], object], path: str) -> None:
    script = Scripted(problem(404))

    with pytest.raises(BadRequest):
        call(script.client())

    assert script.requests[0].url.raw_path.decode() == path


def test_lists_are_read_to_the_end() -> None:
    cell = {"pane_start": 1, "key": "a", "value": 1.0, "low": 0.0, "high": 2.0}
    page = {"name": "s", "epsilon": 1.0, "cap": 2, "unit": "user-day", "cells": [cell]}
    script = Scripted(
        httpx.Response(200, json={**page, "next_cursor": "c"}), httpx.Response(200, json=page)
    )

    answer = script.client().statistics("s", since=5)

    assert len(answer.cells) == 2
    assert [dict(request.url.params) for request in script.requests] == [
        {"since": "5"},
        {"since": "5", "cursor": "c"},
    ]


def test_its_import_is_light() -> None:
    code = (
        "import sys, tactful.client\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} &"
        " {'starlette', 'uvicorn', 'numpy', 'tactful_streaming', 'prometheus_client', 'yaml'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
