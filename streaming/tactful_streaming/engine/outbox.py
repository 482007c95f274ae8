"""Transactional outbox: entries for a log, stored with the offset of their cause.

An entry enters the outbox in the same atomic write as the log offset of its cause. The caller of
the engine appends it after that commit. Entries leave in one of two ways:

- Actions leave when the engine reads them in the log. After a crash the engine first applies the
  log to its end: an action that is left then was never appended, so each is appended once.
- Transfers to other partitions leave at the next commit after they were appended. A crash in
  between appends them again, and they count once: events and transfers have ids, and a link that is
  there already changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Generic, TypeVar, cast

from tactful_streaming.contract.log_entries import Entry, encode_entry
from tactful_streaming.state.key_layout import stored_entry
from tactful_streaming.state.store import Change, StateStore

E = TypeVar("E", bound=Entry)


class Outbox(Generic[E]):
    """Entries by key, in the order in which they came.

    States of an entry: waiting → committed → sent → discarded → removed from the store.
    """

    def __init__(self, store: StateStore, prefix: bytes) -> None:
        """Read the entries that wait in `store` under `prefix`; StateError if one is damaged."""
        self._prefix = prefix
        self._waiting: dict[bytes, E] = {}
        self._sent: set[bytes] = set()
        self._discarded: set[bytes] = set()
        self._former: dict[bytes, bytes] = {}  # keys that entries have in older logs
        for key, payload in store.scan(prefix):
            self._waiting[key[len(prefix) :]] = cast(E, stored_entry(payload, "outbox entry"))
        self._committed = set(self._waiting)
        numbers = (int.from_bytes(key, "big") for key in self._waiting)
        self._next = max(numbers, default=-1) + 1  # of use only where entries have no ids

    def __len__(self) -> int:
        """Return the number of waiting entries."""
        return len(self._waiting)

    def add(self, key: bytes, entry: E, former: bytes | None = None) -> None:
        """Add an entry that waits for the next commit; `former` is its key in older logs."""
        self._waiting[key] = entry
        if former is not None:
            self._former[key] = former

    def append(self, entry: E) -> None:
        """Add an entry under the next number."""
        self.add(self._next.to_bytes(8, "big"), entry)
        self._next += 1

    def ready(self) -> dict[bytes, E]:
        """Return the entries that are committed and not sent yet, by key, in order."""
        ready = self._committed - self._sent
        return {key: entry for key, entry in self._waiting.items() if key in ready}

    def mark_sent(self, keys: Iterable[bytes]) -> None:
        """Leave entries out of :meth:`ready` until the store is reopened."""
        self._sent.update(key for key in keys if key in self._waiting)

    def discard(self, keys: Collection[bytes]) -> None:
        """Remove entries; the next commit deletes them from the store."""
        renamed = {key for key, former in self._former.items() if former in keys}
        for key in self._waiting.keys() & (renamed | set(keys)):
            if key in self._committed:
                self._discarded.add(key)
            self._remove(key)

    def delete(self, matches: Callable[[E], bool]) -> None:
        """Delete entries that were deleted from the store."""
        for key in [key for key, entry in self._waiting.items() if matches(entry)]:
            self._remove(key)

    def changes(self) -> Iterator[Change]:
        """Yield the writes of a commit."""
        for key, entry in self._waiting.items():
            if key not in self._committed:
                yield self._prefix + key, encode_entry(entry)
        for key in self._discarded - self._waiting.keys():
            yield self._prefix + key, None

    def mark_committed(self) -> None:
        """Note that the last :meth:`changes` are in the store."""
        self._committed.update(self._waiting)
        self._discarded.clear()

    def _remove(self, key: bytes) -> None:
        del self._waiting[key]
        self._former.pop(key, None)
        self._committed.discard(key)
        self._sent.discard(key)
