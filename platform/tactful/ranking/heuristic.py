"""Ranking without a model: own repeats per visit, following items, popularity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.request_context import FeatureSource, RequestContext, read_columns
from tactful.kernels.sparse_scores import Scores
from tactful.recall.candidates import Candidates, CatalogueView
from tactful.recall.cohorts import coldness

_POPULAR = 200


def heuristic_scores(
    candidates: Candidates, context: RequestContext, view: CatalogueView, source: FeatureSource
) -> NDArray[np.float32]:
    """Score candidates, larger is better, shape (len(candidates.rows),)."""
    taken = context.grouped("taken_364d")
    visits = max(context.number("visits_364d"), 1.0)
    rows = view.catalogue.rows.of_many(taken)
    known = sorted(
        (row, taken[item]) for row, item in zip(rows, taken, strict=True) if row is not None
    )
    own = Scores(
        np.array([row for row, _ in known], np.int64),
        np.array([amount for _, amount in known], np.float32),
    ).of(candidates.rows)
    places = view.popular.places_of(candidates.rows)
    cold = coldness(context)
    if candidates.lift is not None and cold and len(places):
        # Sales to the user's cohorts replace sales to all users.
        lift = np.float32(cold) * candidates.lift.of(candidates.rows)
        items = view.catalogue.item_ids.of_rows(candidates.rows)
        sold = read_columns(source, "item", items, ("sold_28d",), context.at)[:, 0]
        expected = np.log(sold + 0.5) + lift
        places[np.lexsort((places, -expected))] = np.arange(len(places), dtype=places.dtype)
    near = np.minimum(places, _POPULAR).astype(np.float32)
    scores: NDArray[np.float32] = np.minimum(own / np.float32(visits), np.float32(1.0))
    scores += np.float32(0.5) * candidates.neighbours.next_three.of(candidates.rows)
    scores += np.float32(0.1) * (np.float32(1.0) - near / np.float32(_POPULAR))
    return scores
