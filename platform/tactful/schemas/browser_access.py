"""What web pages may do: which of them may call (CORS), and what a key in a page is good for.

Everybody can read a key that lies in a web page. So a key with the scope `browser` names nobody: it
speaks for a device, under a random id that only this device and the shop know, and who is behind
the device is said by the shop's own server (`docs/how-to/embed.md`). Whoever copies the key can
neither ask for another person's list nor read an exact number about others.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from typing import Final, NamedTuple

from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import RecommendRequest
from tactful_streaming.contract.log_entries import Event

SCOPE: Final = "browser"

_SERVER_TYPES = frozenset({"payment", "refund", "return", "x.clock"})
_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
_PORTS = {"http": 80, "https": 443}
PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"POST"),
    (b"access-control-allow-headers", b"authorization, content-type, x-api-key, x-request-id"),
    # Two hours, which is as long as Chromium keeps an answer.
    (b"access-control-max-age", b"7200"),
)
"""What answers the question a browser asks before it lets a page call, beside `Origins.headers`."""


class Origins(NamedTuple):
    """The origins whose pages may call, as browsers write them."""

    allowed: frozenset[bytes]

    def of(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """The origin of a request, if its pages may call."""
        origin = headers.get(b"origin")
        return origin if origin in self.allowed else None

    def headers(self, origin: bytes | None) -> tuple[tuple[bytes, bytes], ...]:
        """What lets a page of `origin` read an answer; no cookie is ever asked for."""
        if not self.allowed:
            return ()
        if origin is None:
            return ((b"vary", b"origin"),)
        return (
            (b"vary", b"origin"),
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"retry-after, x-request-id"),
        )


def parse_origins(text: str) -> Origins:
    """Read a list of origins.

    Args:
        text: ``https://shop.example``, several separated by commas; empty for none.

    Raises:
        ValueError: if one is no origin, or stands for all.
    """
    return Origins(frozenset(_origin(each.strip()) for each in text.split(",") if each.strip()))


def _origin(text: str) -> bytes:
    parts = urllib.parse.urlsplit(text.lower())
    rest = parts.path or parts.query or parts.fragment or parts.username
    if (
        parts.scheme not in _PORTS
        or not parts.hostname
        or rest
        or not _HOST.fullmatch(parts.netloc)
    ):
        raise ValueError(
            f"{text!r} is no origin: write the scheme and the host, and the port if it is not the "
            "usual one, such as https://shop.example; there is no sign for all origins"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}".encode()


def refused(event: Event) -> str | None:
    """Why an event may not come with a `browser` key; None if it may."""
    if event.user_id is not None:
        return (
            "a browser key names no user: send the device_id, and let your server say once whose "
            "device it is, in an event with both"
        )
    if event.type in _SERVER_TYPES:
        return f"{event.type!r} events come from your server, with the scope 'ingest'"
    return None


def check_request(request: RecommendRequest) -> None:
    """Refuse what a `browser` key may not ask for.

    Raises:
        ProblemError: naming the field.
    """
    given = {
        "user_id": request.user_id is not None,
        "after": request.after is not None,
        "explain": request.explain,
    }
    for name, used in given.items():
        if used:
            raise ProblemError(
                "missing_scope",
                f"`{name}` needs a key with the scope 'recommend', which belongs on a server",
                field=f"$.{name}",
            )
