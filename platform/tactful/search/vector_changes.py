"""Vectors of items that were changed or encoded since, from the store of an encoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.changes import ItemFeed, Reading
from tactful.vectors.ivf_index import Changes
from tactful_streaming.contract.log_entries import Item

_AT_ONCE = 5_000
_PAUSE = 9.0  # between two looks at items without a vector, in times that the former one took


class VersionedVectors(Protocol):
    """Vectors of items, as far as they are encoded."""

    def of(self, items: Sequence[Item | None]) -> NDArray[np.float32]:
        """Return the vector of each item, zero for one without."""

    def version(self) -> int:
        """Return a number that changes when vectors are added."""


class VectorChanges:
    """Returns the vector of every item once, and again after a change; for one thread.

    Items that are not encoded yet are looked up again when vectors were added, after an empty part
    and a pause: an encoder that works beside it adds some every second.
    """

    def __init__(
        self,
        feed: ItemFeed,
        reading: Reading,
        encoded: VersionedVectors,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with all items of `feed`; `reading` is held while it is read.

        `clock` returns monotonic seconds.
        """
        self._feed = feed
        self._reading = reading
        self._encoded = encoded
        self._clock = clock
        self._version = -1  # before the items without a vector were looked up
        self._has_ended = False  # whether the latest part was empty
        self._took = 0.0  # seconds since the latest empty part
        self._not_before = clock()
        self._due: dict[str, Item] = {}  # to be looked up
        self._lacking: dict[str, Item] = {}  # without a vector when they were looked up

    def __call__(self) -> Changes:
        """Return the next part of the vectors; empty if there are no more.

        Raises:
            StorageError: if the store is damaged.
        """
        for item in self._feed.changes(self._reading):
            self._due[item.item_id] = item
        if not self._due and self._has_ended:
            self._look_again()
        self._has_ended = not self._due
        if self._has_ended:
            self._not_before, self._took = self._clock() + _PAUSE * self._took, 0.0
            return {}
        began = self._clock()
        part = [*islice(self._due.values(), _AT_ONCE)]
        vectors = self._encoded.of(part)
        for item, vector in zip(part, vectors, strict=True):
            del self._due[item.item_id]
            self._lacking.pop(item.item_id, None)
            if not vector.any():
                self._lacking[item.item_id] = item
        self._took += self._clock() - began
        return {
            item.item_id: vector if vector.any() else None
            for item, vector in zip(part, vectors, strict=True)
        }

    def _look_again(self) -> None:
        """Make the items without a vector due, if vectors were added and the pause is over."""
        if not self._lacking or self._clock() < self._not_before:
            return
        # Before the vectors are read: those added meanwhile are another version.
        version = self._encoded.version()
        if version != self._version:
            self._version, self._due, self._lacking = version, self._lacking, {}
