"""What the ledger tells about a month: worked out by hand, on a terminal and over HTTP."""

import json
from collections.abc import Iterator
from datetime import date
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from tactful.cli.main import main
from tactful.schemas.subjects.privacy import PrivacyLedger
from tactful.statistics.counter import StatisticsCounter
from tactful.statistics.definitions import StatisticDefinition
from tactful.statistics.ledger_view import as_text, report_month
from tactful.statistics.service import PrivateStatistics
from tactful_privacy.ledger.budget import Budget, date_of
from tactful_privacy.ledger.composition import compose
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.odometer import read_odometer
from tactful_privacy.ledger.query import Query
from tactful_privacy.ledger.statistic import Statistic

DAY = 86_400_000
HOUR = 3_600_000
FIRST = (date(2026, 3, 1) - date(1970, 1, 1)).days
TODAY = FIRST + 9
VIEWS = Statistic("views", ("x", "y"), HOUR, 20, Fraction(1, 2))
SALES = Statistic("sales", ("x",), DAY, 5, Fraction(1, 4), tenant="north", purpose="research")
ASKED = Query("top", FIRST - 3, FIRST + 1, Fraction(1, 8), purpose="research", mechanism="m")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(
        tmp_path / "ledger.db",
        daily_epsilon=1,
        budgets=[Budget(Fraction(1, 2), purpose="research")],
        clock=lambda: (TODAY + 1) * DAY,
    )
    opened.register_all([VIEWS, SALES])
    # Views on four days of March, the last of February and a pane after today; sales on two.
    for day in (FIRST - 1, FIRST, FIRST + 1, FIRST + 5, TODAY, TODAY + 1):
        for hour in (0, 7):
            start = day * DAY + hour * HOUR
            opened.release_once(VIEWS, start, lambda: np.zeros(2, np.int64))
    for day in (FIRST, FIRST + 3):
        opened.release_once(SALES, day * DAY, lambda: np.zeros(1, np.int64))
    opened.answer_once(ASKED, lambda: np.zeros(1, np.int64))
    yield opened
    opened.close()


def test_a_month_adds_up_by_hand(ledger: Ledger) -> None:
    odometer = read_odometer(ledger, today=TODAY)
    assert (odometer.month, odometer.today, odometer.days_in_month) == ("2026-03", "2026-03-10", 31)
    by_line = {(spend.tenant, spend.purpose): spend for spend in odometer.spends}
    assert list(by_line) == [
        ("*", "*"),
        ("default", "research"),
        ("default", "statistics"),
        ("north", "research"),
    ]
    views, sales = by_line["default", "statistics"], by_line["north", "research"]
    assert (views.days, views.spent, views.each_day) == (4, Fraction(2), Fraction(1, 2))
    assert views.forecast == Fraction(1, 2) * (3 + 22)  # three days before today, then all
    assert (sales.days, sales.spent) == (2, Fraction(1, 2))
    assert sales.forecast == Fraction(1, 4) * (2 + 22)
    asked = by_line["default", "research"]
    assert (asked.days, asked.spent, asked.each_day) == (2, Fraction(1, 4), Fraction(0))
    assert asked.forecast == asked.spent
    for spend in odometer.spends:
        assert len(spend.daily) == 31 and sum(spend.daily) == spend.forecast
    assert sales.daily[:10] == (
        *(Fraction(n, 4) for n in (1, 0, 0, 1, 0, 0, 0, 0, 0)),
        sales.daily[9],
    )
    whole = odometer.spends[0]
    assert whole.days == 5
    assert whole.spent == views.spent + sales.spent + asked.spent
    assert whole.forecast == views.forecast + sales.forecast + asked.forecast
    parts = [(VIEWS.loss, 25), (SALES.loss, 24), (ASKED.loss, 2)]
    assert whole.forecast_composed == compose(parts, method="pld")
    assert whole.forecast_composed.epsilon < whole.forecast


def test_the_room_that_is_left_is_told_for_each_budget(ledger: Ledger) -> None:
    whole, research = read_odometer(ledger, today=TODAY).rooms
    assert (whole.taken, whole.largest_day) == (Fraction(3, 4), Fraction(7, 8))
    assert (research.taken, research.largest_day) == (Fraction(1, 4), Fraction(3, 8))


def test_the_deltas_of_a_month_are_told_where_they_are_larger(tmp_path: Path) -> None:
    ledger = Ledger(
        tmp_path / "l.db",
        budgets=[Budget(Fraction(1), Fraction(1, 1000))],
        clock=lambda: (TODAY + 1) * DAY,
    )
    asked = Query("q", FIRST, FIRST + 4, Fraction(1, 2), Fraction(1, 10_000))
    ledger.answer_once(asked, lambda: np.zeros(1, np.int64))
    odometer = read_odometer(ledger, today=TODAY)
    assert odometer.delta == Fraction(5, 10_000)
    assert odometer.spends[0].spent_composed.epsilon <= 2.5
    assert "at delta 0.0005; 2.5 by addition" in odometer.in_words()
    ledger.close()


def test_a_month_of_nothing_says_so(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "empty.db", daily_epsilon=1)
    report = report_month(ledger, TODAY)
    assert report.in_words == "Nothing is released in 2026-03, so nobody learns anything from it."
    assert "all" in as_text(report)
    ledger.close()


def test_words_say_what_a_day_and_a_month_mean(ledger: Ledger) -> None:
    words = read_odometer(ledger, today=TODAY).in_words()
    assert "at most 71 % sure" in words  # 1 / (1 + e^-0.875)
    assert "All of 2026-03" in words
    assert "hardly protects habits" in words
    small = Statistic("small", ("x",), DAY, 5, Fraction(1, 100))
    quiet = Ledger(Path(ledger._engine.url.database or "").with_name("q.db"), daily_epsilon=1)
    quiet.register(small)
    assert "hardly protects habits" not in read_odometer(quiet, today=TODAY).in_words()
    quiet.close()


def test_the_command_prints_and_writes_the_ledger(ledger: Ledger, tmp_path: Path) -> None:
    arguments = ["privacy", "ledger", "--data", str(tmp_path), "--day", "2026-03-10"]
    printed = CliRunner().invoke(main, arguments)
    assert printed.exit_code == 0
    assert "2026-03, up to 2026-03-10" in printed.output
    assert "top: 2026-02-26 to 2026-03-02, epsilon 0.125 a day" in printed.output
    written = CliRunner().invoke(main, [*arguments, "--json"])
    assert msgspec.json.decode(written.output, type=PrivacyLedger) == report_month(ledger, TODAY)
    assert json.loads(written.output)["spends"][0]["epsilon_spent"] == 2.75


def test_a_statistic_is_retired_by_its_name(ledger: Ledger, tmp_path: Path) -> None:
    at = ["--data", str(tmp_path)]
    unknown = CliRunner().invoke(main, ["privacy", "retire", "nothing", *at])
    assert unknown.exit_code != 0
    assert "no statistic 'nothing'" in unknown.output
    done = CliRunner().invoke(main, ["privacy", "retire", "views", *at])
    assert done.exit_code == 0, done.output
    last = {charge.name: charge.last_day for charge in ledger.charges()}["views"]
    assert date_of(last) in done.output
    assert last < 2**40


def test_a_missing_or_damaged_ledger_is_reported(tmp_path: Path) -> None:
    """A missing ledger is not made."""
    missing = CliRunner().invoke(main, ["privacy", "ledger", "--data", str(tmp_path)])
    assert missing.exit_code != 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "ledger.db").write_bytes(b"no database at all, " * 500)
    failed = CliRunner().invoke(main, ["privacy", "ledger", "--data", str(tmp_path)])
    assert failed.exit_code != 0
    assert "nothing is released without it" in failed.output


def test_the_statistics_tell_by_their_own_clock(tmp_path: Path) -> None:
    definition = StatisticDefinition(name="a", event="view", by="category", keys=("x",), cap=20)
    ledger = Ledger(tmp_path / "ledger.db", daily_epsilon=1)
    counter = StatisticsCounter(
        [definition], ledger, secret=bytes(16), clock=lambda: TODAY * DAY + HOUR
    )
    statistics = PrivateStatistics(counter)
    report = statistics.ledger()
    assert (report.month, report.spends[0].epsilon_each_day) == ("2026-03", 1.0)
    assert report.spends[0].epsilon_forecast == 22.0
    statistics.close()
