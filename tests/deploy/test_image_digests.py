"""Digests of images are read from a registry as Docker reads them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"


class Registry(BaseHTTPRequestHandler):
    """A registry that wants an anonymous token, and has odd repositories."""

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def _answer(self, *, send_body: bool) -> None:
        address = urllib.parse.urlsplit(self.path)
        own = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
        if address.path == "/token":
            asked = dict(urllib.parse.parse_qsl(address.query))
            assert asked["service"] == "the registry"
            self._send(200, json.dumps({"token": f"token of {asked['scope']}"}).encode())
            return
        repository, kind, tag = address.path.removeprefix("/v2/").rsplit("/", 2)
        assert kind == "manifests"
        scope = f"repository:{repository}:pull"
        if repository == "private":
            self._send(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
        elif self.headers.get("Authorization") != f"Bearer token of {scope}":
            challenge = f'Bearer realm="{own}/token",service="the registry",scope="{scope}"'
            self._send(401, b"", {"WWW-Authenticate": challenge})
        elif tag != "1.0":
            self._send(404, b"")
        else:
            assert "application/vnd.oci.image.index.v1+json" in self.headers["Accept"]
            named = {"plain": {}, "wrong": {"Docker-Content-Digest": "md5:1"}}
            headers = named.get(repository, {"Docker-Content-Digest": DIGEST})
            self._send(200, MANIFEST, headers, send_body=send_body)

    def _send(
        self, status: int, body: bytes, headers: Any = None, *, send_body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy" / "image_digests.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_digests_are_added_and_replaced(registry: str, tmp_path: Path) -> None:
    file = tmp_path / "images.env"
    old = "0" * 64
    file.write_text(
        f"# Images.\nTACTFUL_IMAGE=tactful:0.1.0\nA_IMAGE={registry}/shop/redis:1.0\n"
        f"B_IMAGE={registry}/plain:1.0@sha256:{old}\n"
    )
    before = file.read_text()
    printed = run(file)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert printed.stdout == (
        f"# Images.\nTACTFUL_IMAGE=tactful:0.1.0\nA_IMAGE={registry}/shop/redis:1.0@{DIGEST}\n"
        f"B_IMAGE={registry}/plain:1.0@{DIGEST}\n"
    )
    assert file.read_text() == before
    assert run("--write", file).returncode == 0
    assert file.read_text() == printed.stdout
    assert run(file).stdout == printed.stdout, "a second time changes nothing"


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ("{registry}/shop/redis:2.0", "404"),
        ("{registry}/private:1.0", "gives no tokens to everybody"),
        ("{registry}/wrong:1.0", "'md5:1' is no SHA-256 digest"),
        ("{registry}/shop/redis", "has no tag"),
        ("127.0.0.1:1/redis:1.0", "http://127.0.0.1:1/v2/redis/manifests/1.0"),
    ],
)
def test_a_line_without_an_answer_stays(
    registry: str, tmp_path: Path, image: str, problem: str
) -> None:
    file = tmp_path / "images.env"
    image = image.format(registry=registry)
    file.write_text(f"A_IMAGE={image}\nB_IMAGE={registry}/other:1.0\n")
    written = run("--write", file)
    assert written.returncode == 1
    assert problem in written.stderr
    assert "Traceback" not in written.stderr
    assert file.read_text() == f"A_IMAGE={image}\nB_IMAGE={registry}/other:1.0@{DIGEST}\n"


def test_references_are_completed_as_docker_does() -> None:
    code = (
        "from image_digests import parse_image\n"
        "for text in ('redis:8', 'prom/prometheus:v3', 'ghcr.io/a/b/c:1', 'localhost/a:1'):\n"
        "    print(parse_image(text).url)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "deploy",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [
        "https://registry-1.docker.io/v2/library/redis/manifests/8",
        "https://registry-1.docker.io/v2/prom/prometheus/manifests/v3",
        "https://ghcr.io/v2/a/b/c/manifests/1",
        "http://localhost/v2/a/manifests/1",
    ]
