"""Copies packed entities to an online store, after each batch or each commit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from tactful_streaming.definitions.model import ENTITIES
from tactful_streaming.errors import OnlineStoreError, OnlineStoreLostError
from tactful_streaming.online.store import OnlineStore
from tactful_streaming.state.key_layout import CHANGED_APART, entity_prefix
from tactful_streaming.state.store import StateStore

_logger = logging.getLogger(__name__)

_PIECE = 512
_MOST_WAITING = 100_000


class Mirror:
    """Writes committed entities to an online store, later if it cannot be reached now.

    If the mark of the partition is not the last one written, the store has lost blobs, and all are
    put again.
    """

    def __init__(self, online: OnlineStore, store: StateStore, partition: int) -> None:
        """Copy entities that are committed to `store` to `online`."""
        self._online = online
        self._store = store
        self._partition = partition
        self._waiting: dict[str, dict[str, bytes | None]] = {}
        self._marked: int | None = None

    def resume(self, offset: int) -> None:
        """Begin with a state committed at log offset `offset`; copy it if its mark is missing."""
        try:
            if self._online.marked(self._partition) == offset and not self._changed_apart(offset):
                self._marked = offset
                return
        except OnlineStoreError as error:
            _logger.warning("the online store cannot be read: %s", error)
        self._marked = None
        self.flush(offset)

    def _changed_apart(self, offset: int) -> bool:
        """Whether a backfill changed the state at `offset`; a later mark includes the change."""
        changed = self._store.get(CHANGED_APART)
        return changed is not None and int(changed) >= offset

    def put(self, kind: str, blobs: Mapping[str, bytes | None]) -> None:
        """Queue blobs that the next commit writes."""
        self._waiting.setdefault(kind, {}).update(blobs)
        if sum(map(len, self._waiting.values())) > _MOST_WAITING:
            # The store has been unreachable for long: put all again instead of queueing more.
            self._waiting.clear()
            self._marked = None

    def publish(self, offset: int) -> None:
        """Write queued blobs, applied up to log offset `offset` and not committed.

        If all blobs must be put again, the next :meth:`flush` does it.
        """
        try:
            self._put_queued(offset)
        except OnlineStoreError as error:
            _logger.warning("online store is behind; trying again at the next commit: %s", error)

    def flush(self, offset: int) -> None:
        """Write queued blobs, which are committed at log offset `offset`."""
        try:
            self._put_queued(offset)
            if self._marked is None:
                for kind, stored in stored_blobs(self._store):
                    self._online.put_many(stored, kind=kind)
                for kind, blobs in self._waiting.items():
                    removed = {key: None for key, blob in blobs.items() if blob is None}
                    self._online.put_many(removed, kind=kind)
                self._online.mark(self._partition, offset, previous=None)
                self._mark_copied(offset)
        except OnlineStoreError as error:
            _logger.warning("online store is behind; trying again at the next commit: %s", error)

    def _put_queued(self, offset: int) -> None:
        """Put queued blobs, unless all blobs must be put again."""
        if self._marked is None:
            return
        try:
            self._online.put_marked(self._waiting, self._partition, offset, previous=self._marked)
        except OnlineStoreLostError as error:
            _logger.warning("all entities are put into the online store again: %s", error)
            self._marked = None
        else:
            self._mark_copied(offset)

    def _mark_copied(self, offset: int) -> None:
        self._waiting.clear()
        self._marked = offset


def stored_blobs(store: StateStore) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Iterate over all packed entities of a state, in pieces: kind and blobs by key."""
    for kind in ENTITIES:
        prefix = entity_prefix(kind)
        piece: dict[str, bytes] = {}
        for key, blob in store.scan(prefix):
            piece[key[len(prefix) :].decode()] = blob
            if len(piece) == _PIECE:
                yield kind, piece
                piece = {}
        if piece:
            yield kind, piece
