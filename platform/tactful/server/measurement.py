"""Selection of the events that may be used to measure, by the consent of their users."""

from __future__ import annotations

from tactful.pipeline.backends import Backend
from tactful.subjects.consented_log import PermittedLog
from tactful.subjects.permissions import CLAIM, Permissions, claimed
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.log.event_log import EventLog


class MeasuredEvents:
    """Events whose users allow to count them."""

    def __init__(self, backend: Backend, permissions: Permissions) -> None:
        """Select from the log of `backend`."""
        self._backend = backend
        self._permissions = permissions

    def allows(self, event: Event) -> bool:
        """Return whether the present consent of an event's user allows to count it."""
        claim = claimed(event.context.get(CLAIM)) if event.context else None
        allowed = self._permissions.of(event.user_id, event.device_id, event.timestamp, claim)
        return Purpose.MEASUREMENT in allowed

    def logs(self) -> list[EventLog]:
        """Return the partitions, with the events that may be used to measure."""
        purpose = Purpose.MEASUREMENT

        def allows(user_id: str | None, device_id: str | None, at: int, claim: str | None) -> bool:
            return purpose in self._permissions.of(user_id, device_id, at, claimed(claim))

        return [PermittedLog(log, allows, purpose) for log in self._backend.partitions()]
