"""Tables of neighbours, and orders of popularity, learned from events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.recall.neighbours import NeighbourTable, SessionNeighbours

if TYPE_CHECKING:
    from scipy import sparse

_NEXT_REACH = 3
_MANY_PAIRS = 1_000_000


@dataclass(frozen=True)
class Interactions:
    """Events as columns, in event order."""

    session: NDArray[np.int64]  # session number of each event, shape (n,)
    item: NDArray[np.int64]  # row of the item in the catalogue the index is built for, shape (n,)
    timestamp: NDArray[np.int64]  # event time in epoch milliseconds, shape (n,)
    # number of the person of each event, -1 where unknown; None where nobody is known
    person: NDArray[np.int64] | None = None

    def part(self, begin: int, end: int) -> Interactions:
        """Return the events from number `begin` to `end`, the last excluded."""
        chosen = slice(begin, end)
        person = None if self.person is None else self.person[chosen]
        return Interactions(self.session[chosen], self.item[chosen], self.timestamp[chosen], person)


class Tables(NamedTuple):
    """Neighbours of items, and past visits."""

    following: NeighbourTable  # items that came next in the same session, directed
    together: NeighbourTable  # items of the same session, symmetric
    sessions: SessionNeighbours  # past visits, to compare others with


def learn_tables(
    seen: Interactions,
    count: int,  # number of rows of the catalogue
    *,
    neighbours: int,  # neighbours to keep of each item
) -> tuple[Tables, sparse.csr_matrix]:
    """Learn the tables; also return how much items were together, shape (count, count)."""
    met = _together(seen, count)
    tables = Tables(
        following=_strongest(_following(seen, count), neighbours),
        together=_strongest(_cosine(met), neighbours),
        sessions=SessionNeighbours.build(seen.session, seen.item, count),
    )
    return tables, met


def _following(seen: Interactions, count: int) -> sparse.csr_matrix:
    """Weigh the d-th item after another in its session by 1/d, d <= 3, directed.

    Items of one session that carry the same timestamp have no order and count both ways.
    """
    from scipy import sparse  # only learning needs it: 20 MB in every process that serves

    order = np.argsort(seen.session, kind="stable")
    session, item, timestamp = seen.session[order], seen.item[order], seen.timestamp[order]
    total = sparse.csr_matrix((count, count), dtype=np.float32)
    for distance in range(1, _NEXT_REACH + 1):
        first, second = slice(None, -distance), slice(distance, None)
        pair = (session[first] == session[second]) & (item[first] != item[second])
        tied = pair & (timestamp[first] == timestamp[second])
        sources = np.concatenate([item[first][pair], item[second][tied]])
        targets = np.concatenate([item[second][pair], item[first][tied]])
        weights = np.full(len(sources), 1.0 / distance, np.float32)
        total += sparse.csr_matrix((weights, (sources, targets)), shape=(count, count))
    return sparse.csr_matrix(total)


def _together(seen: Interactions, count: int) -> sparse.csr_matrix:
    """Weigh two items by the sum of 1/(n-1) over their common sessions of n items.

    In a history of more than a million pairs, those of one common session are left out: they are
    most of the pairs and next to none of the evidence.
    """
    from scipy import sparse  # only learning needs it: 20 MB in every process that serves

    _, session = np.unique(seen.session, return_inverse=True)
    presence = sparse.coo_matrix(
        (np.ones(len(session), np.float32), (session, seen.item)),
        shape=(int(session.max()) + 1 if len(session) else 0, count),
    ).tocsr()
    presence.data[:] = 1.0
    sizes = np.asarray(presence.sum(axis=1)).ravel()
    share = sparse.diags(1.0 / np.maximum(sizes - 1.0, 1.0))
    met = (presence.T @ share @ presence).tocsr()
    if met.nnz > _MANY_PAIRS:
        met = met.multiply(presence.T @ presence >= 2).tocsr()
    met.setdiag(0)
    met.eliminate_zeros()
    return sparse.csr_matrix(met, dtype=np.float32)


def _cosine(together: sparse.csr_matrix) -> sparse.csr_matrix:
    """Divide by the root of both items' totals, against a bias to frequent items."""
    from scipy import sparse  # only learning needs it: 20 MB in every process that serves

    totals = np.maximum(np.asarray(together.sum(axis=1)).ravel(), 1.0)
    scale = sparse.diags(1.0 / np.sqrt(totals))
    return sparse.csr_matrix(scale @ together @ scale)


def _strongest(weights: sparse.csr_matrix, k: int) -> NeighbourTable:
    """Keep the k strongest of each row, scaled so that the strongest of a row is 1."""
    count = weights.shape[0]
    items = np.full((count, k), -1, np.int32)
    kept = np.zeros((count, k), np.float32)
    pointers, columns, data = weights.indptr, weights.indices, weights.data
    for row in range(count):
        start, end = pointers[row], pointers[row + 1]
        if start == end:
            continue
        # Ties are broken by row number, so that the same history always gives the same index.
        best = np.lexsort((columns[start:end], -data[start:end]))[:k]
        chosen = data[start:end][best]
        items[row, : len(best)] = columns[start:end][best]
        kept[row, : len(best)] = chosen / chosen[0]
    return NeighbourTable(items, kept)


def rows_by_popularity(seen: Interactions, count: int, half_life_days: float) -> NDArray[np.int32]:
    """Return the rows with events, by exponentially decayed count, best first.

    Without decay where the half-life is infinite.
    """
    if len(seen.item) == 0:
        return np.zeros(0, np.int32)
    age_days = (seen.timestamp.max() - seen.timestamp) / 86_400_000.0
    mass = np.bincount(seen.item, weights=np.exp2(-age_days / half_life_days), minlength=count)
    order = np.lexsort((np.arange(count), -mass))
    return order[mass[order] > 0].astype(np.int32)
