"""Totals by the square root of summing: right sensitivity, right decoding, intervals that hold."""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import read_released, sum_released
from tactful_privacy.errors import BudgetError, ParameterError, StateError
from tactful_privacy.ledger.budget import Budget
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import DAY_MS, GAUSSIAN_TOTALS, Statistic
from tactful_privacy.mechanisms.matrix_factorisation import RootOfSums, gaussian_totals

HOUR = 3_600_000
KEYS = ("bread", "milk", "tea")
SECRET = b"a secret of tests only"
TOTALS = Statistic(
    "totals", KEYS, HOUR, 4, Fraction(1), 1, GAUSSIAN_TOTALS, delta=Fraction(1, 10**6)
)
BUDGET = Budget(Fraction(1), Fraction(1, 10**6))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db", budgets=[BUDGET])
    yield opened
    opened.close()


def counting(statistic: Statistic = TOTALS, start: int = 0) -> BoundedCounts:
    return BoundedCounts(statistic, secret=SECRET, start=start)


def matrix(root: RootOfSums) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    found = np.zeros((root.length, root.length), dtype=np.int64)
    for k, coefficient in enumerate(root.coefficients):
        found += np.diag([coefficient] * (root.length - k), -k)
    return found


@pytest.mark.parametrize("bits", [2, 6, 12])
def test_the_root_squared_is_the_sum_but_for_rounding(bits: int) -> None:
    """And the decoder is the sum after the root's inverse."""
    root, sums = RootOfSums(24, bits), np.tril(np.ones((24, 24)))
    squared = matrix(root) @ matrix(root) / 4**bits
    np.testing.assert_allclose(squared, sums, atol=24 * 2.0**-bits)
    assert list(root.coefficients) == sorted(root.coefficients, reverse=True)
    wanted = sums @ np.linalg.inv(matrix(root))
    np.testing.assert_allclose(root.decoder, wanted[:, 0], atol=1e-9)
    np.testing.assert_allclose(wanted[5:, 5], root.decoder[:-5], atol=1e-9)


@pytest.mark.parametrize(
    ("length", "cap", "cell_cap"), [(6, 3, 1), (4, 4, 2), (4, 3, 3), (4, 4, 3)]
)
def test_no_placement_of_contributions_exceeds_the_sensitivity(
    length: int, cap: int, cell_cap: int
) -> None:
    """Every way to place them over panes, of one key or of two."""
    root = RootOfSums(length, 8)
    columns, limit = matrix(root), root.sensitivity_squared(cap, cell_cap)
    worst = 0
    for counts in itertools.product(range(cell_cap + 1), repeat=2 * length):
        if sum(counts) <= cap:
            keys = np.array(counts).reshape(2, length)
            worst = max(worst, int(((columns @ keys.T) ** 2).sum()))
    assert worst <= limit
    if cap % cell_cap == 0:
        assert worst == limit


def test_more_contributions_than_panes_go_to_further_keys() -> None:
    root = RootOfSums(3, 8)
    assert root.sensitivity_squared(7, 1) == 2 * root.sensitivity_squared(3, 1) + (
        root.sensitivity_squared(1, 1)
    )


def test_the_error_at_a_minute_a_pane_is_the_promised_one() -> None:
    """3.22 root mean square, 3.38 at most, for unit noise and one contribution (T = 1,440)."""
    root = RootOfSums(1_440, 10)
    norm = math.sqrt(root.sensitivity_squared(1, 1))
    errors = norm * np.sqrt(np.cumsum(root.decoder**2))
    assert math.sqrt(np.mean(errors**2)) == pytest.approx(3.22, abs=0.005)
    assert errors.max() == pytest.approx(3.381, abs=0.005)
    together = math.sqrt(root.sensitivity_squared(5, 1)) / 2**10
    assert together == pytest.approx(8.26, abs=0.01), "five in a row weigh more than sqrt(5) of one"


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "delta"), [("1", "1e-6"), ("1/10", "1e-9"), ("4", "1e-6")])
def test_noise_keeps_to_the_delta_it_was_given(epsilon: str, delta: str) -> None:
    found = gaussian_totals(24, 3, 1, Fraction(epsilon), Fraction(delta))
    assert found.delta(Fraction(epsilon)) <= Fraction(delta)
    assert found.delta(Fraction(epsilon)) > Fraction(delta) / 3, "what is allowed is used"
    assert found.noise().sigma_squared == found.sensitivity_squared / (2 * found.rho)


@pytest.mark.slow
def test_totals_match_bounded_counts_within_intervals(ledger: Ledger) -> None:
    """Through restarts, seeded; of 144 totals at 95 %, fewer than 115 within: probability 1e-8.

    Errors of one key and day go together, hence the slack.
    """
    rng, entropy = random.Random(4), np.random.default_rng(4).bytes
    counts = counting()
    publisher = Publisher(counts, ledger, entropy=entropy)
    true: dict[tuple[int, str], int] = {}
    times = sorted(rng.randrange(2 * DAY_MS) for _ in range(900))
    for time in times:
        key = rng.choice(KEYS)
        if counts.add(f"u{rng.randrange(300)}", time, key, watermark=time):
            true[time, key] = true.get((time, key), 0) + 1
        if rng.random() < 0.05:
            publisher.publish(time)
        if rng.random() < 0.005:
            states = counts.snapshot(), publisher.snapshot()
            counts = counting()
            counts.restore(states[0])
            publisher = Publisher(counts, ledger, entropy=entropy)
            publisher.restore(states[1])
    publisher.publish(2 * DAY_MS)
    pages = read_released(ledger, "totals", limit=100).panes
    assert len(pages) == 48
    within = 0
    for page in pages:
        assert page.counted_from == page.start - page.start % DAY_MS
        assert page.kind == GAUSSIAN_TOTALS
        for key in KEYS:
            wanted = sum(
                n for (t, k), n in true.items() if k == key and page.counted_from <= t < page.end
            )
            within += abs(page.values[key] - wanted) <= page.half_width
    assert within >= 115
    assert pages == (
        *read_released(ledger, "totals", limit=30).panes,
        *read_released(ledger, "totals", start=30 * HOUR).panes,
    ), "a page in the middle of a day is decoded from midnight on"


def test_intervals_cover_as_often_as_they_say(ledger: Ledger) -> None:
    """1,000 keys, seeded: fewer than 915 covered at one time of day has probability 1e-6."""
    statistic = replace(TOTALS, keys=tuple(str(n) for n in range(1_000)))
    counts, entropy = counting(statistic, start=2 * HOUR), np.random.default_rng(5).bytes
    pages = Publisher(counts, ledger, entropy=entropy).publish(DAY_MS)
    for page in (pages[0], pages[9], pages[-1]):
        covered = sum(abs(value) <= page.half_width for value in page.values.values())
        assert 915 <= covered < 1_000
    assert pages[0].half_width < pages[-1].half_width < 3 * pages[0].half_width


def test_what_was_released_before_a_crash_stays(ledger: Ledger) -> None:
    counts = counting()
    saved = counts.snapshot()
    publisher = Publisher(counts, ledger)
    sums = publisher.snapshot()
    before = publisher.publish(5 * HOUR)
    restored = counting()
    restored.restore(saved)
    publisher = Publisher(restored, ledger)
    publisher.restore(sums)
    assert publisher.publish(7 * HOUR)[:5] == before


@pytest.mark.slow
def test_what_does_not_fit_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    without_delta = Ledger(tmp_path / "without.db", daily_epsilon=1)
    with pytest.raises(BudgetError, match="delta"):
        Publisher(counting(), without_delta)
    without_delta.close()
    other = Ledger(tmp_path / "other.db", budgets=[BUDGET])
    fewer = Publisher(counting(replace(TOTALS, keys=("a",))), other)
    with pytest.raises(StateError, match="another statistic"):
        Publisher(counting(), ledger).restore(fewer.snapshot())
    other.close()
    with pytest.raises(ParameterError, match="Gaussian"):
        sum_released(Publisher(counting(), ledger).publish(2 * HOUR)[:1])


def test_the_definition_is_checked_and_kept() -> None:
    assert Statistic.from_json(TOTALS.to_json()) == TOTALS
    with pytest.raises(ParameterError, match="need a delta"):
        replace(TOTALS, delta=None)
    with pytest.raises(ParameterError, match="need a delta"):
        replace(TOTALS, kind="panes")
    with pytest.raises(ParameterError, match="delta"):
        replace(TOTALS, delta=Fraction(2))
    with pytest.raises(ParameterError, match="Gaussian"):
        TOTALS.mechanism()
