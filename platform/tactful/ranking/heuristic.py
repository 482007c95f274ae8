"""Ranking without a model: own repeats, similar visits, following items, popularity."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.request_context import FeatureSource, RequestContext, read_columns
from tactful.kernels.sparse_scores import Scores
from tactful.recall.candidates import Candidates, CatalogueView
from tactful.recall.cohorts import coldness

_POPULAR = 200
_SEEN = np.float32(0.3)
_NEXT = np.float32(0.5)
_SIMILAR = np.float32(1.0)
_LIKED = np.float32(0.1)
_CHANCE = np.float32(1e-5)  # less than a place of popularity: items without one come by chance


def heuristic_scores(
    candidates: Candidates,
    context: RequestContext,
    view: CatalogueView,
    source: FeatureSource,
    *,
    learned: bool = True,  # whether what visits have taught counts
) -> NDArray[np.float32]:
    """Score candidates, larger is better, shape (len(candidates.rows),).

    Added up are: how often the user takes the item in a visit, its share of what the user saw, how
    much it belongs to visits like this one and follows its last items, and its popularity.
    """
    rows, places = candidates.rows, view.popular.places_of(candidates.rows)
    cold = coldness(context)
    if candidates.lift is not None and cold and len(places):
        # Sales to the user's cohorts replace sales to all users.
        lift = np.float32(cold) * candidates.lift.of(rows)
        items = view.catalogue.item_ids.of_rows(rows)
        sold = read_columns(source, "item", items, ("sold_28d",), context.at)[:, 0]
        expected = np.log(sold + 0.5) + lift
        places[np.lexsort((places, -expected))] = np.arange(len(places), dtype=places.dtype)
    known = view.popular.known
    near = np.minimum(places, min(_POPULAR, known)).astype(np.float32)
    taken, seen = context.grouped("taken_364d"), context.grouped("seen_84d")
    visits = max(context.number("visits_364d"), 1.0)
    scores: NDArray[np.float32] = np.minimum(
        _own(taken, view, rows) / np.float32(visits), np.float32(1.0)
    )
    scores += _SEEN * _own(seen, view, rows) / np.float32(max(sum(seen.values()), 1.0))
    if learned:
        scores += _NEXT * candidates.neighbours.next_three.of(rows)
        scores += _SIMILAR * _similar(candidates, view)
    scores += _LIKED * (np.float32(1.0) - near / np.float32(_POPULAR))
    unknown = np.flatnonzero(places >= known)
    if len(unknown):
        generator = np.random.default_rng(context.seed)
        scores[unknown] += _CHANCE * generator.random(len(unknown), np.float32)
    return scores


def _own(
    amounts: Mapping[str, float], view: CatalogueView, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the user's amount of each row."""
    found = view.catalogue.rows.of_many(amounts)
    known = sorted(
        (row, amounts[item]) for row, item in zip(found, amounts, strict=True) if row is not None
    )
    return Scores(
        np.array([row for row, _ in known], np.int64),
        np.array([amount for _, amount in known], np.float32),
    ).of(rows)


def _similar(candidates: Candidates, view: CatalogueView) -> NDArray[np.float32]:
    """Return the score of each row by similar visits, rare items counting more, at most 1.

    The weight of an item is its inverse visit frequency, as in VSKNN (Ludewig and Jannach,
    "Evaluation of session-based recommendation algorithms", 2018).
    """
    scores, sessions = candidates.similar_sessions, view.index.sessions
    if not len(scores.rows):
        return np.zeros(len(candidates.rows), np.float32)
    visits = sessions.visit_starts[scores.rows + 1] - sessions.visit_starts[scores.rows]
    share = np.maximum(visits, 1) / max(len(sessions.session_starts) - 1, 1)
    weighed = scores.values * -np.log(share).astype(np.float32)
    greatest = np.float32(max(float(weighed.max(initial=0.0)), 1e-12))
    return Scores(scores.rows, weighed / greatest).of(candidates.rows)
