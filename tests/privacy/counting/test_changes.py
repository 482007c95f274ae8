"""A snapshot and what changed since are, together, the counts: through clocks, caps and crashes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.errors import StateError
from tactful_privacy.ledger.statistic import DAY_MS, CapChoice, Statistic

HOUR = 3_600_000
KEYS = ("bread", "milk")
SECRET = b"a secret of tests only"
FIXED = Statistic("fixed", KEYS, HOUR // 2, 3, Fraction(1), cell_cap=2, hour_cap=2)
CHOSEN = replace(FIXED, name="chosen", cap_choice=CapChoice((1, 3), Fraction(1, 10)))


def counter(statistic: Statistic) -> BoundedCounts:
    return BoundedCounts(statistic, secret=SECRET, start=0)


def content(counts: BoundedCounts) -> Any:
    """All that is held; an entry that was emptied and one that never was are the same."""

    def held(value: Any) -> Any:
        if isinstance(value, dict):
            found = {key: held(it) for key, it in value.items()}
            return {key: it for key, it in found.items() if it != {}}
        return list(value) if isinstance(value, list) else value

    return {name: held(getattr(counts._state, name)) for name in counts._state.__struct_fields__}


moments = st.integers(0, 3 * DAY_MS // HOUR - 1).map(lambda hours: hours * HOUR + 60_000)
happenings = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc"), moments, st.sampled_from(KEYS)),
        st.tuples(st.just("add"), st.sampled_from("abc"), moments, st.sampled_from(KEYS)),
        st.tuples(st.just("clock"), moments),
        st.sampled_from([("whole",), ("changes",), ("changes",), ("crash",)]),
    ),
    max_size=30,
)

Stored = tuple[bytes, bytes]
Restore = Callable[[BoundedCounts, Stored], None]


def both(counts: BoundedCounts, stored: Stored) -> None:
    counts.restore(stored[0])
    counts.restore_changes(stored[1])


def without_changes(counts: BoundedCounts, stored: Stored) -> None:
    """Planted: the changes are forgotten."""
    counts.restore(stored[0])


def compare(
    statistic: Statistic, steps: list[tuple[Any, ...]], restore: Restore = both
) -> list[tuple[Any, Any]]:
    """Go through the steps, and restore at every one what was stored last.

    Returns:
        What was held when it was stored, and what came back of it, at each store and crash.
    """
    counts, latest = counter(statistic), 0
    stored: Stored = (counts.snapshot(), counts.changes())
    found = []
    for step in steps:
        match step:
            case ("add", who, at, key):
                counts.add(who, at, key, watermark=latest)
            case ("clock", at):
                latest = max(latest, at)
                counts.closed(latest)
                if (day := counts.undecided(latest)) is not None:
                    counts.decide(day, 1 + 2 * (day % 2))
                    counts.closed(latest)
            case ("crash",):
                counts = counter(statistic)
                restore(counts, stored)
            case (kind,):
                if kind == "whole":
                    stored = counts.snapshot(), counts.changes()
                else:
                    stored = stored[0], counts.changes()
                again = counter(statistic)
                restore(again, stored)
                found.append((content(counts), content(again)))
                assert not counts.changed
    return found


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([FIXED, CHOSEN]), happenings)
def test_what_comes_back_is_what_was_held(
    statistic: Statistic, steps: list[tuple[Any, ...]]
) -> None:
    for held, came_back in compare(statistic, [*steps, ("changes",)]):
        assert came_back == held


def test_planted_forgetting_of_the_changes_is_caught() -> None:
    steps = [("add", "a", 60_000, "milk"), ("changes",)]
    ((held, came_back),) = compare(FIXED, steps, without_changes)
    assert came_back != held


def test_changes_are_as_large_as_what_changed() -> None:
    counts = counter(FIXED)
    for n in range(2_000):
        counts.add(f"user {n}", 60_000, "milk")
    whole = counts.snapshot()
    nothing = counts.changes()
    counts.add("user 7", 60_001, "bread")
    assert (counts.entries, counts.entries_changed) == (2_000, 1)
    one = counts.changes()
    assert len(nothing) < len(one) < 400 < len(whole) // 100
    assert not counts.changed
    counts.add("user 7", HOUR + 60_000, "bread")
    assert counts.changed


def test_changes_that_belong_elsewhere_are_refused() -> None:
    counts = counter(FIXED)
    with pytest.raises(StateError, match="take one before"):
        counts.changes()
    first = counts.snapshot()
    counts.add("somebody", 60_000, "milk")
    of_first = counts.changes()
    second = counts.snapshot()
    again = counter(FIXED)
    for snapshot, changes, said in (
        (second, of_first, "another snapshot"),
        (first, of_first[:-1] + b"\0", "damaged"),
        (first, b"", "damaged"),
        (first, first, "damaged"),
    ):
        again.restore(snapshot)
        before = content(again)
        with pytest.raises(StateError, match=said):
            again.restore_changes(changes)
        assert content(again) == before
    other = BoundedCounts(FIXED, secret=b"another secret of tests", start=0)
    with pytest.raises(StateError):
        other.restore_changes(of_first)
    assert msgspec.msgpack.decode(of_first[32:])[0] == first[:32]
