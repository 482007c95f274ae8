"""Recommendations over HTTP: first clicks, new items, arms and placement rules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.platform.shop import DAY, entries, make_shop, train_version, write_log
from tests.platform.support import Live, logged, logged_ids, small_settings, wait_until

from tactful.config.engine import EngineSettings
from tactful.config.recommendation import RecommendSettings
from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful.maintenance.doctor import examine
from tactful.ranking.model import Pointer, version_directory, write_pointer
from tactful.recall.index import RecallIndex
from tactful.recommend.build import build, open_shown
from tactful.recommend.recommender import HEURISTIC, LEARNED, RANKING_EXPERIMENT
from tactful.rerank.arm_policy import ranking_experiment
from tactful.rerank.frequency_caps import ShownToday
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Entry, Event, Item, User

SHOP = make_shop(7, people=14, items=70, days=40)
NOW = int(SHOP.timestamp[-1]) + 1
BOTH = (HEURISTIC, LEARNED)
EVERYBODY = sorted(set(SHOP.person))
EXPERIMENTS = """
- key: ranking
  arms:
    - {name: heuristic, weight: 0.1}
    - {name: learned, weight: 0.3}
    - {name: campaigns, weight: 0.2, parameters: {objective: {relevance: 1, campaign: 10}}}
    - {name: varied, weight: 0.2, parameters: {diversity: {strength: 50, places: 5}}}
    - {name: curious, weight: 0.2, parameters: {exploration: {temperature: 1, places: 5, pool: 9}}}
"""
RULES = """
- {name: welcome, pin: item-004, position: 2, page: home}
- {name: few_of_kind_0, category: kind-0, at_most: 1, within: 10}
- {name: kind_7, category: kind-7, at_least: 2, within: 5, page: cart}
- {name: missing, pin: no-such-item, position: 3, page: cart}
- {name: new_items, new: true, at_least: 1, within: 20}
- {name: item_cap, item: any, per_day: 2}
"""


def described() -> list[Entry]:
    """Return the shop, with two kinds of users, half of each."""
    found: list[Entry] = []
    for entry in entries(SHOP):
        if isinstance(entry, User):
            kind = "FM"[EVERYBODY.index(entry.user_id) % 2]
            entry = msgspec.structs.replace(entry, properties={"gender": kind, "member": True})
        if isinstance(entry, Item) and entry.item_id in ("item-008", "item-009"):
            entry = msgspec.structs.replace(entry, properties={"campaign": "spring"})
        found.append(entry)
    return found


@dataclass(frozen=True)
class Shop:
    """A data directory with a log and a model."""

    settings: Settings
    index: RecallIndex


@pytest.fixture
def shop(trained: Path, tmp_path: Path) -> Shop:
    settings = small_settings(tmp_path)
    (tmp_path / "experiments.yaml").write_text(EXPERIMENTS)
    (tmp_path / "placement.yaml").write_text("")
    settings = replace(
        settings,
        engine=EngineSettings(clock="events", commit_ms=20),
        storage=replace(settings.storage, models=trained),
        recommend=RecommendSettings(
            experiments=tmp_path / "experiments.yaml", placement=tmp_path / "placement.yaml"
        ),
    )
    write_log(settings.storage.data / "log", described()).close()
    return Shop(settings, RecallIndex.load(version_directory(trained, "1") / "index"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shaped")
    log = write_log(directory / "log", described())
    models = directory / "models"
    train_version(log, models)
    log.close()
    write_pointer(models, Pointer(version="1"))
    return models


@contextmanager
def serving(shop: Shop, rules: str = "", shown: ShownToday | None = None) -> Iterator[Live]:
    shop.settings.placement.write_text(rules)
    shown = shown or open_shown(shop.settings)
    consumers = {} if shown is None else {"shown": shown}
    platform = Platform.open(shop.settings, partial(build, shown=shown), consumers=consumers)
    with Live(platform) as live:
        wait_until(lambda: len(ask(live)["items"]) == 20, 60)  # the catalogue is refreshed
        yield live


def ask(live: Live, arm: str = LEARNED, **fields: Any) -> dict[str, Any]:
    body = {"timestamp": NOW, "force": {RANKING_EXPERIMENT: arm}, **fields}
    answer = live.http.post("/v1/recommend", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["items"] or found["fallback"], "an empty list says why"
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def alike(shop: Shop, items: list[str]) -> float:
    """Sum of the cosines of all pairs of items."""
    vectors = shop.index.vectors[[shop.index.item_ids.index(item) for item in items]]
    return float((vectors @ vectors.T).sum())


def shaped(shop: Shop, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the logged properties of a recommendation."""
    wanted = f"impression:{answer['recommendation_id']}"
    wait_until(lambda: wanted in logged_ids(shop.settings.storage.data), 60)
    (shown,) = (
        entry
        for entry in logged(shop.settings.storage.data)
        if isinstance(entry, Event) and entry.event_id == wanted
    )
    return dict(shown.properties)


# Cold start


@pytest.mark.slow
def test_the_first_click_is_used_at_once(shop: Shop) -> None:
    """In each arm, for new users with and without a description."""
    described = {"gender": "F", "member": True}
    with serving(shop) as live:
        shown = {arm: {*ids(ask(live, arm, user_id="nobody", count=100))} for arm in BOTH}
        for number, (arm, properties) in enumerate(product(BOTH, ({}, described))):
            user = {"user_id": f"new-{number}", "session_id": f"first-{number}"}
            if properties:
                body = {"user_id": user["user_id"], "timestamp": NOW - 9, "properties": properties}
                assert live.http.put("/v1/users", json=[body]).json()["accepted"] == 1
            before = ask(live, arm, **user, after=0)
            # The item that follows most often may be a service, which is never recommended.
            clicked = next(it for it in ids(before) if strongest_after(shop, it) in shown[arm])
            click = {"event_id": f"c-{number}", "type": "click", "timestamp": NOW + 1, **user}
            sent = live.http.post("/v1/events", json={**click, "item_id": clicked}).json()
            after = ask(live, arm, **user, after=sent["position"], timestamp=NOW + 2)
            assert "no history yet" in before["fallback"]
            assert after["fallback"] is None
            assert ids(after) != ids(before)
            strongest = strongest_after(shop, clicked)
            assert strongest is not None
            place = ids(before).index(strongest) if strongest in ids(before) else 20
            assert ids(after).index(strongest) < place, "what follows the click came up"


def strongest_after(shop: Shop, item: str) -> str | None:
    """Return the item that follows an item most often, if any."""
    found = int(shop.index.following.items[row(shop, item)][0])
    return shop.index.item_ids[found] if found >= 0 else None


def row(shop: Shop, item: str) -> int:
    found = shop.index.item_ids.row(item)
    assert found is not None
    return found


def test_what_people_are_decides_until_they_do_something(shop: Shop) -> None:
    assert shop.index.cohorts.layout.values == {"member": {"yes": 0}}, "others are too small"
    with serving(shop) as live:
        body = [{"user_id": "new", "timestamp": NOW - 9, "properties": {"member": True}}]
        sent = live.http.put("/v1/users", json=body).json()
        assert sent["accepted"] == 1
        described = ask(live, user_id="new", after=sent["position"])
        known = ask(live, user_id=EVERYBODY[0])
        other = ask(live, user_id="nobody-described")
    assert described["model_version"] == other["model_version"] == HEURISTIC
    assert "the cohorts of the user" in described["fallback"]
    assert known["model_version"] == "1"
    assert known["fallback"] is None
    assert "ordered by popularity" in other["fallback"]


def test_a_new_item_is_recommended_within_a_minute(shop: Shop) -> None:
    rules = Settings().placement.read_text("utf-8")
    with serving(shop, rules) as live:
        assert "new-one" not in ids(ask(live, user_id=EVERYBODY[0]))
        item = {"item_id": "new-one", "category": "kind-3", "price": 2.0}
        assert live.http.put("/v1/items", json=[item]).json()["accepted"] == 1
        for arm in (LEARNED, HEURISTIC):
            for who in (*EVERYBODY[:4], "nobody-yet"):
                asked = partial(ask, live, arm, user_id=who)
                wait_until(lambda asked=asked: "new-one" in ids(asked()), 60)  # type: ignore[misc]
        short = ids(ask(live, user_id=EVERYBODY[0], count=10))
        assert len(short) == 10, "a short list owes less"
        gone = ids(ask(live, user_id=EVERYBODY[0], exclude=["new-one"]))
        assert "new-one" not in gone
        assert len(gone) == 20


@pytest.mark.slow
def test_people_of_whom_nothing_is_known_are_shown_different_new_items(shop: Shop) -> None:
    """Each is drawn with one chance in twelve, and the impression says so."""
    new = [{"item_id": f"new-{number}", "category": f"kind-{number}"} for number in range(12)]
    with serving(shop, Settings().placement.read_text("utf-8")) as live:
        assert live.http.put("/v1/items", json=new).json()["accepted"] == 12
        wait_until(lambda: "new-" in " ".join(ids(ask(live, user_id="first"))), 60)
        answers = [ask(live, user_id=f"cold-{number}") for number in range(30)]
        said = [shaped(shop, answer) for answer in answers]
    came = [[item for item in ids(answer) if item.startswith("new-")] for answer in answers]
    assert {len(items) for items in came} == {1}
    assert len({item for items in came for item in items}) >= 6, "fails once in 20 million"
    assert [it["drawn_new"] for it in said] == came
    assert {round(it["drawn_new_propensities"][0], 4) for it in said} == {0.0833}


def test_a_list_is_never_empty_without_a_reason(shop: Shop) -> None:
    everything = [item["item_id"] for item in SHOP.items]
    with serving(shop, RULES) as live:
        for fields in (
            {},
            {"user_id": "new"},
            {"device_id": "new"},
            {"user_id": EVERYBODY[0], "category": "no-such"},
            {"user_id": EVERYBODY[0], "exclude": everything},
            {"user_id": "new", "min_price": 1e6},
            {"user_id": EVERYBODY[0], "count": 1, "context": {"page": "cart"}},
        ):
            for arm in (LEARNED, HEURISTIC):
                answer = ask(live, arm, **fields)
                if len(answer["items"]) < int(str(fields.get("count", 20))):
                    assert "only" in answer["fallback"]


# Arms


def test_arms_weigh_vary_and_explore_and_say_so(shop: Shop) -> None:
    person = EVERYBODY[1]
    with serving(shop) as live:
        campaigns = ask(live, "campaigns", user_id=person)
        pairs = [[ask(live, arm, user_id=who) for arm in (LEARNED, "varied")] for who in EVERYBODY]
        plain, varied = pairs[1]
        curious = [ask(live, "curious", user_id=person) for _ in range(6)]
        answers = {"plain": plain, "campaigns": campaigns, "varied": varied, "curious": curious[0]}
        said = {name: shaped(shop, answer) for name, answer in answers.items()}
    assert set(ids(campaigns)[:2]) == {"item-008", "item-009"}
    assert said["campaigns"]["objective"] == ["relevance=1", "campaign=10"]
    assert [item["score"] for item in campaigns["items"]] == said["campaigns"]["scores"]
    assert ids(varied)[0] == ids(plain)[0]
    assert ids(varied) != ids(plain)
    of_plain, of_varied = (sum(alike(shop, ids(pair[arm])[:5]) for pair in pairs) for arm in (0, 1))
    assert of_varied < of_plain
    assert said["varied"]["diversity"] == 50.0
    best = sorted(plain["items"], key=lambda item: -item["score"])
    pool = {item["item_id"] for item in best[:9]}
    assert all(set(ids(each)[:5]) <= pool for each in curious)
    assert len({tuple(ids(each)) for each in curious}) > 1, "once in 15,000^5 all are alike"
    chances = said["curious"]["propensities"]
    assert len(chances) == 20
    assert all(0.0 < chance < 1.0 for chance in chances[:5])
    assert chances[5:] == [1.0] * 15
    # The first place: a softmax over the pool's scores at temperature 1.
    scores = {item["item_id"]: item["score"] for item in plain["items"][:9]}
    total = sum(math.exp(score) for score in scores.values())
    assert chances[0] == pytest.approx(math.exp(scores[ids(curious[0])[0]]) / total, rel=1e-4)
    for name in ("objective", "diversity", "temperature", "propensities", "placement"):
        assert name not in said["plain"]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("{objektive: {}}", "no parameter 'objektive'"),
        ("{objective: {margin: 11}}", r"arm 'learned': objective: .*\$\.margin"),
        ("{exploration: {temperature: -1}}", r"exploration: .*\$\.temperature"),
        ("{diversity: {places: 0}}", r"diversity: .*\$\.places"),
    ],
)
def test_a_wrong_arm_stops_the_start(shop: Shop, parameters: str, said: str) -> None:
    shop.settings.experiments.write_text(
        "- key: ranking\n  arms:\n    - {name: heuristic}\n"
        f"    - {{name: learned, parameters: {parameters}}}\n"
    )
    with pytest.raises(ConfigError, match=said), serving(shop):
        pass
    shop.settings.experiments.write_text("- key: other\n  arms: [{name: a}, {name: b}]\n")
    with pytest.raises(ConfigError, match="no experiment 'ranking'"), serving(shop):
        pass


@pytest.mark.parametrize(
    "asked", ["condition: {country: CH}", "prerequisites: [{experiment: page, arms: [a]}]"]
)
def test_what_no_request_tells_is_refused(tmp_path: Path, asked: str) -> None:
    path = tmp_path / "experiments.yaml"
    arms = "arms: [{name: a}, {name: b}]"
    page = f"- {{key: page, {arms}, coverage: 0.5}}\n"
    path.write_text(f"- {{key: ranking, {arms}, {asked}}}\n{page}")
    with pytest.raises(ConfigError, match="leave them out"):
        ranking_experiment(path)


def test_the_doctor_reads_what_lists_are_made_by(shop: Shop) -> None:
    def told() -> tuple[str, str]:
        check = next(it for it in examine(shop.settings) if it.name == "lists")
        return check.state, check.said

    shop.settings.placement.write_text(RULES)
    assert told() == ("ok", "5 arms, 6 placement rules")
    shop.settings.placement.write_text("- {name: a, category: tea, at_least: 4, within: 3}")
    reason = "rule 'a': at_least 4 do not fit within 3 positions"
    assert told() == ("failed", f"{shop.settings.placement}:1: {reason}")


# Rules


def test_rules_hold_and_are_logged(shop: Shop) -> None:
    kinds = {item["item_id"]: item.get("category") for item in SHOP.items}
    with serving(shop, RULES) as live:
        home = ask(live, user_id=EVERYBODY[2], context={"page": "home"})
        cart = ask(live, user_id=EVERYBODY[3], context={"page": "cart"})
        said_home, said_cart = shaped(shop, home), shaped(shop, cart)
    assert ids(home)[1] == "item-004"
    for answer in (home, cart):
        assert [kinds[item] for item in ids(answer)[:10]].count("kind-0") <= 1
    assert [kinds[item] for item in ids(cart)[:5]].count("kind-7") >= 2
    assert said_home["placement"] == ["welcome", "few_of_kind_0", "new_items", "item_cap"]
    assert "placement_short" not in said_home
    assert said_cart["placement_short"] == ["missing"]


def test_nobody_sees_an_item_more_often_than_the_cap_on_a_day(shop: Shop) -> None:
    shop.settings.placement.write_text(RULES)
    today = open_shown(shop.settings)
    assert today is not None
    with serving(shop, RULES, today) as live:
        shown: dict[str, int] = {}
        for number in range(5):
            answer = ask(live, user_id=EVERYBODY[0], count=20)
            for item in ids(answer):
                shown[item] = shown.get(item, 0) + 1
            total = 20 * (number + 1)
            if len(answer["items"]) == 20:
                wait_until(
                    lambda total=total: sum(today.of(EVERYBODY[0], NOW).values()) == total,  # type: ignore[misc]
                    60,
                )
        assert max(shown.values()) == 2
        assert len(shown) >= 50
        again = ask(live, user_id=EVERYBODY[0], timestamp=NOW + DAY)
        other = ask(live, user_id=EVERYBODY[1])
    assert len(again["items"]) == len(other["items"]) == 20


def test_caps_without_anything_that_counts_are_refused(shop: Shop) -> None:
    shop.settings.placement.write_text(RULES)
    with pytest.raises(ConfigError, match="'item_cap'"):
        Platform.open(shop.settings, build)


def test_a_rollout_changes_the_lists_of_those_who_get_it(shop: Shop) -> None:
    def cheap(person: str, arm: str) -> list[str]:
        force = {"ranking": LEARNED, "novel": arm}
        asked = {"user_id": person, "count": 20, "timestamp": NOW, "force": force}
        answer = live.http.post("/v1/recommend", json=asked)
        assert answer.status_code == 200, answer.text
        assert answer.json()["variant"]["novel"] == arm
        return [item["item_id"] for item in answer.json()["items"]]

    with Live(Platform.open(shop.settings, partial(build))) as live:
        for body in (
            {"key": "novel", "change": {"objective": {"novelty": 1}}, "stages": [0.5, 1]},
            {"key": "same", "change": {"model": "1"}, "stages": [0.5, 1]},
        ):
            body["accept_low_power"] = "a shop of few people"
            assert live.http.post("/v1/experiments", json=body).status_code == 201
            for step in ("shadow", "advance"):
                path = f"/v1/experiments/{body['key']}/{step}"
                assert live.http.post(path, json={"reason": "r"}).status_code == 200
        served = {"novel": 0.5, "same": 0.5}
        wait_until(lambda: live.http.get("/v1/models").json()["rollouts"] == served)
        person = EVERYBODY[0]
        forced = {"novel": "control", "same": "control"}
        asked = {"user_id": person, "force": forced}
        wait_until(  # the other model is loaded beside serving
            lambda: "same" in live.http.post("/v1/recommend", json=asked).json()["variant"]
        )
        assert cheap(person, "change") != cheap(person, "control")
        told = [
            live.http.post("/v1/recommend", json={"user_id": one, "timestamp": NOW}).json()
            for one in EVERYBODY
        ]
        arms = {each["variant"]["novel"] for each in told}
        assert arms == {"control", "change"}
        assert {each["variant"]["same"] for each in told} == arms
        assert {each["model_version"] for each in told} <= {"1", HEURISTIC}
        moved = live.http.post("/v1/experiments/novel/rollback", json={"reason": "odd"})
        assert moved.status_code == 200
        wait_until(lambda: "novel" not in live.http.get("/v1/models").json()["rollouts"])
    rollouts = [
        str(entry.properties["rollouts"])
        for entry in logged(shop.settings.storage.data)
        if isinstance(entry, Event) and "rollouts" in entry.properties
    ]
    assert sum("novel:" in each for each in rollouts) == len(told)  # forced ones are none of it
