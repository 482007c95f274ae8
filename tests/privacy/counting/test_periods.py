"""Weeks and months: the calendar, the sensitivity to one user and day, charges, restarts."""

import datetime
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.bounded_state import Contribution
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import read_released
from tactful_privacy.errors import LedgerError, ParameterError
from tactful_privacy.ledger.budget import Budget
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.odometer import read_odometer
from tactful_privacy.ledger.periods import Period, period_end, period_start
from tactful_privacy.ledger.statistic import DAY_MS, GAUSSIAN_PANES, Statistic

SECRET = b"a secret of tests only"
KEYS = ("a", "b", "c", "d", "e")
CAP = 2
MONDAY = 20_458 * DAY_MS  # 2026-01-05
WEEK = Statistic("weeks", KEYS, DAY_MS, CAP, Fraction(1), cell_cap=1, period="week")
MONTH = replace(WEEK, name="months", period="month")

Visit = tuple[str, int, str]  # user, time, key


def quiet(n: int) -> bytes:
    return bytes([0, 0x80] * (n // 2))


def date(at: int) -> datetime.date:
    return datetime.date(1970, 1, 1) + datetime.timedelta(days=at // DAY_MS)


@given(st.integers(0, 60_000 * DAY_MS))
def test_periods_are_those_of_the_calendar(at: int) -> None:
    day = date(at)
    week, month = period_start("week", at), period_start("month", at)
    assert date(week) == datetime.date.fromisocalendar(*day.isocalendar()[:2], 1)
    assert period_end("week", week) == week + 7 * DAY_MS
    assert date(month) == day.replace(day=1)
    assert date(period_end("month", month)) == (
        day.replace(day=1) + datetime.timedelta(days=31)
    ).replace(day=1)
    for start in (week, month):
        assert start % DAY_MS == 0


def periods(
    visits: list[Visit],
    path: Path,
    statistic: Statistic = WEEK,
    make: type[BoundedCounts] = BoundedCounts,
    restarts: bool = False,
) -> dict[int, dict[str, int]]:
    """Publish visits, in order of time, without noise; close each day, and restart after it."""
    ledger = Ledger(path, budgets=[Budget(statistic.loss.epsilon, statistic.loss.delta)])
    counts = make(statistic, secret=SECRET, start=MONDAY)
    publisher = Publisher(counts, ledger, entropy=quiet)
    whole: bytes | None = None
    for day in range(70):
        if restarts and whole is not None:
            saved = counts.changes(), publisher.snapshot()
            counts = make(statistic, secret=SECRET, start=MONDAY)
            publisher = Publisher(counts, ledger, entropy=quiet)
            counts.restore(whole)
            counts.restore_changes(saved[0])
            publisher.restore(saved[1])
        if day % 5 == 0:
            whole = counts.snapshot()
        for user, at, key in visits:
            if at // DAY_MS == MONDAY // DAY_MS + day:
                counts.add(user, at, key)
        publisher.store(MONDAY + (day + 1) * DAY_MS)
    released = {pane.start: pane.values for pane in read_released(ledger, statistic.name).panes}
    ledger.close()
    return released


visits = st.lists(
    st.tuples(
        st.sampled_from("uvw"), st.integers(MONDAY, MONDAY + 16 * DAY_MS), st.sampled_from(KEYS)
    ),
    max_size=60,
).map(lambda them: sorted(them, key=lambda visit: visit[1]))


def recount(visits: list[Visit], period: Period) -> dict[int, dict[str, int]]:
    """Users of each period and key; a user's day admits its first keys, up to the cap."""
    admitted: dict[tuple[str, int], list[str]] = defaultdict(list)
    for user, at, key in visits:
        keys = admitted[user, at // DAY_MS]
        if key not in keys and len(keys) < CAP:
            keys.append(key)
    users: dict[tuple[int, str], set[str]] = defaultdict(set)
    for (user, day), keys in admitted.items():
        for key in keys:
            users[period_start(period, day * DAY_MS), key].add(user)
    counts: dict[int, dict[str, int]] = {}
    start = period_start(period, MONDAY)
    while (end := period_end(period, start)) <= MONDAY + 70 * DAY_MS:
        if start >= MONDAY:
            counts[start] = {key: len(users[start, key]) for key in KEYS}
        start = end
    return counts


@given(visits, st.booleans())
@examples(max_examples=15, deadline=None)
def test_users_of_a_period_equal_a_recount(
    tmp_path_factory: pytest.TempPathFactory, them: list[Visit], restarts: bool
) -> None:
    """Each user counts once, also through restarts; the month that had begun is not released."""
    shifted = [(user, at + 30 * DAY_MS, key) for user, at, key in them]  # from 4 February on
    for statistic, visits in ((WEEK, them), (MONTH, shifted)):
        assert statistic.period is not None
        path = tmp_path_factory.mktemp("periods") / "ledger.db"
        wanted = recount(visits, statistic.period)
        assert periods(visits, path, statistic, restarts=restarts) == wanted
    assert min(wanted) == 20_485 * DAY_MS, "1 February"


def counted(visits: list[Visit], make: type[BoundedCounts]) -> np.ndarray:
    """Exact sums of all days, ``[keys]``, of visits within a week."""
    counts = make(WEEK, secret=SECRET, start=MONDAY)
    for user, at, key in visits:
        counts.add(user, at, key)
    return np.asarray(
        np.array([pane.counts for pane in counts.closed(MONDAY + 7 * DAY_MS)]).sum(axis=0)
    )


def largest_change(visits: list[Visit], make: type[BoundedCounts] = BoundedCounts) -> int:
    whole, changes = counted(visits, make), [0]
    for user, day in {(user, at // DAY_MS) for user, at, _ in visits}:
        rest = [visit for visit in visits if (visit[0], visit[1] // DAY_MS) != (user, day)]
        changes.append(int(np.abs(whole - counted(rest, make)).sum()))
    return max(changes)


busy = st.lists(
    st.tuples(st.sampled_from("uv"), st.integers(0, 6), st.sampled_from(KEYS)), max_size=40
).map(
    lambda them: [
        (u, MONDAY + day * DAY_MS, key) for u, day, key in sorted(them, key=lambda v: v[1])
    ]
)


@given(busy)
@examples(max_examples=200, deadline=None)
def test_a_user_day_moves_a_week_by_the_cap(visits: list[Visit]) -> None:
    """Whatever was counted on other days: the unit stays one user and one day."""
    assert largest_change(visits) <= CAP == WEEK.sensitivity
    hostile = [("h", MONDAY + 3 * DAY_MS, key) for key in KEYS]
    assert largest_change([*visits, *hostile]) >= (CAP if not visits else 1)


class CapOfTheWeek(BoundedCounts):
    """Planted bug: the cap is one of the week, so what a day admits depends on earlier days."""

    def _count(self, contribution: Contribution, cap: int) -> bool:
        start, user = WEEK.start_of(contribution.timestamp), contribution.in_period
        admitted = sum(user in users for users in self._state.seen.get(start, {}).values())
        return admitted < cap and super()._count(contribution, cap)


def test_the_test_of_sensitivity_finds_a_day_that_looks_at_others() -> None:
    visits = [("u", MONDAY + n // 2 * DAY_MS, key) for n, key in enumerate("abcd")]
    assert largest_change(visits) == CAP
    assert largest_change(visits, CapOfTheWeek) == 2 * CAP


@pytest.mark.parametrize("statistic", [WEEK, MONTH], ids=["week", "month"])
def test_each_day_of_a_period_is_charged(tmp_path: Path, statistic: Statistic) -> None:
    """A user who is active every day is charged each day, before the release, and no day twice."""
    first, now = MONDAY // DAY_MS, [MONDAY]
    ledger = Ledger(
        tmp_path / "ledger.db",
        daily_epsilon=1,
        budgets=[Budget(Fraction(10), days=10)],
        clock=lambda: now[0],
    )
    ledger.register_all([statistic], first_day=first)
    month = read_odometer(ledger, today=first + 9)
    assert month.spends[0].days == month.spends[0].spent == 10
    assert month.spends[0].forecast == 27, "from 5 to 31 January"
    assert [room.taken for room in month.rooms] == [1, 10]
    with pytest.raises(LedgerError, match="is not the start of a pane"):
        ledger.release_once(statistic, MONDAY + DAY_MS, lambda: np.zeros(5, dtype=np.int64))
    started = statistic.start_of(MONDAY - DAY_MS)
    with pytest.raises(LedgerError, match="has nothing reserved"):
        ledger.release_once(statistic, started, lambda: np.zeros(5, dtype=np.int64))
    now[0] = MONDAY + 30 * DAY_MS
    assert ledger.retire(statistic.name) == first + 30
    unfinished = statistic.start_of(now[0])
    with pytest.raises(LedgerError, match="has nothing reserved"):
        ledger.release_once(statistic, unfinished, lambda: np.zeros(5, dtype=np.int64))
    ledger.close()


def test_a_period_of_several_kinds(tmp_path: Path) -> None:
    """Events and Gaussian noise, too; the definition survives its storage."""
    events = replace(WEEK, cell_cap=None)
    visits = [("u", MONDAY + n * DAY_MS, "a") for n in range(7)]
    assert periods(visits, tmp_path / "events.db", events)[MONDAY]["a"] == 7
    gaussian = replace(WEEK, cap=20, kind=GAUSSIAN_PANES, delta=Fraction(1, 10**6))
    assert gaussian.gaussian.sensitivity_squared == 20
    for statistic in (WEEK, MONTH, events, gaussian):
        assert Statistic.from_json(statistic.to_json()) == statistic
    assert "period" not in replace(WEEK, period=None).to_json()


@pytest.mark.parametrize(
    "change",
    [
        lambda: replace(WEEK, pane_ms=DAY_MS // 24),
        lambda: replace(WEEK, cell_cap=2),
        lambda: replace(WEEK, kind="running_totals"),
    ],
)
def test_periods_are_of_days(change: Callable[[], Statistic]) -> None:
    with pytest.raises(ParameterError, match="is made of panes of a day"):
        change()
