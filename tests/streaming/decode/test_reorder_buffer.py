"""The buffer that puts events in order, beside a sorted list."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.decode.reorder_buffer import (
    Arrivals,
    ReorderBuffer,
    arrivals_of,
    quoted,
    unquoted,
)

Steps = list[tuple[list[int], int]]
"""Timestamps that arrive, and the watermark then."""


def released(buffer: ReorderBuffer, watermark: int) -> Arrivals | None:
    found = buffer.release(watermark)
    return None if found is None else found[0].take(found[1])


def rows(arrivals: Arrivals | None) -> list[tuple[int, int, int, int, str, str | None]]:
    return [] if arrivals is None else [*arrivals.as_tuples()]


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.tuples(st.lists(st.integers(0, 300), max_size=400), st.integers(0, 320))),
    start=st.sampled_from([0, 1 << 30]),
    gap=st.sampled_from([1, 1 << 21]),
)
def test_events_leave_in_order_behind_the_watermark(steps: Steps, start: int, gap: int) -> None:
    buffer, waiting = ReorderBuffer(), list[tuple[int, int, int, int, str, str | None]]()
    place = start
    for times, watermark in steps:
        arrived = []
        for time in times:
            arrived.append((time, place, place % 5, place % 3, f"e{place}", None))
            place += gap
        buffer.extend(arrivals_of(arrived))
        waiting = sorted([*waiting, *arrived])
        assert buffer.earliest() == min((event[0] for event in waiting), default=None)
        expected = [event for event in waiting if event[0] < watermark]
        assert rows(released(buffer, watermark)) == expected
        waiting = waiting[len(expected) :]
        assert sorted(rows(buffer.waiting())) == waiting


def test_partitions_leave_or_change_their_name() -> None:
    buffer = ReorderBuffer()
    buffer.extend(arrivals_of((n % 7, n, n % 3, 0, f"e{n}", None) for n in range(30)))
    buffer.rename([0, 1], [1, 5])
    assert {row[2] for row in rows(buffer.waiting())} == {1, 2, 5}
    assert len(rows(buffer.remove([2, 5]))) == 20
    assert [row[:3] for row in rows(released(buffer, 3))] == sorted(
        (n % 7, n, 1) for n in range(0, 30, 3) if n % 7 < 3
    )


def test_the_rest_of_a_run_frees_the_released_part() -> None:
    buffer = ReorderBuffer()
    for n in range(50):
        late = [(10**9, 1000 * n, 0, 0, "late", None)]
        buffer.extend(
            arrivals_of([*late, *((n, 1000 * n + k, 0, 0, "e", None) for k in range(999))])
        )
        buffer.release(n + 1)
    assert len(buffer._runs) == 1
    assert len(buffer.waiting().times) == 50
    assert buffer._runs[0].ids.base is None or len(buffer._runs[0].ids.base) <= 50


def test_ties_leave_in_the_order_of_the_log() -> None:
    buffer = ReorderBuffer()
    buffer.extend(arrivals_of((n, n, 0, 0, f"e{n}", None) for n in (1, 7)))
    later = [(2 if n == 10 else 7, n, 0, 0, f"e{n}", None) for n in range(10, 400)]
    buffer.extend(arrivals_of(later))
    assert len(rows(released(buffer, 3))) == 2
    # What is left of the first run is short, and is now behind the second.
    assert [run.places[0] for run in buffer._runs] == [11, 7]
    assert [row[1] for row in rows(released(buffer, 8))] == [7, *range(11, 400)]


def test_a_long_id_does_not_widen_the_others() -> None:
    """The server refuses such an id, but another program may write to the topic."""
    for long in ("y" * 100_000, "\u00fc" * 100_000):
        ids = quoted(long if number == 7 else f"e{number}" for number in range(200))
        assert ids.nbytes < len(long)
        some = [quoted(["a"]), ids[6:9], quoted(["b"])]
        assert unquoted(np.concatenate(some)) == ["a", "e6", long, "e8", "b"]
