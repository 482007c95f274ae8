"""Recommendations that are tried out: as served ones, and without a trace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.platform.recommend.test_recommender import decoded, features_of, ids
from tests.platform.shop import definitions, engine_at, entries, make_shop, write_log
from tests.platform.shop import train_version as trained
from tests.platform.support import Live, build, small_settings

from tactful.errors import ModelError
from tactful.ranking.features import column_names, columns_fingerprint
from tactful.ranking.model import Pointer, load_model, version_directory, write_pointer
from tactful.ranking.own_columns import own_columns
from tactful.recommend.made_up import MADE_UP, made_up_engine
from tactful.recommend.recommender import (
    HEURISTIC,
    LEARNED,
    RANKING_EXPERIMENT,
    Recommender,
    RecommenderOptions,
)
from tactful.recommend.trials import TrialOptions
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import RecommendRequest
from tactful.schemas.trials import MadeUpPerson, PastEvent, Trial
from tactful.server.platform import Platform
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_streaming.contract.log_entries import Event, User
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

SHOP = make_shop(7, people=8, items=30, days=30)
ENTRIES = entries(SHOP)
NOW = int(SHOP.timestamp[-1]) + 1
EXPERIMENT = Experiment(RANKING_EXPERIMENT, (Arm(HEURISTIC, 0.1), Arm(LEARNED, 0.9)))
FORCED = {RANKING_EXPERIMENT: LEARNED}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of the model, of which the first serves."""
    directory = tmp_path_factory.mktemp("tried")
    log = write_log(directory / "log", ENTRIES)
    for version, rounds in (("1", 6), ("2", 12)):
        trained(log, directory / "models", version, rounds)
    log.close()
    write_pointer(directory / "models", Pointer(version="1"))
    return directory / "models"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    log = write_log(tmp_path_factory.mktemp("engine") / "log", ENTRIES)
    return engine_at(Engine(definitions(), MemoryState()), log, log.end)


@pytest.fixture
def recommender(engine: Engine, models: Path) -> Recommender:
    options = RecommenderOptions(
        models=models, definitions=columns_fingerprint(definitions()), experiment=EXPERIMENT
    )
    return Recommender(engine, options)


def copy_of(user: str) -> MadeUpPerson:
    """Make up a person who did the same as a real one."""
    events = [it for it in ENTRIES if isinstance(it, Event) and it.user_id == user]
    described = [it for it in ENTRIES if isinstance(it, User) and it.user_id == user]
    return MadeUpPerson(
        events=tuple(
            PastEvent(
                item_id=event.item_id,
                type=event.type,
                seconds_ago=(NOW - event.timestamp) / 1000,
                properties=event.properties,
            )
            for event in events[-200:]
        ),
        properties=described[0].properties if described else {},
    )


@pytest.mark.parametrize("user", sorted({*SHOP.person})[:4])
def test_a_made_up_person_is_answered_as_a_real_one_with_the_same_history(
    recommender: Recommender, engine: Engine, user: str
) -> None:
    asked = RecommendRequest(count=10, force=FORCED)
    real, logged = recommender.recommend(msgspec.structs.replace(asked, user_id=user), now=NOW)
    person = made_up_engine(engine, copy_of(user), NOW)
    made_up = msgspec.structs.replace(asked, user_id=MADE_UP)
    tried = recommender.attempt(made_up, TrialOptions(person), now=NOW)
    assert tried.answer.items == real.items
    served, expected = (features_of(decoded(it)) for it in (tried.impression, logged))
    np.testing.assert_array_equal(served, expected)
    again, _ = recommender.recommend(msgspec.structs.replace(asked, user_id=MADE_UP), now=NOW)
    assert "this user has no history" in (again.fallback or ""), "the shop's engine knows nothing"


def test_each_channel_lists_what_it_proposes_by_itself(recommender: Recommender) -> None:
    user = str(SHOP.person[-1])
    request = RecommendRequest(user_id=user, count=20, exclude_taken=True)
    tried = recommender.attempt(request, TrialOptions(channel_count=1_000), now=NOW)
    assert {item.channel for item in tried.answer.items} <= tried.channels.keys()
    for item in tried.answer.items:
        assert item.item_id in tried.channels[item.channel]
    for listed in tried.channels.values():
        assert len(listed) == len({*listed})
    assert tried.channels["popular"], "popularity always has something to say"
    assert "repeat" not in tried.channels, "what was taken is filtered out"
    few = recommender.attempt(request, TrialOptions(channel_count=3), now=NOW).channels
    assert few == {name: listed[:3] for name, listed in tried.channels.items()}
    assert recommender.attempt(request, TrialOptions(), now=NOW).channels == {}


def test_another_version_ranks_the_candidates_of_the_champion(
    recommender: Recommender, models: Path
) -> None:
    request = RecommendRequest(user_id=str(SHOP.person[0]), count=15)
    with pytest.raises(ModelError, match="no version '3'"):
        recommender.load_to_compare("3")
    answers = {}
    for version in ("1", "2"):
        recommender.load_to_compare(version)
        tried = recommender.attempt(request, TrialOptions(model=version), now=NOW)
        answers[version] = tried.answer
        assert tried.answer.model_version == version
        names = column_names(own_columns(definitions()))
        model = load_model(
            version_directory(models, version),
            definitions=columns_fingerprint(definitions()),
            names=names,
        )
        scores = model.score(features_of(decoded(tried.impression)))
        shown = [item.score for item in tried.answer.items]
        np.testing.assert_allclose(shown, scores, rtol=1e-5)
    served, _ = recommender.recommend(msgspec.structs.replace(request, force=FORCED), now=NOW)
    assert answers["1"].items == served.items
    assert answers["2"].items != served.items
    with pytest.raises(ProblemError, match="without a model"):
        recommender.attempt(
            msgspec.structs.replace(request, force={RANKING_EXPERIMENT: HEURISTIC}),
            TrialOptions(model="2"),
            now=NOW,
        )


def test_a_version_needs_a_champion_to_stand_in_for(engine: Engine, tmp_path: Path) -> None:
    options = RecommenderOptions(
        models=tmp_path, definitions=columns_fingerprint(definitions()), experiment=EXPERIMENT
    )
    with pytest.raises(ProblemError, match="no model serves"):
        Recommender(engine, options).attempt(
            RecommendRequest(user_id="u"), TrialOptions(model="1"), now=NOW
        )


def test_nothing_is_left_of_a_trial(recommender: Recommender, engine: Engine) -> None:
    asked = RecommendRequest(user_id=str(SHOP.person[0]), count=10)
    before, offset = recommender.recommend(asked, now=NOW)[0], engine.offset
    for _ in range(3):
        tried = recommender.attempt(asked, TrialOptions(channel_count=5), now=NOW)
        assert ids(tried.answer) == ids(before)
    assert recommender.recommend(asked, now=NOW)[0].items == before.items
    assert engine.offset == offset


def test_a_made_up_person_costs_little(engine: Engine) -> None:
    """A trial holds the lock of the engine meanwhile."""
    person = copy_of(str(SHOP.person[0]))
    took = []
    for _ in range(5):
        began = time.thread_time()  # of the processor: others may have the machine
        made_up_engine(engine, person, NOW)
        took.append(time.thread_time() - began)
    assert min(took) < 0.25


# Over HTTP


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that checks keys, with two items; its client may administer."""
    settings = small_settings(tmp_path_factory.mktemp("trials"))
    settings = replace(settings, server=replace(settings.server, dev=False))
    with Live(Platform.open(settings, build)) as live:
        ingest = {"authorization": f"Bearer {live.create_key('ingest')}"}
        items = [{"item_id": name, "title": name.title(), "price": 2.0} for name in ("tea", "mug")]
        sent = live.http.put("/v1/items", json=items, headers=ingest).json()
        live.http.headers["authorization"] = f"Bearer {live.create_key('admin')}"
        live.http.post("/v1/recommend", json={"after": sent["position"]})
        yield live


def test_a_trial_is_answered_and_the_look_is_recorded(shop: Live) -> None:
    body = {
        "request": {"user_id": "ada", "count": 1},
        "variants": [{}, {"model": "tiny"}],
        "channel_count": 5,
    }
    ends = shop.platform.backend.ends()
    answer = shop.http.post("/v1/recommend/try", json=body)
    assert answer.status_code == 200, answer.text
    trial = msgspec.json.decode(answer.content, type=Trial)
    assert [len(it.recommendation.items) for it in trial.variants] == [1, 1]
    assert trial.variants[0].channels[0].channel == "all"
    assert {item.title for item in trial.items.values()} <= {"Tea", "Mug"}
    assert {it.recommendation.items[0].item_id for it in trial.variants} <= trial.items.keys()
    seen = shop.http.get("/v1/users/ada/accesses").json()["accesses"]
    assert [access["action"] for access in seen] == ["try"]
    assert seen[0]["by"].startswith("key ")
    tried = trial.variants[0].recommendation.recommendation_id
    assert shop.http.get(f"/v1/explain/{tried}").status_code == 404
    assert shop.platform.backend.ends() == ends


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"person": {}, "request": {"user_id": "u"}}, "$.person"),
        ({"person": {}, "request": {"items": ["tea"]}}, "$.person"),
        ({"request": {"explain": True}}, "$.request.explain"),
        ({"request": {"force": {"ranking": "learned"}}}, "$.request.force"),
        ({"variants": [{"model": "nothing"}]}, "$.variants"),
        ({"variants": []}, "$.variants"),
        ({"variants": [{"model": "../../data"}]}, "$.variants[0].model"),
        ({"variants": [{"model": "."}]}, "$.variants[0].model"),
        ({"variants": [{}] * 5}, "$.variants"),
        ({"person": {"events": [{"item_id": "tea", "type": "dance"}]}}, "$.person.events[0].type"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(
    shop: Live, body: dict[str, Any], field: str
) -> None:
    answer = shop.http.post("/v1/recommend/try", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["field"] == field


@pytest.mark.parametrize("scope", ["analyst", "recommend", "monitor", "ingest"])
def test_only_an_administrator_may_try(shop: Live, scope: str) -> None:
    headers = {"authorization": f"Bearer {shop.create_key(scope)}"}
    answer = shop.http.post("/v1/recommend/try", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")


def test_an_erased_person_is_not_looked_at(shop: Live) -> None:
    assert shop.http.delete("/v1/users/gone").status_code == 202
    answer = shop.http.post("/v1/recommend/try", json={"request": {"user_id": "gone"}})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    seen = shop.http.get("/v1/users/gone/accesses").json()["accesses"]
    assert [access["action"] for access in seen] == ["erase"]
