"""The time of the latest event: not of impressions, not of stray dates, also after a restart."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.platform.shop import BEGIN, DAY

from tactful.recall.latest_event import NAME, LatestEvent
from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.state.store import MemoryState

FEATURES = "- {name: views, entity: user, event: view, aggregate: count, window: {size: 1h}}"
NOW = BEGIN + 400 * DAY


def event(at: int, type_: str = "view", received: int | None = NOW, **more: Any) -> Event:
    named: dict[str, Any] = {
        "event_id": f"{type_}-{at}",
        "type": type_,
        "timestamp": at,
        "user_id": "ada",
    }
    return Event(**named, item_id="tea", received_at=received, **more)


def latest(*events: Event) -> int:
    counter = LatestEvent()
    for each in events:
        counter.apply(each, None)
    again = LatestEvent()
    again.restore(counter.snapshot())
    assert again.at() == counter.at()
    return counter.at()


def test_only_events_about_items_count() -> None:
    assert latest() == 0
    assert latest(event(BEGIN), event(BEGIN - DAY)) == BEGIN
    for type_ in ("impression", "search", "leave", "payment"):
        assert latest(event(BEGIN), event(BEGIN + 9, type_, received=None)) == BEGIN, type_
    assert latest(event(BEGIN), event(BEGIN + 9, "purchase")) == BEGIN + 9


def test_a_fast_clock_and_a_stray_date_move_nothing() -> None:
    ahead = event(NOW + 9 * DAY, received=NOW)
    assert latest(event(NOW - 5, received=NOW), ahead) == NOW, "not beyond its receipt"
    stray = event(BEGIN + 300 * DAY)
    assert latest(event(BEGIN), stray, event(BEGIN + 1)) == BEGIN + 1
    assert latest(event(BEGIN), stray, stray, stray) == BEGIN + 300 * DAY, "several are believed"


@given(st.lists(st.integers(0, DAY - 1), min_size=1))
def test_of_many_events_the_latest_counts(times: list[int]) -> None:
    assert latest(*(event(BEGIN + at) for at in times)) == BEGIN + max(times)


def test_it_commits_with_the_engine() -> None:
    state = MemoryState()
    for number in (1, 2):
        counter = LatestEvent()
        options = EngineOptions(consumers={NAME: counter})
        engine = Engine(load_definitions(FEATURES), state, options)
        assert counter.at() == (BEGIN + 1 if number == 2 else 0)
        payload = encode_entry(event(BEGIN + number, received=None))
        engine.apply([(engine.offset, payload)])
        engine.commit()
        assert counter.at() == BEGIN + number
