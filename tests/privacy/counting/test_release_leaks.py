"""One test for each way in which a release leaks although its noise is right.

Leaks 1 and 3 of running totals are in `test_running_totals`; 4 of published files and 5 in
`tests/platform`: `test_publication`, `test_public_metrics`. Others test the same at more length:
`test_bounding` the counters, `test_ledger` what is drawn once.
"""

import os
import signal
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.heavy_hitters import BoundedKeys, KeysPublisher
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import ReleasedPane, read_released
from tactful_privacy.ledger.budget import Budget
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import DAY_MS, FOUND_KEYS, RUNNING_TOTALS, UNIT, Statistic
from tactful_privacy.mechanisms._table import TableNoise
from tactful_privacy.mechanisms.laplace import DiscreteLaplace
from tactful_privacy.mechanisms.threshold import ThresholdRelease
from tactful_privacy.people.pseudonyms import Keyring

HOUR = 3_600_000
SECRET = b"a secret of tests only"
WIDE = tuple(f"item {n}" for n in range(2_000))
HOURS = Statistic("hours", WIDE, HOUR, 5, Fraction(1, 2))
TOTALS = Statistic("totals", WIDE, HOUR, 5, Fraction(1, 2), kind=RUNNING_TOTALS)

Contribute = Callable[[BoundedCounts], None]


def publish(
    ledger: Ledger, statistic: Statistic = HOURS, contribute: Contribute = lambda counts: None
) -> list[ReleasedPane]:
    counts = BoundedCounts(statistic, secret=SECRET, start=0)
    contribute(counts)
    return Publisher(counts, ledger).publish(2 * HOUR)


def one_more(counts: BoundedCounts) -> None:
    counts.add("somebody", 0, WIDE[0])


def equal_by_chance(first: list[int], second: list[int], noise: TableNoise) -> bool:
    """Whether two draws agree as often as independent ones do; false alarm rate 1e-11.

    What is drawn here must be the system's, so no test of it can be seeded.
    """
    same = float(sum(noise.probability(k) ** 2 for k in range(-400, 401)))
    equal = sum(a == b for a, b in zip(first, second, strict=True))
    return bool(stats.binomtest(equal, len(first), same).pvalue > 1e-11)


@pytest.mark.parametrize("statistic", [HOURS, TOTALS])
def test_leak_1_a_pane_that_fires_again_is_not_drawn_again(
    ledger: Ledger, statistic: Statistic
) -> None:
    """Late data, a failover, a second server: the first release stays, averaging finds nothing."""
    first = publish(ledger, statistic)
    for _ in range(3):
        assert publish(ledger, statistic) == first


@pytest.mark.parametrize("statistic", [HOURS, TOTALS])
def test_leak_2_noise_does_not_follow_from_the_pane(tmp_path: Path, statistic: Statistic) -> None:
    """With noise that is a function of statistic and pane, two ledgers would differ by the data.

    One person more in the second: the difference must not tell who.
    """
    found = []
    for name, contribute in (("a.db", lambda counts: None), ("b.db", one_more)):
        ledger = Ledger(tmp_path / name, daily_epsilon=1)
        pages = publish(ledger, statistic, contribute)
        found.append([list(page.values.values()) for page in pages])
        ledger.close()
    pairs = [*zip(*found, strict=True)]
    if statistic is HOURS:  # totals of one day share noise
        pairs += [(found[0][0], found[0][1])]
    for first, second in pairs:
        assert equal_by_chance(first, second, statistic.mechanism())


def test_planted_noise_that_follows_from_the_pane_is_caught(tmp_path: Path) -> None:
    seeded = np.random.default_rng(7)
    noise = DiscreteLaplace(5, "1/2", entropy=seeded.bytes)
    again = DiscreteLaplace(5, "1/2", entropy=np.random.default_rng(7).bytes)
    assert not equal_by_chance(noise.sample(2_000).tolist(), again.sample(2_000).tolist(), noise)


def count_until_killed(file: Path, dies_at: int, forgets: bool) -> None:
    """Count somebody's contributions from where the file says; store; die of signal 9."""
    counts = BoundedCounts(HOURS, secret=SECRET, start=0)
    position = 0
    if file.exists():
        stored = file.read_bytes()
        position = int.from_bytes(stored[:8])
        counts.restore(stored[8:])
        if forgets:
            counts._state.spent.clear()
    for event in range(position, dies_at):
        counts.add("somebody", event, WIDE[event % 7])
        if event % 3 == 2:
            draft = file.with_suffix(".draft")
            draft.write_bytes((event + 1).to_bytes(8) + counts.snapshot())
            draft.replace(file)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.alone  # its fork waits for locks that threads of other tests hold
@pytest.mark.parametrize(("forgets", "expected"), [(False, 5), (True, 15)])
def test_leak_3_kill_9_does_not_hand_out_a_second_cap(
    tmp_path: Path, forgets: bool, expected: int, in_child: Callable[..., int]
) -> None:
    """Counters are in one write with the position; counters that were forgotten would be seen."""
    file = tmp_path / "state"
    for dies_at in (7, 13, 20):
        assert in_child(count_until_killed, file, dies_at, forgets) == -signal.SIGKILL
    counts = BoundedCounts(HOURS, secret=SECRET, start=0)
    counts.restore(file.read_bytes()[8:])
    assert sum(int(pane.counts.sum()) for pane in counts.closed(HOUR)) == expected


@pytest.mark.parametrize("statistic", [HOURS, TOTALS])
def test_leak_4_keys_and_panes_are_there_whoever_came(tmp_path: Path, statistic: Statistic) -> None:
    shapes = []
    for name, contribute in (("a.db", lambda counts: None), ("b.db", one_more)):
        ledger = Ledger(tmp_path / name, daily_epsilon=1)
        pages = publish(ledger, statistic, contribute)
        shapes.append([(page.start, page.end, tuple(page.values)) for page in pages])
        assert zeros_are_chance(list(pages[0].values.values()), statistic.mechanism())
        ledger.close()
    assert shapes[0] == shapes[1]


def zeros_are_chance(values: list[int], noise: TableNoise) -> bool:
    """Whether zeros are as frequent as noise on true zeros makes them; false alarm rate 1e-11."""
    expected = float(noise.probability(0))
    return bool(stats.binomtest(values.count(0), len(values), expected).pvalue > 1e-11)


def test_planted_silence_of_empty_cells_is_caught() -> None:
    assert not zeros_are_chance([0] * 2_000, HOURS.mechanism())


def test_leak_4_a_day_without_found_keys_is_published(tmp_path: Path) -> None:
    statistic = Statistic(
        "terms", (), DAY_MS, 3, Fraction(1, 2), kind=FOUND_KEYS, delta=Fraction(1, 10**6)
    )
    ledger = Ledger(tmp_path / "ledger.db", budgets=[Budget(Fraction(1), Fraction(1, 10**6))])
    keys = BoundedKeys(statistic, secret=SECRET, start=0)
    keys.add("somebody", DAY_MS, "the only one")
    # Its chance to be shown, 3e-7, is the statistic's delta and not what is tested here.
    entropy = np.random.default_rng(1).bytes
    panes = KeysPublisher(keys, ledger, entropy=entropy).publish(3 * DAY_MS)
    ledger.close()
    assert [(pane.start, pane.values) for pane in panes] == [(n * DAY_MS, {}) for n in range(3)]


@pytest.mark.alone  # its fork waits for locks that threads of other tests hold
def test_leak_6_a_copied_process_does_not_copy_its_noise(
    tmp_path: Path, in_child: Callable[..., int]
) -> None:
    """After a fork both draw from the system: a generator in memory would go on in both alike."""
    noise, file = DiscreteLaplace(5, "1/2"), tmp_path / "drawn.npy"
    noise.sample(100)
    assert in_child(lambda: np.save(file, noise.sample(2_000))) == 0
    assert equal_by_chance(noise.sample(2_000).tolist(), np.load(file).tolist(), noise)


def test_leak_7_a_new_pseudonym_is_no_second_cap(tmp_path: Path) -> None:
    """People are counted under a hash of their own, whatever pseudonym they have elsewhere."""
    ring = Keyring(tmp_path / "keys.json", clock=lambda: 0)
    by_id, by_pseudonym = (BoundedCounts(HOURS, secret=SECRET, start=0) for _ in range(2))
    for n in range(20):
        by_id.add("somebody", n, WIDE[0])
        by_pseudonym.add(ring.pseudonym("somebody").digest.hex(), n, WIDE[0])
        if n == 9:
            ring.rotate()
    assert [int(it.closed(HOUR)[0].counts.sum()) for it in (by_id, by_pseudonym)] == [5, 10]


def test_leak_8_two_ids_of_a_person_are_two_units(ledger: Ledger) -> None:
    """Each is bounded, both together by twice as much: the promise is for a user, an id."""
    counts = BoundedCounts(HOURS, secret=SECRET, start=0)
    for n in range(20):
        counts.add(("phone", "laptop")[n % 2], n, WIDE[0])
    assert int(counts.closed(HOUR)[0].counts.sum()) == 2 * HOURS.cap
    assert {pane.unit for pane in publish(ledger)} == {UNIT} == {"one user, one UTC day"}
    told = (Path(__file__).parents[3] / "docs/explanation/privacy.md").read_text("utf-8")
    assert "Two ids of one person are two units" in told


@pytest.mark.parametrize("statistic", [HOURS, TOTALS])
def test_leak_9_an_erasure_changes_no_published_number(
    ledger: Ledger, statistic: Statistic
) -> None:
    """History computed again without a person is not published: the difference would be theirs."""
    first = publish(ledger, statistic, one_more)
    assert publish(ledger, statistic) == first
    assert list(read_released(ledger, statistic.name).panes) == first


def test_leak_10_the_threshold_is_on_the_noisy_count() -> None:
    """Counts around it are shown now and then, on either side; an exact one would be sharp."""
    rule = ThresholdRelease(1, 1, "1e-6")
    for count in (rule.threshold - 2, rule.threshold, rule.threshold + 2):
        # Two above it a count is hidden once in 27 times: never of so many has probability 1e-16.
        shown = sum(bool(rule.release({"key": count})) for _ in range(1_000))
        assert 0 < shown < 1_000
