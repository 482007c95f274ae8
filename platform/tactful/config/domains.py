"""Settings of domains: the own name, and the domains that profiles cross from and to."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from tactful.config.fields import PositiveFloat
from tactful.errors import ConfigError
from tactful_privacy.people.consent import DOMAIN_PATTERN, crossing

KEY_BYTES: Final = 64
"""Bytes of a public key: 32 of the signatures (Ed25519), 32 of the encryption (X25519)."""

_NAME = re.compile(DOMAIN_PATTERN)


@dataclass(frozen=True)
class DomainSettings:
    """Settings of profiles that cross."""

    # own name, as the other domains write it: letters, digits, - and _; empty: no profile crosses
    name: str = ""
    # public keys of other domains by their names, as `tactful domains show` prints them there, the
    # newest first: ``[domains.peers]``, ``magazine = ["…"]``
    peers: dict[str, list[str]] = field(default_factory=dict)
    # file with the keys of this domain, the same for all servers of an installation; empty:
    # ``domain.keys`` in the data directory
    keys: Path = Path()
    dimensions: Annotated[int, Meta(ge=2, le=256)] = 32  # length of a profile
    # days after which a training computes a new version of the directions of profiles; until then
    # profiles of different times can be compared
    embedding_days: PositiveFloat = 180.0
    # least people whose profiles crossed from which a training learns to predict from profiles
    minimum_people: Annotated[int, Meta(ge=10)] = 50

    @property
    def pairs(self) -> frozenset[str]:
        """Crossings that people of this domain can consent to."""
        own = self.name
        return frozenset(
            pair for peer in self.peers for pair in (crossing(own, peer), crossing(peer, own))
        )

    def check(self) -> None:
        """Raise `ConfigError` for a wrong name or key."""
        if self.peers and not self.name:
            raise ConfigError("domains.name is missing: the peers in [domains.peers] need it")
        for where, name in (
            *((("domains.name", self.name),) if self.name else ()),
            *(("domains.peers", name) for name in self.peers),
        ):
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{where}: {name!r} is no name of a domain: write up to 32 letters, digits, "
                    "- and _"
                )
        if self.name in self.peers:
            raise ConfigError(f"domains.peers: {self.name!r} is the name of this domain itself")
        for name, keys in self.peers.items():
            if not keys:
                raise ConfigError(f"domains.peers.{name} has no key: add that of the domain")
            for key in keys:
                parse_key(key, f"domains.peers.{name}")

    def keys_of(self, peer: str) -> Iterator[tuple[bytes, bytes]]:
        """Yield the public keys of another domain: of signatures and of encryption."""
        for key in self.peers[peer]:
            raw = parse_key(key, f"domains.peers.{peer}")
            yield raw[:32], raw[32:]


def parse_key(text: str, where: str) -> bytes:
    """Decode a public key of `KEY_BYTES` bytes, or raise `ConfigError`."""
    try:
        raw = base64.b64decode(text.encode("ascii"), b"-_", validate=True)
    except (UnicodeError, binascii.Error):
        raw = b""
    if len(raw) != KEY_BYTES:
        raise ConfigError(
            f"{where}: a value is no public key: copy what `tactful domains show` prints there"
        )
    return raw
