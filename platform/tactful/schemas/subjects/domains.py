"""Profiles that cross between domains: requests and answers."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from tactful.schemas.fields import Identifier

LONGEST_TOKEN: Final = 16_384
"""Characters of a token."""


class ProfileOwner(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Person whose profile leaves this domain: at least one of both.

    Attributes:
        user_id: user; not with a browser key.
        device_id: device of the user, or of a visitor without an account.
    """

    user_id: Identifier | None = None
    device_id: Identifier | None = None


class NewCrossing(ProfileOwner, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A profile that arrives, for the person of this domain who hands it over.

    Attributes:
        user_id: user; not with a browser key.
        device_id: device of the user, or of a visitor without an account.
        token: answer of the other domain, as it was returned.
    """

    token: Annotated[str, Meta(min_length=1, max_length=LONGEST_TOKEN)]


class ProfileToken(msgspec.Struct, kw_only=True, frozen=True):
    """A profile, signed by this domain and encrypted for another one.

    Attributes:
        token: to be handed to the receiving domain, once.
        releasing: name of this domain.
        receiving: name of the other domain.
        expires_at: time from which the token is refused, epoch milliseconds.
    """

    token: str
    releasing: str
    receiving: str
    expires_at: int


class Crossed(msgspec.Struct, kw_only=True, frozen=True):
    """A stored profile of a user from another domain.

    Attributes:
        releasing: domain that computed it.
        embedding: version of its directions.
        crossed_at: time of its arrival, epoch milliseconds.
        used: whether recommendations follow from it: the user consents to the crossing, and the
            model has learned to predict from this version.
    """

    releasing: str
    embedding: str
    crossed_at: int
    used: bool


class Peer(msgspec.Struct, kw_only=True, frozen=True):
    """Another domain.

    Attributes:
        name: its name.
        embeddings: versions of its profiles that the model can predict from.
    """

    name: str
    embeddings: list[str]


class Domains(msgspec.Struct, kw_only=True, frozen=True):
    """This domain and the others.

    Attributes:
        name: own name; empty if no profile crosses.
        keys: own public keys, the newest first.
        embedding: version of the own profiles; null before a training computed any.
        peers: the other domains.
    """

    name: str
    keys: list[str]
    embedding: str | None
    peers: list[Peer]
