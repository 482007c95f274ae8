"""The source ``day``: the UTC day of an event, as a group or a value."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

_DAY_MS = 86_400_000
DEFINITIONS = """
- {name: days, entity: user, event: view, aggregate: last_time, group_by: day}
- {name: latest, entity: user, event: view, aggregate: last_n, of: day, n: 1}
"""


@given(st.lists(st.integers(0, 40 * _DAY_MS), min_size=1, max_size=20), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_events_are_grouped_by_utc_day(times: list[int], batch: int) -> None:
    engine = Engine(load_definitions(DEFINITIONS), MemoryState())
    records = [
        (n, encode_entry(Event(event_id=f"{n}", type="view", timestamp=at, user_id="u")))
        for n, at in enumerate(times)
    ]
    for start in range(0, len(records), batch):
        engine.apply(records[start : start + batch])
    wanted: dict[str, int] = {}
    for at in times:
        day = datetime.fromtimestamp(at / 1000, UTC).date().isoformat()
        wanted[day] = max(wanted.get(day, 0), at)
    read = engine.read("user", "u", max(times))
    assert read["days"] == wanted
    assert read["latest"] == [(max(wanted), max(times))]
