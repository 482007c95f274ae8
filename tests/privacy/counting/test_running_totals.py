"""Totals since midnight and sums of periods: released once, their noise never drawn again."""

import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tactful_privacy.counting.bounded_counts import BoundedCounts, Pane
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import read_released, sum_released
from tactful_privacy.counting.series import RunningTotals
from tactful_privacy.errors import BudgetError, ParameterError, StateError
from tactful_privacy.ledger.ledger import Draw, Ledger
from tactful_privacy.ledger.rows import SharedNoise
from tactful_privacy.ledger.statistic import DAY_MS, RUNNING_TOTALS, Statistic
from tactful_privacy.mechanisms.counting_tree import best_tree
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

MINUTE, HOUR = 60_000, 3_600_000
KEYS = ("bread", "milk", "tea")
SECRET = b"a secret of tests only"
TOTALS = Statistic("totals", KEYS, 15 * MINUTE, 5, Fraction(1), kind=RUNNING_TOTALS)
QUARTERS = Statistic("quarters", KEYS, 15 * MINUTE, 5, Fraction(1, 3))
HOURS = replace(QUARTERS, name="hours", pane_ms=HOUR)
DAYS = replace(QUARTERS, name="days", pane_ms=DAY_MS)


def makes_every_draw_zero(n: int) -> bytes:
    return bytes([0, 0x80] * (n // 2))


def counting(statistic: Statistic, snapshot: bytes | None = None) -> BoundedCounts:
    counts = BoundedCounts(statistic, secret=SECRET, start=0)
    if snapshot is not None:
        counts.restore(snapshot)
    return counts


def contributions(seed: int) -> list[tuple[str, int, str]]:
    rng = random.Random(seed)
    times = sorted(rng.randrange(2 * DAY_MS) for _ in range(120))
    return [(f"u{rng.randrange(40)}", time, rng.choice(KEYS)) for time in times]


def recount(what: list[tuple[str, int, str]]) -> list[tuple[int, str]]:
    """Time and key of what counts: the first ones of a person and day."""
    spent: dict[tuple[str, int], int] = {}
    counted = []
    for who, time, key in what:
        unit = who, time // DAY_MS
        spent[unit] = spent.get(unit, 0) + 1
        if spent[unit] <= 5:
            counted.append((time, key))
    return counted


def read_all(ledger: Ledger, name: str) -> dict[int, dict[str, int]]:
    return {p.start: p.values for p in read_released(ledger, name, limit=1_000).panes}


@pytest.mark.slow
def test_totals_without_noise_equal_the_bounded_recount(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", daily_epsilon=2)
    counts = counting(QUARTERS)
    further = [HOURS, DAYS, TOTALS]
    publisher = Publisher(counts, ledger, further=further, entropy=makes_every_draw_zero)
    rng = random.Random(4)
    what = contributions(4)
    for who, time, key in what:
        counts.add(who, time, key, watermark=time)
        if rng.random() < 0.1:
            publisher.publish(time)
        if rng.random() < 0.1:  # the process is started anew
            ledger.close()
            ledger = Ledger(tmp_path / "ledger.db")
            states = counts.snapshot(), publisher.snapshot()
            counts = counting(QUARTERS, states[0])
            publisher = Publisher(counts, ledger, further=further, entropy=makes_every_draw_zero)
            publisher.restore(states[1])
    publisher.publish(2 * DAY_MS)
    counted = recount(what)
    for statistic in (QUARTERS, HOURS, DAYS):
        wanted = {
            start: dict.fromkeys(KEYS, 0) for start in range(0, 2 * DAY_MS, statistic.pane_ms)
        }
        for time, key in counted:
            wanted[time - time % statistic.pane_ms][key] += 1
        assert read_all(ledger, statistic.name) == wanted
    for start, values in read_all(ledger, "totals").items():
        end, midnight = start + 15 * MINUTE, start - start % DAY_MS
        for key in KEYS:
            assert values[key] == sum(midnight <= t < end and k == key for t, k in counted)
    ledger.close()


def test_a_total_says_since_when_it_counts_and_how_sure_it_is(ledger: Ledger) -> None:
    pages = Publisher(counting(TOTALS), ledger).publish(DAY_MS + HOUR)
    tree = best_tree(96)
    first, eighth, last, next_day = pages[0], pages[7], pages[95], pages[96]
    assert (first.start, first.end, first.counted_from) == (0, 15 * MINUTE, 0)
    assert last.counted_from == 0
    assert next_day.counted_from == DAY_MS
    assert [p.noise_terms for p in (first, eighth, last)] == [1, 8, len(tree.nodes(96))]
    assert first.half_width == next_day.half_width < eighth.half_width
    assert first.sensitivity == 5 * tree.levels == TOTALS.sensitivity
    used = {node.unsigned for t in range(1, 97) for node in tree.nodes(t)}
    of_a_cell = DiscreteLaplace(5 * tree.levels, TOTALS.epsilon).delta(TOTALS.epsilon)
    assert float(len(used) * len(KEYS) * of_a_cell) <= first.delta < 1e-12


def test_totals_are_not_added_up(ledger: Ledger) -> None:
    pages = Publisher(counting(TOTALS), ledger).publish(2 * HOUR)
    with pytest.raises(ParameterError, match="overlap"):
        sum_released(pages)


def test_intervals_of_totals_cover_as_often_as_they_say(tmp_path: Path) -> None:
    """800 keys at four times of a day, seeded: fewer than 725 covered has probability 1e-6."""
    keys = tuple(f"item {n}" for n in range(800))
    statistic = replace(TOTALS, keys=keys)
    ledger = Ledger(tmp_path / "ledger.db", daily_epsilon=1)
    entropy = np.random.default_rng(1).bytes
    pages = Publisher(counting(statistic), ledger, entropy=entropy).publish(DAY_MS)
    for page in (pages[0], pages[8], pages[50], pages[95]):
        covered = sum(abs(value) <= page.half_width for value in page.values.values())
        assert covered >= 725
    ledger.close()


def test_noise_of_totals_is_that_of_the_tree(tmp_path: Path) -> None:
    """Second moments: a total's variance, and what two totals of one block share.

    Over 4,000 keys, seeded; the tolerance is seven standard errors.
    """
    keys = tuple(f"item {n}" for n in range(4_000))
    statistic = replace(TOTALS, keys=keys)
    ledger = Ledger(tmp_path / "ledger.db", daily_epsilon=1)
    entropy = np.random.default_rng(2).bytes
    pages = Publisher(counting(statistic), ledger, entropy=entropy).publish(3 * HOUR)
    noise = [np.array(list(page.values.values())) for page in pages]
    variance = float(statistic.mechanism().variance)
    tree = best_tree(96)
    for t in (1, 7, 12):
        assert np.var(noise[t - 1]) / variance == pytest.approx(len(tree.nodes(t)), rel=0.35)
    for s, t in ((3, 7), (9, 12)):
        shared = {n[:2]: n.sign for n in tree.nodes(s)}
        terms = sum(n.sign * shared.get(n[:2], 0) for n in tree.nodes(t))
        covariance = np.mean(noise[s - 1] * noise[t - 1]) / variance
        assert covariance == pytest.approx(terms, abs=1.5)
    ledger.close()


def test_leak_1_a_node_is_not_redrawn_after_a_crash(ledger: Ledger) -> None:
    """A total is stored, the process dies before its state is, and the next one goes on.

    The eighth total has the noise of eight nodes, one of them of panes to come. With nodes drawn
    again, it would have that of eighteen draws: five old ones, eight new ones, and five new ones
    that stand for the old. Over 2,000 keys, seeded; the tolerance is eight standard errors.
    """
    entropy = np.random.default_rng(3).bytes
    wide = replace(TOTALS, keys=tuple(f"item {n}" for n in range(2_000)))
    counts = counting(wide)
    saved = counts.snapshot()
    publisher = Publisher(counts, ledger, entropy=entropy)
    sums = publisher.snapshot()
    before = publisher.publish(5 * 15 * MINUTE)
    publisher = Publisher(counting(wide, saved), ledger, entropy=entropy)
    publisher.restore(sums)
    pages = publisher.publish(8 * 15 * MINUTE)
    assert pages[:5] == before
    eighth = np.var(list(pages[7].values.values())) / float(wide.mechanism().variance)
    assert len(best_tree(96).nodes(8)) == 8
    assert eighth == pytest.approx(8, rel=0.35)


def test_planted_redrawing_of_nodes_is_caught(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def redraw(self: object, statistic: object, day: int, draws: dict[str, Draw]) -> object:
        return {name: draw() for name, draw in draws.items()}

    monkeypatch.setattr(SharedNoise, "draw_once", redraw)
    with pytest.raises(AssertionError):
        test_leak_1_a_node_is_not_redrawn_after_a_crash(ledger)


def totals_after_a_crash(ledger: Ledger) -> list[int]:
    """One contribution was released in five totals; counted again, it comes too late."""
    counts = counting(TOTALS)
    saved = counts.snapshot()
    publisher = Publisher(counts, ledger, entropy=makes_every_draw_zero)
    sums = publisher.snapshot()
    assert counts.add("u", 0, "milk")
    publisher.publish(5 * 15 * MINUTE)
    counts = counting(TOTALS, saved)
    publisher = Publisher(counts, ledger, entropy=makes_every_draw_zero)
    publisher.restore(sums)
    assert not counts.add("u", 0, "milk", watermark=6 * 15 * MINUTE)
    assert counts.add("v", 6 * 15 * MINUTE, "milk", watermark=6 * 15 * MINUTE)
    return [page.values["milk"] for page in publisher.publish(8 * 15 * MINUTE)]


def test_leak_3_what_totals_had_added_they_do_not_take_off_again(ledger: Ledger) -> None:
    """Else a contribution would change totals up and down: it would weigh twice."""
    assert totals_after_a_crash(ledger) == [1, 1, 1, 1, 1, 1, 2, 2]


def test_planted_totals_of_what_was_counted_again_are_caught(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the total goes on from what this process has counted, not from what was released."""
    counted: dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}

    def take(self: RunningTotals, pane: Pane, cap: int | None = None) -> tuple[int, Draw]:
        before = counted.get(pane.start - 15 * MINUTE, np.zeros(3, dtype=np.int64))
        counted[pane.start] = before + pane.counts
        return pane.start, lambda: counted[pane.start]

    monkeypatch.setattr(RunningTotals, "take", take)
    found = totals_after_a_crash(ledger)
    assert found[:5] == [1] * 5
    assert found[5] == 0


@pytest.mark.parametrize(
    ("statistic", "wanted"), [(QUARTERS, [1, 0, 0, 0, 1, 0, 0, 0]), (TOTALS, [1] * 4 + [2] * 4)]
)
def test_a_failing_ledger_costs_no_pane_and_no_node(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, statistic: Statistic, wanted: list[int]
) -> None:
    counts = counting(statistic)
    publisher = Publisher(counts, ledger, entropy=makes_every_draw_zero)
    counts.add("u", 0, "tea")
    with monkeypatch.context() as broken:
        fail = (_ for _ in ()).throw
        broken.setattr(Ledger, "release_many", lambda *_, **__: fail(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            publisher.publish(HOUR)
    counts.add("v", HOUR, "tea")
    pages = publisher.publish(2 * HOUR)
    assert [page.values["tea"] for page in pages] == wanted
    assert publisher.publish(2 * HOUR) == []


def test_shared_noise_is_drawn_once_and_deleted(location: str) -> None:
    """On every database that a ledger may be in."""
    ledger = Ledger(location, daily_epsilon=1)
    ledger.register(TOTALS)
    drawn = []

    def draw() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        drawn.append(1)
        return np.array([len(drawn), 0, 0], dtype=np.int64)

    first = ledger.shared_noise.draw_once(TOTALS, 0, {"0.0": draw, "0.1": draw})
    again = ledger.shared_noise.draw_once(TOTALS, 0, {"0.1": draw, "0.2": draw})
    assert (again["0.1"] == first["0.1"]).all()
    assert len(drawn) == 3
    other_day = ledger.shared_noise.draw_once(TOTALS, DAY_MS, {"0.0": draw})
    ledger.shared_noise.delete_before(TOTALS, DAY_MS)
    kept = ledger.shared_noise.draw_once(TOTALS, DAY_MS, {"0.0": draw})
    assert (kept["0.0"] == other_day["0.0"]).all()
    assert len(drawn) == 4
    ledger.shared_noise.draw_once(TOTALS, 0, {"0.0": draw})
    assert len(drawn) == 5, "it was forgotten"
    ledger.close()


@pytest.mark.slow
def test_totals_are_published_on_every_database(location: str) -> None:
    ledger = Ledger(location, daily_epsilon=1)
    counts = counting(TOTALS)
    counts.add("u", HOUR, "tea")
    pages = Publisher(counts, ledger, entropy=makes_every_draw_zero).publish(2 * HOUR)
    assert [page.values["tea"] for page in pages] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert list(read_released(ledger, "totals").panes) == pages
    ledger.close()


def publish_until_killed(path: Path, panes: int) -> None:
    """Publish pane after pane; after so many a timer kills the process wherever it is."""
    publisher = Publisher(counting(TOTALS), Ledger(path, daily_epsilon=1))
    for pane in range(1, 97):
        publisher.publish(pane * TOTALS.pane_ms)
        if pane == panes:
            threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGKILL)).start()
    signal.pause()


@pytest.mark.alone  # its fork waits for locks that threads of other tests hold
def test_kill_9_leaves_every_shown_total_and_node_as_it_was(
    tmp_path: Path, in_child: Callable[..., int]
) -> None:
    """Several lives, each killed somewhere; shown totals stay, and so does the noise of nodes."""
    path = tmp_path / "ledger.db"
    seen: dict[int, dict[str, int]] = {}
    noise: dict[str, bytes] = {}
    for panes in (3, 20):
        assert in_child(publish_until_killed, path, panes) == -signal.SIGKILL
        ledger = Ledger(path)
        stored = read_all(ledger, "totals")
        assert {start: stored[start] for start in seen} == seen
        seen = stored

        def refuse() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            raise AssertionError("a node of a stored total has no stored noise")

        for t in range(1, len(stored) + 1):
            nodes = best_tree(96).nodes(t)
            kept = ledger.shared_noise.draw_once(TOTALS, 0, {node.name: refuse for node in nodes})
            assert seen[(t - 1) * 15 * MINUTE]["tea"] == sum(
                node.sign * int(kept[node.name][2]) for node in nodes
            )
            for name, values in kept.items():
                assert noise.setdefault(name, values.tobytes()) == values.tobytes()
        ledger.close()


@pytest.mark.parametrize(
    "other",
    [
        replace(HOURS, keys=("bread",)),
        replace(HOURS, cap=4),
        replace(HOURS, cell_cap=1),
        replace(HOURS, pane_ms=10 * MINUTE),
        replace(TOTALS, pane_ms=HOUR, epsilon=Fraction(1, 3)),
    ],
)
def test_statistics_that_do_not_fit_the_counts_are_refused(
    ledger: Ledger, other: Statistic
) -> None:
    with pytest.raises(ParameterError, match=other.name):
        Publisher(counting(QUARTERS), ledger, further=[other])
    assert ledger.statistics() == {}


def test_all_periods_together_must_fit_the_budget(ledger: Ledger) -> None:
    with pytest.raises(BudgetError, match="totals"):
        Publisher(counting(QUARTERS), ledger, further=[HOURS, TOTALS])


def test_totals_of_too_many_keys_are_refused() -> None:
    many = tuple(str(n) for n in range(200_000))
    with pytest.raises(ParameterError, match="delta"):
        statistic = Statistic("many", many, MINUTE, 100, Fraction(1), kind=RUNNING_TOTALS)
        ledger: Ledger = None  # type: ignore[assignment]
        Publisher(counting(statistic), ledger)


def test_sums_of_another_moment_are_refused(ledger: Ledger, tmp_path: Path) -> None:
    """With them a contribution would be counted twice, once in the sum and once again."""
    counts = counting(HOURS)
    publisher = Publisher(counts, ledger)
    early = publisher.snapshot()
    publisher.publish(HOUR)
    with pytest.raises(StateError, match="another moment"):
        publisher.restore(early)
    with pytest.raises(StateError, match="damaged"):
        publisher.restore(b"\xc1")
    other = Ledger(tmp_path / "other.db", daily_epsilon=1)
    fewer = Publisher(counting(replace(HOURS, keys=("a",))), other)
    with pytest.raises(StateError, match="another statistic"):
        Publisher(counting(HOURS), ledger).restore(fewer.snapshot())
    other.close()


def test_the_definition_tells_the_kind() -> None:
    assert Statistic.from_json(TOTALS.to_json()) == TOTALS
    with pytest.raises(ParameterError, match="kind"):
        replace(TOTALS, kind="windows")
    assert TOTALS.fingerprint != replace(TOTALS, kind="panes").fingerprint
    assert "kind" not in QUARTERS.to_json(), "ledgers of before keep their fingerprints"
