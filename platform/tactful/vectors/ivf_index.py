"""Search for the nearest of a million vectors, exact where that is fast enough.

Up to `EXACT_BELOW` vectors, and among as few that pass a filter, every vector is compared. Above,
the vectors lie in cells (Faiss ``IVF,SQfp16``) of which a search probes some.

An index never changes. A `Snapshot` is an index with the changes since its build, of which
`tactful.vectors.updatable_index` makes one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.ids import ItemIds
from tactful.errors import ModelError
from tactful.util.checked_arrays import is_finite, map_array, require, within
from tactful.util.checksummed_directory import check_seal, sealing
from tactful.vectors.cells_file import check_cells
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.lazy_imports import LazyModule

faiss: Any = LazyModule("faiss")  # 13 MB, only for cells

EXACT_BELOW = 50_000
"""Up to so many vectors are all compared: about as fast as probing, and exact."""

RECALL_AT = 1_000
"""Number of nearest rows that the tuning counts."""

_FORMAT = 1
_PART = 2_048
_MOST_CELLS = 1 << 24
_MOST_QUERIES = 512

Cells = Any  # Faiss describes its types too loosely to be of help
Nearest = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows, best first, and their inner products with the query."""

Changes = Mapping[str, NDArray[np.float32] | None]
"""New vector by item id; None for an item that must not be found any more."""


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """Tuning of an index, and its measured recall."""

    # share of the true nearest that a search finds, on queries that did not choose the probes; 1
    # for an exact index
    recall: float = 1.0
    target: float = 0.95
    at: int = RECALL_AT  # number of nearest rows that were counted
    # up to so many vectors, in all or after a filter, are all compared
    exact_below: int = EXACT_BELOW
    probes: int = 0  # cells that a search without a filter probes; 0 for an exact index
    cells: int = 0  # cells in all; 0 for an exact index
    trained_on: int = 0  # number of vectors when the cells were laid out
    queries: int = 0
    # source of the queries: ``visits`` of users, or ``mixtures`` of a few items where there were
    # not enough visits
    source: str = ""


@dataclass(frozen=True)
class _Selected:
    """A filter prepared for a search, and kept for the next one."""

    allowed: NDArray[np.bool_]
    count: int  # number of rows that pass
    rows: NDArray[np.int64] | None = None  # these rows, where all are compared
    probes: int = 0  # number of cells to probe; 0 where all rows are compared
    bits: NDArray[np.uint8] | None = None  # a bit for each row that passes; None where all do


class VectorIndex:
    """Inner-product search over one vector a row; rows of zeros are never found.

    `vectors` are mapped from a file where the index was loaded. Searching is safe from several
    threads.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        *,
        present: NDArray[np.bool_] | None = None,
        cells: Cells = None,
        tuning: Tuning | None = None,
    ) -> None:
        """Make an exact index over `vectors`; `build_vector_index` and `load` make others."""
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        self.tuning = tuning or Tuning()
        self.present = np.asarray(vectors.any(axis=1)) if present is None else present
        self.size = int(np.count_nonzero(self.present))
        self.cells = cells
        self._selected: _Selected | None = None

    def holds(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each row has a vector other than zero; -1 is no row."""
        present = rows >= 0
        present[present] = self.present[rows[present]]
        return present

    def nearest(
        self, query: NDArray[np.float32], count: int, allowed: NDArray[np.bool_] | None = None
    ) -> Nearest:
        """Find at most `count` rows with the largest inner products, best first, ties by row.

        `allowed` says whether each row may be found, shape (at least rows,); None for all. The
        fewer pass, the more cells are probed; few are all compared.
        """
        selected = self._select(allowed)
        count = min(count, selected.count)
        if count <= 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        if not selected.probes:
            return self._exact(query, count, selected)
        rows, scores = self._probed(query, count, selected)
        if len(rows) < count:  # the probed cells had too few allowed rows
            return self._exact(query, count, selected)
        return rows, scores

    def save(self, directory: Path) -> None:
        """Write the index as a sealed directory that `load` maps."""
        with sealing(directory) as scratch:
            (scratch / "about.json").write_bytes(
                msgspec.json.encode(
                    {"format": _FORMAT, "tuning": self.tuning, "exact": self.cells is None}
                )
            )
            np.save(scratch / "vectors.npy", self.vectors)
            np.save(scratch / "present.npy", self.present)
            if self.cells is not None:
                faiss.write_index(self.cells, str(scratch / "cells.faiss"))

    @classmethod
    def load(cls, directory: Path) -> VectorIndex:
        """Map an index that `save` wrote; processes that do so share its memory.

        Raises:
            ModelError: if a file is missing, damaged or of another format.
        """
        check_seal(directory)
        try:
            about = msgspec.json.decode((directory / "about.json").read_bytes(), type=_About)
        except (OSError, *DECODE_ERRORS) as error:
            raise ModelError(f"{directory / 'about.json'}: cannot be read: {error}") from error
        if about.format != _FORMAT:
            raise ModelError(
                f"{directory}: vector index has format {about.format}, this version reads "
                f"{_FORMAT}; train again with `tactful train`"
            )
        vectors = map_array(directory / "vectors.npy", np.float32, 2)
        present = map_array(directory / "present.npy", np.bool_)
        _check_present(directory / "present.npy", vectors, present)
        require(is_finite(vectors), directory / "vectors.npy", "a number is not finite")
        tuning, cells = about.tuning, None
        fits = (tuning.cells, tuning.probes) == (0, 0)
        if not about.exact:
            fits = 1 <= tuning.probes <= tuning.cells <= _MOST_CELLS and bool(present.any())
        require(fits, directory / "about.json", "probes and cells")
        if not about.exact:
            path = directory / "cells.faiss"
            check_cells(path, present, vectors.shape[1], tuning.cells)
            # This way of mapping keeps the lists as arrays: as fast as an index in memory.
            cells = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        return cls(vectors, present=present, cells=cells, tuning=tuning)

    def _select(self, allowed: NDArray[np.bool_] | None) -> _Selected:
        held = self._selected
        if held is not None and held.allowed is allowed:
            return held
        if allowed is None:
            return _Selected(self.present, self.size, probes=self._probes(self.size))
        passing = np.logical_and(allowed[: len(self.present)], self.present)
        count = int(np.count_nonzero(passing))
        if self.cells is None or count <= self.tuning.exact_below:
            selected = _Selected(allowed, count, np.flatnonzero(passing))
        else:
            bits = np.packbits(passing, bitorder="little") if count < self.size else None
            selected = _Selected(allowed, count, probes=self._probes(count), bits=bits)
        # An array that may still be written to could mean something else the next time.
        if not allowed.flags.writeable:
            self._selected = selected
        return selected

    def _probes(self, count: int) -> int:
        """Choose the number of cells for a search among `count` rows."""
        if self.cells is None:
            return 0
        return min(self.tuning.cells, int(np.ceil(self.tuning.probes / (count / self.size))))

    def _probed(self, query: NDArray[np.float32], count: int, selected: _Selected) -> Nearest:
        """Find up to `count` rows in the nearest cells, best first, ties by row."""
        select: Any = faiss.IDSelectorBitmap
        selector = None if selected.bits is None else select(selected.bits)
        parameters = search_parameters(selected.probes, selector)
        scores, rows = self.cells.search(query[None, :], count, params=parameters)
        there = rows[0] >= 0
        rows, scores = rows[0][there], scores[0][there]
        if (scores[1:] == scores[:-1]).any():  # Faiss leaves ties in any order
            order = np.lexsort((rows, -scores))
            rows, scores = rows[order], scores[order]
        return rows, scores

    def _exact(self, query: NDArray[np.float32], count: int, selected: _Selected) -> Nearest:
        rows = selected.rows
        if rows is None:
            allowed = selected.allowed[: len(self.present)]
            rows = np.flatnonzero(np.logical_and(allowed, self.present))
        if len(rows) == len(self.vectors):
            return best(rows, self.vectors @ query, count)
        scores = np.empty(len(rows), np.float32)
        # Gathered in parts that stay in the cache: one large copy would take three times as long.
        gathered = np.empty((min(_PART, len(rows)), self.vectors.shape[1]), np.float32)
        for start in range(0, len(rows), _PART):
            part = rows[start : start + _PART]
            near = gathered[: len(part)]
            np.take(self.vectors, part, axis=0, out=near, mode="clip")
            np.dot(near, query, out=scores[start : start + _PART])
        return best(rows, scores, count)


def _check_present(path: Path, vectors: NDArray[np.float32], present: NDArray[np.bool_]) -> None:
    """Check that the rows present are those with a vector other than zero."""
    require(len(present) == len(vectors) and vectors.shape[1] > 0, path, "rows")
    require(within(present.view(np.uint8), 2), path, "a truth value is neither 0 nor 1")
    for begin in range(0, len(vectors), _PART):
        part = slice(begin, begin + _PART)
        same = np.array_equal(vectors[part].any(axis=1), present[part])
        require(same, path, "rows without a vector")


class _About(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    tuning: Tuning
    exact: bool


def search_parameters(probes: int, selector: Any = None) -> Any:
    """Return the parameters of a search in some cells, among the selected rows."""
    parameters: Any = faiss.SearchParametersIVF()
    parameters.nprobe, parameters.sel = probes, selector
    return parameters


def best(rows: NDArray[np.int64], scores: NDArray[np.float32], count: int) -> Nearest:
    """Return the `count` best of ascending rows, best first, ties by row."""
    if count <= 0:
        return rows[:0], scores[:0]
    if len(rows) > count:
        # Ties with the last one are kept until they are broken by row.
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        kept = np.flatnonzero(scores >= least)
        rows, scores = rows[kept], scores[kept]
    order = np.argsort(-scores, kind="stable")[:count]
    return rows[order], scores[order]


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
    queries: deque[NDArray[np.float32]] = field(default_factory=lambda: deque(maxlen=_MOST_QUERIES))
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
        self.queries.append(query)
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

    def differing(self, changes: Changes) -> dict[str, NDArray[np.float32] | None]:
        """Return the changes without those that the index has already."""
        rows = self.rows_of([*changes])
        known = np.array([row is not None for row in rows], np.bool_)
        held = self.vectors_of(np.array([row for row in rows if row is not None], np.int64))
        none = np.zeros(self.vectors.shape[1], np.float32)
        given = [none if vector is None else vector for vector in changes.values()]
        differs = np.array([vector is not None for vector in changes.values()], np.bool_)
        if known.any():
            differs[known] = (held != np.array(given, np.float32)[known]).any(axis=1)
        return {
            item_id: vector
            for (item_id, vector), is_new in zip(changes.items(), differs.tolist(), strict=True)
            if is_new
        }

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
            queries=self.queries,
        )

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
