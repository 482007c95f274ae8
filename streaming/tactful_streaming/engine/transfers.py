"""Entries on their way to other partitions: each gets there at least once, and counts once.

An entry waits here from the same atomic write as the log offset that caused it. Whoever runs the
engine appends it to the partition it is for, and it leaves at the next commit after that. A crash
in between sends it again: events are known by their ids, transfers by theirs, and a link that is
there already changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tactful_streaming.contract.log_entries import Entry, decode_entry, encode_entry
from tactful_streaming.errors import EntryError, StateError
from tactful_streaming.state.key_layout import CURE, HANDOVER
from tactful_streaming.state.store import Change, StateStore


class Handovers:
    """What waits to be appended to other partitions, in order."""

    def __init__(self, store: StateStore) -> None:
        """Take what is waiting in `store`.

        Raises:
            StateError: if it is damaged.
        """
        self._waiting: dict[int, Entry] = {}
        for key, payload in store.scan(HANDOVER):
            try:
                entry = decode_entry(payload)
            except EntryError as error:
                raise StateError(f"a stored handover is damaged: {error}; {CURE}") from error
            self._waiting[int.from_bytes(key[len(HANDOVER) :], "big")] = entry
        self._committed = set(self._waiting)
        self._sent: set[int] = set()
        self._next = max(self._waiting, default=-1) + 1

    def add(self, entries: Iterable[Entry]) -> None:
        """Let entries wait for the next commit."""
        for entry in entries:
            self._waiting[self._next] = entry
            self._next += 1

    def ready(self) -> dict[int, Entry]:
        """Entries that are committed and not sent yet, by number, in order."""
        ready = self._committed - self._sent
        return {number: entry for number, entry in self._waiting.items() if number in ready}

    def sent(self, numbers: Iterable[int]) -> None:
        """Note that entries were appended to the partition they are for."""
        self._sent.update(number for number in numbers if number in self._committed)

    def forget(self, theirs: Callable[[Entry], bool]) -> None:
        """Forget committed entries that are in the store no more."""
        for number in [number for number, entry in self._waiting.items() if theirs(entry)]:
            del self._waiting[number]
            self._committed.discard(number)
            self._sent.discard(number)

    def changes(self) -> Iterator[Change]:
        """What to write at a commit."""
        for number, entry in self._waiting.items():
            if number in self._sent:
                yield _key(number), None
            elif number not in self._committed:
                yield _key(number), encode_entry(entry)

    def committed(self) -> None:
        """Note that the last :meth:`changes` are in the store."""
        for number in self._sent:
            del self._waiting[number]
        self._sent.clear()
        self._committed = set(self._waiting)


def _key(number: int) -> bytes:
    return HANDOVER + number.to_bytes(8, "big")
