"""Writes to an online store in a thread of its own, so that the engine does not wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tactful_streaming.errors import OnlineStoreError, OnlineStoreLostError
from tactful_streaming.online.store import Blobs, BlobsByKind, OnlineStore

_logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0

Refill = Callable[[], Iterable[tuple[str, Mapping[str, bytes]]]]
"""Iterates over all blobs at the time of the call, in pieces: (kind, blobs by key)."""


@dataclass
class _Changes:
    """Queued changes: the last blob of each key, and by partition (offset, previous mark)."""

    blobs: dict[tuple[str, str], bytes | None] = field(default_factory=dict)
    marks: dict[int, tuple[int, int | None]] = field(default_factory=dict)
    size: int = 0

    def __bool__(self) -> bool:
        return bool(self.blobs or self.marks)

    def put(self, kind: str, key: str, blob: bytes | None) -> None:
        self.drop(kind, key)
        self.blobs[kind, key] = blob
        self.size += _weight(key, blob)

    def drop(self, kind: str, key: str) -> None:
        if (kind, key) in self.blobs:
            self.size -= _weight(key, self.blobs.pop((kind, key)))

    def mark(self, partition: int, offset: int, previous: int | None) -> None:
        if previous is not None and partition in self.marks:
            previous = self.marks[partition][1]
        self.marks[partition] = (offset, previous)

    def update(self, newer: _Changes) -> None:
        for (kind, key), blob in newer.blobs.items():
            self.put(kind, key, blob)
        for partition, (offset, previous) in newer.marks.items():
            self.mark(partition, offset, previous)

    def by_kind(self) -> dict[str, dict[str, bytes | None]]:
        kinds: dict[str, dict[str, bytes | None]] = {}
        for (kind, key), blob in self.blobs.items():
            kinds.setdefault(kind, {})[key] = blob
        return kinds


class WriteBehind:
    """An `OnlineStore` that another thread writes to.

    ``put_many`` and ``mark`` queue changes. Only the last blob of a key is written; marks are
    written after their blobs. While the store cannot be reached, the thread retries with growing
    pauses and changes accumulate, up to a bound. If the store has lost blobs, the thread puts all
    that `refill` returns.

    ::

        put_many, mark -> _waiting -> _writing -> store
        put_marked     -> _uncommitted too, if `early`: refill does not return these yet

    Queued changes are not durable: the engine has committed them, or will, and after a crash the
    marks show whether the store must be filled again.
    """

    def __init__(
        self,
        store: OnlineStore,
        refill: Refill,
        *,
        max_bytes: int = 64 << 20,
        when_full: Literal["block", "raise"] = "block",
        early: bool = False,
    ) -> None:
        """Begin to write to `store`, which is closed with this object.

        Args:
            store: used by the writing thread, and by readers in their own.
            refill: returns all blobs at the time of the call; called in the writing thread while
                another thread may commit.
            max_bytes: bound of queued keys and blobs, bytes. A single call may exceed it when the
                queue is empty.
            when_full: whether a call then waits for room, and with it the engine, or raises.
            early: whether blobs with a mark are put before they are committed. They are then kept
                until :meth:`committed`, since `refill` does not return them yet. Blobs without a
                mark are committed; they may be all blobs, and are not kept.
        """
        self._store = store
        self._refill = refill
        self._max_bytes = max_bytes
        self._when_full = when_full
        self._changed = threading.Condition()
        self._waiting = _Changes()
        self._writing = _Changes()
        self._marks: dict[int, int] = {}
        self._uncommitted: _Changes | None = _Changes() if early else None
        self._closing = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="online-store", daemon=True)
        self._thread.start()

    @property
    def waiting_bytes(self) -> int:
        """Queued keys and blobs, bytes."""
        with self._changed:
            return self._waiting.size + self._writing.size

    def get_many(self, keys: Sequence[str], *, kind: str = "user") -> list[bytes | None]:
        """Read the blobs of `keys`, in their order, including queued ones."""
        with self._changed:
            queued = {
                key: changes.blobs[kind, key]
                for changes in (self._writing, self._waiting)
                for key in keys
                if (kind, key) in changes.blobs
            }
        absent = [key for key in keys if key not in queued]
        stored = dict(zip(absent, self._store.get_many(absent, kind=kind), strict=True))
        return [queued[key] if key in queued else stored[key] for key in keys]

    def put_many(self, blobs: Blobs, *, kind: str = "user") -> None:
        """Queue blobs to store; None removes.

        Raises:
            OnlineStoreError: if there is no room and ``when_full="raise"``, and nothing was queued;
                if this object is closed; or if the writing thread has failed.
        """
        self._queue({kind: blobs}, {})

    def put_marked(self, blobs: BlobsByKind, partition: int, offset: int, *, previous: int) -> None:
        """Queue blobs by kind and key, and the mark to write after them."""
        self._queue(blobs, {partition: (offset, previous)}, early=True)

    def _queue(
        self,
        blobs: BlobsByKind,
        marks: Mapping[int, tuple[int, int | None]],
        *,
        early: bool = False,
    ) -> None:
        size = sum(_weight(key, blob) for kind in blobs.values() for key, blob in kind.items())
        with self._changed:
            self._check_usable()
            while size and self._size() and self._size() + size > self._max_bytes:
                if self._when_full == "raise":
                    raise OnlineStoreError(
                        f"{self._size()} bytes wait for the online store: try again later"
                    )
                self._changed.wait()
                self._check_usable()
            for kind, of_kind in blobs.items():
                for key, blob in of_kind.items():
                    self._waiting.put(kind, key, blob)
                    if self._uncommitted is not None and early:
                        self._uncommitted.put(kind, key, blob)
                    elif self._uncommitted is not None:
                        self._uncommitted.drop(kind, key)
            for partition, (offset, previous) in marks.items():
                self._waiting.mark(partition, offset, previous)
            self._changed.notify_all()

    def committed(self) -> None:
        """Note that the state holds all blobs put so far, so that `refill` returns them."""
        with self._changed:
            if self._uncommitted is not None:
                self._uncommitted = _Changes()

    def mark(self, partition: int, offset: int, *, previous: int | None) -> None:
        """Queue a mark to write after the blobs queued before it."""
        self._queue({}, {partition: (offset, previous)})

    def marked(self, partition: int) -> int | None:
        """Read the mark of a partition in the store itself."""
        return self._store.marked(partition)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all queued changes are written; False after `timeout_s` seconds."""
        with self._changed:
            written = self._changed.wait_for(self._settled, timeout_s)
            self._check_usable()
            return written

    def close(self, timeout_s: float = 5.0) -> None:
        """Write queued changes for at most `timeout_s`, then close the store; idempotent."""
        with self._changed:
            if not self._changed.wait_for(self._settled, timeout_s):
                _logger.warning("closed before the online store had all changes: it will be filled")
            self._closing.set()
            self._changed.notify_all()
        self._thread.join()
        self._store.close()

    def _size(self) -> int:
        return self._waiting.size + self._writing.size

    def _settled(self) -> bool:
        return self._failure is not None or not (self._waiting or self._writing)

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise OnlineStoreError(
                f"the writer of the online store has failed: {self._failure}"
            ) from self._failure
        if self._closing.is_set():
            raise OnlineStoreError("the online store is closed")

    def _run(self) -> None:
        try:
            while self._next():
                self._write()
        except Exception as error:
            _logger.exception("the writer of the online store stops")
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _next(self) -> bool:
        """Move queued changes to `_writing`; False when closing."""
        with self._changed:
            self._writing = _Changes()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            self._writing, self._waiting = self._waiting, _Changes()
            return not self._closing.is_set()

    def _write(self) -> None:
        """Write `_writing` with retries, until it is written or this object closes."""
        lost = False
        pause = _FIRST_PAUSE_S
        while not self._closing.is_set():
            try:
                if lost:
                    self._put_everything()
                else:
                    self._put_and_mark(self._writing)
                return
            except OnlineStoreLostError as error:
                _logger.warning("putting all entities again: %s", error)
                lost = True
            except OnlineStoreError as error:
                _logger.warning("the online store is behind, trying again: %s", error)
                self._closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _put_and_mark(self, changes: _Changes) -> None:
        marks = changes.marks
        if len(marks) == 1:
            ((partition, (offset, previous)),) = marks.items()
            if previous is not None:
                self._store.put_marked(changes.by_kind(), partition, offset, previous=previous)
                self._marks[partition] = offset
                return
        self._put(changes)
        for partition, (offset, before) in marks.items():
            self._store.mark(partition, offset, previous=before)
            self._marks[partition] = offset

    def _put_everything(self) -> None:
        # A key that changes meanwhile keeps its changed blob: that of `refill` may be older.
        changed: set[tuple[str, str]] = set()
        self._put_writing(changed)
        with self._changed:
            uncommitted = _Changes(dict(self._uncommitted.blobs) if self._uncommitted else {})
        self._put(uncommitted)
        changed.update(uncommitted.blobs)
        for kind, blobs in self._refill():
            if self._closing.is_set():
                return
            self._store.put_many(
                {key: blob for key, blob in blobs.items() if (kind, key) not in changed}, kind=kind
            )
            with self._changed:
                self._writing.update(self._waiting)
                self._waiting = _Changes()
            self._put_writing(changed)
        marks = self._marks | {p: offset for p, (offset, _) in self._writing.marks.items()}
        for partition, offset in marks.items():
            self._store.mark(partition, offset, previous=None)
        self._marks = marks

    def _put_writing(self, changed: set[tuple[str, str]]) -> None:
        """Put the blobs of `_writing`; their marks wait until all blobs are put."""
        self._put(self._writing)
        changed.update(self._writing.blobs)
        with self._changed:
            self._writing = _Changes(marks=self._writing.marks)
            self._changed.notify_all()

    def _put(self, changes: _Changes) -> None:
        for kind, blobs in changes.by_kind().items():
            self._store.put_many(blobs, kind=kind)


def _weight(key: str, blob: bytes | None) -> int:
    return len(key) + len(blob or b"")
