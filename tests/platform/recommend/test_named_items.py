"""Requests that bring their own history, a page's item, or their own candidates."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.platform.shop import DAY, definitions, engine_at, entries, make_shop, train_version
from tests.platform.shop import write_log as write

from tactful.ranking.features import ASKED, RANKING_FEATURES, columns_fingerprint
from tactful.ranking.model import Pointer, write_pointer
from tactful.recall.takers import Takers
from tactful.recommend.recommender import RANKING_EXPERIMENT, Recommender, RecommenderOptions
from tactful.schemas.item_filter import ItemFilter
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import Candidate, Recommendation, RecommendRequest
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_streaming.contract.log_entries import Event, decode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

SHOP = make_shop(7, people=14, items=70, days=40)
NOW = int(SHOP.timestamp[-1]) + 1
EXPERIMENT = Experiment(RANKING_EXPERIMENT, (Arm("heuristic", 0.1), Arm("learned", 0.9)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Path]:
    directory = tmp_path_factory.mktemp("named")
    log = write(directory / "log", entries(SHOP))
    train_version(log, directory / "models")
    write_pointer(directory / "models", Pointer(version="1"))
    engine = engine_at(Engine(definitions(), MemoryState()), log, log.end)
    log.close()
    return engine, directory / "models"


def recommender(trained: tuple[Engine, Path], **changes: Any) -> Recommender:
    engine, models = trained
    options: dict[str, Any] = {
        "definitions": columns_fingerprint(definitions()),
        "experiment": EXPERIMENT,
    }
    return Recommender(engine, RecommenderOptions(models=models, **options, **changes))


def ask(ranked: Recommender, **fields: Any) -> Recommendation:
    return ranked.recommend(RecommendRequest(**fields), now=NOW)[0]


def ids(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


def followers() -> dict[str, str]:
    """Return the item that followed each item most often in a visit of this shop."""
    counts: dict[str, dict[str, int]] = {}
    last: dict[str, str] = {}
    for event in SHOP.events(0, len(SHOP)):
        if event.get("item_id") and event["type"] == "add_to_cart":
            before = last.get(event["session_id"])
            if before is not None and before != event["item_id"]:
                of = counts.setdefault(before, {})
                of[event["item_id"]] = of.get(event["item_id"], 0) + 1
            last[event["session_id"]] = event["item_id"]
    return {
        item: max(sorted(of), key=of.__getitem__)
        for item, of in counts.items()
        if max(of.values()) >= 5
    }


# A history that the request brings


def test_what_follows_the_items_of_the_request_comes_first(trained: tuple[Engine, Path]) -> None:
    ranked = recommender(trained)
    planted = followers()
    assert len(planted) >= 5
    hits = sum(
        follower in ids(ask(ranked, items=("no-such-item", item), count=5))
        for item, follower in planted.items()
    )
    blind = sum(follower in ids(ask(ranked, count=5)) for follower in planted.values())
    assert hits >= 0.8 * len(planted) > 2 * blind


def test_nothing_of_a_history_in_the_request_is_kept(trained: tuple[Engine, Path]) -> None:
    ranked = recommender(trained)
    items = tuple(item["item_id"] for item in SHOP.items[:3])
    answer, impression = ranked.recommend(RecommendRequest(items=items), now=NOW)
    assert answer.items
    assert impression is None
    assert answer.fallback is None
    with pytest.raises(ProblemError, match="cannot be explained"):
        ask(ranked, items=items, explain=True)


def test_the_latest_item_counts_most_and_a_repetition_once(trained: tuple[Engine, Path]) -> None:
    ranked = recommender(trained)
    first, second = list(followers())[:2]
    forth, back = ask(ranked, items=(first, second)), ask(ranked, items=(second, first))
    assert ids(forth) != ids(back)
    assert ids(ask(ranked, items=(second, first, second))) == ids(forth)


def common_items() -> tuple[Takers, set[str]]:
    """Count who took what, and return the items that ten people took."""
    takers = Takers(10)
    for event in entries(SHOP):
        if isinstance(event, Event):
            takers.observe(event.user_id, event, None)
    return takers, set(takers.common(NOW))


def visits() -> list[list[str]]:
    """Return the items of each visit, in order."""
    found: dict[str | None, list[str]] = {}
    for event in entries(SHOP):
        if isinstance(event, Event) and event.item_id:
            found.setdefault(event.session_id, []).append(event.item_id)
    return [*found.values()]


def test_an_unnamed_caller_is_shown_what_enough_people_took(trained: tuple[Engine, Path]) -> None:
    """With a minimum of ten people; the same history of a user of the shop has no minimum."""
    takers, common = common_items()
    rare = {item for visit in visits() for item in visit} - common
    assert len(rare) > 10
    ranked = recommender(trained, takers=takers)
    told = [visit for visit in visits() if rare & {*visit} and common & {*visit}][:20]
    shown, named = set(), set()
    for visit in told:
        items = tuple(item for item in visit if item in common)
        answer = ask(ranked, items=items, count=8)
        shown |= {item.item_id for item in answer.items if item.channel != "popular"}
        on_page = ask(ranked, item_id=items[-1], count=8)
        shown |= {item.item_id for item in on_page.items if item.channel != "popular"}
        named |= set(ids(ask(ranked, items=items, user_id="somebody", count=8)))
    assert shown <= common
    assert named & rare, "the attack works where nothing prevents it"
    assert len(ids(ask(ranked, items=items, count=60))) == 60, "the others follow by popularity"


@pytest.mark.parametrize("named", [False, True])
def test_candidates_of_an_unnamed_caller_tell_no_visit(
    trained: tuple[Engine, Path], named: bool
) -> None:
    """Of two rare items, the one of the same visit comes first by chance alone."""
    takers, common = common_items()
    rare = {item for visit in visits() for item in visit} - common
    ranked = recommender(trained, takers=takers)
    first = asked = 0
    for visit in visits():
        items = tuple(dict.fromkeys(item for item in visit if item in common))
        others = sorted(rare - {*visit})
        for item in sorted(rare & {*visit})[:1] if items else ():
            other = others[asked % len(others)]
            candidates = tuple(Candidate(item_id=it) for it in sorted((item, other)))
            user = {"user_id": "somebody"} if named else {}
            answer = ids(ask(ranked, items=items, candidates=candidates, **user))
            first += answer[0] == item
            asked += 1
    assert asked > 100
    # By chance the share is above .65 three times in ten thousand.
    assert (first / asked > 0.65) is named, "the attack works where nothing prevents it"


# The item of a page


def test_the_item_of_a_page_leads_and_is_not_returned(trained: tuple[Engine, Path]) -> None:
    ranked = recommender(trained)
    for item, follower in list(followers().items())[:5]:
        answer = ids(ask(ranked, item_id=item, user_id="stranger", count=10))
        assert item not in answer
        assert follower in answer
    assert len(ids(ask(ranked, item_id="no-such-item", count=10))) == 10


# Candidates of the request


def test_candidates_are_ranked_and_none_is_left_out(trained: tuple[Engine, Path]) -> None:
    ranked = recommender(trained)
    known = [item["item_id"] for item in SHOP.items[:12]]
    wanted = (*known, "unknown-1", "unknown-2", known[0])
    candidates = tuple(Candidate(item_id=item) for item in wanted)
    person = SHOP.person[0]
    answer = ask(ranked, user_id=person, candidates=candidates, count=50)
    assert sorted(ids(answer)[:12]) == sorted(known)
    assert ids(answer)[12:] == ["unknown-1", "unknown-2"]
    assert {item.channel for item in answer.items} == {"asked"}
    everything = ids(ask(ranked, user_id=person, count=1_000))
    common = [item for item in everything if item in known]
    assert [item for item in ids(answer) if item in common] == common, "as the ranking orders them"


def test_a_caller_who_names_nobody_gets_the_own_order(trained: tuple[Engine, Path]) -> None:
    ranked = recommender(trained)
    known = [item["item_id"] for item in SHOP.items[:12]]
    candidates = tuple(
        Candidate(item_id=item, score=1e6 / (place + 1)) for place, item in enumerate(known)
    )
    assert ids(ask(ranked, candidates=candidates)) == known
    assert ids(ask(ranked, candidates=candidates[::-1])) == known


def test_a_user_moves_the_candidates_that_the_user_takes(trained: tuple[Engine, Path]) -> None:
    """Of twenty results the first and a later one that is the best for the user lead."""
    ranked = recommender(trained)
    person = SHOP.person[0]
    best = ids(ask(ranked, user_id=person, count=1_000))
    results = [*sorted(best)[:19]]
    favourite = next(item for item in best if item not in results)
    results.insert(10, favourite)
    candidates = tuple(
        Candidate(item_id=item, text_match=-float(place)) for place, item in enumerate(results)
    )
    answer = ids(ask(ranked, user_id=person, candidates=candidates))
    assert answer.index(favourite) < 10
    assert answer.index(results[0]) < 10


def test_filters_hold_for_candidates_and_features_are_logged(trained: tuple[Engine, Path]) -> None:
    ranked = recommender(trained)
    items = {item["item_id"]: item for item in SHOP.items[:30]}
    kind = items["item-003"]["category"]
    candidates = tuple(
        Candidate(item_id=item, score=2.5, vector_match=0.5) for item in (*items, "unknown")
    )
    request = RecommendRequest(
        user_id=SHOP.person[0],
        force={RANKING_EXPERIMENT: "learned"},
        candidates=candidates,
        count=100,
        filter=ItemFilter(field="category", in_=(str(kind),)),
    )
    answer, impression = ranked.recommend(request, now=NOW)
    assert set(ids(answer)) == {it for it, item in items.items() if item["category"] == kind}
    assert impression is not None
    entry = decode_entry(impression)
    assert isinstance(entry, Event)
    raw = b64decode(str(entry.properties["features"]))
    table = np.frombuffer(raw, "<f4").reshape(-1, len(RANKING_FEATURES))
    columns = table[:, [RANKING_FEATURES.index(name) for name in ASKED]]
    assert columns[:, [0, 2]].tolist() == [[2.5, 0.5]] * len(answer.items)
    assert np.isnan(columns[:, 1]).all()
    explained = ranked.explain(entry)
    assert [item.item_id for item in explained.items] == ids(answer)


def test_a_request_of_every_new_field_survives_the_wire() -> None:
    text = (
        '{"items": ["a"], "item_id": "b", "discovery": 0.2, "candidates": [{"item_id": "c", '
        '"score": 1}], "filter": {"or": [{"field": "size", "in": [1, "x", true]}, '
        '{"not": {"field": "price", "max": 3}}]}}'
    )
    request = msgspec.json.decode(text, type=RecommendRequest)
    assert msgspec.json.decode(msgspec.json.encode(request), type=RecommendRequest) == request
    assert request.anonymous().items == ()
    assert NOW > DAY


# Room for what is new to the user


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_places_is_new_to_the_user(
    trained: tuple[Engine, Path], share: float
) -> None:
    engine, _ = trained
    person = SHOP.person[0]
    user: Any = engine.read("user", person, NOW)
    dealt_with = {*user["taken_last"], *user["seen_last"], *(it for it, _ in user["recent_items"])}
    by_setting = recommender(trained, discovery=share)
    by_request = recommender(trained, discovery=0.9)
    for answer in (
        ask(by_setting, user_id=person, count=20),
        ask(by_request, user_id=person, count=20, discovery=share),
    ):
        new = [item for item in ids(answer) if item not in dealt_with]
        assert len(answer.items) == 20
        assert len(new) >= round(20 * share)
    assert ids(ask(by_setting, count=20)) == ids(ask(by_request, count=20)), "of nobody all is new"
