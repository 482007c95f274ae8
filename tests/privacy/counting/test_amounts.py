"""Sums of amounts and Gaussian panes: exact sensitivity, noise as stated, sound means."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tactful_privacy.analysis.conclusions import mean_released
from tactful_privacy.audit.pipeline import chance_of, exact_delta
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.bounded_state import Contribution
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import ReleasedPane, read_released, sum_released
from tactful_privacy.errors import ParameterError
from tactful_privacy.ledger.amounts import Amounts
from tactful_privacy.ledger.budget import Budget
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import DAY_MS, GAUSSIAN_PANES, Statistic
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

SECRET = b"a secret of tests only"
CAP = 3
SUMS = Statistic(
    "sums", ("a", "b"), DAY_MS // 4, CAP, Fraction(1), amounts=Amounts(-4, 7, Fraction(1, 2))
)

Given = tuple[str, int, str, int]  # user, time, key, amount


def table(given: list[Given], make: type[BoundedCounts] = BoundedCounts) -> np.ndarray:
    counter = make(SUMS, secret=SECRET, start=0)
    for user, at, key, amount in given:
        counter.add(user, at, key, amount=amount)
    return np.array([pane.counts for pane in counter.closed(2 * DAY_MS)])


def largest_change(given: list[Given], make: type[BoundedCounts] = BoundedCounts) -> int:
    """Largest L1 change of the sums by all contributions of one user and day."""
    whole, changes = table(given, make), [0]
    for user, day in {(user, at // DAY_MS) for user, at, *_ in given}:
        rest = [it for it in given if (it[0], it[1] // DAY_MS) != (user, day)]
        changes.append(int(np.abs(whole - table(rest, make)).sum()))
    return max(changes)


streams = st.lists(
    st.tuples(
        st.sampled_from("uvw"),
        st.integers(0, 2 * DAY_MS - 1),
        st.sampled_from("abc"),
        st.integers(-(10**12), 10**12) | st.integers(-9, 9),
    )
)


@given(streams)
@examples(max_examples=200, deadline=None)
def test_a_user_day_moves_sums_by_cap_times_the_largest_amount(stream: list[Given]) -> None:
    """Any amounts, also far outside the range: the bound of the noise holds, and is reached."""
    assert largest_change(stream) <= SUMS.sensitivity == CAP * 7
    assert largest_change([*stream, *[("hostile", n, "a", 10**9) for n in range(9)]]) == CAP * 7


class Unclamped(BoundedCounts):
    def _count(self, contribution: Contribution, cap: int) -> bool:
        contribution.amount += 1
        return super()._count(contribution, cap)


def test_the_test_of_sensitivity_finds_one_step_too_many() -> None:
    assert largest_change([("u", n, "a", 7) for n in range(9)], Unclamped) > SUMS.sensitivity


@pytest.mark.parametrize(
    ("value", "steps"),
    [(0.24, 0), (0.25, 0), (0.26, 1), (0.75, 2), (3.49, 7), (99, 7), (-2.1, -4), (-1.8, -4)],
)
def test_amounts_are_rounded_half_to_even_and_clamped(value: float, steps: int) -> None:
    assert Amounts(-4, 7, Fraction(1, 2)).steps(value) == steps


def published(
    statistic: Statistic, path: Path, seeded: Callable[[int], bytes]
) -> list[ReleasedPane]:
    """Publish a day in which nothing was counted."""
    budget = Budget(statistic.loss.epsilon, statistic.loss.delta)
    ledger = Ledger(path, budgets=[budget])
    counter = BoundedCounts(statistic, secret=SECRET, start=0)
    Publisher(counter, ledger, entropy=seeded).store(DAY_MS)
    panes = read_released(ledger, statistic.name).panes
    ledger.close()
    return list(panes)


KEYS = tuple(f"k{n}" for n in range(5_000))


@pytest.mark.parametrize(
    "statistic",
    [
        replace(SUMS, keys=KEYS),
        replace(SUMS, keys=KEYS, kind=GAUSSIAN_PANES, delta=Fraction(1, 10**6)),
        Statistic(
            "v", KEYS, DAY_MS // 4, 20, Fraction(1), 1, GAUSSIAN_PANES, delta=Fraction(1, 10**6)
        ),
    ],
    ids=["sums", "Gaussian sums", "Gaussian users"],
)
def test_noise_of_the_new_kinds_is_as_stated(statistic: Statistic, tmp_path: Path) -> None:
    """20,000 seeded draws; a right one fails with 1e-6, one of a scale 10 % too low does not pass.

    The delta of the stated noise is computed for the largest change, by the definition.
    """
    panes = published(statistic, tmp_path / "ledger.db", np.random.default_rng(5).bytes)
    values = np.array([list(pane.values.values()) for pane in panes]).ravel()
    noise = statistic.mechanism()
    assert chance_of(values, noise) > 1e-6
    lower = DiscreteLaplace(SUMS.sensitivity, Fraction(10, 9))
    assert chance_of(values, lower) < 1e-6
    if statistic.kind == GAUSSIAN_PANES:
        squared = CAP**2 * 7**2 if statistic.amounts else 20
        assert float(noise.variance) == pytest.approx(squared / 2 / float(statistic.gaussian.rho))
        worst = exact_delta(noise, CAP * 7, Fraction(1)) if statistic.amounts else Fraction(0)
        assert worst <= Fraction(1, 10**6)
    else:
        assert exact_delta(noise, SUMS.sensitivity, Fraction(1)) < Fraction(1, 10**12)
    inside = np.abs(values) <= panes[0].half_width
    assert 0.945 < inside.mean() < 0.965 + 0.01
    sums = [sum_released([pane], KEYS[n : n + 20]) for pane in panes for n in range(0, 5_000, 20)]
    covered = np.mean([abs(it.value) <= it.half_width for it in sums])
    assert covered > 0.95 - 5 * 0.007, "five deviations of 1,000 intervals"


def pane_of(statistic: Statistic, value: int, half_width: int = 0) -> ReleasedPane:
    return ReleasedPane(
        statistic=statistic.name,
        start=0,
        end=DAY_MS,
        values={"a": value},
        half_width=half_width,
        confidence=0.95,
        epsilon=statistic.epsilon,
        delta=0.0,
        cap=statistic.cap,
        sensitivity=statistic.sensitivity,
        amounts=statistic.amounts,
    )


@given(st.integers(-500, 500), st.integers(-20, 200))
@examples(max_examples=100, deadline=None)
def test_a_mean_holds_every_quotient_of_its_intervals(total: int, number: int) -> None:
    one = replace(SUMS, keys=("a",))
    sums, counts = [pane_of(one, total)], [pane_of(replace(one, amounts=None), number)]
    mean = mean_released(sums, counts)
    share = Fraction(975, 1000)
    widths = [sum_released(panes, "a", share).half_width for panes in (sums, counts)]
    if number - widths[1] < 1:
        assert mean is None
        return
    assert mean is not None
    assert -2 <= mean.low <= mean.value <= mean.high <= 3.5
    ends = itertools.product(
        (total - widths[0], total + widths[0]), range(number - widths[1], number + widths[1] + 1)
    )
    for end, count in ends:
        assert mean.low <= min(max(end / count, -4), 7) / 2 + 1e-12
        assert mean.high >= min(max(end / count, -4), 7) / 2 - 1e-12


def test_refusals() -> None:
    for low, high, step in ((3, 3, 1), (0, 1, 0), (0.5, 2, 1), (0, 1, -1)):
        with pytest.raises(ParameterError):
            Amounts(low, high, Fraction(step))  # type: ignore[arg-type]
    for changes in ({"cell_cap": 1}, {"kind": "running_totals"}):
        with pytest.raises(ParameterError, match="amounts are for panes"):
            replace(SUMS, **changes)
    with pytest.raises(ParameterError, match="a mean needs panes of sums"):
        mean_released([pane_of(replace(SUMS, amounts=None), 1)], [pane_of(SUMS, 1)])


def test_what_is_stored_without_amounts_reads_as_before() -> None:
    """A snapshot of 0.1 holds waiting contributions without amounts, a ledger definitions."""
    assert Statistic.from_json(SUMS.to_json()) == SUMS
    plain = replace(SUMS, amounts=None)
    assert "amounts" not in plain.to_json()
    stored = msgspec.msgpack.encode([b"user", 12, 3, True])
    assert msgspec.msgpack.decode(stored, type=Contribution).amount == 1
