"""Items whose vectors are near to that of a query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.ids import ItemIds
from tactful.vectors.build_index import build_vector_index, merge_changes
from tactful.vectors.ivf_index import EXACT_BELOW, Changes, Snapshot
from tactful.vectors.updatable_index import MERGE_ABOVE

MOST_NEAR = 100
"""Items that are found by a vector."""

_TARGET = 0.95
_LEAST_SHARE = 0.15  # of the way from the mean of all items to the nearest one


@dataclass(frozen=True)
class Near:
    """Items near a query, the nearest first."""

    item_ids: Sequence[str]
    cosines: Sequence[float]


@dataclass(frozen=True)
class _State:
    vectors: Snapshot
    total: NDArray[np.float64]  # sum of all vectors of the build
    centre: NDArray[np.float32]  # mean of the vectors of the items

    @classmethod
    def of(cls, vectors: Snapshot, before: _State | None = None) -> _State:
        """Describe vectors; those of the build are not summed again if `before` has the same."""
        index = vectors.index
        if before is not None and before.vectors.index is index:
            built = before.total
        else:
            built = index.vectors.sum(axis=0, dtype=np.float64)
        total, count = built + vectors.vectors.sum(axis=0), index.size + len(vectors.vectors)
        if vectors.kept is not None:
            gone = np.flatnonzero(~vectors.kept)
            total = total - index.vectors[gone].sum(axis=0, dtype=np.float64)
            count -= int(np.count_nonzero(index.present[gone]))
        return cls(vectors, built, (total / max(count, 1)).astype(np.float32))


class Meaning:
    """Index of the vectors of items by one encoder.

    One thread refreshes it, which may take long; others search what was there before.
    """

    def __init__(self, changes: Callable[[], Changes], dimensions: int) -> None:
        """Start without vectors.

        Args:
            changes: returns vectors of length 1 that changed, by item id, None for an item that has
                none any more; a part of them at each call, and nothing if there are no more.
            dimensions: length of a vector.
        """
        self._changes = changes
        nothing = np.zeros((0, dimensions), np.float32)
        self._state = _State.of(Snapshot.of(ItemIds.of(()), build_vector_index(nothing)))
        self._is_closed = False

    def close(self) -> None:
        """Let `refresh`, which may run in another thread, return after the present part."""
        self._is_closed = True

    def refresh(self) -> None:
        """Take over changed vectors; searches find them when this returns."""
        vectors = self._state.vectors
        try:
            while not self._is_closed and (changes := self._changes()):
                # A new price changes the item, and its vector stays.
                if changes := vectors.differing(changes):
                    vectors = vectors.changed(changes)
        finally:  # parts that were read before a failure are not returned again
            self._publish(vectors)

    def _publish(self, vectors: Snapshot) -> None:
        if vectors is self._state.vectors:
            return
        if vectors.changes > MERGE_ABOVE:
            merged = merge_changes(vectors, target=_TARGET, exact_below=EXACT_BELOW)
            vectors = Snapshot.of(*merged)
        self._state = _State.of(vectors, self._state)

    def near(self, vector: NDArray[np.float32]) -> Near:
        """Return the items nearest to a vector of length 1; none for zeros or another length.

        Those are left out whose cosine is hardly above the mean of all items: less than 15 % of
        what the nearest one is.
        """
        vectors, centre = self._state.vectors, self._state.centre
        if not len(vectors) or not vector.any() or vector.shape != centre.shape:
            return Near((), ())
        # Not by `Snapshot.nearest`, which would keep the vectors of queries to tune on.
        index, built = vectors.index, len(vectors.ids)
        rows, cosines = index.nearest(vector, MOST_NEAR, vectors.kept)
        rows = np.concatenate([rows, vectors.rows])
        cosines = np.concatenate([cosines, vectors.vectors @ vector])
        best = np.lexsort((rows, -cosines))[:MOST_NEAR]
        rows, cosines = rows[best], cosines[best]
        mean = float(centre @ vector)
        least = mean + _LEAST_SHARE * (float(cosines.max(initial=mean)) - mean)
        kept = cosines >= least - 1e-6
        ids = [
            vectors.ids[row] if row < built else vectors.new_ids[row - built]
            for row in rows[kept].tolist()
        ]
        return Near(ids, cosines[kept].tolist())
