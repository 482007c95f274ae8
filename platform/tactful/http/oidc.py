"""Sign-in by OpenID Connect: ID tokens of one issuer, beside API keys.

A token proves a person; the groups in it give scopes (`tactful.config.server.OidcSettings`). Its
signature is checked with the public keys of the issuer, which are fetched in a thread and kept for
an hour; a key that is not among them is looked for once more, so that the issuer may change its
keys at any time. Without current keys no token is accepted. Needs the extra ``oidc``.

Source: OpenID Connect Core 1.0, section 3.1.3.7; RFC 8725.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from joserfc import jwt
from joserfc.errors import (
    BadSignatureError,
    ExpiredTokenError,
    InvalidClaimError,
    InvalidKeyIdError,
    JoseError,
    MissingClaimError,
)
from joserfc.jwk import JWKRegistry, KeySet

from tactful.config.server import OidcSettings
from tactful.metadata.key_cache import ApiKey
from tactful.schemas.problems import ProblemError
from tactful.util.addresses import is_secure
from tactful_privacy.decoding import DECODE_ERRORS

logger = logging.getLogger(__name__)

ALGORITHMS = (
    *("RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512"),
    *("EdDSA", "Ed25519"),
)
"""Accepted signatures: asymmetric ones only."""

_KINDS = ("RSA", "EC", "OKP")
_SMALLEST_RSA_BITS = 2048
_LEEWAY_S = 60
_FRESH_S = 3_600.0
_UNKNOWN_S = 30.0
_FAILED_S = 5.0
_CHECKED_S = 60.0
_CHECKED_TOKENS = 1_024
_TIMEOUT_S = 5.0
_LARGEST = 2**20
_NAME_LENGTH = 200
_ODD = re.compile(r"[^\w.@+:/|~-]")

_UNREADABLE = (JoseError, ValueError, TypeError, KeyError, AttributeError, *DECODE_ERRORS)

Fetch = Callable[[str], bytes]
"""Returns the body of an address, or raises OSError or `httpx.HTTPError`."""


class _Unusable(Exception):
    """The issuer's documents cannot be fetched or used; the message says why."""


class TokenVerifier:
    """Checks the ID tokens of one issuer, on the event loop of one process."""

    def __init__(
        self,
        settings: OidcSettings,
        *,
        clock: Callable[[], int],  # epoch milliseconds
        monotonic: Callable[[], float] = time.monotonic,
        fetch: Fetch | None = None,
    ) -> None:
        """Check the tokens that `settings` name; nothing is fetched yet."""
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._fetch = fetch or _fetch
        self._scopes = settings.scopes_by_group
        self._lock = asyncio.Lock()
        self._keys: KeySet | None = None
        self._fetched_at = self._tried_at = -_FRESH_S
        self._checked: dict[bytes, tuple[float, ApiKey]] = {}

    async def check(self, token: str) -> ApiKey:
        """Return the rights of the person that a token names.

        Raises:
            ProblemError: if the token is not valid, none of its groups has rights, or the keys of
                the issuer cannot be fetched.
        """
        digest = hashlib.sha256(token.encode()).digest()
        until, known = self._checked.get(digest, (0.0, None))
        if known is not None and self._monotonic() < until:
            return known
        claims = await self._verified(token)
        person = ApiKey(
            "",
            self._rights(claims),
            self._settings.issuer,
            self._clock(),
            None,
            person=_name(claims),
        )
        if len(self._checked) >= _CHECKED_TOKENS:
            self._checked.clear()
        left_s = claims["exp"] + _LEEWAY_S - self._clock() / 1_000
        self._checked[digest] = self._monotonic() + min(left_s, _CHECKED_S), person
        return person

    async def _verified(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a token; fetch the keys again if its key is not known."""
        try:
            try:
                return self._claims(token, await self._current(unknown=False))
            except InvalidKeyIdError:
                return self._claims(token, await self._current(unknown=True))
        except _UNREADABLE as error:
            _refuse(_reason(error))

    def _claims(self, token: str, keys: KeySet) -> Mapping[str, Any]:
        """Return the claims of a valid token, or raise JoseError or ValueError."""
        decoded = jwt.decode(token, keys, algorithms=[*ALGORITHMS])
        if str(decoded.header.get("typ", "JWT")).upper() != "JWT":
            _refuse("it is no ID token")
        issuer, client = self._settings.issuer, self._settings.client_id
        jwt.JWTClaimsRegistry(
            now=self._clock() // 1_000,
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": client},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
        ).validate(decoded.claims)
        audience, party = decoded.claims["aud"], decoded.claims.get("azp")
        several = isinstance(audience, list) and len(audience) > 1
        if (several or party is not None) and party != client:
            _refuse("it was issued to another program")
        return decoded.claims

    async def _current(self, *, unknown: bool) -> KeySet:
        """Return the keys of the issuer; fetch them if they are old, or lack an `unknown` one."""
        if not unknown and self._keys is not None and self._is_fresh():
            return self._keys  # also while another request waits for the issuer
        async with self._lock:
            now = self._monotonic()
            fresh = self._is_fresh()
            rest_s = _UNKNOWN_S if fresh else _FAILED_S
            wanted = unknown or not fresh
            failed = self._tried_at > self._fetched_at
            if wanted and now - self._tried_at >= rest_s:
                self._tried_at = now
                try:
                    self._keys = await asyncio.to_thread(self._load)
                    self._fetched_at, failed, fresh = now, False, True
                except _Unusable as error:
                    logger.warning("ID tokens cannot be checked: %s", error)
                    failed = True
            if self._keys is None or not fresh or (unknown and failed):
                raise ProblemError(
                    "not_ready",
                    f"the issuer {self._settings.issuer} does not answer, so ID tokens cannot be "
                    "checked now; API keys can",
                    retry_after=int(_FAILED_S),
                )
            return self._keys

    def _is_fresh(self) -> bool:
        return self._monotonic() - self._fetched_at < _FRESH_S

    def _load(self) -> KeySet:
        """Fetch the keys of the issuer, in a thread."""
        issuer = self._settings.issuer
        place = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        about = self._document(place)
        if about.get("issuer") != issuer:
            raise _Unusable(f"{place} names another issuer than oidc.issuer")
        address = about.get("jwks_uri")
        if not isinstance(address, str) or not is_secure(address):
            raise _Unusable(f"{place}: jwks_uri must be an https address")
        keys = self._document(address).get("keys")
        usable = [*filter(None, map(_imported, keys if isinstance(keys, list) else []))]
        if not usable:
            raise _Unusable(f"{address} has no key that signs ID tokens")
        return KeySet(usable)

    def _document(self, address: str) -> dict[str, Any]:
        try:
            return msgspec.json.decode(self._fetch(address), type=dict[str, Any])
        except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise _Unusable(f"{address}: {type(error).__name__}") from error
        except DECODE_ERRORS as error:
            raise _Unusable(f"{address} is not JSON") from error

    def _rights(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """Return the scopes of a person's groups."""
        named = _claim(claims, self._settings.groups_claim)
        groups = [named] if isinstance(named, str) else named if isinstance(named, list) else []
        scopes = frozenset[str]().union(
            *(self._scopes.get(group, ()) for group in groups if isinstance(group, str))
        )
        if not scopes:
            raise ProblemError(
                "missing_scope",
                "you are signed in, but none of your groups has rights here: ask an operator to "
                "name one in the settings [oidc]",
            )
        return scopes


def _fetch(address: str) -> bytes:
    """Return the body of an address; a redirect is an error."""
    with httpx.stream("GET", address, timeout=_TIMEOUT_S, follow_redirects=False) as response:
        if response.status_code != httpx.codes.OK:
            raise OSError(f"status {response.status_code}")
        body = b""
        for part in response.iter_bytes():
            body += part
            if len(body) > _LARGEST:
                raise OSError("too large")
    return body


def _imported(data: Any) -> Any:
    """Return a public key that signs, or None for another, which is of no use here."""
    if not isinstance(data, dict) or data.get("kty") not in _KINDS:
        return None
    if data.get("use", "sig") != "sig":
        return None
    try:
        key = JWKRegistry.import_key(data)
        public = key.public_key
        small = isinstance(public, RSAPublicKey) and public.key_size < _SMALLEST_RSA_BITS
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return None if small else key


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by a path such as ``realm_access.roles``."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _name(claims: Mapping[str, Any]) -> str:
    """Return the name of a person in audit logs: the e-mail address, unless it is unverified."""
    email = claims.get("email")
    verified = (
        isinstance(email, str)
        and email
        and str(claims.get("email_verified", True)).lower() != "false"
    )
    name = email if verified else claims["sub"]
    # Without blanks it can be neither `key 0f3a9c21` nor the name of a part of the server.
    return _ODD.sub("_", str(name))[:_NAME_LENGTH]


def _reason(error: Exception) -> str:
    """Return why a token is refused, without any part of it."""
    match error:
        case ExpiredTokenError():
            return "it has expired: sign in again"
        case InvalidClaimError() | MissingClaimError():
            named = {
                "iss": "issuer",
                "aud": "audience",
                "exp": "expiry",
                "iat": "time",
                "nbf": "time",
                "sub": "subject",
            }
            first = error.claim.split(",")[0]  # several may be missing
            return f"its {named.get(first, first)} is missing or not the expected one"
        case InvalidKeyIdError():
            return "its key is none of the issuer's"
        case BadSignatureError():
            return "its signature is wrong"
    return "it cannot be read, or is not signed by an accepted algorithm"


def _refuse(reason: str) -> NoReturn:
    raise ProblemError(
        "no_key",
        f"the ID token is not accepted: {reason}",
        headers=((b"www-authenticate", b'Bearer realm="tactful", error="invalid_token"'),),
    )
