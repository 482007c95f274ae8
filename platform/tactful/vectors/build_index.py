"""Builds of a vector index: cells are laid out, and the number that a search probes is tuned.

Each build runs real queries, and takes the fewest probes that find `Tuning.target` of the true
1,000 nearest. One half of the queries choose, the other half check.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.ids import ItemIds
from tactful.vectors.ivf_index import (
    EXACT_BELOW,
    RECALL_AT,
    Cells,
    Snapshot,
    Tuning,
    VectorIndex,
    search_parameters,
)
from tactful_privacy.lazy_imports import LazyModule

faiss: Any = LazyModule("faiss")

_LOG = logging.getLogger(__name__)

_TRAINING_POINTS = 64
_ITERATIONS = 10
_GROWTH = 1.5
_LADDER = tuple(round(2 ** (step / 8)) for step in range(16, 128))
_ENOUGH_QUERIES = 128


@dataclass(frozen=True)
class Queries:
    """Queries to tune an index on."""

    vectors: NDArray[np.float32]  # unit length, shape (n, dimensions)
    source: str  # see `Tuning`


def build_vector_index(
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
    """Build an index and tune it."""
    exact = VectorIndex(vectors, tuning=Tuning(target=target, exact_below=exact_below))
    if exact.size <= exact_below:
        return exact
    faiss.omp_set_num_threads(threads)
    try:
        kept = before if before is not None and _fits(before, exact.size) else None
        trained_on = exact.size if kept is None else kept.tuning.trained_on
        rows = np.flatnonzero(exact.present)
        cells: Cells
        if kept is None:
            cells = _lay_out(vectors, rows, seed)
        else:
            cells = faiss.deserialize_index(faiss.serialize_index(kept.cells))
            cells.reset()
        # In parts, so that a million vectors are never twice in memory.
        for start in range(0, len(rows), 1 << 16):
            part = rows[start : start + (1 << 16)]
            cells.add_with_ids(np.ascontiguousarray(vectors[part]), part)
        tuning = _tune(exact, cells, queries or mixtures(exact, 512, seed), target)
    finally:
        faiss.omp_set_num_threads(1)
    tuning = msgspec.structs.replace(tuning, trained_on=trained_on, exact_below=exact_below)
    return VectorIndex(vectors, present=exact.present, cells=cells, tuning=tuning)


def merge_changes(
    snapshot: Snapshot, *, target: float, exact_below: int, threads: int = 1
) -> tuple[ItemIds, VectorIndex]:
    """Build an index of all vectors of a snapshot, in the same rows.

    It is tuned on recent queries, or on mixtures of items while there are few.
    """
    built, ids, queries = snapshot.index, snapshot.ids, None
    vectors = np.zeros((len(snapshot), snapshot.vectors.shape[1]), np.float32)
    vectors[: len(ids)] = built.vectors
    if snapshot.kept is not None:
        vectors[: len(ids)][~snapshot.kept] = 0.0
    vectors[snapshot.rows] = snapshot.vectors
    if len(snapshot.queries) >= _ENOUGH_QUERIES:
        queries = Queries(np.stack([*snapshot.queries]), "requests")
    index = build_vector_index(
        vectors,
        queries=queries,
        target=target,
        exact_below=exact_below,
        before=built,
        threads=threads,
    )
    return ItemIds.of([*ids, *snapshot.new_ids]), index


def mixtures(index: VectorIndex, count: int, seed: int) -> Queries:
    """Make queries like those of users: mixtures of one to four items."""
    generator = np.random.default_rng(seed)
    rows = np.flatnonzero(index.present)
    drawn = rows[generator.integers(0, len(rows), (count, 4))]
    weights = generator.dirichlet(np.full(4, 2.0), count)
    weights[np.arange(4) >= generator.integers(1, 5, count)[:, None]] = 0.0
    weights[~weights.any(axis=1), 0] = 1.0
    mixed = np.einsum("qi,qid->qd", weights, index.vectors[drawn])
    norms = np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
    return Queries((mixed / norms).astype(np.float32), "mixtures")


def _fits(index: VectorIndex, size: int) -> bool:
    """Return whether the cells of an index still suit so many vectors."""
    return index.cells is not None and size <= _GROWTH * index.tuning.trained_on


def _lay_out(vectors: NDArray[np.float32], rows: NDArray[np.int64], seed: int) -> Cells:
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


def _tune(exact: VectorIndex, cells: Cells, queries: Queries, target: float) -> Tuning:
    """Find the fewest probes that reach the target on both halves of the queries."""
    vectors = np.ascontiguousarray(queries.vectors, np.float32)
    at = min(RECALL_AT, exact.size)
    rows = np.flatnonzero(exact.present)
    whole = exact.vectors if len(rows) == len(exact.vectors) else exact.vectors[rows]
    _, places = faiss.knn(vectors, np.ascontiguousarray(whole), at, faiss.METRIC_INNER_PRODUCT)
    wanted = np.sort(rows[places], axis=1)
    half = (len(vectors) + 1) // 2

    def recall(probes: int, part: slice) -> tuple[float, float]:
        """Return the mean recall of a part of the queries, and its standard error."""
        _, near = cells.search(vectors[part], at, params=search_parameters(probes))
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
