"""Ranking without a model: own repeats, similar visits, following items, popularity."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.request_context import FeatureSource, RequestContext, read_columns
from tactful.recall.blend import gather_evidence, own_items, popular_shares
from tactful.recall.candidates import Candidates, CatalogueView
from tactful.recall.cohorts import coldness
from tactful.recall.popularity import VOTES, WINDOWS
from tactful.recall.rejections import rejected_rows, similarity_to

_LEAST_POPULAR = 1e-3  # orders items without other evidence only
_CHANCE = np.float32(1e-12)  # less than a place of popularity: items without one come by chance
_LESS = np.float32(0.5)  # share that an item loses which is just like a rejected one


def heuristic_scores(
    candidates: Candidates,
    context: RequestContext,
    view: CatalogueView,
    source: FeatureSource,
    *,
    learned: bool = True,  # whether what visits have taught counts
) -> NDArray[np.float32]:
    """Score candidates by the blend of all evidence, larger is better, shape (len(rows),)."""
    rows, places = candidates.rows, view.popular.places_of(candidates.rows)
    cold, lifts = coldness(context), candidates.lifts()
    if lifts is not None and cold and len(places):
        # Votes of the user's cohorts, or of a crossed profile, replace those of all users.
        lift = np.float32(cold) * lifts
        items = view.catalogue.item_ids.of_rows(rows)
        names = WINDOWS[candidates.window]
        if names:
            votes = read_columns(source, "item", items, names, context.at) @ VOTES
            expected = np.log(votes + 0.5) + lift
        else:
            # Only an order is known; by Zipf's law a count falls with the place.
            expected = lift - np.log(places + np.float32(1.0))
        places[np.lexsort((places, -expected))] = np.arange(len(places), dtype=places.dtype)
    known = view.popular.known
    if lifts is None and learned and not context.known:
        leading = view.leading
        found, at = np.isin(rows, leading), np.argsort(leading)
        places += np.int32(len(leading))
        places[found] = at[np.searchsorted(leading, rows[found], sorter=at)]
        known += len(leading)
    # Without other evidence popularity decides, also where a history has taught to ignore it.
    popular = max(candidates.blend.popular, _LEAST_POPULAR)
    blend = msgspec.structs.replace(candidates.blend, popular=popular)
    if not learned:
        blend = msgspec.structs.replace(
            blend, similar=0.0, following=0.0, after=0.0, together=0.0, together_history=0.0
        )
    own = own_items(context, view.catalogue)
    evidence = gather_evidence(rows, candidates.kinds(own), own)
    scores = evidence.score(blend, popular_shares(places, known))
    if len(rejected := rejected_rows(context, view.catalogue)):
        scores *= np.float32(1.0) - _LESS * similarity_to(rejected, rows, candidates.search)
    unknown = np.flatnonzero(places >= known)
    if len(unknown):
        generator = np.random.default_rng(context.seed)
        scores[unknown] += _CHANCE * generator.random(len(unknown), np.float32)
    return scores
