"""Sessions by example. Random streams: test_shared_aggregate.py."""

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from tactful_streaming.definitions.model import Feature
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.windows.columns import Selection
from tactful_streaming.windows.entity_table import EntityTable
from tactful_streaming.windows.triggers import WindowResult

COUNT = "- {name: n, entity: user, event: view, aggregate: count, window: {gap: 30ms}}\n"


def features(text: str = COUNT) -> tuple[Feature, ...]:
    return load_definitions(text).features


def feed(
    table: EntityTable, timestamps: Sequence[int], watermark: int | None = None, before: int = 0
) -> int:
    """Apply events of one key; returns how many were late.

    The watermark is given, or before each event the newest timestamp so far.
    """
    times = np.array(timestamps, np.int64)
    watermarks = np.maximum.accumulate(np.array([before, *timestamps[:-1]]))
    if watermark is not None:
        watermarks = np.full(len(times), watermark)
    rows = table.touch(["u"] * len(times), times)
    outcome = table.apply(0, Selection(rows, times, watermarks))
    return sum(map(len, outcome.late_by.values()))


def rows(fired: Iterable[WindowResult]) -> list[tuple[int, int, list[str], list[float]]]:
    return [(one.window_start, one.window_end, one.keys, one.values) for one in fired]


def test_silence_of_more_than_the_gap_ends_a_session() -> None:
    table = EntityTable(features(), emits=True)
    feed(table, [100, 110, 140])
    assert rows(table.emit(0, 140)) == []
    assert table.next_pending(140) is not None
    assert rows(table.emit(140, 169)) == []
    assert rows(table.emit(169, 170)) == [(100, 170, ["u"], [3.0])]
    assert [*table.emit(170, 1000)] == []
    assert table.next_pending(1000) is None


def test_events_a_gap_apart_are_one_session_further_ones_two() -> None:
    table = EntityTable(features(), emits=True)
    feed(table, [100, 130])
    assert rows(table.emit(0, 500)) == [(100, 160, ["u"], [2.0])]
    feed(table, [1000, 1031])
    assert rows(table.emit(500, 2000)) == [(1000, 1030, ["u"], [1.0]), (1031, 1061, ["u"], [1.0])]


def test_an_event_between_joins_two_sessions() -> None:
    table = EntityTable(features(), emits=True)
    feed(table, [100, 160, 130], watermark=0)
    assert rows(table.emit(0, 500)) == [(100, 190, ["u"], [3.0])]


def test_an_event_after_the_end_begins_anew_however_near_it_is() -> None:
    """Without allowed lateness no event joins a session that was emitted."""
    table = EntityTable(features(), emits=True)
    feed(table, [100])
    assert rows(table.emit(0, 130)) == [(100, 130, ["u"], [1.0])]
    assert feed(table, [110], watermark=130) == 0
    assert rows(table.emit(130, 140)) == [(110, 140, ["u"], [1.0])]


def test_an_event_is_late_if_its_own_session_is_over() -> None:
    table = EntityTable(features(), emits=True)
    feed(table, [200])
    assert feed(table, [100, 169, 170, 171], watermark=200) == 2
    assert rows(table.emit(0, 500)) == [(170, 230, ["u"], [3.0])]


def test_a_session_is_emitted_again_within_the_lateness() -> None:
    table = EntityTable(features(), emits=True, allowed_lateness_ms=50)
    feed(table, [100])
    assert rows(table.emit(0, 130)) == [(100, 130, ["u"], [1.0])]
    assert feed(table, [90], watermark=150) == 0
    assert rows(table.emit(130, 150)) == [(90, 130, ["u"], [2.0])]
    assert feed(table, [125], watermark=160) == 0
    assert rows(table.emit(150, 160)) == [(90, 155, ["u"], [3.0])]
    assert feed(table, [150], watermark=170) == 0
    assert rows(table.emit(160, 170)) == []
    assert rows(table.emit(170, 180)) == [(90, 180, ["u"], [4.0])]
    assert feed(table, [90], watermark=230) == 1
    assert [*table.emit(180, 1000)] == []


@pytest.mark.parametrize("cut", range(1, 7))
def test_where_a_batch_is_cut_does_not_matter(cut: int) -> None:
    """Sessions end within a batch, before events that would have joined them."""
    times = [100, 110, 200, 120, 171, 300, 150]
    table = EntityTable(features(), emits=True)
    middle = max(times[:cut])
    late = feed(table, times[:cut])
    fired = [*table.emit(0, middle)]
    late += feed(table, times[cut:], before=middle)
    fired += [*table.emit(middle, 1000)]
    assert late == 2
    ended = [(100, 140, 2.0), (171, 230, 2.0), (300, 330, 1.0)]
    assert rows(fired) == [(start, end, ["u"], [count]) for start, end, count in ended]


def test_a_read_sees_the_session_that_is_on() -> None:
    table = EntityTable(features())
    feed(table, [100, 110, 200], watermark=0)
    ages = [99, 100, 139, 140, 199, 200, 229, 230]
    assert [table.read("u", at)["n"] for at in ages] == [0, 2, 2, 0, 0, 1, 1, 0]


def test_groups_have_sessions_of_their_own() -> None:
    text = COUNT.replace("aggregate: count", "aggregate: count, group_by: category, max_groups: 2")
    table = EntityTable(features(text), emits=True)
    times = np.array([100, 120, 125, 140, 160], np.int64)
    got = table.touch(["u"] * 5, times)
    outcome = table.apply(0, Selection(got, times, times, None, ["a", "b", "a", "b", "c"]))
    # Group a was seen at 125, b at 140: a makes room for c. It ended at 155, before c came.
    assert outcome.evicted == 0
    fired = [*table.emit(0, 1000)]
    assert [(one.window_start, one.window_end, one.groups, one.values) for one in fired] == [
        (100, 155, ["a"], [2.0]),
        (120, 170, ["b"], [2.0]),
        (160, 190, ["c"], [1.0]),
    ]


def test_many_sessions_leave_no_timers_behind() -> None:
    table = EntityTable(features(), emits=True)
    for start in range(0, 100_000, 100):
        feed(table, [start, start + 10, start + 20, start + 5])
        [*table.emit(start, start + 20)]
        table.expire(start + 20)
    (part,) = table.aggregates[0].columns.values()
    assert len(part._timers) <= 2  # type: ignore[union-attr]
