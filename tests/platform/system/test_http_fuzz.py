"""Random requests to every route: no 500, every error is a problem."""

from __future__ import annotations

import json
import re
import socket
import string
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.platform.support import Live, build, now_ms, small_settings, view

from tactful.http.openapi import example_of
from tactful.http.routes import ENDPOINTS
from tactful.server.platform import Platform

# An answer without an end, and a process of some minutes, would only take time here.
LONG = ("/v1/events/stream", "/v1/flags/stream", "/v1/models/train")
SHORT = [it for it in ENDPOINTS if it.path not in LONG]

EXAMPLES = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["view", "device:x", "2026-01-01T00:00:00Z", "\x00", "\ud800", "x" * 300])
    | st.builds(now_ms)
)
fields = st.sampled_from(
    sorted(
        {
            *view(1),
            *("device_id", "session_id", "recommendation_id", "context", "title", "category"),
            *("price", "available", "count", "exclude", "after", "force", "explain", "requests"),
        }
    )
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(fields | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=20,
)


@st.composite
def spoilt(draw: st.DrawFn) -> Any:
    """A valid event, item, user or request with some of its parts exchanged."""
    requests = [example_of(endpoint).request for endpoint in ENDPOINTS]
    good = draw(st.sampled_from([it for it in requests if isinstance(it, dict | list)]))
    element = dict(good[0] if isinstance(good, list) else good)
    for name in draw(st.lists(fields, max_size=3)):
        element[name] = draw(values)
    return element if draw(st.booleans()) else [element, draw(values), element]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Bytes, JSON, JSON lines, and JSON with bytes exchanged."""
    body = draw(
        st.binary(max_size=200)
        | (values | spoilt()).map(lambda value: json.dumps(value).encode())
        | st.lists(spoilt(), max_size=4).map(
            lambda lines: "\n".join(map(json.dumps, lines)).encode()
        )
        | st.integers(0, 3000).map(lambda depth: b"[" * depth + b"]" * depth)
        | st.integers(0, 3000).map(lambda depth: b'{"context":' * depth)
    )
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(body)))
        body = body[:place] + draw(st.binary(max_size=3)) + body[place + draw(st.integers(0, 3)) :]
    return body


@pytest.fixture(scope="module", params=[0, 2], ids=["process", "workers"])
def fuzzed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """One server for all inputs."""
    platform = Platform.open(small_settings(tmp_path_factory.mktemp("fuzz")), build)
    with Live(platform, workers=request.param) as server:
        yield server
        assert server.platform.health().status == "ok"
        user = "after-all"
        position = server.http.post("/v1/events", json=view(1, user)).json()["position"]
        assert server.views(user, position) == 1


@given(data=st.data())
@EXAMPLES
def test_no_request_fails_the_server(fuzzed: Live, data: st.DataObject) -> None:
    endpoint = data.draw(st.sampled_from(SHORT))
    method = data.draw(st.just(endpoint.method) | st.sampled_from(["GET", "PUT", "POST", "PATCH"]))
    piece = (
        st.text(max_size=10)
        .filter(lambda text: text.isprintable())
        .map(lambda text: quote(text, safe=""))
    )
    path = endpoint.path
    for name in re.findall(r"\{\w+\}", path):
        odd = st.sampled_from(["..%2f..", "%00", "%ff", name])
        path = path.replace(name, data.draw(piece | odd))
    query = data.draw(
        st.sampled_from(["", "at=5", "limit=2&cursor=x", "limit=0", "since=-1"])
        | st.text(string.printable, max_size=20).map(quote)
    )
    headers = {
        "content-type": data.draw(
            st.sampled_from(["application/json", "application/x-ndjson", "text/plain", "x"])
        )
    }
    answer = fuzzed.http.request(
        method, f"{path}?{query}", content=data.draw(bodies()), headers=headers
    )
    assert answer.status_code < 500, (method, path, query, answer.text)
    assert answer.headers["x-request-id"]
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == answer.status_code
        assert problem["request_id"] == answer.headers["x-request-id"]
    if answer.status_code == 202 and "rejected" in (told := answer.json()):
        indices = [refusal["index"] for refusal in told["rejected"]]
        assert indices == sorted(set(indices))


@given(
    raw=st.binary(max_size=300)
    | st.binary(max_size=60).map(lambda it: b"POST /v1/events HTTP/1.1\r\n" + it + b"\r\n\r\n")
    | st.binary(max_size=60).map(lambda it: b"GET " + it + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")
)
@EXAMPLES
def test_no_bytes_take_the_server_down(fuzzed: Live, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", fuzzed.port), timeout=60) as connection:
        connection.sendall(raw)
        connection.settimeout(0.02)
        try:
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65_536)
        except OSError:  # no answer yet, or the server has closed the connection already
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 5"), answer


@pytest.mark.slow
@given(elements=st.lists(spoilt() | values, min_size=1, max_size=6))
@EXAMPLES
def test_every_element_of_a_batch_gets_its_verdict(fuzzed: Live, elements: list[Any]) -> None:
    answer = fuzzed.http.post("/v1/events", content=json.dumps(elements).encode())
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert told["accepted"] + told["duplicates"] + len(told["rejected"]) == len(elements)
