"""Profile tokens: the vector of a user, carried from one domain to another by the user's device.

The releasing domain signs a profile (Ed25519) and encrypts it for the receiving one by HPKE (RFC
9180: X25519, HKDF-SHA256, ChaCha20-Poly1305). The device fetches the token from the one and hands
it to the other, so the domains never connect to each other, and neither learns the id under which
the other knows the user. A token is good once, for five minutes::

    {"token_id": "9f0c…", "releasing": "shop", "receiving": "magazine", "embedding": "9c1f…",
     "issued_at": 1796131843000, "expires_at": 1796132143000, "vector": [0.12, -0.03, …]}
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from msgspec import Meta

from tactful.errors import TactfulError
from tactful.schemas.subjects.domains import LONGEST_TOKEN
from tactful.util.signing import Signature, SigningKey, is_genuine
from tactful_privacy.decoding import DECODE_ERRORS

LIFETIME_MS: Final = 300_000
"""Time for which a token is good, milliseconds."""

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_PURPOSE = "profile"
_INFO = b"tactful profile "

EARLY_MS: Final = 60_000
"""How far the clocks of two domains may differ, milliseconds."""

_Name = Annotated[str, Meta(min_length=1, max_length=64)]


class TokenError(TactfulError):
    """A token is refused; the message says why, and holds nothing of the profile."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Contents of a token.

    Attributes:
        token_id: random name of the token, which is good once.
        releasing: domain that computed the vector.
        receiving: domain that it is for.
        embedding: version of the embedding; vectors of two versions cannot be compared.
        issued_at: time of the release, epoch milliseconds.
        expires_at: time from which the token is refused, epoch milliseconds.
        vector: profile of the user.
    """

    token_id: Annotated[str, Meta(min_length=16, max_length=64)]
    releasing: _Name
    receiving: _Name
    embedding: _Name
    issued_at: int
    expires_at: int
    vector: Annotated[
        tuple[Annotated[float, Meta(ge=-1, le=1)], ...], Meta(min_length=1, max_length=256)
    ]


class _Signed(msgspec.Struct, frozen=True):
    profile: bytes
    signature: Signature


def seal(profile: Profile, signing: SigningKey, receiver: X25519PublicKey) -> str:
    """Sign a profile and encrypt it for the receiving domain.

    All tokens of one embedding and pair of domains have about the same length.
    """
    content = msgspec.msgpack.encode(profile)
    signed = msgspec.msgpack.encode(_Signed(content, signing.sign(_PURPOSE, content)))
    sealed = _SUITE.encrypt(signed, receiver, _INFO + profile.receiving.encode())
    return base64.urlsafe_b64encode(sealed).decode()


class TokenReader:
    """Opens tokens for one domain; the caller must refuse a `token_id` that was used before."""

    def __init__(
        self,
        domain: str,
        private: Sequence[X25519PrivateKey],
        trusted: Mapping[str, Collection[str]],
    ) -> None:
        """Open with one of the `private` keys.

        `trusted` has the public signing keys of each releasing domain, in hexadecimal.
        """
        self._domain = domain
        self._private = private
        self._trusted = trusted

    def open(self, token: str, now: int) -> Profile:
        """Return the profile of a token that is good at a time, epoch milliseconds.

        Raises:
            TokenError: if it was changed, is for another domain, of an unknown one, or expired.
        """
        profile = self._genuine(token)
        if profile.receiving != self._domain:
            raise TokenError("the token is for another domain: fetch one for this domain")
        lifetime = profile.expires_at - profile.issued_at
        if not 0 < lifetime <= LIFETIME_MS or profile.issued_at > now + EARLY_MS:
            raise TokenError("the times of the token are wrong: check the clocks of both domains")
        if now >= profile.expires_at:
            raise TokenError("the token has expired: fetch another one")
        return profile

    def _genuine(self, token: str) -> Profile:
        if len(token) > LONGEST_TOKEN:
            raise TokenError("the token is too long")
        try:
            sealed = base64.b64decode(token.encode("ascii"), b"-_", validate=True)
            signed = msgspec.msgpack.decode(self._decrypted(sealed), type=_Signed)
            profile = msgspec.msgpack.decode(signed.profile, type=Profile)
        except (UnicodeError, binascii.Error, ValueError, *DECODE_ERRORS):
            raise TokenError("the token cannot be opened by this domain") from None
        known = signed.signature.key in self._trusted.get(profile.releasing, ())
        if not known or not is_genuine(signed.signature, _PURPOSE, signed.profile):
            raise TokenError("the token is of no domain that this one receives profiles from")
        return profile

    def _decrypted(self, sealed: bytes) -> bytes:
        for private in self._private:
            with contextlib.suppress(InvalidTag):
                return _SUITE.decrypt(sealed, private, _INFO + self._domain.encode())
        raise ValueError("encrypted for another key")
