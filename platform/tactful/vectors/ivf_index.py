"""Search for the nearest of a million vectors, exact where that is fast enough.

Up to `EXACT_BELOW` vectors, and among as few that pass a filter, every vector is compared. Above,
the vectors lie in cells (Faiss ``IVF,SQfp16``) of which a search probes some. Their number is
tuned after each build: the index runs real queries, and takes the fewest probes that find
`Tuning.target` of the true 1,000 nearest. One half of the queries choose, the other half check.

An index never changes. Changes between builds are in `tactful.vectors.updatable_index`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.util.checksummed_directory import check_seal, sealing

_LOG = logging.getLogger(__name__)

EXACT_BELOW = 50_000
"""Up to so many vectors are all compared: about as fast as probing, and exact."""

RECALL_AT = 1_000
"""Number of nearest rows that the tuning counts."""

_FORMAT = 1
_TRAINING_POINTS = 64
_ITERATIONS = 10
_GROWTH = 1.5
_PART = 2_048
_NO_BITS = np.zeros(0, np.uint8)
_LADDER = tuple(round(2 ** (step / 8)) for step in range(16, 128))

_Cells = Any  # Faiss describes its types too loosely to be of help
Nearest = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows, best first, and their inner products with the query."""


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
class Queries:
    """Queries to tune an index on."""

    vectors: NDArray[np.float32]  # unit length, shape (n, dimensions)
    source: str  # see `Tuning`


@dataclass(frozen=True)
class _Selected:
    """A filter prepared for a search, and kept for the next one."""

    allowed: NDArray[np.bool_]
    count: int
    rows: NDArray[np.int64] | None
    probing: _Probing | None


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
        cells: _Cells = None,
        tuning: Tuning | None = None,
    ) -> None:
        """Make an exact index over `vectors`; `build` and `load` make others."""
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        self.tuning = tuning or Tuning()
        self._present = _any(vectors) if present is None else present
        self._size = int(np.count_nonzero(self._present))
        self._cells = cells
        self._selected: _Selected | None = None

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],  # unit length or zero, shape (rows, dimensions)
        *,
        queries: Queries | None = None,  # queries to tune on; None for mixtures of a few items
        target: float = 0.95,  # share of the true 1,000 nearest to be found, in (0, 1]
        exact_below: int = EXACT_BELOW,  # up to so many vectors the index is exact
        # an index whose cells are reused, unless the number of vectors grew by half since they were
        # laid out
        before: VectorIndex | None = None,
        threads: int = 1,
        seed: int = 0,
    ) -> VectorIndex:
        """Build and tune."""
        exact = cls(vectors, tuning=Tuning(target=target, exact_below=exact_below))
        if exact._size <= exact_below:
            return exact
        faiss.omp_set_num_threads(threads)
        try:
            kept = before if before is not None and before._fits(exact._size) else None
            trained_on = exact._size if kept is None else kept.tuning.trained_on
            rows = np.flatnonzero(exact._present)
            cells: _Cells
            if kept is None:
                cells = _lay_out(vectors, rows, seed)
            else:
                cells = faiss.deserialize_index(faiss.serialize_index(kept._cells))
                cells.reset()
            # In parts, so that a million vectors are never twice in memory.
            for start in range(0, len(rows), 1 << 16):
                part = rows[start : start + (1 << 16)]
                cells.add_with_ids(np.ascontiguousarray(vectors[part]), part)
            tuning = _tune(exact, cells, queries or mixtures(exact, 512, seed), target)
        finally:
            faiss.omp_set_num_threads(1)
        tuning = msgspec.structs.replace(tuning, trained_on=trained_on, exact_below=exact_below)
        return cls(vectors, present=exact._present, cells=cells, tuning=tuning)

    @property
    def size(self) -> int:
        """Number of rows that can be found."""
        return self._size

    def holds(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each row has a vector other than zero; -1 is no row."""
        present = rows >= 0
        present[present] = self._present[rows[present]]
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
        if self._cells is None or selected.probing is None:
            return self._exact(query, count, selected)
        rows, scores = _searched(self._cells, query, count, selected.probing)
        if len(rows) < count:  # the probed cells had too few allowed rows
            return self._exact(query, count, selected)
        return rows, scores

    def save(self, directory: Path) -> None:
        """Write the index as a sealed directory that `load` maps."""
        with sealing(directory) as scratch:
            (scratch / "about.json").write_bytes(
                msgspec.json.encode(
                    {"format": _FORMAT, "tuning": self.tuning, "exact": self._cells is None}
                )
            )
            np.save(scratch / "vectors.npy", self.vectors)
            np.save(scratch / "present.npy", self._present)
            if self._cells is not None:
                faiss.write_index(self._cells, str(scratch / "cells.faiss"))

    @classmethod
    def load(cls, directory: Path) -> VectorIndex:
        """Map an index that `save` wrote; processes that do so share its memory.

        Raises:
            ModelError: if a file is missing, damaged or of another format.
        """
        check_seal(directory)
        about = msgspec.json.decode((directory / "about.json").read_bytes(), type=_About)
        if about.format != _FORMAT:
            raise ModelError(
                f"{directory}: vector index has format {about.format}, this version reads "
                f"{_FORMAT}; train again with `tactful train`"
            )
        cells = None
        if not about.exact:
            # This way of mapping keeps the lists as arrays: as fast as an index in memory.
            cells = faiss.read_index(str(directory / "cells.faiss"), faiss.IO_FLAG_MMAP_IFC)
        return cls(
            np.asarray(np.load(directory / "vectors.npy", mmap_mode="r")),
            present=np.asarray(np.load(directory / "present.npy", mmap_mode="r")),
            cells=cells,
            tuning=about.tuning,
        )

    def _fits(self, size: int) -> bool:
        return self._cells is not None and size <= _GROWTH * self.tuning.trained_on

    def _select(self, allowed: NDArray[np.bool_] | None) -> _Selected:
        held = self._selected
        if held is not None and held.allowed is allowed:
            return held
        if allowed is None:
            return _Selected(self._present, self._size, None, self._probing(self._size))
        passing = np.logical_and(allowed[: len(self._present)], self._present)
        count = int(np.count_nonzero(passing))
        rows, bits = None, _NO_BITS
        if self._cells is None or count <= self.tuning.exact_below:
            rows = np.flatnonzero(passing)
        elif count < self._size:
            bits = np.packbits(passing, bitorder="little")
        probing = None if rows is not None else self._probing(count, bits)
        selected = _Selected(allowed, count, rows, probing)
        # An array that may still be written to could mean something else the next time.
        if not allowed.flags.writeable:
            self._selected = selected
        return selected

    def _probing(self, count: int, bits: NDArray[np.uint8] = _NO_BITS) -> _Probing | None:
        """Choose the number of cells for a search among `count` rows."""
        if self._cells is None or not count:
            return None
        probes = int(np.ceil(self.tuning.probes / (count / self._size)))
        return _Probing(min(self.tuning.cells, probes), bits)

    def _exact(self, query: NDArray[np.float32], count: int, selected: _Selected) -> Nearest:
        rows = selected.rows
        if rows is None:
            allowed = selected.allowed[: len(self._present)]
            rows = np.flatnonzero(np.logical_and(allowed, self._present))
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


class _About(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    tuning: Tuning
    exact: bool


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


def mixtures(index: VectorIndex, count: int, seed: int) -> Queries:
    """Make queries like those of users: mixtures of one to four items."""
    generator = np.random.default_rng(seed)
    rows = np.flatnonzero(index._present)
    drawn = rows[generator.integers(0, len(rows), (count, 4))]
    weights = generator.dirichlet(np.full(4, 2.0), count)
    weights[np.arange(4) >= generator.integers(1, 5, count)[:, None]] = 0.0
    weights[~weights.any(axis=1), 0] = 1.0
    mixed = np.einsum("qi,qid->qd", weights, index.vectors[drawn])
    norms = np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
    return Queries((mixed / norms).astype(np.float32), "mixtures")


def _any(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(vectors.any(axis=1))


@dataclass(frozen=True)
class _Probing:
    """Cells to search, and rows to find."""

    probes: int  # number of nearest cells
    bits: NDArray[np.uint8]  # a bit for each row that may be found; empty where all may


def _searched(cells: _Cells, query: NDArray[np.float32], count: int, probing: _Probing) -> Nearest:
    """Find up to `count` rows in the cells probed, best first, ties by row."""
    selector = _bitmap(probing.bits) if len(probing.bits) else None
    scores, rows = cells.search(query[None, :], count, params=_parameters(probing.probes, selector))
    there = rows[0] >= 0
    rows, scores = rows[0][there], scores[0][there]
    if (scores[1:] == scores[:-1]).any():  # Faiss leaves ties in any order
        order = np.lexsort((rows, -scores))
        rows, scores = rows[order], scores[order]
    return rows, scores


def _parameters(probes: int, selector: Any = None) -> Any:
    parameters: Any = faiss.SearchParametersIVF()
    parameters.nprobe, parameters.sel = probes, selector
    return parameters


def _bitmap(bits: NDArray[np.uint8]) -> Any:
    make: Any = faiss.IDSelectorBitmap
    return make(bits)


def _lay_out(vectors: NDArray[np.float32], rows: NDArray[np.int64], seed: int) -> _Cells:
    """Lay out cells around k-means centroids, about four times the root of the rows."""
    dimensions = vectors.shape[1]
    count = 2 ** round(np.log2(4.0 * np.sqrt(len(rows))))
    cells = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dimensions),
        dimensions,
        count,
        faiss.ScalarQuantizer.QT_fp16,
        faiss.METRIC_INNER_PRODUCT,
        False,
    )
    cells.cp.niter = _ITERATIONS
    cells.cp.spherical = True
    cells.cp.seed = seed + 1
    cells.cp.max_points_per_centroid = _TRAINING_POINTS
    cells.cp.min_points_per_centroid = 1
    generator = np.random.default_rng(seed)
    most = min(len(rows), _TRAINING_POINTS * count)
    sample = np.sort(generator.permutation(rows)[:most])
    cells.train(np.ascontiguousarray(vectors[sample]))
    return cells


def _tune(exact: VectorIndex, cells: _Cells, queries: Queries, target: float) -> Tuning:
    """Find the fewest probes that reach the target on both halves of the queries."""
    vectors = np.ascontiguousarray(queries.vectors, np.float32)
    at = min(RECALL_AT, exact.size)
    rows = np.flatnonzero(exact._present)
    whole = exact.vectors if len(rows) == len(exact.vectors) else exact.vectors[rows]
    _, places = faiss.knn(vectors, np.ascontiguousarray(whole), at, faiss.METRIC_INNER_PRODUCT)
    wanted = np.sort(rows[places], axis=1)
    half = (len(vectors) + 1) // 2

    def recall(probes: int, part: slice) -> tuple[float, float]:
        """Return the mean recall of a part of the queries, and its standard error."""
        _, near = cells.search(vectors[part], at, params=_parameters(probes))
        hits = [np.isin(f, w).sum() for f, w in zip(near, wanted[part], strict=True)]
        shares = np.array(hits) / at
        return float(shares.mean()), float(shares.std()) / np.sqrt(len(shares))

    ladder = sorted({min(step, cells.nlist) for step in _LADDER})
    low, high = 0, len(ladder) - 1
    while low < high:
        middle = (low + high) // 2
        mean, error = recall(ladder[middle], slice(0, half))
        # With two standard errors to spare, so that other queries reach the target as well.
        if mean - 2.0 * error >= target:
            high = middle
        else:
            low = middle + 1
    checked, _ = recall(ladder[low], slice(half, None))
    while checked < target and low < len(ladder) - 1:
        low += 1
        checked, _ = recall(ladder[low], slice(half, None))
    report = _LOG.info if checked >= target else _LOG.warning
    report(
        "vector index tuned: %d of %d cells find %.3f of the nearest %d (target %.2f, by %s)",
        ladder[low],
        cells.nlist,
        checked,
        at,
        target,
        queries.source,
    )
    return Tuning(
        recall=checked,
        target=target,
        at=at,
        probes=ladder[low],
        cells=cells.nlist,
        queries=len(vectors),
        source=queries.source,
    )
