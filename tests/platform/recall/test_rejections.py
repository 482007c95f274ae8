"""Items that a user disliked, hid or returned."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from tests.platform.shop import DAY, definitions, learned

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import build_context
from tactful.ranking.features import RANKING_FEATURES, assemble
from tactful.ranking.heuristic import heuristic_scores
from tactful.recall.candidates import CatalogueView, Quotas, gather
from tactful.recall.limits import allowed_rows
from tactful.recall.popularity import popular_rows
from tactful.recall.rejections import rejected_rows, similarity_to
from tactful.schemas.recommendations import Candidate, RecommendRequest
from tactful.vectors.ivf_index import Snapshot
from tactful_streaming.contract.log_entries import Event, Item, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

INDEX = learned(40)
ITEMS = {it: Item(item_id=it, timestamp=0) for it in INDEX.item_ids}
CATALOGUE = Catalogue(INDEX.item_ids, ITEMS)
SEARCH = Snapshot.of(INDEX.item_ids, INDEX.nearest)
NOW = 100 * DAY


def engine_of(*events: tuple[str, str, int]) -> Engine:
    """Apply events of one user, each a type, an item and a day."""
    engine = Engine(definitions(), MemoryState())
    did = partial(Event, user_id="u")
    for number, (type_, item, day) in enumerate(events):
        event = did(event_id=str(number), type=type_, item_id=item, timestamp=day * DAY)
        engine.apply([(number, encode_entry(event))])
    return engine


def shown(engine: Engine, **fields: Any) -> set[str]:
    context = build_context(engine, CATALOGUE, subject="u", session_id=None, at=NOW)
    allowed = allowed_rows(RecommendRequest(user_id="u", **fields), CATALOGUE, context)
    return {INDEX.item_ids[row] for row in np.flatnonzero(allowed).tolist()}


@pytest.mark.parametrize("type_", ["dislike", "hide"])
def test_a_rejected_item_is_not_shown_until_it_is_taken_again(type_: str) -> None:
    everything = set(ITEMS)
    assert shown(engine_of((type_, "i05", 90))) == everything - {"i05"}
    taken_before = engine_of(("purchase", "i05", 80), (type_, "i05", 90))
    assert shown(taken_before) == everything - {"i05"}
    taken_after = engine_of((type_, "i05", 80), ("purchase", "i05", 90))
    assert shown(taken_after) == everything
    assert shown(engine_of(("return", "i05", 90))) == everything, "another size may fit"


def test_a_candidate_of_the_request_is_never_left_out() -> None:
    engine = engine_of(("hide", "i05", 90))
    assert "i05" in shown(engine, candidates=(Candidate(item_id="i05"),))


def test_a_rejection_is_no_interest() -> None:
    engine = engine_of(("view", "i01", 90), ("dislike", "i05", 90), ("hide", "i06", 90))
    context = build_context(engine, CATALOGUE, subject="u", session_id=None, at=NOW)
    assert {INDEX.item_ids[row] for row in context.history} == {"i01"}
    assert popular_rows(engine, CATALOGUE, INDEX).known >= 1
    assert engine.read("item", "i05", NOW)["seen_28d"] == 0


def test_items_similar_to_rejected_ones_come_later() -> None:
    """Columns by a plain computation; without a model each loses up to a half of its score."""
    plain = engine_of(("view", "i01", 95))
    events = (("view", "i01", 95), ("hide", "i05", 96), ("return", "i07", 97))
    rejecting = engine_of(*events)
    results = []
    for engine in (plain, rejecting):
        context = build_context(engine, CATALOGUE, subject="u", session_id=None, at=NOW)
        view = CatalogueView(INDEX, SEARCH, CATALOGUE, popular_rows(engine, CATALOGUE, INDEX))
        allowed = CATALOGUE.available
        found = gather(view, context, quotas=Quotas(), allowed=allowed, least=40)
        table = assemble(found, context, source=engine, catalogue=CATALOGUE)
        scores = heuristic_scores(found, context, view, engine)
        results.append((context, found, table, scores))
    (_, before, _, others), (context, found, table, scores) = results
    assert before.rows.tolist() == found.rows.tolist() == list(range(40))
    rejected = [INDEX.item_ids.rows_of([it])[0] for it in ("i05", "i07")]
    assert rejected_rows(context, CATALOGUE).tolist() == rejected[::-1], "the latest first"
    vectors = INDEX.vectors
    nearest = [
        max(0.0, *(float(vectors[row] @ vectors[it]) for it in rejected)) for row in range(40)
    ]
    column = {name: table[:, place] for place, name in enumerate(RANKING_FEATURES)}
    np.testing.assert_allclose(column["vector_rejected"], nearest, atol=1e-6)
    days = column["days_since_returned"]
    assert np.flatnonzero(~np.isnan(days)).tolist() == [rejected[1]]
    assert days[rejected[1]] == pytest.approx(3.0)
    np.testing.assert_allclose(scores, others * (1 - 0.5 * np.array(nearest)), rtol=1e-4)
    none = similarity_to(np.zeros(0, np.int64), found.rows, SEARCH)
    assert not none.any()
