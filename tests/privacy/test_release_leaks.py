"""One test for each way in which a release leaks although its noise is right.

Leaks 1 and 4 of running totals and of published files are in `test_running_totals` and
`tests/platform/test_publication`, as is 5; those of bounding (3, 7, 8) in `test_bounding`.
"""

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tactful_privacy import (
    BoundedCounts,
    DiscreteLaplace,
    Ledger,
    Publisher,
    ReleasedPane,
    Statistic,
    ThresholdRelease,
    read_released,
)
from tactful_privacy.statistic import RUNNING_TOTALS

HOUR = 3_600_000
SECRET = b"a secret of tests only"
WIDE = tuple(f"item {n}" for n in range(2_000))
HOURS = Statistic("hours", WIDE, HOUR, 5, Fraction(1, 2))
TOTALS = Statistic("totals", WIDE, HOUR, 5, Fraction(1, 2), kind=RUNNING_TOTALS)

Contribute = Callable[[BoundedCounts], None]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db", daily_epsilon=1)
    yield opened
    opened.close()


def publish(
    ledger: Ledger, statistic: Statistic = HOURS, contribute: Contribute = lambda counts: None
) -> list[ReleasedPane]:
    counts = BoundedCounts(statistic, secret=SECRET, start=0)
    contribute(counts)
    return Publisher(counts, ledger).publish(2 * HOUR)


def one_more(counts: BoundedCounts) -> None:
    counts.add("somebody", 0, WIDE[0])


def equal_by_chance(first: list[int], second: list[int], noise: DiscreteLaplace) -> bool:
    """Whether two draws agree as often as independent ones do; false alarm rate 1e-7."""
    same = float(sum(noise.probability(k) ** 2 for k in range(-400, 401)))
    equal = sum(a == b for a, b in zip(first, second, strict=True))
    return bool(stats.binomtest(equal, len(first), same).pvalue > 1e-7)


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
    for first, second in zip(*found, strict=True):
        assert equal_by_chance(first, second, statistic.mechanism())


def test_planted_noise_that_follows_from_the_pane_is_caught(tmp_path: Path) -> None:
    seeded = np.random.default_rng(7)
    noise = DiscreteLaplace(5, "1/2", entropy=seeded.bytes)
    again = DiscreteLaplace(5, "1/2", entropy=np.random.default_rng(7).bytes)
    assert not equal_by_chance(noise.sample(2_000).tolist(), again.sample(2_000).tolist(), noise)


@pytest.mark.parametrize("statistic", [HOURS, TOTALS])
def test_leak_4_keys_and_panes_are_there_whoever_came(tmp_path: Path, statistic: Statistic) -> None:
    shapes = []
    for name, contribute in (("a.db", lambda counts: None), ("b.db", one_more)):
        ledger = Ledger(tmp_path / name, daily_epsilon=1)
        pages = publish(ledger, statistic, contribute)
        shapes.append([(page.start, page.end, tuple(page.values)) for page in pages])
        zeros = list(pages[0].values.values()).count(0)
        expected = float(statistic.mechanism().probability(0))
        assert stats.binomtest(zeros, len(WIDE), expected).pvalue > 1e-7
        ledger.close()
    assert shapes[0] == shapes[1]


def test_leak_6_a_copied_process_does_not_copy_its_noise() -> None:
    """After a fork both draw from the system: a generator in memory would go on in both alike."""
    noise = DiscreteLaplace(5, "1/2")
    noise.sample(100)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, noise.sample(2_000).astype("<i8").tobytes())
        finally:
            os._exit(0)
    os.close(write)
    data = b""
    while part := os.read(read, 65_536):
        data += part
    os.close(read)
    os.waitpid(child, 0)
    theirs = np.frombuffer(data, "<i8").tolist()
    assert equal_by_chance(noise.sample(2_000).tolist(), theirs, noise)


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
        shown = sum(bool(rule.release({"key": count})) for _ in range(400))
        assert 0 < shown < 400
