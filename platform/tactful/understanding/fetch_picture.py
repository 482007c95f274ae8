"""Fetching of a picture from an address that a stranger may have chosen.

The address decides nothing but a public host: its name is resolved once, every result must be a
public address, and the connection goes to the address that was checked, so a name that resolves
differently later gains nothing. Each redirect is checked in the same way. Proxies, cookies and
credentials are not used. Time, size and type are bounded.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from tactful.errors import PictureError
from tactful.understanding.pictures import FORMATS, MOST_BYTES, media_type_of

Resolve = Callable[[str, int], Sequence[str]]
"""Returns the addresses of a host's name, or raises OSError."""

_MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses behind NAT64
_RELAYS = ipaddress.ip_network("192.88.99.0/24")  # of 6to4, which is no longer in use
_HEADERS = {
    "Accept": ", ".join(FORMATS.values()),
    "Accept-Encoding": "identity",
    "User-Agent": "tactful",
    "Connection": "close",
}


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet.

    Addresses that carry one of IPv4 within are judged by that, or refused.

    >>> is_public("192.0.2.1"), is_public("::ffff:127.0.0.1"), is_public("8.8.8.8")
    (False, False, True)
    """
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found.sixtofour is not None or found.teredo is not None or found in _TRANSLATED:
            return False
        if found.is_site_local:  # deprecated, and still routed within old networks
            return False
    elif found in _RELAYS:
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def addresses_of(host: str, port: int) -> list[str]:
    """Resolve the name of a host.

    Raises:
        OSError: if it has no address.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


@dataclass(frozen=True)
class Fetching:
    """Limits of fetching.

    Attributes:
        permitted: whether a connection to an IP address is allowed.
        resolve: resolves the name of a host.
        ports: ports of servers.
        seconds: of all requests for one picture.
        most_bytes: of the answer.
    """

    permitted: Callable[[str], bool] = is_public
    resolve: Resolve = addresses_of
    ports: Collection[int] = field(default=(80, 443))
    seconds: float = 10.0
    most_bytes: int = MOST_BYTES


class _Target(NamedTuple):
    secure: bool
    host: str
    port: int
    path: str


def fetch_picture(address: str, limits: Fetching | None = None) -> tuple[bytes, str]:
    """Fetch the file of a picture; return it and its media type.

    Raises:
        PictureError: if the address, a redirect or the answer is not allowed, or nothing answers.
    """
    chosen = limits or Fetching()
    with _Deadline(chosen.seconds) as deadline:
        try:
            return _followed(address, chosen, deadline)
        except PictureError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            if deadline.passed or isinstance(error, TimeoutError):
                raise PictureError(
                    f"the picture did not arrive within {chosen.seconds:g} s"
                ) from error
            raise PictureError(
                f"the picture cannot be fetched ({type(error).__name__}): check its address"
            ) from error


class _Deadline:
    """Closes the present connection once a time has passed, and every later one."""

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, opened: socket.socket) -> None:
        """Close this connection in time.

        Raises:
            TimeoutError: if the time has passed.
        """
        self._socket = opened
        self.check()

    def check(self) -> None:
        """Raise TimeoutError if the time has passed."""
        if self.passed:
            raise TimeoutError

    def _pass(self) -> None:
        self.passed = True  # before the socket is read: `watch` sets them in the other order
        if (opened := self._socket) is not None:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)


def _followed(address: str, limits: Fetching, deadline: _Deadline) -> tuple[bytes, str]:
    secure = False
    for _ in range(1 + _MOST_REDIRECTS):
        target = _target_of(address, limits)
        if secure and not target.secure:
            raise PictureError("the address leads from https to http: give the last address")
        secure = target.secure
        with _answer(target, limits, deadline) as answer:
            if answer.status not in _REDIRECTS:
                return _read(answer, limits, deadline)
            address = urllib.parse.urljoin(address, answer.getheader("Location") or "")
    raise PictureError(f"the address leads on more than {_MOST_REDIRECTS} times: give the last one")


def _target_of(address: str, limits: Fetching) -> _Target:
    if not address.isascii() or any(ord(sign) <= 32 or ord(sign) == 127 for sign in address):
        raise PictureError("the address holds a character that must be written as %xx")
    parts = urllib.parse.urlsplit(address)
    host, secure = parts.hostname or "", parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not host:
        raise PictureError("the address is none of http or https")
    if parts.username is not None or parts.password is not None:
        raise PictureError("the address holds a user or a password")
    port = parts.port or (443 if secure else 80)
    if port not in limits.ports:
        raise PictureError(f"port {port} of the address is not one of the web: 80 or 443")
    return _Target(
        secure, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    )


@contextlib.contextmanager
def _answer(
    target: _Target, limits: Fetching, deadline: _Deadline
) -> Iterator[http.client.HTTPResponse]:
    """Ask the first address of a host; all of them must be permitted."""
    found = limits.resolve(target.host, target.port)
    deadline.check()
    if not found or not all(map(limits.permitted, found)):
        raise PictureError("the host of the address is not on the public internet")
    plain = socket.create_connection((found[0], target.port), timeout=limits.seconds)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(plain)
        deadline.watch(opened)
        if target.secure:
            secured = _tls().wrap_socket(
                opened, server_hostname=target.host, do_handshake_on_connect=False
            )
            opened = stack.enter_context(secured)
            deadline.watch(opened)  # before the handshake, which may take as long as the rest
            secured.do_handshake()
        connection = http.client.HTTPConnection(target.host, target.port, timeout=limits.seconds)
        connection.sock = opened  # so it does not resolve the name again
        stack.callback(connection.close)
        connection.request("GET", target.path, headers=_HEADERS)
        yield connection.getresponse()


def _read(
    answer: http.client.HTTPResponse, limits: Fetching, deadline: _Deadline
) -> tuple[bytes, str]:
    media_type = media_type_of(answer.getheader("Content-Type") or "")
    if answer.status != 200:
        raise PictureError(f"the server of the picture answers {answer.status}")
    if media_type not in FORMATS.values():
        raise PictureError(f"the answer is {media_type[:64] or 'of no type'}, not a picture's")
    if (answer.getheader("Content-Encoding") or "identity").lower() != "identity":
        raise PictureError("the answer is compressed, though that was not asked for")
    data = answer.read(limits.most_bytes + 1)
    if len(data) > limits.most_bytes:
        raise PictureError(f"the picture has more than {limits.most_bytes:,} bytes")
    if deadline.passed or (answer.length or 0) > 0:
        raise PictureError("the answer ended before the picture did")
    return data, media_type


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
