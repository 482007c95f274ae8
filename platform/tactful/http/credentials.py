"""API keys and ID tokens in requests: in a header, or in the address."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tactful.errors import ConfigError
from tactful.metadata.key_cache import SOURCE_SCOPE, ApiKey
from tactful.schemas import browser_access as browser

if TYPE_CHECKING:
    from tactful.config.settings import Settings
    from tactful.http.oidc import TokenVerifier

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


def id_token(headers: Mapping[bytes, bytes]) -> str:
    """Return the ID token in `Authorization: Bearer`; "" for an API key, or none."""
    if b"x-api-key" in headers:
        return ""
    scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
    sent = sent.strip()
    is_token = scheme.lower() == b"bearer" and sent.count(b".") == 2
    return sent.decode("latin-1") if is_token else ""


def open_tokens(settings: Settings, *, clock: Callable[[], int]) -> TokenVerifier | None:
    """Return what checks ID tokens; None if the settings name no issuer.

    Raises:
        ConfigError: if the extra ``oidc`` is not installed.
    """
    if not settings.oidc.issuer:
        return None
    try:
        from tactful.http.oidc import TokenVerifier
    except ModuleNotFoundError as error:
        raise ConfigError("oidc.issuer needs joserfc: pip install 'tactful[oidc]'") from error
    return TokenVerifier(settings.oidc, clock=clock)


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
