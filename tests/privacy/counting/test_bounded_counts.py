"""With noise off, removing one user's day changes the counts by the cap at most."""

import hmac
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple, Protocol

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tactful_privacy.counting.bounded_counts import BoundedCounts, Pane
from tactful_privacy.errors import ParameterError, StateError
from tactful_privacy.ledger.statistic import DAY_MS, Statistic

HOUR = 3_600_000
KEYS = ("bread", "milk", "tea")
CAP = 5
SECRET = b"a secret of tests only"
HOURLY = Statistic("hourly", KEYS, HOUR, CAP, Fraction(1))


class Contribution(NamedTuple):
    unit: str
    timestamp: int
    key: str


class Tick(NamedTuple):
    """The public clock reaches a watermark."""

    watermark: int


Stream = list[Contribution | Tick]
Table = dict[tuple[int, int], int]  # (pane start, key index) -> count


class Counter(Protocol):
    def add(self, unit: str, timestamp: int, key: str) -> bool: ...
    def closed(self, watermark: int) -> list[Pane]: ...


def bounded(statistic: Statistic = HOURLY) -> BoundedCounts:
    return BoundedCounts(statistic, secret=SECRET, start=0)


def table_of(counter: Counter, stream: Stream) -> Table:
    """Every exact count of the stream, panes and keys of all days."""
    table: Table = {}
    for step in [*stream, Tick(10 * DAY_MS)]:
        if isinstance(step, Tick):
            for pane in counter.closed(step.watermark):
                for index, count in enumerate(pane.counts.tolist()):
                    assert (pane.start, index) not in table
                    table[pane.start, index] = count
        else:
            counter.add(*step)
    return table


def largest_change(make: Callable[[], Counter], stream: Stream) -> int:
    """Largest L1 change of the counts when one user's contributions of one day are removed."""
    whole, worst = table_of(make(), stream), 0
    contributions = [step for step in stream if isinstance(step, Contribution)]
    for unit, day in {(c.unit, c.timestamp // DAY_MS) for c in contributions}:
        rest = [
            step
            for step in stream
            if isinstance(step, Tick) or (step.unit, step.timestamp // DAY_MS) != (unit, day)
        ]
        without = table_of(make(), rest)
        change = {cell: abs(count - without[cell]) for cell, count in whole.items()}
        assert not any(change[cell] for cell in change if cell[0] // DAY_MS != day)
        worst = max(worst, sum(change.values()))
    return worst


def random_stream(rng: random.Random) -> Stream:
    """Few users, many contributions over two days and 3 keys, disordered, some late."""
    stream: Stream = []
    for clock in sorted(rng.randrange(2 * DAY_MS) for _ in range(rng.randrange(1, 120))):
        if rng.random() < 0.1:
            stream.append(Tick(clock - HOUR))
        timestamp = max(0, clock - rng.randrange(4 * HOUR))
        stream.append(Contribution(rng.choice("uvw"), timestamp, rng.choice([*KEYS, "gin"])))
    return stream


def random_streams(n: int = 60) -> Iterator[Stream]:
    rng = random.Random(11)
    return (random_stream(rng) for _ in range(n))


class PlantedBug(BoundedCounts):
    """Counts like the right one, but lets `group` decide what a counter belongs to."""

    def __init__(self, group: Callable[[str, int, str], object] | None) -> None:
        super().__init__(HOURLY, secret=SECRET, start=0)
        self.group = group
        self._groups: dict[object, int] = defaultdict(int)

    def add(
        self, unit: str, timestamp: int, key: str, *, watermark: int = 0, amount: int = 1
    ) -> bool:
        if self.group is not None:
            group = self.group(unit, timestamp, key)
            if self._groups[group] >= CAP:
                return False
            self._groups[group] += 1
        self._state.spent.clear()
        return super().add(unit, timestamp, key, watermark=watermark)


def per_day(unit: str, timestamp: int, key: str) -> object:
    """No bug: shows that the others fail by their grouping and nothing else."""
    return unit, timestamp // DAY_MS


class WatermarkOfTheData(BoundedCounts):
    """Panes close by the largest timestamp seen: one user makes the others late."""

    def __init__(self) -> None:
        super().__init__(HOURLY, secret=SECRET, start=0)
        self._handed: list[Pane] = []

    def add(
        self, unit: str, timestamp: int, key: str, *, watermark: int = 0, amount: int = 1
    ) -> bool:
        counted = super().add(unit, timestamp, key, watermark=watermark)
        self._handed += super().closed(timestamp - HOUR)
        return counted

    def closed(self, watermark: int) -> list[Pane]:
        handed, self._handed = self._handed, []
        return handed + (super().closed(watermark) if watermark == 10 * DAY_MS else [])


@pytest.mark.slow
def test_removing_a_user_day_changes_at_most_cap() -> None:
    worst = max(largest_change(bounded, stream) for stream in random_streams())
    assert worst == CAP


@pytest.mark.parametrize(
    "bug",
    [
        lambda: PlantedBug(None),  # the cap is forgotten
        lambda: PlantedBug(lambda unit, timestamp, key: (unit, timestamp // HOUR)),
        lambda: PlantedBug(lambda unit, timestamp, key: (unit, timestamp // DAY_MS, key)),
        lambda: PlantedBug(lambda unit, timestamp, key: timestamp // DAY_MS),  # of everybody
        WatermarkOfTheData,
    ],
)
def test_planted_bugs_are_caught(bug: Callable[[], Counter]) -> None:
    def exceeds(stream: Stream) -> bool:
        try:
            return largest_change(bug, stream) > CAP
        except AssertionError:  # another day changed
            return True

    assert any(exceeds(stream) for stream in random_streams())


@pytest.mark.slow
def test_frame_of_planted_bugs_is_correct_without_a_bug() -> None:

    class WithoutUnknownKeys(PlantedBug):
        def add(
            self, unit: str, timestamp: int, key: str, *, watermark: int = 0, amount: int = 1
        ) -> bool:
            known = key in KEYS and timestamp >= self.open_from
            return known and super().add(unit, timestamp, key, watermark=watermark)

    def change(stream: Stream) -> int:
        return largest_change(lambda: WithoutUnknownKeys(per_day), stream)

    assert max(map(change, random_streams())) == CAP


contributions = st.builds(
    Contribution, st.sampled_from("uvw"), st.integers(0, 2 * DAY_MS), st.sampled_from(KEYS)
)
ticks = st.builds(Tick, st.integers(0, 2 * DAY_MS))


@given(st.lists(contributions | ticks, max_size=40), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_the_bound_holds_for_any_stream_and_caps(stream: Stream, cap: int, cell_cap: int) -> None:
    statistic = Statistic("hourly", KEYS, HOUR, cap, Fraction(1), cell_cap)
    assert largest_change(lambda: bounded(statistic), stream) <= cap


@given(st.lists(contributions, max_size=60), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_the_cell_cap_bounds_every_cell(stream: Stream, cell_cap: int) -> None:
    counts = bounded(Statistic("hourly", KEYS, HOUR, 50, Fraction(1), cell_cap))
    for cell, count in table_of(counts, stream).items():
        wanted: dict[str, int] = defaultdict(int)
        for c in stream:
            assert isinstance(c, Contribution)
            if (c.timestamp // HOUR * HOUR, KEYS.index(c.key)) == cell:
                wanted[c.unit] += 1
        assert count == sum(min(n, cell_cap) for n in wanted.values())


def test_every_pane_is_handed_over_once_with_every_key() -> None:
    counts = bounded()
    assert counts.add("u", 2 * HOUR + 1, "milk")
    assert counts.closed(HOUR - 1) == []
    panes = counts.closed(4 * HOUR + 5)
    assert [(pane.start, pane.end) for pane in panes] == [
        (n * HOUR, (n + 1) * HOUR) for n in range(4)
    ]
    assert panes[2].counts.dtype == np.int64
    assert [pane.counts.tolist() for pane in panes] == [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert counts.closed(4 * HOUR + 5) == counts.closed(HOUR) == []
    assert counts.open_from == 4 * HOUR


def test_late_contributions_count_nowhere_but_charge_their_user() -> None:
    counts = bounded()
    counts.closed(2 * HOUR)
    assert not counts.add("u", 2 * HOUR - 1, "milk")
    assert not counts.add("u", 2 * HOUR, "milk", watermark=3 * HOUR)
    added = [counts.add("u", 2 * HOUR, "milk", watermark=3 * HOUR - 1) for _ in range(CAP)]
    assert added == [True] * (CAP - 2) + [False] * 2
    (pane,) = counts.closed(3 * HOUR)
    assert pane.counts.tolist() == [0, CAP - 2, 0]


def test_contributions_to_a_past_day_leave_no_state() -> None:
    counts = bounded()
    counts.closed(DAY_MS)
    before = counts.snapshot()
    assert not counts.add("u", DAY_MS - 1, "milk")
    assert not counts.changed
    assert counts.snapshot() == before


def test_unknown_keys_count_nowhere_and_charge_nobody() -> None:
    counts = bounded()
    counts.closed(2 * HOUR)
    for _ in range(20):
        assert not counts.add("u", 2 * HOUR, "gin")
    assert [counts.add("u", 2 * HOUR, "milk") for _ in range(CAP + 1)] == [True] * CAP + [False]
    (pane,) = counts.closed(3 * HOUR)
    assert pane.counts.tolist() == [0, CAP, 0]


def test_the_cap_begins_anew_with_the_utc_day() -> None:
    counts = bounded()
    for day in range(3):
        added = [counts.add("u", day * DAY_MS + n * HOUR, "tea") for n in range(24)]
        assert added == [True] * CAP + [False] * (24 - CAP)


def test_a_past_day_leaves_no_counters() -> None:
    counts = bounded(Statistic("hourly", KEYS, HOUR, CAP, Fraction(1), 2))
    empty = len(counts.snapshot())
    for n in range(50):
        counts.add(f"user {n}", n * HOUR // 4, "tea")
    counts.closed(23 * HOUR)
    assert len(counts.snapshot()) > empty + 50 * 16
    counts.closed(DAY_MS)
    assert len(counts.snapshot()) < empty + 16


def test_a_clock_set_wrongly_is_refused_and_changes_nothing() -> None:
    counts = bounded()
    with pytest.raises(StateError, match="check the clock"):
        counts.closed(200_000 * HOUR)
    assert counts.open_from == 0


@given(secret=st.binary(min_size=16, max_size=100), unit=st.text(min_size=1, max_size=200))
def test_users_are_kept_under_an_hmac_of_day_and_id(secret: bytes, unit: str) -> None:
    """As older states hold them: another hash would hand out every cap of the day anew."""
    assume(unit.isprintable())
    counts = BoundedCounts(HOURLY, secret=secret, start=0)
    counts.add(unit, DAY_MS + 1, KEYS[0])
    key = hmac.digest(secret, b"unit", "sha256")
    assert hmac.digest(key, b"1:" + unit.encode(), "sha256")[:16] in counts.snapshot()


def test_bad_beginnings_are_refused() -> None:
    with pytest.raises(ParameterError, match="unit is empty"):
        bounded().add("", 0, "milk")
    with pytest.raises(ParameterError, match="secret"):
        BoundedCounts(HOURLY, secret=b"short", start=0)
    with pytest.raises(ParameterError, match="start"):
        BoundedCounts(HOURLY, secret=SECRET, start=-1)
    assert BoundedCounts(HOURLY, secret=SECRET, start=HOUR + 7).open_from == HOUR, "rounded down"


def replayed(stream: Stream, rng: random.Random, *, counters_survive: bool = True) -> Table:
    """Process the stream with crashes; a snapshot commits with its position.

    Of a pane handed over again after a crash the first one counts, as in the ledger.
    """
    table: Table = {}
    counts = bounded()
    saved, position, crashes = (counts.snapshot(), 0), 0, 0
    steps = [*stream, Tick(10 * DAY_MS)]
    while position < len(steps):
        step = steps[position]
        if isinstance(step, Tick):
            for pane in counts.closed(step.watermark):
                for index, count in enumerate(pane.counts.tolist()):
                    table.setdefault((pane.start, index), count)
        else:
            counts.add(*step)
        position += 1
        if rng.random() < 0.2:
            saved = counts.snapshot(), position
        if rng.random() < 0.2 and crashes < 20:
            crashes += 1
            counts = bounded()
            counts.restore(saved[0])
            position = saved[1]
            if not counters_survive:
                counts._state.spent.clear()
    return table


def test_counts_after_crashes_equal_an_uninterrupted_run() -> None:
    rng = random.Random(23)
    for stream in random_streams():
        assert replayed(stream, rng) == table_of(bounded(), stream)


def test_planted_loss_of_the_counters_at_a_crash_is_caught() -> None:
    rng = random.Random(23)
    assert any(
        replayed(stream, rng, counters_survive=False) != table_of(bounded(), stream)
        for stream in random_streams()
    )


def test_damaged_or_foreign_snapshot_is_refused() -> None:
    counts = bounded()
    counts.add("u", 5 * HOUR, "milk")
    good = counts.snapshot()
    others = {
        "damaged": good[:-1] + bytes([good[-1] ^ 1]),
        "cut": good[:10],
        "empty": b"",
        "secret": BoundedCounts(HOURLY, secret=b"another secret of tests", start=0).snapshot(),
        "definition": bounded(Statistic("hourly", KEYS, HOUR, CAP + 1, Fraction(1))).snapshot(),
    }
    for snapshot in others.values():
        with pytest.raises(StateError):
            counts.restore(snapshot)
    assert counts.snapshot() == good


def test_changed_says_whether_there_is_anything_to_save() -> None:
    counts = bounded()
    assert counts.changed
    saved = counts.snapshot()
    assert not counts.changed
    counts.add("u", 0, "gin")
    counts.closed(0)
    assert not counts.changed
    counts.add("u", 0, "milk")
    assert counts.changed
    counts.restore(saved)
    assert not counts.changed
    counts.closed(HOUR)
    assert counts.changed


def test_the_snapshot_holds_no_raw_id_and_does_not_link_days() -> None:
    counts = bounded()
    counts.add("alice@example.org", 0, "milk")
    counts.add("alice@example.org", DAY_MS, "milk")
    assert b"alice" not in counts.snapshot()
    first, second = counts._state.spent.values()
    assert not first.keys() & second.keys()
