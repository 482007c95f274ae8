"""Publishing: every cell noised, nothing drawn twice, intervals that hold."""

import logging
import random
from dataclasses import replace
from fractions import Fraction

import pytest

from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import ReleasedPane, read_released, sum_released
from tactful_privacy.errors import BudgetError, ParameterError
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import DAY_MS, Statistic
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

HOUR = 3_600_000
KEYS = ("bread", "milk", "tea")
SECRET = b"a secret of tests only"
HOURLY = Statistic("hourly", KEYS, HOUR, 5, Fraction(1))


def counting(statistic: Statistic = HOURLY) -> BoundedCounts:
    return BoundedCounts(statistic, secret=SECRET, start=0)


def published(ledger: Ledger, statistic: Statistic, hours: int = 24) -> list[ReleasedPane]:
    return Publisher(counting(statistic), ledger).publish(hours * HOUR)


def test_published_counts_are_bounded_counts_plus_noise(ledger: Ledger) -> None:
    counts = counting()
    for _ in range(20):
        counts.add("a hoarder", 0, "milk")
    for n in range(40):
        counts.add(f"user {n}", HOUR, "tea")
    panes = Publisher(counts, ledger, entropy=lambda n: bytes([0, 0x80] * (n // 2))).publish(
        2 * HOUR
    )  # this entropy makes every draw zero
    assert [list(pane.values.values()) for pane in panes] == [[0, 5, 0], [0, 0, 40]]


def test_a_pane_says_what_it_promises(ledger: Ledger) -> None:
    (pane,) = published(ledger, HOURLY, hours=1)
    assert (pane.statistic, pane.start, pane.end) == ("hourly", 0, HOUR)
    assert (pane.half_width, pane.confidence) == (15, 0.95)
    assert (pane.epsilon, pane.cap, pane.unit) == (Fraction(1), 5, "one user, one UTC day")
    assert 0 < pane.delta < 1e-15
    low, high = pane.interval("milk")
    assert (high - low, low + high) == (30, 2 * pane.values["milk"])


def test_the_budget_is_asked_before_anything_is_published(ledger: Ledger) -> None:
    Publisher(counting(), ledger)
    with pytest.raises(BudgetError):
        Publisher(counting(replace(HOURLY, name="second")), ledger)


def test_a_cap_too_large_for_64_bits_is_refused(ledger: Ledger) -> None:
    huge = Statistic("huge", KEYS, HOUR, 5_000, Fraction(1))
    with pytest.raises(ParameterError, match="delta"):
        Publisher(counting(huge), ledger)
    assert ledger.statistics() == {}


def test_logs_hold_no_person_and_no_count(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="tactful_privacy")
    counts = counting()
    for _ in range(4):
        counts.add("alice@example.org", 0, "milk")
    Publisher(counts, ledger).publish(HOUR)
    assert [record.getMessage() for record in caplog.records] == [
        "registered statistic hourly, epsilon 1"
    ]


def test_what_is_read_equals_what_was_published(ledger: Ledger) -> None:
    panes = published(ledger, HOURLY)
    first = read_released(ledger, "hourly", limit=10)
    second = read_released(ledger, "hourly", cursor=first.cursor, limit=100)
    assert [*first.panes, *second.panes] == panes
    assert second.cursor is None
    assert list(read_released(ledger, "hourly", start=3 * HOUR, end=5 * HOUR).panes) == panes[3:5]


def test_sums_add_values_and_widen_the_interval(ledger: Ledger) -> None:
    panes = published(ledger, HOURLY)
    one_key = sum_released(panes, "milk")
    assert one_key.value == sum(pane.values["milk"] for pane in panes)
    assert one_key.cells == 24
    assert one_key.half_width == DiscreteLaplace(5, 1).interval_of_sum(24)
    everything = sum_released(panes)
    assert everything.value == sum(sum(pane.values.values()) for pane in panes)
    assert everything.cells == 72
    assert sum_released(panes[:1], ["milk"]).half_width == panes[0].half_width
    assert (
        sum_released(panes, KEYS[:2], "0.99").half_width > sum_released(panes, KEYS[:2]).half_width
    )


def test_intervals_of_published_sums_cover_the_bounded_counts(ledger: Ledger) -> None:
    """200 keys, a day each, seeded: at 95 % fewer than 175 covered has probability 1e-5."""
    rng = random.Random(6)
    statistic = replace(HOURLY, keys=tuple(f"item {n}" for n in range(200)))
    counts = counting(statistic)
    true: dict[str, int] = dict.fromkeys(statistic.keys, 0)
    for n in range(3_000):
        key = rng.choice(statistic.keys)
        true[key] += counts.add(f"user {n % 400}", rng.randrange(DAY_MS), key)
    panes = Publisher(counts, ledger, entropy=rng.randbytes).publish(DAY_MS)
    sums = {key: sum_released(panes, key) for key in statistic.keys}
    covered = sum(abs(s.value - true[key]) <= s.half_width for key, s in sums.items())
    assert covered >= 175
    assert sum(true.values()) == 2_000


def test_wrong_panes_and_keys_are_refused(ledger: Ledger) -> None:
    panes = published(ledger, HOURLY)
    for keys in ("gin", [], ["milk", "milk"], ["milk", "gin"]):
        with pytest.raises(ParameterError, match="keys"):
            sum_released(panes, keys)
    different = [panes[0], replace(panes[1], statistic="other")]
    for wrong, said in (([], "no pane"), ([panes[0]] * 2, "twice"), (different, "different")):
        with pytest.raises(ParameterError, match=said):
            sum_released(wrong)
