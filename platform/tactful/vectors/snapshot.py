"""A vector index at one moment: a build, and the changes since."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.ids import ItemIds
from tactful.errors import ModelError
from tactful.vectors.ivf_index import Nearest, Queries, VectorIndex, best

_MOST_QUERIES = 512
_ENOUGH_QUERIES = 128

Changes = Mapping[str, NDArray[np.float32] | None]
"""New vector by item id; None for an item that must not be found any more."""


@dataclass(frozen=True)
class Snapshot:
    """An immutable state of the index: a build, and a delta of new vectors.

        build  ids [a, b, c]   kept [T, F, T]
        delta  rows [1, 3]     vectors of b and of the new item d; new_ids [d]

    Rows of the build come first, then new items in order of arrival.
    """

    ids: ItemIds  # ids of the rows of the build
    index: VectorIndex
    new_ids: tuple[str, ...]  # ids of the rows after those of the build
    new_rows: Mapping[str, int]  # row by id of the same
    rows: NDArray[np.int64]  # rows of the delta, ascending, shape (m,)
    vectors: NDArray[np.float32]  # their vectors, shape (m, dimensions)
    kept: NDArray[np.bool_] | None  # whether each row of the build is unchanged; None if all are
    _queries: deque[NDArray[np.float32]] = field(
        default_factory=lambda: deque(maxlen=_MOST_QUERIES)
    )
    _passing: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = field(default_factory=list)

    @classmethod
    def of(cls, ids: ItemIds, index: VectorIndex) -> Snapshot:
        """Make a snapshot of a build without changes."""
        nothing = np.zeros((0, index.vectors.shape[1]), np.float32)
        return cls(ids, index, (), {}, np.zeros(0, np.int64), nothing, None)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ids) + len(self.new_ids)

    @property
    def changes(self) -> int:
        """Number of rows that differ from the build."""
        replaced = 0 if self.kept is None else int(np.count_nonzero(~self.kept))
        return replaced + len(self.new_ids)

    def rows_of(self, item_ids: Sequence[str]) -> list[int | None]:
        """Return the rows of items, None for unknown ones."""
        # Not one by one: a thread that releases the interpreter's lock as often as a search does,
        # and takes it again at once, starves the others.
        built = self.ids.rows_of(item_ids)
        return [
            self.new_rows.get(item_id) if row is None else row
            for item_id, row in zip(item_ids, built, strict=True)
        ]

    def nearest(
        self, query: NDArray[np.float32], count: int, allowed: NDArray[np.bool_] | None = None
    ) -> Nearest:
        """Find at most `count` rows with the largest inner products, in the build and in the delta.

        `allowed` says whether each row may be found, shape (at least ``len(self)``,); None for all.
        The preparation of a read-only array is kept for the next search.
        """
        self._queries.append(query)
        near = self.index.nearest(query, count, self._in_build(allowed))
        return self._with_delta(near, query, count, allowed)

    def _with_delta(
        self,
        near: Nearest,
        query: NDArray[np.float32],
        count: int,
        allowed: NDArray[np.bool_] | None,
    ) -> Nearest:
        """Merge the nearest of the build with those of the delta."""
        if not len(self.rows):
            return near
        rows, scores = near
        fresh, products = self.rows, self.vectors @ query
        if len(rows) >= count > 0:  # most of the delta is further away
            close = np.flatnonzero(products >= scores[-1])
            fresh, products = fresh[close], products[close]
        if allowed is not None:
            passing = allowed[fresh]
            fresh, products = fresh[passing], products[passing]
        if not len(fresh):
            return near
        merged = np.concatenate([rows, fresh])
        order = np.argsort(merged, kind="stable")
        return best(merged[order], np.concatenate([scores, products])[order], count)

    def vectors_of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of rows, or zero, shape (len(rows), dimensions)."""
        built = rows < len(self.index.vectors)
        if self.kept is None and built.all():
            return self.index.vectors.take(rows, axis=0)
        vectors = np.zeros((len(rows), self.vectors.shape[1]), np.float32)
        if self.kept is not None:
            built[built] = self.kept[rows[built]]
        vectors[built] = self.index.vectors.take(rows[built], axis=0)
        if len(self.rows):
            places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
            fresh = self.rows[places] == rows
            vectors[fresh] = self.vectors[places[fresh]]
        return vectors

    def add_queries(self, other: Snapshot) -> None:
        """Add the recent queries of another snapshot, to tune the next build on."""
        self._queries.extend(other._queries)

    def changed(self, changes: Changes) -> Snapshot:
        """Return the index after further changes.

        Raises:
            ModelError: if a vector has another length than those of the build.
        """
        dimensions = self.vectors.shape[1]
        delta: dict[int, NDArray[np.float32]] = {}
        new_ids, new_rows = list(self.new_ids), dict(self.new_rows)
        kept = np.ones(len(self.ids), np.bool_) if self.kept is None else self.kept.copy()
        replaced: list[int] = []
        for row, (item_id, vector) in zip(self.rows_of([*changes]), changes.items(), strict=True):
            if vector is not None and vector.shape != (dimensions,):
                raise ModelError(
                    f"the vector of an item has shape {vector.shape}, the index holds vectors "
                    f"of {dimensions}; both must come from the same training"
                )
            if row is None and vector is None:
                continue
            if row is None:
                row = len(self.ids) + len(new_ids)
                new_ids.append(item_id)
                new_rows[item_id] = row
            elif row < len(kept):
                kept[row] = False
            replaced.append(row)
            if vector is not None and vector.any():
                delta[row] = vector
        stays = np.isin(self.rows, replaced, invert=True)
        rows = np.concatenate([self.rows[stays], np.fromiter(delta, np.int64, len(delta))])
        more = np.array([*delta.values()], np.float32).reshape(-1, dimensions)
        order = np.argsort(rows, kind="stable")
        rows, vectors = rows[order], np.concatenate([self.vectors[stays], more])[order]
        kept.flags.writeable = False
        return Snapshot(
            ids=self.ids,
            index=self.index,
            new_ids=tuple(new_ids),
            new_rows=new_rows,
            rows=rows,
            vectors=vectors,
            kept=None if kept.all() else kept,
            _queries=self._queries,
        )

    def merged(
        self, *, target: float, exact_below: int, threads: int = 1
    ) -> tuple[ItemIds, VectorIndex]:
        """Build an index of all vectors of this snapshot, in the same rows.

        It is tuned on recent queries, or on mixtures of items while there are few.
        """
        vectors = np.zeros((len(self), self.vectors.shape[1]), np.float32)
        vectors[: len(self.ids)] = self.index.vectors
        if self.kept is not None:
            vectors[: len(self.ids)][~self.kept] = 0.0
        vectors[self.rows] = self.vectors
        recent = list(self._queries)
        queries = None
        if len(recent) >= _ENOUGH_QUERIES:
            queries = Queries(np.stack(recent), "requests")
        index = VectorIndex.build(
            vectors,
            queries=queries,
            target=target,
            exact_below=exact_below,
            before=self.index,
            threads=threads,
        )
        return ItemIds.of([*self.ids, *self.new_ids]), index

    def _in_build(self, allowed: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """Return the filter for the build, without the rows that the delta replaces."""
        if self.kept is None or allowed is None:
            return self.kept if allowed is None else allowed
        for cached, passing in self._passing:
            if cached is allowed:
                return passing
        passing = allowed[: len(self.kept)] & self.kept
        if not allowed.flags.writeable:
            passing.flags.writeable = False
            self._passing[:] = [(allowed, passing)]
        return passing
