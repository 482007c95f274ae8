"""The order without a model: votes and cohorts of users of whom no item is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.platform.shop import DAY, definitions, learned

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import build_context
from tactful.kernels.sparse_scores import Scores
from tactful.ranking.heuristic import heuristic_scores
from tactful.recall.blend import Blend, Blends
from tactful.recall.candidates import CatalogueView, Quotas, gather
from tactful.recall.popularity import CommonItems, popular_rows
from tactful.vectors.ivf_index import Snapshot
from tactful_streaming.contract.log_entries import Event, Item, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

INDEX = learned(60)
CATALOGUE = Catalogue(INDEX.item_ids, {it: Item(item_id=it, timestamp=0) for it in INDEX.item_ids})


@pytest.mark.parametrize(("lift", "first"), [(0.5, "i05"), (5.0, "i02")])
@pytest.mark.parametrize("kind", ["click", "purchase"])
def test_lifts_multiply_votes_of_every_type(kind: str, lift: float, first: str) -> None:
    """Thirty events against one: a lift of e^0.5 does not make up for them, one of e^5 does."""
    engine = Engine(definitions(), MemoryState())
    for number, item in enumerate(["i05"] * 30 + ["i02"]):
        event = Event(event_id=f"{number}", type=kind, timestamp=DAY, user_id="u", item_id=item)
        engine.apply([(number, encode_entry(event))])
    search = Snapshot.of(INDEX.item_ids, INDEX.nearest)
    view = CatalogueView(INDEX, search, CATALOGUE, popular_rows(engine, CATALOGUE, INDEX))
    context = build_context(engine, CATALOGUE, subject="new", session_id=None, at=DAY + 1)
    candidates = gather(view, context, quotas=Quotas(), allowed=CATALOGUE.available)
    row = CATALOGUE.item_ids.index("i02")
    lifts = Scores(np.array([row]), np.array([lift], np.float32))
    scores = heuristic_scores(replace(candidates, lift=lifts), context, view, engine)
    best = candidates.rows[np.argmax(scores)]
    assert CATALOGUE.item_ids[int(best)] == first


def test_popularity_decides_where_nothing_else_is_known() -> None:
    """Also where the blend that a history has taught gives it no weight."""
    engine = Engine(definitions(), MemoryState())
    blends, nothing = Blends(Blend(popular=0.0), Blend(popular=0.0)), np.zeros(0, np.int32)
    index = replace(INDEX, blends=blends, leading=nothing)
    search = Snapshot.of(INDEX.item_ids, INDEX.nearest)
    view = CatalogueView(index, search, CATALOGUE, popular_rows(engine, CATALOGUE, index))
    context = build_context(engine, CATALOGUE, subject="new", session_id=None, at=DAY + 1)
    candidates = gather(view, context, quotas=Quotas(), allowed=CATALOGUE.available)
    scores = heuristic_scores(candidates, context, view, engine)
    order = candidates.rows[np.argsort(-scores, kind="stable")]
    assert order.tolist() == view.popular.rows.tolist()


def test_the_leading_items_come_first_for_new_users_only() -> None:
    engine = Engine(definitions(), MemoryState())
    search = Snapshot.of(INDEX.item_ids, INDEX.nearest)
    leading = np.array([41, 7, 30], np.int32)
    index = replace(INDEX, leading=leading)
    view = CatalogueView(index, search, CATALOGUE, popular_rows(engine, CATALOGUE, index))
    event = Event(event_id="e", type="view", timestamp=DAY, user_id="known", item_id="i05")
    engine.apply([(0, encode_entry(event))])
    for user, is_new in (("new", True), ("known", False)):
        context = build_context(engine, CATALOGUE, subject=user, session_id=None, at=DAY + 1)
        quotas = Quotas(popular=3)
        candidates = gather(view, context, quotas=quotas, allowed=CATALOGUE.available)
        scores = heuristic_scores(candidates, context, view, engine)
        order = candidates.rows[np.argsort(-scores, kind="stable")].tolist()
        assert (order[:3] == leading.tolist()) == is_new
        if is_new:
            rest = [row for row in view.popular.rows.tolist() if row in order[3:]]
            assert order[3:] == rest
    common = CommonItems(view.popular, np.array([7, 41]), np.zeros((0, 2)))
    assert replace(view, common=common).leading.tolist() == [41, 7]
