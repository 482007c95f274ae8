"""Access of web pages: allowed origins (CORS), and the limits of a browser key.

Everybody can read a key in a web page. So requests with a key of the scope `browser` name no user:
they name a device, by a random id that only this device and the shop know; the shop's own server
links the device to its user (`docs/how-to/embed.md`). A copied key gives no access to another
user's recommendations, and answers contain no statistics; their order follows from what others did.
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
# Properties that only a server may send, by type of event.
_SERVER_PROPERTIES = {
    "impression": (
        *("items", "scores", "channels", "model_version", "layout", "features", "failed"),
        *("experiment", "arm", "forced", "propensity", "rollouts", "rollout_shares"),
    ),
    "purchase": ("coupon", "discount"),
}
_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
_LOOPBACK_HOST = re.compile(rb"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
_LONGEST_SHOWN = 100  # bytes of an origin in a message
PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, POST"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, if-none-match, x-api-key, x-request-id",
    ),
    # Two hours, the longest time for which Chromium caches it.
    (b"access-control-max-age", b"7200"),
)
"""Headers of the response to a preflight request, beside `Origins.headers`."""


def is_this_machine(host: bytes) -> bool:
    """Return whether a `Host` header is a loopback name, with a port or without."""
    return _LOOPBACK_HOST.fullmatch(host) is not None


class Origins(NamedTuple):
    """Origins whose pages may send requests, as browsers write them."""

    allowed: frozenset[bytes] = frozenset()
    this_machine: bool = False  # also pages of loopback names, of any port

    def __bool__(self) -> bool:
        """Return whether any page may send requests."""
        return self.this_machine or bool(self.allowed)

    def of(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Return the origin of a request, if it is allowed.

        In a `GET` to the origin of the page itself a browser names the page instead.
        """
        origin = headers.get(b"origin")
        if origin is None:
            origin = b"/".join(headers.get(b"referer", b"").split(b"/", 3)[:3])
        if origin in self.allowed:
            return origin
        scheme, _, host = origin.partition(b"://")
        local = self.this_machine and scheme in (b"http", b"https") and is_this_machine(host)
        return origin if local else None

    def headers(self, origin: bytes | None) -> tuple[tuple[bytes, bytes], ...]:
        """Return the headers that let a page of `origin` read a response, without cookies."""
        if not self:
            return ()
        if origin is None:
            return ((b"vary", b"origin"),)
        return (
            (b"vary", b"origin"),
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"etag, retry-after, x-request-id"),
        )


def parse_origins(text: str) -> Origins:
    """Parse a list of origins.

    >>> sorted(parse_origins("https://shop.example, http://localhost:8000").allowed)
    [b'http://localhost:8000', b'https://shop.example']

    Args:
        text: origins separated by commas; empty for none.

    Raises:
        ValueError: if a part is no origin, or a wildcard.
    """
    return Origins(frozenset(_origin(part.strip()) for part in text.split(",") if part.strip()))


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
            f"{text!r} is no origin: write scheme and host, and the port if it is not the default "
            "of the scheme, such as https://shop.example; there is no wildcard"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}".encode()


def refusal(headers: Mapping[bytes, bytes], *, dev: bool) -> str:
    """Return the reason why a page is refused, with its origin and the setting to change."""
    origin = headers.get(b"origin", b"")[:_LONGEST_SHOWN].decode("ascii", "replace")
    if not origin:
        return "a browser key works from pages only, of the origins in `server.cors_origins`"
    if dev:
        return (
            f"pages of {origin!r} are refused: with --dev only pages of this machine are answered; "
            "for others start without --dev and list their origins in `server.cors_origins`"
        )
    return f"pages of {origin!r} are refused: list the origin in `server.cors_origins`"


def refused(event: Event) -> str | None:
    """Return the reason to reject an event of a `browser` key; None to accept it."""
    if event.user_id is not None:
        return (
            "a browser key may not name a user: send the device_id, and let your server link the "
            "device to its user once, in an event with both"
        )
    if event.type in _SERVER_TYPES:
        return f"{event.type!r} events come from your server, with the scope 'ingest'"
    for name in _SERVER_PROPERTIES.get(event.type, ()):
        if name in event.properties:
            return (
                f"properties.{name} of {event.type!r} events come from your server, with the scope "
                "'ingest': a page reports the item_id and the recommendation_id"
            )
    return None


def check_request(request: RecommendRequest) -> None:
    """Refuse a request with fields that a `browser` key may not use.

    Raises:
        ProblemError: naming the field.
    """
    for name in ("user_id", "after", "explain", "timestamp", "as_of"):
        if getattr(request, name) not in (None, False):
            raise ProblemError(
                "missing_scope",
                f"`{name}` needs a key with the scope 'recommend', which belongs on a server",
                field=f"$.{name}",
            )
