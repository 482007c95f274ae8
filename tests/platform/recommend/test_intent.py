"""An intent changes the list by its weight: for anybody, with a trained model and without one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.platform.recommend import test_recommender
from tests.platform.recommend.test_recommender import ENTRIES, NOW, SHOP, Served, recommender
from tests.platform.shop import definitions, engine_at, write_log

from tactful.event_log.impressions import logged_event
from tactful.ranking.intent_effect import LoggedIntent
from tactful.recommend.recommender import HEURISTIC, LEARNED, RANKING_EXPERIMENT, Recommender
from tactful.schemas.recommendations import RecommendRequest
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

ALL = 70
WAYS = [(who, arm) for who in (None, SHOP.person[0]) for arm in (HEURISTIC, LEARNED)]


trained = test_recommender.served  # the fixture


@pytest.fixture(scope="module")
def server(trained: Served) -> Recommender:
    engine = engine_at(Engine(definitions(), MemoryState()), trained.log, trained.log.end)
    return recommender(engine, trained.models)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """A new shop: items, and nothing that was done with them."""
    directory = tmp_path_factory.mktemp("empty")
    log = write_log(directory / "log", ENTRIES[:ALL])
    engine = engine_at(Engine(definitions(), MemoryState()), log, log.end)
    return recommender(engine, directory / "models")


def category_of(server: Recommender) -> Mapping[str, str | None]:
    return {it.item_id: it.category for it in server._source.items.values()}


def ask(server: Recommender, person: str | None, arm: str | None, **more: Any) -> list[str]:
    force = {} if arm is None else {RANKING_EXPERIMENT: arm}
    request = RecommendRequest(user_id=person, force=force, count=ALL, discovery=0.0, **more)
    return [item.item_id for item in server.recommend(request, now=NOW)[0].items]


def share(server: Recommender, items: list[str], name: str, first: int = 10) -> int:
    kinds = category_of(server)
    return sum(kinds[item] == name for item in items[:first])


WEIGHTS = st.integers(0, 100).map(lambda it: it / 100)


@pytest.mark.parametrize(("person", "arm"), WAYS, ids=lambda it: it or "nobody")
@given(
    others=st.dictionaries(st.sampled_from(["kind-1", "kind-2", "unknown"]), WEIGHTS, max_size=3),
    weights=st.tuples(WEIGHTS, WEIGHTS),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_list_moves_one_way_with_the_weight(
    server: Recommender,
    person: str | None,
    arm: str,
    others: dict[str, float],
    weights: tuple[float, float],
) -> None:
    kinds = category_of(server)
    numbers, ranks = [], []
    for weight in sorted(weights):
        items = ask(server, person, arm, intent=others | {"kind-0": weight})
        numbers.append(share(server, items, "kind-0"))
        places = [place for place, item in enumerate(items) if kinds[item] == "kind-0"]
        ranks.append(float(np.mean(places)))
    assert numbers[0] <= numbers[1] and ranks[0] >= ranks[1]


@pytest.mark.parametrize(("person", "arm"), WAYS, ids=lambda it: it or "nobody")
def test_a_sure_intent_is_seen(server: Recommender, person: str | None, arm: str) -> None:
    plain = ask(server, person, arm)
    kinds = sorted({kind for kind in category_of(server).values() if kind})
    gained = [
        share(server, ask(server, person, arm, intent={kind: 1.0}), kind)
        - share(server, plain, kind)
        for kind in kinds
    ]
    assert min(gained) >= 0 and sum(gained) > 0
    for silent in ({}, {"no such kind": 1.0}, {kinds[0]: 0.0}, {kinds[0]: math.nan}):
        assert ask(server, person, arm, intent=silent) == plain


def test_a_new_shop_follows_an_intent(empty: Recommender) -> None:
    kinds = category_of(empty)
    for kind in sorted({it for it in kinds.values() if it}):
        items = ask(empty, None, None, intent={kind: 1.0})
        members = sum(it == kind for it in kinds.values())
        assert share(empty, items, kind) > share(empty, ask(empty, None, None), kind)
        assert share(empty, items, kind) >= min(10, members) / 2


def test_the_impression_says_what_the_intent_did(server: Recommender) -> None:
    for person, arm in WAYS:
        request = RecommendRequest(
            user_id=person, force={RANKING_EXPERIMENT: arm}, intent={"kind-0": 0.5, "茶": 1.0}
        )
        answer, payload = server.recommend(request, now=NOW)
        assert payload is not None
        event = logged_event(payload)
        assert event is not None
        told = LoggedIntent.read(event.properties["intent"])
        assert told is not None
        assert told.known == (person is not None) and told.total == 0.5
        explained = server.explain(event)
        assert "intent" not in explained.rules
        factors = [item.intent for item in explained.items]
        kinds = category_of(server)
        for item, factor in zip(answer.items, factors, strict=True):
            assert factor is not None
            assert (factor > 1 - told.trust * 0.5) == (kinds[item.item_id] == "kind-0")
        learned = arm == LEARNED and person is not None
        for told_of in explained.items if learned else ():
            assert told_of.margin is not None and told_of.intent is not None
            wanted = told_of.margin + math.log(told_of.intent)
            assert told_of.score == pytest.approx(wanted, abs=1e-4)
    plain, payload = server.recommend(RecommendRequest(), now=NOW)
    assert plain.items and payload is not None
    event = logged_event(payload)
    assert event is not None and "intent" not in event.properties
    assert {item.intent for item in server.explain(event).items} == {None}


def test_named_candidates_follow_an_intent(server: Recommender) -> None:
    kinds = category_of(server)
    candidates = [{"item_id": item, "score": 1.0} for item in sorted(kinds)]
    request = msgspec.convert(
        {"candidates": candidates, "intent": {"kind-0": 1.0}, "count": ALL}, RecommendRequest
    )
    items = [it.item_id for it in server.recommend(request, now=NOW)[0].items]
    assert len(items) == ALL
    assert share(server, items, "kind-0") >= 5
