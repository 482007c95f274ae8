"""Ids by which the data of users is found and deleted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tactful_streaming.contract.log_entries import DEVICE_PREFIX


@dataclass(frozen=True)
class SubjectIds:
    """Ids of users, and of their devices, sessions and events in a log."""

    users: frozenset[str] = frozenset()  # ids of the users
    devices: frozenset[str] = frozenset()  # ids of devices of theirs alone
    # Ids of devices that others have used, too: their links are deleted.
    shared: frozenset[str] = frozenset()
    sessions: frozenset[str] = frozenset()  # ids of their sessions
    event_ids: frozenset[str] = frozenset()  # ids of their events

    def __or__(self, other: SubjectIds) -> SubjectIds:
        """Return the union; a device is shared if it is in either."""
        shared = self.shared | other.shared
        return SubjectIds(
            users=self.users | other.users,
            devices=(self.devices | other.devices) - shared,
            shared=shared,
            sessions=self.sessions | other.sessions,
            event_ids=self.event_ids | other.event_ids,
        )

    @cached_property
    def people(self) -> frozenset[str]:
        """Keys of their histories: the users and their devices."""
        return self.users | {DEVICE_PREFIX + device for device in self.devices}

    @cached_property
    def by_source(self) -> Mapping[str, frozenset[str]]:
        """Texts that name them in features and sequences, by source of the text."""
        return {"user_id": self.people, "session_id": self.sessions}
