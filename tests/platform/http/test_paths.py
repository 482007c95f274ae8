"""Ids in paths: any id that an event may carry reaches every route, and the right user."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.support import Live

from tactful.http.paths import Paths
from tactful.http.routes import ENDPOINTS

TEMPLATES = sorted({endpoint.path for endpoint in ENDPOINTS})
ODD_IDS = [
    *("x/features", "x/consent", "features", "consent", "export", "log", "start"),
    *(".", "..", "../..", "a/../b", "x/", "/x", "/", "//", "%2F", "%252F", "{user_id}"),
    *("device:d/e",),
    *("ü ?#%&;=+", "用户", "\U0001f6d2", "a\\b", "\x00", "a\x00b", "\x7f", "x" * 256, "/" * 256),
    f"device:{'d' * 256}",
]
ENCODINGS: list[Callable[[str], str]] = [
    lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    lambda text: quote(text, safe=""),
]


def asked(live: Live, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send a path as it is, which client libraries do not; return status and body."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=60) as connection:
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("user", ODD_IDS, ids=range(len(ODD_IDS)))
def test_every_id_can_be_read_and_erased(shared: Live, user: str) -> None:
    """``DELETE /v1/users/x%2Ffeatures`` was 405: such a user could not be erased."""
    said = b'{"purposes": {"measurement": true}}'
    for encode in ENCODINGS:
        path = f"/v1/users/{encode(user)}"
        for method, body in (("PUT", said), ("GET", b"")):
            status, answer = asked(shared, method, f"{path}/consent", body)
            assert (status, json.loads(answer)["person"]) == (200, user)
        status, answer = asked(shared, "GET", f"{path}/features")
        assert (status, json.loads(answer)["user_id"]) == (200, user)
        assert asked(shared, "GET", f"{path}/export?format=html")[0] == 200
    status, answer = asked(shared, "DELETE", path)
    assert status == 202
    receipt = json.loads(answer)["receipt"]
    assert asked(shared, "GET", f"/v1/erasures/{receipt}")[0] == 200
    assert asked(shared, "GET", f"{path}/features")[0] == 404


def test_no_other_user_is_erased(shared: Live) -> None:
    """An empty id, a trailing slash and bytes that are not UTF-8 name nobody."""
    for path in ("/", "//", "/x/", "/x//", "/%ff", "/%ED%A0%80", "/x/y", f"/{'x' * 257}"):
        status, answer = asked(shared, "DELETE", f"/v1/users{path}")
        assert (status, json.loads(answer)["code"]) == (404, "not_found"), path
    for path in ("//features", "/%ff/features", "/x/features/", "/x//features"):
        assert asked(shared, "GET", f"/v1/users{path}")[0] == 404
    assert asked(shared, "GET", "/v1/users/x/features")[0] == 200


@pytest.mark.parametrize("path", [path for path in TEMPLATES if "{" in path])
def test_odd_names_are_answered_everywhere(shared: Live, path: str) -> None:
    for endpoint in (endpoint for endpoint in ENDPOINTS if endpoint.path == path):
        for name in (*ODD_IDS, "x" * 3_000):
            target = re.sub(r"\{\w+\}", lambda _: ENCODINGS[1](name), path)  # noqa: B023
            status, answer = asked(shared, endpoint.method, target)
            assert status < 500, (endpoint.method, name, answer)
            assert status != 405, "a name of another route is a name here"


@settings(max_examples=50)
@given(st.sampled_from(TEMPLATES), st.data())
def test_a_path_is_split_before_it_is_decoded(template: str, data: st.DataObject) -> None:
    names = re.findall(r"\{(\w+)\}", template)
    values = {name: data.draw(st.text(min_size=1)) for name in names}
    values = {name: value.encode(errors="ignore").decode() or "x" for name, value in values.items()}
    path = template
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", data.draw(st.sampled_from(ENCODINGS))(value))
    assert Paths({path: path for path in TEMPLATES}).find(path.encode()) == (template, values)
