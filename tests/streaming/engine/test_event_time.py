"""Event time follows the events of a loaded history, and not a stray date among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.streaming.streams import START, engine_of, event_of, records

from tactful_streaming.contract.log_entries import Event
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.event_time import LEAP_MS, WITNESSES, EventTime
from tactful_streaming.state.store import MemoryState

DAY = LEAP_MS
LOADED = START + 1_000 * DAY
VISITS = load_definitions(
    "- {name: seen, entity: session, event: view, aggregate: last_n, of: item_id, n: 5, "
    "window: {size: 1d}}\n"
)


def view(number: int, at: int, received: int | None = LOADED, session: str = "s") -> Event:
    more = {"session_id": session, "item_id": f"i{number}", "received_at": received}
    return event_of(f"e{number}", "view", at, "u", **more)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_stray_date_in_a_history_makes_nothing_late(size: int) -> None:
    times = [START + n * 60_000 for n in range(20)]
    views = [view(number, at) for number, at in enumerate(times)]
    views[7] = view(7, START + 365 * DAY, session="other")
    events = records(views)
    engine = engine_of(VISITS)
    for begin in range(0, len(events), size):
        engine.apply(events[begin : begin + size])
    seen: Any = engine.read("session", "s", times[-1])["seen"]
    assert [item for item, _ in seen] == [f"i{number}" for number in (19, 18, 17, 16, 15)]
    assert engine.watermark == times[-1]


def test_event_time_follows_a_history_over_a_gap() -> None:
    engine = engine_of(VISITS)
    after = START + 90 * DAY
    for number, at in enumerate([START, *(after + n for n in range(WITNESSES))]):
        assert engine.watermark in (0, START)
        engine.apply([(number, records([view(number, at)])[0][1])])
    assert engine.watermark == after
    engine.apply([(WITNESSES + 1, records([view(9, after + 5)])[0][1])])
    assert engine.watermark == after + 5


@pytest.mark.parametrize("received", [None, START + 90 * DAY + 1_000])
def test_what_happens_now_moves_event_time_at_once(received: int | None) -> None:
    engine = engine_of(VISITS)
    engine.apply(records([view(0, START), view(1, START + 90 * DAY, received)]))
    assert engine.watermark == START + 90 * DAY


def test_a_restart_between_two_witnesses_changes_nothing() -> None:
    state = MemoryState()
    events = records([view(n, START + (n > 0) * 90 * DAY + n) for n in range(WITNESSES + 1)])
    first = engine_of(VISITS, state)
    first.apply(events[:WITNESSES])
    first.commit()
    assert first.watermark == START
    second = engine_of(VISITS, state)
    second.apply(events[WITNESSES:])
    assert second.watermark == START + 90 * DAY + 1


TIMES = st.lists(
    st.tuples(
        st.integers(0, 6 * DAY), st.sampled_from([None, 0, 30 * DAY]), st.integers(0, DAY * 2)
    ),
    max_size=30,
)


@given(TIMES, st.integers(0, 30), st.integers(0, 2 * DAY))
def test_many_events_at_once_move_it_as_one_by_one(
    times: list[tuple[int, int | None, int]], cut: int, delay: int
) -> None:
    reached = [at for at, _, _ in times]
    received = [None if lead is None else at + lead + more for (at, lead, more) in times]
    single, batched = EventTime(delay), EventTime(delay)
    expected = []
    for at, receipt in zip(reached, received, strict=True):
        before = single.newest, single.watermark
        single.advance(at, receipt)
        assert (single.newest, single.watermark) >= before
        expected.append((single.newest, single.watermark))
    found: list[tuple[int, int]] = []
    for part in (slice(0, cut), slice(cut, None)):
        if not reached[part]:
            continue
        receipts = [-1 if receipt is None else receipt for receipt in received[part]]
        columns = batched.advance_all(np.array(reached[part]), np.array(receipts))
        found += zip(*(column.tolist() for column in columns), strict=True)
    assert found == expected
    assert batched.ahead == single.ahead
