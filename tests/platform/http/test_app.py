"""The API over real HTTP: invalid input, limits, keys, and a server that stays up."""

from __future__ import annotations

import itertools
import json
import math
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tests.platform.support import Live, build, now_ms, view, wait_until

from tactful.config.settings import Settings
from tactful.http.asgi import ANY_KEY, Endpoint
from tactful.http.openapi import example_of
from tactful.http.routes import ENDPOINTS
from tactful.metadata.api_keys import SCOPES
from tactful.server.platform import Platform

PROBLEM = "application/problem+json"

_numbers = itertools.count()


@pytest.fixture
def user() -> str:
    """User of this test alone."""
    return f"user-{next(_numbers)}"


def problem_of(answer: httpx.Response) -> tuple[int, str]:
    """Check a problem, and return its status and code."""
    assert answer.headers["content-type"] == PROBLEM, answer.text
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["type"] == f"urn:tactful:problem:{body['code']}"
    assert body["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, body["code"]


VIEW = '{"type": "view", "timestamp": %d, '
DEEP = "[" * 10_000 + "]" * 10_000
BAD_EVENTS: list[tuple[str, str]] = [
    ("7", "wrong_type"),
    ('"text"', "wrong_type"),
    ("null", "wrong_type"),
    ("[]", "wrong_type"),
    ("{}", "missing_field"),
    ('{"type": "view", "user_id": "u"}', "missing_field"),
    ('{"type": "dance", "timestamp": %d, "user_id": "u"}', "unknown_type"),
    ('{"type": "view", "timestamp": %d}', "no_subject"),
    ('{"type": "view", "timestamp": %d, "user_id": ""}', "too_long"),
    ('{"type": "view", "timestamp": %d, "user_id": 7}', "wrong_type"),
    ('{"type": "view", "timestamp": %d, "user_id": "u", "usr": 1}', "unknown_field"),
    ('{"type": "view", "timestamp": 1e99, "user_id": "u"}', ""),
    ('{"type": "view", "timestamp": -5, "user_id": "u"}', "too_old"),
    ('{"type": "view", "timestamp": 9999999999999, "user_id": "u"}', "in_future"),
    ('{"type": "view", "timestamp": "yesterday", "user_id": "u"}', "bad_timestamp"),
    ('{"type": "view", "timestamp": "2026-01-01T00:00:00", "user_id": "u"}', "bad_timestamp"),
    ('{"type": "view", "timestamp": %d, "user_id": "u", "properties": {"price": NaN}}', "not_json"),
    (VIEW + '"user_id": "u", "properties": {"price": "1"}}', "wrong_type"),
    (VIEW + '"user_id": "u", "properties": {"price": -1}}', "bad_number"),
    ('{"type": "view", "timestamp": %d, "user_id": "u", "properties": {"a": {}}}', "wrong_type"),
    ('{"type": "view", "timestamp": %d, "user_id": "u", "user_id": "v"}', "duplicate_key"),
    ('{"type": "view", "timestamp": %d, "user_id": "a\\u0000b"}', "bad_id"),
    ('{"type": "view", "timestamp": %d, "user_id": "\\ud800"}', ""),
    ('{"type": "view", "timestamp": %d, "user_id": "' + "x" * 300 + '"}', "too_long"),
    ('{"type": "view", "timestamp": %d, "user_id": "u", "context": ' + DEEP + "}", "too_deep"),
    (DEEP, "too_deep"),
]


@pytest.mark.parametrize(("bad", "code"), BAD_EVENTS, ids=range(len(BAD_EVENTS)))
def test_invalid_events_are_rejected(shared: Live, user: str, bad: str, code: str) -> None:
    element = bad % now_ms() if "%d" in bad else bad
    body = f"[{json.dumps(view(1, user))}, {element}, {json.dumps(view(2, user))}]"
    answer = shared.http.post("/v1/events", content=body.encode())
    assert answer.status_code == 202, answer.text
    found = answer.json()
    assert (found["accepted"], found["duplicates"]) == (2, 0)
    (refusal,) = found["rejected"]
    assert refusal["index"] == 1
    assert refusal["message"]
    assert code in ("", refusal["code"]), refusal
    assert shared.views(user, found["position"]) == 2


def test_text_that_is_not_utf8_spoils_only_its_element(shared: Live, user: str) -> None:
    good = json.dumps(view(1, user)).encode()
    bad = b'{"type": "view", "timestamp": %d, "user_id": "\xff"}' % now_ms()
    array = shared.http.post("/v1/events", content=b"[" + bad + b"," + good + b"]").json()
    lines = shared.http.post(
        "/v1/events",
        content=bad + b"\n" + json.dumps(view(2, user)).encode(),
        headers={"content-type": "application/x-ndjson"},
    ).json()
    for answer in (array, lines):
        assert answer["accepted"] == 1
        assert [it["index"] for it in answer["rejected"]] == [0]


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "", "application/x-ndjson; a=b"]
)
def test_one_event_an_array_and_lines_are_understood(shared: Live, user: str, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    one, *others = (json.dumps(view(number, user)) for number in range(4))
    array = others[0] if "ndjson" in kind else f"[{others[0]}]"
    for body, count in ((one, 1), (array, 1), ("\n".join(others[1:]) + "\n", 2)):
        answer = shared.http.post("/v1/events", content=body, headers=headers)
        assert answer.status_code == 202, answer.text
        assert answer.json()["accepted"] == count, answer.text


def test_a_body_that_is_no_json_is_a_problem(shared: Live) -> None:
    paths = ("POST events", "PUT items", "PUT users", "POST recommend", "POST recommend/batch")
    bodies = (b"", b" ", b"hello", b"\x00\x01", b"\xff\xfe{}", b"<event/>")
    for path, body in itertools.product(paths, bodies):
        method, path = path.split()
        answer = shared.http.request(method, f"/v1/{path}", content=body)
        assert problem_of(answer) == (400, "bad_body")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"count": 0}', "$.count"),
        ('{"count": 1001}', "$.count"),
        ('{"count": 2.5}', "$.count"),
        ('{"count": true}', "$.count"),
        ('{"user_id": ""}', "$.user_id"),
        ('{"user_id": 3}', "$.user_id"),
        ('{"exclude": "all"}', "$.exclude"),
        ('{"context": {"page": {"a": 1}}}', "$.context[...]"),
        ('{"timestamp": "soon"}', "$.timestamp"),
        ('{"timestamp": "1969-01-01T00:00:00Z"}', "$.timestamp"),
        ('{"timestamp": -1}', "$.timestamp"),
        ('{"force": {"ranking": ""}}', "$.force[...]"),
        ('{"users": "u"}', "$"),
        ("[]", "$"),
    ],
)
def test_a_request_that_is_not_valid_is_told_where(shared: Live, body: str, field: str) -> None:
    answer = shared.http.post("/v1/recommend", content=body)
    assert problem_of(answer) == (422, "invalid")
    assert answer.json()["field"] == field
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "detail", "field"),
    [
        ({"users": "u"}, "the field users is unknown; known are after", "$"),
        ({"requests": [{}, {"user-id": 1}]}, "there is an unknown field", "$.requests[1]"),
        ({"requests": [{"user": 1}]}, "the field user is unknown", "$.requests[0]"),
        ({"requests": [{}], "x" * 40: 1}, f"the field {'x' * 40} is unknown", "$"),
        ({"requests": [{}], "x" * 41: 1}, "there is an unknown field", "$"),
        ({"requests": [{}], "": 1}, "there is an unknown field", "$"),
        ({"requests": [{}], "zoe\n": 1}, "there is an unknown field", "$"),
        ({"requests": [{}], "zoe@example.org": 1}, "there is an unknown field", "$"),
        ({"requests": [{}], "x` - at `$.zoe@example.org": 1}, "there is an unknown field", "$"),
        ({"requests": [{}], "x` - at `$[...]": 1}, "the field x is unknown", "$[...]"),
    ],
)
def test_unknown_field(shared: Live, body: Any, detail: str, field: str) -> None:
    """An unknown field is named if it looks like a field; else only its place is told."""
    path = "/v1/recommend/batch" if "requests" in body else "/v1/recommend"
    problem = shared.http.post(path, json=body).json()
    assert problem["detail"].startswith(detail)
    assert problem["field"] == field
    assert "zoe" not in json.dumps(problem)


@pytest.mark.parametrize("at", ["0.5", "-0.5", "1772366400.5", "1e-3", "inf", "nan", "-1", " "])
def test_a_time_with_a_fraction(shared: Live, at: str) -> None:
    """A number that is no count of milliseconds is refused: it was read as seconds."""
    answer = shared.http.get(f"/v1/users/u/features?at={at}")
    assert problem_of(answer) == (400, "bad_query")


def test_unknown_field_of_an_event(shared: Live) -> None:
    """The message of a rejected event names an unknown field by the same rule."""
    for name, named in (("userid", True), ("zoe@example.org", False), ("x" * 41, False)):
        (rejected,) = shared.http.post("/v1/events", json=view(1) | {name: 1}).json()["rejected"]
        assert rejected["code"] == "unknown_field"
        assert (name in rejected["message"]) == named


def test_a_wrong_choice_is_not_repeated(shared: Live) -> None:
    """A value that is none of a closed list does not come back in the problem."""
    answer = shared.http.get("/v1/users/u/export?format=zoe")
    assert problem_of(answer) == (400, "bad_query")
    assert "zoe" not in answer.text


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda it: f"{it.method} {it.path}")
def test_unknown_query_parameter(shared: Live, endpoint: Endpoint) -> None:
    """Every route refuses a query parameter that it does not know, with any method it has."""
    path = re.sub(r"\{\w+\}", "x", endpoint.path)
    for query in ("nonsense=1", "nonsense", "format=json&nonsense=", "a=1&a=2", "%ff=1"):
        for method in {endpoint.method, "HEAD" if endpoint.method == "GET" else endpoint.method}:
            body = example_of(endpoint).request
            answer = shared.http.request(method, f"{path}?{query}", json=body)
            assert answer.status_code == 400, (method, path, query)
            if method != "HEAD":
                assert problem_of(answer) == (400, "bad_query")


@pytest.mark.parametrize(
    ("media", "status"),
    [
        *(
            (it, 200)
            for it in ("application/json", "application/json; charset=utf-8", "TEXT/plain")
        ),
        *(
            (it, 200)
            for it in ("application/merge-patch+json", "application/x-www-form-urlencoded")
        ),
        *((it, 415) for it in ("application/xml", "multipart/form-data; boundary=x", "image/png")),
        *((it, 415) for it in ("json", "application/octet-stream", "text/html", "nonsense")),
    ],
)
def test_media_types(shared: Live, media: str, status: int) -> None:
    """A body is JSON, whatever text type names it; other types are refused."""
    answer = shared.http.post("/v1/recommend", content=b"{}", headers={"content-type": media})
    assert answer.status_code == status
    if status == 415:
        assert problem_of(answer) == (415, "unsupported_media")


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "PATCH", "DELETE"])
def test_methods(shared: Live, method: str) -> None:
    """A method that a route has not is answered with 405 and the methods that it has."""
    for path, allowed in (("/v1/users", "GET, HEAD, PUT"), ("/v1/reports", "GET, HEAD")):
        answer = shared.http.request(method, path)
        assert problem_of(answer) == (405, "method_not_allowed")
        assert answer.headers["allow"] == allowed


def test_what_was_sent_is_not_repeated(shared: Live) -> None:
    for body in (b'{"alice@example.org": 1}', b'{"user_id": ["alice@example.org"]}', b"alice@exa"):
        assert "alice" not in shared.http.post("/v1/recommend", content=body).text


def test_a_batch_answers_each_request(shared: Live) -> None:
    shared.http.put("/v1/items", json=[{"item_id": "a"}])
    answer = shared.http.post(
        "/v1/recommend/batch",
        json={"requests": [{"user_id": "u"}, {"user_id": "u", "after": 10**9}, {}]},
    )
    results = answer.json()["results"]
    assert [*map(list, results)] == [["recommendation"], ["problem"], ["recommendation"]]
    assert results[1]["problem"]["field"] == "$.after"
    for count in (0, 101):
        empty = shared.http.post("/v1/recommend/batch", json={"requests": [{}] * count})
        assert problem_of(empty) == (422, "invalid")


def test_a_body_over_the_limit_is_refused_unread(shared: Live, user: str) -> None:
    large = b"[" + b" " * (10 * 1024 * 1024) + b"]"

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    for method, path in (("POST", "/v1/events"), ("PUT", "/v1/items"), ("POST", "/v1/recommend")):
        assert problem_of(shared.http.request(method, path, content=large)) == (413, "too_large")
        assert problem_of(shared.http.request(method, path, content=pieces())) == (413, "too_large")
    with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999999999\r\n\r\n["
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413"), "before the body was sent"
    assert shared.http.post("/v1/events", json=view(1, user)).status_code == 202


def test_a_refused_body_is_not_read_on(shared: Live) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999999999\r\n\r\n"
        )
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            for _ in range(10_000):
                connection.sendall(b" " * 65_536)


def test_too_many_in_one_batch_are_refused(shared: Live) -> None:
    many = [{"type": "view", "timestamp": now_ms(), "user_id": "u"}] * 1001
    for body in (many, 3):
        assert problem_of(shared.http.post("/v1/events", json=body)) == (400, "bad_body")


def test_compressed_bodies_are_refused(shared: Live) -> None:
    gzip = {"content-encoding": "gzip"}
    answer = shared.http.post("/v1/events", content=b"\x1f\x8b", headers=gzip)
    assert problem_of(answer) == (415, "unsupported_encoding")


def test_a_slow_head_is_cut_off_and_a_slow_body_gets_a_problem(settings: Settings) -> None:
    server = replace(settings.server, header_timeout_s=0.5, body_timeout_s=0.5)
    with (
        Live(Platform.open(replace(settings, server=server), build)) as live,
        socket.create_connection(("127.0.0.1", live.port), timeout=60) as silent,
        socket.create_connection(("127.0.0.1", live.port), timeout=60) as head,
        socket.create_connection(("127.0.0.1", live.port), timeout=60) as body,
    ):
        head.sendall(b"POST /v1/events HTTP/1.1\r\nhost: loc")
        body.sendall(b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n[")
        answer = body.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in answer
        assert head.recv(4096) == b""
        assert silent.recv(4096) == b""


def test_what_is_not_http_is_a_problem(shared: Live) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400")
    assert PROBLEM.encode() in answer


def test_other_methods_and_paths_are_problems(shared: Live) -> None:
    for path in sorted({endpoint.path for endpoint in ENDPOINTS}):
        real = path.replace("{user_id}", "u").replace("{name}", "demo")
        answer = shared.http.request("PATCH", real)
        assert problem_of(answer) == (405, "method_not_allowed")
        methods = {endpoint.method for endpoint in ENDPOINTS if endpoint.path == path}
        methods |= {"HEAD"} if "GET" in methods else set()
        assert answer.headers["allow"] == ", ".join(sorted(methods))
    for path in ("v1", "v1/", "v1/events/", "v1//events", "v2/events", "docs/", "%ff", "v1/x/y"):
        assert problem_of(shared.http.get(f"/{path}")) == (404, "not_found")
    head = shared.http.head("/healthz")
    assert (head.status_code, head.content) == (200, b"")


def test_wrong_query_parameters_are_problems(shared: Live) -> None:
    for query in ("att=1", "at=soon", "at=1&at=2", "at=-1", "at=%ff", "at=1969-01-01T00:00:00Z"):
        answer = shared.http.get(f"/v1/users/u/features?{query}")
        assert problem_of(answer) == (400, "bad_query"), query


NUMBERS = [
    *("9" * 18, "9" * 19, f"{2**63}", f"{2**64}", "9" * 30, "9" * 4_301, "-1", "-" + "9" * 30),
    *("1e19", "1e308", "1e400", "-0.0", "0.1", "1_0", "0x1", "nan", "inf", "٣"),
]


@pytest.mark.parametrize(
    "endpoint", [it for it in ENDPOINTS if it.query], ids=lambda it: f"{it.method} {it.path}"
)
def test_numbers_of_any_size_in_a_query(shared: Live, endpoint: Endpoint) -> None:
    """A `cursor` beyond 64 bits was a 500."""
    path = re.sub(r"\{\w+\}", "u", endpoint.path)
    assert endpoint.query is not None
    span = {"since": "0", "until": "1"} if path.endswith("/u/u") else {}
    for name, number in itertools.product(endpoint.query.__struct_fields__, NUMBERS):
        answer = shared.http.request(endpoint.method, path, params={**span, name: number})
        assert answer.status_code < 500, (name, number, answer.text)


def numbered(example: Any, mark: str) -> Iterator[Any]:
    """Yield copies of a value in which one number is replaced."""
    if isinstance(example, int | float):
        yield mark
    elif isinstance(example, dict | list):
        for place in example if isinstance(example, dict) else range(len(example)):
            for inner in numbered(example[place], mark):
                changed = example.copy()
                changed[place] = inner
                yield changed


MORE: dict[str, list[dict[str, Any]]] = {
    "/v1/recommend": [
        *({name: 0, "user_id": "u"} for name in ("count", "after", "timestamp", "max_price")),
        {"user_id": "u", "context": {"a": 0}},
        {"user_id": "u", "intent": {"a": 0}},
        {"user_id": "u", "explain": True, "context": {"a": 0}},
    ],
    "/v1/users/{user_id}/consent": [{"purposes": {"service": True}, "at": 0}],
    "/v1/items": [{"item_id": "i", "timestamp": 0, "price": 0, "properties": {"a": [0]}}],
    "/v1/users": [{"user_id": "u", "timestamp": 0, "properties": {"a": 0}}],
    "/v1/experiments": [
        {"key": "k", "change": {"objective": {"price": 0}}, name: value}
        for name, value in {
            **dict.fromkeys(("stage_hours", "outcome_hours", "alpha", "tightest_at", "epsilon"), 0),
            "stages": [0],
            "guardrails": [{"metric": "takers", "margin": 0, "minimum_units": 0}],
        }.items()
    ],
}


@pytest.mark.parametrize(
    "endpoint", [it for it in ENDPOINTS if it.body], ids=lambda it: f"{it.method} {it.path}"
)
def test_numbers_of_any_size_in_a_body(shared: Live, endpoint: Endpoint) -> None:
    path = re.sub(r"\{\w+\}", "u", endpoint.path)
    for example in (example_of(endpoint).request, *MORE.get(endpoint.path, ())):
        for changed, number in itertools.product(numbered(example, "\N{NULL}"), NUMBERS):
            body = json.dumps(changed).replace('"\\u0000"', number)
            for _ in range(5):  # a busy machine may keep the database locked for a while
                answer = shared.http.request(endpoint.method, path, content=body.encode())
                if answer.status_code != 503:
                    break
            assert answer.status_code < 500, (body[:300], answer.text)


@pytest.mark.slow
def test_features_of_any_id_can_be_read(shared: Live) -> None:
    for user in ("u", "a/b", "a/../b", "ü ?#%", "features", "x" * 256):
        stamp = now_ms()
        events = [view(1, user, event_id=user[:200], timestamp=stamp)]
        position = shared.http.post("/v1/events", json=events).json()["position"]
        assert shared.views(user, position) == 1
        path = f"/v1/users/{quote(user, safe='')}/features"
        found = shared.http.get(path, params={"at": stamp}).json()
        assert found["user_id"] == user
        assert found["features"]["views"] == 1
        assert found["features"]["by_category"] == {"kitchen": 1}
        assert found["features"]["recent"] == [["i-1", stamp]]
    assert problem_of(shared.http.get(f"/v1/users/{'x' * 257}/features")) == (404, "not_found")
    assert shared.http.get("/v1/users/nobody/features").json()["features"]["views"] == 0


@pytest.mark.slow
def test_reports_are_listed_in_pages_and_read(live: Live) -> None:
    assert live.http.get("/v1/reports").json() == {"reports": [], "next_cursor": None}
    reports = live.platform.settings.storage.reports
    reports.mkdir()
    for name in ("a", "b", "demo", "x.y", "not json"):
        (reports / f"{name}.json").write_text('{"name": 1}')
    (reports / "notes.txt").write_text("no report")
    first = live.http.get("/v1/reports", params={"limit": 2}).json()
    second = live.http.get("/v1/reports", params={"cursor": first["next_cursor"]}).json()
    assert [it["name"] for it in first["reports"] + second["reports"]] == ["a", "b", "demo"]
    assert second["next_cursor"] is None
    assert live.http.get("/v1/reports/demo").json() == {"name": 1}


def test_reports_cannot_be_left(shared: Live) -> None:
    reports = shared.platform.settings.storage.reports
    reports.mkdir(exist_ok=True)
    (reports / "demo.json").write_text("{}")
    (reports.parent / "secret.json").write_text('"secret"')
    (reports / "link.json").symlink_to(reports.parent / "secret.json")
    names = "..%2Fsecret %2e%2e%2fsecret ..%2f..%2fetc%2fpasswd %2Fetc%2Fpasswd demo.json demo%00"
    for name in [*names.split(), "link", "..", ".", "%5c..%5csecret", "x" * 65, ""]:
        with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as connection:
            head = f"GET /v1/reports/{name} HTTP/1.1\r\nhost: localhost\r\n"
            connection.sendall(f"{head}connection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 404"), (name, answer)
        assert b'"secret"' not in answer


def test_statistics_are_none_until_published(shared: Live) -> None:
    assert shared.http.get("/v1/statistics").json()["statistics"] == []
    assert problem_of(shared.http.get("/v1/statistics/views")) == (404, "not_found")


def test_request_ids_are_kept_when_sane_and_made_otherwise(shared: Live) -> None:
    def answered(sent: bytes) -> str:
        answer = shared.http.get("/healthz", headers={b"x-request-id": sent})
        return answer.headers["x-request-id"]

    for sent in (b"0af7651916cd43dd", b"trace.id_1-2", b"x" * 64):
        assert answered(sent) == sent.decode()
    bad = (b"", b"short", b"x" * 65, b"a b c d e f", b"<script>x</script>", b"\xff" * 10)
    made = set(map(answered, bad))
    assert len(made) == 6
    assert all(re.fullmatch("[0-9a-f]{16}", it) for it in made)


def test_without_keys_only_loopback_names_are_served(shared: Live) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"):
        answer = shared.http.get("/v1/models", headers={"host": host})
        assert problem_of(answer) == (421, "wrong_host")
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:8420", "[::1]:1"):
        assert shared.http.get("/v1/models", headers={"host": host}).status_code == 200


def test_without_keys_pages_of_other_origins_are_refused(shared: Live) -> None:
    """A browser sends a page's plain POST without a preflight, with the page's origin."""
    event = b'{"type": "view", "timestamp": 1, "user_id": "planted"}'
    for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example"):
        headers = {"origin": origin, "content-type": "text/plain"}
        answer = shared.http.post("/v1/events", content=event, headers=headers)
        assert problem_of(answer) == (421, "wrong_host")
    for origin in ("http://localhost:8501", "https://127.0.0.1"):
        assert shared.http.get("/v1/models", headers={"origin": origin}).status_code == 200


def _call(endpoint: Any, http: httpx.Client, key: str | None) -> httpx.Response:
    path = endpoint.path.replace("{user_id}", "u").replace("{name}", "nothing")
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body = example_of(endpoint).request
    with http.stream(endpoint.method, path, json=body, headers=headers) as answer:
        if answer.headers.get("content-type") != "text/event-stream":  # that one does not end
            answer.read()
    return answer


@pytest.mark.slow
def test_every_scope_opens_its_doors_and_no_other(locked: Live) -> None:
    scopes = [scope for scope in SCOPES if scope != "browser"]  # it has tests of its own
    keys = {scope: locked.create_key(scope) for scope in scopes}
    needed = {endpoint.scope for endpoint in ENDPOINTS}
    assert needed == {None, ANY_KEY, "ingest", "recommend", "source", "analyst", "monitor", "admin"}
    for endpoint in ENDPOINTS:
        for scope in scopes:
            answer = _call(endpoint, locked.http, keys[scope])
            allowed = endpoint.scope in (None, ANY_KEY, scope) or scope == "admin"
            allowed = allowed or (endpoint.analyst and scope == "analyst")
            assert (answer.status_code != 403) == allowed, (endpoint.path, scope)
            if not allowed:
                assert problem_of(answer) == (403, "missing_scope")
        for wrong in (None, "x", "nonsense", keys["admin"][:-1] + "_"):
            answer = _call(endpoint, locked.http, wrong)
            if endpoint.scope is None:
                assert answer.status_code == 200
            else:
                assert problem_of(answer) == (401, "no_key")
                assert answer.headers["www-authenticate"].startswith("Bearer")


def test_keys_come_in_either_header_and_go_when_revoked(shop: Live, user: str) -> None:
    key = shop.create_key("ingest")
    for headers in ({"x-api-key": key}, {"authorization": f"bearer {key}"}):
        assert (
            shop.http.post("/v1/events", json=view(1, user=user), headers=headers).status_code
            == 202
        )
    basic = {"authorization": f"Basic {key}"}
    answer = shop.http.post("/v1/events", json=view(2, user=user), headers=basic)
    assert problem_of(answer) == (401, "no_key")
    shop.revoke_key(key)
    answer = shop.http.post("/v1/events", json=view(3, user=user), headers={"x-api-key": key})
    assert problem_of(answer) == (401, "no_key")


def test_only_admins_choose_arms_and_get_explanations(shop: Live) -> None:
    plain = {"x-api-key": shop.create_key("recommend")}
    admin = {"x-api-key": shop.create_key("admin")}
    for body in ({"force": {"ranking": "b"}}, {"user_id": "u", "explain": True}):
        refused = shop.http.post("/v1/recommend", json=body, headers=plain)
        assert problem_of(refused) == (403, "missing_scope")
        assert shop.http.post("/v1/recommend", json=body, headers=admin).status_code == 200
    for key in (plain, admin):
        assert shop.http.post("/v1/recommend", json={"timestamp": 0}, headers=key).is_success


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (MemoryError(), 503),
        (RuntimeError("can't start new thread"), 503),
        (RuntimeError("something else"), 500),
    ],
)
def test_a_client_tries_again_where_memory_ran_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, failure: Exception, status: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    with Live(Platform.open(settings, build)) as live:
        monkeypatch.setattr(live.platform.recommendations, "recommend", fail)
        answer = live.http.post("/v1/recommend", json={"user_id": "ada"})
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (status == 503)


def test_metrics_count_and_name_nobody(live: Live) -> None:
    live.http.post("/v1/events", json=[view(1, "alice-4711"), view(1, "alice-4711"), {}])
    position = live.http.post("/v1/events", json=view(2, "alice-4711")).json()["position"]
    live.views("alice-4711", position)
    live.http.get("/v1/users/alice-4711/features")
    wait_until(  # noted by the engine's thread right after it has applied the events
        lambda: ("tactful_freshness_seconds_count", {}, 2.0) in live.platform.metrics.samples()
    )
    inside: dict[tuple[str, ...], float] = {}

    def workers_have_reported() -> bool:  # once a second
        inside.update(
            ((sample.name, *sample.labels.values()), sample.value)
            for family in live.platform.metrics.others.collect()
            for sample in family.samples
        )
        return inside["tactful_request_seconds_count", "/v1/users/{user_id}/features"] == 1

    wait_until(workers_have_reported)
    text = ""

    def has_caught_up() -> bool:  # when nothing comes the time is written, which is behind, too
        nonlocal text
        text = live.http.get("/metrics").text
        return "tactful_engine_lag 0.0" in text

    wait_until(has_caught_up)
    values = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }
    assert inside["tactful_ingested_total", "event", "accepted"] == 2
    assert inside["tactful_ingested_total", "event", "duplicate"] == 1
    assert inside["tactful_ingested_total", "event", "rejected"] == 1
    assert inside["tactful_answers_total", "/v1/events", "202"] == 2
    assert inside["tactful_request_seconds_count", "/v1/users/{user_id}/features"] == 1
    assert inside["tactful_freshness_seconds_count",] >= 2
    assert values['tactful_rejected_share{kind="event"}'] == 1, "1 of 4, rounded up"
    assert 0 < values['tactful_request_seconds{quantile="0.99",route="/v1/events"}'] <= 5
    assert 0 < values['tactful_freshness_seconds{quantile="0.5"}'] <= 30
    assert values["tactful_engine_lag"] == 0
    assert all(math.isfinite(value) for value in values.values())
    assert "alice" not in text
    assert "kitchen" not in text
