"""The ranker's columns, one by one by hand, and what they must not depend on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.platform.neighbour_scores import beside, neighbour_scores
from tests.platform.shop import DAY, HOUR, definitions, engine_at, entries, make_shop, write_log

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext, build_context
from tactful.ranking.features import RANKING_FEATURES, assemble, products
from tactful.recall.blend import Blends
from tactful.recall.candidates import Candidates, CatalogueView, Quotas, gather
from tactful.recall.index import RecallIndex, build_index
from tactful.recall.popularity import popular_rows
from tactful.schemas.interactions import STRENGTH, at_least
from tactful.training.history import History
from tactful.vectors.ivf_index import Snapshot
from tactful_streaming.contract.log_entries import Event, Item, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

TAKEN = at_least("add_to_cart", STRENGTH)
SHOP = make_shop(5, people=12, items=60, days=30)
ENTRIES = entries(SHOP)
EVENTS = [it for it in ENTRIES if isinstance(it, Event)]
UPSERTS = len(ENTRIES) - len(EVENTS)
ITEMS = {it.item_id: it for it in ENTRIES if isinstance(it, Item)}


class World:
    """An engine, an index and a catalogue as of just before one event."""

    def __init__(self, directory: Path, number: int, *, known: int = 40) -> None:
        log = write_log(directory / f"log-{number}", ENTRIES)
        self.engine = engine_at(Engine(definitions(), MemoryState()), log, UPSERTS + number)
        history = History.read(log)
        log.close()
        learned = history.item < known
        interactions = history.interactions()
        index = build_index(
            history.item_ids[:known],
            type(interactions)(
                *(column[learned] for column in (history.session, history.item, history.timestamp))
            ),
        )
        # Else the columns of the last hours are 0.
        self.index: RecallIndex = replace(index, blends=Blends(popular="now"))
        self.catalogue = Catalogue(self.index.item_ids, self.engine.items)
        self.past = EVENTS[:number]

    def look(
        self,
        person: str | None,
        session: str | None,
        at: int,
        *,
        intent: dict[str, float] | None = None,
    ) -> tuple[Candidates, RequestContext, NDArray[np.float32]]:
        context = build_context(
            self.engine, self.catalogue, subject=person, session_id=session, at=at
        )
        popular = popular_rows(self.engine, self.catalogue, self.index)
        search = Snapshot.of(self.index.item_ids, self.index.nearest)
        candidates = gather(
            CatalogueView(self.index, search, self.catalogue, popular),
            context,
            quotas=Quotas(),
            allowed=self.catalogue.available,
            intent=intent,
        )
        return candidates, context, self.lay_out(candidates, context)

    def lay_out(self, candidates: Candidates, context: RequestContext) -> NDArray[np.float32]:
        return assemble(candidates, context, source=self.engine, catalogue=self.catalogue)


def looked_at(
    directory: Path, share: float
) -> tuple[World, Candidates, RequestContext, NDArray[np.float32]]:
    """The world after a share of the events, as the next event's user gets it."""
    number = int(share * len(EVENTS))
    world, event = World(directory, number), EVENTS[number]
    return world, *world.look(event.user_id, event.session_id, event.timestamp)


def window(
    events: list[Event], at: int, size: int, slide: int, decay: float = 1.0, unit: int = DAY
) -> float:
    """A windowed count by hand: panes of `slide` days, the oldest `size` ago."""
    newest = at // (slide * unit)
    ages = (newest - event.timestamp // (slide * unit) for event in events)
    return sum(decay**age for age in ages if 0 <= age < size // slide)


def by_hand(world: World, item: str, person: str, session: str, at: int) -> dict[str, float]:
    """What a row says of one item, recounted from the events."""
    taken = [e for e in world.past if e.type in TAKEN and e.item_id]
    mine = [e for e in world.past if e.user_id == person]
    own = [e for e in mine if e.type in TAKEN and e.item_id]
    this = [e for e in own if e.item_id == item]
    visit = [e for e in world.past if e.session_id == session and e.item_id in ITEMS][-50:]
    category = ITEMS[item].category
    everybody = [e for e in taken if e.item_id == item]
    in_category = [e for e in taken if ITEMS[e.item_id or ""].category == category]
    week, month = window(everybody, at, 7, 1), window(everybody, at, 28, 7)
    visits = window([e for e in mine if e.type == "purchase"], at, 364, 28, 0.9)
    year = {
        it: window([e for e in own if e.item_id == it], at, 364, 28, 0.9)
        for it in {e.item_id for e in own}
    }
    categories = {
        name: window([e for e in own if ITEMS[e.item_id or ""].category == name], at, 182, 14, 0.95)
        for name in {it.category for it in ITEMS.values()}
    }
    last = (visit or [e for e in mine if e.item_id in ITEMS])[-1:]
    basis = visit or list({e.item_id: e for e in reversed(mine[-50:]) if e.item_id}.values())
    prices = [float(ITEMS[e.item_id or ""].price or "nan") for e in basis]
    prices = [price for price in prices if price == price]
    viewed = [
        e
        for e in mine
        if e.type in ("view", "click") and ITEMS[e.item_id or ""].category == category
    ]
    pane = HOUR // 12
    viewed_panes = [at // pane - e.timestamp // pane for e in viewed]
    times = [e.timestamp for e in mine if e.item_id or e.type in TAKEN]
    looked = [e for e in world.past if e.type == "view"]
    saw = [e for e in mine if e.type == "view"]
    seen = {
        it: window([e for e in saw if e.item_id == it], at, 84, 7, 0.85)
        for it in {e.item_id for e in saw}
    }
    of_item = [e for e in looked if e.item_id == item]
    last_seen = [e.timestamp for e in saw if e.item_id == item]
    seen_week, seen_month = window(of_item, at, 7, 1), window(of_item, at, 28, 7)
    seen_in_category = [e for e in looked if ITEMS[e.item_id or ""].category == category]
    return {
        "taken_28d": window(this, at, 28, 7),
        "taken_364d": year.get(item, 0.0),
        "taken_per_visit": year.get(item, 0.0) / max(visits, 1.0),
        "taken_share": year.get(item, 0.0) / max(sum(year.values()), 1.0),
        "days_since_taken": (at - this[-1].timestamp) / DAY if this else math.nan,
        "sold_7d": week,
        "sold_28d": month,
        "sold_84d": window(everybody, at, 84, 7),
        "sold_trend": week / (month + 1.0),
        "category_sold_28d": window(in_category, at, 28, 7, 0.8),
        "category_share": categories[category] / max(sum(categories.values()), 1.0),
        "category_in_session": sum(ITEMS[e.item_id or ""].category == category for e in visit),
        "category_of_last": float(ITEMS[last[0].item_id or ""].category == category)
        if last
        else math.nan,
        "category_viewed_1h": sum(0.8**age for age in viewed_panes if age < 12),
        "in_session": float(item in {e.item_id for e in visit}),
        "price": float(ITEMS[item].price or "nan"),
        "price_to_session": float(ITEMS[item].price or "nan") / median(prices)
        if prices
        else math.nan,
        "session_length": len(visit),
        "history_items": len(year),
        "visits_364d": visits,
        "spend_28d": 2.5 * window([e for e in mine if e.type == "add_to_cart"], at, 28, 1),
        "days_since_visit": (at - max(times)) / DAY if times else math.nan,
        "seen_84d": seen.get(item, 0.0),
        "seen_share": seen.get(item, 0.0) / max(sum(seen.values()), 1.0),
        "days_since_seen": (at - last_seen[-1]) / DAY if last_seen else math.nan,
        "seen_7d": seen_week,
        "seen_28d": seen_month,
        "seen_trend": seen_week / (seen_month + 1.0),
        "sold_now": window(everybody, at, 48, 2, 0.8, HOUR),
        "seen_now": window(of_item, at, 48, 2, 0.8, HOUR),
        "category_seen_28d": window(seen_in_category, at, 28, 7, 0.8),
        "intent_weight": math.nan,
        "intent_place": math.nan,
    }


@pytest.mark.parametrize("share", [0.05, 0.5, 0.8, 0.99])
def test_columns_equal_a_recount_of_the_events(tmp_path: Path, share: float) -> None:
    number = next(
        n for n in range(int(share * len(EVENTS)), len(EVENTS)) if EVENTS[n].type == "add_to_cart"
    )
    event = EVENTS[number]
    assert event.user_id and event.session_id
    world = World(tmp_path, number)
    candidates, _, features = world.look(event.user_id, event.session_id, event.timestamp)
    assert len(candidates.rows) > 20
    assert features.dtype == np.float32
    for row, values in zip(candidates.rows.tolist(), features, strict=True):
        item = world.catalogue.item_ids[row]
        wanted = by_hand(world, item, event.user_id, event.session_id, event.timestamp)
        got = dict(zip(RANKING_FEATURES, values.tolist(), strict=True))
        assert {name: got[name] for name in wanted} == pytest.approx(
            wanted, rel=1e-5, abs=1e-6, nan_ok=True
        ), item


def test_an_intent_weighs_the_items_of_its_categories(tmp_path: Path) -> None:
    number = len(EVENTS) // 2
    event = EVENTS[number]
    world = World(tmp_path, number)
    names = sorted({it.category for it in ITEMS.values() if it.category})
    intent = {names[0]: 0.25, names[1]: 0.5, "of no item": 0.75, names[2]: 0.25}
    candidates, _, features = world.look(
        event.user_id, event.session_id, event.timestamp, intent=intent
    )
    column = dict(zip(RANKING_FEATURES, features.T, strict=True))
    wanted = {names[0]: (0.25, 2.0), names[1]: (0.5, 1.0), names[2]: (0.25, 3.0)}
    of_items = [
        wanted.get(ITEMS[world.catalogue.item_ids[row]].category or "", (0.0, 4.0))
        for row in candidates.rows.tolist()
    ]
    weights, places = column["intent_weight"].tolist(), column["intent_place"].tolist()
    found = [*zip(weights, places, strict=True)]
    assert found == of_items
    assert set(wanted.values()) < set(of_items) and (0.0, 4.0) in of_items


def test_columns_of_recall_are_the_scores_of_recall(tmp_path: Path) -> None:
    world, candidates, context, features = looked_at(tmp_path, 0.75)
    column = dict(zip(RANKING_FEATURES, features.T, strict=True))
    vectors = world.index.vectors
    by_name = {**candidates.neighbours._asdict(), "similar_sessions": candidates.similar_sessions}
    assert len(set(RANKING_FEATURES)) == len(RANKING_FEATURES)
    for name in (
        *("next_last", "next_three", "next_session", "after_last", "after_second"),
        *("before_last", "similar_sessions", "together_last", "together_session"),
    ):
        assert np.array_equal(column[name], by_name[name].of(candidates.rows)), name
        assert column[name].any(), name
    for name, scored in (
        ("next_place", candidates.neighbours.next_three),
        ("similar_place", candidates.similar_sessions),
    ):
        order = sorted(
            range(len(scored.rows)), key=lambda place: (-scored.values[place], scored.rows[place])
        )
        places = {int(scored.rows[number]): float(place) for place, number in enumerate(order)}
        assert column[name].tolist() == pytest.approx(
            [places.get(row, math.nan) for row in candidates.rows.tolist()], nan_ok=True
        )
        assert {0.0, 1.0} <= set(column[name].tolist())
    index = world.index
    recent, second = context.session[:2]
    for name, wanted in (
        ("after_last", beside(index.sessions, recent, 1)),
        ("after_second", beside(index.sessions, second, 2)),
        ("before_last", beside(index.sessions, recent, -1)),
        ("together_last", neighbour_scores(index.together, [recent], [1.0])),
    ):
        assert np.array_equal(column[name], wanted.of(candidates.rows)), name
    last = (context.session or context.history)[0]
    for place, row in enumerate(candidates.rows.tolist()):
        vector = vectors[row] if row < len(vectors) else np.zeros(vectors.shape[1])
        for name, other in (
            ("vector_last", vectors[last]),
            ("vector_session", candidates.session_vector),
            ("vector_history", candidates.history_vector),
        ):
            assert column[name][place] == pytest.approx(float(vector @ other), abs=1e-5)


def test_a_stranger_has_no_history_and_items_still_have_theirs(tmp_path: Path) -> None:
    world = World(tmp_path, len(EVENTS))
    at = EVENTS[-1].timestamp + 1
    for person in (None, "stranger"):
        candidates, _, features = world.look(person, None, at)
        column = dict(zip(RANKING_FEATURES, features.T, strict=True))
        assert len(candidates.rows) == min(Quotas().popular, world.catalogue.available.sum())
        for name in ("taken_28d", "taken_share", "history_items", "visits_364d", "spend_28d"):
            assert not column[name].any(), name
        for name in ("days_since_taken", "days_since_visit", "vector_last", "price_to_session"):
            assert np.isnan(column[name]).all(), name
        assert (column["sold_28d"] > 0).sum() >= 40


def test_a_row_depends_on_its_item_alone(tmp_path: Path) -> None:
    world, candidates, context, features = looked_at(tmp_path, 0.5)
    generator = np.random.default_rng(0)
    kept = np.sort(generator.choice(len(candidates.rows), 15, replace=False))
    fewer = candidates.with_rows(candidates.rows[kept], candidates.channel[kept])
    alone = world.lay_out(fewer, context)
    assert np.array_equal(alone, features[kept], equal_nan=True)


def test_numbers_beyond_32_bits_are_missing_values(tmp_path: Path) -> None:
    """One huge price leaves no infinite number in the rows that a model is trained on."""
    world = World(tmp_path, len(EVENTS) // 2)
    dear = {**ITEMS, "item-000": Item(item_id="item-000", timestamp=0, price=1e300)}
    world.catalogue = Catalogue(world.index.item_ids, dear)
    event = EVENTS[len(EVENTS) // 2]
    bought = msgspec.structs.replace(
        event, event_id="dear", type="add_to_cart", properties={"price": 1e300}
    )
    world.engine.apply([(world.engine.offset, encode_entry(bought))])
    _, _, features = world.look(event.user_id, event.session_id, event.timestamp)
    assert not np.isinf(features).any()
    column = dict(zip(RANKING_FEATURES, features.T, strict=True))
    assert np.isnan(column["spend_28d"]).all()


def test_items_without_price_or_category_are_missing_values(tmp_path: Path) -> None:
    world = World(tmp_path, len(EVENTS) // 2)
    bare = {**ITEMS, "item-000": Item(item_id="item-000", timestamp=0)}
    world.catalogue = Catalogue(world.index.item_ids, bare)
    row = world.catalogue.item_ids.index("item-000")
    event = EVENTS[len(EVENTS) // 2]
    candidates, _, features = world.look(event.user_id, event.session_id, event.timestamp)
    place = candidates.rows.tolist().index(row)
    found = dict(zip(RANKING_FEATURES, features[place].tolist(), strict=True))
    for name in ("price", "price_to_session", "category_sold_28d"):
        assert math.isnan(found[name]), name
    for name in ("category_share", "category_in_session", "category_viewed_1h", "category_of_last"):
        assert found[name] == 0.0, name


@given(st.integers(0, 10_000), st.sampled_from([5, 16, 64, 100]), st.integers(1, 70))
@settings(max_examples=100, deadline=None)
def test_a_product_depends_on_its_two_vectors_alone(seed: int, dimensions: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((count, dimensions)).astype(np.float32)
    directions = generator.standard_normal((3, dimensions)).astype(np.float32)
    found = products(vectors, directions)
    exact = directions.astype(np.float64) @ vectors.astype(np.float64).T
    np.testing.assert_allclose(found, exact, atol=1e-5 * dimensions)
    for row in range(count):
        alone = products(vectors[row : row + 1].copy(), directions)
        assert alone[:, 0].tolist() == found[:, row].tolist()
    for number in range(3):
        alone = products(vectors, directions[number : number + 1].copy())
        assert alone[0].tolist() == found[number].tolist()
