"""No tally counts what a client claims of lists beyond what the server gave to its person."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.shop import BEGIN, DAY, HOUR, Clock, write_log
from tests.platform.support import Live, TinyRecommender, now_ms, small_settings, wait_until

from tactful.config.settings import Settings
from tactful.event_log.impressions import encode_impression, find_impression, read_impressions
from tactful.event_log.recipients import LIFETIME_MS, open_ids
from tactful.experiments.controller import RolloutController
from tactful.experiments.definitions import GuardrailDefinition, RolloutDefinition, experiment_at
from tactful.experiments.store import RolloutStore
from tactful.experiments.tally import ArmOutcomes, PersonOutcome, read_arm_outcomes
from tactful.experiments.tuner import ProbedList, read_probed
from tactful.metadata.store import MetadataStore
from tactful.ranking.features import RANKING_FEATURES, layout
from tactful.rerank.frequency_caps import ShownToday
from tactful.schemas.recommendations import Recommendation, RecommendRequest
from tactful.server.platform import Platform
from tactful.training.options import TrainingOptions
from tactful.training.shown_rows import read_shown
from tactful_bandits.assignment.assign import Assignment, assign
from tactful_streaming.contract.log_entries import Event, decode_entry

SHOP = "https://shop.example"
DEVICES = [f"d{number}" for number in range(8)]
TYPES = ("click", "purchase")


class Shop(TinyRecommender):
    """Gives the lists of an experiment and of a rollout with a tuner, as the real one does."""

    def __init__(self, engine: Any, settings: Settings) -> None:
        super().__init__(engine)
        self.ids = open_ids(settings)

    def recommend(
        self, request: RecommendRequest, *, now: int
    ) -> tuple[Recommendation, bytes | None]:
        answer, _ = super().recommend(request, now=now)
        arm = assign(experiment_at("cheaper", 0.5), request.subject or "").arm
        drawn = {"rollouts": [f"cheaper:{arm}"], "tuner_state": [1.0], "tuner_drawn": [0.5]}
        arms = {"experiment": "ranking", "arm": arm, "rollouts": drawn["rollouts"]}
        identity = self.ids.sign(answer.recommendation_id, now, request.subject, arms)
        answer = msgspec.structs.replace(
            answer,
            recommendation_id=identity,
            variant={"ranking": str(arm), "cheaper": str(arm)},
        )
        return answer, encode_impression(
            request,
            answer,
            Assignment("ranking", arm, 0.5, 0.5, False),
            at=now,
            applied=None,
            layout=layout("d"),
            features=np.zeros((len(answer.items), len(RANKING_FEATURES)), np.float32),
            more={**drawn, "tuner_log_density": 0.1},
        )


def build(*, engine: Any, settings: Settings) -> Shop:
    return Shop(engine, settings)


class Server:
    """A running shop, what it gave to each device, and its keys."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.began = now_ms()
        keys = live.platform.keys
        self.browser = keys.create(["browser"])[0]
        self.trusted = keys.create(["ingest", "recommend"])[0]
        self.number = itertools.count()
        items = [{"item_id": "tea"}, {"item_id": "cup"}]
        headers = {"authorization": f"Bearer {self.trusted}"}
        live.http.put("/v1/items", json=items, headers=headers)
        wait_until(lambda: len(live.platform.engine.items) == 2)
        self.given = {device: self.recommend(device) for device in DEVICES}
        self.post([self.event("click", device) for device in DEVICES[::2]])

    def recommend(self, device: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.browser}", "origin": SHOP}
        body = {"device_id": device}
        answer = self.live.http.post("/v1/recommend", json=body, headers=headers)
        return dict(answer.json())

    def event(self, type_: str, device: str, **changes: Any) -> dict[str, Any]:
        """An event about the first item of the list of a device."""
        identity = self.given.get(device, {}).get("recommendation_id")
        event = {"type": type_, "timestamp": now_ms(), "device_id": device, "item_id": "cup"}
        event |= {"event_id": f"e{next(self.number)}", "recommendation_id": identity}
        return {key: value for key, value in {**event, **changes}.items() if value is not None}

    def impression(self, device: str, arm: str, **changes: Any) -> dict[str, Any]:
        """An impression as only the server writes it."""
        properties: dict[str, Any] = {
            "items": ["cup", "tea"],
            "rollouts": [f"cheaper:{arm}"],
            "experiment": "ranking",
            "arm": arm,
            "model_version": "tiny",
            "tuner_state": [1.0],
            "tuner_drawn": [0.5],
            "tuner_log_density": 0.1,
        }
        return self.event("impression", device, item_id=None, properties=properties) | changes

    def post(self, events: list[dict[str, Any]], key: str | None = None) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {key or self.browser}", "origin": SHOP}
        answer = self.live.http.post("/v1/events", json=events, headers=headers)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def tallies(self) -> dict[str, Any]:
        """Everything that counts lists, and what they led to."""
        platform = self.live.platform
        asyncio.run_coroutine_threadsafe(self._flushed(), platform.recent._loop).result(60)
        (log,) = platform.backend.partitions()
        shown_today = ShownToday()
        for _, payload in log.read(log.begin, 10**6):
            if isinstance(entry := decode_entry(payload), Event):
                shown_today.apply(entry, None)
        until = now_ms() + 2 * HOUR
        span: Any = {"since": self.began, "until": until, "types": TYPES, "lasts": HOUR}
        options = TrainingOptions(outcome_hours=1.0)
        trained = read_shown(log, layout("d"), self.began, until, options, TYPES)
        first = self.given["d0"]["recommendation_id"]
        return {
            "experiment": read_arm_outcomes(log, "ranking", **span),
            "rollout": read_arm_outcomes(log, "cheaper", **span),
            "tuner": [(it.person, it.at, it.took) for it in read_probed(log, "cheaper", **span)],
            "training": (trained.taken.tolist(), trained.at.tolist()),
            "drift and skew": [it.event.recommendation_id for it in read_impressions(log)],
            "caps": {**shown_today._people},
            "explanation": find_impression(log, first, latest=10**6),
        }

    async def _flushed(self) -> None:
        self.live.platform.ingest.flush_internal()
        await asyncio.gather(*self.live.platform.recent.waiting)

    def controller(self, store: RolloutStore, clock: Clock) -> RolloutController:
        logs = self.live.platform.backend.partitions
        return RolloutController(store, logs, every_ms=60_000, clock=clock)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = small_settings(Path(tmp_path_factory.mktemp("shop")))
    server = replace(settings.server, dev=False, cors_origins=SHOP)
    limits = replace(settings.limits, browser_key_rate=0.0, device_rate=0.0)
    with Live(Platform.open(replace(settings, server=server, limits=limits), build)) as live:
        yield Server(live)


def test_what_was_given_counts_in_full(shop: Server) -> None:
    found = shop.tallies()
    for name in ("experiment", "rollout"):
        people = {
            person: (done.shown, done.took)
            for arm in found[name].arms.values()
            for person, done in arm.items()
        }
        assert people == {f"device:{d}": (1, d in DEVICES[::2]) for d in DEVICES}
    assert found["training"][0] == [True, False, False, False] * 4
    changed = [d for d in DEVICES if shop.given[d]["variant"]["cheaper"] == "change"]
    assert [(it[0], it[2]) for it in found["tuner"]] == [
        (f"device:{d}", d in DEVICES[::2]) for d in changed
    ]
    assert found["caps"]["device:d0"][1] == {"cup": 1, "tea": 1}
    assert found["explanation"].device_id == "d0"


def forged_devices(shop: Server, count: int = 60, **changes: Any) -> list[dict[str, Any]]:
    events = []
    for number in range(count):
        arm = "change" if number % 2 else "control"
        named = {key: value.format(number) for key, value in changes.items()}
        forged = {"recommendation_id": f"forged-{number}", **named}
        events.append(shop.impression(f"x{number}", arm, **forged))
        if arm == "control":
            events.append(shop.event("click", f"x{number}", **forged | {"event_id": f"c{number}"}))
    return events


def test_forged_devices_of_a_browser_key_count_for_nothing(shop: Server) -> None:
    before = shop.tallies()
    events = forged_devices(shop)
    for name in ("items", "rollouts", "experiment", "arm"):
        only = {name: shop.impression("x", "change")["properties"][name]}
        forged = {"item_id": "cup", "recommendation_id": "forged-0", "properties": only}
        events.append(shop.event("impression", "x0", **forged))
    forgeries = forged_devices(shop, event_id="impression:{}", recommendation_id="{}")
    events += [it for it in forgeries if it["type"] == "impression"]
    rejected = shop.post(events)["rejected"]
    refused = [n for n, event in enumerate(events) if event["type"] == "impression"]
    assert [(it["index"], it["code"]) for it in rejected] == [(n, "forbidden") for n in refused]
    assert "properties.items" in rejected[0]["message"]
    assert shop.tallies() == before
    seen = shop.event("impression", "d1", properties={"position": 0})  # as the client sends it
    assert shop.post([seen])["accepted"] == 1
    assert shop.tallies() == before


def test_forged_devices_move_no_rollout(shop: Server, sqlite: MetadataStore) -> None:
    clock = Clock()
    clock.at = shop.began - 10_000
    store = RolloutStore(sqlite, clock=clock)
    guard = GuardrailDefinition(metric="takers", minimum_units=100)
    change = {"objective": {"relevance": 1, "price": 0.3}}
    plan: dict[str, Any] = {"guardrails": (guard,), "stages": (0.5, 1.0), "stage_hours": 24.0}
    plan |= {"key": "cheaper", "change": change, "start": True}
    store.apply(RolloutDefinition(**plan), by="ann", reason="r")
    shop.post(forged_devices(shop, 640))
    shop.post(forged_devices(shop, 640), shop.trusted)
    clock.at = now_ms() + 2 * HOUR
    (look,) = shop.controller(store, clock).run()
    assert (look.state, look.guardrails) == ("canary", {"takers": "too few data"})


def clicks_of_others(shop: Server) -> list[dict[str, Any]]:
    return [shop.event("click", device, device_id="mallory") for device in DEVICES]


def clicks_of_another_user(shop: Server) -> list[dict[str, Any]]:
    named = {"device_id": None, "user_id": "mallory"}
    return [shop.event(type_, device, **named) for device in DEVICES for type_ in TYPES]


def made_up_ids(shop: Server) -> list[dict[str, Any]]:
    return [it for it in forged_devices(shop) if it["type"] == "impression"]


def _arm(shop: Server, device: str, other: bool = False) -> str:
    arm = str(shop.given[device]["variant"]["cheaper"])
    return {"change": "control", "control": "change"}[arm] if other else arm


def another_arm(shop: Server) -> list[dict[str, Any]]:
    return [shop.impression(it, _arm(shop, it, other=True)) for it in DEVICES]


def another_person(shop: Server) -> list[dict[str, Any]]:
    return [shop.impression(it, _arm(shop, it), device_id="mallory") for it in DEVICES]


def another_text_of_the_id(shop: Server) -> list[dict[str, Any]]:
    made = []
    for device in DEVICES:
        identity = shop.given[device]["recommendation_id"]
        for text in (f"{identity}=", f"{identity}\u00e9", identity[:-1] + "_", identity.upper()):
            made.append(shop.impression(device, _arm(shop, device), recommendation_id=text))
    return made


def an_expired_id(shop: Server) -> list[dict[str, Any]]:
    arms = {"experiment": "ranking", "arm": "change", "rollouts": ["cheaper:change"]}
    at = now_ms() - LIFETIME_MS - 1
    old = open_ids(shop.live.platform.settings).sign("old", at, "device:late", arms)
    return [shop.impression("late", "change", recommendation_id=old)]


def repeated(shop: Server) -> list[dict[str, Any]]:
    return [shop.impression(it, _arm(shop, it)) for it in DEVICES for _ in range(50)]


@pytest.mark.parametrize(
    "attack",
    [
        *(clicks_of_another_user, made_up_ids, another_arm, another_person),
        *(another_text_of_the_id, an_expired_id, repeated),
    ],
)
def test_a_server_key_proves_what_it_claims(
    shop: Server, attack: Callable[[Server], list[dict[str, Any]]]
) -> None:
    before = shop.tallies()
    answer = shop.post(events := attack(shop), shop.trusted)
    assert answer["accepted"] + answer["duplicates"] == len(events)
    assert shop.tallies() == before


def test_clicks_of_other_devices_count_for_nothing(shop: Server) -> None:
    before = shop.tallies()
    assert shop.post(clicks_of_others(shop))["accepted"] == len(DEVICES)
    assert shop.tallies() == before


@pytest.mark.parametrize("prefix", ["impression:", "coupon:"])
def test_event_ids_of_the_platform_are_its_own(shop: Server, prefix: str) -> None:
    before = shop.tallies()
    events = [shop.event("click", "d1", event_id=f"{prefix}1")]
    forged = {"event_id": f"{prefix}2", "recommendation_id": "2"}
    events.append(shop.impression("x", "change", **forged))
    for type_ in ("x.coupon_offer", "x.coupon_withheld"):
        events.append(shop.event(type_, "d1", properties={"campaign": "cart", "code": "free"}))
    for key in (shop.browser, shop.trusted):
        assert [it["code"] for it in shop.post(events, key)["rejected"]] == ["forbidden"] * 4
    assert shop.tallies() == before


def test_a_page_redeems_no_coupon(shop: Server) -> None:
    bought = {"price": 9.0, "coupon": "c", "discount": 0.0}
    (refused,) = shop.post([shop.event("purchase", "d1", properties=bought)])["rejected"]
    assert (refused["code"], "properties.coupon" in refused["message"]) == ("forbidden", True)


def test_a_thousand_repetitions_count_once(shop: Server) -> None:
    shop.given["many"] = shop.recommend("many")
    paid = {"price": 2.0, "quantity": 1}
    shop.post([shop.event("click", "many"), shop.event("purchase", "many", properties=paid)])
    before = shop.tallies()
    shop.post([shop.event("click", "many") for _ in range(1_000)])
    shop.post([shop.event("purchase", "many", properties=paid) for _ in range(1_000)])
    assert shop.tallies() == before
    arms = before["rollout"].arms.values()
    (done,) = (people["device:many"] for people in arms if "device:many" in people)
    assert (done.shown, done.took, done.revenue) == (1, 1, 2.0)


def test_a_signed_impression_that_the_log_lacks_counts_once(shop: Server) -> None:
    """The server lost it; the shop sends it with another time, and again after its outcome time."""
    arms = {"experiment": "ranking", "arm": "change", "rollouts": ["cheaper:change"]}
    at = now_ms()
    identity = open_ids(shop.live.platform.settings).sign("lost", at, "device:lost", arms)
    claims = {"recommendation_id": identity, "timestamp": at + 5_000}
    sent = [shop.impression("lost", "change", **claims, event_id=f"lost-{n}") for n in range(2)]
    for event in sent:
        event["properties"] |= {"failed": True, "scores": [1.0, 1.0], "took_ms": 1e9}
    assert shop.post(sent[:1], shop.trusted)["accepted"] == 1
    shop.post([shop.event("click", "lost", recommendation_id=identity)])
    shop.post(sent, shop.trusted)
    found = shop.tallies()
    assert found["rollout"].arms["change"]["device:lost"] == PersonOutcome(1, 1)
    assert "device:lost" not in {person for person, _, _ in found["tuner"]}
    assert found["caps"]["device:lost"][1] == {"cup": 1, "tea": 1}


def test_lists_of_an_earlier_system_train_and_count_for_no_experiment(shop: Server) -> None:
    before = shop.tallies()
    (log,) = shop.live.platform.backend.partitions()
    served = find_impression(log, shop.given["d0"]["recommendation_id"], latest=10**6)
    assert served is not None
    features = {name: served.properties[name] for name in ("layout", "features")}
    old = shop.impression("old", "change", recommendation_id="old-1")
    old["properties"] = {"items": ["cup", "tea"], "rollouts": ["cheaper:change"], **features}
    click = shop.event("click", "old", recommendation_id="old-1")
    of_others = shop.event("click", "mallory", recommendation_id="old-1", item_id="tea")
    assert shop.post([old, click, of_others], shop.trusted)["rejected"] == []
    after = shop.tallies()
    taken = after.pop("training")[0]
    assert taken == [*before.pop("training")[0], True, False]
    assert after == before


_IDS = st.sampled_from([*(f"r{number}" for number in range(6)), "x", "r0="])
_CLAIM = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["impression", *TYPES, "x.login", "add_to_cart"]),
        "sender": st.sampled_from(["browser", "server"]),
        "user_id": st.sampled_from([None, "mallory", "trent"]),
        "device_id": st.sampled_from(["m1", "m2"]),
        "event_id": st.one_of(_IDS, _IDS.map("impression:{}".format)),
        "recommendation_id": _IDS,
        "item_id": st.sampled_from([None, "cup", "tea"]),
        "timestamp": st.integers(BEGIN, BEGIN + 2 * HOUR),
        "properties": st.fixed_dictionaries(
            {},
            optional={
                "items": st.lists(st.sampled_from(["cup", "tea"])),
                "rollouts": st.sampled_from([["cheaper:change"], ["cheaper:control"], "x", [1]]),
                "experiment": st.just("cheaper"),
                "arm": st.sampled_from(["change", "control", None]),
                "price": st.floats(0, 1e9),
                "failed": st.booleans(),
                "scores": st.just([0.0, 0.0]),
            },
        ),
    }
)


@given(claims=st.lists(st.tuples(st.integers(0, 12), _CLAIM), max_size=20))
@hypothesis.settings(max_examples=50, deadline=None)
def test_no_claim_of_another_person_moves_a_tally(
    tmp_path_factory: pytest.TempPathFactory, claims: list[tuple[int, dict[str, Any]]]
) -> None:
    """Whatever is claimed of their lists, at any place of the log."""
    made: list[Event] = []
    for number in range(6):
        named: dict[str, Any] = {"recommendation_id": f"r{number}", "device_id": f"d{number}"}
        arm = "control" if number % 2 else "change"
        drawn: dict[str, Any] = {"tuner_state": [1.0], "tuner_drawn": [0.5]}
        drawn["rollouts"] = [f"cheaper:{arm}"]
        shown = {"items": ["cup", "tea"], **drawn, "tuner_log_density": 0.1}
        own: dict[str, Any] = {"event_id": f"impression:r{number}", "properties": shown}
        made.append(Event(type="impression", timestamp=BEGIN + number, **named, **own))
        sent: dict[str, Any] = {"event_id": f"c{number}", "item_id": "cup", "sender": "browser"}
        type_ = TYPES[number % 2]
        made.append(Event(type=type_, timestamp=BEGIN + HOUR // 2, **named, **sent))
    mixed = [*made]
    for place, claim in claims:
        mixed.insert(place, Event(**claim))

    def read(name: str, entries: list[Event]) -> tuple[ArmOutcomes, list[ProbedList]]:
        span: Any = {"since": BEGIN, "until": BEGIN + DAY, "types": TYPES, "lasts": HOUR}
        with write_log(tmp_path_factory.mktemp(name) / "log", entries) as log:
            arms = read_arm_outcomes(log, "cheaper", **span)
            return arms, read_probed(log, "cheaper", **span)

    assert read("mixed", mixed) == read("made", made)
