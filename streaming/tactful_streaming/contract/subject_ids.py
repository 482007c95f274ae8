"""What people have left, by which it is found and removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tactful_streaming.contract.log_entries import DEVICE_PREFIX


@dataclass(frozen=True)
class SubjectIds:
    """What people have left in a log.

    Attributes:
        users: their ids.
        devices: ids of devices that are theirs alone …
        shared: … and of those that others have used, too: who held them is forgotten.
        sessions: ids of their visits.
        event_ids: ids of their events.
    """

    users: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    sessions: frozenset[str] = frozenset()
    event_ids: frozenset[str] = frozenset()

    def __or__(self, other: SubjectIds) -> SubjectIds:
        """What both know; a device is shared if either has seen others use it."""
        shared = self.shared | other.shared
        return SubjectIds(
            users=self.users | other.users,
            devices=(self.devices | other.devices) - shared,
            shared=shared,
            sessions=self.sessions | other.sessions,
            event_ids=self.event_ids | other.event_ids,
        )

    @property
    def people(self) -> frozenset[str]:
        """Keys under which features are kept."""
        return self.users | {DEVICE_PREFIX + device for device in self.devices}

    @property
    def by_source(self) -> Mapping[str, frozenset[str]]:
        """What features and sequences may have of them as a text, by the source of the text."""
        return {"user_id": self.people, "session_id": self.sessions}
