"""API keys in requests: in a header, or in the address."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Mapping

from tactful.metadata.key_cache import SOURCE_SCOPE, ApiKey
from tactful.schemas import browser_access as browser

_PAGE = b"key="


def in_headers(headers: Mapping[bytes, bytes], *, basic: bool = False) -> str:
    """Return the key in `X-API-Key` or `Authorization`, as the user name if `basic`; else ""."""
    sent = headers.get(b"x-api-key")
    if sent is None:
        scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
        if basic and scheme.lower() == b"basic":
            sent = _user_name(sent)
        elif scheme.lower() != b"bearer":
            sent = b""
    return sent.strip().decode("latin-1")


def of_page(query: bytes) -> str:
    """Return the key of a page that can send no header: `key`, the first parameter; else ""."""
    return query[len(_PAGE) :].decode("latin-1") if query.startswith(_PAGE) else ""


def in_query(query: bytes, parameter: str) -> str:
    """Return the key in a query parameter; "" if it is missing."""
    try:
        pairs = urllib.parse.parse_qsl(query.decode("latin-1"), max_num_fields=32)
    except ValueError:
        return ""
    return next((value for name, value in pairs if name == parameter), "")


def may_be_in_address(key: ApiKey) -> bool:
    """Return whether a key can do so little that it may be in an address, which logs contain."""
    return key.scopes in ({browser.SCOPE}, {SOURCE_SCOPE})


def _user_name(sent: bytes) -> bytes:
    try:
        return base64.b64decode(sent.strip(), validate=True).partition(b":")[0]
    except ValueError:
        return b""
