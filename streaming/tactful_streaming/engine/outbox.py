"""Actions on their way into the log: each gets there exactly once.

An action enters the outbox in the same atomic write as the log offset of the event that caused it.
Whoever runs the engine appends it to the log after that commit, and it leaves the outbox when the
engine meets it there. After a crash the engine first applies the log to its end: what is left then
never reached the log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from tactful_streaming.contract.log_entries import Event, decode_entry, encode_entry
from tactful_streaming.errors import EntryError, StateError
from tactful_streaming.state.key_layout import CURE, OUTBOX
from tactful_streaming.state.store import Change, StateStore


class Outbox:
    """Actions that are not known to be in the log."""

    def __init__(self, store: StateStore) -> None:
        """Take what is waiting in `store`.

        Raises:
            StateError: if it is damaged.
        """
        self._waiting: dict[str, Event] = {}
        self._committed: set[str] = set()
        self._sent: set[str] = set()
        self._met: set[str] = set()
        for _, payload in store.scan(OUTBOX):
            try:
                event = decode_entry(payload)
            except EntryError as error:
                raise StateError(f"a stored action is damaged: {error}; {CURE}") from error
            if isinstance(event, Event):
                self._waiting[event.event_id] = event
        self._committed.update(self._waiting)

    def __len__(self) -> int:
        """Number of actions waiting."""
        return len(self._waiting)

    def add(self, actions: Iterable[Event]) -> None:
        """Let actions wait for the next commit."""
        for action in actions:
            self._waiting[action.event_id] = action

    def meet(self, event_ids: Collection[str]) -> None:
        """Note events that are in the log: those that wait here are done."""
        if not self._waiting or self._waiting.keys().isdisjoint(event_ids):
            return
        for event_id in self._waiting.keys() & set(event_ids):
            del self._waiting[event_id]
            self._sent.discard(event_id)
            if event_id in self._committed:
                self._committed.remove(event_id)
                self._met.add(event_id)

    def forget(self, theirs: Callable[[Event], bool]) -> None:
        """Forget committed actions that are in the store no more."""
        for event_id in [id_ for id_, action in self._waiting.items() if theirs(action)]:
            del self._waiting[event_id]
            self._committed.discard(event_id)
            self._sent.discard(event_id)

    def changes(self) -> Iterator[Change]:
        """What to write at a commit."""
        for event_id, action in self._waiting.items():
            if event_id not in self._committed:
                yield OUTBOX + event_id.encode(), encode_entry(action)
        for event_id in self._met - self._waiting.keys():
            yield OUTBOX + event_id.encode(), None

    def committed(self) -> None:
        """Note that the last :meth:`changes` are in the store."""
        self._committed.update(self._waiting)
        self._met.clear()

    def ready(self) -> list[Event]:
        """Actions that are committed and not sent yet, in the order they came in."""
        ready = self._committed - self._sent
        return [action for event_id, action in self._waiting.items() if event_id in ready]

    def sent(self, event_ids: Iterable[str]) -> None:
        """Note that actions were appended to the log."""
        self._sent.update(event_id for event_id in event_ids if event_id in self._waiting)
