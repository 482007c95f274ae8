"""URLs without a scheme: http for this machine, https for any other, and nothing else."""

from __future__ import annotations

import pytest

from tactful.errors import ConfigError
from tactful.util.addresses import with_scheme


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("LOCALHOST", "http://LOCALHOST"),
        ("127.0.0.1:8420", "http://127.0.0.1:8420"),
        ("127.9.9.9", "http://127.9.9.9"),
        ("[::1]:8420", "http://[::1]:8420"),
        ("0.0.0.0:8420", "http://0.0.0.0:8420"),
        ("shop.example", "https://shop.example"),
        ("shop.example:8443/tactful", "https://shop.example:8443/tactful"),
        ("//shop.example", "https://shop.example"),
        (" shop.example\n", "https://shop.example"),
        ("192.168.1.4:8420", "https://192.168.1.4:8420"),
        ("localhost.evil.example", "https://localhost.evil.example"),
        ("127.0.0.1.evil.example", "https://127.0.0.1.evil.example"),
        ("127.0.0.1@evil.example", "https://127.0.0.1@evil.example"),
        ("http://shop.example", "http://shop.example"),
        ("HTTPS://localhost", "HTTPS://localhost"),
    ],
)
def test_a_scheme_is_added_where_there_is_none(written: str, read: str) -> None:
    assert with_scheme(written) == read
    assert with_scheme(read) == read


@pytest.mark.parametrize(
    "written",
    [
        *("", "  ", ":8420", "/v1/events", "ftp://shop.example", "file:///etc/passwd", "http://"),
        *("shop.example:port", "shop.example:99999", "[::1", "shop example", "redis://localhost"),
    ],
)
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a server"):
        with_scheme(written)
