"""Why a list came out as it did: what is told adds up, and stays true later."""

from __future__ import annotations

import shutil
from base64 import b64encode
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.models.test_mlflow_registry import make_model
from tests.platform.recommend import test_recommender
from tests.platform.recommend.test_recommender import NOW, SHOP, Served, decoded, recommender
from tests.platform.shop import definitions, engine_at
from tests.platform.support import Live, build, wait_until

from tactful.client import Client
from tactful.config.settings import Settings
from tactful.errors import ModelError
from tactful.event_log.impressions import RecentImpressions, as_impression, find_impression
from tactful.ranking.features import RANKING_FEATURES, columns_fingerprint, layout
from tactful.ranking.model import version_directory
from tactful.recommend.explanation import Explainer, contributions_of
from tactful.recommend.recommender import HEURISTIC, LEARNED, RANKING_EXPERIMENT, Recommender
from tactful.schemas.recommendations import RecommendRequest
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import MemoryState

trained = test_recommender.served  # the fixture


@pytest.fixture(scope="module")
def ranked(trained: Served) -> Recommender:
    engine = engine_at(Engine(definitions(), MemoryState()), trained.log, trained.log.end)
    return recommender(engine, trained.models, new_id=lambda: "r-1")


def shown(ranked: Recommender, arm: str = LEARNED, **asked: Any) -> Event:
    force = {RANKING_EXPERIMENT: arm}
    request = RecommendRequest(user_id=SHOP.person[-1], force=force, **{"count": 12, **asked})
    return decoded(ranked.recommend(request, now=NOW)[1])


@pytest.mark.slow
def test_contributions_add_up_to_the_score(ranked: Recommender) -> None:
    event = shown(ranked)
    told = ranked.explain(event)
    assert (told.recommendation_id, told.at, told.ranking) == ("r-1", NOW, "learned")
    assert (told.model_version, told.arm, told.forced) == ("1", LEARNED, True)
    assert [item.item_id for item in told.items] == event.properties["items"]
    served = as_impression(event)
    assert served is not None
    assert served.features is not None
    assert served.layout == layout(columns_fingerprint(definitions()))
    for item, row in zip(told.items, served.features.tolist(), strict=True):
        assert item.features is not None
        assert item.contributions is not None
        assert tuple(item.features) == tuple(item.contributions) == RANKING_FEATURES
        assert list(item.features.values()) == [None if it != it else it for it in row]
        parts = [it for it in item.contributions.values() if it is not None]
        assert len(parts) == len(RANKING_FEATURES)
        assert told.base is not None
        assert item.margin == pytest.approx(told.base + sum(parts), abs=1e-4)
        assert item.score == pytest.approx(item.margin, abs=1e-4)
    assert len({str(item.contributions) for item in told.items}) > 1
    assert any(abs(it or 0) > 0.01 for it in (told.items[0].contributions or {}).values())
    msgspec.json.encode(told)


@pytest.mark.parametrize("column", [0, 7, 30])
def test_each_contribution_is_told_of_its_own_feature(tmp_path: Path, column: int) -> None:
    make_model(version_directory(tmp_path, "1"), column)
    row = np.zeros((1, len(RANKING_FEATURES)), "<f4")
    row[0, column] = 5.0
    properties: dict[str, Any] = {"items": ["a"], "model_version": "1"}
    properties["features"] = b64encode(row.tobytes()).decode()
    event = Event(event_id="e", type="impression", timestamp=0, properties=properties)
    (item,) = Explainer(tmp_path).explain(event).items
    added = {name: value or 0.0 for name, value in (item.contributions or {}).items()}
    assert max(added, key=lambda name: added[name]) == RANKING_FEATURES[column]
    assert added[RANKING_FEATURES[column]] > 0.1


def test_a_list_of_the_heuristic_says_so(ranked: Recommender) -> None:
    told = ranked.explain(shown(ranked, HEURISTIC))
    assert (told.ranking, told.model_version, told.base) == ("heuristic", HEURISTIC, None)
    assert told.note is not None
    assert "not ranked by a model" in told.note
    assert {(item.features is None, item.margin is None) for item in told.items} == {(True, True)}


def test_filters_that_took_part_are_told(ranked: Recommender) -> None:
    told = ranked.explain(shown(ranked, category="kind-1", max_price=9.0, exclude=("a", "b")))
    plain = ranked.explain(shown(ranked))
    assert told.rules["filters"] == ["category: kind-1", "max_price: 9.0", "excluded: 2"]
    assert "filters" not in plain.rules


def test_explanations_stay_the_same(ranked: Recommender, trained: Served, tmp_path: Path) -> None:
    event = shown(ranked)
    models = Path(shutil.copytree(trained.models, tmp_path / "models"))
    for version in ("3", "4"):
        shutil.copytree(version_directory(models, "1"), version_directory(models, version))
    explainer = Explainer(models)
    now = explainer.explain(event)
    for version in ("2", "3", "4"):
        properties = {**event.properties, "model_version": version}
        explainer.explain(msgspec.structs.replace(event, properties=properties))
    assert len(explainer._forests) == 2, "forests are large: few are kept"
    assert explainer.explain(event) == now == ranked.explain(event)
    shutil.rmtree(version_directory(models, "1"))
    gone = Explainer(models).explain(event)
    assert gone.note is not None
    assert "no longer known" in gone.note
    assert [item.margin for item in gone.items] == [None] * 12
    assert [item.score for item in gone.items] == [item.score for item in now.items]


def test_what_is_no_list_is_refused(trained: Served) -> None:
    unreadable: list[dict[str, Any]] = [{}, {"items": []}, {"items": ["a"], "features": "%%"}]
    for properties in unreadable:
        event = Event(event_id="e", type="impression", timestamp=0, properties=properties)
        with pytest.raises(ModelError, match="not an impression that can be read"):
            Explainer(trained.models).explain(event)


def test_a_list_of_another_width_has_no_contributions(ranked: Recommender) -> None:
    event = shown(ranked)
    narrow = np.zeros((12, 3), "<f4").tobytes()
    properties = {**event.properties, "features": b64encode(narrow).decode()}
    told = ranked.explain(msgspec.structs.replace(event, properties=properties))
    assert told.note is not None
    assert "3 features" in told.note


@given(seed=st.integers(0, 10**6), depth=st.integers(1, 6), missing=st.floats(0, 0.5))
@settings(max_examples=15, deadline=None)
def test_contributions_add_up_in_any_forest(seed: int, depth: int, missing: float) -> None:
    draw = np.random.default_rng(seed)
    features = draw.standard_normal((60, 5)).astype(np.float32)
    features[draw.random(features.shape) < missing] = np.nan
    matrix = xgboost.DMatrix(features, draw.random(60))
    forest = xgboost.train({"max_depth": depth, "nthread": 1, "seed": seed}, matrix, 7)
    found = contributions_of(forest, features)
    margins = forest.inplace_predict(features, predict_type="margin")
    assert found.shape == (60, 6)
    assert np.allclose(found.sum(axis=1), margins, atol=1e-4)
    assert len(set(found[:, -1].tolist())) == 1


# Where lists are found


def impression(number: int, size: int = 10) -> bytes:
    about: dict[str, Any] = {"device_id": "d", "properties": {"items": ["i" * size]}}
    about |= {"event_id": f"impression:{number}", "recommendation_id": f"r-{number}"}
    return encode_entry(Event(type="impression", timestamp=number, **about))


def test_recent_lists_are_bounded_in_number_and_bytes() -> None:
    recent = RecentImpressions(most=3, bytes_=2_000)
    for number in range(5):
        recent.add(f"r-{number}", impression(number))
    assert [recent.find(f"r-{n}") is not None for n in range(5)] == [False, False, True, True, True]
    recent.add("r-9", impression(9, size=1_700))
    assert recent.find("r-9") is not None
    assert len(recent) < 3
    recent.add("r-9", impression(9))
    for number in range(3):
        recent.add(f"r-{number}", impression(number))
    assert len(recent) == 3, "what was replaced gave its bytes free"


def test_a_list_is_found_among_the_newest_records_only(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log", durability="process")
    log.append([impression(number) for number in range(5_000)])
    for number, latest, found in ((4_999, 1, True), (4_998, 1, False), (10, 5_000, True)):
        event = find_impression(log, f"r-{number}", latest=latest)
        assert (event is not None) == found
        assert event is None or event.timestamp == number
    assert find_impression(log, "r-49", latest=10) is None, "r-4990 to r-4999 are others"
    log.close()


def test_it_is_asked_for_over_http_also_after_a_restart(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        live.http.put("/v1/items", json=[{"item_id": "a"}])
        wait_until(lambda: "a" in live.platform.engine.items)
        given = live.http.post("/v1/recommend", json={"user_id": "u", "explain": True}).json()
        path = f"/v1/explain/{given['recommendation_id']}"
        assert live.http.get(path).json() == given["explanation"]
        with Client(live.url) as client:
            told = client.explain(given["recommendation_id"])
        assert msgspec.to_builtins(told) == given["explanation"]
        assert live.http.get("/v1/explain/nobody").json()["code"] == "not_found"
    with Live(Platform.open(settings, build)) as again:
        assert again.http.get(path).json() == given["explanation"]
