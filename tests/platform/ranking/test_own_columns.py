"""Features of a shop's own file as columns of the ranking."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.platform.shop import DAY, entries, learned, make_shop, write_log

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import build_context
from tactful.config.settings import PACKAGED_FEATURES
from tactful.errors import ModelError
from tactful.lifecycle.sources import SOURCES
from tactful.ranking.features import (
    RANKING_FEATURES,
    assemble,
    column_names,
    columns_fingerprint,
    hide_rare,
)
from tactful.ranking.model import (
    Pointer,
    load_model,
    read_manifest,
    version_directory,
    write_pointer,
)
from tactful.ranking.own_columns import own_columns
from tactful.recall.candidates import CatalogueView, Quotas, gather
from tactful.recall.popularity import CommonItems, Popularity, popular_rows
from tactful.recommend.recommender import LEARNED, RANKING_EXPERIMENT, Recommender
from tactful.recommend.served_models import RecommenderOptions
from tactful.schemas.recommendations import RecommendRequest
from tactful.training.options import TrainingOptions
from tactful.training.train import train
from tactful.vectors.ivf_index import Snapshot
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_streaming.contract.log_entries import Event, Item, encode_entry
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

WEEK = "window: {size: 7d, slide: 1d}"
OWN = f"""
- {{name: score_7d, entity: item, event: rating, aggregate: mean, of: properties.stars, {WEEK}}}
- {{name: rated_last, entity: item, event: rating, aggregate: last_time}}
- {{name: heat_7d, entity: category, event: view, aggregate: count, {WEEK}}}
- {{name: spent_7d, entity: user, event: purchase, aggregate: sum, of: properties.price, {WEEK}}}
- name: brands_7d
  entity: user
  event: view
  aggregate: count
  group_by: properties.brand
  {WEEK}
- {{name: made_7d, entity: user, event: view, aggregate: count, group_by: item.brand, {WEEK}}}
- {{name: own_7d, entity: user, event: view, aggregate: count, group_by: item_id, {WEEK}}}
- {{name: kinds_last, entity: user, event: view, aggregate: last_time, group_by: category}}
- {{name: pages, entity: session, event: view, aggregate: count, {WEEK}}}
- {{name: texts, entity: user, event: search, aggregate: last_n, of: properties.query, n: 3}}
- {{name: sources_7d, entity: user, event: view, aggregate: count, group_by: session_id, {WEEK}}}
"""
NAMES = (
    *(
        "item.score_7d",
        "item.rated_last",
        "category.heat_7d",
        "user.spent_7d",
        "user.brands_7d",
        "user.made_7d",
    ),
    *("user.own_7d", "user.kinds_last", "session.pages"),
)
INDEX = learned(12)
ITEMS = {
    item_id: Item(
        item_id=item_id,
        timestamp=0,
        category=f"c{number % 3}" if number != 5 else None,
        properties={"brand": ["x", "y"] if number == 4 else "xyz"[number % 3]},
    )
    for number, item_id in enumerate(INDEX.item_ids)
}
NOW = 100 * DAY


def definitions() -> Definitions:
    return load_definitions(PACKAGED_FEATURES.read_text("utf-8") + OWN)


def table_of(engine: Engine, **asked: Any) -> dict[str, NDArray[np.float32]]:
    catalogue = Catalogue(INDEX.item_ids, ITEMS)
    context = build_context(engine, catalogue, at=NOW, **asked)
    search = Snapshot.of(INDEX.item_ids, INDEX.nearest)
    view = CatalogueView(INDEX, search, catalogue, popular_rows(engine, catalogue, INDEX))
    found = gather(view, context, quotas=Quotas(), allowed=catalogue.available, least=12)
    assert found.rows.tolist() == [*range(12)]
    own = own_columns(engine.definitions)
    table = assemble(found, context, source=engine, catalogue=catalogue, own=own)
    assert tuple(column.name for column in own) == NAMES
    return dict(zip(column_names(own), table.T, strict=True))


def engine_of(defined: Definitions | None = None) -> Engine:
    engine = Engine(defined or definitions(), MemoryState())
    did = partial(Event, event_id="", user_id="u", session_id="s")
    events = [
        did(type="rating", item_id="i01", timestamp=98 * DAY, properties={"stars": 4}),
        did(type="rating", item_id="i01", timestamp=99 * DAY, properties={"stars": 1}),
        did(type="view", item_id="i01", timestamp=99 * DAY, properties={"brand": "y"}),
        did(type="view", item_id="i04", timestamp=99 * DAY, properties={"brand": "y"}),
        did(type="view", item_id="i02", timestamp=97 * DAY, properties={"brand": "z"}),
        did(type="purchase", item_id="i02", timestamp=99 * DAY, properties={"price": 7.5}),
    ]
    items = [encode_entry(item) for item in ITEMS.values()]
    payloads = items + [
        encode_entry(msgspec.structs.replace(event, event_id=str(number)))
        for number, event in enumerate(events)
    ]
    engine.apply([*enumerate(payloads)])
    return engine


def test_own_features_are_columns_of_the_items_that_they_are_about() -> None:
    table = table_of(engine_of(), subject="u", session_id="s")
    rows = range(12)
    assert table["item.score_7d"].tolist() == [2.5 if row == 1 else 0.0 for row in rows]
    days = table["item.rated_last"]
    assert days[1] == 1.0
    assert np.isnan(np.delete(days, 1)).all()
    heat = {0: 0.0, 1: 2.0, 2: 1.0}
    for row in rows:
        value = table["category.heat_7d"][row]
        assert np.isnan(value) if row == 5 else value == heat[row % 3]
    assert (table["user.spent_7d"] == 7.5).all()
    brands = {"x": 0.0, "y": 2.0, "z": 1.0}
    wanted = [2.0 if row == 4 else brands["xyz"[row % 3]] for row in rows]
    assert table["user.brands_7d"].tolist() == wanted
    made = {"x": 0.0, "y": 1.0, "z": 1.0}  # the list of item 4 is no group
    assert table["user.made_7d"][[0, 1, 2]].tolist() == [made[brand] for brand in "xyz"]
    assert table["user.own_7d"].tolist() == [float(row in (1, 2, 4)) for row in rows]
    last = table["user.kinds_last"]
    assert [last[row] for row in (1, 4, 2)] == [1.0, 1.0, 3.0]
    assert np.isnan(last[[0, 3, 5]]).all()
    assert (table["session.pages"] == 3.0).all()


def test_of_a_user_without_a_visit_columns_are_missing() -> None:
    table = table_of(engine_of(), subject=None, session_id=None)
    for name in NAMES:
        empty = name.startswith(("user.", "session."))
        assert np.isnan(table[name]).all() == empty, name


def test_an_anonymous_request_reads_nothing_of_others() -> None:
    own = own_columns(definitions())
    features = np.ones((3, len(column_names(own))), np.float32)
    catalogue = Catalogue(INDEX.item_ids, ITEMS)
    everything = np.arange(12)
    common = CommonItems(Popularity.of(everything, 12), everything, np.zeros((3, 2)))
    hide_rare(features, np.arange(3), catalogue, common, own)
    for place, name in enumerate(column_names(own)):
        if name in NAMES:
            hidden = name.startswith(("item.", "category."))
            assert np.isnan(features[:, place]).all() == hidden


def test_packaged_features_are_no_columns_of_their_own() -> None:
    assert own_columns(load_definitions(PACKAGED_FEATURES)) == ()
    many = "".join(
        f"- {{name: f{n}, entity: item, event: view, aggregate: count, {WEEK}}}\n"
        for n in range(70)
    )
    assert len(own_columns(load_definitions(many))) == 64


def without(names: tuple[str, ...], **others: str) -> Definitions:
    """Return the definitions without some features; `others` are added in YAML."""
    added = load_definitions("".join(others.values())).features if others else ()
    kept = tuple(it for it in definitions().features if it.name not in names)
    return Definitions((*kept, *added))


def test_features_of_the_life_cycle_change_no_column() -> None:
    """A model of a version before them fits: it reads the same columns and numbers."""
    before = without(SOURCES)
    assert len(before.features) + len(SOURCES) == len(definitions().features)
    assert columns_fingerprint(definitions()) == columns_fingerprint(before) == before.fingerprint
    old, new = (table_of(engine_of(it), subject="u", session_id="s") for it in (before, None))
    assert old.keys() == new.keys()
    for name, values in new.items():
        np.testing.assert_array_equal(values, old[name], err_msg=name)


@pytest.mark.parametrize("name", [*SOURCES, "recent_items", "spent_7d"])
def test_every_other_change_of_definitions_changes_the_fingerprint(name: str) -> None:
    own = f"- {{name: {name}, entity: user, event: leave, aggregate: last_time}}\n"
    changed = {columns_fingerprint(without((name,), own=own)), columns_fingerprint(definitions())}
    assert len(changed) == 2
    if name not in SOURCES:
        changed.add(columns_fingerprint(without((name,))))
        assert len(changed) == 3


@pytest.mark.slow
def test_a_planted_feature_is_learned_and_served(tmp_path: Path) -> None:
    """What is taken carries a badge that only the shop's own feature counts."""
    shop = make_shop(7, people=20, items=60, days=40)
    rows = entries(shop)
    chance, planted = np.random.default_rng(0), []
    for entry in rows:
        if isinstance(entry, Event) and entry.type == "add_to_cart" and chance.random() < 0.9:
            badge = msgspec.structs.replace(
                entry,
                event_id=f"{entry.event_id}-badge",
                type="x.badge",
                user_id="shop",
                session_id="badges",
                timestamp=entry.timestamp - 60_000,
            )
            planted.append(badge)
    own = "- {name: badges, entity: item, event: x.badge, aggregate: last_time}\n"
    defined = load_definitions(PACKAGED_FEATURES.read_text("utf-8") + own)
    events = sorted([*rows, *planted], key=lambda entry: entry.timestamp)
    log = write_log(tmp_path / "log", events)
    place = version_directory(tmp_path / "models", "1")
    train(log, defined, place, TrainingOptions(label_days=15, rounds=15, threads=1))
    manifest = read_manifest(place)
    assert manifest.features == (*RANKING_FEATURES, "item.badges")
    assert manifest.gains["item.badges"] > 0.05 * sum(manifest.gains.values())
    manifest = msgspec.structs.replace(manifest, version="1")
    (place / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    write_pointer(tmp_path / "models", Pointer(version="1"))
    engine = Engine(defined, MemoryState())
    engine.apply(log.read(0, log.end))
    experiment = Experiment(RANKING_EXPERIMENT, (Arm("heuristic", 0.1), Arm(LEARNED, 0.9)))
    options = RecommenderOptions(
        models=tmp_path / "models", definitions=columns_fingerprint(defined), experiment=experiment
    )
    ranked = Recommender(engine, options)
    request = RecommendRequest(user_id=shop.person[0], force={RANKING_EXPERIMENT: LEARNED})
    answer, impression = ranked.recommend(request, now=int(shop.timestamp[-1]) + 1)
    assert answer.model_version == "1"
    assert impression is not None
    with pytest.raises(ModelError, match="unknown"):
        load_model(place, definitions=columns_fingerprint(defined))
