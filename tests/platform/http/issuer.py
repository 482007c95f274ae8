"""A small OpenID provider for tests: discovery, keys, authorisation with a form, tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "tactful-dashboard", "a secret of the test"
AUDIENCE = "services"
"""Audience of the access tokens of programs."""

PEOPLE: Mapping[str, Mapping[str, Any]] = {
    "ann": {"sub": "17", "email": "ann@shop.example", "groups": ["shop-admins"]},
    "bob": {"sub": "18", "email": "bob@shop.example", "groups": ["shop-analysts", "others"]},
    "cyd": {"sub": "19", "email": "cyd@shop.example", "groups": ["visitors"]},
}
"""Claims of the people who can sign in, by their login."""


@dataclass
class Issuer:
    """A provider that runs on a port of this machine while the context lasts.

    Attributes:
        down: whether it answers 500.
        requests: paths that were asked for.
        program_s: lifetime of the access tokens of programs, seconds.
    """

    keys: list[RSAKey] = field(default_factory=lambda: [new_key("first")])
    down: bool = False
    requests: list[str] = field(default_factory=list)
    program_s: int = 300
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def __enter__(self) -> Issuer:
        issuer = self

        class Handler(_Handler):
            provider = issuer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def claims(self, login: str = "ann", **changes: Any) -> dict[str, Any]:
        """Return valid claims of a person; a change to None leaves a claim out."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 300, **PEOPLE[login]}
        return {name: it for name, it in {**claims, **changes}.items() if it is not None}

    def token(self, login: str = "ann", *, key: RSAKey | None = None, **changes: Any) -> str:
        """Return an ID token of a person, signed by `key`, else by the newest key."""
        key = key or self.keys[-1]
        return jwt.encode({"alg": "RS256", "kid": key.kid}, self.claims(login, **changes), key)

    def answer(self, path: str, query: dict[str, str], form: dict[str, str]) -> tuple[int, Any]:
        """Return status and content of an answer: JSON, a page, or an address to go to."""
        self.requests.append(path)
        if self.down:
            return 500, {}
        if path == "/.well-known/openid-configuration":
            return 200, self._about()
        if path == "/jwks":
            return 200, {"keys": [key.as_dict(private=False, use="sig") for key in self.keys]}
        if path == "/authorize":
            return self._authorise(query, form)
        if path == "/token":
            return self._exchange(form)
        return 404, {}

    def _about(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    def _authorise(self, query: dict[str, str], form: dict[str, str]) -> tuple[int, Any]:
        if "login" not in form:
            page = "<form method=post><input name=login aria-label=Login><button>Go</button></form>"
            return 200, page
        code = secrets.token_urlsafe(8)
        self._codes[code] = {**query, "login": form["login"]}
        answer = urllib.parse.urlencode({"code": code, "state": query["state"]})
        return 302, f"{query['redirect_uri']}?{answer}"

    def _exchange(self, form: dict[str, str]) -> tuple[int, Any]:
        if form.get("grant_type") == "client_credentials":
            return self._program(form)
        asked = self._codes.pop(form.get("code", ""), None)
        if asked is None or form.get("redirect_uri") != asked["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        if challenge := asked.get("code_challenge"):
            hashed = hashlib.sha256(form["code_verifier"].encode()).digest()
            if base64.urlsafe_b64encode(hashed).rstrip(b"=").decode() != challenge:
                return 400, {"error": "invalid_grant"}
        token = self.token(asked["login"], nonce=asked.get("nonce"))
        access = {"access_token": secrets.token_urlsafe(8), "token_type": "Bearer"}
        return 200, {**access, "expires_in": 300, "id_token": token}

    def _program(self, form: dict[str, str]) -> tuple[int, Any]:
        """Issue an access token to a program, which is its own subject."""
        if form.get("client_secret") != SECRET:
            return 401, {"error": "invalid_client"}
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "iat": now, "exp": now + self.program_s}
        claims |= {"sub": form["client_id"], "scope": form.get("scope", "")}
        key = self.keys[-1]
        token = jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key)
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": self.program_s}


class _Handler(BaseHTTPRequestHandler):
    provider: Issuer

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        form = dict(urllib.parse.parse_qsl(body))
        kind, _, basic = self.headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            name, _, secret = base64.b64decode(basic).decode().partition(":")
            form |= {"client_id": name, "client_secret": secret}
        self._answer(form)

    def _answer(self, form: dict[str, str]) -> None:
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        status, content = self.provider.answer(parts.path, query, form)
        page = isinstance(content, str)
        body = b"" if status == 302 else (content if page else json.dumps(content)).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("location", content)
        self.send_header("content-type", "text/html" if page else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def new_key(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid})
