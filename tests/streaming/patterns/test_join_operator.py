from collections.abc import Iterable
from collections.abc import Sequence as Rows

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.streaming.streams import event_of

from tactful_streaming.contract.log_entries import Event, Item, subject_key
from tactful_streaming.definitions.model import Join
from tactful_streaming.errors import StateError
from tactful_streaming.patterns.join_operator import MAX_PAIRS, JoinOperator, causes_in, without
from tactful_streaming.patterns.match import Match

WITHIN = 10
JOIN = Join(name="j", entity="user", events=("view", "click"), within_ms=WITHIN)
Entry = Event | Item


def feed(operator: JoinOperator, entries: Rows[Entry], watermarks: Rows[int]) -> None:
    """Apply a batch like an engine: first its events, then its updates."""
    pairs = list(zip(entries, watermarks, strict=True))
    events = [(e, w) for e, w in pairs if isinstance(e, Event)]
    items = [(i, w) for i, w in pairs if isinstance(i, Item)]

    def texts(source: str) -> list[str | None]:
        if source == "user_id":
            return [subject_key(e) for e, _ in events]
        return [e.item_id for e, _ in events]

    keys = [subject_key(e) for e, _ in events]
    watermarks_of_events = np.array([w for _, w in events], np.int64)
    operator.apply([e for e, _ in events], keys, watermarks_of_events, texts)
    operator.apply_items([i for i, _ in items], np.array([w for _, w in items], np.int64))


def watermarks_of(entries: Rows[Entry], delay: int) -> list[int]:
    newest, result = 0, []
    for entry in entries:
        if isinstance(entry, Event):
            newest = max(newest, entry.timestamp)
        result.append(max(newest - delay, 0))
    return result


def view(number: int, timestamp: int, item: str | None = "i", user: str = "u") -> Event:
    return Event(event_id=str(number), type="view", timestamp=timestamp, user_id=user, item_id=item)


def pair(match: Match) -> tuple[str, str | None, tuple[str, ...], int, int, int | None]:
    return (match.key, match.same, match.events, match.start, match.end, match.item_timestamp)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    entries: list[Entry] = []
    now = 1000
    for number in range(draw(st.integers(0, 25))):
        now += draw(st.integers(0, 6))
        timestamp = now - draw(st.sampled_from([0, 0, 0, 3, 9, 25]))
        item = draw(st.sampled_from("ij"))
        if draw(st.integers(0, 2)) == 0:
            entries.append(Item(item_id=item, timestamp=timestamp))
        else:
            type_ = draw(st.sampled_from(["view", "click", "leave"]))
            user = draw(st.sampled_from(["u", "v", None]))
            more = {"device_id": "d", "item_id": draw(st.sampled_from([item, item, None]))}
            entries.append(event_of(str(number), type_, timestamp, user, **more))
    return entries


@given(logs(), st.sampled_from([0, 5, 1000]), st.data())
@settings(max_examples=500, deadline=None)
def test_each_pair_is_found_once_however_the_log_is_cut(
    log: list[Entry], delay: int, data: st.DataObject
) -> None:
    watermarks = watermarks_of(log, delay)
    expected = [
        (subject_key(e), e.item_id, (e.event_id,), *sorted((e.timestamp, i.timestamp)), i.timestamp)
        for e, heard in zip(log, watermarks, strict=True)
        if isinstance(e, Event) and e.type in JOIN.events
        for i, item_heard in zip(log, watermarks, strict=True)
        if isinstance(i, Item) and i.item_id == e.item_id
        if abs(e.timestamp - i.timestamp) <= WITHIN
        if min(e.timestamp, i.timestamp) + WITHIN >= max(heard, item_heard)
    ]
    operator, found, start = JoinOperator(JOIN), list[Match](), 0
    stored: dict[str, bytes] = {}
    while start < len(log):
        end = data.draw(st.integers(start + 1, len(log)))
        feed(operator, log[start:end], watermarks[start:end])
        found += operator.take()
        start = end
        if data.draw(st.booleans()):
            operator.advance(watermarks[start - 1])
        if data.draw(st.booleans()):
            stored = save(operator, stored)
            operator = load(stored)
    assert sorted(map(pair, found)) == sorted(expected)
    if delay == 1000:
        assert operator.late == 0
    for key in ("u", "v", "device:d"):
        times = {e.event_id: e.timestamp for e in log if isinstance(e, Event)}
        events = {(times[m.events[0]], m.same, m.events[0]) for m in found if m.key == key}
        newest = [(item, timestamp) for timestamp, item, _ in sorted(events, reverse=True)]
        assert operator.read(key, 1000) == newest[:MAX_PAIRS]


def save(operator: JoinOperator, stored: dict[str, bytes]) -> dict[str, bytes]:
    changes = operator.pack_changes()
    kept = {key: blob for key, blob in stored.items() if key not in changes}
    return kept | {key: blob for key, blob in changes.items() if blob is not None}


def load(stored: dict[str, bytes]) -> JoinOperator:
    operator = JoinOperator(JOIN)
    for key, blob in stored.items():
        operator.unpack(key, blob)
    return operator


@pytest.mark.parametrize(("distance", "pairs"), [(-11, 0), (-10, 1), (0, 1), (10, 1), (11, 0)])
@pytest.mark.parametrize("item_first", [True, False])
def test_the_bound_belongs_to_the_pair_on_both_sides(
    distance: int, pairs: int, item_first: bool
) -> None:
    entries: list[Entry] = [Item(item_id="i", timestamp=1000 + distance), view(1, 1000)]
    operator = JoinOperator(JOIN)
    feed(operator, entries if item_first else entries[::-1], [0, 0])
    assert len(operator.take()) == pairs


@pytest.mark.parametrize("past", [0, 1])
@pytest.mark.parametrize("event_is_earlier", [True, False])
@pytest.mark.parametrize("event_is_first", [True, False])
def test_a_pair_is_missed_by_its_earlier_side(
    past: int, event_is_earlier: bool, event_is_first: bool
) -> None:
    """A pair is missed once the watermark is more than `within` past its earlier side."""
    event_at, update_at = (1000, 1005) if event_is_earlier else (1005, 1000)
    sides: list[Entry] = [view(1, event_at), Item(item_id="i", timestamp=update_at)]
    operator = JoinOperator(JOIN)
    arrival = [0, 1000 + WITHIN + past]
    for side, watermark in zip(sides if event_is_first else sides[::-1], arrival, strict=True):
        feed(operator, [side], [watermark])
    assert len(operator.take()) == 1 - past
    assert operator.late == (past and event_is_earlier and not event_is_first)


def test_events_too_old_for_a_pair_are_late() -> None:
    operator = JoinOperator(JOIN)
    feed(operator, [view(1, 1000), view(2, 989), view(3, 990), view(4, 995)], [1000] * 4)
    assert operator.late == 1


def test_state_leaves_with_the_watermark() -> None:
    operator = JoinOperator(JOIN)
    feed(operator, [Item(item_id="i", timestamp=1000), view(1, 1000), view(2, 1000, "j")], [0] * 3)
    assert operator.pack_changes().keys() == {"", "u"}
    operator.advance(1000 + WITHIN + 1_000_000)
    packed = operator.pack_changes()
    assert packed[""] is None, "the update is forgotten"
    assert operator.read("u", 2000) == [("i", 1000)]
    operator.advance(1000 + 31 * 86_400_000)
    assert operator.pack_changes() == {"u": None}


def test_pairs_are_read_for_some_time_only() -> None:
    operator = JoinOperator(JOIN, remembered_ms=500)
    feed(operator, [Item(item_id="i", timestamp=1000), view(1, 1000)], [0, 0])
    assert operator.read("u", 1499) == [("i", 1000)]
    assert operator.read("u", 1500) == []
    assert operator.read("nobody", 1000) == []


def test_merged_people_have_the_pairs_of_both() -> None:
    operator = JoinOperator(JOIN)
    feed(operator, [Item(item_id="i", timestamp=1000)], [0])
    views = [view(1, 1000, user="a"), view(2, 1001, user="b"), view(3, 1002, "j", "a")]
    feed(operator, views, [0] * 3)
    operator.take()
    stored = save(operator, {})
    operator.merge("a", "b")
    for merged in (operator, load(save(operator, stored))):
        assert merged.read("a", 1002) == []
        assert merged.read("b", 1002) == [("i", 1001), ("i", 1000)]
        feed(merged, [Item(item_id="j", timestamp=1003)], [0])
        (match,) = merged.take()
        assert (match.key, match.events) == ("b", ("3",))


def test_damaged_state_is_refused() -> None:
    for key in ("", "u"):
        with pytest.raises(StateError, match="damaged"):
            JoinOperator(JOIN).unpack(key, b"\xc1")


def test_dropped_events_are_removed_with_their_pairs() -> None:
    operator = JoinOperator(JOIN)
    views = [view(number, 1000 + number) for number in range(4)]
    feed(operator, [*views, Item(item_id="i", timestamp=1001)], [1000] * 5)
    blob = operator.pack_changes()["u"]
    assert blob is not None

    def drops(ids: Iterable[str], subject: str | None) -> bool:
        return not {"0", "3"}.isdisjoint(ids)

    left = without(blob, drops)
    assert left is not None
    other = JoinOperator(JOIN)
    other.unpack("u", left)
    assert sorted(other.read("u", 1004)) == [("i", 1001), ("i", 1002)]
    assert sorted(causes_in(left)) == [("1", "u"), ("2", "u")]
    assert without(left, drops) is left
    assert without(left, lambda ids, subject: True) is None
