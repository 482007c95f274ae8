"""Co-committed consumers, whose state commits together with the log offset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection

from tactful_streaming.contract.log_entries import PERSONALISATION, Event, Item


class CoCommittedConsumer(ABC):
    """A consumer of events whose state commits together with the log offset.

    A commit calls :meth:`before_commit` of all consumers, then :meth:`snapshot` of each, in the
    order of their registration. A crash after :meth:`before_commit` repeats the events since the
    commit before, so its side effects have to be idempotent.
    """

    purpose: str = PERSONALISATION  # the consumer gets the events that may be used for this purpose

    @abstractmethod
    def apply(self, event: Event, item: Item | None) -> None:
        """Count an accepted event; `item` is its current description in the catalogue."""

    def before_commit(self) -> None:  # noqa: B027  # most consumers have no side effects
        """Perform side effects before a commit, such as writing to another store."""

    @abstractmethod
    def snapshot(self) -> bytes | None:
        """Return the state, or None to keep the one stored before; without side effects."""

    @abstractmethod
    def restore(self, state: bytes) -> None:
        """Replace the state by a snapshot."""

    def delete_users(self, keys: Collection[str]) -> None:  # noqa: B027
        """Delete the data of users, by the keys of their histories."""
