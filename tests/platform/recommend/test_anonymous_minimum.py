"""Anonymous recommendations count an item only from a minimum number of people on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.shop import DAY, definitions, entries, make_shop, train_version, write_log
from tests.platform.support import Live, small_settings, wait_until

from tactful.config.engine import EngineSettings
from tactful.config.settings import Settings
from tactful.ranking.features import columns_fingerprint
from tactful.ranking.model import Pointer, write_pointer
from tactful.recall import live_view
from tactful.recall.takers import DAYS, NAME, Takers, without_takers
from tactful.recommend.build import build
from tactful.recommend.recommender import RANKING_EXPERIMENT, Recommender, RecommenderOptions
from tactful.schemas.recommendations import RecommendRequest
from tactful.server.platform import Platform
from tactful.workers.remote_features import RemoteFeatures
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_streaming.contract.log_entries import Entry, Event, Item, decode_entry, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.state.store import MemoryState

SHOP = make_shop(7, people=14, items=30, days=30)
ITEMS = [entry for entry in entries(SHOP) if isinstance(entry, Item)]
NOW = int(SHOP.timestamp[-1]) + 40 * DAY  # later than the sales of four weeks
LEAST = 3
EXPERIMENT = Experiment(RANKING_EXPERIMENT, (Arm("heuristic", 0.1), Arm("learned", 0.9)))

Take = tuple[int, int, int, int]  # person, item, days ago, and how they are known: see `events_of`
AGE = st.sampled_from([0, 1, 6, 20, 27, 60, 83, 84, 100])
TAKE = st.tuples(st.integers(1, 4), st.integers(0, 5), AGE, st.integers(0, 2))
OWN = st.tuples(st.just(0), st.integers(0, 5), st.sampled_from([0, 1, 6]), st.integers(0, 2))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("anonymous")
    log = write_log(directory / "log", entries(SHOP))
    train_version(log, directory / "models")
    log.close()
    write_pointer(directory / "models", Pointer(version="1"))
    return directory / "models"


def events_of(takes: Iterable[Take]) -> list[Event]:
    """Return what people took: as users, or as a user or device after the login of the device."""
    people = [
        Event(
            event_id=f"login-{person}",
            type="x.login",
            timestamp=NOW - 101 * DAY,
            user_id=f"user-{person}",
            device_id=f"device-{person}",
        )
        for person in range(5)
    ]
    for number, (person, item, days, known) in enumerate(takes):
        people.append(
            Event(
                event_id=str(number),
                type="purchase",
                timestamp=NOW - days * DAY,
                user_id=None if known == 2 else f"user-{person}",
                device_id=None if known == 0 else f"device-{person}",
                item_id=f"item-{item:03d}",
                properties={"category": f"kind-{item % 3}"},
            )
        )
    return people


def engine_of(takes: Iterable[Take], takers: Takers) -> Engine:
    """Return an engine with the catalogue, these events, and a later one at a fixed time."""
    options = EngineOptions(consumers={NAME: takers}, identity=Identity())
    engine = Engine(definitions(), MemoryState(), options)
    last = Event(event_id="last", type="view", timestamp=NOW, user_id="x")
    entries_of: list[Entry] = [*ITEMS, *events_of(takes), last]
    records = [encode_entry(entry) for entry in entries_of]
    engine.apply([*enumerate(records)])
    return engine


def answers(takes: Sequence[Take], models: Path) -> list[Any]:
    """Return an anonymous list, one of a visit, and one of a category: scores and columns."""
    takers = Takers(LEAST)
    options = RecommenderOptions(
        models=models,
        definitions=columns_fingerprint(definitions()),
        experiment=EXPERIMENT,
        takers=takers,
    )
    recommender = Recommender(engine_of(takes, takers), options)
    requests = (
        RecommendRequest(),
        RecommendRequest(session_id="other"),
        RecommendRequest(category="kind-1"),
    )
    found = [recommender.recommend(request, now=NOW) for request in requests]
    recommender.close()
    logged = [decode_entry(impression or b"") for _, impression in found]
    columns = [getattr(entry, "properties", {}).get("features") for entry in logged]
    return [(answer.items, column) for (answer, _), column in zip(found, columns, strict=True)]


def others(takes: Iterable[Take], item: int, person: int) -> set[int]:
    """Return who else took an item within the time that counts, by a plain search."""
    return {p for p, i, days, _ in takes if i == item and p != person and days < DAYS}


@pytest.mark.parametrize("trained", [False, True])
@settings(max_examples=30, deadline=None)
@given(takes=st.lists(TAKE, max_size=16), own=st.lists(OWN, min_size=2, max_size=5))
def test_no_list_shows_what_one_person_takes_among_few(
    trained: bool, models: Path, takes: list[Take], own: list[Take]
) -> None:
    """Takes of an item that fewer than two others took (of three) change no anonymous list."""
    public = [take for take in own if len(others(takes, take[1], 0)) >= LEAST - 1]
    directory = models if trained else models / "none"
    assert answers([*takes, *own], directory) == answers([*takes, *public], directory)


@settings(max_examples=150, deadline=None)
@given(takes=st.lists(TAKE, max_size=40), cut=st.integers(0, 45), gone=st.integers(0, 4))
def test_people_are_counted_exactly_also_after_restart_and_erasure(
    takes: list[Take], cut: int, gone: int
) -> None:
    """The common items are those of a plain search; an erased person is gone from memory and disk.

    A person counts once, as user and as device.
    """
    events = [event for event in events_of(takes) if event.item_id is not None]
    first, takers, restored = (Takers(LEAST) for _ in range(3))
    count(first, events[:cut])
    takers.restore(stored(first))
    count(takers, events[cut:])
    common = [f"item-{item:03d}" for item in range(6) if len(others(takes, item, -1)) >= LEAST]
    assert sorted(takers.common(NOW)) == common
    restored.restore(without_takers(stored(takers), [f"user-{gone}"]))
    takers.delete_users([f"user-{gone}"])
    left = set(takers.common(NOW))
    assert left == set(restored.common(NOW)) <= set(common)
    assert all(len(others(takes, int(item[-3:]), gone)) >= LEAST for item in left)


def count(takers: Takers, events: Iterable[Event]) -> None:
    """Count events in the histories of their users."""
    for event in events:
        takers.observe(f"user-{(event.user_id or event.device_id or '')[-1]}", event, None)


def stored(takers: Takers) -> bytes:
    """Return a snapshot, which is written after enough events."""
    view = Event(event_id="v", type="add_to_cart", timestamp=NOW, user_id="x", item_id="x")
    takers.observe("x", view, None)
    takers.before_commit()
    state = takers.snapshot()
    assert state is not None
    return state


def test_what_an_unknown_device_took_is_its_users_after_the_login() -> None:
    takers = Takers(2)
    take = partial(Event, event_id="e", type="add_to_cart", timestamp=NOW, item_id="tea")
    takers.observe("device:d", take(device_id="d"), None)
    takers.observe("ada", take(user_id="ada", device_id="d"), None)
    assert not takers.common(NOW)
    takers.observe("device:e", take(device_id="e"), None)
    assert takers.common(NOW) == ["tea"]
    assert not takers.common(NOW + (DAYS + 1) * DAY)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(live_view, "_POPULAR_S", 0.0)
    settings = small_settings(tmp_path)
    write_log(settings.storage.data / "log", entries(SHOP)).close()
    return replace(settings, engine=EngineSettings(clock="events", commit_ms=20))


@pytest.mark.slow
def test_one_cart_of_one_device_flips_no_anonymous_list(shop: Settings) -> None:
    """Ten devices move an item; one does not change a score, also not without consent."""
    takers = Takers(shop.recommend.anonymous_minimum)
    platform = Platform.open(shop, partial(build, takers=takers), consumers={NAME: takers})
    recommender: Any = platform.recommender
    with Live(platform) as live:

        def recommended(**fields: Any) -> list[dict[str, Any]]:
            asked = time.monotonic()
            wait_until(lambda: recommender.counted_at > asked)
            answer = live.http.post("/v1/recommend", json={"count": 31, **fields, "timestamp": NOW})
            items: list[dict[str, Any]] = answer.json()["items"]
            return items

        def take(*devices: str, taken: str = "new") -> None:
            events = [
                {"event_id": device, "type": "add_to_cart", "timestamp": NOW, "device_id": device}
                | {"item_id": taken, "properties": {"category": "kind-1"}}
                for device in devices
            ]
            sent = live.http.post("/v1/events", json=events).raise_for_status().json()
            applied = {"after": sent["position"], "timestamp": NOW}
            live.http.post("/v1/recommend", json=applied).raise_for_status()

        item = {"item_id": "new", "timestamp": NOW, "category": "kind-1", "price": 5.0}
        live.http.put("/v1/items", json=[item]).raise_for_status()
        wait_until(lambda: len(recommended()) == 31)
        take("clock-1", "clock-2", "clock-3", taken="unknown")  # windows end by them
        before = recommended()
        take("one")
        assert recommended() == before
        refused = {"device_id": "one", "context": {"consent": ""}}
        assert recommended(**refused) == before
        take(*(f"device-{number}" for number in range(8)))
        assert recommended() == before, "nine people"
        take("ten")
        places = [
            [item["item_id"] for item in items].index("new") for items in (before, recommended())
        ]
        assert places[1] < places[0], "of an item that few took the place is chance"


def test_workers_read_the_common_items_page_by_page() -> None:
    items = [f"item-{number}" for number in range(12)]

    class Pages:
        def request(self, asked: Any, kind: object) -> list[str]:
            return items[asked.start : asked.start + 5]

    pages: Any = Pages()
    assert RemoteFeatures(definitions(), pages, pages).common(NOW) == items
