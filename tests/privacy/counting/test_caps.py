"""Caps by hour and caps chosen each day: the bound holds for any stream, crash and replay.

Noise is off: entropy is such that every draw of noise is 0, so what is counted is released.
"""

import os
import pickle
import random
import signal
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.bounded_state import Contribution
from tactful_privacy.counting.daily_caps import cap_query, chosen_caps
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import read_released, sum_released
from tactful_privacy.counting.snapshot_seal import SnapshotSeal
from tactful_privacy.errors import ParameterError
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import DAY_MS, HOUR_MS, CapChoice, Statistic
from tactful_privacy.mechanisms.counting_tree import best_tree
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

SECRET = b"sixteen bytes or more"
KEYS = ("bread", "milk", "tea")
CHOICE = CapChoice((1, 2, 4, 8), Fraction(1, 10))
CHOSEN = Statistic("chosen", KEYS, HOUR_MS, 8, Fraction(1), cap_choice=CHOICE)

Event = tuple[str, int, str]  # who, when, what


def no_noise(n: int) -> bytes:
    """The middle of every noise table."""
    return b"\xff\x7f" * (n // 2)


def test_the_noise_is_off() -> None:
    for sensitivity in (1, 2, 4, 8):
        assert not DiscreteLaplace(sensitivity, "1/10", entropy=no_noise).sample(100).any()


def counting(statistic: Statistic, start: int = 0) -> BoundedCounts:
    return BoundedCounts(statistic, secret=SECRET, start=start)


@given(
    st.lists(
        st.tuples(st.sampled_from("uv"), st.integers(0, DAY_MS - 1), st.sampled_from(KEYS)),
        max_size=60,
    ),
    st.integers(1, 3),
    st.sampled_from([HOUR_MS // 4, HOUR_MS, 6 * HOUR_MS]),
)
@settings(max_examples=80, deadline=None)
def test_the_hour_cap_bounds_every_hour(events: list[Event], hour_cap: int, pane_ms: int) -> None:
    counts = counting(Statistic("h", KEYS, pane_ms, 20, Fraction(1), hour_cap=hour_cap))
    by_hour: dict[tuple[str, int], int] = defaultdict(int)
    by_day: dict[str, int] = defaultdict(int)
    for who, when, what in events:
        wanted = by_hour[who, when // HOUR_MS] < hour_cap and by_day[who] < 20
        assert counts.add(who, when, what) is wanted
        by_hour[who, when // HOUR_MS] += wanted
        by_day[who] += wanted


def replayed(
    statistic: Statistic, rng: random.Random, span: int
) -> tuple[dict[int, int], dict[int, int]]:
    """Count one user's random stream, through crashes, against clocks that differ.

    Snapshots are older than releases; the input is replayed, and more of it is late. The first
    release of a pane counts, and the first cap of a day, as in the ledger.

    Returns:
        Released counts by pane and chosen caps by day.
    """
    events = [(rng.randrange(span), rng.choice(KEYS)) for _ in range(40)]
    released: dict[int, int] = {}
    caps: dict[int, int] = {}

    def close(counts: BoundedCounts, clock: int) -> None:
        while True:
            for pane in counts.closed(clock):
                released.setdefault(pane.start, int(pane.counts.sum()))
            if (day := counts.undecided(clock)) is None:
                return
            counts.decide(day, caps.setdefault(day, rng.choice(CHOICE.candidates)))

    counts = counting(statistic)
    saved, position = counts.snapshot(), 0
    for _crash in range(4):
        until = rng.randrange(position, len(events) + 1)
        clock = 0
        for when, what in events[position:until]:
            counts.add("u", when, what, watermark=clock)
            if rng.random() < 0.2:
                clock = max(clock, rng.randrange(span))
                close(counts, clock)
        if rng.random() < 0.4:
            saved, position = counts.snapshot(), until
        counts = counting(statistic)
        counts.restore(saved)
    for when, what in events[position:]:
        counts.add("u", when, what)
    close(counts, -(-span // DAY_MS) * DAY_MS)
    return released, caps


@pytest.mark.slow
@pytest.mark.parametrize("cell_cap", [None, 2])
@pytest.mark.parametrize(
    ("pane_ms", "hour_cap"), [(HOUR_MS // 4, 2), (HOUR_MS, 2), (4 * HOUR_MS, 2), (HOUR_MS, None)]
)
def test_replay_with_another_clock_stays_within_the_caps(
    cell_cap: int | None, pane_ms: int, hour_cap: int | None
) -> None:
    statistic = Statistic("h", KEYS, pane_ms, 6, Fraction(1), cell_cap, hour_cap=hour_cap)
    rng = random.Random(31)
    totals = [sum(replayed(statistic, rng, 8 * HOUR_MS)[0].values()) for _ in range(300)]
    assert max(totals) <= 6
    assert totals.count(6) > 30


def test_replay_with_another_clock_stays_within_chosen_caps() -> None:
    rng = random.Random(37)
    at_the_cap = 0
    for _ in range(200):
        released, caps = replayed(CHOSEN, rng, 2 * DAY_MS)
        for day, cap in ((0, 8), (1, caps[1])):
            total = sum(n for start, n in released.items() if start // DAY_MS == day)
            assert total <= cap
            at_the_cap += total == cap
    assert at_the_cap > 50


def test_an_hour_that_is_not_over_is_still_capped_after_a_crash() -> None:
    statistic = Statistic("h", KEYS, HOUR_MS // 4, 20, Fraction(1), hour_cap=3)
    counts = counting(statistic)
    assert [counts.add("u", n, "tea") for n in range(2)] == [True, True]
    counts.closed(HOUR_MS // 2)  # half of the hour is released
    restored = counting(statistic)
    restored.restore(counts.snapshot())
    later = [restored.add("u", HOUR_MS // 2 + n, "milk") for n in range(3)]
    assert later == [True, False, False]
    restored.closed(HOUR_MS)
    assert restored.add("u", HOUR_MS, "milk")
    assert len(restored._state.spent_in_hour) == 1


def test_a_pane_that_straddles_hours_is_refused() -> None:
    with pytest.raises(ParameterError, match="divide an hour"):
        Statistic("h", KEYS, 3 * HOUR_MS // 2, 20, Fraction(1), hour_cap=3)
    with pytest.raises(ParameterError, match="hour_cap"):
        Statistic("h", KEYS, HOUR_MS, 20, Fraction(1), hour_cap=0)


def test_a_snapshot_of_the_version_before_is_continued() -> None:
    """Its state had four fields; a lost counter would be a second cap."""
    statistic = Statistic("old", KEYS, HOUR_MS, 3, Fraction(1))
    counts = counting(statistic)
    for n in range(2):
        counts.add("u", n, "tea")
    now = msgspec.msgpack.decode(counts.snapshot()[32:])
    assert now[0] == statistic.fingerprint
    body = msgspec.msgpack.encode((now[0], now[1][:4]))
    old = SnapshotSeal(SECRET, b"snapshot").seal(body)
    restored = counting(statistic)
    restored.restore(old)
    assert [restored.add("u", 5, "tea") for _ in range(2)] == [True, False]
    assert restored.closed_until is None
    (pane,) = restored.closed(HOUR_MS)
    assert pane.counts.tolist() == [0, 0, 3]
    assert restored.closed_until == HOUR_MS


class Run:
    """Publishes a stream through one ledger, without noise, with crashes."""

    def __init__(self, path: Path, statistic: Statistic = CHOSEN) -> None:
        self.ledger = Ledger(path, daily_epsilon=2)
        self.statistic = statistic
        self.counts = counting(statistic)
        self.publisher = self._publisher()

    def _publisher(self) -> Publisher:
        return Publisher(self.counts, self.ledger, entropy=no_noise)

    def crash(self, snapshot: tuple[bytes, bytes]) -> None:
        self.counts = counting(self.statistic)
        self.publisher = self._publisher()
        self.counts.restore(snapshot[0])
        self.publisher.restore(snapshot[1])

    def snapshot(self) -> tuple[bytes, bytes]:
        return self.counts.snapshot(), self.publisher.snapshot()

    def table(self) -> dict[tuple[int, str], int]:
        found: dict[tuple[int, str], int] = {}
        cursor = None
        while True:
            page = read_released(self.ledger, self.statistic.name, cursor=cursor, limit=1_000)
            for pane in page.panes:
                found |= {(pane.start, key): value for key, value in pane.values.items()}
            if (cursor := page.cursor) is None:
                return found


def expected(events: list[Event], caps: dict[int, int]) -> dict[tuple[int, str], int]:
    """A plain recount."""
    spent: dict[tuple[str, int], int] = defaultdict(int)
    table: dict[tuple[int, str], int] = defaultdict(int)
    for who, when, what in events:
        day = when // DAY_MS
        if spent[who, day] < caps[day]:
            table[when // HOUR_MS * HOUR_MS, what] += 1
        spent[who, day] += 1
    return table


def busy_day(day: int, people: int, each: int, rng: random.Random) -> list[Event]:
    found = [
        (f"{n}", day * DAY_MS + rng.randrange(DAY_MS), rng.choice(KEYS))
        for n in range(people)
        for _ in range(each)
    ]
    return sorted(found, key=lambda event: event[1])


def test_cap_follows_yesterday_and_noise_follows_the_cap(tmp_path: Path) -> None:
    rng = random.Random(1)
    days = [busy_day(day, 400, each, rng) for day, each in enumerate((2, 6, 1, 20, 1))]
    run = Run(tmp_path / "ledger.db")
    for day, events in enumerate(days):
        run.publisher.publish(day * DAY_MS)
        for who, when, what in events:
            run.counts.add(who, when, what, watermark=when)
    run.publisher.publish(5 * DAY_MS)
    caps = chosen_caps(run.ledger, CHOSEN, 0, 9)
    assert caps == {1: 2, 2: 8, 3: 1, 4: 8, 5: 1}
    wanted = expected([event for events in days for event in events], {0: 8, **caps})
    assert {cell: value for cell, value in run.table().items() if value} == wanted
    by_day: dict[int, set[tuple[int, int]]] = defaultdict(set)
    pages = read_released(run.ledger, "chosen", limit=1_000).panes
    for pane in pages:
        by_day[pane.start // DAY_MS].add((pane.cap, pane.half_width))
    widths = {cap: DiscreteLaplace(cap, 1).interval() for cap in (1, 2, 8)}
    assert by_day == {
        day: {(cap, widths[cap])} for day, cap in {0: 8, 1: 2, 2: 8, 3: 1, 4: 8}.items()
    }
    exact = DiscreteLaplace(8, 1)
    of_a_day = sum_released(pages[:24], "tea")
    assert of_a_day.half_width == exact.interval_of_sum(24)
    of_both = sum_released(pages[:48], "tea")
    assert of_a_day.half_width < of_both.half_width < exact.interval_of_sum(48)


def test_the_choice_is_charged_to_what_the_statistic_reserved(tmp_path: Path) -> None:
    run = Run(tmp_path / "ledger.db")
    run.publisher.publish(3 * DAY_MS)
    answers = run.ledger.answers(0, 9)
    assert [answer.query for answer in answers] == [cap_query(CHOSEN, day) for day in (1, 2, 3)]
    assert {answer.query.within for answer in answers} == {"chosen"}
    (charge,) = run.ledger.charges()
    assert charge.loss.epsilon == Fraction(11, 10)
    assert chosen_caps(run.ledger, CHOSEN, 0, 9) == {1: 8, 2: 8, 3: 8}  # nobody came


events_of_days = st.lists(
    st.tuples(st.sampled_from("uvw"), st.integers(0, 3 * DAY_MS - 1), st.sampled_from(KEYS)),
    max_size=50,
)


@given(events_of_days, st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_removing_a_user_day_changes_no_day_by_more_than_its_cap(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event], seed: int
) -> None:
    """Caps are public: the neighbour's run is given the same ones, as the proof does."""
    rng = random.Random(seed)
    events = sorted(events, key=lambda event: event[1] + rng.randrange(2 * HOUR_MS))
    caps = {1: rng.choice(CHOICE.candidates), 2: rng.choice(CHOICE.candidates)}
    whole = counted(events, caps)
    for who, day in {(who, when // DAY_MS) for who, when, _ in events}:
        rest = [e for e in events if (e[0], e[1] // DAY_MS) != (who, day)]
        without = counted(rest, caps)
        change = {cell: abs(whole[cell] - without[cell]) for cell in whole}
        assert sum(change.values()) <= {0: 8, **caps}[day]
        assert not any(change[cell] for cell in change if cell[0] // DAY_MS != day)


def counted(events: list[Event], caps: dict[int, int]) -> dict[tuple[int, int], int]:
    """Count with given caps; the public clock ticks each hour of the input's place."""
    counts = counting(CHOSEN)
    table: dict[tuple[int, int], int] = {}

    def close(clock: int) -> None:
        while True:
            for pane in counts.closed(clock):
                for index, count in enumerate(pane.counts.tolist()):
                    table[pane.start, index] = count
            if (day := counts.undecided(clock)) is None:
                return
            counts.decide(day, caps.get(day, 8))

    done = 0
    for clock in range(0, 3 * DAY_MS + 1, HOUR_MS):
        while done < len(events) and events[done][1] < clock:
            counts.add(*events[done], watermark=clock - 2 * HOUR_MS)
            done += 1
        close(clock - 2 * HOUR_MS)
    for event in events[done:]:
        counts.add(*event, watermark=3 * DAY_MS)
    close(3 * DAY_MS)
    return table


@given(events_of_days)
@settings(max_examples=60, deadline=None)
def test_one_person_is_in_one_bucket_of_the_histogram(events: list[Event]) -> None:
    def histogram(some: list[Event]) -> Any:
        counts = counting(CHOSEN)
        for event in some:
            counts.add(*event)
        counts.closed(DAY_MS)
        assert counts.undecided(DAY_MS) == 1
        return CHOICE.histogram(counts.contributions(1))

    whole = histogram(events)
    assert whole.sum() == len({who for who, when, _ in events if when < DAY_MS})
    for who in "uvw":
        rest = histogram([e for e in events if e[0] != who])
        assert np.abs(whole - rest).sum() <= 1


def three_days(rng: random.Random) -> list[Event]:
    return [e for day in range(3) for e in busy_day(day, 60, 1 + 3 * day, rng)]


def equals_a_quiet_run(path: Path, events: list[Event], run: Run) -> bool:
    """Whether caps and counts are those of an uninterrupted run."""
    quiet = Run(path)
    for event in events:
        quiet.counts.add(*event)
    quiet.publisher.publish(3 * DAY_MS)
    caps, wanted = (chosen_caps(it.ledger, CHOSEN, 0, 3) for it in (run, quiet))
    return caps == wanted and run.table() == quiet.table()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_caps_after_crashes_equal_an_uninterrupted_run(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    events = three_days(rng)
    run = Run(tmp_path / "crashing.db")
    saved, position, crashes = (run.snapshot(), 0), 0, 0
    while position < len(events):
        run.counts.add(*events[position])
        position += 1
        if rng.random() < 0.05:
            run.publisher.publish(events[position - 1][1])
            if rng.random() < 0.5:
                saved = run.snapshot(), position
        if rng.random() < 0.02 and crashes < 25:
            crashes += 1
            run.crash(saved[0])
            position = saved[1]
    run.publisher.publish(3 * DAY_MS)
    assert crashes > 3
    assert equals_a_quiet_run(tmp_path / "quiet.db", events, run)


def test_contributions_wait_for_their_cap_in_order() -> None:
    """Contributions before the choice of their cap wait and are counted in order."""
    counts = counting(CHOSEN)
    for n in range(4):
        assert not counts.add("u", DAY_MS + n, "tea")
    assert not counts.add("u", DAY_MS + HOUR_MS, "milk")
    restored = counting(CHOSEN)
    restored.restore(counts.snapshot())
    assert len(restored.closed(DAY_MS + 2 * HOUR_MS)) == 24
    assert restored.undecided(DAY_MS - 1) is None
    assert restored.undecided(DAY_MS) == 1
    assert restored.closed(DAY_MS + 2 * HOUR_MS) == []
    restored.decide(1, 2)
    first, second = restored.closed(DAY_MS + 2 * HOUR_MS)
    assert (first.counts.tolist(), second.counts.tolist()) == ([0, 0, 2], [0, 0, 0])
    assert not restored.add("u", DAY_MS + 3 * HOUR_MS, "tea")


def test_what_was_late_when_it_came_stays_late_while_it_waits() -> None:
    """When somebody else's event made a commit happen must not decide."""
    counts = counting(CHOSEN)
    counts.add("u", DAY_MS, "tea", watermark=DAY_MS + HOUR_MS)
    counts.closed(DAY_MS)
    counts.snapshot()
    counts.decide(1, 4)
    assert counts.changed
    (pane,) = counts.closed(DAY_MS + HOUR_MS)
    assert not pane.counts.any()


def test_a_cap_is_decided_once_and_is_a_candidate() -> None:
    counts = counting(CHOSEN)
    counts.closed(DAY_MS)
    with pytest.raises(ParameterError, match="no candidate"):
        counts.decide(1, 3)
    with pytest.raises(ParameterError, match="cannot be decided now"):
        counts.decide(2, 4)
    counts.decide(1, 4)
    with pytest.raises(ParameterError, match="cannot be decided now"):
        counts.decide(1, 8)
    with pytest.raises(ParameterError, match="no candidate"):
        counting(Statistic("fixed", KEYS, HOUR_MS, 8, Fraction(1))).decide(1, 8)


DAILY = Statistic("daily", KEYS, DAY_MS, 8, Fraction(1, 2), cap_of="chosen")
TOTALS = Statistic(
    "totals", KEYS, HOUR_MS, 8, Fraction(1, 4), kind="running_totals", cap_of="chosen"
)


@pytest.mark.slow
def test_periods_and_totals_use_the_cap_of_their_day(tmp_path: Path) -> None:
    """Periods and totals follow the cap of their day through crashes."""
    rng = random.Random(4)
    days = [busy_day(day, 300, each, rng) for day, each in enumerate((2, 6, 1, 5))]

    class Several(Run):
        def _publisher(self) -> Publisher:
            further = [DAILY, TOTALS]
            return Publisher(self.counts, self.ledger, further=further, entropy=no_noise)

    run = Several(tmp_path / "ledger.db")
    for day, events in enumerate(days):
        run.publisher.publish(day * DAY_MS)
        for n, (who, when, what) in enumerate(events):
            if n == len(events) // 2:
                kept = run.snapshot()
                run.publisher.publish(when)  # stored, and lost with the process
                run.crash(kept)
            run.counts.add(who, when, what, watermark=when)
    run.publisher.publish(4 * DAY_MS)
    caps = {0: 8, **chosen_caps(run.ledger, CHOSEN, 1, 3)}
    assert caps == {0: 8, 1: 2, 2: 8, 3: 1}
    hours = {pane.start: pane for pane in read_released(run.ledger, "chosen", limit=1_000).panes}
    daily = read_released(run.ledger, "daily").panes
    totals = read_released(run.ledger, "totals", limit=1_000).panes
    levels = best_tree(24).levels
    for pane in daily:
        inside = [it for at, it in hours.items() if pane.start <= at < pane.end]
        assert pane.values == {key: sum(it.values[key] for it in inside) for key in KEYS}
        cap = caps[pane.start // DAY_MS]
        assert (pane.cap, pane.sensitivity) == (cap, cap)
        assert pane.half_width == DiscreteLaplace(cap, Fraction(1, 2)).interval()
        assert sum(pane.values.values()) <= 300 * cap
    for pane in totals:
        before = [it for at, it in hours.items() if pane.counted_from <= at < pane.end]
        assert pane.values == {key: sum(it.values[key] for it in before) for key in KEYS}
        cap = caps[pane.start // DAY_MS]
        assert pane.sensitivity == cap * levels
        noise = DiscreteLaplace(cap * levels, Fraction(1, 4))
        assert pane.half_width == noise.interval_of_sum(pane.noise_terms)
    assert (len(daily), len(totals)) == (4, 96)
    assert DAILY.loss.epsilon == Fraction(1, 2), "the choice is paid for once"


def test_the_noise_of_totals_has_the_scale_of_the_cap_of_the_day(tmp_path: Path) -> None:
    """Nodes of two days: their noise is that of each day's cap; false alarm below 1e-9."""
    keys = tuple(f"k{n}" for n in range(3_000))
    surely = replace(CHOICE, epsilon=Fraction(10))  # with CHOICE the cap is 2 in one run of eight
    chosen = replace(CHOSEN, keys=keys, cap_choice=surely)
    ledger = Ledger(tmp_path / "ledger.db", daily_epsilon=12)
    counts = counting(chosen)
    publisher = Publisher(counts, ledger, further=[replace(TOTALS, keys=keys)])
    for n in range(300):
        counts.add(f"u{n}", 5, keys[0])
    publisher.store(DAY_MS + HOUR_MS)
    pages = read_released(ledger, "totals", limit=1_000).panes
    for pane, cap in ((pages[0], 8), (pages[24], 1)):
        noise = DiscreteLaplace(cap * best_tree(24).levels, Fraction(1, 4))
        drawn = np.array(list(pane.values.values())[1:])
        assert pane.cap == cap
        assert 0.75 < drawn.std() / float(noise.variance) ** 0.5 < 1.25


def test_whose_cap_is_followed_must_be_said(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db", daily_epsilon=2)
    for counted, further in (
        (CHOSEN, replace(DAILY, cap_of=None)),
        (CHOSEN, replace(DAILY, cap_of="another")),
        (replace(CHOSEN, cap_choice=None), DAILY),
    ):
        with pytest.raises(ParameterError, match="cap_of"):
            Publisher(counting(counted), ledger, further=[further])
    with pytest.raises(ParameterError, match="cap_of"):
        replace(DAILY, cap_choice=CHOICE)
    with pytest.raises(ParameterError, match="fixed cap"):
        Statistic("t", KEYS, HOUR_MS, 8, Fraction(1), kind="running_totals", cap_choice=CHOICE)
    assert Statistic.from_json(DAILY.to_json()) == DAILY
    assert ledger.statistics() == {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"candidates": ()}, "positive integers"),
        ({"candidates": (2, 2)}, "rise"),
        ({"candidates": (0, 2)}, "positive integers"),
        ({"candidates": (1.0, 2)}, "positive integers"),
        ({"quantile": "1"}, "quantile"),
        ({"quantile": 0.9}, "quantile"),
        ({"epsilon": "0"}, "epsilon"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        CapChoice(**{"candidates": (1, 2), "epsilon": Fraction(1), **wrong})
    with pytest.raises(ParameterError, match="largest candidate"):
        Statistic("s", KEYS, HOUR_MS, 9, Fraction(1), cap_choice=CHOICE)


@given(st.lists(st.integers(1, 8), min_size=200, max_size=300))
@settings(max_examples=20, deadline=None)
def test_cap_without_noise_is_the_quantile_candidate(contributions: list[int]) -> None:
    chosen = CHOICE.cap(CHOICE.histogram(np.array(contributions)))
    covered = {
        cap: sum(n <= cap for n in contributions) >= 0.9 * len(contributions)
        for cap in CHOICE.candidates
    }
    assert chosen == min(cap for cap, enough in covered.items() if enough)


def run_until_killed(folder: Path, events: list[Event], seed: int) -> None:
    """Go on from the last stored state; die of signal 9 at a random place, or reach the end."""
    rng = random.Random(seed)
    run, path, position = Run(folder / "ledger.db"), folder / "state", 0
    if path.exists():
        position, *snapshot = pickle.loads(path.read_bytes())
        run.crash(tuple(snapshot))
    doomed = position + rng.randrange(200, 900)
    for done in range(position, len(events)):
        run.counts.add(*events[done])
        if done > doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        if rng.random() < 0.02:
            run.publisher.publish(events[done][1])
            if rng.random() < 0.15:
                os.kill(os.getpid(), signal.SIGKILL)
            draft = path.with_suffix(".new")
            draft.write_bytes(pickle.dumps((done + 1, *run.snapshot())))
            draft.replace(path)
    run.publisher.publish(3 * DAY_MS)


@pytest.mark.alone  # its fork waits for locks that threads of other tests hold
def test_processes_killed_at_random_release_the_same(
    tmp_path: Path, in_child: Callable[..., int]
) -> None:
    events = three_days(random.Random(7))
    killed = 0
    while status := in_child(run_until_killed, tmp_path, events, killed + 1):
        assert status == -signal.SIGKILL
        killed += 1
        assert killed < 200
    assert killed > 2
    assert equals_a_quiet_run(tmp_path / "quiet.db", events, Run(tmp_path / "ledger.db"))


class CounterStopsAtTheCap(BoundedCounts):
    """Counts people's contributions only up to the day's cap: it could never rise again."""

    def _count(self, contribution: Contribution, cap: int) -> bool:
        spent = self._state.spent.get(contribution.timestamp // DAY_MS, {})
        return spent.get(contribution.user, 0) < cap and super()._count(contribution, cap)


class LastCapOfAll(BoundedCounts):
    """Uses the largest candidate although the noise is that of the chosen one."""

    def _count(self, contribution: Contribution, cap: int) -> bool:
        return super()._count(contribution, self.statistic.cap)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", [CounterStopsAtTheCap, LastCapOfAll])
def test_planted_mistakes_are_caught(
    mistake: Callable[..., BoundedCounts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys.modules[__name__], "counting", lambda s, start=0: mistake(s, secret=SECRET, start=start)
    )
    with pytest.raises(AssertionError):
        test_cap_follows_yesterday_and_noise_follows_the_cap(tmp_path)
