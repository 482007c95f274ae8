"""Addresses of servers: loopback hosts, and URLs that were written without a scheme."""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Collection

from tactful.errors import ConfigError


def is_loopback(host: str) -> bool:
    """Return whether `host` is a loopback address or the name ``localhost``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def sender_of(peer: str, forwarded: str, proxies: Collection[str]) -> str:
    """Return the address of the client behind trusted proxies.

    Each proxy appends the address that it was connected from, so the last one that is no proxy of
    ours is the client: what a client writes itself comes before it.

    >>> sender_of("127.0.0.1", "6.6.6.6, 192.0.2.7", ["127.0.0.1"])
    '192.0.2.7'

    Args:
        peer: address of the connection.
        forwarded: header ``X-Forwarded-For``; empty for none.
        proxies: addresses of the proxies.
    """
    for address in reversed([*filter(None, map(str.strip, forwarded.split(",")))]):
        if peer not in proxies:
            break
        peer = address
    return peer


def is_secure(address: str) -> bool:
    """Return whether a URL is one of https, or of http on this machine.

    >>> is_secure("https://login.example"), is_secure("http://login.example")
    (True, False)
    """
    try:
        parts = urllib.parse.urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    return (parts.scheme == "https" and bool(host)) or (
        parts.scheme == "http" and is_loopback(host)
    )


def with_scheme(address: str) -> str:
    """Return a URL of a server with its scheme: http for this machine, https for any other.

    >>> with_scheme("localhost:8420"), with_scheme("shop.example/tactful")
    ('http://localhost:8420', 'https://shop.example/tactful')

    Raises:
        ConfigError: if it is no URL of http or https.
    """
    text = address.strip().removeprefix("//")
    try:
        parts = urllib.parse.urlsplit(text if "://" in text else f"//{text}")
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or any(map(str.isspace, text)) or parts.scheme not in ("", "http", "https"):
        raise ConfigError(
            f"{address!r} is no address of a server: write https://shop.example, or host and port "
            "such as localhost:8420"
        )
    if parts.scheme:
        return text
    # A server that listens on 0.0.0.0 prints this address; here it means the machine itself.
    here = is_loopback(host) or host == "0.0.0.0"
    return f"{'http' if here else 'https'}://{text}"
