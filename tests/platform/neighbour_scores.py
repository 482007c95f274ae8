"""Scores of neighbours, added up one by one: the oracle of the fast computation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tactful.kernels.sparse_scores import Scores
from tactful.recall.neighbours import DOUBT, NeighbourTable, SessionNeighbours


def neighbour_scores(
    neighbours: NeighbourTable, sources: Sequence[int], shares: Sequence[float]
) -> Scores:
    """Sum the weights of the neighbours of several items; unknown items are skipped."""
    totals: dict[int, float] = defaultdict(float)
    for source, share in zip(sources, shares, strict=True):
        if source < len(neighbours.items):
            for row, weight in zip(
                neighbours.items[source].tolist(), neighbours.weights[source], strict=True
            ):
                if row >= 0:
                    totals[row] += float(weight * np.float32(share))
    return _scores(totals)


def beside(sessions: SessionNeighbours, row: int, step: int) -> Scores:
    """Return the share of visits of an item with each other item `step` places after."""
    counts: dict[int, float] = defaultdict(float)
    if row >= len(sessions.visit_starts) - 1:
        return _scores(counts)
    held = range(*sessions.visit_starts[row : row + 2].tolist())
    for number in held:
        begin, end = sessions.session_starts[sessions.visits[number] :][:2].tolist()
        visit = sessions.session_items[begin:end].tolist()
        place = int(sessions.visit_places[number]) + step
        if 0 <= place < len(visit) and visit[place] != row:
            counts[visit[place]] += 1.0
    return _scores({other: count / (len(held) + DOUBT) for other, count in counts.items()})


def _scores(totals: dict[int, float]) -> Scores:
    rows = sorted(row for row, total in totals.items() if total > 0)
    return Scores(np.array(rows, np.int64), np.array([totals[row] for row in rows], np.float32))
