"""Draw new items for a list: by chance, and the more likely the nearer to the user."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tactful.recall.candidates import Candidates, CatalogueView
from tactful.recall.neighbours import direction
from tactful.rerank.exploration import log_probabilities

_TEMPERATURE = 0.05
"""Difference of similarity that makes an item e times as likely."""

_TYPICAL = 20


def draw_new_items(
    rows: NDArray[np.int64],
    candidates: Candidates,
    view: CatalogueView,
    count: int,
    generator: np.random.Generator,
) -> dict[int, float]:
    """Draw `count` rows without replacement, each with probability as exp(similarity / 0.05).

    The similarity is the cosine to the visit; without one to the history, and without that to
    the items that the user's cohorts prefer. All rows are equally likely where nothing is known.

    Returns:
        The probability of each drawn row, given those drawn before it.
    """
    if not len(rows):
        return {}
    near = candidates.search.vectors_of(rows) @ _anchor(candidates, view)
    logs = log_probabilities(near.astype(np.float64), _TEMPERATURE)
    order = np.argsort(-(logs + generator.gumbel(size=len(rows))))[:count]
    chances = np.exp(logs[order])
    left = np.maximum(1.0 - (np.cumsum(chances) - chances), chances)
    return dict(zip(rows[order].tolist(), (chances / left).tolist(), strict=True))


def _anchor(candidates: Candidates, view: CatalogueView) -> NDArray[np.float32]:
    """Return the direction in vector space to compare with; zero where nothing is known."""
    for vector in (candidates.session_vector, candidates.history_vector):
        if vector.any():
            return vector
    rows = np.zeros(0, np.int64)
    if candidates.lift is not None:
        rows = view.index.cohorts.expected(candidates.lift)[:_TYPICAL]
    return direction(candidates.search.vectors_of(rows), rows.tolist())
