"""Profiles of users that crossed from other domains, cached in memory.

A profile is used only while its user consents to the crossing. In the process that records a
withdrawal this ends when the withdrawal returns, in others at their next `ConsentStore.refresh`.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from tactful.config.domains import DomainSettings
from tactful.errors import StorageError
from tactful.metadata.crossed_profiles import (
    CrossedProfile,
    delete_older,
    delete_profile,
    delete_refused,
    erase_profiles,
    profiles_after,
    profiles_of,
    save_profile,
)
from tactful.metadata.store import MetadataStore
from tactful.subjects.consent import ConsentStore
from tactful.subjects.permissions import Permissions
from tactful_privacy.people.consent import Decision, crossing
from tactful_privacy.people.pseudonyms import Suppressed


class CrossedProfiles:
    """Profiles that crossed to this domain; `StorageError` if the database cannot be used.

    ``_held  {"ada": {"shop": CrossedProfile(…)}}``
    """

    def __init__(
        self,
        metadata: MetadataStore,
        consents: ConsentStore,
        erased: Collection[str] | Suppressed = (),
    ) -> None:
        """Read all profiles; `erased` are the erased users, which grow while the server runs."""
        self._metadata = metadata
        self._consents = consents
        self._erased = erased
        self._erasures = 0
        own = consents.domains.name
        self._pairs = {peer: crossing(peer, own) for peer in consents.domains.peers}
        self._held: defaultdict[str, dict[str, CrossedProfile]] = defaultdict(dict)
        self._number = 0
        self._lock = threading.Lock()
        consents.follow(self._decided)
        self.refresh()

    def refresh(self) -> None:
        """Read the profiles that crossed since, and drop those of erased users; one query."""
        if not self._consents.domains.name:
            return
        with self._lock:
            self._number, profiles = profiles_after(self._metadata, self._number)
            self._take(profiles)
            if (erasures := len(self._erased)) != self._erasures:
                for person in [person for person in self._held if person in self._erased]:
                    del self._held[person]
                self._erasures = erasures

    def of(self, *keys: str) -> Sequence[CrossedProfile]:
        """Return the profiles of a person with several keys that may be used; takes a microsecond.

        There is one for each domain of the settings: the latest to which both the key that it is
        stored under and the first of the keys, the user before the device, agreed.
        """
        held = [
            profile
            for key in keys
            for profile in [*self._held.get(key, {}).values()]  # a copy: other threads add some
            if profile.releasing in self._pairs
        ]
        if not held or any(key in self._erased for key in keys):
            return ()
        crosses = self._consents.consents.crosses
        latest: dict[str, CrossedProfile] = {}
        for profile in sorted(held, key=lambda profile: profile.crossed_at):
            pair = self._pairs[profile.releasing]
            if crosses(pair, *keys) and crosses(pair, profile.person, *keys):
                latest[profile.releasing] = profile
        return [*latest.values()]

    def save(self, profile: CrossedProfile, token_id: str, expires_at: int) -> bool:
        """Store a profile, durably; False if its token was used before."""
        saved = save_profile(self._metadata, profile, token_id, expires_at)
        self.refresh()
        return saved

    def drop(self, person: str, releasing: str) -> None:
        """Delete the profile of a user or device from one domain."""
        delete_profile(self._metadata, person, releasing)
        with self._lock:
            self._held.get(person, {}).pop(releasing, None)

    def erase(self, people: Collection[str]) -> int:
        """Delete the profiles of users or devices; return their number."""
        deleted = erase_profiles(self._metadata, people)
        with self._lock:
            for person in people:
                self._held.pop(person, None)
        return deleted

    def expire(self, before: int, but: Collection[tuple[str, str]] = ()) -> None:
        """Delete the profiles that crossed before a time, epoch milliseconds.

        Those of the domains and embeddings `but` stay.
        """
        delete_older(self._metadata, before, but)
        with self._lock:
            for person, held in [*self._held.items()]:
                kept = {
                    name: profile
                    for name, profile in held.items()
                    if profile.crossed_at >= before or (name, profile.embedding) in but
                }
                if kept:
                    self._held[person] = kept
                else:
                    del self._held[person]

    def _decided(self, decisions: Iterable[Decision]) -> None:
        """Read the profiles of people again who refused something.

        Those that crossed on devices in use are deleted first: the process that recorded the
        decision, such as a command beside the server, may not know the devices.
        """
        refusals = [
            (decision, self._consents.devices_of(decision.person))
            for decision in decisions
            if False in decision.purposes.values()
        ]
        refusing = {key for refusal, devices in refusals for key in (refusal.person, *devices)}
        if not refusing:
            return
        with self._lock:  # also to wait for a refresh that has read a profile, and not kept it yet
            people = refusing.intersection(self._held)
            try:
                for decision, devices in refusals:
                    if people.intersection(devices):
                        self._delete_refused(decision, devices)
                kept = profiles_of(self._metadata, people) if people else []
            except StorageError:
                kept = []  # without a database nothing is used that may be withdrawn
            for person in people:
                self._held.pop(person, None)
            self._take(kept)

    def _delete_refused(self, decision: Decision, devices: Collection[str]) -> None:
        own, purposes = self._consents.domains.name, decision.purposes
        self._metadata.change(
            lambda connection: delete_refused(connection, devices, purposes, own, decision.at)
        )

    def _take(self, profiles: Iterable[CrossedProfile]) -> None:
        for profile in profiles:
            self._held[profile.person][profile.releasing] = profile


def training_profiles(
    metadata: MetadataStore, permissions: Permissions, domains: DomainSettings
) -> list[CrossedProfile]:
    """Return the profiles from domains of the settings whose users consent to the crossing now."""
    _, profiles = profiles_after(metadata, 0)
    pairs = {peer: crossing(peer, domains.name) for peer in domains.peers}
    return [
        profile
        for profile in profiles
        if profile.releasing in pairs
        and permissions.crosses(pairs[profile.releasing], [profile.person])
    ]
