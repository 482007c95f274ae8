"""A replay against a real server: its figures, its log, and a server that is killed on the way."""

from __future__ import annotations

import math
import signal
import threading
import time
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.platform import shop as shops
from tests.platform.shop import DAY, HOUR, definitions, engine_at, entries, make_shop, write_log
from tests.platform.support import Live, small_settings
from tests.platform.system.test_durability import Process

from tactful.client import Client
from tactful.config.engine import EngineSettings
from tactful.config.settings import Settings
from tactful.demo import replay as asking
from tactful.demo.datasets import Replay
from tactful.demo.replay import Outcomes, Replayer
from tactful.errors import TactfulError
from tactful.ranking.features import RANKING_FEATURES
from tactful.ranking.model import Pointer, version_directory, write_pointer
from tactful.recommend.build import build
from tactful.recommend.recommender import HEURISTIC, LEARNED, RANKING_EXPERIMENT
from tactful.server.platform import Platform
from tactful.statistics.counter import CLOCK_EVENT
from tactful.training.options import TrainingOptions
from tactful.training.train import train
from tactful_streaming.contract.log_entries import Entry, Event, decode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import MemoryState, RocksState


def nothing(count: int) -> None:
    """Hear of progress."""


def logged(data: Path) -> list[Entry]:
    with EmbeddedLog(data / "log", read_only=True) as log:
        return [decode_entry(payload) for _, payload in log.read(0, 10**7)]


def platform_settings(directory: Path) -> Settings:
    return replace(small_settings(directory), engine=EngineSettings(commit_ms=20))


# One replay, with a model, and what it left in the log


@dataclass(frozen=True)
class Told:
    """What a replay said and what the log says."""

    replay: Replay
    outcomes: Outcomes
    events: list[Event]
    heard: list[int]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    directory = tmp_path_factory.mktemp("asking")
    shop = make_shop(21, people=24, items=80, days=40)
    settings = platform_settings(directory)
    options = TrainingOptions(label_days=14, rounds=20, threads=1)
    with write_log(directory / "past", entries(shop)[: len(shop.items) + shop.cut]) as past:
        train(past, definitions(), version_directory(settings.models, "1"), options)
    write_pointer(settings.models, Pointer(version="1"))
    heard: list[int] = []
    with Live(Platform.open(settings, build)) as live, Client(live.url) as client:
        replayer = Replayer(client, shop)
        replayer.upsert(heard.append)
        replayer.send(shop.cut, heard.append)
        replayer.settle()
        live.platform.recommender.refresh(live.platform.lock)
        outcomes = replayer.ask(shop.asks, RANKING_EXPERIMENT, LEARNED, progress=heard.append)
        replayer.send(len(shop), heard.append)
    found = [it for it in logged(settings.storage.data) if isinstance(it, Event)]
    return Told(shop, outcomes, found, heard)


def impressions(told: Told) -> dict[tuple[str | None, int], list[Event]]:
    """Lists by visit and time, the person's own one first."""
    found: dict[tuple[str | None, int], list[Event]] = defaultdict(list)
    for event in told.events:
        if event.type == "impression":
            found[event.session_id, event.timestamp].append(event)
    return found


def answers(told: Told) -> dict[tuple[str | None, int], str]:
    """What was taken at each moment of each visit."""
    return {
        (event.session_id, event.timestamp): event.item_id
        for event in told.events
        if event.type == "add_to_cart" and event.item_id
    }


def items_of(impression: Event) -> list[str]:
    items = impression.properties["items"]
    assert isinstance(items, list)
    return [str(item) for item in items]


@pytest.mark.slow
def test_every_question_is_one_list_or_two_in_the_log(told: Told) -> None:
    lists = impressions(told)
    moments = [(ask.session_id, ask.at) for ask in told.replay.asks]
    assert len(set(moments)) == len(moments), "every question has a moment of its own"
    assert set(lists) == set(moments)
    for shown in lists.values():
        said = [(it.properties["arm"], it.properties["forced"]) for it in shown]
        assert said in ([(LEARNED, False)], [(HEURISTIC, False), (LEARNED, True)])
    arms = {it[0].properties["arm"] for it in lists.values()}
    assert arms == {LEARNED, HEURISTIC}, "both arms have people"


def test_the_served_figures_are_those_of_the_log(told: Told) -> None:
    hits, gains, places = [], [], []
    shown: set[str] = set()
    taken = answers(told)
    for moment, lists in impressions(told).items():
        tested = items_of(next(it for it in lists if it.properties["arm"] == LEARNED))
        assert len(tested) == 20
        shown.update(tested)
        place = tested.index(taken[moment]) if taken[moment] in tested else None
        hits.append(float(place is not None))
        gains.append(0.0 if place is None else 1 / math.log2(place + 2))
        places.append(0.0 if place is None else 1 / (place + 1))
    count = len(told.replay.asks)
    found = told.outcomes.served.quality(81)
    assert len(told.outcomes.served) == len(hits) == count
    assert 0.2 < found.hr20.value < 1.0
    assert found.hr20.value == pytest.approx(sum(hits) / count, abs=1e-12)
    assert found.ndcg20.value == pytest.approx(sum(gains) / count, abs=1e-12)
    assert found.mrr20.value == pytest.approx(sum(places) / count, abs=1e-12)
    assert found.coverage20.value == len(shown) / 81
    assert shops.SERVICE not in shown
    assert told.outcomes.short == 0


def test_the_experiment_counts_the_list_each_person_was_given(told: Told) -> None:
    arms: dict[str, dict[str | None, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    taken = answers(told)
    for moment, lists in impressions(told).items():
        own = lists[0]
        tally = arms[str(own.properties["arm"])][own.user_id]
        tally[0] += taken[moment] in items_of(own)
        tally[1] += 1
    assert told.outcomes.arms == arms
    people = [set(units) for units in told.outcomes.arms.values()]
    assert not people[0] & people[1], "a person stays in one arm"


def test_what_was_taken_is_credited_to_the_list_that_showed_it(told: Told) -> None:
    latest: dict[str | None, Event] = {}
    credited = 0
    for event in told.events:
        if event.type == "impression" and not event.properties["forced"]:
            latest[event.session_id] = event
        elif event.type != "impression":
            shown = latest.get(event.session_id)
            right = shown is not None and event.item_id in items_of(shown)
            assert (event.recommendation_id is not None) == right
            if right:
                assert shown is not None
                assert event.recommendation_id == shown.recommendation_id
                credited += 1
    assert credited > 50


def test_channels_are_of_the_items_that_were_right(told: Told) -> None:
    wanted: dict[str, int] = defaultdict(int)
    taken = answers(told)
    for moment, lists in impressions(told).items():
        tested = next(it for it in lists if it.properties["arm"] == LEARNED)
        channels = tested.properties["channels"]
        assert isinstance(channels, list)
        for item, channel in zip(items_of(tested), channels, strict=True):
            wanted[str(channel)] += item == taken[moment]
    assert told.outcomes.answered == {name: count for name, count in wanted.items() if count}


def test_everything_is_sent_once_in_order(told: Told) -> None:
    ids = [event.event_id for event in told.events if event.event_id.startswith("shop-")]
    own = [it for it in ids if not it.startswith("shop-clock-")]
    assert own == [f"shop-{number}" for number in range(len(told.replay))]
    shop = told.replay
    upserts, late = len(shop.items) + len(shop.users), len(shop) - shop.asks[-1].before
    assert sum(told.heard) == upserts + shop.cut + len(shop.asks) + late
    assert len(told.outcomes.latency_ms) == len(told.replay.asks)
    assert 1 < len(told.outcomes.freshness_ms) <= len(told.replay.asks) / 20 + 1


def test_the_clock_ticks_every_hour_before_what_happens_in_it(told: Told) -> None:
    clock = -1
    ticks = []
    for event in told.events:
        if event.type == CLOCK_EVENT:
            ticks.append(event.timestamp)
            clock = event.timestamp
        elif event.type != "impression":
            assert event.timestamp // HOUR * HOUR == clock
    assert ticks == list(range(ticks[0], ticks[-1] + HOUR, HOUR))


def test_a_list_knows_the_visit_up_to_its_question(told: Told) -> None:
    """The features logged with a list say how long the visit was: exactly what was sent so far."""
    column = RANKING_FEATURES.index("session_length")
    so_far: dict[str | None, int] = defaultdict(int)
    checked = 0
    for event in told.events:
        raw = event.properties.get("features")
        if isinstance(raw, str):
            rows = np.frombuffer(b64decode(raw), "<f4").reshape(-1, len(RANKING_FEATURES))
            assert set(rows[:, column]) == {so_far[event.session_id]}
            checked += 1
        elif event.item_id is not None:
            so_far[event.session_id] += 1
    assert checked >= len(told.replay.asks)


# What goes wrong


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    with Live(Platform.open(platform_settings(tmp_path), build)) as live:
        yield live


def test_what_the_server_refuses_ends_the_replay(server: Live) -> None:
    shop = make_shop(1, people=2, items=10, days=8)
    bad = replace(shop, items=[*shop.items, {"item_id": "bad", "price": -1.0}])
    with Client(server.url) as client:
        with pytest.raises(TactfulError, match="the server refused 1 of 12 records; the first: "):
            Replayer(client, bad).upsert(nothing)
        late = replace(shop, timestamp=shop.timestamp + 10 * 365 * DAY)
        with pytest.raises(TactfulError, match="the server refused"):
            Replayer(client, late).send(len(late), nothing)


def test_an_engine_that_does_not_catch_up_is_not_waited_for_for_ever(server: Live) -> None:
    shop = make_shop(1, people=2, items=10, days=8)
    with Client(server.url) as client:
        replayer = Replayer(client, shop)
        replayer.upsert(nothing)
        replayer.settle()
        assert isinstance(replayer.position, int)
        replayer.position += 1
        with pytest.raises(TactfulError, match=r"not caught up within 0\.1 s"):
            replayer.settle(timeout=0.1)


def test_a_failure_while_scoring_is_not_lost(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("scoring broke")

    monkeypatch.setattr(Replayer, "_score", fail)
    shop = make_shop(1, people=3, items=10, days=12)
    with Client(server.url) as client:
        replayer = Replayer(client, shop)
        replayer.upsert(nothing)
        with pytest.raises(RuntimeError, match="scoring broke"):
            replayer.ask(shop.asks, "ranking", LEARNED, progress=nothing)


# kill -9

SHORT = make_shop(31, people=8, items=30, days=6, guests=True)
"""Short enough that every event id is remembered to the end."""

LATER = int(SHORT.timestamp[-1]) + 1


def everything_known(engine: Engine) -> dict[str, Any]:
    """All that an engine computed from the replay, but for times of receipt."""
    people = [f"device:{p}" if p.startswith("guest-") else p for p in sorted(set(SHORT.person))]
    keys = {
        *(("user", person) for person in people),
        *(("session", session) for session in SHORT.session),
        *(("item", str(item["item_id"])) for item in SHORT.items),
        *(("category", str(item["category"])) for item in SHORT.items),
    }
    read = {f"{entity}/{key}": engine.read(entity, key, LATER) for entity, key in keys}
    catalogue = {it.item_id: (it.category, it.price, it.available) for it in engine.items.values()}
    return {**read, "items": catalogue, "users": sorted(engine.users)}


def uninterrupted(directory: Path) -> dict[str, Any]:
    with write_log(directory / "uninterrupted", entries(SHORT)) as log:
        return everything_known(engine_at(Engine(definitions(), MemoryState()), log, log.end))


def replayed(client: Client, replayer: Replayer) -> None:
    """The whole replay, questions and all."""
    replayer.upsert(nothing)
    replayer.send(SHORT.cut, nothing)
    replayer.ask(SHORT.asks, RANKING_EXPERIMENT, LEARNED, progress=nothing)
    replayer.send(len(SHORT), nothing)
    replayer.settle()


def state_of(server: Process) -> dict[str, Any]:
    assert server.end(signal.SIGTERM) == 0
    engine = Engine(definitions(), RocksState(server.data / "state"))
    assert engine.offset == len(logged(server.data))
    known = everything_known(engine)
    engine.close()
    return known


@pytest.mark.slow
def test_a_killed_replay_ends_as_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_BATCH", 25)
    wanted = uninterrupted(tmp_path)
    server = Process(tmp_path)
    server.start()
    failed: list[BaseException] = []
    client = Client(server.url, retries=400, sleep=lambda seconds: time.sleep(min(seconds, 0.1)))
    replayer = Replayer(client, SHORT)

    def run() -> None:
        try:
            replayed(client, replayer)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    killed = []
    for place in (SHORT.cut // 3, SHORT.cut * 9 // 10, (SHORT.cut + len(SHORT)) // 2):
        while replayer.sent < place and thread.is_alive():
            time.sleep(0.001)
        killed.append(replayer.sent)
        server.end(signal.SIGKILL)
        server.start()
    thread.join(120)
    client.close()
    assert not failed
    assert not thread.is_alive()
    assert killed[0] < killed[1] <= SHORT.cut < killed[2] < len(SHORT), "each in the middle"
    assert state_of(server) == wanted
    # All of it once more, from the very first event: nothing changes.
    server.start()
    with Client(server.url) as again:
        replayed(again, Replayer(again, SHORT))
    assert state_of(server) == wanted
    ids = [it.event_id for it in logged(server.data) if isinstance(it, Event)]
    assert len(set(ids)) == len(ids), "nothing was logged twice"
    assert {f"shop-{number}" for number in range(len(SHORT))} <= set(ids)
