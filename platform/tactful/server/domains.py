"""Profiles that cross between this domain and others: issued, taken over, and used.

Steps of a crossing, all by the person's own device or the shop's server on behalf of the person::

    releasing domain   consent -> features of the user -> directions -> vector -> sealed token
    receiving domain   consent -> token opened -> stored once -> bridge of the model -> items
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from tactful.catalogue.request_context import CrossedVector
from tactful.config.privacy import DAY_MS
from tactful.domains.keys import DomainKey, read_keys
from tactful.domains.tokens import LIFETIME_MS, Profile, TokenError, TokenReader, seal
from tactful.metadata.crossed_profiles import CrossedProfile
from tactful.recall.crossings import SEEN
from tactful.schemas.problems import ProblemError
from tactful.schemas.subjects.domains import (
    Crossed,
    Domains,
    NewCrossing,
    Peer,
    ProfileOwner,
    ProfileToken,
)
from tactful.subjects.crossings import CrossedProfiles
from tactful.util.changed_file import ChangedFile
from tactful_privacy.people.consent import Purpose, crossing
from tactful_streaming.contract.log_entries import DEVICE_PREFIX

if TYPE_CHECKING:
    from tactful.recall.crossings import Crossings
    from tactful.server.platform import Platform

Claimed = frozenset[Purpose] | None


class DomainProfiles:
    """Profiles that cross from and to one server; `issue` and `take` are called in a thread."""

    def __init__(self, platform: Platform) -> None:
        """Read the keys of the settings, and the profiles that crossed."""
        self._platform = platform
        installation = platform.resources.installation
        self._settings = installation.settings.domains
        self._clock = installation.clock
        self._keys: Sequence[DomainKey] = ()
        self._file = ChangedFile(installation.settings.domain_keys)
        if self._settings.name:
            self._keys = self._read_keys()
        if self._settings.name:
            platform.consents.devices_of = self._devices_held
        erased = platform.suppression.suppressed
        self.stored = CrossedProfiles(installation.metadata, platform.consents, erased)

    def issue(self, peer: str, owner: ProfileOwner, claimed: Claimed, by: str) -> ProfileToken:
        """Seal the profile of a person for another domain; records who asked.

        Raises:
            ProblemError: without consent, without a history, or before a training.
        """
        self._check_peer(peer)
        now = self._clock()
        keys = self._keys_of(owner, now)
        self._check_consent(crossing(self._settings.name, peer), keys, claimed)
        vector, version = self._vector(keys[0], now)
        self._platform.accesses.record(keys[0], "release", by=by)
        profile = Profile(
            token_id=secrets.token_hex(16),
            releasing=self._settings.name,
            receiving=peer,
            embedding=version,
            issued_at=now,
            expires_at=now + LIFETIME_MS,
            vector=vector,
        )
        _, encryption = next(self._settings.keys_of(peer))
        signing = self._read_keys()[0].signing
        return ProfileToken(
            token=seal(profile, signing, X25519PublicKey.from_public_bytes(encryption)),
            releasing=profile.releasing,
            receiving=peer,
            expires_at=profile.expires_at,
        )

    def take(self, peer: str, new: NewCrossing, claimed: Claimed, by: str) -> Crossed:
        """Store the profile in a token for the person who hands it over; records who did.

        Raises:
            ProblemError: without consent, or if the token is refused.
        """
        self._check_peer(peer)
        now = self._clock()
        keys, pair = self._keys_of(new, now), crossing(peer, self._settings.name)
        self._check_consent(pair, keys, claimed)
        try:
            profile = self._reader().open(new.token, now)
            if profile.releasing != peer:
                raise TokenError("the token is of another domain than the path names")
            self._platform.accesses.record(keys[0], "receive", by=by)
            stored = CrossedProfile(keys[0], peer, profile.embedding, now, profile.vector)
            if not self.stored.save(stored, profile.token_id, profile.expires_at):
                raise TokenError("the token was used before: fetch another one")
        except TokenError as error:
            raise ProblemError("invalid", str(error), field="$.token") from None
        # A withdrawal or erasure that is not read here came after the profile was stored, and
        # deletes it itself.
        self._platform.suppression.refresh()
        self._platform.consents.refresh()
        if not self._platform.permissions.crosses(pair, keys, claimed):
            self.stored.drop(keys[0], peer)
            self._check_consent(pair, keys, claimed)
        return self._described(stored)

    def profiles_of(self, key: str, device: str | None, at: int) -> Sequence[CrossedVector]:
        """Return the profiles from which recommendations to a user may follow.

        The time is in epoch milliseconds; `device` is that of the request.
        """
        if not self._settings.peers:
            return ()
        profiles = self.stored.of(*self._platform.permissions.keys_of_history(key, device, at))
        return [
            CrossedVector(profile.releasing, profile.embedding, profile.vector)
            for profile in profiles
        ]

    def shown(self, key: str, at: int) -> list[Crossed]:
        """Describe the profiles of a user, for operators."""
        profiles = self.stored.of(*self._platform.permissions.keys_of_history(key, None, at))
        return [self._described(profile) for profile in profiles]

    def expire(self, kept_ms: int | None) -> None:
        """Delete old profiles: all after a time, and after a while those that no bridge reads.

        Other domains compute a new version within `domains.embedding_days`, so one that no bridge
        reads after twice that time will never be read. `kept_ms` is None for no limit.
        """
        now = self._clock()
        if kept_ms is not None:
            self.stored.expire(now - kept_ms)
        bridges = self._crossings.bridges
        if bridges:  # there are none, too, while no model serves
            unread_ms = round(2 * self._settings.embedding_days * DAY_MS)
            read = {(bridge.releasing, bridge.embedding) for bridge in bridges}
            self.stored.expire(now - unread_ms, but=read)

    def describe(self) -> Domains:
        """Describe this domain and the others."""
        settings, crossings = self._settings, self._crossings
        known = [(bridge.releasing, bridge.embedding) for bridge in crossings.bridges]
        return Domains(
            name=settings.name,
            keys=[key.public for key in reversed(self._read_keys())] if settings.name else [],
            embedding=None if crossings.own is None else crossings.own.version,
            peers=[
                Peer(name=peer, embeddings=[made for name, made in known if name == peer])
                for peer in sorted(settings.peers)
            ],
        )

    @property
    def _crossings(self) -> Crossings:
        return self._platform.recommender.trained_index.crossings

    def _described(self, profile: CrossedProfile) -> Crossed:
        read = [(bridge.releasing, bridge.embedding) for bridge in self._crossings.bridges]
        return Crossed(
            releasing=profile.releasing,
            embedding=profile.embedding,
            crossed_at=profile.crossed_at,
            used=(profile.releasing, profile.embedding) in read,
        )

    def _check_peer(self, peer: str) -> None:
        if peer not in self._settings.peers:
            raise ProblemError("not_found", "there is no such domain: [domains.peers] lists them")

    def _keys_of(self, owner: ProfileOwner, at: int) -> list[str]:
        """Return the keys of a person; the first is that of the history."""
        if owner.user_id is None and owner.device_id is None:
            raise ProblemError("invalid", "name a user_id or a device_id", field="$")
        return self._platform.permissions.keys_of(owner.user_id, owner.device_id, at)

    def _devices_held(self, person: str) -> list[str]:
        """Return the keys of the devices whose user is a person now."""
        platform, now = self._platform, self._clock()
        with platform.lock:
            devices = [DEVICE_PREFIX + device for device in platform.engine.devices_of(person)]
            return [key for key in devices if platform.engine.resolve(key, now) == person]

    def _check_consent(self, pair: str, keys: Sequence[str], claimed: Claimed) -> None:
        if not self._platform.permissions.crosses(pair, keys, claimed):
            raise ProblemError(
                "no_consent",
                f"this person did not consent to {pair!r} and to personalisation, or withdrew: "
                "record their decision with PUT /v1/users/{user_id}/consent",
            )

    def _vector(self, key: str, at: int) -> tuple[tuple[float, ...], str]:
        """Return the profile of a user at a time, and the version of the directions."""
        index = self._platform.recommender.trained_index  # once: a new model may come meanwhile
        crossings = index.crossings
        if crossings.embedding is None or crossings.own is None:
            raise ProblemError(
                "not_ready",
                "no model here computes profiles yet: train with domains.name set, from the "
                "histories of at least domains.minimum_people people",
                retry_after=60,
            )
        platform = self._platform
        platform.check()
        with platform.lock:
            features = dict(platform.backend.source.read("user", key, at))
        counts = _counts(features)
        rows = index.item_ids.rows_of([*counts])
        known = [
            (row, count)
            for row, count in zip(rows, counts.values(), strict=True)
            if row is not None
        ]
        places = np.array([row for row, _ in known], np.int64)
        vector = crossings.embedding.vector(places, np.array([count for _, count in known]))
        if vector is None:
            raise ProblemError(
                "not_found", "this person has no history here that makes up a profile"
            )
        return tuple(np.clip(vector, -1.0, 1.0).tolist()), crossings.own.version

    def _read_keys(self) -> Sequence[DomainKey]:
        if self._file.changed() or not self._keys:
            self._keys = read_keys(self._file.path)
        return self._keys

    def _reader(self) -> TokenReader:
        settings = self._settings
        trusted = {
            peer: {signing.hex() for signing, _ in settings.keys_of(peer)}
            for peer in settings.peers
        }
        private = [key.encryption for key in self._read_keys()]
        return TokenReader(settings.name, private, trusted)


def _counts(features: Mapping[str, Any]) -> dict[str, float]:
    """Return how often a user took each item, and saw it by a smaller weight."""
    counts: dict[str, float] = {}
    for name, weight in (("taken_364d", 1.0), ("seen_84d", SEEN)):
        for item, count in (features.get(name) or {}).items():
            if count > 0:
                counts[item] = counts.get(item, 0.0) + weight * count
    return counts
