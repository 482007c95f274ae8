"""Partitions of a sequence in columns, against the same partitions as objects."""

import random
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from tests.streaming.patterns.test_sequences_oracle import E, feed, watermarks_of

from tactful_streaming.arrays import Rows
from tactful_streaming.decode.reorder_buffer import Arrivals
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.patterns import partitions as module
from tactful_streaming.patterns.partial_match import MatchesByState
from tactful_streaming.patterns.partitions import CompletedMatch, PartialMatchColumns
from tactful_streaming.patterns.sequence_operator import SequenceOperator

PATTERNS = [
    # A new partial match ends the waiting one.
    "sequence: [view, add_to_cart, leave], within: 30s, contiguity: strict",
    "sequence: [view, add_to_cart, leave], within: 30s, contiguity: strict, same: item_id",
    "sequence: [[view, click], leave, leave], within: 5s, contiguity: strict",
    "sequence: [view, click, click], within: 30s, contiguity: strict",
    "sequence: [view], within: 30s",
    "sequence: [view, {event: click, times: [1, 3]}, leave], within: 30s, contiguity: strict",
    # Partial matches wait beside each other.
    "sequence: [view, add_to_cart, leave], within: 30s",
    "sequence: [view, view, leave], within: 30s, contiguity: strict",
    "sequence: [view, leave, purchase], within: 30s, skip: to_next",
    "sequence: [view, {event: click, optional: true}, leave], within: 1h",
    "sequence: [view, {not: purchase}, leave], within: 30s",
    "sequence: [view, {event: click, times: [1, null]}, leave], within: 30s, skip: to_next",
    # Matches depend on time.
    "sequence: [view, leave, {not: purchase, for: 3s}], within: 30s",
    "sequence: [view, {not: any}], within: 4s, contiguity: strict",
]


def operator(pattern: str) -> SequenceOperator:
    text = f"- {{name: found, entity: user, {pattern}, emit: coupon}}"
    (sequence,) = load_definitions(text).sequences
    return SequenceOperator(sequence)


def stream(seed: int, count: int) -> list[E]:
    """Events of few users, some with long ids."""
    rng = random.Random(seed)
    tails = [""] * 20 + ["é" * 30] * min(seed, 1) + ["x" * 1_100] * (seed // 2)
    types = ["view", "view", "click", "add_to_cart", "leave", "purchase"]
    return [
        E(
            event_id=f"e{number}{rng.choice(tails)}",
            type=rng.choice(types),
            timestamp=1_000_000 + number * 100 - rng.randrange(2_000),
            key=f"u{min(rng.randrange(12), rng.randrange(12))}",
            same=rng.choice(["a", "b", None]),
        )
        for number in range(count)
    ]


def texts_of(events: list[E]) -> Callable[[str], list[str | None]]:
    return lambda source: [e.key if source == "user_id" else e.same for e in events]


def test_cleared_rows_free_their_memory() -> None:
    columns = operator(PATTERNS[6])._partitions.columns
    columns.grow(module._FIRST_CAPACITY)
    for _ in range(2):
        for row in range(module._FIRST_CAPACITY):
            assert columns.put(row, {0: [(1000, row, 1000, row, (f"e{row}",), None)]})
        assert len(columns._pool) == module._FIRST_CAPACITY
        for row in range(module._FIRST_CAPACITY):
            columns.clear(row)


def test_places_continue_after_a_restart() -> None:
    """A restored operator gives the next event a place after those of its matches."""
    shop, again = operator(PATTERNS[6]), operator(PATTERNS[6])
    events = [E(event_id="e", type="view", timestamp=1_000_000, key="u0", same=None)]
    shop.apply(events, ["u0"], np.array([1_000_000], np.int64), texts_of(events))
    for key, blob in shop.pack_changes().items():
        assert blob is not None
        again.unpack(key, blob)
    assert again._place == shop._place == 1


MERGED = 50
"""Number of events between merges of the histories of two users."""


def run(
    shop: SequenceOperator, events: list[E], sizes: Callable[[], int]
) -> tuple[list[object], dict[str, bytes | None]]:
    """Matches, and the state at the end."""
    watermarks = watermarks_of(events, 1_500)
    matches: list[object] = []
    state: dict[str, bytes | None] = {}
    begin = 0
    while begin < len(events):
        part = slice(begin, min(begin + sizes(), (begin // MERGED + 1) * MERGED))
        batch, begin = events[part], part.stop
        keys = [event.key for event in batch]
        shop.apply(batch, keys, np.array(watermarks[part], np.int64), texts_of(batch))
        matches += [*shop.take(), shop.next_timer()] if begin >= len(events) else shop.take()
        if begin % MERGED == 0:
            shop.merge(f"u{begin // MERGED % 7}", f"u{begin // MERGED % 5}")
        state |= shop.pack_changes()
    shop.advance(2_000_000)
    return [*matches, *shop.take(), shop.late, shop.evicted], {**state, **shop.pack_changes()}


def left_to_objects(
    self: PartialMatchColumns, events: Arrivals, order: Rows
) -> tuple[Rows, list[CompletedMatch]]:
    self.apart[events.rows] = True
    return np.arange(len(order)), []


def stays_an_object(self: PartialMatchColumns, row: int, by_state: MatchesByState) -> bool:
    return False


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_columns_find_the_matches_of_objects(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        events = stream(seed, 1_500)
        sizes = partial(random.Random(seed).choice, [1, 40, 700])
        with monkeypatch.context() as patched:
            patched.setattr(module, "MAX_MATCHES", [64, 64, 3][seed])
            columns = run(operator(pattern), events, sizes)
        with monkeypatch.context() as patched:
            patched.setattr(PartialMatchColumns, "move", left_to_objects)
            patched.setattr(PartialMatchColumns, "put", stays_an_object)
            objects = run(operator(pattern), events, lambda: 3)
        assert columns == objects
        assert len(columns[0]) > 10, "there are matches"


@pytest.mark.parametrize("pattern", PATTERNS[:3])
def test_most_events_need_no_object(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    move = PartialMatchColumns.move

    def count(
        self: PartialMatchColumns, events: Arrivals, order: Rows
    ) -> tuple[Rows, list[CompletedMatch]]:
        left, found = move(self, events, order)
        shown.append(len(left))
        return left, found

    monkeypatch.setattr(PartialMatchColumns, "move", count)
    run(operator(pattern), stream(0, 1_500), lambda: 500)
    assert sum(shown) == 0


def test_rows_of_finished_partitions_are_used_again() -> None:
    shop = operator(PATTERNS[0])
    for number in range(40):
        begin = 1_000_000 + number * 100_000
        events = [E(f"e{n}", "view", begin + n, f"u{number}-{n}") for n in range(100)]
        keys = [event.key for event in events]
        shop.apply(events, keys, np.full(100, begin), texts_of(events))
        shop.pack_changes()
    assert len(shop._partitions.keys) < 1_000, "of 4,000 partitions"


@pytest.mark.parametrize(("gap", "found"), [(4_999, 1), (5_000, 0)])
def test_a_partial_match_expires_without_a_sweep(gap: int, found: int) -> None:
    shop = operator("sequence: [view, leave], within: 5s")
    begin = 1_001_000  # the next sweep comes a minute after the first one
    events = [
        E("e0", "view", 1_000_000, "v"),
        E("e1", "view", begin, "u"),
        E("e2", "leave", begin + gap, "u"),
    ]
    for event in events:
        feed(shop, [event], [event.timestamp])
    shop.advance(begin + gap + 1)
    assert len(shop.take()) == found
